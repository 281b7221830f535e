"""Numbers and facts in plain words."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

MINUS = "\N{MINUS SIGN}"
MISSING = "not recorded"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

METHODS = {
    "saliency": (
        "Saliency",
        "How strongly the network's score would change if a voxel became a little brighter or "
        "darker. It shows where the score is sensitive, which is not the same as where it came "
        "from.",
    ),
    "input_x_gradient": (
        "Input × gradient",
        "The intensity of each voxel times the sensitivity of the score to it.",
    ),
    "diktiometry": (
        "Diktiometry",
        "How strongly the network's score would change if a voxel's diffusion tensor changed its "
        "size or shape, its directions kept: mean diffusivity (mu), anisotropy (fa, sigma) or the "
        "kind of anisotropy (theta).",
    ),
    "lrp_epsilon": (
        "LRP, epsilon rule",
        "The network's answer is handed back, layer by layer, to the voxels it was computed from; "
        "red speaks for the class, blue against it.",
    ),
    "lrp_alpha_beta": (
        "LRP, alpha-beta rule",
        "The network's answer is handed back, layer by layer, to the voxels it was computed from, "
        "with evidence for and against kept apart.",
    ),
    "guided_backprop": (
        "Guided backpropagation",
        "The sensitivity of the score, keeping only paths that speak for the class.",
    ),
    "grad_cam": (
        "Grad-CAM",
        "Where the last convolutional layer found features that speak for the class; coarse.",
    ),
    "guided_grad_cam": (
        "Guided Grad-CAM",
        "Guided backpropagation, weighted by where the last convolutional layer found features "
        "that speak for the class.",
    ),
    "integrated_gradients": (
        "Integrated gradients",
        "The sensitivity of the score, added up on the way from an empty image to this one.",
    ),
    "smoothgrad": (
        "SmoothGrad",
        "The sensitivity of the score, averaged over noisy copies of the image.",
    ),
    "deep_taylor": (
        "Deep Taylor decomposition",
        "The network's answer is handed back, layer by layer, along positive shares only.",
    ),
    "lrp_0": (
        "LRP, rule 0",
        "The network's answer is handed back, layer by layer, in exact shares; noisy where they "
        "cancel.",
    ),
    "lrp_gamma": (
        "LRP, gamma rule",
        "The network's answer is handed back, layer by layer, with what speaks for it preferred.",
    ),
    "lrp_flat": (
        "LRP, flat rule",
        "Relevance spread evenly over what each unit sees: the same for every image.",
    ),
    "lrp_w2": (
        "LRP, w² rule",
        "Relevance shared by the weights alone: the same for every image.",
    ),
    "lrp_composite": (
        "LRP, rules by layer",
        "The network's answer is handed back to the voxels it was computed from, by a rule for "
        "each kind of layer.",
    ),
    "occlusion": ("Occlusion", "How much the score drops when a patch of the image is covered."),
    "region_occlusion": (
        "Occlusion of regions",
        "How much the score drops when a region of the atlas is covered.",
    ),
}

METRICS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "roc_auc": "Area under the ROC curve",
    "average_precision": "Average precision",
    "brier": "Brier score (0 is best)",
    "expected_calibration_error": "Expected calibration error (0 is best)",
    "calibration_in_the_large": "Calibration in the large (0 is right)",
    "calibration_slope": "Calibration slope (1 is right)",
}

COLUMNS = {
    "mask_volume_ml": "Brain mask (ml)",
    "template_correlation": "Correlation with the template",
    "template_overlap": "Overlap with the template (Dice)",
    "brain_outside_percent": "Brain outside of the grid (%)",
    "outside_fov_percent": "Brain outside of the field of view (%)",
    "lesion_volume_ml": "Lesions (ml)",
    "lesion_count": "Number of lesions",
    "registration": "Registration",
    "striatal_shift_mm": "Hottest voxels from the striata (mm)",
    "striata_seen": "Striata in the field of view",
    "cerebellum_seen": "Cerebellum in the field of view",
    **{
        f"sbr_{name}_{side}": f"Binding ratio, {words} {name}"
        for name in ("caudate", "putamen")
        for side, words in (("L", "left"), ("R", "right"))
    },
    "lower_putamen": "Lower putamen",
    "participant_id": "Participant",
    "session_id": "Session",
    "flags": "Flags",
    "cluster_id": "Cluster",
    "volume_mm3": "mm³",
    "peak_t": "Peak t",
    "peak_p_fwe": "p (FWE)",
    "x_mm": "x",
    "y_mm": "y",
    "z_mm": "z",
}


def number(value: Any, digits: int = 3) -> str:
    """Write a value for reading: a few significant digits, a true minus sign, no exponent letter.

    Texts pass unchanged; nothing and not-a-number become a dash.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return words(value) if isinstance(value, bool) else str(value)
    if value == 0 or (float(value).is_integer() and abs(value) < 1e6):
        return f"{value:.0f}".replace("-", MINUS)
    if 1e-4 <= abs(value) < 1e5:
        decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
        return min(f"{value:.{decimals}f}", repr(float(value)), key=len).replace("-", MINUS)
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}×10{str(int(power)).translate(_SUPERSCRIPT)}".replace("-", MINUS)


def column(values: Iterable[Any]) -> list[str]:
    """Write the numbers of a column with the same number of decimals, where they are alike."""
    cells = list(values)
    sizes = [abs(one) for one in cells if isinstance(one, float) and math.isfinite(one) and one]
    whole = all(one.is_integer() for one in sizes)
    if whole or not sizes or max(sizes) > 1e4 * min(sizes) or min(sizes) < 1e-3:
        return [number(one) for one in cells]
    decimals = max(2 - math.floor(math.log10(max(sizes))), 0)
    return [
        f"{one:.{decimals}f}".replace("-", MINUS)
        if isinstance(one, int | float) and math.isfinite(one)
        else number(one)
        for one in cells
    ]


def percent(share: float) -> str:
    """Write a share as a whole percentage that no line break tears apart."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%".replace("-", MINUS)


def words(value: Any) -> str:
    """Write any value of a sidecar or a recipe for reading."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return MISSING
    if isinstance(value, Mapping):
        pairs = (f"{heading(str(key))} {words(one)}" for key, one in value.items())
        return ", ".join(pairs) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(words(one) for one in value) or "none"
    return number(value)


def text(value: Any) -> str:
    """Write a cell as its table has it; empty where it is missing.

    A column of whole numbers with one cell missing is read as floats: 1.0 is "1" there.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def heading(name: str) -> str:
    """Turn a key into words: `mask_volume` becomes "mask volume"."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").strip()
    return spaced.lower() if not spaced.isupper() else spaced


def title(name: str) -> str:
    """Turn the name of a column or a key into a heading."""
    return COLUMNS.get(name) or capital(heading(name))


def capital(sentence: str) -> str:
    """Start with a capital, leaving the rest as it is."""
    return sentence[:1].upper() + sentence[1:]


def count(amount: int, noun: str, plural: str | None = None) -> str:
    """Count things: "1 person", "3 people"."""
    return f"{amount} {noun if amount == 1 else plural or noun + 's'}"


def listing(names: Iterable[str], limit: int = 8) -> str:
    """Join names with commas and an "and"; long lists are cut, and say so."""
    all_names = list(names)
    shown = all_names[:limit]
    if len(all_names) > limit:
        return ", ".join(shown) + f" and {len(all_names) - limit} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def flags(text: Any) -> list[str]:
    """Split the flags of a QC row into plain phrases; empty when nothing was flagged."""
    if not isinstance(text, str) or text.strip().lower() in ("", "n/a", "none", "nan"):
        return []
    return [one.strip().replace("_", " ") for one in re.split(r"[;|]", text) if one.strip()]


def method_key(method: str) -> str:
    """Full name of a method, also from the label of file names, which has no underscores."""
    return {name.replace("_", ""): name for name in METHODS}.get(method, method)


# What diktiometry derives by, as the recipe names it.
_DERIVED = {
    "mu": "mean diffusivity",
    "muhat": "mean diffusivity",
    "sigma": "anisotropy σ",
    "theta": "the kind of anisotropy θ",
    "thetahat": "the kind of anisotropy θ",
    "fa": "fractional anisotropy",
    "fadirection": "fractional anisotropy",
}


def map_title(method: str, parameters: Any, explained: str) -> str:
    """What stands above a heatmap: its method, by what it derives, and the class.

    A derivative by a measure of the tensor speaks neither for nor against a class.
    """
    measure = parameters.get("measure") if isinstance(parameters, Mapping) else None
    if method == "diktiometry" and measure in _DERIVED:
        return (
            f"{method_name(method)} by {_DERIVED[measure]}: sensitivity of the score of {explained}"
        )
    return f"{method_name(method)}: evidence for {explained}"


def method_name(method: str) -> str:
    """Turn a method's name or label into the words of a heading."""
    return METHODS.get(method_key(method), (capital(method.replace("_", " ")),))[0]


def method_meaning(method: str) -> str:
    """Say in a sentence what a map of this method shows; empty for an unknown method."""
    return METHODS.get(method_key(method), ("", ""))[1]


def ledger(sidecar: Mapping[str, Any]) -> tuple[list[tuple[str, str, str]], str]:
    """Say where the relevance of a map went.

    Parameters
    ----------
    sidecar
        Of a heatmap: `Ledger` {start, map, bias, epsilon, no_input} and `ConservationError`.

    Returns
    -------
    tuple
        Rows (where, amount, share of the start), and a sentence. Both empty for methods that do
        not conserve relevance.
    """
    raw = sidecar.get("Ledger") or {}
    amounts = {key: mean(value) for key, value in raw.items()}
    start = amounts.pop("start", None)
    if not start:
        return [], ""
    places = {
        "map": "the image (the map)",
        "bias": "the network's biases",
        "epsilon": "the stabiliser (epsilon)",
        "no_input": "neurons without input",
        "quadrature": "the error of the sum over steps",
    }
    rows = [
        (places.get(key, heading(key)), number(value), percent(value / start))
        for key, value in amounts.items()
        if value is not None
    ]
    return [("start", number(start), "100 %"), *rows], _balance(amounts, start, sidecar)


def _balance(amounts: Mapping[str, float | None], start: float, sidecar: Mapping[str, Any]) -> str:
    reached = amounts.get("map")
    sentence = f"Relevance of {number(start)} was handed back from the output"
    if reached is not None:
        sentence += f"; {percent(reached / start)} of it reached the image"
    error = mean(sidecar.get("ConservationError"))
    if error is None:
        return sentence + ". Whether the books balance was not recorded."
    if abs(error) > 1e-3:
        return sentence + f". The books do not balance: {number(error)} is unaccounted for."
    return sentence + f". The books balance (error {number(error)})."


def mean(value: Any) -> float | None:
    """Mean of a number or a list of numbers; None where there is none."""
    values = value if isinstance(value, list | tuple) else [value]
    known = [float(one) for one in values if isinstance(one, int | float)]
    return sum(known) / len(known) if known else None
