from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InputError
from models.statistics.glm import Design, fit, two_group_design
from models.statistics.permutation import (
    max_statistic,
    n_distinct_orders,
    random_orders,
)


def cohort(seed=0, people=32, voxels=60, covariates=2, effect=1.5):
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.arange(people) % 2 == 0)
    extra = rng.normal(size=(people, covariates)) + 0.5 * group[:, None]
    data = rng.normal(size=(people, voxels)) + 0.5 * extra.sum(1, keepdims=True)
    data[group, :4] += effect
    names = tuple("abc"[:covariates])
    return data.astype(np.float32), two_group_design(group, extra, names)


def literal_max_t(data, design, order):
    """Freedman and Lane, word for word, in float64: ``order`` reorders the residuals."""
    data = data.astype(np.float64)
    tested = design.contrast != 0
    reduced = design.matrix[:, ~tested]
    fitted = reduced @ np.linalg.lstsq(reduced, data, rcond=None)[0]
    permuted = fitted + (data - fitted)[order]
    beta = np.linalg.lstsq(design.matrix, permuted, rcond=None)[0]
    rest = permuted - design.matrix @ beta
    variance = (rest**2).sum(0) / design.dof
    scale = design.contrast @ np.linalg.inv(design.matrix.T @ design.matrix) @ design.contrast
    return np.abs(design.contrast @ beta / np.sqrt(variance * scale)).max()


@pytest.mark.parametrize("people", [10, 32])
@pytest.mark.parametrize("covariates", [0, 1, 3])
def test_random_orders_agree_with_literal_freedman_lane(people, covariates):
    # 10 people are computed in float64, 32 in float32.
    data, design = cohort(people=people, covariates=covariates)
    result = max_statistic(data, design, n_permutations=40, seed=3)
    orders = random_orders(np.zeros(len(data), int), 40, 3)
    # Moving the design's rows by an order is moving the residuals by its inverse.
    literal = [literal_max_t(data, design, np.argsort(order)) for order in orders]
    np.testing.assert_allclose(result.max_distribution[1:], literal, rtol=1e-5)
    assert result.max_distribution[0] == pytest.approx(np.abs(fit(data, design).t).max())
    assert result.n_permutations == 41
    assert not result.exact


def test_almost_no_degrees_of_freedom():
    data, design = cohort(people=7, covariates=3, voxels=300)
    result = max_statistic(data, design, 200)
    orders = random_orders(np.zeros(7, int), 200, 0)
    literal = [literal_max_t(data, design, np.argsort(order)) for order in orders]
    np.testing.assert_allclose(result.max_distribution[1:], literal, rtol=1e-5)


@pytest.mark.parametrize("covariates", [0, 1])
def test_small_cohorts_are_enumerated(covariates):
    data, design = cohort(people=6, covariates=covariates, voxels=15)
    result = max_statistic(data, design, n_permutations=1000)
    if covariates:
        orders = list(permutations(range(6)))
    else:
        seen = {tuple(design.matrix[list(o), 1]): o for o in permutations(range(6))}
        orders = list(seen.values())
    literal = [literal_max_t(data, design, np.argsort(order)) for order in orders]
    assert result.exact
    assert result.n_permutations == len(orders) == (720 if covariates else 20)
    np.testing.assert_allclose(np.sort(result.max_distribution), np.sort(literal), rtol=1e-7)
    expected = [(np.array(literal) >= abs(t) * (1 - 1e-5)).mean() for t in result.t]
    np.testing.assert_allclose(result.p_fwe, expected)


def test_orders_stay_within_blocks():
    blocks = np.array([2, 0, 1, 0, 2, 1, 1, 0])
    orders = np.stack(list(random_orders(blocks, 200, 0)))
    assert (blocks[orders] == blocks).all()
    assert (np.sort(orders) == np.arange(8)).all()
    assert len({tuple(order) for order in orders}) > 20


def test_within_blocks_agrees_with_literal():
    data, design = cohort()
    folds = np.array(list("abcd") * 8)
    result = max_statistic(data, design, 30, seed=1, exchange_within=folds)
    orders = random_orders(np.unique(folds, return_inverse=True)[1], 30, 1)
    literal = [literal_max_t(data, design, np.argsort(order)) for order in orders]
    np.testing.assert_allclose(result.max_distribution[1:], literal, rtol=1e-5)


def test_a_covariate_constant_within_blocks_agrees_with_literal():
    data, _ = cohort()
    rng = np.random.default_rng(1)
    site = np.repeat([0.0, 1.0], 16)
    group = np.tile([True, False], 16)
    covariates = np.column_stack([rng.normal(size=32), site])
    design = two_group_design(group, covariates, ("age", "site"))
    result = max_statistic(data, design, 30, exchange_within=site)
    orders = random_orders(site.astype(int), 30, 0)
    literal = [literal_max_t(data, design, np.argsort(order)) for order in orders]
    np.testing.assert_allclose(result.max_distribution[1:], literal, rtol=1e-5)


def test_exact_within_blocks():
    data, _ = cohort(people=8, covariates=0)
    group = np.array([1, 1, 0, 0, 1, 0, 0, 0], bool)
    folds = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    result = max_statistic(data, two_group_design(group), 1000, exchange_within=folds)
    assert result.exact
    assert result.n_permutations == 6 * 4


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=7))
def test_distinct_orders_are_counted(people):
    rows, blocks = np.array(people).T
    brute = {
        tuple(rows[list(order)])
        for order in permutations(range(len(rows)))
        if (blocks[list(order)] == blocks).all()
    }
    assert n_distinct_orders(rows, blocks) == len(brute)


@pytest.mark.parametrize("block_voxels", [1, 7, 64])
def test_block_size_does_not_matter(block_voxels):
    data, design = cohort()
    reference = max_statistic(data, design, 50)
    other = max_statistic(data, design, 50, block_voxels=block_voxels)
    np.testing.assert_allclose(other.max_distribution, reference.max_distribution, rtol=1e-5)


def test_many_orders_are_split_without_a_trace(monkeypatch):
    data, design = cohort()
    reference = max_statistic(data, design, 300)
    monkeypatch.setattr("models.statistics.permutation.DESIGN_BYTES", 1)
    other = max_statistic(data, design, 300)
    np.testing.assert_allclose(other.max_distribution, reference.max_distribution, rtol=1e-5)


def test_plain_torch_product_agrees(monkeypatch):
    data, design = cohort()
    reference = max_statistic(data, design, 50)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    other = max_statistic(data, design, 50)
    np.testing.assert_allclose(other.max_distribution, reference.max_distribution, rtol=1e-5)


def test_memory_maps_and_tensors_are_the_same_data(tmp_path):
    data, design = cohort()
    np.save(tmp_path / "maps.npy", data)
    mapped = np.load(tmp_path / "maps.npy", mmap_mode="r")
    for other in (mapped, torch.from_numpy(data)):
        np.testing.assert_array_equal(
            max_statistic(other, design, 20).p_fwe, max_statistic(data, design, 20).p_fwe
        )


def test_the_seed_decides():
    data, design = cohort()
    one, same, other = (max_statistic(data, design, 50, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.max_distribution, same.max_distribution)
    assert not np.array_equal(one.max_distribution, other.max_distribution)


def test_threshold_and_p_values_agree():
    data, design = cohort(people=30, effect=2.5)
    result = max_statistic(data, design, 199)
    for alpha in (0.005, 0.01, 0.05, 0.2, 1.0):
        beyond = np.abs(result.t) > result.threshold_at(alpha)
        np.testing.assert_array_equal(beyond, result.p_fwe <= alpha)
    assert result.threshold_at(0.004) == np.inf
    assert result.p_fwe.min() == 1 / 200
    assert (result.p_fwe[:4] < 0.05).sum() >= 3


def test_both_signs_are_tested():
    data, design = cohort(people=30, effect=3)
    one, other = max_statistic(data, design, 99), max_statistic(-data, design, 99)
    np.testing.assert_allclose(one.t, -other.t, rtol=1e-9)
    np.testing.assert_array_equal(one.p_fwe, other.p_fwe)


def test_unusable_voxels_never_count():
    data, design = cohort()
    reference = max_statistic(data, design, 50)
    spoilt = np.concatenate([data, np.full((32, 2), 3.3, np.float32)], axis=1)
    spoilt[0, -1] = np.nan
    result = max_statistic(spoilt, design, 50)
    np.testing.assert_allclose(result.max_distribution, reference.max_distribution, rtol=1e-6)
    assert result.valid[:-2].all()
    assert not result.valid[-2:].any()
    assert (result.p_fwe[-2:] == 1).all()
    assert (result.t[-2:] == 0).all()


def test_a_large_mean_does_not_spoil_float32():
    data, design = cohort()
    shifted = data + np.float32(1000)
    result = max_statistic(shifted, design, 30, seed=3)
    orders = random_orders(np.zeros(32, int), 30, 3)
    literal = [literal_max_t(shifted, design, np.argsort(order)) for order in orders]
    np.testing.assert_allclose(result.max_distribution[1:], literal, rtol=1e-5)


def test_any_contrast_is_permuted():
    data, _ = cohort(covariates=0)
    rng = np.random.default_rng(0)
    matrix = np.column_stack([np.ones(32), rng.normal(size=(32, 2))])
    slopes = Design(matrix, ("one", "a", "b"), np.array([0, 1.0, -1.0]))
    total, difference = matrix[:, 1] + matrix[:, 2], (matrix[:, 1] - matrix[:, 2]) / 2
    same = Design(
        np.column_stack([np.ones(32), difference, total]),
        ("one", "difference", "sum"),
        np.array([0, 1.0, 0]),
    )
    np.testing.assert_allclose(
        max_statistic(data, slopes, 30).max_distribution,
        max_statistic(data, same, 30).max_distribution,
        rtol=1e-5,
    )


def test_family_wise_error_is_held():
    # Null effects, a covariate that differs between groups and moves the data, skewed noise.
    rng = np.random.default_rng(7)
    group = np.arange(16) % 2 == 0
    found = 0
    for seed in range(300):
        age = rng.normal(size=(16, 1)) + group[:, None]
        data = rng.exponential(size=(16, 30)) + 2 * age
        result = max_statistic(data, two_group_design(group, age, ("age",)), 39, seed)
        found += result.p_fwe.min() <= 0.1
    # Binomial(300, 0.1): 30 expected, 99.9 % within 14 and 48.
    assert 14 <= found <= 48


def test_progress_reaches_the_end():
    data, design = cohort()
    seen = []
    max_statistic(
        data, design, 20, block_voxels=16, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exchange_within": np.arange(32)}, "nobody can change places"),
        ({"n_permutations": 0}, "at least one"),
    ],
)
def test_tests_that_cannot_be_are_refused(options, message):
    data, design = cohort()
    with pytest.raises(InputError, match=message):
        max_statistic(data, design, **options)


def test_maps_without_any_variance_are_refused():
    _, design = cohort()
    with pytest.raises(InputError, match="no voxel varies"):
        max_statistic(np.ones((32, 5), np.float32), design, 10)
