"""Uptake in clusters, compared between classes and with the binding of the striatum.

Nazari et al. 2021 look at the images again where the heatmaps point: the mean uptake of every
cluster, in training and test people apart.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import ttest_ind

from models import association
from models.anova import two_way
from models.errors import InputError
from models.training.intervals import delong


def cluster_means(volume: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Mean of an image in each of ``count`` clusters, labelled from 1; (count,)."""
    inside = labels > 0
    sizes = np.bincount(labels[inside], minlength=count + 1)[1:]
    sums = np.bincount(labels[inside], weights=volume[inside], minlength=count + 1)[1:]
    return sums / np.maximum(sizes, 1)


def compare(
    uptake: pd.DataFrame, positive: np.ndarray, subset: np.ndarray, level: float = 0.95
) -> pd.DataFrame:
    """Uptake of the two classes, in each subset of the people apart.

    Parameters
    ----------
    uptake : pandas.DataFrame
        A row per person, a column per cluster.
    positive : numpy.ndarray
        (people,) bool.
    subset : numpy.ndarray
        (people,) of str, such as "training" and "test".
    level : float
        Coverage of the interval of the area.

    Returns
    -------
    pandas.DataFrame
        cluster, subset, n_positive, n_negative, mean_positive, mean_negative, difference, t and p
        (Welch's), auc, auc_low and auc_high (DeLong's) of low uptake as a sign of the positive
        class: above 0.5 where patients take up less. NaN where a class has fewer than two people.
    """
    rows = []
    for name in uptake:
        values = uptake[name].to_numpy(float)
        for part in pd.unique(pd.Series(subset)):
            ours, theirs = (values[(subset == part) & (positive == one)] for one in (True, False))
            enough = min(len(ours), len(theirs)) > 1
            t, p = ttest_ind(ours, theirs, equal_var=False) if enough else (np.nan, np.nan)
            chosen = subset == part
            area = delong(positive[chosen], -values[chosen], level)
            means = [one.mean() if len(one) else np.nan for one in (ours, theirs)]
            counts = (len(ours), len(theirs))
            rows.append((name, part, *counts, *means, means[0] - means[1], t, p, *area))
    return pd.DataFrame(rows, columns=_COMPARED)


_COMPARED = [
    *("cluster", "subset", "n_positive", "n_negative", "mean_positive", "mean_negative"),
    *("difference", "t", "p", "auc", "auc_low", "auc_high"),
]


def correlate(
    uptake: pd.DataFrame, measure: np.ndarray, groups: Mapping[str, np.ndarray], seed: int = 0
) -> pd.DataFrame:
    """Pearson's correlation of uptake with a measure of the same people, within each group.

    Parameters
    ----------
    uptake : pandas.DataFrame
        A row per person, a column per cluster.
    measure : numpy.ndarray
        (people,), the binding of the ipsilateral putamen, say.
    groups : mapping of str to numpy.ndarray
        Name to (people,) bool. Groups in which there is no correlation are left out.

    Returns
    -------
    pandas.DataFrame
        cluster, group, then the fields of `models.association.Association`: r, its bootstrap
        interval and its permutation p.
    """
    rows = []
    for name in uptake:
        for group, members in groups.items():
            try:
                found = association.correlation(
                    uptake[name].to_numpy(float), measure, members, seed=seed
                )
            except InputError:
                continue
            rows.append({"cluster": name, "group": group, **vars(found)})
    return pd.DataFrame(rows)


def balance(table: pd.DataFrame, positive: np.ndarray, subset: np.ndarray) -> pd.DataFrame:
    """Whether subsets and classes differ in covariates: analysis of variance of each.

    Parameters
    ----------
    table : pandas.DataFrame
        A row per person, a column per covariate; of numbers, or of two words.
    positive, subset : numpy.ndarray
        (people,), as in `compare`.

    Returns
    -------
    pandas.DataFrame
        covariate, effect ("subset", "class", "subset x class"), F, df, df_residual, p.
    """
    names = {"first": "subset", "second": "class", "interaction": "subset x class"}
    tables = []
    for name in table:
        numbers = pd.to_numeric(table[name], errors="coerce")
        if numbers.isna().all():
            numbers = pd.Series(pd.factorize(table[name])[0], table.index).replace(-1, np.nan)
        try:
            found = two_way(numbers.to_numpy(float), subset, positive)
        except InputError:
            continue
        found["effect"] = found["effect"].map(names)
        found.insert(0, "covariate", name)
        tables.append(found)
    columns = ["covariate", "effect", "F", "df", "df_residual", "p"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
