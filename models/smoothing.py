"""Gaussian smoothing in millimetres."""

import numpy as np
from scipy import ndimage

FWHM_PER_SIGMA = np.sqrt(8 * np.log(2))


def smooth(
    values: np.ndarray, affine: np.ndarray, fwhm_mm: float, mask: np.ndarray | None = None
) -> np.ndarray:
    """Smooth a map with a Gaussian.

    Parameters
    ----------
    values : numpy.ndarray
        3-D map, taken as zero outside its grid.
    affine : numpy.ndarray
        (4, 4), voxel to mm; its column lengths are the voxel edges.
    fwhm_mm : float
        Full width of the Gaussian at half its maximum, in mm; 0 leaves the map as it is.
    mask : numpy.ndarray, optional
        3-D bool. With it, a voxel becomes the weighted mean of the voxels inside the mask only
        (the edge of the brain does not fade), and 0 outside.

    Returns
    -------
    numpy.ndarray
        Float32. With a mask, voxels that are not finite count as missing: their neighbours are
        means of the others, and they are NaN again in the result.

    Raises
    ------
    ValueError
        Without a mask, a voxel that is not finite would spread over its neighbours.
    """
    values = np.asarray(values, dtype=np.float32)
    finite = np.isfinite(values)
    if mask is None and not finite.all():
        raise ValueError("the map holds voxels that are not finite: smooth it inside a mask")
    sigma = fwhm_mm / FWHM_PER_SIGMA / np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    if mask is None:
        return _gaussian(values, sigma)
    inside = mask.astype(bool) & finite
    weight = _gaussian(inside.astype(np.float32), sigma)
    total = _gaussian(np.where(inside, values, np.float32(0)), sigma)
    smoothed = np.divide(total, weight, out=np.zeros_like(values), where=inside)
    smoothed[mask.astype(bool) & ~finite] = np.nan
    return smoothed


def _gaussian(values: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(values, sigma, mode="constant", truncate=5.0)
