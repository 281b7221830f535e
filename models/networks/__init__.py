"""Published architectures, one per file; ``build`` makes any of them by name.

A module of this folder that :data:`NETWORKS` names has one public function,
``build(shape, *, channels=1, outputs=2, ...)``, that returns an :class:`torch.nn.Module` mapping
(N, channels, *shape) to (N, outputs) scores before any softmax or sigmoid.

Two conventions of outputs, both with the patient class positive:

- ``outputs=2``: a score for each class, (control, patient). The softmax over them is the
  probability; the log-odds of being a patient are the second score less the first.
- ``outputs=1``: one logit, the log-odds of being a patient. Its sigmoid is the probability; the
  score of the control class is its negative, and a positive logit predicts "patient".

With more outputs there is a score per class, in the order of the classes.

Every network can be traced with :func:`torch.fx.symbolic_trace`, uses each module once and
changes nothing in place, so that attributions can follow a volume through it.
"""

from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

NETWORKS = (
    "boehle2019",
    "demo",
    "diktiometry",
    "eitel2019",
    "liu2018",
    "nazari2021",
    "pif",
    "resnet3d",
    "rieke2018",
)


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
        Unknown name, a grid that the network's pooling reduces to nothing, or an option that it
        does not have or cannot use.
    """
    from models.errors import InputError

    if name not in NETWORKS:
        raise InputError(f"there is no network '{name}'; choose one of: {', '.join(NETWORKS)}")
    make = import_module(f"models.networks.{name}").build
    known = list(signature(make).parameters)[1:]
    for option in options:
        if option not in known:
            near = get_close_matches(option, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(known)}"
            raise InputError(f"network '{name}' has no option '{option}'; {hint}")
    try:
        return make(shape, **options)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"network '{name}': {error}") from error
