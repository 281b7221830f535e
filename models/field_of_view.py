"""Robust field of view: where the head ends and the neck begins."""

import numpy as np

HEAD_MM = 170.0  # from the top of the head down: a brain and some
BRIGHT = 0.2  # of the 98th percentile
LEAST_MM2 = 1000.0  # bright tissue in a slice that belongs to the head


def first_slice(data: np.ndarray, voxel_mm: np.ndarray, head_mm: float = HEAD_MM) -> int:
    """Lowest axial slice to keep, so that ``head_mm`` remain below the top of the head.

    What ``robustfov`` of FSL is for (S3 used it): a scan that reaches far into the neck pulls the
    centre of mass, and with it a registration, downwards.

    Parameters
    ----------
    data : (x, y, z) array
        Head, RAS+ axes.
    voxel_mm : (3,) array
        Edges of the voxel.
    head_mm : float

    Returns
    -------
    int
        0 where the scan does not reach below.
    """
    bright = data > BRIGHT * np.percentile(data, 98)
    tissue_mm2 = bright.sum(axis=(0, 1)) * float(voxel_mm[0]) * float(voxel_mm[1])
    head = np.flatnonzero(tissue_mm2 >= LEAST_MM2)
    if not head.size:
        return 0
    kept = int(np.ceil(head_mm / float(voxel_mm[2])))
    return max(0, int(head[-1]) + 1 - kept)
