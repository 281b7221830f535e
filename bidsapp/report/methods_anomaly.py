"""The methods text of an anomaly detection, from its recipe."""

from collections.abc import Mapping
from typing import Any

from bidsapp.report.wording import listing, number

_METHODS = {
    "ae": "a spatial auto-encoder of axial slices [@munozramirez2021] (strided convolutions with "
    "batch normalisation, L1 loss)",
    "dae": "the same auto-encoder of slices trained to remove coarse noise [@kascenas2022]",
    "sae": "a siamese auto-encoder of patches of 15 x 15 voxels [@alaverdyan2020; "
    "@munozramirez2021]",
    "sae3d": "a siamese auto-encoder of patches of 15 x 15 x 15 voxels, after "
    "[@alaverdyan2020; @munozramirez2021]",
}


def maps_taken(recipe: Mapping[str, Any]) -> str:
    """How maps that another pipeline made were taken over."""
    table = recipe.get("preprocessing") or {}
    stored, seen = table.get("resolution_mm"), table.get("grid")
    parts = [
        "Maps of mean diffusivity and fractional anisotropy had been brought to MNI space before; "
        "the two maps of a person were checked against each other and the template.",
        f"They were stored at {number(stored)} mm" if stored else "",
        f"; the networks saw them on the grid “{seen}”" if stored and seen else "",
        "." if stored else "",
        " Mean diffusivity was divided by 3e-3 mm2/s, and both maps were cut to [0, 1].",
    ]
    return " ".join(parts[:2]) + "".join(parts[2:])


def anomaly(recipe: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """How auto-encoders learnt from controls, and how people were scored."""
    entries = [one for one in recipe.get("autoencoder") or () if isinstance(one, Mapping)]
    if not entries:
        return ""
    table = recipe.get("anomaly") or {}
    cohort = recipe.get("cohort") or {}
    kinds = [_METHODS.get(str(one.get("method")), f"{one.get('method')}") for one in entries]
    version = f" (torch {versions['torch']})" if versions.get("torch") else ""
    sentences = [
        f"Anomalies were looked for by networks that learnt from controls only: {listing(kinds)}. "
        f"They were trained with Adam [@kingma2015] in PyTorch [@paszke2019]{version}.",
        _pairs(entries),
        _splits(table, cohort),
        _scores(table),
    ]
    return " ".join(one for one in sentences if one)


def _pairs(entries: list[Mapping[str, Any]]) -> str:
    siamese = [one for one in entries if str(one.get("method")).startswith("sae")]
    if not siamese:
        return ""
    sums = any(one.get("reconstruction") == "sum" for one in siamese)
    how = "the sum of squared errors" if sums else "the mean squared error"
    return (
        "Pairs of patches were drawn at the same place of two controls, anew in every epoch; the "
        f"loss was {how} of both less {number(siamese[0].get('alpha', 0.005))} times the cosine of "
        "their codes. Whole images were put together from overlapping patches, averaged with "
        "weights that fade towards their edges, unless stated otherwise."
    )


def _splits(table: Mapping[str, Any], cohort: Mapping[str, Any]) -> str:
    count = table.get("splits")
    if not count:
        return ""
    matched = listing(map(str, cohort.get("covariates") or ()))
    share = table.get("test_share")
    return (
        f"The controls were divided {count} times into a training and a test part"
        + (f" ({100 * share:.0f} % to test)" if isinstance(share, int | float) else "")
        + (f", alike in {matched}" if matched else "")
        + "; every division tested all patients. Everybody’s maps are means over the divisions "
        "that had not trained on the person."
    )


def _scores(table: Mapping[str, Any]) -> str:
    quantile = table.get("quantile")
    if quantile is None:
        return ""
    by_z = table.get("measure") == "z"
    what = "z scores (of each by mean and SD of the others)" if by_z else "errors"
    return (
        "The joint error of a voxel was the square root of the sum over channels of the squared "
        "errors; its z compares it with the training controls at the same voxel. Above the "
        f"{number(quantile)} quantile of the training controls’ {what}, a voxel was called "
        "abnormal. The score of a region was the percentage of its voxels that were "
        "abnormal, and the threshold that divides patients from controls the one with the best "
        "geometric mean of sensitivity and specificity [@munozramirez2021]. As this flatters, the "
        "same is reported with the threshold chosen on the other half of the people, mean over 50 "
        "random halves. Intervals of areas under the curve are those of DeLong et al. "
        "[@delong1988]."
    )
