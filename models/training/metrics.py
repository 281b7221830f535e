"""How good a two-class prediction is, and how sure one may be of that."""

import numpy as np
import pandas as pd
from scipy.stats import beta, norm, rankdata

OUTCOMES = {(True, True): "TP", (False, True): "FP", (False, False): "TN", (True, False): "FN"}


def outcome(label: bool, predicted: bool) -> str:
    """TP, FP, TN or FN."""
    return OUTCOMES[bool(label), bool(predicted)]


def classification_metrics(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5, level: float = 0.95
) -> pd.DataFrame:
    """Metrics of one prediction per person, each with a confidence interval.

    Parameters
    ----------
    labels : (n,) bool array
        True for the positive class.
    probabilities : (n,) float array
        Of the positive class.
    threshold : float
        Predicted positive at or above it.
    level : float
        Coverage of the intervals: Clopper-Pearson for proportions (exact, conservative), a
        normal interval from the two classes' binomial variances (Agresti-Caffo) for balanced
        accuracy, DeLong for the area under the ROC curve.

    Returns
    -------
    DataFrame with columns metric, value, ci_low, ci_high. NaN where a class is absent.
    """
    labels = np.asarray(labels, bool)
    hit = (np.asarray(probabilities) >= threshold) == labels
    n_pos, n_neg = int(labels.sum()), int((~labels).sum())
    tp, tn = int(hit[labels].sum()), int(hit[~labels].sum())
    z = norm.ppf(0.5 + level / 2)
    rows = {
        "accuracy": _proportion(tp + tn, n_pos + n_neg, level),
        "balanced_accuracy": _balanced(tp, n_pos, tn, n_neg, z),
        "sensitivity": _proportion(tp, n_pos, level),
        "specificity": _proportion(tn, n_neg, level),
        "roc_auc": _delong(labels, np.asarray(probabilities, float), z),
    }
    return pd.DataFrame(
        [(name, *values) for name, values in rows.items()],
        columns=["metric", "value", "ci_low", "ci_high"],
    )


def _proportion(hits: int, n: int, level: float) -> tuple[float, float, float]:
    if n == 0:
        return np.nan, np.nan, np.nan
    tail = (1 - level) / 2
    low = beta.ppf(tail, hits, n - hits + 1) if hits > 0 else 0.0
    high = beta.ppf(1 - tail, hits + 1, n - hits) if hits < n else 1.0
    return hits / n, float(low), float(high)


def _balanced(tp: int, n_pos: int, tn: int, n_neg: int, z: float) -> tuple[float, float, float]:
    if n_pos == 0 or n_neg == 0:
        return np.nan, np.nan, np.nan
    value = (tp / n_pos + tn / n_neg) / 2
    # One hit and one miss more in each class (Agresti & Caffo 2000): a perfect class does not
    # claim zero variance, and the coverage holds in small groups.
    p, q = (tp + 1) / (n_pos + 2), (tn + 1) / (n_neg + 2)
    centre = (p + q) / 2
    error = z * np.sqrt(p * (1 - p) / (n_pos + 2) + q * (1 - q) / (n_neg + 2)) / 2
    return value, max(0.0, centre - error), min(1.0, centre + error)


def _delong(labels: np.ndarray, scores: np.ndarray, z: float) -> tuple[float, float, float]:
    """Area under the ROC curve with the interval of DeLong et al. 1988."""
    positive, negative = scores[labels], scores[~labels]
    m, n = len(positive), len(negative)
    if m == 0 or n == 0:
        return np.nan, np.nan, np.nan
    ranks = rankdata(np.concatenate([positive, negative]))
    area = (ranks[:m].sum() - m * (m + 1) / 2) / (m * n)
    if m < 2 or n < 2:
        return float(area), np.nan, np.nan
    v_positive = (ranks[:m] - rankdata(positive)) / n
    v_negative = 1 - (ranks[m:] - rankdata(negative)) / m
    variance = v_positive.var(ddof=1) / m + v_negative.var(ddof=1) / n
    if variance < 1e-12:
        variance = _hanley_mcneil((area * m * n + 0.5) / (m * n + 1), m, n)
    error = z * np.sqrt(variance)
    return float(area), float(max(0.0, area - error)), float(min(1.0, area + error))


def _hanley_mcneil(area: float, m: int, n: int) -> float:
    """Variance of an area (Hanley & McNeil 1982): for perfect separation, where DeLong has none.

    The caller pulls the area in by half a pair, so that certainty is not claimed.
    """
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    return (area * (1 - area) + (m - 1) * (q1 - area**2) + (n - 1) * (q2 - area**2)) / (m * n)
