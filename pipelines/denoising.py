"""Non-local means of a T1w image."""

import numpy as np
from scipy import ndimage

PATCH_RADIUS, BLOCK_RADIUS = 1, 2  # voxels: 3x3x3 patches are compared over 5x5x5
# The head dominates the estimate, and so far above the noise it is nearly Gaussian; dipy's factor
# for one coil is that of air, and made the estimate half as large again on three scans.
GAUSSIAN = 0


def non_local_means(data: np.ndarray) -> tuple[np.ndarray, float]:
    """Denoise inside the head by non-local means (Descoteaux et al. 2008, in dipy).

    Parameters
    ----------
    data : (x, y, z) float32 array
        Magnitude image; its noise is taken as Rician and as strong everywhere.

    Returns
    -------
    denoised : (x, y, z) float32 array
        Untouched outside the head.
    sigma : float
        Standard deviation of the noise, estimated from the differences of neighbours, and so with
        some anatomy in it.
    """
    from dipy.denoise.nlmeans import nlmeans
    from dipy.denoise.noise_estimate import estimate_sigma

    sigma = float(np.ravel(estimate_sigma(data, N=GAUSSIAN))[0])
    if not np.isfinite(sigma) or sigma <= 0:
        return data, 0.0
    head = head_mask(data)
    found = nlmeans(
        data,
        sigma=sigma,
        mask=head,
        patch_radius=PATCH_RADIUS,
        block_radius=BLOCK_RADIUS,
        rician=True,
        num_threads=1,
        method="classic",
    )
    return np.where(head, found, data).astype(np.float32), round(sigma, 4)


def head_mask(data: np.ndarray) -> np.ndarray:
    """What is brighter than air, with what it encloses; (x, y, z) bool."""
    from dipy.segment.threshold import otsu

    body = ndimage.binary_opening(data > otsu(data) / 2)
    return ndimage.binary_fill_holes(ndimage.binary_dilation(body, iterations=2))
