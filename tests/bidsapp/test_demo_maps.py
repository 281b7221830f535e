"""The demo of anomaly detection: a valid derivative dataset with known truth."""

import json
import os
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bidsapp.demo import cli, maps
from models.errors import InputError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps") / "ds"
    maps.make(folder, participants=6, resolution=6.0)
    return folder


def test_official_validator_finds_no_error(dataset, tmp_path):
    validator = shutil.which(
        "bids-validator-deno", path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    )
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    run = subprocess.run(
        [validator, str(dataset), "--format", "json"],
        env={**os.environ, "HOME": str(tmp_path), "DENO_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    issues = json.loads(run.stdout)["issues"]["issues"]
    assert [one for one in issues if one.get("severity") == "error"] == []


def test_one_of_three_is_a_patient_with_a_truth(dataset):
    people = pd.read_csv(dataset / "participants.tsv", sep="\t")
    assert people["diagnosis"].tolist() == ["PD", "HC", "HC"] * 2
    truths = sorted((dataset / "derivatives/truth").glob("sub-*/dwi/*_mask.nii.gz"))
    assert [path.name.split("_")[0] for path in truths] == ["sub-01", "sub-04"]
    for path in truths:
        assert np.asarray(nib.load(path).dataobj).any()
    region = nib.load(
        dataset / "derivatives/truth/space-MNI152NLin2009cAsym_label-effect_mask.nii.gz"
    )
    assert np.asarray(region.dataobj).sum() > 20


def test_an_earlier_demo_is_replaced_and_nothing_else(dataset, tmp_path):
    maps.make(dataset, participants=6, resolution=6.0, effect=0.0, force=True)
    assert "do not differ" in (dataset / "README").read_text()
    (tmp_path / "mine").write_text("")
    with pytest.raises(InputError, match="not empty"):
        maps.make(tmp_path, participants=6, resolution=6.0)


def test_the_command_line_makes_it(tmp_path, capsys):
    made = cli.main(
        ["make", str(tmp_path / "ds"), "--modality", "anomaly", "--participants", "3",
         "--resolution", "6"]
    )  # fmt: skip
    assert made == 0
    assert "3 people" in capsys.readouterr().out
