"""Paired tests against slow replicas, bootstrap and permutation."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar as oracle

from models.training.metrics import classification_metrics
from models.training.paired import delong, mcnemar


def scores(seed, n=60, shared=0.7, shift=(1.0, 0.4)):
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.45
    common = rng.normal(size=n)
    first, second = (shared * common + rng.normal(size=n) + one * labels for one in shift)
    return labels, first, second


def slow(labels, first, second):
    """Equations 5 to 8 of DeLong 1988, pair by pair."""

    def psi(x, y):
        return (x > y) + 0.5 * (x == y)

    v = []
    for one in (first, second):
        pairs = np.array([[psi(x, y) for y in one[~labels]] for x in one[labels]])
        v.append((pairs.mean(1), pairs.mean(0)))
    s10 = np.cov(np.array([v[0][0], v[1][0]]))
    s01 = np.cov(np.array([v[0][1], v[1][1]]))
    s = s10 / labels.sum() + s01 / (~labels).sum()
    value = v[0][0].mean() - v[1][0].mean()
    return value, s[0, 0] + s[1, 1] - 2 * s[0, 1]


@pytest.mark.parametrize("seed", range(4))
def test_delong_is_the_papers(seed):
    labels, first, second = scores(seed)
    first = first.round(1)  # ties
    value, variance = slow(labels, first, second)
    found = delong(labels, first, second)
    assert found.value == pytest.approx(value)
    assert found.value == pytest.approx(
        roc_auc_score(labels, first) - roc_auc_score(labels, second)
    )
    assert found.p == pytest.approx(2 * norm.sf(abs(value) / np.sqrt(variance)))
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * np.sqrt(variance))


def test_delong_against_a_constant_is_the_interval_of_one_area():
    labels, first, _ = scores(9)
    found = delong(labels, first, np.zeros(60))
    table = classification_metrics(labels, first).set_index("metric").loc["roc_auc"]
    assert found.low == pytest.approx(table["ci_low"] - 0.5)


def test_no_difference_is_found_as_often_as_promised():
    ps = [delong(*scores(seed, shift=(0.7, 0.7))).p for seed in range(300)]
    assert 0.02 < np.mean(np.array(ps) < 0.05) < 0.09


def test_scales_do_not_matter_and_neither_does_the_order():
    labels, first, second = scores(3)
    there, scaled = delong(labels, first, second), delong(labels, 1 / (1 + np.exp(-first)), second)
    back = delong(labels, second, first)
    assert (there.value, there.p) == (pytest.approx(scaled.value), pytest.approx(scaled.p))
    assert (there.value, there.p) == (pytest.approx(-back.value), pytest.approx(back.p))


def test_areas_without_variance():
    labels = np.array([True, True, False, False])
    perfect, wrong = np.array([2.0, 3, 0, 1]), np.array([0.0, 1, 2, 3])
    assert delong(labels, perfect, perfect).p == 1
    assert np.isnan(delong(labels, perfect, wrong).p)
    assert np.isnan(delong(np.array([True, False, False, False]), perfect, wrong).value)


@pytest.mark.parametrize("seed", range(3))
def test_mcnemar_is_exact(seed):
    labels, first, second = scores(seed)
    first, second = first > 0.4, second > 0.4
    right, also = first == labels, second == labels
    table = [
        [(right & also).sum(), (right & ~also).sum()],
        [(~right & also).sum(), (~right & ~also).sum()],
    ]
    found = mcnemar(labels, first, second)
    assert found.p == pytest.approx(oracle(table, exact=True).pvalue)
    assert (found.first_only, found.second_only) == (table[0][1], table[1][0])


def test_the_same_answers_do_not_differ():
    labels, first, _ = scores(1)
    assert mcnemar(labels, first > 0, first > 0).p == 1
