"""Which stored fold a training starts from, and what would leak."""

import json
from dataclasses import asdict

import pandas as pd
import pytest
import torch

from models.errors import InputError
from models.grids import Grid
from models.training.splits import Split
from models.training.transfer import Transfer
from pipelines.derivatives import write_table
from pipelines.stored_models import model_file, new_network, save_weights, write_split
from pipelines.transfer import check_images, images_file, plan_starts, start, write_images

GRID = Grid("tiny", (22, 22, 22), 4.0, (0.0, 0.0, 0.0))
NETWORK = {"name": "demo"}
ROLES = (
    {"a": "test", "b": "train", "c": "validation", "d": "train"},
    {"a": "train", "b": "test", "c": "train", "d": "validation"},
    {"a": "validation", "b": "train", "c": "test", "d": "test"},
)
SPLITS = [Split(1, number, number, roles) for number, roles in enumerate(ROLES, start=1)]


def history(accuracy, loss):
    """Two epochs; the first would be the better one, but the second was kept."""
    columns = ["epoch", "validation_balanced_accuracy", "validation_loss", "selected"]
    return pd.DataFrame([(1, 0.99, 0.01, 0.0), (2, accuracy, loss, 1.0)], columns=columns)


def store(output, name="source", scores=((0.7, 0.5), (0.8, 0.6), (0.8, 0.4)), roles=ROLES):
    for number, (has, score) in enumerate(zip(roles, scores, strict=True), start=1):
        path = output / model_file(name, "split", ".tsv", number)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_split(Split(1, number, number, has), path)
        write_table(output / model_file(name, "history", ".tsv", number), history(*score))
        torch.manual_seed(number)
        weights = output / model_file(name, "weights", ".safetensors", number)
        save_weights(new_network(NETWORK, GRID), weights, f"made-{number}")
    card = {
        "Name": name,
        "Folds": len(roles),
        "Classes": ["CN", "AD"],
        "Network": NETWORK,
        "Grid": asdict(GRID),
        "Protocol": {"select": "validation_balanced_accuracy"},
    }
    (output / model_file(name, "modelcard", ".json")).write_text(json.dumps(card))
    write_images(
        output / images_file(name),
        [(person, "") for person in roles[0]],
        [f"hash-{person}" for person in roles[0]],
    )


def plan(output, splits=SPLITS, table=NETWORK, trained="target", networks=(), grid=GRID, **options):
    return plan_starts(
        Transfer(**{"model": "source"} | options),
        splits,
        model=trained,
        networks=networks or [new_network(NETWORK, GRID)],
        table=table,
        output_dir=output,
        grid=grid,
    )


def others(splits=SPLITS):
    """The same splits of people of other names."""
    return [
        Split(s.repeat, s.fold, s.number, {f"x{p}": role for p, role in s.roles.items()})
        for s in splits
    ]


def test_without_a_model_nothing_is_taken(tmp_path):
    starts = plan(tmp_path, model="")
    assert starts.folds == [{}, {}, {}]
    assert starts.provenance is None


def test_new_people_start_from_the_fold_of_the_best_kept_epoch(tmp_path):
    store(tmp_path)
    starts = plan(tmp_path, others())
    assert [one["fold"] for one in starts.folds] == [3, 3, 3]  # .8 twice: the lower loss
    assert starts.warnings == []
    assert starts.provenance["Folds"][1] == {
        "Fold": 2,
        "Source": 3,
        "SourceFingerprint": "made-3",
    }


@pytest.mark.parametrize(
    "grid",
    [Grid("tiny", GRID.shape, 2.0, GRID.origin_mm), Grid("tiny", GRID.shape, 4.0, (8.0, 0.0, 0.0))],
)
def test_weights_that_fit_another_grid_are_taken_with_a_word(tmp_path, grid):
    """As many voxels of another size or place: no shape tells."""
    store(tmp_path)
    starts = plan(tmp_path, others(), grid=grid)
    assert [one["fold"] for one in starts.folds] == [3, 3, 3]
    (said,) = starts.warnings
    assert "was trained on grid tiny (22x22x22 voxels of 4 mm)" in said
    assert f"voxels of {grid.voxel_mm:g} mm): what its filters learnt" in said


def test_the_same_people_start_from_folds_that_never_saw_whom_they_test(tmp_path):
    store(tmp_path)
    starts = plan(tmp_path)
    assert [one["fold"] for one in starts.folds] == [1, 2, 3]
    assert starts.warnings == []


def test_validation_people_of_the_source_count_as_seen(tmp_path):
    store(tmp_path)
    only_c = [Split(1, 1, 1, {"c": "test", "a": "train", "b": "train"})]
    assert plan(tmp_path, only_c).folds[0]["fold"] == 3  # fold 1 validated on c


def test_relatives_of_the_sources_people_count_as_seen(tmp_path):
    store(tmp_path, roles=[roles | {"e": "related"} for roles in ROLES])
    only_e = [Split(1, 1, 1, {"e": "test", "a": "train", "b": "train"})]
    with pytest.raises(InputError, match=r"was trained on sub-e"):
        plan(tmp_path, only_e)


def test_a_source_that_itself_started_from_another_is_told(tmp_path):
    store(tmp_path)
    path = tmp_path / model_file("source", "modelcard", ".json")
    card = json.loads(path.read_text()) | {"Transfer": {"Model": "first"}}
    path.write_text(json.dumps(card))
    assert "itself started from model first" in plan(tmp_path, others()).warnings[0]


def test_every_network_of_a_search_must_take_the_weights(tmp_path):
    store(tmp_path)
    networks = [new_network({**NETWORK, "outputs": n}, GRID) for n in (2, 1)]
    with pytest.raises(InputError, match="head = 'new' takes over everything but this last layer"):
        plan(tmp_path, networks=networks)
    assert plan(tmp_path, networks=networks, head="new").folds[0]["fold"] == 1


def test_the_same_dataset_is_refused_when_every_fold_knows_a_test_person(tmp_path):
    store(tmp_path)
    crossed = [Split(1, 1, 1, {"a": "test", "b": "test", "c": "train", "d": "train"})]
    with pytest.raises(InputError, match=r"model source: was trained on sub-a and 1 more .*fold 1"):
        plan(tmp_path, crossed)
    with pytest.raises(InputError, match=r"was trained on sub-a"):
        plan(tmp_path, SPLITS[:1], fold=2)
    assert plan(tmp_path, SPLITS[:1], fold=1).folds[0]["fold"] == 1


def test_the_same_names_elsewhere_are_warned_of(tmp_path):
    store(tmp_path / "there")
    folder = str(tmp_path / "there/models/model-source")
    crossed = [Split(1, 1, 1, {"a": "test", "b": "test", "c": "train", "d": "train"})]
    starts = plan(tmp_path / "here", crossed, model=folder)
    assert starts.folds[0]["fold"] == 3  # the best, as none is clean
    assert "same names as 2 who are tested here (sub-a, sub-b)" in starts.warnings[0]
    assert starts.provenance["Warnings"] == starts.warnings


def test_the_same_image_under_another_name_stops_the_fold(tmp_path):
    store(tmp_path)
    one = plan(tmp_path, others()).folds[0]  # fold 3, which tested c and d
    check_images(one, {"sub-xc": "hash-c", "sub-xd": "hash-d", "sub-xe": "hash-e"})
    with pytest.raises(InputError, match=r"fold 3: .*\(sub-xb = sub-b there\)"):
        check_images(one, {"sub-xb": "hash-b", "sub-xc": "hash-c"})
    check_images({}, {"sub-xb": "hash-b"})


def test_a_source_that_names_no_images_is_warned_of(tmp_path):
    store(tmp_path)
    (tmp_path / images_file("source")).unlink()
    starts = plan(tmp_path, others())
    assert "could be checked by names only" in starts.warnings[0]
    check_images(starts.folds[0], {"sub-xb": "hash-b"})


def test_the_weights_of_that_fold_are_put_in(tmp_path):
    store(tmp_path)
    network = new_network(NETWORK, GRID)
    start(network, plan(tmp_path, freeze=("0",)).folds[1])
    torch.manual_seed(2)
    expected = new_network(NETWORK, GRID).state_dict()
    assert all(torch.equal(value, expected[n]) for n, value in network.state_dict().items())
    assert not network[0].weight.requires_grad
    assert network[1].weight.requires_grad


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "nobody"}, r"\[training.transfer\] model nobody: not below"),
        ({"fold": 9}, r"fold = 9: model source has the folds 1 to 3"),
    ],
)
def test_what_is_not_there_is_refused(tmp_path, options, words):
    store(tmp_path)
    with pytest.raises(InputError, match=words):
        plan(tmp_path, **options)


def test_another_network_and_the_model_itself_are_refused(tmp_path):
    store(tmp_path)
    with pytest.raises(
        InputError, match="model source: is demo, and the recipe asks for rieke2018"
    ):
        plan(tmp_path, table={"name": "rieke2018"})
    with pytest.raises(InputError, match="is the one that is to be trained"):
        plan(tmp_path, trained="source")


def test_without_validation_the_fold_must_be_named(tmp_path):
    nan = float("nan")
    store(tmp_path, scores=((nan, nan),) * 3)
    with pytest.raises(InputError, match="name one by fold = N"):
        plan(tmp_path, others())
    assert plan(tmp_path, others(), fold=2).folds[0]["fold"] == 2
