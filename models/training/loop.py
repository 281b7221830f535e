"""The training loop: one fold, one network, one page."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models.errors import InputError
from models.training.augmentation import Augmentation

SELECTIONS = ("validation_loss", "validation_balanced_accuracy", "last")
SCHEDULES = ("constant", "onecycle")


@dataclass(frozen=True)
class Protocol:
    """How a network is trained.

    Parameters
    ----------
    epochs, batch_size : int
    learning_rate, weight_decay : float
        Of Adam (L2 penalty as in the papers, not decoupled).
    schedule : {"constant", "onecycle"}
        ``onecycle`` rises to ``learning_rate`` and falls (Smith & Topin 2019).
    select : {"validation_balanced_accuracy", "validation_loss", "last"}
        Whose epoch's weights are kept; ties in accuracy go to the lower validation loss.
    patience : int
        Stop after so many epochs without a better one; 0 never stops early.
    augmentation : Augmentation
        Applied to training images only.
    """

    epochs: int = 50
    batch_size: int = 4
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    schedule: str = "constant"
    select: str = "validation_balanced_accuracy"
    patience: int = 8
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for name, known in (("select", SELECTIONS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise InputError(
                    f"[training] {name} = '{getattr(self, name)}' is unknown; "
                    f"choose one of: {', '.join(known)}"
                )


@dataclass
class _State:
    """Everything a fold needs to go on where it stopped."""

    epoch: int
    history: list[dict[str, float]]
    best_epoch: int
    best_weights: dict[str, torch.Tensor]


def train(
    model: nn.Module,
    volumes: np.ndarray,
    labels: np.ndarray,
    *,
    train_rows: Sequence[int],
    validation_rows: Sequence[int],
    protocol: Protocol,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: Path | None = None,
    report: Callable[[dict[str, float]], None] = lambda row: None,
) -> list[dict[str, float]]:
    """Train ``model`` in place; it ends with the weights of the selected epoch.

    Every epoch draws from its own seed, so a fold resumed from ``checkpoint`` sees the same
    batches, flips and dropout masks as one that was never interrupted.

    Parameters
    ----------
    model : nn.Module
        Maps (N, C, x, y, z) float32 to (N, 2) scores.
    volumes : (images, C, x, y, z) array
        Usually the memory map of a VolumeCache; only batches are read.
    labels : (images,) bool array
    train_rows, validation_rows : sequence of int
        Rows of ``volumes``. Without validation rows ``protocol.select`` must be "last".
    protocol : Protocol
    seed : int
    device : str
        "cpu", "cuda", "cuda:N" or "mps".
    checkpoint : Path, optional
        Written after every epoch, read when it exists.
    report : callable
        Told each epoch's row of the history.

    Returns
    -------
    list of dict
        epoch, train_loss, validation_loss, validation_balanced_accuracy, selected (0 or 1).

    Raises
    ------
    models.errors.InputError
        A part lacks a class, or the protocol needs validation people that are not there.
    FloatingPointError
        The loss is no longer finite.
    """
    _check(labels, train_rows, validation_rows, protocol)
    model.to(device)
    optimiser = torch.optim.Adam(
        model.parameters(), lr=protocol.learning_rate, weight_decay=protocol.weight_decay
    )
    steps = len(_batches(train_rows, protocol.batch_size))
    schedule = _schedule(optimiser, protocol, steps)
    state = _resume(checkpoint, model, optimiser, schedule, device)

    for epoch in range(state.epoch + 1, protocol.epochs + 1):
        if protocol.patience and epoch - 1 - state.best_epoch >= protocol.patience:
            break
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        torch.manual_seed(seed * 1_000_003 + epoch)  # dropout
        row = {"epoch": float(epoch), "train_loss": 0.0}
        model.train()
        order = torch.randperm(len(train_rows), generator=generator).tolist()
        for batch in _batches([train_rows[i] for i in order], protocol.batch_size):
            images = protocol.augmentation(_load(volumes, batch), generator).to(device)
            targets = torch.as_tensor(labels[batch].astype(np.int64), device=device)
            loss = nn.functional.cross_entropy(model(images), targets)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the training loss is {loss.item()} in epoch {epoch} at the images in rows "
                    f"{batch}: look at these images, or lower [training] learning_rate"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            row["train_loss"] += loss.item() * len(batch) / len(train_rows)
        row |= evaluate(model, volumes, labels, validation_rows, protocol.batch_size, device)
        state.history.append(row)
        state.epoch = epoch
        if _is_better(state, protocol.select):
            state.best_epoch, state.best_weights = epoch, deepcopy(model.state_dict())
        report(row)
        _save(checkpoint, state, model, optimiser, schedule)

    model.load_state_dict(state.best_weights)
    for row in state.history:
        row["selected"] = float(row["epoch"] == state.best_epoch)
    return state.history


@torch.no_grad()
def predict(
    model: nn.Module,
    volumes: np.ndarray,
    rows: Sequence[int],
    batch_size: int = 4,
    device: str = "cpu",
) -> torch.Tensor:
    """Scores (len(rows), outputs) before softmax, float32 on the CPU; every mode is kept."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        scores = [
            model(_load(volumes, batch).to(device)).float().cpu()
            for batch in _batches(list(rows), batch_size)
        ]
    finally:
        for module, mode in modes:
            module.training = mode
    return torch.cat(scores) if scores else torch.empty(0, 2)


def evaluate(
    model: nn.Module,
    volumes: np.ndarray,
    labels: np.ndarray,
    rows: Sequence[int],
    batch_size: int,
    device: str,
) -> dict[str, float]:
    """Loss and balanced accuracy of the validation rows; NaN where there are none."""
    if not len(rows):
        return {"validation_loss": float("nan"), "validation_balanced_accuracy": float("nan")}
    scores = predict(model, volumes, rows, batch_size, device)
    truth = torch.as_tensor(labels[list(rows)].astype(np.int64))
    hit = scores.argmax(1) == truth
    return {
        "validation_loss": nn.functional.cross_entropy(scores, truth).item(),
        "validation_balanced_accuracy": float(
            (hit[truth == 1].float().mean() + hit[truth == 0].float().mean()) / 2
        ),
    }


def _check(
    labels: np.ndarray,
    train_rows: Sequence[int],
    validation_rows: Sequence[int],
    protocol: Protocol,
) -> None:
    if len(set(labels[list(train_rows)].tolist())) < 2:
        raise InputError("the training part of this fold has one class only: add people")
    if protocol.select != "last" and not len(validation_rows):
        raise InputError(
            f"[training] select = '{protocol.select}' needs validation people: raise "
            "validation_share, or use select = 'last'"
        )
    if protocol.select != "last" and len(set(labels[list(validation_rows)].tolist())) < 2:
        raise InputError("the validation part of this fold has one class only: add people")


def _batches(rows: Sequence[int], size: int) -> list[list[int]]:
    """Batches of ``size``; a last one of a single image joins its neighbour (BatchNorm)."""
    cut = [list(rows[i : i + size]) for i in range(0, len(rows), size)]
    if len(cut) > 1 and len(cut[-1]) == 1:
        last = cut.pop()
        cut[-1] += last
    return cut


def _load(volumes: np.ndarray, rows: Sequence[int]) -> torch.Tensor:
    return torch.from_numpy(np.stack([volumes[row] for row in rows]).astype(np.float32))


def _schedule(
    optimiser: torch.optim.Optimizer, protocol: Protocol, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if protocol.schedule == "onecycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimiser, protocol.learning_rate, total_steps=protocol.epochs * steps
        )
    return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)


def _is_better(state: _State, select: str) -> bool:
    rows = {int(row["epoch"]): row for row in state.history}
    new, best = rows[state.epoch], rows.get(state.best_epoch)
    if best is None or select == "last":
        return True
    key: Callable[[dict[str, float]], tuple[float, ...]] = {
        "validation_loss": lambda row: (-row["validation_loss"],),
        "validation_balanced_accuracy": lambda row: (
            row["validation_balanced_accuracy"],
            -row["validation_loss"],
        ),
    }[select]
    return key(new) > key(best)


def _save(checkpoint: Path | None, state: _State, *parts: Any) -> None:
    if checkpoint is None:
        return
    partial = checkpoint.with_suffix(".part")
    torch.save({"state": vars(state), "parts": [part.state_dict() for part in parts]}, partial)
    partial.replace(checkpoint)


def _resume(checkpoint: Path | None, model: nn.Module, *parts: Any) -> _State:
    *rest, device = parts
    if checkpoint is None or not checkpoint.exists():
        return _State(0, [], 0, deepcopy(model.state_dict()))
    saved = torch.load(checkpoint, map_location=device, weights_only=True)
    for part, values in zip([model, *rest], saved["parts"], strict=True):
        part.load_state_dict(values)
    return _State(**saved["state"])
