"""How well a model does: tables of its out-of-fold predictions, over people and over repeats."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from models.training.calibration import expected_calibration_error, recalibration, reliability
from models.training.metrics import classification_metrics, outcome, per_repeat, spread

KEYS = ["participant_id", "session_id"]
LEVEL = 0.95

# What the columns of desc-oof_metrics.tsv are: its sidecar.
COLUMNS = {
    "value": "From the mean probability of each person over repeats: the ensemble",
    "ci_low": "Interval over people, the trained networks taken as given: Clopper-Pearson "
    "(proportions), Agresti-Caffo (balanced accuracy), DeLong (ROC area), logit (average "
    "precision), variance within classes (Brier score), Wald (calibration)",
    "ci_high": "See ci_low",
    "mean": "Mean over repeats, each measured alone",
    "sd": "Standard deviation over repeats",
    "se": "Standard error of the mean: over the means of the divisions, or over runs where there "
    "is one division. It speaks of further trainings, not of further people",
    "n_repeats": "Trainings of the whole scheme",
    "splits_mean": "Mean over the test parts (folds, divisions), runs averaged",
    "splits_low": "Interval over test parts, corrected for the training people that they share "
    "(Nadeau and Bengio 2003)",
    "splits_high": "See splits_low",
}


def pooled(scores: pd.DataFrame, cohort: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """One row per image: the mean over the networks that tested it, and what it was called.

    Parameters
    ----------
    scores : DataFrame
        Of every fold: participant_id, session_id, number, fold, score, probability, threshold.
    cohort : DataFrame
    classes : sequence of str
        Negative and positive class.

    Returns
    -------
    DataFrame
        participant_id, session_id, label, probability, score, threshold, predicted, outcome,
        n_models, fold, folds. The mean probability is held against the mean threshold.
    """
    table = scores.groupby(KEYS, as_index=False).agg(
        probability=("probability", "mean"),
        score=("score", "mean"),
        threshold=("threshold", "mean"),
        n_models=("score", "size"),
        folds=("number", lambda numbers: ",".join(map(str, numbers))),
        fold=("fold", "first"),
    )
    table = table.merge(cohort[[*KEYS, "positive"]], on=KEYS)
    negative, positive = classes
    predicted = table["probability"] >= table["threshold"]
    table["label"] = np.where(table["positive"], positive, negative)
    table["predicted"] = np.where(predicted, positive, negative)
    table["outcome"] = [outcome(*pair) for pair in zip(table["positive"], predicted, strict=True)]
    table["session_id"] = table["session_id"].replace("", np.nan)
    columns = ["label", "probability", "score", "threshold", "predicted", "outcome", "n_models"]
    return table[[*KEYS, *columns, "fold", "folds"]]


def measured(
    people: pd.DataFrame, scores: pd.DataFrame, cohort: pd.DataFrame, positive: str
) -> dict[str, pd.DataFrame]:
    """Tables of the performance.

    Parameters
    ----------
    people : DataFrame
        Rows of :func:`pooled`, one per person.
    scores : DataFrame
        See :func:`pooled`, with repeat, division and n_train.
    cohort : DataFrame
    positive : str

    Returns
    -------
    dict
        "metrics" (see :data:`COLUMNS`), "repeats" (metrics per repeat) and "calibration" (the
        reliability curve).
    """
    truth = (people["label"] == positive).to_numpy()
    chance = people["probability"].to_numpy(float)
    metrics = classification_metrics(truth, chance, people["threshold"].to_numpy(float), LEVEL)
    curve = reliability(truth, chance, LEVEL)
    fits = {"expected_calibration_error": (expected_calibration_error(curve), np.nan, np.nan)}
    fits |= recalibration(truth, chance, LEVEL)
    rows = pd.DataFrame([(name, *fit) for name, fit in fits.items()], columns=list(metrics))
    judged = people[KEYS].assign(session_id=people["session_id"].fillna(""))
    single = scores.merge(judged, on=KEYS).merge(cohort[[*KEYS, "positive"]], on=KEYS)
    return {
        "metrics": pd.concat([metrics, rows]).merge(
            spread(single, LEVEL), on="metric", how="left", validate="one_to_one"
        ),
        "repeats": per_repeat(single),
        "calibration": curve,
    }


def subsets(tested: pd.DataFrame, seen: pd.DataFrame, positive: str) -> pd.DataFrame:
    """The ensemble on images that its networks were trained on, beside those they had not seen.

    As in table 2 of Estudillo-Romero et al. 2022. An image's probability is the mean over the
    networks of the subset: those that were trained on it, or those that tested it.

    Parameters
    ----------
    tested, seen : DataFrame
        Rows of :func:`pooled`, one per image.
    positive : str

    Returns
    -------
    DataFrame
        metric, training, testing, training_images, testing_images; first the four counts of the
        confusion matrix.
    """
    columns = {}
    for name, table in (("training", seen), ("testing", tested)):
        truth = (table["label"] == positive).to_numpy()
        chance, level = (table[one].to_numpy(float) for one in ("probability", "threshold"))
        metrics = classification_metrics(truth, chance, level, LEVEL).set_index("metric")["value"]
        counts = table["outcome"].value_counts().reindex(["TP", "FN", "TN", "FP"], fill_value=0)
        columns[name] = pd.concat([counts.astype(float), metrics])
    found = pd.DataFrame(columns).rename_axis("metric").reset_index()
    return found.assign(training_images=len(seen), testing_images=len(tested))
