"""Correlation of relevance with a measure of the same people, such as a region's volume."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from models import bootstrap
from models.errors import InputError

Method = Literal["pearson", "spearman"]
Alternative = Literal["two-sided", "less", "greater"]

# Relative to 1: correlations that differ by less are ties of rounding.
TIE = 1e-10
# Values of permuted measures, or of comparisons, held at a time.
BLOCK_VALUES = 2_000_000


@dataclass(frozen=True)
class Association:
    """A correlation over people, as the mean over repeated trainings.

    Parameters
    ----------
    people : int
        Number of people who count in any repeat.
    r : float
        Mean over repeats of the correlation.
    low, high : float
        Bootstrap interval over people and repeats.
    sd_repeats : float
        Standard deviation over repeats; NaN with one.
    p : float
        Permutation p value of ``r``.
    permutations : int
        Number of orders compared, the observed one among them.
    exact : bool
        Whether these are all orders.
    """

    people: int
    r: float
    low: float
    high: float
    sd_repeats: float
    p: float
    permutations: int
    exact: bool


def correlation(
    relevance: np.ndarray,
    measure: np.ndarray,
    members: np.ndarray | None = None,
    *,
    method: Method = "pearson",
    alternative: Alternative = "two-sided",
    n_permutations: int = 10_000,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Association:
    """Correlate a region's relevance with a measure, over true positives say (Böhle et al. 2019).

    In every permutation the measures change places between all people who count in any repeat,
    in the same way for all repeats. Tested is thus that the measure has nothing to do with the
    relevance nor with who counts when.

    Parameters
    ----------
    relevance : numpy.ndarray
        (people,) or (repeats, people).
    measure : numpy.ndarray
        (people,), volume in mm^3 for instance; the same in every repeat.
    members : numpy.ndarray, optional
        bool, (people,) or (repeats, people), who counts in which repeat; everybody by default.
        People whose relevance or measure is not finite never count.
    method : {"pearson", "spearman"}
        Of the values, or of their ranks (ties share the middle rank).
    alternative : {"two-sided", "less", "greater"}
        "less" asks for a negative correlation.
    n_permutations : int
        Random orders; where there are no more orders in all, each is taken once and p is exact.
    draws, level, seed
        Number of bootstrap draws, level of the interval, seed of both.

    Returns
    -------
    Association
        Repeats with fewer than three people, or without variation, do not count in the mean.

    Raises
    ------
    InputError
        Fewer than three people in every repeat, or a measure or relevance that is the same for
        everybody.
    """
    relevance = np.atleast_2d(np.asarray(relevance, float))
    measure = np.asarray(measure, float)
    if measure.shape != relevance.shape[1:]:
        raise ValueError(f"{measure.shape} measures for relevance {relevance.shape}")
    counted = _counted(relevance, measure, members)
    someone = counted.any(axis=0)
    cases = _Cases(relevance[:, someone], measure[someone], counted[:, someone], method)
    per_repeat = cases.permuted(measure[someone][None])[:, 0]
    if not np.isfinite(per_repeat).any():
        raise InputError(
            "the measure or the relevance is the same for everybody: there is no correlation."
        )
    r = float(np.nanmean(per_repeat))
    p, compared, exact = _permutation_p(cases, r, alternative, n_permutations, seed)
    low, high = _interval(cases, draws, level, seed)
    spread = float(bootstrap.sd_over_repeats(per_repeat))
    return Association(int(someone.sum()), r, low, high, spread, p, compared, exact)


def correlations(
    relevance: np.ndarray, measure: np.ndarray, groups: Mapping[str, np.ndarray], **options
) -> pd.DataFrame:
    """`correlation` within each group; one row per group: group, then the fields of Association."""
    rows = [
        {"group": name, **vars(correlation(relevance, measure, members, **options))}
        for name, members in groups.items()
    ]
    return pd.DataFrame(rows)


def ipsilateral(
    left: np.ndarray, right: np.ndarray, affected: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Values (..., people) of the affected side and of the other one.

    Parameters
    ----------
    left, right : numpy.ndarray
        (..., people), the values of the two halves of a region.
    affected : numpy.ndarray
        (people,) of "L" or "R", the side of the brain that is called ipsilateral.

    Raises
    ------
    InputError
        A side that is neither.
    """
    affected = np.asarray(affected)
    if not np.isin(affected, ["L", "R"]).all():
        raise InputError("somebody's side is neither L nor R: complete it or leave them out.")
    is_left = affected == "L"
    return np.where(is_left, left, right), np.where(is_left, right, left)


def _counted(relevance: np.ndarray, measure: np.ndarray, members: np.ndarray | None) -> np.ndarray:
    """Who counts, (repeats, people)."""
    known = np.isfinite(relevance) & np.isfinite(measure)
    given = np.broadcast_to(True if members is None else np.asarray(members, bool), known.shape)
    counted = known & given
    if counted.sum(axis=1).max(initial=0) < 3:
        raise InputError(
            "fewer than three people have both a relevance and a measure: no correlation."
        )
    return counted


@dataclass(frozen=True, eq=False)
class _Cases:
    """Relevance (repeats, people), measure (people,), who counts (repeats, people), and method."""

    relevance: np.ndarray
    measure: np.ndarray
    counted: np.ndarray
    method: Method

    def permuted(self, measures: np.ndarray) -> np.ndarray:
        """Correlation (repeats, n) with each of (n, people) measures."""
        rank = _RANKS[self.method][0]
        rows = []
        for relevance, counted in zip(self.relevance, self.counted, strict=True):
            x, y = rank(relevance[None, counted]), rank(measures[:, counted])
            rows.append(_correlated(x, y, np.ones_like(x)))
        return np.stack(rows)

    def drawn(self, counts: np.ndarray) -> np.ndarray:
        """Correlation (repeats, n) when each person counts as often as (n, people) say."""
        rank = _RANKS[self.method][1]
        rows = []
        for relevance, counted in zip(self.relevance, self.counted, strict=True):
            weights = counts[:, counted]
            x, y = rank(relevance[counted], weights), rank(self.measure[counted], weights)
            rows.append(_correlated(x, y, weights))
        return np.stack(rows)


def _weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Middle ranks (n, people) among people who count as often as ``weights`` (n, people) say."""
    before = (values[:, None] < values) + 0.5 * (values[:, None] == values)
    return weights @ before + 0.5


# By method: values (n, people) to scores; values (people,) and counts (n, people) to scores.
_RANKS: dict[str, tuple[Callable, Callable]] = {
    "pearson": (lambda values: values, lambda values, _: values[None]),
    "spearman": (lambda values: rankdata(values, axis=1), _weighted_ranks),
}


def _correlated(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted correlation (n,) of rows; NaN below three people or where one does not vary."""
    if weights.shape[1] < 3:
        return np.full(max(len(x), len(y), len(weights)), np.nan)
    total = weights.sum(axis=1, keepdims=True)
    dx = x - bootstrap.ratio((weights * x).sum(axis=1, keepdims=True), total)
    dy = y - bootstrap.ratio((weights * y).sum(axis=1, keepdims=True), total)
    xx, yy = (weights * dx**2).sum(axis=1), (weights * dy**2).sum(axis=1)
    # What is left of a constant is rounding of its size.
    varies = (xx > 1e-24 * (weights * x**2).sum(axis=1)) & (
        yy > 1e-24 * (weights * y**2).sum(axis=1)
    )
    return bootstrap.ratio((weights * dx * dy).sum(axis=1), np.sqrt(xx * yy) * varies)


def _interval(cases: _Cases, draws: int, level: float, seed: int) -> tuple[float, float]:
    repeats, people = cases.counted.shape
    sample = bootstrap.draw(people, repeats, draws, seed)
    drawn = bootstrap.over_repeats(iter(cases.drawn(sample.people)[..., None]), sample)
    low, high = bootstrap.interval(drawn, level)
    return float(low[0]), float(high[0])


# ---- Permutation -----------------------------------------------------------------------------

_EXTREME = {
    "two-sided": lambda r, observed: np.abs(r) >= abs(observed) - TIE,
    "less": lambda r, observed: r <= observed + TIE,
    "greater": lambda r, observed: r >= observed - TIE,
}


def _permutation_p(
    cases: _Cases, observed: float, alternative: Alternative, count: int, seed: int
) -> tuple[float, int, bool]:
    """P value, number of orders (the observed one among them), and whether these are all."""
    if count < 1:
        raise InputError(f"{count} permutations: at least one is needed.")
    people = len(cases.measure)
    extreme = _EXTREME[alternative]
    if people <= 20 and math.factorial(people) <= count:
        orders = np.array(list(permutations(range(people))))
        r = _mean_over_repeats(cases.permuted(cases.measure[orders]))
        return float(extreme(r, observed).mean()), len(orders), True
    rng = np.random.default_rng(seed)
    reached, step = 1, max(1, BLOCK_VALUES // people)
    for start in range(0, count, step):
        rows = min(step, count - start)
        measures = rng.permuted(np.tile(cases.measure, (rows, 1)), axis=1)
        reached += int(extreme(_mean_over_repeats(cases.permuted(measures)), observed).sum())
    return reached / (count + 1), count + 1, False


def _mean_over_repeats(r: np.ndarray) -> np.ndarray:
    known = np.isfinite(r)
    return bootstrap.ratio(np.where(known, r, 0.0).sum(axis=0), known.sum(axis=0))
