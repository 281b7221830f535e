"""What a filter of a network looks for, as Rieke 2018 showed it."""

from dataclasses import dataclass, replace
from math import ceil

import torch
import torch.nn.functional as F
from torch import nn

from models.attribution import evaluating
from models.attribution.derivatives import lean
from models.attribution.gradcam import place_of
from models.attribution.graph import Graph, read
from models.errors import InputError


@dataclass(frozen=True)
class Visualisation:
    """An image made for a filter.

    Attributes
    ----------
    image : torch.Tensor
        (C, *spatial), float32 on the CPU.
    trace : torch.Tensor
        (steps + 1,) mean activation of the filter before every step and at the end.
    """

    image: torch.Tensor
    trace: torch.Tensor


def feature_visualisation(
    model: nn.Module,
    shape: tuple[int, ...],
    *,
    layer: str | None = None,
    filter: int = 0,  # noqa: A002 - the field's word
    steps: int = 128,
    learning_rate: float = 0.1,
    blur_sigma: float = 0.5,
    jitter: int = 2,
    limits: tuple[float, float] | None = None,
    seed: int = 0,
) -> Visualisation:
    """Image that a filter answers to most, by gradient ascent (Erhan et al. 2009).

    It begins with weak noise. Every step moves the image by a random whole number of voxels, adds
    the gradient of the filter's mean activation, scaled to a root mean square of
    ``learning_rate``, moves it back and blurs it: without the last two, the image fills with fine
    patterns that no brain has. The network runs in eval mode and comes back as it was.

    Parameters
    ----------
    model : nn.Module
        One that torch.fx can read.
    shape : tuple of int
        (C, *spatial) of the image.
    layer : str, optional
        Name of the layer in the network (``named_modules``), by default the last convolution.
    filter : int
        Channel of the layer's result.
    steps : int
        Of the ascent.
    learning_rate : float
        Root mean square of what a step adds, in the image's units.
    blur_sigma : float
        Standard deviation of the Gaussian after every step, in voxels; 0 for none.
    jitter : int
        Largest movement along each axis, in voxels; what leaves on one side returns on the other.
    limits : (float, float), optional
        Values beyond these are clipped after every step, (0, 1) for images that were divided by
        their maximum.
    seed : int
        Of the noise and the movements: the same seed gives the same image on the same device.

    Raises
    ------
    models.errors.InputError
        No such layer or filter, a value out of range, or a network that cannot be read.
    """
    _check(steps=steps, learning_rate=learning_rate, blur_sigma=blur_sigma, jitter=jitter)
    with evaluating(model):
        network = _until(read(model), layer)
        like = next(model.parameters(), torch.empty(0))
        generator = torch.Generator().manual_seed(seed)
        image = 0.01 * torch.randn((1, *shape), generator=generator)
        image = image.to(like.device, like.dtype)
        trace = []
        for _ in range(steps):
            shifts = _shifts(image, jitter, generator)
            moved = image.roll(shifts, _axes(image))
            gradient, activation = _ascent(network, moved, filter)
            moved += learning_rate * gradient / _size(gradient)
            image = blurred(moved.roll([-s for s in shifts], _axes(image)), blur_sigma)
            image = image if limits is None else image.clamp(*limits)
            trace.append(activation)
        trace.append(_ascent(network, image, filter)[1])
    return Visualisation(image[0].float().cpu(), torch.stack(trace).float().cpu())


def blurred(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of (N, C, *spatial) along the spatial axes, borders continued.

    Parameters
    ----------
    sigma : float
        Standard deviation in voxels; the kernel is cut off at four of them.
    """
    if sigma == 0:
        return image
    reach = ceil(4 * sigma)
    places = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in _axes(image):
        lines = image.movedim(axis, -1)
        rows = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (reach, reach), mode="replicate")
        image = F.conv1d(rows, kernel[None, None]).view(lines.shape).movedim(-1, axis)
    return image.contiguous()


def _until(graph: Graph, layer: str | None) -> Graph:
    """The network up to a layer."""
    position = place_of(graph, layer)
    return lean(replace(graph, steps=graph.steps[: position + 1]))


def _ascent(network: Graph, image: torch.Tensor, channel: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of the filter's mean activation, and the activation."""
    with torch.enable_grad():
        inputs = image.detach().requires_grad_(True)
        features = network.run(inputs)
        if not 0 <= channel < features.shape[1]:
            raise InputError(
                f"there is no filter {channel}: the layer has 0 to {features.shape[1] - 1}"
            )
        activation = features[:, channel].mean()
        (gradient,) = torch.autograd.grad(activation, inputs)
    return gradient, activation.detach()


def _size(gradient: torch.Tensor) -> torch.Tensor:
    """Root mean square; for a filter that does not answer, one."""
    size = gradient.square().mean().sqrt()
    return torch.where(size > 0, size, torch.ones_like(size))


def _shifts(image: torch.Tensor, jitter: int, generator: torch.Generator) -> list[int]:
    axes = len(_axes(image))
    return [int(s) for s in torch.randint(-jitter, jitter + 1, (axes,), generator=generator)]


def _axes(image: torch.Tensor) -> tuple[int, ...]:
    return tuple(range(2, image.dim()))


def _check(*, steps: int, learning_rate: float, blur_sigma: float, jitter: int) -> None:
    if steps < 1:
        raise InputError(f"feature_visualisation: steps must be 1 or more, not {steps}")
    if learning_rate <= 0:
        raise InputError(
            f"feature_visualisation: learning_rate must be above 0, not {learning_rate}"
        )
    for name, value in (("blur_sigma", blur_sigma), ("jitter", jitter)):
        if value < 0:
            raise InputError(f"feature_visualisation: {name} must be 0 or more, not {value}")
