import numpy as np
import pytest
import statsmodels.api as sm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.mass_univariate import permuted_ols

from models.errors import InputError
from models.statistics.glm import Design, fit, partition, two_group_design


def cohort(seed=0, people=24, voxels=40, covariates=2):
    rng = np.random.default_rng(seed)
    group = np.arange(people) % 2 == 0
    extra = rng.normal(size=(people, covariates)) * [1, 12][:covariates] + [0, 70][:covariates]
    data = rng.normal(size=(people, voxels)) + 0.05 * extra.sum(1, keepdims=True) + 3
    data[group, :5] += 1
    return group, extra, data


def test_t_agrees_with_nilearn():
    group, extra, data = cohort()
    ours = fit(torch.from_numpy(data), two_group_design(group, extra, ("a", "b")))
    # No intercept among the confounds: with one, permuted_ols silently flips signs instead.
    oracle = permuted_ols(
        group.astype(float)[:, None], data, extra, n_perm=0, output_type="dict", verbose=0
    )
    np.testing.assert_allclose(ours.t, oracle["t"][0], rtol=1e-5)


@pytest.mark.parametrize("contrast", [[0, 1, 0, 0], [0, 0, 1, -0.5], [0.5, 1, 0, 0]])
def test_any_contrast_agrees_with_statsmodels(contrast):
    group, extra, data = cohort()
    matrix = np.column_stack([np.ones(len(group)), group, extra])
    design = Design(matrix, ("one", "group", "a", "b"), np.array(contrast, float))
    ours = fit(data, design)
    for voxel in (0, 7):
        test = sm.OLS(data[:, voxel], matrix).fit().t_test(contrast)
        np.testing.assert_allclose(ours.t[voxel], test.tvalue.item(), rtol=1e-9)
        np.testing.assert_allclose(ours.beta[voxel], test.effect.item(), rtol=1e-9)
    assert ours.dof == 20


def test_partition_keeps_the_model():
    group, extra, _ = cohort()
    matrix = np.column_stack([np.ones(len(group)), group, extra])
    contrast = np.array([0, 1.0, -2.0, 0.5])
    regressor, nuisance = partition(Design(matrix, ("i", "g", "a", "b"), contrast))
    together = np.column_stack([regressor, nuisance])
    assert np.linalg.matrix_rank(np.hstack([together, matrix])) == 4
    beta = np.linalg.solve(matrix.T @ matrix, matrix.T @ regressor)
    assert contrast @ beta == pytest.approx(1)


def test_two_groups_without_covariates_is_students_t():
    group, _, data = cohort()
    ours = fit(data, two_group_design(group))
    np.testing.assert_allclose(ours.beta, data[group].mean(0) - data[~group].mean(0), rtol=1e-10)


@settings(max_examples=25, deadline=None)
@given(
    scale=st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3),
    shift=st.floats(-1e4, 1e4),
    gain=st.floats(1e-4, 1e4),
)
def test_units_of_covariates_and_data_do_not_matter(scale, shift, gain):
    group, extra, data = cohort(people=12, voxels=4)
    reference = fit(data, two_group_design(group, extra, ("a", "b")))
    other = fit(data * gain, two_group_design(group, extra * scale + shift, ("a", "b")))
    np.testing.assert_allclose(other.t, reference.t, rtol=1e-6)
    np.testing.assert_allclose(other.beta, reference.beta * gain, rtol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_swapping_the_groups_swaps_the_sign(seed):
    group, extra, data = cohort(seed, people=10, voxels=3)
    one = fit(data, two_group_design(group, extra, ("a", "b")))
    other = fit(data, two_group_design(~group, extra, ("a", "b")))
    np.testing.assert_allclose(one.t, -other.t, rtol=1e-9)


def test_voxels_that_say_nothing_are_flagged():
    group, extra, data = cohort()
    data = data.astype(np.float32)
    data[:, 0] = 0.1
    data[3, 1] = np.nan
    data[4, 2] = np.inf
    data[:, 3] = extra[:, 0]
    data[:, 4] = 0
    result = fit(torch.from_numpy(data), two_group_design(group, extra, ("a", "b")))
    assert result.valid.tolist() == [False] * 5 + [True] * 35
    assert not result.t[:5].any()
    assert not result.beta[:5].any()
    clean = fit(torch.from_numpy(data[:, 5:]), two_group_design(group, extra, ("a", "b")))
    np.testing.assert_allclose(result.t[5:], clean.t, rtol=1e-12)


def test_a_voxel_that_is_the_group_has_a_finite_t():
    group, _, _ = cohort()
    result = fit(group[:, None].astype(float), two_group_design(group))
    assert result.t[0] == pytest.approx(1e6 * np.sqrt(22), rel=1e-3)
    assert result.valid[0]


def test_blocks_and_large_offsets_change_nothing():
    group, extra, data = cohort()
    design = two_group_design(group, extra, ("a", "b"))
    shifted = fit(data + 1e4, design, block_voxels=7)
    np.testing.assert_allclose(shifted.t, fit(data, design).t, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g, x: (g, np.c_[x[:, 0], np.full(len(g), 7.0)]), "'age' is the same"),
        (lambda g, x: (g, np.c_[x[:, 0], 3 * x[:, 0] + 1]), "'age' follows"),
        (lambda g, x: (g, np.c_[x[:, 0], g * 2.0]), "'age' follows"),
        (lambda g, x: (g, np.c_[x[:, 0], np.where(g, np.nan, 1)]), "'age' is missing .* 12 people"),
        (lambda g, x: (np.arange(len(g)) == 0, x), "positive group has 1"),
        (lambda g, x: (np.ones(len(g), bool), x), "negative group has 0"),
        (lambda g, x: (np.arange(4) < 2, x[:4]), "4 people are too few"),
    ],
)
def test_unusable_designs_are_named(change, message):
    group, extra, _ = cohort()
    with pytest.raises(InputError, match=message):
        two_group_design(*change(group, extra), ("sex", "age"))


def test_dependent_columns_of_a_hand_made_design_are_refused():
    matrix = np.column_stack([np.ones(8), np.arange(8) < 4, np.arange(8) >= 4]).astype(float)
    with pytest.raises(InputError, match="depend on each other"):
        Design(matrix, ("one", "a", "b"), np.array([0, 1.0, -1.0]))


def test_rows_must_be_the_people_of_the_design():
    group, _, data = cohort()
    with pytest.raises(ValueError, match="24 people"):
        fit(data[:-1], two_group_design(group))
