"""Whole images through an auto-encoder of patches, without computing anything twice.

The patches around neighbouring voxels share nearly all of their encoder: it runs once over the
image, with the pooling unrolled into dilation, and each patch's code is read off. The decoder
knows the edge of its patch, so that a fully convolutional pass would give other values; it runs in
batches of codes, for the middle voxel reduced to the few products on which that voxel depends.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from models.anomaly.patches import padded

CHUNK = 16_384  # codes that are decoded at once
PATCH_CHUNK = 1024  # patches that are decoded whole at once

_CONV: dict[int, Callable[..., torch.Tensor]] = {2: F.conv2d, 3: F.conv3d}
_POOL: dict[int, Callable[..., torch.Tensor]] = {2: F.max_pool2d, 3: F.max_pool3d}
Convolution = nn.Conv2d | nn.Conv3d
Pooling = nn.MaxPool2d | nn.MaxPool3d
Transposed = nn.ConvTranspose2d | nn.ConvTranspose3d


class PatchReader:
    """Reads images (C, x, y, z) with an encoder and a decoder of patches.

    Parameters
    ----------
    encoder : nn.Sequential
        Convolutions of stride 1 without padding, max pooling and element-wise layers.
    decoder : nn.Sequential
        Transposed convolutions of stride 1, upsampling to the nearest, element-wise layers.
    patch : int
        Edge of a patch in voxels, odd.
    dimensions : {2, 3}
        Axial squares, or cubes.
    """

    def __init__(
        self, encoder: nn.Sequential, decoder: nn.Sequential, patch: int, dimensions: int
    ) -> None:
        self.encoder, self.decoder = encoder, decoder
        self.patch, self.dimensions = patch, dimensions
        self._like = next(encoder.parameters())

    @torch.no_grad()
    def centres(self, volume: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        """At every brain voxel the middle of the reconstruction of the patch around it.

        Parameters
        ----------
        volume : (C, x, y, z) tensor
        brain : (x, y, z) bool tensor

        Returns
        -------
        (C, x, y, z) tensor
            NaN outside the brain. Equal to cutting, encoding and decoding each patch.
        """
        codes = self._codes(volume)
        stages = centre_stages(self.decoder, codes.size, codes.channels, self.patch)
        places = brain.nonzero()
        found = self._like.new_full(volume.shape, torch.nan)
        for part in places.split(CHUNK):
            values = codes.at(part).flatten(1)
            for matrix, bias, activate in stages:
                values = activate(torch.addmm(bias, values, matrix))
            found[:, part[:, 0], part[:, 1], part[:, 2]] = values.T
        return found

    @torch.no_grad()
    def overlap(self, volume: torch.Tensor, brain: torch.Tensor, stride: int) -> torch.Tensor:
        """Whole patches ``stride`` voxels apart, averaged with weights that fade to their edges.

        Parameters
        ----------
        volume : (C, x, y, z) tensor
        brain : (x, y, z) bool tensor
        stride : int
            At most the edge of a patch. The last row of patches ends with the image.

        Returns
        -------
        (C, x, y, z) tensor
            NaN outside the brain; every brain voxel has a value.
        """
        codes, window = self._codes(volume), self._window()
        channels, wide = len(volume), padded(volume, self.patch, self.dimensions).shape[1:]
        strides = torch.empty(wide, device="meta").stride()
        axes = [torch.arange(self.patch, device=volume.device)] * self.dimensions
        steps = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        inner = torch.tensor(strides[: self.dimensions], device=volume.device)
        offsets = (steps @ inner).flatten()
        size = wide[0] * wide[1] * wide[2]
        total = self._like.new_zeros(channels, size)
        weight = self._like.new_zeros(size)
        along = torch.tensor(strides, device=volume.device)
        for part in self.lattice(brain, stride).split(PATCH_CHUNK):
            patches = (self.decoder(codes.at(part)) * window).flatten(2)
            where = ((part @ along)[:, None] + offsets).flatten()
            total.index_add_(1, where, patches.transpose(0, 1).flatten(1))
            weight.index_add_(0, where, window.flatten().repeat(len(part)))
        mean = (total / weight).view(channels, *wide)
        return torch.where(brain, self._unpadded(mean), torch.nan)

    def lattice(self, brain: torch.Tensor, stride: int) -> torch.Tensor:
        """Middles (n, 3) of patches ``stride`` apart, of those that hold any of the brain."""
        half, holds = self.patch // 2, brain[None, None].float()
        size = [self.patch] * self.dimensions + [1] * (3 - self.dimensions)
        margin = [half] * self.dimensions + [0] * (3 - self.dimensions)
        holds = F.max_pool3d(holds, size, stride=1, padding=margin)[0, 0] > 0
        chosen = torch.zeros_like(brain)
        rows = [_every(n, stride) for n in brain.shape[: self.dimensions]]
        rows += [list(range(n)) for n in brain.shape[self.dimensions :]]
        chosen[torch.meshgrid(*[torch.tensor(row) for row in rows], indexing="ij")] = True
        return (chosen & holds).nonzero()

    @torch.no_grad()
    def codes(self, volume: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Codes (n, features) of the patches around voxels ``places`` (n, 3)."""
        codes = self._codes(volume)
        return torch.cat([codes.at(part).flatten(1) for part in places.split(CHUNK)])

    def _codes(self, volume: torch.Tensor) -> "_Codes":
        wide = padded(volume.to(self._like.dtype), self.patch, self.dimensions)
        batch = wide.permute(3, 0, 1, 2) if self.dimensions == 2 else wide[None]
        features, step = dense(self.encoder, batch)
        features = features.permute(1, 2, 3, 0) if self.dimensions == 2 else features[0]
        edge = wide.new_zeros(1, len(volume), *[self.patch] * self.dimensions)
        return _Codes(features, step, self.encoder(edge).shape[-1], self.dimensions)

    def _window(self) -> torch.Tensor:
        """Weights (patch, ...) that fade from the middle to the edges and stay above zero."""
        fade = torch.hann_window(self.patch + 2, periodic=False).to(self._like)[1:-1]
        window = fade
        for _ in range(self.dimensions - 1):
            window = window[..., None] * fade
        return window

    def _unpadded(self, wide: torch.Tensor) -> torch.Tensor:
        half = self.patch // 2
        inner = (slice(half, -half),) * self.dimensions
        return wide[(slice(None), *inner)]


class _Codes:
    """Dense features of an image, from which the code of any patch is read.

    Parameters
    ----------
    features : (F, x', y', z') tensor
        Element 0 of the code of the patch whose corner, in the padded image, has the same number.
    step : int
        Voxels between neighbouring elements of a code.
    size : int
        Elements of a code per axis.
    dimensions : {2, 3}
    """

    def __init__(self, features: torch.Tensor, step: int, size: int, dimensions: int) -> None:
        self.channels, self.size, self.dimensions = len(features), size, dimensions
        self.rows = features.permute(1, 2, 3, 0).reshape(-1, self.channels)
        strides = torch.empty(features.shape[1:], device="meta").stride()
        self.along = torch.tensor(strides, device=features.device)
        axes = [step * torch.arange(size, device=features.device)] * dimensions
        steps = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        self.offsets = (steps @ self.along[:dimensions]).flatten()

    def at(self, places: torch.Tensor) -> torch.Tensor:
        """Codes (n, F, size, ...) of the patches around voxels ``places`` (n, 3)."""
        found = self.rows[(places @ self.along)[:, None] + self.offsets]
        return found.transpose(1, 2).reshape(-1, self.channels, *[self.size] * self.dimensions)


def dense(encoder: nn.Sequential, batch: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Run an encoder of patches over images, so that no place is skipped.

    Max pooling moves on by one voxel instead of its width, and what follows it is dilated by that
    width: feature i belongs to the patch that begins at i.

    Parameters
    ----------
    encoder : nn.Sequential
    batch : (N, C, ...) tensor

    Returns
    -------
    features : (N, F, ...) tensor
    step : int
        Voxels between neighbouring elements of one patch's code.
    """
    step = 1
    for layer in encoder:
        if isinstance(layer, Convolution):
            _plain(layer.stride, layer.padding, layer.dilation)
            run = _CONV[batch.ndim - 2]
            batch = run(batch, layer.weight, layer.bias, dilation=step)
        elif isinstance(layer, Pooling):
            width = int(layer.kernel_size)  # type: ignore[arg-type]
            if layer.stride != width or layer.padding:
                raise ValueError("pooling must have its width as stride, and no padding")
            batch = _POOL[batch.ndim - 2](batch, width, stride=1, dilation=step)
            step *= width
        else:
            batch = layer(batch)
    return batch, step


def _plain(strides: Sequence[int], padding: Sequence[int] | str, dilation: Sequence[int]) -> None:
    if {*strides, *dilation} != {1} or {*padding} != {0}:
        raise ValueError("convolutions must have stride 1, no dilation and no padding")


Stage = tuple[torch.Tensor, torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]


def centre_stages(decoder: nn.Sequential, size: int, channels: int, patch: int) -> list[Stage]:
    """Reduce a decoder to what its middle voxel depends on: affine maps between activations.

    Parameters
    ----------
    decoder : nn.Sequential
        Transposed convolutions of stride 1, upsampling to the nearest, element-wise layers.
    size, channels : int
        Elements per axis and channels of a code.
    patch : int
        Voxels per axis of the reconstruction.

    Returns
    -------
    list of (matrix, bias, activation)
        ``activation(values @ matrix + bias)`` in turn takes flat codes (n, channels * size^d) to
        the channels of the middle voxel.
    """
    sizes = [size]
    for layer in decoder:
        sizes.append(_size_after(layer, sizes[-1]))
    if sizes[-1] != patch:
        raise ValueError(f"the decoder makes patches of {sizes[-1]} voxels, not of {patch}")
    needed = [(patch // 2, patch // 2 + 1)]
    for layer, before in zip(reversed(decoder), reversed(sizes[:-1]), strict=True):
        needed.append(_needed_before(layer, needed[-1], before))
    needed.reverse()
    # All of the code goes in, also where its middle would do.
    needed[0] = (0, size)
    stages: list[Stage] = []
    affine: tuple[torch.Tensor, torch.Tensor] | None = None
    like = next(layer.weight for layer in decoder if isinstance(layer, Transposed))
    for layer, (inward, outward) in zip(decoder, pairwise(needed), strict=True):
        if isinstance(layer, Transposed | nn.Upsample):
            basis = _basis(channels, inward[1] - inward[0], like)
            one, offset = _as_matrix(layer, basis, inward, outward)
            affine = (affine[0] @ one, affine[1] @ one + offset) if affine else (one, offset)
            channels = getattr(layer, "out_channels", channels)
        elif affine is None:
            raise ValueError(f"nothing affine before {layer}")
        else:
            stages.append((*affine, layer))
            affine = None
    if affine is not None:
        stages.append((*affine, nn.Identity()))
    return stages


def _size_after(layer: nn.Module, size: int) -> int:
    if isinstance(layer, Transposed):
        _plain(layer.stride, layer.padding, layer.dilation)
        return size + layer.kernel_size[0] - 1
    if isinstance(layer, nn.Upsample):
        return size * int(layer.scale_factor)  # type: ignore[arg-type]
    return size


def _needed_before(layer: nn.Module, after: tuple[int, int], size: int) -> tuple[int, int]:
    """Elements [first, last) of the input that elements [first, last) of the output depend on."""
    first, last = after
    if isinstance(layer, Transposed):
        return max(first - layer.kernel_size[0] + 1, 0), min(last, size)
    if isinstance(layer, nn.Upsample):
        factor = int(layer.scale_factor)  # type: ignore[arg-type]
        return first // factor, (last - 1) // factor + 1
    return after


def _as_matrix(
    layer: nn.Module,
    basis: torch.Tensor,
    before: tuple[int, int],
    after: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrix and bias of an affine layer, between parts of its input and of its output.

    ``basis`` holds every unit vector of the part [first, last) of the input, (n, C, ...).
    """
    factor = int(layer.scale_factor) if isinstance(layer, nn.Upsample) else 1  # type: ignore[arg-type]
    start = after[0] - before[0] * factor
    inner = (slice(start, start + after[1] - after[0]),) * (basis.ndim - 2)

    def run(values: torch.Tensor) -> torch.Tensor:
        return layer(values)[(slice(None), slice(None), *inner)].flatten(1)

    bias = run(torch.zeros_like(basis[:1]))[0]
    return run(basis) - bias, bias


def _basis(channels: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """Unit vectors (n, channels, width, ...) with as many spatial axes as the weight ``like``."""
    axes = [width] * (like.ndim - 2)
    unit = torch.eye(channels * width ** len(axes), device=like.device, dtype=like.dtype)
    return unit.view(-1, channels, *axes)


def _every(length: int, stride: int) -> list[int]:
    """Voxels ``stride`` apart along an axis, and the last one."""
    return sorted({*range(0, length, stride), length - 1})
