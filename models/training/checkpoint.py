"""What an interrupted fold needs to go on as if nothing had happened."""

from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass
class State:
    """A training up to the end of an epoch.

    Attributes
    ----------
    history : list of dict
        A row per epoch done.
    best_weights : dict
        State of the network in the selected epoch.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)


def resume(checkpoint: Path | None, device: str, model: nn.Module, *parts: Any) -> State:
    """Put the network and what trains it into the state of the checkpoint, where there is one."""
    if checkpoint is None or not checkpoint.exists():
        return State(best_weights=deepcopy(model.state_dict()))
    saved = torch.load(checkpoint, map_location=device, weights_only=True)
    for part, values in zip([model, *parts], saved["parts"], strict=True):
        part.load_state_dict(values)
    return State(**saved["state"])


def save(checkpoint: Path | None, state: State, *parts: Any) -> None:
    """Write the state in one step: a process killed meanwhile leaves the checkpoint before."""
    if checkpoint is None:
        return
    partial = checkpoint.with_suffix(".part")
    torch.save({"state": vars(state), "parts": [part.state_dict() for part in parts]}, partial)
    partial.replace(checkpoint)
