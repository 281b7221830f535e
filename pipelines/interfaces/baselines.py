"""Interfaces of the baselines: what they look at, one fold of all of them, the network beside."""

import json
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
from pipelines import comparison
from pipelines.baselines import ALPHA, LESION_ML, titles
from pipelines.derivatives import read_table, write_table
from pipelines.heatmaps import Products, Regions
from pipelines.interfaces.networks import (
    OOF,
    group_figures,
    prediction_keys,
    read_cohort,
    rows_of,
)
from pipelines.interfaces.volumes import of_images


class BaselineFeaturesInputSpec(BaseInterfaceInputSpec):
    cache = traits.Str(mandatory=True)
    content_hash = traits.Str(mandatory=True)
    cohort = File(exists=True, mandatory=True)
    names = traits.List(traits.Str, mandatory=True, desc="of the baselines")
    atlas = traits.Str(mandatory=True)
    volumes = traits.List(traits.Str, [], usedefault=True, desc="columns with volumes of regions")
    regions = traits.List(traits.Str, [], usedefault=True, desc="of which measured has volumes")
    measured = File(exists=True, desc="image x region: volumes by the registration")
    harmonisation = File(exists=True, desc="maps of the fold; without them images stay as they are")


class BaselineFeaturesOutputSpec(TraitedSpec):
    features = File(exists=True, desc="voxels and mask (Gram matrices), regions (images, p)")
    facts = traits.Dict(desc="baseline -> what it looks at")


class BaselineFeatures(SimpleInterface):
    """What the baselines look at.

    Nothing of it is fitted, so one file serves every fold, unless the images are harmonised.
    """

    input_spec = BaselineFeaturesInputSpec
    output_spec = BaselineFeaturesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from models.harmonisation import blocks_of
        from models.training.kernels import gram, voxel_blocks
        from models.volumes import open_cache
        from pipelines.harmonisation import seen

        cache = open_cache(Path(self.inputs.cache))
        cohort = read_cohort(self.inputs.cohort)
        images = seen(cache, cohort, self.inputs.harmonisation or "")
        found: dict[str, np.ndarray] = {}
        facts: dict[str, str] = {}
        for name in self.inputs.names:
            if name.startswith("svm_voxels") and "voxels" not in found:
                found["voxels"] = gram(blocks_of(images))
            if name == "mask":
                found["mask"] = gram((b != 0).astype(float) for b in voxel_blocks(cache.volumes))
            if name == "svm_regions":
                found["regions"], facts[name] = self._regions(cohort, cache.grid, images)
        facts |= {name: text for name, text in FACTS.items() if name in self.inputs.names}
        np.savez(Path(runtime.cwd) / "features.npz", **found)  # type: ignore[arg-type]
        self._results["features"] = str(Path(runtime.cwd) / "features.npz")
        self._results["facts"] = facts
        return runtime

    def _regions(self, cohort: pd.DataFrame, grid: Any, images: Any) -> tuple[np.ndarray, str]:
        if self.inputs.volumes or self.inputs.regions:
            return self._volumes(cohort)
        regions = Regions.on(self.inputs.atlas, grid)
        means = np.full((len(images), len(regions.atlas.labels)), np.nan)
        for row in range(len(images)):
            try:
                image = np.asarray(images[row], np.float32).mean(0)
            except InputError:  # of a site that nobody of this fold is from
                continue
            means[row] = regions.table(image)["density"]
        return means, f"mean intensity of each region of {regions.atlas.name}"

    def _volumes(self, cohort: pd.DataFrame) -> tuple[np.ndarray, str]:
        columns, regions = self.inputs.volumes, self.inputs.regions
        numbers = cohort[columns].apply(pd.to_numeric, errors="coerce")
        sources = [f"the columns {', '.join(columns)}"] * bool(columns)
        if regions:
            sources.append(f"the registration ({', '.join(regions)})")
            table, keys = read_table(Path(self.inputs.measured)), prediction_keys(cohort)
            told = [of_images(table, keys, region).set_axis(cohort.index) for region in regions]
            numbers = pd.concat([numbers, *told], axis=1)
        return numbers.to_numpy(float), f"volumes of regions, from {' and '.join(sources)}"


FACTS = {
    "svm_voxels": "the voxels that the network sees",
    "svm_voxels_rbf": "the voxels that the network sees",
    "svm_lesions": "the volume of the lesion mask of the dataset, in ml",
    "mask": "which of the voxels that the network sees are not zero",
}


class BaselineFoldInputSpec(BaseInterfaceInputSpec):
    features = File(exists=True, mandatory=True)
    cohort = File(exists=True, mandatory=True)
    split = traits.Dict(mandatory=True, desc="repeat, fold, number, roles")
    options = traits.Dict(mandatory=True, desc="of BaselineOptions")
    covariates = traits.List(traits.Str, [], usedefault=True, desc="columns of the cohort")
    words = traits.List(traits.Str, [], usedefault=True, desc="covariates that are names")
    seed = traits.Int(mandatory=True)


class BaselineFoldOutputSpec(TraitedSpec):
    scores = File(exists=True, desc="score of every test image by every baseline")
    choices = File(exists=True, desc="JSON: what was chosen, or why there is nothing")


class BaselineFold(SimpleInterface):
    """Fit every baseline on one fold; who validated the network is in the training part."""

    input_spec = BaselineFoldInputSpec
    output_spec = BaselineFoldOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from models.training.splits import Split

        cwd, split = Path(runtime.cwd), Split(**self.inputs.split)
        cohort = read_cohort(self.inputs.cohort)
        learners = split.people("train") + split.people("validation")
        rows = {
            "train": rows_of(cohort, learners, "train"),
            "test": rows_of(cohort, split.people("test"), "test"),
        }
        tables, choices = [], {}
        chosen = cohort.iloc[rows["test"]][["participant_id", "session_id"]]
        for name in self.inputs.options["names"]:
            try:
                found = self._tested(name, cohort, rows)
            except InputError as error:  # the others can still be fitted
                choices[name] = {"NotComputed": str(error)}
                continue
            tables.append(chosen.assign(classifier=name, repeat=split.repeat, score=found.scores))
            choices[name] = {
                **found.setting,
                "InnerBalancedAccuracy": round(found.inner_balanced_accuracy, 4),
            }
        columns = ["participant_id", "session_id", "classifier", "repeat", "score"]
        write_table(cwd / "scores.tsv", pd.concat([pd.DataFrame(columns=columns), *tables]))
        (cwd / "choices.json").write_text(json.dumps(choices))
        self._results["scores"] = str(cwd / "scores.tsv")
        self._results["choices"] = str(cwd / "choices.json")
        return runtime

    def _tested(self, name: str, cohort: pd.DataFrame, rows: dict[str, list[int]]) -> Any:
        from models.training.baselines import People, nested, svm_settings

        options = self.inputs.options
        people = People(cohort["positive"].to_numpy(bool), _kin(cohort))
        gamma = options["gamma"] if name == "svm_voxels_rbf" else ()
        return nested(
            self._learner(name, cohort, people),
            svm_settings(options["c"], gamma),
            people,
            inner_folds=options["inner_folds"],
            seed=self.inputs.seed,
            **rows,
        )

    def _learner(self, name: str, cohort: pd.DataFrame, people: Any) -> Any:
        from models.training.baselines import logistic, svm
        from models.training.kernels import of_gram, of_table

        if name == "covariates":
            if not self.inputs.covariates:
                raise InputError("no covariates are known: name some under [cohort] covariates")
            return logistic(cohort[self.inputs.covariates], people, self.inputs.words)
        if name == "svm_lesions":
            return svm(of_table(_lesion_volumes(cohort)), people)
        with np.load(self.inputs.features, allow_pickle=False) as features:
            if name == "svm_regions":
                return svm(of_table(features["regions"]), people)
            if name == "mask":
                return svm(of_gram(features["mask"]), people)
            return svm(of_gram(features["voxels"], self.inputs.options["pca"]), people)


def _lesion_volumes(cohort: pd.DataFrame) -> np.ndarray:
    """Lesion volume of every image in ml, (images, 1); NaN without a mask."""
    if LESION_ML not in cohort or cohort[LESION_ML].isna().all():
        raise InputError("no lesion volumes are known: the dataset has no lesion masks")
    return pd.to_numeric(cohort[LESION_ML], errors="coerce").to_numpy(float)[:, None]


def _kin(cohort: pd.DataFrame) -> np.ndarray:
    """Who must be on one side: a person's images, and those of the person's family."""
    persons = cohort["participant_id"]
    if "family" not in cohort:
        return persons.to_numpy(str)
    family = cohort["family"].fillna("").astype(str)
    return persons.where(family == "", "family " + family).to_numpy(str)


class BaselinesInputSpec(BaseInterfaceInputSpec):
    predictions = File(exists=True, mandatory=True, desc="of the network, out of fold")
    scores = traits.List(File(exists=True), mandatory=True, desc="of every fold")
    choices = traits.List(File(exists=True), mandatory=True, desc="of every fold")
    facts = traits.Dict(mandatory=True, desc="baseline -> what it looks at")
    covariates = traits.List(traits.Str, [], usedefault=True)
    options = traits.Dict(mandatory=True)
    model = traits.Str(mandatory=True)
    classes = traits.List(traits.Str, mandatory=True, desc="negative, positive")


class BaselinesOutputSpec(TraitedSpec):
    products = traits.Dict


class Baselines(SimpleInterface):
    """The network beside the baselines, on the same people: metrics, paired tests, a figure."""

    input_spec = BaselinesInputSpec
    output_spec = BaselinesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from pipelines import charts

        given, cwd = self.inputs, Path(runtime.cwd)
        positive = given.classes[1]
        network = _read(given.predictions).drop_duplicates("participant_id")
        choices = [json.loads(Path(one).read_text()) for one in given.choices]
        scores = pd.concat([_read(one) for one in given.scores], ignore_index=True)
        missing = _missing(choices)
        scores = scores[~scores["classifier"].isin(list(missing))]
        found = comparison.predictions(scores, network, given.classes)
        measured = comparison.metrics(found, network, positive)
        facts = self._facts(choices, missing)
        products: Products = {}
        for name, table in (
            ("metrics", measured),
            ("predictions", found.replace({"session_id": {"": np.nan}})),
            ("comparisons", comparison.comparisons(found, network, positive)),
        ):
            path = f"group/model-{given.model}_desc-baselines_{name}.tsv"
            write_table(cwd / Path(path).name, table)
            products[path] = {
                "file": str(cwd / Path(path).name),
                "sidecar": {"Description": DESCRIPTIONS[name], **facts},
            }
        drawn = {"baselines": charts.forest(measured, titles(given.options["names"]))}
        self._results["products"] = products | group_figures(cwd, given.model, drawn)
        return runtime

    def _facts(self, choices: list[dict[str, Any]], missing: dict[str, str]) -> dict[str, Any]:
        facts = dict(self.inputs.facts)
        if "covariates" in self.inputs.options["names"]:
            facts["covariates"] = ", ".join(self.inputs.covariates)
        known = {name: text for name, text in facts.items() if name not in missing}
        return {
            "OutOfFold": OOF,
            "PositiveClass": self.inputs.classes[1],
            "ConfidenceLevel": 0.95,
            "Alpha": ALPHA,
            "Features": known,
            "Search": {
                key: self.inputs.options[key] for key in ("c", "gamma", "pca", "inner_folds")
            },
            "Chosen": {name: [fold[name] for fold in choices] for name in known},
            "NotComputed": [f"{name}: {reason}" for name, reason in missing.items()],
        }


def _read(path: str) -> pd.DataFrame:
    """A table with "" where there is no session, however that was written."""
    table = read_table(Path(path))
    return table.assign(session_id=table["session_id"].fillna("").astype(str))


DESCRIPTIONS = {
    "metrics": "The network and simple classifiers, trained and tested on the same people",
    "predictions": "Decision value of each classifier (positive class at or above 0) over the "
    "root mean square of those that its inner folds gave to the training people; mean over "
    "repeats. It is no probability",
    "comparisons": "The network against each classifier, on the same people: areas under the ROC "
    "curve by DeLong's test, who alone is right by McNemar's exact test; two-sided, not corrected "
    "for the number of classifiers. The verdict follows p_auc",
}


def _missing(choices: list[dict[str, Any]]) -> dict[str, str]:
    """Baselines that a fold could not fit, with the first reason: the others stand for nobody."""
    reasons: dict[str, str] = {}
    for fold in choices:
        for name, chosen in fold.items():
            if "NotComputed" in chosen:
                reasons.setdefault(name, chosen["NotComputed"])
    return reasons
