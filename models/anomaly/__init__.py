"""Auto-encoders that learn what controls look like: one module per family of them.

Each is an ``nn.Module`` that also knows how it is fed: ``epochs``, ``learning_rate``,
``batches(volumes, brain, generator)``, ``loss(batch)`` and ``reconstruct(volume, brain)``; see
:class:`models.anomaly.ae.SliceAutoEncoder`.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from models.errors import InputError

# Name in a recipe -> module, and what sets it apart from the module's defaults.
METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ae": ("ae", {}),
    "dae": ("ae", {"noise": 0.2}),
    "sae": ("sae", {}),
    "sae3d": ("sae", {"dimensions": 3}),
}


def build(method: str, shape: tuple[int, ...], *, channels: int = 1, **options: Any) -> nn.Module:
    """Make an auto-encoder with freshly drawn weights.

    Parameters
    ----------
    method : str
        One of :data:`METHODS`.
    shape : tuple of int
        Spatial shape of the images in voxels, (x, y, z).
    channels : int
        Of the images.
    **options
        Passed to the constructor.

    Raises
    ------
    models.errors.InputError
        Unknown name, or an option that the method does not have or cannot use.
    """
    if method not in METHODS:
        raise InputError(
            f"there is no auto-encoder '{method}'; choose one of: {', '.join(METHODS)}"
        )
    module, defaults = METHODS[method]
    try:
        made = import_module(f"models.anomaly.{module}").AutoEncoder
        return made(shape, channels, **{**defaults, **options})
    except (TypeError, ValueError) as error:
        raise InputError(f"auto-encoder '{method}': {error}") from error
