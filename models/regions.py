"""What a map amounts to in each region of an atlas: sum, density and gain."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Literal

import numpy as np
import pandas as pd
from scipy import ndimage

from models.errors import InputError

Side = Literal["L", "R"]

_SIDES: dict[str, Side] = {
    "l": "L",
    "lh": "L",
    "left": "L",
    "r": "R",
    "rh": "R",
    "right": "R",
    # Of maps of people who were mirrored so that the affected side is left in all.
    "ipsi": "L",
    "contra": "R",
}


_WORDS = ("left", "right", "lh", "rh", "ipsi", "contra")


def region_table(values: np.ndarray, labels: np.ndarray, names: pd.DataFrame) -> pd.DataFrame:
    """Sum and density of a map in every region.

    Parameters
    ----------
    values : numpy.ndarray
        3-D map. Voxels that are not finite are left out of ``voxels`` and ``sum`` alike. Pass
        the absolute values for sums of absolute relevance.
    labels : numpy.ndarray
        3-D int on the same grid; labels without a name are left out.
    names : pandas.DataFrame
        Columns index (int) and name, in the order that the table is to have.

    Returns
    -------
    pandas.DataFrame
        index, name, voxels, sum, density (sum / voxels), one row per name. A region without a
        voxel on this grid has voxels 0, sum 0 and density NaN.
    """
    if values.shape != labels.shape:
        raise ValueError(f"the map is {values.shape}, the atlas {labels.shape}: regrid one")
    index = names["index"].to_numpy(np.int64)
    ascending = np.argsort(index)
    used = (labels != 0) & np.isfinite(values)
    found = labels[used].astype(np.int64)
    place = np.searchsorted(index[ascending], found).clip(max=len(index) - 1)
    row = ascending[place]
    named = index[row] == found
    row, weights = row[named], values[used][named].astype(np.float64)
    voxels = np.bincount(row, minlength=len(index))
    total = np.bincount(row, weights=weights, minlength=len(index))
    return pd.DataFrame(
        {
            "index": index,
            "name": names["name"].to_numpy(),
            "voxels": voxels,
            "sum": total,
            "density": _ratio(total, voxels),
        }
    )


def gain(total: np.ndarray, mean_sum_controls: np.ndarray) -> np.ndarray:
    """Region sums over the mean region sums of the controls; NaN where the latter are zero."""
    return _ratio(np.asarray(total, float), np.asarray(mean_sum_controls, float))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    result = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=result, where=np.asarray(denominator) != 0)
    return result


def group_region_table(
    tables: Mapping[str, Sequence[pd.DataFrame]], control: str | None = None
) -> pd.DataFrame:
    """Means over the people of each class.

    Parameters
    ----------
    tables : mapping of str to sequence of pandas.DataFrame
        For every class, the `region_table` of each of its people, all with the same regions.
    control : str, optional
        The class whose mean sums are the denominators of the gain; without one, no gain.

    Returns
    -------
    pandas.DataFrame
        index, name, voxels, then sum_<class>, density_<class> and gain_<class> per class. A
        person without a usable voxel in a region does not count in its mean density.
    """
    tables = {label: people for label, people in tables.items() if len(people)}
    everyone = [table for people in tables.values() for table in people]
    if not everyone:
        raise ValueError("no region tables to average")
    first = everyone[0]
    if any(not table["index"].equals(first["index"]) for table in everyone):
        raise ValueError("the region tables list different regions")
    sums = {label: _mean(people, "sum") for label, people in tables.items()}
    columns = {"index": first["index"], "name": first["name"]}
    columns["voxels"] = np.max([table["voxels"] for table in everyone], axis=0)
    for label, people in tables.items():
        columns[f"sum_{label}"] = sums[label]
        columns[f"density_{label}"] = _mean(people, "density")
        if control is not None:
            columns[f"gain_{label}"] = gain(sums[label], sums[control])
    return pd.DataFrame(columns)


def _mean(people: Sequence[pd.DataFrame], column: str) -> np.ndarray:
    return pd.DataFrame([table[column].to_numpy() for table in people]).mean().to_numpy()


def merge_sides(table: pd.DataFrame) -> pd.DataFrame:
    """Join the left and right half of every region that has both.

    Parameters
    ----------
    table : pandas.DataFrame
        index, name, voxels, sum, density, as made by `region_table`. A gain is left out: it
        follows from the merged sums.

    Returns
    -------
    pandas.DataFrame
        The same columns. A merged region stands where its first half stood and keeps that
        half's index; its name loses the side. Regions without a partner are kept as they are.
    """
    sides = [side_of(name) for name in table["name"]]
    halves = [without_side(name) for name in table["name"]]
    partners: dict[str, set[Side]] = {}
    for side, half in zip(sides, halves, strict=True):
        if side is not None:
            partners.setdefault(half, set()).add(side)
    paired = [
        side is not None and len(partners[half]) == 2
        for side, half in zip(sides, halves, strict=True)
    ]
    key = np.where(paired, halves, table["name"].astype(str) + "\0")
    grouped = table.groupby(key, sort=False)
    merged = grouped.agg({"index": "first", "name": "first", "voxels": "sum", "sum": "sum"})
    merged["name"] = [str(label).removesuffix("\0") for label in merged.index]
    merged["density"] = _ratio(merged["sum"].to_numpy(), merged["voxels"].to_numpy())
    return merged.reset_index(drop=True)


def side_of(name: str) -> Side | None:
    """Side that a region's name states, or None.

    Understood are the words left, right, lh, rh, ipsi (L) and contra (R) anywhere, and a capital
    L or R that opens or closes the name, set off by anything but a letter or digit:
    ``Hippocampus_L``, ``Left-Hippocampus``, ``ctx-lh-insula``, ``G_Insula-anterior-1-R``.
    """
    word = _side_word(name)
    return None if word is None else _SIDES[word[0].lower()]


def without_side(name: str) -> str:
    """Name of a region less the word that states its side, if it states one."""
    word = _side_word(name)
    if word is None:
        return name
    before, after = name[: word.start()], name[word.end() :]
    return before[:-1] + after if before else after[1:]


def ipsilateral_name(name: str) -> str:
    """Name of a region where left stands for ipsilateral: ``Insula_L`` becomes ``Insula_ipsi``."""
    side = side_of(name)
    if side is None:
        return name
    return f"{without_side(name)}_{'ipsi' if side == 'L' else 'contra'}"


def opposite(names: Sequence[str]) -> np.ndarray:
    """Place of the other half of every region; its own where it has none."""
    places = {(without_side(name), side_of(name)): i for i, name in enumerate(names)}
    other: dict[Side | None, Side | None] = {"L": "R", "R": "L", None: None}
    return np.array(
        [places.get((without_side(name), other[side_of(name)]), i) for i, name in enumerate(names)]
    )


def region_mask(
    labels: np.ndarray,
    names: pd.DataFrame,
    wanted: Sequence[str],
    affine: np.ndarray,
    margin_mm: float = 0.0,
) -> np.ndarray:
    """Voxels of some regions and around them.

    Parameters
    ----------
    labels : numpy.ndarray
        3-D int.
    names : pandas.DataFrame
        Columns index and name.
    wanted : sequence of str
        Names; one without its side means both halves.
    affine : numpy.ndarray
        (4, 4), voxel to mm; its column lengths are the voxel edges.
    margin_mm : float
        Voxels whose centre is at most so far from a region's voxel belong to it.

    Returns
    -------
    numpy.ndarray
        3-D bool.

    Raises
    ------
    InputError
        The atlas has no region of that name.
    """
    known = [str(name) for name in names["name"]]
    taken: list[int] = []
    for one in wanted:
        rows = [i for i, name in enumerate(known) if one in (name, without_side(name))]
        if not rows:
            near = get_close_matches(one, [*known, *map(without_side, known)], n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise InputError(f"the atlas has no region '{one}'{hint}")
        taken += [int(index) for index in names["index"].iloc[rows]]
    inside = np.isin(labels, taken)
    if margin_mm <= 0 or not inside.any():
        return inside
    edges = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    return ndimage.distance_transform_edt(~inside, sampling=edges) <= margin_mm + 1e-6


def _side_word(name: str) -> re.Match[str] | None:
    words = list(re.finditer(r"[A-Za-z0-9]+", name))
    stated = [word for word in words if word[0].lower() in _WORDS]
    stated = stated or [word for word in (*words[:1], *words[-1:]) if word[0] in ("L", "R")]
    agreed = len({_SIDES[word[0].lower()] for word in stated}) == 1
    return stated[0] if agreed else None
