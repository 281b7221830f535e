"""Windows that slide over an image, and maps made of one number per window."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from math import prod

import numpy as np
import torch

from models.errors import InputError


@dataclass(frozen=True)
class Windows:
    """Boxes on a regular lattice; those at the end of an axis are cut off by the image.

    Attributes
    ----------
    shape, patch, stride : tuple of int
        Image, box and step in voxels.
    """

    shape: tuple[int, ...]
    patch: tuple[int, ...]
    stride: tuple[int, ...]

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Windows along each axis: as many as it takes to reach the end."""
        return tuple(
            -(-(size - patch) // stride) + 1
            for size, patch, stride in zip(self.shape, self.patch, self.stride, strict=True)
        )

    @cached_property
    def low(self) -> np.ndarray:
        """(windows, axes) first voxel of each; the last axis runs fastest."""
        places = np.indices(self.counts).reshape(len(self.counts), -1).T
        return places * np.array(self.stride)

    @cached_property
    def high(self) -> np.ndarray:
        """(windows, axes) voxel after the last of each."""
        return np.minimum(self.low + np.array(self.patch), np.array(self.shape))

    def __len__(self) -> int:
        return prod(self.counts)

    def mean(self, values: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Mean over the windows that cover each voxel.

        Parameters
        ----------
        values : numpy.ndarray
            (windows,).
        known : numpy.ndarray
            (windows,) which of them count; every voxel lies in at least one of these.

        Returns
        -------
        numpy.ndarray
            Image of ``shape``.
        """
        total = self._spread(np.where(known, values, 0.0))
        return total / self._spread(known.astype(float))

    def _spread(self, values: np.ndarray) -> np.ndarray:
        """Sum over the windows that cover each voxel: one small matrix per axis."""
        image = values.reshape(self.counts)
        for axis, (size, patch, stride) in enumerate(
            zip(self.shape, self.patch, self.stride, strict=True)
        ):
            behind = np.arange(size)[:, None] - stride * np.arange(self.counts[axis])
            covers = ((behind >= 0) & (behind < patch)).astype(float)
            image = np.moveaxis(np.tensordot(covers, image, (1, axis)), 0, axis)
        return image

    def coarse(self) -> np.ndarray:
        """(windows,) those of the widest lattice that still covers every voxel."""
        kept = []
        for patch, stride, count in zip(self.patch, self.stride, self.counts, strict=True):
            place = np.arange(count)
            kept.append((place % max(1, patch // stride) == 0) | (place == count - 1))
        return reduce(np.logical_and.outer, kept).ravel()

    def touching(self, image: np.ndarray) -> np.ndarray:
        """(windows,) whether any voxel of a boolean image lies inside."""
        return counts_inside(torch.from_numpy(image), self.low, self.high) > 0


def windows(
    shape: Sequence[int],
    patch_mm: float | Sequence[float],
    stride_mm: float | Sequence[float],
    voxel_mm: float | Sequence[float],
) -> Windows:
    """Windows over a whole image.

    Parameters
    ----------
    shape : sequence of int
        Image in voxels.
    patch_mm, stride_mm : float or sequence of float
        Edge and step in mm, one for all axes or one per axis; rounded to voxels, at least one. A
        patch larger than the image becomes the image.
    voxel_mm : float or sequence of float
        Edges of a voxel in mm.

    Raises
    ------
    models.errors.InputError
        A length is not positive, there are not as many as axes, or the steps leave gaps.
    """
    edges = _lengths("voxel_mm", voxel_mm, len(shape))
    patch, stride = (
        np.maximum(np.rint(_lengths(name, value, len(shape)) / edges), 1).astype(int)
        for name, value in (("patch_mm", patch_mm), ("stride_mm", stride_mm))
    )
    patch = np.minimum(patch, shape)
    if ((stride > patch) & (patch < shape)).any():
        raise InputError(
            f"a stride of {_by(stride)} voxels leaves gaps between patches of {_by(patch)} voxels: "
            "choose stride_mm not above patch_mm"
        )
    return Windows(tuple(shape), tuple(patch.tolist()), tuple(stride.tolist()))


def _lengths(name: str, value: float | Sequence[float], axes: int) -> np.ndarray:
    lengths = np.atleast_1d(np.asarray(value, float))
    if lengths.shape not in ((1,), (axes,)) or not (lengths > 0).all():
        raise InputError(f"{name} is {value}: give one positive length or one for each axis")
    return np.broadcast_to(lengths, (axes,))


def _by(voxels: np.ndarray) -> str:
    return "x".join(map(str, voxels.tolist()))


def counts_inside(image: torch.Tensor, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Voxels of a boolean image in boxes (boxes, axes), by sums from the origin to each corner."""
    sums = image.long()
    for axis in range(image.dim()):
        sums = sums.cumsum(axis)
    sums = torch.nn.functional.pad(sums, (1, 0) * image.dim())
    total = np.zeros(len(low), np.int64)
    for corner in np.ndindex(*(2,) * image.dim()):
        place = torch.from_numpy(np.where(corner, high, low)).to(image.device)
        sign = (-1) ** (image.dim() - sum(corner))
        total += sign * sums[place.unbind(1)].cpu().numpy()
    return total
