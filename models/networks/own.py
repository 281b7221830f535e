"""Networks of users: the source of a Python file with a ``build`` function, made a module."""

import hashlib
import sys
from collections.abc import Callable
from traceback import extract_tb
from types import ModuleType
from typing import Any

import torch
from torch import nn

from models.errors import InputError


def build(source: str, file: str, shape: tuple[int, ...], **options: Any) -> nn.Module:
    """Run a file's source and let its ``build`` make a network, which is tried on a zero image.

    The code runs with everything that this process may do: hand over only what was named by the
    person whose run it is.

    Parameters
    ----------
    source : str
        Python that defines ``build(shape, *, channels=1, outputs=2, ...)``, which returns a module
        from (N, channels, *shape) to (N, outputs) scores; one file, complete in itself.
    file : str
        What to call it in errors and tracebacks.
    shape : tuple of int
        Spatial shape of the input in voxels.
    **options
        Passed to ``build``.

    Raises
    ------
    models.errors.InputError
        There is no ``build``, something in the file raises, or the result does not fit.
    """
    make = _build_function(source, file)
    network = _attempt(file, "build", lambda: make(tuple(shape), **options))
    if not isinstance(network, nn.Module):
        raise InputError(f"{file}: build returns {type(network).__name__}, not a torch.nn.Module")
    _check_scores(network, file, (1, options.get("channels", 1), *shape), options.get("outputs", 2))
    return network


def _build_function(source: str, file: str) -> Callable[..., Any]:
    module = ModuleType(f"own_network_{hashlib.sha256(source.encode()).hexdigest()[:16]}")
    module.__file__ = file
    sys.modules[module.__name__] = module  # dataclasses look their module up
    _attempt(file, "the file", lambda: exec(compile(source, file, "exec"), vars(module)))
    make = vars(module).get("build")
    if not callable(make):
        raise InputError(
            f"{file}: defines no function build; write build(shape, *, channels=1, outputs=2) "
            "that returns a torch.nn.Module"
        )
    return make


def _check_scores(network: nn.Module, file: str, shape: tuple[int, ...], outputs: int) -> None:
    network.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        scores = _attempt(file, "the network", lambda: network(torch.zeros(shape)))
    network.train()
    found = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
    if found != (1, outputs):
        raise InputError(
            f"{file}: the network makes {found} of an image {shape}; it must be (1, {outputs}), "
            "the scores before softmax or sigmoid"
        )


def _attempt(file: str, what: str, work: Callable[[], Any]) -> Any:
    """Run the user's code; what it raises becomes a sentence with the line of the file."""
    try:
        return work()
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except SyntaxError as error:
        raise InputError(f"{file}, line {error.lineno}: not valid Python: {error.msg}") from error
    except Exception as error:
        lines = [
            frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == file
        ]
        where = f", line {lines[-1]}" if lines else ""
        alone = "; it must be one file, without others beside it"
        hint = alone if isinstance(error, ModuleNotFoundError) else ""
        raise InputError(
            f"{file}{where}: {what} fails with {type(error).__name__}: {error}{hint}"
        ) from error
