from itertools import pairwise

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.mass_univariate._utils import calculate_cluster_measures, calculate_tfce
from scipy import ndimage

from models.statistics import components
from models.statistics.components import CONNECTIVITY, Lattice, clusters, largest_cluster
from models.statistics.tfce import tfce

SHAPE = (9, 8, 10)


def smooth_map(seed=0, shape=SHAPE, sigma=1.0):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return 2 * noise / noise.std()


def ball(shape=SHAPE):
    grid = np.indices(shape)
    centre = (np.array(shape).reshape(3, 1, 1, 1) - 1) / 2
    return (((grid - centre) / (centre + 0.6)) ** 2).sum(0) < 1


def struct(connectivity):
    return ndimage.generate_binary_structure(3, CONNECTIVITY[connectivity])


def literal_tfce(image, connectivity=18, extent_power=0.5, height_power=2.0):
    """The integral, level by level between the values of the map, where extents are constant."""
    score = np.zeros(image.shape)
    for sign in (1, -1):
        height = np.where(np.isnan(image), 0, np.maximum(sign * image, 0))
        levels = np.unique(np.append(height, 0))
        for low, high in pairwise(levels):
            labels, _ = ndimage.label(height >= high, struct(connectivity))
            power = height_power + 1
            gained = np.bincount(labels.ravel()).astype(float) ** extent_power
            gained *= (high**power - low**power) / power
            gained[0] = 0
            score += sign * gained[labels]
    return score


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("sigma", [0, 1.0])
def test_tfce_is_the_integral(connectivity, sigma):
    image, mask = smooth_map(1, sigma=sigma), ball()
    ours = tfce(image[mask], Lattice(mask, connectivity))
    literal = literal_tfce(np.where(mask, image, 0), connectivity)
    np.testing.assert_allclose(ours, literal[mask], rtol=1e-12)


@pytest.mark.parametrize(("extent", "height"), [(0.5, 2), (1, 2), (0.6, 1.7), (0, 1), (2, 0)])
def test_other_powers(extent, height):
    image, mask = smooth_map(2), np.ones(SHAPE, bool)
    ours = tfce(image.ravel(), Lattice(mask), extent_power=extent, height_power=height)
    literal = literal_tfce(image, extent_power=extent, height_power=height)
    np.testing.assert_allclose(ours, literal.ravel(), rtol=1e-11)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.sampled_from([-3, -2, -1, 0, 1, 2, 3, 4, np.nan]), min_size=60, max_size=60),
    connectivity=st.sampled_from([6, 18, 26]),
    holes=st.sets(st.integers(0, 59), max_size=20),
)
def test_ties_holes_and_missing_values(values, connectivity, holes):
    image = np.array(values, float).reshape(3, 4, 5)
    mask = np.ones(60, bool)
    mask[list(holes)] = False
    mask = mask.reshape(3, 4, 5)
    lattice = Lattice(mask, connectivity)
    seen = np.where(mask, image, 0)
    np.testing.assert_allclose(
        tfce(image[mask], lattice), literal_tfce(seen, connectivity)[mask], rtol=1e-12
    )
    extent, mass = clusters(image[mask], 1.5, lattice)
    for got, expected in zip(
        (extent, mass), literal_clusters(seen, 1.5, connectivity), strict=True
    ):
        np.testing.assert_allclose(got, expected[mask])


def literal_clusters(image, threshold, connectivity):
    extent, mass = np.zeros(image.shape), np.zeros(image.shape)
    for sign in (1, -1):
        above = sign * np.nan_to_num(image) > threshold
        labels, count = ndimage.label(above, struct(connectivity))
        for number in range(1, count + 1):
            inside = labels == number
            extent[inside] = inside.sum()
            mass[inside] = (sign * image[inside] - threshold).sum()
    return extent, mass


def test_known_values():
    image = np.zeros((7, 7, 7))
    image[3, 3, 3] = 3.0
    lattice = Lattice(np.ones(image.shape, bool))
    assert tfce(image.ravel(), lattice).max() == pytest.approx(9)
    image[1:5, 1:5, 1:5] = -2.0
    scores = tfce(image.ravel(), lattice).reshape(image.shape)
    np.testing.assert_allclose(scores[1:5, 1:5, 1:5], -8 * 8 / 3)
    assert not scores[0].any()


def test_one_side_leaves_the_other_at_zero():
    image, lattice = smooth_map().ravel(), Lattice(np.ones(SHAPE, bool))
    both, one = tfce(image, lattice), tfce(image, lattice, two_sided=False)
    np.testing.assert_array_equal(one, np.maximum(both, 0))
    np.testing.assert_array_equal(tfce(-image, lattice), -both)
    extent, _ = clusters(image, 1.0, lattice, two_sided=False)
    assert not extent[image < 0].any()
    assert extent[image > 1].all()


def test_scale_is_cubed_and_float32_is_enough():
    image, lattice = smooth_map().ravel(), Lattice(np.ones(SHAPE, bool))
    scores = tfce(image, lattice)
    np.testing.assert_allclose(tfce(2 * image, lattice), 8 * scores, rtol=1e-12)
    single = tfce(image.astype(np.float32), lattice)
    np.testing.assert_allclose(single, scores, rtol=1e-5, atol=1e-7)


def test_the_border_does_not_wrap():
    image = np.zeros((4, 4, 4))
    image[0, 0, 3] = image[0, 1, 0] = image[3, 3, 3] = image[0, 0, 0] = 2.0
    lattice = Lattice(np.ones(image.shape, bool), 6)
    np.testing.assert_array_equal(np.unique(clusters(image.ravel(), 1, lattice)[0]), [0, 1, 2])


def test_nilearns_steps_approach_the_integral():
    # Nilearn adds up extent^E h^H over steps without their width, at each step's upper end: a
    # Riemann sum that converges with the step, so 1000 steps agree to some parts in a thousand.
    image = smooth_map(3, (14, 14, 14))
    ours = tfce(image.ravel(), Lattice(np.ones(image.shape, bool), 6))
    differences = []
    for steps in (100, 1000):
        width = np.abs(image).max() / steps
        theirs = calculate_tfce(image[..., None], struct(6), dh=width)[..., 0].ravel() * width
        differences.append(np.abs(theirs - ours).max() / np.abs(ours).max())
    assert differences[0] < 0.03
    assert differences[1] < 0.003


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_largest_clusters_agree_with_nilearn(connectivity):
    lattice = Lattice(np.ones(SHAPE, bool), connectivity)
    for seed in range(5):
        image = smooth_map(seed)
        size, mass = calculate_cluster_measures(
            image[..., None], 1.5, struct(connectivity), two_sided_test=True
        )
        ours = largest_cluster(image.ravel(), 1.5, lattice)
        assert ours[0] == size[0]
        assert ours[1] == pytest.approx(mass[0], rel=1e-12)


def test_no_cluster():
    lattice = Lattice(np.ones(SHAPE, bool))
    assert largest_cluster(np.zeros(720), 1.0, lattice) == (0.0, 0.0)
    assert not clusters(np.full(720, np.nan), 1.0, lattice)[0].any()
    assert not tfce(np.zeros(720), lattice).any()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Lattice(np.ones(SHAPE, bool), 8),
        lambda: Lattice(np.zeros(SHAPE, bool)),
        lambda: Lattice(np.ones((3, 3), bool)),
        lambda: tfce(np.zeros(719), Lattice(np.ones(SHAPE, bool))),
        lambda: clusters(np.zeros(720), 0.0, Lattice(np.ones(SHAPE, bool))),
    ],
)
def test_what_does_not_fit_is_refused(wrong):
    with pytest.raises(ValueError, match=r"connectivity|mask|not above zero"):
        wrong()


def test_where_nothing_can_be_written_compiled_code_is_not_kept(monkeypatch):
    plain = numba.njit

    def nowhere(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return plain(**options)

    monkeypatch.setattr(numba, "njit", nowhere)
    assert components.compiled(lambda x: x + 1)(2) == 3
