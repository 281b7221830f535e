"""Cutting volumes into patches, and patch-individual filters (Eitel et al. 2021).

Modules with ``rearranges = True`` only move values or leave some out: they have no parameters, and
gradients and relevance go back by their transpose. Modules with ``knows_sides = True`` have other
filters on the left than on the right, so that images must not be mirrored in training.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import nn
from torch.nn import functional

from models.errors import InputError


class SplitPatches(nn.Module):
    """Rearrange (N, C, x, y, z) into (N, P C, px, py, pz), patch by patch.

    Zeros are added at the end of each axis up to a multiple of the patch. Every voxel goes to one
    place at most.

    Parameters
    ----------
    shape : sequence of int
        Voxels x, y, z of the input.
    patch : sequence of int
        Voxels of a patch along each axis.
    shift : sequence of int
        Voxels that the patches start later. A shifted axis has one patch fewer: its last patch
        would begin inside the volume and end outside.

    Attributes
    ----------
    counts : tuple of int
        Patches along each axis; their product is P. The last axis runs fastest.
    """

    rearranges = True

    def __init__(
        self, shape: Sequence[int], patch: Sequence[int], shift: Sequence[int] = (0, 0, 0)
    ) -> None:
        super().__init__()
        self.patch, self.shift = tuple(patch), tuple(shift)
        self.counts = tuple(
            -(-n // p) - (s > 0) for n, p, s in zip(shape, patch, shift, strict=True)
        )
        ends = [s + c * p - n for n, p, s, c in zip(shape, patch, shift, self.counts, strict=True)]
        # torch pads the last axis first, and negative padding cuts
        self.padding = [
            margin for s, e in zip(shift[::-1], ends[::-1], strict=True) for margin in (-s, e)
        ]

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Patches beside each other in the channels."""
        return self.cut(volume).flatten(1, 4)

    def cut(self, volume: torch.Tensor) -> torch.Tensor:
        """Patches as (N, *counts, C, px, py, pz)."""
        volume = functional.pad(volume, self.padding)
        for axis in (2, 1, 0):
            volume = volume.unflatten(axis + 2, (self.counts[axis], self.patch[axis]))
        return volume.permute(0, 2, 4, 6, 1, 3, 5, 7)


class PatchesAsImages(SplitPatches):
    """Rearrange (N, C, x, y, z) into (N P, C, px, py, pz): a network then sees single patches."""

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Patches beside each other in the batch."""
        return self.cut(volume).flatten(0, 3)


class MeanOverPatches(nn.Module):
    """Mean score of an image's patches, (N P, outputs) -> (N, outputs)."""

    def __init__(self, patches: int) -> None:
        super().__init__()
        self.unflatten = nn.Unflatten(0, (-1, patches))

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        """Average the patches of each image."""
        return self.unflatten(scores).mean(1)


class JoinPatches(nn.Module):
    """Transpose of :class:`SplitPatches`: (N, P C, px, py, pz) -> (N, C, x, y, z).

    Voxels outside all patches are 0; what lies beyond the volume's end is cut off.
    """

    rearranges = True

    def __init__(self, split: SplitPatches) -> None:
        super().__init__()
        self.counts = split.counts
        self.padding = [-margin for margin in split.padding]

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Put every patch back to its place."""
        volume = patches.unflatten(1, (*self.counts, -1)).permute(0, 4, 1, 5, 2, 6, 3, 7)
        for axis in (2, 3, 4):
            volume = volume.flatten(axis, axis + 1)
        return functional.pad(volume, self.padding)


class Outside(nn.Module):
    """Values that :class:`SplitPatches` leaves out, (N, C, x, y, z); 0 in its patches."""

    outside: torch.Tensor
    rearranges = True

    def __init__(self, split: SplitPatches, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("outside", 1 - _held(split, shape), persistent=False)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Put 0 where a patch is."""
        return volume * self.outside


class ScaleGradient(nn.Module):
    """Identity whose gradient is multiplied by ``scale`` (broadcast), in training mode only."""

    scale: torch.Tensor

    def __init__(self, scale: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Return the values unchanged."""
        if not self.training:
            return volume
        scaled = volume * self.scale
        return scaled + (volume - scaled).detach()


class PatchIndividualFilters(nn.Module):
    """Convolution whose filters are shared within a patch but not between patches (Eq. 2).

    A second strand of patches, with filters of its own, lies half a patch further (rounded down;
    Eq. 3) and has one patch fewer along each axis, so that the borders of one strand are inside
    the other. All patches of a strand are the groups of one convolution. Traced with
    :mod:`torch.fx`, the layer is padding, reshaping and two grouped convolutions, then a
    concatenation or, reassembled, a mean.

    Parameters
    ----------
    channels, width : int
        Input channels, and filters of every patch.
    shape : sequence of int
        Voxels x, y, z of the input; each axis must hold more than one patch.
    patch, kernel : int
        Voxels along every axis of a patch and of a filter.
    reassemble : bool
        False, as in the published experiments: filters without padding, and an output
        (N, (P1 + P2) width, o, o, o) with o = ``patch - kernel + 1``, the patches of the first
        strand before those of the second. True: filters with same padding (ours: without it, the
        reassembled patches of the two strands would not lie on one another), the patches put back
        to where they came from and averaged where both strands have one, (N, width, x, y, z).
    average_gradients : bool
        In training, average the gradients of both strands where they overlap instead of adding
        them, as the text says and the authors' code does not. It halves them in the layers before
        this one. In evaluation mode gradients are always exact.

    Attributes
    ----------
    features : int
        Values of one image in the output.

    Raises
    ------
    models.errors.InputError
        An axis holds only one patch, a patch one voxel, or the filter does not fit the patch.

    References
    ----------
    Eitel F, Albrecht JP, Weygandt M, Paul F, Ritter K (2021). Patch individual filter layers in
    CNNs to harness the spatial homogeneity of neuroimaging data. Scientific Reports 11:24447.
    """

    knows_sides = True

    def __init__(
        self,
        channels: int,
        width: int,
        shape: Sequence[int],
        *,
        patch: int = 5,
        kernel: int = 3,
        reassemble: bool = False,
        average_gradients: bool = False,
    ) -> None:
        super().__init__()
        _check(shape, patch, kernel, reassemble)
        cuts = [SplitPatches(shape, (patch,) * 3, (shift,) * 3) for shift in (0, patch // 2)]
        padding = kernel // 2 if reassemble else 0
        share = 1 / (1 + _held(cuts[1], shape))  # of each strand where both are
        self.average = ScaleGradient(share) if average_gradients else nn.Identity()
        self.strand, self.overlap = (
            nn.Sequential(
                cut,
                _filters(prod(cut.counts), channels, width, kernel, padding),
                JoinPatches(cut) if reassemble else nn.Identity(),
            )
            for cut in cuts
        )
        self.alone = Outside(cuts[1], shape) if reassemble else None
        patches = sum(prod(cut.counts) for cut in cuts)
        size = prod(shape) if reassemble else patches * (patch - kernel + 1) ** 3
        self.features = width * size

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Filter both strands and concatenate, or reassemble, what they give."""
        volume = self.average(volume)
        strand, overlap = self.strand(volume), self.overlap(volume)
        if self.alone is None:
            return torch.cat([strand, overlap], 1)
        overlap = overlap + self.alone(strand)  # where it is alone, a strand is its own mean
        return torch.cat([strand.unsqueeze(1), overlap.unsqueeze(1)], 1).mean(1)


def _filters(patches: int, channels: int, width: int, kernel: int, padding: int) -> nn.Conv3d:
    """One convolution with a group per patch."""
    return nn.Conv3d(patches * channels, patches * width, kernel, padding=padding, groups=patches)


def _held(split: SplitPatches, shape: Sequence[int]) -> torch.Tensor:
    """1 in the patches and 0 outside, (1, 1, x, y, z)."""
    return JoinPatches(split)(split(torch.ones(1, 1, *shape)))


def _check(shape: Sequence[int], patch: int, kernel: int, reassemble: bool) -> None:
    if min(shape) <= patch:
        raise InputError(
            f"patch-individual filters need more than one patch of {patch} voxels along every "
            f"axis, and the feature maps have {'x'.join(map(str, shape))}: use a smaller patch"
        )
    if not 0 < kernel <= patch or patch < 2 or (reassemble and kernel % 2 == 0):
        raise InputError(
            f"patch-individual filters of {kernel} voxels on patches of {patch}: patches need at "
            "least 2 voxels, filters no more than a patch (an odd number where it is reassembled)"
        )
