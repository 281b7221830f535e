"""Patches of images, cut on the device where the images are."""

import torch
import torch.nn.functional as F


def padded(volumes: torch.Tensor, patch: int, dimensions: int) -> torch.Tensor:
    """Zeros around (..., x, y, z), so that every voxel can be the middle of a patch."""
    margin = [patch // 2] * 2
    widths = (margin * 3) if dimensions == 3 else ([0, 0] + margin * 2)
    return F.pad(volumes, widths)


class PairSampler:
    """Draws patches of the same place in two different images.

    Parameters
    ----------
    volumes : (images, C, x, y, z) tensor
        Two images or more.
    brain : (x, y, z) bool tensor
        Where the middle of a patch may lie.
    patch : int
        Edge in voxels, odd.
    dimensions : {2, 3}
        Axial squares, or cubes.
    """

    def __init__(
        self, volumes: torch.Tensor, brain: torch.Tensor, patch: int, dimensions: int
    ) -> None:
        if len(volumes) < 2:
            raise ValueError("pairs need at least two images")
        wide = padded(volumes, patch, dimensions)
        self.images, self.channels = wide.shape[:2]
        self.values = wide.reshape(-1)
        self.volume = wide[0, 0].numel()
        strides = wide[0, 0].stride()
        # With the padding, the corner of a patch has the numbers of its middle voxel unpadded.
        self.corners = brain.nonzero().to(wide.device) @ _column(strides, wide)
        axes = [torch.arange(patch, device=wide.device)] * dimensions
        steps = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        offsets = steps @ _column(strides[:dimensions], wide)
        channels = torch.arange(self.channels, device=wide.device) * self.volume
        self.offsets = channels.view(-1, *[1] * dimensions) + offsets

    def draw(self, pairs: int, generator: torch.Generator) -> torch.Tensor:
        """Return (2, pairs, C, patch, ...) float32 by a generator of the images' device."""

        def chance(limit: int) -> torch.Tensor:
            device = self.values.device
            return torch.randint(limit, (pairs,), generator=generator, device=device)

        corner = self.corners[chance(len(self.corners))]
        first = chance(self.images)
        second = (first + 1 + chance(self.images - 1)) % self.images
        start = torch.stack([first, second]) * self.channels * self.volume + corner
        where = start.view(2, pairs, *[1] * self.offsets.ndim) + self.offsets
        return self.values[where].float()


def _column(strides: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(strides, device=like.device)
