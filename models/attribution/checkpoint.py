"""Scores of a long sweep, kept in a file so that an interrupted one goes on."""

import hashlib
import os
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

SECONDS_BETWEEN = 5.0


class Checkpoint:
    """One number per person and version; NaN where it is not known yet.

    Parameters
    ----------
    path : path or None
        An ``.npz`` file; read if it belongs to the same sweep, otherwise begun anew. None keeps
        nothing.
    fingerprint : str
        Of all that the numbers depend on; see :func:`fingerprint`.
    people, versions : int
        How many there are.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, fingerprint: str, people: int, versions: int
    ):
        self.path = None if path is None else Path(path)
        self.fingerprint = fingerprint
        self.values = np.full((people, versions), np.nan)
        self._saved = time.monotonic()
        self._read()

    def _read(self) -> None:
        if self.path is None or not self.path.exists():
            return
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                mark, values = str(stored["fingerprint"]), stored["values"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return  # not ours, or cut off: begin anew
        if mark == self.fingerprint and values.shape == self.values.shape:
            self.values = values

    def save(self, *, now: bool = False) -> None:
        """Write the file as a whole, at most every few seconds unless ``now``."""
        if self.path is None or not (now or time.monotonic() - self._saved > SECONDS_BETWEEN):
            return
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            with draft.open("wb") as file:
                np.savez(file, fingerprint=np.array(self.fingerprint), values=self.values)
            os.replace(draft, self.path)
        finally:
            draft.unlink(missing_ok=True)
        self._saved = time.monotonic()


def fingerprint(model: nn.Module, volumes: torch.Tensor, settings: Iterable[Any]) -> str:
    """Hash of a network, images and settings (arrays, or anything with a stable ``repr``)."""
    digest = hashlib.sha256(repr(model).encode())
    for name, value in [*sorted(model.state_dict().items()), ("volumes", volumes)]:
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(_bytes(value))
    for setting in settings:
        array = isinstance(setting, np.ndarray)
        digest.update(setting.tobytes() if array else repr(setting).encode())
    return digest.hexdigest()


def _bytes(value: torch.Tensor) -> Any:
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
