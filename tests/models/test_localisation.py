"""Localisation measures against scikit-learn and counts made by hand."""

import nibabel as nib
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.trust.localisation import (
    found_and_near,
    heatmap_measures,
    on_grid,
    roc_auc,
    statistic_measures,
    top_share,
)


@pytest.fixture
def volumes():
    rng = np.random.default_rng(0)
    brain = rng.random((9, 10, 11)) < 0.8
    truth = np.zeros_like(brain)
    truth[2:5, 3:6, 4:7] = True
    return rng, truth, brain


@pytest.mark.parametrize("levels", [None, 5, 1])
def test_auc_equals_scikit_learn_with_and_without_ties(volumes, levels):
    rng, truth, brain = volumes
    relevance = rng.normal(size=brain.shape) + truth
    if levels:
        relevance = np.round(relevance / np.ptp(relevance) * (levels - 1))
    expected = roc_auc_score(truth[brain], relevance[brain])
    assert roc_auc(relevance, truth, brain) == pytest.approx(expected)


def test_auc_looks_at_the_brain_only_and_at_the_sign(volumes):
    _, truth, brain = volumes
    relevance = np.where(brain, truth * 1.0, 100.0)
    assert roc_auc(relevance, truth, brain) == 1.0
    assert roc_auc(-relevance, truth, brain) == 0.0


def test_top_share_by_hand():
    relevance = np.arange(100.0).reshape(10, 10, 1)
    truth = np.zeros_like(relevance, bool)
    truth.flat[[99, 98, 95, 3]] = True
    everywhere = np.ones_like(truth)
    assert top_share(relevance, truth, everywhere, 0.01) == 1.0
    assert top_share(relevance, truth, everywhere, 0.04) == 0.5
    assert top_share(relevance, truth, everywhere, 0.05) == pytest.approx(0.6)
    outside = everywhere.copy()
    outside.flat[99] = False  # the most relevant voxel does not count outside the brain
    assert top_share(relevance, truth, outside, 2 / 99) == 0.5


def test_top_share_breaks_ties_by_lot():
    relevance = np.zeros((100, 1, 1))
    relevance[:2] = 1.0
    truth = np.zeros_like(relevance, bool)
    truth[[0, 50, 51]] = True
    everywhere = np.ones_like(truth)
    # Two voxels are sure (one of them true); eight are drawn of 98, of which two are true.
    expected = (1 + 8 * 2 / 98) / 10
    assert top_share(relevance, truth, everywhere, 0.10) == pytest.approx(expected)
    flat = np.zeros_like(relevance)
    assert top_share(flat, truth, everywhere) == pytest.approx(0.03)


def test_found_and_near_measure_in_millimetres():
    truth = np.zeros((20, 5, 5), bool)
    truth[5:9, 2, 2] = True
    significant = np.zeros_like(truth)
    significant[7:12, 2, 2] = True  # 2 inside; 9, 10, 11 are 1, 2, 3 voxels beyond
    assert found_and_near(significant, truth, (3.0, 3.0, 3.0)) == (0.5, 0.8)
    assert found_and_near(significant, truth, (8.0, 1.0, 1.0)) == (0.5, 0.6)
    assert found_and_near(significant, truth, (3.0, 3.0, 3.0), near_mm=9.0) == (0.5, 1.0)


def test_nothing_significant_has_no_share_near():
    truth = np.ones((2, 2, 2), bool)
    found, near = found_and_near(np.zeros_like(truth), truth, (1.0, 1.0, 1.0))
    assert found == 0.0
    assert np.isnan(near)


def test_empty_truth_is_an_error():
    nothing, everything = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    with pytest.raises(ValueError, match="no voxel inside the brain"):
        roc_auc(everything * 1.0, nothing, everything)
    with pytest.raises(ValueError, match="no voxel inside the brain"):
        top_share(everything * 1.0, nothing, everything)
    with pytest.raises(ValueError, match="whole brain"):
        roc_auc(everything * 1.0, everything, everything)
    with pytest.raises(ValueError, match="no voxel on this grid"):
        found_and_near(everything, nothing, (1.0, 1.0, 1.0))


def left_block(voxel_mm):
    """Brain of 60 mm with a true block on its left; RAS+, and the affine."""
    shape = (int(60 / voxel_mm),) * 3
    affine = nib.affines.from_matvec(np.eye(3) * voxel_mm, [-30 + voxel_mm / 2] * 3)
    truth = np.zeros(shape, np.uint8)
    count = int(12 / voxel_mm)
    truth[count : 2 * count, count : 2 * count, count : 2 * count] = 1
    return truth, affine


def test_truth_is_moved_through_world_coordinates():
    fine, coarse = left_block(1.0), left_block(3.0)
    mirrored = nib.Nifti1Image(coarse[0], coarse[1]).as_reoriented([[0, -1], [1, 1], [2, 1]])
    moved = on_grid(nib.Nifti1Image(*fine), mirrored)
    np.testing.assert_array_equal(moved, np.asanyarray(mirrored.dataobj) > 0)


def test_measures_of_images():
    truth = nib.Nifti1Image(*left_block(1.0))
    data, affine = left_block(3.0)
    brain = nib.Nifti1Image(np.ones(data.shape, np.uint8), affine)
    perfect = nib.Nifti1Image(data.astype(np.float32), affine)
    scores = heatmap_measures(perfect, truth, brain)
    assert scores["auc"] > 0.99
    assert scores["share"] == 64 / 80  # the top 1 % has more voxels than the region
    assert statistic_measures(perfect, truth) == {"found": 1.0, "near": 1.0}
    wrong_side = nib.Nifti1Image(data[::-1].astype(np.float32), affine)
    assert heatmap_measures(wrong_side, truth, brain)["share"] == 0.0
    assert statistic_measures(wrong_side, truth) == {"found": 0.0, "near": 0.0}
