"""Confidence intervals over people, each the one that suits its metric."""

import numpy as np
from scipy.stats import beta, norm, rankdata, t

Interval = tuple[float, float, float]  # value, low, high
NOTHING = (float("nan"), float("nan"), float("nan"))


def proportion(hits: int, n: int, level: float = 0.95) -> Interval:
    """A share of people with its exact interval (Clopper & Pearson 1934)."""
    if n == 0:
        return NOTHING
    tail = (1 - level) / 2
    low = beta.ppf(tail, hits, n - hits + 1) if hits > 0 else 0.0
    high = beta.ppf(1 - tail, hits + 1, n - hits) if hits < n else 1.0
    return hits / n, float(low), float(high)


def balanced(tp: int, n_pos: int, tn: int, n_neg: int, level: float = 0.95) -> Interval:
    """Mean of two shares, with an interval from the binomial variances of both classes.

    One hit and one miss more in each class (Agresti & Caffo 2000): a perfect class does not claim
    zero variance, and the coverage holds in small groups.
    """
    if n_pos == 0 or n_neg == 0:
        return NOTHING
    value = (tp / n_pos + tn / n_neg) / 2
    p, q = (tp + 1) / (n_pos + 2), (tn + 1) / (n_neg + 2)
    centre = (p + q) / 2
    error = norm.ppf(0.5 + level / 2) * np.sqrt(
        p * (1 - p) / (n_pos + 2) + q * (1 - q) / (n_neg + 2)
    )
    return value, float(max(0.0, centre - error / 2)), float(min(1.0, centre + error / 2))


def delong(labels: np.ndarray, scores: np.ndarray, level: float = 0.95) -> Interval:
    """Area under the ROC curve with the interval of DeLong et al. 1988."""
    positive, negative = scores[labels], scores[~labels]
    m, n = len(positive), len(negative)
    if m == 0 or n == 0:
        return NOTHING
    ranks = rankdata(np.concatenate([positive, negative]))
    area = (ranks[:m].sum() - m * (m + 1) / 2) / (m * n)
    if m < 2 or n < 2:
        return float(area), np.nan, np.nan
    v_positive = (ranks[:m] - rankdata(positive)) / n
    v_negative = 1 - (ranks[m:] - rankdata(negative)) / m
    variance = v_positive.var(ddof=1) / m + v_negative.var(ddof=1) / n
    if variance < 1e-12:
        variance = _hanley_mcneil((area * m * n + 0.5) / (m * n + 1), m, n)
    error = norm.ppf(0.5 + level / 2) * np.sqrt(variance)
    return float(area), float(max(0.0, area - error)), float(min(1.0, area + error))


def _hanley_mcneil(area: float, m: int, n: int) -> float:
    """Variance of an area (Hanley & McNeil 1982): for perfect separation, where DeLong has none.

    The caller pulls the area in by half a pair, so that certainty is not claimed.
    """
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    return (area * (1 - area) + (m - 1) * (q1 - area**2) + (n - 1) * (q2 - area**2)) / (m * n)


def logit(value: float, n_pos: int, level: float = 0.95) -> Interval:
    """An average precision with the logit interval of Boyd et al. 2013, over its positives.

    The variance is that of a share of ``n_pos`` people, pulled in by half a person, so that a
    perfect value does not claim certainty.
    """
    if n_pos == 0 or not np.isfinite(value):
        return NOTHING
    inside = (value * n_pos + 0.5) / (n_pos + 1)
    centre = np.log(inside / (1 - inside))
    error = norm.ppf(0.5 + level / 2) / np.sqrt(n_pos * inside * (1 - inside))
    low, high = 1 / (1 + np.exp(-(centre + np.array([-error, error]))))
    return value, float(min(low, value)), float(max(high, value))


def stratified_mean(strata: list[np.ndarray], level: float = 0.95) -> Interval:
    """Mean over people, with a normal interval in which every stratum keeps its number of people.

    NaN bounds where a stratum has fewer than two people.
    """
    every = np.concatenate(strata)
    if not len(every):
        return NOTHING
    value = float(every.mean())
    if min(map(len, strata)) < 2:
        return value, np.nan, np.nan
    variance = sum(len(one) * one.var(ddof=1) for one in strata) / len(every) ** 2
    error = norm.ppf(0.5 + level / 2) * np.sqrt(variance)
    return value, float(max(0.0, value - error)), float(value + error)


def over_splits(values: np.ndarray, ratio: float, level: float = 0.95) -> Interval:
    """Mean over splits of one cohort, with the corrected t interval of Nadeau & Bengio 2003.

    Splits share most of their training people, so their values are not independent, and the
    interval of independent ones is far too narrow: the variance of the mean of J splits is taken
    as (1 / J + ratio) times that between splits (eq. 9 there; for repeated k-fold, Bouckaert &
    Frank 2004).

    Parameters
    ----------
    values : (splits,) array
    ratio : float
        Tested over training people.
    level : float
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return float(values.mean()) if len(values) else np.nan, np.nan, np.nan
    error = t.ppf(0.5 + level / 2, len(values) - 1) * np.sqrt(
        (1 / len(values) + ratio) * values.var(ddof=1)
    )
    return float(values.mean()), float(values.mean() - error), float(values.mean() + error)
