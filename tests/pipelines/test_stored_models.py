"""Stored models: who may explain whom, what is read back, which of several is taken."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

from models.errors import InputError
from models.grids import GRIDS, Grid
from models.training.splits import Plan, Split, split_people
from pipelines.derivatives import read_table, write_table
from pipelines.stored_models import (
    StoredModel,
    choose_model,
    column_of,
    grid_from_card,
    made_by,
    model_file,
    new_network,
    save_weights,
    write_split,
)

GRID = Grid("tiny", (46, 46, 46), 4.0, (0.0, 0.0, 0.0))
NETWORK = {"name": "demo", "dropout": 0.1}
ROLES = (
    {"a": "test", "b": "train", "c": "validation", "d": "train"},
    {"a": "train", "b": "test", "c": "train", "d": "train"},
    {"a": "validation", "b": "test", "c": "test", "d": "train"},
)


def store(output, name="tiny", roles=ROLES, weights=False):
    folder = output / f"models/model-{name}"
    folder.mkdir(parents=True)
    for number, has in enumerate(roles, start=1):
        write_split(
            Split(1, number, number, has), output / model_file(name, "split", ".tsv", number)
        )
        if weights:
            torch.manual_seed(number)
            path = output / model_file(name, "weights", ".safetensors", number)
            save_weights(new_network(NETWORK, GRID), path, f"made-{number}")
    card = {"Name": name, "Folds": len(roles), "Classes": ["CN", "AD"], "Network": NETWORK,
            "Grid": asdict(GRID)}  # fmt: skip
    (output / model_file(name, "modelcard", ".json")).write_text(json.dumps(card))
    return StoredModel(folder)


# --- who may explain whom ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("person", "folds", "known"),
    [
        ("a", [1], True),  # the fold that validated on a person has seen the person
        ("b", [2, 3], True),
        ("c", [3], True),
        ("d", [], True),  # nobody may
        ("new", [1, 2, 3], False),
    ],
)
def test_only_folds_that_never_saw_a_person_explain_the_person(tmp_path, person, folds, known):
    assert store(tmp_path).unseen_folds(person) == (folds, known)


def test_a_label_is_not_a_prefix_of_another(tmp_path):
    model = store(tmp_path, roles=({"1": "train", "10": "test"},))
    assert model.unseen_folds("10") == ([1], True)
    assert model.unseen_folds("1") == ([], True)


def test_labels_that_look_like_numbers_are_found(tmp_path):
    model = store(tmp_path, roles=({"007": "test"}, {"007": "train"}))
    assert model.unseen_folds("007") == ([1], True)
    assert model.unseen_folds("7") == ([1, 2], False)


def test_every_split_of_a_cohort_leaves_everybody_one_fold_per_repeat(tmp_path):
    labels = {f"{i:02d}": bool(i % 2) for i in range(20)}
    splits = split_people(labels, Plan(folds=4, repeats=2, validation_share=0.2))
    model = store(tmp_path, roles=[split.roles for split in splits])
    for person in labels:
        folds, known = model.unseen_folds(person)
        assert known
        assert len(folds) == 2
        assert all(splits[fold - 1].roles[person] == "test" for fold in folds)


def test_who_was_balanced_away_is_new_to_a_fold_unless_a_relative_was_seen(tmp_path):
    model = store(tmp_path, roles=({"a": "unused", "b": "related"}, {"a": "train", "b": "test"}))
    assert model.unseen_folds("a") == ([1], True)
    assert model.unseen_folds("b") == ([2], True)


def test_a_new_person_is_not_explained_by_folds_that_saw_a_relative(tmp_path):
    roles = ({"a": "train", "b": "test"}, {"a": "test", "b": "train"})
    model = store(tmp_path, roles=roles)
    table = pd.DataFrame(
        {"participant_id": ["sub-a", "sub-b", "sub-twin", "sub-alone"], "kin": [7, 8, 7, np.nan]}
    )
    write_table(tmp_path / "participants.tsv", table)
    assert model.unseen_folds("twin") == ([1, 2], False)  # the recipe names no column
    path = tmp_path / model_file("tiny", "modelcard", ".json")
    card = json.loads(path.read_text()) | {"Recipe": {"cohort": {"group": "kin"}}}
    path.write_text(json.dumps(card))
    model = StoredModel(model.folder)
    assert model.unseen_folds("twin") == ([2], False)
    assert model.unseen_folds("alone") == ([1, 2], False)
    assert model.unseen_folds("a") == ([2], True)


def test_a_lost_split_is_no_permission(tmp_path):
    model = store(tmp_path)
    (tmp_path / model_file("tiny", "split", ".tsv", 2)).unlink()
    with pytest.raises(InputError, match=r"fold-2_split\.tsv: missing"):
        model.unseen_folds("a")


def test_split_files_name_everybody_once(tmp_path):
    store(tmp_path)
    split = read_table(tmp_path / model_file("tiny", "split", ".tsv", 2))
    assert split.columns.tolist() == ["participant_id", "repeat", "fold", "division", "role"]
    assert split["participant_id"].tolist() == ["sub-a", "sub-b", "sub-c", "sub-d"]
    assert split["fold"].eq(2).all()


# --- read back -----------------------------------------------------------------------------------


def test_weights_come_back_to_the_bit(tmp_path):
    model = store(tmp_path, weights=True)
    torch.manual_seed(2)
    trained, found = new_network(NETWORK, GRID), model.network(2)
    assert not found.training
    for name, value in trained.state_dict().items():
        assert torch.equal(value, found.state_dict()[name])
    assert not torch.equal(model.network(1)[0].weight, found[0].weight)


def test_weights_know_what_they_were_made_of(tmp_path):
    model = store(tmp_path, weights=True)
    assert made_by(model.weights(3)) == "made-3"
    assert made_by(tmp_path / "nothing.safetensors") == ""
    with safe_open(model.weights(1), framework="np") as file:
        assert all(np.isfinite(file.get_tensor(key)).all() for key in file.keys())  # noqa: SIM118


def test_the_grid_comes_back_from_the_card(tmp_path):
    assert store(tmp_path).grid == GRID
    for grid in GRIDS.values():
        assert grid_from_card(json.loads(json.dumps(asdict(grid)))) == grid


def test_the_explained_output_is_the_classs(tmp_path):
    card = store(tmp_path).card
    assert (column_of(card, "CN"), column_of(card, "AD")) == (0, 1)


# --- which one -----------------------------------------------------------------------------------


def test_no_model_is_no_model(tmp_path):
    assert choose_model(tmp_path, None) is None
    assert choose_model(tmp_path / "nowhere", None) is None


def test_the_only_model_is_taken(tmp_path):
    store(tmp_path)
    assert choose_model(tmp_path, None).name == "tiny"


def test_half_a_model_is_none(tmp_path):
    store(tmp_path)
    (tmp_path / model_file("tiny", "modelcard", ".json")).unlink()  # it is written last
    assert choose_model(tmp_path, None) is None


def test_of_several_one_must_be_named(tmp_path):
    store(tmp_path, "one")
    store(tmp_path, "adt1w")
    with pytest.raises(InputError, match=r"choose by --model \(adt1w, one\)"):
        choose_model(tmp_path, None)
    assert choose_model(tmp_path, None, recipe="ad-t1w").name == "adt1w"  # the run's own
    with pytest.raises(InputError, match="several models"):
        choose_model(tmp_path, None, recipe="another")
    assert choose_model(tmp_path, "one").name == "one"
    assert choose_model(tmp_path, "ad-t1w").name == "adt1w"  # the recipe's name will do


def test_a_model_that_is_not_there(tmp_path):
    store(tmp_path)
    with pytest.raises(InputError, match=r"--model nobody: not below .* \(there: tiny\)"):
        choose_model(tmp_path, "nobody")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no model-\*_modelcard\.json"):
        choose_model(tmp_path, str(tmp_path / "empty"))


def test_a_models_folder_may_lie_anywhere_under_any_name(tmp_path, monkeypatch):
    store(tmp_path, weights=True)
    moved = tmp_path / "from a colleague"
    shutil.move(tmp_path / "models/model-tiny", moved)
    monkeypatch.chdir(moved)
    for wanted in (str(moved), f"{moved}/", "."):
        model = choose_model(tmp_path, wanted)
        assert model.name == "tiny"
        assert model.card["Classes"] == ["CN", "AD"]
        assert model.unseen_folds("a") == ([1], True)
        assert model.weights(1).exists()
