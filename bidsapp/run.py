"""The story of one run: index, check, preprocess, explain, train, test, report."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from time import time
from typing import Any

import pandas as pd
from nipype.pipeline import engine as pe

from bidsapp import __version__, anomaly
from bidsapp.cohort import CohortTable, build_cohort, check_table
from bidsapp.diary import Diary, tell
from bidsapp.likeness import balanced_away, read_likeness
from bidsapp.locks import locked
from bidsapp.machine import allow_files
from bidsapp.settings import Recipe, Settings, parse
from bidsapp.workdir import clean_model, clean_people, nodes_dir, redo_people
from models.attribution import OF_REGIONS
from models.errors import InputError
from models.grids import MNI_ORIGIN_MM, full_grid
from models.harmonisation import confounding
from models.training.augmentation import check_flips
from models.training.optimiser import adam
from models.training.protocol import Protocol
from models.training.search import applied, every_setting
from models.training.splits import Split, split_people
from pipelines.anomaly import init_anomaly_wf, init_detect_wf
from pipelines.atlases import SHIPPED, atlas
from pipelines.baselines import LESION_ML, BaselineOptions
from pipelines.choices import JACOBIAN
from pipelines.derivatives import (
    OWN_SPACE,
    SPACE,
    carry_sessions,
    label,
    read_sidecar,
    read_table,
    remove_half_written,
    remove_older,
    write_dataset,
    write_table,
    write_text,
)
from pipelines.detectors import StoredDetectors, is_anomaly, judged_by
from pipelines.execution import Failure, Resources, run_workflow
from pipelines.explain import init_explain_wf
from pipelines.group import Study, init_group_wf
from pipelines.harmonisation import check_sites, site_names
from pipelines.heatmaps import NO_COMMON_SPACE
from pipelines.images import percent_cut
from pipelines.inputs import (
    Scan,
    check_dataset,
    choose_participants,
    find_scans,
    unreadable,
    with_t1w,
)
from pipelines.interfaces.attribution import check_values
from pipelines.interfaces.networks import image_name, prediction_keys, read_cohort
from pipelines.lesion_masks import REFUSED, lesion_sources, masks_of_others, with_lesions
from pipelines.participant import init_participant_wf
from pipelines.preprocess import modality_of
from pipelines.preprocess.modality import Modality
from pipelines.quality import flags_of_cut, write_group_quality
from pipelines.region_volumes import NOT_REGISTERED, Deformations, check_regions, measured_of
from pipelines.stored_models import (
    StoredModel,
    choose_model,
    new_network,
    sealed,
    stored_folds,
)
from pipelines.transfer import plan_starts

DONE, FAILED = 0, 1

# What images must have in common with those that a model was trained on.
FITTING = (
    ("input", "modality"),
    ("preprocessing", "registration"),
    ("preprocessing", "resolution_mm"),
    ("preprocessing", "brain_extraction"),
    ("preprocessing", "denoise"),
    ("preprocessing", "lesions"),
    ("preprocessing", "spect"),
    ("preprocessing", "dwi"),
)


def run(settings: Settings) -> int:
    """Do what was asked, level by level.

    Returns
    -------
    int
        0 when everything was done, 1 when something failed and the rest was done.

    Raises
    ------
    models.errors.InputError
        Nothing can be run at all.
    """
    check_recipe(settings)
    failed = False
    for number, level in enumerate(settings.levels):
        if settings.dry_run and number > 0:
            tell(f"then the {level} level")
            break
        step: Callable[[Settings], bool] = {"participant": participant, "group": group}[level]
        try:
            failed |= step(settings)
        except InputError as error:
            if number == 0:
                raise
            tell(str(error))  # the first level is done, so this is a failure and no refusal
            failed = True
    return FAILED if failed else DONE


def check_recipe(settings: Settings) -> None:
    """Refuse now what would otherwise fail after hours of preprocessing or training."""
    if "group" not in settings.levels or settings.reports_only:
        return
    recipe = settings.recipe
    if recipe.autoencoder:
        anomaly.check_recipe(settings, _modality(settings))
    else:
        _check_trainings(settings)
    recipe.preprocessing.view.check(_modality(settings), recipe.preprocessing.network_grid)
    recipe.regions.exclude.voxels(recipe.preprocessing.network_grid)
    atlas(recipe.regions.atlas)
    for attribution in recipe.attribution:
        check_values(attribution)
    if "participant" in settings.levels:
        check_dataset(settings.bids_dir)
        check_table(settings.bids_dir, recipe.cohort)


def _check_trainings(settings: Settings) -> None:
    """Build every network that the recipe trains, and read its protocol."""
    recipe = settings.recipe
    for changes in every_setting(recipe.training.search):
        table, options = applied(changes, _network(settings), asdict(recipe.training.protocol))
        network = new_network(table, recipe.preprocessing.network_grid)
        protocol = parse(Protocol, options, settings.recipe_source, "training.protocol")
        adam(network, protocol)
        check_flips(network, protocol.augmentation)


# --- participant level ---------------------------------------------------------------------------


def participant(settings: Settings) -> bool:
    """Preprocess and, with a stored model, explain. Returns whether anything failed."""
    diary = Diary(settings)
    check_dataset(settings.bids_dir)
    people = choose_participants(settings.bids_dir, settings.participants)
    scans = _scans(settings, people, diary)
    model = _fitting_model(settings, diary)
    if not settings.reports_only:
        scans = _readable(scans, diary)
    if settings.dry_run:
        return _dry_run(settings, scans, model)
    if settings.boilerplate_only:
        return _write_methods(settings, diary)
    with locked(settings, "dataset", quiet=True):  # of many runs that begin together, one writes
        write_dataset(
            settings.output_dir, settings.bids_dir, __version__, settings.dataset_links or None
        )
    allow_files(1024 + 2 * len(people))  # each lock is an open file
    with ExitStack() as locks:
        for person in people:
            locks.enter_context(locked(settings, f"sub-{person}"))
        if settings.clean_workdir:
            clean_people(settings, people)
        _remove_half_written(settings, people)
        carry_sessions(settings.output_dir, settings.bids_dir, people)
        if not settings.reports_only:
            _preprocess(settings, scans, diary)
            _say_refused(settings, scans, diary)
            if model is not None:
                _explain(settings, scans, model, diary)
            for person in people:
                diary.write(
                    settings.output_dir / f"logs/participant-{person}.json", f"sub-{person}"
                )
        _write_methods(settings, diary)
        _participant_pages(settings.output_dir, people)
    return bool(diary.failures)


def _scans(settings: Settings, people: Sequence[str], diary: Diary) -> list[Scan]:
    suffix = _modality(settings).suffix
    scans = _found(settings, people, suffix, settings.sessions, diary)
    if not scans:
        asked = f" in session {', '.join(settings.sessions)}" if settings.sessions else ""
        raise InputError(
            f"{settings.bids_dir}: no {suffix} image of "
            f"{', '.join(f'sub-{p}' for p in people[:5])}{' ...' * (len(people) > 5)}{asked}; "
            "check --participant-label, --session-label and --bids-filter-file"
        )
    found = {scan.participant for scan in scans}
    tell(f"recipe {settings.recipe.name}: {len(scans)} {suffix} images, {len(found)} people")
    for person in sorted(set(people) - found):
        diary.warn(f"sub-{person}: has no {suffix} image; skipped")
    if _modality(settings).needs_t1w or settings.recipe.preprocessing.registration == "t1w":
        scans, warnings = with_t1w(scans, _found(settings, people, "T1w", (), diary))
        for sentence in warnings:
            diary.warn(sentence)
    if _modality(settings).lesions is not None:
        sources = lesion_sources(settings.bids_dir, settings.derivatives, settings.output_dir)
        scans, warnings = with_lesions(scans, people, sources)
        if not settings.participants:
            warnings += masks_of_others(people, sources)
        for sentence in warnings:
            diary.warn(sentence)
    return scans


def _found(
    settings: Settings, people: Sequence[str], suffix: str, sessions: Sequence[str], diary: Diary
) -> list[Scan]:
    filters = settings.filters.get(suffix.lower(), {})
    kind = modality_of(suffix)
    scans, warnings = find_scans(
        settings.bids_dir,
        people,
        suffix,
        sessions=sessions,
        filters=filters,
        names=kind.names,
        rank=kind.rank,
        others_are=kind.others_are,
    )
    for sentence in warnings:
        diary.warn(sentence)
    return scans


def _readable(scans: Sequence[Scan], diary: Diary) -> list[Scan]:
    """The scans whose file can be opened; each of the others is a failure of its own."""
    problems = {scan: unreadable(scan.path) for scan in scans}
    diary.fail(
        [
            Failure(f"participant.sub_{scan.participant}.read", sentence, scan.path)
            for scan, sentence in problems.items()
            if sentence
        ]
    )
    return [scan for scan, sentence in problems.items() if not sentence]


def _modality(settings: Settings) -> Modality:
    return modality_of(settings.recipe.input.modality)


def _options(settings: Settings) -> Any:
    """The recipe's preprocessing as the modality's workflow wants it."""
    return _modality(settings).options(asdict(settings.recipe.preprocessing), settings.seed)


def _is_done(settings: Settings, scan: Scan) -> bool:
    return _modality(settings).is_done(settings.output_dir, scan, _options(settings))


def _preprocess(settings: Settings, scans: Sequence[Scan], diary: Diary) -> None:
    todo = [scan for scan in scans if settings.force or not _is_done(settings, scan)]
    if len(todo) < len(scans):
        tell(f"{len(scans) - len(todo)} of {len(scans)} scans are already preprocessed")
    if not todo:
        return
    workflow = init_participant_wf(
        scans=todo,
        output_dir=settings.output_dir,
        work_dir=nodes_dir(settings),
        modality=_modality(settings),
        options=_options(settings),
        device=settings.device,
    )
    if settings.force:
        redo_people(settings, "participant", {scan.participant for scan in todo})
    diary.fail(execute(workflow, settings, "preprocess"))


def _say_refused(settings: Settings, scans: Sequence[Scan], diary: Diary) -> None:
    """Warn of lesion masks that could not be of their image, also of earlier runs."""
    options = _options(settings)
    for scan in scans:
        if scan.lesions is None:
            continue
        table = settings.output_dir / _modality(settings).paths(scan, options)["quality"]
        said = read_sidecar(table).get(REFUSED)
        if said:
            who = f"sub-{scan.participant}" + f" ses-{scan.session}" * bool(scan.session)
            diary.warn(f"{who}: {said}")


def _explain(
    settings: Settings,
    scans: Sequence[Scan],
    model: StoredModel,
    diary: Diary,
) -> None:
    options = _options(settings)
    ready = [
        (scan, settings.output_dir / _modality(settings).paths(scan, options)["registered"])
        for scan in scans
        if _is_done(settings, scan)
    ]
    for person in sorted({scan.participant for scan, _ in ready}):
        if not model.unseen_folds(person)[0]:
            diary.warn(
                f"sub-{person}: every fold of model {model.name} was trained with this person or a "
                "relative; not explained"
            )
    detects = is_anomaly(model)
    name = f"{'detect' if detects else 'explain'}_{model.name}"
    if settings.force:
        redo_people(settings, name, {scan.participant for scan, _ in ready})
    build: Callable[..., pe.Workflow] = init_detect_wf if detects else init_explain_wf
    workflow = build(
        scans=ready,
        model=StoredDetectors(model.folder) if detects else model,
        output_dir=settings.output_dir,
        work_dir=nodes_dir(settings),
        versions=diary.versions,
        device=settings.device,
    )
    if workflow.list_node_names():
        diary.fail(execute(workflow, settings, f"explain with {model.name}"))


def _fitting_model(settings: Settings, diary: Diary) -> StoredModel | None:
    """The stored model, if it was trained on images such as this run makes."""
    if not settings.explain:
        return None
    model = choose_model(settings.output_dir, settings.model, recipe=settings.recipe.name)
    if model is None:
        return None
    if not settings.model and _is_foreign_code(model, settings):
        diary.warn(
            f"model {model.name} brings a Python file of its own as its network: give --model "
            f"{model.name} to let it run and to explain with it"
        )
        return None
    theirs, ours = model.card["Recipe"], settings.recipe.as_dict()
    usual = Recipe().as_dict()  # of a card that is older than a key
    for table, key in FITTING:
        trained_on = theirs[table].get(key, usual[table][key])
        if trained_on != ours[table].get(key):
            sentence = (
                f"model {model.name} was trained on images with {key} = {trained_on}, "
                f"this run makes {ours[table].get(key)}: give --recipe {theirs['name']}"
            )
            if settings.model:
                raise InputError(f"--model {settings.model}: {sentence}")
            diary.warn(f"{sentence} to explain with it")
            return None
    return model


def _is_foreign_code(model: StoredModel, settings: Settings) -> bool:
    """Whether the model's network is a Python file that neither flag nor recipe names."""
    theirs = model.card.get("Network", {}).get("sha256")
    return theirs is not None and theirs != sealed(settings.recipe.network).get("sha256")


# --- group level ---------------------------------------------------------------------------------


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
        _group_pages(settings.output_dir, model.name)
        return False
    if settings.boilerplate_only:
        return _write_methods(settings, diary)
    cohort = cohort_of(settings)
    diary.excluded = cohort.excluded
    for sentence in cohort.warnings:
        diary.warn(sentence)
    patients = cohort.rows.loc[cohort.rows["positive"], "participant_id"].drop_duplicates()
    table = settings.output_dir / "participants.tsv"
    settings.recipe.preprocessing.sides.check(table, patients)
    for sentence in [*_limits(settings.recipe), *_cut(settings, cohort)]:
        diary.warn(sentence)
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
        _remove_half_written(settings)
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
    if _space(recipe) == SPACE or grid.origin_mm == MNI_ORIGIN_MM:
        return []
    masks = _modality(settings).stored(settings.output_dir, _options(settings), "registered_mask")
    return [
        f"sub-{participant}{f' ses-{session}' if session else ''}: {flag}"
        for participant, session in prediction_keys(cohort.rows)
        for flag in flags_of_cut(percent_cut(masks[participant, session], grid), grid.name)
    ]


def _baselines(recipe: Recipe) -> BaselineOptions:
    """The recipe's baselines, less those whose regions or lesions nothing is known of."""
    without = set()
    if _space(recipe) != SPACE and not _volumes(recipe):
        without.add("svm_regions")
    if modality_of(recipe.input.modality).lesions is None:
        without.add("svm_lesions")
    names = tuple(one for one in recipe.baselines.names if one not in without)
    return replace(recipe.baselines, names=names)


def _volumes(recipe: Recipe) -> dict[str, str]:
    """The recipe's volumes, less those that only a registration could tell where there is none."""
    volumes = recipe.regions.volumes
    if _space(recipe) == SPACE:
        return volumes
    return {region: column for region, column in volumes.items() if column != JACOBIAN}


def _deformations(settings: Settings, table: Path, diary: Diary) -> Deformations | None:
    """What brought the cohort's images to the template, where volumes are asked of it."""
    recipe = settings.recipe
    wanted = measured_of(_volumes(recipe))
    if not wanted:
        return None
    check_regions(_atlas_name(recipe.regions.atlas), wanted)
    stored = _modality(settings).stored(settings.output_dir, _options(settings), "to_template")
    keys = prediction_keys(read_cohort(table))
    for participant, session in keys:
        if (participant, session) not in stored:
            diary.warn(
                f"{image_name(participant, session)}: has no transform to the template, so its "
                "volumes of regions are n/a; run the participant level again with --force"
            )
    files = {key: str(stored[key].absolute()) for key in keys if key in stored}
    if not files:
        raise InputError(
            f"{settings.output_dir}: holds no transform to the template, of which volumes of "
            "regions are asked; run the participant level again with --force"
        )
    return Deformations(files, asdict(full_grid(recipe.preprocessing.resolution_mm)))


def _limits(recipe: Recipe) -> list[str]:
    """What the group level leaves out of images that were not registered."""
    if _space(recipe) == SPACE:
        return []
    done = _attributions(recipe)
    names = [f"attribution {one['name']}" for one in recipe.attribution if one not in done]
    fitted = _baselines(recipe).names
    if "svm_regions" in set(recipe.baselines.names) - set(fitted):
        names.append("baseline svm_regions")
    return [
        f"not computed: {NO_COMMON_SPACE}",
        *(f"not computed: {name}, which needs an atlas that fits" for name in names),
        *[f"not computed: {NOT_REGISTERED}"] * bool(measured_of(recipe.regions.volumes)),
    ]


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
        _quality_tables(settings),
        settings.recipe.preprocessing.registration,
    )
    diary.write(settings.output_dir / "logs/group.json")
    _write_methods(settings, diary)
    _group_pages(settings.output_dir, name)


def _basis(output_dir: Path, model: str) -> tuple[Any, ...]:
    """What the maps of new people rest on: weights, and what errors are judged by."""
    return stored_folds(output_dir, model), judged_by(output_dir, model)


def _group_workflow(
    settings: Settings, name: str, table: Path, splits: Sequence[Split], diary: Diary
) -> pe.Workflow:
    study = _study(settings, name, splits)
    study = replace(study, deformations=_deformations(settings, table, diary))
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
    nuclei = _atlas_name(recipe.anomaly.nuclei) if recipe.anomaly.nuclei else ""
    study = anomaly.study(
        settings, _modality(settings), name, _atlas_name(recipe.regions.atlas), nuclei
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


def cohort_of(settings: Settings) -> CohortTable:
    """Who takes part in a group run.

    Raises
    ------
    models.errors.InputError
        No images, images that were made otherwise than the recipe says, or a table of people that
        does not hold what the recipe asks for.
    """
    images = registered(settings)
    options = settings.recipe.preprocessing
    if not images:
        raise InputError(
            f"{settings.output_dir}: no {settings.recipe.input.modality} image with "
            f"{options.registration} registration at {options.resolution_mm:g} mm; make them "
            f"first:\n    brainwhy BIDS_DIR {settings.output_dir} participant --recipe "
            f"{settings.recipe_source}"
        )
    _check_making(settings, images)
    recipe = settings.recipe
    volumes = tuple(recipe.regions.volumes.values())
    preserve = recipe.harmonisation.preserve if recipe.harmonisation.wanted else None
    cohort = build_cohort(
        settings.output_dir, images, recipe.cohort, settings.participants, volumes, preserve
    )
    return _with_lesions(settings, cohort) if _modality(settings).lesions else cohort


def _with_lesions(settings: Settings, cohort: CohortTable) -> CohortTable:
    """The cohort with the lesions of each image: their mask, and their volume in ml."""
    kind, options = _modality(settings), _options(settings)
    assert kind.lesions is not None
    tables = kind.stored(settings.output_dir, options, "quality")
    masks, volumes = [], []
    for key in prediction_keys(cohort.rows):
        mask = settings.output_dir / kind.lesions(Scan(*key, Path()), options)
        volume = read_table(tables[key])[LESION_ML].iloc[0] if key in tables else None
        # A file alone is not enough: it may be of a mask that the dataset has no more.
        known = mask.exists() and not pd.isna(volume)
        masks.append(str(mask) if known else "")
        volumes.append(volume if known else None)
    rows = cohort.rows.assign(lesions=masks, **{LESION_ML: volumes})
    return replace(cohort, rows=rows)


def _quality_tables(settings: Settings) -> list[Path]:
    """Quality numbers of everybody, of every registration on disk at the recipe's resolution."""
    kind, table = _modality(settings), asdict(settings.recipe.preprocessing)
    options = [
        kind.options(table | {"registration": how}, settings.seed) for how in kind.registrations
    ]
    found = [kind.stored(settings.output_dir, one, "quality").values() for one in options]
    return list(dict.fromkeys(path for paths in found for path in paths))


def _check_making(settings: Settings, images: Mapping[tuple[str, str], Path]) -> None:
    """Refuse images that were made in another way under the same name."""
    options = _options(settings)
    wanted = {key: value for key, value in asdict(options).items() if key != "seed"}
    tables = _modality(settings).stored(settings.output_dir, options, "quality")
    for key in images.keys() & tables.keys():
        made = read_sidecar(tables[key]).get("Options") or {}
        for name, value in wanted.items():
            if made.get(name, value) != value:
                raise InputError(
                    f"{images[key]}: was made with {name} = {made[name]}, the recipe says {value}; "
                    f"run the participant level with --recipe {settings.recipe_source}"
                )


def registered(settings: Settings) -> dict[tuple[str, str], Path]:
    """Images of the recipe's registration on disk, by participant and session."""
    found = _modality(settings).stored(settings.output_dir, _options(settings))
    chosen = settings.sessions
    return {key: path for key, path in found.items() if not chosen or key[1] in chosen}


def _splits(settings: Settings, cohort: CohortTable, diary: Diary) -> list[Split]:
    training = settings.recipe.training
    likeness, warnings = read_likeness(settings.output_dir, cohort, training)
    splits = split_people(cohort.labels, training.plan, likeness=likeness, seed=settings.seed)
    for sentence in [*warnings, balanced_away(splits)]:
        if sentence:
            diary.warn(sentence)
    return splits


def _study(settings: Settings, name: str, splits: Sequence[Split]) -> Study:
    recipe, network = settings.recipe, _network(settings)
    grid = recipe.preprocessing.network_grid
    starts = plan_starts(
        recipe.training.transfer,
        splits,
        model=name,
        networks=[
            new_network(applied(changes, network, {})[0], grid)
            for changes in every_setting(recipe.training.search)
        ],
        table=network,
        output_dir=settings.output_dir,
    )
    return Study(
        model=name,
        classes=(recipe.cohort.negative, recipe.cohort.positive),
        grid=asdict(grid),
        modality=recipe.input.modality,
        intensity=recipe.preprocessing.intensity,
        network=network,
        protocol=asdict(recipe.training.protocol),
        threshold=recipe.training.threshold,
        attributions=_attributions(recipe),
        atlas=_atlas_name(recipe.regions.atlas),
        covariates=recipe.cohort.covariates,
        statistics=recipe.statistics,
        seed=settings.seed,
        volumes=_volumes(recipe),
        starts=starts,
        view=recipe.preprocessing.view,
        exclude=recipe.regions.exclude,
        space=_space(recipe),
        search=asdict(recipe.training.search) if recipe.training.search.draws else {},
        baselines=_baselines(recipe),
        lesions=_modality(settings).lesions is not None,
        site=recipe.cohort.site,
        harmonisation=recipe.harmonisation,
    )


def _space(recipe: Recipe) -> str:
    """BIDS label of the space of the images."""
    return OWN_SPACE if recipe.preprocessing.registration == "none" else SPACE


def _attributions(recipe: Recipe) -> tuple[dict[str, Any], ...]:
    """The recipe's attributions, less those that an atlas is needed for where none fits."""
    return tuple(
        one
        for one in recipe.attribution
        if _space(recipe) == SPACE or one["method"] not in OF_REGIONS
    )


def _network(settings: Settings) -> dict[str, Any]:
    """The recipe's network, with as many input channels as the modality has."""
    channels = _modality(settings).channels
    return sealed(({"channels": channels} if channels > 1 else {}) | settings.recipe.network)


def _atlas_name(wanted: str) -> str:
    """A shipped atlas by its name, a file by its whole path: nodes run in folders of their own."""
    return wanted if wanted in SHIPPED else str(Path(wanted).absolute())


def _say_group(settings: Settings, cohort: CohortTable, folds: int) -> None:
    options = settings.recipe.cohort
    positive = sum(cohort.labels.values())
    tell(
        f"recipe {settings.recipe.name}: {positive} {options.positive} and "
        f"{len(cohort.labels) - positive} {options.negative}, {len(cohort.rows)} images, "
        f"{folds} trainings on {settings.device}"
    )


# --- both ----------------------------------------------------------------------------------------


def execute(workflow: pe.Workflow, settings: Settings, title: str) -> list[Failure]:
    """Run a workflow with the run's resources."""
    if settings.write_graph and shutil.which("dot") is None:
        tell("warning: --write-graph needs Graphviz (dot), which is not installed; not drawn")
    elif settings.write_graph:
        target = settings.output_dir / "logs" / f"{workflow.name}.dot"
        target.parent.mkdir(parents=True, exist_ok=True)
        workflow.write_graph(str(target), graph2use="colored", format="svg")
    return run_workflow(
        workflow,
        Resources(
            nprocs=settings.nprocs,
            memory_gb=settings.memory_gb,
            gpus=settings.gpus,
            gpus_each=settings.gpus_per_fold,
            plugin=settings.plugin,
            plugin_args=dict(settings.plugin_args) or None,
            stop_on_first_crash=settings.stop_on_first_crash,
        ),
        settings.output_dir / "logs",
        title=title,
        verbose=settings.verbose,
    )


def _remove_half_written(settings: Settings, people: Sequence[str] | None = None) -> None:
    removed = remove_half_written(settings.output_dir, people)
    if removed:
        tell(f"{removed} half-written files of runs that were killed were removed")


def _dry_run(settings: Settings, scans: Sequence[Scan], model: StoredModel | None) -> bool:
    for scan in scans:
        done = _is_done(settings, scan) and not settings.force
        tell(f"{scan.path}: {'already preprocessed' if done else 'to be preprocessed'}")
    if model is not None:
        tell(f"then explained with model {model.name}")
    return False


def _write_methods(settings: Settings, diary: Diary) -> bool:
    """Write the methods text of the recipe into logs/CITATION.md."""
    from bidsapp.report.methods import methods_text

    target = settings.output_dir / "logs/CITATION.md"
    write_text(target, str(methods_text(settings.recipe.as_dict(), diary.versions)))
    if settings.boilerplate_only:
        tell(f"methods text written to {target}")
    return False


def _participant_pages(output_dir: Path, people: Sequence[str]) -> None:
    from bidsapp.report import participant_page

    for person in people:
        participant_page(output_dir, person)
    pages = [output_dir / f"sub-{person}.html" for person in people]
    tell(f"{len(pages)} participant pages, such as {pages[0]}")


def _group_pages(output_dir: Path, name: str) -> None:
    from bidsapp.report import group_page, participant_page

    for folder in sorted(output_dir.glob("sub-*/")):
        participant_page(output_dir, folder.name.removeprefix("sub-"))
    tell(f"the group report is {group_page(output_dir, name)}")
