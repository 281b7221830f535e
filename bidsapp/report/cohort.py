"""The part of the group page about people: who took part, who did not and why."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from scipy.stats import binom

from bidsapp.report import notes, wording
from bidsapp.report.page import Link, Table, table_of
from bidsapp.report.shelf import Shelf

SEX = ("sex", "gender")
SITE = ("site", "center", "centre", "scanner", "site_id")
FEWEST = 10  # people of a class; ours
SPLIT = ["participant_id", "repeat", "fold", "division", "role"]


def people(
    shelf: Shelf, predictions: pd.DataFrame, cohort: Mapping[str, Any]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of participants.tsv of those who were classified, with `label`, and of the others.

    Without predictions, everybody whose label is one of the recipe's classes took part.
    """
    table = shelf.table(shelf.root / "participants.tsv")
    if "participant_id" not in table:
        columns = [one for one in ("participant_id", "label") if one in predictions]
        return predictions[columns], pd.DataFrame(columns=["participant_id"])
    table = table.assign(participant_id=table["participant_id"].map(full_label))
    target = str(cohort.get("target") or "")
    classes = [str(cohort[key]) for key in ("positive", "negative") if cohort.get(key) is not None]
    labels = (
        table[target].map(wording.text) if target in table else pd.Series("", index=table.index)
    )
    table = table.assign(label=labels)
    if {"participant_id", "label"} <= set(predictions):
        known = predictions.set_index(predictions["participant_id"].map(full_label))["label"]
        known = known[~known.index.duplicated()]
        inside = table["participant_id"].isin(known.index)
        table = table.assign(label=table["participant_id"].map(known).fillna(table["label"]))
    else:
        inside = labels.isin(classes) if classes else labels != ""
    return table[inside], table[~inside]


@dataclass(frozen=True)
class Trainers:
    """Those who trained or validated every network they met, and so were never tested.

    There are such people where a part of the cohort was held out; in a k-fold everybody is tested.
    """

    people: frozenset[str] = frozenset()
    validated: bool = False

    def __bool__(self) -> bool:
        return bool(self.people)

    def __str__(self) -> str:
        did = "trained and validated" if self.validated else "trained"
        return f"{wording.count(len(self.people), 'other')} {did} the networks"

    @property
    def reason(self) -> str:
        """Why they were not tested."""
        return "used for training or validation" if self.validated else "used for training"


def trainers(shelf: Shelf, model: str | None, predictions: pd.DataFrame) -> Trainers:
    """Find the people that the folds' tables name and no prediction was made for."""
    if "participant_id" not in predictions:
        return Trainers()
    tested = set(predictions["participant_id"].map(full_label))
    roles = split_tables(shelf, model)
    roles = roles[roles["role"].isin(["train", "validation"])]
    roles = roles[~roles["participant_id"].isin(tested)]
    return Trainers(frozenset(roles["participant_id"]), bool((roles["role"] == "validation").any()))


def split_tables(shelf: Shelf, model: str | None) -> pd.DataFrame:
    """Who had which role in which fold of a model: `number` of the fold, and :data:`SPLIT`."""
    folds = notes.model_card(shelf, model).get("Folds")
    found = [pd.DataFrame(columns=["number", *SPLIT], dtype=object)]
    for one in shelf.find(f"models/model-{model}/model-{model}_fold-*_split.tsv"):
        # A run before with more folds may have left theirs.
        if isinstance(folds, int) and one["fold"].isdecimal() and int(one["fold"]) > folds:
            continue
        split = shelf.table(one.path)
        if {"participant_id", "role"} <= set(split):
            names = split["participant_id"].map(full_label)
            split = split.reindex(columns=SPLIT).assign(participant_id=names, number=one["fold"])
            found.append(split.fillna({"repeat": 1, "fold": 1, "division": 1}))
    return pd.concat(found, ignore_index=True)


def who(taken: pd.DataFrame, left_out: pd.DataFrame, classes: list[str], trainers: Trainers) -> str:
    """Say how many people took part, in what, and how many did not."""
    if taken.empty:
        return "Who took part is not known: no predictions and no matching participants.tsv."
    labels = taken["label"].astype(str) if "label" in taken else pd.Series(dtype=str)
    groups = wording.listing(f"{int((labels == name).sum())} {name}" for name in classes)
    others = int((~left_out["participant_id"].isin(trainers.people)).sum())
    if not trainers:
        inside = f"{wording.count(len(taken), 'person', 'people')} took part: {groups}"
        return f"{inside}; {others} of participants.tsv did not." if others else f"{inside}."
    tested = f"{len(taken)} {'was' if len(taken) == 1 else 'were'} tested: {groups}"
    others_said = f"; {others} of participants.tsv took no part" if others else ""
    return f"{tested}; {trainers}{others_said}."


def too_few(
    taken: pd.DataFrame, left_out: pd.DataFrame, classes: list[str], trainers: Trainers
) -> str | None:
    """Say that a class has too few people for anything to be learnt; None where it has enough."""
    mine = pd.concat([taken, left_out[left_out["participant_id"].isin(trainers.people)]])
    if "label" not in mine or len(classes) < 2:
        return None
    counts = {name: int((mine["label"].astype(str) == name).sum()) for name in classes[:2]}
    if not 0 < min(counts.values()) < FEWEST:
        return None
    groups = wording.listing(f"{n} {name}" for name, n in counts.items())
    answers = sum(counts.values())
    hits = int(binom.isf(0.05, answers, 0.5))
    share = wording.percent(float(binom.sf(hits - 1, answers, 0.5)))
    return (
        f"Too few people to learn from: {groups}. A network needs dozens of each class. Tossing a "
        f"coin for {answers} people is right at least {hits} times in {share} of studies, so this "
        "result says little, whatever it is."
    )


def full_label(participant: Any) -> str:
    """Participant with its `sub-`."""
    return f"sub-{str(participant).removeprefix('sub-')}"


def cohort_table(
    taken: pd.DataFrame, classes: list[str], site: str | None, trainers: Trainers
) -> Table | None:
    """Count people per class and describe their age, sex and site."""
    if taken.empty or "label" not in taken:
        return None
    groups = [(name, taken[taken["label"].astype(str) == name]) for name in classes]
    rows = [["People", *(str(len(group)) for _, group in groups)]]
    age = find_column(taken, ("age",))
    if age:
        rows.append(["Age, mean (SD)", *(mean_sd(group[age]) for _, group in groups)])
    counted = {"Sex": find_column(taken, SEX), "Site": find_column(taken, (site or "", *SITE))}
    for title, column in counted.items():
        if column:
            rows += _counted(title, taken[column], [group[column] for _, group in groups])
    caption = "People the network was trained and tested on"
    if trainers:
        caption = f"People the network was tested on; {trainers}"
    return Table(caption, ["", *classes], rows, [False, *(True for _ in classes)])


def _counted(title: str, everybody: pd.Series, groups: list[pd.Series]) -> list[list[str]]:
    """One row per value of a column, those without one last."""
    values = sorted(set(everybody.map(wording.text)), key=lambda value: (not value, value))
    return [
        [
            f"{title}: {value or wording.MISSING}",
            *(str(int((group.map(wording.text) == value).sum())) for group in groups),
        ]
        for value in values
    ]


def find_column(table: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    """Name of the first of these columns that a table has, whatever its case."""
    lower = {str(one).lower(): str(one) for one in table.columns}
    return next((lower[name.lower()] for name in names if name and name.lower() in lower), None)


def mean_sd(values: pd.Series) -> str:
    """Mean and standard deviation, and how many values are lacking."""
    known = pd.to_numeric(values, errors="coerce").dropna()
    if known.empty:
        return "–"
    lacking = f", {len(values) - len(known)} not recorded" if len(known) < len(values) else ""
    spread = f" ({known.std():.1f})" if len(known) > 1 else ""
    return f"{known.mean():.1f}{spread}{lacking}"


def excluded(
    left_out: pd.DataFrame,
    sources: Mapping[str, Mapping[str, Any]],
    cohort: Mapping[str, Any],
    trainers: Trainers,
) -> Table | None:
    """People who took no part in something, and why.

    Parameters
    ----------
    left_out
        Rows of participants.tsv without a prediction.
    sources
        From what ("the classifier", "the statistics") to its record's `Excluded`.
    cohort
        The recipe's table: a label that is neither class is a reason.
    trainers
        Those who were not tested because networks were trained or validated with them.
    """
    rows = [
        [full_label(person), what, wording.words(reason)]
        for what, record in sources.items()
        for person, reason in record.items()
    ]
    told = {row[0] for row in rows if row[1] == "the classifier"}
    rows += [[one, "testing", trainers.reason] for one in trainers.people]
    for row in left_out[~left_out["participant_id"].isin(trainers.people)].to_dict("records"):
        if row["participant_id"] not in told:
            rows.append([row["participant_id"], "the classifier", _reason(row, cohort)])
    if not rows:
        return None
    unique = sorted({tuple(row) for row in rows})
    caption = "People left out, or not tested" if trainers else "People left out"
    return Table(caption, ["Participant", "Left out of", "Why"], unique, [False] * 3)


def _reason(row: Mapping[str, Any], cohort: Mapping[str, Any]) -> str:
    classes = [str(cohort[key]) for key in ("positive", "negative") if cohort.get(key) is not None]
    label = wording.text(row.get("label"))
    if classes and not label:
        return f"no label in the column {cohort.get('target')}"
    if classes and label not in classes:
        return f"{cohort.get('target')} is {label}, neither {' nor '.join(classes)}"
    return "no prediction; the reason was not recorded"


def flagged_table(shelf: Shelf, qc: pd.DataFrame) -> Table | None:
    """Quality numbers of flagged images only."""
    rows = qc[[bool(wording.flags(text)) for text in qc["flags"]]] if "flags" in qc else qc[:0]
    table = qc_table(shelf, rows)
    return table and replace(table, caption="Flagged images", marked=())


def qc_table(shelf: Shelf, qc: pd.DataFrame) -> Table | None:
    """Quality numbers of everybody, flagged images on top, with links to people's pages."""
    if qc.empty or "participant_id" not in qc:
        return None
    flagged = [bool(wording.flags(text)) for text in qc.get("flags", pd.Series("", qc.index))]
    names = qc["participant_id"].astype(str).tolist()
    order = sorted(range(len(qc)), key=lambda row: (not flagged[row], names[row]))
    table = qc.iloc[order].astype({"participant_id": object})
    table["participant_id"] = pd.Series(
        [_page_link(shelf, one) for one in table["participant_id"]], index=table.index, dtype=object
    )
    if "flags" in table:
        table["flags"] = ["; ".join(wording.flags(text)) or "none" for text in table["flags"]]
    if "session_id" in table and table["session_id"].isna().all():
        table = table.drop(columns="session_id")
    leading = [one for one in ("participant_id", "session_id", "flags") if one in table]
    table = table[[*leading, *(one for one in table if one not in leading)]]
    return table_of(
        table,
        "Quality of the preprocessing, flagged images first",
        marked=[flagged[row] for row in order],
    )


def registrations_table(qc: pd.DataFrame) -> Table | None:
    """Quality numbers by registration; None where there is one only."""
    if "registration" not in qc or qc["registration"].nunique() < 2:
        return None
    rows = []
    for kind, images in qc.groupby("registration"):
        flagged = sum(bool(wording.flags(text)) for text in images.get("flags", []))
        spreads = [
            _median_range(images[column]) if column in images else "–" for column in _SPREADS
        ]
        rows.append([str(kind), str(len(images)), str(flagged), *spreads])
    heads = ["Registration", "Images", "Flagged", *map(wording.title, _SPREADS)]
    caption = "Quality by registration: median (least to largest)"
    return Table(caption, heads, rows, [False, *(True for _ in heads[1:])])


_SPREADS = ("template_correlation", "template_overlap", "brain_outside_percent")


def _median_range(values: pd.Series) -> str:
    known = pd.to_numeric(values, errors="coerce").dropna()
    if known.empty:
        return "–"
    low, middle, high = (wording.number(float(known.quantile(one))) for one in (0, 0.5, 1))
    return f"{middle} ({low} to {high})"


def _page_link(shelf: Shelf, participant: Any) -> Link | str:
    name = full_label(participant)
    page = shelf.root / f"{name}.html"
    return Link(name, page.name) if page.is_file() else name
