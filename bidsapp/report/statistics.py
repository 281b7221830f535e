"""The part of the group page about voxelwise tests."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bidsapp.report import wording
from bidsapp.report.current import Current
from bidsapp.report.page import Table, table_of
from bidsapp.report.shelf import Item, Picture, Shelf

# What comes of the statistic of a test, and says less of it.
DERIVED = ("p", "logp", "tfce")
SHOWN_LAST = ("statmap", "glass", "null")
SAME_TEST = ("mod", "model", "target", "method", "contrast", "meas", "param")


@dataclass(frozen=True)
class Test:
    """One contrast on one kind of map."""

    title: str
    sentence: str
    facts: list[tuple[str, str]]
    pictures: list[Picture]
    clusters: Table | None
    missing: list[str]
    found: int | None
    excluded: dict[str, Any]


def tests(shelf: Shelf, figures: list[Item], current: Current) -> list[Test]:
    """Every contrast of a model that left a map, a table of clusters or a picture in `group/`.

    Those on images come first, then those on heatmaps.
    """
    maps = [one for one in shelf.find("group/*_statmap.nii.gz") if current.has(one)]
    tables = [one for one in shelf.find("group/*_clusters.tsv") if current.has(one)]
    pictures = [one for one in figures if one["contrast"]]
    firsts: dict[tuple[str, ...], Item] = {}
    for one in [*maps, *tables, *pictures]:
        firsts.setdefault(tuple(one[key] for key in SAME_TEST), one)
    return [
        _test(
            shelf,
            first,
            *(
                [one for one in pile if one.agrees(first, SAME_TEST)]
                for pile in (maps, tables, pictures)
            ),
        )
        for first in sorted(firsts.values(), key=lambda one: bool(one["method"]))
    ]


def _test(
    shelf: Shelf, first: Item, maps: list[Item], tables: list[Item], figures: list[Item]
) -> Test:
    sidecar = _sidecar(shelf, maps)
    what = _what(first)
    contrast = str(sidecar.get("Contrast") or first["contrast"].replace("Minus", " − "))
    contrast = contrast.replace(" - ", " − ").replace("*", " × ")
    clusters = shelf.table(tables[0].path) if tables else None
    found = None if clusters is None else len(clusters)
    pictures = [
        _picture(shelf, one, f"{contrast}, {what}", sidecar) for one in sorted(figures, key=_place)
    ]
    return Test(
        title=f"{contrast} · {what}",
        sentence=_result(found, sidecar, contrast),
        facts=_facts(sidecar),
        pictures=[one for one in pictures if one],
        clusters=_cluster_table(clusters, sidecar),
        missing=[] if figures else ["the picture of this test"],
        found=found,
        excluded=dict(sidecar.get("Excluded") or {}),
    )


def _place(figure: Item) -> int:
    return SHOWN_LAST.index(figure.suffix) if figure.suffix in SHOWN_LAST else 0


def _picture(shelf: Shelf, figure: Item, what: str, sidecar: Mapping[str, Any]) -> Picture | None:
    name = str(sidecar.get("Statistic") or "t")
    shown = _show(figure, name, sidecar)
    kind = "chart" if "largest statistic" in shown else "mosaic"
    return shelf.picture(figure, f"{what}: {shown}", wording.capital(shown) + ".", kind)


def _sidecar(shelf: Shelf, maps: list[Item]) -> dict[str, Any]:
    """Sidecars of a test put together, that of the uncorrected statistic counting most."""
    ranked = sorted(maps, key=lambda one: (one["stat"] in DERIVED, bool(one["desc"])), reverse=True)
    merged: dict[str, Any] = {}
    for one in ranked:
        merged |= shelf.sidecar(one)
    return merged


_MAPS = {"md": "mean diffusivity", "fa": "fractional anisotropy"}


def _what(found: Item) -> str:
    if found["method"]:
        return f"{wording.method_name(found['method'])} heatmaps"
    if found["param"]:
        return _MAPS.get(found["param"], found["param"])
    return f"{found['mod'] or 'image'} intensity"


def _show(figure: Item, name: str, sidecar: Mapping[str, Any]) -> str:
    if figure.suffix == "null" or figure["desc"] == "null":
        return "the largest statistic of every permutation"
    significant = f"values of {name} in the significant clusters"
    if figure.suffix == "glass":
        half = "the ipsilateral side" if sidecar.get("Lateralisation") else "the left of the brain"
        return f"{significant}, the strongest along each line of sight; {half} is on the left"
    if not figure["stat"] or (figure["stat"] not in DERIVED and figure["desc"]):
        return (
            significant
            if _by(sidecar)
            else (
                f"values of {name} where the corrected p is below the level and the cluster large "
                "enough"
            )
        )
    if figure["stat"] in DERIVED:
        return "corrected p values" if figure["stat"] == "p" else "map"
    return f"values of {name}, not thresholded"


_BY = {
    "extent": "the extent of clusters",
    "mass": "the mass of clusters",
    "tfce": "threshold-free cluster enhancement",
    "fdr": "Benjamini and Hochberg",
    "random_field": "random-field theory",
}


def _by(sidecar: Mapping[str, Any]) -> str:
    """What is corrected; empty for the voxels themselves, where nothing need be said."""
    return _BY.get(str(sidecar.get("CorrectedBy")), "")


def _level(sidecar: Mapping[str, Any]) -> str:
    alpha = sidecar.get("Alpha")
    if not isinstance(alpha, float):
        return ""
    by = f" ({_by(sidecar)})" if _by(sidecar) else ""
    rate = sidecar.get("ErrorRate") or "family-wise error"
    return f" at {wording.percent(alpha)} {rate}{by}"


def _result(found: int | None, sidecar: Mapping[str, Any], contrast: str) -> str:
    level = _level(sidecar)
    groups = "Terms" not in sidecar
    if found is None:
        return "The table of clusters was not found."
    if found == 0:
        what = "difference" if groups else "effect"
        return (
            f"No {what} was found{level}. This does not show that there is none: the study may "
            "be too small to see it."
        )
    did = "differed between the groups" if groups else "showed an effect"
    sentence = f"{wording.count(found, 'cluster')} {did} ({contrast}){level}."
    caution = _CAUTIONS.get(str(sidecar.get("CorrectedBy")), "")
    return f"{sentence} {caution}".strip()


_ANY_VOXEL = (
    "A cluster is significant as a whole: that there is an effect somewhere in it is shown, not "
    "in which of its voxels."
)
_CAUTIONS = {
    "extent": _ANY_VOXEL,
    "mass": _ANY_VOXEL,
    "fdr": "The rate is that of false voxels among those called significant, not among clusters.",
}


def _facts(sidecar: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = {
        "Participants": "People",
        "Covariates": "Covariates",
        "Permutations": "Permutations",
        "Exchangeability": "People were exchanged",
        "DegreesOfFreedom": "Degrees of freedom",
        "Terms": "Terms of the model",
        "VarianceGroups": "Variances of their own",
        "Statistic": "Statistic",
        "Correction": "Correction",
        "Alpha": "Level",
        "Thresholds": "Threshold",
        "ClusterFormingP": "Clusters of voxels with uncorrected p below",
        "TailApproximation": "Tail of the distribution",
        "SmoothnessFWHM_mm": "Smoothness of the noise, FWHM in mm",
        "SmoothingFWHM_mm": "Smoothing, FWHM in mm",
        "MinClusterMm3": "Smallest cluster, mm³",
        "Intensity": "Intensity",
        "Mask": "Mask",
    }
    sidecar = {**sidecar, **_readable(sidecar)}
    groups = sidecar.get("Participants")
    if isinstance(groups, Mapping):
        people = ", ".join(f"{amount} {name}" for name, amount in groups.items())
        sidecar = {**sidecar, "Participants": people}
    return [
        (title, wording.words(sidecar[key]))
        for key, title in names.items()
        if sidecar.get(key) is not None
    ]


def _readable(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """Facts that need words of their own."""
    said: dict[str, Any] = {}
    limit, what = sidecar.get("Threshold"), sidecar.get("ThresholdOf", "|t|")
    limit = sidecar.get("ThresholdT") if limit is None else limit
    if limit is not None:
        than = "of at least" if sidecar.get("CorrectedBy") == "fdr" else "above"
        said["Thresholds"] = f"{what} {than} {wording.number(limit)}"
    tail = sidecar.get("TailApproximation")
    if isinstance(tail, Mapping):
        why = f" ({tail['Reason']})" if tail.get("Reason") else ""
        said["TailApproximation"] = (
            "generalised Pareto, fitted and used"
            if tail.get("Accepted")
            else f"not approximated{why or ': no fit was good enough'}"
        )
    if sidecar.get("ExactPermutation"):
        said["Permutations"] = f"{sidecar.get('Permutations')}, all there are"
    return said


def _cluster_table(clusters: pd.DataFrame | None, sidecar: Mapping[str, Any]) -> Table | None:
    if clusters is None or clusters.empty:
        return None
    table = clusters.copy()
    if "region" in table:
        table["region"] = table["region"].fillna("–").astype(str).str.replace("_", " ")
    for name in table:
        if str(name).startswith("regions_"):
            table[name] = table[name].fillna("–").astype(str).str.replace("_", " ")
    titles = {str(name): title for name in table if (title := _heading(str(name), sidecar))}
    caption = "Clusters; peaks in mm (MNI152NLin2009cAsym)"
    return table_of(table, caption, titles=titles)


_RATES = {"voxel": "FWE", "extent": "FWE, extent", "mass": "FWE, mass", "tfce": "FWE, TFCE"}
_RATES |= {"fdr": "FDR", "random_field": "FWE, random field"}


def _heading(column: str, sidecar: Mapping[str, Any]) -> str:
    """Title of a column that depends on the test; empty for the others."""
    if column.startswith("regions_"):
        return f"Shares ({column.removeprefix('regions_')})"
    if column.startswith("peak_p_"):
        by = str(sidecar.get("CorrectedBy") or "voxel")
        return f"p ({_RATES.get(by, by)})"
    if column.startswith("p_"):
        name = column.removeprefix("p_")
        return f"least p ({_RATES.get(name, name)})"
    if column.startswith("peak_"):
        return f"Peak {column.removeprefix('peak_')}"
    return ""
