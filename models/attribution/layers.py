"""A network as relevance sees it: linear maps with a bias, poolings, and what only passes on.

:func:`relevance_nodes` reads a network into nodes. BatchNorm is folded into copies of the weights
before it. A max-pooling that follows a convolution is joined to it, and the activation between
the two moves behind the pooling: both orders pick the same winner, because the activation is
monotone, and only the winners need to be remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from models.attribution.convolution import Geometry, adjoint, channels_last, convolve
from models.attribution.graph import (
    IMAGE,
    LEAVES,
    Add,
    Concatenate,
    Graph,
    Mean,
    Rearrange,
    Step,
    is_rearrangement,
    read,
    without_normaliser,
)
from models.attribution.kinds import (
    BATCHNORMS,
    DROPOUTS,
    MAXPOOLS,
    is_hooked,
    is_monotone,
    runs_as,
)
from models.errors import InputError

# What a rule makes of the weights, element by element: their positive part, their square, ...
Version = Callable[[torch.Tensor], torch.Tensor]
# Weights of a fully connected layer that are handled at a time, so that no version of all the
# weights of Nazari 2021 (118 million) exists at once.
DENSE_BLOCK = 2**18


@dataclass
class Affine:
    """A linear map of its input, ``op(a, weight)``, plus a bias.

    ``weight`` and ``bias`` are the network's or folded copies, never written to. Results of several
    versions of the weights are stacked along the channels.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    pool: MaxPool | None = None
    kind = "sum"
    axis = 1

    def op(self, a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The map with another weight of the same shape; linear in both."""
        raise NotImplementedError

    def adjoint(self, shape: torch.Size, s: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Adjoint of ``op`` applied to ``s``; the result has the input's ``shape``."""
        zero = torch.zeros(shape, dtype=s.dtype, device=s.device)
        return torch.func.vjp(lambda a: self.op(a, weight), zero)[1](s)[0]

    def parts(self, a: torch.Tensor, versions: Sequence[Version]) -> Sequence[torch.Tensor]:
        """Results with each version of the weights, without bias."""
        return [self.op(a, version(self.weight)) for version in versions]

    def pull(
        self, shape: torch.Size, stacked: torch.Tensor, versions: Sequence[Version]
    ) -> torch.Tensor:
        """Sum over the versions of the adjoint, each applied to its part of ``stacked``."""
        below: torch.Tensor | None = None
        for s, version in zip(stacked.chunk(len(versions), self.axis), versions, strict=True):
            one = self.adjoint(shape, s, version(self.weight))
            below = one if below is None else below.add_(one)
        assert below is not None
        return below

    def spread_bias(self, like: torch.Tensor) -> torch.Tensor:
        """Bias shaped to be added to a result; zero where there is none."""
        if self.bias is None:
            return like.new_zeros(())
        return self.bias.reshape(1, -1, *[1] * (like.dim() - 2))

    def spread_evenly(self, shape: torch.Size, merged: torch.Tensor) -> torch.Tensor:
        """Adjoint with all weights one, of values that were summed over the channels."""
        channels = self.weight.shape[0]
        every = merged.expand(-1, channels, *merged.shape[2:]) / channels
        return self.adjoint(shape, every, torch.ones_like(self.weight))

    @property
    def mixes(self) -> bool:
        """Whether every result sees all channels, so that even shares need their sum only."""
        return False

    def taps(self, a: torch.Tensor) -> torch.Tensor:
        """Number of inputs inside the image of each result, broadcast over people."""
        return self.op(torch.ones_like(a[:1]), torch.ones_like(self.weight))

    def scaled(self, scale: torch.Tensor, shift: torch.Tensor) -> Affine:
        """The map followed by ``scale * z + shift`` per channel."""
        weight = self.weight * scale.reshape(-1, *[1] * (self.weight.dim() - 1))
        bias = shift if self.bias is None else self.bias * scale + shift
        return replace(self, weight=weight, bias=bias)


@dataclass
class Dense(Affine):
    """A fully connected layer."""

    kind = "linear"
    axis = -1

    def op(self, a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Product with the weights (outputs, inputs) along the last axis."""
        return F.linear(a, weight)

    def adjoint(self, shape: torch.Size, s: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Product with the transposed weights."""
        return s @ weight

    def parts(self, a: torch.Tensor, versions: Sequence[Version]) -> Sequence[torch.Tensor]:
        """Summed over blocks of inputs."""
        blocks = list(zip(a.split(self._block, -1), self._blocks(), strict=True))
        return [sum(F.linear(x, version(w)) for x, w in blocks) for version in versions]  # type: ignore[misc]

    def pull(
        self, shape: torch.Size, stacked: torch.Tensor, versions: Sequence[Version]
    ) -> torch.Tensor:
        """Block of inputs after block."""
        pull = super().pull
        if self.weight.numel() <= DENSE_BLOCK:
            return pull(shape, stacked, versions)
        return torch.cat(
            [replace(self, weight=w).pull(shape, stacked, versions) for w in self._blocks()], -1
        )

    def _blocks(self) -> Sequence[torch.Tensor]:
        return self.weight.split(self._block, 1)

    @property
    def _block(self) -> int:
        return max(1, DENSE_BLOCK // len(self.weight))

    def spread_bias(self, like: torch.Tensor) -> torch.Tensor:
        """Bias along the last axis."""
        return like.new_zeros(()) if self.bias is None else self.bias

    @property
    def mixes(self) -> bool:
        """Always."""
        return True

    def taps(self, a: torch.Tensor) -> torch.Tensor:
        """Every result has all inputs."""
        return a.new_full((1,) * a.dim(), a.shape[-1])

    def spread_evenly(self, shape: torch.Size, merged: torch.Tensor) -> torch.Tensor:
        """The same for every input."""
        return merged.expand(shape)


@dataclass
class Convolution(Affine):
    """A convolution or transposed convolution with zero padding, in 1D to 3D."""

    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    kind = "conv"

    def op(self, a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Convolution without bias."""
        if self.transposed:
            return torch.convolution(a, weight, None, *self._transposed)
        return convolve(a, weight, None, self._geometry)

    def adjoint(self, shape: torch.Size, s: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Convolution's gradient with respect to its input."""
        if not self.transposed:
            return adjoint(s, shape, weight, self._geometry)
        like = s.new_empty(1).expand(shape)
        backward = torch.ops.aten.convolution_backward
        return backward(s, like, weight, None, *self._transposed, (True, False, False))[0]

    def parts(self, a: torch.Tensor, versions: Sequence[Version]) -> Sequence[torch.Tensor]:
        """One convolution with the weights side by side."""
        if self.groups > 1:
            return super().parts(a, versions)
        return self.op(a, self._side_by_side(versions)).chunk(len(versions), 1)

    def pull(
        self, shape: torch.Size, stacked: torch.Tensor, versions: Sequence[Version]
    ) -> torch.Tensor:
        """One adjoint convolution of everything side by side."""
        if self.groups > 1:
            return super().pull(shape, stacked, versions)
        return self.adjoint(shape, stacked, self._side_by_side(versions))

    def _side_by_side(self, versions: Sequence[Version]) -> torch.Tensor:
        weights = [version(self.weight) for version in versions]
        # Also those of a single channel have to keep their layout, which torch.cat would lose.
        return channels_last(torch.cat(weights, int(self.transposed)))

    @property
    def mixes(self) -> bool:
        """Unless channels are grouped."""
        return self.groups == 1

    def spread_evenly(self, shape: torch.Size, merged: torch.Tensor) -> torch.Tensor:
        """Sums over boxes of one channel."""
        below = self._boxes(shape, merged) if self._is_plain else self._one_channel(shape, merged)
        return below.expand(shape)

    def _one_channel(self, shape: torch.Size, merged: torch.Tensor) -> torch.Tensor:
        ones = torch.ones_like(self.weight[:1, :1])
        return self.adjoint(torch.Size((shape[0], 1, *shape[2:])), merged, ones)

    def _boxes(self, shape: torch.Size, merged: torch.Tensor) -> torch.Tensor:
        """The adjoint of a box of ones, axis after axis: what a result has, its inputs get."""
        for axis, (taps, pad) in enumerate(
            zip(self.weight.shape[2:], self.padding, strict=True), start=2
        ):
            padded, n = list(merged.shape), merged.shape[axis]
            padded[axis] = n + taps - 1
            spread = merged.new_zeros(padded)
            for tap in range(taps):
                spread.narrow(axis, tap, n).add_(merged)
            merged = spread.narrow(axis, pad, shape[axis])
        return merged

    @property
    def _is_plain(self) -> bool:
        steps = {*self.stride, *self.dilation}
        return steps == {1} and not self.transposed

    def taps(self, a: torch.Tensor) -> torch.Tensor:
        """Counted with one channel, or not at all without padding."""
        per_channel = a.shape[1] // self.groups
        if not any(self.padding) and not self.transposed:
            return a.new_full((1,) * a.dim(), per_channel * prod(self.weight.shape[2:]))
        ones = torch.ones_like(self.weight[:1, :1])
        return replace(self, groups=1).op(torch.ones_like(a[:1, :1]), ones) * per_channel

    def scaled(self, scale: torch.Tensor, shift: torch.Tensor) -> Affine:
        """As in :class:`Affine`, along the axis of the output channels."""
        if not self.transposed:
            return super().scaled(scale, shift)
        # (inputs of all groups, results of a group, ...)
        grouped = self.weight.unflatten(0, (self.groups, -1))
        scales = scale.reshape(self.groups, 1, -1, *[1] * (self.weight.dim() - 2))
        weight = (grouped * scales).flatten(0, 1)
        bias = shift if self.bias is None else self.bias * scale + shift
        return replace(self, weight=weight, bias=bias)

    @property
    def _geometry(self) -> Geometry:
        return Geometry(self.stride, self.padding, self.dilation, self.groups)

    @property
    def _transposed(self) -> tuple[Any, ...]:
        geometry = self.stride, self.padding, self.dilation
        return *geometry, True, self.output_padding, self.groups


@dataclass
class Mapping(Affine):
    """Any linear function without weights of its own (an average); ``weight`` is a factor."""

    function: Callable[[torch.Tensor], torch.Tensor] = torch.clone

    def op(self, a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Function times factor."""
        return weight * self.function(a)

    def taps(self, a: torch.Tensor) -> torch.Tensor:
        """Weights of an average add up to what they are."""
        return self.function(torch.ones_like(a[:1]))


@dataclass
class Padded(Affine):
    """A convolution whose image is padded in another way than with zeros all round."""

    convolution: Convolution = field(kw_only=True)
    pad: Callable[[torch.Tensor], torch.Tensor] = field(kw_only=True)
    kind = "conv"

    def op(self, a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Padding, then the convolution."""
        return self.convolution.op(self.pad(a), weight)


@dataclass
class Scaling(Affine):
    """BatchNorm that does not follow a weighted layer: a factor and a shift per channel."""

    def op(self, a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Every channel times its factor."""
        return a * weight.reshape(1, -1, *[1] * (a.dim() - 2))

    def adjoint(self, shape: torch.Size, s: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The same: a diagonal map."""
        return self.op(s, weight)

    def taps(self, a: torch.Tensor) -> torch.Tensor:
        """Every result has one input."""
        return a.new_ones((1,) * a.dim())


@dataclass
class Summing(Affine):
    """A sum of branches; its input holds them side by side, (N, branches, ...)."""

    def op(self, a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Weighted sum of the branches."""
        return (a * weight.reshape(1, -1, *[1] * (a.dim() - 2))).sum(1)

    def adjoint(self, shape: torch.Size, s: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The sum's value, handed to every branch."""
        return s.unsqueeze(1) * weight.reshape(1, -1, *[1] * (len(shape) - 2))


@dataclass
class Passing:
    """Hands the relevance of every unit to the unit it came from."""

    module: nn.Module

    def backward(self, shape: torch.Size, relevance: torch.Tensor) -> torch.Tensor:
        """Relevance in the input's shape; for what only moves values, their way back."""
        if not isinstance(self.module, Rearrange) and not is_rearrangement(self.module):
            return relevance.reshape(shape)
        zero = torch.zeros(shape, dtype=relevance.dtype, device=relevance.device)
        return torch.func.vjp(self.module, zero)[1](relevance)[0]


@dataclass
class MaxPool:
    """All relevance of a window goes to its first maximum."""

    module: nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d

    def forward(self, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maxima and the flat spatial position of each."""
        m, pool = self.module, (F.max_pool1d, F.max_pool2d, F.max_pool3d)[a.dim() - 3]
        geometry = m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode
        return pool(a, *geometry, return_indices=True)


@dataclass
class Joining:
    """Several inputs side by side along an axis."""

    module: Concatenate


Layer = Affine | Passing | MaxPool | Joining


# --- reading a network ---------------------------------------------------------------------------


@dataclass
class Node:
    """One layer, the names of the modules it stands for, and the nodes that feed it."""

    layer: Layer
    names: list[str]
    inputs: tuple[int, ...]


def relevance_nodes(
    model: nn.Module, *, batchnorm: str = "fold", swap: bool = True, layer: str = ""
) -> list[Node]:
    """Nodes of a network in the order in which they run; the last one gives the scores.

    Parameters
    ----------
    model : nn.Module
        One input, one result (N, outputs); a sigmoid or softmax at its end is left out.
    batchnorm : {"fold", "pass"}
        Whether BatchNorm becomes part of the layer before it, or hands relevance on unchanged.
    swap : bool
        Whether a pooling may change places with the activation before it. The winner is the same
        but in windows where ReLU leaves nothing, which only blind rules give relevance to, and
        what hands on the relevance of something that it made of nothing; then nothing is swapped.
    layer : str
        Name of a module to end with instead of the scores.

    Raises
    ------
    models.errors.InputError
        A module without a rule, named with what to do.
    """
    if batchnorm not in ("fold", "pass"):
        raise InputError(f"LRP batchnorm is fold or pass, not '{batchnorm}'")
    graph = without_normaliser(read(model))
    if layer:
        graph = _up_to(graph, layer)
    lifting = LIFTING if batchnorm == "fold" else (*LIFTING, *BATCHNORMS)
    swap = swap and not any(isinstance(step.module, lifting) for step in graph.steps)
    reader = _Reader(graph, _float_like(model), fold=batchnorm == "fold", swap=swap)
    for position, step in enumerate(graph.steps):
        reader.take(position, step)
    return reader.nodes[: reader.place[len(graph.steps) - 1] + 1]


def exact(values: torch.Tensor) -> torch.Tensor:
    """Detached, and in float32 at least: quotients overflow in half precision."""
    values = values.detach()
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _up_to(graph: Graph, layer: str) -> Graph:
    names = [step.name for step in graph.steps]
    if layer not in names:
        raise InputError(f"the network has no layer '{layer}'; it has: {', '.join(names)}")
    return Graph(graph.steps[: names.index(layer) + 1])


def _float_like(model: nn.Module) -> torch.Tensor:
    """An empty tensor of the network's dtype and device."""
    own = next((p for p in model.parameters()), torch.empty(0))
    return exact(own).new_empty(0)


class _Reader:
    """Turns steps into nodes; ``place`` says which node holds the result of a step."""

    def __init__(self, graph: Graph, like: torch.Tensor, *, fold: bool, swap: bool):
        self.nodes: list[Node] = []
        self.consumers = graph.consumers()
        self.place: dict[int, int] = {IMAGE: IMAGE}
        self.steps_of: list[int] = []  # last step of each node
        self.like, self.fold = like, fold
        self.swap = swap

    def take(self, position: int, step: Step) -> None:
        """Add the step's node, or make it part of an earlier one."""
        joined = self._joined(step)
        if joined is None:
            inputs = tuple(self.place[source] for source in step.inputs)
            self.nodes.append(Node(self._layer(step), [step.name], inputs))
            self.steps_of.append(position)
            joined = len(self.nodes) - 1
        self.place[position] = joined
        self.steps_of[joined] = position

    def _joined(self, step: Step) -> int | None:
        """Node of which the step became a part."""
        if isinstance(step.module, BATCHNORMS) and self.fold:
            return self._fold(step)
        if isinstance(step.module, MAXPOOLS):
            return self._pool(step)
        return None

    def _alone(self, node: int) -> bool:
        """Whether one step only takes the node's result."""
        return node != IMAGE and len(self.consumers[self.steps_of[node]]) == 1

    def _fold(self, step: Step) -> int | None:
        node = self.place[step.inputs[0]]
        layer = self.nodes[node].layer if self._alone(node) else None
        if not isinstance(layer, Dense | Convolution | Padded) or layer.pool is not None:
            return None
        self.nodes[node].layer = layer.scaled(*_scale_and_shift(step.module))
        self.nodes[node].names.append(step.name)
        return node

    def _pool(self, step: Step) -> int | None:
        node = last = self.place[step.inputs[0]]
        while self._alone(node) and isinstance(self.nodes[node].layer, Passing):
            if not self._keeps_winners(self.nodes[node].layer.module):  # type: ignore[union-attr]
                return None
            node = self.nodes[node].inputs[0]
        layer = self.nodes[node].layer if self._alone(node) else None
        if not isinstance(layer, Convolution | Padded) or layer.pool is not None:
            return None
        layer.pool = MaxPool(step.module)  # type: ignore[arg-type]
        self.nodes[node].names.append(step.name)
        return last

    def _keeps_winners(self, module: nn.Module) -> bool:
        """Whether a pooling finds the same winners before the module as after it."""
        return isinstance(module, (nn.Identity, *DROPOUTS)) or (self.swap and is_monotone(module))

    def _layer(self, step: Step) -> Layer:
        if is_hooked(step.module):
            raise InputError(
                f"layer '{step.name}' has a hook, which LRP cannot explain: remove it (for "
                "weight_norm: torch.nn.utils.remove_weight_norm)"
            )
        if isinstance(step.module, BATCHNORMS) and not self.fold:
            return Passing(deepcopy(step.module).to(self.like.dtype))
        if is_rearrangement(step.module):
            return Passing(step.module)
        kinds = [kind for kind in type(step.module).__mro__ if kind in LAYERS]
        maker = next((LAYERS[kind] for kind in kinds if runs_as(step.module, kind)), None)
        if maker is None:
            raise InputError(
                f"LRP has no rule for layer '{step.name}' ({type(step.module).__name__}): "
                "give it one with models.attribution.layers.register(type, maker)"
            )
        return maker(step.module, self.like)


# --- from modules to layers ----------------------------------------------------------------------

LIFTING = (nn.Sigmoid, nn.Softplus)  # make something of nothing, and hand relevance on to it
MOVING = (*DROPOUTS, nn.Identity, nn.Flatten, nn.Unflatten, Rearrange)  # values stay what they are
PASSING = (
    *(nn.ReLU, nn.ReLU6, nn.PReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU),
    *(nn.Tanh, nn.Sigmoid, nn.Softplus),
    *MOVING,
)


def _dense(module: Any, like: torch.Tensor) -> Layer:
    return Dense(exact(module.weight), _own(module.bias))


def _own(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else exact(bias)


def _convolution(module: Any, like: torch.Tensor) -> Layer:
    weight, bias = channels_last(exact(module.weight)), _own(module.bias)
    dims = weight.dim() - 2
    padding, sides = module.padding, list(module._reversed_padding_repeated_twice)
    if padding == "valid":
        padding = (0,) * dims
    elif padding == "same":
        padding = tuple(sides[::-2])
    other = sides[::2] != sides[1::2] or module.padding_mode != "zeros"
    convolution = Convolution(
        weight,
        bias,
        stride=module.stride,
        padding=(0,) * dims if other else tuple(padding),
        dilation=module.dilation,
        output_padding=module.output_padding,
        groups=module.groups,
        transposed=module.transposed,
    )
    if not other:
        return convolution
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return Padded(weight, bias, convolution=convolution, pad=lambda a: F.pad(a, sides, mode))


def _average(module: nn.Module, like: torch.Tensor) -> Layer:
    return Mapping(like.new_ones(1), function=module)


def _batchnorm(module: Any, like: torch.Tensor) -> Layer:
    return Scaling(*_scale_and_shift(module))


def _scale_and_shift(norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    scale = torch.rsqrt(exact(norm.running_var) + norm.eps)
    shift = -exact(norm.running_mean) * scale
    if norm.affine:
        gain = exact(norm.weight)
        scale, shift = scale * gain, shift * gain + exact(norm.bias)
    return scale, shift


# Type of a module -> maker (module, empty tensor of the network's dtype and device) -> Layer.
LAYERS: dict[type[nn.Module], Callable[[Any, torch.Tensor], Layer]] = {
    nn.Linear: _dense,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _convolution),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _average),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), _average),
    **dict.fromkeys((nn.AdaptiveAvgPool3d, Mean, nn.ZeroPad2d, nn.ZeroPad3d), _average),
    nn.Upsample: _average,
    **dict.fromkeys(BATCHNORMS, _batchnorm),
    **dict.fromkeys(PASSING, lambda module, like: Passing(module)),
    **dict.fromkeys(MAXPOOLS, lambda module, like: MaxPool(module)),
    Add: lambda module, like: Summing(like.new_ones(2)),
    Concatenate: lambda module, like: Joining(module),
}


def register(kind: type[nn.Module], maker: Callable[[Any, torch.Tensor], Layer]) -> None:
    """Give a module of your own a rule.

    Parameters
    ----------
    kind : type
        The module's class; such modules are then taken whole.
    maker : callable
        (module, empty tensor of the network's dtype and device) -> a layer of this file: an
        :class:`Affine` for what is linear, ``Passing(module)`` for an activation.
    """
    LAYERS[kind] = maker
    LEAVES.add(kind)
