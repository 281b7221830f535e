"""The part of the group page where diktiometry stands beside the traditional tests."""

from dataclasses import dataclass

import pandas as pd

from bidsapp.report import wording
from bidsapp.report.page import Table, table_of
from bidsapp.report.shelf import Item, Picture, Shelf

PREFIX = "columns"  # of the pictures' desc
_NAMES = {"md": "mean diffusivity", "sigma": "anisotropy σ", "fa": "fractional anisotropy"}
_TITLES = {
    "name": "Region",
    "post_mm3": "post (mm³)",
    "pre_mm3": "pre (mm³)",
    "traditional_mm3": "traditional (mm³)",
    "seen_by": "Seen by",
}


@dataclass(frozen=True)
class Beside:
    """Columns of one measure: slices, what of the regions is shared, and the regions."""

    title: str
    sentence: str
    picture: Picture | None
    regions: Table | None


def is_column(found: Item) -> bool:
    """Whether a picture belongs to this part of the page."""
    return found["desc"].startswith(PREFIX)


def beside_traditional(shelf: Shelf, model: str, figures: list[Item]) -> list[Beside]:
    """Every measure that has columns, in the order of the publication's figures."""
    table = shelf.table(shelf.root / f"group/model-{model}_desc-columns_regions.tsv")
    pictures = {
        one["desc"].removeprefix(PREFIX): one
        for one in figures
        if is_column(one) and one["model"] == model
    }
    return [
        _beside(shelf, measure, pictures[measure], table)
        for measure in [one for one in _NAMES if one in pictures]
    ]


def _beside(shelf: Shelf, measure: str, picture: Item, table: pd.DataFrame) -> Beside:
    own = table[table["measure"] == measure] if "measure" in table else pd.DataFrame()
    name = _NAMES[measure]
    alt = f"Axial slices from z −36 to +34 with the significant clusters of {name}, in columns"
    caption = (
        f"Significant clusters of {name}, patients less controls: of the networks’ sensitivity to "
        "it, and of the measure itself (traditional)."
    )
    shown = own[[one for one in _TITLES if one in own]].dropna(axis=1, how="all")
    if len(own):
        shown = shown.assign(name=shown["name"].astype(str).str.replace("_", " "))
    return Beside(
        wording.capital(name),
        _sentence(own),
        shelf.picture(picture, alt, caption),
        table_of(
            shown.sort_values("seen_by", kind="stable"),
            f"Volume of significant voxels in each region, {name}",
            titles=_TITLES,
        )
        if len(own)
        else None,
    )


def _sentence(own: pd.DataFrame) -> str:
    """How many regions are seen by which."""
    if own.empty:
        return "No region has a significant voxel, neither by diktiometry nor traditionally."
    named = own[own["index"] != 0]
    counts = named["seen_by"].value_counts()
    parts = {
        "both": "by both",
        "diktiometry only": "by diktiometry alone",
        "traditional only": "by the traditional test alone",
    }
    said = [f"{int(counts.get(key, 0))} {words}" for key, words in parts.items()]
    found = (
        f"{wording.count(len(named), 'region')} with significant voxels: {wording.listing(said)}."
    )
    return f"{found} {_beyond(own)}".rstrip()


def _beyond(own: pd.DataFrame) -> str:
    """How much of what is significant lies where the atlas has no name, as in white matter."""
    sums = own.filter(regex="_mm3$").sum()
    beyond = own[own["index"] == 0].filter(regex="_mm3$").sum()
    shares = [
        f"{100 * beyond[one] / total:.0f} % ({one.removesuffix('_mm3')})"
        for one, total in sums.items()
        if total > 0 and beyond[one] > 0
    ]
    if not shares:
        return ""
    return f"The atlas has no name for {wording.listing(shares)} of the volume."
