"""Interfaces of the analytics: one method over repeated trainings, and methods side by side."""

from pathlib import Path
from typing import Any

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
from pipelines import analytics
from pipelines.analytics import Brain, Ranked, Sheet
from pipelines.choices import JACOBIAN, SHARED_TOP
from pipelines.derivatives import label, read_table, write_table
from pipelines.follow_up import add_follow_up, measured_people
from pipelines.heatmaps import HeatmapNames, Regions, anatomy, sides_facts
from pipelines.interfaces.attribution import method_facts
from pipelines.interfaces.networks import read_cohort
from pipelines.interfaces.statistics import BRAIN_SHARE
from pipelines.interfaces.volumes import of_images
from pipelines.preprocess import modality_of
from pipelines.region_volumes import columns_of
from pipelines.retrainings import Retrainings
from pipelines.view import Mask, View

NO_VOLUMES = (
    "correlation with volume: no volumes are known. Put those of a region into a column of "
    'participants.tsv and name it in the recipe: [regions] volumes = {Hippocampus = "column"}, or '
    'let the nonlinear registration tell them: {Hippocampus = "jacobian"}.'
)


class _SharedInputSpec(BaseInterfaceInputSpec):
    scores = traits.List(File(exists=True), mandatory=True, desc="of every fold")
    predictions = File(exists=True, mandatory=True)
    cohort = File(exists=True, mandatory=True)
    cache = traits.Str(mandatory=True)
    content_hash = traits.Str(mandatory=True)
    classes = traits.List(traits.Str, mandatory=True, desc="negative, positive")
    modality = traits.Str("T1w", usedefault=True)
    model = traits.Str(mandatory=True)
    atlas = traits.Str(mandatory=True)


class AnalyseMethodInputSpec(_SharedInputSpec):
    attribution = traits.Dict(mandatory=True)
    region_tables = File(exists=True, mandatory=True, desc="of every person in every repeat")
    folds = traits.List(traits.Str, mandatory=True, desc="folders of ExplainFold")
    repeats = traits.List(traits.Int, mandatory=True, desc="repeat of each folder, from 1")
    volumes = traits.Dict({}, usedefault=True, desc="region -> column of the cohort, or jacobian")
    measured = File(exists=True, desc="image x region: volumes by the registration")
    min_cluster_mm3 = traits.Float(0.0, usedefault=True)
    exclude = traits.Dict({}, usedefault=True, desc="of pipelines.view.Mask; not clustered")
    covariates = traits.List(traits.Str, [], usedefault=True, desc="columns of the cohort")
    intensity = traits.Str("stored", usedefault=True, desc="scale of the images")
    splits = traits.List(traits.Dict, [], usedefault=True, desc="who was trained on")
    seed = traits.Int(mandatory=True)


class AnalyseMethodOutputSpec(TraitedSpec):
    distances = File(exists=True, desc="between the mean maps of trainings")
    products = traits.Dict


class AnalyseMethod(SimpleInterface):
    """Rankings with intervals, maps of outcomes, contrast, clusters, fingerprints of a method."""

    input_spec = AnalyseMethodInputSpec
    output_spec = AnalyseMethodOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from models.volumes import open_cache

        given, cwd = self.inputs, Path(runtime.cwd)
        cache = open_cache(Path(given.cache))
        people = _people(given)
        ipsilateral = cache.ipsilateral
        regions = Regions.on(given.atlas, cache.grid, ipsilateral=ipsilateral)
        names = HeatmapNames(
            given.model, given.classes[1], cache.grid, given.modality, ipsilateral=ipsilateral
        )
        facts = method_facts(given.attribution, given.classes[1], [f"model-{given.model}"])
        facts |= sides_facts(ipsilateral=ipsilateral)
        sheet = Sheet(
            cwd, names, given.attribution["name"], facts | _who(people, tuple(given.classes))
        )
        ranked = self._ranked(people)
        analytics.add_rankings(sheet, ranked, regions)
        analytics.add_fingerprints(sheet, ranked, regions)
        self._volumes(sheet, ranked, regions)
        brain = _brain(cache, people, View.of({"mask": given.exclude}).mask)
        distances = self._maps(sheet, people, regions, brain, cache)
        write_table(cwd / "distances.tsv", distances.assign(method=given.attribution["name"]))
        self._results["distances"] = str(cwd / "distances.tsv")
        self._results["products"] = _closed(sheet)
        return runtime

    def _ranked(self, people: Retrainings) -> Ranked:
        tables, classes = Path(self.inputs.region_tables), tuple(self.inputs.classes)
        plain, absolute = people.cube(tables), people.cube(tables, "absolute")
        return Ranked(people, plain, absolute, classes, self.inputs.seed)

    def _maps(
        self, sheet: Sheet, people: Retrainings, regions: Regions, brain: Brain, cache: Any
    ) -> pd.DataFrame:
        given, classes = self.inputs, tuple(self.inputs.classes)
        folds = [Path(one) for one in given.folds]
        maps = people.maps(folds, given.repeats, given.attribution["name"])
        analytics.add_contrast(sheet, maps, people, classes, brain)
        means, nobody = analytics.outcome_means(people, maps)
        sheet.missing.extend(f"mean map of {name}: nobody was one." for name in nobody)
        analytics.add_outcomes(sheet, means, people, brain)
        clusters = analytics.add_clusters(
            sheet, means, classes, brain, regions, given.min_cluster_mm3
        )
        kind = modality_of(given.modality)
        if clusters is not None and kind.measures is not None:
            cohort = read_cohort(given.cohort)
            measured = measured_people(
                *(cohort, cache, people, kind, list(given.covariates), given.intensity),
                splits=given.splits,
            )
            add_follow_up(sheet, *clusters, measured, classes, given.seed)
        return analytics.training_distances(sheet, means)

    def _volumes(self, sheet: Sheet, ranked: Ranked, regions: Regions) -> None:
        if not self.inputs.volumes:
            sheet.missing.append(NO_VOLUMES)
            return
        table = read_cohort(self.inputs.cohort).drop_duplicates("participant_id")
        table = table.set_index("participant_id").loc[ranked.people.names]
        absent = sorted(set(columns_of(self.inputs.volumes)) - set(table))
        if absent:
            raise InputError(f"[regions] volumes: participants.tsv has no column '{absent[0]}'.")
        measures = {
            region: self._measured(region, ranked)
            if column == JACOBIAN
            else pd.to_numeric(table[column], errors="coerce")
            for region, column in self.inputs.volumes.items()
        }
        analytics.add_volumes(sheet, ranked, regions, measures)

    def _measured(self, region: str, ranked: Ranked) -> pd.Series:
        table = read_table(Path(self.inputs.measured))
        return of_images(table, ranked.people.keys, region)


class CompareMethodsInputSpec(_SharedInputSpec):
    names = traits.List(traits.Str, mandatory=True, desc="of the attributions")
    methods = traits.List(traits.Str, mandatory=True, desc="the method of each")
    region_tables = traits.List(File(exists=True), mandatory=True, desc="of each")
    distances = traits.List(File(exists=True), mandatory=True, desc="of each")


class CompareMethodsOutputSpec(TraitedSpec):
    products = traits.Dict


class CompareMethods(SimpleInterface):
    """How alike methods are, and the trainings of each method."""

    input_spec = CompareMethodsInputSpec
    output_spec = CompareMethodsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from models.volumes import open_cache
        from pipelines.charts import overlap_matrix

        given = self.inputs
        people = _people(given)
        cache = open_cache(Path(given.cache))
        ipsilateral = cache.ipsilateral
        names = HeatmapNames(
            given.model, given.classes[1], cache.grid, given.modality, ipsilateral=ipsilateral
        )
        facts = _who(people, tuple(given.classes)) | {
            "Methods": dict(zip(given.names, given.methods, strict=True)),
            "Top": SHARED_TOP,
            "Intervals": "95 %, Student's t over trainings; delete-one jackknife for their pairs; "
            "of shares cut at 0 and 1, of distances at 0",
        }
        sheet = Sheet(Path(runtime.cwd), names, "", facts)
        cubes = {
            name: (people.cube(Path(tables)), people.cube(Path(tables), "absolute"))
            for name, tables in zip(given.names, given.region_tables, strict=True)
        }
        atlas = label(Regions.on(given.atlas, names.grid, ipsilateral=ipsilateral).atlas.name)
        overlap = analytics.overlaps(sheet, cubes, people)
        what: dict[str, Any] = {
            "Description": "Share of the top regions that two runs have in common"
        }
        sheet.table(overlap, what, atlas=atlas, desc="overlap")
        sums = overlap[overlap["metric"] == "sum"]
        drawn = overlap_matrix(sums, _in_words(given.names, given.methods))
        sheet.figure(drawn, atlas=atlas, desc="overlap")
        distances = pd.concat([read_table(Path(one)) for one in given.distances])
        what = {
            "Description": "L2 distance between the mean maps of two trainings, each over its "
            "maximum, mean over all pairs; it grows with the number of voxels",
            "Voxels": int(np.prod(names.grid.shape)),
        }
        sheet.table(distances[["method", *analytics.DISTANCES]], what, desc="distances")
        self._results["products"] = _closed(sheet)
        return runtime


def _in_words(names: list[str], methods: list[str]) -> dict[str, str]:
    """Attributions by name; what a method is called, where it is in the recipe once."""
    return {
        name: method.replace("_", " ") if methods.count(method) == 1 else name
        for name, method in zip(names, methods, strict=True)
    }


def _people(given: Any) -> Retrainings:
    scores = [Path(one) for one in given.scores]
    return Retrainings.read(Path(given.predictions), scores, given.classes[1])


def _who(people: Retrainings, classes: tuple[str, ...]) -> dict[str, Any]:
    """Whom the numbers are of, and what their intervals leave out."""
    limits = [analytics.SHARED_NETWORK]
    limits += [analytics.ONE_TRAINING] if people.repeats == 1 else []
    return {
        "OutOfFold": True,
        "Trainings": people.repeats,
        "Participants": {
            name: int((people.positive == is_positive).sum())
            for name, is_positive in zip(classes, (False, True), strict=True)
        },
        "Limits": limits,
    }


def _closed(sheet: Sheet) -> dict[str, Any]:
    """The products; every sidecar says what could not be computed."""
    missing = list(dict.fromkeys(sheet.missing))
    for product in sheet.products.values():
        if product["sidecar"] is not None:
            product["sidecar"]["NotComputed"] = missing
    return sheet.products


def _brain(cache: Any, people: Retrainings, exclude: Mask) -> Brain:
    """Mean image and common brain of the people, one image in memory at a time."""
    mean, share = np.zeros(cache.grid.shape), np.zeros(cache.grid.shape)
    rows = cache.rows(people.keys)
    for row in rows:
        image = np.asarray(cache.volumes[row, 0], np.float32)
        mean += image / len(rows)
        share += (image != 0) / len(rows)
    mask = share >= BRAIN_SHARE - 1e-9
    if not mask.any():
        raise InputError("the people's brains do not overlap: look at the registration figures")
    background = anatomy(mean, cache.grid.affine, ipsilateral=cache.ipsilateral)
    return Brain(background, mask, exclude.voxels(cache.grid, symmetric=cache.ipsilateral))
