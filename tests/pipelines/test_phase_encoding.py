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


def write(path, affine=LAS, **metadata):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), affine), path)
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


def test_an_unreadable_image_hides_no_other(tmp_path):
    (tmp_path / "dataset_description.json").write_text("{}")
    dwi = tmp_path / "sub-1/dwi"
    own = write(dwi / "sub-1_dir-AP_dwi.nii.gz", PhaseEncodingDirection="j-")
    write(dwi / "sub-1_acq-b_dwi.nii.gz").write_bytes(b"no image")
    (write(dwi / "sub-1_acq-c_dwi.nii.gz").with_name("sub-1_acq-c_dwi.json")).write_text("{")
    other = write(dwi / "sub-1_acq-z_dir-PA_dwi.nii.gz", PhaseEncodingDirection="j")
    assert opposite_of(own) == other


@pytest.mark.parametrize(
    ("intended", "taken"),
    [
        ("func/sub-1_task-rest_bold.nii.gz", False),
        (["func/sub-1_task-rest_bold.nii.gz", "dwi/sub-1_dwi.nii.gz"], True),
        ("bids::sub-1/dwi/sub-1_dwi.nii.gz", True),
        ([], True),
    ],
)
def test_a_field_map_of_another_image_is_left_alone(tmp_path, intended, taken):
    (tmp_path / "dataset_description.json").write_text("{}")
    own = write(tmp_path / "sub-1/dwi/sub-1_dwi.nii.gz", PhaseEncodingDirection="j-")
    said = {"PhaseEncodingDirection": "j", "IntendedFor": intended}
    other = write(tmp_path / "sub-1/fmap/sub-1_dir-PA_epi.nii.gz", **said)
    assert opposite_of(own) == (other if taken else None)


def test_opposite_is_meant_of_the_head_not_of_the_file(tmp_path):
    (tmp_path / "dataset_description.json").write_text("{}")
    dwi = tmp_path / "sub-1/dwi"
    own = write(dwi / "sub-1_dir-AP_dwi.nii.gz", PhaseEncodingDirection="j-")
    turned = np.diag([2.0, -2, 2, 1])  # its j runs to the back
    write(dwi / "sub-1_run-1_dwi.nii.gz", turned, PhaseEncodingDirection="j")  # to the back, too
    assert opposite_of(own) is None
    other = write(dwi / "sub-1_run-2_dwi.nii.gz", turned, PhaseEncodingDirection="j-")
    assert opposite_of(own) == other
