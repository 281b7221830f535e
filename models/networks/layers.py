"""Pieces that several architectures share."""

from collections.abc import Sequence

from torch import nn

from models.errors import InputError


def pooled_blocks(
    channels: int,
    widths: Sequence[int],
    pools: Sequence[int],
    pooling: type[nn.Module] = nn.MaxPool3d,
) -> list[nn.Module]:
    """Blocks of Conv3d 3x3x3 (no padding), BatchNorm, ReLU and pooling."""
    layers: list[nn.Module] = []
    for width, pool in zip(widths, pools, strict=True):
        layers += [
            nn.Conv3d(channels, width, 3),
            nn.BatchNorm3d(width),
            nn.ReLU(),
            pooling(pool),
        ]
        channels = width
    return layers


def pooled_shape(shape: Sequence[int], pools: Sequence[int]) -> tuple[int, ...]:
    """Spatial shape after :func:`pooled_blocks`.

    Raises
    ------
    models.errors.InputError
        An axis is pooled away; the message names the smallest size that works.
    """
    smallest = 1
    for pool in reversed(pools):
        smallest = smallest * pool + 2
    sizes = list(shape)
    for pool in pools:
        sizes = [(n - 2) // pool for n in sizes]
    if min(sizes) < 1:
        raise InputError(
            f"a grid of {'x'.join(map(str, shape))} voxels is too small for this network: "
            f"every axis needs at least {smallest} voxels"
        )
    return tuple(sizes)
