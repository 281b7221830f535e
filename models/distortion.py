"""Susceptibility distortion along the phase-encoding axis, from a pair of opposite polarity.

In echo-planar images, the field's inhomogeneity moves signal along one axis, and in a scan of
opposite polarity as far the other way: the undistorted place lies halfway (Andersson et al. 2003).
"""

import numpy as np
from scipy.ndimage import map_coordinates

STEPS = 50  # of the fixed point; the change halves at least in each where the field is gentle
STEEPEST = 0.95  # of a shift's slope per voxel: beyond, the signal of two places is one


def halfway(shift: np.ndarray, axis: int) -> np.ndarray:
    """From where to take each undistorted voxel's signal, as a shift along ``axis``.

    Parameters
    ----------
    shift : (x, y, z) array
        d, in voxels: what lies at y in this image lies at y + d(y) in the opposite one.
    axis : int
        The phase-encoding axis.

    Returns
    -------
    (x, y, z) array
        e, in voxels: the undistorted signal of m is that at m + e(m). Solves e = -d(m + e) / 2.
    """
    where = np.indices(shift.shape, dtype=np.float32)
    found = -shift.astype(np.float32) / 2
    for _ in range(STEPS):
        moved = where.copy()
        moved[axis] += found
        new = -map_coordinates(shift.astype(np.float32), moved, order=1, mode="nearest") / 2
        change = float(np.abs(new - found).max())
        found = (found + new) / 2
        if change < 1e-3:
            break
    return found


def stretch(shift: np.ndarray, axis: int) -> np.ndarray:
    """By what signal is multiplied, as voxels were squeezed or pulled apart: 1 + de/dm.

    Where the field folds the image, the factor is kept at the least that can be told.
    """
    return np.clip(1 + np.gradient(shift, axis=axis), 1 - STEEPEST, 1 / (1 - STEEPEST))
