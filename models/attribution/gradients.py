"""Attributions that are gradients of the score before softmax or sigmoid.

Networks that torch.fx can read are differentiated in the form of
:mod:`models.attribution.derivatives`; the others are run as they are.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from models.attribution import Explanation, is_out_of_memory
from models.attribution.derivatives import lean
from models.attribution.graph import Graph, read, without_normaliser
from models.attribution.scores import class_score
from models.errors import InputError

Scores = Callable[[torch.Tensor], torch.Tensor]
Sample = tuple[int, float, torch.Tensor]  # person, weight, image

FORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "abs": torch.abs,
    "square": torch.square,
    "signed": lambda gradient: gradient,
}


def saliency(
    model: nn.Module, volumes: torch.Tensor, target: int, *, form: str = "abs"
) -> Explanation:
    """Gradient of the score with respect to the input (Simonyan et al. 2014).

    Parameters
    ----------
    form : {"abs", "square", "signed"}
        What is done to the gradient; Rieke 2018 calls ``abs`` sensitivity analysis.
    """
    shaped = _choice(FORMS, form, "saliency", "form")
    gradient, score = input_gradient(scores_of(model), volumes, target)
    return Explanation(shaped(gradient), score, {})


def input_x_gradient(model: nn.Module, volumes: torch.Tensor, target: int) -> Explanation:
    """Input times gradient (Shrikumar et al. 2017), as in Eitel 2019."""
    gradient, score = input_gradient(scores_of(model), volumes, target)
    return Explanation(volumes * gradient, score, {})


def guided_backprop(
    model: nn.Module,
    volumes: torch.Tensor,
    target: int,
    *,
    form: str = "signed",
    rule: str = "guided",
) -> Explanation:
    """Gradient with negative values zeroed at every activation (Springenberg et al. 2015).

    With R what arrives at an activation on the way back, max(R, 0) goes on, multiplied by the
    activation's own derivative: for ReLU, 1 where its input was positive; for ELU, exp of a
    negative input. GELU's derivative is a little negative below -.75, and so is then what goes on.
    Activations that are not in :data:`GUIDABLE` (tanh) hand on their plain gradient.

    Parameters
    ----------
    form : {"signed", "abs", "square"}
        What is done to the result; Böhle 2019 took ``abs``.
    rule : {"guided", "deconvolution"}
        ``deconvolution`` leaves the activation's derivative out (Zeiler & Fergus 2014).

    Raises
    ------
    models.errors.InputError
        Unknown form or rule, or a network that torch.fx cannot read.
    """
    shaped = _choice(FORMS, form, "guided_backprop", "form")
    guide = _choice(GUIDES, rule, "guided_backprop", "rule")
    graph = guide(without_normaliser(read(model)), Switch(True))
    gradient, score = input_gradient(graph.run, volumes, target)
    return Explanation(shaped(gradient), score, {})


def integrated_gradients(
    model: nn.Module,
    volumes: torch.Tensor,
    target: int,
    *,
    steps: int = 32,
    baseline: str | float = "zero",
    rule: str = "midpoint",
    batch: int | None = None,
) -> Explanation:
    """Input less baseline, times the mean gradient between the two (Sundararajan et al. 2017).

    The ledger says how well the sum over the path stands for the integral: ``start`` is the
    difference between the scores of the volume and of the baseline, ``map`` the sum of the
    heatmap, ``quadrature`` what is missing.

    Parameters
    ----------
    steps : int
        Gradients per volume.
    baseline : "zero", "mean" or number
        The empty image: zeros, the mean of each channel of the volume itself, or a value.
    rule : {"midpoint", "gauss-legendre"}
        Where on the path the gradients are taken, and their weights. Gauss-Legendre is the better
        one for smooth networks; where ReLU and max-pooling make kinks, neither is.
    batch : int, optional
        Images whose gradient is taken at once, by default as many as there are volumes; halved
        when memory runs out.

    Raises
    ------
    models.errors.InputError
        Unknown baseline or rule, fewer than one step or image at once.
    """
    _at_least_one("integrated_gradients", steps=steps, batch=batch)
    quadrature = _choice(QUADRATURES, rule, "integrated_gradients", "rule")
    network, empty = scores_of(model), _baseline(volumes, baseline)
    points = [(float(p), float(w)) for p, w in zip(*quadrature(steps), strict=True)]
    path = (
        (person, weight, torch.lerp(empty[person], volumes[person], place))
        for place, weight in points
        for person in range(len(volumes))
    )
    mean = _weighted_sum(_gradients(network, target), path, volumes, batch)
    heatmap = mean * (volumes - empty)
    score, start = (_scores(network, images, target, batch) for images in (volumes, empty))
    return Explanation(heatmap, score, _completeness(heatmap, score.double() - start.double()))


def smoothgrad(
    model: nn.Module,
    volumes: torch.Tensor,
    target: int,
    *,
    samples: int = 25,
    noise: float = 0.15,
    seed: int = 0,
    form: str = "abs",
    batch: int | None = None,
) -> Explanation:
    """Mean gradient over noisy copies of the volume (Smilkov et al. 2017).

    The noise of a sample is the same for everybody, so that a person's map depends neither on
    the others nor on how many images are worked on at once (beyond rounding). It repeats on the
    same kind of device.

    Parameters
    ----------
    samples : int
        Noisy copies per volume.
    noise : float
        Standard deviation of the Gaussian noise, as a share of the range (maximum less minimum)
        of each channel of the volume.
    seed : int
        Of the noise.
    form : {"abs", "square", "signed"}
        ``abs`` is the absolute value of the mean gradient, as published; ``square`` the mean of
        the squared gradients (Hooker et al. 2019).
    batch : int, optional
        Images whose gradient is taken at once, by default as many as there are volumes; halved
        when memory runs out.

    Raises
    ------
    models.errors.InputError
        Unknown form, negative noise, fewer than one sample or image at once.
    """
    _at_least_one("smoothgrad", samples=samples, batch=batch)
    if noise < 0:
        raise InputError(f"smoothgrad: noise is a share of the range, 0 or more, not {noise}")
    each, whole = _choice(SMOOTHED, form, "smoothgrad", "form")
    network = scores_of(model)
    gradients = _gradients(network, target)
    noisy = _noisy(volumes, samples, noise, seed)
    mean = _weighted_sum(lambda images: each(gradients(images)), noisy, volumes, batch)
    return Explanation(whole(mean), _scores(network, volumes, target, batch), {})


# --- the score and its gradient ------------------------------------------------------------------


def scores_of(model: nn.Module) -> Scores:
    """Function from images (N, C, *spatial) to scores (N, outputs) before softmax or sigmoid.

    A network that torch.fx cannot read is run as it is, and refused (InputError, at its first
    gradient) if what it ends in is a softmax or sigmoid.
    """
    try:
        graph = without_normaliser(read(model))
    except InputError as unreadable:
        return _run_whole(model, unreadable)
    return lean(graph).run


def input_gradient(
    network: Scores, volumes: torch.Tensor, target: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient (N, C, *spatial) and score (N,); no parameter's ``.grad`` is touched."""
    inputs = volumes.detach().requires_grad_(True)
    score = class_score(network(inputs), target)
    # In eval mode people do not mix within a batch: the gradient of the sum is each one's own.
    (gradient,) = torch.autograd.grad(score.sum(), inputs)
    return gradient, score.detach()


def _run_whole(model: nn.Module, unreadable: InputError) -> Scores:
    def scores(volumes: torch.Tensor) -> torch.Tensor:
        # A copy: the network may write into what it is given.
        result = model(volumes.clone())
        if not isinstance(result, torch.Tensor):
            raise unreadable
        if _is_normalised(result):
            raise InputError(
                f"{type(model).__name__} ends in softmax or sigmoid, and scores are explained "
                f"before it: leave it out of the network. It cannot be done here: {unreadable}"
            )
        return result

    return scores


def _is_normalised(result: torch.Tensor) -> bool:
    """Whether autograd recorded a softmax or sigmoid as the last thing that was computed."""
    node: Any = result.grad_fn
    while node is not None and node.name().startswith(SHAPING):
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith(NORMALISING)


SHAPING = (
    *("View", "Reshape", "Unsafe", "Squeeze", "Unsqueeze", "Alias", "Slice", "Select", "Clone"),
    *("Permute", "Transpose"),
)
NORMALISING = ("Softmax", "LogSoftmax", "Sigmoid", "LogSigmoid")


# --- guided --------------------------------------------------------------------------------------


@dataclass
class Switch:
    """Whether negative gradients are stopped now; one way back can be guided, another not."""

    on: bool


class Guided(nn.Module):
    """An activation at which negative gradients are stopped."""

    def __init__(self, activation: nn.Module, switch: Switch):
        super().__init__()
        self.activation, self.switch = activation, switch

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """The activation's own result."""
        result: torch.Tensor = self.activation(a)
        if result.requires_grad:
            result.register_hook(self._positive)
        return result

    def _positive(self, arriving: torch.Tensor) -> torch.Tensor | None:
        return arriving.clamp(min=0) if self.switch.on else None


class Deconvolved(Guided):
    """The same, its derivative taken to be one."""

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """The activation's own result."""
        result: torch.Tensor = _PositiveOnly.apply(a, self.activation)
        return result


class _PositiveOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Any, activation: nn.Module) -> Any:
        return activation(a)

    @staticmethod
    def backward(ctx: Any, arriving: Any) -> Any:
        return arriving.clamp(min=0), None


def guided(graph: Graph, switch: Switch) -> Graph:
    """The lean network, its activations guided while the switch is on."""
    return _with_activations(lean(graph, linear=False), Guided, switch)


def _deconvolved(graph: Graph, switch: Switch) -> Graph:
    # Pooling stays behind the activations: without their derivative, it matters who wins a tie.
    return lean(_with_activations(graph, Deconvolved, switch))


def _with_activations(graph: Graph, kind: type[Guided], switch: Switch) -> Graph:
    return Graph(
        tuple(
            replace(step, module=kind(step.module, switch))
            if isinstance(step.module, GUIDABLE)
            else step
            for step in graph.steps
        )
    )


GUIDABLE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU),
    *(nn.GELU, nn.SiLU, nn.Softplus),
)
GUIDES: dict[str, Callable[[Graph, Switch], Graph]] = {
    "guided": guided,
    "deconvolution": _deconvolved,
}


# --- sums over many images -----------------------------------------------------------------------


def _weighted_sum(
    maps_of: Callable[[torch.Tensor], torch.Tensor],
    samples: Iterator[Sample],
    volumes: torch.Tensor,
    batch: int | None,
) -> torch.Tensor:
    """For every person, the sum of weight times map over the samples, ``batch`` at a time."""
    batch = batch or len(volumes)
    total = torch.zeros_like(volumes, dtype=torch.promote_types(volumes.dtype, torch.float32))
    waiting = list(islice(samples, batch))
    while waiting:
        try:
            maps = maps_of(torch.stack([image for _, _, image in waiting[:batch]]))
        except RuntimeError as error:
            if batch == 1 or not is_out_of_memory(error):
                raise
            batch //= 2
            continue
        for (person, weight, _), one in zip(waiting, maps, strict=False):
            total[person].add_(one, alpha=weight)
        waiting = waiting[batch:] or list(islice(samples, batch))
    return total


def _gradients(network: Scores, target: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda images: input_gradient(network, images, target)[0]


def _scores(network: Scores, volumes: torch.Tensor, target: int, batch: int | None) -> torch.Tensor:
    """Scores (N,) without gradients."""
    with torch.no_grad():
        parts = volumes.split(batch or len(volumes))
        return torch.cat([class_score(network(part), target) for part in parts])


def _completeness(heatmap: torch.Tensor, start: torch.Tensor) -> dict[str, torch.Tensor]:
    total = heatmap.flatten(1).sum(1, dtype=torch.float64)
    return {"start": start, "map": total, "quadrature": start - total}


def _baseline(volumes: torch.Tensor, baseline: str | float) -> torch.Tensor:
    """Empty images, broadcast to the shape of the volumes."""
    if isinstance(baseline, str):
        empty = _choice(BASELINES, baseline, "integrated_gradients", "baseline (or number)")
        return empty(volumes).expand(volumes.shape)
    return volumes.new_full((1,) * volumes.dim(), baseline).expand(volumes.shape)


def _noisy(volumes: torch.Tensor, samples: int, noise: float, seed: int) -> Iterator[Sample]:
    generator = torch.Generator(volumes.device).manual_seed(seed)
    flat = volumes.flatten(2)
    spread = noise * (flat.amax(2) - flat.amin(2)).reshape(
        *flat.shape[:2], *[1] * (volumes.dim() - 2)
    )
    for _ in range(samples):
        draw = torch.randn(volumes.shape[1:], generator=generator, device=volumes.device)
        for person, volume in enumerate(volumes):
            yield person, 1 / samples, torch.addcmul(volume, spread[person], draw.to(volume.dtype))


def _midpoint(steps: int) -> tuple[np.ndarray, np.ndarray]:
    return (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)


def _gauss_legendre(steps: int) -> tuple[np.ndarray, np.ndarray]:
    places, weights = np.polynomial.legendre.leggauss(steps)
    return (places + 1) / 2, weights / 2


BASELINES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "zero": lambda volumes: volumes.new_zeros((1,) * volumes.dim()),
    "mean": lambda volumes: volumes.mean(tuple(range(2, volumes.dim())), keepdim=True),
}
# Places on the path from 0 (baseline) to 1 and their weights, for a number of steps.
QUADRATURES = {"midpoint": _midpoint, "gauss-legendre": _gauss_legendre}
# What is done to the gradient of every sample, and what to their mean.
SMOOTHED = {
    "abs": (FORMS["signed"], FORMS["abs"]),
    "signed": (FORMS["signed"], FORMS["signed"]),
    "square": (FORMS["square"], FORMS["signed"]),
}


def _choice(table: dict[str, Any], name: str, method: str, parameter: str) -> Any:
    if name not in table:
        raise InputError(f"{method} has no {parameter} '{name}'; choose one of: {', '.join(table)}")
    return table[name]


def _at_least_one(method: str, **counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"{method}: {name} must be 1 or more, not {count}")
