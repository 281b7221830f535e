"""Tensor fits, damaged slices, motion: against signals whose tensor is known."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation
from scipy.stats import kstest

from models.diffusion import (
    FITS,
    Motion,
    _foretold,
    damaged_slices,
    fit_tensor,
    outlying_volumes,
    residual_percent,
    rotations,
    signal_to_noise,
)
from models.diffusion_phantom import directions, table_of
from models.errors import InputError

TABLE = table_of(20, 1000.0, b0s=2)
SHAPE = (12, 11, 10)


@pytest.fixture(scope="module")
def case():
    """Noise-free signal of known tensors, (x, y, z, n), the tensors and the mask."""
    rng = np.random.default_rng(0)
    turns = Rotation.random(int(np.prod(SHAPE)), random_state=1).as_matrix()
    values = rng.uniform(0.3e-3, 1.7e-3, (len(turns), 3))
    tensors = np.einsum("nij,nj,nkj->nik", turns, values, turns)
    rows, columns = np.triu_indices(3)
    packed = tensors[:, rows, columns].reshape(*SHAPE, 6)
    signal = 500 * np.exp(packed @ TABLE.design()[:, :6].T)
    mask = np.zeros(SHAPE, bool)
    mask[1:-1, 1:-1, 1:-1] = True
    return signal, packed, mask


@pytest.mark.parametrize("method", FITS)
def test_a_fit_finds_the_tensor_in_world_axes(case, method):
    signal, tensors, mask = case
    few = mask & (np.arange(SHAPE[0])[:, None, None] < 4)
    found = fit_tensor(signal, TABLE, few, method=method, noise_sd=5.0)
    assert_allclose(found[few], tensors[few], atol=2e-6)
    assert (found[~few] == 0).all()
    assert residual_percent(signal, TABLE, few, found) < 0.1


def test_weighted_least_squares_is_the_textbook_formula(case):
    """(X' W X)^-1 X' W y with the squared signals that ordinary least squares foretells."""
    signal, _, mask = case
    rng = np.random.default_rng(2)
    noisy = np.hypot(signal + rng.normal(0, 15, signal.shape), rng.normal(0, 15, signal.shape))
    one = np.zeros_like(mask)
    one[5, 5, 5] = True
    found = fit_tensor(noisy, TABLE, one)[5, 5, 5]
    design, log = TABLE.design(), np.log(noisy[5, 5, 5])
    weights = np.exp(design @ np.linalg.lstsq(design, log)[0]) ** 2
    root = np.sqrt(weights)[:, None]
    expected = np.linalg.lstsq(design * root, log * root[:, 0])[0]
    assert_allclose(found, expected[:6], rtol=1e-3, atol=1e-7)


def test_an_unknown_fit_names_the_known_ones(case):
    signal, _, mask = case
    with pytest.raises(InputError, match="WLS, OLS, NLLS, RESTORE"):
        fit_tensor(signal, TABLE, mask, method="wls")


# --- damaged slices ------------------------------------------------------------------------------


def test_what_a_fit_foretells_is_the_textbook_interval():
    """Scores of new values of the same model follow Student's t, by simulation."""
    rng = np.random.default_rng(4)
    design = TABLE.design() / np.linalg.norm(TABLE.design(), axis=0)
    scores = []
    for _ in range(2000):
        values = design @ np.ones(7) + rng.normal(0, 0.05, len(design))
        one = int(rng.integers(2, len(design)))
        others = np.arange(len(design)) != one
        difference, error = _foretold(design[others], values[others], design, values)
        fitted = np.linalg.lstsq(design[others], values[others])[0]
        assert difference[one] == pytest.approx(values[one] - design[one] @ fitted, abs=1e-9)
        scores.append(difference[one] / error[one])
    assert kstest(scores, "t", (others.sum() - 7,)).pvalue > 0.01


def test_dark_slices_are_found_and_nothing_else(case):
    signal, _, mask = case
    rng = np.random.default_rng(3)
    noisy = np.hypot(signal + rng.normal(0, 10, signal.shape), rng.normal(0, 10, signal.shape))
    assert not damaged_slices(noisy, TABLE, mask).any()
    noisy[:, :, 3:6, 7] *= 0.5
    noisy[:, :, 4, 15] *= 0.6
    damaged = damaged_slices(noisy, TABLE, mask)
    assert {tuple(one) for one in np.argwhere(damaged)} == {(3, 7), (4, 7), (5, 7), (4, 15)}
    assert np.flatnonzero(outlying_volumes(damaged, mask)).tolist() == [7, 15]
    turned = damaged_slices(np.swapaxes(noisy, 0, 2), TABLE, np.swapaxes(mask, 0, 2), axis=0)
    assert (turned == damaged).all()


def test_chance_finds_few_slices_and_a_drop_of_few_percent_none():
    """Slices of noise alone, as many as 200 series have, and one volume that is 5 % darker."""
    rng = np.random.default_rng(8)
    table = table_of(12, 1000.0)
    data = 300 * np.exp(rng.normal(0, 0.4, (8, 8, 400, 1)) + rng.normal(0, 0.05, (1, 1, 400, 13)))
    found = damaged_slices(data, table, np.ones(data.shape[:3], bool))
    assert found.any(1).mean() < 0.01
    still = np.full((8, 8, 4, 13), 100.0)
    still[..., 6] *= 0.95
    assert not damaged_slices(still, table, np.ones((8, 8, 4), bool)).any()
    still[..., 6] *= 0.9
    assert damaged_slices(still, table, np.ones((8, 8, 4), bool))[:, 6].all()


def test_too_few_volumes_judge_nobody():
    table = table_of(7, 1000.0)
    data = np.full((8, 8, 4, 8), 100.0)
    data[..., 3] = 10
    assert not damaged_slices(data, table, np.ones((8, 8, 4), bool)).any()


def test_one_damaged_slice_of_many_keeps_a_volume():
    mask = np.ones((8, 8, 20), bool)
    damaged = np.zeros((20, 5), bool)
    damaged[3, 1] = True
    damaged[4:7, 2] = True
    assert outlying_volumes(damaged, mask).tolist() == [False, False, True, False, False]
    assert not outlying_volumes(damaged, np.zeros_like(mask)).any()


# --- motion and noise ----------------------------------------------------------------------------


def test_motion_of_the_brain_s_middle():
    """A turn about the middle of the brain moves it nowhere; framewise displacement counts both."""
    centre = np.array([40.0, 50, 30])
    turn = Rotation.from_rotvec([0, 0, 2], degrees=True).as_matrix()
    rigid = np.tile(np.eye(4), (3, 1, 1))
    rigid[1, :3, :3] = turn
    rigid[1, :3, 3] = centre - turn @ centre
    rigid[2, :3, 3] = (1, -2, 0.5)
    motion = Motion.of(rigid, centre)
    assert_allclose(motion.shifts_mm, [[0, 0, 0], [0, 0, 0], [1, -2, 0.5]], atol=1e-12)
    assert_allclose(motion.turns_degrees[1], [0, 0, 2], atol=1e-9)
    turned = 50 * np.deg2rad(2)
    assert_allclose(motion.displacement_mm, [0, turned, turned + 3.5])


def test_eddy_currents_are_told_from_motion():
    """What follows the gradients goes, a head that drifts stays."""
    drift = np.linspace(0, 2, len(TABLE.b_values))
    shifts, turns = np.zeros((2, len(drift), 3))
    shifts[:, 0] = shifts[:, 1] = turns[:, 1] = turns[:, 2] = drift
    pulled = TABLE.directions @ [1.5, -2.0, 0.7]
    seen = Motion(shifts + np.outer(pulled, [0, 1, 0]), turns + np.outer(0.5 * pulled, [0, 0, 1]))
    left = seen.without_eddies(TABLE, axis=1)
    assert np.abs(left.shifts_mm - shifts).max() < 0.7
    assert np.abs(left.turns_degrees - turns).max() < 0.7
    assert (left.shifts_mm[:, [0, 2]] == shifts[:, [0, 2]]).all()
    assert (left.turns_degrees[:, 1] == turns[:, 1]).all()  # about the phase encoding: no shear
    still = Motion(np.outer(pulled, [0, 1, 0]), np.outer(pulled, [1, 0, 0]))
    assert_allclose(still.without_eddies(TABLE, 1).displacement_mm, 0, atol=1e-9)
    assert still.without_eddies(TABLE, -1) is still
    few = table_of(8, 1000.0)
    short = Motion(shifts[:9], turns[:9])
    assert short.without_eddies(few, 1) is short


def test_the_rotation_within_an_affine():
    turn = Rotation.from_rotvec([10, 20, -30], degrees=True).as_matrix()
    affine = np.eye(4)[None].copy()
    affine[0, :3, :3] = turn @ np.diag([1.1, 0.9, 1.0])
    found = rotations(affine)[0]
    assert_allclose(found @ found.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(found) == pytest.approx(1)
    assert_allclose(rotations(np.eye(4)[None]), np.eye(3)[None], atol=1e-12)


def test_signal_over_noise():
    data = np.full((4, 4, 4, len(TABLE.b_values)), 50.0)
    data[..., TABLE.is_b0] = 200
    assert signal_to_noise(data, TABLE, np.ones((4, 4, 4), bool), 10.0) == (20, 5)


def test_directions_are_spread():
    found = directions(30)
    assert_allclose(np.linalg.norm(found, axis=1), 1)
    angles = np.rad2deg(np.arccos(np.abs(found @ found.T) - np.eye(30)))
    assert np.where(np.eye(30), 90, angles).min() > 15
