"""Group means, their differences and clusters, by hand."""

import numpy as np
import pandas as pd
import pytest

from models import contrasts
from models.contrasts import contrast, difference_clusters, group_means, outcomes
from models.errors import InputError
from models.regions import region_table

AFFINE = np.array([[-2.0, 0, 0, 20], [0, 2, 0, -30], [0, 0, 3, -10], [0, 0, 0, 1]])


def test_outcomes_by_hand():
    labels = np.array([1, 1, 0, 0, 1], bool)
    called = np.array([[1, 0, 1, 0, 1], [1, 1, 0, 0, 1]], bool)
    known = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], bool)
    groups = outcomes(labels, called, known)
    assert {name: group.astype(int).tolist() for name, group in groups.items()} == {
        "TP": [[1, 0, 0, 0, 0], [1, 1, 0, 0, 1]],
        "FP": [[0, 0, 1, 0, 0], [0, 0, 0, 0, 0]],
        "TN": [[0, 0, 0, 1, 0], [0, 0, 1, 1, 0]],
        "FN": [[0, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
    }
    assert (sum(group.astype(int) for group in groups.values()) == known).all()


def test_group_means_read_only_their_people(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(2, 7, 50)).astype(np.float32)
    data[0, 6] = np.nan
    maps = []
    for i, one in enumerate(data):
        maps.append(np.memmap(tmp_path / str(i), np.float32, "w+", shape=one.shape))
        maps[-1][:] = one
    groups = {
        "TP": np.array([[1, 1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0, 1]], bool),
        "FP": np.array([[0] * 7, [0, 0, 1, 1, 0, 0, 0]], bool),
        "HC": np.array([0, 0, 1, 1, 0, 0, 0], bool),
    }
    monkeypatch.setattr(contrasts, "BLOCK_VALUES", 150)
    means = group_means(maps, groups)
    np.testing.assert_allclose(means["TP"][0], data[0, [0, 1, 4]].mean(0), atol=1e-6)
    np.testing.assert_allclose(means["TP"][1], data[1, [0, 6]].mean(0), atol=1e-6)
    assert np.isnan(means["FP"][0]).all()
    np.testing.assert_allclose(means["HC"], data[:, [2, 3]].mean(1), atol=1e-6)
    mean, sd = contrast(means["TP"], means["HC"])
    difference = means["TP"] - means["HC"]
    np.testing.assert_allclose(mean, difference.mean(0))
    np.testing.assert_allclose(sd, difference.std(0, ddof=1))
    mean, sd = contrast(means["TP"], means["FP"])
    np.testing.assert_allclose(mean, means["TP"][1] - means["FP"][1])
    assert np.isnan(sd).all()
    with pytest.raises(InputError, match="no repeat has people in both"):
        contrast(means["TP"][:1], means["FP"][:1])
    with pytest.raises(InputError, match="nobody belongs to the group 'FN'"):
        group_means(maps, {"FN": np.zeros(7, bool)})


@pytest.fixture
def scene():
    """Difference with three clusters, one of them in the excluded region."""
    difference = np.random.default_rng(0).random((10, 12, 8)) * 0.1
    difference[1:3, 1:3, 1:3] = 5.0
    difference[2, 2, 2] = 6.0
    difference[1:3, 6, 1] = 5.0
    difference[6:8, 6:8, 4:6] = 9.0
    difference[8, 6, 4] = 9.0  # outside the excluded region, touching it
    excluded = np.zeros(difference.shape, bool)
    excluded[6:8, 6:8, 4:6] = True
    brain = np.ones(difference.shape, bool)
    brain[:, :, 7] = False
    difference[:, :, 7] = 100.0
    return difference, brain, excluded


def percentile_that_leaves(count, brain, excluded):
    counted = (brain & ~excluded).sum()
    return 100 * (counted - count - 0.5) / (counted - 1)


def test_clusters_outside_the_excluded_region(scene):
    difference, brain, excluded = scene
    percentile = percentile_that_leaves(11, brain, excluded)
    labels, table = difference_clusters(difference, brain, AFFINE, excluded, percentile=percentile)
    assert table["voxels"].tolist() == [8, 2, 1]
    assert table["volume_mm3"].tolist() == pytest.approx([96, 24, 12])
    assert table["name"].tolist() == ["cluster 1", "cluster 2", "cluster 3"]
    assert table["peak"].tolist() == [6, 5, 9]
    assert table["mean"].tolist() == pytest.approx([41 / 8, 5, 9])
    assert table.loc[0, ["x_mm", "y_mm", "z_mm"]].tolist() == [16, -26, -4]
    assert table["stability"].tolist() == [1, 1, 1]
    assert table["sd_repeats"].isna().all()
    assert labels.dtype == np.int32
    assert not labels[excluded].any()
    assert not labels[~brain].any()
    uptake = region_table(difference, labels, table[["index", "name"]])
    np.testing.assert_allclose(uptake["density"], table["mean"])


def test_clusters_may_reach_into_the_excluded_region(scene):
    difference, brain, excluded = scene
    percentile = percentile_that_leaves(11, brain, excluded)
    labels, table = difference_clusters(
        difference, brain, AFFINE, excluded, percentile=percentile, inside_excluded=True
    )
    assert table["voxels"].tolist() == [9, 8, 2]
    assert labels[excluded].all()


def test_default_keeps_five_per_cent_of_what_is_counted(scene):
    difference, brain, excluded = scene
    labels, table = difference_clusters(difference, brain, AFFINE, excluded)
    counted = brain & ~excluded
    limit = np.percentile(difference[counted], 95)
    np.testing.assert_array_equal(labels > 0, counted & (difference > limit))
    assert (labels > 0).sum() == pytest.approx(0.05 * counted.sum(), abs=1)
    assert (np.diff(table["voxels"]) <= 0).all()
    fewer = difference_clusters(difference, brain, AFFINE, excluded, min_mm3=24)[1]
    assert len(fewer) == (table["voxels"] >= 2).sum()
    scaled = difference_clusters(difference * 8, brain, AFFINE, excluded)
    np.testing.assert_array_equal(scaled[0], labels)
    np.testing.assert_allclose(scaled[1]["mean"], table["mean"] * 8)


def test_clusters_over_repeats_say_how_stable_they_are(scene):
    difference, brain, excluded = scene
    percentile = percentile_that_leaves(11, brain, excluded)
    other = difference.copy()
    other[1:3, 6, 1] = 4.0
    other[4, 4, 4] = other[4, 4, 6] = 4.5  # takes their place in this repeat
    both = np.stack([difference, other])
    _, table = difference_clusters(both, brain, AFFINE, excluded, percentile=percentile)
    assert table["voxels"].tolist() == [8, 2, 1]
    assert table["stability"].tolist() == [1, 0.5, 1]
    assert table["mean"].tolist() == pytest.approx([41 / 8, 4.5, 9])
    assert table["sd_repeats"].tolist() == pytest.approx([0, np.sqrt(0.5), 0])


def test_clusters_are_named_by_the_region_with_most_of_them(scene):
    difference, brain, excluded = scene
    atlas = np.zeros(difference.shape, int)
    atlas[1:3, 1:3, 1:3] = 4
    atlas[1, 1, 1:3] = 7
    atlas[1:3, 6, 1] = 4
    names = pd.DataFrame({"index": [4, 7], "name": ["Insula_L", "Pons"]})
    percentile = percentile_that_leaves(11, brain, excluded)
    table = difference_clusters(
        difference, brain, AFFINE, excluded, atlas, names, percentile=percentile
    )[1]
    assert table["name"].tolist() == ["Insula_L", "Insula_L 2", "cluster 1"]
    assert table["region"].tolist() == ["Insula_L", "Insula_L", ""]
    assert table["share"].tolist() == [0.75, 1, 0]


@pytest.mark.parametrize(("connectivity", "clusters"), [(6, 3), (18, 2), (26, 1)])
def test_connectivity(connectivity, clusters):
    difference = np.zeros((6, 6, 6))
    difference[1, 1, 1] = difference[1, 2, 2] = difference[2, 3, 3] = 5
    everywhere = np.ones(difference.shape, bool)
    _, table = difference_clusters(difference, everywhere, AFFINE, connectivity=connectivity)
    assert len(table) == clusters


def test_nothing_to_cluster():
    flat, everywhere = np.zeros((4, 4, 4)), np.ones((4, 4, 4), bool)
    labels, table = difference_clusters(flat, everywhere, AFFINE)
    assert not labels.any()
    assert len(table) == 0
    assert "name" in table
    with pytest.raises(InputError, match="no voxel of the brain"):
        difference_clusters(flat, everywhere, AFFINE, everywhere)
    with pytest.raises(InputError, match="no voxel of the brain"):
        difference_clusters(flat * np.nan, everywhere, AFFINE)
    with pytest.raises(InputError, match="between 0 and 100"):
        difference_clusters(flat, everywhere, AFFINE, percentile=100)
    with pytest.raises(ValueError, match="regrid one"):
        difference_clusters(flat, everywhere[1:], AFFINE)
