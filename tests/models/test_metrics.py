"""Metrics against scikit-learn and SciPy, intervals against their definition and their promise."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm
from sklearn import metrics as sk

from models.training.metrics import classification_metrics, outcome


def prediction(seed, n_pos=17, n_neg=23, ties=False, separation=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n_pos + n_neg) < n_pos)
    scores = rng.normal(size=n_pos + n_neg) + separation * labels - separation / 2
    probabilities = 1 / (1 + np.exp(-scores))
    return labels, np.round(probabilities, 1) if ties else probabilities


def measured(labels, probabilities, **options):
    return classification_metrics(labels, probabilities, **options).set_index("metric")


def counted(tp, n_pos, tn, n_neg):
    """A prediction with these counts."""
    labels = np.arange(n_pos + n_neg) < n_pos
    hit = np.r_[np.arange(n_pos) < tp, np.arange(n_neg) < tn]
    return labels, np.where(hit == labels, 0.9, 0.1)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    ties=st.booleans(),
    threshold=st.sampled_from([0.3, 0.5, 0.7]),
    n_pos=st.integers(2, 20),
    n_neg=st.integers(2, 20),
)
def test_values_agree_with_sklearn(seed, ties, threshold, n_pos, n_neg):
    labels, probabilities = prediction(seed, n_pos, n_neg, ties)
    found = measured(labels, probabilities, threshold=threshold)["value"]
    predicted = probabilities >= threshold
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "sensitivity": sk.recall_score(labels, predicted),
        "specificity": sk.recall_score(labels, predicted, pos_label=False),
        "roc_auc": sk.roc_auc_score(labels, probabilities),
    }
    assert found.to_dict() == pytest.approx(expected, abs=1e-12)


def test_the_threshold_itself_counts_as_positive():
    found = measured([True, False], [0.5, 0.5])["value"]
    assert (found["sensitivity"], found["specificity"]) == (1, 0)


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize(("tp", "tn"), [(0, 23), (17, 0), (1, 22), (9, 14), (17, 23)])
def test_proportions_have_the_exact_interval(tp, tn, level):
    found = measured(*counted(tp, 17, tn, 23), level=level)
    for name, hits, n in (
        ("sensitivity", tp, 17),
        ("specificity", tn, 23),
        ("accuracy", tp + tn, 40),
    ):
        exact = binomtest(hits, n).proportion_ci(level, "exact")
        assert (found.ci_low[name], found.ci_high[name]) == pytest.approx(
            (exact.low, exact.high), abs=1e-12
        )


def literal_delong(labels, scores, level):
    """DeLong, DeLong and Clarke-Pearson 1988 for one curve: structural components by loops."""
    positive, negative = scores[labels], scores[~labels]

    def psi(x, y):
        return 1.0 if y < x else 0.5 if y == x else 0.0

    m, n = len(positive), len(negative)
    area = sum(psi(x, y) for x in positive for y in negative) / (m * n)
    v10 = [sum(psi(x, y) for y in negative) / n for x in positive]
    v01 = [sum(psi(x, y) for x in positive) / m for y in negative]
    s10 = sum((v - area) ** 2 for v in v10) / (m - 1)
    s01 = sum((v - area) ** 2 for v in v01) / (n - 1)
    reach = norm.ppf((1 + level) / 2) * np.sqrt(s10 / m + s01 / n)
    return area, max(0, area - reach), min(1, area + reach)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    ties=st.booleans(),
    n_pos=st.integers(2, 15),
    n_neg=st.integers(2, 15),
    level=st.sampled_from([0.8, 0.95, 0.99]),
)
def test_the_interval_of_the_area_is_delongs(seed, ties, n_pos, n_neg, level):
    labels, probabilities = prediction(seed, n_pos, n_neg, ties)
    found = measured(labels, probabilities, level=level).loc["roc_auc"]
    assume(found["value"] not in (0, 1))  # there DeLong's variance is 0; see the next test
    assert found.tolist() == pytest.approx(literal_delong(labels, probabilities, level), abs=1e-10)


@pytest.mark.parametrize(("n_pos", "n_neg", "low"), [(3, 3, 0.4), (12, 12, 0.9), (100, 100, 0.99)])
def test_perfect_separation_does_not_claim_certainty(n_pos, n_neg, low):
    labels = np.repeat([True, False], [n_pos, n_neg])
    area = measured(labels, labels.astype(float)).loc["roc_auc"]
    assert area["value"] == area["ci_high"] == 1
    assert low < area["ci_low"] < 1


def test_the_area_is_covered_as_often_as_promised():
    truth = norm.cdf(1 / np.sqrt(2))
    covered = [
        low <= truth <= high
        for low, high in (
            measured(*prediction(seed, 40, 40)).loc["roc_auc", ["ci_low", "ci_high"]]
            for seed in range(400)
        )
    ]
    # 0.95 +- 3 standard errors, and DeLong is known to fall a little short at 40.
    assert 0.91 < np.mean(covered) < 0.985


@pytest.mark.parametrize("p", [0.5, 0.8, 0.97])
@pytest.mark.parametrize(("n_pos", "n_neg"), [(10, 10), (20, 31)])
def test_the_coverage_of_balanced_accuracy_computed_exactly(p, n_pos, n_neg):
    q, coverage = 0.7, 0.0
    for tp in range(n_pos + 1):
        for tn in range(n_neg + 1):
            weight = binom.pmf(tp, n_pos, p) * binom.pmf(tn, n_neg, q)
            if weight > 1e-5:
                row = measured(*counted(tp, n_pos, tn, n_neg)).loc["balanced_accuracy"]
                assert row.ci_low <= row.value <= row.ci_high
                coverage += weight * (row.ci_low <= (p + q) / 2 <= row.ci_high)
    assert 0.925 < coverage < 0.99


def test_a_perfect_prediction_is_not_certain():
    found = measured(*counted(10, 10, 10, 10))
    assert (found.value == 1).all()
    assert (found.ci_high == 1).all()
    others = found.drop("roc_auc")  # DeLong's variance is 0 here
    assert (others.ci_low < 0.95).all()


def test_a_missing_class_gives_nan_and_no_error():
    found = measured(np.ones(6, bool), np.linspace(0, 1, 6))
    assert found.loc[["balanced_accuracy", "specificity", "roc_auc"]].isna().all(axis=None)
    assert found.value["sensitivity"] == found.value["accuracy"] == 0.5
    assert measured(np.zeros(0, bool), np.zeros(0)).isna().all(axis=None)


def test_one_person_of_a_class_has_an_area_without_interval():
    found = measured([True, False, False], [0.4, 0.3, 0.6]).loc["roc_auc"]
    assert found.value == 0.5
    assert np.isnan([found.ci_low, found.ci_high]).all()


@pytest.mark.parametrize(
    ("label", "predicted", "name"),
    [(True, True, "TP"), (True, False, "FN"), (False, True, "FP"), (False, False, "TN")],
)
def test_outcome(label, predicted, name):
    assert outcome(label, predicted) == outcome(np.bool_(label), np.bool_(predicted)) == name
