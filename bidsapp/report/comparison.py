"""The page that holds variants of a recipe against each other."""

from pathlib import Path

import pandas as pd

from bidsapp.report import notes, wording
from bidsapp.report.methods import methods_text
from bidsapp.report.page import Statement, Table, table_of, write
from bidsapp.report.shelf import Picture, Shelf, item
from models.training.comparison import least_p

SHOWN = ("balanced_accuracy", "accuracy", "sensitivity", "specificity", "roc_auc")
EFFORT = ("epochs", "updates", "seconds")
ALPHA = 0.05
CAUTION = (
    "Trainings on the same cohort share its people, so they are not independent: the test over all "
    "trainings (Wilcoxon’s signed ranks) finds small differences too easily. Rely on the same test "
    "over the divisions, and on the size of the difference. The tests over people (DeLong for ROC "
    "areas, McNemar for accuracies) take the trained networks as given."
)


def comparison_page(output_dir: Path, stem: str) -> Path:
    """Write the page of a comparison from its tables on disk.

    Parameters
    ----------
    output_dir
        The derivatives folder.
    stem
        Path of its files below it, up to their suffix.

    Returns
    -------
    Path
        `<output_dir>/<name>.html`, one self-contained file.
    """
    shelf = Shelf(output_dir)
    every = shelf.table(output_dir / f"{stem}_trainings.tsv")
    pairs = shelf.table(output_dir / f"{stem}_metrics.tsv")
    facts = shelf.json(output_dir / f"{stem}_metrics.json")
    log = shelf.log("group")
    name = Path(stem).name
    picture = output_dir / f"group/figures/{name}.png"
    order = [str(one) for one in facts.get("Variants", {})]
    recipe = notes.recipe(shelf, log)
    return write(
        "comparison.html.j2",
        output_dir / f"{name}.html",
        title=f"{facts.get('Key', 'Variants')}: {', '.join(order)}",
        statements=[*_statements(pairs), Statement(CAUTION)],
        picture=shelf.picture(
            item(picture),
            "Performance of every training by variant",
            "Each dot is a training of the whole cohort, tested on people it had not seen; lines "
            "join trainings on the same splits, bars are means, the dotted line is chance.",
            "chart",
        ),
        means=_means(every, order),
        classifiers=_classifiers(shelf.table(output_dir / f"{stem}_classifiers.tsv")),
        maps=_maps(shelf, name),
        lesions=_lesions(shelf.table(output_dir / f"{stem}_lesions.tsv")),
        pairs=_pairs(pairs),
        models=facts.get("Variants", {}),
        notes=notes.gather(shelf, {"logs/group.json": log}, f"{stem}_*.json"),
        troubles=shelf.troubles,
        logged=bool(log),
        methods=methods_text(recipe, notes.versions(shelf, log)) if recipe else None,
        versions=notes.versions(shelf, log),
        run=[("Command", " ".join(map(str, log.get("Command", []))))],
    )


def _statements(pairs: pd.DataFrame) -> list[Statement]:
    """A sentence per pair about balanced accuracy."""
    chosen = pairs[pairs["metric"] == SHOWN[0]] if "metric" in pairs else pairs
    return [_statement(row) for row in chosen.to_dict("records")]


def _statement(row: dict) -> Statement:
    first, second = str(row["first"]), str(row["second"])
    means = f"{wording.percent(row['first_mean'])} against {wording.percent(row['second_mean'])}"
    said = f"Balanced accuracy of {first} against {second}: {means}"
    p, divisions = row["p_divisions"], int(row["divisions"])
    if pd.isna(p):
        return Statement(f"{said}; they do not differ.")
    if least_p(divisions) > ALPHA:
        splits = wording.count(divisions, "split")
        return Statement(
            f"{said}. Whether that is chance cannot be told from {splits}: with so few, no p below "
            f"{least_p(divisions):.3g} can come out."
        )
    verdict = "a difference" if p < ALPHA else "which may be chance"
    return Statement(f"{said}, {verdict} (p = {p:.2g} over {divisions} splits).")


def _means(every: pd.DataFrame, order: list[str]) -> Table | None:
    """Mean and SD over trainings, a row per metric and a column per variant."""
    if every.empty:
        return None
    rows = []
    for metric in (*SHOWN, *EFFORT):
        found = every[every["metric"] == metric].groupby("variant")["value"]
        if found.ngroups:
            rows.append([_name(metric), *(_mean(found.get_group(one), metric) for one in order)])
    columns = ["Mean (SD over trainings)", *order]
    return Table("Performance and effort", columns, rows, [False, *[True] * len(order)])


def _classifiers(found: pd.DataFrame) -> Table | None:
    """Baselines and variants on the same people."""
    if found.empty:
        return None
    named = {one: _name(one) for one in found if one not in ("classifier", "trainings")}
    caption = "Every classifier on the same people; means over trainings"
    return table_of(found, caption, titles=named)


def _maps(shelf: Shelf, name: str) -> list[tuple[str, list[Picture]]]:
    """Pictures of each method: mean maps below each other, and the regions."""
    found: dict[str, list[Picture]] = {}
    for ending, (alt, caption, kind) in _PICTURES.items():
        for one in shelf.find(f"group/figures/{name}_method-*_{ending}.png"):
            picture = shelf.picture(one, f"{alt}, {one['method']}", caption, kind)
            if picture:
                found.setdefault(wording.method_name(one["method"]), []).append(picture)
    return list(found.items())


_PICTURES = {
    "maps": (
        "Mean maps of the patients, a row per network",
        "Mean over all patients, by networks that never saw them; above, where there is transfer, "
        "by random weights and by the network that the weights started from, as it was. Each row "
        "has its own scale, so compare where relevance lies, not how much there is. On the "
        "template.",
        "mosaic",
    ),
    "regions": (
        "Regions with the largest relevance per voxel, a mark per network",
        "Mean relevance per voxel of the patients in the regions that stand out, left and right "
        "joined. Each network’s values are divided by its largest.",
        "chart",
    ),
}


def _lesions(found: pd.DataFrame) -> Table | None:
    """What lesions get by each network, beside an untrained one."""
    if found.empty:
        return None
    rows = [
        [
            str(one["variant"]),
            wording.method_name(str(one["method"])),
            str(one["patients"]),
            _percent(one["lesion_coverage"]),
            *(
                f"{write(one[name])} ({write(one[f'{name}_untrained'])})"
                for name, write in _OF_LESIONS.values()
            ),
        ]
        for one in found.to_dict("records")
    ]
    columns = ["Variant", "Method", "Patients", "Lesions, of the brain", *_OF_LESIONS]
    caption = "Lesions: means over the patients’ own maps (in brackets: an untrained network)"
    return Table(caption, columns, rows, [False, False, *[True] * (len(columns) - 2)])


def _percent(share: float) -> str:
    return "–" if pd.isna(share) else f"{100 * share:.2f} %"


def _area(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.2f}"


_OF_LESIONS = {
    "Relevance in lesions": ("lesion_relevance", _percent),
    "Area under the curve": ("auc", _area),
    "Top 1 % in lesions": ("top_share", _percent),
}


def _mean(values: pd.Series, metric: str) -> str:
    form = ".3g" if metric in EFFORT else ".3f"
    spread = values.std(ddof=1)
    return f"{values.mean():{form}}" + ("" if pd.isna(spread) else f" ({spread:{form}})")


def _name(metric: str) -> str:
    named = {
        "epochs": "Epochs until the end",
        "updates": "Updates until the end",
        "seconds": "Seconds until the end",
    }
    return named.get(metric) or wording.METRICS.get(metric, wording.heading(metric))


def _pairs(pairs: pd.DataFrame) -> Table | None:
    if pairs.empty:
        return None
    shown = pairs[pairs["metric"].isin((*SHOWN, *EFFORT))]
    titles = {
        "p_trainings": "p, all trainings",
        "p_divisions": "p, divisions",
        "p_people": "p, people",
        "difference_sd": "SD of the difference",
    }
    shown = shown.assign(metric=shown["metric"].map(_name))
    return table_of(shown, "Pairs", titles=titles)
