"""Raw projections of a gamma camera as NIfTI with their sidecar, reconstructed into a volume."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from models.errors import InputError
from models.projections import reconstruct

SUFFIX = "proj"
# Sidecar key -> value to whether the axis has to be turned: bins run to the right, rows upwards.
TURNED = {
    "ProjectionColumns": {"right": False, "left": True},
    "ProjectionRows": {"up": False, "down": True},
}


def is_projections(path: Path) -> bool:
    """Whether a file holds raw projections, by its suffix."""
    return path.name.split(".")[0].endswith(f"_{SUFFIX}")


def reconstructed(
    path: Path, metadata: Mapping[str, Any], cutoff_per_cm: float
) -> tuple[nib.Nifti1Image, dict[str, Any]]:
    """The volume of a file of projections, and what its sidecar is to say.

    Parameters
    ----------
    path : Path
        NIfTI of (columns, rows, views); the size of its voxels is that of a bin in mm.
    metadata : mapping
        Its sidecar: ``ProjectionAngles``, degrees of each view (`models.projections`: 0 behind the
        back, 90 on the person's left); ``ProjectionColumns`` and ``ProjectionRows``, where they run
        to for a viewer who stands at the detector and sees the person upright; optionally
        ``CentreOfRotation``, the column that the axis of rotation falls on, from 0.
    cutoff_per_cm : float
        Of the Shepp-Logan filter.

    Returns
    -------
    image : nibabel.Nifti1Image
        RAS+ axes, mm from the axis of rotation, not negative.
    facts : dict

    Raises
    ------
    models.errors.InputError
        A file that is no such image, or a sidecar that leaves open how it was taken.
    """
    views, (bin_mm, row_mm) = _views(path)
    angles = _angles(path, metadata, views.shape[2])
    centre = _centre(path, metadata, len(views))
    for axis, (key, ways) in enumerate(TURNED.items()):
        if ways[_way(path, metadata, key)]:
            views = np.flip(views, axis)
            if axis == 0 and centre is not None:
                centre = len(views) - 1 - centre
    try:
        volume = reconstruct(views, angles, bin_mm, cutoff_per_cm=cutoff_per_cm, centre=centre)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    _blank_corners(volume)
    affine = np.diag([bin_mm, bin_mm, row_mm, 1.0])
    affine[:3, 3] = -np.diag(affine)[:3] * (np.array(volume.shape) - 1) / 2
    facts = {
        "ReconMethodName": "filtered back-projection",
        "ReconFilterType": "Shepp-Logan",
        "ReconFilterCutoff": cutoff_per_cm,
        "ReconFilterCutoffUnits": "cycles/cm",
        "AttenuationCorrection": "none",
        "ScatterCorrection": "none",
        "Views": len(angles),
    }
    return nib.Nifti1Image(np.clip(volume, 0, None), affine), facts


def _views(path: Path) -> tuple[np.ndarray, tuple[float, float]]:
    """(columns, rows, views) float32, and the size of a bin in mm."""
    try:
        image: Any = nib.load(path)
        views = np.asarray(image.dataobj, np.float32)
    except Exception as error:  # nibabel and zlib raise many kinds for a bad file
        raise InputError(
            f"{path}: not a readable NIfTI image ({error}); fetch or convert it again"
        ) from error
    if views.ndim == 4 and views.shape[3] == 1:
        views = views[..., 0]
    if views.ndim != 3:
        raise InputError(
            f"{path}: has {'x'.join(map(str, views.shape))} values; projections of one energy "
            "window are columns x rows x views"
        )
    if not np.isfinite(views).all() or not (views > 0).any():
        raise InputError(f"{path}: counts are missing or no numbers; export the projections again")
    bin_mm, row_mm = (float(size) for size in image.header.get_zooms()[:2])
    if min(bin_mm, row_mm) <= 0:
        raise InputError(f"{path}: its header has no size of a bin; convert it again")
    return views, (bin_mm, row_mm)


def _angles(path: Path, metadata: Mapping[str, Any], count: int) -> list[float]:
    found = metadata.get("ProjectionAngles")
    if not isinstance(found, list) or not all(_is_number(one) for one in found):
        raise InputError(
            f"{path}: its sidecar has no ProjectionAngles, a list of numbers: the degrees of each "
            "view (0 behind the back, 90 on the person's left); without them left and right cannot "
            "be told"
        )
    if len(found) != count:
        raise InputError(
            f"{path}: has {count} views, its ProjectionAngles are {len(found)}; correct the sidecar"
        )
    return [float(one) for one in found]


def _centre(path: Path, metadata: Mapping[str, Any], columns: int) -> float | None:
    found = metadata.get("CentreOfRotation")
    if found is None:
        return None
    if not _is_number(found) or not 0 <= found <= columns - 1:
        raise InputError(
            f"{path}: CentreOfRotation in its sidecar is '{found}'; write the column (0 to "
            f"{columns - 1}) that the axis of rotation falls on, or leave it out for the middle"
        )
    return float(found)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)


def _way(path: Path, metadata: Mapping[str, Any], key: str) -> str:
    found = str(metadata.get(key) or "").lower()
    if found not in TURNED[key]:
        known = " or ".join(f"'{one}'" for one in TURNED[key])
        raise InputError(
            f"{path}: its sidecar must say {key}: {known}, where they run to as seen from the "
            "detector; without it left and right cannot be told"
        )
    return found


def _blank_corners(volume: np.ndarray) -> None:
    """Set to 0 what not every view has seen."""
    from_axis = np.arange(len(volume)) - (len(volume) - 1) / 2
    volume[np.hypot(from_axis[:, None], from_axis[None]) > from_axis[-1]] = 0
