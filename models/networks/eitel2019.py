"""Four-convolution ELU network of Eitel et al. 2019 for multiple sclerosis."""

from math import prod

from torch import nn

from models.networks.layers import spatial_shape

WIDTH = 64
POOLED = (True, True, False, True)


def build(
    shape: tuple[int, int, int], *, channels: int = 1, outputs: int = 2, dropout: float = 0.3
) -> nn.Sequential:
    """Four times Conv 64 and ELU, pooled by 3 after the first, second and fourth; one FC layer.

    96x114x96 voxels become 31x37x31, 9x11x9, 7x9x7 and 1x2x1: 128 features and, with
    ``outputs=1`` as published, 333,889 parameters. The text counts four max-pooling layers but
    places three, and gives no pool size: 3 is that of the authors' code. They penalised the
    squared weights of the third and fourth convolution only (layers 8 and 10, .01).

    Parameters
    ----------
    shape : tuple of int
        Input voxels, at least 71 along every axis.
    channels, outputs : int
        Input channels and output scores (before softmax or sigmoid).
    dropout : float
        Rate after each max-pooling.

    References
    ----------
    Eitel F, Soehler E, Bellmann-Strobl J, et al. (2019). Uncovering convolutional neural network
    decisions for diagnosing multiple sclerosis on conventional MRI using layer-wise relevance
    propagation. NeuroImage: Clinical 24:102003.
    """
    layers: list[nn.Module] = []
    for pooled in POOLED:
        layers += [nn.Conv3d(WIDTH if layers else channels, WIDTH, 3), nn.ELU()]
        if pooled:
            layers += [nn.MaxPool3d(3), nn.Dropout(dropout)]
    features = WIDTH * prod(spatial_shape(layers, shape))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, outputs))
