"""What a network has to beat: classical classifiers with a nested grid search.

Everything is fitted on the training rows of a fold: the inner folds divide them again, by person,
to choose the parameters (Varma & Simon 2006). A score is the decision value over the root mean
square of the decision values that the inner folds gave to the training people, so that scores of
folds with different parameters can be ranked together. Its sign is the answer. No probability is
fitted: on some dozen people, Platt's sigmoid may turn round and call every answer its opposite.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from models.errors import InputError
from models.training.kernels import Source

Setting = Mapping[str, float]
# Rows to fit on, other rows, settings -> decision values (settings, other rows).
Learner = Callable[[NDArray, NDArray, Sequence[Setting]], NDArray]


@dataclass(frozen=True, eq=False)
class People:
    """Whose images the rows are.

    Parameters
    ----------
    labels : numpy.ndarray
        (images,) bool, True for the positive class.
    persons : numpy.ndarray
        (images,), the person of each image.
    """

    labels: NDArray
    persons: NDArray


@dataclass(frozen=True, eq=False)
class Tested:
    """What a baseline says of the test rows.

    Attributes
    ----------
    scores : numpy.ndarray
        (test rows,); positive class at or above 0.
    setting : mapping
        The parameters that the inner folds chose.
    inner_balanced_accuracy : float
        What they reached with it; optimistic, since it chose them.
    """

    scores: NDArray
    setting: Setting
    inner_balanced_accuracy: float


def nested(
    learner: Learner,
    settings: Sequence[Setting],
    people: People,
    *,
    train: Sequence[int],
    test: Sequence[int],
    inner_folds: int = 5,
    seed: int = 0,
) -> Tested:
    """Choose a setting by inner folds of the training rows, fit it on all of them, test.

    Parameters
    ----------
    learner : callable
        See :func:`svm` and :func:`logistic`.
    settings : sequence of mapping
        From the simplest to the most flexible: of equally good ones the first is taken.
    people : People
    train, test : sequence of int
        Rows; labels of ``test`` are not looked at.
    inner_folds : int
        At most; no more than the smaller class has people.
    seed : int

    Raises
    ------
    models.errors.InputError
        A class has fewer than two people among the training rows, or one person is on both sides.
    """
    fit, held = np.asarray(train, int), np.asarray(test, int)
    if set(people.persons[fit].tolist()) & set(people.persons[held].tolist()):
        raise InputError("a person has images in the training and in the test part of a fold")
    inner = np.full((len(settings), len(fit)), np.nan)
    for some, rest in _inner(people, fit, inner_folds, seed):
        inner[:, rest] = learner(fit[some], fit[rest], settings)
    reached = [_balanced_accuracy(people.labels[fit], one) for one in inner]
    best = int(np.argmax(reached))
    size = float(np.sqrt(np.nanmean(inner[best] ** 2))) or 1.0
    scores = learner(fit, held, [settings[best]])[0] / size
    return Tested(scores, settings[best], reached[best])


def _inner(people: People, rows: NDArray, folds: int, seed: int) -> list[tuple[NDArray, NDArray]]:
    labels, persons = people.labels[rows], people.persons[rows]
    fewest = min(len(set(persons[labels == one].tolist())) for one in (True, False))
    if fewest < 2:
        raise InputError(
            f"one class has fewer than two people ({fewest}) in the training part of a fold, which "
            "has to be divided again to choose parameters: add people, or set [baselines] names = "
            "[]"
        )
    folder = StratifiedGroupKFold(min(folds, fewest), shuffle=True, random_state=seed)
    parts = folder.split(rows, labels, persons)
    return [(some, rest) for some, rest in parts if len(set(labels[some].tolist())) == 2]


def _balanced_accuracy(labels: NDArray, scores: NDArray) -> float:
    """Over the pooled inner folds, of which one alone may lack a class."""
    known = np.isfinite(scores)
    hit = (scores >= 0) == labels
    return float(np.mean([hit[known & (labels == one)].mean() for one in (True, False)]))


# --- support vector machines ---------------------------------------------------------------------


def svm(source: Source, people: People) -> Learner:
    """Support vector machine on a kernel; both classes weigh the same.

    With ``gamma`` in a setting the kernel is made radial.
    """

    def learn(fit: NDArray, rows: NDArray, settings: Sequence[Setting]) -> NDArray:
        plain = source(fit, rows)
        kernels = {
            gamma: plain if gamma is None else plain.rbf(gamma)
            for gamma in {one.get("gamma") for one in settings}
        }
        scores = [
            SVC(C=one["C"], kernel="precomputed", class_weight="balanced")
            .fit(kernels[one.get("gamma")].fitted, people.labels[fit])
            .decision_function(kernels[one.get("gamma")].others)
            for one in settings
        ]
        return np.array(scores)

    return learn


def svm_settings(c: Sequence[float], gamma: Sequence[float] = ()) -> list[Setting]:
    """All combinations of C and, for a radial kernel, gamma."""
    if not gamma:
        return [{"C": one} for one in sorted(c)]
    return [{"C": one, "gamma": other} for one, other in product(sorted(c), sorted(gamma))]


# --- covariates ----------------------------------------------------------------------------------


def logistic(table: pd.DataFrame, people: People, words: Sequence[str] = ()) -> Learner:
    """Logistic regression on covariates; both classes weigh the same.

    Parameters
    ----------
    table : pandas.DataFrame
        One row per image. Numbers are scaled, missing ones take the median of the rows that are
        fitted; words are one-hot, missing ones take the commonest. A word that was not fitted
        counts as none.
    people : People
    words : sequence of str
        Columns that are names even where they are written in numbers, such as sites.
    """
    known = _typed(table, words)

    def learn(fit: NDArray, rows: NDArray, settings: Sequence[Setting]) -> NDArray:
        scores = [
            _regression(known, one["C"])
            .fit(known.iloc[fit], people.labels[fit])
            .decision_function(known.iloc[rows])
            for one in settings
        ]
        return np.array(scores)

    return learn


def _typed(table: pd.DataFrame, words: Sequence[str]) -> pd.DataFrame:
    """Columns as numbers where all that is known of them are numbers, else as text."""
    columns: dict[str, Any] = {}
    for name in table:
        numbers = pd.to_numeric(table[name], errors="coerce")
        if name in words or (numbers.isna() & table[name].notna()).any():
            columns[str(name)] = table[name].map(str, na_action="ignore").astype(object)
        else:
            columns[str(name)] = numbers.astype(float)
    return pd.DataFrame(columns)


def _regression(table: pd.DataFrame, c: float) -> Pipeline:
    numbers = [name for name in table if table[name].dtype == float]
    names = [name for name in table if table[name].dtype != float]
    scaled = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler()
    )
    coded = make_pipeline(
        SimpleImputer(strategy="most_frequent", missing_values=np.nan, keep_empty_features=True),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    )
    return make_pipeline(
        ColumnTransformer([("numbers", scaled, numbers), ("words", coded, names)]),
        LogisticRegression(C=c, class_weight="balanced", max_iter=1000),
    )
