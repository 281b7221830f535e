"""Diffusion-weighted scans with known truth: the heads of `models.phantom` with fibres in them.

The fibres are invented, not traced: across the midline they run from side to side, in two columns
beside it up and down, elsewhere back and front, with smooth passages in between. Tensors are in
the template's space and are turned along when a head is warped.

Diffusivities: mm^2/s, of tissue at body temperature.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from models.gradient_table import GradientTable
from models.phantom import (
    SCANNER_MM,
    Canvas,
    HeadModel,
    Scanner,
    displacement,
    head_shape,
    move,
    pose,
    sample,
    smooth_field,
    stored,
    stream,
)
from models.reorientation import preserve_principal_direction

# T1w signal of the head model at each tissue, and what is there: mean diffusivity and b0 signal.
TISSUE_SIGNAL = (0.0, 12.0, 30.0, 45.0, 62.0, 84.0, 100.0)
TISSUE_MD = (0.7e-3, 0.7e-3, 3.0e-3, 2.2e-3, 0.85e-3, 0.75e-3, 0.75e-3)
TISSUE_B0 = (0.0, 10.0, 400.0, 320.0, 180.0, 130.0, 130.0)
# Shares of white matter; its anisotropy: axial and radial diffusivity over the mean.
WHITE_SIGNAL, WHITE_SHARE = (70.0, 88.0), (0.0, 1.0)
AXIAL, RADIAL = 1.9, 0.55
FAT_B0 = 15.0  # scalp, after fat suppression
GAIN = 3.0


@dataclass(frozen=True)
class Change:
    """What of white matter is altered within a share of each voxel.

    Parameters
    ----------
    where : (x, y, z) array
        On the head model's canvas, 0 to 1.
    md, fa : float
        Relative change of mean diffusivity, and of the deviation from it; .1 is +10 %.
    """

    where: np.ndarray
    md: float = 0.0
    fa: float = 0.0


@dataclass(frozen=True)
class DiffusionScan:
    """One simulated acquisition.

    Attributes
    ----------
    image : Nifti1Image
        int16 series.
    table : GradientTable
        World directions as the scanner had them.
    brain : Nifti1Image
        uint8.
    tensor : (x, y, z, 6) array
        Of the head in the position of the first volume, RAS+ voxels, mm^2/s.
    rotations : (n, 3, 3) array
        Of the head in each volume, about the world's axes.
    """

    image: nib.Nifti1Image
    table: GradientTable
    brain: nib.Nifti1Image
    tensor: np.ndarray
    rotations: np.ndarray


def directions(count: int, seed: int = 0) -> np.ndarray:
    """Unit vectors (count, 3) that repel each other and their opposites (Jones et al. 1999)."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((count, 3))
    for _ in range(300):
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        both = np.concatenate([points, -points])
        apart = points[:, None] - both[None]
        far = np.linalg.norm(apart, axis=-1)
        far[far < 1e-9] = np.inf
        points = points + 0.05 * (apart / far[..., None] ** 3).sum(1) / count
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def table_of(count: int, b_value: float, b0s: int = 1) -> GradientTable:
    """b0s, then one shell."""
    values = np.array([0.0] * b0s + [b_value] * count)
    return GradientTable(values, np.concatenate([np.zeros((b0s, 3)), directions(count)]))


def tensors_of(model: HeadModel, changes: Sequence[Change] = ()) -> np.ndarray:
    """Tensors (6, x, y, z) on the head model's canvas."""
    white = np.interp(model.signal, WHITE_SIGNAL, WHITE_SHARE) * (model.brain > 0.5)
    mean = np.interp(model.signal, TISSUE_SIGNAL, TISSUE_MD)
    deviation = white * mean
    for change in changes:
        mean = mean * (1 + change.md * change.where * white)
        deviation = deviation * (1 + change.fa * change.where)
    fibre = fibres(model.canvas)
    identity, dyad = np.eye(3), fibre[:, None] * fibre[None]
    rows, columns = np.triu_indices(3)
    along = (AXIAL - RADIAL) * (dyad - identity[..., None, None, None] / 3)
    full = mean * identity[..., None, None, None] + deviation * along
    return full[rows, columns].astype(np.float32)


def fibres(canvas: Canvas) -> np.ndarray:
    """Unit vectors (3, x, y, z) along the invented fibres; left mirrors right."""
    x, y, z = canvas.points_mm()
    side = np.where(x < 0, -1.0, 1.0)
    across = np.exp(-((x / 16) ** 2)) * (z > -12)
    upward = np.exp(-(((np.abs(x) - 24) / 9) ** 2) - ((y + 18) / 20) ** 2)
    # Callosal fibres fan upwards beside the midline, so that directions change smoothly.
    fan = np.exp(-(((np.abs(x) - 16) / 10) ** 2))
    rest = 1 - 0.95 * across
    found = np.stack([side * (across + 0.4 * fan), 0.35 * rest, 1.6 * upward + 0.3 * fan * rest])
    return (found / np.linalg.norm(found, axis=0)).astype(np.float32)


def simulate_diffusion(
    model: HeadModel,
    person: np.random.SeedSequence,
    *,
    age: float,
    voxel_mm: float,
    table: GradientTable,
    changes: Sequence[Change] = (),
    session: int = 1,
    scanner: Scanner | None = None,
    axcodes: str = "RAS",
    turn_degrees: float = 0.25,
    shift_mm: float = 0.2,
) -> DiffusionScan:
    """Simulate one series of one person: the anatomy of `models.phantom.simulate`.

    Parameters
    ----------
    model, person, age, voxel_mm, session, scanner, axcodes
        As of `models.phantom.simulate`.
    table : GradientTable
        World directions.
    changes : sequence of Change
        Of this person.
    turn_degrees, shift_mm : float
        SD of the head's motion between volumes, about and along each axis.
    """
    scanner = scanner or Scanner()
    shape, warp, acquisition = (stream(person, *key) for key in ((0,), (1,), (4, session)))
    canvas = Canvas.covering(SCANNER_MM, voxel_mm)
    to_head = head_shape(shape) @ np.linalg.inv(pose(acquisition))
    field = displacement(model, warp, age)
    tissue = tensors_of(model, changes)
    b0_signal = np.interp(model.signal, TISSUE_SIGNAL, TISSUE_B0)
    b0_signal = np.where(model.brain > 0.05, b0_signal, np.minimum(b0_signal, FAT_B0))
    points = move(to_head, canvas.points_mm())
    points += sample(field, model.warp_canvas, points)
    tensors = _turned_along(sample(tissue, model.canvas, points), points, canvas)
    s0 = sample(b0_signal.astype(np.float32), model.canvas, points)
    motion = _motion(acquisition, len(table.b_values), turn_degrees, shift_mm)
    receive = np.exp(smooth_field(acquisition, canvas.axes_mm(), 90.0, 0.3, 0.9)[0])
    # To a head that was turned by R, the scanner's gradients are turned by its inverse.
    weights = table.rotated(np.swapaxes(motion[:, :3, :3], 1, 2)).design()[:, :6]
    volumes = []
    for row, moved in zip(weights.astype(np.float32), motion, strict=True):
        signal = receive * _at(s0 * np.exp(tensors @ row), canvas, moved)
        noise = acquisition.normal(0.0, 100.0 * scanner.noise, (2, *signal.shape))
        volumes.append(GAIN * np.hypot(signal + noise[0], noise[1]))
    series = np.round(np.stack(volumes, -1)).astype(np.int16)
    brain = sample(model.brain, model.canvas, points) >= 0.5
    return DiffusionScan(
        stored(series, canvas.affine, axcodes),
        table,
        stored(brain.astype(np.uint8), canvas.affine, axcodes),
        tensors,
        motion[:, :3, :3],
    )


def _at(volume: np.ndarray, canvas: Canvas, moved: np.ndarray) -> np.ndarray:
    """A volume whose head was moved by a (4, 4) matrix in mm."""
    if np.allclose(moved, np.eye(4)):
        return volume
    back = np.linalg.inv(canvas.affine) @ np.linalg.inv(moved) @ canvas.affine
    return ndimage.affine_transform(volume, back[:3, :3], back[:3, 3], order=3).clip(0)


def _motion(rng: np.random.Generator, count: int, turn: float, shift: float) -> np.ndarray:
    """Where the head is in each volume, (n, 4, 4) in mm; at rest in the first."""
    moved = np.tile(np.eye(4), (count, 1, 1))
    turns, shifts = rng.normal(0, turn, (count, 3)), rng.normal(0, shift, (count, 3))
    turns[0] = shifts[0] = 0
    moved[:, :3, :3] = Rotation.from_rotvec(turns, degrees=True).as_matrix()
    moved[:, :3, 3] = shifts
    return moved


def _turned_along(tensors: np.ndarray, points: np.ndarray, canvas: Canvas) -> np.ndarray:
    """Tensors (6, x, y, z) of the template, turned as the head lies: (x, y, z, 6)."""
    pullback = np.stack(
        [np.stack(np.gradient(row, canvas.voxel_mm), -1) for row in points.astype(float)], -2
    )
    turned = preserve_principal_direction(
        torch.as_tensor(np.moveaxis(tensors, 0, -1), dtype=torch.float32),
        torch.linalg.inv(torch.as_tensor(pullback, dtype=torch.float32)),
    )
    return turned.numpy()
