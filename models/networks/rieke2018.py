"""Network of Rieke et al. 2018: the trunk of Böhle 2019 with three fully connected layers."""

from math import prod

from torch import nn

from models.networks.boehle2019 import POOLS, WIDTHS
from models.networks.layers import pooled_blocks, spatial_shape


def build(
    shape: tuple[int, int, int], *, channels: int = 1, outputs: int = 2, dropout: float = 0.8
) -> nn.Sequential:
    """Conv-BatchNorm-ReLU-MaxPool four times, then FC 128, FC 64 and FC ``outputs``.

    193x229x193 voxels end as 64 maps of 4x5x4: 5120 features and 737,026 parameters. 96x114x96
    end as 1x2x1: 128 and 98,050.

    Parameters
    ----------
    shape : tuple of int
        Input voxels, at least 78 along every axis.
    channels, outputs : int
        Input channels and output scores (before softmax).
    dropout : float
        Rate before the first fully connected layer, the only one that has it.

    References
    ----------
    Rieke J, Eitel F, Weygandt M, Haynes JD, Ritter K (2018). Visualizing convolutional networks
    for MRI-based diagnosis of Alzheimer's disease. Understanding and Interpreting Machine Learning
    in Medical Image Computing Applications, LNCS 11038:24-31.
    """
    blocks = pooled_blocks(channels, WIDTHS, POOLS)
    features = WIDTHS[-1] * prod(spatial_shape(blocks, shape))
    return nn.Sequential(
        *blocks,
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(features, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, outputs),
    )
