"""Kinds of layers that several methods tell apart."""

from collections.abc import Callable
from typing import Any

from torch import nn

CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
MAXPOOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)

# Activation -> whether this one keeps the order of values. Where a ReLU makes ties, the gradient
# is zero, so that it does not matter who wins them.
MONOTONE: dict[type[nn.Module], Callable[[Any], bool]] = {
    nn.ReLU: lambda module: True,
    nn.ELU: lambda module: module.alpha > 0,
    nn.LeakyReLU: lambda module: module.negative_slope > 0,
}


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody's hook has to run with the module (weight_norm is one)."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def is_monotone(module: nn.Module) -> bool:
    """Whether the largest value stays the largest."""
    rises = MONOTONE.get(type(module))
    return rises is not None and rises(module) and not is_hooked(module)


def runs_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module computes what this kind of layer does: a subclass may do anything else."""
    return isinstance(module, kind) and type(module).forward is kind.forward
