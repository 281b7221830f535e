"""Folders that runs share: where their steps lie, and what one run may remove."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from bidsapp import __version__
from bidsapp.diary import tell
from bidsapp.settings import Settings
from pipelines.derivatives import remove_half_written


def nodes_dir(settings: Settings) -> Path:
    """Where nodes keep their results: another version of the app computes its own."""
    return settings.work_dir / f"v{__version__}"


def clean_people(settings: Settings, people: Iterable[str]) -> None:
    """Remove all that any version has left of these people, whose locks are held.

    Runs of other people may be at work beside them.
    """
    for person in people:
        _remove(settings.work_dir, _of_person("v*/*", person))


def clean_model(settings: Settings, model: str) -> None:
    """Remove all that any version has left of a model's group level, whose lock is held."""
    _remove(settings.work_dir, [f"v*/{level}_{model}" for level in ("group", "anomaly")])


def redo_people(settings: Settings, workflow: str, people: Iterable[str]) -> None:
    """Remove what this version's steps of one workflow have found of these people."""
    for person in people:
        _remove(nodes_dir(settings), _of_person(workflow, person))


def remove_leftovers(settings: Settings, people: Sequence[str] | None = None) -> None:
    """Remove what killed runs have half-written: of these people, or of everybody."""
    removed = remove_half_written(settings.output_dir, people)
    if removed:
        tell(f"{removed} half-written files of runs that were killed were removed")


def _of_person(workflow: str, person: str) -> list[str]:
    return [f"{workflow}/sub_{person}", f"{workflow}/sub_{person}_ses_*"]


def _remove(folder: Path, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        for found in list(folder.glob(pattern)):
            shutil.rmtree(found, ignore_errors=True)
