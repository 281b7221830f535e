"""The part of a page about maps: what a method did, in the words of the sidecar."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bidsapp.report import wording
from bidsapp.report.page import Table, table_of

SAME_MAP = ("ses", "acq", "run", "mod", "model", "fold", "target", "method")


def facts(sidecar: Mapping[str, Any], label: str) -> list[tuple[str, str]]:
    """Say how a map was made, in pairs of what and value."""
    parameters = sidecar.get("Parameters")
    found = [
        ("Method", wording.method_name(str(sidecar.get("Method") or label))),
        ("Parameters", wording.words(parameters) if parameters else "none recorded"),
        ("Class explained", wording.words(sidecar.get("ExplainedClass"))),
        ("Models", networks(sidecar)),
    ]
    optional = {
        "OutOfFold": "Out of fold",
        "People": "People",
        "Score": "Score of the class",
        "ExplainedScore": "Score explained",
        "Determinism": "Repeated run",
    }
    return found + [
        (title, wording.words(sidecar[key]))
        for key, title in optional.items()
        if sidecar.get(key) is not None
    ]


def networks(sidecar: Mapping[str, Any]) -> str:
    """Name the networks that a map is the mean of."""
    models = sidecar.get("Models")
    if not isinstance(models, list) or not models:
        return wording.MISSING
    names = wording.listing([str(one).rsplit("/", 1)[-1] for one in models], limit=6)
    return f"mean of {len(models)}: {names}" if len(models) > 1 else names


def region_table(
    table: pd.DataFrame, classes: list[str], atlas: str, caption: str, top: int = 15
) -> Table | None:
    """Regions with the most relevance; None where the table lacks what is needed.

    Parameters
    ----------
    table
        `name voxels sum density gain`, or these per class: `sum_AD` ...
    classes
        The class that orders the regions first; empty for one person's table.
    atlas
        Name of the atlas, for the caption.
    caption
        What the table is about.
    top
        How many regions.
    """
    endings = [f"_{one}" for one in classes] or [""]
    wanted = [f"{measure}{end}" for end in endings for measure in ("sum", "density", "gain")]
    columns = [one for one in wanted if one in table]
    if "name" not in table or not columns:
        return None
    order = table[columns[0]].abs().sort_values(ascending=False, kind="stable").index[:top]
    best = table.loc[order, ["name", *columns]]
    best = best.assign(name=best["name"].astype(str).str.replace("_", " "))
    titles = {one: one.replace("_", " ").capitalize() for one in columns}
    titles |= {
        f"{m}_{c}": f"{m.capitalize()}, {c}" for m in ("sum", "density", "gain") for c in classes
    }
    words = f"{caption}: the {len(best)} of {len(table)} regions ({atlas}) with the largest sum"
    return table_of(best, words, titles={"name": "Region", **titles})
