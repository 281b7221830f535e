"""The part of a methods section about diffusion images: from the raw series to the tensor."""

from collections.abc import Mapping
from typing import Any

_FITS = {
    "WLS": "weighted least squares",
    "OLS": "ordinary least squares",
    "NLLS": "nonlinear least squares",
    "RESTORE": "RESTORE [@chang2005]",
}
_RINGS = {
    "auto": "Gibbs rings were removed by sub-voxel shifts [@kellner2016], with MRtrix3 "
    "[@tournier2019] where it was installed and with DIPY elsewhere; the sidecars say which.",
    "mrtrix3": "Gibbs rings were removed by sub-voxel shifts [@kellner2016] with MRtrix3 "
    "[@tournier2019].",
    "dipy": "Gibbs rings were removed by sub-voxel shifts [@kellner2016] with DIPY.",
}
_MOTION = {
    "ants": "Weighted volumes were registered to their mean, and this and other b0s to the first "
    "b0, by mutual information with ANTs [@avants2011]{antspyx}: rigidly, weighted volumes then by "
    "an affine transform along the phase-encoding axis for eddy currents. Gradient directions were "
    "turned with the head. Where an image of opposite phase encoding was there, both were deformed "
    "along that axis to their middle [@andersson2003] by SyN [@avants2008]. All of it was applied "
    "in one interpolation by cubic B-splines.",
    "fsl": "Head motion and eddy currents were corrected, and gradient directions turned, by eddy "
    "of FSL [@andersson2016]; where an image of opposite phase encoding was there, with the "
    "susceptibility field that topup found [@andersson2003].",
}
_TURNED = {
    "ppd": "preservation of principal direction",
    "finite_strain": "finite strain",
}
# Maps of the tensor itself that may be tested beside heatmaps.
MEASURED = {
    "md": "maps of mean diffusivity",
    "fa": "maps of fractional anisotropy",
    "sigma": "maps of the deviation σ of the eigenvalues",
    "theta": "maps of its angle θ",
}
_MIXED = {"components": "components", "log": "matrix logarithms [@arsigny2006]"}


def series(table: Mapping[str, Any], antspyx: str, dipy: str) -> str:
    """Noise, rings, motion, distortion and the tensor fit, as sentences.

    Parameters
    ----------
    table : mapping
        ``[preprocessing]`` of the recipe.
    antspyx, dipy : str
        Their versions in brackets, or nothing.
    """
    own = table.get("dwi") or {}
    parts = [
        "Diffusion-weighted series were oriented to RAS+ and denoised by Marchenko-Pastur "
        f"principal components [@veraart2016] with DIPY [@garyfallidis2014]{dipy}.",
        _RINGS.get(own.get("gibbs", "auto"), ""),
        _MOTION[own.get("motion", "ants")].format(antspyx=antspyx),
        "The brain was found in the b0 by median Otsu, and its bias field (N4) [@tustison2010] was "
        "divided out of every volume.",
        _outliers(own),
        f"Tensors were fitted by {_FITS.get(own.get('fit', 'WLS'), own.get('fit'))} to the shells "
        "up to b = 1500 s/mm².",
    ]
    return " ".join(part for part in parts if part)


def _outliers(own: Mapping[str, Any]) -> str:
    what = "left out" if own.get("outliers", "drop") == "drop" else "named"
    return (
        "Slices whose signal lay at least 10 % below what a tensor fit to the other volumes "
        "foretold (p < .001) were taken as damaged, and volumes with more than a tenth of such "
        f"slices were {what}."
    )


def carried(table: Mapping[str, Any]) -> str:
    """The way of the tensors to the T1w image and to the template, as sentences."""
    own = table.get("dwi") or {}
    deformed = own.get("coregistration", "deformable") == "deformable"
    syn = " and then by SyN along the phase-encoding axis" if deformed else ""
    turned = _TURNED.get(own.get("reorientation", "ppd"))
    mixed = _MIXED.get(own.get("interpolation", "components"), "components")
    how = f"and each was turned by {turned} [@alexander2001]" if turned else "and none was turned"
    where = (
        "stayed in the space of the T1-weighted image, and maps for the group were taken to the "
        "template by its nonlinear transform, linearly and once"
        if table.get("registration") == "none"
        else "were carried on to the template by the transform of the T1-weighted image"
    )
    return (
        f"The b0 was registered to the person’s T1-weighted image rigidly{syn}; tensors {where}. "
        f"Their {mixed} were interpolated once, linearly, through all transforms, {how}. Without a "
        "T1-weighted image, the b0 was registered to the template directly."
    )


def scaled(kind: str | None) -> str:
    """What a network sees of a tensor."""
    unit = "3·10⁻³ mm²/s, the diffusivity of free water at 37 °C" if kind == "max" else "10⁻³ mm²/s"
    return f"Networks saw the six components, divided by {unit}."
