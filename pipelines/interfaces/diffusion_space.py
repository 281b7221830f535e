"""Interfaces that carry diffusion tensors into the space of the T1w image or of the template."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from models.errors import InputError
from models.grids import full_grid
from models.volumes import share_outside
from pipelines.derivatives import write_table
from pipelines.diffusion_options import MAPS
from pipelines.images import read_nifti, write_nifti
from pipelines.interfaces.ants import TRANSFORMS, deterministic_ants
from pipelines.quality import LEAST_OVERLAP, MASK_ML, flags_of_cut
from pipelines.tensors import carried, describe_fit, write_tensor

COARSE_MM = 2.0  # at which b0 and T1w are registered: a b0 has no finer detail
SKEW_DEGREES = 15.0  # beyond, the phase encoding is no axis of the T1w image's world
ALONE = (
    "there is no T1w image: the b0 was registered to the template directly, and its own brain mask "
    "was used"
)
LEAST_WHITE_FA, LEAST_WHITE_MD, MOST_WHITE_MD = 0.2, 0.5e-3, 1.1e-3


# --- to the T1w image ----------------------------------------------------------------------------


class DwiToT1wInputSpec(BaseInterfaceInputSpec):
    b0 = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    t1w = traits.Dict(mandatory=True, desc="derivatives of the T1w image: image, mask, ...")
    how = traits.Enum("deformable", "rigid", usedefault=True)
    axis = traits.Int(-1, usedefault=True, desc="phase-encoding axis of the b0; -1 if unknown")
    seed = traits.Int(1, usedefault=True)


class DwiToT1wOutputSpec(TraitedSpec):
    to_t1w = File(exists=True, desc="composite transform, T1w points to b0 points")
    to_mni = traits.List(File(exists=True), desc="template points go through the first one first")
    image = File(exists=True, desc="T1w head, as given")
    t1w_mask = File(exists=True, desc="its brain")
    registered = File(exists=True, desc="T1w brain on the template grid")
    registered_mask = File(exists=True)
    meta = traits.Dict


class DwiToT1w(SimpleInterface):
    """Rigid, then SyN along the phase encoding: what of the distortion is left lies there."""

    input_spec = DwiToT1wInputSpec
    output_spec = DwiToT1wOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        given, cwd = self.inputs, Path(runtime.cwd)
        ants = deterministic_ants(given.seed)
        head, inside = (ants.image_read(given.t1w[name]) for name in ("image", "mask"))
        edge = (max(COARSE_MM, min(head.spacing)),) * 3
        fixed = ants.resample_image(head * inside, edge, False, 0)
        b0 = ants.image_read(given.b0) * ants.image_read(given.mask)
        found = ants.registration(
            fixed,
            b0,
            "Rigid",
            outprefix=str(cwd / "rigid_"),
            write_composite_transform=given.how == "rigid",
        )
        file, said = found["fwdtransforms"], "ANTs Rigid to the T1w image"
        if given.how == "deformable":
            freedom, said_more = self._freedom(ants, file[0])
            file = ants.registration(
                fixed,
                b0,
                "SyNOnly",
                initial_transform=file[0],
                syn_metric="mattes",
                reg_iterations=(40, 20, 10),
                restrict_transformation=freedom,
                outprefix=str(cwd / "to_t1w_"),
                write_composite_transform=True,
            )["fwdtransforms"]
            said += f", then SyN {said_more}"
        to_t1w = file if isinstance(file, str) else file[0]
        self._results |= {
            "to_t1w": to_t1w,
            "to_mni": [given.t1w["to_template"], to_t1w],
            "image": given.t1w["image"],
            "t1w_mask": given.t1w["mask"],
            "registered": given.t1w["registered"],
            "registered_mask": given.t1w["registered_mask"],
            "meta": {"Coregistration": f"{said}, at {edge[0]:g} mm"},
        }
        return runtime

    def _freedom(self, ants: Any, rigid: str) -> tuple[tuple[int, ...] | None, str]:
        """Along which world axis the deformation may go, and that in words."""
        if self.inputs.axis < 0:
            return None, "along all axes"
        affine = read_nifti(self.inputs.b0).affine
        turn = np.array(ants.read_transform(rigid).parameters[:9]).reshape(3, 3)
        # Points of the T1w image to those of the b0, in LPS: its inverse turns the axis back.
        along = turn.T @ (np.diag([-1.0, -1, 1]) @ affine[:3, self.inputs.axis])
        share = np.abs(along) / np.linalg.norm(along)
        nearest = int(share.argmax())
        if share[nearest] < np.cos(np.deg2rad(SKEW_DEGREES)):
            return None, "along all axes, as the phase encoding is oblique to the T1w image"
        return tuple(int(one == nearest) for one in range(3)), "along the phase encoding"


# --- to the template without a T1w image ---------------------------------------------------------


class DwiToTemplateInputSpec(BaseInterfaceInputSpec):
    b0 = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    template = File(exists=True, mandatory=True)
    how = traits.Enum("nonlinear", "linear", usedefault=True)
    seed = traits.Int(1, usedefault=True)


class DwiToTemplateOutputSpec(TraitedSpec):
    to_t1w = File(exists=True, desc="composite transform, points of the T1w template to the b0's")
    meta = traits.Dict


class DwiToTemplate(SimpleInterface):
    """The b0's brain to the T1w template, for people without a T1w image."""

    input_spec = DwiToTemplateInputSpec
    output_spec = DwiToTemplateOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        ants = deterministic_ants(self.inputs.seed)
        b0 = ants.image_read(self.inputs.b0) * ants.image_read(self.inputs.mask)
        found = ants.registration(
            ants.image_read(self.inputs.template),
            b0,
            TRANSFORMS[self.inputs.how],
            outprefix=str(Path(runtime.cwd) / "to_template_"),
            write_composite_transform=True,
        )
        self._results |= {
            "to_t1w": found["fwdtransforms"],
            "meta": {"Warnings": [ALONE], "Coregistration": "none: no T1w image"},
        }
        return runtime


# --- carry the tensor ----------------------------------------------------------------------------


class CarryTensorInputSpec(BaseInterfaceInputSpec):
    tensor = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True, desc="brain of the b0")
    transforms = InputMultiObject(
        File(exists=True), desc="points of the result go through the first one first; none: stay"
    )
    grid_of = File(exists=True, mandatory=True, desc="image whose grid, or whose middle, is taken")
    brain = File(exists=True, desc="brain in the new space, on any grid of it")
    resolution_mm = traits.Float(desc="about the middle of grid_of; unset: its grid itself")
    reorientation = traits.Str("ppd", usedefault=True)
    interpolation = traits.Str("components", usedefault=True)
    fit = traits.Str("WLS", usedefault=True)


class CarryTensorOutputSpec(TraitedSpec):
    tensor = File(exists=True)
    md = File(exists=True)
    fa = File(exists=True)
    sigma = File(exists=True)
    theta = File(exists=True)
    out_mask = File(exists=True)
    outside_percent = traits.Float(desc="share of the brain that the series does not cover")
    cut_percent = traits.Float(desc="share of the brain beyond the grid")
    meta = traits.Dict


class CarryTensor(SimpleInterface):
    """Interpolate the tensor once through all transforms, and turn it by their Jacobian."""

    input_spec = CarryTensorInputSpec
    output_spec = CarryTensorOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        given, cwd = self.inputs, Path(runtime.cwd)
        template = not isdefined(given.resolution_mm)
        shape, affine = self._grid()
        displacement = self._displacement(shape, affine, cwd)
        mask = np.asarray(read_nifti(given.mask).dataobj) > 0
        moved, covered = carried(
            read_nifti(given.tensor),
            mask,
            displacement,
            affine,
            reorientation=given.reorientation,
            interpolation=given.interpolation,
        )
        brain, cut = self._brain(shape, affine)
        inside = covered if brain is None else brain & covered
        if not inside.any():
            raise InputError(
                f"{given.tensor}: does not meet the brain after registration; do the diffusion and "
                "the T1w image show the same person's head?"
            )
        paths, raised = write_tensor(moved, inside, affine, cwd, template=template, maps=MAPS)
        write_nifti(cwd / "mask.nii.gz", inside, affine, template=template)
        outside = 0.0 if brain is None else round(100 * (1 - inside.sum() / brain.sum()), 2)
        self._results |= {
            "tensor": paths["diffusivity"],
            **{name: paths[name] for name in MAPS},
            "out_mask": str(cwd / "mask.nii.gz"),
            "outside_percent": outside,
            "cut_percent": round(cut, 2),
            "meta": describe_fit(given.fit, raised)
            | {
                "Reorientation": WORDS[given.reorientation],
                "Interpolation": f"linear, once, of {INTERPOLATED[given.interpolation]}",
                "BrainOutsidePercent": outside,
            },
        }
        return runtime

    def _grid(self) -> tuple[tuple[int, ...], np.ndarray]:
        """Shape and affine: of the image, or of the template's size about its middle, straight."""
        image = read_nifti(self.inputs.grid_of)
        if not isdefined(self.inputs.resolution_mm):
            return image.shape[:3], image.affine
        grid = full_grid(self.inputs.resolution_mm)
        middle = image.affine @ [*(np.array(image.shape[:3]) // 2), 1]
        affine = np.diag([grid.voxel_mm] * 3 + [1.0])
        affine[:3, 3] = middle[:3] - grid.voxel_mm * (np.array(grid.shape) // 2)
        return grid.shape, affine

    def _displacement(self, shape: tuple[int, ...], affine: np.ndarray, cwd: Path) -> np.ndarray:
        """Where each point of the grid comes from, as a difference in mm along RAS+."""
        if not isdefined(self.inputs.transforms) or not self.inputs.transforms:
            return np.zeros((*shape, 3))
        ants = deterministic_ants(1)
        write_nifti(cwd / "grid.nii.gz", np.zeros(shape, np.float32), affine)
        grid = ants.image_read(str(cwd / "grid.nii.gz"))
        transforms = list(self.inputs.transforms)
        composed = ants.apply_transforms(
            grid,
            grid,
            transforms,
            whichtoinvert=[False] * len(transforms),
            compose=str(cwd / "composed_"),
        )
        return ants.image_read(composed).numpy().astype(float) * [-1, -1, 1]

    def _brain(self, shape: tuple[int, ...], affine: np.ndarray) -> tuple[np.ndarray | None, float]:
        """The brain in the new space on the grid, and the percentage of it beyond the grid."""
        if not isdefined(self.inputs.brain):
            return None, 0.0
        image = read_nifti(self.inputs.brain)
        inside = np.asarray(image.dataobj) > 0
        from scipy.ndimage import affine_transform

        mapping = np.linalg.inv(image.affine) @ affine
        found = affine_transform(
            inside.astype(np.float32), mapping[:3, :3], mapping[:3, 3], output_shape=shape, order=1
        )
        if not isdefined(self.inputs.resolution_mm):
            return found >= 0.5, 0.0
        grid = full_grid(self.inputs.resolution_mm)
        return found >= 0.5, 100 * share_outside(inside, image.affine, affine, grid)


WORDS = {
    "ppd": "preservation of principal direction (Alexander 2001)",
    "finite_strain": "finite strain (Alexander 2001)",
    "none": "none",
}
INTERPOLATED = {"components": "tensor components", "log": "matrix logarithms"}


# --- quality -------------------------------------------------------------------------------------


class DwiQualityInputSpec(BaseInterfaceInputSpec):
    participant = traits.Str(mandatory=True)
    session = traits.Str("", usedefault=True)
    registration = traits.Str(mandatory=True)
    mask = File(exists=True, mandatory=True, desc="native brain mask")
    fa = File(exists=True, mandatory=True, desc="native")
    md = File(exists=True, mandatory=True, desc="native")
    registered_mask = File(exists=True, mandatory=True)
    template = File(exists=True, mandatory=True)
    numbers = traits.Dict(mandatory=True, desc="of the tensor fit")
    motion = traits.Dict(mandatory=True)
    outside_percent = traits.Float(mandatory=True)
    cut_percent = traits.Float(mandatory=True)


class DwiQualityOutputSpec(TraitedSpec):
    out_table = File(exists=True)
    meta = traits.Dict


class DwiQuality(SimpleInterface):
    """Numbers that tell a moving head, noise, a wrong gradient table or a failed registration."""

    input_spec = DwiQualityInputSpec
    output_spec = DwiQualityOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        given = self.inputs
        mask = read_nifti(given.mask)
        inside = np.asarray(mask.dataobj) > 0
        voxel_ml = abs(np.linalg.det(mask.affine[:3, :3])) / 1000
        steps = np.array(given.motion["displacement_mm"])
        row: dict[str, Any] = {
            "participant_id": f"sub-{given.participant}",
            "session_id": f"ses-{given.session}" if given.session else "n/a",
            "registration": given.registration,
            "mask_volume_ml": round(float(inside.sum()) * voxel_ml, 1),
            **given.numbers,
            "motion_mean_mm": round(float(steps[1:].mean()), 3) if len(steps) > 1 else 0.0,
            "motion_max_mm": round(float(steps.max()), 3),
            **white_matter(read_nifti(given.fa), read_nifti(given.md), inside),
            "outside_fov_percent": given.outside_percent,
        }
        if given.registration == "none":
            row["brain_outside_percent"] = given.cut_percent
        else:
            row["template_overlap"] = self._overlap()
        flags = flags_of_dwi(row)
        row["flags"] = "; ".join(flags) or "n/a"
        out_table = Path(runtime.cwd) / "qc.tsv"
        write_table(out_table, pd.DataFrame([row]))
        self._results |= {"out_table": str(out_table), "meta": {"Warnings": flags}}
        return runtime

    def _overlap(self) -> float:
        brain = np.asarray(read_nifti(self.inputs.template).dataobj) > 0
        theirs = np.asarray(read_nifti(self.inputs.registered_mask).dataobj) > 0
        return round(float(2 * (theirs & brain).sum() / (theirs.sum() + brain.sum())), 4)


def white_matter(
    fa: nib.Nifti1Image, md: nib.Nifti1Image, mask: np.ndarray
) -> dict[str, float | None]:
    """Medians over what is anisotropic and no fluid: most of the deep white matter."""
    anisotropy, diffusivity = (np.asarray(one.dataobj, np.float32) for one in (fa, md))
    white = mask & (anisotropy > LEAST_WHITE_FA) & (diffusivity > LEAST_WHITE_MD)
    white &= diffusivity < MOST_WHITE_MD
    if not white.any():
        return {"white_fa": None, "white_md": None}
    return {
        "white_fa": round(float(np.median(anisotropy[white])), 4),
        "white_md": round(float(np.median(diffusivity[white])), 7),
    }


def flags_of_dwi(row: dict[str, Any]) -> list[str]:
    """Plain sentences for numbers that are far off."""
    flags = []
    if not MASK_ML[0] <= row["mask_volume_ml"] <= MASK_ML[1]:
        flags.append(f"unusual brain mask volume ({row['mask_volume_ml']:.0f} ml)")
    if row["motion_max_mm"] > 3:
        flags.append(f"the head moved {row['motion_max_mm']:.1f} mm between two volumes")
    if row["outlier_volumes"]:
        flags.append(f"{row['outlier_volumes']} volumes with damaged slices")
    if row["negative_percent"] > 2:
        flags.append(f"{row['negative_percent']:.1f} % of the brain has negative diffusivity")
    if row["white_fa"] is None:
        flags.append("no voxel looks like white matter: is the gradient table right?")
    if row["outside_fov_percent"] > 5:
        flags.append(f"{row['outside_fov_percent']:.1f} % of the brain was not scanned")
    if row.get("template_overlap", 1.0) < LEAST_OVERLAP:
        flags.append(f"brain does not cover the template (Dice {row['template_overlap']:.2f})")
    return flags + flags_of_cut(row.get("brain_outside_percent", 0.0))


# --- figures -------------------------------------------------------------------------------------


class DwiFiguresInputSpec(BaseInterfaceInputSpec):
    b0 = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    tensor = File(exists=True, mandatory=True, desc="registered")
    fa = File(exists=True, mandatory=True, desc="registered")
    anatomy = File(exists=True, mandatory=True, desc="image whose edges FA should follow")
    motion = traits.Dict(mandatory=True)
    outliers = traits.List(traits.Int, mandatory=True)


class DwiFiguresOutputSpec(TraitedSpec):
    mask_figure = File(exists=True)
    colour_figure = File(exists=True)
    registration_figure = File(exists=True)
    motion_figure = File(exists=True)


class DwiFigures(SimpleInterface):
    """Brain mask, directions in colour, FA under the anatomy's edges, and the motion trace."""

    input_spec = DwiFiguresInputSpec
    output_spec = DwiFiguresOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from pipelines.charts import head_motion
        from pipelines.figures import colour_directions, mask_contour, registration_overlay, save

        given, cwd = self.inputs, Path(runtime.cwd)
        b0, mask, fa, anatomy = (
            read_nifti(getattr(given, name)) for name in ("b0", "mask", "fa", "anatomy")
        )
        directions = first_directions(read_nifti(given.tensor))
        moved = given.motion["shifts_mm"], given.motion["turns_degrees"]
        figures = {
            "mask": mask_contour(b0, mask),
            "colour": colour_directions(fa, directions),
            "registration": registration_overlay(fa, anatomy),
            "motion": head_motion(np.array(moved[0]), np.array(moved[1]), given.outliers),
        }
        for name, figure in figures.items():
            self._results[f"{name}_figure"] = str(save(figure, cwd / f"{name}.png"))
        return runtime


def first_directions(tensor: nib.Nifti1Image) -> np.ndarray:
    """First eigenvector of each tensor (x, y, z, 3); 0 where there is none."""
    import torch

    from models.tensor import eigen

    data = np.asarray(tensor.dataobj, np.float32)
    inside = np.any(data != 0, axis=-1)
    found = np.zeros((*inside.shape, 3), np.float32)
    found[inside] = eigen(torch.as_tensor(data[inside]))[1][..., 0].numpy()
    return found
