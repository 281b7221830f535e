"""A network as a list of steps, each one module, read with torch.fx.

Whatever a network calls (its layers, ``torch.relu``, ``+``, ``torch.cat``, ``x.flatten(1)``) is
turned into a module of a small vocabulary, so that those who walk the steps need to know modules
only. Nothing is hooked into the network or changed in it: a step holds the network's own layer.
"""

import operator
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from models.attribution.kinds import DROPOUTS, is_hooked, runs_as
from models.errors import InputError

IMAGE = -1  # the network's input among the inputs of a step


class Add(nn.Module):
    """Sum of its inputs: the end of a residual branch."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Sum of the inputs."""
        return sum(inputs[1:], start=inputs[0])


class Concatenate(nn.Module):
    """Inputs side by side along an axis."""

    def __init__(self, dim: int = 0):
        super().__init__()
        self.dim = dim

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Inputs side by side."""
        return torch.cat(inputs, self.dim)


class Mean(nn.Module):
    """Mean over axes, as in global average pooling."""

    def __init__(self, dim: Any, keepdim: bool = False):
        super().__init__()
        self.dim, self.keepdim = dim, keepdim

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """Mean over the axes."""
        return a.mean(self.dim, self.keepdim)


class Rearrange(nn.Module):
    """A method of the tensor that moves its values without changing them (view, permute, ...)."""

    def __init__(self, method: str, *arguments: Any):
        super().__init__()
        self.method, self.arguments = method, arguments

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """Values in another order or shape; the batch keeps its size."""
        values = [len(a) if value is _BATCH else value for value in self.arguments]
        return getattr(a, self.method)(*values)


@dataclass(frozen=True)
class Step:
    """One module of a network and the steps that feed it.

    Attributes
    ----------
    name : str
        Where the module is in the network, for messages.
    module : nn.Module
        The network's own layer, or a module of this file for a function.
    inputs : tuple of int
        Positions of the steps whose results it takes; :data:`IMAGE` is the network's input.
    """

    name: str
    module: nn.Module
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """The steps of a network in the order in which they run; the last one gives the result."""

    steps: tuple[Step, ...]

    def last_uses(self) -> list[int]:
        """Position of the last step that takes each step's result; its own where none does."""
        last = list(range(len(self.steps)))
        for position, step in enumerate(self.steps):
            for source in step.inputs:
                if source != IMAGE:
                    last[source] = position
        return last

    def consumers(self) -> list[list[int]]:
        """Positions of the steps that take each step's result."""
        takers: list[list[int]] = [[] for _ in self.steps]
        for position, step in enumerate(self.steps):
            for source in step.inputs:
                if source != IMAGE:
                    takers[source].append(position)
        return takers

    def run(
        self,
        image: torch.Tensor,
        substitute: Callable[[nn.Module], Callable[..., torch.Tensor]] = lambda module: module,
    ) -> torch.Tensor:
        """Result of the network, ``substitute(module)`` run in the place of every module."""
        results: dict[int, torch.Tensor] = {IMAGE: image}
        last = self.last_uses()
        for position, step in enumerate(self.steps):
            inputs = [results[source] for source in step.inputs]
            results[position] = substitute(step.module)(*inputs)
            for source in set(step.inputs) - {IMAGE}:
                if last[source] == position:
                    del results[source]
        return results[len(self.steps) - 1]


def read(model: nn.Module) -> Graph:
    """Steps of a feed-forward network with one input.

    Layers of torch, subclasses that run as they do, and :data:`LEAVES` are steps; others are
    looked into.

    Parameters
    ----------
    model : nn.Module
        Left as it is. Arguments beside the image keep their defaults.

    Raises
    ------
    models.errors.InputError
        torch.fx cannot follow the network (its course depends on the data), or the network calls
        something that is not in the vocabulary; the message names it.
    """
    if is_hooked(model):
        raise InputError(
            f"{type(model).__name__} has a hook on the whole network, which cannot be read as a "
            "layer: remove it, or put what it does into a module"
        )
    if _is_leaf(model):
        return Graph((Step(type(model).__name__, model, (IMAGE,)),))
    try:
        traced = _Tracer().trace(model, _defaults(model))
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} cannot be read as a list of layers: {error} "
            "(torch.fx follows plain feed-forward code; put what depends on the data into a "
            "module of its own)"
        ) from error
    return Graph(tuple(_steps(traced, dict(model.named_modules()))))


def is_rearrangement(module: nn.Module) -> bool:
    """Whether a module says of itself (``rearranges``) that it only moves or leaves out values."""
    return bool(getattr(module, "rearranges", False))


def without_normaliser(graph: Graph) -> Graph:
    """The same without a sigmoid or softmax at its end: scores are explained before it.

    What only gives another shape to the probabilities does not hide it.
    """
    steps = list(graph.steps)
    while len(steps) > 1 and isinstance(steps[-1].module, NORMALISERS):
        if steps[-1].inputs != (len(steps) - 2,):
            break
        steps.pop()
    place = len(steps) - 1
    while place > 0 and isinstance(steps[place].module, SHAPING):
        place = steps[place].inputs[0]
        if place != IMAGE and isinstance(steps[place].module, NORMALISERS):
            steps[place] = replace(steps[place], module=nn.Identity())
    return Graph(tuple(steps))


# --- how torch.fx sees the network ---------------------------------------------------------------

# Kinds of modules of one's own that are taken whole; those with a rule of their own are.
LEAVES: set[type[nn.Module]] = set()
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
SHAPING = (nn.Flatten, nn.Unflatten, nn.Identity, *DROPOUTS, Rearrange)
NORMALISERS = (nn.Sigmoid, nn.Softmax, nn.LogSoftmax, nn.LogSigmoid)
_BATCH = object()  # stands for the size of the batch in the arguments of a view


def _is_leaf(module: nn.Module) -> bool:
    if isinstance(module, CONTAINERS):
        return False
    if is_rearrangement(module) or isinstance(module, tuple(LEAVES)):
        return True
    return any(
        kind.__module__.startswith("torch.nn.modules") and kind is not nn.Module
        for kind in type(module).__mro__
        if issubclass(kind, nn.Module) and runs_as(module, kind)
    )


def _defaults(model: nn.Module) -> dict[str, Any]:
    """Values of the arguments beside the image, where they have any."""
    _, *others = signature(model.forward).parameters.values()
    return {one.name: one.default for one in others if one.default is not one.empty}


class _Proxy(fx.Proxy):
    """A result in the making that tells ``x += y`` from ``x + y``."""

    def __iadd__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_leaf(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def _steps(traced: fx.Graph, modules: dict[str, nn.Module]) -> Iterator[Step]:
    images = [node for node in traced.nodes if node.op == "placeholder"]
    positions: dict[fx.Node, int] = dict.fromkeys(images, IMAGE)
    _follow_writes(traced, modules)
    (result,) = next(node for node in traced.nodes if node.op == "output").args
    if not isinstance(result, fx.Node):
        raise InputError("a network with one result, a tensor of scores, is needed")
    needed = _needed(traced, result)
    if len([image for image in images if image in needed]) != 1:
        raise InputError("a network with one input is needed")
    for node in needed:
        if node in positions or _is_batch_size(node) or _is_shape(node):
            continue
        sources = [source for source in _tensors(node) if not _is_batch_size(source)]
        missing = [source for source in sources if source not in positions]
        if missing:
            raise InputError(f"'{node.name}' takes '{missing[0].name}', which is not a tensor")
        own = node.op == "call_module"
        module = _out_of_place(modules[str(node.target)]) if own else _function(node)
        name = str(node.target) if own else node.name
        yield Step(name, module, tuple(positions[source] for source in sources))
        positions[node] = len(positions) - len(images)


def _out_of_place(module: nn.Module) -> nn.Module:
    """The module, or a copy that leaves its input alone where it would write into it."""
    if not getattr(module, "inplace", False):
        return module
    module = copy(module)
    module.inplace = False  # type: ignore[assignment]
    return module


def _follow_writes(traced: fx.Graph, modules: dict[str, nn.Module]) -> None:
    """Let whatever runs after a node that writes into its input take the node's result instead."""
    later = set(traced.nodes)
    for node in list(traced.nodes):
        later.discard(node)
        if _writes(node, modules):
            written = node.all_input_nodes[0]
            written.replace_all_uses_with(node, delete_user_cb=later.__contains__)


def _writes(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node changes the tensor that it is given."""
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    name = getattr(node.target, "__name__", str(node.target))
    positional = node.target in (F.relu, F.elu, F.leaky_relu) and node.args[-1] is True
    by_name = node.kwargs.get("inplace") is True
    own = name.endswith("_") and not name.startswith("_")
    called = node.op in ("call_function", "call_method")
    return called and (own or by_name or positional or node.target is operator.iadd)


def _needed(traced: fx.Graph, result: fx.Node) -> list[fx.Node]:
    """Nodes that the result depends on, in order."""
    wanted, open_nodes = {result}, [result]
    while open_nodes:
        fresh = [node for node in open_nodes.pop().all_input_nodes if node not in wanted]
        wanted.update(fresh)
        open_nodes += fresh
    return [node for node in traced.nodes if node in wanted]


def _tensors(node: fx.Node) -> list[fx.Node]:
    """Nodes a node takes, in order, one mentioned twice (x + x) twice."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), found.append)
    return found


def _is_shape(node: fx.Node) -> bool:
    return (node.op == "call_function" and node.target is getattr and node.args[1] == "shape") or (
        node.op == "call_method" and node.target == "size" and len(node.args) == 1
    )


def _is_batch_size(node: fx.Node) -> bool:
    if node.op == "call_method" and node.target == "size":
        return node.args[1:] == (0,)
    first = node.op == "call_function" and node.target is operator.getitem and node.args[1] == 0
    return bool(first and isinstance(node.args[0], fx.Node) and _is_shape(node.args[0]))


def _function(node: fx.Node) -> nn.Module:
    """The module that does what a function or a method does."""
    maker = VOCABULARY.get(node.target) if node.op in ("call_function", "call_method") else None
    if maker is None:
        called = getattr(node.target, "__name__", node.target)
        raise InputError(
            f"the network calls '{called}' ({node.name}), which is not known here: make it a "
            "torch.nn module, or a module of your own with a rule "
            "(models.attribution.layers.register)"
        )
    return maker(node)


def _plain(value: Any) -> Any:
    """Arguments with the marker of the batch's size where the network asks for it."""
    if isinstance(value, fx.Node):
        if not _is_batch_size(value):
            raise InputError(f"the network computes '{value.name}' as a size: write it as a number")
        return _BATCH
    return type(value)(map(_plain, value)) if isinstance(value, list | tuple) else value


def _keywords(node: fx.Node, *names: str) -> dict[str, Any]:
    """Arguments after the first by the names they have, in the order of ``names``."""
    given = dict(zip(names, node.args[1:], strict=False))
    spelled = {"dim" if key == "axis" else key: value for key, value in node.kwargs.items()}
    unknown = sorted(set(spelled) - {*names, *IGNORED})
    if unknown:
        raise InputError(f"'{node.name}': the argument '{unknown[0]}' is not known here")
    return {key: value for key, value in (given | spelled).items() if key in names}


def _made(kind: type[nn.Module], *names: str) -> Callable[[fx.Node], nn.Module]:
    return lambda node: kind(**_keywords(node, *names))


def _rearrangement(node: fx.Node) -> nn.Module:
    if node.kwargs:
        raise InputError(f"'{node.name}': give the arguments of {node.target} by position")
    arguments = _plain(node.args[1:])
    if len(arguments) == 1 and isinstance(arguments[0], list | tuple):
        arguments = tuple(arguments[0])
    method = node.target if isinstance(node.target, str) else node.target.__name__
    # What is computed here may lie in another order in memory than the network's own.
    return Rearrange("reshape" if method == "view" else method, *arguments)


def _sum(node: fx.Node) -> nn.Module:
    if len(_tensors(node)) != 2 or node.kwargs:
        raise InputError(f"'{node.name}': only two results of the network can be added")
    return Add()


def _mean(node: fx.Node) -> nn.Module:
    keywords = _keywords(node, "dim", "keepdim")
    if "dim" not in keywords:
        raise InputError(f"'{node.name}': a mean needs axes, so that people are not mixed")
    return Mean(**keywords)


def _cat(node: fx.Node) -> nn.Module:
    keywords = _keywords(node, "dim")
    if keywords.get("dim", 0) == 0:
        raise InputError(f"'{node.name}' joins people (axis 0): name another axis")
    return Concatenate(**keywords)


# Of functions, and without effect on the result in evaluation mode.
IGNORED = ("input", "tensors", "inplace", "training", "p", "return_indices", "_stacklevel", "dtype")
_MAX = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_AVERAGE = (
    "kernel_size",
    "stride",
    "padding",
    "ceil_mode",
    "count_include_pad",
    "divisor_override",
)


def _flatten(node: fx.Node) -> nn.Module:
    keywords = {"start_dim": 0} | _keywords(node, "start_dim", "end_dim")
    return nn.Flatten(**keywords)


# What a network may call beside modules: torch's name -> how to make the module of it.
VOCABULARY: dict[Any, Callable[[fx.Node], nn.Module]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _sum),
    **dict.fromkeys((torch.cat, torch.concat), _cat),
    **dict.fromkeys((F.relu, torch.relu, F.relu_, torch.relu_, "relu", "relu_"), _made(nn.ReLU)),
    F.elu: _made(nn.ELU, "alpha"),
    F.leaky_relu: _made(nn.LeakyReLU, "negative_slope"),
    F.gelu: _made(nn.GELU, "approximate"),
    **dict.fromkeys((torch.tanh, F.tanh, "tanh"), _made(nn.Tanh)),
    **dict.fromkeys((torch.sigmoid, F.sigmoid, "sigmoid"), _made(nn.Sigmoid)),
    **dict.fromkeys((torch.softmax, F.softmax, "softmax"), _made(nn.Softmax, "dim")),
    **dict.fromkeys((torch.log_softmax, F.log_softmax, "log_softmax"), _made(nn.LogSoftmax, "dim")),
    **dict.fromkeys(
        (F.dropout, F.dropout2d, F.dropout3d, F.alpha_dropout, "contiguous"), _made(nn.Identity)
    ),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _made(nn.MaxPool2d, *_MAX)),
    **dict.fromkeys((F.max_pool3d, torch.max_pool3d), _made(nn.MaxPool3d, *_MAX)),
    F.avg_pool2d: _made(nn.AvgPool2d, *_AVERAGE),
    F.avg_pool3d: _made(nn.AvgPool3d, *_AVERAGE),
    F.adaptive_avg_pool2d: _made(nn.AdaptiveAvgPool2d, "output_size"),
    F.adaptive_avg_pool3d: _made(nn.AdaptiveAvgPool3d, "output_size"),
    **dict.fromkeys((torch.mean, "mean"), _mean),
    **dict.fromkeys((torch.flatten, "flatten"), _flatten),
    **dict.fromkeys(
        ("view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", torch.reshape),
        _rearrangement,
    ),
    **dict.fromkeys(
        (torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze), _rearrangement
    ),
}
