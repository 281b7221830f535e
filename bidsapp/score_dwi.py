"""Holds the results of the diffusion demo against its truth: ``brainwhy-demo score``.

Two things differ between the groups: tensors in two places, which any voxel there shows, and which
of two other places has the higher anisotropy, which no single voxel shows well. Three kinds of map
are asked where either is: the mean sensitivity of the networks, the test of the sensitivity maps
between the groups, and the test of MD, sigma and FA themselves, which is the traditional way.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bidsapp.demo.dwi import ASYMMETRY_NAME
from bidsapp.score import (
    TRUTH_FOLDER,
    Requirement,
    classifier_of,
    of_untrained,
    only_model,
    ratio,
    truth_of,
)
from models.errors import InputError

if TYPE_CHECKING:
    import nibabel as nib

# Measure -> the [[attribution]] of the recipe that is its derivative.
SENSITIVITY = {"md": "diktiometrymd", "sigma": "diktiometrysigma", "fa": "diktiometryfa"}
LOCAL, ASYMMETRY = "local", "asymmetry"
SMOOTHING_MM = 4.0  # FWHM, of heatmaps before they are scored

REQUIREMENTS = (
    Requirement("classifier_accuracy", ("classifier", "accuracy"), 0.8),
    Requirement("classifier_auc", ("classifier", "auc"), 0.85),
    Requirement("local_sensitivity_auc", (LOCAL, "sensitivity sigma", "auc"), 0.9),
    Requirement("local_sensitivity_share", (LOCAL, "sensitivity sigma", "share"), 0.15),
    Requirement("local_sensitivity_ratio", (LOCAL, "sensitivity sigma", "ratio"), 3.0),
    Requirement("local_traditional_found", (LOCAL, "traditional fa", "found"), 0.5),
    Requirement("local_traditional_near", (LOCAL, "traditional fa", "near"), 0.95),
)  # of the asymmetry, nothing: the demo is there to see which of both ways finds it


def score(dataset: Path, output: Path, model: str | None = None) -> dict[str, Any]:
    """Hold sensitivity maps and traditional tests against both places of the truth.

    Parameters
    ----------
    dataset : Path
        Demo dataset, for its ``derivatives/truth``.
    output : Path
        Output folder of a finished group run.
    model : str, optional
        Model label; needed only where the folder holds several.

    Returns
    -------
    dict
        ``classifier`` {accuracy, auc}. ``local`` and ``asymmetry`` {map: auc, share, ratio,
        found, near}, maps being ``sensitivity <measure>`` (size of the mean over everybody),
        ``untrained <measure>`` (the same of a network that never learnt), ``diktiometry
        <measure>`` (test of the sensitivity between the groups) and ``traditional <measure>``
        (test of the measure): AUC and share of the top 1 % tell the size of the map within the
        place from that elsewhere in the brain, the other place left out; ratio is the share over
        the untrained network's; found and near are of significant voxels.
        ``requirements`` {name: bool}.

    Raises
    ------
    InputError
        There is no truth, or no group run.
    """
    from models.trust.localisation import statistic_measures

    model = model or only_model(output)
    places = places_of(dataset)
    positive = truth_of(dataset)[1]
    maps = _maps(output, model, positive)
    if not maps:
        raise InputError(
            f"{output} holds nothing to score: run `brainwhy {dataset} {output} group` first."
        )
    scores: dict[str, Any] = {"classifier": classifier_of(output, model)}
    for name, (truth, other) in places.items():
        scores[name] = {title: measured(one, truth, other) for title, one in maps.items()}
        for title, one in _tests(output, model, positive, thresholded=True).items():
            scores[name][title] |= statistic_measures(one, truth)
        for measure in SENSITIVITY:
            _add_ratio(scores[name], f"sensitivity {measure}", f"untrained {measure}")
    scores["requirements"] = {one.name: one.met(scores) for one in REQUIREMENTS}
    return scores


def _add_ratio(rows: dict[str, dict[str, float]], trained: str, control: str) -> None:
    """How many times the untrained network's share of the top 1 % a trained one's is."""
    if trained in rows and control in rows:
        rows[trained]["ratio"] = ratio(rows[trained]["share"], rows[control]["share"])


def places_of(dataset: Path) -> dict[str, "tuple[nib.Nifti1Image, nib.Nifti1Image]"]:
    """Where each effect is, in template space, and where the other one is."""
    import nibabel as nib

    local = truth_of(dataset)[0]
    path = dataset / TRUTH_FOLDER / ASYMMETRY_NAME
    if not path.is_file():
        raise InputError(f"{path} is missing: {dataset} is no demo of diffusion; make it again.")
    sides = nib.Nifti1Image.from_filename(path)
    return {LOCAL: (local, sides), ASYMMETRY: (sides, local)}


def measured(
    shown: "nib.Nifti1Image", truth: "nib.Nifti1Image", other: "nib.Nifti1Image"
) -> dict[str, float]:
    """AUC and share of the top 1 % of the size of a map (see `models.trust.localisation`).

    Parameters
    ----------
    shown : Nifti1Image
        Signed map, 0 outside the brain.
    truth, other : Nifti1Image
        Where it ought to be large, and where it may be: that is not counted.
    """
    import numpy as np

    from models.trust.localisation import on_grid, roc_auc, top_share

    data = np.nan_to_num(np.asarray(shown.dataobj, float))
    inside = on_grid(truth, shown)
    counted = (data != 0) & (inside | ~on_grid(other, shown))
    if not (inside & counted).any():
        return {"auc": math.nan, "share": math.nan}
    size = np.abs(data)
    return {"auc": roc_auc(size, inside, counted), "share": top_share(size, inside, counted)}


def _maps(output: Path, model: str, positive: str) -> dict[str, "nib.Nifti1Image"]:
    """Every map that is held against the truth, by its title."""
    untrained = of_untrained(output, model)
    found = {}
    for measure, method in SENSITIVITY.items():
        mean = _mean_map(output, model, positive, method)
        if mean is not None:
            found[f"sensitivity {measure}"] = _smoothed(mean)
        if mean is not None and method in untrained:
            found[f"untrained {measure}"] = _smoothed(untrained[method])
    return found | _tests(output, model, positive, thresholded=False)


def _tests(
    output: Path, model: str, positive: str, *, thresholded: bool
) -> dict[str, "nib.Nifti1Image"]:
    """The t maps between the groups: of the sensitivities, and of the measures themselves."""
    from pipelines.images import read_nifti

    named = {f"diktiometry {one}": f"method-{of}" for one, of in SENSITIVITY.items()}
    named |= {f"traditional {one}": f"param-{one}" for one in SENSITIVITY}
    found = {}
    for title, map_of in named.items():
        pattern = (
            f"group/*_model-{model}_*{map_of}_contrast-{positive}Minus*_stat-t_res-*_statmap.nii.gz"
        )
        for path in sorted(output.glob(pattern)):
            if ("_desc-" in path.name) == thresholded:
                found[title] = read_nifti(path)
    return found


def _mean_map(output: Path, model: str, positive: str, method: str) -> "nib.Nifti1Image | None":
    """Mean map of everybody: of both groups, by the people in each; None where there is none."""
    import nibabel as nib
    import numpy as np

    from pipelines.derivatives import read_sidecar
    from pipelines.images import read_nifti

    pattern = f"group/*_model-{model}_target-{positive}_method-{method}_stat-mean_*_heatmap.nii.gz"
    paths = sorted(output.glob(pattern))
    if not paths:
        return None
    images = [read_nifti(path) for path in paths]
    people = [read_sidecar(path)["People"] for path in paths]
    mean = np.average([np.asarray(one.dataobj, float) for one in images], axis=0, weights=people)
    return nib.Nifti1Image(mean, images[0].affine)


def _smoothed(image: "nib.Nifti1Image") -> "nib.Nifti1Image":
    """As all heatmaps are before they are scored; 0 where the map is exactly 0."""
    import nibabel as nib
    import numpy as np

    from models.smoothing import smooth

    data = np.asarray(image.dataobj, float)
    inside = data != 0
    smoothed = np.where(inside, smooth(data, image.affine, SMOOTHING_MM), 0)
    return nib.Nifti1Image(smoothed, image.affine)


def score_table(scores: Mapping[str, Any]) -> str:
    """Lay the scores out for reading."""
    columns = ("auc", "share", "ratio", "found", "near")
    lines = []
    for name in (LOCAL, ASYMMETRY):
        lines += [f"{name:<22}" + "".join(f"{one:>8}" for one in columns)]
        for title, row in scores[name].items():
            cells = [f"{row[one]:8.3f}" if one in row else " " * 8 for one in columns]
            lines.append(f"  {title:<20}" + "".join(cells).rstrip())
    said = "   ".join(f"{key} {value:.3f}" for key, value in scores["classifier"].items())
    lines += ["classifier", f"  {said or 'no results'}", "requirements"]
    for one in REQUIREMENTS:
        met = "met" if scores["requirements"][one.name] else "NOT met"
        lines.append(f"  {one.name:<34}>= {one.minimum:<6g}{met} ({one.value(dict(scores)):.3f})")
    return "\n".join(lines) + "\n"
