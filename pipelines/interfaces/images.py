"""Interfaces on single volumes: conform, brain mask, quality numbers."""

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
from scipy import ndimage

from models.errors import InputError
from models.grids import full_grid
from models.volumes import centred, centred_affine, share_outside
from pipelines.brain_extraction import EXTRACTIONS
from pipelines.derivatives import file_hash, write_table
from pipelines.images import load_volume, read_nifti, write_nifti
from pipelines.quality import flags_of

BRAIN_ML = (600.0, 2300.0)
FINEST_SHARE = 0.8  # of the finest voxel edge: finer grids are warned of


class ConformInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="raw image")


class ConformOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="float32 image with RAS+ axes")
    meta = traits.Dict(desc="hash of the raw file, warnings")


class Conform(SimpleInterface):
    """Check a raw image and give it RAS+ axes; voxels are reordered, not interpolated."""

    input_spec = ConformInputSpec
    output_spec = ConformOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        image, axes, notes = load_volume(self.inputs.in_file)
        out_file = Path(runtime.cwd) / "conformed.nii.gz"
        write_nifti(out_file, np.asarray(image.dataobj), image.affine)
        self._results["out_file"] = str(out_file)
        self._results["meta"] = {
            "Warnings": notes,
            "RawAxes": axes,
            "RawSHA256": file_hash(self.inputs.in_file),
        }
        return runtime


class DenoiseInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="RAS+ image")


class DenoiseOutputSpec(TraitedSpec):
    out_file = File(exists=True)
    meta = traits.Dict(desc="method and noise")


class Denoise(SimpleInterface):
    """Non-local means inside the head."""

    input_spec = DenoiseInputSpec
    output_spec = DenoiseOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from pipelines.denoising import BLOCK_RADIUS, PATCH_RADIUS, non_local_means

        image = read_nifti(self.inputs.in_file)
        data, sigma = non_local_means(np.asarray(image.dataobj, np.float32))
        out_file = Path(runtime.cwd) / "denoised.nii.gz"
        write_nifti(out_file, data, image.affine)
        self._results["out_file"] = str(out_file)
        self._results["meta"] = {
            "Denoising": "non-local means (dipy, classic, Rician), inside the head",
            "DenoisingPatchRadius": PATCH_RADIUS,
            "DenoisingBlockRadius": BLOCK_RADIUS,
            "NoiseSD": sigma,
        }
        return runtime


class BrainMaskInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="RAS+ image")
    method = traits.Str("deepbet", usedefault=True, desc="one of EXTRACTIONS")
    seed = traits.Int(1, usedefault=True)
    device = traits.Str("cpu", usedefault=True, desc="cpu or cuda")
    use_gpu = traits.Bool(False, usedefault=True, nohash=True, desc="takes a GPU slot")


class BrainMaskOutputSpec(TraitedSpec):
    out_mask = File(exists=True, desc="brain mask on the image's grid")
    meta = traits.Dict(desc="how the mask was made, warnings")


class BrainMask(SimpleInterface):
    """Brain mask by a method of choice; an image without skull keeps its own outline."""

    input_spec = BrainMaskInputSpec
    output_spec = BrainMaskOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        image = read_nifti(self.inputs.in_file)
        outline = stripped_outline(image)
        if outline is None:
            method, notes = self.inputs.method, []
            mask = EXTRACTIONS[method](image, self.inputs.device, self.inputs.seed)
        else:
            mask, method = outline, "outline of the input"
            notes = [
                "the input has no skull: brain extraction was skipped, its outline is the mask"
            ]
        if not mask.any():
            raise InputError(f"{self.inputs.in_file}: no brain was found in the image; look at it")
        out_mask = Path(runtime.cwd) / "mask.nii.gz"
        write_nifti(out_mask, mask, image.affine)
        self._results["out_mask"] = str(out_mask)
        self._results["meta"] = {
            "BrainMaskMethod": method,
            "SkullStripped": outline is not None,
            "Warnings": notes,
        }
        return runtime


def stripped_outline(image: nib.Nifti1Image) -> np.ndarray | None:
    """Outline of the brain if the image carries no skull, else None.

    A stripped image has one exact background value around a solid body of a brain's volume; a
    head is larger, or has noise around it.
    """
    data = np.asarray(image.dataobj)
    background = data.flat[0]
    body = ndimage.binary_opening(data != background)
    labels, count = ndimage.label(body)
    if count == 0:
        return None
    largest = labels == np.bincount(labels.flat)[1:].argmax() + 1
    solid = ndimage.binary_fill_holes(largest)
    volume_ml = solid.sum() * np.abs(np.linalg.det(image.affine[:3, :3])) / 1000
    alone = largest.sum() > 0.98 * body.sum()
    return solid if alone and BRAIN_ML[0] <= volume_ml <= BRAIN_ML[1] else None


class CentreInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="native image, skull on")
    mask = File(exists=True, mandatory=True, desc="native brain mask")
    resolution_mm = traits.Float(mandatory=True, desc="voxel edge of the template's grid")


class CentreOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="brain on as many voxels as the template's grid has")
    out_mask = File(exists=True, desc="brain mask on the same")
    outside_percent = traits.Float(desc="share of the brain beyond the grid")
    meta = traits.Dict


class Centre(SimpleInterface):
    """Pad or crop the brain about the middle of its image; nothing is registered."""

    input_spec = CentreInputSpec
    output_spec = CentreOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        cwd, grid = Path(runtime.cwd), full_grid(self.inputs.resolution_mm)
        image, mask = read_nifti(self.inputs.in_file), read_nifti(self.inputs.mask)
        inside = np.asarray(mask.dataobj) > 0
        placed = centred_affine(image.shape, image.affine, grid)
        brain = np.where(inside, np.asarray(image.dataobj, np.float32), 0)
        kept = centred(inside.astype(np.uint8), image.affine, grid, order=0) > 0
        brain = np.where(kept, centred(brain, image.affine, grid), 0)
        write_nifti(cwd / "centred.nii.gz", brain, placed)
        write_nifti(cwd / "centred_mask.nii.gz", kept, placed)
        outside = round(100 * share_outside(inside, image.affine, placed, grid), 2)
        edge_mm = float(min(image.header.get_zooms()[:3]))
        self._results |= {
            "out_file": str(cwd / "centred.nii.gz"),
            "out_mask": str(cwd / "centred_mask.nii.gz"),
            "outside_percent": outside,
            "meta": {
                "Registration": "none: padded or cropped about the middle of the image",
                "Interpolation": "none where the voxel edges are those of the grid, else linear "
                "(mask: nearest neighbour)",
                "BrainOutsidePercent": outside,
                "Determinism": "bitwise",
                "Warnings": [
                    f"resolution_mm = {grid.voxel_mm:g} is finer than the scan ({edge_mm:.2g} mm): "
                    "the voxels between are interpolated and add nothing"
                ]
                * (grid.voxel_mm < FINEST_SHARE * edge_mm),
            },
        }
        return runtime


class QualityInputSpec(BaseInterfaceInputSpec):
    participant = traits.Str(mandatory=True)
    session = traits.Str("", usedefault=True)
    registration = traits.Str("nonlinear", usedefault=True)
    outside_percent = traits.Float(desc="of the brain, without registration")
    mask = File(exists=True, mandatory=True, desc="native brain mask")
    registered = File(exists=True, mandatory=True, desc="brain on the template grid")
    registered_mask = File(exists=True, mandatory=True)
    template = File(exists=True, mandatory=True, desc="template brain on the same grid")


class QualityOutputSpec(TraitedSpec):
    out_table = File(exists=True, desc="one row of numbers and flags")
    meta = traits.Dict(desc="flags as warnings")


class Quality(SimpleInterface):
    """Numbers that tell a failed mask or registration from a good one."""

    input_spec = QualityInputSpec
    output_spec = QualityOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        mask = read_nifti(self.inputs.mask)
        voxel_ml = np.abs(np.linalg.det(mask.affine[:3, :3])) / 1000
        template = np.asarray(read_nifti(self.inputs.template).dataobj, np.float32)
        registered = np.asarray(read_nifti(self.inputs.registered).dataobj, np.float32)
        brain = template > 0
        theirs = np.asarray(read_nifti(self.inputs.registered_mask).dataobj) > 0
        row = {
            "participant_id": f"sub-{self.inputs.participant}",
            "session_id": f"ses-{self.inputs.session}" if self.inputs.session else "n/a",
            "registration": self.inputs.registration,
            "mask_volume_ml": round(float((np.asarray(mask.dataobj) > 0).sum() * voxel_ml), 1),
            "template_correlation": round(
                float(np.corrcoef(registered[brain], template[brain])[0, 1]), 4
            ),
            "template_overlap": round(
                float(2 * (theirs & brain).sum() / (theirs.sum() + brain.sum())), 4
            ),
        }
        if isdefined(self.inputs.outside_percent):
            row["brain_outside_percent"] = self.inputs.outside_percent
        flags = flags_of(row)
        row["flags"] = "; ".join(flags) or "n/a"
        out_table = Path(runtime.cwd) / "qc.tsv"
        write_table(out_table, pd.DataFrame([row]))
        self._results["out_table"] = str(out_table)
        self._results["meta"] = {"Warnings": flags}
        return runtime
