"""Holds the derivatives of a demo against its truth: ``brainwhy-demo score``."""

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bidsapp import score_anomaly
from models.errors import InputError

if TYPE_CHECKING:
    import nibabel as nib

TRUTH_FOLDER = Path("derivatives/truth")
TRUTH_NAME = "space-MNI152NLin2009cAsym_label-effect_mask.nii.gz"


@dataclass(frozen=True)
class Requirement:
    """What a finished default demo must reach: ``minimum`` for one number of the scores."""

    name: str
    path: tuple[str, str, str] | tuple[str, str]
    minimum: float

    def met(self, scores: dict[str, Any]) -> bool:
        """Whether the number is there and large enough."""
        return self.value(scores) >= self.minimum

    def value(self, scores: dict[str, Any]) -> float:
        """Return the number, NaN when it is missing."""
        found: Any = scores
        for key in self.path:
            found = (found or {}).get(key)
        return math.nan if found is None else found


REQUIREMENTS = (
    Requirement("classifier_accuracy", ("classifier", "accuracy"), 0.83),
    Requirement("classifier_auc", ("classifier", "auc"), 0.9),
    Requirement("lrpalphabeta_auc", ("heatmaps", "lrpalphabeta", "auc"), 0.9),
    Requirement("lrpalphabeta_share", ("heatmaps", "lrpalphabeta", "share"), 0.15),
    Requirement("lrpalphabeta_ratio", ("heatmaps", "lrpalphabeta", "ratio"), 5.0),
    Requirement("image_found", ("statistics", "image", "found"), 0.5),
    Requirement("image_near", ("statistics", "image", "near"), 0.95),
)

ANOMALY_REQUIREMENTS = (
    Requirement("ae_map_auc", ("maps", "ae", "auc"), 0.9),
    Requirement("ae_map_found", ("maps", "ae", "found"), 0.5),
    Requirement("ae_gmean_there", ("regions", "ae", "gmean_there"), 0.7),
    Requirement("sae_map_auc", ("maps", "sae", "auc"), 0.9),
    Requirement("sae_map_found", ("maps", "sae", "found"), 0.5),
    Requirement("sae_gmean_there", ("regions", "sae", "gmean_there"), 0.7),
)


def score(dataset: Path, output: Path, model: str | None = None) -> dict[str, Any]:
    """Hold the results of a group run against the demo's truth.

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
        ``heatmaps`` {method: auc, share, auc_untrained, share_untrained, ratio}, ``statistics``
        {map: found, near}, ``classifier`` {accuracy, auc} and ``requirements`` {name: bool}.
        A number that could not be had is NaN; a ratio over an untrained share of 0 is infinite.

    Raises
    ------
    InputError
        If there is no truth, or nothing to score.
    """
    truth, positive = truth_of(dataset)
    found = score_anomaly.models(output)
    if found and model in (None, *found):
        if model is None and len(found) > 1:
            raise InputError(f"{output} holds several models: choose by --model {'|'.join(found)}.")
        folder = dataset / TRUTH_FOLDER
        return _with_requirements(score_anomaly.score(folder, output, model or found[0]))
    model = model or only_model(output)
    scores: dict[str, Any] = {
        "heatmaps": score_heatmaps(output, model, truth, positive),
        "statistics": _score_statistics(output, model, truth, positive),
        "classifier": classifier_of(output, model),
    }
    if not any(scores.values()):
        raise InputError(
            f"{output} holds nothing to score: run `brainwhy {dataset} {output} group` first."
        )
    return _with_requirements(scores)


def requirements(scores: dict[str, Any]) -> tuple[Requirement, ...]:
    """Those of the kind of demo that was scored."""
    return ANOMALY_REQUIREMENTS if "maps" in scores else REQUIREMENTS


def _with_requirements(scores: dict[str, Any]) -> dict[str, Any]:
    met = {one.name: one.met(scores) for one in requirements(scores)}
    return scores | {"requirements": met}


def truth_of(dataset: Path) -> tuple["nib.Nifti1Image", str]:
    """Region that was changed (template space), and the label of the group it was changed in."""
    import nibabel as nib

    from pipelines.derivatives import read_sidecar

    path = dataset / TRUTH_FOLDER / TRUTH_NAME
    if not path.is_file():
        raise InputError(f"{path} is missing: {dataset} is no demo made by `brainwhy-demo make`.")
    return nib.Nifti1Image.from_filename(path), read_sidecar(path)["AffectedGroup"]


def only_model(output: Path) -> str:
    """Label of the model whose out-of-fold results the folder holds."""
    tables = (output / "group").glob("model-*_desc-oof_metrics.tsv")
    labels = sorted({_entities(table)["model"] for table in tables})
    if len(labels) == 1:
        return labels[0]
    if labels:
        raise InputError(f"{output} holds several models: choose by --model {'|'.join(labels)}.")
    raise InputError(
        f"{output}/group holds no out-of-fold metrics: run the group level of brainwhy first."
    )


def _entities(path: Path) -> dict[str, str]:
    """Read the key-value pairs of a BIDS file name."""
    return dict(part.split("-", 1) for part in path.name.split(".")[0].split("_") if "-" in part)


def score_heatmaps(
    output: Path, model: str, truth: "nib.Nifti1Image", positive: str
) -> dict[str, dict[str, float]]:
    """Score the patients' mean map of every method, beside that of an untrained network."""
    import nibabel as nib

    from models.trust.localisation import heatmap_measures
    from pipelines.atlases import template

    pattern = f"*_model-{model}_target-{positive}_*_stat-mean_*desc-{positive}_heatmap.nii.gz"
    maps = {_entities(path)["method"]: path for path in sorted((output / "group").glob(pattern))}
    if not maps:
        return {}
    brain = nib.Nifti1Image.from_filename(template())
    untrained = of_untrained(output, model)
    scores = {}
    for method, path in maps.items():
        trained = heatmap_measures(nib.Nifti1Image.from_filename(path), truth, brain)
        control = {"auc": math.nan, "share": math.nan}
        if method in untrained:
            control = heatmap_measures(untrained[method], truth, brain)
        scores[method] = {
            **trained,
            "auc_untrained": control["auc"],
            "share_untrained": control["share"],
            "ratio": ratio(trained["share"], control["share"]),
        }
    return scores


def of_untrained(output: Path, model: str) -> dict[str, "nib.Nifti1Image"]:
    """Mean maps of an untrained network; none, with the reason, where they cannot be made."""
    try:
        from pipelines.controls import untrained_maps

        return untrained_maps(output, model)
    except (ImportError, LookupError, OSError, RuntimeError, ValueError) as error:
        complain(f"no untrained network to compare with ({error})")
        return {}


def ratio(share: float, untrained: float) -> float:
    """Share over that of an untrained network: infinite over 0, NaN where both are 0."""
    if untrained:
        return share / untrained
    return math.inf if share else math.nan


def _score_statistics(
    output: Path, model: str, truth: "nib.Nifti1Image", positive: str
) -> dict[str, dict[str, float]]:
    """Score the significant voxels of the images ("image") and of every method's heatmaps."""
    import nibabel as nib

    from models.trust.localisation import statistic_measures

    scores = {}
    # Only the thresholded map of a statistic has a desc, which names the correction.
    pattern = f"*_contrast-{positive}Minus*_stat-[tv]_*desc-*_statmap.nii.gz"
    for path in sorted((output / "group").glob(pattern)):
        entities = _entities(path)
        if entities.get("model", model) == model:
            statmap = nib.Nifti1Image.from_filename(path)
            name = entities.get("method") or entities.get("param") or "image"
            scores[name] = statistic_measures(statmap, truth)
    return scores


def classifier_of(output: Path, model: str) -> dict[str, float]:
    """Out-of-fold accuracy and area under the ROC curve, as the group level wrote them."""
    from pipelines.derivatives import read_table

    path = output / "group" / f"model-{model}_desc-oof_metrics.tsv"
    if not path.is_file():
        return {}
    values = read_table(path).set_index("metric")["value"]
    names = {"accuracy": "accuracy", "auc": "roc_auc"}
    return {name: float(values.get(metric, math.nan)) for name, metric in names.items()}


def explain_failures(scores: dict[str, Any]) -> None:
    """Say on stderr why a requirement is not met."""
    for requirement in requirements(scores):
        value = requirement.value(scores)
        if math.isnan(value):
            complain(f"{requirement.name}: not met, there is no such number in the results")
        elif value < requirement.minimum:
            complain(f"{requirement.name}: not met, {value:.3g} < {requirement.minimum:g}")


def score_table(scores: dict[str, Any]) -> str:
    """Lay the scores out for reading."""
    lines = []
    for section in ("heatmaps", "statistics", "patients", "maps", "regions", "controls"):
        rows = scores.get(section)
        if rows:
            columns = list(next(iter(rows.values())))
            lines += ["", f"{section:<20}" + "".join(f"{name:>17}" for name in columns)]
            lines += [_line(name, row.values()) for name, row in rows.items()]
    if "classifier" in scores:
        names = "".join(f"{name:>17}" for name in scores["classifier"])
        lines += ["", f"{'classifier':<20}{names}"]
        lines += [_line("out of fold", scores["classifier"].values())]
    lines += ["", "requirements"]
    for requirement in requirements(scores):
        met = "met" if scores["requirements"][requirement.name] else "NOT met"
        lines.append(f"  {requirement.name:<20}>= {requirement.minimum:<6g}{met}")
    return "\n".join(lines[1:]) + "\n"


def _line(name: str, values: Iterable[float]) -> str:
    return f"  {name:<18}" + "".join(f"{value:>17.3f}" for value in values)


def finite(content: Any) -> Any:
    """Replace NaN and infinity, which JSON does not know, by None."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def complain(sentence: str) -> None:
    """Say a sentence on stderr."""
    sys.stderr.write(f"brainwhy-demo: {sentence}\n")
