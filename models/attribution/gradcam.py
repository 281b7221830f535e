"""Grad-CAM: where the features of a convolution speak for a class (Selvaraju et al. 2017)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from models.attribution import Explanation
from models.attribution.derivatives import lean
from models.attribution.gradients import GUIDABLE, Switch, guided, scores_of
from models.attribution.graph import Graph, Step, read, without_normaliser
from models.attribution.kinds import CONVOLUTIONS
from models.attribution.scores import class_score
from models.errors import InputError

INTERPOLATIONS = {1: "linear", 2: "bilinear", 3: "trilinear"}  # by number of spatial axes


def grad_cam(
    model: nn.Module,
    volumes: torch.Tensor,
    target: int,
    *,
    layer: str | None = None,
    at: str = "output",
) -> Explanation:
    """ReLU(sum_k alpha_k A_k), alpha_k the spatial mean of the score's gradient (Eq. 1 and 2).

    A_k are the feature maps of a layer. The result is interpolated linearly to the volume's grid,
    the outer faces of both grids on one another (``align_corners=False``), and is the same for
    every channel of the volume. Convolutions without padding see less at the border than that
    says: the map is right to about half a receptive field.

    Parameters
    ----------
    layer : str, optional
        Name of the layer in the network (``named_modules``), by default the last convolution. Of
        a layer that is used several times, the last time counts.
    at : {"output", "activation"}
        ``output`` takes the layer's own result; ``activation`` what the nonlinearity after it
        makes of that, past BatchNorm and dropout.

    Raises
    ------
    models.errors.InputError
        No such layer (the message lists them), or its result is no map.
    """
    _check_at(at)
    try:
        graph = without_normaliser(read(model))
    except InputError as unreadable:
        features, score = _hooked(model, volumes, target, layer, at, unreadable)
    else:
        tap = Start()
        network = lean(tapped(graph, place_of(graph, layer, at), tap))
        with torch.no_grad():  # up to the layer; Start begins to record
            score = class_score(network.run(volumes), target)
        features = tap.value
    gradient = _gradient_at(features, score, volumes)
    return Explanation(_map(features, gradient, volumes), score.detach(), {})


def guided_grad_cam(
    model: nn.Module,
    volumes: torch.Tensor,
    target: int,
    *,
    layer: str | None = None,
    at: str = "output",
) -> Explanation:
    """Product of :func:`grad_cam` and guided backprop (Selvaraju et al. 2017, section 3.4).

    The network runs forward once. It is gone back through twice, plainly down to the layer and
    guided down to the volume.

    Parameters
    ----------
    layer, at
        As in :func:`grad_cam`.

    Raises
    ------
    models.errors.InputError
        As in :func:`grad_cam`, or the network cannot be read by torch.fx.
    """
    _check_at(at)
    graph = without_normaliser(read(model))
    tap, switch = Tap(), Switch(False)
    network = guided(tapped(graph, place_of(graph, layer, at), tap), switch)
    inputs = volumes.detach().requires_grad_(True)
    score = class_score(network.run(inputs), target)
    gradient = _gradient_at(tap.value, score, volumes, retain_graph=True)
    heatmap = _map(tap.value.detach(), gradient, volumes)
    tap.value = gradient = torch.empty(0)
    switch.on = True
    (details,) = torch.autograd.grad(score.sum(), inputs)
    return Explanation(heatmap * details, score.detach(), {})


# --- where ---------------------------------------------------------------------------------------


class Tap(nn.Module):
    """Remembers what passes."""

    value: torch.Tensor

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """The same."""
        self.value = a
        return a


class Start(Tap):
    """Remembers what passes, and lets autograd begin to record there."""

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """The same, as the beginning of a graph."""
        torch.set_grad_enabled(True)
        return super().forward(a.detach().requires_grad_(True))


def tapped(graph: Graph, position: int, tap: Tap) -> Graph:
    """The network with a tap behind the step at a position."""

    def later(step: Step) -> Step:
        return Step(step.name, step.module, tuple(s + (s >= position) for s in step.inputs))

    return Graph(
        (
            *graph.steps[: position + 1],
            Step(f"{graph.steps[position].name}.tap", tap, (position,)),
            *map(later, graph.steps[position + 1 :]),
        )
    )


def place_of(graph: Graph, layer: str | None = None, at: str = "output") -> int:
    """Position of the last step of this name, or of the last convolution.

    Raises
    ------
    models.errors.InputError
        There is none, or no nonlinearity after it (``at="activation"``).
    """
    names = [
        step.name
        for step in graph.steps
        if step.name == layer or (layer is None and isinstance(step.module, CONVOLUTIONS))
    ]
    if not names:
        raise InputError(_no_layer(layer, [(step.name, step.module) for step in graph.steps]))
    position = max(i for i, step in enumerate(graph.steps) if step.name == names[-1])
    return position if at == "output" else _activation_after(graph, position)


def _activation_after(graph: Graph, position: int) -> int:
    takers = graph.consumers()
    place = position
    while not isinstance(graph.steps[place].module, GUIDABLE):
        before_activation = place == position or isinstance(graph.steps[place].module, PASSED)
        if len(takers[place]) != 1 or not before_activation:
            raise InputError(
                f"no nonlinearity follows layer '{graph.steps[position].name}': take at='output'"
            )
        place = takers[place][0]
    return place


# What may stand between a convolution and its nonlinearity.
PASSED = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Identity),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
)


def _no_layer(layer: str | None, named: list[tuple[str, nn.Module]]) -> str:
    convolutions = [name for name, module in named if isinstance(module, CONVOLUTIONS)]
    if layer is None:
        return f"the network has no convolution; name a layer: {', '.join(n for n, _ in named)}"
    others = [name for name, _ in named if name not in convolutions]
    return (
        f"the network has no layer '{layer}'; its convolutions are: "
        f"{', '.join(convolutions) or 'none'}; its other layers: {', '.join(others)}"
    )


def _check_at(at: str) -> None:
    if at not in ("output", "activation"):
        raise InputError(f"grad_cam: at is output or activation, not '{at}'")


# --- what ----------------------------------------------------------------------------------------


def _gradient_at(
    features: torch.Tensor, score: torch.Tensor, volumes: torch.Tensor, retain_graph: bool = False
) -> torch.Tensor:
    if features.dim() != volumes.dim():
        raise InputError(
            f"grad_cam needs a layer whose result is a map like the image; this one's is "
            f"{tuple(features.shape[1:])}: name a convolution"
        )
    (gradient,) = torch.autograd.grad(score.sum(), features, retain_graph=retain_graph)
    return gradient


def _map(features: torch.Tensor, gradient: torch.Tensor, volumes: torch.Tensor) -> torch.Tensor:
    # At least float32: means of gradients over many voxels are too small for half precision.
    dtype = torch.promote_types(features.dtype, torch.float32)
    weights = gradient.flatten(2).mean(2, dtype=dtype)
    with torch.autocast(features.device.type, enabled=False):
        coarse = torch.einsum("nk,nk...->n...", weights, features.detach().to(dtype)).relu()
    sizes = volumes.shape[2:]
    mode = INTERPOLATIONS[len(sizes)]
    fine = F.interpolate(coarse.unsqueeze(1), sizes, mode=mode, align_corners=False)
    return fine.expand(volumes.shape)


def _hooked(
    model: nn.Module,
    volumes: torch.Tensor,
    target: int,
    layer: str | None,
    at: str,
    unreadable: InputError,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Feature maps and score of a network that torch.fx cannot read."""
    if at != "output":
        raise InputError(f"grad_cam at='activation' has to read the network: {unreadable}")
    named = [(name, module) for name, module in model.named_modules() if name]
    wanted = [
        module
        for name, module in named
        if name == layer or (layer is None and isinstance(module, CONVOLUTIONS))
    ]
    if not wanted:
        raise InputError(_no_layer(layer, named)) from unreadable
    with _results_of(wanted[-1]) as results:
        score = class_score(scores_of(model)(volumes.detach().requires_grad_(True)), target)
    if not results:
        raise InputError(f"layer '{layer}' took no part in the result") from unreadable
    return results[-1], score


@contextmanager
def _results_of(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    results: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, result: torch.Tensor) -> torch.Tensor:
        results.append(result)
        return result.clone()  # what comes after may write into it

    handle = module.register_forward_hook(keep)
    try:
        yield results
    finally:
        handle.remove()
