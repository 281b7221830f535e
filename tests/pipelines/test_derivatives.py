"""Names follow BIDS, files appear whole or not at all, tables come back as they went."""

import json
import threading

import numpy as np
import pandas as pd
import pytest

from models.errors import InputError
from models.grids import GRIDS
from pipelines import derivatives
from pipelines.derivatives import (
    ENTITY_ORDER,
    derivative_uri,
    file_hash,
    filename,
    fingerprint,
    grid_sidecar,
    has_sidecar,
    label,
    place,
    read_sidecar,
    read_table,
    relative_path,
    remove_older,
    sidecar_path,
    write_dataset,
    write_json,
    write_table,
    write_text,
)

# --- names ---------------------------------------------------------------------------------------


def test_entities_are_written_in_the_standard_order():
    entities = dict.fromkeys(reversed(ENTITY_ORDER), "1")
    name = filename("heatmap", ".nii.gz", entities)
    assert [part.split("-")[0] for part in name.split("_")[:-1]] == list(ENTITY_ORDER)
    assert name.endswith("_heatmap.nii.gz")


def test_names_of_the_naming_table():
    mni = {"space": "MNI152NLin2009cAsym", "res": "1mm"}
    person = {"sub": "01", "ses": "02"}
    assert relative_path("T1w", ".nii.gz", {**person, **mni, "desc": "preprocLinear"}) == (
        "sub-01/ses-02/anat/"
        "sub-01_ses-02_space-MNI152NLin2009cAsym_res-1mm_desc-preprocLinear_T1w.nii.gz"
    )
    assert relative_path("xfm", ".h5", {"sub": "01", "ses": "", "from": "T1w", "to": "MNI",
                                        "mode": "image"}) == (
        "sub-01/anat/sub-01_from-T1w_to-MNI_mode-image_xfm.h5"
    )  # fmt: skip
    assert relative_path(
        "heatmap", ".tsv", {"model": "adt1w", "atlas": "AAL", "method": "lrp"}
    ) == ("group/model-adt1w_method-lrp_atlas-AAL_heatmap.tsv")


def test_an_entity_that_is_none_is_a_programming_error():
    with pytest.raises(ValueError, match="no such entity"):
        filename("T1w", ".nii.gz", {"subject": "01"})


@pytest.mark.parametrize(("text", "reduced"), [("lrp_epsilon", "lrpepsilon"), ("AD+", "AD")])
def test_labels_keep_letters_and_digits(text, reduced):
    assert label(text) == reduced


def test_a_label_of_nothing_is_refused():
    with pytest.raises(InputError, match="'--' has no letter or digit"):
        label("--")


@pytest.mark.parametrize("name", ["sub-01_T1w.nii.gz", "sub-01_T1w.nii", "sub-01_T1w.tsv"])
def test_sidecars_lie_beside_their_file(tmp_path, name):
    assert sidecar_path(tmp_path / "a.b" / name) == tmp_path / "a.b/sub-01_T1w.json"
    assert has_sidecar(name)


def test_transforms_and_figures_have_no_sidecar():
    assert not has_sidecar("sub-01_from-T1w_to-X_mode-image_xfm.h5")
    assert not has_sidecar("sub-01_desc-mask_T1w.png")


def test_a_missing_sidecar_reads_as_empty(tmp_path):
    assert read_sidecar(tmp_path / "x.nii.gz") == {}
    write_json(tmp_path / "x.json", {"a": 1})
    assert read_sidecar(tmp_path / "x.nii.gz") == {"a": 1}


def test_uris_begin_at_the_participant(tmp_path):
    path = tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    assert derivative_uri(path) == "bids::sub-01/anat/sub-01_T1w.nii.gz"


def test_resolution_is_said_in_words():
    assert grid_sidecar(GRIDS["2mm"])["Resolution"].startswith("2 mm isotropic, 96x114x96 voxels")


# --- whole or not at all -------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    write_json(target, {"old": True})
    monkeypatch.setattr(derivatives.os, "replace", _fail)
    for write in (lambda: write_json(target, {"new": True}), lambda: place(target, target)):
        with pytest.raises(OSError, match="disk"):
            write()
        assert json.loads(target.read_text()) == {"old": True}


def _fail(*_):
    raise OSError("disk full")


def test_place_makes_folders_and_leaves_no_part(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"voxels")
    place(source, tmp_path / "sub-01/anat/x.nii.gz")
    assert (tmp_path / "sub-01/anat/x.nii.gz").read_bytes() == b"voxels"
    assert [path.name for path in (tmp_path / "sub-01/anat").iterdir()] == ["x.nii.gz"]


def test_readers_never_see_half_a_file(tmp_path):
    target, texts = tmp_path / "t", {"a" * 200_000, "b" * 100_000}
    write_text(target, next(iter(texts)))
    writers = [
        threading.Thread(target=lambda text=text: [write_text(target, text) for _ in range(20)])
        for text in texts
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert target.read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


# --- tables --------------------------------------------------------------------------------------


def test_tables_come_back(tmp_path):
    table = pd.DataFrame(
        {
            "participant_id": ["sub-01", "sub-02"],
            "session_id": ["ses-1", np.nan],
            "group": ["NA", "nan"],
            "age": [70.5, np.nan],
        }
    )
    write_table(tmp_path / "t.tsv", table)
    assert (tmp_path / "t.tsv").read_text() == (
        "participant_id\tsession_id\tgroup\tage\nsub-01\tses-1\tNA\t70.5\nsub-02\tn/a\tnan\tn/a\n"
    )
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.tsv"), table, check_dtype=False)


def test_labels_that_look_like_numbers_stay_text(tmp_path):
    (tmp_path / "t.tsv").write_text("participant_id\tsession_id\n007\t01\n")
    assert read_table(tmp_path / "t.tsv").iloc[0].tolist() == ["007", "01"]


# --- hashes --------------------------------------------------------------------------------------


def test_fingerprints_depend_on_content_not_on_order_of_keys():
    assert fingerprint({"a": 1, "b": 2}, 3) == fingerprint({"b": 2, "a": 1}, 3)
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint("a", "b") != fingerprint("ab")


def test_file_hash_is_of_the_bytes(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    assert file_hash(tmp_path / "a") == file_hash(tmp_path / "b") != file_hash(tmp_path / "c")


# --- the dataset ---------------------------------------------------------------------------------


def test_the_dataset_describes_itself_and_carries_the_table(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    (raw / "participants.tsv").write_text("participant_id\nsub-01\n")
    write_dataset(out, raw, "1.2.3")
    described = json.loads((out / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    assert described["GeneratedBy"] == [{"Name": "BrainWhy", "Version": "1.2.3"}]
    assert described["DatasetLinks"] == {"raw": raw.as_uri()}
    assert (out / "participants.tsv").read_text() == "participant_id\nsub-01\n"
    assert not (out / "participants.json").exists()


def test_an_output_inside_the_dataset_is_linked_relatively(tmp_path):
    write_dataset(tmp_path / "derivatives/brainwhy", tmp_path, "1")
    text = (tmp_path / "derivatives/brainwhy/dataset_description.json").read_text()
    assert json.loads(text)["DatasetLinks"] == {"raw": "../.."}


def test_links_that_were_given_win(tmp_path):
    write_dataset(tmp_path, tmp_path / "raw", "1", {"raw": "https://example.org"})
    described = json.loads((tmp_path / "dataset_description.json").read_text())
    assert described["DatasetLinks"] == {"raw": "https://example.org"}
    assert described["SourceDatasets"] == [{"URL": "https://example.org"}]


def test_bidsignore_has_no_trailing_slash(tmp_path):
    write_dataset(tmp_path, tmp_path / "raw", "1")
    lines = (tmp_path / ".bidsignore").read_text().splitlines()
    assert "**/figures" in lines
    assert not [line for line in lines if line.endswith("/")]  # the validator wants it so


def test_a_mask_is_removed_with_the_model_that_its_sidecar_names(tmp_path):
    for model in ("one", "two"):
        mask = tmp_path / f"sub-01/dwi/sub-01_res-3mm_label-anomaly_desc-{model}sae_mask.nii.gz"
        place(__file__, mask)
        write_json(sidecar_path(mask), {"Model": model})
    later = mask.stat().st_mtime + 60
    assert remove_older(tmp_path, "one", later) == 2
    left = sorted(path.name for path in tmp_path.glob("sub-01/dwi/*"))
    assert left == [sidecar_path(mask).name, mask.name]
