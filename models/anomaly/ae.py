"""Auto-encoder of axial slices, after Muñoz-Ramírez et al. (AE); plain or denoising."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn

NOISE_VOXELS = 8  # distance of the noise's control points


class AutoEncoder(nn.Module):
    """Strided convolutions down to a small code, mirrored transposed ones back, sigmoid.

    Kernels of 3x3, stride 2, padding 1, BatchNorm and ReLU; the last layer has a sigmoid alone.
    The output padding of each transposed convolution restores the size that its mirror met: on
    121x145 slices it is (1, 1), (1, 0), then 0, and the code is 4x5x256. The paper leaves the
    widths open; with ours and two channels there are 786,146 parameters.

    The loss is the mean absolute error (Eq. 1). With ``noise``, the input is the image plus
    coarse noise and the image itself has to come out (denoising, Kascenas et al. 2022).

    Parameters
    ----------
    shape : (int, int, int)
        Voxels of the images; slices are [:, :, z].
    channels : int
    widths : sequence of int
        Filters of each convolution.
    slices : int
        Axial slices around the middle of the brain that are learnt and scored; 0 for all.
    noise : float
        Standard deviation of the noise, in units of the image ([0, 1]); 0 for none.
    epochs, batch_size : int
    learning_rate : float
        Of Adam.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        channels: int = 1,
        *,
        widths: Sequence[int] = (16, 32, 64, 128, 256),
        slices: int = 40,
        noise: float = 0.0,
        epochs: int = 160,
        batch_size: int = 40,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__()
        _check(shape, widths, slices, noise, epochs, batch_size)
        sizes = [tuple(shape[:2])]
        for _ in widths:
            sizes.append(tuple((n - 1) // 2 + 1 for n in sizes[-1]))
        self.slices, self.noise = slices, noise
        self.epochs, self.batch_size, self.learning_rate = epochs, batch_size, learning_rate
        down: list[nn.Module] = []
        for before, after in zip([channels, *widths], widths, strict=False):
            down += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        up: list[nn.Module] = []
        for k in reversed(range(len(widths))):
            after = widths[k - 1] if k else channels
            x, y = (n - (2 * m - 1) for n, m in zip(sizes[k], sizes[k + 1], strict=True))
            up.append(nn.ConvTranspose2d(widths[k], after, 3, 2, 1, output_padding=(x, y)))
            up += [nn.BatchNorm2d(after), nn.ReLU()] if k else [nn.Sigmoid()]
        self.encoder, self.decoder = nn.Sequential(*down), nn.Sequential(*up)

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        """Reconstruct slices (N, C, x, y)."""
        return self.decoder(self.encoder(slices))

    def batches(
        self, volumes: torch.Tensor, brain: torch.Tensor, generator: torch.Generator
    ) -> Iterator[torch.Tensor]:
        """Every slice of every image once, in random order, as (N, C, x, y) float32.

        Parameters
        ----------
        volumes : (images, C, x, y, z) tensor
            On the device where training runs.
        brain : (x, y, z) bool tensor
            Its extent from bottom to top says where the middle is.
        generator : torch.Generator
            Of the same device.
        """
        chosen = torch.as_tensor(self.central(brain), device=volumes.device)
        order = torch.randperm(
            len(volumes) * len(chosen), generator=generator, device=volumes.device
        )
        for batch in _not_alone(order.split(self.batch_size)):
            image, level = batch // len(chosen), chosen[batch % len(chosen)]
            yield volumes[image, :, :, :, level].float()

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        """Mean absolute error of the reconstruction of (N, C, x, y)."""
        given = batch + self._coarse_noise(batch) if self.noise else batch
        return F.l1_loss(self(given), batch)

    def _coarse_noise(self, batch: torch.Tensor) -> torch.Tensor:
        """Smooth Gaussian noise where the image is not background."""
        size = [-(-n // NOISE_VOXELS) for n in batch.shape[2:]]
        coarse = torch.randn(*batch.shape[:2], *size, device=batch.device)
        smooth = F.interpolate(coarse, batch.shape[2:], mode="bilinear", align_corners=False)
        return self.noise * smooth * (batch != 0)

    @torch.no_grad()
    def reconstruct(self, volume: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        """Reconstruction (C, x, y, z) of one image; NaN on slices that are not scored."""
        levels = self.central(brain)
        slices = volume[..., levels].float().permute(3, 0, 1, 2)
        found = torch.full(volume.shape, torch.nan, device=volume.device)
        parts = [self(part) for part in slices.split(self.batch_size)]
        found[..., levels] = torch.cat(parts).permute(1, 2, 3, 0)
        return found

    def central(self, brain: torch.Tensor) -> list[int]:
        """Numbers of the axial slices that are learnt and scored."""
        levels = brain.any(0).any(0).nonzero().flatten()
        if not self.slices:
            return list(range(brain.shape[2]))
        middle = (int(levels[0]) + int(levels[-1]) + 1) / 2
        first = max(0, min(round(middle - self.slices / 2), brain.shape[2] - self.slices))
        return list(range(first, min(first + self.slices, brain.shape[2])))


def _check(
    shape: tuple[int, ...],
    widths: Sequence[int],
    slices: int,
    noise: float,
    epochs: int,
    batch_size: int,
) -> None:
    if not len(widths) or min(shape[:2]) < 2 ** len(widths):
        raise ValueError(
            f"slices of {shape[0]}x{shape[1]} voxels are too small for {len(widths)} convolutions"
        )
    if slices < 0 or noise < 0 or epochs < 1 or batch_size < 2:
        raise ValueError(
            "slices and noise must be 0 or more, epochs 1 or more, batch_size 2 or more"
        )


def _not_alone(batches: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Let a last batch of a single slice join its neighbour: BatchNorm needs two."""
    cut = list(batches)
    if len(cut) > 1 and len(cut[-1]) == 1:
        cut[-2:] = [torch.cat(cut[-2:])]
    return cut
