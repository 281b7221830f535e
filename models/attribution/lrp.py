r"""Layer-wise relevance propagation (Bach et al. 2015) as plain functions over a list of layers.

Relevance :math:`R_j` of a unit is handed to its inputs :math:`a_i` in the shares of
:math:`z_{ij} = a_i w_{ij}`. A rule says which shares; a composite says which rule a layer gets.
Nothing is hooked into the model: its layers are read, BatchNorm is folded into copies of the
weights before it, activations are kept on the way up and relevance is passed on the way down.

What a layer cannot pass on is written into a ledger, so that for every person
``map + bias + epsilon + no_input = start``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from models.attribution import Explanation
from models.errors import InputError

PASSES = (nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Dropout, nn.Dropout3d, nn.Identity)
BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
Ledger = dict[str, torch.Tensor]


def lrp_epsilon(
    model: nn.Module,
    volumes: torch.Tensor,
    target: int,
    *,
    epsilon: float = 1e-3,
    bias: str = "absorb",
    start: str = "probability",
) -> Explanation:
    """R_i = sum_j z_ij / (z_j + epsilon sign(z_j)) R_j (Bach et al. 2015, Eq. 58).

    Parameters
    ----------
    epsilon : float
        0.001 in Eitel 2019, 0.0001 in Nazari 2021; 0 is LRP-0.
    bias : {"absorb", "ignore"}
        Whether biases belong to z_j and keep their share.
    start : {"probability", "logit", "one"}
        Relevance put on the class's unit before softmax.
    """
    return propagate(model, volumes, target, Epsilon(epsilon, bias), start=start)


def lrp_alpha_beta(
    model: nn.Module,
    volumes: torch.Tensor,
    target: int,
    *,
    beta: float = 0.0,
    input_layer: str = "same",
    start: str = "probability",
) -> Explanation:
    """R_i = sum_j (alpha z+_ij / z+_j - beta z-_ij / z-_j) R_j with alpha = 1 + beta.

    Biases are left out of the denominators, and a unit whose inputs all have one sign passes its
    whole relevance through them, so nothing is lost but where a unit has no input at all
    (Bach et al. 2015, Eq. 60; Böhle 2019 with beta 0 to 1).

    Parameters
    ----------
    beta : float
        Weight of the negative part, at least 0.
    input_layer : {"same", "flat"}
        ``flat`` spreads the first layer's relevance evenly over its receptive field.
    start : {"probability", "logit", "one"}
        Relevance put on the class's unit before softmax.
    """
    if beta < 0:
        raise InputError(f"lrp_alpha_beta: beta must be at least 0, not {beta:g}")
    if input_layer not in ("same", "flat"):
        raise InputError(f"lrp_alpha_beta: input_layer is same or flat, not '{input_layer}'")
    first = Flat() if input_layer == "flat" else None
    return propagate(model, volumes, target, AlphaBeta(beta), first=first, start=start)


def propagate(
    model: nn.Module,
    volumes: torch.Tensor,
    target: int,
    rule: "Rule",
    *,
    first: "Rule | None" = None,
    start: str = "probability",
) -> Explanation:
    """Run the network up and relevance down, ``rule`` everywhere, ``first`` at the input layer."""
    layers = linear_chain(model)
    with torch.no_grad():
        activations = [volumes]
        for layer in layers:
            activations.append(layer.forward(activations[-1]))
        scores = activations[-1]
        relevance = torch.zeros_like(scores)
        relevance[:, target] = _start(scores, target, start)
        ledger: Ledger = {"start": relevance.sum(1)}
        lowest = next(layer for layer in layers if isinstance(layer, Weighted))
        for layer, below in zip(reversed(layers), reversed(activations[:-1]), strict=True):
            chosen = first if first is not None and layer is lowest else rule
            relevance = layer.backward(below, relevance, chosen, ledger)
        ledger["map"] = relevance.flatten(1).sum(1)
    return Explanation(relevance, scores[:, target], ledger)


def _start(scores: torch.Tensor, target: int, start: str) -> torch.Tensor:
    if start == "probability":
        return scores.softmax(1)[:, target]
    if start == "logit":
        return scores[:, target]
    if start == "one":
        return torch.ones_like(scores[:, target])
    raise InputError(f"LRP start '{start}' is unknown; choose probability, logit or one")


# --- the chain of layers -------------------------------------------------------------------------


@dataclass
class Weighted:
    """A convolution or a fully connected layer: ``op(a, weight) + bias``.

    ``op`` is linear in both arguments; ``weight`` is a folded copy, never the model's own.
    """

    op: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    weight: torch.Tensor
    bias: torch.Tensor

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """Pre-activation of the layer."""
        return self.op(a, self.weight) + self.spread_bias(a.dim())

    def spread_bias(self, dims: int) -> torch.Tensor:
        """Bias shaped to be added to the output."""
        return self.bias.reshape(1, -1, *[1] * (dims - 2))

    def adjoint(
        self, shape: torch.Size, s: torch.Tensor, weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Adjoint of ``op`` applied to ``s``; the result has the input's ``shape``."""
        weight = self.weight if weight is None else weight
        zero = torch.zeros(shape, dtype=s.dtype, device=s.device)
        pull = torch.func.vjp(lambda a: self.op(a, weight), zero)[1]
        return pull(s)[0]

    def backward(
        self, a: torch.Tensor, relevance: torch.Tensor, rule: "Rule", ledger: Ledger
    ) -> torch.Tensor:
        """Relevance of the inputs by ``rule``."""
        return rule(self, a, relevance, ledger)


@dataclass
class Passing:
    """A layer that hands every unit's relevance to the same unit (or the winner) below."""

    module: nn.Module

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """Output in eval mode; the activation's slope does not matter to relevance."""
        return self.module(a)

    def backward(
        self, a: torch.Tensor, relevance: torch.Tensor, rule: "Rule", ledger: Ledger
    ) -> torch.Tensor:
        """Relevance in the input's shape."""
        return relevance.reshape(a.shape)


@dataclass
class MaxPool:
    """Max-pooling: all relevance of a window goes to its first maximum."""

    module: nn.MaxPool3d | nn.MaxPool2d
    _winners: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """Pool, and remember which voxel won."""
        m, pool = self.module, F.max_pool3d if a.dim() == 5 else F.max_pool2d
        out, self._winners = pool(
            a,
            m.kernel_size,
            m.stride,
            m.padding,
            m.dilation,
            ceil_mode=m.ceil_mode,
            return_indices=True,
        )
        return out

    def backward(
        self, a: torch.Tensor, relevance: torch.Tensor, rule: "Rule", ledger: Ledger
    ) -> torch.Tensor:
        """Scatter to the winners; windows that overlap add up."""
        below = torch.zeros_like(a).flatten(2)
        below.scatter_add_(2, self._winners.flatten(2), relevance.flatten(2))
        return below.reshape(a.shape)


Layer = Weighted | Passing | MaxPool


def linear_chain(model: nn.Module) -> list[Layer]:
    """Layers of a sequential network, BatchNorm folded into the layer before it.

    Raises
    ------
    models.errors.InputError
        A module without a rule, or a network that is not a plain sequence.
    """
    chain: list[Layer] = []
    for name, module in _leaves(model):
        if isinstance(module, BATCHNORMS):
            _fold(chain, module, name)
        elif isinstance(module, nn.Linear):
            chain.append(Weighted(F.linear, *_weights(module)))
        elif isinstance(module, nn.Conv2d | nn.Conv3d):
            chain.append(Weighted(_convolution(module), *_weights(module)))
        elif isinstance(module, nn.MaxPool2d | nn.MaxPool3d):
            chain.append(MaxPool(module))
        elif isinstance(module, nn.AvgPool3d):
            chain.append(Weighted(_mean(module), *_unit(model)))
        elif isinstance(module, (*PASSES, nn.Flatten)):
            chain.append(Passing(module))
        else:
            raise InputError(
                f"LRP has no rule for layer '{name}' ({type(module).__name__}): add one to "
                "models/attribution/lrp.py, linear_chain"
            )
    return chain


def _leaves(model: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    if not isinstance(model, nn.Sequential):
        return [(prefix or type(model).__name__, model)]
    return [
        leaf
        for name, child in model.named_children()
        for leaf in _leaves(child, f"{prefix}.{name}".lstrip("."))
    ]


def _weights(module: nn.Linear | nn.Conv2d | nn.Conv3d) -> tuple[torch.Tensor, torch.Tensor]:
    weight = module.weight.detach()
    bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach()
    return weight, bias


def _convolution(
    module: nn.Conv2d | nn.Conv3d,
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    convolve = F.conv3d if isinstance(module, nn.Conv3d) else F.conv2d
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise InputError("LRP knows convolutions with zero padding given in voxels only")

    def op(a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return convolve(
            a, weight, None, module.stride, module.padding, module.dilation, module.groups
        )

    return op


def _mean(module: nn.AvgPool3d) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Average pooling is a convolution with equal weights: ``weight`` is their common factor."""

    def op(a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return weight * F.avg_pool3d(
            a,
            module.kernel_size,
            module.stride,
            module.padding,
            module.ceil_mode,
            module.count_include_pad,
            module.divisor_override,
        )

    return op


def _unit(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight 1 and bias 0 in the model's dtype and on its device."""
    one = next(model.parameters()).detach().new_ones(1)
    return one, torch.zeros_like(one)


def _fold(chain: list[Layer], norm: BatchNorm, name: str) -> None:
    """Replace the last layer by one whose weights include the normalisation."""
    if not chain or not isinstance(chain[-1], Weighted) or chain[-1].weight.dim() == 1:
        raise InputError(
            f"BatchNorm '{name}' does not follow a convolution or a fully connected layer directly"
        )
    layer = chain.pop()
    assert isinstance(layer, Weighted)
    if norm.running_mean is None or norm.running_var is None:
        raise InputError(f"BatchNorm '{name}' keeps no running statistics: LRP cannot fold it")
    scale = torch.rsqrt(norm.running_var + norm.eps)
    shift = -norm.running_mean * scale
    if norm.affine:
        gain = norm.weight.detach()
        scale, shift = scale * gain, shift * gain + norm.bias.detach()
    weight = layer.weight * scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
    chain.append(Weighted(layer.op, weight, layer.bias * scale + shift))


# --- the rules -----------------------------------------------------------------------------------


def _total(share: torch.Tensor) -> torch.Tensor:
    return share.flatten(1).sum(1)


def _enter(ledger: Ledger, name: str, share: torch.Tensor) -> None:
    ledger[name] = ledger.get(name, 0) + _total(share)


def _divide(relevance: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Relevance / z, and 0 where z is 0."""
    empty = z == 0
    return torch.where(empty, 0, relevance / torch.where(empty, 1, z))


def _divisor(z: torch.Tensor) -> torch.Tensor:
    """``z``, with 0 for what would overflow in a division (filters that decayed to nothing)."""
    limits = torch.finfo(z.dtype)
    return torch.where(z.abs() < limits.tiny / limits.eps, 0, z)


@dataclass(frozen=True)
class Epsilon:
    """Shares of z_ij, damped near z_j = 0."""

    epsilon: float
    bias: str = "absorb"

    def __call__(
        self, layer: Weighted, a: torch.Tensor, relevance: torch.Tensor, ledger: Ledger
    ) -> torch.Tensor:
        """Relevance of the inputs ``a``."""
        if self.bias not in ("absorb", "ignore"):
            raise InputError(f"LRP bias is absorb or ignore, not '{self.bias}'")
        bias = layer.spread_bias(a.dim()) if self.bias == "absorb" else a.new_zeros(())
        z = layer.op(a, layer.weight) + bias
        damping = torch.where(z < 0, -1, 1).to(z.dtype) * self.epsilon
        divisor = _divisor(z + damping)
        s = _divide(relevance, divisor)
        _enter(ledger, "bias", bias * s)
        _enter(ledger, "epsilon", damping * s)
        _enter(ledger, "no_input", torch.where(divisor == 0, relevance, 0))
        return a * layer.adjoint(a.shape, s)


@dataclass(frozen=True)
class AlphaBeta:
    """Positive and negative shares normalised apart, weighted 1 + beta and -beta."""

    beta: float

    def __call__(
        self, layer: Weighted, a: torch.Tensor, relevance: torch.Tensor, ledger: Ledger
    ) -> torch.Tensor:
        """Relevance of the inputs ``a``."""
        up, down = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
        parts = [(a.clamp(min=0), up, down)]
        if (a < 0).any():
            parts.append((a.clamp(max=0), down, up))
        positive = sum(layer.op(x, plus) for x, plus, _ in parts)
        negative = sum(layer.op(x, minus) for x, _, minus in parts)
        assert isinstance(positive, torch.Tensor)
        assert isinstance(negative, torch.Tensor)
        positive, negative = _divisor(positive), _divisor(negative)
        alone_positive, alone_negative = negative == 0, positive == 0
        s_positive, s_negative = _divide(relevance, positive), _divide(relevance, negative)
        s_positive = torch.where(alone_positive, s_positive, (1 + self.beta) * s_positive)
        s_negative = torch.where(alone_negative, s_negative, -self.beta * s_negative)
        _enter(ledger, "no_input", torch.where(alone_positive & alone_negative, relevance, 0))
        below = torch.zeros_like(a)
        for x, plus, minus in parts:
            pulled = layer.adjoint(a.shape, s_positive, plus)
            if self.beta or alone_negative.any():
                pulled = pulled + layer.adjoint(a.shape, s_negative, minus)
            below += x * pulled
        return below


@dataclass(frozen=True)
class Flat:
    """Equal shares to every voxel of the receptive field that lies inside the image."""

    def __call__(
        self, layer: Weighted, a: torch.Tensor, relevance: torch.Tensor, ledger: Ledger
    ) -> torch.Tensor:
        """Relevance of the inputs ``a``."""
        ones = torch.ones_like(layer.weight)
        taps = layer.op(torch.ones_like(a[:1]), ones).expand_as(relevance)
        _enter(ledger, "no_input", torch.where(taps == 0, relevance, 0))
        return layer.adjoint(a.shape, _divide(relevance, taps), ones)


Rule = Epsilon | AlphaBeta | Flat
