"""Random changes of training images, batched on the device.

What happens to an image is drawn on the CPU, so that a seed means the same on every device; what
is drawn for a batch can be applied to parts of it, wherever they are computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import radians

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from models.errors import InputError
from models.tensor import COMPONENTS, NEGATED, components, matrices

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
CLASSES = ("both", "negative", "positive")


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image, in this order.

    Parameters
    ----------
    gamma : float
        The brain's voxels, scaled to [0, 1] by its range, are raised to a power that is drawn
        log-uniformly from 1 / (1 + gamma) to 1 + gamma.
    noise_sd : float
        Standard deviation of Gaussian noise on the brain's voxels, in units of the scaled image.
    flip_probability : float
        Chance of mirroring left and right (x axis of the RAS+ grid).
    flip_classes : {"both", "negative", "positive"}
        Whose images are mirrored. Estudillo-Romero 2022 mirrored controls only, since patients
        are turned to the same side.
    flip_negates : tuple of int
        Channels whose sign turns in a mirror.
    tensors : bool
        Whether channels are the six components of a diffusion tensor (`models.tensor`), which
        turns with the image, and whose Dxy and Dxz change their sign in a mirror.
    rotation_degrees : float
        Largest angle of a turn about the middle of the grid, drawn uniformly, trilinear.
    rotation_axes : tuple of str
        Planes that are turned: ``axial`` about z. Several are turned one after the other.
    shift_voxels : int
        Largest shift in whole voxels, drawn uniformly.
    shift_axes : tuple of str
        Axes shifted, named by the plane they are normal to: ``sagittal`` is x (left-right),
        ``coronal`` y (back-front), ``axial`` z (down-up). Böhle 2019 shifts along "sagittal".

    Zeros move in where an image is turned or shifted. The brain is where a voxel is not 0.
    """

    gamma: float = 0.0
    noise_sd: float = 0.0
    flip_probability: float = 0.0
    flip_classes: str = "both"
    flip_negates: tuple[int, ...] = ()
    tensors: bool = False
    rotation_degrees: float = 0.0
    rotation_axes: tuple[str, ...] = ("axial",)
    shift_voxels: int = 0
    shift_axes: tuple[str, ...] = ("sagittal",)

    def __post_init__(self) -> None:
        where = "[training.protocol.augmentation]"
        if not 0 <= self.flip_probability <= 1:
            raise InputError(f"{where} flip_probability = {self.flip_probability:g}: from 0 to 1")
        for name in ("gamma", "noise_sd", "rotation_degrees", "shift_voxels"):
            if getattr(self, name) < 0:
                raise InputError(f"{where} {name} = {getattr(self, name):g}: must be 0 or more")
        if self.flip_classes not in CLASSES:
            raise InputError(
                f"{where} flip_classes = '{self.flip_classes}' is unknown; choose one of: "
                f"{', '.join(CLASSES)}"
            )
        for axis in (*self.rotation_axes, *self.shift_axes):
            if axis not in AXES:
                raise InputError(f"{where} axis '{axis}' is unknown; choose of: {', '.join(AXES)}")

    def draw(self, labels: Sequence[bool] | np.ndarray, generator: torch.Generator) -> "Draws":
        """Draw what happens to a batch.

        Parameters
        ----------
        labels : (n,) bool
            True for images of the positive class.
        generator : torch.Generator
            On the CPU.
        """
        n = len(labels)
        draws = Draws.nothing(n)
        if self.flip_probability:
            chosen = torch.rand(n, generator=generator) < self.flip_probability
            draws.flipped[:] = chosen & self._may_flip(labels)
        if self.shift_voxels:
            for axis in self.shift_axes:
                draws.steps[:, AXES[axis]] = torch.randint(
                    -self.shift_voxels, self.shift_voxels + 1, (n,), generator=generator
                )
        if self.rotation_degrees:
            for axis in self.rotation_axes:
                turn = 2 * torch.rand(n, generator=generator) - 1
                draws.angles[:, AXES[axis]] = turn * radians(self.rotation_degrees)
        if self.gamma:
            share = 2 * torch.rand(n, generator=generator) - 1
            draws.exponents[:] = (1 + self.gamma) ** share
        if self.noise_sd:
            draws.seeds[:] = torch.randint(2**62, (n,), generator=generator)
        return draws

    def _may_flip(self, labels: Sequence[bool] | np.ndarray) -> torch.Tensor:
        positive = torch.as_tensor(np.asarray(labels, bool))
        everybody = torch.ones_like(positive)
        return {"both": everybody, "positive": positive, "negative": ~positive}[self.flip_classes]

    def apply(self, images: torch.Tensor, draws: "Draws") -> torch.Tensor:
        """Change a batch (N, C, x, y, z) on its device; the images given are left as they are.

        Raises
        ------
        models.errors.InputError
            Tensors were promised, and there are not six channels.
        """
        if self.tensors and images.shape[1] != len(COMPONENTS):
            raise InputError(
                "[training.protocol.augmentation] tensors = true: is for diffusion tensors with "
                f"six channels, not for images with {images.shape[1]}"
            )
        if self.gamma:
            images = _bend(images, draws.exponents)
        if self.noise_sd:
            images = images + self.noise_sd * _noise(images, draws.seeds) * (images != 0)
        if self.flip_probability:
            negated = NEGATED if self.tensors else self.flip_negates
            images = _flip(images, draws.flipped, negated)
        if self.rotation_degrees:
            images = _rotate(images, draws.angles)
            if self.tensors:
                images = _turned_tensors(images, draws.angles)
        if self.shift_voxels:
            for axis in self.shift_axes:
                images = _shift(images, draws.steps[:, AXES[axis]], 2 + AXES[axis])
        return images


def check_flips(network: nn.Module, augmentation: Augmentation) -> None:
    """Refuse mirrored images where a network has filters of its own for each place.

    Such a filter learns one side of the brain; in a mirrored image it meets the other (Eitel 2021
    flipped images for the networks without such filters only).

    Raises
    ------
    models.errors.InputError
        It has, and images are mirrored.
    """
    if augmentation.flip_probability and any(
        getattr(module, "knows_sides", False) for module in network.modules()
    ):
        raise InputError(
            f"[training.protocol.augmentation] flip_probability = "
            f"{augmentation.flip_probability:g}: the network has patch-individual filters, each of "
            "which learns one side of the brain, so images must not be mirrored: set it to 0 (to "
            "compare with a network that may mirror, use --compare config=a.toml,b.toml)"
        )


@dataclass(frozen=True)
class Draws:
    """What was drawn for n images, on the CPU.

    Attributes
    ----------
    flipped : (n,) bool tensor
    steps : (n, 3) int64 tensor
        Voxels along x, y and z.
    angles : (n, 3) tensor
        Radians about x, y and z, in this order, counter-clockwise seen from the axis' end.
    exponents : (n,) tensor
    seeds : (n,) int64 tensor
        Of each image's noise.
    """

    flipped: torch.Tensor
    steps: torch.Tensor
    angles: torch.Tensor
    exponents: torch.Tensor
    seeds: torch.Tensor

    @classmethod
    def nothing(cls, n: int) -> "Draws":
        """Nothing happens to n images."""
        return cls(
            torch.zeros(n, dtype=torch.bool),
            torch.zeros(n, 3, dtype=torch.int64),
            torch.zeros(n, 3),
            torch.ones(n),
            torch.zeros(n, dtype=torch.int64),
        )

    def __getitem__(self, rows: Sequence[int]) -> "Draws":
        return Draws(*(getattr(self, one.name)[list(rows)] for one in fields(self)))


def _each(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """A value per image (n,), shaped to meet its voxels on its device."""
    return values.to(images.device).reshape(-1, *[1] * (images.dim() - 1))


def _bend(images: torch.Tensor, exponents: torch.Tensor) -> torch.Tensor:
    """Raise the brain's voxels to a power between its least and greatest value."""
    brain, axes = images != 0, tuple(range(1, images.dim()))
    low = images.masked_fill(~brain, torch.inf).amin(axes, keepdim=True)
    width = images.masked_fill(~brain, -torch.inf).amax(axes, keepdim=True) - low
    share = ((images - low) / width.clamp_min(torch.finfo(images.dtype).tiny)).clamp(0, 1)
    return torch.where(brain, low + width * share ** _each(exponents, images), images)


def _noise(images: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    """Standard normal noise; each image's from its own seed, so that batches may be divided."""
    noise = torch.empty(images.shape, dtype=images.dtype)
    for one, seed in zip(noise, seeds.tolist(), strict=True):
        one.normal_(generator=torch.Generator().manual_seed(seed))
    return noise.to(images.device)


def _flip(images: torch.Tensor, flipped: torch.Tensor, negated: Sequence[int]) -> torch.Tensor:
    mirrored = images.flip(2)
    if negated:
        mirrored[:, list(negated)] *= -1
    return torch.where(_each(flipped, images), mirrored, images)


def _rotate(images: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Turn about the middle of the grid, in voxels, which are cubes; zeros move in."""
    half = torch.tensor([max(size - 1, 1) / 2 for size in images.shape[2:]])
    back = _turns(angles.float()).mT  # from a voxel of the result to where it came from
    scaled = back * half / half[:, None]  # in units of half the grid, as grid_sample counts
    # grid_sample names the last axis first.
    affine = torch.cat([scaled.flip(1, 2), torch.zeros(len(angles), 3, 1)], 2)
    grid = F.affine_grid(affine.to(images.device), list(images.shape), align_corners=True)
    return F.grid_sample(images, grid.to(images.dtype), padding_mode="zeros", align_corners=True)


def _turned_tensors(images: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Each image's tensors, turned like the image itself: R D R^T; channels first."""
    turn = _turns(angles.float()).to(images.device, images.dtype)
    tensors = matrices(images.movedim(1, -1))  # (N, x, y, z, 3, 3)
    turn = turn[:, None, None, None]
    return components(turn @ tensors @ turn.mT).movedim(-1, 1)


def _turns(angles: torch.Tensor) -> torch.Tensor:
    """Rotation matrices (n, 3, 3) of angles (n, 3): about x, then y, then z."""
    cos, sin = angles.cos(), angles.sin()
    turns = torch.eye(3).repeat(len(angles), 1, 1)
    for axis, (one, other) in enumerate(((1, 2), (2, 0), (0, 1))):
        turn = torch.eye(3).repeat(len(angles), 1, 1)
        turn[:, one, one] = turn[:, other, other] = cos[:, axis]
        turn[:, other, one], turn[:, one, other] = sin[:, axis], -sin[:, axis]
        turns = turn @ turns
    return turns


def _shift(images: torch.Tensor, steps: torch.Tensor, dim: int) -> torch.Tensor:
    """Move each image by its own whole voxels along ``dim``; what leaves is lost, zeros come in."""
    size = images.shape[dim]
    source = torch.arange(size) - steps[:, None]  # (n, size)
    inside = ((source >= 0) & (source < size)).to(images.device)
    rows = torch.arange(len(images), device=images.device)[:, None]
    moved = images.movedim(dim, 1)[rows, source.clamp(0, size - 1).to(images.device)]
    shape = [len(images), size, *[1] * (images.dim() - 2)]
    return moved.masked_fill_(~inside.reshape(shape), 0).movedim(1, dim)
