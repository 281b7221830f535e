"""Why does the network say so? One call, any method: ``explain(model, volumes, method=...)``."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

# Name -> (module, function). A method is a function (model, volumes, target, **parameters).
METHODS = {
    "saliency": ("models.attribution.gradients", "saliency"),
    "input_x_gradient": ("models.attribution.gradients", "input_x_gradient"),
    "lrp_epsilon": ("models.attribution.lrp", "lrp_epsilon"),
    "lrp_alpha_beta": ("models.attribution.lrp", "lrp_alpha_beta"),
}


@dataclass(frozen=True)
class Explanation:
    """Heatmaps of a batch and what is known about them.

    Attributes
    ----------
    heatmap : torch.Tensor
        Same shape as the input (N, C, x, y, z), float32 on the CPU.
    score : torch.Tensor
        (N,) score of the explained class before softmax.
    ledger : dict of str to torch.Tensor
        For methods that conserve relevance, (N,) shares that add up to ``start``: ``map`` (sum of
        the heatmap), ``bias``, ``epsilon``, ``no_input``. Empty for the others.
    """

    heatmap: "torch.Tensor"
    score: "torch.Tensor"
    ledger: dict[str, "torch.Tensor"]


def explain(
    model: "nn.Module", volumes: "torch.Tensor", *, method: str, target: int = 1, **parameters: Any
) -> Explanation:
    """Explain the score of class ``target`` for every volume of a batch.

    The model comes back as it was: parameters, buffers, gradients and train/eval mode.

    Parameters
    ----------
    model : nn.Module
        Maps (N, C, x, y, z) to (N, outputs) scores before softmax.
    volumes : torch.Tensor
        (N, C, x, y, z); computed in its dtype, on the model's device.
    method : str
        One of :data:`METHODS`.
    target : int
        Column of the scores to explain.
    **parameters
        Of the method; see its own docstring.

    Raises
    ------
    models.errors.InputError
        Unknown method, parameter, or a layer for which the method has no rule.
    """
    import torch

    explainer = _explainer(method, parameters)
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.enable_grad():
            result: Explanation = explainer(model, volumes.to(device), target, **parameters)
    finally:
        for module, mode in modes:
            module.training = mode
    return Explanation(
        result.heatmap.detach().float().cpu(),
        result.score.detach().cpu(),
        {name: share.detach().cpu() for name, share in result.ledger.items()},
    )


def check_parameters(method: str, parameters: dict[str, Any]) -> None:
    """Raise InputError for a method or a parameter name that does not exist."""
    _explainer(method, parameters)


def defaults(method: str) -> dict[str, Any]:
    """Parameters of a method and their default values."""
    return {
        parameter.name: parameter.default
        for parameter in signature(_explainer(method, {})).parameters.values()
        if parameter.kind is Parameter.KEYWORD_ONLY
    }


def _explainer(method: str, parameters: dict[str, Any]) -> Callable[..., Explanation]:
    from models.errors import InputError

    if method not in METHODS:
        raise InputError(f"no attribution '{method}'; choose one of: {', '.join(METHODS)}")
    module, name = METHODS[method]
    explainer = getattr(import_module(module), name)
    known = [
        parameter.name
        for parameter in signature(explainer).parameters.values()
        if parameter.kind is Parameter.KEYWORD_ONLY
    ]
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise InputError(f"{method} has no parameter '{unknown[0]}'; it has: {', '.join(known)}")
    return explainer
