"""One person's anomaly maps as derivatives: images, mask, region table, figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from models.anomaly.scores import PersonMaps
from models.grids import Grid
from pipelines.derivatives import (
    SPACE,
    datatype_of,
    filename,
    grid_sidecar,
    label,
    relative_path,
    write_table,
)
from pipelines.heatmaps import Products, Regions, anatomy
from pipelines.images import write_nifti

MEANINGS = {
    "recon": "Reconstruction by auto-encoders that learnt from controls only",
    "abserror": "Absolute error of the reconstruction",
    "error": "Square root of the sum over channels of the squared errors",
    "z": "Error in standard deviations from the training controls' mean at that voxel",
}


@dataclass(frozen=True, eq=False)
class AnomalyNames:
    """What the names of a model's anomaly maps have in common.

    Parameters
    ----------
    model : str
        Label of the model.
    modality : str
        Suffix of the input image.
    parameters : sequence of str
        Of the channels; empty where there is one.
    grid : Grid
    brain : (x, y, z) bool array
        Whose voxels the vectors of a person are of.
    """

    model: str
    modality: str
    parameters: Sequence[str]
    grid: Grid
    brain: np.ndarray

    def entities(self, method: str, **more: str) -> dict[str, str]:
        """Entities of a map; ``res`` is added for images only."""
        common = {"mod": self.modality, "space": SPACE, "model": self.model, "method": method}
        return common | more

    def volume(self, values: np.ndarray) -> np.ndarray:
        """(x, y, z) float32 of the brain's voxels; 0 outside and where nothing was scored."""
        found = np.zeros(self.brain.shape, np.float32)
        found[self.brain] = np.nan_to_num(values)
        return found

    def write(
        self, folder: Path, ids: Mapping[str, str], method: str, stat: str, values: np.ndarray,
        facts: Mapping[str, Any], param: str = "",
    ) -> Products:  # fmt: skip
        """Write one map of the brain's voxels."""
        entities = {**ids, **self.entities(method, stat=stat, res=self.grid.name), "param": param}
        path = relative_path("anomalymap", ".nii.gz", entities)
        file = folder / Path(path).name
        write_nifti(file, self.volume(values), self.grid.affine, template=True)
        what = {"Description": MEANINGS[stat], "SkullStripped": True, **grid_sidecar(self.grid)}
        return {path: {"file": str(file), "sidecar": {**what, **facts}}}


def anomaly_products(
    folder: Path,
    ids: Mapping[str, str],
    method: str,
    maps: PersonMaps,
    percent: Mapping[str, float],
    facts: Mapping[str, Any],
    names: AnomalyNames,
    regions: Regions,
    background: np.ndarray,
) -> Products:
    """Write everything about one person by one auto-encoder into ``folder``.

    Parameters
    ----------
    ids : mapping
        ``sub`` and ``ses``.
    method : str
        Name of the auto-encoder.
    maps : PersonMaps
        Of the brain's voxels.
    percent : mapping of str to float
        Abnormal percentage of every region of interest.
    facts : mapping
        For every sidecar.
    regions : Regions
        Atlas of the table.
    background : (x, y, z) array
        First channel that the networks saw.
    """
    products: Products = {}
    channels = names.parameters or ("",)
    for channel, param in enumerate(channels):
        for stat, values in (("recon", maps.reconstruction), ("abserror", maps.absolute)):
            products |= names.write(folder, ids, method, stat, values[channel], facts, param)
    products |= names.write(folder, ids, method, "error", maps.error, facts)
    products |= names.write(folder, ids, method, "z", maps.z, facts)
    products |= _mask(folder, ids, method, maps, facts, names)
    products |= _table(folder, ids, method, maps, percent, facts, names, regions)
    return products | _figure(folder, ids, method, maps, names, background)


def _mask(
    folder: Path,
    ids: Mapping[str, str],
    method: str,
    maps: PersonMaps,
    facts: Mapping[str, Any],
    names: AnomalyNames,
) -> Products:
    entities = {"space": SPACE, "res": names.grid.name, "label": "anomaly"}
    desc = label(f"{names.model}{method}")
    path = relative_path(
        "mask", ".nii.gz", {**ids, **entities, "desc": desc}, datatype=datatype_of(names.modality)
    )
    file = folder / Path(path).name
    inside = names.volume(maps.abnormal) > 0
    write_nifti(file, inside, names.grid.affine, template=True)
    what = {
        "Description": "Voxels above the threshold in more than half of the splits",
        "Type": "ROI",
        "Model": names.model,
        **grid_sidecar(names.grid),
    }
    return {path: {"file": str(file), "sidecar": {**what, **facts}}}


def _table(
    folder: Path,
    ids: Mapping[str, str],
    method: str,
    maps: PersonMaps,
    percent: Mapping[str, float],
    facts: Mapping[str, Any],
    names: AnomalyNames,
    regions: Regions,
) -> Products:
    atlas_name = label(regions.atlas.name)
    entities = {**ids, **names.entities(method, stat="error", atlas=atlas_name)}
    path = relative_path("anomalymap", ".tsv", entities)
    file = folder / Path(path).name
    rois = pd.DataFrame({"name": list(percent), "percent": list(percent.values())})
    write_table(file, pd.concat([rois.assign(kind="roi"), _regions(maps, names, regions)]))
    what = {
        "Description": "Percentage of abnormal voxels: regions of interest first (kind roi), then "
        "every region of the atlas (kind region)",
        "percent": {"Description": "Mean over the splits", "Units": "%"},
        "voxels": {"Description": "Voxels that were scored"},
        "mean_z": {"Description": "Mean z of these voxels"},
    }
    return {path: {"file": str(file), "sidecar": {**what, **facts, **regions.sidecar}}}


def _regions(maps: PersonMaps, names: AnomalyNames, regions: Regions) -> pd.DataFrame:
    labels, scored = regions.labels[names.brain], np.isfinite(maps.error)
    rows = []
    for index, name in regions.atlas.labels.itertuples(index=False):
        here = (labels == index) & scored
        count = int(here.sum())
        share, z = (float(one[here].mean()) if count else np.nan for one in (maps.share, maps.z))
        rows.append((name, 100 * share, "region", index, count, z))
    columns = ["name", "percent", "kind", "index", "voxels", "mean_z"]
    return pd.DataFrame(rows, columns=columns).astype({"index": "Int64", "voxels": "Int64"})


def _figure(
    folder: Path,
    ids: Mapping[str, str],
    method: str,
    maps: PersonMaps,
    names: AnomalyNames,
    background: np.ndarray,
) -> Products:
    from pipelines.figures import plot_slices, save

    entities = {**ids, "mod": names.modality, "model": names.model, "method": method, "stat": "z"}
    name = filename("anomalymap", ".png", entities)
    z = names.volume(np.maximum(maps.z, 0))
    drawn = plot_slices(
        anatomy(background, names.grid.affine),
        nib.Nifti1Image(z, names.grid.affine),
        overlay_range=(0, 6),
        threshold=2,
        units="z of the error (above 2)",
    )
    save(drawn, folder / name)
    return {f"sub-{ids['sub']}/figures/{name}": {"file": str(folder / name), "sidecar": None}}
