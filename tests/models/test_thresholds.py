"""The operating threshold against an exhaustive search."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from models.training.thresholds import best_threshold


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 25), ties=st.booleans())
def test_no_threshold_is_better(seed, n, ties):
    rng = np.random.default_rng(seed)
    labels = np.append(rng.random(n) < 0.4, [True, False])
    chance = rng.random(n + 2)
    chance = np.round(chance, 1) if ties else chance
    chosen = best_threshold(labels, chance)
    assert 0 < chosen < 1
    reached = balanced_accuracy_score(labels, chance >= chosen)
    above = chance >= np.linspace(0.0005, 0.9995, 1000)[:, None]
    every = (above[:, labels].mean(axis=1) + 1 - above[:, ~labels].mean(axis=1)) / 2
    assert reached >= every.max() - 1e-12


def test_one_half_is_kept_where_it_is_as_good():
    assert best_threshold(np.array([True, False]), np.array([0.7, 0.2])) == 0.5
    assert best_threshold(np.array([True, False]), np.array([0.5, 0.4])) == 0.5
    np.testing.assert_allclose(best_threshold(np.array([True, False]), np.array([0.4, 0.2])), 0.3)
    np.testing.assert_allclose(best_threshold(np.array([True, False]), np.array([0.9, 0.7])), 0.8)
