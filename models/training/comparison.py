"""Variants of a study over the same splits: whether one does better than another.

Trainings on one cohort share its people, so their scores are not independent, and a signed-rank
test over all of them finds small differences too easily (Nadeau & Bengio 2003). It is given as
Klingenberg et al. 2021 used it, and beside it the test over the means of the divisions.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from models.errors import InputError

KEYS = ("division", "repeat")


def signed_rank(differences: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; NaN where nothing differs.

    Exact for up to 50 differences without ties and zeros, else normal with correction for ties;
    zeros are dropped (Wilcoxon 1945).
    """
    differences = np.round(np.asarray(differences, float), 12)  # .9 - .8 and .8 - .7 are tied
    differences = differences[np.isfinite(differences)]
    if not differences.any():
        return float("nan")
    return float(wilcoxon(differences, zero_method="wilcox").pvalue)


def compare(scores: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """Compare all pairs of variants, metric by metric.

    Parameters
    ----------
    scores : DataFrame
        Columns variant, division, repeat, metric, value: one value of each metric per training of
        the whole cohort. Trainings of two variants belong together by division and repeat.
    order : sequence of str
        Variants, the first of a pair before the second.

    Returns
    -------
    DataFrame
        metric, first, second, trainings, first_mean, second_mean, difference (first less second)
        with its SD over trainings, p_trainings over all trainings, divisions, and p_divisions over
        the divisions' means.

    Raises
    ------
    models.errors.InputError
        The variants were not trained on the same divisions.
    """
    rows = []
    for metric, values in scores.groupby("metric", sort=False):
        wide = values.pivot_table(index=list(KEYS), columns="variant", values="value")
        _check_paired(values, wide, order)
        for first, second in combinations(order, 2):
            difference = wide[first] - wide[second]
            means = difference.groupby("division").mean()
            rows.append(
                {
                    "metric": metric,
                    "first": first,
                    "second": second,
                    "trainings": int(difference.notna().sum()),
                    "first_mean": wide[first].mean(),
                    "second_mean": wide[second].mean(),
                    "difference": difference.mean(),
                    "difference_sd": difference.std(ddof=1) if len(difference) > 1 else np.nan,
                    "p_trainings": signed_rank(difference.to_numpy()),
                    "divisions": len(means),
                    "p_divisions": signed_rank(means.to_numpy()),
                }
            )
    return pd.DataFrame(rows)


def _check_paired(values: pd.DataFrame, wide: pd.DataFrame, order: Sequence[str]) -> None:
    missing = [variant for variant in order if variant not in wide]
    counts = values.groupby("variant").size()
    if missing or counts.nunique() > 1 or len(wide) != counts.iloc[0]:
        raise InputError(
            "the variants were not trained on the same divisions of the people "
            f"({', '.join(f'{name}: {n}' for name, n in counts.items())}); run all of them again "
            "with --force"
        )


def least_p(pairs: int) -> float:
    """The smallest two-sided p that a signed-rank test of so many pairs can reach."""
    return min(1.0, 2.0 ** (1 - pairs))
