"""A network rewritten so that the gradient of its input, and of nothing else, is cheap.

Training needs the gradient of every weight; a heatmap needs that of the image. So weights take no
part in the way back: a convolution keeps nothing for it, a max-pooling the places of its winners.
BatchNorm is folded into the convolution before it, dropout is left out, and an activation that
does not change the order of values moves behind the pooling, where there are fewer.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from models.attribution.convolution import Geometry, adjoint, channels_last, convolve, to_winners
from models.attribution.graph import IMAGE, Graph, Step
from models.attribution.kinds import BATCHNORMS, DROPOUTS, MAXPOOLS, is_hooked, is_monotone


def lean(graph: Graph, *, linear: bool = True) -> Graph:
    """The same function of the image, for networks in eval mode.

    Results differ from those of the network's own layers by rounding only.

    Parameters
    ----------
    graph : Graph
        Its modules are left as they are.
    linear : bool
        Whether an activation's way back is linear. Where it is not (guided backprop), what
        overlapping windows hand to a winner has to be added up first, and they stay where they are.
    """
    graph = _without_dropout(graph)
    takers = graph.consumers()
    steps: list[Step] = []
    place = {IMAGE: IMAGE}
    for position, step in enumerate(graph.steps):
        source = step.inputs[0]
        alone = source != IMAGE and len(takers[source]) == 1
        before = place[source] if alone else IMAGE
        if position == len(graph.steps) - 1 and before != len(steps) - 1:
            before = IMAGE  # the last step gives the result, and so has to stay the last
        inputs = tuple(place[one] for one in step.inputs)
        place[position] = _joined(steps, before, step, linear)
        if place[position] == IMAGE:
            steps.append(Step(step.name, _lean(step.module), inputs))
            place[position] = len(steps) - 1
    return _in_place(Graph(tuple(steps)))


def _joined(steps: list[Step], before: int, step: Step, linear: bool) -> int:
    """Make a step one with the only step that feeds it; where it is now, IMAGE for nowhere."""
    if before == IMAGE:
        return IMAGE
    last = steps[before]
    if isinstance(last.module, Convolution) and _is_fixed_batchnorm(step.module):
        steps[before] = replace(last, module=last.module.scaled(step.module))
        return before
    movable = type(step.module) in MAXPOOLS and (linear or not _overlaps(step.module))
    if movable and is_monotone(last.module):
        steps[before] = Step(step.name, _lean(step.module), last.inputs)
        steps.append(Step(last.name, last.module, (before,)))
        return len(steps) - 1
    return IMAGE


def _without_dropout(graph: Graph) -> Graph:
    steps: list[Step] = []
    place = {IMAGE: IMAGE}
    for position, step in enumerate(graph.steps):
        inputs = tuple(place[source] for source in step.inputs)
        last = position == len(graph.steps) - 1
        if _does_nothing(step.module) and not (last and inputs[0] != len(steps) - 1):
            place[position] = inputs[0]
        else:
            steps.append(Step(step.name, step.module, inputs))
            place[position] = len(steps) - 1
    return Graph(tuple(steps))


def _does_nothing(module: nn.Module) -> bool:
    silent = isinstance(module, DROPOUTS) and not module.training
    return (silent or type(module) is nn.Identity) and not is_hooked(module)


def _is_fixed_batchnorm(module: nn.Module) -> bool:
    return (
        isinstance(module, BATCHNORMS)
        and not module.training
        and module.running_var is not None
        and not is_hooked(module)
    )


def _overlaps(pool: Any) -> bool:
    """Whether a value can win in two windows; assumed of dilated ones."""
    sizes = zip(*(_tuple(n) for n in (pool.kernel_size, pool.stride, pool.dilation)), strict=True)
    return any(size > stride or dilation > 1 for size, stride, dilation in sizes)


def _tuple(number: int | tuple[int, ...]) -> tuple[int, ...]:
    return number if isinstance(number, tuple) else (number,) * 3


def _lean(module: nn.Module) -> nn.Module:
    """The lean counterpart of a layer, or the layer itself."""
    maker = None if is_hooked(module) else LEAN.get(type(module))
    return (maker(module) if maker else None) or module


def _in_place(graph: Graph) -> Graph:
    """Let activations write into the result of a convolution where nobody else needs it."""
    takers = graph.consumers()
    steps = list(graph.steps)
    for position, step in enumerate(steps):
        source = step.inputs[0]
        alone = source != IMAGE and len(takers[source]) == 1
        if alone and isinstance(steps[source].module, Convolution) and is_monotone(step.module):
            module: Any = copy(step.module)
            module.inplace = True
            steps[position] = replace(step, module=module)
    return Graph(tuple(steps))


# --- layers --------------------------------------------------------------------------------------


class Convolution(nn.Module):
    """A convolution with zero padding and fixed weights.

    Parameters
    ----------
    weight : torch.Tensor
        (filters, channels / groups, *kernel).
    bias : torch.Tensor or None
        (filters,).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry):
        super().__init__()
        self.weight, self.bias, self.geometry = channels_last(weight), bias, geometry

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """Convolution."""
        result: torch.Tensor = _Convolve.apply(a, self.weight, self.bias, self.geometry)
        return result

    def scaled(self, norm: Any) -> "Convolution":
        """The same followed by a BatchNorm with running statistics."""
        # At least float32, as BatchNorm itself computes in half precision.
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        scale = torch.rsqrt(norm.running_var.to(dtype) + norm.eps)
        shift = -norm.running_mean * scale
        if norm.affine:
            gain = norm.weight.detach()
            scale, shift = scale * gain, shift * gain + norm.bias.detach()
        weight = self.weight * scale.view(-1, *[1] * (self.weight.dim() - 1))
        bias = shift if self.bias is None else self.bias * scale + shift
        return Convolution(weight.to(self.weight), bias.to(self.weight), self.geometry)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Any, weight: Any, bias: Any, geometry: Geometry) -> Any:
        ctx.shape, ctx.dtype, ctx.weight, ctx.geometry = a.shape, a.dtype, weight, geometry
        return convolve(a, weight, bias, geometry)

    @staticmethod
    def backward(ctx: Any, s: Any) -> Any:
        below = adjoint(s, ctx.shape, ctx.weight.to(s.dtype), ctx.geometry)
        return below.to(ctx.dtype), None, None, None


class Dense(nn.Module):
    """A fully connected layer with fixed weights."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.fixed = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """Product with the weights along the last axis, plus the bias."""
        return F.linear(a, *self.fixed)


class MaxPool(nn.Module):
    """A max-pooling that remembers where its winners were."""

    def __init__(self, layer: nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d):
        super().__init__()
        window = layer.kernel_size, layer.stride, layer.padding, layer.dilation
        self.geometry = *window, layer.ceil_mode

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """Maxima."""
        result: torch.Tensor = _Pool.apply(a, self.geometry)
        return result


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Any, geometry: tuple[Any, ...]) -> Any:
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[a.dim() - 3]
        maxima, winners = pool(a, *geometry, return_indices=True)
        ctx.save_for_backward(winners)
        ctx.shape = a.shape
        return maxima

    @staticmethod
    def backward(ctx: Any, s: Any) -> Any:
        (winners,) = ctx.saved_tensors
        return to_winners(s, winners, ctx.shape), None


def _convolution(module: Any) -> nn.Module | None:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    geometry = Geometry(module.stride, module.padding, module.dilation, module.groups)
    bias = None if module.bias is None else module.bias.detach()
    return Convolution(module.weight.detach(), bias, geometry)


def _max_pool(module: Any) -> nn.Module | None:
    return None if module.return_indices else MaxPool(module)


# Layer -> its lean counterpart, None where this one has none. A subclass may do anything else.
LEAN: dict[type[nn.Module], Callable[[Any], nn.Module | None]] = {
    nn.Linear: Dense,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys(MAXPOOLS, _max_pool),
}
