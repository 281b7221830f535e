"""Who was on which side, in plain words."""

import json

import pandas as pd

from bidsapp.report.division import division
from bidsapp.report.methods import methods_text
from bidsapp.report.performance import measures, repeats_table, spread, subsets_table, verdict
from bidsapp.report.shelf import Shelf
from pipelines.derivatives import write_table


def folder(tmp_path, splits, duplicates=None):
    """A model whose folds have these roles: (repeat, fold, division, roles)."""
    place = tmp_path / "models" / "model-tiny"
    for number, (repeat, fold, part, roles) in enumerate(splits, start=1):
        rows = [(f"sub-{who}", repeat, fold, part, role) for who, role in roles]
        columns = ["participant_id", "repeat", "fold", "division", "role"]
        write_table(
            place / f"model-tiny_fold-{number}_split.tsv", pd.DataFrame(rows, columns=columns)
        )
    (place / "model-tiny_modelcard.json").write_text(json.dumps({"Folds": len(splits)}))
    if duplicates:
        (tmp_path / "group").mkdir()
        (tmp_path / "group/model-tiny_duplicates.json").write_text(json.dumps(duplicates))
    return Shelf(tmp_path)


PEOPLE = pd.DataFrame(
    {
        "participant_id": [f"sub-{i}" for i in range(4)],
        "label": ["AD", "CN", "AD", "CN"],
        "age": [60, 70, 80, 90],
        "Sex": ["F", "F", "M", "F"],
    }
)
FOLDS = [
    (1, 1, 1, [("0", "test"), ("1", "test"), ("2", "train"), ("3", "train")]),
    (1, 2, 1, [("0", "train"), ("1", "train"), ("2", "test"), ("3", "test")]),
]


def test_folds_are_described_and_images_were_compared(tmp_path):
    checked = {"Images": 5, "People": 4, "NearThreshold": 0.5, "Warnings": []}
    found = division(folder(tmp_path, FOLDS, checked), "tiny", PEOPLE, ["AD", "CN"], {})
    assert found.parts.columns == [
        *("", "People", "AD", "CN", "Age, mean (SD)", "Sex: F", "Sex: M")
    ]
    half, none = "50\u00a0%", "0\u00a0%"
    assert found.parts.rows[0][:5] == ["Fold 1", "2", half, half, "65.0 (7.1)"]
    assert found.parts.rows[0][5:] == ["100\u00a0%", none]
    assert found.parts.rows[1][-2:] == ["50\u00a0%", "50\u00a0%"]
    said = " ".join(found.sentences)
    assert "on one side of each of 2 splits" in said
    assert "The voxels of 5 images of 4 people were compared: no two people" in said
    assert "No two people are so much alike" in said
    assert not found.warnings


def test_a_hold_out_shows_its_sides_and_who_was_balanced_away(tmp_path):
    roles = [("0", "test"), ("1", "validation"), ("2", "train"), ("3", "unused")]
    other = [("0", "unused"), ("1", "test"), ("2", "train"), ("3", "unused")]
    shelf = folder(tmp_path, [(1, 1, 1, roles), (2, 1, 2, other)])
    found = division(shelf, "tiny", PEOPLE, ["AD", "CN"], {"group": "twin"})
    assert [row[0] for row in found.parts.rows] == ["Training", "Validation", "Test"]
    assert "the first of 2 divisions" in found.parts.caption
    said = " ".join(found.sentences)
    assert "Relatives (column twin)" in said
    assert "1 to 2 people were left out of each of 2 divisions, drawn anew" in said
    assert "In no training or test took part: sub-3" in said
    assert "was not recorded" in said


def test_alike_people_and_two_sides_are_told(tmp_path):
    doubled = [(1, 1, 1, [("0", "test"), ("0", "train"), ("1", "train")])]
    warning = "sub-0 and sub-1 are very much alike (correlation 0.71): twins?"
    checked = {"Images": 2, "People": 2, "NearThreshold": 0.5, "Warnings": [warning]}
    found = division(folder(tmp_path, doubled, checked), "tiny", PEOPLE, ["AD", "CN"], {})
    assert "Somebody is on two sides of a split: sub-0" in found.sentences[0]
    assert found.warnings == [warning]
    assert "must be feared" not in " ".join(found.sentences)


def test_without_split_tables_nothing_is_claimed(tmp_path):
    assert division(Shelf(tmp_path), "tiny", PEOPLE, ["AD", "CN"], {}) is None


def test_spread_over_repeats_is_told_with_its_limit():
    repeats = pd.DataFrame({"division": [1, 1, 2], "balanced_accuracy": [0.5, 0.6, 0.7]})
    said = spread(repeats)
    assert "Each of 3 repeats on 2 divisions" in said
    assert "50\u00a0% to 70\u00a0%, on average 60\u00a0%" in said
    assert "share people" in said
    assert spread(repeats[:1]) is None


def test_the_table_over_repeats():
    table = pd.DataFrame(
        {
            "metric": ["balanced_accuracy", "brier", "calibration_slope"],
            "mean": [0.6, 0.2, float("nan")],
            "sd": [0.1, 0.02, float("nan")],
            "se": [0.05, 0.01, float("nan")],
            "n_repeats": [4, 4, float("nan")],
            "splits_low": [0.4, float("nan"), float("nan")],
            "splits_high": [0.8, float("nan"), float("nan")],
        }
    )
    found = repeats_table(table, "95 % CI")
    assert found.rows == [
        ["Balanced accuracy", "60\u00a0%", "10\u00a0%", "5\u00a0%", "40\u00a0% to 80\u00a0%"],
        ["Brier score (0 is best)", "0.20", "0.02", "0.01", "–"],
    ]
    alone = table.assign(n_repeats=[1, 1, float("nan")], splits_low=float("nan"))
    assert repeats_table(alone, "95 % CI") is None
    assert repeats_table(table[["metric"]], "95 % CI") is None


def test_an_interval_that_covers_chance_is_said_so():
    people = pd.DataFrame({"label": ["AD", "CN"]})
    row = {"metric": "balanced_accuracy", "value": 0.6, "ci_low": 0.45, "ci_high": 0.75}
    found = measures(pd.DataFrame([row]), people)
    assert "chance is 50\u00a0%, which the interval covers" in verdict(found, "95 % CI")
    found = measures(pd.DataFrame([row | {"ci_low": 0.55}]), people)
    assert "which the interval covers" not in verdict(found, "95 % CI")


def test_the_methods_text_tells_how_people_were_divided():
    training = {
        "folds": 5,
        "runs": 3,
        "stratify": ["sex", "age:5"],
        "balance": {"column": "sex", "within": ["age:5"]},
        "threshold": "validation",
    }
    said = str(methods_text({"training": training, "network": {"name": "demo"}}, {}))
    assert "all parts have their share of sex and age" in said
    assert "sex was balanced in each class within bins of age" in said
    assert "Each division was trained on 3 times with other seeds" in said
    assert "best balanced accuracy on its validation people" in said
    held = {"split": "holdout", "test_share": 0.2, "test_people": 60}
    said = str(methods_text({"training": held, "network": {"name": "demo"}}, {}))
    assert "held out for testing (60 people)" in said
    assert "other seeds" not in said


def test_table_of_training_and_test_images_counts_people_in_whole_numbers():
    table = pd.DataFrame(
        {
            "metric": ["TP", "accuracy", "brier"], "training": [10.0, 1.0, 0.02],
            "testing": [9.0, 0.85, 0.14], "training_images": 20, "testing_images": 20,
        }
    )  # fmt: skip
    found = subsets_table(table)
    assert [row[1:] for row in found.rows] == [
        ["10", "9"],
        ["100\u00a0%", "85\u00a0%"],
        ["0.02", "0.14"],
    ]
    assert found.columns == ["", "Training (20 images)", "Testing (20 images)"]
