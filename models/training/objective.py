"""What a network's scores mean, and what they cost: the two conventions of outputs in one place.

:mod:`models.networks` states them: two scores (control, patient) before softmax, or one logit, the
log-odds of being a patient. Either way the log-odds say everything about two classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from models.errors import InputError


def log_odds(scores: torch.Tensor) -> torch.Tensor:
    """Log-odds (N,) of being a patient.

    Parameters
    ----------
    scores : (N, 2) or (N, 1) tensor
        Before softmax, or before sigmoid.

    Raises
    ------
    models.errors.InputError
        The network has another number of outputs.
    """
    if scores.dim() == 2 and scores.shape[1] == 1:
        return scores[:, 0]
    if scores.dim() == 2 and scores.shape[1] == 2:
        return scores[:, 1] - scores[:, 0]
    raise InputError(
        f"the network's result is {tuple(scores.shape)}: two classes need (people, 2), or "
        "(people, 1) for one logit; set [network] outputs"
    )


def probability(scores: torch.Tensor) -> torch.Tensor:
    """Probability (N,) of being a patient: softmax over two scores, sigmoid of one."""
    return log_odds(scores).sigmoid()


@dataclass(frozen=True)
class Objective:
    """Cross-entropy of two classes, an image at a time.

    Parameters
    ----------
    weights : tuple of float
        Of a control's and a patient's loss.
    smoothing : float
        The target is ``1 - smoothing / 2`` in place of 1, and ``smoothing / 2`` in place of 0.
    """

    weights: tuple[float, float] = (1.0, 1.0)
    smoothing: float = 0.0

    @classmethod
    def of(cls, class_weights: str, smoothing: float, labels: np.ndarray) -> "Objective":
        """With ``balanced`` weights from the (n,) bool labels of the training images, or none."""
        if class_weights == "none":
            return cls(smoothing=smoothing)
        patients, n = int(np.sum(labels)), len(labels)
        return cls((n / (2 * (n - patients)), n / (2 * patients)), smoothing)

    def losses(self, scores: torch.Tensor, labels: Sequence[bool] | np.ndarray) -> torch.Tensor:
        """Weighted cross-entropy (N,) of each image, in float32.

        With x the log-odds and t the (smoothed) target, softplus(x) - t x: the same for two
        scores as for one logit.
        """
        truth = torch.as_tensor(np.asarray(labels, bool), device=scores.device).float()
        target = truth * (1 - self.smoothing) + self.smoothing / 2
        losses = F.binary_cross_entropy_with_logits(
            log_odds(scores.float()), target, reduction="none"
        )
        control, patient = self.weights
        return losses * (control + (patient - control) * truth)
