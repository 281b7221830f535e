"""Whether one classifier is better than another on the same people.

Both tests take the answers as they are: they tell whether the difference may be chance in whom one
happened to test, not whether it would last if the classifiers were trained anew.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, rankdata


@dataclass(frozen=True)
class Difference:
    """Area under the ROC curve of a first classifier less that of a second.

    Attributes
    ----------
    value, low, high : float
        The difference and its interval; NaN where a class is absent or has one person.
    p : float
        Two-sided; NaN where the areas differ and DeLong's variance is zero.
    """

    value: float
    low: float
    high: float
    p: float


def delong(labels: NDArray, first: NDArray, second: NDArray, level: float = 0.95) -> Difference:
    """Compare two correlated areas (DeLong, DeLong & Clarke-Pearson 1988, equations 5 to 8).

    Parameters
    ----------
    labels : (n,) bool array
    first, second : (n,) arrays
        Scores of the same people; each classifier may have its own scale.
    level : float
        Coverage of the interval.
    """
    labels = np.asarray(labels, bool)
    if min(labels.sum(), (~labels).sum()) < 2:
        return Difference(np.nan, np.nan, np.nan, np.nan)
    ours, theirs = (_components(labels, np.asarray(one, float)) for one in (first, second))
    of_positive, of_negative = ours[0] - theirs[0], ours[1] - theirs[1]
    value = float(of_positive.mean())
    variance = sum(one.var(ddof=1) / len(one) for one in (of_positive, of_negative))
    if variance < 1e-12:
        return Difference(value, np.nan, np.nan, 1.0 if abs(value) < 1e-12 else np.nan)
    error = float(np.sqrt(variance))
    reach = float(norm.ppf(0.5 + level / 2)) * error
    return Difference(value, value - reach, value + reach, float(2 * norm.sf(abs(value) / error)))


def _components(labels: NDArray, scores: NDArray) -> tuple[NDArray, NDArray]:
    """Share of the other class that each positive lies above, and each negative below."""
    positive, negative = scores[labels], scores[~labels]
    m, n = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    return (ranks[:m] - rankdata(positive)) / n, 1 - (ranks[m:] - rankdata(negative)) / m


@dataclass(frozen=True)
class Disagreement:
    """Whom only one of two classifiers calls right, and the exact two-sided p (McNemar 1947)."""

    first_only: int
    second_only: int
    p: float


def mcnemar(labels: NDArray, first: NDArray, second: NDArray) -> Disagreement:
    """Compare two accuracies by the people whom only one classifier calls right.

    Parameters
    ----------
    labels, first, second : (n,) bool arrays
        The truth and both answers.
    """
    right, also = (np.asarray(one, bool) == np.asarray(labels, bool) for one in (first, second))
    ours, theirs = int((right & ~also).sum()), int((also & ~right).sum())
    p = binomtest(ours, ours + theirs).pvalue if ours + theirs else 1.0
    return Disagreement(ours, theirs, float(p))
