"""Interfaces of diffusion images on a small head whose motion and distortion are known."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage
from scipy.spatial.transform import Rotation

from models.diffusion_phantom import table_of
from models.errors import InputError
from models.gradient_table import GradientTable, along_image
from pipelines.gradient_files import load_table, save_table, write_fsl
from pipelines.images import read_nifti, write_nifti
from pipelines.interfaces import diffusion
from pipelines.interfaces.diffusion import (
    B0Brain,
    ConformDwi,
    DenoiseDwi,
    FitTensor,
    Unring,
    chosen_unringing,
)
from pipelines.interfaces.diffusion_motion import (
    AlignVolume,
    FieldOfPair,
    Reference,
    ResampleSeries,
    along,
    eddy_freedom,
    pyramid,
    resampled,
)

TABLE = table_of(12, 1000.0)
EDGE = 4.0
PE = 1


@pytest.fixture(scope="module")
def b0(small_template):
    """A brain that is bright where T1w is dark, at 4 mm, RAS+: (data, affine)."""
    data = np.asarray(small_template.dataobj, np.float32)
    inverse = np.where(data > 0, 250 - data, 0)
    return ndimage.gaussian_filter(inverse, 0.6).astype(np.float32), small_template.affine


def run(interface, folder):
    folder.mkdir(parents=True, exist_ok=True)
    interface._run_interface(SimpleNamespace(cwd=str(folder)))
    return interface._results


def write(path, data, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(path, data, affine)
    return path


# --- conform -------------------------------------------------------------------------------------


def raw(tmp_path, b0, axes="RAS", table=TABLE, volumes=None, tables=True, sidecar="{}"):
    """A raw dataset of one series; the first volumes are brighter than the last."""
    data, affine = b0
    count = len(table.b_values) if volumes is None else volumes
    series = data[..., None] * np.linspace(1, 0.5, count)
    image = nib.Nifti1Image(series.astype(np.float32), affine)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes)
    )
    image = image.as_reoriented(turn)
    image.set_sform(image.affine, 1)
    folder = tmp_path / "raw/sub-1/dwi"
    folder.mkdir(parents=True)
    (tmp_path / "raw/dataset_description.json").write_text("{}")
    path = folder / "sub-1_dir-AP_dwi.nii.gz"
    nib.save(image, path)
    path.with_name("sub-1_dir-AP_dwi.json").write_text(sidecar)
    if tables:
        stem = str(path).removesuffix(".nii.gz")
        write_fsl(table, image.affine, Path(f"{stem}.bval"), Path(f"{stem}.bvec"))
    return path


@pytest.mark.parametrize("axes", ["RAS", "LAS", "LPS", "PSR"])
def test_every_storage_gives_the_same_series_and_directions(tmp_path, b0, axes):
    found = run(ConformDwi(in_file=raw(tmp_path, b0, axes)), tmp_path / "work")
    image = read_nifti(found["out_file"])
    assert "".join(nib.aff2axcodes(image.affine)) == "RAS"
    assert_allclose(image.dataobj[..., 0], b0[0], rtol=1e-5)
    assert_allclose(load_table(found["table"]).directions, TABLE.directions, atol=1e-5)
    assert found["volumes"] == list(range(13))
    assert found["axis"] == PE  # dir-AP, whatever the file's axes
    assert found["slice_axis"] == {"PSR": 0}.get(axes, 2)
    assert found["meta"]["RawAxes"] == axes


def test_what_is_missing_is_said_and_not_fatal(tmp_path, b0):
    path = raw(tmp_path, b0)
    path = path.rename(path.with_name("sub-1_dwi.nii.gz"))
    for ending in ("bval", "bvec"):
        old = path.with_name(f"sub-1_dir-AP_dwi.{ending}")
        old.rename(path.with_name(f"sub-1_dwi.{ending}"))
    found = run(ConformDwi(in_file=path), tmp_path / "work")
    assert found["axis"] == -1
    said = " ".join(found["meta"]["Warnings"])
    assert "phase-encoding axis" in said
    assert "TotalReadoutTime" in said
    assert found["meta"]["PhaseEncodingFrom"] == "unknown"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tables": False}, r"has no \.bval file beside it"),
        ({"volumes": 12}, r"12 volumes, but its \.bval file has 13"),
        ({"volumes": 1}, "a series of volumes"),
        ({"table": table_of(5, 1000.0)}, "has 5 different gradient directions"),
        ({"table": TABLE[np.arange(1, 13)]}, "no volume without diffusion weighting"),
    ],
)
def test_what_cannot_be_a_series_is_refused(tmp_path, b0, change, words):
    path = raw(tmp_path, b0, **change)
    with pytest.raises(InputError, match=words) as raised:
        run(ConformDwi(in_file=path), tmp_path / "work")
    assert path.name in str(raised.value)


def test_a_3d_file_and_a_skewed_one_are_refused(tmp_path, b0):
    path = raw(tmp_path, b0)
    nib.save(nib.Nifti1Image(b0[0], b0[1]), path)
    with pytest.raises(InputError, match="a series of volumes"):
        run(ConformDwi(in_file=path), tmp_path / "work")
    skew = b0[1].copy()
    skew[0, 1] = 2
    image = nib.Nifti1Image(np.repeat(b0[0][..., None], 13, 3), skew)
    image.set_sform(skew, 1)
    nib.save(image, path)
    with pytest.raises(InputError, match="not at right angles"):
        run(ConformDwi(in_file=path), tmp_path / "work")


# --- noise and rings -----------------------------------------------------------------------------


def noisy_series(b0, sd=8.0):
    """Weighted volumes of an isotropic brain, with noise; and the truth."""
    clean = b0[0][20:36, 20:36, 20:36, None] * np.where(TABLE.is_b0, 1, 0.5)
    rng = np.random.default_rng(0)
    return clean + rng.normal(0, sd, clean.shape), clean


def test_denoising_takes_noise_out_and_tells_its_size(tmp_path, b0):
    noisy, clean = noisy_series(b0)
    path = write(tmp_path / "n.nii", noisy, b0[1])
    found = run(DenoiseDwi(in_file=path), tmp_path / "work")
    denoised = np.asarray(read_nifti(found["out_file"]).dataobj)
    assert np.std(denoised - clean) < 0.6 * np.std(noisy - clean)
    assert found["noise_sd"] == pytest.approx(8, rel=0.15)
    assert np.isfinite(denoised).all()
    assert (denoised >= 0).all()


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_an_empty_volume_does_not_make_noise_signal(tmp_path, b0, value):
    noisy, clean = noisy_series(b0)
    noisy[..., 4] = value
    path = write(tmp_path / "n.nii", noisy, b0[1])
    found = run(DenoiseDwi(in_file=path), tmp_path / "work")
    denoised = np.asarray(read_nifti(found["out_file"]).dataobj)
    others = np.delete(np.arange(13), 4)
    assert np.std((denoised - clean)[..., others]) < 0.6 * np.std((noisy - clean)[..., others])
    assert found["noise_sd"] == pytest.approx(8, rel=0.15)
    assert not denoised[..., 4].any()
    assert found["meta"]["Warnings"] == ["volume 4 (the first is 0) is empty"]


def ringing(affine, tmp_path):
    """A cut of k-space through sharp discs, and the discs."""
    grid = np.indices((96, 96)) - 47.5
    disc = (np.hypot(*grid) < 30).astype(float) + 0.5 * (np.hypot(*grid) < 12)
    kept = np.fft.fftshift(np.fft.fft2(disc))[24:72, 24:72]
    rings = np.abs(np.fft.ifft2(np.fft.ifftshift(kept))) / 4
    series = np.repeat(np.repeat(rings[..., None, None], 6, 2), 3, 3) * 100
    return write(tmp_path / "r.nii", series, affine), 100 * rings


@pytest.mark.parametrize("method", ["dipy", "mrtrix3"])
def test_rings_are_removed_and_who_did_it_is_recorded(tmp_path, b0, method):
    if method == "mrtrix3" and shutil.which("mrdegibbs") is None:
        pytest.skip("MRtrix3 (mrdegibbs) is not on PATH")
    path, rings = ringing(b0[1], tmp_path)
    given = {"PartialFourier": 0.75}
    found = run(Unring(in_file=path, method=method, partial_fourier=given), tmp_path / "work")
    after = np.asarray(read_nifti(found["out_file"]).dataobj)[..., 2, 1]
    flat = np.hypot(*(np.indices((48, 48)) - 23.5)) < 4
    assert after[flat].std() < 0.7 * rings[flat].std()
    assert method in found["meta"]["GibbsCorrection"]
    assert "partial Fourier 0.75" in found["meta"]["Warnings"][0]
    assert_allclose(read_nifti(found["out_file"]).affine, b0[1])


def test_which_program_is_taken(monkeypatch):
    monkeypatch.setattr(diffusion.shutil, "which", lambda name: None)
    assert chosen_unringing("auto") == chosen_unringing("dipy") == "dipy"
    with pytest.raises(InputError, match="not on PATH"):
        chosen_unringing("mrtrix3")
    monkeypatch.setattr(diffusion.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert chosen_unringing("auto") == "mrtrix3"
    assert chosen_unringing("dipy") == "dipy"


# --- motion --------------------------------------------------------------------------------------


def test_freedom_of_eddy_currents_is_one_row():
    assert eddy_freedom(1) == (0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 0)
    assert eddy_freedom(0) == (1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0)
    assert eddy_freedom(-1) == (1,) * 12


@pytest.fixture(scope="module")
def moved_series(b0, tmp_path_factory):
    """A b0, and a weighted volume of a turned head with a sheared field; the true matrices."""
    folder = tmp_path_factory.mktemp("moved")
    data, affine = b0
    middle = np.array(data.shape) * EDGE / 2
    rigid, eddy = np.eye(4), np.eye(4)
    rigid[:3, :3] = Rotation.from_rotvec([3, -2, 4], degrees=True).as_matrix()
    rigid[:3, 3] = middle - rigid[:3, :3] @ middle + [3, -2, 4]
    eddy[1, :3] += [0.02, 0.03, -0.02]
    eddy[1, 3] = 2 - eddy[1, :3] @ middle + middle[1]
    full = eddy @ rigid
    scale = np.diag([EDGE] * 3 + [1])
    mapping = np.linalg.inv(scale) @ np.linalg.inv(full) @ scale
    weighted = 0.4 * data + 0.2 * np.sqrt(np.clip(data, 0, None)) * 8
    volume = ndimage.affine_transform(weighted, mapping[:3, :3], mapping[:3, 3], order=3)
    directions = np.array([[0, 0, 0], [0.6, 0, 0.8], *5 * [[0, 1.0, 0]]])
    table = GradientTable(np.array([0.0, *6 * [1000]]), directions)
    still = [weighted * (1 + 0.1 * np.sin(one + data / 40)) for one in range(5)]
    series = write(folder / "s.nii", np.stack([data, volume, *still], -1).clip(0), affine)
    saved = save_table(table, folder / "table.json")
    reference = run(Reference(in_file=series, table=saved), folder / "reference")
    return folder, series, saved, reference, rigid, full, weighted


def test_motion_and_eddy_currents_are_found(moved_series):
    folder, series, saved, reference, rigid, full, _ = moved_series
    given = {
        "in_file": series,
        "table": saved,
        "reference": reference["out_file"],
        "weighted": reference["weighted"],
        "link": reference["link"],
        "around": reference["around"],
        "reference_volume": reference["volume"],
        "axis": PE,
    }
    still = run(AlignVolume(volume=0, **given), folder / "still")
    assert still["full"] == still["rigid"] == np.eye(4).tolist()
    found = run(AlignVolume(volume=1, **given), folder / "moved")
    brain = np.argwhere(np.asarray(read_nifti(reference["around"]).dataobj) > 0) * EDGE
    ends = np.c_[brain, np.ones(len(brain))]
    off = np.linalg.norm((ends @ (np.array(found["full"]) - full).T)[:, :3], axis=1)
    before = np.linalg.norm((ends @ (np.eye(4) - full).T)[:, :3], axis=1)
    assert off.mean() < 0.15 * before.mean()
    turn = Rotation.from_matrix(np.array(found["rigid"])[:3, :3] @ rigid[:3, :3].T)
    assert np.rad2deg(turn.magnitude()) < 1.2  # the eddy's shear looks a little like a turn
    again = run(AlignVolume(volume=1, **given), folder / "again")
    assert again["full"] == found["full"]


@pytest.mark.parametrize(
    ("edges", "factors"),
    [((1.5, 1.5, 3), (6, 4, 2, 1)), ((2, 2, 2), (6, 4, 2, 1)), ((3, 3, 3), (4, 2, 1)),
     ((5, 5, 5), (2, 1)), ((20, 20, 20), (1,))],
)  # fmt: skip
def test_no_level_of_a_registration_is_too_coarse_to_see_a_brain(edges, factors):
    levels = pyramid(edges)
    assert levels["aff_shrink_factors"] == factors
    assert all(len(one) == len(factors) for one in levels.values())


def test_resampling_undoes_them_and_turns_the_directions(moved_series):
    folder, series, saved, reference, rigid, full, weighted = moved_series
    found = run(
        ResampleSeries(
            in_file=series,
            table=saved,
            around=reference["around"],
            rigid=[np.eye(4).tolist(), rigid.tolist(), *5 * [np.eye(4).tolist()]],
            full=[np.eye(4).tolist(), full.tolist(), *5 * [np.eye(4).tolist()]],
            axis=PE,
        ),
        folder / "resampled",
    )
    data = np.asarray(read_nifti(found["out_file"]).dataobj)
    inside = ndimage.binary_erosion(weighted > 20, iterations=2)
    assert_allclose(data[..., 0], read_nifti(series).dataobj[..., 0])
    room = abs(np.linalg.det(full[:3, :3]))
    assert np.abs(data[..., 1] / room - weighted)[inside].mean() < 0.03 * weighted[inside].mean()
    # In the turned head, the scanner's direction lies turned back; the image is RAS, unrotated.
    expected = np.linalg.inv(rigid[:3, :3]) @ [0.6, 0, 0.8]
    assert_allclose(load_table(found["table"]).directions[1], expected, atol=1e-6)
    assert_allclose(found["motion"]["turns_degrees"][1], [3, -2, 4], atol=0.01)
    assert found["motion"]["displacement_mm"][0] == 0


def test_directions_turn_along_oblique_axes_too(moved_series, b0):
    """The same turn about the image's own axes, of an image that lies oblique in the scanner."""
    folder, _, saved, reference, rigid, _, _ = moved_series
    oblique = b0[1].copy()
    tilt = Rotation.from_rotvec([10, 15, -20], degrees=True).as_matrix()
    oblique[:3, :3] = tilt @ oblique[:3, :3]
    series = write(folder / "oblique.nii", np.stack([b0[0]] * 7, -1), oblique)
    found = run(
        ResampleSeries(
            in_file=series, table=saved, around=reference["around"],
            rigid=[np.eye(4).tolist(), rigid.tolist(), *5 * [np.eye(4).tolist()]],
            full=[np.eye(4).tolist()] * 7,
        ),
        folder / "oblique",
    )  # fmt: skip
    given = load_table(saved)
    own = along_image(given.directions, oblique) * [-1, 1, 1]  # along the voxels' axes
    turned = np.linalg.inv(rigid[:3, :3]) @ own[1]
    assert_allclose(load_table(found["table"]).directions[1], tilt @ turned, atol=1e-6)


# --- susceptibility ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(b0, tmp_path_factory):
    """A brain distorted both ways along y: paths of the first and the opposite image, the field."""
    folder = tmp_path_factory.mktemp("pair")
    data, affine = b0
    where = np.moveaxis(np.indices(data.shape), 0, -1)
    front = np.array(data.shape) * [0.5, 0.75, 0.4]
    field = 1.6 * np.exp(-(np.linalg.norm(where - front, axis=-1) ** 2) / (2 * 7.0**2))
    one, other = _squeezed(data, field), _squeezed(data, -field)
    first = write(folder / "first.nii.gz", one, affine)
    opposite = write(folder / "opposite.nii.gz", other, affine)
    brain = write(folder / "around.nii.gz", ndimage.binary_dilation(data > 20), affine)
    return folder, first, opposite, brain, field, data


def _squeezed(data, field):
    """Signal at m goes to m + field(m) along y."""
    out = np.zeros_like(data)
    y = np.arange(data.shape[1], dtype=float)
    fine = np.linspace(0, data.shape[1] - 1, 20 * data.shape[1])
    for x in range(data.shape[0]):
        for z in range(data.shape[2]):
            column = np.interp(fine, y, data[x, :, z])
            there = fine + np.interp(fine, y, field[x, :, z])
            out[x, :, z] = np.interp(y, there, column / np.gradient(there, fine))
    return out.astype(np.float32)


def test_the_pair_is_brought_to_its_middle(pair):
    folder, first, opposite, around, field, truth = pair
    found = run(
        FieldOfPair(reference=first, opposite=opposite, around=around, axis=PE), folder / "work"
    )
    estimate = np.asarray(read_nifti(found["field"]).dataobj)
    bent = (np.abs(field) > 0.5) & (truth > 50)
    assert np.abs(estimate - field)[bent].mean() < 0.45 * np.abs(field)[bent].mean()
    one = np.asarray(read_nifti(first).dataobj, np.float32)
    mended = along(one, estimate, PE)
    assert np.abs(mended - truth)[bent].mean() < 0.6 * np.abs(one - truth)[bent].mean()
    assert found["meta"]["PairCorrelationAfter"] > found["meta"]["PairCorrelationBefore"]
    assert found["meta"]["Warnings"] == []


def test_motion_and_field_go_in_one_step(pair):
    """Undistorted where the field says, and the same as two steps."""
    _, first, _, _, field, truth = pair
    one = np.asarray(read_nifti(first).dataobj, np.float32)
    edges = np.array([EDGE] * 3)
    mended = resampled(one, np.eye(4), edges, field.astype(np.float32), PE)
    inner = ndimage.binary_erosion(truth > 20, iterations=2)
    assert np.abs(mended - truth)[inner].mean() < 0.05 * truth[inner].mean()
    shift = np.eye(4)
    shift[0, 3] = EDGE  # one voxel to the right: found one voxel further
    moved = resampled(np.roll(one, 1, axis=0), shift, edges, field.astype(np.float32), PE)
    assert_allclose(moved[2:-2], mended[2:-2], atol=1e-2)


# --- brain, fit ----------------------------------------------------------------------------------


def test_bias_leaves_ratios_and_the_fit_sees_damaged_volumes(tmp_path, b0):
    data, affine = b0
    tensor = np.array([1.2e-3, 0, 0, 0.5e-3, 0, 0.5e-3])
    factor = np.exp(TABLE.design()[:, :6] @ tensor)
    y = np.linspace(-1, 1, data.shape[1])[None, :, None]
    rng = np.random.default_rng(0)
    series = (data * np.exp(0.3 * y))[..., None] * factor
    series = np.abs(series + rng.normal(0, 1, series.shape))
    series[:, :, 10:40, 5] *= 0.4
    table = save_table(TABLE, tmp_path / "table.json")
    path = write(tmp_path / "s.nii", series, affine)
    found = run(B0Brain(in_file=path, table=table), tmp_path / "brain")
    mask = np.asarray(read_nifti(found["out_mask"]).dataobj) > 0
    brain = data > 30
    assert 2 * (mask & brain).sum() / (mask.sum() + brain.sum()) > 0.9
    after = np.asarray(read_nifti(found["out_file"]).dataobj)
    inside = ndimage.binary_erosion(brain, iterations=2)
    ratio = after[inside][:, 3] / after[inside][:, 0]
    assert_allclose(np.median(ratio), factor[3], rtol=0.02)
    spread = [np.std(np.log(one[inside][:, 0] / data[inside])) for one in (series, after)]
    assert spread[1] < spread[0]
    given = {
        "in_file": found["out_file"], "table": table, "mask": found["out_mask"],
        "source": "dwi.nii", "noise_sd": 1.0,
    }  # fmt: skip
    fit = run(FitTensor(**given), tmp_path / "fit")
    assert fit["outliers"] == [5]
    assert fit["numbers"]["volumes_fitted"] == 12
    assert "volumes 5 (from 0)" in fit["meta"]["Warnings"][0]
    tensors = np.asarray(read_nifti(fit["tensor"]).dataobj)
    assert_allclose(np.median(tensors[inside], axis=0), tensor, atol=2e-5)
    kept = run(FitTensor(outliers="keep", **given), tmp_path / "kept")
    assert kept["numbers"]["volumes_fitted"] == 13
    assert "they were kept" in kept["meta"]["Warnings"][0]
    assert fit["numbers"]["residual_percent"] < kept["numbers"]["residual_percent"] + 1
