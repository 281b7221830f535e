"""The number that is explained: a class's score before softmax or sigmoid."""

import torch

from models.errors import InputError


def class_score(scores: torch.Tensor, target: int) -> torch.Tensor:
    """Score of a class.

    Parameters
    ----------
    scores : torch.Tensor
        (N, outputs) before softmax; (N, 1) before sigmoid, where class 1 has the score and class
        0 its negative.
    target : int
        The class.

    Returns
    -------
    torch.Tensor
        (N,).

    Raises
    ------
    models.errors.InputError
        The network has no such class.
    """
    if scores.dim() != 2:
        raise InputError(f"the network's result is {tuple(scores.shape)}, not (people, outputs)")
    classes = max(scores.shape[1], 2)
    if not 0 <= target < classes:
        raise InputError(f"there is no class {target}: the network knows 0 to {classes - 1}")
    if scores.shape[1] > 1:
        return scores[:, target]
    return scores[:, 0] if target == 1 else -scores[:, 0]


def class_probability(scores: torch.Tensor, target: int) -> torch.Tensor:
    """Probability (N,) of a class by softmax, or by sigmoid where there is one output."""
    if scores.shape[1] == 1:
        return torch.sigmoid(class_score(scores, target))
    return scores.softmax(1)[:, target]
