"""Images of a cohort that are there twice, or nearly so: found while they are packed."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.duplicates import (
    ALIKE,
    FEWEST,
    equal_pairs,
    near_pairs,
    thumbnail,
    voxel_hash,
)
from models.errors import InputError
from pipelines.derivatives import write_table
from pipelines.images import read_nifti

log = logging.getLogger("brainwhy.duplicates")

# How two images are equal, the first that holds: the voxels of the files, or those of the input.
EQUAL = ("stored", "packed")
SHOWN = 10


class Seen:
    """What is kept of every image while it is packed: the hash of its file's voxels, a thumbnail.

    Parameters
    ----------
    voxel_mm : float
        Of the network's grid.
    """

    def __init__(self, voxel_mm: float) -> None:
        self.voxel_mm = voxel_mm
        self.stored: list[str] = []
        self.thumbnails: list[np.ndarray] = []

    def watch(self, paths: Iterable[str], volumes: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Hand the volumes on, one after the other."""
        for path, volume in zip(paths, volumes, strict=True):
            self.stored.append(voxel_hash(np.asarray(read_nifti(path).dataobj, np.float32)))
            self.thumbnails.append(thumbnail(volume, self.voxel_mm))
            yield volume


def find(
    cohort: pd.DataFrame, seen: Seen, packed: Iterable[str], alike: float = ALIKE
) -> pd.DataFrame:
    """Pairs of images that are equal, or nearly so between two people.

    Parameters
    ----------
    cohort : DataFrame
        One row per image, in the order of the others.
    seen : Seen
    packed : iterable of str
        Hash of every image as the network sees it.
    alike : float
        Correlation from which images of two people are nearly equal.

    Returns
    -------
    DataFrame
        first, second (rows of the cohort), same_person (bool), how ("stored", "packed", "near")
        and correlation (1 for equal ones). Images of one person or one family are expected to be
        near, and are not told.
    """
    people = cohort["participant_id"].to_numpy()
    rows: dict[tuple[int, int], tuple[str, float]] = {}
    for how, hashes in zip(EQUAL, (seen.stored, list(packed)), strict=True):
        for pair in equal_pairs(hashes):
            rows.setdefault(pair, (how, 1.0))
    if len(people) >= FEWEST:
        for i, j, correlation in near_pairs(np.stack(seen.thumbnails), alike):
            if people[i] != people[j] and not _related(cohort, i, j):
                rows.setdefault((i, j), ("near", correlation))
    found = [(i, j, people[i] == people[j], *told) for (i, j), told in rows.items()]
    return pd.DataFrame(found, columns=["first", "second", "same_person", "how", "correlation"])


def _related(cohort: pd.DataFrame, one: int, other: int) -> bool:
    if "family" not in cohort:
        return False
    family = cohort["family"]
    return bool(family.iloc[one] and family.iloc[one] == family.iloc[other])


def refuse(found: pd.DataFrame, cohort: pd.DataFrame) -> None:
    """Stop where two people have the same image.

    Raises
    ------
    models.errors.InputError
        Lists the pairs.
    """
    same = found[found["how"].isin(EQUAL) & ~found["same_person"].astype(bool)]
    if same.empty:
        return
    images = cohort["image"].tolist()
    pairs = [f"{images[one.first]} = {images[one.second]}" for one in same.itertuples()]
    more = f"\n    and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
    listed = "\n    ".join(pairs[:SHOWN])
    counted = "1 pair of people has" if len(pairs) == 1 else f"{len(pairs)} pairs of people have"
    raise InputError(
        f"{counted} the same image, voxel for voxel; one scan under two "
        f"names would be trained on and tested:\n    {listed}{more}\nfind out whose they are, and "
        "leave the others out (--participant-label, or [cohort.exclude])"
    )


def used_once(cohort: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The cohort in which of equal sessions of a person one trains, preferably the one judged."""
    cohort = cohort.copy()
    for one in found[found["how"].isin(EQUAL) & found["same_person"].astype(bool)].itertuples():
        rows = sorted((one.first, one.second), key=lambda row: (not cohort["test"].iloc[row], row))
        if cohort["train"].iloc[rows].all():
            cohort.loc[cohort.index[rows[1]], "train"] = False
    return cohort


def products(
    cwd: Path, model: str, found: pd.DataFrame, cohort: pd.DataFrame, alike: float = ALIKE
) -> dict[str, Any]:
    """The table of pairs, with what was checked and what to think of it."""
    names = [
        "_".join(filter(None, (row.participant_id, row.session_id))) for row in cohort.itertuples()
    ]
    table = found.assign(
        first=[names[row] for row in found["first"]],
        second=[names[row] for row in found["second"]],
    )
    path = f"group/model-{model}_duplicates.tsv"
    warnings = _warnings(table, path)
    for sentence in warnings:
        log.warning(sentence)
    write_table(cwd / Path(path).name, table)
    sidecar = {
        "Description": "Pairs of images with equal voxels (in their files: stored, as the network "
        "sees them: packed), and pairs of people whose images are nearly equal (near)",
        "Images": len(cohort),
        "People": int(cohort["participant_id"].nunique()),
        "NearThreshold": alike if len(cohort) >= FEWEST else None,
        "Warnings": warnings,
    }
    if len(cohort) < FEWEST:
        sidecar["NotComputed"] = {"near": f"needs {FEWEST} images; there are {len(cohort)}"}
    return {path: {"file": str(cwd / Path(path).name), "sidecar": sidecar}}


def _warnings(table: pd.DataFrame, path: str) -> list[str]:
    said = [
        f"{one.first} and {one.second} are the same image, voxel for voxel; it is used once"
        for one in table[table["same_person"].astype(bool)].itertuples()
    ]
    near = table[table["how"] == "near"]
    said += [
        f"{one.first} and {one.second} are very much alike (correlation {one.correlation:.2f}): "
        "one person under two names, or twins? Classification keeps them together by [cohort] group"
        for one in near[:SHOWN].itertuples()
    ]
    if len(near) > SHOWN:
        said.append(f"{len(near) - SHOWN} more pairs of people are as much alike: see {path}")
    return said
