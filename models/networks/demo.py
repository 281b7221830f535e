"""A network small enough to learn a large effect from two dozen brains in a minute."""

from math import prod

from torch import nn

from models.networks.layers import pooled_blocks, pooled_shape

WIDTHS = (8, 16, 32, 64)
POOLS = (2, 2, 2, 2)


def build(
    shape: tuple[int, int, int], *, channels: int = 1, outputs: int = 2, dropout: float = 0.4
) -> nn.Sequential:
    """The trunk of ``boehle2019`` with pools of 2 and one hidden layer of 32.

    It belongs to the demonstration on 3 mm images and reproduces no publication. On 64x76x64
    voxels it flattens to 512 features and has 89,634 parameters.

    Parameters
    ----------
    shape : tuple of int
        Input voxels, at least 46 along every axis.
    channels, outputs : int
        Input channels and output scores (before softmax).
    dropout : float
        Rate before each fully connected layer.
    """
    features = WIDTHS[-1] * prod(pooled_shape(shape, POOLS))
    return nn.Sequential(
        *pooled_blocks(channels, WIDTHS, POOLS),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(features, 32),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(32, outputs),
    )
