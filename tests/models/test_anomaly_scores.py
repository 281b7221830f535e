"""Scores, thresholds, matched splits and one-class scores against slow replicas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.anomaly import scores
from models.anomaly.matching import matched_divisions
from models.anomaly.oneclass import one_class_scores
from models.errors import InputError


def test_joint_error_is_the_norm_over_channels():
    rng = np.random.default_rng(0)
    image, found = rng.random((2, 3, 4)), rng.random((2, 3, 4))
    slow = [
        [sum((image[c, i, j] - found[c, i, j]) ** 2 for c in range(2)) ** 0.5 for j in range(4)]
        for i in range(3)
    ]
    np.testing.assert_allclose(scores.joint_error(image, found), slow, rtol=1e-6)


def test_normal_errors_and_what_is_abnormal():
    rng = np.random.default_rng(0)
    errors = rng.random((6, 50)).astype(np.float32)
    errors[:, 7] = np.nan
    normal = scores.normal_errors(errors, 0.9)
    pooled = np.sort(np.delete(errors, 7, 1).ravel())
    assert (pooled > normal.threshold).mean() == pytest.approx(0.1, abs=0.005)
    np.testing.assert_allclose(normal.mean[3], errors[:, 3].mean(), rtol=1e-6)
    np.testing.assert_allclose(normal.sd[3], errors[:, 3].std(ddof=1), rtol=1e-5)
    assert np.isnan([normal.mean[7], normal.sd[7]]).all()
    abnormal = normal.abnormal(errors[0])
    assert not abnormal[7]
    assert np.array_equal(abnormal, np.nan_to_num(errors[0]) > normal.threshold)
    z = normal.z(errors)
    assert np.nanmean(z) == pytest.approx(0, abs=1e-5)
    assert np.isnan(z[:, 7]).all()
    with pytest.raises(ValueError, match="two controls"):
        scores.normal_errors(errors[:1], 0.9)
    alike = scores.normal_errors(np.full((4, 9), 0.5, np.float32), 0.9)  # no spread anywhere
    assert (alike.z(np.full(9, 0.5, np.float32)) == 0).all()
    assert np.isfinite(alike.z(np.full(9, 0.6, np.float32))).all()


def test_z_of_training_controls_are_by_the_others():
    rng = np.random.default_rng(0)
    errors = rng.gamma(2.0, size=(7, 400)).astype(np.float32) * rng.uniform(0.5, 4, 400)
    slow = []
    for one in range(7):
        rest = np.delete(errors, one, 0)
        sd = rest.std(0, ddof=1)
        slow.append((errors[one] - rest.mean(0)) / np.maximum(sd, np.quantile(sd, 0.1)))
    normal = scores.normal_errors(errors, 0.95, "z")
    assert normal.threshold == pytest.approx(np.quantile(slow, 0.95), rel=1e-4)
    assert np.array_equal(normal.abnormal(errors[2]), normal.z(errors[2]) > normal.threshold)
    flagged = scores.training_abnormal(list(errors), normal)
    assert np.array_equal(flagged, np.array(slow) > normal.threshold)
    assert flagged.mean() == pytest.approx(0.05, abs=0.002)
    by_error = scores.normal_errors(errors, 0.95)
    assert np.array_equal(
        scores.training_abnormal(list(errors), by_error), errors > by_error.threshold
    )
    # What the quantile promises holds for people who were not asked.
    scale = rng.uniform(0.5, 4, 20_000)
    known = rng.gamma(2.0, size=(20, 20_000)) * scale
    new = rng.gamma(2.0, size=(40, 20_000)) * scale
    normal = scores.normal_errors(known, 0.95, "z")
    assert normal.abnormal(new).mean() == pytest.approx(0.05, abs=0.01)
    with pytest.raises(ValueError, match="three"):
        scores.normal_errors(errors[:2], 0.9, "z")


def test_percentages_count_scored_voxels_only():
    abnormal = np.array([1, 1, 0, 0, 1, 0], bool)
    scored = np.array([1, 1, 1, 1, 0, 0], bool)
    regions = {
        "whole": np.ones(6, bool),
        "left": np.array([1, 0, 1, 1, 1, 1], bool),
        "nowhere": np.array([0, 0, 0, 0, 1, 1], bool),
    }
    found = scores.abnormal_percent(abnormal, scored, regions)
    assert found["whole"] == 50
    assert found["left"] == pytest.approx(100 / 3)
    assert np.isnan(found["nowhere"])
    found = scores.abnormal_percent(abnormal, scored, regions, least=4)
    assert found["whole"] == 50
    assert np.isnan([found["left"], found["nowhere"]]).all()  # three scored voxels, none


percents = st.lists(st.integers(0, 12), min_size=4, max_size=20)


@given(percents, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_best_division_is_the_best_of_all_thresholds(values, seed):
    percent = np.array(values, float)
    positive = np.random.default_rng(seed).permutation(np.arange(len(values)) % 2 == 0)
    best = scores.best_division(percent, positive)
    slow = 0.0
    for threshold in np.linspace(-0.5, 12.5, 27):
        hits = sum(p >= threshold for p, one in zip(percent, positive, strict=True) if one)
        passes = sum(p < threshold for p, one in zip(percent, positive, strict=True) if not one)
        slow = max(slow, (hits / positive.sum() * passes / (~positive).sum()) ** 0.5)
    assert best.gmean == pytest.approx(slow)
    again = scores.divide(percent, positive, best.threshold)
    assert (again.sensitivity, again.specificity) == (best.sensitivity, best.specificity)


def test_the_held_out_threshold_does_not_flatter():
    """Where nothing differs, the best threshold beats chance, the held-out one does not."""
    rng = np.random.default_rng(0)
    best, fair = [], []
    for seed in range(40):
        percent, positive = rng.random(30), np.arange(30) < 15
        best.append(scores.best_division(percent, positive))
        fair.append(scores.held_out_division(percent, positive, seed, halvings=10))
    youden = [one.sensitivity + one.specificity - 1 for one in fair]
    assert np.mean([one.gmean for one in best]) > 0.57
    assert abs(np.mean(youden)) < 3 * np.std(youden) / 40**0.5 + 0.03
    assert np.mean([one.gmean for one in fair]) < np.mean([one.gmean for one in best]) - 0.05


def test_region_scores_where_the_classes_are_apart_and_where_one_is_missing():
    percent = np.array([1.0, 2, 3, 4, 10, 11, 12, 13, np.nan])
    positive = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1], bool)
    found = scores.region_scores(percent, positive)
    assert list(found) == list(scores.SCORES)
    assert found["gmean"] == found["auc"] == found["gmean_held_out"] == 1
    assert found["threshold"] == 7
    assert np.isnan(list(scores.region_scores(percent[:4], positive[:4]).values())).all()
    assert scores.over_splits([1.0, float("nan"), 3.0]) == (2.0, pytest.approx(2**0.5))


def controls(n):
    rng = np.random.default_rng(0)
    names = [f"c{i:02d}" for i in range(n)]
    return names, {
        "age": rng.normal(61, 9, n),
        "sex": np.array(["F" if i % 2 else "M" for i in range(n)], object),
    }


def test_ten_divisions_of_56_controls_are_as_in_the_paper():
    people, covariates = controls(56)
    divisions, warnings = matched_divisions(people, covariates, seed=1)
    assert not warnings
    assert [len(one) for one in divisions] == [15] * 10
    assert len({tuple(one) for one in divisions}) == 10
    assert {person for one in divisions for person in one} == set(people)  # all get a map
    for division in divisions:
        test = np.isin(people, division)
        for part in (test, ~test):
            assert abs(covariates["age"][part].mean() - covariates["age"].mean()) < 2.5
            assert 0.37 < (covariates["sex"][part] == "F").mean() < 0.63
    assert divisions == matched_divisions(people, covariates, seed=1)[0]
    assert divisions != matched_divisions(people, covariates, seed=2)[0]


def test_the_smaller_part_is_matched_whichever_it_is():
    people, covariates = controls(24)
    age = covariates["age"]
    for share in (0.3, 0.7):
        divisions, _ = matched_divisions(people, {"age": age}, test_share=share, tolerance=0.1)
        for division in divisions:
            test = np.isin(people, division)
            for part in (test, ~test):
                assert abs(age[part].mean() - age.mean()) <= 0.1 * age.std()


def test_controls_that_cannot_be_matched_are_told_of():
    people, covariates = controls(8)
    covariates["age"][0] = 400
    divisions, warnings = matched_divisions(people, covariates, count=2, tolerance=0.05)
    assert len(divisions) == 2
    assert "differ in" in warnings[0]


def test_too_few_controls_say_how_many_are_needed():
    people, covariates = controls(5)
    with pytest.raises(InputError, match="at least 6 are needed"):
        matched_divisions(people, covariates)
    people, covariates = controls(6)
    assert len(matched_divisions(people, covariates, count=3)[0]) == 3
    covariates["age"][:3] = np.nan  # missing values do not count
    assert len(matched_divisions(people, covariates, count=3)[0]) == 3


def test_one_class_scores_are_high_outside_of_the_controls():
    rng = np.random.default_rng(0)
    learnt = rng.normal(size=(30, 3, 4))
    inside, outside = learnt.mean(0)[None], learnt.mean(0)[None] + 8
    found = one_class_scores(learnt, np.concatenate([inside, outside, learnt]))
    assert found.shape == (32, 3)
    assert (found[1] > found[0]).all()
    assert (found[0] < 0).all()
    assert (found[1] > 0).all()
    assert (found[2:] > 1e-6).mean() < 0.12
    alike = np.zeros((5, 1, 4))
    assert np.isfinite(one_class_scores(alike, alike)).all()
