"""Bootstrap over people and repeats."""

import numpy as np
import pytest

from models.bootstrap import (
    draw,
    interval,
    means,
    observed,
    over_repeats,
    ratio,
    sd_over_repeats,
)
from models.errors import InputError


def test_strata_keep_their_size():
    strata = np.array([1, 0, 0, 1, 1, 2])
    sample = draw(6, 4, 50, seed=1, strata=strata)
    for label, size in ((0, 2), (1, 3), (2, 1)):
        assert (sample.people[:, strata == label].sum(1) == size).all()
    assert (sample.repeats.sum(1) == 4).all()
    assert len(np.unique(sample.people, axis=0)) > 10
    np.testing.assert_array_equal(draw(6, 4, 50, 1, strata).people, sample.people)
    assert (draw(6, 4, 50, 2, strata).people != sample.people).any()


def test_means_agree_with_people_taken_one_by_one():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 7, 2))
    values[1, 4, 0] = np.nan
    members = rng.random((3, 7)) < 0.7
    sample = draw(7, 3, 20, seed=3)
    found = over_repeats(means(values, members, sample), sample)
    for i in range(20):
        repeats = []
        for r in np.repeat(np.arange(3), sample.repeats[i].astype(int)):
            people = [p for p in range(7) for _ in range(int(sample.people[i, p])) if members[r, p]]
            repeats.append(np.nanmean(values[r, people], axis=0))
        np.testing.assert_allclose(found[i], np.nanmean(repeats, axis=0))


def test_nobody_gives_nan_and_is_left_out_of_the_mean_over_repeats():
    values = np.array([[[1.0], [3.0]], [[5.0], [7.0]]])
    members = np.array([[True, True], [False, False]])
    one = observed(2, 2)
    per_repeat = list(means(values, members, one))
    np.testing.assert_array_equal(per_repeat, [[[2.0]], [[np.nan]]])
    assert over_repeats(iter(per_repeat), one) == [[2.0]]
    spread = sd_over_repeats(np.array([[1.0, 1, 1], [3, np.nan, np.nan], [5, 2, np.nan]]))
    np.testing.assert_allclose(spread, [2, np.sqrt(0.5), np.nan])


def test_repeats_without_a_value_are_left_out_of_every_draw():
    sample = draw(2, 4, 30, seed=2)
    values = np.array([1.0, np.nan, 4.0, 6.0])
    found = over_repeats((np.full((30, 1), one) for one in values), sample)
    expected = [np.nanmean(np.repeat(values, row.astype(int))) for row in sample.repeats]
    np.testing.assert_allclose(found[:, 0], expected)


def test_interval_takes_values_that_were_drawn():
    samples = np.arange(1.0, 101)[:, None] * [1, 10, np.nan]
    low, high = interval(samples, 0.9)
    np.testing.assert_array_equal(low, [5, 50, np.nan])
    np.testing.assert_array_equal(high, [95, 950, np.nan])
    with pytest.raises(InputError, match="between 0 and 1"):
        interval(samples, 95)
    with pytest.raises(InputError, match="at least one"):
        draw(3, 1, 0)


def test_ratio_by_zero_is_unknown():
    np.testing.assert_array_equal(ratio(np.ones((2, 1)), np.array([2, 0])), [[0.5, np.nan]] * 2)


@pytest.mark.parametrize(("repeats", "low", "high"), [(1, 0.90, 0.98), (10, 0.90, 0.995)])
def test_intervals_cover_the_truth(repeats, low, high):
    # Crossed effects of people and repeats, and noise; the truth is 0.
    rng = np.random.default_rng(11)
    people, sets = 40, 300
    covered = 0
    for seed in range(sets):
        values = rng.normal(size=(1, people, 1)) + 0.5 * rng.normal(size=(repeats, people, 1))
        if repeats > 1:
            values = values + 0.15 * rng.normal(size=(repeats, 1, 1))
        sample = draw(people, repeats, 400, seed)
        drawn = over_repeats(means(values, np.ones((repeats, people), bool), sample), sample)
        bounds = interval(drawn)
        covered += bounds[0][0] <= 0 <= bounds[1][0]
    assert low <= covered / sets <= high
