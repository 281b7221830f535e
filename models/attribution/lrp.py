r"""Layer-wise relevance propagation (Bach et al. 2015): rules by layer, and what they conserve.

The network is read into nodes (:mod:`models.attribution.layers`); relevance runs down them, and
each weighted layer hands it on by its rule (:mod:`models.attribution.rules`). Nothing is hooked
into the network or changed in it. What a layer cannot pass on is written into a ledger, so that
for every person ``map + bias + epsilon + no_input = start``.

Every method of this file takes, beside its own parameters,

start : {"probability", "logit", "one"}
    Relevance put on the explained class's score: its probability (Böhle 2019, Eitel 2019), the
    score itself, or 1.
batchnorm : {"fold", "pass"}
    BatchNorm becomes part of the layer before it, or hands relevance on unchanged (as the code of
    Böhle 2019 does).
layer, unit : str and int
    Start at a hidden layer's filter instead (Eitel 2021, figures 8 to 10): its activations are
    the relevance. ``layer`` is the module's name in the network.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import wraps
from inspect import signature
from typing import Any

import torch

from models.attribution import Explanation, check_value
from models.attribution.propagation import Composite, propagate
from models.attribution.rules import RULES, AlphaBeta, Epsilon, Flat, Gamma, Rule, WSquare
from models.errors import InputError

PRESETS: dict[str, Composite] = {
    # Nazari 2021, the composite of its figure 3.
    "nazari2021": (("linear", Epsilon(1e-4)), ("conv 1-2", Flat()), ("conv", AlphaBeta(1.0))),
    "epsilon_plus": (("linear", Epsilon(1e-6)), ("conv", AlphaBeta(0.0))),
    "epsilon_plus_flat": (
        ("conv 1", Flat()),
        ("linear", Epsilon(1e-6)),
        ("conv", AlphaBeta(0.0)),
    ),
    "epsilon_alpha2_beta1": (("linear", Epsilon(1e-6)), ("conv", AlphaBeta(1.0))),
    "epsilon_alpha2_beta1_flat": (
        ("conv 1", Flat()),
        ("linear", Epsilon(1e-6)),
        ("conv", AlphaBeta(1.0)),
    ),
    "epsilon_gamma": (("linear", Epsilon(1e-6)), ("conv", Gamma(0.25))),
}


# --- the methods ---------------------------------------------------------------------------------


def _method(composite: Callable[..., Composite]) -> Callable[..., Explanation]:
    """An attribution method that puts the rules made by ``composite(**its parameters)`` to use."""
    common = ("start", "batchnorm", "layer", "unit")

    @wraps(composite)
    def method(
        model: torch.nn.Module, volumes: torch.Tensor, target: int, **parameters: Any
    ) -> Explanation:
        shared = {name: parameters.pop(name) for name in common if name in parameters}
        return propagate(model, volumes, target, composite(**parameters), **shared)

    shared = [signature(propagate).parameters[name] for name in common]
    leading = list(signature(propagate).parameters.values())[:3]
    own = list(signature(composite).parameters.values())
    method.__signature__ = signature(method).replace(  # type: ignore[attr-defined]
        parameters=[*leading, *own, *shared]
    )
    return method


@_method
def lrp_0(*, bias: str = "absorb") -> Composite:
    """R_i = sum_j z_ij / z_j R_j (Bach et al. 2015, Eq. 56).

    Parameters
    ----------
    bias : {"absorb", "ignore"}
        Whether biases belong to z_j and keep their share.
    """
    return [("any", Epsilon(0.0, bias))]


@_method
def lrp_epsilon(*, epsilon: float = 1e-3, bias: str = "absorb") -> Composite:
    """R_i = sum_j z_ij / (z_j + epsilon sign z_j) R_j (Bach et al. 2015, Eq. 58).

    Parameters
    ----------
    epsilon : float
        0.001 in Eitel 2019, 0.0001 in Nazari 2021.
    bias : {"absorb", "ignore"}
        Whether biases belong to z_j and keep their share.
    """
    return [("any", Epsilon(epsilon, bias))]


@_method
def lrp_gamma(*, gamma: float = 0.25, bias: str = "absorb") -> Composite:
    """Shares of a_i (w_ij + gamma w+_ij) (Montavon et al. 2019, section 10.2.1).

    Parameters
    ----------
    gamma : float
        How much positive shares are preferred; 0 is LRP-0.
    bias : {"absorb", "ignore"}
        Whether biases belong to the denominators and keep their share.
    """
    return [("any", Gamma(gamma, bias))]


@_method
def lrp_alpha_beta(
    *,
    beta: float = 0.0,
    input_layer: str = "same",
    bias: str = "ignore",
    one_signed: str = "pass",
) -> Composite:
    """R_i = sum_j (alpha z+_ij / z+_j - beta z-_ij / z-_j) R_j with alpha = 1 + beta.

    Bach et al. 2015, Eq. 60; Böhle 2019 with beta 0 to 1, Eitel 2021 with beta 4.

    Parameters
    ----------
    beta : float
        Weight of the negative part, at least 0.
    input_layer : {"same", "flat"}
        ``flat`` spreads the first layer's relevance evenly over its receptive field.
    bias : {"ignore", "absorb"}
        Whether biases belong to the denominators and keep their share.
    one_signed : {"pass", "weigh"}
        What a unit does whose inputs all have one sign: pass its whole relevance through them, or
        only alpha (or -beta) times it, as without the exception.
    """
    rule = AlphaBeta(beta, bias, one_signed)
    if input_layer not in ("same", "flat"):
        raise InputError(f"lrp_alpha_beta: input_layer is same or flat, not '{input_layer}'")
    return [("first", Flat()), ("any", rule)] if input_layer == "flat" else [("any", rule)]


@_method
def deep_taylor() -> Composite:
    """R_i = sum_j a_i w+_ij / sum_i a_i w+_ij R_j everywhere, the z+ rule (Montavon et al. 2017).

    For inputs below zero (z-scored images, ELU), (a_i w_ij)+ takes the place of a_i w+_ij.
    A unit without a positive input loses its relevance, which the ledger counts as ``no_input``.
    """
    return [("any", AlphaBeta(0.0, one_signed="weigh"))]


@_method
def lrp_flat() -> Composite:
    """Relevance spread evenly over every receptive field, the same for every image."""
    return [("any", Flat())]


@_method
def lrp_w2() -> Composite:
    """Shares of the squared weights (Montavon et al. 2017, Eq. 17), the same for every image."""
    return [("any", WSquare())]


@_method
def lrp_composite(*, preset: str = "nazari2021", rules: Sequence[Sequence[Any]] = ()) -> Composite:
    """Rules by layer.

    Parameters
    ----------
    preset : str
        One of :data:`PRESETS`; ``nazari2021`` is epsilon on fully connected layers, alpha 2 beta
        1 on convolutions, flat on the first two.
    rules : sequence of (selector, rule name, parameters)
        Instead of a preset, for example ``[["linear", "epsilon", {"epsilon": 1e-4}], ["conv 1",
        "flat"], ["conv", "alpha_beta", {"beta": 1}]]``. The first selector that fits a layer
        gives its rule; see :func:`models.attribution.propagation.assign`.
    """
    if rules:
        return [_named_rule(entry) for entry in rules]
    if preset not in PRESETS:
        raise InputError(f"there is no LRP preset '{preset}'; choose one of: {', '.join(PRESETS)}")
    return PRESETS[preset]


def _named_rule(entry: Sequence[Any]) -> tuple[str, Rule]:
    """A rule as a recipe writes it: [selector, name] or [selector, name, parameters]."""
    parts = [*entry, {}][:3] if isinstance(entry, list | tuple) else []
    kinds = [type(part) for part in parts]
    if kinds != [str, str, dict] or len(entry) > 3:
        raise InputError(
            "LRP rules are lists of [selector, rule] or [selector, rule, parameters], not "
            f"{entry!r}"
        )
    selector, name, parameters = parts
    if name not in RULES:
        raise InputError(f"there is no LRP rule '{name}'; choose one of: {', '.join(RULES)}")
    known = signature(RULES[name]).parameters
    for key, value in parameters.items():
        if key not in known:
            names = ", ".join(known) or "no parameter"
            raise InputError(f"LRP rule {name} has no parameter '{key}'; it has: {names}")
        check_value(f"LRP rule {name}", known[key], value)
    return selector, RULES[name](**parameters)


def described(preset: str = "nazari2021", rules: Sequence[Sequence[Any]] = ()) -> list[list[Any]]:
    """Selector, rule and all parameters of a composite, for a record of what was done."""
    composite = [_named_rule(entry) for entry in rules] if rules else PRESETS[preset]
    names = {kind: name for name, kind in RULES.items()}
    return [[selector, names[type(rule)], asdict(rule)] for selector, rule in composite]
