"""The demo of diffusion: names, tables, what is changed in whom, and the truth."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine

from bidsapp import score
from bidsapp.demo import cli, dwi
from bidsapp.demo.dwi import ASYMMETRY_NAME, CONTROL, PATIENT, changes_of
from pipelines.derivatives import read_sidecar, read_table
from pipelines.gradient_files import read_gradients


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "bids"
    cli.main(["make", str(folder), "--modality", "dwi", "--participants", "2", "--resolution", "6"])
    return folder


def voxels(path):
    return np.asarray(nib.load(path).dataobj)


def test_a_person_has_both_images_and_a_table(dataset):
    table = read_table(dataset / "participants.tsv")
    assert list(table["diagnosis"]) == [PATIENT, CONTROL]
    for who in table["participant_id"]:
        path = dataset / who / "dwi" / f"{who}_dwi.nii.gz"
        image = nib.load(path)
        gradients, notes = read_gradients(path, image.shape[3], image.affine)
        assert notes == []
        assert gradients.is_b0.sum() == 1
        assert len(gradients.b_values) == 13
        assert read_sidecar(path)["PhaseEncodingDirection"] == "j-"
        t1w = voxels(dataset / who / "anat" / f"{who}_T1w.nii.gz")
        assert t1w.shape == image.shape[:3]
        brain = voxels(dataset / f"derivatives/truth/{who}/dwi/{who}_desc-brain_mask.nii.gz") > 0
        assert 0.02 < (t1w != 0).mean() < 0.5  # without skull
        b0, weighted = image.get_fdata()[brain][:, [0, 5]].T
        assert np.median(weighted) < 0.7 * np.median(b0)
    assert "two balls" in (dataset / "README").read_text()


def test_the_truth_lies_in_white_matter_on_both_sides(dataset):
    for name in (score.TRUTH_NAME, ASYMMETRY_NAME):
        path = dataset / score.TRUTH_FOLDER / name
        image = nib.load(path)
        where = apply_affine(image.affine, np.argwhere(voxels(path)))
        assert len(where) > 100
        assert 0.4 < (where[:, 0] < 0).mean() < 0.6
        assert np.abs(where[:, 0]).min() > 5
        assert read_sidecar(path)["AffectedGroup"] == PATIENT


def test_sides_differ_the_other_way_in_patients_and_spread_more_than_that():
    left, right, patients, local = [], [], [], []
    for index in range(200):
        who = dwi._someone(index, seed=0)
        found = changes_of(who, dwi.Places(1, 2, 3), local=1.0, asymmetry=1.0, seed=0)
        left.append(found[0].fa)
        right.append(found[1].fa)
        patients.append(who.diagnosis == PATIENT)
        local.append(len(found) == 3)
    left, right, patients = map(np.array, (left, right, patients))
    assert local == list(patients)
    difference = left - right
    assert difference[patients].min() > 0 > difference[~patients].max()
    for side in (left, right):
        gap = abs(side[patients].mean() - side[~patients].mean())
        assert gap < 1.6 * side[patients].std()  # one side alone tells little


def test_no_effect_is_no_change():
    for index in range(4):
        who = dwi._someone(index, seed=0)
        found = changes_of(who, dwi.Places(1, 2, 3), local=0.0, asymmetry=0.0, seed=0)
        assert all(one.fa == one.md == 0 for one in found)
