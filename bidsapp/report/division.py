"""The part of the group page about who was on which side, and what of it was checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bidsapp.report import cohort, wording
from bidsapp.report.page import Table
from bidsapp.report.shelf import Shelf

MOST_VALUES = 6


@dataclass(frozen=True)
class Division:
    """How the people were divided: sentences, what to beware of, and the parts of one division."""

    sentences: list[str]
    warnings: list[str]
    parts: Table | None


def division(
    shelf: Shelf, model: str, people: pd.DataFrame, classes: list[str], setting: Mapping[str, Any]
) -> Division | None:
    """Read the split tables and the table of duplicates of a model.

    Parameters
    ----------
    people
        Rows of participants.tsv, with `label`.
    classes
        Positive class first.
    setting
        The recipe's [cohort].
    """
    roles = cohort.split_tables(shelf, model)
    if roles.empty:
        return None
    sides = [*_sides(roles, str(setting.get("group") or "")), *_balanced(roles)]
    found, warnings = _images(shelf, model)
    return Division([*sides, *found], warnings, _parts(roles, people, classes))


def _sides(roles: pd.DataFrame, group: str) -> list[str]:
    doubled = roles[roles.duplicated(["number", "participant_id"], keep=False)]
    folds = roles["number"].nunique()
    if len(doubled):
        names = wording.listing(sorted(doubled["participant_id"].unique()), limit=5)
        return [f"Somebody is on two sides of a split: {names}. The results are worth nothing."]
    relatives = f" Relatives (column {group}) were kept on one side, too." if group else ""
    return [
        f"All images of a person were on one side of each of {wording.count(folds, 'split')}: "
        "trained on, validated on or tested. Validation people chose epochs and thresholds, never "
        f"test people.{relatives}"
    ]


def _balanced(roles: pd.DataFrame) -> list[str]:
    unused = roles[roles["role"].isin(["unused", "related"])]
    if unused.empty:
        return []
    each = unused.drop_duplicates(["division", "participant_id"]).groupby("division").size()
    often = roles.groupby("participant_id")["role"].agg(
        lambda has: has.isin(["unused", "related"]).all()
    )
    never = [str(one) for one in often.index[often]]
    amount = f"{each.min()}" if each.min() == each.max() else f"{each.min()} to {each.max()}"
    said = f"To balance the cohort, {amount} people were left out"
    if roles["division"].nunique() > 1:
        said += f" of each of {roles['division'].nunique()} divisions, drawn anew"
    return (
        [f"{said}. In no training or test took part: {wording.listing(never, limit=10)}."]
        if (never)
        else [f"{said}; everybody took part in one of them."]
    )


def _images(shelf: Shelf, model: str) -> tuple[list[str], list[str]]:
    """What the comparison of images says, and its warnings."""
    path = shelf.root / "group" / f"model-{model}_duplicates.json"
    checked = shelf.json(path) if path.exists() else {}
    if "Images" not in checked:
        return ["Whether an image is there twice was not recorded."], []
    warnings = [str(one) for one in checked.get("Warnings") or []]
    same = f"{wording.count(checked['Images'], 'image')} of "
    same += wording.count(checked["People"], "person", "people")
    said = [f"The voxels of {same} were compared: no two people have the same image."]
    threshold = checked.get("NearThreshold")
    if threshold is None:
        said.append("Too few images to look for people who are nearly the same.")
    elif not any("alike" in one for one in warnings):
        said.append(
            "No two people are so much alike that one person under two names, or twins, must be "
            f"feared (no correlation of {threshold:g} or more of what sets a brain apart)."
        )
    return said, warnings


def _parts(roles: pd.DataFrame, people: pd.DataFrame, classes: list[str]) -> Table | None:
    """Shares of each class, sex and site, and the mean age, in the parts of the first division."""
    first = roles[roles["repeat"] == roles["repeat"].min()]
    folds = sorted(first["fold"].unique())
    rows = []
    if len(folds) > 1:
        parts = {f"Fold {fold}": (first["fold"] == fold, ["test"]) for fold in folds}
        caption = "Who was tested in each fold"
    else:
        names = {"train": "Training", "validation": "Validation", "test": "Test"}
        parts = {name: (first["fold"] == folds[0], [role]) for role, name in names.items()}
        caption = "Who was on which side"
    columns = _columns(people, classes)
    for name, (where, wanted) in parts.items():
        members = first.loc[where & first["role"].isin(wanted), "participant_id"]
        mine = people[people["participant_id"].isin(members)]
        if len(mine):
            rows.append([name, str(len(members)), *(show(mine) for show in columns.values())])
    if not rows:
        return None
    if roles["division"].nunique() > 1:
        caption += f" (the first of {roles['division'].nunique()} divisions)"
    return Table(
        caption, ["", "People", *columns], rows, [False, *(True for _ in range(len(columns) + 1))]
    )


def _columns(people: pd.DataFrame, classes: list[str]) -> dict[str, Any]:
    """Column of the table to the function that fills it."""
    columns: dict[str, Any] = {name: _share("label", name) for name in classes}
    age = cohort.find_column(people, ("age",))
    if age:
        columns["Age, mean (SD)"] = lambda part: cohort.mean_sd(part[age])
    for title, names in (("Sex", cohort.SEX), ("Site", cohort.SITE)):
        found = cohort.find_column(people, names)
        values = sorted(set(people[found].map(wording.text)) - {""}) if found else []
        if found and len(values) <= MOST_VALUES:
            columns |= {f"{title}: {value}": _share(found, value) for value in values}
    return columns


def _share(column: str, value: str) -> Any:
    return lambda part: wording.percent(float((part[column].map(wording.text) == value).mean()))
