r"""Which inputs of a linear map get which share of its relevance.

With :math:`z_{ij} = a_i w_{ij}`, a rule says how the relevance :math:`R_j` of a result is shared
among its inputs. It does so in two halves: on the way up it computes the result ``z`` and keeps
what its denominators need; on the way down it divides, and pulls the quotients back through the
layer. Between the halves a max-pooling may have thrown away all but the winners, so that what is
kept and divided is small.

What a rule cannot pass on goes into the ledger: ``bias``, ``epsilon`` and ``no_input``.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch

from models.attribution.layers import Affine
from models.errors import InputError

Kept = tuple[torch.Tensor, ...]
# Values that go through several operations together, few enough to stay in the processor's cache.
CPU_SLAB = 2**18


class Ledger(dict[str, torch.Tensor]):
    """Relevance per person (N,) that each reason has absorbed."""

    def enter(self, name: str, share: torch.Tensor) -> None:
        """Add the sum over everything but people, of whom each may be several rows (patches)."""
        total = share.flatten(1).sum(1)
        if "start" in self:
            total = total.view(len(self["start"]), -1).sum(1)
        self[name] = self[name] + total if name in self else total


@dataclass
class Inputs:
    """Inputs ``a`` of a layer."""

    values: torch.Tensor

    @cached_property
    def signed(self) -> bool:
        """Whether any is below zero (after ELU; never after ReLU).

        One person's decides for the batch which way of summing is taken; they agree to rounding.
        """
        return bool(self.values.numel()) and bool(self.values.min() < 0)


@dataclass(frozen=True)
class Unpool:
    """Brings what was computed at a pooling's winners back to where they won."""

    stacked: Callable[[torch.Tensor], torch.Tensor]
    merged: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Rule:
    """Base of the rules; a rule has no state, so one may serve many layers.

    A ``blind`` rule hands relevance also to inputs that are zero.
    """

    blind: ClassVar[bool] = False

    def forward(self, layer: Affine, a: Inputs) -> tuple[torch.Tensor, Kept]:
        """Result of the layer with its bias, and tensors of its shape to be kept."""
        raise NotImplementedError

    def backward(
        self,
        layer: Affine,
        a: Inputs,
        kept: Kept,
        relevance: torch.Tensor,
        unpool: Unpool,
        ledger: Ledger,
    ) -> torch.Tensor:
        """Relevance of the inputs ``a``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Epsilon(Rule):
    """R_i = sum_j z_ij / (z_j + epsilon sign z_j) R_j (Bach 2015, Eq. 58); 0 is LRP-0."""

    epsilon: float = 1e-3
    bias: str = "absorb"

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise InputError(f"LRP epsilon must be at least 0, not {self.epsilon:g}")
        _choose("bias", self.bias, ("absorb", "ignore"))

    def forward(self, layer: Affine, a: Inputs) -> tuple[torch.Tensor, Kept]:
        """Keeps z, with its bias where biases absorb."""
        (bare,) = layer.parts(a.values, [whole])
        if layer.bias is None:
            return bare, (bare,)
        z = bare + layer.spread_bias(bare)
        return z, (z if self.bias == "absorb" else bare,)

    def backward(self, layer, a, kept, relevance, unpool, ledger):
        """Shares of z_ij."""
        (s,) = stack = layer_like(relevance, 1)
        bias = layer.spread_bias(s) if self.bias == "absorb" else s.new_zeros(())
        for z, above, part in slabs(kept[0], relevance, s):
            self._divide(z, above, part, bias, ledger)
        return layer.pull(a.values.shape, unpool.stacked(stack.whole), [whole]).mul_(a.values)

    def _divide(self, z, above, s, bias, ledger):
        damped = torch.where(z < 0, z - self.epsilon, z + self.epsilon) if self.epsilon else z
        empty = damped.abs() <= smallest_divisor(z.dtype)
        torch.div(above, damped, out=s).masked_fill_(empty, 0)
        ledger.enter("bias", s * bias)
        ledger.enter("epsilon", (damped - z).mul_(s))
        ledger.enter("no_input", above * empty)


@dataclass(frozen=True)
class AlphaBeta(Rule):
    """R_i = sum_j (alpha z+_ij / z+_j - beta z-_ij / z-_j) R_j, alpha = 1 + beta (Bach 2015, 60).

    Attributes
    ----------
    beta : float
    bias : {"ignore", "absorb"}
        Whether positive biases belong to z+_j and negative ones to z-_j, and keep their share.
    one_signed : {"pass", "weigh"}
        A result whose inputs all have one sign passes its whole relevance through them (``pass``),
        or alpha or -beta of it (``weigh``), and the rest is lost.
    """

    beta: float = 0.0
    bias: str = "ignore"
    one_signed: str = "pass"

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise InputError(f"LRP beta must be at least 0, not {self.beta:g}")
        _choose("bias", self.bias, ("absorb", "ignore"))
        _choose("one_signed", self.one_signed, ("pass", "weigh"))

    def forward(self, layer: Affine, a: Inputs) -> tuple[torch.Tensor, Kept]:
        """Keeps z+ and the magnitude of z-."""
        positive, magnitude = magnitudes(layer, a)
        z = positive - magnitude
        if layer.bias is None:
            return z, (positive, magnitude)
        bias = layer.spread_bias(z)
        if self.bias == "absorb":
            positive, magnitude = positive + bias.clamp(min=0), magnitude - bias.clamp(max=0)
        return z.add_(bias), (positive, magnitude)

    def backward(self, layer, a, kept, relevance, unpool, ledger):
        """Shares of z+_ij and of z-_ij."""
        both = self.beta > 0 or self._needs_negative(kept, relevance)
        stack = layer_like(relevance, 2 if both else 1, layer.axis)
        bias = layer.spread_bias(relevance) if self.bias == "absorb" else None
        for parts in slabs(*kept, relevance, *stack):
            self._divide(*parts, bias=bias, ledger=ledger)
        if not a.signed:
            s = unpool.stacked(stack.whole)
            return layer.pull(a.values.shape, s, [up, down][: len(stack)]).mul_(a.values)
        return self._pull_signed(layer, a.values, unpool, *stack)

    def _pull_signed(self, layer, a, unpool, s_up, s_down=None):
        """Two adjoints instead of four: with |w| of the sum, and with w of the difference."""
        total, difference = (s_up, s_up) if s_down is None else (s_up + s_down, s_up - s_down)
        even = layer.pull(a.shape, unpool.stacked(total), [torch.abs])
        odd = layer.pull(a.shape, unpool.stacked(difference), [whole])
        return even.mul_(a.abs()).addcmul_(odd, a).div_(2)

    def _needs_negative(self, kept: Kept, relevance: torch.Tensor) -> bool:
        """Without a beta, negative shares are for those who have no positive ones."""
        if self.one_signed == "weigh":
            return False
        tiny = smallest_divisor(relevance.dtype)
        parts = slabs(*kept, relevance)
        return any(bool(((p <= tiny) & (m > tiny) & (r != 0)).any()) for p, m, r in parts)

    def _divide(self, positive, magnitude, above, s_up, s_down=None, *, bias, ledger):
        tiny = smallest_divisor(above.dtype)
        no_up, no_down = positive <= tiny, magnitude <= tiny
        torch.div(above, positive, out=s_up).masked_fill_(no_up, 0)
        alone = self.one_signed == "pass"
        if self.beta:
            s_up.mul_(factor(no_down if alone else None, 1 + self.beta, s_up))
        if s_down is not None:
            torch.div(above, magnitude, out=s_down).masked_fill_(no_down, 0)
            s_down.mul_(factor(no_up if alone else None, -self.beta, s_down))
        self._book(above, positive, magnitude, s_up, s_down, no_up & no_down, bias, ledger)

    def _book(self, above, positive, magnitude, s_up, s_down, empty, bias, ledger):
        """Everything that is not handed to the inputs."""
        if bias is not None:
            ledger.enter("bias", bias.clamp(min=0) * s_up)
            if s_down is not None:
                ledger.enter("bias", bias.clamp(max=0).neg() * s_down)
        if self.one_signed == "pass":
            ledger.enter("no_input", above * empty)
            return
        passed = s_up * positive
        if s_down is not None:
            passed.addcmul_(s_down, magnitude)
        ledger.enter("no_input", above - passed)


@dataclass(frozen=True)
class Gamma(Rule):
    """Positive shares weighted up: w + gamma w+ where z_j > 0 (Montavon 2019).

    Inputs and results of any sign are allowed for: where z_j < 0, it is the negative shares that
    are weighted up.
    """

    gamma: float = 0.25
    bias: str = "absorb"

    def __post_init__(self) -> None:
        if not self.gamma >= 0:
            raise InputError(f"LRP gamma must be at least 0, not {self.gamma:g}")
        _choose("bias", self.bias, ("absorb", "ignore"))

    def forward(self, layer: Affine, a: Inputs) -> tuple[torch.Tensor, Kept]:
        """Keeps z and the denominator, which is z + gamma z+ or z + gamma z-."""
        positive, magnitude = magnitudes(layer, a)
        bare = positive - magnitude
        bias = layer.spread_bias(bare)
        z = bare + bias
        if self.bias == "absorb":
            positive, magnitude = positive + bias.clamp(min=0), magnitude - bias.clamp(max=0)
            bare = z
        return z, (bare, bare + self.gamma * torch.where(bare < 0, -magnitude, positive))

    def backward(self, layer, a, kept, relevance, unpool, ledger):
        """Shares of the weighted z_ij; results above and below zero have weights of their own."""
        stack = layer_like(relevance, 2, layer.axis)
        bias = layer.spread_bias(relevance) if self.bias == "absorb" else relevance.new_zeros(())
        for parts in slabs(*kept, relevance, *stack):
            self._divide(*parts, bias=bias, ledger=ledger)
        s = unpool.stacked(stack.whole)
        below = layer.pull(a.values.shape, s, [self._up, self._down])
        if not a.signed:
            return below.mul_(a.values)
        return by_sign(a.values, below, layer.pull(a.values.shape, s, [self._down, self._up]))

    def _up(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.gamma * weight.clamp(min=0)

    def _down(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.gamma * weight.clamp(max=0)

    def _divide(self, z, weighted, above, s_up, s_down, *, bias, ledger):
        empty, below_zero = weighted.abs() <= smallest_divisor(z.dtype), z < 0
        s = torch.div(above, weighted).masked_fill_(empty, 0)
        s_up.copy_(s).masked_fill_(below_zero, 0)
        torch.sub(s, s_up, out=s_down)
        ledger.enter("bias", (bias + self.gamma * bias.clamp(min=0)) * s_up)
        ledger.enter("bias", (bias + self.gamma * bias.clamp(max=0)) * s_down)
        ledger.enter("no_input", above * empty)


@dataclass(frozen=True)
class Flat(Rule):
    """Equal shares to every input of the receptive field that lies inside the image."""

    blind = True

    def forward(self, layer: Affine, a: Inputs) -> tuple[torch.Tensor, Kept]:
        """Keeps the number of inputs inside the image."""
        (z,) = layer.parts(a.values, [whole])
        taps = layer.taps(a.values)
        return z + layer.spread_bias(z), (taps if taps.numel() == 1 else taps.expand(z.shape),)

    def backward(self, layer, a, kept, relevance, unpool, ledger):
        """Even shares."""
        (taps,) = kept
        empty = taps == 0
        ledger.enter("no_input", relevance * empty)
        s = torch.div(relevance, taps).masked_fill_(empty, 0)
        if layer.mixes:
            return layer.spread_evenly(a.values.shape, unpool.merged(s))
        return layer.pull(a.values.shape, unpool.stacked(s), [torch.ones_like])


@dataclass(frozen=True)
class WSquare(Rule):
    """Shares of the squared weights inside the image (Montavon 2017, Eq. 17)."""

    blind = True

    def forward(self, layer: Affine, a: Inputs) -> tuple[torch.Tensor, Kept]:
        """Keeps the sum of the squared weights."""
        (z,) = layer.parts(a.values, [whole])
        (squares,) = layer.parts(torch.ones_like(a.values[:1]), [torch.square])
        return z + layer.spread_bias(z), (squares.expand(z.shape),)

    def backward(self, layer, a, kept, relevance, unpool, ledger):
        """Shares of the squared weights, whatever the inputs."""
        empty = kept[0] <= smallest_divisor(relevance.dtype)
        ledger.enter("no_input", relevance * empty)
        s = torch.div(relevance, kept[0]).masked_fill_(empty, 0)
        return layer.pull(a.values.shape, unpool.stacked(s), [torch.square])


RULES: dict[str, type[Rule]] = {
    "epsilon": Epsilon,
    "alpha_beta": AlphaBeta,
    "gamma": Gamma,
    "flat": Flat,
    "w2": WSquare,
}


# --- pieces --------------------------------------------------------------------------------------


def whole(weight: torch.Tensor) -> torch.Tensor:
    """The weights as they are."""
    return weight


def up(weight: torch.Tensor) -> torch.Tensor:
    """Positive part of the weights."""
    return weight.clamp(min=0)


def down(weight: torch.Tensor) -> torch.Tensor:
    """Magnitude of their negative part."""
    return weight.clamp(max=0).neg_()


def magnitudes(layer: Affine, a: Inputs) -> Sequence[torch.Tensor]:
    """Sums over a unit's positive z_ij and over its negative ones, both at least 0."""
    if not a.signed:
        return layer.parts(a.values, [up, down])
    # Two products instead of four. What rounding leaves of a sum without terms is taken off.
    (total,), (z,) = layer.parts(a.values.abs(), [torch.abs]), layer.parts(a.values, [whole])
    noise = 64 * torch.finfo(z.dtype).eps
    for whole_sum, difference in slabs(total, z):
        least = whole_sum * noise
        positive, magnitude = whole_sum + difference, whole_sum - difference
        whole_sum.copy_(positive.masked_fill_(positive <= least, 0))
        difference.copy_(magnitude.masked_fill_(magnitude <= least, 0))
    return total.div_(2), z.div_(2)


def by_sign(a: torch.Tensor, above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    """``a`` times ``above`` where it is positive and times ``below`` where it is negative."""
    return torch.where(a < 0, below, above).mul_(a)


def factor(ones: torch.Tensor | None, value: float, like: torch.Tensor) -> torch.Tensor:
    """``value``, but 1 where ``ones`` says so."""
    number = like.new_tensor(value)
    return number if ones is None else torch.where(ones, like.new_ones(()), number)


def smallest_divisor(dtype: torch.dtype) -> float:
    """What is smaller would overflow in a division (filters that decayed to nothing)."""
    limits = torch.finfo(dtype)
    return limits.tiny / limits.eps


def _choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"LRP {name} is {' or '.join(choices)}, not '{value}'")


class layer_like(tuple[torch.Tensor, ...]):  # noqa: N801
    """Empty tensors shaped like a result, side by side in one, which is ``whole``."""

    whole: torch.Tensor

    def __new__(cls, result: torch.Tensor, count: int, axis: int = 1) -> "layer_like":
        """Make ``count`` of them along the channels' ``axis``."""
        shape = list(result.shape)
        shape[axis] *= count
        layout = torch.channels_last_3d if result.dim() == 5 else torch.contiguous_format
        stacked = torch.empty(shape, memory_format=layout, dtype=result.dtype, device=result.device)
        made = super().__new__(cls, stacked.chunk(count, axis))
        made.whole = stacked
        return made


def slabs(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Views of tensors of one shape (N, C, x, ...), some planes x at a time."""
    first = tensors[0]
    if first.device.type != "cpu" or first.dim() < 3 or first.numel() <= CPU_SLAB:
        yield tensors
        return
    planes = max(1, CPU_SLAB * first.shape[2] // first.numel())
    yield from zip(*(tensor.split(planes, 2) for tensor in tensors), strict=True)
