"""Phase encoding by sidecar and name; opposite images."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipelines.phase_encoding import PhaseEncoding, opposite_of

LAS, RAS = np.diag([-2.0, 2, 2, 1]), np.diag([2.0, 2, 2, 1])
PSR = np.array([[0.0, 0, 2, 0], [-2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]])  # axes P, S, R


def read(name, metadata, affine=LAS):
    return PhaseEncoding.of(Path(name), metadata, affine)


@pytest.mark.parametrize(
    ("direction", "axis", "sign"), [("j", 1, 1), ("j-", 1, -1), ("i", 0, 1), ("k-", 2, -1)]
)
def test_the_sidecar_says_it(direction, axis, sign):
    found = read("sub-1_dir-LR_dwi.nii", {"PhaseEncodingDirection": direction})
    assert (found.axis, found.sign) == (axis, sign)
    assert "TotalReadoutTime" in found.notes()[0]
    assert read("x", {"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.05}).notes() == []


@pytest.mark.parametrize(
    ("name", "affine", "axis", "sign"),
    [
        ("AP", LAS, 1, -1),  # towards P, against the file's A
        ("PA", RAS, 1, 1),
        ("LR", RAS, 0, 1),
        ("LR", LAS, 0, -1),
        ("AP", PSR, 0, 1),
    ],
)
def test_else_the_name_says_it(name, affine, axis, sign):
    found = read(f"sub-1_dir-{name}_dwi.nii.gz", {}, affine)
    assert (found.axis, found.sign) == (axis, sign)
    assert "dir-" in found.notes()[0]


def test_else_the_axis_alone_or_nothing():
    found = read("sub-1_dwi.nii", {"PhaseEncodingAxis": "j"})
    assert (found.axis, found.sign) == (1, 0)
    nothing = read("sub-1_dir-XY_dwi.nii", {"PhaseEncodingDirection": "sideways"})
    assert nothing.axis is None
    assert "all axes" in nothing.notes()[0]
    assert not nothing.is_opposite(nothing)
    contradiction = read("sub-1_dir-LR_dwi.nii", {"PhaseEncodingAxis": "j"})
    assert (contradiction.axis, contradiction.sign) == (1, 0)


def write(path, **metadata):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), LAS), path)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(metadata))
    return path


def test_the_opposite_image_is_found(tmp_path):
    (tmp_path / "dataset_description.json").write_text("{}")
    dwi = tmp_path / "sub-1/dwi"
    first = write(dwi / "sub-1_dir-AP_dwi.nii.gz", PhaseEncodingDirection="j-")
    assert opposite_of(first) is None
    same = write(dwi / "sub-1_acq-b_dir-AP_dwi.nii.gz", PhaseEncodingDirection="j-")
    other = write(dwi / "sub-1_acq-b_dir-PA_dwi.nii.gz", PhaseEncodingDirection="j")
    assert opposite_of(same) == other
    map_ = write(tmp_path / "sub-1/fmap/sub-1_dir-PA_epi.nii.gz", PhaseEncodingDirection="j")
    assert opposite_of(first) == other
    other.unlink()
    assert opposite_of(first) == map_
    map_.unlink()
    assert opposite_of(first) is None
    named = write(dwi / "sub-1_dir-PA_dwi.nii.gz", PhaseEncodingAxis="j")  # the name tells
    assert opposite_of(first) == named
    first.write_bytes(b"no image")
    assert opposite_of(first) is None
