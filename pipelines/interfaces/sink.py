"""The sink: puts a workflow's results into the output folder, all of them or none."""

from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    DynamicTraitedSpec,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from pipelines.derivatives import has_sidecar, place, sidecar_path, write_json


class SaveInputSpec(DynamicTraitedSpec, BaseInterfaceInputSpec):
    output_dir = traits.Str(mandatory=True)
    paths = traits.Dict(mandatory=True, desc="input name -> path below output_dir")
    sidecars = traits.Dict(desc="input name -> static part of its sidecar")
    common = traits.Dict(desc="fields of every sidecar")
    narrow = traits.Dict({}, usedefault=True, desc="*_meta input -> the only names it is about")
    spared = traits.List(traits.Str, [], usedefault=True, desc="names that may lack a file")


class SaveOutputSpec(TraitedSpec):
    saved = traits.Dict(desc="input name -> absolute path")


class SaveDerivatives(SimpleInterface):
    """Copy files to their BIDS names; inputs named ``*_meta`` are merged into every sidecar.

    The files are named by ``paths``; its last entry is written last and so marks the set as
    complete. Every file appears in one step under its name. What is ``spared`` and has no file is
    listed as ``NotMade`` in the last one's sidecar, and an older file of that name is removed.
    """

    input_spec = SaveInputSpec
    output_spec = SaveOutputSpec

    def __init__(self, names: tuple[str, ...] = (), **inputs: Any) -> None:
        super().__init__(**inputs)
        for name in names:
            self.inputs.add_trait(name, traits.Any)
            setattr(self.inputs, name, traits.Undefined)

    def _run_interface(self, runtime: Any) -> Any:
        values = {name: value for name, value in self.inputs.get().items() if isdefined(value)}
        metas = {name: value for name, value in values.items() if name.endswith("_meta")}
        narrow, saved = self.inputs.narrow, {}
        lacking = [name for name in self.inputs.spared if name not in values]
        self._remove(lacking)
        paths = {name: path for name, path in self.inputs.paths.items() if name not in lacking}
        if lacking:
            metas["lacking_meta"] = {"NotMade": lacking}
            narrow = narrow | {"lacking_meta": [list(paths)[-1]]}
        for name, relative in paths.items():
            target = Path(self.inputs.output_dir) / relative
            static = values.get("sidecars", {}).get(name, {})
            measured = _merge([m for what, m in metas.items() if name in narrow.get(what, [name])])
            place(values[name], target)
            if has_sidecar(relative):
                write_json(sidecar_path(target), {**values.get("common", {}), **measured, **static})
            saved[name] = str(target)
        self._results["saved"] = saved
        return runtime

    def _remove(self, names: list[str]) -> None:
        """Unlink what an earlier run has left under the names of files that were not made."""
        for name in names:
            target = Path(self.inputs.output_dir) / self.inputs.paths[name]
            target.unlink(missing_ok=True)
            sidecar_path(target).unlink(missing_ok=True)


def _merge(metas: list[dict[str, Any]]) -> dict[str, Any]:
    """Join dictionaries; lists of warnings add up."""
    warnings = [warning for meta in metas for warning in meta.get("Warnings", [])]
    merged = {key: value for meta in metas for key, value in meta.items()}
    return merged | {"Warnings": warnings}


class SaveProductsInputSpec(BaseInterfaceInputSpec):
    output_dir = traits.Str(mandatory=True)
    products = traits.List(traits.Dict, mandatory=True, desc="path -> file and sidecar")
    common = traits.Dict({}, usedefault=True, desc="fields of every sidecar")


class SaveProductsOutputSpec(TraitedSpec):
    saved = traits.List(traits.Str, desc="absolute paths")


class SaveProducts(SimpleInterface):
    """Copy the files that nodes hand on as ``products`` to their BIDS names."""

    input_spec = SaveProductsInputSpec
    output_spec = SaveProductsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        saved = []
        self._retire_card()
        for products in self.inputs.products:
            for relative, product in products.items():
                target = Path(self.inputs.output_dir) / relative
                if product["sidecar"] is not None:
                    write_json(sidecar_path(target), self._common(relative) | product["sidecar"])
                place(product["file"], target)
                saved.append(str(target))
        self._results["saved"] = saved
        return runtime

    def _common(self, relative: str) -> dict[str, Any]:
        """Fields of every sidecar; BIDS knows masks, and wants their SoftwareVersions in words."""
        common = dict(self.inputs.common)
        versions = common.get("SoftwareVersions")
        if relative.endswith("_mask.nii.gz") and isinstance(versions, dict):
            common["SoftwareVersions"] = ", ".join(f"{k} {v}" for k, v in versions.items())
        return common

    def _retire_card(self) -> None:
        """Unlink an old model card first: without one, half a model is not taken for a whole."""
        for products in self.inputs.products:
            for relative in products:
                if relative.endswith("_modelcard.json"):
                    (Path(self.inputs.output_dir) / relative).unlink(missing_ok=True)
