"""What is found in a raw dataset: the right image of the right person, and every doubt said."""

import pytest
from conftest import describe, listing, save_scan

from models.errors import InputError
from pipelines.inputs import (
    Scan,
    check_dataset,
    choose_participants,
    find_scans,
    modalities_there,
    odd_folders,
    participants_on_disk,
    unreadable,
    with_t1w,
)


@pytest.fixture
def raw(tmp_path):
    """Two people, one with two sessions; images are not opened."""
    folder = describe(tmp_path / "raw")
    save_scan(folder, "01", b"x")
    save_scan(folder, "02", b"x", "a")
    save_scan(folder, "02", b"x", "b")
    return folder


def keys(scans):
    return [(scan.participant, scan.session) for scan in scans]


def image(folder, name):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


# --- the dataset ---------------------------------------------------------------------------------


def test_a_dataset_is_a_dataset(raw):
    check_dataset(raw)
    assert participants_on_disk(raw) == ["01", "02"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda raw: raw.rename(raw.with_name("moved")), "there is no such folder"),
        (lambda raw: (raw / "dataset_description.json").unlink(), "dataset_description.json: miss"),
        (lambda raw: (raw / "dataset_description.json").write_text("{"), "not valid JSON"),
        (
            lambda raw: [raw.joinpath(f"sub-0{i}").rename(raw / f"person{i}") for i in (1, 2)],
            "has no sub-* folder",
        ),
        (
            lambda raw: [raw.joinpath(f"sub-0{i}").rename(raw / f"sub-0_{i}") for i in (1, 2)],
            "sub-0_1: a participant's label may hold letters and digits only",
        ),
    ],
)
def test_what_is_no_dataset_says_what_is_missing(raw, spoil, words):
    spoil(raw)
    with pytest.raises(InputError) as caught:
        check_dataset(raw)
    assert words in str(caught.value)
    assert str(raw) in str(caught.value)


def test_a_file_is_no_dataset(tmp_path):
    (tmp_path / "raw.zip").write_bytes(b"x")
    with pytest.raises(InputError, match="no such folder"):
        check_dataset(tmp_path / "raw.zip")


# --- participants --------------------------------------------------------------------------------


def test_all_or_the_chosen_ones(raw):
    assert choose_participants(raw, ()) == ["01", "02"]
    assert choose_participants(raw, ["02", "sub-02"]) == ["02"]


def test_an_unknown_label_lists_what_is_there(raw):
    with pytest.raises(InputError, match=r"no sub-3; it has 2 participants \(01, 02\)"):
        choose_participants(raw, ["01", "3"])


def test_labels_are_not_numbers(raw):
    with pytest.raises(InputError, match="no sub-1;"):
        choose_participants(raw, ["1"])


def test_a_copy_beside_a_person_is_not_taken_for_the_person(raw):
    image(raw, "sub-01_old/anat/sub-01_old_T1w.nii.gz")  # pybids reads subject 01 there
    image(raw, "sub-ADNI-002/anat/sub-ADNI-002_T1w.nii.gz")
    assert odd_folders(raw) == ["sub-01_old", "sub-ADNI-002"]
    people = choose_participants(raw, ())
    assert people == ["01", "02"]
    scans, warnings = find_scans(raw, people, "T1w")
    assert keys(scans) == [("01", ""), ("02", "a"), ("02", "b")]
    assert scans[0].path == raw / "sub-01/anat/sub-01_T1w.nii.gz"
    assert [sentence.split(":")[0] for sentence in warnings] == ["sub-01_old", "sub-ADNI-002"]
    with pytest.raises(InputError, match="no sub-01_old"):
        choose_participants(raw, ["01_old"])


# --- scans ---------------------------------------------------------------------------------------


def test_one_scan_per_person_and_session(raw):
    scans, warnings = find_scans(raw, ["01", "02"], "T1w")
    assert keys(scans) == [("01", ""), ("02", "a"), ("02", "b")]
    assert scans[1].path == raw / "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz"
    assert scans[1].entities == {"sub": "02", "ses": "a"}
    assert warnings == []


def test_only_the_wanted_people_and_sessions(raw):
    assert keys(find_scans(raw, ["01"], "T1w")[0]) == [("01", "")]
    assert keys(find_scans(raw, ["01", "02"], "T1w", sessions=["b"])[0]) == [("02", "b")]


def test_a_label_is_not_a_prefix_of_another(raw):
    for who in ("010", "0", "1"):
        save_scan(raw, who, b"x")
    assert keys(find_scans(raw, ["01"], "T1w")[0]) == [("01", "")]
    assert keys(find_scans(raw, ["0", "010"], "T1w")[0]) == [("0", ""), ("010", "")]


def test_other_modalities_and_other_datasets_are_not_taken(raw):
    image(raw, "sub-01/anat/sub-01_FLAIR.nii.gz")
    image(raw, "sub-01/func/sub-01_task-rest_bold.nii.gz")
    image(raw, "derivatives/fmriprep/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz")
    image(raw, "sourcedata/sub-01/anat/sub-01_T1w.nii.gz")
    image(raw, "sub-01/anat/.sub-01_T1w.nii.gz")
    scans, warnings = find_scans(raw, ["01"], "T1w")
    assert [scan.path for scan in scans] == [raw / "sub-01/anat/sub-01_T1w.nii.gz"]
    assert warnings == []


def test_of_several_images_one_is_used_and_the_others_are_named(raw):
    image(raw, "sub-01/anat/sub-01_run-2_T1w.nii.gz")
    image(raw, "sub-01/anat/sub-01_acq-fast_T1w.nii.gz")
    scans, warnings = find_scans(raw, ["01"], "T1w")
    assert len(scans) == 1
    (sentence,) = warnings
    assert sentence.startswith(f"sub-01: {scans[0].path.name} is used")
    for name in ("sub-01_run-2_T1w.nii.gz", "sub-01_acq-fast_T1w.nii.gz", "sub-01_T1w.nii.gz"):
        assert name in sentence


def test_a_filter_chooses_among_them(raw):
    image(raw, "sub-01/anat/sub-01_acq-fast_T1w.nii.gz")
    scans, warnings = find_scans(raw, ["01"], "T1w", filters={"acquisition": "fast"})
    assert [scan.path.name for scan in scans] == ["sub-01_acq-fast_T1w.nii.gz"]
    assert warnings == []


def test_a_filter_that_does_not_exist(raw):
    with pytest.raises(InputError, match="--bids-filter-file: 'acq' is not a recognized entity"):
        find_scans(raw, ["01"], "T1w", filters={"acq": "fast"})


def test_uncompressed_images_count_and_headers_without_image_do_not(raw):
    image(raw, "sub-03/anat/sub-03_T1w.nii")
    image(raw, "sub-04/anat/sub-04_T1w.json")
    assert keys(find_scans(raw, ["03", "04"], "T1w")[0]) == [("03", "")]


def test_links_are_followed_but_not_resolved(raw, tmp_path):
    annex = tmp_path / "annex/MD5E-s1--0.nii.gz"
    annex.parent.mkdir()
    path = raw / "sub-01/anat/sub-01_T1w.nii.gz"
    path.rename(annex)
    path.symlink_to(annex)
    (scan,) = find_scans(raw, ["01"], "T1w")[0]
    assert scan == Scan("01", "", path)
    assert unreadable(path) == ""
    annex.unlink()  # as DataLad leaves it before `get`
    assert [scan.path for scan in find_scans(raw, ["01"], "T1w")[0]] == [path]
    assert "datalad get" in unreadable(path)
    assert str(path) in unreadable(path)


@pytest.mark.usefixtures("permissions_count")
def test_a_file_without_permission_is_named(raw):
    path = raw / "sub-01/anat/sub-01_T1w.nii.gz"
    path.chmod(0)
    assert "permissions" in unreadable(path)


def test_looking_writes_nothing(raw):
    before = listing(raw)
    check_dataset(raw)
    find_scans(raw, choose_participants(raw, ()), "T1w")
    assert listing(raw) == before


# --- other modalities ----------------------------------------------------------------------------


def test_the_t1w_image_of_the_session_goes_along_else_the_first(raw):
    t1w, _ = find_scans(raw, ["01", "02"], "T1w")
    asked = [Scan("02", "b", raw / "x"), Scan("02", "c", raw / "y"), Scan("03", "", raw / "z")]
    joined, warnings = with_t1w(asked, t1w)
    assert [scan.t1w and (scan.t1w.participant, scan.t1w.session) for scan in joined] == [
        ("02", "b"),
        ("02", "a"),
        None,
    ]
    assert len(warnings) == 2
    assert "sub-02 ses-c: has no T1w image of that session" in warnings[0]
    assert "sub-03: has no T1w image" in warnings[1]


def test_the_modalities_of_the_first_person_who_has_any(raw):
    image(raw, "sub-00/func/sub-00_bold.nii.gz")
    image(raw, "sub-02/ses-a/dwi/sub-02_ses-a_dwi.nii.gz")
    assert modalities_there(raw, ["FLAIR", "T1w", "dwi"]) == ["T1w"]
    image(raw, "sub-00/ses-1/dwi/sub-00_ses-1_dwi.nii.gz")
    image(raw, "sub-00/ses-1/anat/sub-00_ses-1_FLAIR.nii")
    assert modalities_there(raw, ["FLAIR", "T1w", "dwi"]) == ["FLAIR", "dwi"]
    assert modalities_there(raw / "nowhere", ["T1w"]) == []
