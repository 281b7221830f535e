"""The same image twice, exactly and nearly."""

import numpy as np
import pytest

from models.duplicates import equal_pairs, near_pairs, thumbnail, voxel_hash
from models.errors import InputError


def people(n, noise, seed=0, shape=(1, 24, 28, 24)):
    """Two scans of each of n people: a common brain, what is a person's own, and noise."""
    rng = np.random.default_rng(seed)
    brain = np.zeros(shape, bool)
    brain[:, 3:-3, 3:-3, 3:-3] = True
    common = 5 + rng.normal(size=shape)
    scans = []
    for own in 0.3 * rng.normal(size=(n, *shape)):
        for gain in (1, 1.7):  # the scale of intensity is no feature of a person
            scans.append(np.where(brain, gain * (common + own + noise * rng.normal(size=shape)), 0))
    return scans


def test_hashes_see_the_voxels_alone():
    data = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    assert voxel_hash(data) == voxel_hash(data.astype(np.float64)) == voxel_hash(data.astype(">f4"))
    assert voxel_hash(data) == voxel_hash(np.asfortranarray(data))
    assert voxel_hash(data) != voxel_hash(data.reshape(5, 4, 3))
    assert voxel_hash(data) != voxel_hash(data[::-1])


def test_pairs_of_equal_hashes():
    assert equal_pairs(["a", "b", "a", "c", "a"]) == [(0, 2), (0, 4), (2, 4)]
    assert equal_pairs(["a", "b"]) == []


def test_a_thumbnail_is_the_mean_of_cubes_of_the_scaled_brain():
    volume = people(1, 0.1)[0]
    brain = volume != 0
    scaled = np.where(brain, (volume - volume[brain].mean()) / volume[brain].std(), 0)
    small = thumbnail(volume, 2.0).reshape(6, 7, 6)
    for x, y, z in np.ndindex(6, 7, 6):
        cube = scaled[0, 4 * x : 4 * x + 4, 4 * y : 4 * y + 4, 4 * z : 4 * z + 4]
        assert small[x, y, z] == pytest.approx(cube.mean(), abs=1e-5)
    assert not thumbnail(np.zeros((1, 8, 8, 8)), 2.0).any()


@pytest.mark.parametrize("block", [1, 5, 1024])
def test_repeats_are_found_and_different_people_are_not(block):
    small = np.stack([thumbnail(scan, 4.0) for scan in people(10, 0.1)])
    found = near_pairs(small, 0.5, block)
    assert [pair[:2] for pair in sorted(found)] == [(i, i + 1) for i in range(0, 20, 2)]
    deviations = small - small.mean(axis=0)
    deviations = (deviations / deviations.std(axis=0).clip(1e-9))[:, small.std(axis=0) > 1e-6]
    slow = np.corrcoef(deviations)
    for i, j, alike in found:
        assert alike == pytest.approx(slow[i, j], abs=1e-3)


def test_too_few_images_tell_nothing():
    small = np.stack([thumbnail(scan, 4.0) for scan in people(3, 0.1)])
    assert near_pairs(small, 0.5) == []
    with pytest.raises(InputError, match="threshold of 2"):
        near_pairs(small, 2)


def test_images_without_contents_are_no_pair():
    small = np.zeros((9, 30), np.float32)
    small[:7] = np.random.default_rng(0).normal(size=(7, 30))
    assert all(pair[:2] != (7, 8) or pair[2] < 1.0001 for pair in near_pairs(small, 0.5))
    assert near_pairs(np.zeros((9, 30), np.float32), 0.5) == []
