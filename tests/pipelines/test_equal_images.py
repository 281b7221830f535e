"""What is done about images that are there twice."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from models.errors import InputError
from models.grids import GRIDS
from pipelines.derivatives import read_table, write_table
from pipelines.duplicates import SHOWN, Seen, find, products, refuse, used_once
from pipelines.interfaces.networks import PackVolumes, read_cohort


def cohort(*people, **columns):
    """One row per image; ``01/2`` for a session of a person."""
    keys = [(one + "/").split("/")[:2] for one in people]
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{person}" for person, _ in keys],
            "session_id": [f"ses-{session}" if session else "" for _, session in keys],
            "image": [f"/out/{'-'.join(key)}.nii.gz" for key in keys],
            "train": True,
            "test": [session in ("", "1") for _, session in keys],
        }
    )
    return table.assign(**columns)


def seen(stored, thumbnails=()):
    found = Seen(2.0)
    found.stored, found.thumbnails = list(stored), list(thumbnails)
    return found


def test_two_people_with_one_image_stop_the_run():
    table = cohort("01", "02", "03")
    for stored, packed in (("aba", "xyz"), ("abc", "xyx")):
        with pytest.raises(InputError) as caught:
            refuse(find(table, seen(stored), packed), table)
        assert "1 pair of people has the same image" in str(caught.value)
        assert "/out/01-.nii.gz = /out/03-.nii.gz" in str(caught.value)
    refuse(find(table, seen("abc"), "xyz"), table)


def test_the_list_of_pairs_is_kept_short():
    table = cohort(*(f"{i:02d}" for i in range(6)))
    with pytest.raises(InputError, match=r"(?s)15 pairs .*and 5 more") as caught:
        refuse(find(table, seen("aaaaaa"), "uvwxyz"), table)
    assert str(caught.value).count(" = ") == 10


@pytest.mark.parametrize(
    ("judged", "kept"), [("1", [True, False, True]), ("2", [False, True, True])]
)
def test_equal_sessions_of_a_person_train_once(judged, kept, tmp_path):
    table = cohort("01/1", "01/2", "02")
    table.loc[:1, "test"] = [judged == "1", judged == "2"]
    found = find(table, seen("aab"), "xxz")
    refuse(found, table)
    used = used_once(table, found)
    assert used["train"].tolist() == kept
    assert used["test"].tolist() == table["test"].tolist()
    assert table["train"].all()
    ((path, product),) = products(tmp_path, "tiny", found, table).items()
    assert path == "group/model-tiny_duplicates.tsv"
    (said,) = product["sidecar"]["Warnings"]
    assert said.startswith("sub-01_ses-1 and sub-01_ses-2 are the same image, voxel for voxel")
    assert "near" in product["sidecar"]["NotComputed"]


def test_images_that_are_much_alike_are_warned_of_unless_related(tmp_path):
    rng = np.random.default_rng(0)
    small = rng.normal(size=(10, 500)).astype(np.float32)
    small[7] = small[2] + 0.3 * small[7]
    small[4] = small[3] + 0.3 * small[4]  # a repeat of one person
    small[9] = small[8] + 0.3 * small[9]
    table = cohort("0", "1", "2", "3/1", "3/2", "5", "6", "7", "8", "9")
    found = find(table, seen(map(str, range(10)), small), map(str, range(10)))
    assert list(zip(found["first"], found["second"], strict=True)) == [(8, 9), (2, 7)]
    refuse(found, table)
    product = products(tmp_path, "tiny", found, table)["group/model-tiny_duplicates.tsv"]
    _, said = product["sidecar"]["Warnings"]
    assert said.startswith("sub-2 and sub-7 are very much alike (correlation 0.9")
    written = read_table(tmp_path / "model-tiny_duplicates.tsv")
    assert written["how"].tolist() == ["near", "near"]
    twins = table.assign(family=["", "", "", "", "", "", "", "", "t", "t"])
    assert len(find(twins, seen(map(str, range(10)), small), map(str, range(10)))) == 1


def test_a_crowd_of_likeness_is_counted_and_not_listed(tmp_path):
    rng = np.random.default_rng(0)
    small = rng.normal(size=(60, 500)).astype(np.float32)
    small[:7] = small[0] + 0.2 * small[:7]
    table = cohort(*map(str, range(60)))
    found = find(table, seen(map(str, range(60)), small), map(str, range(60)))
    assert len(found) == 21
    product = products(tmp_path, "tiny", found, table)["group/model-tiny_duplicates.tsv"]
    *named, counted = product["sidecar"]["Warnings"]
    assert len(named) == SHOWN
    assert counted == (
        "11 more pairs of people are as much alike: see group/model-tiny_duplicates.tsv"
    )
    assert len(read_table(tmp_path / "model-tiny_duplicates.tsv")) == 21


def test_files_that_differ_in_bytes_alone_are_found_while_packing(tmp_path):
    """The same voxels: once gzipped, once not and with other words in the header."""
    grid = GRIDS["3mm"]
    data = np.random.default_rng(0).integers(1, 900, grid.shape).astype(np.int16)
    rows = []
    for name, voxels, note in (
        ("1.nii.gz", data, b""),
        ("2.nii", data, b"x"),
        ("3.nii", np.sqrt(data).astype(np.int16), b""),
    ):
        image = nib.Nifti1Image(voxels, grid.affine)
        image.header["sform_code"] = 4
        image.header["descrip"] = note
        image.to_filename(tmp_path / name)
        rows.append((f"sub-{name[0]}", "", str(tmp_path / name), name[0] == "1", True, True))
    columns = ["participant_id", "session_id", "image", "positive", "train", "test"]
    table = pd.DataFrame(rows, columns=columns)

    def pack(chosen):
        folder = tmp_path / "-".join(map(str, chosen))
        folder.mkdir()
        write_table(folder / "cohort.tsv", table.iloc[chosen])
        described = {"name": grid.name, "shape": list(grid.shape), "voxel_mm": grid.voxel_mm}
        described["origin_mm"] = list(grid.origin_mm)
        node = PackVolumes(
            cohort=folder / "cohort.tsv", grid=described, intensity="max", model="tiny"
        )
        return node.run(cwd=folder).outputs

    with pytest.raises(InputError, match=r"1\.nii\.gz = .*2\.nii"):
        pack([0, 1])
    outputs = pack([0, 2])
    assert read_cohort(outputs.cohort)["train"].all()
    assert json.loads(json.dumps(outputs.products))["group/model-tiny_duplicates.tsv"]


def test_a_modality_whose_patients_are_alike_asks_for_more(tmp_path):
    """In SPECT, what sets a patient apart is the same in all patients: the striata."""
    from pipelines.preprocess import modality_of

    rng = np.random.default_rng(0)
    small = rng.normal(size=(10, 500)).astype(np.float32)
    small[7] = small[2] + 0.8 * small[7]
    table, names = cohort(*map(str, range(10))), list(map(str, range(10)))
    assert len(find(table, seen(names, small), names, modality_of("T1w").alike)) == 1
    strict = modality_of("spect").alike
    found = find(table, seen(names, small), names, strict)
    assert found.empty
    written = products(tmp_path, "tiny", found, table, strict)
    assert written["group/model-tiny_duplicates.tsv"]["sidecar"]["NearThreshold"] == strict
