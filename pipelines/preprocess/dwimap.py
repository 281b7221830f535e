"""Diffusion maps (MD and FA) in template space that another pipeline has made: checked, taken over.

The scan is the map of MD; that of FA lies beside it under the same name. What fits tensors to raw
diffusion images can write the same derivatives, and hand them to networks by :func:`maps_input`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from models.errors import InputError
from models.grids import Grid, full_grid
from models.volumes import to_grid
from pipelines.derivatives import (
    SPACE,
    file_hash,
    fingerprint,
    grid_sidecar,
    relative_path,
)
from pipelines.images import read_nifti
from pipelines.inputs import Scan
from pipelines.interfaces.maps import TakeMaps
from pipelines.interfaces.sink import SaveDerivatives
from pipelines.preprocess.modality import Modality

REVISION = 1  # raised when the same input would give other voxels
PARAMETERS = ("md", "fa")
# What each map is divided by to lie within [0, 1]: MD in mm2/s by that of free water at 37 C.
FULL_SCALE = {"md": 3.0e-3, "fa": 1.0}


@dataclass(frozen=True)
class DwimapOptions:
    """Voxel size at which the maps are stored."""

    resolution_mm: float = 1.5

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any], seed: int) -> "DwimapOptions":
        """The recipe's ``[preprocessing]``; nothing here is random."""
        return cls(preprocessing["resolution_mm"])


def dwimap_paths(scan: Scan, options: DwimapOptions) -> dict[str, str]:
    """Derivatives of one person's maps, by the name of the node output; paths below output_dir."""
    res = full_grid(options.resolution_mm).name
    ids, mni = scan.entities, {**scan.entities, "space": SPACE, "res": res}
    maps = {
        name: relative_path("dwimap", ".nii.gz", {**mni, "model": "tensor", "param": name})
        for name in PARAMETERS
    }
    quality = {**ids, "res": res, "desc": "maps"}
    return {
        "registered": maps["md"],
        "fa": maps["fa"],
        "quality": relative_path("qc", ".tsv", quality, datatype="dwi"),
    }


def beside(md: str | Path, parameter: str) -> Path:
    """The map of another parameter of the same person."""
    path = Path(md)
    return path.with_name(path.name.replace("_param-md_", f"_param-{parameter}_"))


def dwimap_fingerprint(scan: Scan, options: DwimapOptions) -> str:
    """Hash of both maps, the options and the revision of this workflow."""
    hashes = [
        file_hash(path) if path.exists() else "" for path in (scan.path, beside(scan.path, "fa"))
    ]
    return fingerprint("dwimap", REVISION, hashes, asdict(options))


def maps_input(
    path: str | Path, grid: Grid, intensity: str, blanked: np.ndarray | bool = False
) -> np.ndarray:
    """Maps as a network sees them: (2, x, y, z) float32 on ``grid``, MD and FA in [0, 1].

    Parameters
    ----------
    path : path
        MD in template space, mm2/s, zero outside the brain; FA lies beside it.
    grid : Grid
        The recipe's grid.
    intensity : {"max"}
        Both maps have a physical scale: each is divided by :data:`FULL_SCALE`.
    blanked : bool array (x, y, z), optional
        Voxels of the grid that are set to 0.

    Raises
    ------
    models.errors.InputError
        ``zscore`` was asked for, or FA is missing or on another grid.
    """
    if intensity != "max":
        raise InputError(
            f"[preprocessing] intensity = '{intensity}': MD and FA are scaled to [0, 1] by their "
            "units; use 'max'"
        )
    volumes = []
    for name in PARAMETERS:
        image = read_nifti(beside(path, name))
        data = np.nan_to_num(np.asarray(image.dataobj, np.float32)) / FULL_SCALE[name]
        volumes.append(to_grid(data, image.affine, grid).clip(0, 1))
    return np.where(blanked, 0, np.stack(volumes)).astype(np.float32)


def init_dwimap_wf(
    *,
    name: str,
    scan: Scan,
    output_dir: Path,
    template: Path,
    options: DwimapOptions,
    device: str = "cpu",
) -> pe.Workflow:
    """Check the maps of one person and save them on the template's grid.

    Outputs (``outputnode``)
    ------------------------
    saved : dict
        Name of each derivative (see :func:`dwimap_paths`) and its absolute path.
    """
    paths = dwimap_paths(scan, options)
    take = pe.Node(
        TakeMaps(
            md=scan.path,
            fa=beside(scan.path, "fa"),
            template=template,
            full_scale=FULL_SCALE,
            participant=scan.participant,
            session=scan.session,
        ),
        name="take",
    )
    save = pe.Node(
        SaveDerivatives(
            names=(*paths, "take_meta"),
            output_dir=str(output_dir),
            paths=paths,
            sidecars=_sidecars(options, dwimap_fingerprint(scan, options)),
        ),
        name="save",
        overwrite=True,  # the work dir may remember results that the output folder has lost
    )
    outputnode = pe.Node(niu.IdentityInterface(["saved"]), name="outputnode")
    workflow = pe.Workflow(name)
    workflow.connect(
        [
            (
                take,
                save,
                [
                    ("md", "registered"),
                    ("fa", "fa"),
                    ("quality", "quality"),
                    ("meta", "take_meta"),
                ],
            ),
            (save, outputnode, [("saved", "saved")]),
        ]
    )
    return workflow


def _sidecars(options: DwimapOptions, made_by: str) -> dict[str, dict[str, Any]]:
    grid = grid_sidecar(full_grid(options.resolution_mm))
    what = {"SkullStripped": True, **grid}
    return {
        "registered": {"Description": "Mean diffusivity", "Units": "mm^2/s", **what},
        "fa": {"Description": "Fractional anisotropy", "Units": "unitless", **what},
        "quality": {
            "Description": "Numbers that tell maps on another grid, in other units or of another "
            "brain",
            "mask_volume_ml": {"Description": "Volume with diffusivity above 0", "Units": "mL"},
            "template_overlap": {"Description": "Dice overlap of that volume and the template"},
            "template_correlation": {
                "Description": "Pearson correlation of FA with the template inside its brain"
            },
            "clipped_share": {"Description": "Share of its voxels outside of [0, 1] when scaled"},
            "flags": {"Description": "Sentences about numbers that are far off"},
            **grid,
            "Fingerprint": made_by,
            "Options": asdict(options),
        },
    }


MODALITY = Modality(
    suffix="dwimap",
    options=DwimapOptions.of,
    paths=dwimap_paths,
    making=dwimap_fingerprint,
    workflow=init_dwimap_wf,
    volume=maps_input,
    channels=len(PARAMETERS),
    parameters=PARAMETERS,
    names="*_space-MNI152NLin2009cAsym*_param-md_*dwimap.nii*",
)
