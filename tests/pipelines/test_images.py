"""Images come in every orientation and every kind of broken; sides stay, faults are named."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy.spatial.transform import Rotation

from models.errors import InputError
from models.grids import GRIDS, Grid, full_grid
from pipelines.images import input_affine, load_volume, network_input, write_nifti
from pipelines.interfaces.images import stripped_outline

SHAPE = (30, 36, 32)
AFFINE = np.array([[4.0, 0, 0, -60], [0, 4, 0, -72], [0, 0, 4, -64], [0, 0, 0, 1]])
CORNER = (5, 30, 8)  # left, anterior, inferior in RAS


def noise(shape=SHAPE, dtype=np.float32):
    return np.random.default_rng(0).integers(1, 200, shape).astype(dtype)


def marked(axcodes="RAS", dtype=np.float32, affine=AFFINE):
    """A noisy volume with one bright voxel, stored with other axes."""
    data = noise(dtype=dtype)
    data[CORNER] = 1000
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axcodes)
    )
    return nib.Nifti1Image(data, affine).as_reoriented(turn)


def brightest_mm(image):
    data = np.asarray(image.dataobj)
    return apply_affine(image.affine, np.unravel_index(data.argmax(), data.shape))


def saved(tmp_path, image, name="sub-01_T1w.nii.gz"):
    nib.save(image, tmp_path / name)
    return tmp_path / name


def complaint(path):
    with pytest.raises(InputError) as caught:
        load_volume(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- orientation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("axcodes", ["RAS", "LAS", "LPS", "RPI", "PIR", "SAL", "ILP"])
def test_every_storage_order_keeps_sides(tmp_path, axcodes):
    image = marked(axcodes, np.int16)
    found, axes, notes = load_volume(saved(tmp_path, image))
    assert axes == axcodes
    assert nib.aff2axcodes(found.affine) == ("R", "A", "S")
    np.testing.assert_allclose(brightest_mm(found), apply_affine(AFFINE, CORNER), atol=1e-4)
    assert found.get_data_dtype() == np.float32
    assert notes == []


@pytest.mark.parametrize("axcodes", ["RAS", "LPS"])
def test_oblique_images_are_not_interpolated(tmp_path, axcodes):
    angle = np.deg2rad(20)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = AFFINE.copy()
    affine[:3, :3] = turn @ AFFINE[:3, :3]
    image = marked(axcodes, affine=affine)
    found, _, notes = load_volume(saved(tmp_path, image))
    np.testing.assert_allclose(brightest_mm(found), apply_affine(affine, CORNER), atol=1e-4)
    assert set(np.unique(found.dataobj)) == set(np.unique(image.dataobj))
    assert notes == []


def test_slanted_axes_are_straightened_and_said(tmp_path):
    affine = AFFINE.copy()
    affine[0, 2] = 1.0  # a gantry tilt
    image = nib.Nifti1Image(noise(), None)
    image.set_sform(affine, 1)  # no qform can hold a shear
    data = np.asarray(image.dataobj)
    data[12:15, 20:23, 16:19] = 5000
    found, _, notes = load_volume(saved(tmp_path, image))
    assert any("not at right angles" in note for note in notes)
    cosines = found.affine[:3, :3] / np.linalg.norm(found.affine[:3, :3], axis=0)
    np.testing.assert_allclose(cosines.T @ cosines, np.eye(3), atol=1e-6)
    bright = np.argwhere(np.asarray(found.dataobj) > 2500).mean(0)
    expected = apply_affine(affine, (13, 21, 17))
    np.testing.assert_allclose(apply_affine(found.affine, bright), expected, atol=3)


@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (2, 1), (4, 0)])
def test_one_of_the_two_forms_is_enough(tmp_path, sform, qform):
    image = marked()
    image.set_sform(AFFINE, sform)
    image.set_qform(AFFINE, qform)
    found, _, _ = load_volume(saved(tmp_path, image))
    np.testing.assert_allclose(brightest_mm(found), apply_affine(AFFINE, CORNER), atol=1e-4)


def test_neither_form_is_refused(tmp_path):
    image = marked()
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    said = complaint(saved(tmp_path, image))
    assert "neither qform nor sform" in said
    assert "left and right" in said


def test_a_singular_affine_is_refused(tmp_path):
    image = marked()
    image.set_qform(None, 0)
    image.set_sform(np.diag([4.0, 4, 0, 1]), 1)
    assert "singular" in complaint(saved(tmp_path, image))


# --- content -------------------------------------------------------------------------------------


def test_what_is_no_nifti(tmp_path):
    path = tmp_path / "sub-01_T1w.nii.gz"
    for content in (b"", b"DICM not at all", gzip.compress(b"a letter to a friend")):
        path.write_bytes(content)
        said = complaint(path)
        assert "not a readable NIfTI image" in said
        assert "convert it again" in said


def test_no_file_at_all(tmp_path):
    assert "not a readable NIfTI image" in complaint(tmp_path / "sub-01_T1w.nii.gz")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_truncated(tmp_path, name):
    path = saved(tmp_path, marked(), name)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    said = complaint(path)
    assert "cut short" in said
    assert "fetch it again" in said


def test_four_dimensions(tmp_path):
    series = nib.Nifti1Image(noise((*SHAPE, 3)), AFFINE)
    said = complaint(saved(tmp_path, series))
    assert "30x36x32x3 voxels" in said
    assert "one 3D volume is needed" in said


def test_a_fourth_dimension_of_one_is_nothing(tmp_path):
    found, _, _ = load_volume(saved(tmp_path, nib.Nifti1Image(noise((*SHAPE, 1)), AFFINE)))
    assert found.shape == SHAPE


def test_two_dimensions(tmp_path):
    assert "2D image" in complaint(saved(tmp_path, nib.Nifti1Image(noise((30, 30)), AFFINE)))


@pytest.mark.parametrize(("value", "words"), [(0, "every voxel is 0"), (7, "every voxel is 7")])
def test_constant(tmp_path, value, words):
    flat = nib.Nifti1Image(np.full(SHAPE, value, np.float32), AFFINE)
    assert words in complaint(saved(tmp_path, flat))


def test_all_nan(tmp_path):
    nothing = nib.Nifti1Image(np.full(SHAPE, np.nan, np.float32), AFFINE)
    assert "every voxel is NaN" in complaint(saved(tmp_path, nothing))


def test_nan_and_zero(tmp_path):
    data = np.zeros(SHAPE, np.float32)
    data[0] = np.nan
    assert "every voxel is 0" in complaint(saved(tmp_path, nib.Nifti1Image(data, AFFINE)))


def test_some_nan_are_mended_and_said(tmp_path):
    data = noise()
    data[0, 0, :3] = np.nan, np.inf, -np.inf
    found, _, notes = load_volume(saved(tmp_path, nib.Nifti1Image(data, AFFINE)))
    assert np.isfinite(found.dataobj).all()
    assert notes == ["3 NaN or infinite voxels were set to 0"]


@pytest.mark.parametrize(
    ("shape", "mm"), [((8, 36, 32), 4), ((30, 36, 3), 30), ((20, 20, 20), 1), ((1, 1, 1), 1)]
)
def test_tiny(tmp_path, shape, mm):
    image = nib.Nifti1Image(noise(shape), np.diag([mm, mm, mm, 1]))
    said = complaint(saved(tmp_path, image))
    assert "x".join(map(str, shape)) in said
    assert "too small for a head" in said


@pytest.mark.parametrize("kind", [nib.Nifti2Image, nib.Nifti1Pair])
def test_other_kinds_of_nifti_are_never_mirrored(tmp_path, kind):
    data = noise()
    data[CORNER] = 1000
    extension = "nii" if kind is nib.Nifti2Image else "img"
    found, _, _ = load_volume(saved(tmp_path, kind(data, AFFINE), f"sub-01_T1w.{extension}"))
    np.testing.assert_allclose(brightest_mm(found), apply_affine(AFFINE, CORNER), atol=1e-4)


def test_scaled_integers_are_unscaled(tmp_path):
    image = nib.Nifti1Image(noise() / 7, AFFINE)
    image.set_data_dtype(np.int16)
    found, _, _ = load_volume(saved(tmp_path, image))
    np.testing.assert_allclose(np.asarray(found.dataobj), noise() / 7, atol=0.01)


# --- writing and handing on ----------------------------------------------------------------------


@pytest.mark.parametrize(("template", "code"), [(False, 1), (True, 4)])
def test_written_images_say_their_space_twice(tmp_path, template, code):
    write_nifti(tmp_path / "x.nii.gz", noise(), AFFINE, template=template)
    image = nib.load(tmp_path / "x.nii.gz")
    for affine, found in (image.get_sform(coded=True), image.get_qform(coded=True)):
        assert found == code
        np.testing.assert_allclose(affine, AFFINE, atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"


def test_masks_are_written_as_bytes(tmp_path):
    write_nifti(tmp_path / "x.nii.gz", noise() > 100, AFFINE)
    assert nib.load(tmp_path / "x.nii.gz").get_data_dtype() == np.uint8


@pytest.mark.parametrize("intensity", ["max", "zscore"])
def test_the_network_sees_the_recipes_grid(tmp_path, small_template, intensity):
    grid = GRIDS["3mm"]
    full = full_grid(4.0)
    write_nifti(tmp_path / "x.nii.gz", np.asarray(small_template.dataobj), full.affine)
    seen = network_input(tmp_path / "x.nii.gz", grid, intensity)
    assert seen.shape == (1, *grid.shape)
    assert seen.dtype == np.float32
    if intensity == "max":
        assert 0.99 < seen.max() <= 1
        assert seen.min() == 0
    else:
        assert abs(seen[seen != 0].mean()) < 1e-3


def test_an_image_without_brain_is_refused(tmp_path):
    write_nifti(tmp_path / "x.nii.gz", np.zeros(SHAPE), AFFINE, template=True)
    with pytest.raises(InputError, match="empty inside the brain mask"):
        network_input(tmp_path / "x.nii.gz", GRIDS["3mm"], "max")


# --- without registration ------------------------------------------------------------------------


def unregistered(path, seed=0):
    """An image on the 4 mm grid of the template that keeps its own, turned place."""
    grid, rng = full_grid(4.0), np.random.default_rng(seed)
    data = rng.uniform(1, 100, grid.shape).astype(np.float32)
    turned = oblique(4.0, degrees=(14, -9, 21))
    write_nifti(path, data, turned)
    return data, turned, grid


def oblique(voxel_mm, degrees):
    matrix = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * voxel_mm
    return nib.affines.from_matvec(matrix, [-50, -70, -60])


def test_without_registration_voxels_count_and_not_millimetres(tmp_path):
    data, _, whole = unregistered(tmp_path / "own.nii.gz")
    write_nifti(tmp_path / "mni.nii.gz", data, whole.affine, template=True)
    for grid in (whole, GRIDS["3mm"]):
        own, mni = (network_input(tmp_path / f"{x}.nii.gz", grid, "max") for x in ("own", "mni"))
        np.testing.assert_array_equal(own, mni)


def test_a_map_without_registration_lies_where_the_scan_does(tmp_path):
    _, turned, whole = unregistered(tmp_path / "own.nii.gz")
    start, size = np.array([5, 7, 9]), (20, 24, 18)
    grid = Grid("part", size, 4.0, tuple(apply_affine(whole.affine, start)))
    placed = input_affine(tmp_path / "own.nii.gz", grid)
    for voxel in ([0, 0, 0], np.array(size) - 1):
        expected = apply_affine(turned, start + voxel)
        np.testing.assert_allclose(apply_affine(placed, voxel), expected, atol=1e-3)


def test_a_map_in_template_space_has_the_grids_affine(tmp_path):
    write_nifti(tmp_path / "x.nii.gz", np.ones((4, 4, 4)), AFFINE, template=True)
    np.testing.assert_array_equal(
        input_affine(tmp_path / "x.nii.gz", GRIDS["2mm"]), GRIDS["2mm"].affine
    )


def test_an_image_on_no_grid_is_refused(tmp_path):
    write_nifti(tmp_path / "x.nii.gz", np.ones((30, 30, 30)), np.eye(4))
    with pytest.raises(InputError, match="neither in template space nor on its grid"):
        network_input(tmp_path / "x.nii.gz", GRIDS["3mm"], "max")


# --- with or without skull -----------------------------------------------------------------------


@pytest.mark.parametrize(("axcodes", "oblique"), [("RAS", False), ("LPS", True)])
def test_a_brain_without_skull_is_recognised(brain, axcodes, oblique):
    image = brain(1, axcodes, oblique=oblique)
    outline = stripped_outline(image)
    assert outline is not None
    inside = np.asarray(image.dataobj) > 0
    assert outline[inside].mean() > 0.98


def test_noise_around_a_brain_is_not_an_outline(brain):
    image = brain(1)
    data = np.asarray(image.dataobj) + np.random.default_rng(0).rayleigh(5, image.shape)
    assert stripped_outline(nib.Nifti1Image(data, image.affine)) is None


def test_a_head_or_a_pea_is_not_a_brain(brain):
    image = brain(1)
    data = np.asarray(image.dataobj)
    for zoom in (1.3, 0.4):
        affine = image.affine @ np.diag([zoom, zoom, zoom, 1])
        assert stripped_outline(nib.Nifti1Image(data, affine)) is None


def test_nothing_at_all_is_no_brain():
    assert stripped_outline(nib.Nifti1Image(np.zeros(SHAPE), AFFINE)) is None
