"""The cache, and the way of an image from any orientation onto a grid."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from models.errors import InputError
from models.grids import GRIDS, Grid
from models.volumes import (
    INTENSITIES,
    centred,
    centred_affine,
    mean_volume,
    open_cache,
    scale_intensity,
    share_outside,
    to_grid,
    write_cache,
)

SMALL = Grid("small", (5, 6, 7), 2.0, (-4.0, -6.0, -8.0))
HEAD = Grid("head", (41, 47, 43), 2.0, (-40.0, -50.0, -36.0))
KEYS = [("01", ""), ("02", "a"), ("02", "b")]


def images(seed=0, n=3, channels=1):
    return np.random.default_rng(seed).normal(size=(n, channels, *SMALL.shape)).astype(np.float32)


# --- cache ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
def test_what_goes_into_the_cache_comes_out(tmp_path, channels):
    volumes = images(channels=channels)
    written = write_cache(tmp_path / "new" / "cache", KEYS, iter(volumes), SMALL, channels)
    opened = open_cache(tmp_path / "new" / "cache")
    for cache in (written, opened):
        assert cache.keys == KEYS
        assert cache.grid == SMALL
        assert cache.content_hash == written.content_hash
        assert cache.volumes.dtype == np.float16
        np.testing.assert_array_equal(cache.volumes, volumes.astype(np.float16))
    assert opened.rows([("02", "b"), ("01", ""), ("02", "b")]) == [2, 0, 2]


def test_the_cache_is_mapped_and_read_only(tmp_path):
    cache = write_cache(tmp_path, KEYS, images(), SMALL)
    assert isinstance(cache.volumes, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        cache.volumes[0, 0, 0, 0, 0] = 1


def test_rounding_is_far_below_the_noise(tmp_path):
    volumes = np.random.default_rng(0).random((3, 1, *SMALL.shape), dtype=np.float32)
    cache = write_cache(tmp_path, KEYS, volumes, SMALL)
    assert np.abs(cache.volumes - volumes).max() < 5e-4


def test_the_content_hash_names_voxels_people_and_grid(tmp_path):
    volumes = images()
    one_voxel = volumes.copy()
    one_voxel[2, 0, 4, 5, 6] += 0.01
    other_mm = replace(SMALL, origin_mm=(-4.0, -6.0, -8.5))
    variants = {
        "as it is": (KEYS, volumes, SMALL),
        "one voxel": (KEYS, one_voxel, SMALL),
        "images swapped": (KEYS, volumes[::-1], SMALL),
        "a person": ([("01", ""), ("03", "a"), ("02", "b")], volumes, SMALL),
        "a session": ([("01", "a"), ("02", "a"), ("02", "b")], volumes, SMALL),
        "the grid": (KEYS, volumes, other_mm),
        "its name": (KEYS, volumes, replace(SMALL, name="other")),
    }
    hashes = {
        name: write_cache(tmp_path / name, *rest).content_hash for name, rest in variants.items()
    }
    assert len(set(hashes.values())) == len(variants)
    again = write_cache(tmp_path / "again", KEYS, volumes, SMALL)
    assert again.content_hash == hashes["as it is"]


@pytest.mark.parametrize("n", [2, 4])
def test_as_many_images_as_keys(tmp_path, n):
    with pytest.raises(ValueError, match="zip"):
        write_cache(tmp_path, KEYS, images(n=n), SMALL)
    assert not (tmp_path / "index.json").exists()


def test_a_cache_that_was_cut_short_has_no_index(tmp_path):
    write_cache(tmp_path, KEYS, images(), SMALL)

    def breaks():
        yield images()[0]
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_cache(tmp_path, KEYS, breaks(), SMALL)
    with pytest.raises(FileNotFoundError):
        open_cache(tmp_path)


def test_the_index_is_readable_by_others(tmp_path):
    cache = write_cache(tmp_path, KEYS, images(), SMALL)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["content_hash"] == cache.content_hash
    assert index["keys"] == [list(key) for key in KEYS]
    assert np.load(tmp_path / "volumes.npy").shape == (3, 1, *SMALL.shape)


# --- onto a grid ---------------------------------------------------------------------------------


def oblique(voxel_mm, degrees, flips=(1, 1, 1)):
    """Affine whose grid is centred on the head: rotation, voxel edges, axes turned round."""
    rotation = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    return rotation @ np.diag(np.multiply(voxel_mm, flips))


def scanner_image(matrix, centres_mm, shape=(90, 84, 88)):
    """Gaussian blobs (SD 4 mm) at world positions, sampled on a scanner's grid about (0, 0, 0)."""
    affine = nib.affines.from_matvec(matrix, -matrix @ ((np.array(shape) - 1) / 2))
    where = nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    data = np.zeros(shape, np.float32)
    for height, centre in enumerate(centres_mm, start=1):
        data += height * np.exp(-((where - centre) ** 2).sum(-1) / (2 * 4.0**2))
    return data, affine


@pytest.mark.parametrize(
    "matrix",
    [
        oblique((1, 1, 1), (0, 0, 0)),
        oblique((1, 1, 1), (0, 0, 0), (-1, 1, 1)),
        oblique((1, 1, 1), (0, 0, 0), (-1, -1, 1)),
        oblique((1, 1.2, 1.5), (0, 0, 0), (1, -1, -1)),
        oblique((1, 1, 1), (12, -20, 33)),
        oblique((1.1, 0.9, 1.4), (-15, 25, -8), (-1, 1, 1)),
        oblique((1, 1, 1.3), (0, 0, 0))[:, [2, 0, 1]],
    ],
    ids=["RAS", "LAS", "LPS", "RPI", "oblique", "oblique LAS anisotropic", "axes permuted"],
)
def test_a_blob_stays_at_its_millimetre(matrix):
    left, right = np.array([-17.0, 9.0, 12.0]), np.array([21.0, -14.0, 5.0])
    data, affine = scanner_image(matrix, [left, right])
    moved = to_grid(data, affine, HEAD)
    assert moved.shape == HEAD.shape
    where = nib.affines.apply_affine(HEAD.affine, np.moveaxis(np.indices(HEAD.shape), 0, -1))
    heights = []
    for centre in (left, right):
        near = np.linalg.norm(where - centre, axis=-1) < 14
        weights = np.where(near, moved, 0)
        middle = (where * weights[..., None]).sum((0, 1, 2)) / weights.sum()
        np.testing.assert_allclose(middle, centre, atol=0.1)
        heights.append(weights.max())
    assert heights[1] > 1.7 * heights[0]


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("voxel_mm", [1.0, 0.9, 3.0])
@pytest.mark.parametrize("axes", [(0,), (0, 1), (2,), (0, 1, 2)])
def test_turned_axes_are_turned_back_exactly_to_the_border(order, voxel_mm, axes):
    grid = Grid("g", (8, 9, 22), voxel_mm, (-10 * voxel_mm + 0.3, -13.1, -7.7))
    data = np.random.default_rng(0).random(grid.shape, dtype=np.float32) + 1
    affine = grid.affine
    for axis in axes:
        turn = np.eye(4)
        turn[axis, [axis, 3]] = -1, grid.shape[axis] - 1
        affine = affine @ turn
    moved = to_grid(np.flip(data, axes), affine, grid, order)
    np.testing.assert_allclose(moved, data, atol=1e-6)


def test_the_same_grid_returns_the_voxels_untouched():
    data = np.arange(np.prod(SMALL.shape), dtype=np.int16).reshape(SMALL.shape)
    assert to_grid(data, SMALL.affine.astype(np.float32), SMALL) is data
    beside = SMALL.affine.copy()
    beside[0, 3] += 0.5
    assert to_grid(data, beside, SMALL) is not data


def test_a_crop_is_a_crop_and_outside_is_zero():
    data = np.random.default_rng(0).random(SMALL.shape, dtype=np.float32) + 1
    crop = Grid("crop", (3, 4, 4), 2.0, (-2.0, -4.0, -2.0))
    np.testing.assert_array_equal(to_grid(data, SMALL.affine, crop), data[1:4, 1:5, 3:7])
    wide = Grid("wide", (9, 8, 11), 2.0, (-8.0, -8.0, -12.0))
    expected = np.pad(data, ((2, 2), (1, 1), (2, 2)))
    np.testing.assert_array_equal(to_grid(data, SMALL.affine, wide), expected)


def test_coarser_voxels_average_and_do_not_alias():
    fine = Grid("fine", (40, 40, 40), 1.0, (0.0, 0.0, 0.0))
    checks = (np.indices(fine.shape).sum(0) % 2).astype(np.float32)
    coarse = Grid("coarse", (20, 20, 20), 2.0, (0.0, 0.0, 0.0))
    inner = to_grid(checks, fine.affine, coarse)[3:-3, 3:-3, 3:-3]
    np.testing.assert_allclose(inner, 0.5, atol=0.01)
    flat = to_grid(np.ones(fine.shape), fine.affine, coarse)[1:-1, 1:-1, 1:-1]
    np.testing.assert_allclose(flat, 1, rtol=1e-5)


def test_only_the_finer_axis_is_smoothed():
    thick = np.diag([0.5, 0.5, 3.0, 1.0])
    coarse = Grid("coarse", (10, 10, 20), 2.0, (0.0, 0.0, 0.0))
    data = np.zeros((40, 40, 14), np.float32)
    data[..., 6] = 1
    assert to_grid(data, thick, coarse)[5, 5, 9] == pytest.approx(1)
    data = np.zeros((40, 40, 14), np.float32)
    data[20] = 1
    # FWHM^2 = 2^2 - 0.5^2, discretised on 0.5 mm voxels.
    sd_mm = np.sqrt(3.75 / (8 * np.log(2)))
    kernel = np.exp(-((np.arange(-8, 9) * 0.5) ** 2) / (2 * sd_mm**2))
    found = to_grid(data, thick, coarse)[4:7, 5, 9]
    np.testing.assert_allclose(found, (kernel / kernel.sum())[[4, 8, 12]], atol=1e-4)


def test_labels_stay_labels():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 3, 17, 1001], size=(40, 40, 40)).astype(np.int32)
    fine, coarse = np.eye(4), Grid("coarse", (20, 20, 20), 2.0, (0.0, 0.0, 0.0))
    moved = to_grid(labels, fine, coarse, order=0)
    assert moved.dtype == labels.dtype
    np.testing.assert_array_equal(moved, labels[::2, ::2, ::2])
    turned = nib.affines.from_matvec(oblique((1, 1, 1), (10, 20, 30)), [3, -4, 5])
    assert set(np.unique(to_grid(labels, turned, coarse, order=0))) == {0, 3, 17, 1001}


# --- intensity -----------------------------------------------------------------------------------


# --- about the middle ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 6, 7), (4, 9, 12), (10, 3, 8)])
def test_padding_and_cropping_copies_voxels_and_moves_nothing(shape):
    """Against a slow replica: every voxel of the grid asks the image by its millimetres."""
    rng, grid = np.random.default_rng(0), Grid("g", (6, 6, 9), 1.3, (0.0, 0.0, 0.0))
    data = rng.integers(1, 99, shape).astype(np.int16)
    affine = nib.affines.from_matvec(oblique((1.3,) * 3, (12, -20, 33)), [5, -70, 3])
    placed, made = centred_affine(shape, affine, grid), centred(data, affine, grid)
    assert made.dtype == data.dtype
    for voxel in np.ndindex(grid.shape):
        world = nib.affines.apply_affine(placed, voxel)
        there = np.rint(nib.affines.apply_affine(np.linalg.inv(affine), world)).astype(int)
        inside = all(0 <= i < n for i, n in zip(there, shape, strict=True))
        assert made[voxel] == (data[tuple(there)] if inside else 0)


def test_the_middles_are_joined():
    grid = Grid("g", (6, 7, 8), 1.0, (0.0, 0.0, 0.0))
    affine = nib.affines.from_matvec(oblique((1, 1.2, 0.9), (4, 5, 6)), [5, -70, 3])
    placed = centred_affine((9, 10, 4), affine, grid)
    theirs = nib.affines.apply_affine(affine, (4, 5, 2))
    np.testing.assert_allclose(nib.affines.apply_affine(placed, (3, 3, 4)), theirs)
    np.testing.assert_allclose(np.linalg.norm(placed[:3, :3], axis=0), 1)


def test_other_voxels_are_resampled_and_a_blob_stays_at_its_millimetre():
    left = np.array([-17.0, 9.0, 12.0])
    data, affine = scanner_image(oblique((1.1, 0.9, 1.4), (-15, 25, -8)), [left])
    made, placed = centred(data, affine, HEAD), centred_affine(data.shape, affine, HEAD)
    where = nib.affines.apply_affine(placed, np.moveaxis(np.indices(HEAD.shape), 0, -1))
    middle = (where * made[..., None]).sum((0, 1, 2)) / made.sum()
    np.testing.assert_allclose(middle, left, atol=0.1)


def test_rounding_in_a_header_is_no_reason_to_interpolate():
    data = np.random.default_rng(0).random((9, 9, 9), dtype=np.float32)
    affine = np.diag([1.00002, 0.99999, 1, 1])
    grid = Grid("g", (5, 5, 5), 1.0, (0.0, 0.0, 0.0))
    np.testing.assert_array_equal(centred(data, affine, grid), data[2:7, 2:7, 2:7])


def test_the_share_of_a_brain_beyond_the_grid():
    mask = np.zeros((20, 10, 10), bool)
    mask[2:18, 3:6, 3:6] = True
    affine, grid = np.diag([1.0, 1, 1, 1]), Grid("g", (8, 10, 10), 1.0, (0.0, 0.0, 0.0))
    placed = centred_affine(mask.shape, affine, grid)
    kept = centred(mask, affine, grid)
    assert kept.sum() == 8 * 9
    assert share_outside(mask, affine, placed, grid) == pytest.approx(0.5)
    assert share_outside(kept, placed, placed, grid) == 0
    assert share_outside(np.zeros_like(mask), affine, placed, grid) == 0


def test_the_crop_of_the_papers_is_a_crop_of_the_whole_grid():
    """[6:188, 6:224, 6:188], as Klingenberg 2021 and Eitel 2021 cut the template's grid."""
    whole = GRIDS["1mm"]
    data = np.random.default_rng(0).integers(0, 99, whole.shape).astype(np.float32)
    np.testing.assert_array_equal(
        to_grid(data, whole.affine, GRIDS["crop1mm"]), data[6:188, 6:224, 6:188]
    )


def brain_image():
    data = np.zeros((6, 7, 8), np.int16)
    data[1:5, 1:6, 1:7] = np.random.default_rng(0).integers(100, 900, (4, 5, 6))
    return data


def test_max_divides_by_the_maximum():
    data = brain_image()
    scaled = scale_intensity(data, "max")
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, data / data.max(), rtol=1e-6)


@pytest.mark.parametrize("given", [False, True])
def test_zscore_is_of_the_brain_only(given):
    data = brain_image()
    brain = np.zeros(data.shape, bool)
    brain[2:4, 2:5, 2:5] = True
    inside = brain if given else data != 0
    scaled = scale_intensity(data, "zscore", brain if given else None)
    assert scaled.dtype == np.float32
    assert scaled[inside].mean() == pytest.approx(0, abs=1e-5)
    assert scaled[inside].std() == pytest.approx(1, rel=1e-5)
    assert not scaled[~inside].any()
    assert np.corrcoef(scaled[inside], data[inside])[0, 1] == pytest.approx(1)


def test_minmax_is_max_unless_something_is_negative():
    data = brain_image().astype(np.float32)
    np.testing.assert_allclose(
        scale_intensity(data, "minmax"), scale_intensity(data, "max"), rtol=1e-6
    )
    data[2, 2, 2] = -50
    scaled = scale_intensity(data, "minmax")
    assert (scaled.min(), scaled.max()) == (0, 1)
    assert not scaled[data == 0].any()
    other = data[3, 3, 3]
    assert scaled[3, 3, 3] == pytest.approx((other + 50) / (data.max() + 50), rel=1e-6)


def test_a_bright_vessel_does_not_darken_the_brain():
    data = brain_image()
    vessel = data.copy()
    vessel[2, 2, 2] = 30000
    elsewhere = np.ones(data.shape, bool)
    elsewhere[2, 2, 2] = False
    plain, spoilt = (scale_intensity(one, "percentile") for one in (data, vessel))
    assert spoilt.max() == plain.max() == 1
    np.testing.assert_allclose(spoilt[elsewhere], plain[elsewhere], atol=0.1)
    expected = np.percentile(data[data != 0], 99)
    assert plain[3, 3, 3] == pytest.approx(min(data[3, 3, 3] / expected, 1), rel=1e-6)


@pytest.mark.parametrize("how", INTENSITIES)
def test_the_cache_keeps_eleven_bits_of_every_voxel_on_every_scale(tmp_path, how):
    """Even with one voxel a hundred times as bright as the brain; zero stays zero."""
    rng = np.random.default_rng(0)
    data = np.zeros(SMALL.shape, np.float32)
    data[1:4, 1:5, 1:6] = rng.normal(500, 80, (3, 4, 5))
    data[2, 2, 2] = 50000
    scaled = scale_intensity(data, how)
    stored = write_cache(tmp_path, [("01", "")], [scaled[None]], SMALL).volumes[0, 0]
    known = np.abs(scaled) > np.finfo(np.float16).tiny
    error = np.abs(stored[known].astype(np.float64) / scaled[known] - 1)
    assert error.max() <= 2**-11
    assert ((stored == 0) == (data == 0)).all()


ABSOLUTE = ("stored", "binding")


def test_binding_is_the_uptake_less_that_of_the_reference_region():
    data = brain_image()
    expected = np.where(data != 0, data - 1, 0)
    np.testing.assert_array_equal(scale_intensity(data, "binding"), expected)


@pytest.mark.parametrize("how", [how for how in INTENSITIES if how not in ABSOLUTE])
def test_scaling_forgets_the_scanners_unit_and_keeps_the_input(how):
    data = brain_image().astype(np.float64)
    before = data.copy()
    np.testing.assert_allclose(
        scale_intensity(data * 37.0, how), scale_intensity(data, how), atol=1e-5
    )
    np.testing.assert_array_equal(data, before)


def test_an_even_brain_does_not_divide_by_zero():
    data = np.pad(np.full((3, 3, 3), 5.0), 1)
    np.testing.assert_array_equal(scale_intensity(data, "zscore"), 0)
    for how in ("max", "minmax", "percentile"):
        np.testing.assert_array_equal(scale_intensity(data, how), data / 5)


def test_empty_images_and_unknown_scales_are_refused():
    with pytest.raises(InputError, match="empty inside the brain mask"):
        scale_intensity(np.zeros((3, 3, 3)), "max")
    with pytest.raises(InputError, match="empty inside the brain mask"):
        scale_intensity(brain_image(), "zscore", np.zeros((6, 7, 8), bool))
    with pytest.raises(InputError, match="'median' is unknown; choose one of: max, minmax"):
        scale_intensity(brain_image(), "median")


def test_a_mean_is_that_of_the_rows_asked_for():
    volumes = np.random.default_rng(0).normal(size=(9, 2, 5, 6, 7)).astype(np.float16)
    found = mean_volume(volumes[:, 0], [8, 0, 3])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, volumes[[8, 0, 3], 0].astype(float).mean(0), rtol=1e-6)
