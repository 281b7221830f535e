"""Patch baseline of Eitel et al. 2021: one network of Liu et al. 2018 for all patches."""

from collections.abc import Sequence
from math import prod

from torch import nn

from models.networks.layers import spatial_shape
from models.networks.patches import MeanOverPatches, PatchesAsImages


def build(
    shape: tuple[int, int, int],
    *,
    channels: int = 1,
    outputs: int = 2,
    parts: Sequence[int] = (2, 3, 2),
    dropout: float = 0.4,
    convolution_dropout: float = 0.1,
) -> nn.Sequential:
    """Cut the image into patches; four convolutions and two FC layers share all of them.

    Conv 15, 25, 50 and 50 with tanh, max-pooling after the first three, FC 40 with tanh, FC
    ``outputs``. The scores of an image are the means over its patches, whose cut adds zeros at the
    end of an axis that does not divide. Patches of 182x218x182 voxels have 91x73x91 and 450
    features each; those of 145x171x150, to which the authors' code cropped, 73x57x75 and 100. With
    ``outputs=1`` these are 130,001 and 116,001 parameters.

    The original has networks of its own for each patch and joins them with further layers; sizes
    of pooling and padding here are those of the code of Eitel et al., which in training showed the
    network one patch of each image at random, half-overlapping places included.

    Parameters
    ----------
    shape : tuple of int
        Input voxels, at least 123x112x147 for the default ``parts``.
    channels, outputs : int
        Input channels and output scores (before softmax or sigmoid).
    parts : sequence of int
        Patches along each axis.
    dropout : float
        Rate before the last FC layer; half of it after the last convolution.
    convolution_dropout : float
        Rate after each max-pooling (whole maps).

    References
    ----------
    Liu M, Cheng D, Wang K, Wang Y (2018). Multi-modality cascaded convolutional neural networks
    for Alzheimer's disease diagnosis. Neuroinformatics 16:295-308.

    Eitel F, Albrecht JP, Weygandt M, Paul F, Ritter K (2021). Patch individual filter layers in
    CNNs to harness the spatial homogeneity of neuroimaging data. Scientific Reports 11:24447.
    """
    layers: list[nn.Module] = []
    pools = (nn.MaxPool3d(3), nn.MaxPool3d(2), nn.MaxPool3d(3, stride=(2, 2, 3)))
    for width, pool in zip((15, 25, 50), pools, strict=True):
        layers += [nn.Conv3d(channels, width, 3), nn.Tanh(), pool]
        layers += [nn.Dropout3d(convolution_dropout)]
        channels = width
    layers += [nn.Conv3d(50, 50, 3, padding=(0, 1, 0)), nn.Tanh(), nn.Dropout3d(dropout / 2)]
    features = 50 * prod(spatial_shape(layers, shape, parts=parts))
    patch = [-(-n // number) for n, number in zip(shape, parts, strict=True)]
    cut = PatchesAsImages(shape, patch)
    return nn.Sequential(
        cut,
        *layers,
        nn.Flatten(),
        nn.Linear(features, 40),
        nn.Tanh(),
        nn.Dropout(dropout),
        nn.Linear(40, outputs),
        MeanOverPatches(prod(cut.counts)),
    )
