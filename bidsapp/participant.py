"""The participant level: preprocess each person and, with a stored model, explain."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from nipype.pipeline import engine as pe

from bidsapp import __version__
from bidsapp.diary import Diary, tell
from bidsapp.execution import execute
from bidsapp.images import image_modality, image_options, is_done
from bidsapp.locks import locked
from bidsapp.machine import allow_files
from bidsapp.pages import write_methods, write_participant_pages
from bidsapp.settings import Recipe, Settings
from bidsapp.workdir import clean_people, nodes_dir, redo_people, remove_leftovers
from models.errors import InputError
from pipelines.anomaly import init_detect_wf
from pipelines.derivatives import carry_sessions, read_sidecar, write_dataset
from pipelines.detectors import StoredDetectors, is_anomaly
from pipelines.execution import Failure
from pipelines.explain import init_explain_wf
from pipelines.inputs import (
    Scan,
    check_dataset,
    choose_participants,
    find_scans,
    unreadable,
    with_t1w,
)
from pipelines.lesion_masks import REFUSED, lesion_sources, masks_of_others, with_lesions
from pipelines.participant import init_participant_wf
from pipelines.preprocess import modality_of
from pipelines.stored_models import StoredModel, choose_model, sealed

# What images must have in common with those that a model was trained on.
FITTING = (
    ("input", "modality"),
    ("preprocessing", "registration"),
    ("preprocessing", "resolution_mm"),
    ("preprocessing", "brain_extraction"),
    ("preprocessing", "denoise"),
    ("preprocessing", "template"),
    ("preprocessing", "lesions"),
    ("preprocessing", "spect"),
    ("preprocessing", "dwi"),
)


def participant(settings: Settings) -> bool:
    """Preprocess and, with a stored model, explain. Returns whether anything failed."""
    diary = Diary(settings)
    check_dataset(settings.bids_dir)
    people = choose_participants(settings.bids_dir, settings.participants)
    scans = _scans(settings, people, diary)
    model = _fitting_model(settings, diary)
    if not settings.reports_only:
        scans = _readable(scans, diary, image_modality(settings).beside)
    if settings.dry_run:
        return _dry_run(settings, scans, model)
    if settings.boilerplate_only:
        return write_methods(settings, diary)
    describe_dataset(settings)
    allow_files(1024 + 2 * len(people))  # each lock is an open file
    with ExitStack() as locks:
        for person in people:
            locks.enter_context(locked(settings, f"sub-{person}"))
        if settings.clean_workdir:
            clean_people(settings, people)
        remove_leftovers(settings, people)
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
        write_methods(settings, diary)
        write_participant_pages(settings.output_dir, people)
    return bool(diary.failures)


def describe_dataset(settings: Settings) -> None:
    """Write what describes the output folder; of many runs that begin together, one does."""
    with locked(settings, "dataset", quiet=True):
        write_dataset(
            settings.output_dir, settings.bids_dir, __version__, settings.dataset_links or None
        )


def _scans(settings: Settings, people: Sequence[str], diary: Diary) -> list[Scan]:
    suffix = image_modality(settings).suffix
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
    if image_modality(settings).needs_t1w or settings.recipe.preprocessing.registration == "t1w":
        scans, warnings = with_t1w(scans, _found(settings, people, "T1w", (), diary))
        for sentence in warnings:
            diary.warn(sentence)
    if image_modality(settings).lesions is not None:
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


def _readable(scans: Sequence[Scan], diary: Diary, beside: Callable[[Path], str]) -> list[Scan]:
    """The scans whose files can be read; each of the others is a failure of its own.

    A T1w image that cannot be opened is no reason to go on as without one: others have theirs.
    """
    problems = {scan: _first_unreadable(scan) or beside(scan.path) for scan in scans}
    diary.fail(
        [
            Failure(f"participant.sub_{scan.participant}.read", sentence, scan.path)
            for scan, sentence in problems.items()
            if sentence
        ]
    )
    return [scan for scan, sentence in problems.items() if not sentence]


def _first_unreadable(scan: Scan) -> str:
    paths = (scan.path, scan.t1w.path) if scan.t1w else (scan.path,)
    return next(filter(None, map(unreadable, paths)), "")


def _preprocess(settings: Settings, scans: Sequence[Scan], diary: Diary) -> None:
    todo = [scan for scan in scans if settings.force or not is_done(settings, scan)]
    if len(todo) < len(scans):
        tell(f"{len(scans) - len(todo)} of {len(scans)} scans are already preprocessed")
    if not todo:
        return
    workflow = init_participant_wf(
        scans=todo,
        output_dir=settings.output_dir,
        work_dir=nodes_dir(settings),
        modality=image_modality(settings),
        options=image_options(settings),
        device=settings.device,
    )
    if settings.force:
        redo_people(settings, "participant", {scan.participant for scan in todo})
    diary.fail(execute(workflow, settings, "preprocess"))


def _say_refused(settings: Settings, scans: Sequence[Scan], diary: Diary) -> None:
    """Warn of lesion masks that could not be of their image, also of earlier runs."""
    options = image_options(settings)
    for scan in scans:
        if scan.lesions is None:
            continue
        table = settings.output_dir / image_modality(settings).paths(scan, options)["quality"]
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
    options = image_options(settings)
    ready = [
        (scan, settings.output_dir / image_modality(settings).paths(scan, options)["registered"])
        for scan in scans
        if is_done(settings, scan)
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


def _dry_run(settings: Settings, scans: Sequence[Scan], model: StoredModel | None) -> bool:
    for scan in scans:
        done = is_done(settings, scan) and not settings.force
        tell(f"{scan.path}: {'already preprocessed' if done else 'to be preprocessed'}")
    if model is not None:
        tell(f"then explained with model {model.name}")
    return False
