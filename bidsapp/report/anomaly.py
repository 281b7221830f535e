"""Anomaly detection on pages: of the cohort, and the part of a participant's page."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bidsapp.report import cohort, notes, wording
from bidsapp.report.current import Current, only_current
from bidsapp.report.methods import methods_text
from bidsapp.report.page import Link, Statement, Table, table_of, write
from bidsapp.report.shelf import Item, Picture, Shelf

KIND = "anomaly"
CAUTION = (
    "An anomaly map shows where an image is not what networks made of controls' images. Noise, "
    "motion, another scanner or a failed registration are anomalies, too."
)
OPTIMISTIC = (
    "The best threshold is chosen on the people that it is scored on, as in the publication: it "
    "flatters. Held out, it is chosen on the other half of the people."
)
NO_BETTER = (
    "No auto-encoder tells patients from controls by the whole brain better than chance (the "
    "interval of its area under the curve holds 0.5). Maps and regions below may show nothing."
)
UNKNOWN = "–"
TABLES = ("regions", "differences", "people", "controls")
_SAME = ("ses", "mod", "model", "method")


@dataclass(frozen=True)
class PersonAnomaly:
    """One auto-encoder's findings in one image."""

    model: str
    title: str
    picture: Picture | None
    facts: list[tuple[str, str]]
    regions: Table | None
    warnings: list[str]


def is_anomaly(shelf: Shelf, model: str | None) -> bool:
    """Whether a model detects anomalies, by its card."""
    return notes.model_card(shelf, model).get("Kind") == KIND


def anomaly_page(shelf: Shelf, model: str, others: list[str]) -> Path:
    """Write the page of a cohort in which anomalies were looked for.

    Parameters
    ----------
    shelf
        The derivatives.
    model
        Label of the model.
    others
        Labels of models that the page does not show.
    """
    log = shelf.log("group")
    recipe = notes.recipe(shelf, log, model)
    card = notes.model_card(shelf, model)
    setting = recipe.get("cohort") or {}
    tables = {name: _scores(shelf, model, name) for name in TABLES}
    people = tables["people"]
    predictions = people.drop_duplicates("participant_id") if len(people) else people
    taken, left_out = cohort.people(shelf, predictions, setting)
    trainers = cohort.trainers(shelf, model, predictions)
    classes = [str(setting[key]) for key in ("positive", "negative") if setting.get(key)]
    versions = notes.versions(shelf, log)
    found = notes.gather(shelf, {"logs/group.json": log}, "group/*.json")
    qc = shelf.table(shelf.root / "group" / "qc.tsv")
    excluded = {"the anomaly detection": dict(log.get("Excluded") or {})}
    return write(
        "anomaly_group.html.j2",
        shelf.root / "group.html",
        title=f"{' and '.join(classes) or 'The cohort'}: anomalies, model {model}",
        model=model,
        other_models=others,
        alarm=NO_BETTER if _no_better(tables["regions"]) else None,
        statements=[
            Statement(cohort.who(taken, left_out, classes, trainers)),
            *_statements(tables, card),
        ],
        cohort=cohort.cohort_table(taken, classes, setting.get("site_column"), trainers),
        excluded=cohort.excluded(left_out, excluded, setting, trainers),
        qc=cohort.qc_table(shelf, qc),
        optimistic=OPTIMISTIC,
        scores=_score_tables(tables["regions"]),
        differences=_difference_table(tables["differences"]),
        alarms=_alarm_table(tables["controls"]),
        persons=_people_table(shelf, people),
        charts=_charts(shelf, model),
        means=_means(shelf, model),
        caution=CAUTION,
        notes=found,
        troubles=shelf.troubles,
        logged=bool(log),
        methods=methods_text(recipe, versions, stages=("preprocessing", "anomaly")),
        versions=versions,
        run=[("Command", " ".join(map(str, log.get("Command") or [])))],
    )


def _scores(shelf: Shelf, model: str, name: str) -> pd.DataFrame:
    return shelf.table(shelf.root / "group" / f"model-{model}_desc-{name}_anomalyscores.tsv")


def _whole(regions: pd.DataFrame) -> pd.DataFrame:
    """Rows of the whole brain, which comes first; not those of places in the space of codes."""
    if regions.empty:
        return regions
    return regions[regions["roi"] == regions["roi"].iloc[0]]


def _no_better(regions: pd.DataFrame) -> bool:
    whole = _whole(regions)
    if "people_auc_low" not in whole or whole["people_auc_low"].isna().all():
        return True
    return not bool((whole["people_auc_low"] > 0.5).any())


def _statements(tables: Mapping[str, pd.DataFrame], card: Mapping[str, Any]) -> list[Statement]:
    whole = _whole(tables["regions"])
    if whole.empty:
        return [Statement("No scores were found.", "attention")]
    said = []
    for row in whole.itertuples():
        better = row.people_auc_low > 0.5
        said.append(
            Statement(
                f"{row.method}, whole brain: area under the curve {_area(row)}; g-mean "
                f"{_spread(row.gmean, row.gmean_sd)} with the best threshold (optimistic), "
                f"{_spread(row.gmean_held_out, row.gmean_held_out_sd)} with a held-out one.",
                "good" if better else "attention",
            )
        )
    return [*said, *_false_alarms(tables["controls"], card), Statement(CAUTION)]


def _spread(mean: float, sd: float) -> str:
    if pd.isna(mean):
        return UNKNOWN
    return f"{mean:.2f}" if pd.isna(sd) else f"{mean:.2f} ± {sd:.2f}"


def _area(row: Any) -> str:
    """Area under the curve over people, with its interval where there is one."""
    if pd.isna(row.people_auc):
        return UNKNOWN
    low, high = row.people_auc_low, row.people_auc_high
    return f"{row.people_auc:.2f}" + ("" if pd.isna(low) else f" ({low:.2f} to {high:.2f})")


def _false_alarms(controls: pd.DataFrame, card: Mapping[str, Any]) -> list[Statement]:
    if controls.empty:
        return []
    tested = controls[(controls["role"] == "test") & controls["expected"].notna()]
    said = wording.listing(f"{row.percent:.1f} % by {row.method}" for row in tested.itertuples())
    quantile = card.get("Quantile")
    promised = f", where {100 * (1 - quantile):.1f} % are expected" if quantile else ""
    return [Statement(f"Of the left-out controls’ brain, {said} is called abnormal{promised}.")]


def _score_tables(regions: pd.DataFrame) -> list[Table]:
    """One table per auto-encoder: the optimistic figure beside the held-out one."""
    if regions.empty:
        return []
    found = []
    for method, part in regions.groupby("method", sort=False):
        rows = [
            [
                str(row.roi),
                str(row.voxels),
                _spread(row.gmean, row.gmean_sd),
                _spread(row.gmean_held_out, row.gmean_held_out_sd),
                _spread(row.sensitivity, row.sensitivity_sd),
                _spread(row.specificity, row.specificity_sd),
                _spread(row.auc, row.auc_sd),
                _area(row),
            ]
            for row in part.itertuples()
        ]
        splits = int(part["splits"].max())
        found.append(
            Table(
                f"{method}: mean ± SD over {wording.count(splits, 'split')}; area under the curve "
                "over people with its 95 % interval",
                (
                    "Region",
                    "Voxels scored",
                    "g-mean, best threshold",
                    "g-mean, held out",
                    "Sensitivity (best)",
                    "Specificity (best)",
                    "AUC of splits",
                    "AUC of people",
                ),
                rows,
                [False, *[True] * 7],
                list(part["people_auc_low"] > 0.5),
            )
        )
    return found


def _difference_table(differences: pd.DataFrame) -> Table | None:
    """Auto-encoders against each other, over the splits."""
    if differences.empty:
        return None
    rows = [
        [
            f"{row.first} less {row.second}",
            str(row.roi),
            _signed(row.gmean, row.gmean_sd),
            f"{row.gmean_higher} of {row.splits}",
            _signed(row.gmean_held_out, row.gmean_held_out_sd),
            f"{row.gmean_held_out_higher} of {row.splits}",
        ]
        for row in differences.itertuples()
    ]
    columns = ("Auto-encoders", "Region", "g-mean, best threshold", "Higher in splits")
    return Table(
        "Differences of g-means within the same split: mean ± SD",
        (*columns, "g-mean, held out", "Higher in splits"),
        rows,
        [False, False, *[True] * 4],
    )


def _signed(mean: float, sd: float) -> str:
    """A difference with its sign."""
    if pd.isna(mean):
        return UNKNOWN
    sign = wording.MINUS if mean < 0 else "+"
    return f"{sign}{_spread(abs(mean), sd)}"


def _alarm_table(controls: pd.DataFrame) -> Table | None:
    if controls.empty:
        return None
    roles = {"train": "trained on", "test": "left out"}
    shown = controls.assign(role=controls["role"].map(roles))
    titles = {
        "method": "Auto-encoder",
        "role": "Controls",
        "people": "People",
        "maps": "Maps, one a split",
        "percent": "Abnormal voxels (%)",
        "sd": "SD between people",
        "expected": "Expected (%)",
    }
    return table_of(shown, "False alarms: the controls’ whole brains", titles=titles)


def _people_table(shelf: Shelf, people: pd.DataFrame) -> Table | None:
    """Percentage of everybody's whole brain by each auto-encoder, the highest first."""
    if people.empty:
        return None
    whole = people[people["roi"] == people["roi"].iloc[0]]
    keys = ["participant_id", "label"]
    wide = whole.pivot_table(index=keys, columns="method", values="percent", sort=False)
    wide = wide.sort_values(wide.columns[-1], ascending=False).reset_index()
    links = []
    for person in wide["participant_id"]:
        page = shelf.root / f"{person}.html"
        links.append(Link(person, page.name) if page.is_file() else person)
    wide["participant_id"] = pd.Series(links, dtype=object)
    return table_of(wide, "Abnormal voxels of the whole brain (%)", titles={"label": "Group"})


def _charts(shelf: Shelf, model: str) -> dict[str, list[Picture]]:
    """Pictures by what they show: gmeans, percentages, reconstructions."""
    alts = {
        "gmeans": "g-mean of every region by each auto-encoder",
        "percentages": "Abnormal percentage per region, controls above and patients below",
        "reconstructions": "A control's slice and its reconstructions",
    }
    captions = {
        "gmeans": "Bars: threshold held out; marks: best threshold, with its SD over the splits.",
        "percentages": "People of the first split, one point each; lines: medians.",
        "reconstructions": "A control that the networks did not train on, and what they make of "
        "it; one row per channel. Left of the brain on the left.",
    }
    found: dict[str, list[Picture]] = {name: [] for name in alts}
    for one in shelf.find(f"group/figures/model-{model}_desc-*.png"):
        name = next((name for name in alts if one["desc"].startswith(name)), "")
        if name:
            which = one["desc"].removeprefix(name)
            caption = f"{which}. {captions[name]}" if which else captions[name]
            picture = shelf.picture(one, alts[name], caption, kind="chart")
            found[name] += [picture] if picture else []
    return found


def _means(shelf: Shelf, model: str) -> list[Picture]:
    current = Current.of(shelf, model)
    pictures = []
    for one in shelf.find(f"group/figures/*_model-{model}_*_anomalymap.png"):
        if current.has(one):
            caption = f"{one['method']}: mean z of the error over {one['desc']}."
            pictures.append(shelf.picture(one, f"Mean z over brain slices, {one['desc']}", caption))
    return [one for one in pictures if one]


def caution(shelf: Shelf, anomalies: list[PersonAnomaly]) -> str:
    """What to know before looking at maps: also that their models are no better than chance."""
    poor = [
        one
        for one in dict.fromkeys(found.model for found in anomalies)
        if _no_better(_scores(shelf, one, "regions"))
    ]
    said = [f"Model {one}: {NO_BETTER}" for one in poor]
    return " ".join([*said, CAUTION])


def person_anomalies(shelf: Shelf, participant: str) -> list[PersonAnomaly]:
    """What auto-encoders found in the images of one participant."""
    tables = only_current(shelf, shelf.find(f"sub-{participant}/**/*_anomalymap.tsv"))
    pictures = only_current(shelf, shelf.find(f"sub-{participant}/figures/*_anomalymap.png"))
    return [_person_anomaly(shelf, one, pictures) for one in tables]


def _person_anomaly(shelf: Shelf, found: Item, pictures: list[Item]) -> PersonAnomaly:
    sidecar, table = shelf.sidecar(found), shelf.table(found.path)
    same = next((one for one in pictures if one.agrees(found, _SAME)), None)
    session = f", session {found['ses']}" if found["ses"] else ""
    title = f"{found['method']} · model {found['model']}{session}"
    alt = f"z of the error of reconstruction over brain slices, {title}"
    caption = "Errors in standard deviations from the training controls’ mean; above 2 is shown."
    models = sidecar.get("Models") or []
    facts = [
        ("Auto-encoder", wording.words(sidecar.get("AutoEncoder"))),
        ("Networks", f"{len(models)}, none of which trained on this person"),
        ("Threshold", f"quantile {sidecar.get('ThresholdQuantile')} of the training controls"),
    ]
    return PersonAnomaly(
        found["model"],
        title,
        shelf.picture(same, alt, caption) if same else None,
        facts,
        _person_table(table),
        [str(one) for one in sidecar.get("Warnings") or []],
    )


def _person_table(table: pd.DataFrame) -> Table | None:
    """Regions of interest, then the ten regions with the most abnormal voxels."""
    if not {"name", "kind", "percent"} <= set(table):
        return None
    top = table[table["kind"] == "region"].nlargest(10, "percent")
    shown = pd.concat([table[table["kind"] == "roi"], top])[["name", "percent"]]
    titles = {"name": "Region", "percent": "Abnormal voxels (%)"}
    return table_of(shown, "Regions of interest, and the ten most abnormal regions", titles=titles)
