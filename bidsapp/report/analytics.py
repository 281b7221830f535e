"""The part of the group page about what the heatmaps of many people and trainings add up to."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from bidsapp.report import wording
from bidsapp.report.current import Current
from bidsapp.report.page import Table, table_of
from bidsapp.report.shelf import Item, Picture, Shelf
from pipelines.choices import PREDICTED

FOLLOW_UP = ("uptake", "uptakeCorrelation", "uptakePeople", "balance")
TABLES = (
    *("ranking", "rankingMerged", "fingerprints", "volumes", "overlap", "distances"),
    *("lesions", "lesionload", "transfer"),
    *FOLLOW_UP,
)
SHOWN_CLUSTERS = 10

OVERLAP = (
    "A share near 100 % says that two runs name the same regions; what chance would give is the "
    "top 10 over the number of regions. Agreement does not make regions right: methods may share "
    "a bias, and trainings share people."
)
DISTANCE = (
    "The distance between trainings is 0 for equal maps. It grows with the number of voxels and "
    "with how peaked a map is, so compare it on one grid only."
)
OUTCOMES = (
    "TP and FN are patients called ill and healthy, FP and TN are controls called ill and healthy, "
    "all by networks that never saw them, in the same colours. "
)
ONE_CLASS = "All maps explain the same class."
OWN_CLASS = "Each person’s map explains the class that the network predicted."


@dataclass(frozen=True)
class MethodAnalysis:
    """One method: pictures, what they say, and what could not be computed."""

    title: str
    pictures: list[Picture]
    sentences: list[str]
    clusters: Table | None
    cluster_pictures: list[Picture]
    volumes: Table | None
    follow_up: list[Table]
    follow_up_pictures: list[Picture]
    caution: str
    missing: list[str]


@dataclass(frozen=True)
class Analytics:
    """All methods, and how alike they and their trainings are."""

    methods: list[MethodAnalysis]
    picture: Picture | None
    likeness: Table | None
    sentences: list[str]
    limits: list[str]
    missing: list[str]


def is_analytic(found: Item) -> bool:
    """Whether a file of `group/` belongs here, and not to the mean maps or the tests."""
    if found.suffix == "dseg":
        return True
    own = found["desc"] in TABLES or bool(found["outcome"] or found["contrast"])
    return found.suffix == "heatmap" and own


def analytics(shelf: Shelf, current: Current, classes: list[str]) -> Analytics | None:
    """Everything of a model that `is_analytic`; None where there is nothing."""
    every = [one for one in shelf.find("group/*.*") if is_analytic(one)]
    pictures = [one for one in shelf.find("group/figures/*.png") if is_analytic(one)]
    files = [one for one in every if _belongs(one, current)]
    figures = [one for one in pictures if _belongs(one, current)]
    if not files and not figures:
        return None
    names = list(dict.fromkeys(one["method"] for one in [*files, *figures] if one["method"]))
    whole = [one for one in files if not one["method"]]
    sidecars = [shelf.json(one.path) for one in whole if one.path.suffix == ".json"]
    overlap = _table(shelf, whole, "overlap")
    likeness = _likeness(overlap, _table(shelf, whole, "distances"))
    matrix = next((one for one in figures if not one["method"] and one["desc"] == "overlap"), None)
    return Analytics(
        methods=[
            _method(
                shelf,
                [one for one in files if one["method"] == name],
                [one for one in figures if one["method"] == name],
                classes,
            )
            for name in names
        ],
        picture=shelf.picture(matrix, *_OVERLAP_WORDS, kind="chart") if matrix else None,
        likeness=likeness,
        sentences=[OVERLAP] * bool(matrix) + [DISTANCE] * _has_distances(likeness),
        limits=_said(sidecars, "Limits"),
        missing=_said(sidecars, "NotComputed"),
    )


_OVERLAP_WORDS = (
    "Share of the top 10 regions that two methods have in common, true positives and negatives",
    "Share of the 10 regions with the largest sums that two methods have in common, among true "
    "positives (TP) and true negatives (TN); on the diagonal two trainings of one method.",
)


def _belongs(found: Item, current: Current) -> bool:
    """Whether a file is of the model as it is now; its contrast is always of the classes."""
    kept = {key: one for key, one in found.entities.items() if key not in ("contrast", "stat")}
    whose = found["contrast"].split("Minus") if found["contrast"] else []
    of_classes = not (whose and current.groups) or set(whose) == set(current.groups)
    return of_classes and current.has(replace(found, entities=kept))


def _said(sidecars: list[dict[str, Any]], key: str) -> list[str]:
    """Sentences that sidecars list under a key, each once."""
    lists = [one.get(key) for one in sidecars]
    return list(dict.fromkeys(str(text) for one in lists if isinstance(one, list) for text in one))


def _table(shelf: Shelf, files: list[Item], desc: str) -> pd.DataFrame:
    found = [one for one in files if one["desc"] == desc and one.path.suffix == ".tsv"]
    return shelf.table(found[0].path) if found else pd.DataFrame()


# ---- Between methods and trainings -----------------------------------------------------------


def _likeness(overlap: pd.DataFrame, distances: pd.DataFrame) -> Table | None:
    """Overlap and distance between trainings, one row per method."""
    rows: dict[str, dict[str, str]] = {}
    if {"metric", "first", "second", "outcome", "mean"} <= set(overlap):
        own = overlap[(overlap["metric"] == "sum") & (overlap["first"] == overlap["second"])]
        for one in own.to_dict("records"):
            cell = wording.percent(one["mean"]) + _interval(one, wording.percent)
            rows.setdefault(str(one["first"]), {})[f"Top 10 shared, {one['outcome']}"] = cell
    if {"method", "outcome", "mean"} <= set(distances):
        for one in distances.to_dict("records"):
            cell = wording.number(float(one["mean"])) + _interval(one, wording.number)
            rows.setdefault(str(one["method"]), {})[f"Distance, {one['outcome']}"] = cell
    if not rows:
        return None
    frame = pd.DataFrame.from_dict(rows, orient="index").fillna("–")
    frame = frame.rename_axis("Method").reset_index()
    titles = {str(one): str(one) for one in frame}
    return table_of(frame, _LIKENESS, titles=titles)


_LIKENESS = (
    "Between trainings, mean over their pairs: share of the 10 regions with the largest sums; L2 "
    "distance of the mean maps, each over its maximum"
)


def _interval(row: Mapping[Any, Any], write: Any) -> str:
    low, high = (pd.to_numeric(row.get(key), errors="coerce") for key in ("low", "high"))
    if pd.isna(low) or pd.isna(high):
        return ""
    return f" ({write(float(low))} to {write(float(high))})"


def _has_distances(likeness: Table | None) -> bool:
    return likeness is not None and any("Distance" in one for one in likeness.columns)


# ---- One method ------------------------------------------------------------------------------


def _method(
    shelf: Shelf, files: list[Item], figures: list[Item], classes: list[str]
) -> MethodAnalysis:
    sidecars = [shelf.json(one.path) for one in files if one.path.suffix == ".json"]
    label = [*files, *figures][0]["method"]
    method = next((str(one["Method"]) for one in sidecars if one.get("Method")), label)
    clusters = next(
        (one for one in files if one.suffix == "dseg" and one.path.suffix == ".tsv"), None
    )
    name = wording.method_name(method)
    whose = OWN_CLASS if any(map(_explains_predictions, sidecars)) else ONE_CLASS
    drawn = [(one, _words(one, name, whose)) for one in figures]
    shown = sorted((one for one in drawn if one[0].suffix != "dseg"), key=_place)
    again = [one for one in shown if one[0]["desc"] in FOLLOW_UP]
    shown = [one for one in shown if one not in again]
    return MethodAnalysis(
        title=name if wording.method_key(label) == method else f"{name} ({label})",
        pictures=_pictures(shelf, [one for one in shown if not _of_clusters(one[0])]),
        sentences=_sentences(shelf, files, sidecars, classes),
        clusters=_clusters(shelf.table(clusters.path)) if clusters else None,
        cluster_pictures=_pictures(shelf, [one for one in shown if _of_clusters(one[0])]),
        volumes=_volumes(_table(shelf, files, "volumes")),
        follow_up=_follow_up(shelf, files),
        follow_up_pictures=_pictures(shelf, again),
        caution=next((str(one["Caution"]) for one in sidecars if one.get("Caution")), ""),
        missing=_said(sidecars, "NotComputed"),
    )


_ORDER = (
    *("ranking", "rankingMerged", "outcome", "contrast", "fingerprints"),
    *("lesions", "transfer", "uptake", "uptakeCorrelation"),
)


def _kind(found: Item) -> str:
    """What a picture shows, of `_ORDER`."""
    for key in ("outcome", "contrast"):
        if found[key]:
            return key
    return found["desc"]


def _place(drawn: tuple[Item, Any]) -> int:
    kind = _kind(drawn[0])
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)


def _of_clusters(found: Item) -> bool:
    return bool(found["outcome"] and found["contrast"])


def _explains_predictions(sidecar: Mapping[str, Any]) -> bool:
    return sidecar.get("ExplainedClass") == PREDICTED


def _words(found: Item, name: str, explained: str) -> tuple[str, str, str]:
    """Text of a picture, its caption and its kind."""
    whose = found["contrast"].replace("Minus", " less ")
    if _of_clusters(found):
        text = "Where correctly classified people of both classes differ most"
        return f"{name}: {text.lower()}, {whose}", f"{text}: {whose}.", "mosaic"
    return {
        "outcome": (f"{name}: mean maps by outcome", OUTCOMES + explained, "mosaic"),
        "contrast": (
            f"{name}: difference of the mean maps, {whose}",
            f"Difference of the mean maps, {whose}; no test: see Statistics for one.",
            "mosaic",
        ),
        "uptake": (
            "Histograms of both classes’ uptake in clusters, with ROC curves",
            "Uptake in the clusters that tell the classes apart best, and the ROC curve of low "
            "uptake; dashed lines are means.",
            "chart",
        ),
        "uptakeCorrelation": (
            "Uptake in clusters against the binding of the putamen, a mark per person",
            "Uptake in the same clusters against the specific binding ratio (SBR) of the putamen.",
            "chart",
        ),
        "fingerprints": (
            f"{name}: the two confidently classified patients with the least similar regions",
            "The two patients whose maps differ most in their regions, of those whom the network "
            "is most sure about; patients need not be ill in the same places.",
            "chart",
        ),
        "lesions": (
            f"{name}: sum of relevance against lesion volume, a mark per person",
            "Sum of each person’s map against the lesions; the larger a mark, the more of the "
            "positive relevance lies in lesions.",
            "chart",
        ),
        "transfer": (
            f"{name}: mean maps of the patients before and after transfer",
            "Mean over all patients: by random weights, by the network that the weights started "
            "from, as it was, and after training further. Each row has its own scale, so compare "
            "where relevance lies, not how much there is.",
            "mosaic",
        ),
    }.get(
        _kind(found),
        (
            f"{name}: regions at the top, with intervals",
            "Regions by mean sum of relevance"
            + (", left and right joined" if found["desc"] == "rankingMerged" else "")
            + ". Bars are 95 % intervals over people and trainings, faint marks are single "
            "people. Large regions have large sums.",
            "chart",
        ),
    )


def _pictures(shelf: Shelf, drawn: list[tuple[Item, tuple[str, str, str]]]) -> list[Picture]:
    found = [shelf.picture(one, alt, caption, kind) for one, (alt, caption, kind) in drawn]
    return [one for one in found if one]


def _sentences(
    shelf: Shelf, files: list[Item], sidecars: list[dict[str, Any]], classes: list[str]
) -> list[str]:
    """The region at the top and how sure that is; the pair of patients who differ most."""
    table = _table(shelf, files, "rankingMerged")
    found = []
    if {"metric", "group", "name", "rank", "rank_low", "rank_high"} <= set(table) and classes:
        chosen = (table["metric"] == "sum") & (table["group"].astype(str) == classes[0])
        for row in table[chosen].head(1).to_dict("records"):
            found.append(
                f"{str(row['name']).replace('_', ' ')} has the largest sum among {classes[0]}; its "
                f"rank may lie from {wording.number(row['rank_low'])} to "
                f"{wording.number(row['rank_high'])} (95 % interval)."
            )
    found += _lesions(sidecars, classes)
    pairs = [one["MostDistant"] for one in sidecars if isinstance(one.get("MostDistant"), Mapping)]
    for one in pairs[:1]:
        people = wording.listing([str(who) for who in one.get("People") or []])
        found.append(
            f"Of the patients whom the network is most sure about, {people} have the least similar "
            f"regions (cosine distance {wording.number(one.get('Mean'))})."
        )
    return found


def _lesions(sidecars: list[dict[str, Any]], classes: list[str]) -> list[str]:
    """What lesions get of the relevance, beside what they are of the brain."""
    said = []
    for one in sidecars:
        means, fits = one.get("Means"), one.get("Correlation")
        mine = means.get(classes[0]) if isinstance(means, Mapping) and classes else None
        if not isinstance(mine, Mapping) or mine.get("lesion_relevance") is None:
            continue
        text = (
            f"Lesions of {classes[0]} are {mine['lesion_coverage']:.2%} of the brain and get "
            f"{mine['lesion_relevance']:.2%} of the positive relevance"
        )
        untrained = mine.get("lesion_relevance_untrained")
        said.append(
            f"{text}; of an untrained network {untrained:.2%}." if untrained else f"{text}."
        )
        for whom, fit in (fits or {}).items():
            said.append(
                f"Sum of relevance and lesion sum, {whom}: r = {fit['r']:.2f} (95 % interval "
                f"{fit['low']:.2f} to {fit['high']:.2f}, permutation p = {fit['p']:.3g}, "
                f"{wording.count(int(fit['people']), 'person', 'people')})."
            )
    return said


def _clusters(table: pd.DataFrame) -> Table | None:
    shares = ["region", "share", "volume_mm3", "mean", "sd_repeats", "stability"]
    columns = [*shares, "x_mm", "y_mm", "z_mm"]
    if table.empty or not set(columns) <= set(table):
        return None
    shown = table[columns].head(SHOWN_CLUSTERS)
    shown = shown.assign(region=shown["region"].fillna("–").astype(str).str.replace("_", " "))
    titles = {
        "region": "Region with most of it",
        "share": "Share in that region",
        "sd_repeats": "SD over trainings",
        "stability": "Above in each training, share",
    }
    caption = f"The {len(shown)} largest of {len(table)} clusters, which reach beyond the region "
    caption += "that gives them their name; peaks in mm"
    return table_of(shown, caption, titles=titles)


def _volumes(table: pd.DataFrame) -> Table | None:
    columns = ["region", "column", "people", "r", "low", "high", "p"]
    if table.empty or not set(columns) <= set(table):
        return None
    return table_of(table[columns], "Relevance and volume of a region, over true positives")


def _follow_up(shelf: Shelf, files: list[Item]) -> list[Table]:
    """Uptake of the clusters: classes compared, correlation with binding, covariates."""
    wanted = {
        "uptake": (
            "Uptake in the clusters, in training, validation and test people apart; area under the "
            "ROC curve of low uptake",
            ["cluster", "subset", "mean_positive", "mean_negative", "p", "auc", "auc_low"],
            ["auc_high"],
        ),
        "uptakeCorrelation": (
            "Correlation of the uptake with the binding of the ipsilateral putamen",
            ["cluster", "group", "people", "r", "low", "high", "p"],
            [],
        ),
        "balance": (
            "Covariates by subset and class: analysis of variance",
            ["covariate", "effect", "F", "df", "df_residual", "p"],
            [],
        ),
    }
    found = []
    for desc, (caption, columns, more) in wanted.items():
        table = _table(shelf, files, desc)
        if len(table) and {*columns, *more} <= set(table):
            found.append(table_of(_readable(table[[*columns, *more]]), caption))
    return found


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the largest clusters, their names written for reading."""
    if "cluster" not in table:
        return table
    kept = list(dict.fromkeys(table["cluster"]))[:SHOWN_CLUSTERS]
    table = table[table["cluster"].isin(kept)]
    return table.assign(cluster=table["cluster"].astype(str).str.replace("_", " "))
