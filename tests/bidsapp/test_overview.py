"""Compared variants: every classifier in one table, and the regions of each variant."""

import pandas as pd
import pytest

from bidsapp.overview import classifiers, lesions, maps, regions
from pipelines.derivatives import write_json, write_table

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


def test_regions_before_transfer_stand_first_and_of_one_variant_only(tmp_path):
    stem = "group/mod-FLAIR_space-MNI152NLin2009cAsym_model-{}_target-MS_method-lrp{}_heatmap.tsv"
    for model in MODELS.values():
        write_table(tmp_path / stem.format(model, "_atlas-AAL"), table(1.0, 2.0))
        before = pd.DataFrame({"name": ["Brain Stem", "Insula"], "density_untrained": [0.1, 0.2]})
        before = before.assign(density_source=[0.3, len(model)], density_finetuned=9.0)
        write_table(tmp_path / stem.format(model, "_atlas-AAL_desc-transfer"), before)
    found = regions(tmp_path, MODELS, "MS").set_index("name")
    assert list(found.columns[2:]) == ["untrained", "source", "scratch", "filled"]
    assert found.loc["Insula", ["untrained", "source"]].tolist() == [0.2, len("msscratch")]


MAP = "mod-FLAIR_space-{}_model-{}_target-MS_method-lrp_stat-mean_res-3mm_desc-{}_heatmap.nii.gz"


def put_map(folder, model, desc, space="MNI"):
    path = folder / "group" / MAP.format(space, model, desc)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    return path


def test_maps_of_every_network_with_those_before_transfer_above(tmp_path):
    first = put_map(tmp_path, "msscratch", "MS")
    put_map(tmp_path, "msscratch", "HC")
    assert maps(tmp_path, MODELS, "MS") == {}  # one alone is no comparison
    second, third, fourth = (put_map(tmp_path, "msfilled", one) for one in BEFORE_AND_AFTER)
    put_map(tmp_path, "msfilled", "finetuned")
    assert list(maps(tmp_path, MODELS, "MS")["lrp"].items()) == [
        ("untrained", second),
        ("source", third),
        ("network, scratch", first),
        ("network, filled", fourth),
    ]


BEFORE_AND_AFTER = ("untrained", "source", "MS")


def test_maps_of_two_spaces_are_not_put_below_each_other(tmp_path):
    put_map(tmp_path, "msscratch", "MS")
    put_map(tmp_path, "msfilled", "MS", space="T1w")
    assert maps(tmp_path, MODELS, "MS") == {}


def test_what_lesions_get_by_every_network(tmp_path):
    path = tmp_path / (
        "group/mod-FLAIR_space-MNI_model-msfilled_target-MS_method-lrp_desc-lesions_heatmap.tsv"
    )
    people = pd.DataFrame(
        {
            "participant_id": [f"sub-{who}" for who in "aabcdh"],  # two images of the first
            "label": [*["MS"] * 5, "HC"],
            "lesion_voxels": [9, 8, 5, 0, None, 3],
        }
    )
    write_table(path, people)
    means = {"MS": {"lesion_relevance": 0.1, "lesion_coverage": 0.01, "auc": None}}
    write_json(path.with_suffix(".json"), {"Means": means})
    found = lesions(tmp_path, MODELS, "MS")
    assert len(found) == 1
    row = found.iloc[0]
    assert (row["variant"], row["method"], row["patients"]) == ("filled", "lrp", 3)
    assert (row["lesion_relevance"], row["lesion_coverage"]) == (0.1, 0.01)
    assert pd.isna(row["auc"])
    assert lesions(tmp_path, {"scratch": "msscratch"}, "MS").empty
