"""What of a registered image a network sees: one affected side for everybody, parts blanked."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.errors import InputError
from models.grids import Grid
from models.regions import region_mask
from pipelines.atlases import atlas, on_grid
from pipelines.derivatives import read_table, text

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
class Sides:
    """By which column of participants.tsv images are mirrored; nobody's side is guessed.

    Parameters
    ----------
    column : str
        Such as the side of onset; "" where the modality itself tells the affected side.
    mirrored, kept : str
        Value of people whose images are mirrored, and of those whose are not. People without a
        value, as controls are, are not mirrored.
    """

    column: str = ""
    mirrored: str = ""
    kept: str = ""

    def __post_init__(self) -> None:
        if self.column and not (self.mirrored and self.kept and self.mirrored != self.kept):
            raise InputError(
                f"[preprocessing.sides] column = '{self.column}': say by 'mirrored' and 'kept' "
                "which of its values is mirrored and which is not"
            )

    def is_mirrored(self, path: str | Path) -> bool:
        """Whether this person's images are, by the table of the output folder."""
        table, who = _beside(Path(path)), _participant(path)
        value = self.values(table).get(who, "")
        if value not in (self.mirrored, self.kept, ""):
            raise InputError(
                f"{table}: {self.column} of {who} is '{value}', neither '{self.mirrored}' nor "
                f"'{self.kept}': write one of them, or n/a for people without a side"
            )
        return value == self.mirrored

    def values(self, table: Path) -> dict[str, str]:
        """Participant to value, "" for n/a.

        Raises
        ------
        models.errors.InputError
            There is no such column.
        """
        if not self.column:
            return {}
        return _column(table, table.stat().st_mtime_ns if table.exists() else 0, self.column)

    def check(self, table: Path, patients: Iterable[str]) -> None:
        """Raise InputError unless the side of every patient is known."""
        values = self.values(table)
        odd = [who for who in patients if values.get(who) not in (self.mirrored, self.kept)]
        if self.column and odd:
            some = ", ".join(odd[:5]) + (", ..." if len(odd) > 5 else "")
            raise InputError(
                f"{table}: {self.column} of {some} is neither '{self.mirrored}' nor '{self.kept}': "
                "a patient's side is not guessed; fill it in, or leave them out by [cohort.exclude]"
            )


def _beside(path: Path) -> Path:
    """The participants.tsv of the dataset that a participant's file is in."""
    folders = [one for one in path.parents if one.name.startswith("sub-")]
    return (folders[-1] if folders else path).parent / "participants.tsv"


def _participant(path: str | Path) -> str:
    return Path(path).name.split("_")[0]


@cache
def _column(table: Path, changed: int, column: str) -> dict[str, str]:
    if not table.exists():
        raise InputError(f"{table}: missing; sides are read from its column '{column}'")
    read = read_table(table)
    if column not in read:
        known = ", ".join(str(one) for one in read.columns)
        raise InputError(f"{table}: has no column '{column}' with people's sides; it has: {known}")
    ids = "sub-" + read["participant_id"].astype(str).str.strip().str.removeprefix("sub-")
    return dict(zip(ids, read[column].map(text), strict=True))


@dataclass(frozen=True)
class View:
    """How a registered image becomes the network's input, beyond grid and intensity.

    Parameters
    ----------
    mask : Mask
    mirror : bool
        Whether left and right are exchanged where the modality says so, so that the affected side
        is left in everybody; the mask then covers both sides alike.
    sides : Sides
        Who is mirrored, where a column tells it and not the modality.
    """

    mask: Mask = field(default_factory=Mask)
    mirror: bool = False
    sides: Sides = field(default_factory=Sides)

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "View":
        """From the plain values of `asdict`; of older model cards, nothing."""
        mask = dict(entry.get("mask", {}))
        mask["regions"] = tuple(mask.get("regions", ()))
        return cls(Mask(**mask), entry.get("mirror", False), Sides(**entry.get("sides", {})))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for nodes and model cards."""
        return asdict(self)

    def check(self, kind: "Modality", grid: Grid) -> None:
        """Raise InputError for what cannot be done with this modality on this grid."""
        self.mask.voxels(grid)
        if self.mirror and kind.to_be_mirrored is None and not self.sides.column:
            raise InputError(
                f"[preprocessing] mirror: {kind.suffix} images do not tell which side is affected; "
                "name a column of participants.tsv that does by [preprocessing.sides]"
            )
        if self.sides.column and not self.mirror:
            raise InputError("[preprocessing.sides]: needs [preprocessing] mirror = true")
        middle = grid.origin_mm[0] + grid.voxel_mm * (grid.shape[0] - 1) / 2
        if self.mirror and abs(middle) > 1e-6:
            raise InputError(
                f"[preprocessing] mirror: the grid '{grid.name}' reaches farther on one side (its "
                f"middle is at x = {middle:g} mm): choose grid and crop alike to left and right"
            )

    def is_mirrored(self, kind: "Modality", path: str | Path) -> bool:
        """Whether the network sees this registered image with left and right exchanged."""
        if self.mirror and self.sides.column:
            return self.sides.is_mirrored(path)
        return self.mirror and kind.to_be_mirrored is not None and kind.to_be_mirrored(path)

    def read(self, kind: "Modality", path: str | Path, grid: Grid, intensity: str) -> np.ndarray:
        """The network's input, (channels, x, y, z) float32 on ``grid``."""
        # Blanked before it is scaled: the scale would tell the network what it may not see.
        blanked = self.mask.voxels(grid, symmetric=self.mirror)
        volume = kind.volume(path, grid, intensity, blanked)
        if self.is_mirrored(kind, path):
            volume = volume[:, ::-1].copy()
            volume[list(kind.negated)] *= -1
        return volume
