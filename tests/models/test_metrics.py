"""Metrics against scikit-learn and SciPy, intervals against their definition and their promise."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm
from sklearn import metrics as sk

from models.training.intervals import over_splits
from models.training.metrics import (
    classification_metrics,
    outcome,
    per_repeat,
    point_metrics,
    spread,
)


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
        "average_precision": sk.average_precision_score(labels, probabilities),
        "brier": sk.brier_score_loss(labels, probabilities),
    }
    assert found.to_dict() == pytest.approx(expected, abs=1e-12)
    assert point_metrics(labels, probabilities, threshold) == pytest.approx(expected, abs=1e-12)


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
    found = found.drop("brier")  # an error, not a success; its interval knows these people only
    assert (found.value == 1).all()
    assert (found.ci_high == 1).all()
    others = found.drop("roc_auc")  # DeLong's variance is 0 here
    assert (others.ci_low < 0.95).all()


def test_a_missing_class_gives_nan_and_no_error():
    found = measured(np.ones(6, bool), np.linspace(0, 1, 6))
    absent = ["balanced_accuracy", "specificity", "roc_auc", "average_precision"]
    assert found.loc[absent].isna().all(axis=None)
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


def test_every_person_may_have_a_threshold():
    labels = np.array([True, True, False, False])
    found = measured(labels, [0.4, 0.4, 0.4, 0.4], threshold=np.array([0.3, 0.5, 0.3, 0.5]))
    assert found.value["accuracy"] == found.value["sensitivity"] == 0.5


@pytest.mark.parametrize("name", ["average_precision", "brier"])
def test_the_other_intervals_cover_as_often_as_promised(name):
    truth = measured(*prediction(0, 40_000, 40_000)).value[name]
    covered = [
        low <= truth <= high
        for low, high in (
            measured(*prediction(seed, 40, 40)).loc[name, ["ci_low", "ci_high"]]
            for seed in range(200)
        )
    ]
    # 0.95 less 3 standard errors; the logit interval of Boyd 2013 is known to be wide.
    assert np.mean(covered) > 0.9


# --- over repeats --------------------------------------------------------------------------------


def retrained(divisions=3, runs=2, folds=4, people=40, seed=0, shared=0.0):
    """Out-of-fold predictions of repeated trainings of a k-fold."""
    rng = np.random.default_rng(seed)
    rows = []
    for division in range(1, divisions + 1):
        fold = rng.permutation(people) % folds + 1
        for run in range(runs):
            chance = np.clip(rng.normal(0.5, 0.25, people) + 0.1 * (np.arange(people) % 2), 0, 1)
            rows += [
                ((division - 1) * runs + run + 1, division, fold[i], bool(i % 2), chance[i], 0.5)
                for i in range(people)
            ]
    columns = ["repeat", "division", "fold", "positive", "probability", "threshold"]
    return pd.DataFrame(rows, columns=columns).assign(n_train=people - people // folds)


def test_metrics_of_each_repeat():
    predictions = retrained()
    table = per_repeat(predictions)
    assert table["repeat"].tolist() == [1, 2, 3, 4, 5, 6]
    assert table["division"].tolist() == [1, 1, 2, 2, 3, 3]
    assert (table["n"] == 40).all()
    for row in table.itertuples():
        mine = predictions[predictions["repeat"] == row.repeat]
        hit = (mine["probability"] >= 0.5) == mine["positive"]
        assert row.accuracy == pytest.approx(hit.mean())
        assert row.roc_auc == pytest.approx(sk.roc_auc_score(mine["positive"], mine["probability"]))


def test_spread_by_loops():
    predictions = retrained()
    table, found = per_repeat(predictions), spread(predictions).set_index("metric")
    for name, row in found.iterrows():
        values = table[name]
        assert row["mean"] == pytest.approx(values.mean())
        assert row["sd"] == pytest.approx(values.std(ddof=1))
        means = [values[table["division"] == one].mean() for one in (1, 2, 3)]
        assert row["se"] == pytest.approx(np.std(means, ddof=1) / np.sqrt(3))
        assert row["n_repeats"] == 6
        splits = []
        for division in (1, 2, 3):
            for fold in (1, 2, 3, 4):
                runs = [
                    point_metrics(mine["positive"].to_numpy(), mine["probability"].to_numpy())[name]
                    for repeat in (2 * division - 1, 2 * division)
                    for mine in [
                        predictions[
                            (predictions["repeat"] == repeat) & (predictions["fold"] == fold)
                        ]
                    ]
                ]
                splits.append(np.mean(runs))
        value, low, high = np.clip(over_splits(np.array(splits), 10 / 30), 0, 1)
        assert row[["splits_mean", "splits_low", "splits_high"]].tolist() == pytest.approx(
            [value, low, high], nan_ok=True
        )


def test_runs_on_one_division_are_not_divisions():
    found = spread(retrained(divisions=1, runs=5, folds=1)).set_index("metric").loc["accuracy"]
    assert found["se"] == pytest.approx(found["sd"] / np.sqrt(5))
    assert np.isnan(found["splits_low"])
    once = spread(retrained(divisions=1, runs=1, folds=1)).set_index("metric").loc["accuracy"]
    assert once["n_repeats"] == 1
    assert np.isnan(once[["sd", "se", "splits_low"]].to_numpy(float)).all()


def test_the_corrected_interval_by_its_formula():
    values = np.array([0.7, 0.8, 0.75, 0.9])
    value, low, high = over_splits(values, 0.25, 0.95)
    s2 = sum((v - values.mean()) ** 2 for v in values) / 3
    reach = 3.182446305284263 * np.sqrt((1 / 4 + 0.25) * s2)  # t of 3 degrees of freedom
    assert (value, low, high) == pytest.approx((values.mean(), value - reach, value + reach))


def test_dependent_splits_are_covered_where_the_naive_interval_is_not():
    """Repeated hold-out of a classifier whose truth is known, as Nadeau & Bengio simulated."""
    rng = np.random.default_rng(0)
    truth, corrected, naive = 0.8, 0, 0
    for _ in range(300):
        right = rng.random(100) < truth  # people a fixed rule gets right
        splits = np.array([right[rng.permutation(100)[:20]].mean() for _ in range(15)])
        for ratio in (0.25, 0.0):
            _, low, high = over_splits(splits, ratio)
            if ratio:
                corrected += low <= truth <= high
            else:
                naive += low <= truth <= high
    assert corrected / 300 > 0.9
    assert naive / 300 < 0.85
