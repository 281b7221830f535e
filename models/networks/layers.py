"""Pieces that several architectures share."""

from collections.abc import Iterable, Sequence

from torch import nn

from models.errors import InputError

Windowed = nn.Conv3d | nn.MaxPool3d | nn.AvgPool3d


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


def spatial_shape(
    layers: Iterable[nn.Module],
    shape: Sequence[int],
    *,
    least: int = 1,
    parts: Sequence[int] = (1, 1, 1),
) -> tuple[int, ...]:
    """Spatial shape after a chain of layers, of which convolutions and pooling change it.

    Parameters
    ----------
    layers : iterable of Module
        In the order of the forward pass, without dilation.
    shape : sequence of int
        Input voxels along the three axes.
    least : int
        Voxels that every axis must have at the end.
    parts : sequence of int
        Equal parts that each axis is cut into (zero-padded at the end) before the first layer.

    Raises
    ------
    models.errors.InputError
        An axis ends below ``least``; the message names the smallest size that works.
    """
    windows = [_window(layer) for layer in layers if isinstance(layer, Windowed)]
    sizes = [-(-n // part) for n, part in zip(shape, parts, strict=True)]
    smallest = [least] * len(shape)
    for window in windows:
        sizes = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(sizes, *window, strict=True)]
    for window in reversed(windows):
        smallest = [
            max((n - 1) * s + k - 2 * p, 1) for n, k, s, p in zip(smallest, *window, strict=True)
        ]
    smallest = [(n - 1) * part + 1 for n, part in zip(smallest, parts, strict=True)]
    if any(n < low for n, low in zip(shape, smallest, strict=True)):
        raise InputError(
            f"a grid of {'x'.join(map(str, shape))} voxels is too small for this network: "
            f"{_needs(smallest)}"
        )
    return tuple(sizes)


def _window(layer: Windowed) -> list[tuple[int, ...]]:
    """Kernel, stride and padding of a layer along the three axes, in voxels."""
    values = (layer.kernel_size, layer.stride, layer.padding)
    return [value if isinstance(value, tuple) else (int(value),) * 3 for value in values]


def _needs(smallest: Sequence[int]) -> str:
    if len(set(smallest)) > 1:
        return f"it needs at least {'x'.join(map(str, smallest))} voxels"
    return f"every axis needs at least {smallest[0]} voxel{'s' * (smallest[0] > 1)}"
