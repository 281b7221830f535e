"""Images as a batch for the network, and heatmaps as images again.

Voxels keep their order on both ways: an image is explained as it is stored, whatever its
orientation, and the heatmap of a NIfTI image has the same affine, so that both lie on one another
in every viewer. Whether the network was trained on images of that orientation is for the user to
know.
"""

from typing import Any

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from nibabel.nifti1 import Nifti1Image
from nibabel.nifti2 import Nifti2Image
from nibabel.spatialimages import SpatialImage
from torch import nn

from models.attribution.graph import IMAGE, read
from models.attribution.kinds import CONVOLUTIONS
from models.errors import InputError

AXES = {1: "x", 2: "x, y", 3: "x, y, z"}


def to_batch(volume: Any, model: nn.Module) -> tuple[torch.Tensor, tuple[float, ...] | None]:
    """An image, or a batch of images, as the network takes it.

    Parameters
    ----------
    volume : numpy.ndarray, torch.Tensor or nibabel image
        (*spatial), (C, *spatial) or (N, C, *spatial); a nibabel image (*spatial) or (*spatial, C),
        in the order in which it is stored.
    model : nn.Module
        Its first convolution says how many spatial axes there are; without one, an array of up to
        three axes has spatial axes only, and one with more has three.

    Returns
    -------
    batch : torch.Tensor
        (N, C, *spatial) of the network's dtype, not on its device yet.
    voxel_mm : tuple of float or None
        Edges of a voxel along the spatial axes, which only a nibabel image knows.

    Raises
    ------
    models.errors.InputError
        Not an image, axes or channels that the network does not take, or a value that is no
        number.
    """
    values, last = _values(volume), isinstance(volume, SpatialImage)
    spatial, channels = _spatial(model, values.dim()), _channels(model)
    batch = _arranged(values, spatial, last)
    if batch is None or channels not in (None, batch.shape[1]):
        raise _misfit(tuple(values.shape), spatial, channels, last)
    batch = batch.to(_dtype(model, batch))
    if not bool(batch.isfinite().all()):
        raise InputError(
            "the image holds values that are no finite numbers (NaN or infinity): replace them, "
            "as was done before training"
        )
    return batch, _voxel_mm(volume, spatial)


def heatmap_like(volume: Any, heatmap: torch.Tensor) -> Any:
    """A heatmap in the type and shape of the image that was explained, float32.

    Parameters
    ----------
    volume : numpy.ndarray, torch.Tensor or nibabel image
        As it was handed to :func:`to_batch`.
    heatmap : torch.Tensor
        (N, C, *spatial).

    Returns
    -------
    numpy.ndarray, torch.Tensor or nibabel.Nifti1Image
        The tensor on the image's device; the NIfTI image with the same affine, codes and units as
        the image, its values unscaled. Other formats of nibabel come back as NIfTI.
    """
    heatmap = heatmap.detach().float()
    if isinstance(volume, SpatialImage):
        return _nifti(volume, heatmap[0])
    heatmap = heatmap.reshape(tuple(volume.shape))
    return heatmap.to(volume.device) if isinstance(volume, torch.Tensor) else heatmap.cpu().numpy()


def _values(volume: Any) -> torch.Tensor:
    if isinstance(volume, torch.Tensor):
        values = volume.detach()
    elif isinstance(volume, np.ndarray | SpatialImage):
        array = np.asarray(volume.dataobj if isinstance(volume, SpatialImage) else volume)
        if array.dtype.kind not in "biuf":
            raise InputError(f"an image of real numbers is needed, not of {array.dtype}")
        # A copy: in torch's byte order, strides that it allows, and not the caller's memory.
        values = torch.from_numpy(np.array(array, dtype=_torch_knows(array.dtype), order="C"))
    else:
        raise InputError(
            "an image is a numpy array, a torch tensor or a nibabel image, not "
            f"{type(volume).__name__}; read a file with nibabel.load"
        )
    if values.is_complex():
        raise InputError(f"an image of real numbers is needed, not of {values.dtype}")
    return values


def _torch_knows(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in this machine's byte order; float64 where torch lacks it (long double, uint)."""
    native = dtype.newbyteorder("=")
    return (
        native if native.str[1:] in ("f2", "f4", "i1", "i2", "i4", "i8", "u1") else np.dtype(float)
    )


def _arranged(values: torch.Tensor, spatial: int, last: bool) -> torch.Tensor | None:
    """(N, C, *spatial), or None where there are too few or too many axes."""
    if last and values.dim() == spatial + 1:
        values = values.movedim(-1, 0)
    missing = spatial + 2 - values.dim()
    if missing > 2 or missing < int(last):
        return None
    return values.reshape(*[1] * missing, *values.shape)


def _spatial(model: nn.Module, axes: int) -> int:
    """Spatial axes of the network's images."""
    found = next((one for one in model.modules() if isinstance(one, CONVOLUTIONS)), None)
    return min(axes, 3) if found is None else found.weight.dim() - 2


def _channels(model: nn.Module) -> int | None:
    """Channels of the network's images, where a convolution sees them first."""
    try:
        steps = read(model).steps
    except InputError:  # a network that only the gradient methods can follow
        return None
    seeing = [step.module for step in steps if IMAGE in step.inputs]
    return next((one.in_channels for one in seeing if isinstance(one, CONVOLUTIONS)), None)


def _dtype(model: nn.Module, batch: torch.Tensor) -> torch.dtype:
    """The network's dtype; without parameters, the image's if it is a floating one."""
    own = next((one.dtype for one in model.parameters() if one.is_floating_point()), None)
    return own or (batch.dtype if batch.is_floating_point() else torch.get_default_dtype())


def _misfit(shape: tuple[int, ...], spatial: int, channels: int | None, last: bool) -> InputError:
    axes, known = AXES[spatial], channels is not None
    count = f"{channels} channel{'s' * (channels != 1)}" if known else "channels"
    with_channels = [f"({axes}, {count})"] if last else [f"({count}, {axes})"]
    alone = [f"({axes})"] if channels in (None, 1) else []
    batch = [] if last else [f"(people, {count}, {axes})"]
    return InputError(
        f"the image's shape is {shape}, but the network takes "
        f"{' or '.join(alone + with_channels + batch)}: bring its axes into this order"
    )


def _voxel_mm(volume: Any, spatial: int) -> tuple[float, ...] | None:
    if not isinstance(volume, SpatialImage):
        return None
    return tuple(float(edge) for edge in voxel_sizes(volume.affine)[:spatial])


def _nifti(volume: SpatialImage, heatmap: torch.Tensor) -> Nifti1Image:
    """Channels last, in the image's space."""
    values = heatmap[0] if len(volume.shape) < heatmap.dim() else heatmap.movedim(0, -1)
    kind = Nifti2Image if isinstance(volume, Nifti2Image) else Nifti1Image
    image = kind(values.cpu().numpy(), volume.affine, volume.header)
    image.set_data_dtype(np.float32)
    image.header.set_slope_inter(1, 0)
    for name in ("cal_min", "cal_max"):  # of the image's intensities
        image.header[name] = 0
    return image
