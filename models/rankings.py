"""Regions ranked by the relevance that a group's maps give them, and how sure the ranking is.

Every number is the mean over repeated trainings. Its interval comes from resampling people and
repeats (`models.bootstrap`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from models import bootstrap
from models.bootstrap import Draws
from models.errors import InputError
from models.region_cube import RegionCube

Metric = Literal["sum", "density", "gain"]

_VALUES = {
    "sum": lambda cube: cube.sums,
    "density": lambda cube: cube.density,
    "gain": lambda cube: cube.sums,
}


def ranking(
    cube: RegionCube,
    metric: Metric,
    members: np.ndarray,
    controls: np.ndarray | None = None,
    *,
    strata: np.ndarray | None = None,
    signed: bool = False,
    top: int = 25,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Rank regions by a group's mean sum, density or gain (Böhle et al. 2019, 2.5).

    Parameters
    ----------
    cube : RegionCube
        Sums of relevance; of absolute relevance for the sums of Eitel & Ritter 2019.
    metric : {"sum", "density", "gain"}
        Gain is the group's mean sum over the controls' mean sum, repeat by repeat.
    members : numpy.ndarray
        bool, (people,) or (repeats, people): the group, which may differ between repeats, as true
        positives do.
    controls : numpy.ndarray, optional
        Likewise, for gain.
    strata : numpy.ndarray, optional
        (people,), classes that keep their size when people are resampled.
    signed : bool
        Rank by magnitude instead, so that relevance against the class counts too.
    top : int
        Limit of ``top_share``.
    draws, level, seed
        Number of bootstrap draws, level of the intervals, seed.

    Returns
    -------
    pandas.DataFrame
        Sorted by rank: index, name, voxels (of the largest), value, low, high, sd_repeats, rank
        (1 is the largest), rank_low, rank_high, top_share (of draws in which the region is among
        the first ``top``). A region without a value (no voxel, or no relevance among controls)
        comes last, with NaN. With one repeat, sd_repeats is NaN.

    Raises
    ------
    InputError
        A group of fewer than two people, or gain without controls.
    """
    repeats, people, _ = cube.sums.shape
    chosen = _groups(cube, metric, members, controls)
    sample = bootstrap.draw(people, repeats, draws, seed, strata)
    per_repeat = group_values(cube, metric, members, controls)
    one = bootstrap.observed(people, repeats)
    value = bootstrap.over_repeats((row[None] for row in per_repeat), one)
    drawn = bootstrap.over_repeats(_per_repeat(cube, metric, chosen, sample), sample)
    low, high = bootstrap.interval(drawn, level)
    rank, ranks = _ranks(value, signed)[0], _ranks(drawn, signed)
    rank_low, rank_high = bootstrap.interval(ranks, level)
    table = cube.regions.assign(
        voxels=cube.voxels.max(axis=(0, 1)),
        value=value[0],
        low=low,
        high=high,
        sd_repeats=bootstrap.sd_over_repeats(per_repeat),
        rank=rank,
        rank_low=rank_low,
        rank_high=rank_high,
        top_share=np.where(np.isnan(rank), np.nan, (ranks <= top).mean(axis=0)),
    )
    return table.sort_values("rank", kind="stable", ignore_index=True)


def group_values(
    cube: RegionCube, metric: Metric, members: np.ndarray, controls: np.ndarray | None = None
) -> np.ndarray:
    """A group's mean metric in every repeat, (repeats, regions); arguments as for `ranking`."""
    repeats, people, _ = cube.sums.shape
    chosen = _groups(cube, metric, members, controls)
    return np.concatenate(
        list(_per_repeat(cube, metric, chosen, bootstrap.observed(people, repeats)))
    )


def _groups(
    cube: RegionCube, metric: Metric, members: np.ndarray, controls: np.ndarray | None
) -> list[np.ndarray]:
    """The group and, for gain, the controls: (repeats, people) each, with people who have maps."""
    if metric not in _VALUES:
        raise InputError(f"metric '{metric}': choose one of {', '.join(_VALUES)}.")
    if metric == "gain" and controls is None:
        raise InputError("gain is relative to controls: say who they are.")
    given = [members] if controls is None or metric != "gain" else [members, controls]
    mapped = np.isfinite(cube.sums).any(axis=2)
    groups = [np.broadcast_to(np.asarray(one, bool), mapped.shape) & mapped for one in given]
    for name, group in zip(("group", "controls"), groups, strict=False):
        if group.any(axis=0).sum() < 2:
            raise InputError(
                f"the {name}: fewer than two people have a map; a mean with an interval needs more."
            )
    return groups


def _per_repeat(
    cube: RegionCube, metric: Metric, groups: list[np.ndarray], draws: Draws
) -> Iterator[np.ndarray]:
    values = _VALUES[metric](cube)
    members = bootstrap.means(values, groups[0], draws)
    if metric != "gain":
        return members
    controls = bootstrap.means(values, groups[1], draws)
    return (bootstrap.ratio(a, b) for a, b in zip(members, controls, strict=True))


def _ranks(values: np.ndarray, signed: bool) -> np.ndarray:
    """Rank (draws, regions) of each region, 1 the largest; ties in the table's order."""
    score = np.abs(values) if signed else values
    unknown = np.isnan(score)
    order = np.argsort(np.where(unknown, np.inf, -score), axis=1, kind="stable")
    ranks = np.empty(values.shape)
    places = np.broadcast_to(np.arange(1.0, values.shape[1] + 1), values.shape)
    np.put_along_axis(ranks, order, places, axis=1)
    ranks[unknown] = np.nan
    return ranks


def strongest(cube: RegionCube, groups: Mapping[str, np.ndarray], count: int = 30) -> pd.DataFrame:
    """Regions with the largest sum over groups of the absolute mean density (Eitel et al. 2019).

    Parameters
    ----------
    cube : RegionCube
        Sums of signed relevance.
    groups : mapping of str to numpy.ndarray
        bool, (people,) or (repeats, people), of each group (patients and controls, say).
    count : int
        How many regions.

    Returns
    -------
    pandas.DataFrame
        Strongest first: index, name, then per group mean_<group> and sd_repeats_<group>, the
        signed regional mean over people and repeats, then total. Regions without a voxel are
        left out.
    """
    table, total = cube.regions.copy(), np.zeros(len(cube.regions))
    for name, members in groups.items():
        per_repeat = group_values(cube, "density", members)
        mean = bootstrap.ratio(np.nansum(per_repeat, axis=0), np.isfinite(per_repeat).sum(axis=0))
        table[f"mean_{name}"] = mean
        table[f"sd_repeats_{name}"] = bootstrap.sd_over_repeats(per_repeat)
        total = total + np.abs(mean)
    table["total"] = total
    ordered = table.dropna(subset="total").sort_values("total", ascending=False, kind="stable")
    return ordered.head(count).reset_index(drop=True)


def person_values(
    cube: RegionCube,
    metric: Metric,
    groups: Mapping[str, np.ndarray],
    regions: Sequence[int],
    controls: np.ndarray | None = None,
) -> pd.DataFrame:
    """Values of single people, for the distributions beside a ranking.

    Parameters
    ----------
    cube, metric, controls
        As for `ranking`; gain is relative to the controls' mean.
    groups : mapping of str to numpy.ndarray
        bool, (people,) or (repeats, people).
    regions : sequence of int
        Their index, in the order wanted: the first 25 of a ranking, say.

    Returns
    -------
    pandas.DataFrame
        Long: region index, name, group, person (row number), value: the mean over the repeats in
        which the person belongs to the group.
    """
    for members in groups.values():
        _groups(cube, metric, members, controls)
    values = cube.gain(np.asarray(controls)) if metric == "gain" else _VALUES[metric](cube)
    place = pd.Index(cube.regions["index"]).get_indexer(list(regions))
    if (place < 0).any():
        raise InputError("a region that was asked for is not in the tables: check the atlas.")
    return pd.concat(
        [_long(cube, values[:, :, place], place, name, m) for name, m in groups.items()],
        ignore_index=True,
    )


def _long(cube, values, place, group, members) -> pd.DataFrame:
    counted = np.broadcast_to(np.asarray(members, bool), values.shape[:2])[..., None]
    counted = counted & np.isfinite(values)
    mean = bootstrap.ratio(np.where(counted, values, 0.0).sum(axis=0), counted.sum(axis=0))
    people = np.flatnonzero(np.isfinite(mean).any(axis=1))
    regions = cube.regions.iloc[np.tile(place, len(people))].reset_index(drop=True)
    return regions.assign(
        group=group, person=np.repeat(people, len(place)), value=mean[people].ravel()
    )
