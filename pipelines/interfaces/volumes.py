"""Interfaces of the volumes of regions: of one image, and the table of a cohort."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from models.errors import InputError
from models.grids import Grid
from pipelines.choices import JACOBIAN
from pipelines.derivatives import grid_sidecar, read_table, write_table
from pipelines.heatmaps import Regions
from pipelines.images import write_nifti
from pipelines.interfaces.ants import deterministic_ants
from pipelines.interfaces.networks import prediction_keys
from pipelines.region_volumes import joined, sidecar, table_path, wide

LPS_TO_RAS = np.array([-1, -1, 1], np.float32)


def displacement(transform: str | Path, grid: Grid, folder: Path) -> np.ndarray:
    """Where a transform sends the voxels of a grid, affine part and all.

    Parameters
    ----------
    transform : str or Path
        Composite ITK transform.
    folder : Path
        Where files may come and go.

    Returns
    -------
    numpy.ndarray
        (x, y, z, 3) float32, mm along RAS+: the mapped point of a voxel less its own.

    Raises
    ------
    models.errors.InputError
        The file is no transform that ITK can read.
    """
    ants = deterministic_ants(1)  # one ITK thread; nothing is drawn
    write_nifti(folder / "grid.nii.gz", np.zeros(grid.shape), grid.affine, template=True)
    fixed = ants.image_read(str(folder / "grid.nii.gz"))
    prefix = str(folder / "composed_")
    try:
        made = Path(ants.apply_transforms(fixed, fixed, [str(transform)], compose=prefix))
        field = ants.image_read(str(made)).numpy()
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f"{transform}: cannot be read as a transform; run the participant level again for this "
            "person"
        ) from error
    made.unlink()  # as large as three images, and made again within seconds
    return field * LPS_TO_RAS


def of_images(table: pd.DataFrame, keys: Iterable[tuple[str, str]], region: str) -> pd.Series:
    """Volumes (images,) of a region in the order of ``keys``; NaN where not known.

    Parameters
    ----------
    table : pandas.DataFrame
        ``joined`` of :class:`CohortVolumes`.
    keys : iterable of (participant, session)
    """
    known = dict(zip(prediction_keys(table), table[region], strict=True))
    return pd.Series([known.get(key, np.nan) for key in keys], name=JACOBIAN, dtype=float)


class RegionVolumesInputSpec(BaseInterfaceInputSpec):
    transform = File(exists=True, mandatory=True, desc="maps points of the template to the person")
    grid = traits.Dict(mandatory=True, desc="name, shape, voxel_mm, origin_mm")
    atlas = traits.Str(mandatory=True)


class RegionVolumesOutputSpec(TraitedSpec):
    table = File(exists=True, desc="index, name, voxels, sum (mm3), density (mm3 per voxel)")


class RegionVolumes(SimpleInterface):
    """Volumes of an atlas's regions in one person's own space; bitwise repeatable."""

    input_spec = RegionVolumesInputSpec
    output_spec = RegionVolumesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from models.jacobian import voxel_volumes

        cwd, grid = Path(runtime.cwd), Grid(**self.inputs.grid)
        volumes = voxel_volumes(displacement(self.inputs.transform, grid, cwd), grid.affine)
        write_table(cwd / "volumes.tsv", Regions.on(self.inputs.atlas, grid).table(volumes))
        self._results["table"] = str(cwd / "volumes.tsv")
        return runtime


class CohortVolumesInputSpec(BaseInterfaceInputSpec):
    tables = traits.List(File(exists=True), mandatory=True, desc="of RegionVolumes")
    participants = traits.List(traits.Str, mandatory=True, desc="of each table, without sub-")
    sessions = traits.List(traits.Str, mandatory=True, desc="of each table, '' without")
    transforms = traits.List(traits.Str, mandatory=True, desc="of each table")
    grid = traits.Dict(mandatory=True, desc="name, shape, voxel_mm, origin_mm")
    atlas = traits.Str(mandatory=True)
    model = traits.Str(mandatory=True)


class CohortVolumesOutputSpec(TraitedSpec):
    joined = File(exists=True, desc="image x region with left and right in one, mm3")
    products = traits.Dict


class CohortVolumes(SimpleInterface):
    """Volumes of everybody in one table."""

    input_spec = CohortVolumesInputSpec
    output_spec = CohortVolumesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        given, cwd, grid = self.inputs, Path(runtime.cwd), Grid(**self.inputs.grid)
        keys = list(zip(given.participants, given.sessions, strict=True))
        tables = [read_table(Path(one)) for one in given.tables]
        regions = Regions.on(given.atlas, grid)
        apart = wide(keys, tables)
        path = table_path(given.model, regions.atlas.name)
        write_table(cwd / Path(path).name, apart)
        write_table(cwd / "joined.tsv", wide(keys, map(joined, tables)))
        facts = sidecar(apart, given.transforms, grid_sidecar(grid) | regions.sidecar)
        self._results["joined"] = str(cwd / "joined.tsv")
        self._results["products"] = {path: {"file": str(cwd / Path(path).name), "sidecar": facts}}
        return runtime
