import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.regions import (
    gain,
    group_region_table,
    merge_sides,
    region_table,
    side_of,
    without_side,
)
from models.smoothing import smooth

NAMES = pd.DataFrame({"index": [9170, 3, 2001], "name": ["Vermis_10", "Empty", "Precentral_L"]})


def slow_table(values, labels, names):
    rows = []
    for index, name in names.itertuples(index=False):
        inside = values[(labels == index) & np.isfinite(values)].astype(float)
        density = inside.mean() if len(inside) else np.nan
        rows.append((index, name, len(inside), inside.sum(), density))
    return pd.DataFrame(rows, columns=["index", "name", "voxels", "sum", "density"])


@settings(max_examples=40, deadline=None)
@given(
    labels=hnp.arrays(np.uint16, (3, 4, 2), elements=st.sampled_from([0, 2001, 9170, 8, 65535])),
    values=hnp.arrays(
        np.float32, (3, 4, 2), elements=st.floats(-1e3, 1e3, width=32) | st.just(np.nan)
    ),
)
def test_table_agrees_with_a_loop(labels, values):
    table = region_table(values, labels, NAMES)
    expected = slow_table(values, labels, NAMES)
    pd.testing.assert_frame_equal(table, expected, check_dtype=False, atol=1e-9)


def test_regions_without_a_voxel_are_kept():
    table = region_table(np.ones((2, 2, 2)), np.full((2, 2, 2), 2001), NAMES)
    assert table["voxels"].tolist() == [0, 0, 8]
    assert table["sum"].tolist() == [0, 0, 8]
    assert table["density"].isna().tolist() == [True, True, False]


def test_grids_must_agree():
    with pytest.raises(ValueError, match="regrid"):
        region_table(np.ones((2, 2, 2)), np.ones((2, 2, 3), int), NAMES)


def test_gain_has_no_infinity():
    np.testing.assert_array_equal(gain([2.0, 1.0, 0.0], [4.0, 0.0, 0.0]), [0.5, np.nan, np.nan])


def person(sums, voxels=(10, 0, 5)):
    sums, voxels = np.array(sums, float), np.array(voxels)
    with np.errstate(invalid="ignore", divide="ignore"):
        return NAMES.assign(voxels=voxels, sum=sums, density=sums / voxels)


def test_group_table_holds_means_over_people():
    tables = {"AD": [person([10, 0, 5]), person([30, 0, 15])], "CN": [person([5, 0, 0])], "X": []}
    group = group_region_table(tables, control="CN")
    assert " ".join(group.columns) == (
        "index name voxels sum_AD density_AD gain_AD sum_CN density_CN gain_CN"
    )
    assert group["sum_AD"].tolist() == [20, 0, 10]
    np.testing.assert_array_equal(group["density_AD"], [2, np.nan, 2])
    np.testing.assert_array_equal(group["gain_AD"], [4, np.nan, np.nan])
    np.testing.assert_array_equal(group["gain_CN"], [1, np.nan, np.nan])


def test_group_table_refuses_different_regions():
    with pytest.raises(ValueError, match="different regions"):
        group_region_table({"AD": [person([1, 2, 3])], "CN": [person([1, 2, 3]).iloc[::-1]]})


def test_sides_are_merged():
    names = ["Precentral_L", "Vermis", "Precentral_R", "Left-Caudate", "Lonely_R"]
    table = pd.DataFrame(
        {
            "index": [1, 2, 3, 4, 5],
            "name": names,
            "voxels": [10, 4, 30, 0, 5],
            "sum": [10.0, 8.0, 10.0, 0.0, 5.0],
            "density": [1.0, 2.0, 1 / 3, np.nan, 1.0],
        }
    )
    merged = merge_sides(table)
    assert merged["name"].tolist() == ["Precentral", "Vermis", "Left-Caudate", "Lonely_R"]
    assert merged["index"].tolist() == [1, 2, 4, 5]
    assert merged["voxels"].tolist() == [40, 4, 0, 5]
    np.testing.assert_allclose(merged["density"], [0.5, 2, np.nan, 1])


@pytest.mark.parametrize(
    ("name", "side", "rest"),
    [
        ("Precentral_L", "L", "Precentral"),
        ("Frontal_Sup_2_R", "R", "Frontal_Sup_2"),
        ("Left-Cerebellum-Cortex", "L", "Cerebellum-Cortex"),
        ("Right_Amygdala", "R", "Amygdala"),
        ("Right Amygdala", "R", "Amygdala"),
        ("ctx-lh-lingual", "L", "ctx-lingual"),
        ("ctx_rh_G_cuneus", "R", "ctx_G_cuneus"),
        ("G_Frontal_Sup-1-L", "L", "G_Frontal_Sup-1"),
        ("L Thalamus", "L", "Thalamus"),
        ("Corticospinal tract R", "R", "Corticospinal tract"),
        ("Vermis_4_5", None, "Vermis_4_5"),
        ("3rd_Ventricle", None, "3rd_Ventricle"),
        ("Optic_Chiasm", None, "Optic_Chiasm"),
        ("Lingual", None, "Lingual"),
        ("Area_R1", None, "Area_R1"),
        ("Left and right fornix", None, "Left and right fornix"),
        ("", None, ""),
    ],
)
def test_sides_in_names(name, side, rest):
    assert side_of(name) == side
    assert without_side(name) == rest


def test_smoothing_has_the_stated_width():
    values = np.zeros((41, 41, 41), np.float32)
    values[20, 20, 20] = 1
    smoothed = smooth(values, np.diag([2.0, 1.0, 4.0, 1.0]), fwhm_mm=8)
    assert smoothed.sum() == pytest.approx(1, rel=1e-3)
    # Half the peak at half the width, 4 mm: 2, 4 and 1 voxels away.
    for at in ((22, 20, 20), (20, 24, 20), (20, 20, 21)):
        assert smoothed[at] / smoothed.max() == pytest.approx(0.5, rel=1e-3)


def test_smoothing_inside_a_mask_does_not_fade():
    mask = np.zeros((20, 20, 20), bool)
    mask[5:15, 5:15, 5:15] = True
    values = np.where(mask, 3.0, 100.0)
    values[7, 7, 7] = np.nan
    smoothed = smooth(values, np.eye(4), 4, mask)
    assert np.isnan(smoothed[7, 7, 7])
    np.testing.assert_allclose(np.delete(smoothed[mask], 222), 3, rtol=1e-5)
    assert not smoothed[~mask].any()
    with pytest.raises(ValueError, match="not finite"):
        smooth(values, np.eye(4), 4)


def test_no_width_no_smoothing():
    values = np.random.default_rng(0).normal(size=(5, 5, 5)).astype(np.float32)
    np.testing.assert_allclose(smooth(values, np.eye(4), 0), values)
    np.testing.assert_allclose(smooth(values, np.eye(4), 0, np.ones((5, 5, 5))), values)
