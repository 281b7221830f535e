"""The page of the cohort."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bidsapp.report import (
    analytics,
    anomaly,
    cohort,
    columns,
    heatmaps,
    notes,
    performance,
    statistics,
    wording,
)
from bidsapp.report.baselines import TESTED, Beside, beside
from bidsapp.report.current import Current
from bidsapp.report.division import division
from bidsapp.report.methods import methods_text
from bidsapp.report.page import HEATMAPS, Statement, Table, write
from bidsapp.report.shelf import Item, Picture, Shelf

_SAME_METHOD = ("mod", "model", "target", "method")


@dataclass(frozen=True)
class MeanMap:
    """Mean heatmaps of one method, per class, with their region table."""

    title: str
    meaning: str
    pictures: list[Picture]
    ranking: list[Picture]
    facts: list[tuple[str, str]]
    ledger: list[tuple[str, str, str]]
    balance: str
    regions: Table | None
    warnings: list[str]


def group_page(output_dir: Path, model: str | None = None) -> Path:
    """Write the page of the cohort from the derivatives on disk.

    Parameters
    ----------
    output_dir
        The derivatives folder.
    model
        Label of the model to report; default the one that has results. Where several have, the
        first is shown and the page says so.

    Returns
    -------
    Path
        `<output_dir>/group.html`, one self-contained file. What the derivatives lack is named on
        the page; nothing missing stops it.
    """
    shelf = Shelf(Path(output_dir))
    models = _models(shelf)
    chosen = model or (models[0] if models else None)
    if chosen and anomaly.is_anomaly(shelf, chosen):
        return anomaly.anomaly_page(shelf, chosen, [one for one in models if one != chosen])
    log = shelf.log("group")
    recipe = notes.recipe(shelf, log, chosen)
    setting = recipe.get("cohort") or {}
    predictions = _table(shelf, chosen, "predictions")
    found = performance.stored(shelf, chosen) if chosen else {}
    level = _level(shelf, chosen)
    better = _beats_chance(found)
    baselines = beside(shelf, chosen, level, beats_chance=better) if chosen else None
    current = Current.of(shelf, chosen)
    figures = [
        one
        for one in shelf.find("group/figures/*.png")
        if current.has(one) and not analytics.is_analytic(one)
    ]
    taken, left_out = cohort.people(shelf, predictions, setting)
    trainers = cohort.trainers(shelf, chosen, predictions)
    classes = _classes(taken, setting)
    tests = statistics.tests(shelf, figures, current)
    maps = _mean_maps(shelf, figures, current, classes) if chosen else []
    analysed = analytics.analytics(shelf, current, classes) if chosen else None
    qc = shelf.table(shelf.root / "group" / "qc.tsv")
    versions = notes.versions(shelf, log)
    stages = [
        name
        for name, done in (
            ("preprocessing", not qc.empty),
            ("network", bool(chosen)),
            ("baselines", baselines and baselines.table),
            ("attribution", maps),
            ("analytics", analysed),
            ("statistics", tests),
        )
        if done
    ]
    charts = _charts(shelf, figures)
    everybody = pd.concat([taken, left_out], ignore_index=True)
    few = cohort.too_few(taken, left_out, classes, trainers) if chosen else None
    return write(
        "group.html.j2",
        shelf.root / "group.html",
        title=_title(classes, chosen),
        model=chosen,
        other_models=[one for one in models if one != chosen],
        alarm=performance.alarm(found) if chosen else None,
        statements=[
            Statement(cohort.who(taken, left_out, classes, trainers)),
            *([Statement(few, "attention")] if few else []),
            *_statements(found, level, maps, tests, chosen, baselines),
        ],
        cohort=cohort.cohort_table(taken, classes, setting.get("site_column"), trainers),
        excluded=cohort.excluded(
            left_out, _exclusions(shelf, log, chosen, tests), setting, trainers
        ),
        qc=cohort.qc_table(shelf, qc),
        flagged=cohort.flagged_table(shelf, qc),
        registrations=cohort.registrations_table(qc),
        division=division(shelf, chosen, everybody, classes, setting) if chosen else None,
        metrics=performance.metrics_table(found, level),
        subsets=performance.subsets_table(_subsets(shelf, chosen)),
        repeats=performance.repeats_table(_table(shelf, chosen, "metrics"), level),
        spread=performance.spread(_table(shelf, chosen, "repeats")),
        confusion=performance.confusion_table(_table(shelf, chosen, "confusion")),
        charts=charts,
        baselines=baselines,
        tested=TESTED,
        heatmaps=maps,
        analytics=analysed,
        tests=tests,
        columns=columns.beside_traditional(shelf, chosen, figures) if chosen else [],
        others=_others(shelf, figures),
        notes=_notes(shelf, log, current),
        troubles=shelf.troubles,
        logged=bool(log),
        methods=methods_text(recipe, versions, stages=stages) if recipe else None,
        versions=versions,
        run=_run(log),
        caution=HEATMAPS,
        not_computed=_not_computed(shelf, chosen),
    )


def _not_computed(shelf: Shelf, model: str | None) -> list[str]:
    """What the model's card says could not be, sentence by sentence."""
    said = notes.model_card(shelf, model).get("NotComputed")
    return [wording.capital(str(one)) for one in said] if isinstance(said, list) else []


def _models(shelf: Shelf) -> list[str]:
    tables = shelf.find("group/model-*_desc-oof_*.tsv")
    cards = shelf.find("models/*/*_modelcard.json")
    return sorted(dict.fromkeys(one["model"] for one in [*tables, *cards] if one["model"]))


def _table(shelf: Shelf, model: str | None, suffix: str) -> pd.DataFrame:
    return shelf.table(shelf.root / "group" / f"model-{model}_desc-oof_{suffix}.tsv")


def _subsets(shelf: Shelf, model: str | None) -> pd.DataFrame:
    return shelf.table(shelf.root / "group" / f"model-{model}_desc-subsets_metrics.tsv")


def _level(shelf: Shelf, model: str | None) -> str:
    """Words for the confidence interval; its level only where it was recorded."""
    sidecar = shelf.json(shelf.root / "group" / f"model-{model}_desc-oof_metrics.json")
    share = sidecar.get("ConfidenceLevel")
    return f"{wording.percent(share)} CI" if isinstance(share, int | float) else "CI"


def _classes(taken: pd.DataFrame, setting: Mapping[str, Any]) -> list[str]:
    """Classes in a fixed order: the positive one first, then the negative, then any other."""
    named = [str(setting[key]) for key in ("positive", "negative") if setting.get(key) is not None]
    found = sorted(taken["label"].dropna().astype(str).unique()) if "label" in taken else []
    return named + [one for one in found if one and one not in named]


def _title(classes: list[str], model: str | None) -> str:
    versus = " and ".join(classes[:2]) if len(classes) > 1 else "The cohort"
    return f"{versus}: model {model}" if model else versus


def _run(log: Mapping[str, Any]) -> list[tuple[str, str]]:
    command = log.get("Command")
    return [
        ("Command", " ".join(map(str, command)) if isinstance(command, list) else ""),
        ("Started", str(log.get("StartTime") or "")),
        ("Ended", str(log.get("EndTime") or "")),
    ]


def _notes(shelf: Shelf, log: Mapping[str, Any], current: Current) -> notes.Notes:
    """Everything reported for the group, and by the participants' own runs."""
    logs = {"logs/group.json": log} | {
        shelf.name(one.path): shelf.json(one.path) for one in shelf.find("logs/participant-*.json")
    }
    found = notes.gather(shelf, logs, "group/*.json", keep=current.has)
    for one in shelf.find("sub-*/**/*.json"):
        if not one["model"] or current.has(one):
            found.add(shelf.name(one.path), {"Warnings": shelf.json(one.path).get("Warnings")})
    if current.model:
        found.add(f"models/model-{current.model}", notes.model_card(shelf, current.model))
    return found


def _exclusions(
    shelf: Shelf, log: Mapping[str, Any], model: str | None, tests: list[statistics.Test]
) -> dict[str, dict[str, Any]]:
    card = notes.model_card(shelf, model)
    told = {**_reasons(log.get("Excluded")), **_reasons(card.get("Excluded"))}
    return {"the classifier": told} | {
        f"the test {one.title}": _reasons(one.excluded) for one in tests
    }


def _reasons(record: Any) -> dict[str, Any]:
    if isinstance(record, Mapping):
        return dict(record)
    return {str(one): None for one in record or []}


# --- pictures ------------------------------------------------------------------------------------


def _chart_kind(found: Item) -> str:
    """Tell what a chart shows by its suffix or its desc; empty for anything else."""
    names = {found.suffix, found["desc"]} - {""}
    kinds = {
        "roc": {"roc"},
        "confusion": {"confusion"},
        "learning": {"learning", "learningcurves", "history"},
        "qc": {"qc"},
        "registrations": {"qcregistrations"},
        "probabilities": {"probabilities", "predictions"},
        "reliability": {"reliability"},
        "baselines": {"baselines"},
    }
    return next((kind for kind, known in kinds.items() if names & known), "")


_CHARTS = {
    "roc": ("ROC curve", "True and false alarms of the out-of-fold predictions at every cut."),
    "confusion": ("Confusion matrix", "How many people of each class got which answer."),
    "probabilities": (
        "Probability of every person, one strip per true class",
        "Each mark is one person; hollow, named marks were called wrong.",
    ),
    "baselines": (
        "Balanced accuracy and area under the ROC curve of the network and of each baseline",
        "The network on top; bars are intervals, the dashed line is chance. Intervals may overlap "
        "where a paired test still tells two classifiers apart.",
    ),
    "reliability": (
        "Reliability curve: share of people of the class by predicted probability",
        "Whether probabilities mean what they say: on the dashed line they do. Bars are 95 % "
        "intervals of the share; at the bottom, how many people had which probability.",
    ),
    "learning": (
        "Loss and balanced accuracy over the epochs of training",
        "A thin line per fold, which ends where it stopped, with a dot at the epoch that was kept; "
        "the mean in bold.",
    ),
    "qc": (
        "Correlation with the template against the volume of the brain mask, or in SPECT against "
        "the distance of the hottest voxels from the striata",
        "Each mark is one image; flagged ones are named.",
    ),
    "registrations": (
        "Correlation and overlap with the template, a strip of marks per registration",
        "How like the template images are by each registration on disk: a mark per image, a line "
        "at the median. Without registration, a low value is no fault.",
    ),
}


def _charts(shelf: Shelf, figures: list[Item]) -> dict[str, Picture | None]:
    found: dict[str, Picture | None] = dict.fromkeys(_CHARTS)
    for one in figures:
        kind = "" if one["method"] or one["contrast"] else _chart_kind(one)
        if kind and found[kind] is None:
            found[kind] = shelf.picture(one, *_CHARTS[kind], kind="chart")
    return found


def _others(shelf: Shelf, figures: list[Item]) -> list[Picture]:
    """Pictures that no section shows, so that none is hidden."""
    taken: set[str] = set()
    rest = []
    for one in figures:
        kind = _chart_kind(one)
        if one["method"] or one["contrast"] or columns.is_column(one):
            continue
        if kind and kind not in taken:
            taken.add(kind)
        else:
            rest.append(shelf.picture(one, one.path.stem, one.path.stem))
    return [one for one in rest if one]


# --- heatmaps and tests --------------------------------------------------------------------------


def _mean_maps(
    shelf: Shelf, figures: list[Item], current: Current, classes: list[str]
) -> list[MeanMap]:
    images, tables = (
        [
            one
            for one in shelf.find(f"group/*_heatmap.{ending}")
            if current.has(one) and not analytics.is_analytic(one)
        ]
        for ending in ("nii.gz", "tsv")
    )
    pictures = [one for one in figures if one["method"] and not one["contrast"]]
    firsts: dict[tuple[str, ...], Item] = {}
    for one in [*images, *tables, *pictures]:
        firsts.setdefault(tuple(one[key] for key in _SAME_METHOD), one)
    return [
        _mean_map(
            shelf,
            first,
            classes,
            *(
                [one for one in pile if one.agrees(first, _SAME_METHOD)]
                for pile in (images, tables, pictures)
            ),
        )
        for first in firsts.values()
    ]


def _mean_map(
    shelf: Shelf,
    first: Item,
    classes: list[str],
    images: list[Item],
    tables: list[Item],
    figures: list[Item],
) -> MeanMap:
    sidecars = [shelf.sidecar(one) for one in images]
    sidecar = sidecars[0] if sidecars else {}
    method = str(sidecar.get("Method") or wording.method_key(first["method"]))
    explained = str(sidecar.get("ExplainedClass") or first["target"])
    name = wording.method_name(method)
    table = shelf.table(tables[0].path) if tables else pd.DataFrame()
    present = [one for one in classes if f"sum_{one}" in table or f"density_{one}" in table]
    ranking = [one for one in figures if one["atlas"] or one["desc"] == "ranking"]
    books, balance = wording.ledger(sidecar)
    return MeanMap(
        title=wording.map_title(method, sidecar.get("Parameters"), explained),
        meaning=wording.method_meaning(method),
        pictures=_class_pictures(shelf, [one for one in figures if one not in ranking], name),
        ranking=_rankings(shelf, ranking, name),
        facts=heatmaps.facts(sidecar, method),
        ledger=books,
        balance=balance,
        regions=heatmaps.region_table(table, present, tables[0]["atlas"] if tables else "", name),
        warnings=sorted({str(text) for one in sidecars for text in one.get("Warnings") or []}),
    )


def _class_pictures(shelf: Shelf, figures: list[Item], name: str) -> list[Picture]:
    shown = []
    for one in figures:
        whose = one["desc"] or one["outcome"]
        caption = f"Mean over {whose} (out of fold)." if whose else "Mean map (out of fold)."
        shown.append(shelf.picture(one, f"Mean {name} heatmap over brain slices, {whose}", caption))
    return [one for one in shown if one]


def _rankings(shelf: Shelf, figures: list[Item], name: str) -> list[Picture]:
    alt = f"Regions with the most relevance by {name}, both classes"
    caption = "Regions with the most relevance; sums grow with the size of a region."
    shown = [shelf.picture(one, alt, caption, kind="chart") for one in figures]
    return [one for one in shown if one]


# --- summary -------------------------------------------------------------------------------------


def _statements(
    found: Mapping[str, performance.Measure],
    level: str,
    maps: list[MeanMap],
    tests: list[statistics.Test],
    model: str | None,
    baselines: Beside | None,
) -> list[Statement]:
    """How well the network does, and what its maps may and may not show."""
    well = "No model was found: nobody was classified."
    if model:
        well = performance.verdict(found, level)
    return [
        Statement(well, "good" if _beats_chance(found) else "attention"),
        *([baselines.summary] if baselines and baselines.summary else []),
        Statement(
            " ".join([HEATMAPS, _differences(tests)])
            if maps or tests
            else "There are no heatmaps and no statistics yet."
        ),
    ]


def _beats_chance(found: Mapping[str, performance.Measure]) -> bool:
    measure = performance.leading(found)
    return measure is not None and bool(measure.beats_chance)


def _differences(tests: list[statistics.Test]) -> str:
    known = [one for one in tests if one.found is not None]
    if not known:
        return ""
    positive = [one for one in known if one.found]
    if not positive:
        return "The voxelwise tests found no difference between the groups."
    each = [f"{wording.count(int(one.found or 0), 'cluster')} ({one.title})" for one in positive]
    return f"The voxelwise tests found {wording.listing(each, limit=4)}."
