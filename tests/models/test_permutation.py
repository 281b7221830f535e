from itertools import combinations, permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.maskers import NiftiMasker
from nilearn.mass_univariate import permuted_ols
from scipy import ndimage, stats

from models.errors import InputError
from models.statistics.components import Lattice, clusters
from models.statistics.exchange import (
    SIGN_FLIPS,
    Exchange,
    Moves,
    n_distinct_orders,
    random_orders,
)
from models.statistics.glm import Design, fit, two_group_design
from models.statistics.permutation import Spatial, max_statistic, permutation_test
from models.statistics.tail import _fitted, fit_tail
from models.statistics.tfce import tfce


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


def test_many_orders_are_split_without_a_trace():
    data, design = cohort()
    reference = max_statistic(data, design, 300)
    other = permutation_test(data, design, 300, memory_mb=0.01)
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


# ---- Other statistics and other rearrangements, against float64 replicas ---------------------


def literal_statistic(data, design, order, signs=None, variance=None):
    """Freedman and Lane with t, F, v or G, from the formulas, in float64, voxel by voxel.

    Person i of the design gets row ``order[i]`` times ``signs[i]``; moving the residuals is the
    inverse of that.
    """
    data, X = data.astype(np.float64), design.matrix
    C = np.atleast_2d(design.contrast)
    people = np.arange(len(X))
    P = np.zeros((len(X), len(X)))
    P[people, order] = 1 if signs is None else signs
    # Null space of the contrast: the reduced model.
    reduced = X @ np.linalg.svd(C)[2][len(C) :].T
    fitted = reduced @ np.linalg.lstsq(reduced, data, rcond=None)[0]
    y = fitted + P.T @ (data - fitted)
    beta = np.linalg.lstsq(X, y, rcond=None)[0]
    rest = y - X @ beta
    R = np.eye(len(X)) - X @ np.linalg.pinv(X)
    groups = np.zeros(len(X), int) if variance is None else variance
    found = []
    for voxel in range(data.shape[1]):
        w = np.zeros(len(X))
        for g in np.unique(groups):
            inside = groups == g
            w[inside] = R.diagonal()[inside].sum() / (rest[inside, voxel] ** 2).sum()
        effect = C @ beta[:, voxel]
        inner = np.linalg.inv(C @ np.linalg.inv(X.T @ (w[:, None] * X)) @ C.T)
        s = len(C)
        uneven = sum(
            (1 - w[groups == g].sum() / w.sum()) ** 2 / R.diagonal()[groups == g].sum()
            for g in np.unique(groups)
        )
        correction = 1 + 2 * (s - 1) / (s * (s + 2)) * uneven if variance is not None else 1
        g = effect @ inner @ effect / (correction * s)
        found.append(g if design.is_f else np.copysign(np.sqrt(g), effect[0]))
    return np.array(found)


def f_design(people=32, seed=0):
    rng = np.random.default_rng(seed)
    age = rng.normal(size=people)
    levels = np.arange(people) % 4
    matrix = np.column_stack([np.ones(people), levels == 1, levels == 2, levels == 3, age])
    names = ("one", "b", "c", "d", "age")
    contrast = np.array([[0, 1.0, 0, 0, 0], [0, 0, 1, -1, 0]])
    return Design(matrix.astype(float), names, contrast)


def moves_of(exchange, design, count, seed):
    """All moves of a test, [(order, signs), ...]."""
    orders, signs = zip(*Moves(exchange, design.matrix, count, seed).chunks(7), strict=True)
    signs = [None] * sum(map(len, orders)) if signs[0] is None else np.concatenate(signs)
    return list(zip(np.concatenate(orders), signs, strict=True))


TWINS = np.repeat(np.arange(8), 4)
SITES = np.tile([0, 1], 16)
EXCHANGES = {
    "free": Exchange(),
    "within": Exchange(within=SITES),
    "whole": Exchange(whole=TWINS),
    "whole within": Exchange(whole=TWINS, within=np.repeat([0, 1], 16)),
    "flips": SIGN_FLIPS,
    "flips of blocks": Exchange(whole=TWINS, permute=False, flip=True),
    "flips of unequal blocks": Exchange(whole=np.r_[0, TWINS[1:] + 1], permute=False, flip=True),
    "both": Exchange(flip=True),
    "variance": Exchange(variance=SITES),
    "variance across": Exchange(variance=SITES, across_variance=True),
    "variance, flips": Exchange(variance=SITES, permute=False, flip=True),
    "variance, blocks": Exchange(variance=np.tile([0, 1, 1, 1], 8), whole=TWINS, flip=True),
}
DESIGNS = {
    "t": lambda: cohort()[1],
    "F": f_design,
    "mean": lambda: Design(np.ones((32, 1)), ("mean",), np.ones(1)),
    "mean, age": lambda: Design(
        np.c_[np.ones(32), np.random.default_rng(3).normal(size=32)], ("mean", "age"), np.eye(2)[0]
    ),
}


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
@pytest.mark.parametrize("made", DESIGNS)
@pytest.mark.parametrize("allowed", EXCHANGES)
def test_every_exchange_agrees_with_literal(allowed, made, alternative):
    exchange, design = EXCHANGES[allowed], DESIGNS[made]()
    data = cohort(voxels=20)[0]
    if made == "mean" and not exchange.flip and not exchange.across_variance:
        with pytest.raises(InputError, match="nobody can change places"):
            permutation_test(data, design, 10, exchange=exchange)
        return
    result = permutation_test(data, design, 12, 5, exchange, alternative=alternative)
    literal = [
        literal_statistic(data, design, order, signs, exchange.variance)
        for order, signs in moves_of(exchange, design, 12, 5)
    ]
    observed = literal_statistic(data, design, np.arange(32), None, exchange.variance)
    np.testing.assert_allclose(result.t, observed, rtol=1e-8)
    two_sided = alternative == "two-sided"
    maxima = [np.max(np.abs(t) if two_sided else t) for t in (observed, *literal)]
    np.testing.assert_allclose(result.max_distribution, maxima, rtol=2e-5)
    assert result.name == ("vG" if exchange.variance is not None else "tF")[design.is_f]


def test_moves_keep_what_must_stay():
    design = cohort()[1]
    for order, signs in moves_of(EXCHANGES["variance, blocks"], design, 50, 0):
        assert (np.sort(order) == np.arange(32)).all()
        assert (TWINS[order].reshape(8, 4) == TWINS[order][::4, None]).all()
        assert (order % 4 == np.arange(32) % 4).all()
        assert (signs.reshape(8, 4) == signs[::4, None]).all()
    within = [order for order, _ in moves_of(EXCHANGES["whole within"], design, 50, 0)]
    assert all(((order < 16) == (np.arange(32) < 16)).all() for order in within)
    assert len({tuple(order) for order in within}) > 40


def test_few_signs_are_enumerated():
    data = cohort(people=7)[0] + 0.3
    design = Design(np.ones((7, 1)), ("mean",), np.ones(1))
    result = permutation_test(data, design, 200, exchange=SIGN_FLIPS)
    assert result.exact
    assert result.n_permutations == 2**7
    signs = np.array(list(product((1, -1), repeat=7)))
    literal = [np.abs(literal_statistic(data, design, np.arange(7), sign)).max() for sign in signs]
    np.testing.assert_allclose(np.sort(result.max_distribution), np.sort(literal), rtol=1e-6)


def test_few_whole_blocks_are_enumerated():
    data = cohort(people=12)[0]
    group = np.repeat([True, True, False, False, False, False], 2)
    design = two_group_design(group, np.tile([0.0, 1.0], 6)[:, None], ("visit",))
    whole = np.repeat(np.arange(6), 2)
    result = permutation_test(data, design, 500, exchange=Exchange(whole=whole))
    assert result.exact
    assert result.n_permutations == 15  # 6 choose 2
    literal = []
    for chosen in combinations(range(6), 2):
        blocks = [*chosen, *(b for b in range(6) if b not in chosen)]
        order = np.argsort(np.concatenate([[2 * b, 2 * b + 1] for b in blocks]))
        literal.append(np.abs(literal_statistic(data, design, order)).max())
    np.testing.assert_allclose(np.sort(result.max_distribution), np.sort(literal), rtol=1e-6)


def test_v_of_two_groups_is_welchs_t():
    data, _ = cohort(covariates=0)
    group = np.arange(32) < 11
    design = two_group_design(group)
    exchange = Exchange(variance=group, permute=False, flip=True)
    result = permutation_test(data, design, 5, exchange=exchange)
    welch = stats.ttest_ind(data[group].astype(float), data[~group].astype(float), equal_var=False)
    np.testing.assert_allclose(result.t, welch.statistic, rtol=1e-9)


def test_f_of_one_row_is_t_squared():
    data, design = cohort()
    square = Design(design.matrix, design.names, design.contrast[None])
    t, f = max_statistic(data, design, 50), max_statistic(data, square, 50)
    np.testing.assert_allclose(f.max_distribution, t.max_distribution**2, rtol=1e-5)
    np.testing.assert_array_equal(f.p_fwe, t.p_fwe)
    assert (f.name, t.name) == ("F", "t")


# ---- Clusters and TFCE from the same rearrangements ------------------------------------------


def volume_cohort(seed=0, shape=(8, 9, 10), people=24, effect=1.2):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) > 0.15
    noise = ndimage.gaussian_filter(rng.normal(size=(people, *shape)), (0, 1, 1, 1))
    noise /= noise.std()
    group = np.arange(people) % 2 == 0
    noise[group, 2:5, 3:6, 3:7] += effect
    age = rng.normal(70, 8, size=people)
    return noise[:, mask].astype(np.float32), mask, group, age


def nilearn_orders(people, count, seed):
    """The orders that permuted_ols goes through with one job: each shuffles the one before."""
    rng = np.random.RandomState(np.random.RandomState(seed).randint(1, 2**31 - 2))
    order = np.arange(people)
    for _ in range(count):
        order = order[rng.permutation(people)]
        yield order


def test_nilearn_agrees_on_the_same_permutations(monkeypatch):
    data, mask, group, age = volume_cohort()
    masker = NiftiMasker(nib.Nifti1Image(mask.astype(np.uint8), np.eye(4)), standardize=None).fit()
    oracle = permuted_ols(
        group.astype(float)[:, None],
        data.astype(float),
        age[:, None],
        n_perm=60,
        random_state=4,
        masker=masker,
        tfce=True,
        threshold=0.01,
        output_type="dict",
        verbose=0,
    )
    orders = list(nilearn_orders(len(data), 60, 4))
    monkeypatch.setattr("models.statistics.exchange.random_orders", lambda *_: iter(orders))
    design = two_group_design(group, age[:, None], ("age",))
    spatial = Spatial(mask, cluster_p=0.01, tfce=True, connectivity=6)
    ours = permutation_test(data, design, 60, spatial=spatial)
    np.testing.assert_allclose(ours.t, oracle["t"][0], rtol=1e-5)
    for name, found in {"t": ours.voxel, **ours.spatial}.items():
        if name != "tfce":
            theirs = oracle["h0_max_" + name.replace("extent", "size")][0]
            np.testing.assert_allclose(found.max_distribution[1:], theirs, rtol=1e-4)
    alone = max_statistic(data, design, 60)
    np.testing.assert_allclose(alone.max_distribution[1:], oracle["h0_max_t"][0], rtol=1e-5)
    # Nilearn's TFCE is a sum over 100 steps without their width, which differs from map to map:
    # undone, it is near ours, not equal.
    permuted = ours.spatial["tfce"].max_distribution[1:]
    stepped = oracle["h0_max_tfce"][0] * ours.max_distribution[1:] / 100
    np.testing.assert_allclose(stepped, permuted, rtol=0.1)


def test_maps_of_all_rearrangements_agree_with_literal():
    data, mask, group, age = volume_cohort()
    design = two_group_design(group, age[:, None], ("age",))
    spatial = Spatial(mask, cluster_t=2.0, tfce=True)
    result = permutation_test(data, design, 15, 1, spatial=spatial, memory_mb=0.05)
    lattice = Lattice(mask)
    literal = [
        literal_statistic(data, design, order) for order, _ in moves_of(Exchange(), design, 15, 1)
    ]
    literal.insert(0, literal_statistic(data, design, np.arange(24)))
    for name, maxima in (
        ("extent", [clusters(t, 2.0, lattice)[0].max() for t in literal]),
        ("mass", [clusters(t, 2.0, lattice)[1].max() for t in literal]),
        ("tfce", [np.abs(tfce(t, lattice)).max() for t in literal]),
    ):
        np.testing.assert_allclose(result.spatial[name].max_distribution, maxima, rtol=1e-4)
    np.testing.assert_allclose(result.max_distribution, [np.abs(t).max() for t in literal], 1e-5)
    np.testing.assert_allclose(result.spatial["tfce"].observed, tfce(literal[0], lattice), 1e-6)


@pytest.mark.parametrize("exchange", [Exchange(), Exchange(variance=np.tile([0, 0, 1, 1], 6))])
def test_voxels_are_the_same_with_and_without_maps(exchange):
    data, mask, group, age = volume_cohort()
    design = two_group_design(group, age[:, None], ("age",))
    for alternative in ("two-sided", "greater"):
        options = {"exchange": exchange, "alternative": alternative}
        alone = permutation_test(data, design, 40, **options)
        spatial = Spatial(mask, tfce=True)
        beside = permutation_test(data, design, 40, spatial=spatial, **options)
        np.testing.assert_allclose(beside.max_distribution, alone.max_distribution, rtol=1e-5)
        np.testing.assert_array_equal(beside.t, alone.t)


def test_clusters_of_an_f_test():
    data, mask, group, age = volume_cohort()
    one = two_group_design(group, age[:, None], ("age",))
    design = Design(one.matrix, one.names, np.eye(3)[1:])
    result = permutation_test(data, design, 30, spatial=Spatial(mask, cluster_p=0.01, tfce=True))
    assert result.cluster_threshold == pytest.approx(stats.f.isf(0.01, 2, 21))
    extent, mass = clusters(result.t, result.cluster_threshold, Lattice(mask), two_sided=False)
    np.testing.assert_array_equal(result.spatial["extent"].observed, extent)
    np.testing.assert_array_equal(result.spatial["mass"].observed, mass)


def test_a_planted_effect_is_found_by_all():
    data, mask, group, age = volume_cohort(effect=3.0)
    planted = np.zeros(mask.shape, bool)
    planted[2:5, 3:6, 3:7] = True
    design = two_group_design(group, age[:, None], ("age",))
    spatial = Spatial(mask, cluster_p=0.01, tfce=True)
    result = permutation_test(data, design, 199, spatial=spatial)
    for found in (result.voxel, *result.spatial.values()):
        significant = found.p_fwe <= 0.05
        assert significant[planted[mask]].mean() > 0.8
        near = ndimage.binary_dilation(planted, iterations=3)
        assert not significant[~near[mask]].any()
    # Extent and mass are those of one cluster: the corrected p is the same in all of it.
    labels, count = ndimage.label(_in(mask, result.spatial["extent"].observed) > 0)
    assert count >= 1
    assert len(np.unique(result.spatial["extent"].p_fwe[labels[mask] == 1])) == 1


def _in(mask, values):
    image = np.zeros(mask.shape)
    image[mask] = values
    return image


def test_unusable_voxels_separate_clusters():
    data, mask, group, age = volume_cohort(effect=3.0)
    design = two_group_design(group, age[:, None], ("age",))
    spatial = Spatial(mask, cluster_t=2.5, tfce=True)
    spoilt = data.copy()
    plane = np.broadcast_to(np.arange(mask.shape[0])[:, None, None] == 3, mask.shape)[mask]
    spoilt[:, plane] = np.where(np.arange(24)[:, None] == 5, np.nan, spoilt[:, plane])
    spoilt[:, 0] = 7
    result = permutation_test(spoilt, design, 20, spatial=spatial)
    kept = mask.copy()
    kept[mask] = ~plane & (np.arange(mask.sum()) > 0)
    inside = kept[mask]
    reference = permutation_test(
        data[:, inside], design, 20, spatial=Spatial(kept, cluster_t=2.5, tfce=True)
    )
    for name in ("extent", "mass", "tfce"):
        found, expected = result.spatial[name], reference.spatial[name]
        np.testing.assert_allclose(found.max_distribution, expected.max_distribution, rtol=1e-4)
        np.testing.assert_allclose(found.observed[inside], expected.observed, rtol=1e-6)
        assert not found.observed[~inside].any()
        assert (found.p_fwe[~inside] == 1).all()


class OnlyColumns:
    """Data that lie elsewhere and are handed out by columns."""

    def __init__(self, data):
        self.data, self.shape, self.ndim = data, data.shape, 2
        self.widest = 0

    def __getitem__(self, key):
        rows, columns = key
        assert rows == slice(None)
        self.widest = max(self.widest, columns.stop - columns.start)
        return self.data[:, columns]


def test_data_are_read_by_columns(monkeypatch):
    monkeypatch.setattr("models.statistics.glm.READ_VALUES", 24 * 50)
    monkeypatch.setattr("models.statistics.glm.BLOCK_VALUES", 24 * 20)
    data, mask, group, age = volume_cohort()
    design = two_group_design(group, age[:, None], ("age",))
    streamed = OnlyColumns(data)
    for spatial in (None, Spatial(mask, tfce=True)):
        reference = permutation_test(data, design, 20, spatial=spatial)
        other = permutation_test(streamed, design, 20, spatial=spatial, block_voxels=33)
        np.testing.assert_allclose(other.max_distribution, reference.max_distribution, rtol=1e-5)
        np.testing.assert_allclose(other.t, reference.t, rtol=1e-9)
    assert streamed.widest == 50


def test_progress_of_maps_reaches_the_end():
    data, mask, group, _ = volume_cohort()
    seen = []
    permutation_test(
        data,
        two_group_design(group),
        9,
        spatial=Spatial(mask, tfce=True),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i, 9) for i in range(1, 10)]


# ---- Tails -----------------------------------------------------------------------------------


def test_a_tail_continues_the_distribution():
    # Gumbel: the limit of maxima, with a tail that is nearly exponential.
    rng = np.random.default_rng(0)
    tails = [fit_tail(rng.gumbel(5, 0.4, size=1000)) for _ in range(30)]
    assert np.mean([tail.accepted for tail in tails]) > 0.9
    for p, factor in ((0.01, 1.25), (0.001, 1.7), (1e-4, 3)):
        found = np.median([tail.p(stats.gumbel_r.isf(p, 5, 0.4)) for tail in tails])
        assert p / factor < found < p * factor
        assert all(tail.p(tail.value_at(p)) == pytest.approx(p, rel=1e-6) for tail in tails)
    assert tails[0].p(1e9) == pytest.approx(1e-6, rel=0.01)
    assert all(tail.shape <= 0 for tail in tails)


def test_a_tail_that_does_not_fit_is_not_used():
    rng = np.random.default_rng(0)
    lumps = np.concatenate([rng.normal(0, 0.1, 975), rng.normal(50, 0.1, 25)])
    tail = fit_tail(lumps)
    assert not tail.accepted
    assert tail.p_fit < 0.05
    assert fit_tail(rng.normal(size=40)) is None
    assert fit_tail(np.repeat([1.0, 2, 3], 100)) is None


def test_tails_are_rejected_as_often_as_they_should():
    rng = np.random.default_rng(1)
    fits = [_fitted(0.0, np.sort(rng.pareto(9, size=60)), 240, seed) for seed in range(200)]
    # Binomial(200, 0.05): 10 expected, 99.9 % within 2 and 21.
    assert 2 <= sum(not fit.accepted for fit in fits) <= 21


def test_few_permutations_give_small_p():
    data, design = cohort(effect=2.5, people=40)
    plain = permutation_test(data, design, 300)
    fitted = permutation_test(data, design, 300, tail=True)
    assert fitted.voxel.tail.accepted
    assert plain.voxel.tail is None
    assert fitted.p_fwe.min() < plain.p_fwe.min() == 1 / 301
    np.testing.assert_array_equal(fitted.max_distribution, plain.max_distribution)
    many = permutation_test(data, design, 20000, seed=1)
    small = (many.p_fwe < 0.05) & (many.p_fwe > 1e-3)
    assert small.any()
    ratio = fitted.p_fwe[small] / many.p_fwe[small]
    assert (ratio > 1 / 3).all()
    assert (ratio < 3).all()
    for alpha in (0.001, 0.01, 0.05):
        beyond = np.abs(fitted.t) > fitted.threshold_at(alpha)
        np.testing.assert_array_equal(beyond, fitted.p_fwe <= alpha)


# ---- What cannot be --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exchange", "message"),
    [
        (Exchange(whole=np.r_[0, 0, 0, np.arange(29)]), "equal size; these have 1 to 4 people"),
        (Exchange(whole=TWINS, within=SITES), "must lie within one site"),
        (Exchange(variance=np.r_[0, np.ones(31)], flip=True), "variance group of 1 people"),
        (Exchange(permute=False), "nobody can change places"),
    ],
)
def test_exchanges_that_cannot_be_are_refused(exchange, message):
    data, design = cohort()
    with pytest.raises(InputError, match=message):
        permutation_test(data, design, 10, exchange=exchange)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cluster_t": -1.0}, InputError, "above 0"),
        ({"cluster_p": 5.0}, InputError, "between 0 and 0.5"),
        ({"cluster_p": 0.01, "cluster_t": 3.0}, ValueError, "not by both"),
        ({}, ValueError, "ask for clusters or for TFCE"),
        ({"mask": np.ones((3, 3, 3), bool), "tfce": True}, ValueError, "mask of 27"),
    ],
)
def test_spatial_statistics_that_cannot_be_are_refused(options, error, message):
    data, mask, group, _ = volume_cohort()
    with pytest.raises(error, match=message):
        permutation_test(
            data, two_group_design(group), 10, spatial=Spatial(**{"mask": mask} | options)
        )


def test_an_unknown_alternative_is_refused():
    data, design = cohort()
    with pytest.raises(ValueError, match="two-sided, greater"):
        permutation_test(data, design, 10, alternative="less")
