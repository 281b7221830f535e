"""Relevance from a class, or from a hidden filter, down to the image."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from models.attribution import Explanation
from models.attribution.convolution import at_winners, merged_to_winners, to_winners
from models.attribution.graph import IMAGE, is_rearrangement, read, without_normaliser
from models.attribution.layers import (
    MOVING,
    Affine,
    Convolution,
    Dense,
    Joining,
    Mapping,
    MaxPool,
    Node,
    Passing,
    exact,
    relevance_nodes,
)
from models.attribution.rules import Epsilon, Inputs, Kept, Ledger, Rule, Unpool
from models.attribution.scores import class_probability, class_score
from models.errors import InputError

# (selector, rule): the first selector that fits a layer gives its rule. See :func:`assign`.
Composite = Sequence[tuple[str, Rule]]

EVEN = Epsilon(1e-9)  # additions and averages: shares in proportion to what each input adds

# --- rules by layer ------------------------------------------------------------------------------

KINDS = ("conv", "linear", "sum")
LOWEST = ("first", "conv 1")  # nothing lies below it whose winners a blind rule could ask for


def assign(nodes: Sequence[Node], composite: Composite) -> list[Rule | None]:
    """Rule of every node; None for nodes without weights.

    A selector is ``any``, ``first`` (the weighted layer that sees the image), ``conv``, ``linear``
    or ``sum`` (averages, additions, BatchNorm that could not be folded), and for the last three a
    number or range counted from the image: ``conv 1``, ``conv 2-4``, ``linear 2-``. A sum that
    nothing fits shares in proportion to what each input adds.

    Raises
    ------
    models.errors.InputError
        A selector that cannot be read, or a weighted layer that none fits.
    """
    tests = [(_selector(selector), rule) for selector, rule in composite]
    counts = dict.fromkeys(KINDS, 0)
    rules: list[Rule | None] = []
    weighted = 0
    for node in nodes:
        layer = node.layer
        if not isinstance(layer, Affine):
            rules.append(None)
            continue
        counts[layer.kind] += 1
        weighted += layer.kind != "sum"
        place = layer.kind, counts[layer.kind], weighted == 1 and layer.kind != "sum"
        fitting = [rule for fits, rule in tests if fits(*place)]
        if not fitting and layer.kind != "sum":
            raise InputError(
                f"no rule for layer '{node.names[0]}' ({layer.kind} {counts[layer.kind]}): add "
                f"'{layer.kind}' or 'any' to the composite"
            )
        rules.append(fitting[0] if fitting else EVEN)
    return rules


def _selector(text: str) -> Callable[[str, int, bool], bool]:
    kind, _, numbers = text.partition(" ")
    if kind == "any" and not numbers:
        return lambda kind, number, first: True
    if kind == "first" and not numbers:
        return lambda kind, number, first: first
    low, dash, high = numbers.partition("-")
    readable = (low + high).isdigit() and "0" not in (low, high) if numbers else True
    if kind not in KINDS or not readable or (low and high and int(low) > int(high)):
        raise InputError(
            f"LRP selector '{text}' is unknown; write any, first, conv, linear, sum, or a number "
            "or range after one of the last three (conv 2-4)"
        )
    lowest = int(low or 1)
    highest = int(high) if high else (10**9 if dash or not numbers else lowest)
    return lambda own, number, first: own == kind and lowest <= number <= highest


# --- up and down the network ---------------------------------------------------------------------


def propagate(
    model: torch.nn.Module,
    volumes: torch.Tensor,
    target: int,
    composite: Composite,
    *,
    start: str = "probability",
    batchnorm: str = "fold",
    layer: str = "",
    unit: int = 0,
) -> Explanation:
    """Run the network up and relevance down by the rules of a composite.

    Parameters
    ----------
    model : nn.Module
        In eval mode.
    volumes : torch.Tensor
        (N, C, *spatial), on the model's device.
    target : int
        Class that is explained.
    composite : sequence of (selector, Rule)
        See :func:`assign`.
    start, batchnorm, layer, unit
        See :mod:`models.attribution.lrp`.
    """
    seeing = all(not rule.blind for selector, rule in composite if selector not in LOWEST)
    nodes = relevance_nodes(model, batchnorm=batchnorm, swap=seeing, layer=layer)
    other = not layer and target == 0 and _has_one_output(nodes)
    if other:
        nodes = _negated(nodes)
    with torch.no_grad(), _full_precision():
        climb = _Climb(nodes, assign(nodes, composite), exact(volumes))
        if layer:
            scores = without_normaliser(read(model)).run(volumes)
            relevance = _one_filter(climb.result, unit, layer)
        else:
            scores = -climb.result if other else climb.result
            relevance = _at_class(scores, target, start)
        ledger = Ledger(start=relevance.flatten(1).sum(1))
        heatmap = climb.descend(relevance, ledger)
        ledger["map"] = heatmap.flatten(1).sum(1)
    return Explanation(heatmap, class_score(scores, target), dict(ledger))


@contextmanager
def _full_precision() -> Iterator[None]:
    """Convolutions and products of float32 in float32 on CUDA, too: the ledger has to close."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = False
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before


def _last_weights(nodes: Sequence[Node]) -> int:
    """Place of the last layer with weights; -1 if more than averages and moves follow it."""
    for place in range(len(nodes) - 1, -1, -1):
        layer = nodes[place].layer
        if isinstance(layer, Dense | Convolution):
            return place
        moves = isinstance(layer, Passing) and (
            isinstance(layer.module, MOVING) or is_rearrangement(layer.module)
        )
        if not moves and not isinstance(layer, Mapping):
            break
    return -1


def _has_one_output(nodes: Sequence[Node]) -> bool:
    layer = nodes[_last_weights(nodes)].layer
    return isinstance(layer, Dense | Convolution) and layer.weight.shape[0] == 1


def _negated(nodes: Sequence[Node]) -> list[Node]:
    """The network of the class that a single logit has no unit for: its score is the negative.

    Rules that part positive from negative weights would otherwise explain the other class.
    """
    place, changed = _last_weights(nodes), list(nodes)
    layer = nodes[place].layer
    assert isinstance(layer, Dense | Convolution)
    one = layer.weight.new_ones(1)
    changed[place] = replace(nodes[place], layer=layer.scaled(-one, 0 * one))
    return changed


def _at_class(scores: torch.Tensor, target: int, start: str) -> torch.Tensor:
    """Relevance of the scores: all of it on the explained class."""
    score = class_score(scores, target)
    if start not in STARTS:
        raise InputError(f"LRP start '{start}' is unknown; choose one of: {', '.join(STARTS)}")
    relevance = torch.zeros_like(scores)
    relevance[:, target if scores.shape[1] > 1 else 0] = STARTS[start](scores, target, score)
    return relevance


STARTS: dict[str, Callable[[torch.Tensor, int, torch.Tensor], torch.Tensor]] = {
    "probability": lambda scores, target, score: class_probability(scores, target),
    "logit": lambda scores, target, score: score,
    "one": lambda scores, target, score: torch.ones_like(score),
}


def _one_filter(activations: torch.Tensor, unit: int, layer: str) -> torch.Tensor:
    if not 0 <= unit < activations.shape[1]:
        raise InputError(f"layer '{layer}' has the units 0 to {activations.shape[1] - 1}")
    relevance = torch.zeros_like(activations)
    relevance[:, unit] = activations[:, unit]
    return relevance


@dataclass
class _State:
    """What a node remembers of the way up: its inputs, denominators and winners."""

    shapes: list[torch.Size]
    a: Inputs | None = None
    kept: Kept = ()
    winners: torch.Tensor | None = None
    full: torch.Size | None = None


class _Climb:
    """The way up through the nodes, remembered, and the way down again."""

    def __init__(
        self, nodes: Sequence[Node], rules: Sequence[Rule | None], volumes: torch.Tensor
    ) -> None:
        self.nodes, self.rules, self.shape = nodes, rules, volumes.shape
        self.states: list[_State] = []
        last = {source: k for k, node in enumerate(nodes) for source in node.inputs}
        results = {IMAGE: _layout(volumes)}
        for k, (node, rule) in enumerate(zip(nodes, rules, strict=True)):
            inputs = [results[source] for source in node.inputs]
            results[k], state = _ascend(node.layer, rule, inputs)
            self.states.append(state)
            for source in set(node.inputs):
                if last[source] == k:
                    del results[source]
        self.result = results[len(nodes) - 1]

    def descend(self, relevance: torch.Tensor, ledger: Ledger) -> torch.Tensor:
        """Relevance of the image, given that of the last node."""
        top = len(self.nodes) - 1
        arrived: dict[int, torch.Tensor] = {top: relevance}
        for k in range(top, -1, -1):
            state, self.states[k] = self.states[k], _State([])
            if k not in arrived:
                continue
            layer, rule = self.nodes[k].layer, self.rules[k]
            shares = _step_down(layer, rule, state, arrived.pop(k), ledger)
            for source, below in zip(self.nodes[k].inputs, shares, strict=True):
                arrived[source] = arrived[source] + below if source in arrived else below
        if IMAGE not in arrived:
            return relevance.new_zeros(self.shape)
        return arrived[IMAGE].contiguous()


def _layout(volumes: torch.Tensor) -> torch.Tensor:
    """Channels last where that is faster; the values are the same."""
    if volumes.dim() == 5:
        return volumes.detach().contiguous(memory_format=torch.channels_last_3d)
    return volumes.detach()


def _ascend(
    layer: Any, rule: Rule | None, inputs: list[torch.Tensor]
) -> tuple[torch.Tensor, _State]:
    state = _State([one.shape for one in inputs])
    if isinstance(layer, Joining | Passing):
        return layer.module(*inputs), state
    if isinstance(layer, MaxPool):
        result, state.winners = layer.forward(inputs[0])
        return result, state
    assert rule is not None
    # A branch of one channel may be added to one of many.
    branches = torch.broadcast_tensors(*inputs)
    state.a = Inputs(inputs[0] if len(inputs) == 1 else torch.stack(branches, 1))
    result, state.kept = rule.forward(layer, state.a)
    if layer.pool is not None:
        state.full = result.shape
        result, winners = layer.pool.forward(result)
        state.winners = winners
        kept = state.kept
        state.kept = tuple(k if k.numel() == 1 else at_winners(k, winners) for k in kept)
    return result, state


def _step_down(
    layer: Any, rule: Rule | None, state: _State, relevance: torch.Tensor, ledger: Ledger
) -> Sequence[torch.Tensor]:
    """Relevance of each input."""
    if isinstance(layer, Joining):
        axis = layer.module.dim
        return relevance.split([shape[axis] for shape in state.shapes], axis)
    if isinstance(layer, Passing):
        below = layer.backward(state.shapes[0], relevance)
        if is_rearrangement(layer.module):  # what lay outside the image is left out
            ledger.enter("no_input", relevance)
            ledger.enter("no_input", -below)
        return [below]
    if isinstance(layer, MaxPool):
        assert state.winners is not None
        return [to_winners(relevance, state.winners, state.shapes[0])]
    assert rule is not None
    assert state.a is not None
    below = rule.backward(layer, state.a, state.kept, relevance, _unpool(state), ledger)
    if len(state.shapes) == 1:
        return [below]
    return [one.sum_to_size(s) for one, s in zip(below.unbind(1), state.shapes, strict=True)]


def _unpool(state: _State) -> Unpool:
    winners, full = state.winners, state.full
    if winners is None or full is None:
        return Unpool(lambda s: s, lambda s: s.sum(1, keepdim=True))
    return Unpool(
        partial(to_winners, winners=winners, shape=full),
        partial(merged_to_winners, winners=winners, shape=full),
    )
