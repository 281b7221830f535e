"""Adam on the weights that are trained, with a penalty on those that are named."""

from collections.abc import Iterable

import torch
from torch import nn

from models.errors import InputError
from models.training.protocol import Protocol


def adam(model: nn.Module, protocol: Protocol) -> torch.optim.Adam:
    """Adam over every parameter that requires a gradient.

    Raises
    ------
    models.errors.InputError
        A layer of ``weight_decay_layers`` does not exist or has no weights, or nothing is left to
        train.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    if not trained:
        raise InputError("every layer of the network is frozen: nothing is left to train")
    named = layers(model, protocol.weight_decay_layers, "[training.protocol] weight_decay_layers")
    penalised = {id(weight) for weight in _weights(named)} if named else set(map(id, trained))
    groups = [
        {
            "params": [weight for weight in trained if (id(weight) in penalised) == has],
            "weight_decay": protocol.weight_decay if has else 0.0,
        }
        for has in (True, False)
    ]
    return torch.optim.Adam([one for one in groups if one["params"]], lr=protocol.learning_rate)


def layers(model: nn.Module, names: Iterable[str], option: str) -> list[nn.Module]:
    """Modules of these names, each of which has parameters.

    Raises
    ------
    models.errors.InputError
        There is no such layer; ``option`` is the recipe's key that names it.
    """
    known = {
        name: module
        for name, module in model.named_modules()
        if name and any(True for _ in module.parameters())
    }
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(
            f"{option}: the network has no layer '{unknown[0]}' with weights; it has: "
            f"{', '.join(known)}"
        )
    return [known[name] for name in names]


def _weights(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Parameters of more than one dimension: kernels and matrices, neither biases nor norms."""
    return [weight for module in modules for weight in module.parameters() if weight.dim() > 1]
