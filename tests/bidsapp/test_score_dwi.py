"""The diffusion demo held against its truth: maps that were made here, each with a known answer."""

import json

import nibabel as nib
import numpy as np
import pytest

from bidsapp import score_dwi
from bidsapp.demo import cli as demo
from bidsapp.demo.dwi import ASYMMETRY_NAME
from bidsapp.score import TRUTH_FOLDER, TRUTH_NAME
from models.errors import InputError

SHAPE, AFFINE = (20, 22, 18), nib.affines.from_matvec(8 * np.eye(3), (-76, -100, -60))
BRAIN = np.zeros(SHAPE, bool)
BRAIN[2:18, 2:20, 2:16] = True
LOCAL, SIDES = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
LOCAL[4:7, 8:11, 8:11] = LOCAL[13:16, 8:11, 8:11] = True
SIDES[4:7, 14:17, 8:11] = SIDES[13:16, 14:17, 8:11] = True
NAME = "mod-dwi_space-MNI152NLin2009cAsym_model-x_"


def save(path, data, **sidecar):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(data, np.float32), AFFINE), path)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))


def noise(seed):
    return np.random.default_rng(seed).normal(0, 0.1, SHAPE) * BRAIN


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Truth, and results in which networks see the sides and the measures the local place."""
    truth, group = tmp_path / "bids" / TRUTH_FOLDER, tmp_path / "out/group"
    save(truth / TRUTH_NAME, LOCAL, AffectedGroup="PD", Modality="dwi")
    save(truth / ASYMMETRY_NAME, SIDES)
    for seed, (group_name, people, sign) in enumerate((("PD", 3, 1), ("HC", 1, -1))):
        name = f"{NAME}target-PD_method-diktiometryfa_stat-mean_res-8mm_desc-{group_name}_heatmap"
        # Left up, right down in patients; the reverse, and three times as much, in controls: at
        # their numbers of people, the mean over everybody is 0.
        left = np.where(np.arange(SHAPE[0])[:, None, None] < 10, 1, -1) * SIDES
        size = 1 if people == 3 else 3
        save(group / f"{name}.nii.gz", sign * size * left + noise(seed), People=people)
    for map_of, where in (("target-PD_method-diktiometryfa", SIDES), ("param-fa", LOCAL)):
        stem = f"{NAME}{map_of}_contrast-PDMinusHC_stat-"
        found = -5 * where * BRAIN
        save(group / f"{stem}t_res-8mm_statmap.nii.gz", found + noise(3))
        save(group / f"{stem}t_res-8mm_desc-FWE_statmap.nii.gz", found)
        save(group / f"{stem}p_res-8mm_desc-FWE_statmap.nii.gz", BRAIN)
    metrics = "metric\tvalue\tci_low\naccuracy\t0.9\t0.7\nroc_auc\t0.7\t0.6\n"
    (group / "model-x_desc-oof_metrics.tsv").write_text(metrics)
    flat = nib.Nifti1Image(noise(7), AFFINE)
    monkeypatch.setattr(score_dwi, "of_untrained", lambda *_: {"diktiometryfa": flat})
    return tmp_path / "bids", tmp_path / "out"


def test_each_map_is_held_against_both_places(made):
    scores = score_dwi.score(*made)
    rows = ("sensitivity fa", "untrained fa", "diktiometry fa", "traditional fa")
    assert list(scores["local"]) == list(scores["asymmetry"]) == list(rows)
    sides, local = (
        {row: scores[name][row]["auc"] for row in rows} for name in ("asymmetry", "local")
    )
    assert sides["diktiometry fa"] == pytest.approx(1)
    assert local["traditional fa"] == pytest.approx(1)
    for auc in (sides["traditional fa"], local["diktiometry fa"], sides["untrained fa"]):
        assert 0.3 < auc < 0.7  # the other place is not counted against it


def test_the_mean_over_everybody_weighs_people(made):
    """Signed maps of the groups cancel by their numbers of people: nothing of the sides is left."""
    assert 0.3 < score_dwi.score(*made)["asymmetry"]["sensitivity fa"]["auc"] < 0.7
    for path in (made[1] / "group").glob("*desc-HC_heatmap.json"):
        path.write_text('{"People": 3}')
    assert score_dwi.score(*made)["asymmetry"]["sensitivity fa"]["auc"] > 0.9


def test_significant_voxels_are_found_or_not(made):
    scores = score_dwi.score(*made)
    assert scores["asymmetry"]["diktiometry fa"]["found"] == 1
    assert scores["asymmetry"]["diktiometry fa"]["near"] == 1
    assert scores["asymmetry"]["traditional fa"]["found"] == 0
    assert scores["local"]["traditional fa"]["found"] == 1
    assert "found" not in scores["local"]["sensitivity fa"]
    rows = scores["asymmetry"]
    shares = [rows[f"{one} fa"]["share"] for one in ("sensitivity", "untrained")]
    assert rows["sensitivity fa"]["ratio"] == score_dwi.ratio(*shares)


def test_the_command_prints_it_and_says_what_is_not_met(made, capsys):
    assert demo.main(["score", *map(str, made)]) == 0
    said = capsys.readouterr().out
    assert "traditional fa" in said
    assert "accuracy 0.900" in said
    assert "NOT met (0.700)" in said
    assert demo.main(["score", *map(str, made), "--strict"]) == demo.UNUSABLE


def test_what_is_lacking_is_named(made, tmp_path):
    dataset, output = made
    (dataset / TRUTH_FOLDER / ASYMMETRY_NAME).unlink()
    with pytest.raises(InputError, match="is no demo of diffusion"):
        score_dwi.score(dataset, output)
    save(dataset / TRUTH_FOLDER / ASYMMETRY_NAME, SIDES)
    for path in (output / "group").glob("*.nii.gz"):
        path.unlink()
    with pytest.raises(InputError, match="holds nothing to score"):
        score_dwi.score(dataset, output)
