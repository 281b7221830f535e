"""A network as stages that can be recomputed for a part of their result.

A stage knows which of its outputs a changed part of its inputs touches, which inputs are needed to
compute a part of its outputs, and how to compute it. Ranges are half-open, one pair per axis, in
voxels of the feature map; they may reach beyond the map, into its padding.

Feature maps are laid out (batch, x, y, z, channels): the values of one voxel lie side by side, so
that boxes are cut out in long runs. What follows a convolution is computed with it: BatchNorm is
folded into its weights, an activation that rises everywhere is applied after max-pooling (fewer
values), and a convolution so cheap that computing is faster than looking up is pooled at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, prod
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from models.attribution.graph import IMAGE, Add, Concatenate, Graph, Mean, Rearrange

Range = tuple[np.ndarray, np.ndarray]  # (windows, axes) low and high
Operation = Callable[..., torch.Tensor]

# Multiply-adds of an output value below which computing it is faster than looking it up.
CHEAP = 27 * 12
# A fully connected layer is split into tiles of its feature map above so many weights.
LARGE_LINEAR = 1 << 23


# --- where a change goes -------------------------------------------------------------------------


class Geometry(Protocol):
    """Ranges of a layer along all axes."""

    def changed(self, low: np.ndarray, high: np.ndarray) -> Range:
        """Outputs that inputs of a range touch."""

    def needed(self, low: np.ndarray, high: np.ndarray) -> Range:
        """Inputs from which outputs of a range are computed."""

    def origin(self, low: np.ndarray) -> np.ndarray:
        """First output that is computed from inputs that begin at ``low``."""


@dataclass(frozen=True)
class Sliding:
    """A convolution's or a pooling's window; arrays with one entry per axis."""

    kernel: np.ndarray
    stride: np.ndarray
    padding: np.ndarray
    dilation: np.ndarray

    @property
    def reach(self) -> np.ndarray:
        """Voxels from the first to the last tap."""
        return (self.kernel - 1) * self.dilation

    def changed(self, low: np.ndarray, high: np.ndarray) -> Range:
        """Outputs whose window meets the range."""
        first = -((self.reach - self.padding - low) // self.stride)
        return first, (high - 1 + self.padding) // self.stride + 1

    def needed(self, low: np.ndarray, high: np.ndarray) -> Range:
        """The windows of the outputs."""
        start = low * self.stride - self.padding
        return start, (high - 1) * self.stride - self.padding + self.reach + 1

    def origin(self, low: np.ndarray) -> np.ndarray:
        """Output whose window begins at the input."""
        return (low + self.padding) // self.stride

    def inside(self, size: np.ndarray, result: np.ndarray) -> bool:
        """Whether no window leaves a map of the size."""
        low, high = self.needed(np.zeros_like(result), result)
        return bool((low >= 0).all() and (high <= size).all())


@dataclass(frozen=True)
class Spreading:
    """A transposed convolution's window."""

    kernel: np.ndarray
    stride: np.ndarray
    padding: np.ndarray
    dilation: np.ndarray

    def changed(self, low: np.ndarray, high: np.ndarray) -> Range:
        """Outputs that the inputs are spread over."""
        reach = (self.kernel - 1) * self.dilation
        start = low * self.stride - self.padding
        return start, (high - 1) * self.stride - self.padding + reach + 1

    def needed(self, low: np.ndarray, high: np.ndarray) -> Range:
        """Inputs that are spread over the outputs, and enough of them to span the range."""
        reach = (self.kernel - 1) * self.dilation
        first = (low + self.padding - reach) // self.stride
        return first, -(-(high - 1 + self.padding) // self.stride) + 1

    def origin(self, low: np.ndarray) -> np.ndarray:
        """First output that the input is spread over."""
        return low * self.stride - self.padding


# --- stages --------------------------------------------------------------------------------------


@dataclass
class Stage:
    """What is computed at once.

    Attributes
    ----------
    name : str
        Of its first step, for messages.
    sources : tuple of int
        Stages it takes; :data:`models.attribution.graph.IMAGE` is the image.
    shape : tuple of int
        Of its result: (channels, x, y, z) of a map, (values, ...) where it is ``flat``.
    flat : bool
        Whether the result is no map, or one that is not computed in parts.
    geometry : list of Geometry
        First to last; empty where the result is flat.
    operations : list of callables
        First to last, on (batch, x, y, z, channels), or (batch, channels, x, y, z) where the
        result is flat; the first takes all sources.
    pad : float
        Value outside the map.
    macs : int
        Multiply-adds per voxel of the first operation's result.
    """

    name: str
    sources: tuple[int, ...]
    shape: tuple[int, ...]
    flat: bool
    geometry: list[Geometry] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    pad: float = 0.0
    macs: int = 0

    @property
    def size(self) -> np.ndarray:
        """Voxels of the result along each axis."""
        return np.array(self.shape[1:])

    def changed(self, low: np.ndarray, high: np.ndarray) -> Range:
        """Outputs that inputs of a range touch."""
        for geometry in self.geometry:
            low, high = geometry.changed(low, high)
        return low, high

    def needed(self, low: np.ndarray, high: np.ndarray) -> Range:
        """Inputs from which outputs of a range are computed."""
        for geometry in reversed(self.geometry):
            low, high = geometry.needed(low, high)
        return low, high

    def origin(self, low: np.ndarray) -> np.ndarray:
        """First output that is computed from inputs that begin at ``low``."""
        for geometry in self.geometry:
            low = geometry.origin(low)
        return low

    def run(self, *boxes: torch.Tensor) -> torch.Tensor:
        """Result from boxes of the sources; may write into what it makes, not into the boxes."""
        value = self.operations[0](*boxes)
        for operation in self.operations[1:]:
            value = operation(value)
        return value


@dataclass
class Weighted(Stage):
    """Sums that are divided by a number that depends on where they are.

    Attributes
    ----------
    weights : tuple of torch.Tensor
        One vector per axis of the result, whose product is the factor.
    """

    weights: tuple[torch.Tensor, ...] = ()


@dataclass
class Average(Stage):
    """Mean over all voxels: follows from the sum of a change."""


@dataclass
class LargeLinear(Stage):
    """Fully connected layer on a map: only the weights of changed voxels are needed.

    Attributes
    ----------
    module : nn.Linear
        The layer.
    """

    module: nn.Linear = field(default_factory=lambda: nn.Linear(1, 1))


# --- operations ----------------------------------------------------------------------------------


class Convolution:
    """A convolution without its padding, BatchNorm folded into it."""

    def __init__(self, module: Any):
        self.module = module
        self.weight: torch.Tensor = module.weight.detach()
        self.bias: torch.Tensor | None = None if module.bias is None else module.bias.detach()
        self.transposed = isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d)
        axes = self.weight.dim() - 2
        name = f"conv_transpose{axes}d" if self.transposed else f"conv{axes}d"
        self.function = getattr(F, name)
        self._last = torch.channels_last_3d if axes == 3 else torch.channels_last
        self._arrange()

    def _arrange(self) -> None:
        # One channel in and few out: the plain layout is the faster one of the library.
        self.plain = self.module.in_channels == 1 and self.module.out_channels < 32
        layout = torch.contiguous_format if self.plain else self._last
        self.weight = self.weight.contiguous(memory_format=layout)

    def fold(self, norm: Any) -> None:
        """Let the convolution do what the normalisation after it does."""
        scale, shift = _normalisation(norm)
        bias = 0 if self.bias is None else self.bias.double()
        broadcast = scale.view(-1, *(1,) * (self.weight.dim() - 1))
        self.bias = (bias * scale + shift).to(self.weight.dtype)
        self.weight = (self.weight.double() * broadcast).to(self.weight.dtype)
        self._arrange()

    def _straight(self, box: torch.Tensor) -> bool:
        """Whether to call oneDNN by name: torch takes a slow way for a small box alone."""
        return (
            not self.transposed
            and box.device.type == "cpu"
            and box.dtype == torch.float32
            and torch.backends.mkldnn.is_available()
        )

    def __call__(self, box: torch.Tensor) -> torch.Tensor:
        """(batch, x, y, z, in) to (batch, ..., out), its windows inside the box."""
        m = self.module
        channels_first = (
            box.reshape(len(box), 1, *box.shape[1:-1]) if self.plain else box.movedim(-1, 1)
        )
        options = {"stride": m.stride, "dilation": m.dilation, "groups": m.groups}
        if self._straight(box):
            function: Any = torch.mkldnn_convolution
            result = function(
                channels_first, self.weight, self.bias, padding=(0,) * len(m.stride), **options
            )
        else:
            result = self.function(channels_first, self.weight, self.bias, **options)
        return result.movedim(1, -1)


def _normalisation(norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift, float64, of a BatchNorm in evaluation mode."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


class Pooling:
    """Max or sum over windows, one axis after the other by whole-array operations.

    On boxes this is several times as fast as the library's pooling.
    """

    def __init__(self, window: Sliding, combine: Callable[..., torch.Tensor], scale: float = 1.0):
        self.window, self.combine, self.scale = window, combine, scale

    def __call__(self, box: torch.Tensor) -> torch.Tensor:
        """(batch, x, y, z, channels), its windows inside the box."""
        for axis, (kernel, stride, dilation) in enumerate(
            zip(self.window.kernel, self.window.stride, self.window.dilation, strict=True), 1
        ):
            box = self._along(box, axis, int(kernel), int(stride), int(dilation))
        if (self.window.kernel == 1).all():
            box = box.clone()  # the result must not be a part of what was given
        return box if self.scale == 1 else box.mul_(self.scale)

    def _along(
        self, box: torch.Tensor, axis: int, kernel: int, stride: int, dilation: int
    ) -> torch.Tensor:
        count = (box.shape[axis] - (kernel - 1) * dilation - 1) // stride + 1
        before = (slice(None),) * axis
        taps = [
            box[(*before, slice(tap, tap + (count - 1) * stride + 1, stride))]
            for tap in range(0, kernel * dilation, dilation)
        ]
        if kernel == 1:
            return taps[0]
        result = self.combine(taps[0], taps[1])
        for tap in taps[2:]:
            self.combine(result, tap, out=result)
        return result


def _total(*boxes: torch.Tensor) -> torch.Tensor:
    return sum(boxes[1:], start=boxes[0])


def _side_by_side(*boxes: torch.Tensor) -> torch.Tensor:
    return torch.cat(boxes, -1)


# --- making stages of steps ----------------------------------------------------------------------

RISING = (
    nn.ReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.ReLU6,
    nn.Hardtanh,
    nn.Sigmoid,
    nn.Hardsigmoid,
    nn.LogSigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.Softsign,
)
ELEMENTWISE = (*RISING, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish)
NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
IN_PLACE: dict[type[nn.Module], Callable[[Any], Operation]] = {
    nn.ReLU: lambda _: torch.relu_,
    nn.ELU: lambda module: lambda a: F.elu_(a, module.alpha),
    nn.LeakyReLU: lambda module: lambda a: F.leaky_relu_(a, module.negative_slope),
}


def stages(graph: Graph, image: torch.Tensor) -> list[Stage]:
    """Stages of a network, the last of which gives its scores.

    Parameters
    ----------
    graph : Graph
        The network's steps.
    image : torch.Tensor
        (1, channels, x, y[, z]), for its shape, type and device.
    """
    planner = _Planner(graph, image)
    for position in range(len(graph.steps)):
        planner.add(position)
    return planner.stages


class _Planner:
    def __init__(self, graph: Graph, image: torch.Tensor):
        self.graph, self.image = graph, image
        self.axes = image.dim() - 2
        self.stages: list[Stage] = []
        self.place = {IMAGE: IMAGE}  # step -> stage
        self.takers = graph.consumers()
        self.shared: set[int] = {IMAGE}

    def add(self, position: int) -> None:
        """Make a stage of a step, or let the stage before it do it, too."""
        step = self.graph.steps[position]
        sources = tuple(self.place[source] for source in step.inputs)
        made = self._rule(step.module, sources)(self, step.module, sources)
        if isinstance(made, Stage):
            made.name = step.name
            self.stages.append(made)
        self.place[position] = made if isinstance(made, int) else len(self.stages) - 1
        if len(self.takers[position]) > 1:
            self.shared.add(self.place[position])

    def _rule(self, module: nn.Module, sources: tuple[int, ...]) -> "Rule":
        rules = FLAT_RULES if any(map(self.flat, sources)) else RULES
        return next((rule for kinds, rule in rules if isinstance(module, kinds)), _flat)

    def flat(self, source: int) -> bool:
        """Whether a source is no map."""
        return source != IMAGE and self.stages[source].flat

    def shape(self, source: int) -> tuple[int, ...]:
        """(channels, x, y, z) of a source."""
        return tuple(self.image.shape[1:]) if source == IMAGE else self.stages[source].shape

    def own(self, source: int) -> Stage | None:
        """The stage if nobody else needs its result: it may be extended."""
        last = source == len(self.stages) - 1
        return self.stages[source] if source not in self.shared and last else None

    def values(self, source: int) -> torch.Tensor:
        """Zeros in the shape of a source, in a batch of one."""
        return self.image.new_zeros(1, *self.shape(source))


def _per_axis(value: Any, axes: int) -> np.ndarray:
    return np.array(value if isinstance(value, tuple | list) else (value,) * axes)


def _nothing(planner: _Planner, module: nn.Module, sources: tuple[int, ...]) -> int:
    return sources[0]


def _flat(planner: _Planner, module: Any, sources: tuple[int, ...]) -> Stage:
    """A layer that is run as a whole for every window."""
    with torch.no_grad():
        result = module(*map(planner.values, sources))
    return Stage("", sources, tuple(result.shape[1:]), True, [], [module])


def _pointwise(axes: int) -> Sliding:
    one = np.ones(axes, int)
    return Sliding(one, one, one * 0, one)


def _convolution(planner: _Planner, module: Any, sources: tuple[int, ...]) -> Stage:
    axes = planner.axes
    if module.padding_mode != "zeros" or module.weight.dim() - 2 != axes:
        return _flat(planner, module, sources)
    kernel, stride, dilation = (
        _per_axis(value, axes) for value in (module.kernel_size, module.stride, module.dilation)
    )
    size = np.array(planner.shape(sources[0])[1:])
    reach = (kernel - 1) * dilation
    if isinstance(module.padding, str):
        padding = reach // 2 if module.padding == "same" else reach * 0
        result = size if module.padding == "same" else size - reach
    else:
        padding = _per_axis(module.padding, axes)
        result = (size + 2 * padding - reach - 1) // stride + 1
    operation = Convolution(module)
    return Stage(
        "",
        sources,
        (module.out_channels, *result.tolist()),
        False,
        [Sliding(kernel, stride, padding, dilation)],
        [operation],
        macs=operation.weight.numel(),
    )


def _transposed(planner: _Planner, module: Any, sources: tuple[int, ...]) -> Stage:
    axes = planner.axes
    if module.weight.dim() - 2 != axes:
        return _flat(planner, module, sources)
    kernel, stride, padding, dilation, extra = (
        _per_axis(value, axes)
        for value in (
            module.kernel_size,
            module.stride,
            module.padding,
            module.dilation,
            module.output_padding,
        )
    )
    size = np.array(planner.shape(sources[0])[1:])
    result = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
    operation = Convolution(module)
    return Stage(
        "",
        sources,
        (module.out_channels, *result.tolist()),
        False,
        [Spreading(kernel, stride, padding, dilation)],
        [operation],
        macs=operation.weight.numel() // int(stride.prod()),
    )


def _norm(planner: _Planner, module: Any, sources: tuple[int, ...]) -> "Stage | int":
    stage = planner.own(sources[0])
    if stage is not None and len(stage.operations) == 1:
        convolution = stage.operations[0]
        if isinstance(convolution, Convolution) and not convolution.transposed:
            convolution.fold(module)
            return sources[0]
    dtype = planner.image.dtype
    scale, shift = (value.to(dtype) for value in _normalisation(module))
    return _extend(planner, sources, lambda a: torch.addcmul(shift, a, scale))


def _elementwise(planner: _Planner, module: nn.Module, sources: tuple[int, ...]) -> "Stage | int":
    stage = planner.own(sources[0])
    fresh = stage is not None and isinstance(stage.operations[-1], Convolution | Pooling)
    return _extend(
        planner, sources, _InPlace(module) if fresh and type(module) in IN_PLACE else module
    )


class _InPlace:
    """An activation that writes into what the operation before it made."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.function = IN_PLACE[type(module)](module)

    def __call__(self, box: torch.Tensor) -> torch.Tensor:
        return self.function(box)


def _extend(planner: _Planner, sources: tuple[int, ...], operation: Operation) -> "Stage | int":
    """Let the stage before do it, or make a stage of its own."""
    stage = planner.own(sources[0])
    if stage is not None and type(stage) is Stage:
        stage.operations.append(operation)
        return sources[0]
    shape = planner.shape(sources[0])
    return Stage("", sources, shape, False, [_pointwise(planner.axes)], [operation])


def _rises(operation: Operation) -> bool:
    module = operation.module if isinstance(operation, _InPlace) else operation
    return isinstance(module, RISING) or (
        isinstance(module, nn.LeakyReLU) and module.negative_slope >= 0
    )


def _pooled_size(size: np.ndarray, window: Sliding, module: Any) -> np.ndarray:
    """Voxels after pooling; with ceil_mode the last window still begins inside map or padding."""
    room = size + 2 * window.padding - window.reach - 1
    if not module.ceil_mode:
        return room // window.stride + 1
    result = -(-room // window.stride) + 1
    return result - ((result - 1) * window.stride >= size + window.padding)


def _pooling_window(planner: _Planner, module: Any, sources: tuple[int, ...]) -> Sliding:
    kernel = _per_axis(module.kernel_size, planner.axes)
    stride = kernel if module.stride in (None, ()) else _per_axis(module.stride, planner.axes)
    padding = _per_axis(module.padding, planner.axes)
    dilation = _per_axis(getattr(module, "dilation", 1), planner.axes)
    return Sliding(kernel, stride, padding, dilation)


def _max_pooling(planner: _Planner, module: Any, sources: tuple[int, ...]) -> "Stage | int":
    if module.return_indices:
        return _flat(planner, module, sources)
    window = _pooling_window(planner, module, sources)
    channels, *voxels = planner.shape(sources[0])
    size = np.array(voxels)
    return _maximum(planner, sources, window, (channels, *_pooled_size(size, window, module)))


def _maximum(
    planner: _Planner, sources: tuple[int, ...], window: Sliding, shape: tuple[Any, ...]
) -> "Stage | int":
    shape = tuple(map(int, shape))
    operation, later = Pooling(window, torch.maximum), list[Operation]()
    size = np.array(planner.shape(sources[0])[1:])
    stage = planner.own(sources[0])
    if stage is not None and isinstance(stage.operations[0], Convolution):
        rising = all(map(_rises, stage.operations[1:]))
        if rising:
            stage.operations, later = stage.operations[:1], stage.operations[1:]
        cheap = 0 < stage.macs <= CHEAP * stage.shape[0] and type(stage.geometry[0]) is Sliding
        if cheap and len(stage.geometry) == 1 and window.inside(size, np.array(shape[1:])):
            stage.geometry.append(window)
            stage.operations += [operation, *later]
            stage.shape = shape
            return sources[0]
    return Stage("", sources, shape, False, [window], [operation, *later], pad=-inf)


def _average_pooling(planner: _Planner, module: Any, sources: tuple[int, ...]) -> Stage:
    window = _pooling_window(planner, module, sources)
    channels, *voxels = planner.shape(sources[0])
    size = np.array(voxels)
    result = _pooled_size(size, window, module)
    shape = (channels, *map(int, result))
    counts = _counts(window, module, size, result)
    if module.divisor_override or all(len(np.unique(count)) == 1 for count in counts):
        divisor = module.divisor_override or prod(int(count[0]) for count in counts)
        operation = Pooling(window, torch.add, 1 / divisor)
        return Stage("", sources, shape, False, [window], [operation])
    weights = tuple(planner.image.new_tensor(1 / count) for count in counts)
    sums = Pooling(window, torch.add)
    return Weighted("", sources, shape, False, [window], [sums], weights=weights)


def _counts(window: Sliding, module: Any, size: np.ndarray, result: np.ndarray) -> list[np.ndarray]:
    """Voxels that every window along an axis is divided by."""
    margin = window.padding if module.count_include_pad else 0 * size
    counts = []
    for kernel, stride, padding, n, edge, length in zip(
        window.kernel, window.stride, window.padding, size, margin, result, strict=True
    ):
        start = np.arange(length) * stride - padding
        counts.append(np.minimum(start + kernel, n + edge) - np.maximum(start, -edge))
    return counts


def _adaptive_pooling(planner: _Planner, module: Any, sources: tuple[int, ...]) -> "Stage | int":
    """Equal windows where the map can be divided evenly."""
    channels, *voxels = planner.shape(sources[0])
    wanted = _per_axis(module.output_size, planner.axes)
    result = [n if m is None else int(m) for n, m in zip(voxels, wanted, strict=True)]
    largest = isinstance(module, nn.AdaptiveMaxPool2d | nn.AdaptiveMaxPool3d)
    if prod(result) == 1 and not largest:
        return Average("", sources, (channels, *result), True)
    if any(n % m for n, m in zip(voxels, result, strict=True)) or getattr(
        module, "return_indices", False
    ):
        return _flat(planner, module, sources)
    kernel = np.array(voxels) // np.array(result)
    window = Sliding(kernel, kernel, kernel * 0, kernel * 0 + 1)
    shape = (channels, *result)
    if largest:
        return _maximum(planner, sources, window, shape)
    operation = Pooling(window, torch.add, 1 / float(kernel.prod()))
    return Stage("", sources, shape, False, [window], [operation])


def _mean(planner: _Planner, module: Mean, sources: tuple[int, ...]) -> Stage:
    axes = module.dim if isinstance(module.dim, list | tuple) else (module.dim,)
    rank = planner.axes + 2
    if sorted(axis % rank for axis in axes) != list(range(2, rank)):
        return _flat(planner, module, sources)
    channels = planner.shape(sources[0])[0]
    shape = (channels, *(1,) * planner.axes) if module.keepdim else (channels,)
    return Average("", sources, shape, True)


def _sum(planner: _Planner, module: Add, sources: tuple[int, ...]) -> Stage:
    shapes = {planner.shape(source) for source in sources}
    if len(shapes) > 1:
        return _flat(planner, module, sources)
    return Stage("", sources, shapes.pop(), False, [_pointwise(planner.axes)], [_total])


def _concatenation(planner: _Planner, module: Concatenate, sources: tuple[int, ...]) -> Stage:
    if module.dim % (planner.axes + 2) != 1:
        return _flat(planner, module, sources)
    shapes = [planner.shape(source) for source in sources]
    shape = (sum(channels for channels, *_ in shapes), *shapes[0][1:])
    return Stage("", sources, shape, False, [_pointwise(planner.axes)], [_side_by_side])


def _linear(planner: _Planner, module: nn.Linear, sources: tuple[int, ...]) -> Stage:
    """A large layer on a flattened map takes the map itself."""
    stage = planner.own(sources[0])
    large = module.weight.numel() > LARGE_LINEAR
    if large and stage is not None and _flattens(planner, stage):
        planner.stages.pop()
        return LargeLinear("", stage.sources, (module.out_features,), True, module=module)
    return _flat(planner, module, sources)


def _flattens(planner: _Planner, stage: Stage) -> bool:
    """Whether the stage lays out a map as a vector."""
    if not stage.operations or planner.flat(stage.sources[0]) or len(stage.shape) != 1:
        return False
    (module,) = stage.operations
    return isinstance(module, nn.Flatten) or (
        isinstance(module, Rearrange) and module.method in ("view", "reshape")
    )


Rule = Callable[[_Planner, Any, tuple[int, ...]], "Stage | int"]

# Kinds of modules -> how they become stages, where their inputs are maps; others run as a whole.
RULES: tuple[tuple[tuple[type[nn.Module], ...], Rule], ...] = (
    (NOTHING, _nothing),
    ((nn.Conv2d, nn.Conv3d), _convolution),
    ((nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed),
    ((nn.BatchNorm2d, nn.BatchNorm3d), _norm),
    (ELEMENTWISE, _elementwise),
    ((nn.MaxPool2d, nn.MaxPool3d), _max_pooling),
    ((nn.AvgPool2d, nn.AvgPool3d), _average_pooling),
    (
        (
            nn.AdaptiveAvgPool2d,
            nn.AdaptiveAvgPool3d,
            nn.AdaptiveMaxPool2d,
            nn.AdaptiveMaxPool3d,
        ),
        _adaptive_pooling,
    ),
    ((Mean,), _mean),
    ((Add,), _sum),
    ((Concatenate,), _concatenation),
)
# The same where an input is flat.
FLAT_RULES: tuple[tuple[tuple[type[nn.Module], ...], Rule], ...] = (
    (NOTHING, _nothing),
    ((nn.Linear,), _linear),
)
