"""Along which axis, and which way, an echo-planar image was encoded; and its opposite."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from pipelines.inputs import metadata_of

AXES = {"i": 0, "j": 1, "k": 2}
# World axis of a letter of ``dir-``, and which way along it the letter lies.
NAMES = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}


@dataclass(frozen=True)
class PhaseEncoding:
    """Phase encoding of one image.

    Attributes
    ----------
    axis : int, optional
        Of the file's voxels; None where nothing tells it.
    sign : int
        1 or -1 along that axis; 0 where nothing tells it.
    readout_s : float, optional
        Total readout time in seconds.
    source : str
        What told it: a field of the sidecar, the file's name, or nothing.
    """

    axis: int | None
    sign: int
    readout_s: float | None
    source: str

    @classmethod
    def of(cls, path: Path, metadata: dict[str, Any], affine: np.ndarray) -> "PhaseEncoding":
        """By the sidecar, else by ``dir-``; failing that, the axis alone by PhaseEncodingAxis."""
        seconds = metadata.get("TotalReadoutTime")
        readout = float(seconds) if isinstance(seconds, int | float) else None
        direction = str(metadata.get("PhaseEncodingDirection") or "")
        if direction[:1] in AXES and direction[1:] in ("", "-"):
            sign = -1 if direction.endswith("-") else 1
            return cls(AXES[direction[0]], sign, readout, "PhaseEncodingDirection")
        axis = AXES.get(str(metadata.get("PhaseEncodingAxis") or "")[:1])
        named = _by_name(path, affine)
        if named is not None and axis in (None, named[0]):
            return cls(*named, readout, "the label dir- of its name")
        return cls(axis, 0, readout, "PhaseEncodingAxis" if axis is not None else "")

    def along_world(self, affine: np.ndarray) -> "PhaseEncoding":
        """The same with axis and sign of the world, RAS+, for images whose axes differ."""
        if self.axis is None:
            return self
        axis, turned = nib.io_orientation(affine)[self.axis]
        return replace(self, axis=int(axis), sign=int(self.sign * turned))

    def is_opposite(self, other: "PhaseEncoding") -> bool:
        """Whether the other image was encoded along the same axis, the other way."""
        return self.axis is not None and self.axis == other.axis and self.sign * other.sign < 0

    def notes(self) -> list[str]:
        """Sentences about what is missing, and what that means."""
        said = []
        if self.axis is None:
            said.append(
                "neither the sidecar (PhaseEncodingDirection) nor a label dir- tells the "
                "phase-encoding axis: eddy currents were corrected by an affine transform along "
                "all axes, and susceptibility distortion by one that may go any way"
            )
        elif self.source != "PhaseEncodingDirection":
            said.append(
                f"the sidecar has no PhaseEncodingDirection: it was taken from {self.source}"
            )
        if self.readout_s is None:
            said.append(
                "the sidecar has no TotalReadoutTime: nothing here needs it, but FSL's topup and "
                "eddy would"
            )
        return said


def _by_name(path: Path, affine: np.ndarray) -> tuple[int, int] | None:
    """Axis and sign by a label such as ``dir-AP``, which starts with where encoding starts."""
    found = re.search(r"_dir-([A-Za-z])([A-Za-z])", path.name)
    if found is None:
        return None
    start, end = (NAMES.get(letter.upper()) for letter in found.groups())
    if start is None or end is None or start[0] != end[0] or start[1] == end[1]:
        return None
    orientation = nib.io_orientation(affine)
    (axis,) = np.flatnonzero(orientation[:, 0] == start[0])
    return int(axis), int(end[1] * orientation[axis, 1])


def phase_encoding_of(path: Path) -> PhaseEncoding:
    """Phase encoding of a raw image; the header alone is read."""
    return PhaseEncoding.of(path, metadata_of(path), nib.Nifti1Image.from_filename(path).affine)


def opposite_of(path: Path) -> Path | None:
    """An image beside a DWI, or in ``fmap``, that was encoded the other way; None without one.

    A field map that says by ``IntendedFor`` which images it is for is taken for these alone.
    """
    own = _in_world(path)
    if own is None:
        return None  # an unreadable image is told of where it is read
    for other in _candidates(path):
        theirs = _in_world(other)
        if theirs is not None and own.is_opposite(theirs) and _is_intended(other, path):
            return other
    return None


def _in_world(path: Path) -> PhaseEncoding | None:
    """Phase encoding along the world's axes; None of an image that cannot be read."""
    try:
        return phase_encoding_of(path).along_world(nib.Nifti1Image.from_filename(path).affine)
    except Exception:  # whatever is wrong with a neighbour, it is not an opposite image
        return None


def _is_intended(other: Path, path: Path) -> bool:
    """Whether an image may serve another: it names that one, or none at all."""
    said = metadata_of(other).get("IntendedFor") or []
    names = [said] if isinstance(said, str) else said
    return not names or any(str(one).rsplit("/", 1)[-1] == path.name for one in names)


def _candidates(path: Path) -> list[Path]:
    """Images that might be the opposite one: first those of the same name but for ``dir-``."""
    beside = [one for one in sorted(path.parent.glob("*_dwi.nii*")) if one != path]
    maps = sorted((path.parent.parent / "fmap").glob("*_epi.nii*"))
    bare = re.sub(r"_dir-[A-Za-z0-9]+", "", path.name)
    return sorted(beside, key=lambda one: re.sub(r"_dir-[A-Za-z0-9]+", "", one.name) != bare) + maps
