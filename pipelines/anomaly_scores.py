"""Tables of a cohort's anomaly scores, from every split's percentages."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from models.anomaly.scores import SCORES, over_splits, region_scores
from models.training.metrics import classification_metrics

KEYS = ["method", "roi"]
COMPARED = ("gmean", "gmean_held_out")
ONE_CLASS = "oneclass"  # ends the name of what machines on codes say; no quantile binds them


def split_scores(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """All scores of each auto-encoder, region and split.

    Parameters
    ----------
    table : pandas.DataFrame
        participant_id, positive (bool), role, split, method, roi, voxels (that are scored),
        percent; one image a person.
    seed : int
        Of the halves that thresholds are held out by.

    Returns
    -------
    pandas.DataFrame
        method, roi, split, voxels, controls, patients, then `models.anomaly.scores.SCORES`.
    """
    tested = table[table["role"] == "test"]
    rows = []
    for (method, roi, split), part in tested.groupby([*KEYS, "split"], sort=False):
        positive = part["positive"].to_numpy(bool)
        found = region_scores(part["percent"].to_numpy(float), positive, seed + int(split))
        counts = {"voxels": int(part["voxels"].iloc[0])}
        counts |= {"controls": int((~positive).sum()), "patients": int(positive.sum())}
        rows.append({"method": method, "roi": roi, "split": split, **counts, **found})
    return pd.DataFrame(rows)


def summary(per_split: pd.DataFrame) -> pd.DataFrame:
    """Mean and SD over the splits: method, roi, voxels, splits, and ``<score>``, ``<score>_sd``."""
    rows = []
    for (method, roi), part in per_split.groupby(KEYS, sort=False):
        row = {"method": method, "roi": roi, "voxels": int(part["voxels"].iloc[0])}
        row["splits"] = int(part["gmean"].notna().sum())
        for name in SCORES:
            row[name], row[f"{name}_sd"] = over_splits(part[name].tolist())
        rows.append(row)
    return pd.DataFrame(rows)


def differences(per_split: pd.DataFrame) -> pd.DataFrame:
    """Auto-encoders against each other: g-means of the same split and region, subtracted.

    Returns
    -------
    pandas.DataFrame
        first, second, roi, splits, then of gmean and gmean_held_out: ``<score>`` (first less
        second, mean over the splits), ``<score>_sd``, and ``<score>_higher``: the number of splits
        in which the first is higher.
    """
    rows = []
    methods = list(dict.fromkeys(per_split["method"]))
    wide = per_split.pivot(index=["roi", "split"], columns="method", values=list(COMPARED))
    for first, second in combinations(methods, 2):
        for roi in dict.fromkeys(per_split["roi"]):
            row: dict[str, object] = {"first": first, "second": second, "roi": roi}
            for name in COMPARED:
                found = wide[name]
                found = found[found.index.get_level_values("roi") == roi]
                gap = (found[first] - found[second]).dropna()
                row["splits"] = len(gap)
                row[name], row[f"{name}_sd"] = over_splits(gap.tolist())
                row[f"{name}_higher"] = int((gap > 0).sum())
            rows.append(row)
    return pd.DataFrame(rows)


def people_table(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Percentage of each person and region, mean over the splits that did not train on them."""
    tested = table[table["role"] == "test"]
    keys = ["participant_id", "session_id", "positive", *KEYS]
    found = tested.groupby(keys, sort=False)["percent"].agg(["mean", "count"]).reset_index()
    found = found.rename(columns={"mean": "percent", "count": "splits"})
    found["label"] = [classes[bool(one)] for one in found.pop("positive")]
    found["session_id"] = found["session_id"].replace("", None)
    return found[["participant_id", "session_id", "label", *KEYS, "percent", "splits"]]


def false_alarms(percents: pd.DataFrame, quantile: float) -> pd.DataFrame:
    """What share of the controls' whole brain is called abnormal.

    Returns
    -------
    pandas.DataFrame
        method, role ("train", "test"), people, maps (one of each person in each split), percent
        (mean over the maps), sd (between people), expected: what the quantile promises of the
        training controls together; NaN of one-class machines.
    """
    of_controls = ~percents["positive"].astype(bool)
    controls = percents[of_controls & (percents["roi"] == percents["roi"].iloc[0])]
    keys, rows = ["method", "role"], []
    for (method, role), part in controls.groupby(keys, sort=False):
        each = part.groupby("participant_id")["percent"].mean()
        mean, count = float(part["percent"].mean()), int(part["percent"].count())
        rows.append((method, role, int(each.count()), count, mean, float(each.std())))
    table = pd.DataFrame(rows, columns=[*keys, "people", "maps", "percent", "sd"])
    bound = ~table["method"].str.endswith(ONE_CLASS)
    return table.assign(expected=np.where(bound, 100 * (1 - quantile), np.nan))


def with_intervals(regions: pd.DataFrame, people: pd.DataFrame, positive: str) -> pd.DataFrame:
    """Add each region's AUC over people, one percentage a person, with its 95 % interval.

    Parameters
    ----------
    regions : pandas.DataFrame
        Of :func:`summary`.
    people : pandas.DataFrame
        Of :func:`people_table`.
    positive : str
        Class of the patients.

    Returns
    -------
    pandas.DataFrame
        With the columns people_auc, people_auc_low, people_auc_high (DeLong et al. 1988). Splits
        share people, so that the spread over splits is no interval.
    """
    found = []
    for row in regions.itertuples():
        part = people[(people["method"] == row.method) & (people["roi"] == row.roi)]
        part = part.dropna(subset="percent").drop_duplicates("participant_id")
        labels = (part["label"] == positive).to_numpy()
        metrics = classification_metrics(labels, part["percent"].to_numpy(float))
        area = metrics.set_index("metric").loc["roc_auc"]
        found.append((area["value"], area["ci_low"], area["ci_high"]))
    columns = ["people_auc", "people_auc_low", "people_auc_high"]
    return regions.join(pd.DataFrame(found, columns=columns, index=regions.index))
