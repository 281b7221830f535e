"""Interfaces on antspyx: bias field, registration, resampling. Deterministic, one ITK thread."""

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from pipelines.images import read_nifti, write_nifti
from pipelines.transforms import chained

N4_SHRINK, N4_FEWEST_VOXELS = 4, 8
TRANSFORMS = {"linear": "Affine", "nonlinear": "SyN"}
BY_OWN = " to the template given, and from there by its SyN to MNI"


def deterministic_ants(seed: int) -> Any:
    """Import antspyx with results that repeat bit by bit.

    ``ants.registration(random_seed=)`` alone is ignored; the deterministic mode also forces one
    ITK thread, so work runs in parallel over processes.
    """
    import ants

    ants.config.set_ants_deterministic(True, seed_value=seed)
    return ants


class BiasFieldInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    seed = traits.Int(1, usedefault=True)


class BiasFieldOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="corrected image")


class BiasField(SimpleInterface):
    """N4 bias field correction inside the mask (Tustison et al. 2010)."""

    input_spec = BiasFieldInputSpec
    output_spec = BiasFieldOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        ants = deterministic_ants(self.inputs.seed)
        image = ants.image_read(self.inputs.in_file)
        mask = ants.image_read(self.inputs.mask)
        # The field is smooth: every fourth voxel will do, unless an axis is short.
        shrink = max(1, min(N4_SHRINK, min(image.shape) // N4_FEWEST_VOXELS))
        corrected = ants.n4_bias_field_correction(image, mask=mask, shrink_factor=shrink)
        source = read_nifti(self.inputs.in_file)
        out_file = Path(runtime.cwd) / "corrected.nii.gz"
        # Voxels through numpy and the affine of the input: no rounding of the header on the way.
        write_nifti(out_file, corrected.numpy(), source.affine)
        self._results["out_file"] = str(out_file)
        return runtime


class RegisterInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="native image, skull on")
    mask = File(exists=True, mandatory=True, desc="native brain mask")
    template = File(exists=True, mandatory=True, desc="template brain, its grid is the result's")
    how = traits.Enum("nonlinear", "linear", usedefault=True)
    seed = traits.Int(1, usedefault=True)
    own_template = File(exists=True, desc="another brain to go by")
    mni_to_own = File(exists=True, desc="transform of points of the template to it")
    own_to_mni = File(exists=True, desc="its inverse")


class RegisterOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="brain on the template grid")
    out_mask = File(exists=True, desc="brain mask on the template grid")
    to_template = File(exists=True, desc="composite transform, native points to template")
    to_native = File(exists=True, desc="its inverse")
    meta = traits.Dict


class Register(SimpleInterface):
    """Affine, or affine and SyN (Avants et al. 2008), of the brain to the template brain.

    By another brain where one is given: to that, and by its transform to the template.
    """

    input_spec = RegisterInputSpec
    output_spec = RegisterOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        ants = deterministic_ants(self.inputs.seed)
        cwd = Path(runtime.cwd)
        template = ants.image_read(self.inputs.template)
        mask = ants.image_read(self.inputs.mask)
        brain = ants.image_read(self.inputs.in_file) * mask
        own = self.inputs.own_template
        found = ants.registration(
            ants.image_read(own) if isdefined(own) else template,
            brain,
            type_of_transform=TRANSFORMS[self.inputs.how],
            outprefix=str(cwd / "to_template_"),
            write_composite_transform=True,
        )
        to_template, to_native = self._chained(found["fwdtransforms"], found["invtransforms"], cwd)
        transform = [to_template]
        warped = ants.apply_transforms(template, brain, transform, interpolator="linear")
        warped_mask = ants.apply_transforms(
            template, mask, transform, interpolator="nearestNeighbor"
        )
        affine = read_nifti(self.inputs.template).affine
        inside = warped_mask.numpy() > 0
        image = np.where(inside, warped.numpy(), 0)
        write_nifti(cwd / "registered.nii.gz", image, affine, template=True)
        write_nifti(cwd / "registered_mask.nii.gz", inside, affine, template=True)
        self._results |= {
            "out_file": str(cwd / "registered.nii.gz"),
            "out_mask": str(cwd / "registered_mask.nii.gz"),
            "to_template": to_template,
            "to_native": to_native,
            "meta": {
                "Registration": f"ANTs {TRANSFORMS[self.inputs.how]}" + BY_OWN * isdefined(own),
                "Interpolation": "linear (mask: nearest neighbour)",
                "Determinism": "bitwise on the same machine (one ITK thread, fixed seed)",
            },
        }
        return runtime

    def _chained(self, there: str, back: str, cwd: Path) -> tuple[str, str]:
        """The way to the template and back, by the other brain where there is one."""
        given = self.inputs
        if not isdefined(given.own_template):
            return there, back
        to_template = chained([given.mni_to_own, there], cwd / "to_template.h5")
        to_native = chained([back, given.own_to_mni], cwd / "to_native.h5")
        return str(to_template), str(to_native)
