"""The demo: a valid dataset with known truth, and scores that are held against it."""

import csv
import filecmp
import json
import os
import shutil
import subprocess
import sys
import types

import nibabel as nib
import numpy as np
import pytest

from bidsapp import score
from bidsapp.demo import cli, t1w
from bidsapp.demo.people import person
from models.grids import GRIDS
from pipelines.atlases import template

COARSE = {"resolution": 6.0, "participants": 8}
GRID = GRIDS["3mm"]
SPACE = "mod-T1w_space-MNI152NLin2009cAsym"


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "ds"
    t1w.make(folder, **COARSE)
    return folder


def rows(path):
    with path.open() as table:
        return list(csv.DictReader(table, delimiter="\t"))


def pixels(path):
    return np.asanyarray(nib.Nifti1Image.from_filename(path).dataobj)


def scans(folder):
    return sorted(path.relative_to(folder) for path in folder.glob("sub-*/**/*_T1w.nii.gz"))


# --- make ----------------------------------------------------------------------------------------


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
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert run.returncode == 0


def test_participants_are_mixed_and_as_untidy_as_real_ones(dataset):
    people = rows(dataset / "participants.tsv")
    assert [row["diagnosis"] for row in people] == ["AD", "CN"] * 4 + ["CN"]
    assert list(people[0]) == ["participant_id", "diagnosis", "age", "sex", "side", "site"]
    assert {row["site"] for row in people} == {"north", "south"}
    assert sum(row["age"] == "n/a" for row in people) == 1
    assert {row["side"] for row in people if row["diagnosis"] == "AD"} == {"L", "R"}
    assert {row["side"] for row in people if row["diagnosis"] == "CN"} == {"n/a"}
    assert not list(dataset.glob("sub-noT1w/anat/*_T1w.*"))
    assert list(dataset.glob("sub-noT1w/anat/*_FLAIR.nii.gz"))
    assert {path.parent.name for path in dataset.glob("sub-*/*_sessions.tsv")} == {
        "sub-03",
        "sub-04",
    }
    assert len(scans(dataset)) == 8 + 2


def test_nothing_but_the_effect_differs_between_the_groups():
    people = [person(index, seed=3) for index in range(48)]
    for patient, control in zip(people[::2], people[1::2], strict=True):
        for same in ("sex", "site", "axcodes"):
            assert getattr(patient, same) == getattr(control, same)
        assert len(patient.sessions) == len(control.sessions)
        assert abs(patient.age - control.age) <= 4
        assert 50 < patient.age < 95
    assert len({(who.site, who.sex, who.axcodes) for who in people}) == 12
    ages = np.array([who.age for who in people])
    assert 4 < ages.std() < 10
    assert abs(ages[::2].mean() - ages[1::2].mean()) < 1


def test_a_null_dataset_differs_from_the_demo_only_in_patients(dataset, tmp_path):
    t1w.make(tmp_path / "null", **COARSE, effect=0.0)
    assert "nothing is there to be found" in (tmp_path / "null/README").read_text()
    for path in scans(dataset):
        same = np.array_equal(pixels(dataset / path), pixels(tmp_path / "null" / path))
        number = int(path.parts[0].removeprefix("sub-"))
        assert same == (number % 2 == 0)  # even numbers are controls
    for mask in (tmp_path / "null/derivatives/truth").glob("sub-*/**/*label-effect_mask.nii.gz"):
        assert not pixels(mask).any()


def test_person_does_not_depend_on_the_size_of_the_cohort(dataset, tmp_path):
    t1w.make(tmp_path / "small", resolution=6.0, participants=4)
    assert len(scans(tmp_path / "small")) == 6
    for path in scans(tmp_path / "small"):
        assert filecmp.cmp(dataset / path, tmp_path / "small" / path, shallow=False)
    known = {row["participant_id"]: row for row in rows(dataset / "participants.tsv")}
    for row in rows(tmp_path / "small/participants.tsv"):
        assert row == known[row["participant_id"]]


def test_another_seed_makes_other_people(dataset, tmp_path):
    t1w.make(tmp_path / "other", resolution=6.0, participants=2, seed=1)
    path = scans(tmp_path / "other")[0]
    assert not np.array_equal(pixels(dataset / path), pixels(tmp_path / "other" / path))


def test_storage_orientations_are_mixed(dataset):
    codes = {
        "".join(nib.aff2axcodes(nib.Nifti1Image.from_filename(dataset / path).affine))
        for path in scans(dataset)
    }
    assert codes == {"RAS", "LAS", "LPS"}


def test_truth_lies_on_the_raw_grid_and_on_both_sides(dataset):
    truth = dataset / "derivatives/truth"
    masks = sorted(truth.glob("sub-*/**/*label-effect_mask.nii.gz"))
    assert len(masks) == 5  # four patients, one of them twice
    for path in masks:
        raw = dataset / path.relative_to(truth).parent
        raw /= path.name.replace("label-effect_mask", "T1w")
        mask, image = nib.Nifti1Image.from_filename(path), nib.Nifti1Image.from_filename(raw)
        assert mask.shape == image.shape
        np.testing.assert_allclose(mask.affine, image.affine)
        world = nib.affines.apply_affine(mask.affine, np.argwhere(np.asanyarray(mask.dataobj)))
        centre = world[:, 0].mean()
        assert np.mean(world[:, 0] < centre) == pytest.approx(0.5, abs=0.15)
        assert np.percentile(world[:, 0], 90) - np.percentile(world[:, 0], 10) > 40
        brain = pixels(path.with_name(path.name.replace("label-effect", "desc-brain")))
        assert brain[pixels(path) > 0].all()


def test_truth_in_template_space_is_the_whole_region(dataset):
    path = dataset / score.TRUTH_FOLDER / score.TRUTH_NAME
    image, brain = nib.Nifti1Image.from_filename(path), nib.Nifti1Image.from_filename(template())
    np.testing.assert_allclose(image.affine, brain.affine)
    mask = pixels(path) > 0
    assert 17_000 < mask.sum() < 20_000  # mm3: AAL hippocampus and amygdala
    x_mm = nib.affines.apply_affine(image.affine, np.argwhere(mask))[:, 0]
    assert np.mean(x_mm < 0) == pytest.approx(0.5, abs=0.03)
    sidecar = json.loads(
        (dataset / score.TRUTH_FOLDER / score.TRUTH_NAME.replace(".nii.gz", ".json")).read_text()
    )
    assert sidecar["Effect"] == 0.6
    assert sidecar["AffectedGroup"] == "AD"


@pytest.mark.parametrize(("effect", "word"), [(0.6, "exaggerated"), (0.2, "mild"), (0.0, "null")])
def test_strength_is_named(effect, word):
    assert t1w._strength(effect) == word


def test_readme_says_synthetic_and_exaggerated(dataset):
    text = (dataset / "README").read_text()
    assert "no human data" in text
    assert "effect is exaggerated" in text
    description = json.loads((dataset / "dataset_description.json").read_text())
    assert "synthetic" in description["Name"]
    assert "exaggerated" in description["Name"]


def test_only_an_earlier_demo_is_replaced(tmp_path, capsys):
    precious = tmp_path / "study/sub-01/anat/precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    for extra in ([], ["--force"]):
        assert cli.main(["make", str(tmp_path / "study"), *extra]) == 64
        assert str(tmp_path / "study") in capsys.readouterr().err
    assert precious.read_text() == "mine"


def test_force_replaces_a_demo_and_keeps_other_derivatives(tmp_path, capsys):
    folder = tmp_path / "ds"
    command = ["make", str(folder), "--participants", "2", "--resolution", "6"]
    assert cli.main(command) == 0
    (folder / "derivatives/brainwhy").mkdir()
    (folder / "sub-09").mkdir()
    assert cli.main(command) == 64
    assert "--force" in capsys.readouterr().err
    assert cli.main([*command, "--force", "--effect", "0"]) == 0
    assert not (folder / "sub-09").exists()
    assert (folder / "derivatives/brainwhy").exists()


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["mak"],
        ["make"],
        ["make", "x", "--effect", "60"],
        ["make", "x", "--participants", "1"],
        ["make", "x", "--resolution", "0"],
    ],
)
def test_unusable_command_lines_leave_with_64(command, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(command)
    assert left.value.code == 64
    assert "usage:" in capsys.readouterr().err


def test_a_file_is_no_target(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["make", str(tmp_path / "file")]) == 64
    assert "is a file" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from bidsapp.demo.cli import build_parser; build_parser().format_help();"
        "sys.exit(bool({'numpy', 'nibabel', 'scipy', 'pandas', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- score ---------------------------------------------------------------------------------------


def write_map(folder, name, array):
    nib.Nifti1Image(array.astype(np.float32), GRID.affine).to_filename(folder / name)


@pytest.fixture
def region(dataset):
    from models.trust.localisation import on_grid

    empty = nib.Nifti1Image(np.zeros(GRID.shape, np.uint8), GRID.affine)
    truth = nib.Nifti1Image.from_filename(dataset / score.TRUTH_FOLDER / score.TRUTH_NAME)
    return on_grid(truth, empty).astype(float)


@pytest.fixture
def finished(tmp_path, region):
    """Output folder of a group run that found the region in every way."""
    group = tmp_path / "out/group"
    group.mkdir(parents=True)
    (group / "model-demot1w_desc-oof_metrics.tsv").write_text(
        "metric\tvalue\tci_low\tci_high\naccuracy\t0.92\t0.7\t1\nroc_auc\t0.97\t0.9\t1\n"
    )
    noise = np.random.default_rng(0).normal(size=GRID.shape) * 0.1
    heatmap = (
        f"{SPACE}_model-demot1w_target-AD_method-{{}}_stat-mean_res-3mm_desc-{{}}_heatmap.nii.gz"
    )
    write_map(group, heatmap.format("lrpalphabeta", "AD"), region + noise)
    write_map(group, heatmap.format("lrpalphabeta", "CN"), -region + noise)
    write_map(group, heatmap.format("saliency", "AD"), noise)
    statmap = f"{SPACE}{{}}_contrast-ADMinusCN_stat-t_res-3mm_desc-FWE_statmap.nii.gz"
    write_map(group, statmap.format("_model-demot1w"), -5.0 * region)
    write_map(group, statmap.format("_model-demot1w_target-AD_method-saliency"), 0.0 * region)
    test = f"{SPACE}_model-demot1w_contrast-ADMinusCN_{{}}_statmap.nii.gz"
    write_map(group, test.format("stat-t_res-3mm"), noise)
    write_map(group, test.format("stat-p_res-3mm_desc-FWE"), noise)
    write_map(group, test.format("stat-tfce_res-3mm"), noise)
    other = f"{SPACE}_model-other_contrast-ADMinusCN_stat-t_res-3mm_desc-FWE_statmap.nii.gz"
    write_map(group, other, noise)
    return tmp_path / "out"


@pytest.fixture
def untrained(monkeypatch):
    """Stand-in for the group level's untrained network: noise for every method."""
    noise = np.random.default_rng(1).normal(size=GRID.shape).astype(np.float32)
    maps = {"lrpalphabeta": nib.Nifti1Image(noise, GRID.affine)}
    calls = []

    def untrained_maps(output_dir, model_label):
        calls.append((output_dir, model_label))
        return maps

    controls = types.ModuleType("pipelines.controls")
    controls.untrained_maps = untrained_maps
    monkeypatch.setitem(sys.modules, "pipelines.controls", controls)
    return calls


@pytest.mark.parametrize("desc", ["FWEmass", "FWEtfce", "FDR", "RFT"])
def test_the_map_of_any_correction_is_scored(dataset, finished, untrained, tmp_path, desc):
    for path in (finished / "group").glob("*_model-demot1w_*_desc-FWE_statmap.nii.gz"):
        path.rename(path.with_name(path.name.replace("desc-FWE", f"desc-{desc}")))
    target = tmp_path / "score.json"
    cli.main(["score", str(dataset), str(finished), "--json", str(target)])
    assert json.loads(target.read_text())["statistics"]["image"] == {"found": 1.0, "near": 1.0}


def test_score_of_a_run_that_found_everything(dataset, finished, untrained, tmp_path, capsys):
    target = tmp_path / "score.json"
    assert cli.main(["score", str(dataset), str(finished), "--json", str(target)]) == 0
    assert untrained == [(finished, "demot1w")]
    scores = json.loads(target.read_text())
    assert set(scores) == {"heatmaps", "statistics", "classifier", "requirements"}
    assert scores["classifier"] == {"accuracy": 0.92, "auc": 0.97}
    assert scores["statistics"]["image"] == {"found": 1.0, "near": 1.0}
    assert scores["statistics"]["saliency"] == {"found": 0.0, "near": None}
    found = scores["heatmaps"]["lrpalphabeta"]
    assert set(found) == {"auc", "share", "auc_untrained", "share_untrained", "ratio"}
    assert found["auc"] > 0.95
    assert found["share"] > 0.6
    assert found["auc_untrained"] == pytest.approx(0.5, abs=0.1)
    assert found["share_untrained"] < 0.05
    assert scores["heatmaps"]["saliency"]["auc_untrained"] is None
    assert scores["heatmaps"]["saliency"]["ratio"] is None
    assert scores["requirements"] == dict.fromkeys(scores["requirements"], True)
    assert len(scores["requirements"]) == 7
    shown = capsys.readouterr()
    assert "lrpalphabeta_ratio" in shown.out
    assert shown.err == ""


def test_missing_numbers_fail_their_requirements_with_a_reason(
    dataset, finished, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "pipelines.controls", None)
    for path in finished.glob(f"group/{SPACE}_model-*_contrast*"):
        path.unlink()
    assert cli.main(["score", str(dataset), str(finished)]) == 0
    shown = capsys.readouterr()
    for name in ("image_found", "image_near", "lrpalphabeta_ratio"):
        assert f"{name}: not met, there is no such number" in shown.err
    assert "no untrained network" in shown.err
    assert shown.out.count("NOT met") == 3


def test_a_number_below_its_requirement_is_named(dataset, finished, untrained, capsys):
    path = finished / "group/model-demot1w_desc-oof_metrics.tsv"
    path.write_text(path.read_text().replace("0.92", "0.70"))
    scores = score.score(dataset, finished)
    assert not scores["requirements"]["classifier_accuracy"]
    assert cli.main(["score", str(dataset), str(finished)]) == 0
    assert "classifier_accuracy: not met, 0.7 < 0.83" in capsys.readouterr().err


def test_a_share_over_nothing_is_an_infinite_ratio():
    assert score.ratio(0.2, 0.0) == float("inf")
    assert np.isnan(score.ratio(0.0, 0.0))
    assert np.isnan(score.ratio(0.2, float("nan")))
    assert score.ratio(0.2, 0.1) == 2.0


def test_several_models_need_a_choice(dataset, finished, untrained, capsys):
    table = finished / "group/model-demot1w_desc-oof_metrics.tsv"
    shutil.copy(table, finished / "group/model-other_desc-oof_metrics.tsv")
    command = ["score", str(dataset), str(finished)]
    assert cli.main(command) == 64
    assert "demot1w|other" in capsys.readouterr().err
    assert cli.main([*command, "--model", "demot1w"]) == 0


def test_nothing_to_score_leaves_with_64(dataset, finished, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert cli.main(["score", str(dataset), str(tmp_path / "empty")]) == 64
    assert cli.main(["score", str(tmp_path / "empty"), str(finished)]) == 64
    assert cli.main(["score", str(dataset), str(tmp_path / "empty"), "--model", "x"]) == 64
    assert capsys.readouterr().err.count("brainwhy-demo: ") == 3
