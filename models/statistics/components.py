"""Connected components of maps: neighbours of voxels, extents and masses of clusters.

A map here is a vector (voxels,) of the voxels of a mask, in the order of ``map[mask]``. The loops
are compiled by numba at the first call of a process; what was compiled is kept beside this file
or in the user's cache folder, and where neither can be written it is compiled anew.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from scipy import ndimage

# Rank of scipy's structuring element: how many coordinates of two neighbours may differ.
CONNECTIVITY = {6: 1, 18: 2, 26: 3}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop, without the interpreter's lock so that maps can share the threads."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder to keep it in: a read-only installation without a home
        return numba.njit(nogil=True)(function)


class Lattice:
    """Which voxels of a mask touch.

    Parameters
    ----------
    mask : numpy.ndarray
        3-D bool.
    connectivity : {18, 26, 6}
        Voxels touch if they share a face or an edge (18, as in SPM), also a corner (26, as in
        FSL's clusters), or only a face (6, as in nilearn, and in FSL's TFCE by default).

    Attributes
    ----------
    voxels : int
        Voxels in the mask.
    place : numpy.ndarray
        (voxels,) int64, where each lies in the flat bounding box of the mask with a border of one.
    offsets : numpy.ndarray
        (connectivity,) int64, from a place to its neighbours, those before it first.
    size : int
        Places in that box.
    """

    def __init__(self, mask: np.ndarray, connectivity: int = 18):
        if connectivity not in CONNECTIVITY:
            raise ValueError(f"connectivity {connectivity}: choose among 6, 18 and 26")
        mask = np.asarray(mask, dtype=bool)
        if mask.ndim != 3 or not mask.any():
            raise ValueError(f"a mask of shape {mask.shape} with {int(mask.sum())} voxels")
        box = np.pad(mask[ndimage.find_objects(mask.astype(np.uint8))[0]], 1)
        self.place = np.flatnonzero(box)
        self.voxels = len(self.place)
        self.size = box.size
        near = ndimage.generate_binary_structure(3, CONNECTIVITY[connectivity])
        steps = np.argwhere(near) - 1
        strides = np.array([box.shape[1] * box.shape[2], box.shape[2], 1])
        self.offsets = np.sort(steps @ strides)
        self.offsets = self.offsets[self.offsets != 0]

    def check(self, values: np.ndarray) -> np.ndarray:
        """A map as it is computed with: float64 or float32, contiguous."""
        if np.shape(values) != (self.voxels,):
            raise ValueError(f"a map of shape {np.shape(values)} for a mask of {self.voxels}")
        kind = np.float32 if np.asarray(values).dtype == np.float32 else np.float64
        return np.ascontiguousarray(values, dtype=kind)


def largest_cluster(
    values: np.ndarray, threshold: float, lattice: Lattice, two_sided: bool = True
) -> tuple[float, float]:
    """Largest extent, in voxels, and largest mass of the clusters of a map.

    As `clusters`, for the maximum alone.
    """
    _, extent, mass = _clusters(values, threshold, lattice, two_sided)
    return (float(extent.max()), float(mass.max())) if len(extent) else (0.0, 0.0)


def clusters(
    values: np.ndarray, threshold: float, lattice: Lattice, two_sided: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Extent and mass of the cluster that each voxel lies in.

    Parameters
    ----------
    values : numpy.ndarray
        (voxels,) t or F; NaN lies in no cluster.
    threshold : float
        Above zero; what exceeds it forms clusters.
    lattice : Lattice
        Which voxels touch.
    two_sided : bool
        Whether values below ``-threshold`` form clusters, too. Those of two signs never join.

    Returns
    -------
    extent : numpy.ndarray
        (voxels,) float64, voxels of the cluster; 0 outside clusters.
    mass : numpy.ndarray
        (voxels,) float64, the sum of ``|value| - threshold`` over the cluster (Bullmore et al.
        1999, doi:10.1109/42.750253); 0 outside clusters.
    """
    labels, extent, mass = _clusters(values, threshold, lattice, two_sided)
    return np.append(extent, 0.0)[labels], np.append(mass, 0.0)[labels]


def _clusters(values, threshold, lattice, two_sided):
    """Labels (voxels,), -1 outside, and extent and mass of each label."""
    if not threshold > 0:
        raise ValueError(f"clusters are formed above a threshold of {threshold}: not above zero")
    values = lattice.check(values)
    height = np.abs(values) if two_sided else values
    above = np.flatnonzero(height > threshold)
    found, extent, mass = _join(
        lattice.place[above],
        values[above] > 0,
        height[above].astype(np.float64) - threshold,
        lattice.offsets[: len(lattice.offsets) // 2],
        np.full(lattice.size, -1, np.int32),
    )
    labels = np.full(lattice.voxels, -1, np.int32)
    labels[above] = found
    return labels, extent, mass


@compiled
def root_of(parent, node):
    """Root of a node, halving its path."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@compiled
def _join(place, positive, excess, backward, number_at):
    """Union-find over voxels in ascending order of place; ``number_at`` comes filled with -1."""
    n = len(place)
    parent = np.arange(n, dtype=np.int32)
    for i in range(n):
        number_at[place[i]] = i
        for step in backward:
            j = number_at[place[i] + step]
            if j >= 0 and positive[j] == positive[i]:
                a, b = root_of(parent, i), root_of(parent, j)
                parent[max(a, b)] = min(a, b)
    label = np.empty(n, dtype=np.int32)
    extent, mass = np.zeros(n), np.zeros(n)
    count = 0
    for i in range(n):
        # The root is the first voxel of its component: it has its label already.
        root = root_of(parent, i)
        if root == i:
            label[i] = count
            count += 1
        label[i] = label[root]
        extent[label[i]] += 1
        mass[label[i]] += excess[i]
    return label, extent[:count], mass[:count]
