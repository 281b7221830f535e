"""Variants over the same splits: the signed-rank test and what may be paired."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from models.errors import InputError
from models.training.comparison import compare, least_p, signed_rank


def slow_signed_rank(differences):
    """Exact two-sided p by all 2^n signs of the ranks."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    seen = ranks[differences > 0].sum()
    centre = ranks.sum() / 2
    every = [ranks[np.array(signs)].sum() for signs in product([False, True], repeat=len(ranks))]
    return np.mean([abs(one - centre) >= abs(seen - centre) for one in every])


@pytest.mark.parametrize("seed", range(5))
def test_signed_rank_is_the_share_of_all_signs(seed):
    differences = np.random.default_rng(seed).normal(0.3, 1, 9)
    assert signed_rank(differences) == pytest.approx(slow_signed_rank(differences))


def test_equal_variants_have_no_p_and_zeros_say_nothing():
    assert np.isnan(signed_rank(np.zeros(6)))
    some = np.array([0.1, 0.2, 0.4, -0.3])
    assert signed_rank(np.concatenate([some, [0.0, np.nan]])) == signed_rank(some)
    assert signed_rank(np.arange(1, 6)) == pytest.approx(least_p(5))


def scores(values):
    """``values[variant][division][run]`` of one metric."""
    return pd.DataFrame(
        [
            (variant, d + 1, 10 * d + r, "accuracy", value)
            for variant, divisions in values.items()
            for d, runs in enumerate(divisions)
            for r, value in enumerate(runs)
        ],
        columns=["variant", "division", "repeat", "metric", "value"],
    )


def test_trainings_and_divisions_are_tested_apart():
    a = np.array([[0.8, 0.9], [0.7, 0.75], [0.6, 0.65]])
    b = a - np.array([[0.1, 0.2], [0.03, 0.04], [0.01, 0.06]])
    (row,) = compare(scores({"linear": a, "none": b}), ["linear", "none"]).to_dict("records")
    assert (row["trainings"], row["divisions"]) == (6, 3)
    assert row["difference"] == pytest.approx((a - b).mean())
    assert row["difference_sd"] == pytest.approx((a - b).std(ddof=1))
    assert row["p_trainings"] == pytest.approx(slow_signed_rank((a - b).ravel()))
    assert row["p_divisions"] == pytest.approx(least_p(3))


def test_every_pair_once_in_the_order_given():
    a = np.array([[0.8, 0.9]])
    table = compare(scores({"c": a, "a": a + 0.1, "b": a - 0.1}), ["c", "a", "b"])
    assert table[["first", "second"]].to_numpy().tolist() == [["c", "a"], ["c", "b"], ["a", "b"]]
    assert (table["difference"] < 0).tolist() == [True, False, False]


def test_other_divisions_cannot_be_paired():
    a = np.array([[0.8, 0.9]])
    with pytest.raises(InputError, match="same divisions"):
        compare(scores({"x": a, "y": a[:, :1]}), ["x", "y"])
    with pytest.raises(InputError, match="same divisions"):
        compare(scores({"x": a}), ["x", "y"])
