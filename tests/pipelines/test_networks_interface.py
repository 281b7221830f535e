"""What makes a fold, and what may stand in for it."""

import json
import sys
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from shutil import copyfile

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import is_alive, number_in, wait_for
from safetensors.torch import load_file

from models.errors import InputError
from models.grids import Grid
from models.training.checkpoint import save as save_checkpoint
from models.volumes import write_cache
from pipelines.derivatives import place, read_table, remove_older, write_table
from pipelines.images import network_input, write_nifti
from pipelines.interfaces.attribution import check_values
from pipelines.interfaces.networks import TrainFold
from pipelines.interfaces.sink import SaveProducts
from pipelines.programs import descendants
from pipelines.stored_models import StoredModel, made_by, sealed
from pipelines.together import devices_of

GRID = Grid("22", (22, 22, 22), 3.0, (0.0, 0.0, 0.0))
PEOPLE = ("01", "02", "03", "04", "05", "06")
ROLES = dict.fromkeys(PEOPLE[:4], "train") | dict.fromkeys(PEOPLE[4:], "test")


@pytest.fixture
def cohort(tmp_path):
    rng = np.random.default_rng(0)
    volumes = [rng.normal(size=(1, *GRID.shape)) for _ in PEOPLE]
    cache = write_cache(tmp_path / "cache", [(p, "") for p in PEOPLE], volumes, GRID)
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{p}" for p in PEOPLE],
            "session_id": "",
            "image": "x",
            "positive": [True, False] * 3,
            "train": True,
            "test": True,
        }
    )
    return table, cache


def train(folder, cohort, output_dir, **inputs):
    """Run one fold in ``folder``, save it to ``output_dir`` and say what it was made of."""
    table, cache = cohort
    inputs = {
        "network": {"name": "demo"},
        "model": "m",
        "split": {"repeat": 1, "fold": 1, "number": 1, "roles": ROLES},
        "protocol": {"epochs": 1, "select": "last", "patience": 0},
    } | inputs
    folder.mkdir(exist_ok=True)
    write_table(folder / "cohort.tsv", table)
    fold = TrainFold(
        cache=str(folder.parent / "cache"),
        content_hash=cache.content_hash,
        cohort=folder / "cohort.tsv",
        seed=0,
        stored=str(output_dir),
        **inputs,
    )
    outputs = fold.run(cwd=folder).outputs
    for relative, product in outputs.products.items():
        place(product["file"], output_dir / relative)
    return made_by(Path(outputs.weights))


def test_a_stored_fold_is_taken_only_for_the_same_labels_and_uses(cohort, tmp_path):
    table, cache = cohort
    output_dir = tmp_path / "out"
    first = train(tmp_path / "a", cohort, output_dir)
    assert train(tmp_path / "b", cohort, output_dir) == first
    assert not list((tmp_path / "b").glob("checkpoint-*"))  # nothing was trained
    inverted = table.assign(positive=~table["positive"])
    assert train(tmp_path / "c", (inverted, cache), output_dir) != first
    assert list((tmp_path / "c").glob("checkpoint-*"))
    fewer = table.assign(train=[True] * 3 + [False] + [True] * 2)
    assert train(tmp_path / "d", (fewer, cache), output_dir) != first


OWN = """\
from torch import nn


def build(shape, *, channels=1, outputs=2, width=2):
    return nn.Sequential(
        nn.Conv3d(channels, width, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool3d(2), nn.Flatten(),
        nn.Linear(8 * width, outputs),
    )
"""


def test_a_users_network_of_one_logit_is_trained_stored_and_rebuilt(cohort, tmp_path):
    file = tmp_path / "mynet.py"
    file.write_text(OWN)
    network = sealed({"file": str(file), "outputs": 1, "width": 3})
    first = train(tmp_path / "a", cohort, tmp_path / "out", network=network)
    scores, seen = (read_table(tmp_path / f"a/{name}.tsv") for name in ("scores", "seen"))
    assert not set(scores["participant_id"]) & set(seen["participant_id"])
    assert (
        len(seen)
        == (cohort[0]["train"] & ~cohort[0]["participant_id"].isin(scores["participant_id"])).sum()
    )
    odds = np.log(scores["probability"] / (1 - scores["probability"]))
    assert np.allclose(odds, scores["score"], atol=1e-5)

    # A copy lies in the model's folder, which is enough to build the network again.
    table = network | {"file": "model-m_network.py"}
    card = {"Network": table, "Grid": asdict(GRID), "Folds": 1, "Classes": ["CN", "AD"]}
    model = StoredModel(tmp_path / "out/models/model-m")
    (model.folder / "model-m_modelcard.json").write_text(json.dumps(card))
    file.unlink()
    batch = torch.from_numpy(np.stack([cohort[1].volumes[row] for row in (4, 5)]).astype("f4"))
    with torch.no_grad():
        again = model.network(1)(batch)
    assert np.allclose(again[:, 0], scores["score"], atol=1e-5)

    # The file's content makes the fold, its place does not.
    moved = tmp_path / "elsewhere.py"
    moved.write_text(OWN)
    network = sealed({"file": str(moved), "outputs": 1, "width": 3})
    assert train(tmp_path / "b", cohort, tmp_path / "out", network=network) == first
    assert not list((tmp_path / "b").glob("checkpoint-*"))
    moved.write_text(OWN + "# changed\n")
    network = sealed({"file": str(moved), "outputs": 1, "width": 3})
    assert train(tmp_path / "c", cohort, tmp_path / "out", network=network) != first
    (model.folder / "model-m_network.py").write_text(OWN.replace("ReLU", "ELU"))
    with pytest.raises(InputError, match=r"model-m_network\.py: was changed after"):
        model.new_network()


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"\[network\] file /nowhere/net\.py: cannot be read"):
        sealed({"file": "/nowhere/net.py"})


def test_a_fold_that_starts_from_a_stored_one_is_another_fold(cohort, tmp_path):
    out = tmp_path / "out"
    first = train(tmp_path / "a", cohort, out, model="source")
    plan = {"model": str(out / "models/model-source"), "name": "source", "fold": 1,
            "fingerprint": first, "freeze": ["0", "1"], "head": "new"}  # fmt: skip
    second = train(tmp_path / "b", cohort, out, transfer=plan)
    assert second != first
    one, other = (
        load_file(out / f"models/model-{m}/model-{m}_fold-1_weights.safetensors")
        for m in ("source", "m")
    )
    frozen = [name for name in one if name.startswith(("0.", "1."))]
    assert len(frozen) == 7
    assert all(torch.equal(one[name], other[name]) for name in frozen)
    assert not torch.equal(one["4.weight"], other["4.weight"])
    assert train(tmp_path / "c", cohort, out, transfer=plan | {"head": "keep"}) != second


def test_a_fold_does_not_start_from_a_network_that_knows_its_test_images(cohort, tmp_path):
    cache = cohort[1]
    first = train(tmp_path / "a", cohort, tmp_path / "out", model="source")
    plan = {"model": str(tmp_path / "out/models/model-source"), "name": "source", "fold": 1,
            "fingerprint": first, "freeze": [], "head": "keep"}  # fmt: skip
    fold = TrainFold(
        cache=str(tmp_path / "cache"), content_hash=cache.content_hash,
        cohort=tmp_path / "a/cohort.tsv", network={"name": "demo"}, seed=0, model="m",
        split={"repeat": 1, "fold": 1, "number": 1,
               "roles": dict.fromkeys(PEOPLE[2:], "train") | dict.fromkeys(PEOPLE[:2], "test")},
        protocol={"epochs": 1, "select": "last"}, transfer=plan,
    )  # fmt: skip
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match=r"sub-01 = sub-01 there, sub-02 = sub-02 there"):
        fold.run(cwd=tmp_path / "b")


def test_two_processes_train_a_fold_as_one_does(cohort, tmp_path):
    (tmp_path / "net.py").write_text(OWN.replace("nn.ReLU()", "nn.ELU()"))
    network = sealed({"file": str(tmp_path / "net.py"), "outputs": 1})
    alone = train(tmp_path / "a", cohort, tmp_path / "one", network=network)
    both = train(tmp_path / "b", cohort, tmp_path / "two", network=network, processes=2)
    assert alone == both  # how many processes there were decides nothing
    one, two = (
        load_file(tmp_path / f"{name}/models/model-m/model-m_fold-1_weights.safetensors")
        for name in ("one", "two")
    )
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    files = [f"{folder}/model-m_fold-1_history.tsv" for folder in "ab"]
    losses = [read_table(tmp_path / file)["train_loss"].iloc[0] for file in files]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert list((tmp_path / "b").glob("job-*.json"))


WAITING = """\
import os
import time
from pathlib import Path

from torch import nn


def build(shape, *, channels=1, outputs=2):
    if "LOCAL_RANK" in os.environ:
        Path({folder!r}, os.environ["LOCAL_RANK"]).write_text(str(os.getpid()))
        time.sleep(60)
    return nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(8 * channels, outputs))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes end with their starter on Linux")
def test_processes_of_a_fold_die_with_who_trains_it(cohort, tmp_path):
    """Killed, it can end nobody, and torchrun puts each process into a session of its own."""
    (tmp_path / "net.py").write_text(WAITING.format(folder=str(tmp_path)))
    network = sealed({"file": str(tmp_path / "net.py")})
    worker = get_context("fork").Process(
        target=train,
        args=(tmp_path / "a", cohort, tmp_path / "out"),
        kwargs={"network": network, "processes": 2},
    )
    worker.start()
    ranks = {number_in(tmp_path / rank) for rank in "01"}
    below = descendants(worker.pid)
    assert ranks < below  # and torchrun
    assert all(map(is_alive, below))
    worker.kill()
    worker.join()
    wait_for(lambda: not any(map(is_alive, below)), 10)


def test_what_a_process_of_several_cannot_use_is_told(cohort, tmp_path):
    table, cache = cohort
    with pytest.raises(InputError, match="training part of this fold has one class only"):
        train(tmp_path / "a", (table.assign(positive=True), cache), tmp_path, processes=2)


def test_processes_get_gpus_in_a_row():
    assert devices_of("cuda", 2) == ["cuda:0", "cuda:1"]
    assert devices_of("cuda:4", 2) == ["cuda:4", "cuda:5"]
    assert devices_of("cpu", 3) == ["cpu"] * 3


def test_a_killed_fold_finds_its_checkpoint_again():
    assert TrainFold.can_resume  # else nipype empties the folder


def test_a_coarser_grid_keeps_to_the_brain(tmp_path):
    head = np.zeros((40, 40, 40), np.float32)
    head[10:30, 10:30, 10:30] = 100
    path = tmp_path / "brain.nii.gz"
    write_nifti(path, head, np.eye(4), template=True)
    grid = Grid("2", (20, 20, 20), 2.0, (0.5, 0.5, 0.5))
    seen = network_input(path, grid, "max")[0]
    assert (seen != 0).sum() == 10**3  # the same 8000 mm3


def test_a_half_replaced_model_has_no_card(tmp_path):
    card = tmp_path / "out/models/model-m/model-m_modelcard.json"
    card.parent.mkdir(parents=True)
    card.write_text("{}")
    lost = {"models/model-m/a.tsv": {"file": str(tmp_path / "gone"), "sidecar": None}}
    new = {"models/model-m/model-m_modelcard.json": {"file": str(card), "sidecar": None}}
    with pytest.raises(FileNotFoundError):
        SaveProducts(output_dir=str(tmp_path / "out"), products=[lost, new]).run(cwd=tmp_path)
    assert not card.exists()


def test_only_older_files_of_the_model_are_removed(tmp_path):
    names = ["group/model-m_a.tsv", "group/model-mm_a.tsv", "group/mod-T1w_contrast-x_statmap.tsv"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    written = (tmp_path / names[0]).stat().st_mtime
    assert remove_older(tmp_path, "m", before=written) == 0
    assert remove_older(tmp_path, "m", before=written + 60) == 1
    assert [(tmp_path / name).exists() for name in names] == [False, True, True]


@pytest.mark.parametrize(
    "attribution",
    [
        {"name": "a", "method": "lrp_alpha_beta", "beta": -1.0},
        {"name": "a", "method": "lrp_epsilon", "start": "x"},
        {"name": "a", "method": "lrp_epsilon", "bias": "x"},
        {"name": "a", "method": "saliency", "form": "x"},
        {"name": "a", "method": "diktiometry", "measure": "x"},
    ],
)
def test_impossible_values_are_refused_before_training(attribution):
    with pytest.raises(InputError):
        check_values(attribution)


def test_possible_values_of_tensors_pass():
    check_values({"name": "a", "method": "diktiometry", "measure": "muhat"})


# --- random search -------------------------------------------------------------------------------


SEARCH = {
    "draws": 3,
    "space": {"network.width": [2, 3], "training.protocol.learning_rate": [1e-3, 1e-2]},
    "each": "network.width",
    "at_least": 1,
}
VALIDATED = ROLES | {"03": "validation", "04": "validation"}


def search(folder, cohort, output_dir, **inputs):
    file = output_dir.parent / "mynet.py"
    file.write_text(OWN)
    protocol = {"epochs": 2, "select": "validation_loss", "patience": 0}
    split = {"repeat": 1, "fold": 1, "number": 1, "roles": VALIDATED}
    made = {"network": sealed({"file": str(file)}), "search": SEARCH} | inputs
    return train(folder, cohort, output_dir, split=split, protocol=protocol, **made)


def test_a_search_keeps_the_draw_that_validates_best(cohort, tmp_path):
    first = search(tmp_path / "a", cohort, tmp_path / "out")
    folder = tmp_path / "out/models/model-m"
    table = read_table(folder / "model-m_fold-1_search.tsv")
    assert set(table["network.width"]) == {2, 3}
    assert len(table) == 3
    kept = table[table["kept"]]
    assert kept["validation_loss"].tolist() == [table["validation_loss"].min()]
    effort = StoredModel(folder).effort(1)
    assert effort == {name: table[name].mean() for name in ("epochs", "updates", "seconds")}
    history = read_table(folder / "model-m_fold-1_history.tsv")
    chosen = history.loc[history["selected"] == 1, "validation_loss"]
    assert chosen.tolist() == pytest.approx(kept["validation_loss"].tolist())
    # The weights say by themselves which of the networks they belong to.
    weights = load_file(folder / "model-m_fold-1_weights.safetensors")
    assert len(weights["0.weight"]) == kept["network.width"].iloc[0]
    assert search(tmp_path / "b", cohort, tmp_path / "out") == first
    assert not list((tmp_path / "b").glob("checkpoint-*"))
    again = read_table(folder / "model-m_fold-1_search.tsv")
    pd.testing.assert_frame_equal(again, table)


def test_what_a_search_drew_is_not_trained_again(cohort, tmp_path, monkeypatch):
    """A fold that was killed in its third draw goes on there."""
    whole = search(tmp_path / "a", cohort, tmp_path / "out")
    kept, folder = tmp_path / "a", tmp_path / "b"
    folder.mkdir()
    for path in sorted(kept.glob("checkpoint-*"))[:2]:
        copyfile(path, folder / path.name)
    seen = []
    monkeypatch.setattr(
        "models.training.loop.save", lambda *a, **k: seen.append(a) or save_checkpoint(*a, **k)
    )
    assert search(folder, cohort, tmp_path / "out", force=True) == whole
    assert len(seen) == 2  # the epochs of the third draw
    theirs = load_file(kept / "model-m_fold-1_weights.safetensors")
    ours = load_file(folder / "model-m_fold-1_weights.safetensors")
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
