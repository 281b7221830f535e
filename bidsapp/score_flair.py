"""Holds the results of the FLAIR demo against its truth: ``brainwhy-demo score``."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bidsapp.score import Requirement, ratio, score_heatmaps, truth_of
from models.errors import InputError

RECIPE = "demoflair"
COMPARED = f"group/model-{RECIPE}_desc-compareconfig"
METHOD = "lrpepsilon"
SCRATCH, TRAINED_FURTHER, FILLED = "demo-flair", "demo-flair-pretrained", "demo-flair-filled"
CLASSIFIERS = ("balanced_accuracy", "sensitivity", "specificity", "roc_auc")
OFTEN = 0.1  # share of the patients, as in the truth in template space

# Column of the table of lesions -> name of the number here.
PERSON = {
    "lesion_coverage": "coverage",
    "lesion_relevance": "relevance",
    "lesion_relevance_untrained": "relevance_untrained",
    "auc": "auc",
    "auc_untrained": "auc_untrained",
    "top_share": "share",
    "top_share_untrained": "share_untrained",
}

REQUIREMENTS = (
    Requirement("masks_overlap", ("masks", "overlap"), 0.5),  # affine registration
    Requirement("svm_lesions_auc", ("summary", "svm_lesions_auc"), 0.95),
    Requirement("scratch_auc", ("summary", "scratch_auc"), 0.8),
    Requirement("scratch_relevance", ("lesions", SCRATCH, "concentration"), 3.0),
    Requirement("scratch_ratio", ("lesions", SCRATCH, "ratio"), 2.0),
    Requirement("scratch_share", ("mean_map", SCRATCH, "share"), 0.15),
    Requirement("further_auc", ("summary", "further_auc"), 0.8),
    Requirement("further_relevance", ("lesions", TRAINED_FURTHER, "concentration"), 3.0),
    Requirement("further_ratio", ("lesions", TRAINED_FURTHER, "ratio"), 2.0),
    Requirement("further_share", ("mean_map", TRAINED_FURTHER, "share"), 0.15),
    Requirement("filling_costs_auc", ("summary", "filling_costs_auc"), 0.0),
)


def score(dataset: Path, output: Path) -> dict[str, Any]:
    """Hold lesion masks, heatmaps and classifiers of the compared networks against the truth.

    Returns
    -------
    dict
        ``classifiers`` {classifier: balanced_accuracy, sensitivity, specificity, roc_auc}: the
        rows of table 3 of Eitel et al. 2019. ``lesions`` {network: coverage, relevance, auc, share,
        those of an untrained network, concentration, ratio}: means over the patients of their own
        map against their own mask. ``patients`` {network: {person: the same}}. ``mean_map``
        {network: auc, share, auc_untrained, share_untrained, ratio}: the patients' mean map
        against the true mask in template space. ``masks`` {overlap}: Dice of where the registered
        masks say that patients often have lesions, and where they do. ``summary`` and
        ``requirements`` {name: bool}.

    Raises
    ------
    InputError
        Nothing was compared yet.
    """
    truth, positive = truth_of(dataset)
    models = _models(dataset, output)
    people = {name: _people(output, model, positive) for name, model in models.items()}
    scores: dict[str, Any] = {
        "classifiers": _classifiers(output),
        "lesions": {name: _mean(rows) for name, rows in people.items()},
        "patients": people,
        "mean_map": {
            name: score_heatmaps(output, model, truth, positive).get(METHOD, {})
            for name, model in models.items()
        },
        "masks": {"overlap": _overlap(output, truth, sorted(people[SCRATCH]))},
    }
    scores["summary"] = _summary(scores["classifiers"])
    return scores | {"requirements": {one.name: one.met(scores) for one in REQUIREMENTS}}


def _models(dataset: Path, output: Path) -> dict[str, str]:
    """Compared network to the label of its model."""
    from pipelines.derivatives import read_sidecar

    found = read_sidecar(output / f"{COMPARED}_metrics.tsv").get("Variants", {})
    if not {SCRATCH, TRAINED_FURTHER, FILLED} <= set(found):
        listed = ",".join((SCRATCH, TRAINED_FURTHER, FILLED))
        raise InputError(
            f"{output}: holds no comparison of the demo's networks; run `brainwhy {dataset} "
            f"{output} participant group --recipe demo-flair-source`, then the same with `--recipe "
            f"demo-flair --compare config={listed}` (make demo-flair does both)"
        )
    return {name: model.removeprefix("model-") for name, model in found.items()}


def _classifiers(output: Path) -> dict[str, dict[str, float]]:
    from pipelines.derivatives import read_table

    table = read_table(output / f"{COMPARED}_classifiers.tsv").set_index("classifier")
    return {
        str(name): {key: float(row[key]) for key in CLASSIFIERS} for name, row in table.iterrows()
    }


def _people(output: Path, model: str, positive: str) -> dict[str, dict[str, float]]:
    """Numbers of every patient with lesions."""
    from pipelines.derivatives import read_table

    pattern = f"group/*_model-{model}_target-{positive}_method-{METHOD}_desc-lesions_heatmap.tsv"
    tables = sorted(output.glob(pattern))
    if not tables:
        raise InputError(f"{output}/{pattern}: missing; run the group level again")
    table = read_table(tables[0])
    chosen = table[(table["label"] == positive) & (table["lesion_voxels"] > 0)]
    return {
        str(row["participant_id"]): _derived({new: float(row[old]) for old, new in PERSON.items()})
        for _, row in chosen.iterrows()
    }


def _derived(row: dict[str, float]) -> dict[str, float]:
    """The numbers with relevance over coverage, and over that of an untrained network."""
    return row | {
        "concentration": ratio(row["relevance"], row["coverage"]),
        "ratio": ratio(row["relevance"], row["relevance_untrained"]),
    }


def _mean(people: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Means over the patients; the ratios are those of the means."""
    import numpy as np

    rows = list(people.values())
    return _derived(
        {name: float(np.nanmean([row[name] for row in rows])) for name in PERSON.values()}
    )


def _overlap(output: Path, truth: Any, patients: Sequence[str]) -> float:
    """Dice of where a tenth of the patients have lesions by registered masks, and truly."""
    import nibabel as nib
    import numpy as np

    from models.trust.localisation import on_grid

    ending = "anat/*_label-L_desc-lesionLinear_mask.nii.gz"
    masks = [path for person in patients for path in sorted(output.glob(f"{person}/{ending}"))]
    images = [nib.Nifti1Image.from_filename(path) for path in masks]
    if not images:
        return math.nan
    count = np.sum([np.asarray(image.dataobj) > 0 for image in images], axis=0)
    often, true = count >= OFTEN * len(patients), on_grid(truth, images[0])
    return float(2 * (often & true).sum() / (often.sum() + true.sum()))


def _summary(classifiers: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Areas under the ROC curve by short names, and what filling lesions costs."""

    def area(start: str) -> float:
        found = [row["roc_auc"] for name, row in classifiers.items() if name.startswith(start)]
        return found[0] if found else math.nan

    further = area(f"network, {TRAINED_FURTHER}")
    return {
        "svm_lesions_auc": area("linear SVM on the lesion volume"),
        "scratch_auc": classifiers.get(f"network, {SCRATCH}", {}).get("roc_auc", math.nan),
        "further_auc": further,
        "filling_costs_auc": further - area(f"network, {FILLED}"),
    }


def score_table(scores: dict[str, Any]) -> str:
    """Lay the scores out for reading."""
    lines = _section("classifiers", scores["classifiers"], width=56)
    lines += _section("lesions, mean over patients", scores["lesions"])
    lines += _section("patients' mean map, against the truth", scores["mean_map"])
    for name in (SCRATCH, TRAINED_FURTHER):
        lines += _section(f"patients, {name}", scores["patients"][name])
    lines += ["", f"registered masks, overlap with the truth: {scores['masks']['overlap']:.3f}"]
    lines += ["", "requirements"]
    for one in REQUIREMENTS:
        said = "met" if scores["requirements"][one.name] else "NOT met"
        value = f"{one.value(scores):.3f}"
        lines.append(f"  {one.name:<20}{value:>8} >= {one.minimum:<6g}{said}")
    return "\n".join(lines[1:]) + "\n"


def _section(title: str, rows: Mapping[str, Mapping[str, float]], width: int = 40) -> list[str]:
    columns = list(next(iter(rows.values()), {}))
    names = "".join(f"{_short(name):>17}" for name in columns)
    lines = ["", f"{title:<{width}}{names}"]
    return lines + [
        f"  {name:<{width - 2}}" + "".join(f"{row.get(one, math.nan):>17.4f}" for one in columns)
        for name, row in rows.items()
    ]


def _short(name: str) -> str:
    return name.replace("_untrained", " untr.").replace("balanced_accuracy", "bal. acc.")
