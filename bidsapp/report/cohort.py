"""The part of the group page about people: who took part, who did not and why."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from bidsapp.report import wording
from bidsapp.report.page import Link, Table, table_of
from bidsapp.report.shelf import Shelf

_SEX = ("sex", "gender")
_SITE = ("site", "center", "centre", "scanner", "site_id")


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
    labels = table[target].astype(str) if target in table else pd.Series("", index=table.index)
    table = table.assign(label=labels)
    if {"participant_id", "label"} <= set(predictions):
        known = predictions.set_index(predictions["participant_id"].map(full_label))["label"]
        known = known[~known.index.duplicated()]
        inside = table["participant_id"].isin(known.index)
        table = table.assign(label=table["participant_id"].map(known).fillna(table["label"]))
    else:
        inside = labels.isin(classes) if classes else labels != ""
    return table[inside], table[~inside]


def full_label(participant: Any) -> str:
    """Participant with its `sub-`."""
    return f"sub-{str(participant).removeprefix('sub-')}"


def cohort_table(taken: pd.DataFrame, classes: list[str], site: str | None) -> Table | None:
    """Count people per class and describe their age, sex and site."""
    if taken.empty or "label" not in taken:
        return None
    groups = [(name, taken[taken["label"].astype(str) == name]) for name in classes]
    rows = [["People", *(str(len(group)) for _, group in groups)]]
    age = _column(taken, ("age",))
    if age:
        rows.append(["Age, mean (SD)", *(_mean_sd(group[age]) for _, group in groups)])
    counted = {"Sex": _column(taken, _SEX), "Site": _column(taken, (site or "", *_SITE))}
    for title, column in counted.items():
        if column:
            rows += [
                [
                    f"{title}: {value}",
                    *(str(int((group[column].astype(str) == value).sum())) for _, group in groups),
                ]
                for value in sorted(taken[column].dropna().astype(str).unique())
            ]
            if taken[column].isna().any():
                rows.append(
                    [
                        f"{title}: not recorded",
                        *(str(int(group[column].isna().sum())) for _, group in groups),
                    ]
                )
    return Table(
        "People the network was trained and tested on",
        ["", *classes],
        rows,
        [False, *(True for _ in classes)],
    )


def _column(table: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    lower = {str(one).lower(): str(one) for one in table.columns}
    return next((lower[name.lower()] for name in names if name and name.lower() in lower), None)


def _mean_sd(values: pd.Series) -> str:
    known = pd.to_numeric(values, errors="coerce").dropna()
    if known.empty:
        return "–"
    lacking = f", {len(values) - len(known)} not recorded" if len(known) < len(values) else ""
    spread = f" ({known.std():.1f})" if len(known) > 1 else ""
    return f"{known.mean():.1f}{spread}{lacking}"


def excluded(
    left_out: pd.DataFrame, sources: Mapping[str, Mapping[str, Any]], cohort: Mapping[str, Any]
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
    """
    rows = [
        [full_label(person), what, wording.words(reason)]
        for what, record in sources.items()
        for person, reason in record.items()
    ]
    told = {row[0] for row in rows if row[1] == "the classifier"}
    for row in left_out.to_dict("records"):
        if row["participant_id"] not in told:
            rows.append([row["participant_id"], "the classifier", _reason(row, cohort)])
    if not rows:
        return None
    unique = sorted({tuple(row) for row in rows})
    return Table("People left out", ["Participant", "Left out of", "Why"], unique, [False] * 3)


def _reason(row: Mapping[str, Any], cohort: Mapping[str, Any]) -> str:
    classes = [str(cohort[key]) for key in ("positive", "negative") if cohort.get(key) is not None]
    label = str(row.get("label") or "")
    if classes and label in ("", "nan", "None"):
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


def _page_link(shelf: Shelf, participant: Any) -> Link | str:
    name = full_label(participant)
    page = shelf.root / f"{name}.html"
    return Link(name, page.name) if page.is_file() else name
