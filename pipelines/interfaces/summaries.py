"""Interfaces of what is made of the folds' maps: one method over the cohort, each person's own."""

import json
from collections.abc import Sequence
from dataclasses import replace
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

from pipelines.derivatives import (
    SPACE,
    derivative_uri,
    file_hash,
    label,
    read_table,
    relative_path,
    write_table,
)
from pipelines.heatmaps import (
    HeatmapNames,
    Products,
    Regions,
    Seen,
    anatomy,
    ledger_facts,
    mirror_facts,
    person_products,
    sides_facts,
    turned,
    turned_sums,
)
from pipelines.images import write_nifti
from pipelines.interfaces.attribution import explained_facts, method_facts
from pipelines.interfaces.networks import prediction_keys, read_cohort

STACK = "stack.npy"
BLOCK = 12
"""People whose maps one node draws: enough to outweigh a node's start, few enough to share out."""


class OfMethodInputSpec(BaseInterfaceInputSpec):
    """What is known of one method and the people whom it explains."""

    attribution = traits.Dict(mandatory=True)
    predictions = File(exists=True, mandatory=True)
    cohort = File(exists=True, mandatory=True)
    cache = traits.Str(mandatory=True)
    content_hash = traits.Str(mandatory=True)
    classes = traits.List(traits.Str, mandatory=True, desc="negative, positive")
    model = traits.Str(mandatory=True)
    modality = traits.Str("T1w", usedefault=True)
    atlas = traits.Str(mandatory=True)
    space = traits.Str(SPACE, usedefault=True, desc="of the images")


class SummariseMethodInputSpec(OfMethodInputSpec):
    folds = traits.List(traits.Str, mandatory=True, desc="folders of ExplainFold")
    repeats = traits.List(traits.Int, mandatory=True, desc="repeat of each folder, from 1")


class SummariseMethodOutputSpec(TraitedSpec):
    stack = File(exists=True, desc="(people, x, y, z) maps, rows as in `people`")
    people = File(exists=True, desc="participant, class and fold of each row")
    facts = File(exists=True, desc="what `stack_of` takes; ledgers, folds, the controls' sums")
    region_tables = File(exists=True, desc="of every person in every repeat")
    products = traits.Dict(desc="of the group")


class SummariseMethod(SimpleInterface):
    """One method over the cohort: stack of mean maps, class means, region tables.

    Images that were not registered have each person's map alone.
    """

    input_spec = SummariseMethodInputSpec
    output_spec = SummariseMethodOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from models.volumes import mean_volume, open_cache

        cwd = Path(runtime.cwd)
        cache = open_cache(Path(self.inputs.cache))
        table = read_table(Path(self.inputs.predictions))
        keys = prediction_keys(table)
        maps, ledgers, folds = self._gather(keys, cache.grid.shape, cwd / STACK)
        write_table(cwd / "people.tsv", table[["participant_id", "session_id", "label", "fold"]])
        self._results |= {"stack": str(cwd / STACK), "people": str(cwd / "people.tsv")}
        facts: dict[str, Any] = {"stack": file_hash(cwd / STACK), "control_sums": None}
        facts |= {"ledgers": ledgers, "folds": folds}
        sides = {"ipsilateral": cache.ipsilateral}
        regions = Regions.of_space(self.inputs.space, self.inputs.atlas, cache.grid, **sides)
        self._results["products"] = {}
        if regions is not None:
            tables = [regions.table(one) for one in maps]
            facts["control_sums"] = self._control_sums(table, tables)
            write_table(cwd / "regions.tsv", self._per_repeat(regions))
            self._results["region_tables"] = str(cwd / "regions.tsv")
            mean = mean_volume(cache.volumes[:, 0], cache.rows(keys))
            background = anatomy(mean, cache.grid.affine, **sides)
            names = replace(_names(self.inputs, cache), ipsilateral=cache.ipsilateral)
            given = self.inputs
            self._results["products"] = mean_products(
                cwd, table, maps, tables, names, regions, background,
                given.attribution, given.classes,
            )  # fmt: skip
        (cwd / "facts.json").write_text(json.dumps(facts))
        self._results["facts"] = str(cwd / "facts.json")
        return runtime

    def _control_sums(self, table: pd.DataFrame, tables: list[pd.DataFrame]) -> list | None:
        """Mean sum of the controls per region; None without controls."""
        controls = table["label"] == self.inputs.classes[0]
        sums = [one["sum"] for one, use in zip(tables, controls, strict=True) if use]
        return [float(one) for one in np.mean(sums, axis=0)] if sums else None

    def _per_repeat(self, regions: Regions) -> pd.DataFrame:
        """Region table of every person in every repeat, one below the other."""
        name, tables = self.inputs.attribution["name"], []
        for folder, repeat in zip(map(Path, self.inputs.folds), self.inputs.repeats, strict=True):
            keys = json.loads((folder / "index.json").read_text())["keys"]
            maps = np.load(folder / f"{name}.npy", mmap_mode="r")
            for (sub, ses), one in zip(keys, maps, strict=True):
                strength = regions.table(np.abs(one))["sum"]
                found = regions.table(one).assign(absolute=strength)
                tables.append(found.assign(repeat=repeat, sub=sub, ses=ses))
        columns = ["repeat", "sub", "ses", "index", "name", "voxels", "sum", "absolute"]
        return pd.concat(tables, ignore_index=True)[columns]

    def _gather(
        self, keys: list[tuple[str, str]], shape: tuple[int, int, int], stack: Path
    ) -> tuple[np.ndarray, list[list[dict[str, float]]], list[list[int]]]:
        """Mean map per image over the folds that tested it, with ledgers and fold numbers.

        The maps are in a file, ``stack``: those of thousands of people do not fit into memory.
        """
        name = self.inputs.attribution["name"]
        where = {key: row for row, key in enumerate(keys)}
        maps = np.lib.format.open_memmap(
            stack, mode="w+", dtype=np.float32, shape=(len(keys), *shape)
        )
        ledgers: list[list[dict[str, float]]] = [[] for _ in keys]
        folds: list[list[int]] = [[] for _ in keys]
        for folder in map(Path, self.inputs.folds):
            index = json.loads((folder / "index.json").read_text())
            found = np.load(folder / f"{name}.npy", mmap_mode="r")
            for i, key in enumerate(index["keys"]):
                row = where[tuple(key)]
                maps[row] += found[i]
                ledgers[row].append(index[name][i])
                folds[row].append(index["fold"])
        for row, numbers in enumerate(folds):
            maps[row] /= max(len(numbers), 1)
        maps.flush()
        return maps, ledgers, folds


def stack_of(facts: str | Path) -> np.ndarray:
    """The maps (people, x, y, z) of a method, by the facts that SummariseMethod wrote.

    They hold the hash of the maps, which lie beside them: nipype reads every file that is an input
    of a node to know whether it changed, and a node for each person would read everybody's maps.
    """
    return np.load(Path(facts).with_name(STACK), mmap_mode="r")


def mean_products(
    cwd: Path,
    table: pd.DataFrame,
    maps: np.ndarray,
    tables: list[pd.DataFrame],
    names: HeatmapNames,
    regions: Regions,
    background: nib.Nifti1Image,
    attribution: dict[str, Any],
    classes: Sequence[str],
) -> Products:
    """Mean map and table of regions of each class, with their pictures.

    Parameters
    ----------
    table : DataFrame
        Label of each row of ``maps``.
    maps : (people, x, y, z) array
    tables : list of DataFrame
        Regions of each map.
    background : Nifti1Image
        For the pictures.
    """
    from models.regions import group_region_table
    from models.volumes import mean_volume
    from pipelines.charts import region_ranking
    from pipelines.figures import overlay_limits, plot_slices, save

    method, grid = attribution["name"], names.grid
    negative, positive = classes
    facts = method_facts(attribution, positive, [f"model-{names.model}"])
    facts |= sides_facts(ipsilateral=names.ipsilateral)
    products: Products = {}
    per_class: dict[str, list[pd.DataFrame]] = {}
    members = {one: (table["label"] == one).to_numpy() for one in (positive, negative)}
    means = {one: mean_volume(maps, np.flatnonzero(chosen)) for one, chosen in members.items()}
    limits = overlay_limits(means[positive])
    for one, chosen in members.items():
        per_class[one] = [t for t, use in zip(tables, chosen, strict=True) if use]
        path = relative_path(
            "heatmap", ".nii.gz", names.image(method, stat="mean", desc=label(one))
        )
        figure = f"group/figures/{Path(path).name.removesuffix('.nii.gz')}.png"
        mean = write_nifti(
            cwd / Path(path).name,
            means[one],
            grid.affine,
            template=True,
            ipsilateral=names.ipsilateral,
        )
        drawn = plot_slices(
            background, mean, overlay_range=limits, title=f"mean of {one}", units="relevance"
        )
        save(drawn, cwd / Path(figure).name)
        products[path] = {
            "file": str(cwd / Path(path).name),
            "sidecar": facts
            | {
                "Description": f"Mean out-of-fold heatmap of {int(chosen.sum())} {one}",
                "People": int(chosen.sum()),
                "Resolution": grid.description,
            },
        }
        products[figure] = {"file": str(cwd / Path(figure).name), "sidecar": None}
    ranking = group_region_table(per_class, control=negative)
    entities = names.entities(method, atlas=label(regions.atlas.name))
    path = relative_path("heatmap", ".tsv", entities)
    write_table(cwd / Path(path).name, ranking)
    figure = f"group/figures/{Path(path).stem}.png"
    save(region_ranking(ranking, (positive, negative)), cwd / Path(figure).name)
    products[path] = {"file": str(cwd / Path(path).name), "sidecar": facts | regions.sidecar}
    products[figure] = {"file": str(cwd / Path(figure).name), "sidecar": None}
    return products


class PersonMapsInputSpec(OfMethodInputSpec):
    facts = File(exists=True, mandatory=True, desc="of SummariseMethod")
    block = traits.List(traits.Int, mandatory=True, desc="first row, and how many rows to the next")


class PersonMapsOutputSpec(TraitedSpec):
    products = traits.Dict


class PersonMaps(SimpleInterface):
    """The own map of each person of a block: image, figure, region table.

    A person's map is shown as the person is; those of the group are as the network saw them.
    """

    input_spec = PersonMapsInputSpec
    output_spec = PersonMapsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from models.volumes import open_cache

        given, cwd = self.inputs, Path(runtime.cwd)
        cache = open_cache(Path(given.cache))
        keys = prediction_keys(read_table(Path(given.predictions)))
        maps = stack_of(given.facts)
        facts = json.loads(Path(given.facts).read_text())
        sums = None if facts["control_sums"] is None else pd.Series(facts["control_sums"])
        names, rows = _names(given, cache), cache.rows(keys)
        regions = Regions.of_space(given.space, given.atlas, cache.grid)
        cohort = read_cohort(given.cohort)
        images = dict(zip(prediction_keys(cohort), cohort["image"], strict=True))
        first, step = given.block
        products: Products = {}
        for i in range(first, len(keys), step):
            image, mirrored = images[keys[i]], bool(cache.ipsilateral and cache.mirrored[rows[i]])
            volume = np.asarray(cache.volumes[rows[i], 0], np.float32)
            products |= person_products(
                cwd,
                dict(zip(("sub", "ses"), keys[i], strict=True)),
                given.attribution["name"],
                turned(np.array(maps[i]), mirrored),
                self._facts(image, facts["ledgers"][i], facts["folds"][i])
                | mirror_facts(mirrored, ipsilateral=cache.ipsilateral),
                names,
                regions,
                Seen.of(turned(volume, mirrored), image, cache.grid),
                turned_sums(sums, regions, mirrored),
            )
        self._results["products"] = products
        return runtime

    def _facts(self, image: str, ledgers: list[dict], folds: list[int]) -> dict[str, Any]:
        attribution, classes = self.inputs.attribution, self.inputs.classes
        models = [f"model-{self.inputs.model}_fold-{number}" for number in folds]
        return method_facts(attribution, classes[1], models) | {
            "Sources": [derivative_uri(image)],
            "OutOfFold": True,
            **explained_facts(attribution, ledgers, classes),
            **ledger_facts(ledgers),
        }


def _names(given: Any, cache: Any) -> HeatmapNames:
    return HeatmapNames(given.model, given.classes[1], cache.grid, given.modality, given.space)
