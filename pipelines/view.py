"""What of a registered image a network sees: one affected side for everybody, parts blanked."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.errors import InputError
from models.grids import Grid
from models.regions import region_mask
from pipelines.atlases import atlas, on_grid

if TYPE_CHECKING:
    from pipelines.preprocess.modality import Modality


@dataclass(frozen=True)
class Mask:
    """Regions that are set to 0 in what the network sees.

    Parameters
    ----------
    regions : tuple of str
        Names of the atlas, with or without their side; none blanks nothing.
    margin_mm : float
        How far beyond them.
    atlas : str
        Name or file.
    """

    regions: tuple[str, ...] = ()
    margin_mm: float = 0.0
    atlas: str = "AAL"

    def voxels(self, grid: Grid, *, symmetric: bool = False) -> np.ndarray:
        """The blanked voxels (x, y, z), bool; ``symmetric`` joins them with their mirror image."""
        inside = _voxels(self, grid)
        return inside | inside[::-1] if symmetric else inside


@cache
def _voxels(mask: Mask, grid: Grid) -> np.ndarray:
    if not mask.regions:
        return np.zeros(grid.shape, bool)
    found = atlas(mask.atlas)
    labels = on_grid(found, grid.affine, grid.shape)
    return region_mask(labels, found.labels, mask.regions, grid.affine, mask.margin_mm)


@dataclass(frozen=True)
class View:
    """How a registered image becomes the network's input, beyond grid and intensity.

    Parameters
    ----------
    mask : Mask
    mirror : bool
        Whether left and right are exchanged where the modality says so, so that the affected side
        is left in everybody; the mask then covers both sides alike.
    """

    mask: Mask = field(default_factory=Mask)
    mirror: bool = False

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "View":
        """From the plain values of `asdict`; of older model cards, nothing."""
        mask = dict(entry.get("mask", {}))
        mask["regions"] = tuple(mask.get("regions", ()))
        return cls(Mask(**mask), entry.get("mirror", False))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for nodes and model cards."""
        return asdict(self)

    def check(self, kind: "Modality", grid: Grid) -> None:
        """Raise InputError for what cannot be done with this modality on this grid."""
        self.mask.voxels(grid)
        if self.mirror and kind.to_be_mirrored is None:
            raise InputError(
                f"[preprocessing] mirror: {kind.suffix} images do not tell which side is affected"
            )
        middle = grid.origin_mm[0] + grid.voxel_mm * (grid.shape[0] - 1) / 2
        if self.mirror and abs(middle) > 1e-6:
            raise InputError(
                f"[preprocessing] mirror: the grid '{grid.name}' reaches farther on one side (its "
                f"middle is at x = {middle:g} mm): choose grid and crop alike to left and right"
            )

    def is_mirrored(self, kind: "Modality", path: str | Path) -> bool:
        """Whether the network sees this registered image with left and right exchanged."""
        return self.mirror and kind.to_be_mirrored is not None and kind.to_be_mirrored(path)

    def read(self, kind: "Modality", path: str | Path, grid: Grid, intensity: str) -> np.ndarray:
        """The network's input, (channels, x, y, z) float32 on ``grid``."""
        volume = kind.volume(path, grid, intensity)
        if self.is_mirrored(kind, path):
            volume = volume[:, ::-1]
        return np.where(self.mask.voxels(grid, symmetric=self.mirror), 0, volume)
