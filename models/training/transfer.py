"""Starts a network from the weights of another training of the same architecture."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from models.errors import InputError
from models.training.optimiser import layers

HEADS = ("keep", "new")


@dataclass(frozen=True)
class Transfer:
    """[training.transfer]: where the weights start.

    Parameters
    ----------
    model : str
        Name of a model below the output folder, or a model's folder anywhere; "" starts from
        drawn weights.
    fold : "best" or int
        Which of its networks: the one with the best validation score, or the one of this number.
    freeze : tuple of str
        Layers, by their names in the network, that are not trained; none by default, as in
        Eitel 2019.
    head : {"keep", "new"}
        Whether the last layer is taken over, too, or drawn afresh.
    """

    model: str = ""
    fold: str | int = "best"
    freeze: tuple[str, ...] = ()
    head: str = "keep"

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise InputError(
                f"[training.transfer] head = '{self.head}' is unknown; choose one of: "
                f"{', '.join(HEADS)}"
            )
        if isinstance(self.fold, str) and self.fold != "best":
            raise InputError(
                f"[training.transfer] fold = '{self.fold}': write 'best' or a fold's number"
            )


def start_from(
    network: nn.Module,
    weights: Mapping[str, torch.Tensor],
    *,
    source: str,
    head: str = "keep",
    freeze: tuple[str, ...] = (),
) -> None:
    """Put ``weights`` into the network and freeze the layers that are named.

    Parameters
    ----------
    network : nn.Module
        With freshly drawn weights; changed in place.
    weights : mapping of str to tensor
        State of a network of the same architecture.
    source : str
        What to call their origin.
    head, freeze
        See :class:`Transfer`.

    Raises
    ------
    models.errors.InputError
        Other layers, other shapes, or a layer to freeze that is not there or is drawn afresh.
    """
    last = last_layer(network)
    if head == "new" and last in freeze:
        raise InputError(
            f"[training.transfer] freeze: layer '{last}' is the last, which head = 'new' draws "
            "afresh; leave one of both out"
        )
    mine = network.state_dict()
    if set(weights) != set(mine):
        raise InputError(
            f"[training.transfer] model {source}: has other layers than this network "
            f"({_difference(weights, mine)}); only a model of the same architecture can be taken"
        )
    taken = {
        name: value
        for name, value in weights.items()
        if not (head == "new" and name.startswith(f"{last}."))
    }
    _check_shapes(taken, mine, last, source)
    network.load_state_dict(mine | taken)
    for layer in layers(network, freeze, "[training.transfer] freeze"):
        layer.requires_grad_(False)


def last_layer(network: nn.Module) -> str:
    """Name of the last module that has parameters of its own."""
    return [
        name for name, module in network.named_modules() if list(module.parameters(recurse=False))
    ][-1]


def _difference(theirs: Mapping[str, torch.Tensor], mine: Mapping[str, torch.Tensor]) -> str:
    only = [f"{name} is only there" for name in theirs if name not in mine]
    only += [f"{name} is only here" for name in mine if name not in theirs]
    return ", ".join(only[:2]) + (", ..." if len(only) > 2 else "")


def _check_shapes(
    taken: Mapping[str, torch.Tensor], mine: Mapping[str, torch.Tensor], last: str, source: str
) -> None:
    other = [name for name in taken if taken[name].shape != mine[name].shape]
    if not other:
        return
    shapes = "; ".join(
        f"{name} is {tuple(taken[name].shape)} there and {tuple(mine[name].shape)} here"
        for name in other[:3]
    )
    raise InputError(f"[training.transfer] model {source}: {shapes}; {_remedy(taken, other, last)}")


def _remedy(taken: Mapping[str, torch.Tensor], other: list[str], last: str) -> str:
    """What is possible when the shapes of some weights differ."""
    if all(name.startswith(f"{last}.") for name in other):
        return "head = 'new' takes over everything but this last layer"
    first = next(iter(taken))
    if other[0] == first:
        return "its images have another number of channels, or its options differ: make them alike"
    return (
        "its images lie on another grid, or its options differ: choose the same [preprocessing] "
        "grid and [network] options, or a network whose layers do not depend on the grid "
        "(resnet3d)"
    )
