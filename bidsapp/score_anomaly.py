"""Holds the anomaly maps of a demo against its truth, for ``brainwhy-demo score``."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

TABLE = "group/model-{}_desc-{}_anomalyscores.tsv"
# Regions of interest: the truth of `brainwhy-demo make --modality anomaly` lies in the first.
THERE, ELSEWHERE = "subcortical", "occipital"
MEASURES = ("auc", "share", "found")


def models(output: Path) -> list[str]:
    """Labels of the anomaly models whose scores a folder holds."""
    found = (output / "group").glob(Path(TABLE.format("*", "regions")).name)
    return sorted(path.name.removeprefix("model-").split("_")[0] for path in found)


def score(truth: Path, output: Path, model: str) -> dict[str, Any]:
    """Hold the results of an anomaly run against the demo's truth.

    Parameters
    ----------
    truth : Path
        ``derivatives/truth`` of the demo.
    output : Path
        Output folder of a finished group run.
    model : str

    Returns
    -------
    dict
        ``patients`` {"person method": auc, share, found}: z of each patient against that patient's
        own truth. ``maps`` {method: the same and patients}: means over the patients. ``share``: of
        the top 1 % of voxels that lies in the truth; spheres fill less than 1 % of a brain, so that
        it cannot be 1; ``found``: of the truth that lies in the top 1 %. ``regions`` {method:
        gmean_there, gmean_elsewhere (threshold held out), auc_there, auc_elsewhere}. ``controls``
        {method: percent, expected}: abnormal voxels of left-out controls.
    """
    from pipelines.derivatives import read_table

    tables = {
        name: read_table(output / TABLE.format(model, name)) for name in ("regions", "controls")
    }
    methods = list(dict.fromkeys(tables["regions"]["method"]))
    maps = {method: _maps(truth, output, model, method) for method in methods}
    return {
        "patients": {
            f"{person} {method}": dict(zip(MEASURES, values, strict=True))
            for method, people in maps.items()
            for person, values in people.items()
        },
        "maps": {method: _means(people) for method, people in maps.items() if people},
        "regions": {method: _regions(tables["regions"], method) for method in methods},
        "controls": {method: _controls(tables["controls"], method) for method in methods},
    }


def _regions(table: "pd.DataFrame", method: str) -> dict[str, float]:
    rows = table[table["method"] == method].set_index("roi")
    found = {}
    for where, roi in (("there", THERE), ("elsewhere", ELSEWHERE)):
        for name, column in (("gmean", "gmean_held_out"), ("auc", "people_auc")):
            known = roi in rows.index
            found[f"{name}_{where}"] = float(rows.loc[roi, column]) if known else math.nan
    return found


def _controls(table: "pd.DataFrame", method: str) -> dict[str, float]:
    rows = table[(table["method"] == method) & (table["role"] == "test")]
    if rows.empty:
        return {"percent": math.nan, "expected": math.nan}
    return {name: float(rows[name].iloc[0]) for name in ("percent", "expected")}


def _maps(
    truth: Path, output: Path, model: str, method: str
) -> dict[str, tuple[float, float, float]]:
    """Measures of every patient whose truth has a voxel in what was scored."""
    from pipelines.derivatives import SPACE

    found = {}
    for path in sorted(truth.glob(f"sub-*/**/*_space-{SPACE}_*label-effect_mask.nii.gz")):
        person = path.name.split("_")[0]
        name = (
            f"{person}/**/{person}_*_model-{model}_*method-{method}_stat-{{}}_*_anomalymap.nii.gz"
        )
        z, error = (sorted(output.glob(name.format(stat))) for stat in ("z", "error"))
        measured = _measures(path, z[0], error[0]) if z and error else None
        if measured:
            found[person] = measured
    return found


def _means(people: dict[str, tuple[float, float, float]]) -> dict[str, float]:
    import numpy as np

    means = map(float, np.mean(list(people.values()), 0))
    return dict(zip(MEASURES, means, strict=True)) | {"patients": float(len(people))}


def _measures(truth: Path, z: Path, error: Path) -> tuple[float, float, float] | None:
    import nibabel as nib
    import numpy as np

    from models.trust.localisation import on_grid, roc_auc, top_share

    image = nib.Nifti1Image.from_filename(z)
    scored = np.asarray(nib.Nifti1Image.from_filename(error).dataobj) > 0
    inside = on_grid(nib.Nifti1Image.from_filename(truth), image) & scored
    if not inside.any():
        return None
    values = np.asarray(image.dataobj, np.float32)
    share = top_share(values, inside, scored)
    found = share * max(1, round(0.01 * scored.sum())) / inside.sum()
    return float(roc_auc(values, inside, scored)), float(share), float(found)
