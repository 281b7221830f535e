"""The training loop: one fold, one network, one page."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import nn

from models.errors import InputError
from models.training.batches import batches, read
from models.training.checkpoint import resume, save
from models.training.evaluation import evaluate, predict
from models.training.history import best_epoch, is_over
from models.training.objective import Objective
from models.training.optimiser import adam
from models.training.protocol import Protocol
from models.training.schedule import schedule

__all__ = ["Protocol", "evaluate", "predict", "train"]


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
    names: Sequence[str] | None = None,
    report: Callable[[dict[str, float]], None] = lambda row: None,
) -> list[dict[str, float]]:
    """Train ``model`` in place; it ends with the weights of the selected epoch.

    Every epoch draws from its own seed, so a fold resumed from ``checkpoint`` sees the same
    batches, flips and dropout masks as one that was never interrupted. Layers whose parameters
    require no gradient stay as they are, the statistics of their BatchNorm included.

    Parameters
    ----------
    model : nn.Module
        Maps (N, C, x, y, z) float32 to (N, 2) scores or (N, 1) logits.
    volumes : (images, C, x, y, z) array
        Usually the memory map of a VolumeCache; only batches are read.
    labels : (images,) bool array
    train_rows, validation_rows : sequence of int
        Rows of ``volumes``. Validation rows may be empty where nothing is selected by them.
    protocol : Protocol
    seed : int
    device : str
        "cpu", "cuda", "cuda:N" or "mps".
    checkpoint : Path, optional
        Written after every epoch, read when it exists.
    names : sequence of str, optional
        What to call the images, row by row, when something is wrong with them.
    report : callable
        Told each epoch's row of the history.

    Returns
    -------
    list of dict
        A row per epoch: epoch, train_loss, the validation metrics of
        `models.training.protocol.METRICS`, learning_rate (of the last update), updates, seconds,
        images_per_second (of training), selected (0 or 1).

    Raises
    ------
    models.errors.InputError
        A part lacks a class, or the protocol needs validation people that are not there.
    FloatingPointError
        The loss is no longer finite; the checkpoint of the epoch before is kept.
    """
    _check(labels, train_rows, validation_rows, protocol)
    model.to(device)
    objective = Objective.of(
        protocol.class_weights, protocol.label_smoothing, labels[list(train_rows)]
    )
    optimiser = adam(model, protocol)
    updates = len(batches(train_rows, protocol.batch_size))
    rates = schedule(optimiser, protocol, updates)
    state = resume(checkpoint, device, model, optimiser, rates)

    while not is_over(state.history, protocol):
        epoch, began, total = len(state.history) + 1, perf_counter(), 0.0
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        torch.manual_seed(seed * 1_000_003 + epoch)  # dropout
        _training_mode(model)
        order = torch.randperm(len(train_rows), generator=generator).tolist()
        drawn = batches([train_rows[i] for i in order], protocol.batch_size)
        for number, batch in enumerate(drawn, start=1):
            images = protocol.augmentation(read(volumes, batch), generator).to(device)
            loss = objective.losses(model(images), labels[batch]).mean()
            if not torch.isfinite(loss):
                raise FloatingPointError(_diverged(epoch, number, images, batch, names))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            rate = optimiser.param_groups[0]["lr"]
            rates.step()
            total += loss.item() * len(batch)
        trained = perf_counter() - began
        row = {"epoch": float(epoch), "train_loss": total / len(train_rows)}
        row |= evaluate(
            model, volumes, labels, validation_rows, protocol.batch_size, device, objective
        )
        row |= {
            "learning_rate": rate,
            "updates": float(updates),
            "seconds": perf_counter() - began,
            "images_per_second": len(train_rows) / trained,
        }
        state.history.append(row)
        if best_epoch(state.history, protocol.select, protocol.ignore_epochs) == epoch:
            state.best_weights = deepcopy(model.state_dict())
        report(row)
        save(checkpoint, state, model, optimiser, rates)

    model.load_state_dict(state.best_weights)
    kept = best_epoch(state.history, protocol.select, protocol.ignore_epochs)
    for row in state.history:
        row["selected"] = float(row["epoch"] == kept)
    return state.history


def _check(
    labels: np.ndarray,
    train_rows: Sequence[int],
    validation_rows: Sequence[int],
    protocol: Protocol,
) -> None:
    if len(set(labels[list(train_rows)].tolist())) < 2:
        raise InputError("the training part of this fold has one class only: add people")
    if not protocol.needs_validation:
        return
    if not len(validation_rows):
        key = "stop" if protocol.select == "last" else "select"
        remedy = "patience = 0" if protocol.select == "last" else "select = 'last'"
        raise InputError(
            f"[training.protocol] {key} = '{getattr(protocol, key)}' needs validation people: "
            f"raise [training] validation_share, or use {remedy}"
        )
    if len(set(labels[list(validation_rows)].tolist())) < 2:
        raise InputError("the validation part of this fold has one class only: add people")


def _training_mode(model: nn.Module) -> None:
    """Train mode, but for frozen layers: the statistics of their BatchNorm stay as they are."""
    model.train()
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(weight.requires_grad for weight in own):
            module.eval()


def _diverged(
    epoch: int,
    number: int,
    images: torch.Tensor,
    batch: list[int],
    names: Sequence[str] | None,
) -> str:
    """A sentence about a loss that is no number, with the images that hold what is none."""
    finite = images.isfinite().flatten(1).all(1).tolist()
    broken = [row for row, fine in zip(batch, finite, strict=True) if not fine]
    who = [names[row] if names else f"row {row}" for row in broken or batch]
    cause = "whose voxels are not all numbers" if broken else "which are all numbers"
    remedy = "leave these out" if broken else "lower [training.protocol] learning_rate"
    kept = f"; the checkpoint of epoch {epoch - 1} is kept" if epoch > 1 else ""
    return (
        f"the training loss is no longer a number in epoch {epoch}, batch {number}, with the "
        f"images {', '.join(who)}, {cause}: {remedy}{kept}"
    )
