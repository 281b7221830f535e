"""How good a two-class prediction is, and how sure one may be of that."""

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from models.training import intervals

OUTCOMES = {(True, True): "TP", (False, True): "FP", (False, False): "TN", (True, False): "FN"}


def outcome(label: bool, predicted: bool) -> str:
    """TP, FP, TN or FN."""
    return OUTCOMES[bool(label), bool(predicted)]


def classification_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float | np.ndarray = 0.5,
    level: float = 0.95,
) -> pd.DataFrame:
    """Metrics of one prediction per person, each with a confidence interval over people.

    Parameters
    ----------
    labels : (n,) bool array
        True for the positive class.
    probabilities : (n,) float array
        Of the positive class.
    threshold : float or (n,) array
        Predicted positive at or above it.
    level : float
        Coverage of the intervals: Clopper-Pearson for proportions (exact, conservative), a
        normal interval from the two classes' binomial variances (Agresti-Caffo) for balanced
        accuracy, DeLong for the area under the ROC curve, the logit interval of Boyd 2013 for
        average precision, a normal interval from the variances within the classes for the Brier
        score.

    Returns
    -------
    DataFrame with columns metric, value, ci_low, ci_high. NaN where a class is absent.
    """
    labels, values = np.asarray(labels, bool), np.asarray(probabilities, float)
    hit = (values >= np.asarray(threshold)) == labels
    n_pos, n_neg = int(labels.sum()), int((~labels).sum())
    tp, tn = int(hit[labels].sum()), int(hit[~labels].sum())
    rows = {
        "accuracy": intervals.proportion(tp + tn, n_pos + n_neg, level),
        "balanced_accuracy": intervals.balanced(tp, n_pos, tn, n_neg, level),
        "sensitivity": intervals.proportion(tp, n_pos, level),
        "specificity": intervals.proportion(tn, n_neg, level),
        "roc_auc": intervals.delong(labels, values, level),
        "average_precision": intervals.logit(average_precision(labels, values), n_pos, level),
        "brier": _brier(labels, values, level),
    }
    return pd.DataFrame(
        [(name, *values) for name, values in rows.items()],
        columns=["metric", "value", "ci_low", "ci_high"],
    )


def point_metrics(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float | np.ndarray = 0.5
) -> dict[str, float]:
    """The values alone of :func:`classification_metrics`."""
    labels, values = np.asarray(labels, bool), np.asarray(probabilities, float)
    hit = (values >= np.asarray(threshold)) == labels
    sensitivity, specificity = _mean(hit[labels]), _mean(hit[~labels])
    return {
        "accuracy": _mean(hit),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "roc_auc": _area(labels, values),
        "average_precision": average_precision(labels, values),
        "brier": _mean((values - labels) ** 2),
    }


def average_precision(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Precision averaged over the steps of recall, without interpolation; NaN without a class."""
    if not labels.any() or labels.all():
        return float("nan")
    order = np.argsort(-probabilities, kind="stable")
    sorted_scores = probabilities[order]
    last = np.append(sorted_scores[1:] != sorted_scores[:-1], True)  # of each tie
    found = np.cumsum(labels[order])[last]
    called = np.flatnonzero(last) + 1
    steps = np.diff(found, prepend=0) / labels.sum()
    return float((steps * found / called).sum())


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _area(labels: np.ndarray, values: np.ndarray) -> float:
    m, n = int(labels.sum()), int((~labels).sum())
    if m == 0 or n == 0:
        return float("nan")
    return float((rankdata(values)[labels].sum() - m * (m + 1) / 2) / (m * n))


def _brier(labels: np.ndarray, values: np.ndarray, level: float) -> intervals.Interval:
    squares = (values - labels) ** 2
    return intervals.stratified_mean([squares[labels], squares[~labels]], level)


# --- over repeats --------------------------------------------------------------------------------


def per_repeat(predictions: pd.DataFrame) -> pd.DataFrame:
    """Metrics of every repeat, over the people that it tested.

    Parameters
    ----------
    predictions : DataFrame
        One row per person and repeat: repeat, division, positive, probability, threshold.

    Returns
    -------
    DataFrame with columns repeat, division, n, and one per metric.
    """
    return _grouped(predictions, ["repeat", "division"])


def _grouped(predictions: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    rows = [
        dict(zip(keys, key, strict=True)) | {"n": len(part)} | _measured(part)
        for key, part in predictions.groupby(keys)
    ]
    return pd.DataFrame(rows)


def _measured(part: pd.DataFrame) -> dict[str, float]:
    columns = (part[name].to_numpy(float) for name in ("positive", "probability", "threshold"))
    return point_metrics(*columns)


def spread(predictions: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """How much the metrics differ between repeated trainings.

    Parameters
    ----------
    predictions : DataFrame
        As for :func:`per_repeat`, with fold and n_train (training people of the fold).
    level : float
        Coverage of the interval.

    Returns
    -------
    DataFrame
        metric, mean and sd over repeats; se; n_repeats; splits_mean, splits_low and splits_high.
        ``se`` is over the means of the divisions, since runs on one division tell nothing about
        others; with one division, over its runs. Neither speaks of other people. The interval is
        that of Nadeau & Bengio over folds and divisions (runs averaged), since their trainings
        share people; NaN with one split.
    """
    repeats = per_repeat(predictions)
    divisions = repeats.groupby("division").mean(numeric_only=True)
    source = divisions if len(divisions) > 1 else repeats
    folds = _grouped(predictions, ["repeat", "division", "fold"])
    splits = folds.groupby(["division", "fold"]).mean(numeric_only=True)
    n_train = predictions.groupby(["division", "fold"])["n_train"].first()
    ratio = float((splits["n"] / n_train).mean())
    names = [one for one in repeats if one not in ("repeat", "division", "n")]
    rows = [
        (
            *(name, repeats[name].mean(), repeats[name].std()),
            *(source[name].std() / np.sqrt(len(source)), len(repeats)),
            # Every metric lies between 0 and 1; a t interval of few splits does not know that.
            *np.clip(intervals.over_splits(splits[name].to_numpy(), ratio, level), 0, 1),
        )
        for name in names
    ]
    columns = ["metric", "mean", "sd", "se", "n_repeats"]
    return pd.DataFrame(rows, columns=[*columns, "splits_mean", "splits_low", "splits_high"])
