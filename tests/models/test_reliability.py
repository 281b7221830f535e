"""Calibration against slow replicas and against what perfect and distorted probabilities give."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from models.training.calibration import expected_calibration_error, recalibration, reliability


def cohort(n, slope=1.0, shift=0.0, seed=0):
    """Labels whose log-odds are those of the probabilities, times slope, plus shift."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 1.5, n)
    labels = rng.random(n) < 1 / (1 + np.exp(-(slope * logit + shift)))
    return labels, 1 / (1 + np.exp(-logit))


def test_bins_hold_everybody_and_have_exact_intervals():
    labels, chance = cohort(87)
    curve = reliability(labels, chance)
    assert len(curve) == 8
    assert curve["n"].sum() == 87
    assert curve["n"].max() - curve["n"].min() <= 1
    order = np.argsort(chance)
    start = 0
    for row in curve.itertuples():
        inside = order[start : start + row.n]
        start += row.n
        assert row.predicted == pytest.approx(chance[inside].mean())
        assert row.observed == labels[inside].mean()
        exact = binomtest(int(labels[inside].sum()), row.n).proportion_ci(0.95, "exact")
        assert (row.ci_low, row.ci_high) == pytest.approx((exact.low, exact.high))
    slow = sum(row.n * abs(row.predicted - row.observed) for row in curve.itertuples()) / 87
    assert expected_calibration_error(curve) == pytest.approx(slow)


def test_equal_probabilities_are_one_bin():
    curve = reliability(np.arange(40) < 10, np.full(40, 0.3))
    assert curve["n"].tolist() == [40]
    assert curve["observed"].tolist() == [0.25]
    few = reliability(np.array([True, False, True]), np.array([0.1, 0.5, 0.9]))
    assert few["n"].tolist() == [3]
    assert reliability(np.zeros(0, bool), np.zeros(0)).empty
    assert np.isnan(expected_calibration_error(reliability(np.zeros(0, bool), np.zeros(0))))


@pytest.mark.parametrize(("slope", "shift"), [(1, 0), (0.5, 0), (2, 1), (1, -1), (-0.5, 0.3)])
def test_the_fits_are_the_most_likely(slope, shift):
    labels, chance = cohort(400, slope, shift, seed=3)
    logit = np.log(chance / (1 - chance))
    found = recalibration(labels, chance)
    free = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit[:, None], labels)
    assert found["calibration_slope"][0] == pytest.approx(free.coef_[0, 0], abs=1e-4)
    large = minimize(
        lambda a: np.logaddexp(0, logit + a[0]).sum() - (labels * (logit + a[0])).sum(), [0.0]
    )
    assert found["calibration_in_the_large"][0] == pytest.approx(large.x[0], abs=1e-4)
    for value, low, high in found.values():
        assert low < value < high


def test_intervals_cover_the_truth_as_often_as_promised():
    covered = {"calibration_in_the_large": 0, "calibration_slope": 0}
    for seed in range(300):
        found = recalibration(*cohort(120, 1, 0, seed))
        for name, truth in (("calibration_in_the_large", 0), ("calibration_slope", 1)):
            covered[name] += found[name][1] <= truth <= found[name][2]
    for times in covered.values():
        assert 0.91 < times / 300 < 0.985


def test_separated_classes_have_no_slope_and_one_class_nothing():
    labels = np.repeat([True, False], 10)
    found = recalibration(labels, np.where(labels, 0.8, 0.3))
    assert np.isnan(found["calibration_slope"]).all()
    assert np.isfinite(found["calibration_in_the_large"]).all()
    for value in recalibration(np.ones(5, bool), np.full(5, 0.5)).values():
        assert np.isnan(value).all()


def test_probabilities_of_exactly_nought_and_one_are_survived():
    found = recalibration(np.array([True, False, True, False]), np.array([1.0, 0.0, 0.0, 1.0]))
    assert np.isfinite([value for value, _, _ in found.values()]).all()
