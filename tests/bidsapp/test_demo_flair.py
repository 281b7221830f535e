"""The demo of FLAIR: images, lesion masks and truth that belong together."""

import os
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from bidsapp import score
from bidsapp.demo import cli, flair
from pipelines.derivatives import read_sidecar, read_table
from pipelines.inputs import find_scans, with_t1w
from pipelines.lesion_masks import lesion_sources, with_lesions

PEOPLE = 6


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flair") / "ds"
    arguments = ["make", str(folder), "--modality", "flair", "--participants", str(PEOPLE)]
    assert cli.main([*arguments, "--resolution", "6"]) == 0
    return folder


def voxels(path):
    return np.asarray(nib.Nifti1Image.from_filename(path).dataobj)


@pytest.mark.parametrize("root", [".", "derivatives/truth", "derivatives/lesions"])
def test_official_validator_finds_no_error(dataset, root, tmp_path):
    folders = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    validator = shutil.which("bids-validator-deno", path=folders)
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    home = {"HOME": str(tmp_path), "DENO_DIR": str(tmp_path)}
    run = subprocess.run(
        [validator, str(dataset / root)], env={**os.environ, **home}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_app_finds_image_t1w_and_mask_of_everybody(dataset):
    people = [f"{i:02d}" for i in range(1, PEOPLE + 1)]
    scans, said = find_scans(dataset, people, "FLAIR")
    t1w, _ = find_scans(dataset, people, "T1w")
    scans, more = with_t1w(scans, t1w)
    scans, still = with_lesions(scans, people, lesion_sources(dataset, {}, dataset / "out"))
    assert said + more + still == []
    assert len(scans) == PEOPLE
    assert all(one.t1w and one.lesions for one in scans)


def test_patients_have_lesions_bright_in_their_brain_and_controls_next_to_none(dataset):
    table = read_table(dataset / "participants.tsv").set_index("participant_id")
    loads = {}
    for who, row in table.iterrows():
        mask = (
            voxels(dataset / f"derivatives/lesions/{who}/anat/{who}_label-lesion_mask.nii.gz") > 0
        )
        brain = voxels(dataset / f"derivatives/truth/{who}/anat/{who}_desc-brain_mask.nii.gz") > 0
        flair = voxels(dataset / f"{who}/anat/{who}_FLAIR.nii.gz")
        assert mask.shape == flair.shape
        loads.setdefault(row["diagnosis"], []).append(mask.sum())
        if mask.sum() > 5:
            assert brain[mask].all()
            assert flair[mask].mean() > 1.2 * flair[brain & ~mask].mean()
    assert min(loads["MS"]) > 5 * max(loads["HC"])
    assert set(table["diagnosis"]) == {"MS", "HC"}


def test_the_truth_in_template_space_is_mostly_behind(dataset):
    path = dataset / score.TRUTH_FOLDER / score.TRUTH_NAME
    image = nib.Nifti1Image.from_filename(path)
    where = nib.affines.apply_affine(image.affine, np.argwhere(voxels(path)))
    assert (where[:, 1] < -20).mean() > 0.5
    assert read_sidecar(path)["AffectedGroup"] == "MS"


def test_the_same_seed_makes_the_same_people_and_effect_0_no_patients(dataset, tmp_path):
    flair.make(tmp_path / "again", participants=2, resolution=6.0)
    flair.make(tmp_path / "null", participants=2, resolution=6.0, effect=0.0)
    name = "sub-01/anat/sub-01_FLAIR.nii.gz"
    assert np.array_equal(voxels(tmp_path / "again" / name), voxels(dataset / name))
    mask = "derivatives/lesions/sub-01/anat/sub-01_label-lesion_mask.nii.gz"
    assert voxels(tmp_path / "null" / mask).sum() * 0.216 < 1.0  # ml
