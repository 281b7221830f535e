"""Interfaces that bring the volumes of a diffusion series upon each other: head, eddies, field.

Registrations here run in the image's own axes (mm from its first voxel, no rotation), so that the
phase-encoding axis is an axis of the transform. Matrices map points of the reference to points of
a volume.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from scipy import ndimage

from models.diffusion import Motion, rotations
from models.distortion import halfway, stretch
from models.errors import InputError
from models.gradient_table import B0_MAX
from pipelines.gradient_files import load_table, save_table, table_file
from pipelines.images import load_series, load_volume, read_nifti, write_nifti
from pipelines.interfaces.ants import deterministic_ants
from pipelines.interfaces.diffusion import b0_mask

AROUND_BRAIN_VOXELS = 3
FIELD_SD_MM = 6.0
# Coarse to fine: voxels that become one along each axis, SD of their smoothing in voxels, and most
# iterations; the last level moves nothing by a voxel.
LEVELS = ((6, 3, 2100), (4, 2, 1200), (2, 1, 200), (1, 0, 0))
# With voxels of 30 mm, a few volumes in a thousand went astray by centimetres.
COARSEST_MM = 12.0


def own_axes(ants: Any, data: np.ndarray, edges_mm: np.ndarray) -> Any:
    """An image of ANTs in mm along its own axes."""
    return ants.from_numpy(
        np.ascontiguousarray(data, np.float32), spacing=tuple(float(one) for one in edges_mm)
    )


def matrix_of(ants: Any, file: str) -> np.ndarray:
    """Linear transform (4, 4), points of the fixed image to points of the moving one, in mm."""
    transform = ants.read_transform(file)
    ends = [transform.apply_to_point(tuple(point)) for point in np.vstack([np.zeros(3), np.eye(3)])]
    matrix = np.eye(4)
    matrix[:3, 3] = ends[0]
    matrix[:3, :3] = (np.array(ends[1:]) - ends[0]).T
    return matrix


def pyramid(edges_mm: Sequence[float]) -> dict[str, tuple[int, ...]]:
    """Levels of a linear registration of ANTs, for voxels of these edges."""
    fit = [one for one in LEVELS if one[0] * min(edges_mm) <= COARSEST_MM or one[0] == 1]
    factors, sigmas, iterations = zip(*fit, strict=True)
    return {
        "aff_shrink_factors": factors,
        "aff_smoothing_sigmas": sigmas,
        "aff_iterations": iterations,
    }


def rigid_to(ants: Any, still: Any, moving: Any, mask: Any, prefix: Path) -> tuple[np.ndarray, str]:
    """Rigid transform by mutual information around the brain, as a matrix and as a file."""
    (file,) = ants.registration(
        still,
        moving,
        "Rigid",
        initial_transform="Identity",
        mask=mask,
        mask_all_stages=True,
        outprefix=str(prefix),
        **pyramid(still.spacing),
    )["fwdtransforms"][:1]
    return matrix_of(ants, file), file


# --- reference -----------------------------------------------------------------------------------


class ReferenceInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True)
    table = File(exists=True, mandatory=True)
    seed = traits.Int(1, usedefault=True)


class ReferenceOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="first b0")
    weighted = File(exists=True, desc="mean of the weighted volumes, as they are")
    link = traits.List(desc="4x4, points of the first b0 to those of the weighted mean")
    around = File(exists=True, desc="brain and a margin, in which images are compared")
    volume = traits.Int


class Reference(SimpleInterface):
    """The first b0, and the mean weighted volume with its way to the b0.

    Weighted volumes are like each other, and unlike the b0: registered to it one by one, those of
    b = 2500 were off by a voxel. So each goes to their mean, and the mean, which has less noise, to
    the b0.
    """

    input_spec = ReferenceInputSpec
    output_spec = ReferenceOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        cwd, table = Path(runtime.cwd), load_table(self.inputs.table)
        image = read_nifti(self.inputs.in_file)
        first = int(np.flatnonzero(table.is_b0)[0])
        b0 = np.asarray(image.dataobj[..., first], np.float32)
        brain = b0_mask(b0, image.affine)
        around = ndimage.binary_dilation(brain, iterations=AROUND_BRAIN_VOXELS)
        around = around if brain.any() else ~brain
        mean = np.asarray(image.dataobj, np.float32)[..., ~table.is_b0].mean(-1)
        write_nifti(cwd / "b0.nii.gz", b0, image.affine)
        write_nifti(cwd / "weighted.nii.gz", mean, image.affine)
        write_nifti(cwd / "around.nii.gz", around, image.affine)
        ants = deterministic_ants(self.inputs.seed)
        edges = nib.affines.voxel_sizes(image.affine)
        still, moving, mask = (own_axes(ants, one, edges) for one in (b0, mean, around))
        self._results |= {
            "out_file": str(cwd / "b0.nii.gz"),
            "weighted": str(cwd / "weighted.nii.gz"),
            "link": rigid_to(ants, still, moving, mask, cwd / "link_")[0].tolist(),
            "around": str(cwd / "around.nii.gz"),
            "volume": first,
        }
        return runtime


# --- one volume ----------------------------------------------------------------------------------


class AlignVolumeInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="series")
    table = File(exists=True, mandatory=True)
    reference = File(exists=True, mandatory=True)
    weighted = File(exists=True, mandatory=True)
    link = traits.List(mandatory=True, desc="4x4, reference to weighted")
    around = File(exists=True, mandatory=True)
    reference_volume = traits.Int(mandatory=True)
    volume = traits.Int(mandatory=True)
    axis = traits.Int(-1, usedefault=True, desc="phase encoding; -1 where nothing tells it")
    seed = traits.Int(1, usedefault=True)


class AlignVolumeOutputSpec(TraitedSpec):
    rigid = traits.List(desc="4x4, motion of the head")
    full = traits.List(desc="4x4, motion and eddy currents")


class AlignVolume(SimpleInterface):
    """Rigid to the first b0; or to the weighted mean, then affine along the phase encoding."""

    input_spec = AlignVolumeInputSpec
    output_spec = AlignVolumeOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        given = self.inputs
        rigid = full = np.eye(4)
        is_b0 = bool(load_table(given.table).is_b0[given.volume])
        if given.volume != given.reference_volume:
            ants, folder = deterministic_ants(given.seed), Path(runtime.cwd)
            image = read_nifti(given.in_file)
            fixed = read_nifti(given.reference if is_b0 else given.weighted)
            edges = nib.affines.voxel_sizes(fixed.affine)
            still, moving, mask = (
                own_axes(ants, one, edges)
                for one in (
                    np.asarray(fixed.dataobj),
                    image.dataobj[..., given.volume],
                    np.asarray(read_nifti(given.around).dataobj),
                )
            )
            rigid, file = rigid_to(ants, still, moving, mask, folder / "rigid_")
            full = rigid
            if not is_b0:
                (last,) = ants.registration(
                    still,
                    moving,
                    "Affine",
                    initial_transform=file,
                    restrict_transformation=eddy_freedom(given.axis),
                    mask=mask,
                    mask_all_stages=True,
                    outprefix=str(folder / "full_"),
                    **pyramid(edges),
                )["fwdtransforms"][:1]
                link = np.array(given.link)
                rigid, full = rigid @ link, matrix_of(ants, last) @ link
        self._results |= {"rigid": rigid.tolist(), "full": full.tolist()}
        return runtime


def eddy_freedom(axis: int) -> tuple[int, ...]:
    """Which parameters of an affine transform eddy currents change: one row and one shift."""
    if axis < 0:
        return (1,) * 12
    return tuple(int(row == axis) for row in range(3) for _ in range(3)) + tuple(
        int(row == axis) for row in range(3)
    )


# --- susceptibility ------------------------------------------------------------------------------


class FieldOfPairInputSpec(BaseInterfaceInputSpec):
    reference = File(exists=True, mandatory=True, desc="first b0")
    around = File(exists=True, mandatory=True)
    opposite = File(exists=True, mandatory=True, desc="raw image of opposite polarity")
    axis = traits.Int(mandatory=True)
    seed = traits.Int(1, usedefault=True)


class FieldOfPairOutputSpec(TraitedSpec):
    field = File(exists=True, desc="shift along the axis in voxels, see models.distortion")
    meta = traits.Dict


class FieldOfPair(SimpleInterface):
    """SyN between two b0s of opposite polarity, along the phase encoding; its middle is right."""

    input_spec = FieldOfPairInputSpec
    output_spec = FieldOfPairOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        given, cwd = self.inputs, Path(runtime.cwd)
        ants = deterministic_ants(given.seed)
        image = read_nifti(given.reference)
        edges = nib.affines.voxel_sizes(image.affine)
        still, other, mask = (
            own_axes(ants, data, edges)
            for data in (
                np.asarray(image.dataobj, np.float32),
                opposite_b0(Path(given.opposite), image),
                np.asarray(read_nifti(given.around).dataobj),
            )
        )
        (rigid,) = ants.registration(
            still,
            other,
            "Rigid",
            initial_transform="Identity",
            mask=mask,
            mask_all_stages=True,
            outprefix=str(cwd / "rigid_"),
        )["fwdtransforms"][:1]
        joined = ants.apply_transforms(still, other, [rigid])
        found = ants.registration(
            still,
            joined,
            "SyNOnly",
            initial_transform="Identity",
            syn_metric="mattes",
            reg_iterations=(200, 100, 50),
            grad_step=0.5,
            flow_sigma=5,
            restrict_transformation=tuple(int(one == given.axis) for one in range(3)),
            outprefix=str(cwd / "pair_"),
        )
        warp = ants.image_read(found["fwdtransforms"][0]).numpy()
        shift = warp[..., given.axis] / edges[given.axis]
        # Fields of air and bone are smooth; the estimate's ripples would modulate the signal.
        field = halfway(ndimage.gaussian_filter(shift, FIELD_SD_MM / edges), given.axis)
        write_nifti(cwd / "field.nii.gz", field, image.affine)
        inside = mask.numpy() > 0
        largest = float(np.percentile(np.abs(field[inside]), 99) * edges[given.axis])
        before, after = _likeness(still.numpy(), joined.numpy(), field, given.axis, inside)
        self._results |= {
            "field": str(cwd / "field.nii.gz"),
            "meta": {
                "SusceptibilityDistortion": "midpoint of a pair of opposite phase encoding, by SyN "
                "of ANTs along that axis",
                "OppositeImage": Path(given.opposite).name,
                "ShiftMM99": round(largest, 2),
                "PairCorrelationBefore": round(before, 4),
                "PairCorrelationAfter": round(after, 4),
                "Warnings": [
                    "susceptibility correction made the pair of opposite images less alike: look "
                    "at the figures"
                ]
                * (after < before),
            },
        }
        return runtime


def opposite_b0(path: Path, grid: nib.Nifti1Image) -> np.ndarray:
    """The first b0 of the opposite image, on the voxels of ``grid`` by world coordinates."""
    if len(read_nifti(path).shape) == 4:
        image, _, _ = load_series(path)
        values = table_file(path, ".bval")
        chosen = np.loadtxt(values).ravel() <= B0_MAX if values else np.ones(image.shape[3], bool)
        if len(chosen) != image.shape[3] or not chosen.any():
            raise InputError(
                f"{path}: its .bval file does not say which of its {image.shape[3]} volumes is a "
                "b0; mend it, or take the file away so that it is not used"
            )
        data = np.asarray(image.dataobj)[..., int(np.flatnonzero(chosen)[0])]
    else:
        image, _, _ = load_volume(path)
        data = np.asarray(image.dataobj)
    if data.shape == grid.shape and np.allclose(image.affine, grid.affine, atol=1e-3):
        return data
    mapping = np.linalg.inv(image.affine) @ grid.affine
    return ndimage.affine_transform(
        data, mapping[:3, :3], mapping[:3, 3], output_shape=grid.shape, order=1
    )


def _likeness(
    one: np.ndarray, other: np.ndarray, field: np.ndarray, axis: int, inside: np.ndarray
) -> tuple[float, float]:
    """Correlation of the pair inside the brain, as scanned and with both brought to the middle."""
    mended = [along(image, sign * field, axis) for image, sign in ((one, 1), (other, -1))]
    pairs = ((one, other), mended)
    before, after = (float(np.corrcoef(a[inside], b[inside])[0, 1]) for a, b in pairs)
    return before, after


def along(data: np.ndarray, shift: np.ndarray, axis: int) -> np.ndarray:
    """Signal taken from ``shift`` voxels along an axis, for room gained or lost."""
    where = np.indices(data.shape, dtype=np.float32)
    where[axis] += shift
    return ndimage.map_coordinates(data, where, order=1, mode="constant") * stretch(shift, axis)


# --- resample ------------------------------------------------------------------------------------


class ResampleSeriesInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True)
    table = File(exists=True, mandatory=True)
    around = File(exists=True, mandatory=True)
    rigid = traits.List(mandatory=True, desc="4x4 of each volume")
    full = traits.List(mandatory=True, desc="4x4 of each volume")
    field = File(exists=True, desc="of a pair; none without one")
    axis = traits.Int(-1, usedefault=True)


class ResampleSeriesOutputSpec(TraitedSpec):
    out_file = File(exists=True)
    table = File(exists=True, desc="directions turned with the head")
    motion = traits.Dict(desc="shifts_mm, turns_degrees, displacement_mm")
    meta = traits.Dict


class ResampleSeries(SimpleInterface):
    """Every volume through its transform and the field at once, by cubic splines."""

    input_spec = ResampleSeriesInputSpec
    output_spec = ResampleSeriesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        given, cwd = self.inputs, Path(runtime.cwd)
        image, table = read_nifti(given.in_file), load_table(given.table)
        edges = nib.affines.voxel_sizes(image.affine)
        rigid, full = np.array(given.rigid), np.array(given.full)
        field = None
        if isdefined(given.field):
            field = np.asarray(read_nifti(given.field).dataobj, np.float32)
        moved = np.empty(image.shape, np.float32)
        for volume, matrix in enumerate(full):
            data = np.asarray(image.dataobj[..., volume], np.float32)
            moved[..., volume] = resampled(data, matrix, edges, field, given.axis)
        write_nifti(cwd / "aligned.nii", moved, image.affine)
        # A head that was turned by R saw each direction of the scanner turned by its inverse.
        axes = image.affine[:3, :3] / edges
        turned = table.rotated(axes @ np.swapaxes(rotations(rigid), 1, 2) @ axes.T)
        centre = np.argwhere(np.asarray(read_nifti(given.around).dataobj) > 0).mean(0) * edges
        motion = Motion.of(rigid, centre).without_eddies(table, given.axis)
        self._results |= {
            "out_file": str(cwd / "aligned.nii"),
            "table": str(save_table(turned, cwd / "table.json")),
            "motion": {
                "shifts_mm": motion.shifts_mm.round(3).tolist(),
                "turns_degrees": motion.turns_degrees.round(3).tolist(),
                "displacement_mm": motion.displacement_mm.round(3).tolist(),
            },
            "meta": {
                "MotionCorrection": "ANTs Rigid, b0s to the first b0, weighted volumes to their "
                "mean and that to the b0; then Affine along the phase encoding"
                + ("" if given.axis >= 0 else " (unknown: along all axes)"),
                "GradientDirections": "turned by the rigid part",
                "Interpolation": "cubic B-spline, once, negative values cut; signal multiplied by "
                "the Jacobian",
                "Determinism": "bitwise on the same machine (one ITK thread, fixed seed)",
            }
            | _no_pair(field),
        }
        return runtime


def _no_pair(field: np.ndarray | None) -> dict[str, str]:
    if field is not None:
        return {}
    return {"SusceptibilityDistortion": "no image of opposite phase encoding was found"}


def resampled(
    data: np.ndarray,
    matrix: np.ndarray,
    edges_mm: np.ndarray,
    field: np.ndarray | None,
    axis: int,
) -> np.ndarray:
    """A volume on the voxels of the reference, undistorted; the same voxels where nothing moves.

    Parameters
    ----------
    data : (x, y, z) array
    matrix : (4, 4) array
        Points of the reference to points of this volume, mm along the axes.
    edges_mm : (3,) array
        Of a voxel.
    field : (x, y, z) array, optional
        Shift in voxels along ``axis`` from the undistorted place to that in the reference.
    """
    scale = np.diag([*edges_mm, 1.0])
    mapping = np.linalg.inv(scale) @ matrix @ scale
    factor = abs(np.linalg.det(mapping[:3, :3]))
    if field is None:
        if np.allclose(mapping, np.eye(4), atol=1e-9):
            return data
        moved = ndimage.affine_transform(data, mapping[:3, :3], mapping[:3, 3], order=3)
        return np.clip(moved * factor, 0, None)
    where = np.indices(data.shape, dtype=np.float32)
    where[axis] += field
    at = np.tensordot(mapping[:3, :3], where, 1) + mapping[:3, 3][:, None, None, None]
    moved = ndimage.map_coordinates(data, at, order=3, mode="constant")
    return np.clip(moved * factor * stretch(field, axis), 0, None)
