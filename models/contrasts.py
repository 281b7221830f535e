"""Mean maps of groups, their differences, and the clusters in which they differ most."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from nibabel.affines import apply_affine
from scipy import ndimage

from models.errors import InputError

OUTCOMES = ("TP", "FP", "TN", "FN")
# Values read at a time.
BLOCK_VALUES = 4_000_000
_CONNECTIVITY = {6: 1, 18: 2, 26: 3}


def outcomes(
    labels: np.ndarray, predicted: np.ndarray, predictable: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Who is a true positive, false positive, true negative and false negative.

    Parameters
    ----------
    labels : numpy.ndarray
        (people,) bool, True for patients.
    predicted : numpy.ndarray
        (repeats, people) or (people,) bool, True where called a patient.
    predictable : numpy.ndarray, optional
        Likewise, False where there is no prediction; such people belong to no group.

    Returns
    -------
    dict of str to numpy.ndarray
        TP, FP, TN, FN: bool, (repeats, people).
    """
    labels, called = np.asarray(labels, bool), np.atleast_2d(np.asarray(predicted, bool))
    if labels.shape != called.shape[1:]:
        raise ValueError(f"{labels.shape} labels for predictions {called.shape}")
    known = True if predictable is None else np.asarray(predictable, bool)
    groups = (labels & called, ~labels & called, ~labels & ~called, labels & ~called)
    return {name: group & known for name, group in zip(OUTCOMES, groups, strict=True)}


def group_means(
    maps: Sequence[np.ndarray], groups: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Mean map of every group in every repeat.

    Parameters
    ----------
    maps : sequence of numpy.ndarray
        For every repeat (people, voxels), memory-mapped or not; read once, some rows at a time.
    groups : mapping of str to numpy.ndarray
        bool, (people,) or (repeats, people). Rows that belong to no group may hold anything.

    Returns
    -------
    dict of str to numpy.ndarray
        (repeats, voxels) float64; NaN in repeats in which the group is empty, and where a map of
        the group is.

    Raises
    ------
    InputError
        A group that is empty in every repeat.
    """
    people, voxels = maps[0].shape
    members = {
        name: np.broadcast_to(np.asarray(group, bool), (len(maps), people))
        for name, group in groups.items()
    }
    for name, group in members.items():
        if not group.any():
            raise InputError(f"nobody belongs to the group '{name}': it has no mean map.")
    sums = {name: np.zeros((len(maps), voxels)) for name in members}
    step = max(1, BLOCK_VALUES // voxels)
    for repeat, one in enumerate(maps):
        for start in range(0, people, step):
            rows = np.asarray(one[start : start + step])
            for name, group in members.items():
                chosen = group[repeat, start : start + step]
                sums[name][repeat] += rows[chosen].sum(axis=0, dtype=np.float64)
    return {name: _over_count(sums[name], group) for name, group in members.items()}


def _over_count(sums: np.ndarray, group: np.ndarray) -> np.ndarray:
    count = group.sum(axis=1)
    sums[count == 0] = np.nan
    return sums / np.maximum(count, 1)[:, None]


def contrast(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Difference of two groups' mean maps, repeat by repeat.

    Parameters
    ----------
    positive, negative : numpy.ndarray
        (repeats, voxels), as made by `group_means`.

    Returns
    -------
    mean : numpy.ndarray
        (voxels,), over the repeats in which both groups have somebody.
    sd : numpy.ndarray
        (voxels,), standard deviation over these repeats; NaN with one.

    Raises
    ------
    InputError
        No repeat has people in both groups.
    """
    difference = positive - negative
    difference = difference[~np.isnan(difference).all(axis=1)]
    if not len(difference):
        raise InputError("no repeat has people in both groups: there is nothing to contrast.")
    mean = difference.mean(axis=0)
    if len(difference) == 1:
        return mean, np.full_like(mean, np.nan)
    return mean, difference.std(axis=0, ddof=1)


# ---- Clusters --------------------------------------------------------------------------------


def difference_clusters(
    difference: np.ndarray,
    brain: np.ndarray,
    affine: np.ndarray,
    excluded: np.ndarray | None = None,
    atlas: np.ndarray | None = None,
    names: pd.DataFrame | None = None,
    *,
    percentile: float = 95.0,
    inside_excluded: bool = False,
    min_mm3: float = 0.0,
    connectivity: int = 18,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Regions of interest where a difference of groups is largest (Nazari et al. 2021).

    Parameters
    ----------
    difference : numpy.ndarray
        3-D, or (repeats, x, y, z): then the mean over repeats is clustered.
    brain : numpy.ndarray
        3-D bool.
    affine : numpy.ndarray
        (4, 4), voxel to RAS+ mm.
    excluded : numpy.ndarray, optional
        3-D bool, not counted for the percentile (the striatum).
    atlas, names : numpy.ndarray and pandas.DataFrame, optional
        3-D int on the same grid, and its columns index and name: the source of names.
    percentile : float
        Voxels above this percentile, of the brain outside ``excluded``, are clustered.
    inside_excluded : bool
        Whether clusters may reach into ``excluded``, as in the publication's figure 3.
    min_mm3 : float
        Smallest cluster, in mm^3.
    connectivity : {18, 26, 6}
        Voxels touch by a face or edge (18), also a corner (26), or a face only (6).

    Returns
    -------
    labels : numpy.ndarray
        3-D int32, the cluster of every voxel, 0 outside. With the table's index and name it is an
        atlas for `models.regions.region_table`.
    table : pandas.DataFrame
        Largest first: index, name, region and share (the atlas region with most of the cluster),
        voxels, volume_mm3, mean and sd_repeats of the difference, stability (share of the voxels
        and repeats above that repeat's own percentile), peak, and the peak in RAS+ mm.

    Raises
    ------
    InputError
        No finite voxel of the brain is left, or a percentile that is not between 0 and 100.
    """
    maps = np.asarray(difference, float)
    maps = maps[None] if maps.ndim == 3 else maps
    brain, mean = np.asarray(brain, bool), maps.mean(axis=0)
    if brain.shape != mean.shape:
        raise ValueError(f"the map is {mean.shape}, the brain {brain.shape}: regrid one")
    counted = brain & np.isfinite(mean)
    allowed = counted.copy()
    if excluded is not None:
        counted &= ~np.asarray(excluded, bool)
    limit = _limit(mean, counted, percentile)
    taken = (mean > limit) & (allowed if inside_excluded else counted)
    labels = _labelled(mean, taken, affine, min_mm3, connectivity)
    above = np.mean([one > _limit(one, counted, percentile) for one in maps], axis=0)
    boxes = ndimage.find_objects(labels)
    rows = [_row(i, box, labels, maps, above, affine) for i, box in enumerate(boxes, 1)]
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    return labels, _named(table, labels, atlas, names)


_COLUMNS = (
    "index",
    "voxels",
    "volume_mm3",
    "mean",
    "sd_repeats",
    "stability",
    "peak",
    "x_mm",
    "y_mm",
    "z_mm",
)


def _limit(values: np.ndarray, counted: np.ndarray, percentile: float) -> float:
    if not 0 < percentile < 100:
        raise InputError(f"the percentile {percentile}: choose one between 0 and 100.")
    if not counted.any():
        raise InputError(
            "no voxel of the brain has a finite value outside the excluded region: check the "
            "masks and the map."
        )
    return float(np.percentile(values[counted], percentile))


def _labelled(mean, taken, affine, min_mm3, connectivity) -> np.ndarray:
    """Clusters numbered by falling size, then by falling peak."""
    touching = ndimage.generate_binary_structure(3, _CONNECTIVITY[connectivity])
    parts, count = ndimage.label(taken, touching)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    peaks = ndimage.maximum(mean, parts, np.arange(1, count + 1)) if count else np.array([])
    kept = sizes * _voxel_mm3(affine) >= min_mm3 * (1 - 1e-9)
    order = np.lexsort((-np.asarray(peaks), -sizes))
    order = order[kept[order]]
    number = np.zeros(count + 1, np.int32)
    number[order + 1] = np.arange(1, len(order) + 1)
    return number[parts]


def _voxel_mm3(affine: np.ndarray) -> float:
    return float(abs(np.linalg.det(np.asarray(affine)[:3, :3])))


def _row(number, box, labels, maps, above, affine) -> tuple:
    voxels = np.argwhere(labels[box] == number) + [side.start for side in box]
    values = maps[:, *voxels.T]
    per_repeat = values.mean(axis=1)
    spread = per_repeat.std(ddof=1) if len(maps) > 1 else np.nan
    best = int(np.argmax(values.mean(axis=0)))
    stability = above[tuple(voxels.T)].mean()
    size = len(voxels)
    found = (size, size * _voxel_mm3(affine), per_repeat.mean(), spread, stability)
    return number, *found, values[:, best].mean(), *apply_affine(affine, voxels[best]).round(4)


def _named(
    table: pd.DataFrame, labels: np.ndarray, atlas: np.ndarray | None, names: pd.DataFrame | None
) -> pd.DataFrame:
    """Add name (unique), region and share after the index."""
    pairs: list[tuple[str, float]] = [("", np.nan)] * len(table)
    if atlas is not None and names is not None:
        lookup = dict(zip(names["index"], names["name"], strict=True))
        pairs = [_largest_share(np.asarray(atlas)[labels == i], lookup) for i in table["index"]]
    regions = [region for region, _ in pairs]
    unique = _unique(regions)
    table.insert(1, "name", pd.Series(unique, dtype=object))
    table.insert(2, "region", pd.Series(regions, dtype=object))
    table.insert(3, "share", pd.Series([share for _, share in pairs], dtype=float))
    return table


def _largest_share(under: np.ndarray, lookup: dict[int, str]) -> tuple[str, float]:
    found, counts = np.unique(under, return_counts=True)
    named = [(count, lookup[i]) for i, count in zip(found, counts, strict=True) if i in lookup]
    if not named:
        return "", 0.0
    count, region = max(named, key=lambda one: one[0])
    return str(region), float(count / len(under))


def _unique(regions: list[str]) -> list[str]:
    """Names of clusters: the region's, numbered from the second on."""
    seen: dict[str, int] = {}
    result = []
    for region in regions:
        seen[region] = seen.get(region, 0) + 1
        number = seen[region]
        plain = region or "cluster"
        result.append(f"{plain} {number}" if number > 1 or not region else plain)
    return result
