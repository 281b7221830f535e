"""Reads images: raw scans with every check, and derivatives as a network wants them."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from models.errors import InputError
from models.grids import Grid, full_grid
from models.volumes import scale_intensity, share_outside, to_grid

IN_MNI = 4  # NIfTI's code for coordinates of MNI space
SMALLEST_AXIS_VOXELS = 16
SMALLEST_AXIS_MM = 60.0


def read_nifti(path: str | Path) -> nib.Nifti1Image:
    """Open a NIfTI that this app has written itself; voxels are read when asked for."""
    return nib.Nifti1Image.from_filename(path)


# Images whose left half shows everybody's affected side say so in their own header.
IPSILATERAL = b"left half: ipsilateral (mirrored where needed)"


def mark_ipsilateral(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """The image, marked as showing ipsilateral left and contralateral right, not left and right."""
    image.header["descrip"] = IPSILATERAL
    return image


def is_ipsilateral(image: Any) -> bool:
    """Whether an image is marked by `mark_ipsilateral`."""
    header = getattr(image, "header", None)
    return isinstance(header, nib.Nifti1Header) and header["descrip"].item() == IPSILATERAL


def write_nifti(
    path: Path,
    data: np.ndarray,
    affine: np.ndarray,
    *,
    template: bool = False,
    ipsilateral: bool = False,
) -> nib.Nifti1Image:
    """Write a volume in mm with equal sform and qform.

    Parameters
    ----------
    data : (x, y, z) array
        Written as float32, or as uint8 when it is boolean.
    affine : (4, 4) array
        Voxel to RAS+ mm.
    template : bool
        Whether the coordinates are those of MNI space (form code 4) or of the scanner (1).
    ipsilateral : bool
        Whether the left half is everybody's affected side; see `mark_ipsilateral`.
    """
    kind = np.uint8 if data.dtype == bool else np.float32
    image = nib.Nifti1Image(data.astype(kind), affine)
    code = IN_MNI if template else 1
    image.set_sform(affine, code=code)
    image.set_qform(affine, code=code)
    image.header.set_xyzt_units("mm")
    if ipsilateral:
        mark_ipsilateral(image)
    nib.save(image, path)
    return image


def load_volume(path: str | Path, *, mean: bool = False) -> tuple[nib.Nifti1Image, str, list[str]]:
    """Read one 3D scan, or say what is wrong with it.

    Parameters
    ----------
    path : path
    mean : bool
        Whether a series of volumes is averaged; else it is refused.

    Returns
    -------
    image : Nifti1Image
        float32, closest canonical axes (RAS+), sform equal to qform.
    axes : str
        Orientation of the axes in the file, such as "LAS".
    notes : list of str
        Sentences about what had to be mended.

    Raises
    ------
    models.errors.InputError
        Not an image, truncated, 4D, empty, constant, tiny, or without orientation.
    """
    image = _open(path)
    data, notes = _voxels(path, image, mean)
    _check_geometry(path, image)
    if not np.any(data != data.flat[0]):
        raise InputError(
            f"{path}: every voxel is {data.flat[0]:g}; the image is empty, export it again"
        )
    canonical = nib.as_closest_canonical(nib.Nifti1Image(data, image.affine))
    if is_sheared(canonical.affine):
        from nibabel.processing import resample_to_output

        canonical = resample_to_output(canonical, canonical.header.get_zooms()[:3], order=1)
        notes.append("the image axes are not at right angles: resampled to a straight grid")
    return canonical, "".join(nib.aff2axcodes(image.affine)), notes


def load_series(path: str | Path) -> tuple[nib.Nifti1Image, np.ndarray, list[str]]:
    """Read one 4D scan, or say what is wrong with it.

    Returns
    -------
    image : Nifti1Image
        float32, (x, y, z, n), closest canonical axes (RAS+).
    affine : (4, 4) array
        Of the axes in the file, which tables beside it are along.
    notes : list of str
        Sentences about what had to be mended.

    Raises
    ------
    models.errors.InputError
        Not an image, truncated, 3D, empty, tiny, skewed, or without orientation.
    """
    image = _open(path)
    if len(image.shape) != 4 or image.shape[3] < 2:
        size = "x".join(map(str, image.shape))
        raise InputError(
            f"{path}: has {size} voxels; a series of volumes (4D) is needed, so give the whole "
            "series, or leave this scan out by --bids-filter-file"
        )
    _check_geometry(path, image)
    if is_sheared(image.affine):
        raise InputError(
            f"{path}: the image axes are not at right angles, so that gradient directions along "
            "them mean nothing; convert it again from the DICOM files"
        )
    data, notes = _finite(path, _stored(path, image))
    if not np.any(data):
        raise InputError(f"{path}: every voxel is 0; the image is empty, export it again")
    canonical = nib.as_closest_canonical(nib.Nifti1Image(data, image.affine))
    return canonical, image.affine, notes


def _open(path: str | Path) -> Any:
    try:
        return nib.load(path)
    except Exception as error:  # nibabel and zlib raise many kinds for a bad file
        raise InputError(
            f"{path}: not a readable NIfTI image ({error}); fetch or convert it again"
        ) from error


def _voxels(path: str | Path, image: Any, mean: bool) -> tuple[np.ndarray, list[str]]:
    shape = image.shape
    several = int(np.prod(shape[3:])) if len(shape) > 3 else 1
    if several > 1 and not mean:
        raise InputError(
            f"{path}: has {'x'.join(map(str, shape))} voxels; one 3D volume is needed, so name the "
            "right volume or average them first"
        )
    data = _stored(path, image)
    notes = []
    data = data.reshape(*shape[:3], several)
    if several > 1:
        notes.append(f"the series of {several} volumes was averaged over time")
    data = data.mean(axis=3, dtype=np.float32) if several > 1 else data[..., 0]
    data, mended = _finite(path, data)
    return data, notes + mended


def _stored(path: str | Path, image: Any) -> np.ndarray:
    try:
        return np.asarray(image.dataobj, dtype=np.float32)
    except Exception as error:
        raise InputError(
            f"{path}: the voxels cannot be read, is the file cut short? ({error}); fetch it again"
        ) from error


def _finite(path: str | Path, data: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The voxels with 0 for what is no number, and a sentence about it."""
    bad = ~np.isfinite(data)
    if bad.all():
        raise InputError(f"{path}: every voxel is NaN; export the image again")
    if not bad.any():
        return data, []
    return np.where(bad, 0, data), [f"{int(bad.sum())} NaN or infinite voxels were set to 0"]


def _check_geometry(path: str | Path, image: Any) -> None:
    check_placement(path, image, "convert it again from the DICOM files")
    if len(image.shape) < 3:
        raise InputError(f"{path}: is a {len(image.shape)}D image; one 3D volume is needed")
    size = np.linalg.norm(image.affine[:3, :3], axis=0)
    extent = size * image.shape[:3]
    if min(image.shape[:3]) < SMALLEST_AXIS_VOXELS or extent.min() < SMALLEST_AXIS_MM:
        raise InputError(
            f"{path}: is only {'x'.join(map(str, image.shape[:3]))} voxels "
            f"({extent[0]:.0f}x{extent[1]:.0f}x{extent[2]:.0f} mm), too small for a head; is it a "
            "localiser?"
        )


def check_placement(path: str | Path, image: Any, remedy: str) -> None:
    """Refuse a header that does not tell where voxels lie, or which side is left.

    Parameters
    ----------
    path
        For the message.
    image : nibabel image
    remedy : str
        What to do, as the end of a sentence.

    Raises
    ------
    models.errors.InputError
        Neither form is given, both disagree about sides, or the affine is singular.
    """
    header = image.header
    if isinstance(header, nib.Nifti1Header) and not (header["sform_code"] or header["qform_code"]):
        raise InputError(
            f"{path}: has neither qform nor sform, so left and right cannot be told apart; {remedy}"
        )
    if isinstance(header, nib.Nifti1Header) and _forms_disagree(image):
        raise InputError(
            f"{path}: its qform and sform disagree about where left and right, front and back, or "
            f"up and down are; {remedy}"
        )
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-6:
        raise InputError(f"{path}: its affine matrix is singular; {remedy}")


def _forms_disagree(image: Any) -> bool:
    """Whether both forms are given and one mirrors the other or turns it by more than 90 degrees.

    The same handedness is not enough: half a turn about the z axis exchanges left and right, too.
    """
    if not (image.header["sform_code"] and image.header["qform_code"]):
        return False
    sform, qform = image.get_sform()[:3, :3], image.get_qform()[:3, :3]
    if min(abs(np.linalg.det(one)) for one in (sform, qform)) < 1e-6:
        return False  # nothing can be told of a singular one
    turn = sform @ np.linalg.inv(qform)
    return bool(np.linalg.det(turn) < 0 or (np.diag(turn) < 0).any())


def is_sheared(affine: np.ndarray) -> bool:
    """Whether the axes are not at right angles, which ANTs cannot express."""
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(cosines.T @ cosines, np.eye(3), atol=1e-3)


def network_input(
    path: str | Path, grid: Grid, intensity: str, blanked: np.ndarray | bool = False
) -> np.ndarray:
    """A registered brain as the network sees it: (1, x, y, z) float32 on ``grid``.

    Parameters
    ----------
    path : path
        Brain in template space, zero outside; or one that was only padded or cropped to the
        template's grid (:func:`models.volumes.centred`), which is then taken by its voxels.
    grid : Grid
        The recipe's grid.
    intensity : {"max", "zscore"}
        See :func:`models.volumes.scale_intensity`; of the voxels that are left.
    blanked : bool array (x, y, z), optional
        Voxels of the grid that are set to 0.
    """
    image = read_nifti(path)
    stored = np.asarray(image.dataobj, np.float32)
    affine = image.affine if in_template(image) else whole_grid(image, path).affine
    data = to_grid(stored, affine, grid)
    # Smoothing before a coarser grid spreads the brain over its border: keep to the brain.
    inside = to_grid((stored != 0).astype(np.float32), affine, grid) >= 0.5
    return scale_intensity(np.where(inside & ~np.bool_(blanked), data, 0), intensity)[None]


def in_template(image: nib.Nifti1Image) -> bool:
    """Whether an image that this app has written was registered to the template."""
    return int(image.header["sform_code"]) == IN_MNI


def input_affine(path: str | Path, grid: Grid) -> np.ndarray:
    """Voxel of the network's input to mm: of the template, or of the scanner without registration.

    Parameters
    ----------
    path : path
        What :func:`network_input` was given.
    grid : Grid
        The recipe's grid.

    Returns
    -------
    (4, 4) array
        RAS+ axes.
    """
    image = read_nifti(path)
    if in_template(image):
        return grid.affine
    return image.affine @ np.linalg.inv(whole_grid(image, path).affine) @ grid.affine


def percent_cut(mask: str | Path, grid: Grid) -> float:
    """Share of a brain that was not registered, as stored, that a smaller grid leaves out.

    Parameters
    ----------
    mask : path
        Brain mask on the template's whole grid.
    grid : Grid
        The recipe's.
    """
    image = read_nifti(mask)
    inside = np.asarray(image.dataobj) > 0
    return 100 * share_outside(inside, whole_grid(image, mask).affine, grid.affine, grid)


def whole_grid(image: nib.Nifti1Image, path: str | Path) -> Grid:
    """The grid of the whole template with the voxels of an image that lies on it unregistered."""
    grid = full_grid(round(float(np.mean(image.header.get_zooms()[:3])), 4))
    if image.shape[:3] != grid.shape:
        raise InputError(
            f"{path}: has {'x'.join(map(str, image.shape))} voxels, neither in template space nor "
            f"on its grid ({'x'.join(map(str, grid.shape))}); run the participant level again"
        )
    return grid
