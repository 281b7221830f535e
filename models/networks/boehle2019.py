"""Four-block 3D CNN of Böhle et al. 2019, also of Eitel & Ritter 2019 and Klingenberg 2021."""

from math import prod

from torch import nn

from models.networks.layers import pooled_blocks, spatial_shape

WIDTHS = (8, 16, 32, 64)
POOLS = (2, 3, 2, 3)


def build(
    shape: tuple[int, int, int], *, channels: int = 1, outputs: int = 2, dropout: float = 0.4
) -> nn.Sequential:
    """Conv-BatchNorm-ReLU-MaxPool four times, then FC 128 and FC ``outputs``.

    Parameters
    ----------
    shape : tuple of int
        Input voxels. 193x229x193 flattens to 5120 features (728,898 parameters), 182x218x182 to
        2304 (368,450), 96x114x96 to 128 (89,922).
    channels, outputs : int
        Input channels and output scores (before softmax).
    dropout : float
        Rate before each fully connected layer.

    References
    ----------
    Böhle M, Eitel F, Weygandt M, Ritter K (2019). Layer-wise relevance propagation for explaining
    deep neural network decisions in MRI-based Alzheimer's disease classification. Frontiers in
    Aging Neuroscience 11:194.
    """
    blocks = pooled_blocks(channels, WIDTHS, POOLS)
    features = WIDTHS[-1] * prod(spatial_shape(blocks, shape))
    return nn.Sequential(
        *blocks,
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(features, 128),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(128, outputs),
    )
