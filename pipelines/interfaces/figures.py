"""Interfaces that draw; the drawing itself is in pipelines.figures."""

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
)

from pipelines.images import read_nifti


class QualityFiguresInputSpec(BaseInterfaceInputSpec):
    image = File(exists=True, mandatory=True, desc="native image")
    mask = File(exists=True, mandatory=True, desc="native brain mask")
    registered = File(exists=True, mandatory=True, desc="brain on the template grid")
    template = File(exists=True, mandatory=True)


class QualityFiguresOutputSpec(TraitedSpec):
    mask_figure = File(exists=True)
    registration_figure = File(exists=True)


class QualityFigures(SimpleInterface):
    """Brain mask over the image, and the registered brain under the template's edges."""

    input_spec = QualityFiguresInputSpec
    output_spec = QualityFiguresOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from pipelines.figures import mask_contour, registration_overlay, save

        image, mask, registered, template = (
            read_nifti(getattr(self.inputs, name))
            for name in ("image", "mask", "registered", "template")
        )
        cwd = Path(runtime.cwd)
        save(mask_contour(image, mask), cwd / "mask.png")
        # By its voxels: a brain that was not registered lies on the template's grid, elsewhere.
        on_grid = np.asarray(registered.dataobj), template.affine
        save(registration_overlay(on_grid, template), cwd / "registration.png")
        self._results["mask_figure"] = str(cwd / "mask.png")
        self._results["registration_figure"] = str(cwd / "registration.png")
        return runtime
