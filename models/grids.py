"""Voxel grids in template space (methods.md names them; RAS+, millimetres)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.errors import InputError


@dataclass(frozen=True)
class Grid:
    """A regular, axis-aligned RAS+ grid.

    Parameters
    ----------
    name : str
        Alphanumeric label, written as the BIDS entity ``res-<name>``.
    shape : tuple of int
        Voxels along right, anterior, superior.
    voxel_mm : float
        Edge of the cubic voxel in mm.
    origin_mm : tuple of float
        World position (RAS+, mm) of the centre of voxel (0, 0, 0).
    """

    name: str
    shape: tuple[int, int, int]
    voxel_mm: float
    origin_mm: tuple[float, float, float]

    @property
    def affine(self) -> np.ndarray:
        """Voxel to world matrix, (4, 4), RAS+ in mm."""
        affine = np.diag([self.voxel_mm, self.voxel_mm, self.voxel_mm, 1.0])
        affine[:3, 3] = self.origin_mm
        return affine

    def cropped(self, box: Sequence[Sequence[int]]) -> "Grid":
        """Part of the grid, by its first voxel and the one after its last along each axis."""
        if not len(box):
            return self
        if len(box) != 3 or not all(
            0 <= low < high <= size for (low, high), size in zip(box, self.shape, strict=True)
        ):
            raise InputError(
                f"crop {[list(one) for one in box]}: give [first, stop] of three axes within "
                f"{'x'.join(map(str, self.shape))} voxels of the grid '{self.name}'"
            )
        shape = tuple(high - low for low, high in box)
        origin = tuple(
            start + self.voxel_mm * low for start, (low, _) in zip(self.origin_mm, box, strict=True)
        )
        if shape == self.shape:
            return self
        return Grid(
            f"{self.name}crop",
            (shape[0], shape[1], shape[2]),
            self.voxel_mm,
            (origin[0], origin[1], origin[2]),
        )

    @property
    def description(self) -> str:
        """The sentence that BIDS wants in the sidecar's ``Resolution``."""
        size = "x".join(map(str, self.shape))
        return f"{self.voxel_mm:g} mm isotropic, {size} voxels, first voxel at {self.origin_mm} mm"


MNI_ORIGIN_MM = (-96.0, -132.0, -78.0)

# 1mm: Böhle 2019, Eitel & Ritter 2019, Rieke 2018. 2mm: Eitel 2019, 2021. crop1mm: Klingenberg
# 2021 and the UK Biobank study of Eitel 2021. crop1p5mm: the diffusion maps of the anomaly
# detection of Muñoz-Ramírez et al. crop2mm: the tensors of Estudillo-Romero 2022, with axes that
# halve four times; mirror2mm: the same half a voxel to the right, alike to left and right, since
# that study mirrors patients. 3mm to 5mm: small enough to learn from in a demo.
# spect: Nazari 2021, alike to left and right so that mirroring is exact; spect4mm: of its demo.
GRIDS = {
    grid.name: grid
    for grid in (
        Grid("1mm", (193, 229, 193), 1.0, MNI_ORIGIN_MM),
        Grid("crop1mm", (182, 218, 182), 1.0, (-90.0, -126.0, -72.0)),
        Grid("crop1p5mm", (121, 145, 121), 1.5, (-90.0, -126.0, -72.0)),
        Grid("2mm", (96, 114, 96), 2.0, MNI_ORIGIN_MM),
        Grid("crop2mm", (96, 112, 96), 2.0, (-96.0, -130.0, -78.0)),
        Grid("mirror2mm", (96, 112, 96), 2.0, (-95.0, -130.0, -78.0)),
        Grid("3mm", (64, 76, 64), 3.0, MNI_ORIGIN_MM),
        Grid("4mm", (49, 58, 49), 4.0, MNI_ORIGIN_MM),
        Grid("5mm", (39, 46, 39), 5.0, MNI_ORIGIN_MM),
        Grid("spect", (71, 90, 72), 2.0, (-70.0, -106.0, -62.0)),
        Grid("spect4mm", (35, 45, 36), 4.0, (-68.0, -104.0, -62.0)),
    )
}


def full_grid(voxel_mm: float) -> Grid:
    """Grid that covers the whole 2009c template at ``voxel_mm``.

    Participants are stored on it; a recipe's own grid is resampled from it at group level.
    """
    for grid in GRIDS.values():
        if grid.voxel_mm == voxel_mm and grid.origin_mm == MNI_ORIGIN_MM:
            return grid
    shape = tuple(int(np.floor((n - 1) / voxel_mm)) + 1 for n in GRIDS["1mm"].shape)
    name = f"{voxel_mm:g}mm".replace(".", "p")
    return Grid(name, (shape[0], shape[1], shape[2]), voxel_mm, MNI_ORIGIN_MM)
