"""Siamese auto-encoder of patches, after Alaverdyan et al. 2020 (SAE); in 2D and in 3D."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from models.anomaly.dense import PatchReader
from models.anomaly.patches import PairSampler

PATCH = 15  # voxels; the layers are made for it
SEAMLESS = 8  # voxels: patches further apart than half a patch leave steps where they meet
INFERENCES = ("overlap", "centre")
RECONSTRUCTIONS = ("mean", "sum")


class AutoEncoder(nn.Module):
    """Two copies with shared weights see patches of the same place in two controls.

    Encoder: Conv 16 k3 - MaxPool 2 - Conv 16 k3 - Conv 16 k3, all without padding, so that a patch
    of 15 voxels becomes a code of 2 per axis. Decoder: transposed convolutions k3, k3, upsampling
    by 2, k3, k2 (2, 4, 6, 12, 14, 15), the last with a sigmoid. No batch normalisation. With two
    channels: 12,034 parameters in 2D, 35,778 in 3D (which the paper announces).

    Loss of a pair (Eq. 2): the reconstruction errors of both, less alpha times the cosine of
    their codes. The text says mean squared error, the equation a sum of squares: 450 times as
    much beside alpha for 15x15x2 patches. ``reconstruction`` chooses.

    Patches are drawn anew in every epoch, on the device; the paper drew them once.

    Parameters
    ----------
    shape : (int, int, int)
        Voxels of the images.
    channels : int
    dimensions : {2, 3}
        Patches of axial slices, or cubes.
    width : int
        Filters of every layer but the last.
    alpha : float
        Weight of the cosine.
    reconstruction : {"mean", "sum"}
        Mean squared error, or sum of squares.
    patches_per_image, batch_size, epochs : int
        Patches drawn per image and epoch; patches of a batch, in pairs.
    learning_rate : float
        Of Adam.
    inference : {"overlap", "centre"}
        How an image is put together: patches ``stride`` voxels apart, averaged with smooth
        weights, or at every voxel the centre of the patch around it.
    stride : int
        Voxels between patches of ``overlap``, up to about half a patch.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        channels: int = 1,
        *,
        dimensions: int = 2,
        width: int = 16,
        alpha: float = 0.005,
        reconstruction: str = "mean",
        patches_per_image: int = 15_000,
        batch_size: int = 225,
        epochs: int = 30,
        learning_rate: float = 1e-3,
        inference: str = "overlap",
        stride: int = 3,
    ) -> None:
        super().__init__()
        if dimensions not in (2, 3) or min(shape[:dimensions]) < 2:
            raise ValueError("dimensions must be 2 or 3, on an image that has as many")
        if reconstruction not in RECONSTRUCTIONS or inference not in INFERENCES:
            raise ValueError(
                f"reconstruction is one of {', '.join(RECONSTRUCTIONS)}, inference one of "
                f"{', '.join(INFERENCES)}"
            )
        if min(epochs, patches_per_image) < 1 or batch_size < 2 or not 1 <= stride <= SEAMLESS:
            raise ValueError(
                "epochs and patches_per_image must be 1 or more, batch_size 2 or more, stride "
                f"from 1 to {SEAMLESS}"
            )
        self.dimensions, self.alpha, self.reconstruction = dimensions, alpha, reconstruction
        self.patches_per_image, self.batch_size = patches_per_image, batch_size
        self.epochs, self.learning_rate = epochs, learning_rate
        self.inference, self.stride = inference, stride
        conv, pool, back = _LAYERS[dimensions]
        self.encoder = nn.Sequential(
            conv(channels, width, 3), nn.ReLU(), pool(2),
            conv(width, width, 3), nn.ReLU(), conv(width, width, 3), nn.ReLU(),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            back(width, width, 3), nn.ReLU(), back(width, width, 3), nn.ReLU(),
            nn.Upsample(scale_factor=2.0),
            back(width, width, 3), nn.ReLU(), back(width, channels, 2), nn.Sigmoid(),
        )  # fmt: skip
        for parameter in self.parameters():  # on CPUs, half of the time
            if parameter.ndim == dimensions + 2:
                parameter.data = parameter.data.contiguous(memory_format=_LAYOUTS[dimensions])

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Reconstruct patches (N, C, 15, 15[, 15])."""
        return self.decoder(self.encoder(patches))

    def batches(
        self, volumes: torch.Tensor, brain: torch.Tensor, generator: torch.Generator
    ) -> Iterator[torch.Tensor]:
        """Pairs of patches of one place in two images, (2, N, C, 15, 15[, 15]) float32.

        Parameters
        ----------
        volumes : (images, C, x, y, z) tensor
            On the device where training runs, two images or more.
        brain : (x, y, z) bool tensor
            Where the middle of a patch may lie.
        generator : torch.Generator
            Of the same device.
        """
        sampler = PairSampler(volumes, brain, PATCH, self.dimensions)
        for _ in range(-(-len(volumes) * self.patches_per_image // self.batch_size)):
            yield sampler.draw(self.batch_size // 2, generator)

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        """Mean over the pairs of Eq. 2."""
        patches = batch.flatten(0, 1).contiguous(memory_format=_LAYOUTS[self.dimensions])
        codes = self.encoder(patches)
        squares = (self.decoder(codes) - patches).square().flatten(1)
        errors = squares.mean(1) if self.reconstruction == "mean" else squares.sum(1)
        first, second = codes.flatten(1).chunk(2)
        return 2 * errors.mean() - self.alpha * F.cosine_similarity(first, second).mean()

    def reader(self) -> PatchReader:
        """What reads whole images with the present weights."""
        return PatchReader(self.encoder, self.decoder, PATCH, self.dimensions)

    def reconstruct(self, volume: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        """Reconstruction (C, x, y, z) of one image; NaN outside the brain."""
        reader = self.reader()
        if self.inference == "centre":
            return reader.centres(volume, brain)
        return reader.overlap(volume, brain, self.stride)


_LAYERS = {
    2: (nn.Conv2d, nn.MaxPool2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.MaxPool3d, nn.ConvTranspose3d),
}
_LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}
