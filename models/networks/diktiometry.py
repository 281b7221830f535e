"""Network of voxel-based diktiometry (Estudillo-Romero et al. 2022) on diffusion tensor images."""

from collections.abc import Sequence
from math import prod

from torch import nn

from models.errors import InputError
from models.networks.layers import spatial_shape


def build(
    shape: tuple[int, int, int],
    *,
    channels: int = 1,
    outputs: int = 2,
    widths: Sequence[int] = (16, 16, 32, 32, 64, 64, 64, 64),
    hidden: int = 64,
    dropout: float = 0.1,
) -> nn.Sequential:
    """Eight convolutions, pooled by 2 after every second, then FC ``hidden`` and FC ``outputs``.

    The publication states eight convolutions, two fully connected layers and dropout between the
    two parts; its widths are in a figure only. Ours: 3x3x3 with same padding, BatchNorm and ReLU,
    so that on 96x112x96 voxels (divisible by 16) no voxel is cut off or pooled unevenly and the
    sensitivity maps have no blind border. There, 6x7x6x64 values make 16,128 features; with
    ``channels=6`` and ``outputs=1`` (the log-odds, Eq. 1) the network has 1,471,425 parameters.

    Parameters
    ----------
    shape : tuple of int
        Input voxels, at least 16 along every axis.
    channels, outputs : int
        Input channels (the tensor has 6) and output scores (before softmax or sigmoid).
    widths : sequence of int
        Filters of each convolution, an even number of them.
    hidden : int
        Neurons of the first fully connected layer.
    dropout : float
        Rate between the convolutional and the fully connected part.

    Raises
    ------
    models.errors.InputError
        The grid is too small, or ``widths`` has an odd number of entries.

    References
    ----------
    Estudillo-Romero A, Haegelen C, Jannin P, Baxter JSH (2022). Voxel-based diktiometry:
    combining convolutional neural networks with voxel-based analysis and its application in
    diffusion tensor imaging for Parkinson's disease. Human Brain Mapping,
    doi:10.1002/hbm.26009.
    """
    if not widths or len(widths) % 2:
        raise InputError(
            f"network 'diktiometry' pools after every second convolution: widths must be an even "
            f"number of filter counts, not {len(widths)}"
        )
    layers: list[nn.Module] = []
    for number, width in enumerate(widths):
        layers += [
            nn.Conv3d(channels, width, 3, padding=1),
            nn.BatchNorm3d(width),
            nn.ReLU(),
            *[nn.MaxPool3d(2)] * (number % 2),
        ]
        channels = width
    features = channels * prod(spatial_shape(layers, shape))
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(features, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )
