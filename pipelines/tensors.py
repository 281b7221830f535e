"""Tensor images: how they are stored, and how one is carried into another space."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import map_coordinates

from models.jacobian import derivative
from models.reorientation import REORIENTATIONS
from models.tensor import eigen, exponential, logarithm, positive, scalars
from pipelines.images import write_nifti

# mm^2/s; the least diffusivity that is kept: below lies noise, and a logarithm needs more than 0.
FLOOR = 1e-6
CHUNK = 200_000  # voxels at a time
UNITS = {"md": "mm^2/s", "fa": "unitless", "sigma": "mm^2/s", "theta": "rad"}
WORDS = {
    "md": "Mean diffusivity, mu",
    "fa": "Fractional anisotropy",
    "sigma": "Length of the deviation of the eigenvalues from their mean",
    "theta": "Angle within that deviation, from 0 (prolate) to pi/3 (oblate)",
}
ORDER = "Dxx, Dxy, Dxz, Dyy, Dyz, Dzz"
INTERPOLATIONS = ("components", "log")


def write_tensor(
    tensors: np.ndarray,
    mask: np.ndarray,
    affine: np.ndarray,
    folder: Path,
    *,
    template: bool,
    maps: tuple[str, ...] = ("md", "fa"),
) -> tuple[dict[str, str], float]:
    """Write a tensor image (``diffusivity``) and maps of it.

    Parameters
    ----------
    tensors : (x, y, z, 6) array
        mm^2/s along world axes. Stored as they are; maps see eigenvalues of at least `FLOOR`.
    mask : (x, y, z) bool array
        Outside, everything is 0.
    template : bool
        Whether the coordinates are those of the template.

    Returns
    -------
    paths : dict
        Of each file, by name.
    raised : float
        Share of the brain's voxels with an eigenvalue below `FLOOR`.
    """
    inside = torch.as_tensor(tensors[mask], dtype=torch.float64)
    mended, raised = positive(inside, FLOOR)
    found = scalars(eigen(mended)[0])
    volumes = {"diffusivity": np.where(mask[..., None], tensors, 0)}
    for name in maps:
        volumes[name] = np.zeros(mask.shape, np.float32)
        volumes[name][mask] = found[name].numpy()
    paths = {}
    for name, volume in volumes.items():
        paths[name] = str(folder / f"{name}.nii.gz")
        write_nifti(folder / f"{name}.nii.gz", volume, affine, template=template)
    return paths, float(raised.double().mean()) if len(inside) else 0.0


def map_of(volume: np.ndarray, name: str) -> np.ndarray:
    """One of `MAPS` of the tensors (6, x, y, z) that a network sees, in its unit; 0 outside."""
    inside = np.any(volume != 0, axis=0)
    tensors = torch.as_tensor(np.moveaxis(volume, 0, -1)[inside], dtype=torch.float64)
    found = np.zeros(inside.shape, np.float32)
    found[inside] = scalars(eigen(positive(tensors, 0.0)[0])[0])[name].numpy()
    return found


def describe_fit(method: str, raised: float) -> dict[str, Any]:
    """Sidecar of a tensor image, as BIDS wants it (BEP016)."""
    return {
        "Model": {
            "Description": "Diffusion tensor",
            "Parameters": {"FitMethod": method},
        },
        "OrientationEncoding": {
            "Reference": "xyz",
            "EncodingAxis": 3,
            "Type": "tensor",
            "TensorRank": 2,
        },
        "ComponentOrder": f"{ORDER}, along the RAS+ world axes",
        "NegativeEigenvaluesPercent": round(100 * raised, 3),
        "NegativeEigenvalues": f"raised to {FLOOR:g} mm^2/s in scalar maps, kept in the tensor",
    }


def carried(
    tensors: nib.Nifti1Image,
    mask: np.ndarray,
    displacement: np.ndarray,
    affine: np.ndarray,
    *,
    reorientation: str = "ppd",
    interpolation: str = "components",
) -> tuple[np.ndarray, np.ndarray]:
    """Carry a tensor image to a new grid: interpolate once, then turn each tensor.

    Parameters
    ----------
    tensors : Nifti1Image
        (x, y, z, 6), along world axes.
    mask : (x, y, z) bool array
        Its brain; voxels beyond it are not mixed in.
    displacement : (X, Y, Z, 3) array
        For each point of the new grid, where in mm of RAS+ it comes from, as a difference.
    affine : (4, 4) array
        Of the new grid.
    reorientation : str
        One of `models.reorientation.REORIENTATIONS`.
    interpolation : {"components", "log"}
        Whether components or their matrix logarithms (Arsigny et al. 2006) are mixed.

    Returns
    -------
    moved : (X, Y, Z, 6) float32 array
        0 where less than half of what was mixed is brain.
    covered : (X, Y, Z) bool array
        Where it is not.
    """
    stored = np.asarray(tensors.dataobj, np.float32)
    given = np.zeros_like(stored)
    given[mask] = _before(stored[mask], interpolation)
    grid = displacement.shape[:3]
    where = nib.affines.apply_affine(affine, np.moveaxis(np.indices(grid), 0, -1)) + displacement
    voxels = np.moveaxis(nib.affines.apply_affine(np.linalg.inv(tensors.affine), where), -1, 0)
    weight = map_coordinates(mask.astype(np.float32), voxels, order=1, mode="constant")
    covered = weight >= 0.5
    at = voxels[:, covered]
    mixed = np.stack(
        [
            map_coordinates(given[..., k], at, order=1, mode="constant") / weight[covered]
            for k in range(6)
        ],
        axis=-1,
    )
    forward = np.linalg.inv(_regular(derivative(displacement, affine)[covered]))
    moved = np.zeros((*grid, 6), np.float32)
    moved[covered] = _turned(mixed, forward, reorientation, interpolation)
    return moved, covered


def _before(tensors: np.ndarray, interpolation: str) -> np.ndarray:
    if interpolation == "components":
        return tensors
    mended, _ = positive(torch.as_tensor(tensors, dtype=torch.float64), FLOOR)
    return logarithm(mended).numpy()


def _regular(pullback: np.ndarray) -> np.ndarray:
    """Derivatives that can be inverted: where a mapping collapses, nothing is turned."""
    flat = np.abs(np.linalg.det(pullback)) < 1e-3
    pullback[flat] = np.eye(3)
    return pullback


def _turned(
    mixed: np.ndarray, forward: np.ndarray, reorientation: str, interpolation: str
) -> np.ndarray:
    turn = REORIENTATIONS[reorientation]
    done = []
    for first in range(0, len(mixed), CHUNK):
        rows = slice(first, first + CHUNK)
        tensors = torch.as_tensor(mixed[rows], dtype=torch.float64)
        if interpolation == "log":
            tensors = exponential(tensors)
        done.append(turn(tensors, torch.as_tensor(forward[rows], dtype=torch.float64)).numpy())
    return np.concatenate(done) if done else np.zeros((0, 6))
