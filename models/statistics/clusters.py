"""Clusters of a corrected map, and what lies under their peaks."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from nibabel.affines import apply_affine
from scipy import ndimage

from models.regions import region_table

COLUMNS = (
    "cluster_id",
    "sign",
    "voxels",
    "volume_mm3",
    "peak_t",
    "peak_p_fwe",
    "x_mm",
    "y_mm",
    "z_mm",
)
NEAR_MM = 5.0
UNLABELLED = "unlabelled"
# Regions that hold less of a cluster are not named in its row.
LEAST_SHARE = 0.05


def significant_clusters(
    t: np.ndarray,
    p_fwe: np.ndarray,
    affine: np.ndarray,
    alpha: float = 0.05,
    min_mm3: float = 0.0,
    connectivity: int = 18,
    also: Mapping[str, np.ndarray] | None = None,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Group significant voxels of one sign that touch.

    With the corrected p of cluster extent or mass for ``p_fwe``, these are the significant among
    the clusters that the test formed, if ``connectivity`` is that of the test.

    Parameters
    ----------
    t : numpy.ndarray
        3-D map of t values.
    p_fwe : numpy.ndarray
        Corrected p values on the same grid; a voxel is taken if ``p_fwe <= alpha``.
    affine : numpy.ndarray
        (4, 4), voxel to RAS+ mm.
    alpha : float
        Family-wise error.
    min_mm3 : float
        Smallest volume of a cluster that is kept, in mm^3.
    connectivity : {18, 26, 6}
        Neighbours of a voxel: those that share a face or an edge (18, as SPM), also a corner
        (26), or only a face (6).
    also : mapping of str to numpy.ndarray, optional
        Further corrected p values on the same grid ("extent", "mass", "tfce"); each adds a column
        ``p_<name>``, the smallest inside the cluster.

    Returns
    -------
    labels : numpy.ndarray
        3-D int32: the cluster of every voxel, 0 outside.
    table : pandas.DataFrame
        One row per cluster, largest volume first, positive and negative clusters apart:
        cluster_id, sign ("positive" or "negative"), voxels, volume_mm3, peak_t, peak_p_fwe, the
        peak in RAS+ mm (x_mm, y_mm, z_mm), and the columns of ``also``.
    """
    touching = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    voxel_mm3 = abs(np.linalg.det(np.asarray(affine)[:3, :3]))
    taken = np.asarray(p_fwe) <= alpha
    found = []
    for sign, chosen in (("positive", taken & (t > 0)), ("negative", taken & (t < 0))):
        parts, _ = ndimage.label(chosen, touching)
        for number, box in enumerate(ndimage.find_objects(parts), start=1):
            voxels = np.argwhere(parts[box] == number) + [side.start for side in box]
            if len(voxels) * voxel_mm3 >= min_mm3 * (1 - 1e-9):
                found.append((sign, voxels))
    found.sort(key=lambda cluster: (-len(cluster[1]), -np.abs(t[tuple(cluster[1].T)]).max()))
    labels = np.zeros(np.shape(t), dtype=np.int32)
    for number, (_, voxels) in enumerate(found, start=1):
        labels[tuple(voxels.T)] = number
    rows = [_row(i, *cluster, t, p_fwe, affine, voxel_mm3) for i, cluster in enumerate(found, 1)]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    for name, p in (also or {}).items():
        least = [float(np.min(p[tuple(voxels.T)])) for _, voxels in found]
        table[f"p_{name}"] = np.array(least, dtype=float)
    return labels, table


def _row(number, sign, voxels, t, p_fwe, affine, voxel_mm3) -> tuple:
    peak = voxels[np.argmax(np.abs(t[tuple(voxels.T)]))]
    at = tuple(peak)
    where = apply_affine(affine, peak).round(4)
    size = len(voxels)
    return number, sign, size, size * voxel_mm3, float(t[at]), float(p_fwe[at]), *where


def name_peaks(
    table: pd.DataFrame,
    labels: np.ndarray,
    affine: np.ndarray,
    names: pd.DataFrame,
    near_mm: float = NEAR_MM,
) -> pd.DataFrame:
    """Add the atlas region at every peak.

    Parameters
    ----------
    table : pandas.DataFrame
        As made by `significant_clusters`.
    labels : numpy.ndarray
        3-D int, the atlas on the grid of the map, 0 outside.
    affine : numpy.ndarray
        (4, 4), voxel of that grid to RAS+ mm.
    names : pandas.DataFrame
        Columns index and name.
    near_mm : float
        How far from an unlabelled peak the nearest region is looked for.

    Returns
    -------
    pandas.DataFrame
        A copy with the column region: a name, "near <name>", or "unlabelled".
    """
    lookup = dict(zip(names["index"], names["name"], strict=True))
    peaks = table[["x_mm", "y_mm", "z_mm"]].to_numpy(float).reshape(-1, 3)
    found = [_region_at(peak, labels, np.asarray(affine), lookup, near_mm) for peak in peaks]
    return table.assign(region=pd.Series(found, index=table.index, dtype=object))


def name_shares(
    table: pd.DataFrame,
    clusters: np.ndarray,
    atlases: Mapping[str, tuple[np.ndarray, pd.DataFrame]],
    least: float = LEAST_SHARE,
) -> pd.DataFrame:
    """Add which regions each cluster covers, and how much of it lies in each.

    Parameters
    ----------
    table : pandas.DataFrame
        As made by `significant_clusters`.
    clusters : numpy.ndarray
        3-D int, the clusters' labels, as made with it.
    atlases : mapping
        From the name of the new column ("regions") to an atlas: labels, 3-D int on the grid of
        the map with 0 outside, and names, with the columns index and name.
    least : float
        Smallest share that is named.

    Returns
    -------
    pandas.DataFrame
        A copy with a column per atlas: "Left Hippocampus 62 %; Left Amygdala 21 %", the largest
        share first; "unlabelled" stands for what lies outside the named regions.
    """
    columns = {
        column: pd.Series(
            [_shares(clusters == number, *atlas, least) for number in table["cluster_id"]],
            index=table.index,
            dtype=object,
        )
        for column, atlas in atlases.items()
    }
    return table.assign(**columns)


def _shares(inside: np.ndarray, labels: np.ndarray, names: pd.DataFrame, least: float) -> str:
    covered = region_table(inside, np.where(inside, labels, 0), names)
    shares = [*zip(covered["name"], covered["voxels"] / inside.sum(), strict=True)]
    shares.append((UNLABELLED, 1 - sum(share for _, share in shares)))
    named = sorted((-share, str(name)) for name, share in shares if share >= least)
    return "; ".join(f"{name} {-share:.0%}".replace("%", " %") for share, name in named)


def _region_at(peak_mm, labels, affine, lookup, near_mm) -> str:
    voxel = apply_affine(np.linalg.inv(affine), peak_mm)
    reach = near_mm / np.linalg.norm(affine[:3, :3], axis=0) + 0.5
    low = np.clip(np.ceil(voxel - reach), 0, labels.shape).astype(int)
    high = np.clip(np.floor(voxel + reach) + 1, 0, labels.shape).astype(int)
    box = labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    labelled = np.argwhere(box > 0) + low
    if not len(labelled):
        return UNLABELLED
    mm = np.linalg.norm(apply_affine(affine, labelled) - peak_mm, axis=1)
    nearest = labelled[np.argmin(mm)]
    label = int(labels[tuple(nearest)])
    name = str(lookup.get(label, f"label {label}"))
    if np.array_equal(nearest, np.floor(voxel + 0.5)):
        return name
    return f"near {name}" if mm.min() <= near_mm else UNLABELLED
