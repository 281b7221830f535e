"""Kernels against the voxels themselves, and against what must not reach the fit."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.decomposition import PCA

from models.errors import InputError
from models.training.kernels import gram, of_gram, of_table, voxel_blocks

FIT, REST = np.arange(0, 12), np.arange(12, 17)


@pytest.fixture
def volumes():
    rng = np.random.default_rng(1)
    return rng.normal(3, 1, (17, 2, 3, 4, 5)).astype(np.float16)


@pytest.mark.parametrize("block_mb", [256, 1e-3, 1e-9])
def test_blocks_of_any_size_give_the_inner_products(volumes, block_mb):
    flat = volumes.reshape(17, -1).astype(float)
    assert_allclose(gram(voxel_blocks(volumes, block_mb=block_mb)), flat @ flat.T, rtol=1e-12)


def test_blocks_hold_what_was_allowed(tmp_path, volumes):
    path = tmp_path / "volumes.npy"
    np.save(path, volumes)
    blocks = list(voxel_blocks(np.load(path, mmap_mode="r"), block_mb=2e-3))
    assert len(blocks) > 5
    assert max(block.nbytes for block in blocks) <= 2e-3 * 2**20
    assert_allclose(np.hstack(blocks), volumes.reshape(17, -1))


def test_the_gram_matrix_stands_for_centred_and_scaled_voxels(volumes):
    flat = volumes.reshape(17, -1).astype(float)
    centred = flat - flat[FIT].mean(0)
    centred /= np.sqrt((centred[FIT] ** 2).sum(1).mean())
    kernel = of_gram(flat @ flat.T)(FIT, REST)
    assert_allclose(kernel.fitted, centred[FIT] @ centred[FIT].T, atol=1e-10)
    assert_allclose(kernel.others, centred[REST] @ centred[FIT].T, atol=1e-10)
    assert_allclose(kernel.others_norm, (centred[REST] ** 2).sum(1), atol=1e-10)
    assert np.trace(kernel.fitted) == pytest.approx(len(FIT))


def test_radial_kernels_are_of_the_distances(volumes):
    flat = volumes.reshape(17, -1).astype(float)
    size = np.sqrt(((flat[FIT] - flat[FIT].mean(0)) ** 2).sum(1).mean())
    far = np.linalg.norm(flat[REST][:, None] - flat[FIT][None], axis=2) / size
    kernel = of_gram(flat @ flat.T)(FIT, REST).rbf(0.3)
    assert_allclose(kernel.others, np.exp(-0.3 * far**2), atol=1e-10)
    assert_allclose(np.diag(kernel.fitted), 1)


@pytest.mark.parametrize("components", [1, 4, 11, 50])
def test_components_are_those_of_the_training_rows(volumes, components):
    flat = volumes.reshape(17, -1).astype(float)
    size = np.sqrt(((flat[FIT] - flat[FIT].mean(0)) ** 2).sum(1).mean())
    oracle = PCA(min(components, 11)).fit(flat[FIT])
    fitted, others = oracle.transform(flat[FIT]) / size, oracle.transform(flat[REST]) / size
    kernel = of_gram(flat @ flat.T, components)(FIT, REST)
    assert_allclose(kernel.fitted, fitted @ fitted.T, atol=1e-8)
    assert_allclose(kernel.others, others @ fitted.T, atol=1e-8)
    assert_allclose(kernel.others_norm, (others**2).sum(1), atol=1e-8)


def test_columns_of_a_table_are_scaled_by_the_training_rows():
    rng = np.random.default_rng(2)
    table = rng.normal(5, [1, 100, 0.01], (17, 3))
    z = (table - table[FIT].mean(0)) / table[FIT].std(0)
    kernel = of_table(table)(FIT, REST)
    assert_allclose(kernel.others, z[REST] @ z[FIT].T / 3, atol=1e-10)


def test_what_is_missing_or_constant_in_a_table_plays_no_part():
    rng = np.random.default_rng(3)
    table = rng.normal(5, 1, (17, 3))
    table[:, 1] = 0.1 + 0.2
    table[3, 0] = np.nan
    table[14, 2] = np.inf
    filled = np.delete(table, 1, axis=1)
    filled[3, 0] = np.nanmean(table[FIT, 0])
    filled[14, 1] = table[FIT, 2].mean()
    spread = np.array([np.nanstd(table[FIT, 0]), table[FIT, 2].std()])
    z = (filled - filled[FIT].mean(0)) / spread
    kernel = of_table(table)(FIT, REST)
    scale = np.trace(z[FIT] @ z[FIT].T) / 12
    assert_allclose(kernel.others, z[REST] @ z[FIT].T / scale, atol=1e-12)


@pytest.mark.parametrize("components", [0, 3])
def test_the_fit_does_not_see_the_other_rows(volumes, components):
    flat = volumes.reshape(17, -1).astype(float)
    clean = of_gram(flat @ flat.T, components)(FIT, REST).fitted
    flat[REST] = np.nan
    assert_allclose(of_gram(flat @ flat.T, components)(FIT, REST).fitted, clean)
    values = np.random.default_rng(0).normal(size=(17, 4))
    clean = of_table(values, components)(FIT, REST).fitted
    values[REST] = 1e9
    assert_allclose(of_table(values, components)(FIT, REST).fitted, clean)


def test_images_that_are_alike_are_refused():
    with pytest.raises(InputError, match="alike"):
        of_gram(np.ones((17, 17)))(FIT, REST)
    with pytest.raises(InputError, match="alike"):
        of_table(np.full((17, 2), 0.3))(FIT, REST)
