"""Compared variants: every classifier in one table, and the regions of each variant."""

import pandas as pd
import pytest

from bidsapp.overview import classifiers, regions
from pipelines.derivatives import write_table

MODELS = {"scratch": "msscratch", "filled": "msfilled"}


def test_baselines_stand_above_the_networks(tmp_path):
    scores = pd.DataFrame(
        [
            (variant, metric, value)
            for variant, values in (("scratch", (0.6, 0.8)), ("filled", (0.5, 0.6)))
            for metric in ("balanced_accuracy", "roc_auc")
            for value in values
        ],
        columns=["variant", "metric", "value"],
    )
    alone = classifiers(tmp_path, scores, MODELS)
    assert alone["classifier"].tolist() == ["network, scratch", "network, filled"]
    assert alone["balanced_accuracy"].tolist() == pytest.approx([0.7, 0.55])
    assert alone["trainings"].tolist() == [2, 2]
    assert alone["sensitivity"].isna().all()
    rows = [
        (name, "roc_auc", value)
        for name, value in (("network", 0.7), ("svm_lesions", 0.9), ("svm_voxels", 0.6))
    ]
    table = pd.DataFrame(rows, columns=["classifier", "metric", "value"])
    write_table(tmp_path / "group/model-msscratch_desc-baselines_metrics.tsv", table)
    write_table(tmp_path / "group/model-msfilled_desc-baselines_metrics.tsv", table)
    every = classifiers(tmp_path, scores, MODELS)
    assert every["classifier"].tolist()[:2] == [
        "linear SVM on the lesion volume, images of scratch",
        "linear SVM on the voxels, images of scratch",
    ]
    assert every["roc_auc"].tolist() == pytest.approx([0.9, 0.6, 0.7, 0.55])


def table(left, right):
    return pd.DataFrame(
        {
            "index": [1, 2, 3],
            "name": ["Left Insula", "Right Insula", "Brain Stem"],
            "voxels": [10, 30, 5],
            "sum_MS": [left * 10, right * 30, 5.0],
            "density_MS": [left, right, 1.0],
        }
    )


def test_regions_of_variants_stand_beside_each_other(tmp_path):
    stem = "group/mod-FLAIR_space-MNI152NLin2009cAsym_model-{}_target-MS_method-lrp{}_heatmap.tsv"
    for model, (left, right) in (("msscratch", (1.0, 2.0)), ("msfilled", (0.0, 4.0))):
        write_table(tmp_path / stem.format(model, "_atlas-AAL"), table(left, right))
        write_table(tmp_path / stem.format(model, "_atlas-AAL_desc-ranking"), table(9.0, 9.0))
    found = regions(tmp_path, MODELS, "MS").set_index("name")
    assert list(found.columns) == ["method", "atlas", "scratch", "filled"]
    assert found.loc["Insula", "scratch"] == pytest.approx((10 + 60) / 40)
    assert found.loc["Insula", "filled"] == pytest.approx(120 / 40)
    assert found.loc["Brain Stem", ["scratch", "filled"]].tolist() == [1.0, 1.0]


def test_one_variant_with_regions_is_no_comparison(tmp_path):
    name = "group/mod-FLAIR_space-X_model-msscratch_target-MS_method-lrp_atlas-AAL_heatmap.tsv"
    write_table(tmp_path / name, table(1.0, 2.0))
    assert regions(tmp_path, MODELS, "MS").empty
