"""Lesion masks: which one belongs to which image, and what is no mask."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from models.errors import InputError
from pipelines.inputs import Scan
from pipelines.lesion_masks import (
    in_t1w,
    lesion_sources,
    masks_of_others,
    read_lesions,
    with_lesions,
)

MASK = "label-lesion_mask.nii.gz"


@pytest.fixture
def bids(tmp_path):
    (tmp_path / "bids/derivatives").mkdir(parents=True)
    return tmp_path / "bids"


def put(folder, name, ses=""):
    person = name.split("_")[0]
    path = folder / person / (f"ses-{ses}" if ses else "") / "anat" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def scan(participant="01", session="", t1w=False, name=""):
    stem = f"sub-{participant}" + f"_ses-{session}" * bool(session)
    other = Scan(participant, session, Path(f"{stem}_T1w.nii.gz")) if t1w else None
    return Scan(participant, session, Path(name or f"{stem}_FLAIR.nii.gz"), other)


def found(bids, *scans, people=("01", "02", "03")):
    sources = lesion_sources(bids, {}, bids / "derivatives/brainwhy")
    return with_lesions(list(scans), people, sources)


def test_sources_are_those_given_then_the_dataset_s_own_but_never_the_output(bids, tmp_path):
    for name in ("rater2", "brainwhy", "rater1"):
        (bids / "derivatives" / name).mkdir()
    (tmp_path / "elsewhere").mkdir()
    given = {"zz": str(tmp_path / "elsewhere")}
    sources = lesion_sources(bids, given, bids / "derivatives/brainwhy")
    assert list(sources) == ["zz", "rater1", "rater2"]
    with pytest.raises(InputError, match=r"--derivatives a=.*no such folder"):
        lesion_sources(bids, {"a": str(tmp_path / "nowhere")}, tmp_path)


@pytest.mark.parametrize("name", [MASK, "label-L_mask.nii.gz", "label-lesion_dseg.nii"])
def test_names_of_masks(bids, name):
    path = put(bids / "derivatives/lst", f"sub-01_{name}")
    (one,), said = found(bids, scan())
    assert one.lesions == path
    assert said == []


@pytest.mark.parametrize("name", ["label-brain_mask.nii.gz", "label-lesion_probseg.nii.gz"])
def test_other_names_are_no_masks(bids, name):
    put(bids / "derivatives/lst", f"sub-01_{name}")
    (one,), said = found(bids, scan())
    assert one.lesions is None
    assert said == []


def test_the_first_of_two_is_used_and_said(bids):
    first = put(bids / "derivatives/a", f"sub-01_{MASK}")
    put(bids / "derivatives/b", f"sub-01_{MASK}")
    (one,), said = found(bids, scan())
    assert one.lesions == first
    assert "sub-01_label-lesion_mask.nii.gz of a is used" in said[0]
    assert "of b passed over" in said[0]


def test_sessions_and_runs_are_kept_apart(bids):
    lst = bids / "derivatives/lst"
    put(lst, f"sub-01_ses-1_{MASK}", ses="1")
    second = put(lst, f"sub-01_ses-2_run-2_{MASK}", ses="2")
    one, two = found(
        bids, scan(session="1"), scan(session="2", name="sub-01_ses-2_run-2_FLAIR.nii.gz")
    )[0]
    assert one.lesions.name == f"sub-01_ses-1_{MASK}"
    assert two.lesions == second
    other = scan(session="2", name="sub-01_ses-2_run-1_FLAIR.nii.gz")
    (three,), said = found(bids, other, people=["01"])
    assert three.lesions is None
    assert "is of another image" in said[0]


def test_a_mask_of_another_space_is_passed_over(bids):
    put(bids / "derivatives/lst", f"sub-01_space-MNI152NLin6Asym_{MASK}")
    (one,), said = found(bids, scan())
    assert one.lesions is None
    assert "lies in space MNI152NLin6Asym" in said[0]
    own = scan(name="sub-01_space-MNI152NLin6Asym_FLAIR.nii.gz")
    assert found(bids, own)[0][0].lesions is not None  # the image is there, too


def test_a_mask_of_the_t1w_image_needs_one(bids):
    path = put(bids / "derivatives/lst", f"sub-01_space-T1w_{MASK}")
    assert found(bids, scan())[0][0].lesions is None
    assert found(bids, scan(t1w=True))[0][0].lesions == path
    assert in_t1w(path)


def test_a_mask_in_the_space_of_another_session_s_t1w_image_is_said(bids):
    put(bids / "derivatives/lst", f"sub-01_ses-2_space-T1w_{MASK}", ses="2")
    borrowed = replace(scan(session="2"), t1w=Scan("01", "1", Path("sub-01_ses-1_T1w.nii.gz")))
    (one,), said = found(bids, borrowed)
    assert one.lesions is not None
    assert len(said) == 1
    assert "is read in the space of sub-01_ses-1_T1w.nii.gz" in said[0]
    assert found(bids, scan(session="2", t1w=True))[1] == []


def test_masks_without_image_and_the_reverse_are_said(bids):
    put(bids / "derivatives/lst", f"sub-01_{MASK}")
    put(bids / "derivatives/lst", f"sub-03_{MASK}")
    _, said = found(bids, scan("01"), scan("02"))
    assert any("sub-03" in one and "without an image" in one for one in said)
    assert "sub-02: has no lesion mask, others have" in said


def test_a_mask_that_is_not_here_is_said_and_the_next_one_is_taken(bids):
    link = put(bids / "derivatives/annexed", f"sub-01_{MASK}")
    link.unlink()
    link.symlink_to("../../.git/annex/objects/MD5E-s1--0.nii.gz")
    [one], warnings = found(bids, scan(), people=("01",))
    assert one.lesions is None
    assert [("datalad get" in said, str(link) in said) for said in warnings] == [(True, True)]
    other = put(bids / "derivatives/here", f"sub-01_{MASK}")
    [one], warnings = found(bids, scan(), people=("01",))
    assert one.lesions == other
    assert "datalad get" in warnings[0]


def test_masks_of_people_who_are_not_there_are_said_in_one_sentence(bids):
    for k in range(1, 9):
        put(bids / "derivatives/lst", f"sub-{k:02d}_{MASK}")
    put(bids / "derivatives/lst", "sub-09_desc-brain_mask.nii.gz")
    sources = lesion_sources(bids, {}, bids / "derivatives/brainwhy")
    (said,) = masks_of_others(["01"], sources)
    assert said.startswith("sub-02, sub-03, sub-04, sub-05, sub-06 and 2 more: have lesion masks")
    assert "in lst" in said
    assert masks_of_others([f"{k:02d}" for k in range(1, 10)], sources) == []


# --- what is in the file -------------------------------------------------------------------------


def stored(tmp_path, data, affine=None, dtype=np.float32):
    path = tmp_path / f"sub-01_{MASK}"
    nib.save(
        nib.Nifti1Image(np.asarray(data, dtype), np.eye(4) if affine is None else affine), path
    )
    return path


def test_a_mask_is_read_with_ras_axes(tmp_path):
    data = np.zeros((4, 5, 6))
    data[0, 1, 2] = 1
    image, notes = read_lesions(stored(tmp_path, data, np.diag([-1.0, 1, 1, 1])))
    assert notes == []
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert np.argwhere(image.get_fdata()).tolist() == [[3, 1, 2]]


@pytest.mark.parametrize(
    ("values", "kept", "said"),
    [
        ([0, 1, 2, 40], 3, "is not binary"),
        ([0, 255, 0, 0], 1, "is not binary"),
        ([0, 0.2, 0.5, 0.9], 2, "cut at 0.5"),
        ([0, 0, 0, 0], 0, "is empty"),
        ([0, 1, np.nan, np.inf], 1, "2 NaN or infinite voxels"),
    ],
)
def test_what_can_be_mended_is_said(tmp_path, values, kept, said):
    data = np.zeros((4, 4, 4))
    data[0, 0] = values
    image, notes = read_lesions(stored(tmp_path, data))
    assert int(image.get_fdata().sum()) == kept
    assert any(said in note for note in notes)


@pytest.mark.parametrize(
    ("values", "kept", "said"),
    [
        ([0, 1 + 1e-6, -1e-6, 1 - 1e-6], 2, []),  # rounding of whoever wrote it
        ([0, 0.3, 0.75, 1 + 1e-6], 2, ["holds values between 0 and 1"]),
        ([0, 0.1, 0.2, 0.3], 0, ["holds values between 0 and 1", "is empty"]),
        ([2, 2, 2, 3], 4, ["every label above 0 (2)"]),
    ],
)
def test_rounding_is_no_value_and_what_the_cut_leaves_is_said(tmp_path, values, kept, said):
    image, notes = read_lesions(stored(tmp_path, np.reshape(values, (4, 1, 1))))
    assert int(image.get_fdata().sum()) == kept
    assert len(notes) == len(said)
    assert all(one in note for one, note in zip(said, notes, strict=True))


def test_a_mask_whose_forms_disagree_about_sides_is_refused(tmp_path):
    """As an image would be: by the one form the lesion lies left, by the other right."""
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    image.set_sform(np.diag([-1.0, 1, 1, 1]), code=1)
    image.set_qform(np.eye(4), code=1)
    nib.save(image, tmp_path / MASK)
    with pytest.raises(InputError, match=r"disagree about where left and right.*header of its im"):
        read_lesions(tmp_path / MASK)


def test_a_mask_with_a_singular_header_is_refused(tmp_path):
    path = tmp_path / "sub-01_label-lesion_mask.nii"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), path)
    header = nib.Nifti1Image.from_filename(path).header
    header["qform_code"], header["sform_code"], header["srow_z"] = 0, 1, 0
    header["magic"], header["vox_offset"] = b"n+1", 352
    path.write_bytes(header.binaryblock + bytes(4 + 64))
    with pytest.raises(InputError, match="affine matrix is singular"):
        read_lesions(path)


@pytest.mark.parametrize("values", [[-1, 0, 1, 0], [0, 1.5, 7.25, 0]])
def test_an_image_is_no_mask(tmp_path, values):
    data = np.zeros((4, 4, 4))
    data[0, 0] = values
    with pytest.raises(InputError, match="it is no lesion mask"):
        read_lesions(stored(tmp_path, data))


def test_unreadable_or_4d_or_unoriented_masks_are_refused(tmp_path):
    path = stored(tmp_path, np.zeros((4, 4, 4, 2)))
    with pytest.raises(InputError, match="one 3D volume"):
        read_lesions(path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a readable lesion mask"):
        read_lesions(path)
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nib.save(image, path)
    with pytest.raises(InputError, match="neither qform nor sform"):
        read_lesions(path)
