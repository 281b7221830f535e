"""Volumes of regions in people's own space, as the nonlinear registration tells them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import pandas as pd

from models.errors import InputError
from models.regions import merge_sides
from pipelines.atlases import atlas
from pipelines.choices import JACOBIAN
from pipelines.derivatives import derivative_uri, label, relative_path

NOT_REGISTERED = (
    "volumes of regions by the registration: the images were not registered; choose registration "
    "= 'nonlinear' for them."
)


@dataclass(frozen=True)
class Deformations:
    """What brought the images of a cohort to the template, and the template's grid.

    Parameters
    ----------
    files : mapping of (participant, session) to str
        ``from-T1w_to-<template>_mode-image`` of each image. To resample an image is to ask where
        each point of the template lies in it: these transforms map points of the template to
        points of the person.
    grid : mapping
        name, shape, voxel_mm, origin_mm.
    """

    files: Mapping[tuple[str, str], str]
    grid: Mapping[str, Any]


def columns_of(volumes: Mapping[str, str]) -> list[str]:
    """Columns of participants.tsv among the volumes that a recipe names, each once."""
    return list(dict.fromkeys(one for one in volumes.values() if one != JACOBIAN))


def measured_of(volumes: Mapping[str, str]) -> list[str]:
    """Regions whose volumes the registration is to tell."""
    return [region for region, how in volumes.items() if how == JACOBIAN]


def check_regions(name: str, wanted: Iterable[str]) -> None:
    """Refuse regions that the atlas called ``name`` does not have, sides joined."""
    known = list(joined(_one_voxel_each(atlas(name).labels))["name"])
    for region in wanted:
        if region not in known:
            near = get_close_matches(region, known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise InputError(
                f"[regions] volumes: atlas {atlas(name).name} has no region '{region}', left and "
                f"right joined{hint}"
            )


def joined(table: pd.DataFrame) -> pd.DataFrame:
    """A person's table of regions with left and right in one; unknown where a half is."""
    whole = merge_sides(table)
    absent = merge_sides(table.assign(sum=1.0 * (table["voxels"] == 0)))["sum"]
    return whole.assign(sum=whole["sum"].where(absent.to_numpy() == 0))


def wide(keys: Iterable[tuple[str, str]], tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """One row per image: participant_id, session_id, then mm^3 of every region.

    Parameters
    ----------
    keys : iterable of (participant, session)
    tables : iterable of pandas.DataFrame
        Of each image: name, voxels, sum. A region without a voxel on the grid has no volume.
    """
    rows = [
        {
            "participant_id": f"sub-{participant}",
            "session_id": f"ses-{session}" if session else None,
            **dict(zip(table["name"], table["sum"].where(table["voxels"] > 0), strict=True)),
        }
        for (participant, session), table in zip(keys, tables, strict=True)
    ]
    return pd.DataFrame(rows)


def table_path(model: str, atlas_name: str) -> str:
    """Path of the cohort's table below the output folder."""
    entities = {"model": model, "atlas": label(atlas_name), "desc": JACOBIAN}
    return relative_path("volumes", ".tsv", entities)


def sidecar(
    table: pd.DataFrame, deformations: Iterable[str], where: Mapping[str, Any]
) -> dict[str, Any]:
    """Sidecar of the cohort's table; ``where`` tells of atlas and grid."""
    units = {"Units": "mm3", "Description": "Volume in the person's own space"}
    ids = ("participant_id", "session_id")
    return {
        "Description": "Volumes of the atlas's regions in each person's own space, by the "
        "nonlinear registration",
        "Method": "Sum over the voxels of a region on the template's grid of the size of the "
        "Jacobian determinant of the mapping from template to person (affine part included), "
        "times the volume of a voxel; central differences",
        "Sources": [derivative_uri(path) for path in deformations],
        **where,
        **{name: units for name in table if name not in ids},
    }


def _one_voxel_each(labels: pd.DataFrame) -> pd.DataFrame:
    return labels[["index", "name"]].assign(voxels=1, sum=0.0, density=0.0)
