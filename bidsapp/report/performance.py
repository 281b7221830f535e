"""The part of the group page about how well the network does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bidsapp.report import wording
from bidsapp.report.notes import model_card
from bidsapp.report.page import Table
from bidsapp.report.shelf import Shelf


@dataclass(frozen=True)
class Measure:
    """One metric with its confidence interval and what guessing would give."""

    name: str
    value: float
    low: float | None
    high: float | None
    chance: float | None

    @property
    def beats_chance(self) -> bool | None:
        """Whether the interval lies above chance; None where that is not known."""
        if self.low is None or self.chance is None:
            return None
        return self.low > self.chance

    def words(self, level: str) -> str:
        """Write the value with its interval."""
        text = self.write(self.value)
        if self.low is None or self.high is None:
            return f"{text} (interval not recorded)"
        return f"{text} ({level} {self.write(self.low)} to {self.write(self.high)})"

    def write(self, value: float) -> str:
        """Write a value of this metric: an area as a number, the others as percentages."""
        return _written(self.name, value)


SUBSETS = ("training", "testing")
# Shares of people, written as percentages; what else there is are numbers.
SHARES = ("accuracy", "balanced_accuracy", "sensitivity", "specificity")
COUNTS = ("TP", "FN", "TN", "FP")


def _written(name: str, value: float) -> str:
    if name in COUNTS:
        return f"{value:.0f}"
    return wording.percent(value) if name in SHARES else f"{value:.2f}"


def stored(shelf: Shelf, model: str) -> dict[str, Measure]:
    """Metrics of a model: from the group's tables, else from its card."""
    stem = shelf.root / "group" / f"model-{model}_desc-oof"
    table = shelf.table(stem.with_name(f"{stem.name}_metrics.tsv"))
    predictions = shelf.table(stem.with_name(f"{stem.name}_predictions.tsv"))
    if table.empty:
        recorded = model_card(shelf, model).get("Metrics")
        rows = recorded if isinstance(recorded, list) else []
        table = pd.DataFrame([one for one in rows if isinstance(one, Mapping)])
    return measures(table, predictions)


def measures(table: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, Measure]:
    """Metrics by name.

    Chance is 1 / number of classes for balanced accuracy, .5 for the ROC area, and the share of
    the largest class for accuracy, which always naming that class would reach.
    """
    if not {"metric", "value"} <= set(table):
        return {}
    labels = predictions["label"] if "label" in predictions else pd.Series(dtype=str)
    shares = labels.value_counts(normalize=True)
    chance = {"balanced_accuracy": 1 / max(len(shares), 2), "roc_auc": 0.5}
    if len(shares):
        chance["accuracy"] = float(shares.iloc[0])
    return {
        str(row["metric"]): Measure(
            str(row["metric"]),
            float(row["value"]),
            _known(row.get("ci_low")),
            _known(row.get("ci_high")),
            chance.get(str(row["metric"])),
        )
        for row in table.to_dict("records")
        if pd.notna(row["value"])
    }


def _known(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def leading(found: Mapping[str, Measure]) -> Measure | None:
    """Choose the metric that decides: balanced accuracy, which unequal groups cannot flatter."""
    return next(
        (found[name] for name in ("balanced_accuracy", "accuracy", "roc_auc") if name in found),
        None,
    )


def verdict(found: Mapping[str, Measure], level: str) -> str:
    """Say how well the network does, against chance."""
    measure = leading(found)
    if measure is None:
        return "How well the network does is not known: no metrics were found."
    name = wording.METRICS.get(measure.name, measure.name).lower()
    said = f"In people it had not seen, the network reaches a {name} of {measure.words(level)}"
    if measure.chance is not None:
        covered = ", which the interval covers" if _covers_chance(measure) else ""
        said += f"; chance is {measure.write(measure.chance)}{covered}"
    area = found.get("roc_auc")
    if area and area is not measure:
        said += f". Its area under the ROC curve is {area.words(level)}"
    return said + "."


def _covers_chance(measure: Measure) -> bool:
    if measure.low is None or measure.high is None or measure.chance is None:
        return False
    return measure.low <= measure.chance <= measure.high


def spread(repeats: pd.DataFrame) -> str | None:
    """Say how much repeated trainings differ; None with one."""
    if len(repeats) < 2 or "balanced_accuracy" not in repeats:
        return None
    values, divisions = repeats["balanced_accuracy"], repeats["division"].nunique()
    of = f" on {wording.count(divisions, 'division')} of the cohort"
    return (
        f"Each of {len(repeats)} repeats{of}, measured alone, had a balanced accuracy of "
        f"{wording.percent(values.min())} to {wording.percent(values.max())}, on average "
        f"{wording.percent(values.mean())}. The table above holds each person's mean probability "
        "over the repeats. Repeats share people, so their number makes nothing more certain about "
        "other people."
    )


def repeats_table(table: pd.DataFrame, level: str) -> Table | None:
    """Mean and spread of the metrics over repeats, and the interval over test parts."""
    if "n_repeats" not in table:
        return None
    known = table[table["mean"].notna()]
    if known.empty or (known["n_repeats"].max() < 2 and known["splits_low"].isna().all()):
        return None
    rows = [
        [
            wording.METRICS.get(row.metric, wording.heading(row.metric)),
            *(_cell(row.metric, one) for one in (row.mean, row.sd, row.se)),
            "–"
            if pd.isna(row.splits_low)
            else f"{_cell(row.metric, row.splits_low)} to {_cell(row.metric, row.splits_high)}",
        ]
        for row in known.itertuples()
    ]
    times = wording.count(int(known["n_repeats"].max()), "repeat")
    return Table(
        f"Over {times}, each measured alone; the interval is over test parts, corrected for the "
        "training people that they share",
        ["", "Mean", "SD", "SE", level],
        rows,
        [False, True, True, True, True],
    )


def _cell(name: str, value: float) -> str:
    return "–" if pd.isna(value) else _written(name, value)


def alarm(found: Mapping[str, Measure]) -> str | None:
    """Warn where the interval of the leading metric covers chance, or is not known."""
    measure = leading(found)
    if measure is None or measure.beats_chance:
        return None
    name = wording.METRICS.get(measure.name, measure.name).lower()
    if measure.beats_chance is None:
        return (
            f"Whether the network beats chance is not known: the interval of its {name} was not "
            "recorded. Do not interpret its heatmaps before that is settled."
        )
    if measure.high is not None and measure.chance is not None and measure.high < measure.chance:
        return (
            f"The network does worse than chance ({name}): something is wrong with the labels, the "
            "split or the training. Its heatmaps explain nothing."
        )
    return (
        f"The network does not beat chance: the interval of its {name} covers it. Its heatmaps "
        "explain nothing."
    )


def metrics_table(found: Mapping[str, Measure], level: str) -> Table | None:
    """All metrics with intervals and chance."""
    if not found:
        return None
    rows = [
        [
            wording.METRICS.get(name, wording.heading(name)),
            one.write(one.value),
            "–"
            if one.low is None or one.high is None
            else f"{one.write(one.low)} to {one.write(one.high)}",
            "–" if one.chance is None else one.write(one.chance),
        ]
        for name, one in found.items()
    ]
    return Table(
        "Predictions of people the networks had not seen (out of fold)",
        ["", "Value", level, "Chance"],
        rows,
        [False, True, True, True],
    )


def confusion_table(table: pd.DataFrame) -> Table | None:
    """Write counts of true against predicted classes."""
    if table.empty:
        return None
    columns = ["True class", *(f"called {one}" for one in table.columns[1:])]
    rows = [
        [wording.number(cell) for cell in row] for row in table.itertuples(index=False, name=None)
    ]
    return Table("Confusion matrix", columns, rows, [False, *(True for _ in columns[1:])])


def subsets_table(table: pd.DataFrame) -> Table | None:
    """The ensemble on images that its networks were trained on, and on those they had not seen."""
    if table.empty or not {"metric", "training", "testing"} <= set(table):
        return None
    known = table.dropna(subset=["training", "testing"])
    rows = [
        [
            wording.METRICS.get(row.metric, wording.heading(row.metric)),
            _cell(row.metric, row.training),
            _cell(row.metric, row.testing),
        ]
        for row in known.itertuples()
    ]
    images = [wording.count(int(table[f"{one}_images"].iloc[0]), "image") for one in SUBSETS]
    return Table(
        "Ensemble on training and test images",
        ["", *(f"{one.capitalize()} ({n})" for one, n in zip(SUBSETS, images, strict=True))],
        rows,
        [False, True, True],
    )
