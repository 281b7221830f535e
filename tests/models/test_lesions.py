"""Lesions: against slow replicas of the published procedure, and by values that are known."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays

from models.errors import InputError
from models.lesions import (
    THREE_PLANES,
    dilate,
    fill_locally,
    fill_slices,
    lesion_coverage,
    lesion_relevance,
    measures,
    white_matter,
)

SMALL = arrays.arrays(bool, (5, 6, 4))


def neighbours(x, y, z):
    """The voxels that share a plane through (x, y, z), itself among them."""
    for dx, dy, dz in itertools.product((-1, 0, 1), repeat=3):
        if 0 in (dx, dy, dz):
            yield x + dx, y + dy, z + dz


def slow_dilation(lesions):
    counts = np.zeros(lesions.shape, int)
    for voxel in np.ndindex(lesions.shape):
        for other in neighbours(*voxel):
            inside = all(0 <= i < n for i, n in zip(other, lesions.shape, strict=True))
            counts[voxel] += bool(inside and lesions[other])
    if not counts.max():
        return np.zeros(lesions.shape, bool)
    return lesions | (counts >= counts.max() / 8)


def test_the_element_is_three_planes_of_19_voxels():
    planes = np.zeros((3, 3, 3), bool)
    planes[1], planes[:, 1], planes[:, :, 1] = True, True, True
    assert np.array_equal(THREE_PLANES, planes)
    assert THREE_PLANES.sum() == 19


@given(SMALL)
@settings(max_examples=40, deadline=None)
def test_dilation_counts_as_a_slow_replica(lesions):
    assert np.array_equal(dilate(lesions), slow_dilation(lesions))


def test_one_voxel_grows_to_the_element_and_a_solid_lesion_by_less():
    one, solid = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    one[4, 4, 4] = True
    solid[3:6, 3:6, 3:6] = True
    assert np.array_equal(dilate(one)[3:6, 3:6, 3:6], THREE_PLANES)
    grown = dilate(solid)
    assert grown[2, 4, 4]  # beside the middle of a face: 5 of 19
    assert grown[2, 3, 3]  # beside its corner: 3, and 19 / 8 = 2.4
    assert not grown[2, 2, 4]  # beside an edge: 1
    assert not grown[2, 2, 2]  # beyond a corner: 0


def test_a_lone_voxel_beside_a_large_lesion_stays():
    lesions = np.zeros((12, 12, 12), bool)
    lesions[1:5, 1:5, 1:5] = True
    lesions[10, 10, 10] = True
    assert dilate(lesions)[10, 10, 10]
    assert not dilate(lesions)[10, 10, 9]


def test_nothing_dilates_to_nothing():
    assert not dilate(np.zeros((4, 4, 4), bool)).any()


def test_white_matter_is_likelier_than_both_others():
    wm, gm, csf = (np.array(v) for v in ([0.5, 0.4, 0.4], [0.3, 0.4, 0.1], [0.2, 0.2, 0.5]))
    assert white_matter(wm, gm, csf).tolist() == [True, False, False]


# --- filling -------------------------------------------------------------------------------------


@pytest.fixture
def scene():
    """White matter whose level rises from slice to slice, a bright lesion, and grey matter."""
    rng = np.random.default_rng(3)
    image = np.full((40, 40, 6), 50.0, np.float32)
    white = np.zeros(image.shape, bool)
    white[5:35, 5:35] = True
    levels = 100.0 + 10.0 * np.arange(6)
    image[white] = (levels + rng.normal(0, 4, image.shape))[white]
    lesions = np.zeros(image.shape, bool)
    lesions[10:26, 10:26, 1:4] = True
    image[lesions] = 300.0
    return image, lesions, white


def test_draws_follow_the_white_matter_of_their_slice(scene):
    image, lesions, white = scene
    filled, left = fill_slices(image, lesions, white, seed=1)
    assert left == []
    for z in (1, 2, 3):
        normal = image[..., z][white[..., z] & ~lesions[..., z]].astype(float)
        drawn = filled[..., z][lesions[..., z]].astype(float)
        error = normal.std() / 2 / np.sqrt(drawn.size)  # of the mean of the draws
        assert abs(drawn.mean() - normal.mean()) < 4 * error
        assert drawn.std() == pytest.approx(normal.std() / 2, rel=0.2)


def test_draws_equal_a_slow_replica(scene):
    image, lesions, white = scene
    rng, wanted = np.random.default_rng(7), image.copy()
    for z in range(image.shape[2]):
        if lesions[..., z].any():
            normal = [
                float(image[x, y, z])
                for x, y in np.ndindex(image.shape[:2])
                if white[x, y, z] and not lesions[x, y, z]
            ]
            mean = sum(normal) / len(normal)
            sd = (sum((v - mean) ** 2 for v in normal) / len(normal)) ** 0.5
            for x, y in np.argwhere(lesions[..., z]):
                wanted[x, y, z] = rng.normal(mean, sd / 2)
    filled, _ = fill_slices(image, lesions, white, seed=7)
    assert np.allclose(filled, wanted, rtol=1e-6)


@pytest.mark.parametrize("how", ["slices", "local"])
def test_nothing_changes_outside_and_everything_repeats(scene, how):
    image, lesions, white = scene
    before = image.copy()

    def fill(seed):
        if how == "slices":
            return fill_slices(image, lesions, white, seed=seed)[0]
        return fill_locally(image, lesions, white, voxel_mm=1.0)[0]

    filled = fill(1)
    assert np.array_equal(filled[~lesions], image[~lesions])
    assert np.array_equal(image, before)
    assert np.array_equal(filled, fill(1))
    assert filled.dtype == image.dtype
    assert np.array_equal(filled, fill(2)) == (how == "local")
    assert filled[lesions].max() < 200


def test_a_slice_without_white_matter_is_left_and_named(scene):
    image, lesions, white = scene
    white[..., 2] = False
    filled, left = fill_slices(image, lesions, white, seed=0)
    assert left == [2]
    assert np.array_equal(filled[..., 2], image[..., 2])
    assert (filled[..., 1][lesions[..., 1]] < 200).all()


def test_the_local_average_is_local():
    """White matter that brightens along x: a global mean would be wrong at both ends."""
    image = np.broadcast_to(np.linspace(100, 200, 60)[:, None, None], (60, 30, 30)).copy()
    lesions = np.zeros(image.shape, bool)
    lesions[[8, 50], 14:17, 14:17] = True
    truth = image.copy()
    image[lesions] = 500.0
    filled, left = fill_locally(image, lesions, np.ones(image.shape, bool), voxel_mm=1.0)
    assert left == []
    assert np.abs(filled - truth)[lesions].max() < 1.5


def test_a_lesion_far_from_white_matter_takes_what_there_is():
    image = np.full((40, 12, 12), 80.0)
    white = np.zeros(image.shape, bool)
    white[0] = True
    lesions = np.zeros(image.shape, bool)
    lesions[36:38, 5:7, 5:7] = True
    image[lesions] = 300.0
    filled, _ = fill_locally(image, lesions, white, voxel_mm=2.0, fwhm_mm=3.0)
    assert np.allclose(filled[lesions], 80.0)
    none = fill_locally(image, lesions, np.zeros_like(white), voxel_mm=2.0)
    assert none[1] == [5, 6]
    assert np.array_equal(none[0], image)


# --- measures ------------------------------------------------------------------------------------


def test_lesion_relevance_is_equation_2():
    relevance = np.array([[[2.0, -5.0, 1.0, 1.0]]])
    lesions = np.array([[[True, True, False, False]]])
    assert lesion_relevance(relevance, lesions) == pytest.approx(0.5)
    assert np.isnan(lesion_relevance(-np.abs(relevance), lesions))


def test_an_even_map_has_the_coverage_as_its_lesion_relevance():
    rng = np.random.default_rng(0)
    brain = np.ones((6, 7, 8), bool)
    brain[0] = False
    lesions = (rng.random(brain.shape) < 0.2) & brain
    found = measures(brain.astype(float), lesions, brain)
    assert found["lesion_relevance"] == pytest.approx(found["lesion_coverage"])
    assert found["concentration"] == pytest.approx(1)
    assert found["lesion_voxels"] == lesions.sum()
    assert found["relevance_sum"] == brain.sum()


def test_lesions_outside_the_brain_do_not_count():
    brain = np.zeros((2, 2, 2), bool)
    brain[0] = True
    lesions = np.zeros(brain.shape, bool)
    lesions[:, 0, 0] = True
    assert lesion_coverage(lesions, brain) == pytest.approx(0.25)
    assert measures(np.ones(brain.shape), lesions, brain)["lesion_voxels"] == 1


def test_no_lesions_and_no_brain():
    brain = np.ones((2, 2, 2), bool)
    found = measures(np.ones(brain.shape), ~brain, brain)
    assert found["lesion_coverage"] == found["lesion_relevance"] == 0
    assert np.isnan(found["concentration"])
    with pytest.raises(InputError, match="brain is empty"):
        lesion_coverage(brain, ~brain)
    with pytest.raises(ValueError, match="one grid"):
        lesion_relevance(np.ones((2, 2, 2)), np.ones((2, 2, 3), bool))
