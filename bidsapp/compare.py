"""A recipe under several values of one key, on the same people and splits: ``--compare``."""

import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bidsapp import group, images, participant, run
from bidsapp.diary import tell
from bidsapp.overview import classifiers, lesions, maps, regions
from bidsapp.settings import Recipe, Settings, parse, read_toml
from models.errors import InputError
from models.training.comparison import compare
from models.training.paired import delong, mcnemar
from pipelines.atlases import template
from pipelines.charts import region_variants, trainings
from pipelines.derivatives import label, place, read_table, write_json, write_table
from pipelines.figures import over_limit, plot_rows, save
from pipelines.images import read_nifti
from pipelines.stored_models import StoredModel, model_folder

FEWEST = 2
TESTS = {
    "p_trainings": "Wilcoxon's signed-rank test over all trainings, which share their people and "
    "so are not independent",
    "p_divisions": "Wilcoxon's signed-rank test over the means of the divisions",
    "p_people": "over people, by the mean prediction of each: DeLong's test of the ROC areas, "
    "McNemar's exact test of the accuracies",
}


@dataclass(frozen=True)
class Variant:
    """One value of the key that is compared.

    Attributes
    ----------
    name : str
        The value as it was written.
    settings : Settings
        Of the run with it; its recipe has a name of its own.
    """

    name: str
    settings: Settings

    @property
    def model(self) -> str:
        """Label of the variant's model."""
        return label(self.settings.recipe.name)


def run_compared(settings: Settings, asked: str) -> int:
    """Run every variant, level by level, then hold them against each other.

    Parameters
    ----------
    settings : Settings
        Of the recipe as it is.
    asked : str
        ``KEY=a,b,c``.

    Returns
    -------
    int
        Exit code, as of :func:`bidsapp.run.run`.
    """
    if settings.reports_only or settings.boilerplate_only:
        raise InputError("--compare: give it without --reports-only and --boilerplate-only")
    key, variants = variants_of(settings, asked)
    for one in variants:
        if one.settings.recipe.autoencoder:
            raise InputError(
                f"--compare {asked}: compares classifiers, and recipe {one.settings.recipe.name} "
                "has [[autoencoder]]; name several [[autoencoder]] in one recipe, which are "
                "compared split by split, or run it under two names"
            )
        run.check_recipe(one.settings)
    failed = False
    if "participant" in settings.levels:
        for one in _distinct_images(variants):
            failed |= participant.participant(one.settings)
    if "group" in settings.levels and not settings.dry_run:
        failed |= _group(settings, key, variants)
    return run.FAILED if failed else run.DONE


# --- variants ------------------------------------------------------------------------------------


def variants_of(settings: Settings, asked: str) -> tuple[str, list[Variant]]:
    """The key and the variants of ``KEY=a,b,c``; ``config=a.toml,b.toml`` lays files over it.

    Raises
    ------
    models.errors.InputError
        It is written otherwise, a key or value cannot be, or two values have one label.
    """
    key, equals, listed = asked.partition("=")
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if not equals or len(set(names)) < FEWEST:
        raise InputError(
            f"--compare {asked}: write KEY=a,b,c with a key of the recipe, such as "
            "preprocessing.registration=none,linear,nonlinear"
        )
    make = _of_file if key.strip() == "config" else _of_value
    variants = [make(settings, key.strip(), name) for name in dict.fromkeys(names)]
    models = [one.model for one in variants]
    if len(set(models)) < len(models):
        raise InputError(
            f"--compare {asked}: two values are alike but for signs that file names cannot hold"
        )
    return key.strip(), variants


def _of_value(settings: Settings, key: str, name: str) -> Variant:
    table = deepcopy(settings.recipe.as_dict())
    *parents, last = key.split(".")
    inner: Any = table
    for part in parents:
        inner = inner.get(part) if isinstance(inner, Mapping) else None
    if not isinstance(inner, dict):
        raise InputError(f"--compare {key}: the recipe has no table [{'.'.join(parents)}]")
    inner[last] = {"name": name} if key == "network" else _value(name)
    table["name"] = f"{settings.recipe.name}-{label(name)}"
    recipe = parse(Recipe, table, f"{settings.recipe.name} with {key} = {name}")
    return Variant(name, replace(settings, recipe=recipe, explain=False))


def _of_file(settings: Settings, _: str, file: str) -> Variant:
    name = Path(file).stem
    recipe = settings.recipe.overridden(read_toml(file), file)
    recipe = recipe.overridden({"name": f"{settings.recipe.name}-{label(name)}"})
    return Variant(name, replace(settings, recipe=recipe, explain=False))


def _value(text: str) -> Any:
    """A TOML value where it is one (``3``, ``1e-4``, ``true``), else the text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _distinct_images(variants: Sequence[Variant]) -> list[Variant]:
    """One variant of each way to preprocess."""
    ways = {
        repr((one.settings.recipe.input, one.settings.recipe.preprocessing)): one
        for one in reversed(variants)
    }
    return list(reversed(ways.values()))


# --- group level ---------------------------------------------------------------------------------


def _group(settings: Settings, key: str, variants: Sequence[Variant]) -> bool:
    people = _taken_by_all(variants, _common_people(variants))
    failed = []
    for one in variants:
        tell(f"{key} = {one.name}")
        try:
            if group.group(replace(one.settings, participants=people)):
                failed.append(one.name)
        except InputError as error:
            tell(f"{key} = {one.name}: {error}")
            failed.append(one.name)
    done = [one for one in variants if one.name not in failed]
    if len(done) < FEWEST:
        tell("fewer than two variants were finished, so nothing is compared")
        return True
    report(settings.output_dir, settings.recipe.name, key, done)
    return bool(failed)


def _common_people(variants: Sequence[Variant]) -> tuple[str, ...]:
    """People who have an image for every variant; the others are named."""
    sets = [{person for person, _ in images.registered(one.settings)} for one in variants]
    common, every = set.intersection(*sets), set.union(*sets)
    for person in sorted(every - common):
        lacking = [v.name for v, has in zip(variants, sets, strict=True) if person not in has]
        tell(f"warning: sub-{person} is left out: has no image for {', '.join(lacking)}")
    chosen = common & set(variants[0].settings.participants or common)
    if not chosen:
        raise InputError(
            f"{variants[0].settings.output_dir}: nobody has an image for every variant; run the "
            "participant level with the same --compare"
        )
    return tuple(sorted(chosen))


def _taken_by_all(variants: Sequence[Variant], people: tuple[str, ...]) -> tuple[str, ...]:
    """People whom no variant leaves out, as harmonisation does who has no site: one cohort."""
    sets = [_taken(one, people) for one in variants]
    common = set.intersection(*sets)
    for person in sorted(set.union(*sets) - common):
        by = [v.name for v, taken in zip(variants, sets, strict=True) if person not in taken]
        tell(f"warning: sub-{person} is left out, as {', '.join(by)} cannot take this person")
    return tuple(sorted(common))


def _taken(variant: Variant, people: tuple[str, ...]) -> set[str]:
    """People of a variant's cohort; all, where it cannot be: it will say so in its own run."""
    try:
        return set(images.cohort_of(replace(variant.settings, participants=people)).labels)
    except InputError:
        return set(people)


def report(output_dir: Path, recipe: str, key: str, variants: Sequence[Variant]) -> Path:
    """Compare stored results, and write tables, picture and page.

    Raises
    ------
    models.errors.InputError
        The variants were not trained on the same splits.
    """
    from bidsapp.report.comparison import comparison_page

    _check_splits(output_dir, variants)
    order = [one.name for one in variants]
    stem = f"group/model-{label(recipe)}_desc-compare{label(key)}"
    scores = pd.concat([_scores(output_dir, one) for one in variants], ignore_index=True)
    effort = pd.concat([_effort(output_dir, one) for one in variants], ignore_index=True)
    every = pd.concat([scores, effort], ignore_index=True)
    pairs = compare(every, order)
    pairs["p_people"] = _over_people(output_dir, pairs, variants)
    facts = {
        "Key": key,
        "Variants": {one.name: f"model-{one.model}" for one in variants},
        "Tests": TESTS,
    }
    models = {one.name: one.model for one in variants}
    positive = variants[0].settings.recipe.cohort.positive
    tables = {
        "trainings": every,
        "metrics": pairs,
        "classifiers": classifiers(output_dir, scores, models),
        "regions": regions(output_dir, models, positive),
        "lesions": lesions(output_dir, models, positive),
    }
    for name, table in tables.items():
        path = output_dir / f"{stem}_{name}.tsv"
        write_table(path, table)
        write_json(path.with_suffix(".json"), facts)
    drawn = {"": trainings(scores, order, key)}
    drawn |= _of_maps(maps(output_dir, models, positive))
    drawn |= _of_regions(tables["regions"])
    for ending, figure in drawn.items():
        target = output_dir / f"group/figures/{Path(stem).name}{ending}.png"
        place(save(figure, variants[0].settings.work_dir / target.name), target)
    page = comparison_page(output_dir, stem)
    tell(f"the comparison is {page}")
    return page


def _of_maps(found: Mapping[str, Mapping[str, Path]]) -> dict[str, Figure]:
    """Mean maps of the patients below each other, of each method, by the ending of the name."""
    anatomy, drawn = read_nifti(template()), {}
    for method, own in found.items():
        scaled = {heading: over_limit(read_nifti(path)) for heading, path in own.items()}
        signed = any(np.asarray(one.dataobj).min() < 0 for one in scaled.values())
        drawn[f"_method-{method}_maps"] = plot_rows(
            anatomy,
            scaled,
            overlay_range=(-1.0 if signed else 0.0, 1.0),
            units="relevance, each row over its 99.5th percentile",
        )
    return drawn


def _of_regions(table: pd.DataFrame) -> dict[str, Figure]:
    """Regions of all variants, each over its largest value, by the ending of the name."""
    drawn = {}
    for (method, atlas), mine in table.groupby(["method", "atlas"], sort=False):
        columns = [one for one in mine.columns[3:] if mine[one].notna().any()]
        scaled = mine[columns] / mine[columns].abs().max().replace(0, 1)
        ending = f"_method-{method}_atlas-{atlas}_regions"
        drawn[ending] = region_variants(mine[["name"]].join(scaled), columns)
    return drawn


def _check_splits(output_dir: Path, variants: Sequence[Variant]) -> None:
    first, *others = [_roles(output_dir, one) for one in variants]
    for one, roles in zip(variants[1:], others, strict=True):
        if not roles.equals(first):
            raise InputError(
                f"{output_dir / model_folder(one.model)}: was trained on other splits than "
                f"{variants[0].name}; run both again with --force"
            )


def _roles(output_dir: Path, variant: Variant) -> pd.DataFrame:
    paths = sorted((output_dir / model_folder(variant.model)).glob("*_split.tsv"))
    tables = [read_table(path) for path in paths]
    keys = ["repeat", "fold", "participant_id"]
    every = pd.concat(tables)[[*keys, "role"]]
    return every.sort_values(keys, ignore_index=True)


def _scores(output_dir: Path, variant: Variant) -> pd.DataFrame:
    """Metrics of every training of the whole cohort."""
    path = output_dir / f"group/model-{variant.model}_desc-oof_repeats.tsv"
    table = read_table(path).drop(columns="n")
    long = table.melt(["division", "repeat"], var_name="metric", value_name="value")
    return long.dropna(subset="value").assign(variant=variant.name)


def _over_people(output_dir: Path, pairs: pd.DataFrame, variants: Sequence[Variant]) -> pd.Series:
    """The p value of each pair over people: of the ROC area and of the accuracy."""
    found = {one.name: _predictions(output_dir, one) for one in variants}
    return pd.Series(
        [_p_people(row.metric, found[row.first], found[row.second]) for row in pairs.itertuples()],
        index=pairs.index,
        dtype=float,
    )


def _p_people(metric: str, first: pd.DataFrame, second: pd.DataFrame) -> float:
    if metric not in ("roc_auc", "accuracy"):
        return float("nan")
    both = first.merge(second, on=["participant_id", "label"], suffixes=("", "_second"))
    positive = (both["label"] == both["target"]).to_numpy()
    if metric == "roc_auc":
        return delong(positive, both["score"], both["score_second"]).p
    answers = (
        (both[name] == both["target"]).to_numpy() for name in ("predicted", "predicted_second")
    )
    return mcnemar(positive, *answers).p


def _predictions(output_dir: Path, variant: Variant) -> pd.DataFrame:
    path = output_dir / f"group/model-{variant.model}_desc-oof_predictions.tsv"
    table = read_table(path).drop_duplicates("participant_id")
    columns = ["participant_id", "label", "score", "predicted"]
    return table[columns].assign(target=variant.settings.recipe.cohort.positive)


def _effort(output_dir: Path, variant: Variant) -> pd.DataFrame:
    """Epochs, updates and seconds until a training ended: means over the folds of a repeat."""
    model = StoredModel(output_dir / model_folder(variant.model))
    rows = []
    for fold in model.folds:
        split = model.split(fold).iloc[0]
        where = {"division": split["division"], "repeat": split["repeat"]}
        rows += [
            {**where, "metric": name, "value": value} for name, value in model.effort(fold).items()
        ]
    keys = ["division", "repeat", "metric"]
    means = pd.DataFrame(rows).groupby(keys, sort=False, as_index=False)["value"].mean()
    return means.assign(variant=variant.name)
