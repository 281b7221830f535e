"""Published architectures, one per file; ``build`` makes any of them by name.

A module of this folder has one public function, ``build(shape, *, channels=1, outputs=2, ...)``,
that returns an :class:`torch.nn.Module` mapping (N, channels, *shape) to (N, outputs) scores
before any softmax or sigmoid.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

NETWORKS = ("boehle2019", "demo")


def build(name: str, shape: tuple[int, ...], **options: Any) -> "nn.Module":
    """Make a network with freshly drawn weights.

    Parameters
    ----------
    name : str
        One of :data:`NETWORKS`.
    shape : tuple of int
        Spatial shape of the input in voxels.
    **options
        Passed to the architecture's own ``build``.

    Raises
    ------
    models.errors.InputError
        Unknown name, or a grid that the network's pooling reduces to nothing.
    """
    from models.errors import InputError

    if name not in NETWORKS:
        raise InputError(f"there is no network '{name}'; choose one of: {', '.join(NETWORKS)}")
    try:
        return import_module(f"models.networks.{name}").build(shape, **options)
    except TypeError as error:
        raise InputError(f"network '{name}': {error}") from error
