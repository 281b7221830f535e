"""The group level: train, explain out of fold, test, report."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any

from nipype.pipeline import engine as pe

from bidsapp import anomaly
from bidsapp.cohort import CohortTable
from bidsapp.diary import Diary, tell
from bidsapp.execution import execute
from bidsapp.images import cohort_of, image_modality, image_options, quality_tables
from bidsapp.likeness import balanced_away, read_likeness
from bidsapp.locks import locked
from bidsapp.pages import write_group_pages, write_methods
from bidsapp.settings import Recipe, Settings
from bidsapp.study import atlas_name, deformations_of, limits_of, space_of, study_of, ways_of
from bidsapp.workdir import clean_model, nodes_dir, remove_leftovers
from models.attribution import OF_TENSORS
from models.errors import InputError
from models.grids import MNI_ORIGIN_MM
from models.harmonisation import confounding
from models.training.splits import Split, split_people
from pipelines.anomaly import init_anomaly_wf
from pipelines.derivatives import SPACE, label, remove_older, write_table
from pipelines.detectors import judged_by
from pipelines.group import init_group_wf
from pipelines.harmonisation import check_sites, site_names
from pipelines.images import percent_cut
from pipelines.interfaces.networks import image_name, prediction_keys, read_cohort
from pipelines.quality import flags_of_cut, write_group_quality
from pipelines.stored_models import choose_model, stored_folds


def group(settings: Settings) -> bool:
    """Train, explain out of fold, test, report. Returns whether anything failed."""
    diary = Diary(settings)
    name = label(settings.recipe.name)
    if settings.reports_only:
        model = choose_model(settings.output_dir, settings.model, recipe=settings.recipe.name)
        if model is None:
            raise InputError(
                f"{settings.output_dir}: holds no model to report on; run the group level"
            )
        write_group_pages(settings.output_dir, model.name)
        return False
    if settings.boilerplate_only:
        return write_methods(settings, diary)
    cohort = cohort_of(settings)
    diary.excluded = cohort.excluded
    for sentence in cohort.warnings:
        diary.warn(sentence)
    patients = cohort.rows.loc[cohort.rows["positive"], "participant_id"].drop_duplicates()
    table = settings.output_dir / "participants.tsv"
    settings.recipe.preprocessing.sides.check(table, patients)
    ways = ways_of(settings, cohort.rows)
    for sentence in [*limits_of(settings.recipe, ways), *_cut(settings, cohort)]:
        diary.warn(sentence)
    for key in prediction_keys(cohort.rows):
        if ways and key not in ways:
            diary.warn(f"{image_name(*key)}: has no T1w image, so its maps stay out of the tests")
    divide = anomaly.divisions if settings.recipe.autoencoder else _splits
    splits = divide(settings, cohort, diary)
    for sentence in _sites(settings.recipe, cohort, splits):
        diary.warn(sentence)
    _say_group(settings, cohort, len(splits))
    if settings.dry_run:
        return False
    with locked(settings, f"group-{name}"):
        if settings.clean_workdir:
            clean_model(settings, name)
        remove_leftovers(settings)
        _run_group(settings, name, cohort, splits, diary)
    return bool(diary.failures)


def _sites(recipe: Recipe, cohort: CohortTable, splits: Sequence[Split]) -> list[str]:
    """Refuse folds that cannot be harmonised; what to warn of where they can."""
    if not recipe.harmonisation.wanted:
        return []
    check_sites(cohort.rows, splits, recipe.cohort.site)
    people = cohort.rows.drop_duplicates("participant_id")
    sites = site_names(people[recipe.cohort.site])
    return confounding(sites, people["positive"].to_numpy(bool))


def _cut(settings: Settings, cohort: CohortTable) -> list[str]:
    """Whose brain is cut by the recipe's grid, where that has not the room of the stored images.

    What the stored grid itself cuts stands in everybody's quality table.
    """
    recipe = settings.recipe
    grid = recipe.preprocessing.network_grid
    if space_of(recipe) == SPACE or grid.origin_mm == MNI_ORIGIN_MM:
        return []
    masks = image_modality(settings).stored(
        settings.output_dir, image_options(settings), "registered_mask"
    )
    return [
        f"sub-{participant}{f' ses-{session}' if session else ''}: {flag}"
        for participant, session in prediction_keys(cohort.rows)
        for flag in flags_of_cut(percent_cut(masks[participant, session], grid), grid.name)
    ]


def _splits(settings: Settings, cohort: CohortTable, diary: Diary) -> list[Split]:
    training = settings.recipe.training
    likeness, warnings = read_likeness(settings.output_dir, cohort, training)
    splits = split_people(cohort.labels, training.plan, likeness=likeness, seed=settings.seed)
    for sentence in [*warnings, balanced_away(splits)]:
        if sentence:
            diary.warn(sentence)
    return splits


def _say_group(settings: Settings, cohort: CohortTable, folds: int) -> None:
    options = settings.recipe.cohort
    positive = sum(cohort.labels.values())
    tell(
        f"recipe {settings.recipe.name}: {positive} {options.positive} and "
        f"{len(cohort.labels) - positive} {options.negative}, {len(cohort.rows)} images, "
        f"{folds} trainings on {settings.device}"
    )


def _run_group(
    settings: Settings, name: str, cohort: CohortTable, splits: Sequence[Split], diary: Diary
) -> None:
    """Build, run and report the group level of one model; its lock is held."""
    table = settings.work_dir / f"cohort_{name}.tsv"
    write_table(table, cohort.rows)
    build = _anomaly_workflow if settings.recipe.autoencoder else _group_workflow
    workflow = build(settings, name, table, splits, diary)
    before, began = _basis(settings.output_dir, name), time()
    diary.fail(execute(workflow, settings, "group"))
    # The same folds again: what they explained since, new people above all, still holds.
    if not diary.failures and _basis(settings.output_dir, name) != before:
        removed = remove_older(settings.output_dir, name, began)
        if removed:
            tell(f"{removed} files that earlier runs of model {name} left were removed")
    write_group_quality(
        settings.output_dir,
        settings.work_dir,
        quality_tables(settings),
        settings.recipe.preprocessing.registration,
    )
    diktiometry = any(one["method"] in OF_TENSORS for one in settings.recipe.attribution)
    if diktiometry and not diary.failures:
        from bidsapp.columns import write_columns  # matplotlib makes a folder when it is imported

        write_columns(settings.output_dir, name, settings.work_dir)
    diary.write(settings.output_dir / "logs/group.json")
    write_methods(settings, diary)
    write_group_pages(settings.output_dir, name)


def _basis(output_dir: Path, model: str) -> tuple[Any, ...]:
    """What the maps of new people rest on: weights, and what errors are judged by."""
    return stored_folds(output_dir, model), judged_by(output_dir, model)


def _group_workflow(
    settings: Settings, name: str, table: Path, splits: Sequence[Split], diary: Diary
) -> pe.Workflow:
    study = replace(
        study_of(settings, name, splits),
        deformations=deformations_of(settings, table, diary),
        ways=ways_of(settings, read_cohort(table)),
    )
    for sentence in study.starts.warnings if study.starts else ():
        diary.warn(sentence)
    card = study.card(settings.recipe.as_dict(), diary.versions, len(splits))
    if settings.force:
        shutil.rmtree(nodes_dir(settings) / f"group_{name}", ignore_errors=True)
    return init_group_wf(
        study=study,
        cohort=table,
        splits=splits,
        card=card,
        output_dir=settings.output_dir,
        work_dir=nodes_dir(settings),
        device=settings.device,
        processes=settings.gpus_per_fold,
        force=settings.force,
    )


def _anomaly_workflow(
    settings: Settings, name: str, table: Path, splits: Sequence[Split], diary: Diary
) -> pe.Workflow:
    recipe = settings.recipe
    nuclei = atlas_name(recipe.anomaly.nuclei) if recipe.anomaly.nuclei else ""
    study = anomaly.study(
        settings, image_modality(settings), name, atlas_name(recipe.regions.atlas), nuclei
    )
    if settings.force:
        shutil.rmtree(nodes_dir(settings) / f"anomaly_{name}", ignore_errors=True)
    return init_anomaly_wf(
        study=study,
        cohort=table,
        splits=splits,
        card=study.card(recipe.as_dict(), diary.versions, len(splits)),
        output_dir=settings.output_dir,
        work_dir=nodes_dir(settings),
        device=settings.device,
        force=settings.force,
    )
