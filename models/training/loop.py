"""The training loop: one fold, one network, one page."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import nn

from models.errors import InputError
from models.training.batches import batches, reading
from models.training.checkpoint import resume, save
from models.training.evaluation import evaluate, fitting, predict
from models.training.history import best_epoch, is_over
from models.training.objective import Objective
from models.training.optimiser import adam
from models.training.precision import Precision, compiled
from models.training.protocol import Protocol
from models.training.ranks import Ranks
from models.training.schedule import schedule
from models.training.update import NotFiniteError, Update

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
    ranks = Ranks.here()
    precision = Precision.of(protocol.precision, protocol.memory_format, device)
    model.to(device)
    if protocol.memory_format == "auto":
        precision = fitting(precision, model, volumes[train_rows[0]], device)
    precision.place(model)
    optimiser = adam(model, protocol)
    update = Update(
        model=model,
        network=compiled(ranks.wrap(model, device), protocol.compile),
        optimiser=optimiser,
        objective=Objective.of(
            protocol.class_weights, protocol.label_smoothing, labels[list(train_rows)]
        ),
        augmentation=protocol.augmentation,
        precision=precision,
        ranks=ranks,
        device=device,
        parts=protocol.accumulate,
    )
    size = protocol.batch_size
    updates = len(batches(train_rows, size, ranks.size + 1))
    rates = schedule(optimiser, protocol, updates)
    parts = model, optimiser, rates, precision
    state = resume(checkpoint, device, *parts)

    while not is_over(state.history, protocol):
        epoch, began, total = len(state.history) + 1, perf_counter(), 0.0
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        torch.manual_seed(seed * 1_000_003 + epoch + ranks.rank * 7_919)  # dropout
        _training_mode(model)
        order = torch.randperm(len(train_rows), generator=generator).tolist()
        drawn = batches([train_rows[i] for i in order], size, ranks.size + 1)
        for batch, images in reading(volumes, drawn, pinned=device.startswith("cuda")):
            draws = protocol.augmentation.draw(labels[batch], generator)
            try:
                total += update(images, labels[batch], draws) * len(batch)
            except NotFiniteError as error:
                said = _not_finite(epoch, drawn.index(batch) + 1, images, batch, names)
                raise NotFiniteError(said) from error
            rate = optimiser.param_groups[0]["lr"]
            rates.step()
        trained = perf_counter() - began
        found = evaluate(
            model, volumes, labels, validation_rows, size, device, update.objective, precision
        )
        row = {
            "epoch": float(epoch),
            "train_loss": total / len(train_rows),
            **found,
            "learning_rate": rate,
            "updates": float(updates),
            "seconds": perf_counter() - began,
            "images_per_second": len(train_rows) / trained,
        }
        state.history.append(ranks.same(row))
        if best_epoch(state.history, protocol.select, protocol.ignore_epochs) == epoch:
            state.best_weights = deepcopy(model.state_dict())
        report(row)
        save(checkpoint if ranks.rank == 0 else None, state, *parts)

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


def _not_finite(
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
