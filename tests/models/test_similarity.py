"""Overlaps, distances and fingerprints against cases made by hand."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cosine

from models import similarity
from models.errors import InputError
from models.similarity import (
    coherence,
    cosine_distances,
    map_distances,
    most_distant_pair,
    over_pairs,
    over_repeats,
    overlap_between,
    overlap_matrix,
    top_regions,
)


def test_overlap_by_hand():
    values = np.array([[9, 8, 7, 1, 0], [7, 9, 8, 0, 1], [9, 0, 1, 8, 7], [0, 1, 9, 8, 7.0]])
    expected = np.array([[3, 3, 1, 1], [3, 3, 1, 1], [1, 1, 3, 2], [1, 1, 2, 3]]) / 3
    np.testing.assert_allclose(overlap_matrix(values, 3), expected)
    np.testing.assert_allclose(overlap_matrix(values * [[1], [10], [0.1], [5]], 3), expected)


def test_overlap_agrees_with_sets():
    values = np.random.default_rng(0).normal(size=(5, 40))
    tops = [set(np.argsort(row)[-10:]) for row in values]
    for i, j in combinations(range(5), 2):
        assert overlap_matrix(values)[i, j] == pytest.approx(len(tops[i] & tops[j]) / 10)


def test_top_leaves_out_nan_and_takes_the_earlier_of_equals():
    top = top_regions(np.array([np.nan, 2, 2, 5, 2]), 2)
    assert top.tolist() == [False, True, False, True, False]
    with pytest.raises(InputError, match="top 5 of 4"):
        top_regions(np.array([[1, 2, 3, 4, 5], [np.nan, 2, 2, 5, 2]]), 5)


def test_coherence_and_overlap_tables():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(6, 2, 30))
    values[:, 0] = values[0, 0]
    table = coherence(values, ["same", "random"])
    assert table.loc[0, ["mean", "sd", "low", "high"]].tolist() == [1, 0, 1, 1]
    tops = [set(np.argsort(row)[-10:]) for row in values[:, 1]]
    shares = [len(a & b) / 10 for a, b in combinations(tops, 2)]
    assert table.loc[1, "mean"] == pytest.approx(np.mean(shares))
    assert table.loc[1, "sd"] == pytest.approx(np.std(shares, ddof=1))
    between = overlap_between(values, ["same", "random"])
    assert between[["first", "second"]].to_numpy().tolist() == [["same", "random"]]
    one = [len(set(np.argsort(values[0, 0])[-10:]) & top) / 10 for top in tops]
    low, high = stats.t.interval(0.95, 5, np.mean(one), stats.sem(one))
    expected = [np.mean(one), np.std(one, ddof=1), low, high]
    assert between.loc[0, ["mean", "sd", "low", "high"]].tolist() == pytest.approx(expected)


def test_interval_over_pairs_is_the_jackknife():
    matrix = np.random.default_rng(1).random((6, 6))
    matrix = matrix + matrix.T
    mean = [matrix[i, j] for i, j in combinations(range(6), 2)]
    left = [
        np.mean([matrix[i, j] for i, j in combinations(range(6), 2) if out not in (i, j)])
        for out in range(6)
    ]
    reach = stats.t.isf(0.025, 5) * np.sqrt(5 / 6 * np.sum((left - np.mean(left)) ** 2))
    found = over_pairs(matrix)
    expected = (np.mean(mean), np.std(mean, ddof=1), np.mean(mean) - reach, np.mean(mean) + reach)
    assert (found.mean, found.sd, found.low, found.high) == pytest.approx(expected)
    two = over_pairs(matrix[:2, :2])
    assert two.mean == matrix[0, 1]
    assert np.isnan([two.sd, two.low, two.high]).all()
    assert np.isnan(over_repeats(np.array([3.0])).low)
    with pytest.raises(InputError, match="repeat the training"):
        over_pairs(np.ones((1, 1)))


def test_interval_over_pairs_covers_the_truth():
    # Mean squared difference of two draws: twice the variance.
    rng = np.random.default_rng(9)
    covered = 0
    for _ in range(400):
        values = rng.normal(size=12)
        found = over_pairs((values[:, None] - values) ** 2)
        covered += found.low <= 2 <= found.high
    assert 0.85 < covered / 400 < 0.98


def test_distances_of_maps(monkeypatch):
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(4, 101)).astype(np.float32)
    maps[3] = maps[1] * 8  # a power of two: the same map to the last bit
    scaled = maps / maps.max(axis=1, keepdims=True).astype(np.float64)
    expected = np.linalg.norm(scaled[:, None] - scaled, axis=2)
    found = map_distances(maps)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[1, 3] == found[3, 1] == 0
    monkeypatch.setattr(similarity, "BLOCK_VALUES", 28)
    np.testing.assert_allclose(map_distances(maps), found, rtol=1e-12)
    assert over_pairs(map_distances(np.repeat(maps[:1], 3, axis=0))).mean == 0


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf, -np.inf])
def test_maps_that_cannot_be_scaled_are_errors(wrong):
    maps = np.ones((3, 5))
    maps[1] = 0
    maps[1, 2] = wrong
    with pytest.raises(InputError, match="map 2 of 3"):
        map_distances(maps)


def test_cosine_distances_agree_with_scipy():
    vectors = np.random.default_rng(0).normal(size=(5, 7))
    vectors[3] = vectors[1] * 4
    found = cosine_distances(vectors)
    for i, j in combinations(range(5), 2):
        assert found[i, j] == pytest.approx(cosine(vectors[i], vectors[j]), abs=1e-12)
    vectors[2], vectors[4, 1] = 0, np.nan
    found = cosine_distances(vectors)
    assert np.isnan(found[[2, 4]]).all()
    assert (np.diag(found)[[0, 1, 3]] == 0).all()


def test_most_distant_pair_by_hand():
    east, north, both = [1.0, 0, np.nan], [0, 2.0, np.nan], [1.0, 1, np.nan]
    west = [-1.0, 0, np.nan]
    none = [np.nan] * 3
    densities = np.array([[east, both, west, north, none], [east, east, west, both, none]])
    scores = np.array([[0.95, 0.99, 0.2, 0.97, 1], [0.95, 0.99, 0.2, 0.92, np.nan]])
    pair = most_distant_pair(densities, scores)
    assert (pair.first, pair.second, pair.share) == (0, 3, 1.0)
    expected = (1 + 1 - np.sqrt(0.5)) / 2
    assert pair.distance.mean == pytest.approx(expected)
    assert pair.distance.sd == pytest.approx(np.std([1, 1 - np.sqrt(0.5)], ddof=1))
    assert most_distant_pair(densities[:1], scores[0], above=0.1).distance.mean == pytest.approx(2)
    scaled = most_distant_pair(densities * 7, scores)
    assert (scaled.first, scaled.second) == (0, 3)


def test_people_without_fingerprints_are_errors():
    densities = np.ones((1, 3, 4))
    with pytest.raises(InputError, match="1 of 3 people score above"):
        most_distant_pair(densities, np.array([0.95, 0.9, 0.1]))
    with pytest.raises(InputError, match="no fingerprint"):
        most_distant_pair(densities * 0, np.ones(3))
