"""What a deformation does to the space around every voxel: its Jacobian, and the room it gives."""

import numpy as np


def voxel_volumes(displacement: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Volume of every voxel of a grid once a deformation has carried it away.

    The mapping sends the world point ``p`` of a voxel to ``p + u(p)``. Its derivative by the
    voxel's indices is the matrix of the affine plus that of ``u``, and the size of the determinant
    of this is the volume that the voxel is mapped to: ``|det J|`` times the volume of the voxel
    (Chung et al. 2001).

    Parameters
    ----------
    displacement : numpy.ndarray
        (x, y, z, 3), ``u`` in mm along the world axes of ``affine``; at least two voxels per axis.
    affine : numpy.ndarray
        (4, 4), voxel to world in mm.

    Returns
    -------
    numpy.ndarray
        (x, y, z) in mm^3. Derivatives are central differences, at the border one-sided: exact
        for affine mappings. A fold of the mapping counts by its size, too.
    """
    edges = _edges(displacement, affine)
    return np.abs(np.sum(edges[0] * np.cross(edges[1], edges[2]), axis=-1))


def derivative(displacement: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Derivative of the mapping ``p + u(p)`` by the world point ``p``.

    Parameters
    ----------
    displacement, affine : numpy.ndarray
        As of `voxel_volumes`.

    Returns
    -------
    numpy.ndarray
        (x, y, z, 3, 3): row i, column j holds d(p + u)_i / dp_j.
    """
    by_voxel = np.stack(_edges(displacement, affine), axis=-1)
    return by_voxel @ np.linalg.inv(affine[:3, :3]).astype(displacement.dtype)


def _edges(displacement: np.ndarray, affine: np.ndarray) -> list[np.ndarray]:
    """Where the mapping takes the edges of each voxel: its derivative by the voxel's indices."""
    if displacement.ndim != 4 or displacement.shape[-1] != 3:
        raise ValueError(f"a displacement is (x, y, z, 3), not {displacement.shape}")
    return [
        np.gradient(displacement, axis=axis) + affine[:3, axis].astype(displacement.dtype)
        for axis in range(3)
    ]
