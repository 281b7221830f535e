r"""Threshold-free cluster enhancement without threshold steps.

Smith and Nichols 2009 (doi:10.1016/j.neuroimage.2008.03.061), eq. 1::

    TFCE(v) = integral from 0 to t_v of e(h)^E h^H dh

``e(h)`` is the extent of the component of ``{t > h}`` that holds v. It is a step function: it
changes only at the values of the map, where a voxel joins or two components meet. The components
for all h at once are the max-tree of the map, which union-find builds over the voxels in
descending order (Najman and Couprie 2006, doi:10.1109/TIP.2006.877518). Between the height
``t_n`` of a node and that of its parent the extent is the size ``s_n`` of the node's branch, so
that the integral is a sum along the way to the root::

    TFCE(n) = TFCE(parent) + s_n^E (t_n^(H+1) - t_parent^(H+1)) / (H+1)

nilearn's and FSL's sums over 100 steps approximate this up to the factor of the step.
"""

import numpy as np

from models.statistics.components import Lattice, compiled, root_of

EXTENT_POWER = 0.5
HEIGHT_POWER = 2.0


def tfce(
    values: np.ndarray,
    lattice: Lattice,
    two_sided: bool = True,
    extent_power: float = EXTENT_POWER,
    height_power: float = HEIGHT_POWER,
) -> np.ndarray:
    """Threshold-free cluster enhancement, exact up to rounding.

    Parameters
    ----------
    values : numpy.ndarray
        (voxels,) t, z or F; NaN belongs to no component.
    lattice : Lattice
        Which voxels touch.
    two_sided : bool
        Whether what is below zero is enhanced, too, as a map of its own with the sign turned.
    extent_power, height_power : float
        E and H; the defaults are those of the publication.

    Returns
    -------
    numpy.ndarray
        (voxels,) float64, of the sign of ``values``; 0 at NaN and at what is not enhanced.
    """
    values = lattice.check(values)
    height = np.abs(values) if two_sided else np.maximum(values, 0)
    height[np.isnan(height)] = 0
    order = np.argsort(height)[::-1][: np.count_nonzero(height)]
    scores = np.zeros(lattice.voxels)
    found = _enhanced(
        lattice.place[order],
        values[order] > 0,
        height[order].astype(np.float64),
        lattice.offsets,
        np.full(lattice.size, -1, np.int32),
        float(extent_power),
        float(height_power),
    )
    scores[order] = np.copysign(found, values[order])
    return scores


@compiled
def _enhanced(place, positive, height, offsets, rank_at, extent_power, height_power):
    """Scores of voxels in descending order of height; ``rank_at`` comes filled with -1."""
    above, size = _max_tree(place, positive, offsets, rank_at)
    n = len(place)
    score = np.empty(n)
    power = height_power + 1
    for i in range(n - 1, -1, -1):
        up = above[i]
        base, lower = (score[up], height[up]) if up >= 0 else (0.0, 0.0)
        if height[i] > lower:
            rise = _raised(height[i], power) - _raised(lower, power)
            base += _raised(size[i], extent_power) * rise / power
        score[i] = base
    return score


@compiled
def _raised(base, power):
    """``base ** power``, quickly for the usual E and H."""
    if power == 3:
        return float(base * base * base)
    return np.sqrt(base) if power == 0.5 else float(base) ** power


@compiled
def _max_tree(place, positive, offsets, rank_at):
    """Parent (-1 at a root) and branch size of every rank, the highest voxel being rank 0."""
    n = len(place)
    above = np.full(n, -1, dtype=np.int32)
    size = np.ones(n, dtype=np.int32)
    # Union-find by size; ``lowest`` is the node of the tree that stands for a root.
    parent = np.arange(n, dtype=np.int32)
    lowest = np.arange(n, dtype=np.int32)
    for i in range(n):
        rank_at[place[i]] = i
        root = i
        for step in offsets:
            j = rank_at[place[i] + step]
            if j < 0 or parent[j] == root or positive[j] != positive[i]:
                continue
            other = root_of(parent, j)
            if other == root:
                continue
            branch = lowest[other]
            above[branch] = i
            if size[branch] > size[i]:
                root, other = other, root
            parent[other] = root
            size[i] += size[branch]
        lowest[root] = i
    return above, size
