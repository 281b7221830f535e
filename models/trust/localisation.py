"""Does a map point at the true region? Measures for data whose truth is known.

The area under the curve alone is no evidence: distance to the centre of the brain scores .86 for
the hippocampus and amygdala, an untrained network up to .88. The share of the most relevant
voxels that lies inside the region tells a trained network (.12 to .38) from an untrained or
shuffled one (at most .024), so report both, and both for an untrained network.
"""

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.processing import resample_from_to
from scipy import ndimage, stats

from models.smoothing import smooth


def heatmap_measures(
    heatmap: nib.Nifti1Image,
    truth: nib.Nifti1Image,
    brain: nib.Nifti1Image,
    fwhm_mm: float = 4.0,
) -> dict[str, float]:
    """Return ``auc`` and ``share`` (see `roc_auc`, `top_share`) of a heatmap after smoothing.

    Parameters
    ----------
    heatmap, truth, brain : nibabel.Nifti1Image
        3-D images in one world space, on any grids; truth and brain are true where > 0.
    fwhm_mm : float
        Gaussian smoothing of the map.
    """
    inside, in_brain = on_grid(truth, heatmap), on_grid(brain, heatmap)
    relevance = smooth(np.nan_to_num(heatmap.get_fdata()), heatmap.affine, fwhm_mm)
    return {
        "auc": roc_auc(relevance, inside, in_brain),
        "share": top_share(relevance, inside, in_brain),
    }


def statistic_measures(statmap: nib.Nifti1Image, truth: nib.Nifti1Image) -> dict[str, float]:
    """Return ``found`` and ``near`` (see `found_and_near`) of a map that is 0 where nothing is.

    Parameters
    ----------
    statmap, truth : nibabel.Nifti1Image
        3-D images in one world space, on any grids.
    """
    significant = np.nan_to_num(statmap.get_fdata()) != 0
    found, near = found_and_near(significant, on_grid(truth, statmap), voxel_sizes(statmap.affine))
    return {"found": found, "near": near}


def on_grid(mask: nib.Nifti1Image, image: nib.Nifti1Image) -> np.ndarray:
    """Mask (> 0) on the grid of another image: linear interpolation, cut at one half; bool."""
    indicator = nib.Nifti1Image((mask.get_fdata() > 0).astype(np.float32), mask.affine)
    moved = resample_from_to(indicator, (image.shape[:3], image.affine), order=1)
    return np.asanyarray(moved.dataobj) >= 0.5


def roc_auc(relevance: np.ndarray, truth: np.ndarray, brain: np.ndarray) -> float:
    """Chance that a voxel of the true region is more relevant than another brain voxel.

    Parameters
    ----------
    relevance : numpy.ndarray
        Map (x, y, z); signed maps as they are, higher speaks more for the class.
    truth, brain : numpy.ndarray
        bool, same shape. Truth outside the brain is not counted.

    Returns
    -------
    float
        Area under the ROC curve by ranks; ties count one half.

    Raises
    ------
    ValueError
        If the region or the rest of the brain has no voxel.
    """
    values, inside = _in_brain(relevance, truth, brain)
    n_inside, n_outside = inside.sum(), (~inside).sum()
    if not n_outside:
        raise ValueError("the true region fills the whole brain: there is nothing to compare with")
    rank_sum = stats.rankdata(values)[inside].sum()
    return float((rank_sum - n_inside * (n_inside + 1) / 2) / (n_inside * n_outside))


def top_share(
    relevance: np.ndarray, truth: np.ndarray, brain: np.ndarray, fraction: float = 0.01
) -> float:
    """Share of the most relevant brain voxels that lies inside the true region.

    Parameters
    ----------
    relevance, truth, brain : numpy.ndarray
        As for `roc_auc`.
    fraction : float
        Part of the brain's voxels that counts as most relevant (at least one voxel).

    Returns
    -------
    float
        Where voxels tie at the limit, the share expected when ties are broken by lot.
    """
    values, inside = _in_brain(relevance, truth, brain)
    count = max(1, round(fraction * values.size))
    limit = np.partition(values, -count)[-count]
    above, tied = values > limit, values == limit
    drawn = (count - above.sum()) * inside[tied].mean()
    return float((inside[above].sum() + drawn) / count)


def found_and_near(
    significant: np.ndarray,
    truth: np.ndarray,
    voxel_mm: Sequence[float],
    near_mm: float = 8.0,
) -> tuple[float, float]:
    """How much of the true region a statistical map finds, and how much of it is beside.

    Parameters
    ----------
    significant, truth : numpy.ndarray
        bool (x, y, z).
    voxel_mm : sequence of float
        The voxel's three edges.
    near_mm : float
        Distance between voxel centres that still counts as near; 8 mm is the smoothing's reach.

    Returns
    -------
    found : float
        Share of the true region that is significant.
    near : float
        Share of significant voxels within ``near_mm`` of the region; NaN when there is none.
    """
    significant, truth = np.asarray(significant, bool), np.asarray(truth, bool)
    if not truth.any():
        raise ValueError("the true region has no voxel on this grid")
    found = float(significant[truth].mean())
    if not significant.any():
        return found, float("nan")
    distance = ndimage.distance_transform_edt(~truth, sampling=voxel_mm)
    return found, float((distance[significant] <= near_mm).mean())


def _in_brain(
    relevance: np.ndarray, truth: np.ndarray, brain: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Relevance and truth of the brain's voxels, flat."""
    brain = np.asarray(brain, bool)
    inside = np.asarray(truth, bool)[brain]
    if not inside.any():
        raise ValueError("the true region has no voxel inside the brain")
    return np.asarray(relevance, float)[brain], inside
