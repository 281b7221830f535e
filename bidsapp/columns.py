"""Diktiometry beside the traditional tests, as in Estudillo-Romero et al. 2022, figures 4 to 6.

Up to three columns: maps of networks that saw unregistered tensors (post), of those that saw
registered ones (pre), and the tests of the measures themselves. A model has one of the first two;
the other is taken from a second model of the same classes in the output folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from models.regions import region_table
from pipelines.atlases import atlas, on_grid, template
from pipelines.derivatives import (
    OWN_SPACE,
    label,
    place,
    read_sidecar,
    write_json,
    write_table,
)
from pipelines.figures import plot_columns, save
from pipelines.images import read_nifti
from pipelines.stored_models import StoredModel

POST, PRE, TRADITIONAL = "post", "pre", "traditional"
# Heights of the publication's slices.
SLICES_MM = tuple(float(z) for z in range(-36, 35, 10))
# Measure of the tensor -> what diktiometry derives by that is shown beside it.
DERIVED = {"md": ("muhat", "mu"), "sigma": ("sigma",), "fa": ("fa", "fadirection")}
UNLABELLED = "unlabelled"
BOTH, NETWORKS, ALONE = "both", "diktiometry only", "traditional only"


@dataclass(frozen=True)
class Columns:
    """Thresholded maps of one measure, by column; only those that were run.

    Attributes
    ----------
    measure : str
        ``md``, ``sigma`` or ``fa``.
    maps : dict
        Column to its file: t in significant clusters, else 0.
    models : dict
        Column to the label of the model whose run made the map.
    """

    measure: str
    maps: Mapping[str, Path]
    models: Mapping[str, str]


def write_columns(output_dir: Path, model: str, work_dir: Path) -> list[Path]:
    """Draw each measure's columns, and say which regions appear in which of them.

    Parameters
    ----------
    output_dir : Path
        A finished group run.
    model : str
        Its label.
    work_dir : Path
        Where files may come and go.

    Returns
    -------
    list of Path
        ``group/figures/model-<label>_desc-columns<measure>.png`` and
        ``group/model-<label>_desc-columns_regions.tsv``; none where the model has no diktiometry,
        or fewer than two columns were run.
    """
    found = columns(output_dir, model)
    if not found:
        return []
    anatomy, made = read_nifti(template()), []
    for one in found:
        maps = {name: read_nifti(path) for name, path in one.maps.items()}
        drawn = plot_columns(
            anatomy,
            {_heading(name, image): image for name, image in maps.items()},
            SLICES_MM,
            units="t in significant clusters",
        )
        made.append(output_dir / f"group/figures/model-{model}_desc-columns{one.measure}.png")
        place(save(drawn, work_dir / made[-1].name), made[-1])
    table = output_dir / f"group/model-{model}_desc-columns_regions.tsv"
    card = StoredModel(output_dir / "models" / f"model-{model}").card
    write_table(table, pd.concat([regions(one, str(card["Atlas"])) for one in found]))
    write_json(table.with_suffix(".json"), _facts(found))
    return [*made, table]


def columns(output_dir: Path, model: str) -> list[Columns]:
    """The columns of each measure of which there are two or more."""
    own = StoredModel(output_dir / "models" / f"model-{model}")
    models = {_kind(own): own, **_other(output_dir, own)}
    found = []
    for measure, derivatives in DERIVED.items():
        maps, whose = {}, {}
        for kind in (POST, PRE):
            for one in derivatives if kind in models else ():
                path = _of_network(output_dir, models[kind], one)
                if path is not None and kind not in maps:
                    maps[kind], whose[kind] = path, models[kind].name
        for kind in (PRE, POST):  # registered tensors are what the tests are usually of
            path = _of_images(output_dir, models[kind], measure) if kind in models else None
            if path is not None and TRADITIONAL not in maps:
                maps[TRADITIONAL], whose[TRADITIONAL] = path, models[kind].name
        if len(maps) > 1:
            found.append(Columns(measure, maps, whose))
    return found


def _kind(model: StoredModel) -> str:
    return POST if model.space == OWN_SPACE else PRE


def _other(output_dir: Path, own: StoredModel) -> dict[str, StoredModel]:
    """The first model of the other kind with the same classes and measures."""
    for card in sorted((output_dir / "models").glob("*/*_modelcard.json")):
        one = StoredModel(card.parent)
        alike = one.card.get("Classes") == own.card["Classes"]
        if alike and _kind(one) != _kind(own) and _measures(one).keys() & _measures(own).keys():
            return {_kind(one): one}
    return {}


def _measures(model: StoredModel) -> dict[str, str]:
    """Measure to the name of the attribution, of a model's diktiometry."""
    return {
        str(one.get("measure", "fa")): str(one["name"])
        for one in model.card.get("Attributions") or []
        if one["method"] == "diktiometry"
    }


def _of_network(output_dir: Path, model: StoredModel, measure: str) -> Path | None:
    name = _measures(model).get(measure)
    return _thresholded(output_dir, model, f"method-{name}") if name else None


def _of_images(output_dir: Path, model: StoredModel, measure: str) -> Path | None:
    return _thresholded(output_dir, model, f"param-{measure}")


def _thresholded(output_dir: Path, model: StoredModel, map_of: str) -> Path | None:
    """The map of a test's significant clusters: of the statistics, it alone has a desc."""
    negative, positive = map(label, model.card["Classes"])
    # Runs on another grid may have left theirs.
    grid = (model.card.get("Grid") or {}).get("name", "*")
    pattern = (
        f"group/*_model-{model.name}_*{map_of}_contrast-{positive}Minus{negative}_stat-t_res-{grid}"
        "_desc-*_statmap.nii.gz"
    )
    return next(iter(sorted(output_dir.glob(pattern))), None)


def _heading(column: str, shown: nib.Nifti1Image) -> str:
    """What stands above a column; an empty one says so, or it would look like a broken figure."""
    words = {
        POST: "post: unregistered tensors",
        PRE: "pre: registered tensors",
        TRADITIONAL: "traditional",
    }[column]
    return words if np.any(np.asarray(shown.dataobj)) else f"{words}\nnothing significant"


def regions(found: Columns, wanted: str) -> pd.DataFrame:
    """Volume of significant voxels in each region that appears anywhere.

    Parameters
    ----------
    found : Columns
    wanted : str
        Atlas.

    Returns
    -------
    DataFrame
        measure, index, name, a column of mm^3 per map, and ``seen_by``. Index 0 is what the
        atlas has no name for.
    """
    source = atlas(wanted)
    table = pd.DataFrame()
    for column, path in found.maps.items():
        image = read_nifti(path)
        there = np.asarray(image.dataobj) != 0
        labels = on_grid(source, image.affine, there.shape)
        counted = region_table(there.astype(np.float32), labels, source.labels)
        # White matter, for one, has no names in many atlases.
        beyond = {"index": 0, "name": UNLABELLED, "sum": there.sum() - counted["sum"].sum()}
        counted = pd.concat([counted, pd.DataFrame([beyond])], ignore_index=True)
        if table.empty:
            table = counted[["index", "name"]].copy()
        voxel_mm3 = abs(np.linalg.det(image.affine[:3, :3]))
        table[f"{column}_mm3"] = (counted["sum"] * voxel_mm3).round(1)
    volumes = [one for one in table if str(one).endswith("_mm3")]
    table = table[(table[volumes] > 0).any(axis=1)].reset_index(drop=True)
    seen = [_seen_by(row, list(found.maps)) for row in table.to_dict("records")]
    return table.assign(seen_by=pd.Series(seen, dtype=object)).pipe(_first, found.measure)


def _first(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    table.insert(0, "measure", measure)
    return table


def _seen_by(row: Mapping[str, Any], there: Sequence[str]) -> str:
    """Whether diktiometry, the traditional test or both have significant voxels in a region."""
    networks = any(row[f"{one}_mm3"] > 0 for one in there if one != TRADITIONAL)
    alone = TRADITIONAL in there and row[f"{TRADITIONAL}_mm3"] > 0
    return BOTH if networks and alone else (NETWORKS if networks else ALONE)


def _facts(found: Sequence[Columns]) -> dict[str, Any]:
    said: dict[str, Any] = {
        "Description": "Volume of significant voxels in each region, by diktiometry of "
        "unregistered tensors (post), of registered ones (pre), and by the test of the measure",
        "Models": {one.measure: dict(one.models) for one in found},
        "Corrections": {
            one.measure: {
                name: read_sidecar(path).get("Correction") for name, path in one.maps.items()
            }
            for one in found
        },
        "seen_by": {"Description": "Which have a significant voxel in the region"},
    }
    return said
