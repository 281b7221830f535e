"""The part of a methods section about FLAIR: preprocessing, lesions, and what they get."""

from collections.abc import Mapping
from typing import Any

_FILLED = {
    "fill": "Lesions were dilated by the three orthogonal planes through each voxel (neighbours of "
    "at least an eighth of the largest count) and replaced, axial slice by axial slice, by draws "
    "from a normal distribution with the mean and half the standard deviation of the slice’s "
    "normal-appearing white matter [@valverde2014; @eitel2019].",
    "fill_local": "Lesions were dilated by the three orthogonal planes through each voxel and "
    "replaced by the Gaussian-weighted average of the normal-appearing white matter around, a "
    "smoother variant of the filling of Valverde et al. [@valverde2014].",
}
_TISSUES = (
    "White matter was where its probability exceeded those of grey matter and fluid, by Atropos "
    "[@avants2011atropos] on the T1-weighted image, or by the ICBM 2009a priors where there was "
    "none. People without a lesion mask were left as they were."
)
LESIONS = (
    "Lesion relevance is the share of a map’s positive relevance that lies in the person’s lesion "
    "mask [@eitel2019], held against lesion coverage, the share of the brain that they are. Sums "
    "of relevance and of lesion voxels were correlated (Pearson, permutation test). The same "
    "measures of a network with random weights say what the contrast of lesions alone would give."
)


def aligned() -> str:
    """How FLAIR images come to their T1-weighted image, as sentences."""
    return (
        "FLAIR images were oriented to RAS+ and cut at 170 mm from the top of the head. Each was "
        "registered rigidly to the person’s T1-weighted image by mutual information with ANTs "
        "[@avants2011], whose brain mask was carried over; intensity non-uniformity was corrected "
        "with N4 [@tustison2010]. T1-weighted images had been preprocessed in the same way, their "
        "brains extracted with deepbet [@fisch2024]. All transforms were applied at once, by cubic "
        "B-splines. An image without a T1-weighted one was registered to the template directly, by "
        "an affine transform, with its own brain mask."
    )


def lesions(table: Mapping[str, Any]) -> str:
    """Where lesion masks come from, and how lesions were filled."""
    filled = _FILLED.get(str(table.get("lesions")))
    masks = "Lesion masks were those of the dataset, moved with the images by nearest neighbour."
    return f"{masks} {filled} {_TISSUES}" if filled else masks
