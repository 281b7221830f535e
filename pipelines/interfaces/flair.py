"""Interfaces of FLAIR: field of view, rigid to T1w, to the template, lesions and their filling."""

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
from scipy import ndimage

from models.errors import InputError
from models.field_of_view import HEAD_MM, first_slice
from models.lesions import dilate, fill_locally, fill_slices, white_matter
from pipelines.derivatives import write_table
from pipelines.images import read_nifti, write_nifti
from pipelines.interfaces.ants import deterministic_ants
from pipelines.interfaces.images import stripped_outline
from pipelines.lesion_masks import REFUSED, in_t1w, read_lesions
from pipelines.quality import flags_of

UNRELATED = 0.5  # of the lesions must be in the brain, or the mask is of another space
MOST_BRAIN = 0.5  # that can be lesion, or the mask is of the brain, its background or an image
WHITE_SHARE = (0.15, 0.7)  # of the brain, with its fluid; else the segmentation has failed
CUT = (1.0, 99.0)  # percentiles of the T1w signal that is segmented
AROUND_BRAIN_MM = 8.0  # margin in which head and head are compared
NOT_FILLED = "there is no lesion mask that can be used: nothing was filled"


class CropNeckInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="RAS+ head")


class CropNeckOutputSpec(TraitedSpec):
    out_file = File(exists=True)
    meta = traits.Dict


class CropNeck(SimpleInterface):
    """Cut what lies far below the top of the head; voxels stay where they are in mm."""

    input_spec = CropNeckInputSpec
    output_spec = CropNeckOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        image = read_nifti(self.inputs.in_file)
        data = np.asarray(image.dataobj, np.float32)
        first = first_slice(data, nib.affines.voxel_sizes(image.affine))
        affine = image.affine.copy()
        affine[:3, 3] += affine[:3, 2] * first
        out_file = Path(runtime.cwd) / "cropped.nii.gz"
        write_nifti(out_file, data[..., first:], affine)
        self._results["out_file"] = str(out_file)
        self._results["meta"] = {
            "FieldOfView": f"robust: {HEAD_MM:g} mm from the top of the head, by brainwhy",
            "SlicesCut": first,
        }
        return runtime


class AlignToT1wInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="native FLAIR head")
    t1w = traits.Dict(mandatory=True, desc="derivatives of the T1w image: image, mask, ...")
    seed = traits.Int(1, usedefault=True)


class AlignToT1wOutputSpec(TraitedSpec):
    to_t1w = File(exists=True, desc="rigid transform, FLAIR points to T1w")
    from_t1w = File(exists=True, desc="its inverse")
    out_mask = File(exists=True, desc="brain mask of the T1w image on the FLAIR grid")
    to_template = InputMultiObject(File(exists=True), desc="what leads on, last applied first")
    t1w_registered = File(exists=True)
    registered_mask = File(exists=True)
    meta = traits.Dict


class AlignToT1w(SimpleInterface):
    """Rigid registration to the person's T1w image, whose brain mask is carried over."""

    input_spec = AlignToT1wInputSpec
    output_spec = AlignToT1wOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        cwd, t1w = Path(runtime.cwd), self.inputs.t1w
        ants = deterministic_ants(self.inputs.seed)
        fixed, mask = ants.image_read(t1w["image"]), ants.image_read(t1w["mask"])
        flair = ants.image_read(self.inputs.in_file)
        around = ants.iMath(mask, "MD", max(1, round(AROUND_BRAIN_MM / min(mask.spacing))))
        start, name = _start(ants, fixed, flair, around)
        found = ants.registration(
            fixed,
            flair,
            type_of_transform="Rigid",
            initial_transform=start,
            mask=around,
            outprefix=str(cwd / "to_t1w_"),
            write_composite_transform=True,
        )
        back = ants.apply_transforms(
            flair, mask, [found["invtransforms"]], interpolator="nearestNeighbor"
        )
        inside = back.numpy() > 0
        if not inside.any():
            raise InputError(
                f"{self.inputs.in_file}: does not meet the brain of {t1w['image']} after rigid "
                "registration; do both show the same person's head?"
            )
        write_nifti(cwd / "mask.nii.gz", inside, read_nifti(self.inputs.in_file).affine)
        self._results |= {
            "to_t1w": found["fwdtransforms"],
            "from_t1w": found["invtransforms"],
            "out_mask": str(cwd / "mask.nii.gz"),
            "to_template": [t1w["to_template"], found["fwdtransforms"]],
            "t1w_registered": t1w["registered"],
            "registered_mask": t1w["registered_mask"],
            "meta": {
                "Coregistration": f"ANTs Rigid to the T1w image, start: {name}",
                "BrainMaskMethod": "that of the T1w image, carried over",
                "SkullStripped": stripped_outline(read_nifti(self.inputs.in_file)) is not None,
                "Determinism": "bitwise on the same machine (one ITK thread, fixed seed)",
            },
        }
        return runtime


def _start(ants: Any, fixed: Any, moving: Any, around: Any) -> tuple[Any, str]:
    """Where to begin: as the scanner says, unless joined centres of mass fit clearly better."""
    small = [ants.resample_image(one, (4, 4, 4), False, 0) for one in (fixed, moving)]
    inside = ants.resample_image_to_target(around, small[0], interp_type="nearestNeighbor")
    likeness = {}
    for name, start in (("scanner coordinates", "Identity"), ("centres of mass", None)):
        moved = (
            ants.resample_image_to_target(small[1], small[0]) if start else _joined(ants, *small)
        )
        likeness[
            name
        ] = -ants.image_similarity(  # of mutual information, antspyx gives the negative
            small[0], moved, metric_type="MattesMutualInformation", fixed_mask=inside
        )
    scanner, centres = likeness.values()
    return (None, "centres of mass") if centres > scanner else ("Identity", "scanner coordinates")


def _joined(ants: Any, fixed: Any, moving: Any) -> Any:
    """``moving`` with its centre of mass on that of ``fixed``."""
    shift = np.subtract(ants.get_center_of_mass(moving), ants.get_center_of_mass(fixed))
    transform = ants.create_ants_transform(
        transform_type="Euler3DTransform", translation=tuple(map(float, shift))
    )
    return ants.apply_ants_transform_to_image(transform, moving, fixed)


class ToTemplateInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="native FLAIR, bias corrected")
    transforms = InputMultiObject(File(exists=True), mandatory=True, desc="last applied first")
    mask = File(exists=True, mandatory=True, desc="brain mask on the template grid")
    template = File(exists=True, mandatory=True)


class ToTemplateOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="brain on the template grid")
    out_mask = File(exists=True, desc="that part of the mask which the image covers")
    outside_percent = traits.Float(desc="share of the brain beyond the field of view")
    meta = traits.Dict


class ToTemplate(SimpleInterface):
    """One resampling through all transforms, by cubic B-splines, then the brain alone."""

    input_spec = ToTemplateInputSpec
    output_spec = ToTemplateOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        cwd, ants = Path(runtime.cwd), deterministic_ants(1)
        template = ants.image_read(self.inputs.template)
        image = ants.image_read(self.inputs.in_file)
        given = {"fixed": template, "transformlist": list(self.inputs.transforms)}
        moved = ants.apply_transforms(moving=image, interpolator="bSpline", **given).numpy()
        seen = ants.apply_transforms(
            moving=image * 0 + 1, interpolator="nearestNeighbor", **given
        ).numpy()
        mask = np.asarray(read_nifti(self.inputs.mask).dataobj) > 0
        inside = mask & (seen > 0)
        if not inside.any():
            raise InputError(f"{self.inputs.in_file}: does not cover the brain; look at the image")
        affine = read_nifti(self.inputs.template).affine
        brain = np.where(inside, np.clip(moved, 0, None), 0)  # splines swing below zero
        write_nifti(cwd / "registered.nii.gz", brain, affine, template=True)
        write_nifti(cwd / "registered_mask.nii.gz", inside, affine, template=True)
        outside = round(100 * (1 - inside.sum() / mask.sum()), 2)
        self._results |= {
            "out_file": str(cwd / "registered.nii.gz"),
            "out_mask": str(cwd / "registered_mask.nii.gz"),
            "outside_percent": outside,
            "meta": {
                "Interpolation": "cubic B-spline, once, negative values cut (masks: nearest "
                "neighbour)",
                "BrainOutsidePercent": outside,
            },
        }
        return runtime


class BringLesionsInputSpec(BaseInterfaceInputSpec):
    lesions = File(exists=True, mandatory=True, desc="mask of the dataset")
    of = traits.Str(mandatory=True, nohash=True, desc="the raw image, for sentences")
    image = File(exists=True, mandatory=True, desc="native FLAIR")
    mask = File(exists=True, mandatory=True, desc="native brain mask")
    transforms = InputMultiObject(File(exists=True), mandatory=True, desc="last applied first")
    from_t1w = File(exists=True, desc="T1w points to FLAIR, for masks of the T1w image")
    registered_mask = File(exists=True, mandatory=True)
    template = File(exists=True, mandatory=True)


class BringLesionsOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="lesions on the FLAIR grid; not there if refused")
    registered = File(exists=True, desc="lesions on the template grid; likewise")
    count = traits.Int(desc="connected lesions")
    volume_ml = traits.Float(desc="native")
    meta = traits.Dict


class BringLesions(SimpleInterface):
    """Check a lesion mask against its image, and take it along to the template.

    A mask that cannot be of the image is refused, with the reason in ``meta``; the image goes on
    without one.
    """

    input_spec = BringLesionsInputSpec
    output_spec = BringLesionsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        try:
            self._results |= self._brought(Path(runtime.cwd), Path(self.inputs.lesions))
        except InputError as refusal:
            said = f"the lesion mask was refused, and the image goes on without one: {refusal}"
            self._results["meta"] = {"Warnings": [said], REFUSED: said}
        return runtime

    def _brought(self, cwd: Path, path: Path) -> dict[str, Any]:
        """Both masks and what was noticed; raises InputError for a mask that is none of these."""
        ants = deterministic_ants(1)
        image, notes = read_lesions(path)
        write_nifti(cwd / "read.nii.gz", np.asarray(image.dataobj) > 0, image.affine)
        lesions = ants.image_read(str(cwd / "read.nii.gz"))
        forward = list(self.inputs.transforms)
        # ANTs inverts no composite transform, so the way back is a file of its own.
        own, there, back = forward, [], []
        if in_t1w(path):
            own, there, back = forward[:1], forward[1:], [self.inputs.from_t1w]
        native = ants.apply_transforms(
            ants.image_read(self.inputs.image), lesions, back, interpolator="nearestNeighbor"
        ).numpy()
        seen = ants.apply_transforms(
            lesions, ants.image_read(self.inputs.mask), there, interpolator="nearestNeighbor"
        ).numpy()
        registered = ants.apply_transforms(
            ants.image_read(self.inputs.template),
            lesions,
            own,
            interpolator="nearestNeighbor",
        ).numpy()
        brain = read_nifti(self.inputs.mask)
        said = self._lost(path, image, seen)
        inside = np.asarray(brain.dataobj) > 0
        kept = (native > 0) & inside
        _check_share(path, float(kept.sum() / inside.sum()))
        if np.asarray(image.dataobj).any() and not kept.any():
            said.append(
                f"{path.name}: its lesions are too small to meet a voxel of {self.inputs.of}"
            )
        affine = read_nifti(self.inputs.template).affine
        covered = np.asarray(read_nifti(self.inputs.registered_mask).dataobj) > 0
        write_nifti(cwd / "lesions.nii.gz", kept, brain.affine)
        write_nifti(
            cwd / "registered_lesions.nii.gz", (registered > 0) & covered, affine, template=True
        )
        return {
            "out_file": str(cwd / "lesions.nii.gz"),
            "registered": str(cwd / "registered_lesions.nii.gz"),
            "count": int(ndimage.label(kept, np.ones((3, 3, 3)))[1]),
            "volume_ml": round(float(kept.sum()) * _voxel_ml(brain), 3),
            "meta": {"Warnings": notes + said, "LesionMask": path.name},
        }

    def _lost(self, path: Path, given: nib.Nifti1Image, brain: np.ndarray) -> list[str]:
        """How much lies beyond the brain, on the mask's own grid; refuses a mask of elsewhere.

        On thick slices, small lesions of a fine grid may meet no voxel: that is no other space.
        """
        lesions = np.asarray(given.dataobj) > 0
        if not lesions.any():
            return []
        share = float((lesions & (brain > 0)).sum() / lesions.sum())
        if share < UNRELATED:
            total_ml = float(lesions.sum()) * _voxel_ml(given)
            raise InputError(
                f"{path}: only {share:.0%} of its {total_ml:.1f} ml lie in the brain of "
                f"{self.inputs.of}: it is of another space or image. Give the mask in the space of "
                "the FLAIR image, or of the T1w image (space-T1w), or take it away"
            )
        if 1 - share < 0.01:
            return []
        return [f"{path.name}: {1 - share:.0%} lies outside of the brain and was cut off"]


def _check_share(path: Path, share: float) -> None:
    if share > MOST_BRAIN:
        raise InputError(
            f"{path}: marks {share:.0%} of the brain, so it is no lesion mask: is it one of the "
            "brain, an image, or inverted? Give a mask that is 1 in lesions and 0 elsewhere, or "
            "take it away"
        )


def _voxel_ml(image: nib.Nifti1Image) -> float:
    return float(np.abs(np.linalg.det(image.affine[:3, :3]))) / 1000


class FillLesionsInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="FLAIR brain on the template grid")
    lesions = File(exists=True, desc="on that grid; without them, nothing is filled")
    mask = File(exists=True, mandatory=True)
    t1w = File(exists=True, desc="T1w brain on the template grid, to tell tissues by")
    how = traits.Enum("slices", "local", mandatory=True)
    seed = traits.Int(mandatory=True)


class FillLesionsOutputSpec(TraitedSpec):
    out_file = File(exists=True)
    meta = traits.Dict


class FillLesions(SimpleInterface):
    """Replace lesions by normal-appearing white matter (Valverde et al. 2014)."""

    input_spec = FillLesionsInputSpec
    output_spec = FillLesionsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        given, cwd = self.inputs, Path(runtime.cwd)
        if not isdefined(given.lesions):
            self._results["out_file"] = given.in_file
            self._results["meta"] = {"Warnings": [NOT_FILLED], "LesionFilling": NOT_FILLED}
            return runtime
        image = read_nifti(given.in_file)
        data = np.asarray(image.dataobj, np.float32)
        brain = np.asarray(read_nifti(given.mask).dataobj) > 0
        lesions = np.asarray(read_nifti(given.lesions).dataobj) > 0
        grown = dilate(lesions) & brain
        white, tissues = self._white_matter(brain, image)
        if given.how == "slices":
            filled, left = fill_slices(data, grown, white, seed=given.seed)
        else:
            edges = nib.affines.voxel_sizes(image.affine)
            filled, left = fill_locally(data, grown, white, voxel_mm=edges)
        filled = np.where(grown, np.clip(filled, 0, None), data)
        write_nifti(cwd / "filled.nii.gz", filled, image.affine, template=True)
        said = [
            f"lesions of {len(left)} axial slices were not filled: there is no normal-appearing "
            "white matter in them"
        ]
        self._results["out_file"] = str(cwd / "filled.nii.gz")
        self._results["meta"] = {
            "LesionFilling": _FILLINGS[given.how],
            "LesionFillingSeed": given.seed if given.how == "slices" else None,
            "LesionVoxelsFilled": int(grown.sum() - grown[..., left].sum()),
            "Tissues": tissues,
            "SlicesNotFilled": left,
            "Warnings": said if left else [],
        }
        return runtime

    def _white_matter(self, brain: np.ndarray, image: nib.Nifti1Image) -> tuple[np.ndarray, str]:
        """White matter, and how it was told."""
        prior = "ICBM 2009a priors (nilearn)"
        if not isdefined(self.inputs.t1w):
            return _prior(image), f"{prior}: there is no T1w image to segment"
        white = _segmented(self.inputs.t1w, brain, self.inputs.seed)
        share = float(white.sum() / brain.sum())
        if WHITE_SHARE[0] <= share <= WHITE_SHARE[1]:
            return white, "ANTs Atropos of the T1w image, three classes"
        return _prior(image), f"{prior}: Atropos found {share:.0%} of the brain to be white matter"


_FILLINGS = {
    "slices": "draws from N(mean, (SD/2)^2) of the axial slice's normal-appearing white matter",
    "local": "average of the normal-appearing white matter around each voxel (Gaussian)",
}


def _segmented(t1w: str, brain: np.ndarray, seed: int) -> np.ndarray:
    """White matter of a T1w brain: fluid, grey and white matter in the order of their signal."""
    ants = deterministic_ants(seed + 1)
    image = ants.image_read(t1w)
    inside = brain & (image.numpy() > 0)
    mask = image.new_image_like(inside.astype(np.float32))
    # Bright vessels would else be a class of their own.
    image = image.new_image_like(np.clip(image.numpy(), *np.percentile(image.numpy()[inside], CUT)))
    found = ants.atropos(a=image, x=mask, i="kmeans[3]", m="[0.1,1x1x1]", c="[3,0]")
    csf, gm, wm = (one.numpy() for one in found["probabilityimages"])
    return white_matter(wm, gm, csf)


def _prior(image: nib.Nifti1Image) -> np.ndarray:
    """White matter of the average brain, on the grid of ``image``."""
    from nibabel.processing import resample_from_to
    from nilearn.datasets import load_mni152_gm_template, load_mni152_wm_template

    wm, gm = (
        resample_from_to(load(resolution=1), (image.shape, image.affine), order=1).get_fdata()
        for load in (load_mni152_wm_template, load_mni152_gm_template)
    )
    return white_matter(wm, gm, np.clip(1 - wm - gm, 0, None))


class FlairQualityInputSpec(BaseInterfaceInputSpec):
    participant = traits.Str(mandatory=True)
    session = traits.Str("", usedefault=True)
    registration = traits.Str(mandatory=True)
    mask = File(exists=True, mandatory=True, desc="native brain mask")
    registered_mask = File(exists=True, mandatory=True)
    template = File(exists=True, mandatory=True)
    outside_percent = traits.Float(mandatory=True)
    lesion_ml = traits.Float(desc="native; not there without a mask")
    lesion_count = traits.Int


class FlairQualityOutputSpec(TraitedSpec):
    out_table = File(exists=True, desc="one row of numbers and flags")
    meta = traits.Dict


class FlairQuality(SimpleInterface):
    """Numbers that tell a failed mask or registration, and the lesion load."""

    input_spec = FlairQualityInputSpec
    output_spec = FlairQualityOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        given = self.inputs
        mask = read_nifti(given.mask)
        mask_voxels = float((np.asarray(mask.dataobj) > 0).sum())
        brain = np.asarray(read_nifti(given.template).dataobj) > 0
        theirs = np.asarray(read_nifti(given.registered_mask).dataobj) > 0
        row: dict[str, Any] = {
            "participant_id": f"sub-{given.participant}",
            "session_id": f"ses-{given.session}" if given.session else "n/a",
            "registration": given.registration,
            "mask_volume_ml": round(mask_voxels * _voxel_ml(mask), 1),
            "template_overlap": round(
                float(2 * (theirs & brain).sum() / (theirs.sum() + brain.sum())), 4
            ),
            "outside_fov_percent": given.outside_percent,
            "lesion_volume_ml": given.lesion_ml if isdefined(given.lesion_ml) else None,
            "lesion_count": given.lesion_count if isdefined(given.lesion_count) else None,
        }
        flags = flags_of(row)
        row["flags"] = "; ".join(flags) or "n/a"
        out_table = Path(runtime.cwd) / "qc.tsv"
        write_table(out_table, pd.DataFrame([row]))
        self._results["out_table"] = str(out_table)
        self._results["meta"] = {"Warnings": flags}
        return runtime


class LesionFigureInputSpec(BaseInterfaceInputSpec):
    image = File(exists=True, mandatory=True, desc="FLAIR brain on the template grid")
    lesions = File(exists=True, desc="on that grid; without them, nothing is drawn")


class LesionFigureOutputSpec(TraitedSpec):
    out_file = File(exists=True)


class LesionFigure(SimpleInterface):
    """Outline of the lesions on the image that the network sees."""

    input_spec = LesionFigureInputSpec
    output_spec = LesionFigureOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from pipelines.figures import mask_contour, plot_slices, save

        if not isdefined(self.inputs.lesions):
            return runtime
        image, lesions = read_nifti(self.inputs.image), read_nifti(self.inputs.lesions)
        any_there = bool(np.asarray(lesions.dataobj).any())
        drawn = mask_contour(image, lesions) if any_there else plot_slices(image)
        out_file = Path(runtime.cwd) / "lesions.png"
        save(drawn, out_file)
        self._results["out_file"] = str(out_file)
        return runtime
