"""One person's heatmaps as derivatives: image, region table, figure, each with its facts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from models.grids import Grid
from models.regions import gain, ipsilateral_name, opposite, region_table
from pipelines.atlases import Atlas, atlas, on_grid
from pipelines.derivatives import (
    SPACE,
    datatype_of,
    derivative_uri,
    filename,
    grid_sidecar,
    label,
    relative_path,
    write_table,
)
from pipelines.images import input_affine, mark_ipsilateral, write_nifti

NO_ATLAS = (
    "table of regions: the images were not registered, so no atlas fits them; choose registration "
    "= 'linear' or 'nonlinear' for it."
)
NO_COMMON_SPACE = (
    "mean heatmaps, tables of regions, their analytics and voxelwise tests: the images were not "
    "registered, so that a voxel is another place in every brain; choose registration = 'linear' "
    "or 'nonlinear' for them."
)

NO_ANALYTICS = (
    "analytics of regions and trainings: the images were not registered; mean heatmaps, tables of "
    "regions and tests are of maps that were taken to the template afterwards."
)

MIRRORED_BACK = "the network saw the image mirrored; the map is mirrored back, so left is left"

# path below the output folder -> {"file": finished file, "sidecar": dict or None}
Products = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class HeatmapNames:
    """What the names of a model's heatmaps have in common.

    Parameters
    ----------
    model : str
        Label of the model.
    target : str
        Class that is explained, as in participants.tsv.
    grid : Grid
        Grid of the maps.
    modality : str
        Suffix of the input image.
    space : str
        BIDS label of the space that the images are in.
    ipsilateral : bool
        Whether the left half of the maps is everybody's affected side.
    """

    model: str
    target: str
    grid: Grid
    modality: str = "T1w"
    space: str = SPACE
    ipsilateral: bool = False

    def entities(self, method: str, **more: str) -> dict[str, str]:
        """Entities of a map; ``res`` is added for images only."""
        return {
            "mod": self.modality,
            "space": self.space,
            "model": self.model,
            "target": label(self.target),
            "method": method,
            **more,
        }

    def image(self, method: str, **more: str) -> dict[str, str]:
        """Entities of a map that is an image."""
        return self.entities(method, res=self.grid.name, **more)


@dataclass(frozen=True)
class Regions:
    """An atlas on the grid of the maps."""

    atlas: Atlas
    labels: np.ndarray

    @classmethod
    def on(cls, name: str, grid: Grid, *, ipsilateral: bool = False) -> "Regions":
        """Load the atlas called ``name`` (or a file) onto ``grid``.

        ``ipsilateral`` names the halves so where left is everybody's affected side.
        """
        found = atlas(name)
        if ipsilateral:
            names = found.labels["name"].map(ipsilateral_name)
            found = replace(found, labels=found.labels.assign(name=names))
        return cls(found, on_grid(found, grid.affine, grid.shape))

    @classmethod
    def of_space(
        cls, space: str, name: str, grid: Grid, *, ipsilateral: bool = False
    ) -> "Regions | None":
        """The atlas where images are in the template's space; elsewhere none fits."""
        return cls.on(name, grid, ipsilateral=ipsilateral) if space == SPACE else None

    def table(self, heatmap: np.ndarray) -> pd.DataFrame:
        """Sum and density of a map per region."""
        return region_table(heatmap, self.labels, self.atlas.labels)

    @property
    def sidecar(self) -> dict[str, Any]:
        """Where the regions come from."""
        return {
            "Atlas": self.atlas.name,
            "AtlasSpace": self.atlas.space,
            "AtlasLicense": self.atlas.licence,
            "AtlasNote": self.atlas.note,
            "Warnings": list(self.atlas.warnings),
        }


def anatomy(
    volume: np.ndarray, affine: np.ndarray, *, ipsilateral: bool = False
) -> nib.Nifti1Image:
    """A network's input as a background of figures: black, not zero, outside the brain.

    Figures name the sides by it: left and right, or ipsilateral and contralateral.
    """
    shown = np.where(volume == 0, volume.min(), volume).astype(np.float32)
    image = nib.Nifti1Image(shown, affine)
    return mark_ipsilateral(image) if ipsilateral else image


def sides_facts(*, ipsilateral: bool) -> dict[str, Any]:
    """What the sidecar of a group's map says of its sides, where they are not left and right."""
    if not ipsilateral:
        return {}
    said = (
        "x < 0 is ipsilateral, the affected side of everybody, x > 0 contralateral: people whose "
        "right side is affected were mirrored"
    )
    return {"Lateralisation": said}


@dataclass(frozen=True, eq=False)
class Seen:
    """A person's image as a network saw it, and where it lies.

    Parameters
    ----------
    volume : numpy.ndarray
        (x, y, z) on the recipe's grid.
    affine : numpy.ndarray
        (4, 4), voxel to mm, RAS+ axes: of the template, or of the scanner without registration.
    source : Path
        The image that was preprocessed.
    """

    volume: np.ndarray
    affine: np.ndarray
    source: Path

    @classmethod
    def of(cls, volume: np.ndarray, source: str | Path, grid: Grid) -> "Seen":
        """The network's input, made from ``source`` on ``grid``."""
        return cls(volume, input_affine(source, grid), Path(source))

    @property
    def anatomy(self) -> nib.Nifti1Image:
        """Background of figures."""
        return anatomy(self.volume, self.affine)

    def where(self, names: HeatmapNames) -> dict[str, Any]:
        """Sidecar of a map on the image's voxels."""
        if names.space == SPACE:
            return grid_sidecar(names.grid)
        size = "x".join(map(str, names.grid.shape))
        return {
            "Resolution": f"{names.grid.voxel_mm:g} mm isotropic, {size} voxels",
            "SpatialReference": derivative_uri(self.source),
            "NotComputed": [NO_ATLAS],
        }


def person_products(
    folder: Path,
    ids: Mapping[str, str],
    method: str,
    heatmap: np.ndarray,
    facts: Mapping[str, Any],
    names: HeatmapNames,
    regions: Regions | None,
    seen: Seen,
    control_sums: pd.Series | None = None,
) -> Products:
    """Write one person's map of one method into ``folder``.

    Parameters
    ----------
    ids : mapping
        ``sub`` and ``ses``.
    method : str
        Label of the attribution, unique within the recipe.
    heatmap : (x, y, z) array
    facts : mapping
        Sidecar: method, parameters, models, ledger.
    regions : Regions or None
        None where images are in no space that an atlas fits: there is no table then.
    seen : Seen
        The image that the network saw.
    control_sums : Series, optional
        Mean sum of the controls per region, for the gain; n/a without it.
    """
    from pipelines.figures import plot_slices, save

    image_path = relative_path("heatmap", ".nii.gz", {**ids, **names.image(method)})
    figure_name = filename(
        "heatmap",
        ".png",
        {
            **ids,
            "mod": names.modality,
            "model": names.model,
            "target": label(names.target),
            "method": method,
        },
    )
    file = folder / Path(image_path).name
    image = write_nifti(file, heatmap, seen.affine, template=names.space == SPACE)
    save(plot_slices(seen.anatomy, image, units="relevance"), folder / figure_name)
    products: Products = {
        image_path: {
            "file": str(file),
            "sidecar": {"SkullStripped": True, **seen.where(names), **facts},
        },
        f"sub-{ids['sub']}/figures/{figure_name}": {
            "file": str(folder / figure_name),
            "sidecar": None,
        },
    }
    if regions is None:
        return products
    table_path = relative_path(
        "heatmap", ".tsv", {**ids, **names.entities(method, atlas=label(regions.atlas.name))}
    )
    table = regions.table(heatmap)
    table["gain"] = np.nan if control_sums is None else gain(table["sum"], control_sums)
    write_table(folder / Path(table_path).name, table)
    return products | {
        table_path: {
            "file": str(folder / Path(table_path).name),
            "sidecar": {"Method": facts.get("Method"), **regions.sidecar},
        },
    }


def turned(volume: np.ndarray, mirrored: bool) -> np.ndarray:
    """What a network saw, or its map, with left and right as the person has them."""
    return volume[::-1] if mirrored else volume


def turned_sums(
    sums: pd.Series | None, regions: Regions | None, mirrored: bool
) -> pd.Series | None:
    """The controls' sums beside a person's: those of the other half where it was mirrored."""
    if sums is None or regions is None or not mirrored:
        return sums
    other = opposite([str(name) for name in regions.atlas.labels["name"]])
    return pd.Series(sums.to_numpy()[other])


def mirror_facts(mirrored: bool, *, ipsilateral: bool) -> dict[str, Any]:
    """What the sidecar of a person's map says, where the network saw some people mirrored."""
    if not ipsilateral:
        return {}
    return {"Mirrored": MIRRORED_BACK if mirrored else "no: the affected side is left as it is"}


def person_prediction(
    folder: Path,
    ids: Mapping[str, str],
    model: str,
    classes: Sequence[str],
    probability: float,
    score: float,
    folds: Sequence[int],
    *,
    known: bool,
    modality: str = "T1w",
    threshold: float = 0.5,
) -> Products:
    """Write one person's prediction (mean over the folds that never saw the person).

    Parameters
    ----------
    classes : sequence of str
        Negative and positive class; the probability and the score are those of the latter.
    known : bool
        Whether the person belonged to the cohort the model was trained on.
    threshold : float
        Probability from which the answer is the positive class: the mean over the models.
    modality : str
        Suffix of the image that was judged; it decides the folder.
    """
    session = ids.get("ses")
    row = {
        "participant_id": f"sub-{ids['sub']}",
        "session_id": f"ses-{session}" if session else None,
        "target": classes[1],
        "probability": probability,
        "score": score,
        "predicted": classes[int(probability >= threshold)],
        "threshold": threshold,
        "n_models": len(folds),
        "out_of_fold": known,
    }
    path = relative_path(
        "predictions", ".tsv", {**ids, "model": model}, datatype=datatype_of(modality)
    )
    write_table(folder / Path(path).name, pd.DataFrame([row]))
    by = "folds that never saw this person" if known else "all folds; the person is new to them"
    return {
        path: {
            "file": str(folder / Path(path).name),
            "sidecar": {"Description": f"Mean over {by}", "Folds": list(folds)},
        }
    }


def ledger_facts(ledgers: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean ledger over the models of a map, and what of the start value it leaves open."""
    if not ledgers or not ledgers[0]:
        return {"Ledger": None, "ConservationError": None}
    mean = {key: float(np.mean([one[key] for one in ledgers])) for key in ledgers[0]}
    passed = sum(value for key, value in mean.items() if key != "start")
    error = abs(passed - mean["start"]) / max(abs(mean["start"]), 1e-12)
    return {"Ledger": mean, "ConservationError": float(error)}
