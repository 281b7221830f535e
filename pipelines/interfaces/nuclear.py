"""Interfaces of nuclear medicine: conform, register by uptake, scale and measure binding."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from models.errors import InputError
from models.grids import Grid
from models.projections import CUTOFF_PER_CM
from models.uptake import (
    STRUCTURES,
    Anatomy,
    Binding,
    binding,
    reference_uptake,
    striatal_shift_mm,
    uptake_template,
)
from models.volumes import to_grid
from pipelines.atlases import atlas, on_grid
from pipelines.derivatives import file_hash, write_table
from pipelines.images import load_volume, read_nifti, write_nifti
from pipelines.inputs import metadata_of
from pipelines.interfaces.ants import deterministic_ants
from pipelines.projections import is_projections, reconstructed
from pipelines.tracers import Tracer

ATLAS = "AAL"
REFERENCE_REGIONS = {
    "brain": "brain without striata, thalamus, brain stem and ventricles",
    "occipital": "occipital cortex",
}
# Where these shares of a region lie outside the field of view, numbers of it mean little.
LEAST_COVERED = 0.98
LEAST_CORRELATION = 0.5
FARTHEST_MM = 15.0
# Of a template of the user's own: share of the brain that it shows; correlation with the built one
# (of a mean of 174 healthy people .79, of the built one half a turn about an axis up to .51).
LEAST_OF_TEMPLATE, LEAST_ALIKE = 0.8, 0.6


def anatomy_of(template: str | Path) -> Anatomy:
    """Striata, reference region and the rest on the grid of a template brain."""
    image, regions = read_nifti(template), atlas(ATLAS)
    tissue = np.asarray(image.dataobj, np.float32)
    labels = on_grid(regions, image.affine, tissue.shape)
    index = dict(zip(regions.labels["name"], map(int, regions.labels["index"]), strict=True))
    return Anatomy(tissue, labels, index, image.affine)


def template_uptake(anatomy: Anatomy, own: str) -> np.ndarray:
    """The template that is registered to: a user's own on the grid, else the built one.

    Raises
    ------
    models.errors.InputError
        The user's own is no image of FP-CIT that covers the brain in MNI space.
    """
    if not own:
        return uptake_template(anatomy)
    image, _, _ = load_volume(own)
    shape = anatomy.tissue.shape
    grid = Grid("", (shape[0], shape[1], shape[2]), anatomy.voxel_mm, tuple(anatomy.affine[:3, 3]))
    uptake = to_grid(np.asarray(image.dataobj, np.float32), image.affine, grid)
    covered = float((uptake[anatomy.brain] > 0).mean())
    if covered < LEAST_OF_TEMPLATE:
        raise InputError(
            f"--spect-template {own}: covers {covered:.0%} of the brain in MNI space; give a "
            "template of FP-CIT SPECT of the whole brain in that space"
        )
    alike = np.corrcoef(uptake[anatomy.brain], uptake_template(anatomy)[anatomy.brain])[0, 1]
    if not alike >= LEAST_ALIKE:
        raise InputError(
            f"--spect-template {own}: does not look like FP-CIT in MNI space (correlation with a "
            f"simple one {alike:.2f}); give a template of FP-CIT SPECT in that space"
        )
    return uptake


# --- conform -------------------------------------------------------------------------------------


class ConformUptakeInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="raw image, or raw projections")
    cutoff_per_cm = traits.Float(CUTOFF_PER_CM, usedefault=True, desc="of their filter")


class ConformUptakeOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="float32 image with RAS+ axes, not negative")
    meta = traits.Dict(desc="tracer, hash of the raw file, warnings")


class ConformUptake(SimpleInterface):
    """Check tracer and image, average a series or reconstruct views, give the image RAS+ axes."""

    input_spec = ConformUptakeInputSpec
    output_spec = ConformUptakeOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        path = Path(self.inputs.in_file)
        metadata = metadata_of(path)
        tracer = Tracer.of(path, metadata)
        notes = tracer_notes(path, tracer)
        image, more, facts = _volume(path, metadata, self.inputs.cutoff_per_cm)
        data = np.asarray(image.dataobj)
        negative = data < 0
        if negative.any():
            more.append(f"{negative.mean():.1%} of the voxels were negative and set to 0")
        if not (data > 0).any():
            raise InputError(f"{path}: no voxel is above 0; the image is empty, export it again")
        out_file = Path(runtime.cwd) / "conformed.nii.gz"
        write_nifti(out_file, np.where(negative, 0, data), image.affine)
        self._results["out_file"] = str(out_file)
        self._results["meta"] = {
            "Warnings": notes + more,
            **facts,
            "RawSHA256": file_hash(path),
            "TracerName": tracer.name or None,
            "TracerRadionuclide": tracer.nuclide or None,
        }
        return runtime


def _volume(
    path: Path, metadata: Mapping[str, Any], cutoff_per_cm: float
) -> tuple[nib.Nifti1Image, list[str], dict[str, Any]]:
    """The image of a scan, notes on it, and what its sidecar is to say."""
    if is_projections(path):
        image, facts = reconstructed(path, metadata, cutoff_per_cm)
        return image, [], facts
    image, axes, notes = load_volume(path, mean=True)
    return image, notes, {"RawAxes": axes}


def tracer_notes(path: Path, tracer: Tracer) -> list[str]:
    """Sentences about a tracer that is not stated.

    Raises
    ------
    models.errors.InputError
        Another tracer is.
    """
    if tracer.is_other:
        raise InputError(
            f"{path}: its tracer is {tracer}, not 123I-FP-CIT; leave it out by "
            "--bids-filter-file, or correct its sidecar"
        )
    if not tracer.is_stated:
        return ["the sidecar states no tracer (TracerName): taken for 123I-FP-CIT"]
    return []


NO_T1W = "registered to the FP-CIT template directly: there is no T1w image of this person"


# --- register ------------------------------------------------------------------------------------


class RegisterUptakeInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="conformed uptake")
    template = File(
        exists=True, mandatory=True, desc="T1w template brain; its grid is the result's"
    )
    uptake_template = traits.Str("", usedefault=True, desc="a template of the user's in MNI space")
    t1w = File(exists=True, desc="the person's conformed T1w image")
    t1w_mask = File(exists=True, desc="its brain")
    lacks_t1w = traits.Bool(False, usedefault=True, desc="the way by it was asked for in vain")
    seed = traits.Int(1, usedefault=True)


class RegisterUptakeOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="uptake on the template grid, raw units")
    out_seen = File(exists=True, desc="what of the grid lies in the field of view")
    to_template = File(exists=True, desc="affine transform, native points to template")
    to_native = File(exists=True, desc="its inverse")
    meta = traits.Dict


class RegisterUptake(SimpleInterface):
    """Affine to an FP-CIT template; with a T1w image rigid to that, and affine from there."""

    input_spec = RegisterUptakeInputSpec
    output_spec = RegisterUptakeOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        ants = deterministic_ants(self.inputs.seed)
        cwd, affine = Path(runtime.cwd), read_nifti(self.inputs.template).affine
        fixed_file = cwd / "uptake_template.nii.gz"
        fixed_data = template_uptake(anatomy_of(self.inputs.template), self.inputs.uptake_template)
        write_nifti(fixed_file, fixed_data, affine, template=True)
        fixed, moving = ants.image_read(str(fixed_file)), ants.image_read(self.inputs.in_file)
        how = "affine of ANTs to an FP-CIT template"
        if isdefined(self.inputs.t1w):
            matrix, how = self._through_t1w(ants, fixed, moving), "rigid to the T1w, " + how
        else:
            matrix = _fit(ants, fixed, moving, "Affine")
        to_template, to_native = cwd / "to_template.mat", cwd / "to_native.mat"
        for path, one in ((to_template, matrix), (to_native, np.linalg.inv(matrix))):
            ants.write_transform(_transform(ants, one), str(path))
        warped = ants.apply_transforms(fixed, moving, [str(to_template)], interpolator="linear")
        recorded = moving.new_image_like(recorded_box(moving.numpy()).astype(np.float32))
        seen = ants.apply_transforms(fixed, recorded, [str(to_template)], interpolator="linear")
        write_nifti(cwd / "registered.nii.gz", warped.numpy(), affine, template=True)
        write_nifti(cwd / "seen.nii.gz", seen.numpy() > 0.5, affine, template=True)
        own = self.inputs.uptake_template
        self._results |= {
            "out_file": str(cwd / "registered.nii.gz"),
            "out_seen": str(cwd / "seen.nii.gz"),
            "to_template": str(to_template),
            "to_native": str(to_native),
            "meta": {
                "Warnings": [NO_T1W] * self.inputs.lacks_t1w,
                "Registration": how,
                "UptakeTemplate": own or "built of the T1w template and AAL, 9 mm FWHM, symmetric",
                "Interpolation": "linear",
                "Determinism": "bitwise on the same machine (one ITK thread, fixed seed)",
            },
        }
        return runtime

    def _through_t1w(self, ants: Any, fixed: Any, moving: Any) -> np.ndarray:
        """Template points to the T1w image, then rigidly to the uptake.

        The rigid step sees the template's uptake laid over the person's own brain: two images of
        one kind fit better than uptake and T1w do.
        """
        brain = ants.image_read(self.inputs.t1w) * ants.image_read(self.inputs.t1w_mask)
        to_t1w = _fit(ants, ants.image_read(self.inputs.template), brain, "Affine")
        there = ants.apply_ants_transform_to_image(
            _transform(ants, np.linalg.inv(to_t1w)), fixed, brain
        )
        return _fit(ants, there, moving, "Rigid") @ to_t1w


def recorded_box(uptake: np.ndarray) -> np.ndarray:
    """What of an image was recorded (x, y, z), bool: all but outer planes that hold one value.

    Slices that a camera did not see are often filled up with zeros.
    """
    box = np.zeros(uptake.shape, bool)
    kept = []
    for axis in range(3):
        planes = np.moveaxis(uptake, axis, 0).reshape(uptake.shape[axis], -1)
        varied = np.flatnonzero(np.ptp(planes, axis=1) > 0)
        kept.append(slice(varied[0], varied[-1] + 1) if varied.size else slice(None))
    box[tuple(kept)] = True
    return box


def _fit(ants: Any, fixed: Any, moving: Any, kind: str) -> np.ndarray:
    """Points of the fixed image to points of the moving one, (4, 4) in LPS mm."""
    found = ants.registration(fixed, moving, type_of_transform=kind)
    transform = ants.read_transform(found["fwdtransforms"][0])
    linear = np.reshape(transform.parameters[:9], (3, 3))
    centre = np.asarray(transform.fixed_parameters)
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = transform.parameters[9:] + centre - linear @ centre
    return matrix


def _transform(ants: Any, matrix: np.ndarray) -> Any:
    parameters = [*matrix[:3, :3].ravel(), *matrix[:3, 3]]
    transform = ants.new_ants_transform(
        precision="float", dimension=3, transform_type="AffineTransform", parameters=parameters
    )
    transform.set_fixed_parameters([0.0, 0.0, 0.0])
    return transform


# --- scale and measure ---------------------------------------------------------------------------


class MeasureBindingInputSpec(BaseInterfaceInputSpec):
    participant = traits.Str(mandatory=True)
    session = traits.Str("", usedefault=True)
    in_file = File(exists=True, mandatory=True, desc="registered uptake")
    seen = File(exists=True, mandatory=True, desc="field of view on the same grid")
    template = File(exists=True, mandatory=True)
    uptake_template = traits.Str("", usedefault=True)
    reference = traits.Str("brain", usedefault=True, desc="reference region")
    percentile = traits.Float(75.0, usedefault=True)
    ml = traits.Dict(mandatory=True, desc="structure -> millilitres that count")


class MeasureBindingOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="uptake over that of the reference region")
    out_ratios = File(exists=True, desc="binding of caudate and putamen")
    out_quality = File(exists=True, desc="one row of numbers and flags")
    binding_meta = traits.Dict(desc="reference, binding, the lower side")
    meta = traits.Dict(desc="flags as warnings")


class MeasureBinding(SimpleInterface):
    """Scale by the reference region; binding ratios, sides, and whether all that can be right."""

    input_spec = MeasureBindingInputSpec
    output_spec = MeasureBindingOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        given, cwd = self.inputs, Path(runtime.cwd)
        anatomy, image = anatomy_of(given.template), read_nifti(given.in_file)
        uptake = np.asarray(image.dataobj, np.float32)
        seen = np.asarray(read_nifti(given.seen).dataobj) > 0
        region = anatomy.reference(given.reference) & seen  # zeros beyond are no uptake
        reference = reference_uptake(uptake, region, given.percentile)
        scaled = uptake / reference
        found = binding(scaled, anatomy, given.ml)
        expected = template_uptake(anatomy, given.uptake_template)
        row = {
            "participant_id": f"sub-{given.participant}",
            "session_id": f"ses-{given.session}" if given.session else "n/a",
            **quality_numbers(scaled, seen, expected, anatomy),
            **{f"sbr_{name}": round(ratio, 4) for name, ratio in found.ratios.items()},
            "lower_putamen": found.lower_side,
        }
        flags = flags_of(row)
        row["flags"] = "; ".join(flags) or "n/a"
        write_nifti(cwd / "scaled.nii.gz", scaled, image.affine, template=True)
        write_table(cwd / "ratios.tsv", ratio_table(found))
        write_table(cwd / "qc.tsv", pd.DataFrame([row]))
        self._results |= {
            "out_file": str(cwd / "scaled.nii.gz"),
            "out_ratios": str(cwd / "ratios.tsv"),
            "out_quality": str(cwd / "qc.tsv"),
            "binding_meta": {
                "ReferenceRegion": REFERENCE_REGIONS[given.reference],
                "ReferencePercentile": given.percentile,
                "ReferenceUptake": reference,
                "Units": "uptake of the reference region",
                "HottestMl": dict(given.ml),
                "SpecificBindingRatio": {k: round(v, 5) for k, v in found.ratios.items()},
                "LowerPutamen": found.lower_side,
                "Mirrored": False,
            },
            "meta": {"Warnings": flags},
        }
        return runtime


def ratio_table(found: Binding) -> pd.DataFrame:
    """Binding per structure: both sides, the side of the lower putamen, asymmetry; the ratio last.

    ``ipsilateral`` is the side of the lower putamen, as in Nazari et al. 2021.
    """
    rows = [
        {
            "region": structure,
            "left": found.ratios[f"{structure}_L"],
            "right": found.ratios[f"{structure}_R"],
            "ipsilateral": found.ipsilateral(structure),
            "contralateral": found.contralateral(structure),
            "asymmetry_percent": found.asymmetry(structure),
        }
        for structure in STRUCTURES
    ]
    left, right = (found.caudate_to_putamen(side) for side in "LR")
    sides = (left, right) if found.lower_side == "L" else (right, left)
    rows.append(
        {
            "region": "caudate/putamen",
            "left": left,
            "right": right,
            "ipsilateral": sides[0],
            "contralateral": sides[1],
        }
    )
    table = pd.DataFrame(rows).round(4)
    table.insert(5, "lower_putamen", found.lower_side)
    return table


def quality_numbers(
    scaled: np.ndarray, seen: np.ndarray, expected: np.ndarray, anatomy: Anatomy
) -> dict[str, float]:
    """How well the image lies on the template, and how much of it was in the field of view."""
    striata = anatomy.region("Caudate", "Putamen", "Pallidum")
    inside = anatomy.brain & seen
    fit = np.corrcoef(scaled[inside], expected[inside])[0, 1] if inside.any() else 0.0
    return {
        "template_correlation": round(float(fit), 4),
        "striatal_shift_mm": round(striatal_shift_mm(scaled, anatomy), 2),
        "striata_seen": round(float(seen[striata].mean()), 4),
        "cerebellum_seen": round(float(seen[anatomy.region("Cerebelum", "Vermis")].mean()), 4),
    }


def flags_of(row: Mapping[str, Any]) -> list[str]:
    """Plain sentences for numbers that are far off; an empty list is a clean scan."""
    flags = []
    if row["template_correlation"] < LEAST_CORRELATION:
        flags.append(f"low correlation with the template ({row['template_correlation']:.2f})")
    if row["striatal_shift_mm"] > FARTHEST_MM:
        flags.append(
            f"the hottest voxels lie {row['striatal_shift_mm']:.0f} mm from the template's striata"
        )
    for name in ("striata", "cerebellum"):
        if row[f"{name}_seen"] < LEAST_COVERED:
            flags.append(
                f"the field of view cuts the {name} ({row[f'{name}_seen']:.0%} of them seen)"
            )
    below = [name.replace("sbr_", "") for name in row if name.startswith("sbr_") and row[name] < 0]
    if below:
        flags.append(f"binding below zero ({', '.join(below)})")
    return flags


# --- figures -------------------------------------------------------------------------------------


class UptakeFiguresInputSpec(BaseInterfaceInputSpec):
    registered = File(exists=True, mandatory=True, desc="scaled uptake on the template grid")
    template = File(exists=True, mandatory=True, desc="T1w template brain")


class UptakeFiguresOutputSpec(TraitedSpec):
    display_figure = File(exists=True)
    registration_figure = File(exists=True)


class UptakeFigures(SimpleInterface):
    """The transversal display that readers know, and the template's striata over the image."""

    input_spec = UptakeFiguresInputSpec
    output_spec = UptakeFiguresOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from pipelines.figures import plot_slices, save, transversal_display

        cwd, anatomy = Path(runtime.cwd), anatomy_of(self.inputs.template)
        image = read_nifti(self.inputs.registered)
        outlines = 1.0 * anatomy.brain + anatomy.region("Caudate", "Putamen")
        drawn = plot_slices(
            image, contour=nib.Nifti1Image(outlines, image.affine), contour_levels=(0.5, 1.5)
        )
        save(transversal_display(image, units="uptake / reference"), cwd / "display.png")
        save(drawn, cwd / "registration.png")
        self._results["display_figure"] = str(cwd / "display.png")
        self._results["registration_figure"] = str(cwd / "registration.png")
        return runtime
