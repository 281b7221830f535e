"""The part of the group page about voxelwise tests."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bidsapp.report import wording
from bidsapp.report.current import Current
from bidsapp.report.page import Table, table_of
from bidsapp.report.shelf import Item, Picture, Shelf

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
    contrast = contrast.replace(" - ", " − ")
    clusters = shelf.table(tables[0].path) if tables else None
    found = None if clusters is None else len(clusters)
    pictures = [
        _picture(shelf, one, f"{contrast}, {what}")
        for one in sorted(figures, key=lambda one: one.suffix == "null")
    ]
    return Test(
        title=f"{contrast} · {what}",
        sentence=_result(found, sidecar, contrast),
        facts=_facts(sidecar),
        pictures=[one for one in pictures if one],
        clusters=_cluster_table(clusters),
        missing=[] if figures else ["the picture of this test"],
        found=found,
        excluded=dict(sidecar.get("Excluded") or {}),
    )


def _picture(shelf: Shelf, figure: Item, what: str) -> Picture | None:
    shown = _show(figure)
    kind = "chart" if "largest statistic" in shown else "mosaic"
    return shelf.picture(figure, f"{what}: {shown}", wording.capital(shown) + ".", kind)


def _sidecar(shelf: Shelf, maps: list[Item]) -> dict[str, Any]:
    """Sidecars of a test put together, that of the uncorrected t-map counting most."""
    ranked = sorted(maps, key=lambda one: (one["stat"] != "t", bool(one["desc"])), reverse=True)
    merged: dict[str, Any] = {}
    for one in ranked:
        merged |= shelf.sidecar(one)
    return merged


def _what(found: Item) -> str:
    if found["method"]:
        return f"{wording.method_name(found['method'])} heatmaps"
    return f"{found['mod'] or 'image'} intensity"


def _show(figure: Item) -> str:
    if figure.suffix == "null" or figure["desc"] == "null":
        return "the largest statistic of every permutation"
    if figure["desc"] == "FWE" or not figure["stat"]:
        return "values of t where the corrected p is below the level and the cluster large enough"
    return {"t": "values of t, not thresholded", "p": "corrected p values"}.get(
        figure["stat"], "map"
    )


def _result(found: int | None, sidecar: Mapping[str, Any], contrast: str) -> str:
    alpha = sidecar.get("Alpha")
    level = f" at {wording.percent(alpha)} family-wise error" if isinstance(alpha, float) else ""
    if found is None:
        return "The table of clusters was not found."
    if found == 0:
        return (
            f"No difference was found{level}. This does not show that there is none: the study may "
            "be too small to see it."
        )
    return f"{wording.count(found, 'cluster')} differed between the groups ({contrast}){level}."


def _facts(sidecar: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = {
        "Participants": "People",
        "Covariates": "Covariates",
        "Permutations": "Permutations",
        "Exchangeability": "People were exchanged",
        "DegreesOfFreedom": "Degrees of freedom",
        "Alpha": "Level (family-wise)",
        "ThresholdT": "Threshold, |t| above",
        "SmoothingFWHM_mm": "Smoothing, FWHM in mm",
        "MinClusterMm3": "Smallest cluster, mm³",
        "Intensity": "Intensity",
        "Mask": "Mask",
    }
    groups = sidecar.get("Participants")
    if isinstance(groups, Mapping):
        people = ", ".join(f"{amount} {name}" for name, amount in groups.items())
        sidecar = {**sidecar, "Participants": people}
    return [
        (title, wording.words(sidecar[key]))
        for key, title in names.items()
        if sidecar.get(key) is not None
    ]


def _cluster_table(clusters: pd.DataFrame | None) -> Table | None:
    if clusters is None or clusters.empty:
        return None
    table = clusters.copy()
    if "region" in table:
        table["region"] = table["region"].fillna("–").astype(str).str.replace("_", " ")
    return table_of(table, "Clusters; peaks in mm (MNI152NLin2009cAsym)")
