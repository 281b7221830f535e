"""Random changes of training images, batched on the device."""

from dataclasses import dataclass

import torch

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image.

    Parameters
    ----------
    flip_probability : float
        Chance of mirroring left and right (x axis of the RAS+ grid).
    shift_voxels : int
        Largest shift in whole voxels, drawn uniformly, zeros moving in.
    shift_axes : tuple of str
        Axes shifted, named by the plane they are normal to: ``sagittal`` is x (left-right),
        ``coronal`` y (back-front), ``axial`` z (down-up). Böhle 2019 shifts along "sagittal".
    """

    flip_probability: float = 0.0
    shift_voxels: int = 0
    shift_axes: tuple[str, ...] = ("sagittal",)

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Change a batch (N, C, x, y, z); draws come from ``generator`` (on the CPU)."""
        n = len(images)
        if self.flip_probability:
            flipped = torch.rand(n, generator=generator) < self.flip_probability
            images = images.clone()
            images[flipped] = images[flipped].flip(2)
        if self.shift_voxels:
            for axis in self.shift_axes:
                steps = torch.randint(
                    -self.shift_voxels, self.shift_voxels + 1, (n,), generator=generator
                )
                images = torch.stack(
                    [
                        _shift(image, int(step), 1 + AXES[axis])
                        for image, step in zip(images, steps, strict=True)
                    ]
                )
        return images


def _shift(image: torch.Tensor, step: int, dim: int) -> torch.Tensor:
    """Move by ``step`` voxels along ``dim``; what leaves is lost, zeros come in."""
    if step == 0:
        return image
    size = image.shape[dim]
    moved = torch.zeros_like(image)
    kept = size - abs(step)
    moved.narrow(dim, max(step, 0), kept).copy_(image.narrow(dim, max(-step, 0), kept))
    return moved
