"""The SPECT demo: a valid dataset with known truth, and scores that are held against it."""

import json
import os
import shutil
import subprocess
import sys
from math import prod

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bidsapp import score_spect
from bidsapp.demo import cli, spect
from bidsapp.settings import load_recipe
from models.errors import InputError
from models.networks import build
from models.training.splits import split_people
from pipelines.derivatives import read_table, write_table
from pipelines.images import write_nifti

COARSE = {"resolution": 8.0, "participants": 4}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "ds"
    spect.make(folder, **COARSE)
    return folder


@pytest.mark.parametrize("root", [".", "derivatives/truth"])
def test_official_validator_finds_no_error(dataset, root, tmp_path):
    validator = shutil.which(
        "bids-validator-deno", path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    )
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    run = subprocess.run(
        [validator, str(dataset / root), "--format", "json"],
        env={**os.environ, "HOME": str(tmp_path), "DENO_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    issues = json.loads(run.stdout)["issues"]["issues"]
    assert [one for one in issues if one["severity"] == "error"] == []


def test_everybody_has_an_image_a_row_and_a_truth(dataset):
    people = read_table(dataset / "participants.tsv")
    truth = read_table(dataset / "derivatives/truth/binding.tsv")
    assert list(people["participant_id"]) == list(truth["participant_id"])
    assert people["striatum"].tolist() == ["reduced", "normal"] * 2
    for who in people["participant_id"]:
        (image,) = dataset.glob(f"{who}/spect/*_trc-123IFPCIT_spect.nii.gz")
        assert np.asarray(nib.load(image).dataobj).min() >= 0
        beside = image.with_name(image.name.replace(".nii.gz", ".json"))
        sidecar = json.loads(beside.read_text())
        assert sidecar["TracerRadionuclide"] == "I123"
    patients = people[people["striatum"] == "reduced"]
    for who, side in zip(patients["participant_id"], patients["side"], strict=True):
        row = truth.set_index("participant_id").loc[who]
        other = "R" if side == "L" else "L"
        assert row[f"putamen_{side}"] < row[f"putamen_{other}"]


def test_a_person_is_the_same_in_a_larger_cohort(dataset, tmp_path):
    spect.make(tmp_path / "two", resolution=8.0, participants=2)
    name = "sub-02/spect/sub-02_trc-123IFPCIT_spect.nii.gz"
    ours, theirs = (nib.load(folder / name) for folder in (tmp_path / "two", dataset))
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))


def test_without_effect_the_groups_are_alike(tmp_path):
    spect.make(tmp_path / "null", resolution=8.0, participants=2, effect=0.0)
    truth = read_table(tmp_path / "null/derivatives/truth/binding.tsv")
    assert (truth["insula"] > 0.4).all()
    name = json.loads((tmp_path / "null/dataset_description.json").read_text())["Name"]
    assert "no effect" in name


def test_the_command_line_makes_it_and_keeps_what_is_not_its_own(tmp_path, capsys):
    target = tmp_path / "ds"
    options = ["--modality", "spect", "--participants", "2", "--resolution", "6"]
    assert cli.main(["make", str(target), *options]) == 0
    assert "2 people with a spect image" in capsys.readouterr().out
    assert cli.main(["make", str(target), *options]) == cli.UNUSABLE
    assert cli.main(["make", str(target), *options, "--force"]) == 0


# --- score ---------------------------------------------------------------------------------------


@pytest.fixture
def finished(dataset, tmp_path):
    """What a run leaves: binding at .6 of the truth, three settings in the paper's order."""
    truth = read_table(dataset / "derivatives/truth/binding.tsv")
    for row in truth.itertuples():
        folder = tmp_path / row.participant_id / "spect"
        folder.mkdir(parents=True)
        seen = {f"sbr_{name}": 0.6 * getattr(row, name) for name in ("caudate_L", "caudate_R",
                "putamen_L", "putamen_R")}  # fmt: skip
        lower = "R" if row.putamen_R < row.putamen_L else "L"
        one = {"participant_id": row.participant_id, **seen, "lower_putamen": lower}
        write_table(folder / f"{row.participant_id}_res-4mm_qc.tsv", pd.DataFrame([one]))
    accuracy = {"full": 1.0, "striatum": 0.98, "nostriatum": 0.8}
    (tmp_path / "group").mkdir()
    for name, model in score_spect.SETTINGS.items():
        rows = [(metric, accuracy[name], accuracy[name] - 0.1, 1.0)
                for metric in ("accuracy", "roc_auc")]  # fmt: skip
        table = pd.DataFrame(rows, columns=["metric", "value", "ci_low", "ci_high"])
        write_table(tmp_path / f"group/model-{model}_desc-oof_metrics.tsv", table)
    uptake = pd.DataFrame(
        {"cluster": ["Insula_ipsi", "Temporal"], "auc": [0.8, 0.9], "auc_low": [0.7, 0.8]}
    )
    stem = "mod-spect_space-M_model-demospectnostriatum_target-reduced_method-lrpcomposite"
    write_table(tmp_path / f"group/{stem}_desc-uptake_heatmap.tsv", uptake)
    clusters = pd.DataFrame({"index": [1, 2], "name": ["Insula_ipsi", "Temporal"]})
    write_table(tmp_path / f"group/{stem}_desc-P95_dseg.tsv", clusters)
    _write_clusters(tmp_path / f"group/{stem}_desc-P95_dseg.nii.gz", insular_x=44.0)
    return tmp_path


def _write_clusters(path, insular_x):
    """Label 1: a ball on both sides at the height of the insula; 2: none."""
    grid = load_recipe("demo-spect").preprocessing.network_grid
    x, y, z = nib.affines.apply_affine(
        grid.affine, np.stack(np.indices(grid.shape), axis=-1)
    ).transpose(3, 0, 1, 2)
    away = np.sqrt((abs(x) - insular_x) ** 2 + (y - 4) ** 2 + (z - 2) ** 2)
    write_nifti(path, 1.0 * (away < 6), grid.affine, template=True)


def test_a_good_run_meets_every_requirement(dataset, finished, capsys):
    found = score_spect.score(dataset, finished)
    assert all(found["requirements"].values())
    assert found["binding"]["putamen"]["slope"] == pytest.approx(0.6, abs=1e-3)
    assert found["insula"]["auc"] == 0.8
    assert cli.main(["score", str(dataset), str(finished), "--strict"]) == 0
    assert "nostriatum_above_chance" in capsys.readouterr().out


def test_what_is_missing_or_wrong_is_not_met(dataset, finished):
    for path in finished.glob("group/*nostriatum*"):
        path.unlink()
    found = score_spect.score(dataset, finished)["requirements"]
    assert not found["insula_found"]
    assert not found["nostriatum_above_chance"]
    assert not found["striatum_above_nostriatum"]
    assert found["putamen_binding"]
    assert cli.main(["score", str(dataset), str(finished), "--strict"]) == cli.UNUSABLE


def test_a_cluster_of_spill_out_is_no_insula(dataset, finished):
    """What lies beside the putamen differs by what the striata have lost, not by the insula."""
    good = score_spect.score(dataset, finished)["insula"]["own_loss"]
    (path,) = finished.glob("group/*_dseg.nii.gz")
    _write_clusters(path, insular_x=24.0)
    found = score_spect.score(dataset, finished)
    assert found["insula"]["own_loss"] < 0.3 < 0.5 < good < 1.05
    assert not found["requirements"]["insula_not_spill_out"]


def test_nothing_to_score(dataset, tmp_path):
    with pytest.raises(InputError, match="run the participant level first"):
        score_spect.score(dataset, tmp_path)


# --- recipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "epochs"),
    [
        ("pd-spect", (71, 90, 72), 50),
        ("pd-spect-striatum", (61, 44, 35), 50),
        ("pd-spect-nostriatum", (71, 90, 72), 200),
    ],
)
def test_the_published_settings(name, shape, epochs):
    recipe = load_recipe(name)
    assert recipe.preprocessing.network_grid.shape == shape
    assert recipe.training.protocol.epochs == epochs
    assert recipe.training.protocol.batch_size == 8
    assert recipe.preprocessing.mirror
    assert (recipe.preprocessing.mask.regions != ()) == (name == "pd-spect-nostriatum")
    assert recipe.attribution[0]["preset"] == "nazari2021"


@pytest.mark.parametrize("name", ["pd-spect", "pd-spect-striatum", "pd-spect-nostriatum"])
def test_the_publications_people_are_divided_as_published_and_alike_in_all_settings(name):
    labels = {f"{i:04d}": i < 637 for i in range(1306)}  # 637 reduced, 669 normal
    (split,) = split_people(labels, load_recipe(name).training.plan, seed=3)
    sizes = {role: len(split.people(role)) for role in ("train", "validation", "test")}
    assert sizes == {"train": 876, "validation": 130, "test": 300}
    (full,) = split_people(labels, load_recipe("pd-spect").training.plan, seed=3)
    assert split.roles == full.roles


def test_the_narrow_network_of_the_demo():
    recipe = load_recipe("demo-spect-striatum")
    shape = recipe.preprocessing.network_grid.shape
    options = {key: value for key, value in recipe.network.items() if key != "name"}
    network = build("nazari2021", shape, **options)
    convolutions = 27 * 4 + 4 + 3 * (27 * 16 + 4)
    fully = 4 * prod(shape) * 16 + 16 + 2 * (16 * 16 + 16) + 16 * 2 + 2
    assert sum(one.numel() for one in network.parameters()) == convolutions + fully


def test_a_recipe_may_extend_another_and_not_itself(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('extends = "pd-spect"\nname = "mine"\n[training.protocol]\nepochs = 3\n')
    recipe, base = load_recipe(str(mine)), load_recipe("pd-spect")
    assert recipe.training.protocol.epochs == 3
    assert recipe.preprocessing == base.preprocessing
    assert recipe.attribution == base.attribution
    mine.write_text(f'extends = "{mine}"\nname = "mine"\n')
    with pytest.raises(InputError, match="leads back to itself"):
        load_recipe(str(mine))
    mine.write_text('extends = "pd-spec"\nname = "mine"\n')
    with pytest.raises(InputError, match="did you mean 'pd-spect"):
        load_recipe(str(mine))
