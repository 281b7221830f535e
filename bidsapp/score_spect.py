"""Holds the results of the SPECT demo against its truth: ``brainwhy-demo score``."""

import math
from pathlib import Path
from typing import Any

from bidsapp.demo_spect import BINDING_TRUTH
from bidsapp.score import TRUTH_FOLDER
from models.errors import InputError

# What the network saw -> the model's label.
SETTINGS = {
    "full": "demospect",
    "striatum": "demospectstriatum",
    "nostriatum": "demospectnostriatum",
}
METHOD = "lrpcomposite"
STRUCTURES = ("caudate", "putamen")


def score(dataset: Path, output: Path) -> dict[str, Any]:
    """Accuracy in the three settings, binding and sides against the truth, the insula.

    Returns
    -------
    dict
        ``classifier`` {setting: accuracy, accuracy_low, auc}, ``binding`` {structure: r, slope,
        ratio}, ``sides`` {patients, everybody}: share whose lower putamen was found, ``insula``
        {clusters, auc, auc_low} in the setting without striatum, and ``requirements``.

    Raises
    ------
    InputError
        Nothing was run yet.
    """
    scores: dict[str, Any] = {
        "classifier": {name: _classifier(output, model) for name, model in SETTINGS.items()},
        **_binding(dataset, output),
        "insula": _insula(output, SETTINGS["nostriatum"]),
    }
    scores["requirements"] = _requirements(scores)
    return scores


def _classifier(output: Path, model: str) -> dict[str, float]:
    from pipelines.derivatives import read_table

    path = output / "group" / f"model-{model}_desc-oof_metrics.tsv"
    if not path.is_file():
        return {}
    table = read_table(path).set_index("metric")
    return {
        "accuracy": float(table.loc["accuracy", "value"]),
        "accuracy_low": float(table.loc["accuracy", "ci_low"]),
        "auc": float(table.loc["roc_auc", "value"]),
    }


def _binding(dataset: Path, output: Path) -> dict[str, Any]:
    """Measured against true binding over people and sides, and the side that is lower."""
    import numpy as np
    import pandas as pd

    from pipelines.derivatives import read_table

    files = sorted(output.glob("sub-*/spect/*_qc.tsv"))
    if not files:
        raise InputError(f"{output} holds no SPECT derivatives: run the participant level first.")
    truth = read_table(dataset / TRUTH_FOLDER / BINDING_TRUTH).set_index("participant_id")
    found = pd.concat([read_table(path) for path in files]).set_index("participant_id")
    truth = truth.loc[found.index]
    people = read_table(dataset / "participants.tsv").set_index("participant_id").loc[found.index]
    binding = {}
    for one in STRUCTURES:
        true = np.concatenate([truth[f"{one}_{side}"] for side in "LR"])
        seen = np.concatenate([found[f"sbr_{one}_{side}"] for side in "LR"])
        slope = float(np.polyfit(true, seen, 1)[0])
        r = float(np.corrcoef(true, seen)[0, 1])
        binding[one] = {"r": r, "slope": slope, "ratio": float((seen / true).mean())}
    lower = np.where(truth["putamen_R"] < truth["putamen_L"], "R", "L")
    agrees = (found["lower_putamen"] == lower).to_numpy()
    patients = people["side"].notna().to_numpy()
    sides = {"patients": float(agrees[patients].mean()), "everybody": float(agrees.mean())}
    return {"binding": binding, "sides": sides}


def _insula(output: Path, model: str) -> dict[str, float]:
    """Clusters whose largest share is in the insula, and how well their uptake tells classes."""
    from pipelines.derivatives import read_table

    files = list(output.glob(f"group/*_model-{model}_*_method-{METHOD}_desc-uptake_heatmap.tsv"))
    if not files:
        return {}
    table = read_table(files[0])
    insula = table[table["cluster"].astype(str).str.startswith("Insula")]
    if insula.empty:
        return {"clusters": 0.0, "auc": math.nan, "auc_low": math.nan}
    best = insula.loc[insula["auc"].idxmax()]
    return {
        "clusters": float(insula["cluster"].nunique()),
        "auc": float(best["auc"]),
        "auc_low": float(best["auc_low"]),
    }


def _requirements(scores: dict[str, Any]) -> dict[str, bool]:
    accuracy = {
        name: found.get("accuracy", math.nan) for name, found in scores["classifier"].items()
    }
    low = scores["classifier"]["nostriatum"].get("accuracy_low", math.nan)
    return {
        "full_not_below_striatum": accuracy["full"] >= accuracy["striatum"],
        "striatum_above_nostriatum": accuracy["striatum"] > accuracy["nostriatum"],
        "nostriatum_above_chance": low > 0.5,
        "putamen_binding": scores["binding"]["putamen"]["r"] >= 0.95,
        "lower_side_of_patients": scores["sides"]["patients"] >= 0.95,
        "insula_found": scores["insula"].get("clusters", 0) > 0,
        "insula_tells_classes": scores["insula"].get("auc_low", math.nan) > 0.5,
    }


def score_table(scores: dict[str, Any]) -> str:
    """Lay the scores out for reading."""
    lines = []
    for section in ("classifier", "binding"):
        lines.append(section)
        for name, row in scores[section].items():
            cells = "   ".join(f"{key} {value:.3f}" for key, value in row.items())
            lines.append(f"  {name:<12}{cells or 'no results'}")
    for section in ("sides", "insula"):
        cells = "   ".join(f"{key} {value:.3f}" for key, value in scores[section].items())
        lines += [section, f"  {cells or 'no results'}"]
    lines.append("requirements")
    lines += [
        f"  {name:<28}{'met' if met else 'NOT met'}" for name, met in scores["requirements"].items()
    ]
    return "\n".join(lines) + "\n"
