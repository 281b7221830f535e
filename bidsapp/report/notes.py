"""What went wrong or deserves a look, from logs and sidecars; and what a run was made with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bidsapp.report.shelf import Item, Shelf


@dataclass
class Notes:
    """Warnings and failures for a page.

    Attributes
    ----------
    warnings
        Sentence to the files that carry it.
    failures
        (participant, step, message, crash file).
    """

    warnings: dict[str, list[str]] = field(default_factory=dict)
    failures: list[tuple[str, str, str, str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.warnings or self.failures)

    def add(self, source: str, record: Mapping[str, Any]) -> None:
        """Take over what a log or a sidecar reports."""
        warnings = record.get("Warnings") or []
        for text in [warnings] if isinstance(warnings, str) else warnings:
            sources = self.warnings.setdefault(str(text), [])
            if source not in sources:
                sources.append(source)
        for failure in record.get("Failures") or []:
            self._fail(source, failure)

    def _fail(self, source: str, failure: Any) -> None:
        if not isinstance(failure, Mapping):
            failure = {"Message": str(failure)}
        keys = ("Participant", "Node", "Message", "CrashFile")
        row = tuple(str(failure.get(key) or "") for key in keys)
        if row not in self.failures:
            self.failures.append((row[0], row[1], row[2] or f"see {source}", row[3]))


def gather(
    shelf: Shelf,
    logs: Mapping[str, Mapping[str, Any]],
    sidecars: str,
    *,
    keep: Callable[[Item], bool] = lambda found: True,
) -> Notes:
    """Collect everything that a run reported.

    Parameters
    ----------
    shelf
        The derivatives.
    logs
        Name of a log to its content.
    sidecars
        Glob pattern of the JSON files to look into.
    keep
        Which of these belong to the page.
    """
    notes = Notes()
    for name, log in logs.items():
        notes.add(name, log)
    for found in shelf.find(sidecars):
        if keep(found):
            notes.add(shelf.name(found.path), shelf.json(found.path))
    return notes


def versions(shelf: Shelf, log: Mapping[str, Any]) -> dict[str, str]:
    """Software and versions of a run: from its log, else from dataset_description.json."""
    recorded = log.get("Versions")
    if isinstance(recorded, Mapping) and recorded:
        return {str(name): str(version) for name, version in recorded.items()}
    makers = shelf.json(shelf.root / "dataset_description.json").get("GeneratedBy") or []
    return {
        str(one["Name"]): str(one.get("Version", "version not recorded"))
        for one in makers
        if isinstance(one, Mapping) and one.get("Name")
    }


def recipe(shelf: Shelf, log: Mapping[str, Any], model: str | None = None) -> dict[str, Any]:
    """Recipe of a model: from its card, else from the log of the run.

    The log may be of another run, such as one that preprocessed a person by another recipe.
    """
    card = model_card(shelf, model)
    for stored in (card.get("Recipe"), card.get("recipe"), log.get("Recipe")):
        if isinstance(stored, Mapping) and stored:
            return dict(stored)
    return {}


def model_card(shelf: Shelf, model: str | None) -> dict[str, Any]:
    """Card of a model; empty where there is none."""
    if not model:
        return {}
    folder: Path = shelf.root / "models" / f"model-{model}"
    return shelf.json(folder / f"model-{model}_modelcard.json")
