"""Which files belong to a model as its card has it now: runs before it may have left others."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bidsapp.report import wording
from bidsapp.report.notes import model_card
from bidsapp.report.shelf import Item, Shelf
from models.errors import InputError
from pipelines.derivatives import label
from pipelines.statistics import contrast_label


@dataclass(frozen=True)
class Current:
    """What the names of a model's files must say.

    Attributes
    ----------
    model
        Label of the model.
    allowed
        Entity to its values; an entity that the card does not tell may have any.
    groups
        Labels of the classes that means are over; empty where the card does not tell.
    """

    model: str
    allowed: Mapping[str, frozenset[str]]
    groups: frozenset[str] = frozenset()

    @classmethod
    def of(cls, shelf: Shelf, model: str | None) -> "Current":
        """Read the model's card; without one, everything with the model's name belongs to it."""
        card = model_card(shelf, model)
        allowed: dict[str, frozenset[str]] = {}
        classes = [_label(one) for one in _listed(card.get("Classes"))]
        if len(classes) == 2:
            negative, positive = classes
            allowed["target"] = frozenset([positive])
            allowed["contrast"] = frozenset([_contrast(card) or f"{positive}Minus{negative}"])
        for methods in {"Attributions", "Autoencoders"} & set(card):
            entries = [one for one in _listed(card[methods]) if isinstance(one, Mapping)]
            allowed["method"] = frozenset(str(one.get("name")) for one in entries)
        grid = card.get("Grid")
        if isinstance(grid, Mapping) and grid.get("name"):
            allowed["res"] = frozenset([str(grid["name"])])
        return cls(model or "", allowed, frozenset(classes if len(classes) == 2 else ()))

    def has(self, found: Item) -> bool:
        """Whether a file is the model's, or nobody's, and not left over from an earlier run."""
        if found["model"] not in ("", self.model):
            return False
        # The classes of a mean map are in its desc; the target alone does not tell the controls.
        if found["stat"] == "mean" and self.groups and found["desc"] not in self.groups:
            return False
        return all(found[key] in ("", *values) for key, values in self.allowed.items())

    def explains(self, target: Any) -> bool:
        """Whether a class is the one whose probability the model gives."""
        known = self.allowed.get("target")
        return known is None or not wording.text(target) or _label(target) in known


def only_current(shelf: Shelf, found: Iterable[Item]) -> list[Item]:
    """Keep the files that belong to their own models."""
    files = list(found)
    models = {one["model"]: Current.of(shelf, one["model"]) for one in files}
    return [one for one in files if models[one["model"]].has(one)]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _contrast(card: Mapping[str, Any]) -> str:
    """Label of the contrast that the recipe names; empty where it names none."""
    found: Any = card
    for key in ("Recipe", "statistics", "contrast"):
        found = found.get(key) if isinstance(found, Mapping) else None
    try:
        return contrast_label(found) if found else ""
    except (InputError, TypeError):  # no recipe of this app
        return ""


def _label(name: Any) -> str:
    try:
        return label(wording.text(name))
    except InputError:  # no letter or digit: no file name can hold it
        return ""
