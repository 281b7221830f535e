"""Whether probabilities mean what they say: 70 % of those given 70 % should be positive.

After Van Calster et al. 2019 (doi:10.1186/s12916-019-1466-7) and Cox 1958: the reliability curve,
calibration in the large and the calibration slope.
"""

import numpy as np
import pandas as pd
from scipy.stats import norm

from models.training.intervals import proportion

LEAST_PER_BIN = 10
MOST_BINS = 10


def reliability(labels: np.ndarray, probabilities: np.ndarray, level: float = 0.95) -> pd.DataFrame:
    """Predicted against observed frequency, in bins of about equally many people.

    Parameters
    ----------
    labels : (n,) bool array
    probabilities : (n,) float array
        Of the positive class.
    level : float
        Coverage of the exact (Clopper-Pearson) interval of the observed frequency.

    Returns
    -------
    DataFrame
        bin, n, predicted (mean probability), observed, ci_low, ci_high. At most ten bins, of ten
        people or more where there are as many; equal probabilities are in one bin.
    """
    labels, values = np.asarray(labels, bool), np.asarray(probabilities, float)
    if not len(values):
        columns = ["bin", "n", "predicted", "observed", "ci_low", "ci_high"]
        return pd.DataFrame(columns=columns, dtype=float)
    bins = min(MOST_BINS, max(1, len(values) // LEAST_PER_BIN))
    code = pd.qcut(values, bins, labels=False, duplicates="drop") if bins > 1 else values * 0
    code = pd.factorize(np.nan_to_num(code), sort=True)[0]
    rows = []
    for number in range(code.max() + 1):
        inside = code == number
        hits, n = int(labels[inside].sum()), int(inside.sum())
        rows.append((number + 1, n, values[inside].mean(), *proportion(hits, n, level)))
    return pd.DataFrame(rows, columns=["bin", "n", "predicted", "observed", "ci_low", "ci_high"])


def expected_calibration_error(curve: pd.DataFrame) -> float:
    """Mean distance of predicted and observed frequency over the people of a reliability curve.

    With few people it is not 0 even for perfect probabilities, since the observed frequency of a
    bin is a matter of chance.
    """
    if curve.empty:
        return float("nan")
    distance = (curve["predicted"] - curve["observed"]).abs()
    return float((distance * curve["n"]).sum() / curve["n"].sum())


def recalibration(
    labels: np.ndarray, probabilities: np.ndarray, level: float = 0.95
) -> dict[str, tuple[float, float, float]]:
    """Calibration in the large and calibration slope, with Wald intervals.

    Both are fitted to logit P(positive) = a + b logit(probability): in the large, a with b = 1
    (0 is right, above 0 the probabilities are too low); the slope, b (1 is right, below 1 they are
    too extreme).

    Returns
    -------
    dict of name to (value, low, high)
        NaN where a class is absent, and for the slope where the classes are separated, for which
        no finite slope fits.
    """
    labels = np.asarray(labels, bool)
    values = np.clip(np.asarray(probabilities, float), 1e-6, 1 - 1e-6)
    logit = np.log(values / (1 - values))
    one = np.ones_like(logit)
    nothing = (float("nan"),) * 3
    large = slope = nothing
    if labels.any() and not labels.all():
        large = _fit(labels, one[:, None], logit, level)[0]
        if not _separated(labels, logit):
            slope = _fit(labels, np.stack([one, logit], axis=1), 0 * logit, level)[1]
    return {"calibration_in_the_large": large, "calibration_slope": slope}


def _separated(labels: np.ndarray, score: np.ndarray) -> bool:
    positive, negative = score[labels], score[~labels]
    return bool(positive.min() >= negative.max() or positive.max() <= negative.min())


def _fit(
    labels: np.ndarray, design: np.ndarray, offset: np.ndarray, level: float
) -> list[tuple[float, float, float]]:
    """Logistic regression by Newton's method, halving steps that do not raise the likelihood."""

    def likelihood(weights: np.ndarray) -> float:
        score = design @ weights + offset
        return float((labels * score - np.logaddexp(0, score)).sum())

    weights = np.zeros(design.shape[1])
    for _ in range(100):
        mean = 1 / (1 + np.exp(-(design @ weights + offset)))
        information = design.T @ (design * (mean * (1 - mean))[:, None])
        step = np.linalg.lstsq(information, design.T @ (labels - mean), rcond=None)[0]
        while likelihood(weights + step) < likelihood(weights) and np.abs(step).max() > 1e-10:
            step = step / 2
        weights = weights + step
        if np.abs(step).max() < 1e-8:
            break
    error = norm.ppf(0.5 + level / 2) * np.sqrt(np.diag(np.linalg.pinv(information)))
    return [
        (float(value), float(value - reach), float(value + reach))
        for value, reach in zip(weights, error, strict=True)
    ]
