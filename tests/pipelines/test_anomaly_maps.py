"""One person's anomaly maps as files: what the table of regions says of them."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from models.anomaly.scores import Normal, PersonMaps, abnormal_percent
from models.grids import GRIDS
from pipelines.anomaly_maps import AnomalyNames, anomaly_products
from pipelines.atlases import Atlas
from pipelines.heatmaps import Regions

GRID = replace(GRIDS["3mm"], shape=(16, 18, 14))


@pytest.fixture
def person(tmp_path):
    """Three splits that judge a person otherwise, slices 0 and 1 not scored; regions 7 and 9."""
    rng = np.random.default_rng(0)
    brain = np.zeros(GRID.shape, bool)
    brain[2:-2, 2:-2, 1:-1] = True
    labels = np.zeros(GRID.shape, int)
    labels[3:6, 3:-3, 2:6], labels[8:12, 3:-3, 2:9], labels[6, 6, 0] = 7, 9, 11
    image = rng.random((2, int(brain.sum())))
    levels = np.nonzero(brain)[2]
    splits = []
    for threshold in (0.3, 0.5, 0.6):
        found = rng.random(image.shape)
        found[:, levels < 3] = np.nan
        shape = image.shape[1]
        splits.append((found, Normal(np.full(shape, 0.4), np.full(shape, 0.1), threshold)))
    maps = PersonMaps.over(image, splits)
    names = AnomalyNames("tiny", "dwimap", ("md", "fa"), GRID, brain)
    table = pd.DataFrame({"index": [7, 9, 11], "name": ["A_L", "B_R", "none"]})
    regions = Regions(Atlas("own", tmp_path / "own.nii.gz", table, "", "", "", ""), labels)
    products = anomaly_products(
        tmp_path, {"sub": "01", "ses": ""}, "ae", maps, {"whole brain": 12.5}, {}, names, regions,
        np.ones(GRID.shape, np.float32),
    )  # fmt: skip
    return image, splits, labels[brain], brain, products


def test_percentages_of_regions_are_means_over_the_splits(person):
    image, splits, labels, _, products = person
    (path,) = [one for one in products if one.endswith(".tsv")]
    table = pd.read_csv(products[path]["file"], sep="\t", na_values="n/a").set_index("name")
    assert products[path]["sidecar"]["percent"]["Description"] == "Mean over the splits"
    for name, index in (("A_L", 7), ("B_R", 9)):
        slow = []
        for found, normal in splits:
            error = np.sqrt(((image - found) ** 2).sum(0))
            scored = np.isfinite(error)
            inside = {name: labels == index}
            slow.append(abnormal_percent(error > normal.threshold, scored, inside)[name])
        assert table.loc[name, "percent"] == pytest.approx(np.mean(slow), rel=1e-5)
        assert table.loc[name, "voxels"] == (scored & (labels == index)).sum()
    assert table.loc["none", "voxels"] == 0
    assert np.isnan(table.loc["none", ["percent", "mean_z"]].astype(float)).all()
    assert table.loc["whole brain", "percent"] == 12.5


def test_counts_and_numbers_of_regions_are_written_whole(person):
    *_, products = person
    (path,) = [one for one in products if one.endswith(".tsv")]
    table = pd.read_csv(products[path]["file"], sep="\t", dtype=str).set_index("name")
    assert table.loc[["A_L", "B_R"], "index"].tolist() == ["7", "9"]
    assert table.loc[["A_L", "B_R"], "voxels"].str.isdigit().all()


def test_the_mask_is_what_most_splits_call_abnormal(person):
    image, splits, _, brain, products = person
    (path,) = [one for one in products if "label-anomaly" in one]
    mask = np.asarray(nib.load(products[path]["file"]).dataobj) > 0
    called = sum(
        np.nan_to_num(np.sqrt(((image - found) ** 2).sum(0)), nan=-1) > normal.threshold
        for found, normal in splits
    )
    assert np.array_equal(mask[brain], called >= 2)
    assert not mask[~brain].any()
