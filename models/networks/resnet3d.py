"""A small residual network, for comparison with the shallow published ones."""

from collections.abc import Sequence

import torch
from torch import nn

from models.errors import InputError
from models.networks.layers import spatial_shape


class Block(nn.Module):
    """Two 3x3x3 convolutions added to their input, (N, channels, ...) -> (N, width, ...).

    Where width or size change, the input passes a 1x1x1 convolution of the same stride. Nothing
    works in place and no module is used twice, so that attributions can hook every step.
    """

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv3d(channels, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(),
            nn.Conv3d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm3d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv3d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm3d(width)
            )
        self.relu = nn.ReLU()

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Sum of residual and shortcut, then ReLU."""
        return self.relu(self.residual(volume) + self.shortcut(volume))


def build(
    shape: tuple[int, int, int],
    *,
    channels: int = 1,
    outputs: int = 2,
    widths: Sequence[int] = (16, 32, 64, 128),
    blocks: Sequence[int] = (2, 2, 2, 2),
    dropout: float = 0.0,
) -> nn.Sequential:
    """Residual network of 18 layers with a quarter of the usual filters, in three dimensions.

    Conv 7x7x7 of stride 2 and MaxPool 3 of stride 2; then stages of residual blocks, each stage
    but the first halving the grid; global mean; one FC layer. Feature maps of 96x114x96 voxels:
    48x57x48, 24x29x24, 12x15x12, 6x8x6 and 3x4x3. On every grid it has 128 features and 2,078,674
    parameters (with ``blocks=(1, 1, 1, 1)``, ResNet-10, 902,674).

    Parameters
    ----------
    shape : tuple of int
        Input voxels.
    channels, outputs : int
        Input channels and output scores (before softmax).
    widths, blocks : sequence of int
        Filters and number of blocks of each stage.
    dropout : float
        Rate before the fully connected layer.

    Raises
    ------
    models.errors.InputError
        ``widths`` and ``blocks`` are not of one length.

    References
    ----------
    He K, Zhang X, Ren S, Sun J (2016). Deep residual learning for image recognition. IEEE
    Conference on Computer Vision and Pattern Recognition:770-778.
    """
    if not widths or len(widths) != len(blocks):
        raise InputError(
            f"network 'resnet3d' needs filters and a number of blocks for every stage: widths "
            f"has {len(widths)} entries, blocks {len(blocks)}"
        )
    layers: list[nn.Module] = [
        nn.Conv3d(channels, widths[0], 7, stride=2, padding=3, bias=False),
        nn.BatchNorm3d(widths[0]),
        nn.ReLU(),
        nn.MaxPool3d(3, stride=2, padding=1),
    ]
    spatial_shape(layers, shape)  # the stages round up: they cannot lose the last voxel
    channels = widths[0]
    for stage, (width, depth) in enumerate(zip(widths, blocks, strict=True)):
        for number in range(depth):
            layers.append(Block(channels, width, stride=2 if stage and not number else 1))
            channels = width
    return nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(channels, outputs),
    )
