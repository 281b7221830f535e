"""A network small enough to learn a large effect from two dozen brains in a minute."""

from math import prod

from torch import nn

from models.networks.layers import pooled_blocks, spatial_shape

WIDTHS = (8, 16, 32)
POOLS = (2, 2, 2)


def build(
    shape: tuple[int, int, int], *, channels: int = 1, outputs: int = 2, dropout: float = 0.2
) -> nn.Sequential:
    """Three blocks of Conv-BatchNorm-ReLU-AvgPool, then FC 32 and FC ``outputs``.

    It belongs to the demonstration on 3 mm images and reproduces no publication. Averages, unlike
    maxima, let a dark voxel (the CSF of an atrophy) speak, and three blocks leave places for the
    FC layer to choose from: with so few people, both are what makes the network learn the place.
    On 64x76x64 voxels it flattens to 8064 features and has 275,810 parameters.

    Parameters
    ----------
    shape : tuple of int
        Input voxels, at least 22 along every axis.
    channels, outputs : int
        Input channels and output scores (before softmax).
    dropout : float
        Rate before each fully connected layer.
    """
    blocks = pooled_blocks(channels, WIDTHS, POOLS, pooling=nn.AvgPool3d)
    features = WIDTHS[-1] * prod(spatial_shape(blocks, shape))
    return nn.Sequential(
        *blocks,
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(features, 32),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(32, outputs),
    )
