"""Attributions that are gradients of the score before softmax."""

import torch
from torch import nn

from models.attribution import Explanation
from models.errors import InputError

FORMS = {"abs": torch.abs, "square": torch.square, "signed": lambda gradient: gradient}


def saliency(
    model: nn.Module, volumes: torch.Tensor, target: int, *, form: str = "abs"
) -> Explanation:
    """Gradient of the score with respect to the input (Simonyan et al. 2014).

    Parameters
    ----------
    form : {"abs", "square", "signed"}
        What is done to the gradient; Rieke 2018 calls ``abs`` sensitivity analysis.
    """
    if form not in FORMS:
        raise InputError(f"saliency has no form '{form}'; choose one of: {', '.join(FORMS)}")
    gradient, score = _gradient(model, volumes, target)
    return Explanation(FORMS[form](gradient), score, {})


def input_x_gradient(model: nn.Module, volumes: torch.Tensor, target: int) -> Explanation:
    """Input times gradient (Shrikumar et al. 2017), as in Eitel 2019."""
    gradient, score = _gradient(model, volumes, target)
    return Explanation(volumes * gradient, score, {})


def _gradient(
    model: nn.Module, volumes: torch.Tensor, target: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient (N, C, x, y, z) and score (N,); no parameter's ``.grad`` is touched."""
    inputs = volumes.detach().requires_grad_(True)
    score = model(inputs)[:, target]
    # In eval mode people do not mix within a batch: the gradient of the sum is each one's own.
    (gradient,) = torch.autograd.grad(score.sum(), inputs)
    return gradient, score
