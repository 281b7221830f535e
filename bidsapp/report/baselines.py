"""The part of the group page that puts the network beside simple classifiers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bidsapp.report import performance, wording
from bidsapp.report.notes import model_card
from bidsapp.report.page import Statement, Table
from bidsapp.report.shelf import Shelf
from pipelines.baselines import BASELINES, NETWORK, titles

# What of a network's answers they may explain away, which concerns every heatmap.
CONFOUNDS = ("covariates", "mask")
TESTED = (
    "Whether the network beats a classifier is judged by the area under the ROC curve (DeLong’s "
    "test on the same people, two-sided, p below 0.05, each question on its own). McNemar’s exact "
    "test compares the answers. Both take the trainings as they are: they do not say what another "
    "training would give."
)


@dataclass(frozen=True)
class Beside:
    """The network beside the baselines.

    Attributes
    ----------
    summary
        One sentence for the top of the page; None where no baseline could be fitted.
    sentences
        One per baseline: whether the network beats it, and what it may mean if it does not.
    table
        Metrics with intervals, and the paired tests.
    looked_at
        Baseline to what it looks at.
    missing
        Baselines that could not be fitted, and why.
    """

    summary: Statement | None
    sentences: list[Statement]
    table: Table | None
    looked_at: list[tuple[str, str]]
    missing: list[str]


def beside(shelf: Shelf, model: str, level: str, *, beats_chance: bool) -> Beside | None:
    """Read what the group level found; None where it fitted no baselines.

    Parameters
    ----------
    shelf : Shelf
    model : str
    level : str
        Words for the confidence interval.
    beats_chance : bool
        Whether the network does: one that does not has learnt nothing to be explained away.
    """
    stem = shelf.root / "group" / f"model-{model}_desc-baselines"
    path = stem.with_name(f"{stem.name}_metrics.tsv")
    metrics = shelf.table(path)
    compared = shelf.table(stem.with_name(f"{stem.name}_comparisons.tsv"))
    wanted = _wanted(model_card(shelf, model))
    needed = {"classifier", "metric", "value", "ci_low", "ci_high"}
    if not needed <= set(metrics) or not {"classifier", "verdict"} <= set(compared):
        return None
    metrics = metrics[metrics["classifier"].isin([NETWORK, *wanted])]
    compared = compared[compared["classifier"].isin(wanted)]
    sidecar = shelf.json(path.with_suffix(".json"))
    missing = _missing(sidecar, wanted)
    if compared.empty and not missing:
        return None
    return Beside(
        summary=None if compared.empty else _summary(compared, beats_chance),
        sentences=[_sentence(row, beats_chance) for row in compared.to_dict("records")],
        table=None if compared.empty else _table(metrics, compared, level),
        looked_at=_features(sidecar, wanted),
        missing=missing,
    )


def _wanted(card: Mapping[str, Any]) -> Collection[str]:
    """Baselines of the recipe that the model was made by; all where that is not known."""
    table = (card.get("Recipe") or {}).get("baselines")
    names = table.get("names") if isinstance(table, Mapping) else None
    return list(BASELINES) if names is None else [one for one in names if one in BASELINES]


def _summary(compared: pd.DataFrame, beats_chance: bool) -> Statement:
    groups = {
        "better": "beats {}",
        "undecided": "does not clearly beat {}",
        "worse": "does worse than {}",
        "unknown": "cannot be told from {}",
    }
    said = []
    for key, words in groups.items():
        names = compared.loc[compared["verdict"] == key, "classifier"]
        if len(names):
            said.append(words.format(wording.listing(BASELINES[one].title for one in names)))
    said += [] if beats_chance else ["does not beat chance"]
    lost = compared["classifier"].isin(CONFOUNDS) & (compared["verdict"] != "better")
    kind = "attention" if lost.any() or not beats_chance else "plain"
    return Statement(f"On the same people, the network {'; it '.join(said)}.", kind)


def _sentence(row: Mapping[str, Any], beats_chance: bool) -> Statement:
    one, ahead = BASELINES[str(row["classifier"])], row["auc_difference"] > 0
    areas = f"area under the ROC curve {row['auc_network']:.2f} against {row['auc_baseline']:.2f}"
    if row["verdict"] == "unknown":
        text = f"Whether the network beats {one.title} is not known ({areas}; no test fits)."
        return Statement(text, "attention")
    shown = f"{areas}, DeLong’s p {_p(row['p_auc'])}"
    if row["verdict"] == "better" and not beats_chance:
        return Statement(f"The network beats {one.title} ({shown}), but not chance.", "attention")
    if row["verdict"] == "better":
        return Statement(f"The network beats {one.title} ({shown}).", "good")
    verb = {
        ("undecided", True): "does not clearly beat",
        ("undecided", False): "does not beat",
    }.get((str(row["verdict"]), bool(ahead)), "does worse than")
    caution = f": {one.caution}" if beats_chance else ""
    return Statement(f"The network {verb} {one.title} ({shown}){caution}.", "attention")


def _p(value: Any) -> str:
    if pd.isna(value):
        return "not known"
    return "below 0.001" if value < 0.001 else f"= {value:.3f}"


def _table(metrics: pd.DataFrame, compared: pd.DataFrame, level: str) -> Table:
    called = titles(list(BASELINES))
    tests = compared.set_index("classifier")
    rows = []
    for name in dict.fromkeys(metrics["classifier"]):
        found = performance.measures(
            metrics[metrics["classifier"] == name], pd.DataFrame({"label": []})
        )
        cells = [_with_interval(found.get(one)) for one in ("balanced_accuracy", "roc_auc")]
        cells += _tests(tests.loc[name]) if name in tests.index else ["–"] * 4
        rows.append([wording.capital(called.get(name, name)), *cells])
    columns = [
        "",
        f"Balanced accuracy ({level})",
        f"Area under the ROC curve ({level})",
        f"Network’s area less this ({level})",
        "DeLong’s p",
        "Right: network alone / this alone",
        "McNemar’s p",
    ]
    caption = "The network beside simple classifiers, on the same people and folds"
    return Table(
        caption, columns, rows, [False, *[True] * 6], [one[0] == "Network" for one in rows]
    )


def _with_interval(measure: performance.Measure | None) -> str:
    if measure is None:
        return "–"
    if measure.low is None or measure.high is None:
        return measure.write(measure.value)
    low, high = measure.write(measure.low), measure.write(measure.high)
    return f"{measure.write(measure.value)} ({low} to {high})"


def _tests(row: pd.Series) -> list[str]:
    interval = "" if pd.isna(row["ci_low"]) else f" ({row['ci_low']:.2f} to {row['ci_high']:.2f})"
    return [
        f"{row['auc_difference']:.2f}{interval}".replace("-", wording.MINUS),
        _p(row["p_auc"]).removeprefix("= "),
        f"{row['network_only_right']:.0f} / {row['baseline_only_right']:.0f}",
        _p(row["p_accuracy"]).removeprefix("= "),
    ]


def _features(sidecar: Mapping[str, Any], wanted: Collection[str]) -> list[tuple[str, str]]:
    features = sidecar.get("Features")
    known = features if isinstance(features, Mapping) else {}
    called = titles(list(BASELINES))
    return [(wording.capital(called[one]), str(known[one])) for one in wanted if known.get(one)]


def _missing(sidecar: Mapping[str, Any], wanted: Collection[str]) -> list[str]:
    """Baselines that could not be fitted, those with the same reason together."""
    reasons: dict[str, list[str]] = {}
    called = titles(list(BASELINES))
    for one in sidecar.get("NotComputed") or []:
        name, _, reason = str(one).partition(": ")
        if name in wanted:
            reasons.setdefault(reason, []).append(called[name])
    return [f"{wording.listing(names)}: {reason}" for reason, names in reasons.items()]
