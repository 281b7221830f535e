"""Holds the results of the SPECT demo against its truth: ``brainwhy-demo score``."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bidsapp.demo.spect import BINDING_TRUTH, CONTROL, PATIENT, TEMPLATE_MM
from bidsapp.score import TRUTH_FOLDER
from models.errors import InputError
from models.grids import Grid

if TYPE_CHECKING:
    import numpy as np

    from models.uptake import Anatomy

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
        {clusters, auc, auc_low, own_loss} in the setting without striatum, and ``requirements``.

    Raises
    ------
    InputError
        Nothing was run yet.
    """
    scores: dict[str, Any] = {
        "classifier": {name: _classifier(output, model) for name, model in SETTINGS.items()},
        **_binding(dataset, output),
        "insula": _insula(output, SETTINGS["nostriatum"])
        | _own_loss(dataset, output, SETTINGS["nostriatum"]),
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


def _own_loss(dataset: Path, output: Path, model: str) -> dict[str, float]:
    """Share of the true difference in the insular clusters that the insula's own loss makes.

    The rest is what striata that have lost spill less into their surroundings. Both are known: the
    classes' mean anatomy is filled with their true uptake and blurred as by the camera.
    """
    import numpy as np

    from models.volumes import to_grid
    from pipelines.derivatives import read_table
    from pipelines.images import read_nifti

    found = list(output.glob(f"group/*_model-{model}_*_method-{METHOD}_*_dseg.nii.gz"))
    if not found:
        return {}
    image = read_nifti(found[0])
    table = read_table(Path(str(found[0]).replace(".nii.gz", ".tsv")))
    insular = table[table["name"].astype(str).str.startswith("Insula")]
    inside = np.isin(np.asarray(image.dataobj).astype(int), insular["index"])
    if not inside.any():
        return {}
    grid = Grid("", inside.shape, float(image.affine[0, 0]), tuple(image.affine[:3, 3]))
    anatomy, both, own = _true_differences(dataset)
    both, own = (to_grid(one, anatomy.affine, grid)[inside].mean() for one in (both, own))
    return {"own_loss": float(own / both)}


def _true_differences(dataset: Path) -> "tuple[Anatomy, np.ndarray, np.ndarray]":
    """Patients less controls: by all that was lost, and by what the insula has lost alone.

    Left is the side of the lower putamen, as networks see people.
    """
    from tempfile import TemporaryDirectory

    import numpy as np

    from models.smoothing import smooth
    from models.uptake import reference_uptake
    from models.uptake_phantom import (
        BINDING,
        COLLIMATOR_MM,
        EXTRASTRIATAL,
        FILTER_MM,
        uptake_map,
    )
    from pipelines.derivatives import read_table
    from pipelines.interfaces.nuclear import anatomy_of
    from pipelines.participant import template_on_grid

    with TemporaryDirectory() as folder:
        anatomy = anatomy_of(template_on_grid(TEMPLATE_MM, Path(folder)))
    truth = read_table(dataset / TRUTH_FOLDER / BINDING_TRUTH).set_index("participant_id")
    people = read_table(dataset / "participants.tsv").set_index("participant_id").loc[truth.index]
    turned = (truth["putamen_R"] < truth["putamen_L"]).to_numpy()
    sided = {}
    for one in STRUCTURES:
        left, right = (truth[f"{one}_{half}"].to_numpy() for half in "LR")
        sided[f"{one}_L"] = np.where(turned, right, left)
        sided[f"{one}_R"] = np.where(turned, left, right)

    def uptake(striatum: str, insula: str) -> np.ndarray:
        of = {name: (people["striatum"] == name).to_numpy() for name in (striatum, insula)}
        nuclei = {name: float(values[of[striatum]].mean()) for name, values in sided.items()}
        for half in "LR":  # the truth does not tell the pallidum, which loses what the putamen does
            kept = nuclei[f"putamen_{half}"] / BINDING["putamen"]
            nuclei[f"pallidum_{half}"] = BINDING["pallidum"] * kept
        rest = dict(EXTRASTRIATAL) | {"Insula": float(truth["insula"][of[insula]].mean())}
        camera = float(np.hypot(COLLIMATOR_MM, FILTER_MM))
        blurred = smooth(uptake_map(anatomy, nuclei, rest), anatomy.affine, camera)
        return blurred / reference_uptake(blurred, anatomy.reference())

    normal = uptake(CONTROL, CONTROL)
    return anatomy, uptake(PATIENT, PATIENT) - normal, uptake(CONTROL, PATIENT) - normal


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
        "insula_not_spill_out": scores["insula"].get("own_loss", math.nan) > 0.5,
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
