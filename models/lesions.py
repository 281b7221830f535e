"""White-matter lesions: dilation, filling, and how much relevance they get (Eitel et al. 2019)."""

import numpy as np
from scipy import ndimage

from models.errors import InputError
from models.smoothing import FWHM_PER_SIGMA

# The three orthogonal planes through the middle of 3x3x3 voxels: 19 of 27.
THREE_PLANES = ndimage.generate_binary_structure(3, 2)
LEAST_COUNT = 1 / 8  # of the largest count in the image

LOCAL_FWHM_MM = 10.0
LEAST_WEIGHT = 0.02  # of white matter around a voxel, for its local average


def dilate(lesions: np.ndarray) -> np.ndarray:
    """Grow lesions by up to one voxel, so that their blurred rim belongs to them.

    Every voxel counts the lesion voxels among the 19 of the three orthogonal planes through it;
    kept are those with at least 1/8 of the largest count in the image, as in the public code of
    Eitel et al. 2019. Beside a solid lesion that takes three neighbours, beside a single voxel one.
    A lesion voxel stays one: a single voxel far from a large lesion counts only itself.

    Parameters
    ----------
    lesions : (x, y, z) bool array

    Returns
    -------
    (x, y, z) bool array
    """
    counts = ndimage.convolve(
        lesions.astype(np.int16), THREE_PLANES.astype(np.int16), mode="constant"
    )
    return lesions | (counts >= max(counts.max() * LEAST_COUNT, 1))


def white_matter(wm: np.ndarray, gm: np.ndarray, csf: np.ndarray) -> np.ndarray:
    """Voxels that are likelier white matter than grey matter and than fluid, bool."""
    return (wm > gm) & (wm > csf)


def normal_appearing(white: np.ndarray, lesions: np.ndarray, image: np.ndarray) -> np.ndarray:
    """White matter without lesions and where the image is not zero, bool."""
    return white & ~lesions & (image != 0)


# --- filling -------------------------------------------------------------------------------------


def fill_slices(
    image: np.ndarray, lesions: np.ndarray, white: np.ndarray, *, seed: int
) -> tuple[np.ndarray, list[int]]:
    """Replace lesions by draws from the normal-appearing white matter of their axial slice.

    Every lesion voxel is drawn from N(mean, (SD / 2)^2) of its slice (Valverde et al. 2014). The
    public code of Eitel et al. 2019 draws once per slice and gives all its voxels that value, and
    does not take the lesions out of the white matter; their text leaves both open.

    Parameters
    ----------
    image : (x, y, z) array
        RAS+ axes, so that the last one numbers axial slices; zero outside the brain.
    lesions : (x, y, z) bool array
        What is replaced, dilated already where that is wanted.
    white : (x, y, z) bool array
        White matter; lesions are taken out of it here.
    seed : int

    Returns
    -------
    filled : (x, y, z) array
        Of the image's type. Outside the lesions, the very voxels of the image.
    left : list of int
        Slices with lesions but without normal-appearing white matter: left as they are.

    References
    ----------
    Valverde S, Oliver A, Lladó X (2014). A white matter lesion-filling approach to improve brain
    tissue volume measurements. NeuroImage: Clinical 6:86-92.
    """
    rng, filled, left = np.random.default_rng(seed), image.copy(), []
    normal = normal_appearing(white, lesions, image)
    for z in np.flatnonzero(lesions.any(axis=(0, 1))):
        values = image[..., z][normal[..., z]].astype(float)
        if not values.size:
            left.append(int(z))
            continue
        inside = lesions[..., z]
        drawn = rng.normal(values.mean(), values.std() / 2, int(inside.sum()))
        filled[..., z][inside] = drawn.astype(image.dtype)
    return filled, left


def fill_locally(
    image: np.ndarray,
    lesions: np.ndarray,
    white: np.ndarray,
    *,
    voxel_mm: np.ndarray | float,
    fwhm_mm: float = LOCAL_FWHM_MM,
) -> tuple[np.ndarray, list[int]]:
    """Replace lesions by the average of the normal-appearing white matter around each voxel.

    The weights are a Gaussian of ``fwhm_mm``; where too little white matter is under it, one twice
    as wide, and so on. Nothing is drawn, and there are no steps between slices.

    Parameters
    ----------
    image, lesions, white
        As for :func:`fill_slices`.
    voxel_mm : float or (3,) array
        Edges of the voxel.
    fwhm_mm : float

    Returns
    -------
    filled : (x, y, z) array
    left : list of int
        All slices with lesions where there is no normal-appearing white matter anywhere, else [].
    """
    normal = normal_appearing(white, lesions, image)
    filled, todo = image.copy(), lesions.copy()
    if not normal.any():
        return filled, [int(z) for z in np.flatnonzero(lesions.any(axis=(0, 1)))]
    largest = float(np.max(np.multiply(image.shape, voxel_mm)))
    while todo.any():
        sigma = fwhm_mm / FWHM_PER_SIGMA / np.asarray(voxel_mm, float)
        weight = ndimage.gaussian_filter(normal.astype(np.float64), sigma)
        total = ndimage.gaussian_filter(np.where(normal, image, 0).astype(np.float64), sigma)
        known = todo & (weight >= LEAST_WEIGHT)
        if fwhm_mm > largest:  # far from any: what there is must do
            mean = image[normal].astype(float).mean()
            total, weight, known = np.full(image.shape, mean), np.ones(image.shape), todo
        filled[known] = (total[known] / weight[known]).astype(image.dtype)
        todo, fwhm_mm = todo & ~known, 2 * fwhm_mm
    return filled, []


# --- measures ------------------------------------------------------------------------------------


def lesion_relevance(relevance: np.ndarray, lesions: np.ndarray) -> float:
    """Share of a map's positive relevance that lies in lesions, equation 2 of Eitel et al. 2019.

    Parameters
    ----------
    relevance : (x, y, z) array
        Signed; what speaks against the class does not count.
    lesions : (x, y, z) bool array
        On the same grid.

    Returns
    -------
    float
        0 to 1; NaN where nothing is positive.
    """
    _same_grid(relevance, lesions)
    positive = np.clip(np.nan_to_num(relevance).astype(float), 0, None)
    total = positive.sum()
    return float(positive[lesions].sum() / total) if total else float("nan")


def lesion_coverage(lesions: np.ndarray, brain: np.ndarray) -> float:
    """Share of the brain's voxels that are lesions: what relevance without an aim would reach.

    Parameters
    ----------
    lesions, brain : (x, y, z) bool array
        On the same grid. Lesions outside the brain do not count.

    Returns
    -------
    float
        0 to 1.

    Raises
    ------
    models.errors.InputError
        There is no brain.
    """
    _same_grid(lesions, brain)
    if not brain.any():
        raise InputError("lesion coverage: the brain is empty on this grid")
    return float((lesions & brain).sum() / brain.sum())


def measures(relevance: np.ndarray, lesions: np.ndarray, brain: np.ndarray) -> dict[str, float]:
    """Lesions and relevance of one person.

    Returns
    -------
    dict
        ``lesion_voxels`` (the lesion sum), ``lesion_coverage``, ``relevance_sum`` (signed, of the
        whole map), ``lesion_relevance``, ``concentration``: relevance over coverage, 1 for a map
        that is spread evenly, NaN without lesions.
    """
    inside = lesions & brain
    coverage, share = lesion_coverage(lesions, brain), lesion_relevance(relevance, inside)
    return {
        "lesion_voxels": float(inside.sum()),
        "lesion_coverage": coverage,
        "relevance_sum": float(np.nansum(relevance, dtype=float)),
        "lesion_relevance": share,
        "concentration": share / coverage if coverage else float("nan"),
    }


def _same_grid(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape != second.shape:
        raise ValueError(f"{first.shape} and {second.shape} voxels: bring both to one grid")
