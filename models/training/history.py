"""The history of a training: which epoch is kept, when it stops, what it took."""

from collections.abc import Mapping, Sequence
from math import inf, isnan
from typing import Any

from models.training.protocol import Protocol

Row = Mapping[str, float]


def best_epoch(history: Sequence[Row], metric: str, ignored: int = 0) -> int:
    """Epoch (from 1) that is best by ``metric``; 0 while all are ignored.

    Of equal ones the epoch with the lower validation loss is better, then the earlier one. What
    is not a number is worst.

    Parameters
    ----------
    history : sequence of mapping
        A row per epoch, in order.
    metric : str
        One of `models.training.protocol.METRICS`, or "last".
    ignored : int
        First epochs that do not count.
    """
    rows = history[ignored:]
    if not rows:
        return 0
    if metric == "last":
        return int(rows[-1]["epoch"])
    return int(max(rows, key=lambda row: merit(row, metric))["epoch"])


def merit(row: Row, metric: str) -> tuple[float, float]:
    """How good an epoch is: the metric, higher is better, then the validation loss."""
    loss = -inf if isnan(row["validation_loss"]) else -row["validation_loss"]
    value = loss if metric == "validation_loss" else row[metric]
    return (-inf if isnan(value) else value), loss


def is_over(history: Sequence[Row], protocol: Protocol) -> bool:
    """Whether ``patience`` is at its end, or every epoch done."""
    if len(history) >= protocol.epochs:
        return True
    if not protocol.patience:
        return False
    ignored = protocol.ignore_epochs
    best = best_epoch(history, protocol.watched, ignored)
    return len(history) - max(best, ignored) >= protocol.patience


def summary(history: Sequence[Row], epochs: int) -> dict[str, Any]:
    """What a training of at most ``epochs`` took until it stopped, and which epoch it kept.

    Returns
    -------
    dict
        Epochs, Updates and Seconds until it stopped, StoppedEarly, SelectedEpoch, and the
        validation metrics of that epoch where people were set aside.
    """
    kept = next(row for row in history if row["selected"])
    scores = {key: kept[key] for key in kept if key.startswith("validation_")}
    return {
        "Epochs": len(history),
        "Updates": int(sum(row["updates"] for row in history)),
        "Seconds": round(sum(row["seconds"] for row in history), 3),
        "StoppedEarly": len(history) < epochs,
        "SelectedEpoch": int(kept["epoch"]),
        "Validation": {key: value for key, value in scores.items() if not isnan(value)},
    }
