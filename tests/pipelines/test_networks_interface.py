"""What makes a fold, and what may stand in for it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.errors import InputError
from models.grids import Grid
from models.volumes import write_cache
from pipelines.derivatives import place, remove_older, write_table
from pipelines.images import network_input, write_nifti
from pipelines.interfaces.attribution import check_values
from pipelines.interfaces.networks import TrainFold
from pipelines.interfaces.sink import SaveProducts
from pipelines.stored_models import made_by

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


def train(folder, cohort, output_dir):
    """Run one fold in ``folder``, save it to ``output_dir`` and say what it was made of."""
    table, cache = cohort
    folder.mkdir()
    write_table(folder / "cohort.tsv", table)
    fold = TrainFold(
        cache=str(folder.parent / "cache"),
        content_hash=cache.content_hash,
        cohort=folder / "cohort.tsv",
        split={"repeat": 1, "fold": 1, "number": 1, "roles": ROLES},
        network={"name": "demo"},
        protocol={"epochs": 1, "select": "last", "patience": 0},
        seed=0,
        model="m",
        stored=str(output_dir),
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
    ],
)
def test_impossible_values_are_refused_before_training(attribution):
    with pytest.raises(InputError):
        check_values(attribution)
