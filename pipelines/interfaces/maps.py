"""Interface on parameter maps that another pipeline has brought to template space."""

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
    traits,
)

from models.errors import InputError
from pipelines.derivatives import file_hash, write_table
from pipelines.images import load_volume, read_nifti, write_nifti
from pipelines.quality import LEAST_OVERLAP, MASK_ML

MOST_CLIPPED = 0.05  # share of voxels; fluid with noise may exceed the scale, tissue does not


class TakeMapsInputSpec(BaseInterfaceInputSpec):
    md = traits.Any(mandatory=True, desc="mean diffusivity, mm2/s")
    fa = traits.Any(mandatory=True, desc="fractional anisotropy, beside it")
    template = File(exists=True, mandatory=True, desc="template brain; its grid is the result's")
    full_scale = traits.Dict(mandatory=True, desc="parameter -> what 1 stands for")
    participant = traits.Str(mandatory=True)
    session = traits.Str("", usedefault=True)


class TakeMapsOutputSpec(TraitedSpec):
    md = File(exists=True)
    fa = File(exists=True)
    quality = File(exists=True, desc="one row of numbers and flags")
    meta = traits.Dict(desc="hashes of the given files, warnings")


class TakeMaps(SimpleInterface):
    """Check MD and FA of one person against each other, their units and the template."""

    input_spec = TakeMapsInputSpec
    output_spec = TakeMapsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from models.grids import Grid
        from models.volumes import to_grid

        given = {"md": Path(self.inputs.md), "fa": Path(self.inputs.fa)}
        images, notes = _pair(given)
        template = read_nifti(self.inputs.template)
        voxel = float(np.linalg.norm(template.affine[:3, 0]))
        origin = tuple(float(x) for x in template.affine[:3, 3])
        grid = Grid("", template.shape, voxel, origin)  # type: ignore[arg-type]
        data = {name: np.asarray(image.dataobj, np.float32) for name, image in images.items()}
        inside = data["md"] > 0
        clipped = _clipped(given, data, inside, self.inputs.full_scale)
        moved = {name: to_grid(data[name], images[name].affine, grid) for name in data}
        moved["md"][to_grid(inside.astype(np.float32), images["md"].affine, grid) < 0.5] = 0
        for name, volume in moved.items():
            volume[moved["md"] == 0] = 0
            path = Path(runtime.cwd) / f"{name}.nii.gz"
            write_nifti(path, volume, grid.affine, template=True)
            self._results[name] = str(path)
        flags = self._quality(Path(runtime.cwd) / "qc.tsv", moved, template, clipped)
        self._results["quality"] = str(Path(runtime.cwd) / "qc.tsv")
        self._results["meta"] = {
            "Warnings": [*notes, *flags],
            "GivenSHA256": {path.name: file_hash(path) for path in given.values()},
        }
        return runtime

    def _quality(
        self, path: Path, maps: dict[str, np.ndarray], template: nib.Nifti1Image, clipped: float
    ) -> list[str]:
        brain = np.asarray(template.dataobj) > 0
        mask = maps["md"] > 0
        voxel_ml = np.abs(np.linalg.det(template.affine[:3, :3])) / 1000
        volume = float(mask.sum() * voxel_ml)
        overlap = float(2 * (mask & brain).sum() / (mask.sum() + brain.sum()))
        signal = np.asarray(template.dataobj, np.float32)[brain]
        flags = []
        if not MASK_ML[0] <= volume <= MASK_ML[1]:
            flags.append(f"unusual volume of the maps ({volume:.0f} ml)")
        if overlap < LEAST_OVERLAP:
            flags.append(f"the maps do not cover the template (Dice {overlap:.2f})")
        row = {
            "participant_id": f"sub-{self.inputs.participant}",
            "session_id": f"ses-{self.inputs.session}" if self.inputs.session else "n/a",
            "mask_volume_ml": round(volume, 1),
            "template_overlap": round(overlap, 4),
            "template_correlation": round(float(np.corrcoef(maps["fa"][brain], signal)[0, 1]), 4),
            "clipped_share": round(clipped, 5),
            "flags": "; ".join(flags) or "n/a",
        }
        write_table(path, pd.DataFrame([row]))
        return flags


def _pair(given: dict[str, Path]) -> tuple[dict[str, nib.Nifti1Image], list[str]]:
    """Both maps, readable and on one grid; a NaN background becomes 0, and is told of."""
    if not given["fa"].exists():
        raise InputError(f"{given['fa']}: missing; FA must lie beside {given['md'].name}")
    images, notes = {}, []
    for name, path in given.items():
        images[name], _, said = load_volume(path)
        notes += [f"{name}: {one}" for one in said]
    md, fa = images["md"], images["fa"]
    if md.shape != fa.shape or not np.allclose(md.affine, fa.affine, atol=1e-3):
        raise InputError(
            f"{given['fa']}: is on another grid ({'x'.join(map(str, fa.shape))} voxels) than "
            f"{given['md'].name} ({'x'.join(map(str, md.shape))}); resample one to the other"
        )
    return images, notes


def _clipped(
    given: dict[str, Path],
    data: dict[str, np.ndarray],
    inside: np.ndarray,
    full_scale: dict[str, float],
) -> float:
    """Largest share of a map's voxels outside of [0, 1] when scaled; too many are an error."""
    if not inside.any():
        raise InputError(f"{given['md']}: has no voxel above 0; export the map again")
    shares = {}
    for name, values in data.items():
        scaled = values[inside] / full_scale[name]
        shares[name] = float(((scaled < 0) | (scaled > 1)).mean())
        if shares[name] > MOST_CLIPPED:
            unit = "mm2/s" if name == "md" else "a share"
            raise InputError(
                f"{given[name]}: {shares[name]:.0%} of its voxels lie outside of [0, 1] when "
                f"divided by {full_scale[name]:g} (median {np.median(values[inside]):.3g}); it "
                f"must be in {unit}, so convert it"
            )
    return max(shares.values())
