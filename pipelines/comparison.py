"""A network and simple classifiers on the same people: predictions, metrics, paired tests."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import expit

from models.training.metrics import classification_metrics
from models.training.paired import delong, mcnemar
from pipelines.baselines import ALPHA, NETWORK

COMPARED = [
    *("classifier", "people", "auc_network", "auc_baseline", "auc_difference", "ci_low", "ci_high"),
    *("p_auc", "network_only_right", "baseline_only_right", "p_accuracy", "verdict"),
]
METRICS = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "roc_auc")


def predictions(
    scores: pd.DataFrame, network: pd.DataFrame, classes: Sequence[str]
) -> pd.DataFrame:
    """What every baseline says of every person whom the network was tested on.

    Parameters
    ----------
    scores : pandas.DataFrame
        participant_id, session_id, classifier, score; a row per repeat.
    network : pandas.DataFrame
        participant_id, session_id and label; one row per person.
    classes : sequence of str
        Negative and positive class.

    Returns
    -------
    pandas.DataFrame
        classifier, participant_id, session_id, label, score (mean over repeats), predicted,
        n_models.
    """
    keys = ["participant_id", "session_id"]
    means = scores.groupby(["classifier", *keys], dropna=False, sort=False, as_index=False).agg(
        score=("score", "mean"), n_models=("score", "size")
    )
    found = means.merge(network[[*keys, "label"]], on=keys)
    found["predicted"] = np.where(found["score"] >= 0, classes[1], classes[0])
    return found[["classifier", *keys, "label", "score", "predicted", "n_models"]]


def metrics(found: pd.DataFrame, network: pd.DataFrame, positive: str) -> pd.DataFrame:
    """Metrics of the network and of every baseline on the same people.

    Parameters
    ----------
    found : pandas.DataFrame
        See :func:`predictions`.
    network : pandas.DataFrame
        label, probability and threshold (default .5), one row per person.
    positive : str

    Returns
    -------
    pandas.DataFrame
        classifier, metric, value, ci_low, ci_high.
    """
    truth = (network["label"] == positive).to_numpy()
    chance, limit = network["probability"].to_numpy(float), network.get("threshold", 0.5)
    tables = {NETWORK: classification_metrics(truth, chance, np.asarray(limit, float))}
    for name, one in found.groupby("classifier", sort=False):
        # No probability: a monotone curve that puts the sign's border at the threshold.
        likely = expit(one["score"].to_numpy(float))
        tables[str(name)] = classification_metrics((one["label"] == positive).to_numpy(), likely)
    columns = ["classifier", "metric", "value", "ci_low", "ci_high"]
    every = [table.assign(classifier=name) for name, table in tables.items()]
    chosen = pd.concat(every, ignore_index=True)[columns]
    return chosen[chosen["metric"].isin(METRICS)].reset_index(drop=True)


def _threshold(network: pd.DataFrame) -> np.ndarray | float:
    return network["threshold"].to_numpy(float) if "threshold" in network else 0.5


def comparisons(found: pd.DataFrame, network: pd.DataFrame, positive: str) -> pd.DataFrame:
    """Test the network against every baseline, on the people whom both judged.

    Returns
    -------
    pandas.DataFrame
        Columns `COMPARED`: p_auc by DeLong's test, p_accuracy by McNemar's; the verdict is better,
        worse or undecided by p_auc, and unknown where that is.
    """
    keys = ["participant_id", "session_id"]
    rows = []
    for name, one in found.groupby("classifier", sort=False):
        theirs = one[[*keys, "score", "predicted"]].rename(
            columns={"score": "score_other", "predicted": "predicted_other"}
        )
        both = network.merge(theirs, on=keys)
        rows.append({"classifier": name, "people": len(both)} | _compared(both, positive))
    return pd.DataFrame(rows, columns=COMPARED)


def _compared(both: pd.DataFrame, positive: str) -> dict[str, object]:
    truth = (both["label"] == positive).to_numpy()
    ours, theirs = both["probability"].to_numpy(float), both["score_other"].to_numpy(float)
    areas = [_area(truth, one) for one in (ours, theirs)]
    area = delong(truth, ours, theirs)
    answers = [(both[one] == positive).to_numpy() for one in ("predicted", "predicted_other")]
    right = mcnemar(truth, *answers)
    return {
        "auc_network": areas[0],
        "auc_baseline": areas[1],
        "auc_difference": area.value,
        "ci_low": area.low,
        "ci_high": area.high,
        "p_auc": area.p,
        "network_only_right": right.first_only,
        "baseline_only_right": right.second_only,
        "p_accuracy": right.p,
        "verdict": verdict(area.value, area.p),
    }


def _area(truth: np.ndarray, scores: np.ndarray) -> float:
    table = classification_metrics(truth, scores).set_index("metric")
    return float(table.loc["roc_auc", "value"])


def verdict(difference: float, p: float) -> str:
    """Whether the network is better or worse by the area under its curve, or nobody knows."""
    if np.isnan(p):
        return "unknown"
    if p >= ALPHA:
        return "undecided"
    return "better" if difference > 0 else "worse"
