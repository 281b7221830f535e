"""What a network says of people, and how good that is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn

from models.training.batches import batches, reading
from models.training.objective import Objective, log_odds
from models.training.precision import Precision
from models.training.protocol import METRICS


@torch.no_grad()
def predict(
    model: nn.Module,
    volumes: np.ndarray,
    rows: Sequence[int],
    batch_size: int = 4,
    device: str = "cpu",
    precision: Precision | None = None,
) -> torch.Tensor:
    """Scores before softmax or sigmoid; every mode is kept.

    Parameters
    ----------
    model : nn.Module
        On ``device``.
    volumes : (images, C, x, y, z) array
    rows : sequence of int
    precision : Precision, optional
        float32 without it.

    Returns
    -------
    (len(rows), outputs) float32 tensor on the CPU
    """
    precision = precision or Precision()
    with _evaluating(model), precision.autocast():
        scores = [
            model(precision.place(images.to(device).float())).float().cpu()
            for _, images in reading(volumes, batches(list(rows), batch_size))
        ]
    return torch.cat(scores) if scores else torch.empty(0, 2)


def fitting(precision: Precision, model: nn.Module, image: np.ndarray, device: str) -> Precision:
    """The precision, with channels last only if the network takes an image (C, x, y, z) so."""
    if not precision.channels_last:
        return precision
    tried = replace(precision)
    try:
        # A single image would leave the maps as they are.
        predict(tried.place(deepcopy(model)), np.stack([image] * 2), [0, 1], 2, device, tried)
    except RuntimeError as error:
        if "view" not in str(error):
            raise
        return replace(precision, channels_last=False)
    return precision


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def evaluate(
    model: nn.Module,
    volumes: np.ndarray,
    labels: np.ndarray,
    rows: Sequence[int],
    batch_size: int,
    device: str,
    objective: Objective | None = None,
    precision: Precision | None = None,
) -> dict[str, float]:
    """Loss, accuracy, balanced accuracy and area under the ROC curve of the validation rows.

    The loss is that of ``objective``, class weights and smoothing included, so that it can be held
    against the training loss.

    Returns
    -------
    dict
        Keys as in `models.training.protocol.METRICS`; NaN where there are no rows.
    """
    if not len(rows):
        return dict.fromkeys(METRICS, float("nan"))
    scores = predict(model, volumes, rows, batch_size, device, precision)
    truth = np.asarray(labels, bool)[list(rows)]
    odds = log_odds(scores).numpy()
    hit = (odds > 0) == truth
    return {
        "validation_loss": (objective or Objective()).losses(scores, truth).mean().item(),
        "validation_accuracy": float(hit.mean()),
        "validation_balanced_accuracy": float((hit[truth].mean() + hit[~truth].mean()) / 2),
        "validation_auc": _area(odds, truth),
    }


def _area(odds: np.ndarray, truth: np.ndarray) -> float:
    """Share of the pairs of a patient and a control that the patient wins; a tie is half won."""
    patients, controls = int(truth.sum()), int((~truth).sum())
    won = rankdata(odds)[truth].sum() - patients * (patients + 1) / 2
    return float(won / (patients * controls)) if patients and controls else float("nan")
