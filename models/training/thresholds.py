"""The probability from which a network's answer counts as positive."""

import numpy as np

HALF = 0.5


def best_threshold(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Threshold with the best balanced accuracy (the same as Youden's J), for validation people.

    Parameters
    ----------
    labels : (n,) bool array
        True for the positive class; both classes.
    probabilities : (n,) float array
        Of the positive class.

    Returns
    -------
    float
        Midway between two neighbouring probabilities (0 and 1 being the outermost); of several
        that are equally good, the nearest to one half. Positive is what is at or above it.
    """
    labels, values = np.asarray(labels, bool), np.asarray(probabilities, float)
    edges = np.unique(np.concatenate([[0.0], values, [1.0]]))
    candidates = np.append((edges[:-1] + edges[1:]) / 2, HALF)
    above = values >= candidates[:, None]
    balanced = (above[:, labels].mean(axis=1) + 1 - above[:, ~labels].mean(axis=1)) / 2
    best = candidates[np.isclose(balanced, balanced.max())]
    return float(best[np.argmin(np.abs(best - HALF))])
