import numpy as np
import pandas as pd
import pytest

from models.statistics.clusters import (
    COLUMNS,
    name_peaks,
    name_shares,
    significant_clusters,
)

AFFINE = np.array([[2.0, 0, 0, -20], [0, 2, 0, -30], [0, 0, 2, -10], [0, 0, 0, 1]])


@pytest.fixture
def maps():
    t, p = np.zeros((12, 12, 12)), np.ones((12, 12, 12))
    t[1:3, 1:3, 1:3] = 5.0
    t[2, 2, 2] = 7.0
    t[3, 1:4, 1] = -6.0  # touches the positive cluster
    t[8, 8, 8] = 9.0
    p[t != 0] = 0.04
    p[2, 2, 2] = 0.001
    return t, p


def test_clusters_are_told_apart_by_sign_and_sorted_by_volume(maps):
    labels, table = significant_clusters(*maps, AFFINE)
    assert tuple(table.columns) == COLUMNS
    assert table["cluster_id"].tolist() == [1, 2, 3]
    assert table["sign"].tolist() == ["positive", "negative", "positive"]
    assert table["voxels"].tolist() == [8, 3, 1]
    assert table["volume_mm3"].tolist() == pytest.approx([64, 24, 8])
    assert table["peak_t"].tolist() == [7, -6, 9]
    assert table["peak_p_fwe"].tolist() == [0.001, 0.04, 0.04]
    assert table.loc[0, ["x_mm", "y_mm", "z_mm"]].tolist() == [-16, -26, -6]
    assert labels.dtype == np.int32
    assert [int((labels == i).sum()) for i in (1, 2, 3)] == [8, 3, 1]


def test_small_clusters_and_alpha(maps):
    labels, table = significant_clusters(*maps, AFFINE, min_mm3=24)
    assert table["voxels"].tolist() == [8, 3]
    assert labels[8, 8, 8] == 0
    assert significant_clusters(*maps, AFFINE, alpha=0.01)[1]["voxels"].tolist() == [1]


@pytest.mark.parametrize(("connectivity", "clusters"), [(6, 3), (18, 2), (26, 1)])
def test_connectivity(connectivity, clusters):
    t = np.zeros((6, 6, 6))
    t[1, 1, 1] = t[1, 2, 2] = t[2, 3, 3] = 5
    p = np.where(t, 0.01, 1.0)
    _, table = significant_clusters(t, p, AFFINE, connectivity=connectivity)
    assert len(table) == clusters


def test_nothing_significant_gives_an_empty_table():
    labels, table = significant_clusters(np.zeros((4, 4, 4)), np.ones((4, 4, 4)), AFFINE)
    assert tuple(table.columns) == COLUMNS
    assert not labels.any()
    named = name_peaks(table, labels, AFFINE, pd.DataFrame({"index": [1], "name": ["a"]}))
    assert "region" in named
    assert len(named) == 0


def test_not_a_number_is_never_significant(maps):
    t, p = maps
    t[8, 8, 8], p[8, 8, 8] = np.nan, np.nan
    assert len(significant_clusters(t, p, AFFINE)[1]) == 2


def test_orientation_of_the_grid_does_not_matter(maps):
    flipped = AFFINE @ np.array([[-1.0, 0, 0, 11], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    _, reference = significant_clusters(*maps, AFFINE)
    _, table = significant_clusters(*(image[::-1] for image in maps), flipped)
    columns = ["sign", "voxels", "volume_mm3", "peak_t", "x_mm", "y_mm", "z_mm"]
    pd.testing.assert_frame_equal(table[columns], reference[columns])


def test_oblique_voxels_have_their_true_volume(maps):
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    _, table = significant_clusters(*maps, turn @ AFFINE)
    assert table["volume_mm3"].tolist() == pytest.approx([64, 24, 8])


def test_peaks_are_named():
    labels = np.zeros((12, 12, 12), np.int32)
    labels[2, 2, 2], labels[6, 6, 6], labels[9, 9, 9] = 2001, 5, 77
    names = pd.DataFrame({"index": [5, 2001], "name": ["Five", "Precentral_L"]})
    voxels = np.array([[2, 2, 2], [2, 2, 4], [2, 2, 5], [6, 7, 6], [9, 9, 9], [40, 40, 40]])
    peaks = pd.DataFrame(voxels * 2.0 + AFFINE[:3, 3], columns=["x_mm", "y_mm", "z_mm"])
    named = name_peaks(peaks, labels, AFFINE, names)
    assert named["region"].tolist() == [
        "Precentral_L",
        "near Precentral_L",  # 4 mm away
        "unlabelled",  # 6 mm away
        "near Five",
        "label 77",
        "unlabelled",
    ]
    assert "region" not in peaks


def test_other_corrections_add_columns(maps):
    t, p = maps
    extent = np.where(t > 0, 0.2, 1.0)
    extent[1:3, 1:3, 1:3] = 0.01
    _, table = significant_clusters(t, p, AFFINE, also={"extent": extent, "tfce": p})
    assert table["p_extent"].tolist() == [0.01, 1.0, 0.2]
    assert table["p_tfce"].tolist() == [0.001, 0.04, 0.04]
    empty = significant_clusters(t, p, AFFINE, alpha=0, also={"extent": extent})[1]
    assert "p_extent" in empty
    assert len(empty) == 0


def test_shares_of_several_atlases(maps):
    clusters, table = significant_clusters(*maps, AFFINE)
    one, other = np.zeros(clusters.shape, np.int16), np.full(clusters.shape, 4, np.int16)
    one[1, 1:3, 1:3] = 2001  # half of the cluster of 8 voxels
    one[2, 1, 1:3] = 5  # a quarter
    one[2, 2, 1] = 77  # an eighth, without a name
    one[3, 1:3, 1] = 5  # two of three voxels of the second
    names = pd.DataFrame({"index": [5, 2001], "name": ["Five", "Precentral_L"]})
    atlases = {
        "regions": (one, names),
        "lobes": (other, pd.DataFrame({"index": [4], "name": ["Lobe"]})),
    }
    named = name_shares(table, clusters, atlases)
    assert named["regions"].tolist() == [
        "Precentral_L 50 %; Five 25 %; unlabelled 25 %",
        "Five 67 %; unlabelled 33 %",
        "unlabelled 100 %",
    ]
    assert named["lobes"].tolist() == ["Lobe 100 %"] * 3
    few = name_shares(table, clusters, {"regions": (one, names)}, least=0.3)
    assert few["regions"].tolist()[0] == "Precentral_L 50 %"
    assert "regions" not in table
    assert len(name_shares(table[:0], clusters, atlases)) == 0
