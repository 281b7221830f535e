"""Training of an auto-encoder: one loop for all of them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


def fit(
    model: nn.Module,
    volumes: np.ndarray,
    brain: np.ndarray,
    *,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: Path | None = None,
    report: Callable[[dict[str, float]], None] = lambda row: None,
) -> list[dict[str, float]]:
    """Train ``model`` (see :mod:`models.anomaly`) on controls, in place; the last epoch is kept.

    Every epoch draws from its own seed, so that a training that is resumed from ``checkpoint``
    meets the same batches as one that never stopped. All images are on the device at once.

    Parameters
    ----------
    volumes : (images, C, x, y, z) array
        Of the training controls, values in [0, 1].
    brain : (x, y, z) bool array
    seed : int
    device : str
    checkpoint : Path, optional
        Written after every epoch, read when it exists.
    report : callable
        Told each epoch's row of the history.

    Returns
    -------
    list of dict
        epoch and loss.

    Raises
    ------
    FloatingPointError
        The loss is no longer finite.
    """
    model.to(device).train()
    images, inside = torch.from_numpy(volumes).to(device), torch.from_numpy(brain).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=model.learning_rate)  # type: ignore[arg-type]
    history = _resume(checkpoint, model, optimiser, device)
    for epoch in range(len(history) + 1, model.epochs + 1):  # type: ignore[operator]
        torch.manual_seed(seed * 1_000_003 + epoch)  # noise
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + epoch)
        losses = []
        for batch in model.batches(images, inside, generator):  # type: ignore[operator]
            loss = model.loss(batch)  # type: ignore[operator]
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise FloatingPointError(
                f"the loss is {mean} in epoch {epoch}: lower the learning_rate of [[autoencoder]]"
            )
        history.append({"epoch": float(epoch), "loss": mean})
        report(history[-1])
        _save(checkpoint, history, model, optimiser)
    model.eval()
    return history


def _save(checkpoint: Path | None, history: list[dict[str, float]], *parts: Any) -> None:
    if checkpoint is None:
        return
    partial = checkpoint.with_suffix(".part")
    torch.save({"history": history, "parts": [part.state_dict() for part in parts]}, partial)
    partial.replace(checkpoint)


def _resume(checkpoint: Path | None, *parts: Any) -> list[dict[str, float]]:
    *parts, device = parts  # type: ignore[assignment]
    if checkpoint is None or not checkpoint.exists():
        return []
    saved = torch.load(checkpoint, map_location=device, weights_only=True)
    for part, values in zip(parts, saved["parts"], strict=True):
        part.load_state_dict(values)
    return saved["history"]
