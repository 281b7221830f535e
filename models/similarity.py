"""How alike attributions are: between methods, settings, people and repeated trainings.

Numbers that compare repeats are means over all pairs of repeats. Their interval is the delete-one
jackknife over repeats (Arvesen 1969, Ann Math Stat 40:2076) with Student's t: pairs that share a
repeat are not independent.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from models.bootstrap import ratio
from models.errors import InputError

# Values of all maps held in float64 at a time.
BLOCK_VALUES = 2_000_000


@dataclass(frozen=True)
class Estimate:
    """Mean over repeats, or over their pairs, and how sure it is.

    Parameters
    ----------
    mean : float
    sd : float
        Standard deviation of what is averaged; NaN where there is one value.
    low, high : float
        Confidence interval; NaN with fewer than three repeats for pairs, two for means.
    """

    mean: float
    sd: float
    low: float
    high: float


def over_pairs(matrix: np.ndarray, level: float = 0.95) -> Estimate:
    """Mean over the pairs of different repeats of a symmetric matrix (repeats, repeats).

    Raises
    ------
    InputError
        Fewer than two repeats.
    """
    repeats = len(matrix)
    if repeats < 2:
        raise InputError("one training has nothing to be compared with: repeat the training.")
    off = matrix - np.diag(np.diag(matrix))
    total, own = off.sum() / 2, off.sum(axis=1)
    pairs = repeats * (repeats - 1) / 2
    sd = float(np.std(matrix[np.triu_indices(repeats, 1)], ddof=1)) if repeats > 2 else np.nan
    left = (total - own) / (pairs - repeats + 1) if repeats > 2 else np.array([])
    return _jackknife(float(total / pairs), sd, left, level)


def over_repeats(values: np.ndarray, level: float = 0.95) -> Estimate:
    """Mean over repeats (repeats,), with Student's interval."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return Estimate(float(values.mean()), np.nan, np.nan, np.nan)
    left = (values.sum() - values) / (len(values) - 1)
    return _jackknife(float(values.mean()), float(values.std(ddof=1)), left, level)


def _jackknife(mean: float, sd: float, left: np.ndarray, level: float) -> Estimate:
    """Interval from the means ``left`` when each repeat is left out in turn."""
    count = len(left)
    if count < 2:
        return Estimate(mean, sd, np.nan, np.nan)
    error = np.sqrt((count - 1) / count * ((left - left.mean()) ** 2).sum())
    reach = float(stats.t.isf((1 - level) / 2, count - 1) * error)
    return Estimate(mean, sd, mean - reach, mean + reach)


# ---- Regions at the top ----------------------------------------------------------------------


def top_regions(values: np.ndarray, count: int = 10) -> np.ndarray:
    """Which regions (..., regions) are among the ``count`` largest; bool, the same shape.

    NaN is never among them; of equal values the earlier region is taken.

    Raises
    ------
    InputError
        Fewer regions with a value than ``count``.
    """
    values = np.asarray(values, float)
    known = np.isfinite(values).sum(axis=-1).min(initial=values.shape[-1])
    if not 1 <= count <= known:
        raise InputError(
            f"the top {count} of {known} regions with a value: choose a number between the two."
        )
    order = np.argsort(np.where(np.isfinite(values), -values, np.inf), axis=-1, kind="stable")
    top = np.zeros(values.shape, bool)
    np.put_along_axis(top, order[..., :count], True, axis=-1)
    return top


def overlap_matrix(values: np.ndarray, count: int = 10) -> np.ndarray:
    """Share of the top regions that two runs have in common, in any order.

    Parameters
    ----------
    values : numpy.ndarray
        (runs, regions) of one metric: methods, settings or repeats.
    count : int
        How many regions are the top.

    Returns
    -------
    numpy.ndarray
        (runs, runs), 0 to 1 (Böhle et al. 2019, figure 7; Eitel & Ritter 2019, figure 3).
    """
    top = top_regions(values, count).astype(float)
    return top @ top.T / count


def overlap_between(
    values: np.ndarray, names: Sequence[str], count: int = 10, level: float = 0.95
) -> pd.DataFrame:
    """Overlap of the top regions of every two settings within one repeat.

    Parameters
    ----------
    values : numpy.ndarray
        (repeats, settings, regions) of one metric.
    names : sequence of str
        The settings (methods, betas).
    count : int
        How many regions are the top.
    level : float
        Of the interval.

    Returns
    -------
    pandas.DataFrame
        One row per pair: first, second, mean, sd, low, high over repeats.
    """
    _check_settings(values, names)
    matrices = np.stack([overlap_matrix(one, count) for one in values])
    rows = [
        {"first": names[i], "second": names[j], **vars(over_repeats(matrices[:, i, j], level))}
        for i, j in combinations(range(len(names)), 2)
    ]
    return pd.DataFrame(rows, columns=["first", "second", "mean", "sd", "low", "high"])


def coherence(
    values: np.ndarray, names: Sequence[str], count: int = 10, level: float = 0.95
) -> pd.DataFrame:
    """Overlap of the top regions between repeats (Eitel & Ritter 2019, table 2).

    Parameters
    ----------
    values, names, count, level
        As for `overlap_between`.

    Returns
    -------
    pandas.DataFrame
        One row per setting: name, mean, sd, low, high over all pairs of repeats.

    Raises
    ------
    InputError
        Fewer than two repeats.
    """
    _check_settings(values, names)
    rows = [
        {"name": name, **vars(over_pairs(overlap_matrix(values[:, i], count), level))}
        for i, name in enumerate(names)
    ]
    return pd.DataFrame(rows, columns=["name", "mean", "sd", "low", "high"])


def _check_settings(values: np.ndarray, names: Sequence[str]) -> None:
    if values.ndim != 3 or values.shape[1] != len(names):
        raise ValueError(f"values are {values.shape}, expected (repeats, {len(names)}, regions)")


# ---- Maps ------------------------------------------------------------------------------------


def map_distances(maps: np.ndarray) -> np.ndarray:
    """Euclidean distance of every two maps, each over its maximum.

    Parameters
    ----------
    maps : numpy.ndarray
        (runs, voxels), memory-mapped or not; read by blocks.

    Returns
    -------
    numpy.ndarray
        (runs, runs), symmetric. Its `over_pairs` is table 1 of Eitel & Ritter 2019. It grows
        with the root of the number of voxels: compare on one grid.

    Raises
    ------
    InputError
        A map without a positive value, or with one that is not finite.
    """
    highest = _maxima(maps)
    square = np.zeros((len(maps), len(maps)))
    for block in _blocks(maps):
        scaled = block / highest[:, None]
        for i, one in enumerate(scaled):
            rest = scaled[i + 1 :] - one
            square[i, i + 1 :] += np.einsum("rv,rv->r", rest, rest)
    return np.sqrt(square + square.T)


def _maxima(maps: np.ndarray) -> np.ndarray:
    # A maximum of NaN is NaN, but infinity below zero would be missed.
    highest = np.max([block.max(axis=1) for block in _blocks(maps)], axis=0)
    lowest = np.min([block.min(axis=1) for block in _blocks(maps)], axis=0)
    bad = np.flatnonzero(~(np.isfinite(highest) & np.isfinite(lowest) & (highest > 0)))
    if len(bad):
        raise InputError(
            f"map {bad[0] + 1} of {len(maps)} cannot be scaled by its maximum: it has no positive "
            "value, or one that is not finite. Leave it out or check how it was made."
        )
    return highest


def _blocks(maps: np.ndarray) -> Iterator[np.ndarray]:
    size = max(1, BLOCK_VALUES // len(maps))
    for start in range(0, maps.shape[1], size):
        yield np.asarray(maps[:, start : start + size], np.float64)


# ---- Fingerprints ----------------------------------------------------------------------------


@dataclass(frozen=True)
class PersonPair:
    """Two people, by row number, whose fingerprints differ most.

    Parameters
    ----------
    first, second : int
    distance : Estimate
        Cosine distance over repeats.
    share : float
        Share of the repeats in which these two are the most distant.
    """

    first: int
    second: int
    distance: Estimate
    share: float


def cosine_distances(vectors: np.ndarray) -> np.ndarray:
    """One minus the cosine between every two rows of (people, regions); (people, people).

    NaN for a row that is zero everywhere or holds NaN.
    """
    vectors = np.asarray(vectors, float)
    unit = ratio(vectors, np.linalg.norm(vectors, axis=1, keepdims=True))
    distance = (1 - unit @ unit.T).clip(0, 2)
    np.fill_diagonal(distance, np.where(np.isfinite(unit).all(axis=1), 0.0, np.nan))
    return distance


def most_distant_pair(
    densities: np.ndarray, scores: np.ndarray, above: float = 0.9, level: float = 0.95
) -> PersonPair:
    """Two confidently classified patients with the least similar regions (Böhle et al. 2019).

    Parameters
    ----------
    densities : numpy.ndarray
        (repeats, people, regions), density per region (the 25 of a ranking, say); rows of NaN
        for a person without a map in that repeat. Regions that are NaN for somebody who has a
        map are left out.
    scores : numpy.ndarray
        (people,) or (repeats, people), class score; the mean over repeats counts, NaN left out.
    above : float
        A score must be larger than this.
    level : float
        Of the interval.

    Raises
    ------
    InputError
        Fewer than two such people, or none of their distances is defined.
    """
    _, people, _ = densities.shape
    scores = np.atleast_2d(scores)
    known = np.isfinite(scores)
    mean_score = ratio(np.where(known, scores, 0.0).sum(axis=0), known.sum(axis=0))
    mapped = np.isfinite(densities).any(axis=2)
    chosen = np.flatnonzero((mean_score > above) & mapped.any(axis=0))
    if len(chosen) < 2:
        raise InputError(
            f"{len(chosen)} of {people} people score above {above}: two are needed; lower it."
        )
    usable = np.isfinite(densities[:, chosen][mapped[:, chosen]]).all(axis=0)
    per_repeat = np.stack([cosine_distances(one[chosen][:, usable]) for one in densities])
    first, second, share = _farthest(per_repeat)
    found = per_repeat[:, first, second]
    distance = over_repeats(found[np.isfinite(found)], level)
    return PersonPair(int(chosen[first]), int(chosen[second]), distance, share)


def _farthest(per_repeat: np.ndarray) -> tuple[int, int, float]:
    """The pair with the largest mean distance, and how often it is the largest."""
    upper = np.triu_indices(per_repeat.shape[1], 1)
    distances = per_repeat[:, *upper]
    known = np.isfinite(distances)
    mean = ratio(np.where(known, distances, 0.0).sum(axis=0), known.sum(axis=0))
    if not np.isfinite(mean).any():
        raise InputError("these people's maps are zero in every region: they have no fingerprint.")
    best = int(np.nanargmax(mean))
    compared = distances[known[:, best]]
    share = float((compared[:, best] >= np.nanmax(compared, axis=1)).mean())
    return int(upper[0][best]), int(upper[1][best]), share
