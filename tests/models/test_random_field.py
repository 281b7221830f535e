"""Random-field theory against slow replicas, the kinematic formula and simulated noise."""

from functools import cache
from itertools import product
from math import log, pi

import numpy as np
import pytest
from scipy import integrate, ndimage, stats

from models.errors import InputError
from models.statistics.random_field import (
    Field,
    cluster_p,
    peak_p,
    resels,
    smoothness,
    threshold,
)


def smooth_noise(count, shape, fwhm, rng):
    """White noise (count, *shape) through a Gaussian kernel of a width in voxels, variance 1."""
    pads = [int(np.ceil(width * 1.3)) for width in fwhm]
    noise = rng.standard_normal((count, *(n + 2 * pad for n, pad in zip(shape, pads, strict=True))))
    noise = noise.astype(np.float32)
    for axis, (n, width, pad) in enumerate(zip(shape, fwhm, pads, strict=True), start=1):
        distance = np.arange(n)[:, None] + pad - np.arange(n + 2 * pad)
        kernel = np.exp(-4 * log(2) * (distance / width) ** 2)
        kernel /= np.linalg.norm(kernel, axis=1, keepdims=True)
        product_ = np.tensordot(noise, kernel.astype(np.float32), axes=([axis], [1]))
        noise = np.moveaxis(product_, -1, axis)
    return noise


def blob(shape, rng):
    """Irregular mask with a hole and a gap."""
    mask = ndimage.gaussian_filter(rng.random(shape), 1.0) > 0.47
    mask[1:4, 1:4, 1:4] = True
    return mask


# ---- Smoothness ------------------------------------------------------------------------------


def slow_smoothness(data, mask, design):
    """Voxel by voxel, from the published description."""
    rest = data - design @ np.linalg.lstsq(design, data, rcond=None)[0]
    unit = rest / np.linalg.norm(rest, axis=0)
    volume = np.full((*mask.shape, len(data)), np.nan)
    volume[mask] = unit.T
    local, axes = [], []
    for x, y, z in np.argwhere(mask):
        gradient = []
        for step in np.eye(3, dtype=int):
            there = tuple(np.add((x, y, z), step))
            inside = all(i < n for i, n in zip(there, mask.shape, strict=True)) and mask[there]
            gradient.append(volume[there] - volume[x, y, z] if inside else volume[0, 0, 0] * np.nan)
        products = np.array(gradient) @ np.array(gradient).T
        with np.errstate(invalid="ignore"):
            local.append(np.sqrt(np.linalg.det(products)) / (4 * log(2)) ** 1.5)
        axes.append(np.sqrt(np.diag(products) / (4 * log(2))))
    local, axes = np.array(local), np.array(axes)
    known = np.isfinite(local)
    mean = axes[known].mean(0)
    scale = (local[known].mean() / mean.prod()) ** (1 / 3)
    return local, 1 / (mean * scale)


@pytest.fixture
def cohort():
    rng = np.random.default_rng(1)
    mask = blob((9, 8, 7), rng)
    design = np.column_stack([np.ones(11), rng.normal(size=11), np.arange(11) > 5]).astype(float)
    data = smooth_noise(11, mask.shape, (3, 2, 2.5), rng)[:, mask] + 50
    return data.astype(np.float64), mask, design


@pytest.mark.parametrize("block_values", [1, 300, 10**7])
def test_smoothness_agrees_with_a_loop_whatever_the_blocks(cohort, block_values):
    data, mask, design = cohort
    local, fwhm = slow_smoothness(data, mask, design)
    found = smoothness(data, mask, (1, 2, 3), design, block_values)
    assert np.isnan(local).any()
    assert np.isfinite(local).sum() > 50
    np.testing.assert_allclose(found.resels_per_voxel, local, rtol=1e-8)
    np.testing.assert_allclose(found.fwhm_mm, fwhm * [1, 2, 3], rtol=1e-10)
    np.testing.assert_allclose(found.resels, resels(mask, fwhm), rtol=1e-10)
    assert found.voxels == mask.sum()


def test_residuals_and_data_with_their_design_are_alike(cohort, tmp_path):
    data, mask, design = cohort
    rest = data - design @ np.linalg.lstsq(design, data, rcond=None)[0]
    expected = smoothness(rest * np.linspace(1, 100, rest.shape[1]), mask, (1, 1, 1))
    mapped = np.memmap(tmp_path / "data", np.float32, "w+", shape=data.shape)
    mapped[:] = data
    redundant = np.column_stack([design, design[:, 0] - design[:, 1]])
    found = smoothness(mapped, mask, (1, 1, 1), redundant)
    np.testing.assert_allclose(found.fwhm_mm, expected.fwhm_mm, rtol=1e-4)


def test_voxels_that_cannot_be_used_are_left_out_of_the_search(cohort):
    data, mask, design = cohort
    data[:, 5], data[2, 40], data[:, 60] = 7.0, np.nan, design[:, 1]
    data[0, 61] = np.inf
    usable = np.ones(data.shape[1], bool)
    usable[[5, 40, 60, 61]] = False
    smaller = mask.copy()
    smaller[mask] = usable
    found = smoothness(data, mask, (1, 1, 1), design)
    expected = smoothness(data[:, usable], smaller, (1, 1, 1), design)
    np.testing.assert_array_equal(found.valid, usable)
    np.testing.assert_allclose(found.fwhm_mm, expected.fwhm_mm, rtol=1e-10)
    np.testing.assert_allclose(found.resels, expected.resels, rtol=1e-10)


def test_width_of_known_noise_is_found():
    data = smooth_noise(40, (40, 36, 44), (4, 5, 6), np.random.default_rng(3)).reshape(40, -1)
    found = smoothness(data, np.ones((40, 36, 44)), (2, 1, 3), np.ones((40, 1)))
    np.testing.assert_allclose(found.fwhm_mm, [8, 5, 18], rtol=0.04)


def test_what_has_no_smoothness_is_an_error(cohort):
    data, mask, design = cohort
    with pytest.raises(InputError, match="residual degrees of freedom"):
        smoothness(data[:5], mask, (1, 1, 1), design[:5])
    with pytest.raises(InputError, match="two voxels thick"):
        smoothness(data[:, :20], np.ones((4, 5, 1), bool), (1, 1, 1))
    same = np.repeat(data[:, :1], 27, axis=1)
    with pytest.raises(InputError, match="do not vary"):
        smoothness(same, np.ones((3, 3, 3), bool), (1, 1, 1))
    with pytest.raises(ValueError, match="do not fit"):
        smoothness(data[:, 1:], mask, (1, 1, 1))


# ---- Resels ----------------------------------------------------------------------------------


def test_resels_of_a_box():
    mask = np.zeros((9, 9, 9), bool)
    mask[1:6, 2:8, 3:7] = True
    a, b, c = 4 / 2, 5 / 3, 3 / 4
    np.testing.assert_allclose(
        resels(mask, (2, 3, 4)), [1, a + b + c, a * b + a * c + b * c, a * b * c]
    )


def test_resels_agree_with_counted_edges_faces_and_cubes():
    mask = blob((7, 6, 8), np.random.default_rng(4))
    width = (1.5, 2.0, 3.0)
    count = {}
    for axes in product((0, 1), repeat=3):
        corners = [range(n + 1) for n in axes]
        count[axes] = sum(
            all(
                mask[tuple(np.add(voxel, step))] if np.all(np.add(voxel, step) < mask.shape) else 0
                for step in product(*corners)
            )
            for voxel in np.ndindex(mask.shape)
        )
    x, y, z = 1 / np.array(width)
    e = [count[1, 0, 0], count[0, 1, 0], count[0, 0, 1]]
    xy, xz, yz, cubes = count[1, 1, 0], count[1, 0, 1], count[0, 1, 1], count[1, 1, 1]
    expected = [
        count[0, 0, 0] - sum(e) + xy + xz + yz - cubes,
        (e[0] - xy - xz + cubes) * x + (e[1] - xy - yz + cubes) * y + (e[2] - xz - yz + cubes) * z,
        (xy - cubes) * x * y + (xz - cubes) * x * z + (yz - cubes) * y * z,
        cubes * x * y * z,
    ]
    np.testing.assert_allclose(resels(mask, width), expected)


def test_a_ring_has_no_euler_characteristic_and_a_shell_two():
    ring = np.ones((3, 3, 1), bool)
    ring[1, 1] = False
    assert resels(ring, (1, 1, 1))[0] == 0
    shell = np.ones((3, 3, 3), bool)
    shell[1, 1, 1] = False
    assert resels(shell, (1, 1, 1))[0] == 2


# ---- EC densities ----------------------------------------------------------------------------


def kinematic(slope, k, v):
    """Densities (4,) of the cone |x| >= slope |y|, x of k and y of v Gaussian coordinates.

    By the Gaussian kinematic formula (Adler & Taylor 2007, 15.9.5): the derivatives, by the width
    of a tube around the cone, of the probability of the tube; here by quadrature over |y|.
    """
    tilt = np.sqrt(1 + slope**2)

    def derivative(x, order):
        pdf, rate = stats.chi.pdf(x, k), (k - 1) / x - x
        return pdf * [1, -rate, rate**2 - (k - 1) / x**2 - 1][order]

    def integral(order):
        def integrand(y):
            return stats.chi.pdf(y, v) * derivative(slope * y, order)

        return integrate.quad(integrand, 0, 30, epsabs=1e-14, epsrel=1e-11, limit=200)[0]

    rows = [stats.f.sf(slope**2 * v / k, k, v)]
    rows += [(4 * log(2) / (2 * pi)) ** (d / 2) * tilt**d * integral(d - 1) for d in (1, 2, 3)]
    return np.array(rows)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("v", [8, 30])
def test_densities_of_f_follow_the_kinematic_formula(k, v):
    for f in (0.8, 3.0, 9.0):
        found = Field("f", v, k).densities(f)
        np.testing.assert_allclose(found, kinematic(np.sqrt(k * f / v), k, v), rtol=1e-6)


@pytest.mark.parametrize("v", [6, 11, 40])
def test_densities_of_t_follow_the_kinematic_formula(v):
    for t in (0.5, 2.0, 4.5):
        expected = kinematic(t / np.sqrt(v), 1, v)
        np.testing.assert_allclose(2 * Field("t", v).densities(t), expected, rtol=1e-6)
        np.testing.assert_allclose(Field("t", v, two_sided=True).densities(-t), expected, rtol=1e-6)
        np.testing.assert_allclose(Field("f", v, 1).densities(t**2), expected, rtol=1e-6)


def test_t_with_many_people_is_z():
    u = np.linspace(0, 5, 11)
    np.testing.assert_allclose(
        Field("t", 1e7).densities(u), Field("z").densities(u), rtol=1e-4, atol=1e-7
    )


def test_published_expectation_of_100_resels():
    # Brett, Penny & Kiebel (Human Brain Function, 2nd ed., ch. 14): z = 3.8 gives 0.049.
    assert 100 * Field("z").densities(3.8)[2] == pytest.approx(0.049, abs=5e-4)


# ---- p values --------------------------------------------------------------------------------

RESELS = np.array([1.0, 18, 90, 130])


@pytest.mark.parametrize(
    "field", [Field("t", 12), Field("t", 40, two_sided=True), Field("f", 20, 3), Field("z")]
)
@pytest.mark.parametrize("voxels", [None, 5000])
def test_threshold_has_the_p_asked_for(field, voxels):
    for alpha in (0.05, 0.001):
        height = threshold(alpha, field, RESELS, voxels)
        assert peak_p(height, field, RESELS, voxels) == pytest.approx(alpha, rel=1e-6)


def test_p_falls_with_height_and_keeps_nan():
    field = Field("t", 15)
    p = peak_p(np.linspace(-8, 12, 400), field, RESELS)
    assert (np.diff(p) <= 0).all()
    assert p[0] > 0.99
    assert np.isnan(peak_p(np.array([np.nan, 3.0]), field, RESELS)).tolist() == [True, False]
    high = peak_p(np.array([6.0]), field, RESELS)
    assert high == pytest.approx(1 - np.exp(-RESELS @ field.densities(6.0)), rel=1e-10)


def test_bonferroni_is_taken_where_it_is_smaller():
    field, rough = Field("t", 15), RESELS * 50
    p = peak_p(np.array([6.0]), field, rough, voxels=1000)
    assert p == pytest.approx(1000 * stats.t.sf(6.0, 15))
    assert p < peak_p(np.array([6.0]), field, rough)


def test_both_signs_count_in_a_two_sided_field():
    field = Field("t", 15, two_sided=True)
    p = peak_p(np.array([-5.0, 5.0]), field, RESELS)
    assert p[0] == p[1]
    one = peak_p(5.0, Field("t", 15), RESELS)
    assert 1 - p[0] == pytest.approx((1 - one) ** 2)


def test_fields_that_do_not_exist_are_errors():
    with pytest.raises(InputError, match="at least 4"):
        Field("t", 3)
    with pytest.raises(InputError, match="at least 4"):
        Field("f", numerator=2)
    with pytest.raises(ValueError, match="one side"):
        Field("f", 20, two_sided=True)
    with pytest.raises(ValueError, match="expected one of"):
        Field("x", 20)
    with pytest.raises(InputError, match="between 0 and"):
        threshold(0.5, Field("z"), RESELS)
    with pytest.raises(InputError, match="too low"):
        cluster_p(np.array([1.0]), 0.5, Field("z"), RESELS)


def test_extent_of_clusters_by_hand():
    # Friston et al. 1994, equations 10 to 14, for z: expected clusters, mean size, and the tail.
    u, size = 3.2, np.array([0.0, 0.5, 2.0])
    field = Field("z")
    rho = (4 * log(2)) ** 1.5 / (2 * pi) ** 2 * (u**2 - 1) * np.exp(-(u**2) / 2)
    beta = (3 * np.sqrt(pi) / 4 / (stats.norm.sf(u) / rho)) ** (2 / 3)
    corrected, uncorrected = cluster_p(size, u, field, RESELS)
    np.testing.assert_allclose(uncorrected, np.exp(-beta * size ** (2 / 3)))
    expected = 1 - np.exp(-(RESELS @ field.densities(u)) * uncorrected)
    np.testing.assert_allclose(corrected, expected)
    assert corrected[0] == pytest.approx(peak_p(u, field, RESELS))


@cache
def null_rates(sets=120, people=24, shape=(22, 22, 22), fwhm=5):
    """How often noise alone is called significant at 5 %: by peak, two-sided peak, extent."""
    rng, mask = np.random.default_rng(7), np.ones(shape, bool)
    one, both = Field("t", people - 1), Field("t", people - 1, two_sided=True)
    height = float(one.height(0.001))
    hits = np.zeros(3, int)
    for _ in range(sets):
        data = smooth_noise(people, shape, (fwhm,) * 3, rng).reshape(people, -1)
        found = smoothness(data, mask, (1, 1, 1), np.ones((people, 1)))
        t = data.mean(0) / data.std(0, ddof=1) * np.sqrt(people)
        parts, _ = ndimage.label((t > height).reshape(shape), np.ones((3, 3, 3)))
        extent = np.bincount(parts.ravel(), minlength=2)[1:].max() / found.fwhm_mm.prod()
        hits[0] += peak_p(t.max(), one, found.resels) <= 0.05
        hits[1] += peak_p(np.abs(t).max(), both, found.resels) <= 0.05
        hits[2] += extent > 0 and cluster_p(extent, height, one, found.resels)[0] <= 0.05
    return hits, sets


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_noise_is_rarely_significant(kind):
    hits, sets = null_rates()
    low, high = stats.binom.interval(0.99, sets, 0.05)
    assert max(low, 1) <= hits[kind] <= high
