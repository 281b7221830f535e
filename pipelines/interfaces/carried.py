"""Interfaces that take maps of images that were not registered to the template, for the group.

The network saw each brain where it lies; only what came out is registered (``post`` in
Estudillo-Romero et al. 2022).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nibabel.affines import apply_affine
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from scipy.ndimage import map_coordinates

from models.errors import InputError
from models.grids import Grid
from pipelines.derivatives import SPACE, grid_sidecar, read_table, relative_path, write_table
from pipelines.heatmaps import HeatmapNames, Products, Regions, anatomy, turned
from pipelines.images import input_affine, write_nifti
from pipelines.interfaces.networks import prediction_keys
from pipelines.interfaces.summaries import mean_products, stack_of
from pipelines.interfaces.volumes import displacement

BRAIN, SHOWN, MIRRORED = "brain", "shown", "mirrored"  # beside the maps in a person's file
LEAST_WEIGHT = 0.5  # of what is mixed into a voxel must be brain


# --- one person ----------------------------------------------------------------------------------


class CarryMapsInputSpec(BaseInterfaceInputSpec):
    participant = traits.Str(mandatory=True)
    session = traits.Str("", usedefault=True)
    image = File(exists=True, mandatory=True, desc="what the network's input was made of")
    transform = File(exists=True, mandatory=True, desc="points of the template to the person's")
    cache = traits.Str(mandatory=True)
    content_hash = traits.Str(mandatory=True)
    predictions = File(exists=True, mandatory=True, desc="rows of the stacks")
    facts = traits.List(File(exists=True), mandatory=True, desc="of SummariseMethod, of each name")
    names = traits.List(traits.Str, mandatory=True, desc="of the heatmaps")
    maps = traits.List(traits.Str, mandatory=True, desc="of the images' own maps to take along")
    modality = traits.Str(mandatory=True)


class CarryMapsOutputSpec(TraitedSpec):
    out_file = traits.Str(desc="npz: each map and `brain` on the grid; '' of who has no maps")


class CarryMaps(SimpleInterface):
    """Heatmaps of one person, and maps of the image itself, through one transform."""

    input_spec = CarryMapsInputSpec
    output_spec = CarryMapsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from models.volumes import open_cache

        given, cwd = self.inputs, Path(runtime.cwd)
        cache = open_cache(Path(given.cache))
        keys = prediction_keys(read_table(Path(given.predictions)))
        key = (given.participant, given.session)
        self._results["out_file"] = ""
        if key not in keys:
            return runtime
        (row,), place = cache.rows([key]), keys.index(key)
        mirrored = cache.ipsilateral and cache.mirrored[row]
        volume = np.asarray(cache.volumes[row], np.float32)
        maps = {
            name: stack_of(facts)[place]
            for name, facts in zip(given.names, given.facts, strict=True)
        } | self._own(volume)
        brain = turned(np.any(volume != 0, axis=0), mirrored)
        where = self._where(cache.grid, cwd)
        weight = map_coordinates(brain.astype(np.float32), where, order=1)
        inside = weight >= LEAST_WEIGHT
        moved = {BRAIN: turned(inside, mirrored), MIRRORED: np.array(mirrored)}
        for name, one in {SHOWN: volume[0], **maps}.items():
            mixed = map_coordinates(turned(one, mirrored) * brain, where, order=1)
            kept = np.where(inside, mixed / np.maximum(weight, LEAST_WEIGHT), 0)
            moved[name] = turned(kept.astype(np.float32), mirrored)
        np.savez(cwd / "maps.npz", allow_pickle=False, **moved)
        self._results["out_file"] = str(cwd / "maps.npz")
        return runtime

    def _own(self, volume: np.ndarray) -> dict[str, np.ndarray]:
        from pipelines.preprocess import modality_of

        makers = modality_of(self.inputs.modality).maps
        return {name: makers[name](volume) for name in self.inputs.maps}

    def _where(self, grid: Grid, cwd: Path) -> np.ndarray:
        """Voxels of the person's maps (3, x, y, z) at which the template's voxels lie."""
        points = apply_affine(grid.affine, np.moveaxis(np.indices(grid.shape), 0, -1))
        there = points + displacement(self.inputs.transform, grid, cwd)
        own = np.linalg.inv(input_affine(self.inputs.image, grid))
        return np.moveaxis(apply_affine(own, there), -1, 0)


# --- everybody -----------------------------------------------------------------------------------


class GatherMapsInputSpec(BaseInterfaceInputSpec):
    files = traits.List(traits.Str, mandatory=True, desc="of CarryMaps")
    participants = traits.List(traits.Str, mandatory=True)
    sessions = traits.List(traits.Str, mandatory=True)
    predictions = File(exists=True, mandatory=True)
    attributions = traits.List(traits.Dict, mandatory=True)
    maps = traits.List(traits.Str, mandatory=True)
    grid = traits.Dict(mandatory=True)
    classes = traits.List(traits.Str, mandatory=True)
    model = traits.Str(mandatory=True)
    modality = traits.Str(mandatory=True)
    atlas = traits.Str(mandatory=True)
    ipsilateral = traits.Bool(False, usedefault=True)


class GatherMapsOutputSpec(TraitedSpec):
    stacks = traits.List(File(exists=True), desc="of the heatmaps, then of the other maps")
    brain = File(exists=True, desc="(2, x, y, z): share of people with brain, mean first channel")
    people = File(exists=True, desc="rows of the stacks, as predictions")
    products = traits.List(traits.Dict)


class GatherMaps(SimpleInterface):
    """Stacks for the tests, everybody's maps as derivatives, means and tables of regions."""

    input_spec = GatherMapsInputSpec
    output_spec = GatherMapsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        given, cwd = self.inputs, Path(runtime.cwd)
        grid = Grid(**{**given.grid, **{k: tuple(given.grid[k]) for k in ("shape", "origin_mm")}})
        table = read_table(Path(given.predictions))
        keys = list(zip(given.participants, given.sessions, strict=True))
        files = {key: file for key, file in zip(keys, given.files, strict=True) if file}
        kept = [i for i, key in enumerate(prediction_keys(table)) if key in files]
        if not kept:
            raise InputError("nobody's maps could be carried to the template: see the warnings")
        people = table.iloc[kept].reset_index(drop=True)
        write_table(cwd / "people.tsv", people)
        ordered = [files[key] for key in prediction_keys(people)]
        names = [one["name"] for one in given.attributions]
        stacks = self._stack(cwd, ordered, [*names, *given.maps], grid)
        share, shown = (_mean(ordered, name) for name in (BRAIN, SHOWN))
        np.save(cwd / "brain.npy", np.stack([share, shown]).astype(np.float32))
        mirrored = [bool(np.load(file)[MIRRORED]) for file in ordered]
        self._results |= {
            "stacks": stacks,
            "brain": str(cwd / "brain.npy"),
            "people": str(cwd / "people.tsv"),
            "products": [
                self._products(
                    cwd, one, people, np.load(stack, mmap_mode="r"), grid, shown, mirrored
                )
                for one, stack in zip(given.attributions, stacks, strict=False)
            ],
        }
        return runtime

    def _stack(self, cwd: Path, files: list[str], names: list[str], grid: Grid) -> list[str]:
        """Stacks (people, x, y, z) of each name; one person in memory at a time."""
        paths = [str(cwd / f"{name}.npy") for name in names]
        shape = (len(files), *grid.shape)
        stacks = [
            np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            for path in paths
        ]
        for place, file in enumerate(files):
            with np.load(file) as maps:
                for name, stack in zip(names, stacks, strict=True):
                    stack[place] = maps[name]
        for stack in stacks:
            stack.flush()
        return paths

    def _products(
        self,
        cwd: Path,
        attribution: dict[str, Any],
        people: pd.DataFrame,
        maps: np.ndarray,
        grid: Grid,
        shown: np.ndarray,
        mirrored: list[bool],
    ) -> Products:
        given = self.inputs
        sides = {"ipsilateral": given.ipsilateral}
        names = HeatmapNames(given.model, given.classes[1], grid, given.modality, SPACE, **sides)
        regions = Regions.on(given.atlas, grid, **sides)
        own = replace(names, ipsilateral=False)  # one person's map is shown as the person is
        products: Products = {}
        for key, one, turn in zip(prediction_keys(people), maps, mirrored, strict=True):
            products |= self._person(cwd, key, attribution["name"], turned(one, turn), own)
        tables = [regions.table(one) for one in maps]
        background = anatomy(shown, grid.affine, **sides)
        return products | mean_products(
            cwd, people, maps, tables, names, regions, background, attribution, given.classes
        )

    def _person(
        self,
        cwd: Path,
        key: tuple[str, str],
        method: str,
        volume: np.ndarray,
        names: HeatmapNames,
    ) -> Products:
        ids = {"sub": key[0], "ses": key[1]}
        path = relative_path("heatmap", ".nii.gz", {**ids, **names.image(method)})
        write_nifti(cwd / Path(path).name, volume, names.grid.affine, template=True)
        sidecar = {
            "Description": "Heatmap of an image that was not registered, taken to the template",
            "Method": method,
            "OutOfFold": True,
            "Interpolation": "linear, once, through the transform of the T1w image",
            "SkullStripped": True,
            **grid_sidecar(names.grid),
        }
        return {path: {"file": str(cwd / Path(path).name), "sidecar": sidecar}}


def _mean(files: list[str], name: str) -> np.ndarray:
    """Mean over people of one of their maps; one file at a time."""
    total = 0.0
    for file in files:
        with np.load(file) as maps:
            total = total + maps[name].astype(np.float64)
    return np.asarray(total) / len(files)
