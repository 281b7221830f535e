"""Non-local means: less noise, the same edges, nothing outside the head."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pipelines.denoising import head_mask, non_local_means
from pipelines.images import read_nifti, write_nifti
from pipelines.interfaces.images import Denoise

SIGMA = 8.0


@pytest.fixture(scope="module")
def phantom():
    """A head of two tissues in air, without and with Rician noise."""
    rng, size = np.random.default_rng(0), 48
    x, y, z = np.indices((size,) * 3) - (size - 1) / 2
    radius = np.sqrt(x**2 + y**2 + z**2)
    clean = np.where(radius < 20, np.where(x < 0, 100.0, 200.0), 0.0)
    clean = gaussian_filter(clean, 1.0)  # as a voxel averages what is in it
    real, imaginary = (rng.normal(0, SIGMA, clean.shape) for _ in range(2))
    return clean, np.hypot(clean + real, imaginary).astype(np.float32), radius


def test_noise_falls_and_tissues_stay_apart(phantom):
    clean, noisy, radius = phantom
    denoised, sigma = non_local_means(noisy)
    assert sigma == pytest.approx(SIGMA, rel=0.3)
    inner = radius < 17
    before, after = (np.sqrt(np.mean((one - clean)[inner] ** 2)) for one in (noisy, denoised))
    assert after < 0.6 * before
    x = np.indices(clean.shape)[0]
    for column in (22, 25):  # close to the edge, on both sides
        plane = inner & (x == column)
        assert denoised[plane].mean() == pytest.approx(clean[plane].mean(), abs=4)


def test_air_is_left_alone_and_a_second_run_is_the_same(phantom):
    _, noisy, _ = phantom
    denoised, _ = non_local_means(noisy)
    head = head_mask(noisy)
    assert 0.9 < head.sum() / (4 / 3 * np.pi * 20**3) < 1.5
    np.testing.assert_array_equal(denoised[~head], noisy[~head])
    np.testing.assert_array_equal(denoised, non_local_means(noisy)[0])


def test_an_image_without_any_variation_is_not_touched():
    data = np.full((20, 20, 20), 5, np.float32)
    denoised, sigma = non_local_means(data)
    np.testing.assert_array_equal(denoised, data)
    assert sigma == 0


def test_the_node_says_what_it_did(phantom, tmp_path):
    _, noisy, _ = phantom
    write_nifti(tmp_path / "head.nii.gz", noisy, np.eye(4))
    out = Denoise(in_file=tmp_path / "head.nii.gz").run(cwd=tmp_path).outputs
    assert "non-local means" in out.meta["Denoising"]
    assert out.meta["NoiseSD"] == pytest.approx(SIGMA, rel=0.3)
    made = np.asarray(read_nifti(out.out_file).dataobj)
    np.testing.assert_array_equal(made, non_local_means(noisy)[0])
