"""Tensor images carried into another space, and the maps written of them."""

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from models.tensor import components, eigen, matrices
from pipelines.diffusion_options import MAPS
from pipelines.images import read_nifti
from pipelines.tensors import FLOOR, carried, map_of, write_tensor

AFFINE = np.array([[2.0, 0, 0, -20], [0, 2, 0, -24], [0, 0, 2, -18], [0, 0, 0, 1]])
SHAPE = (20, 24, 18)
CIGAR = np.diag([1.6e-3, 0.3e-3, 0.3e-3])


@pytest.fixture
def image():
    """Cigars along x in a ball around the origin."""
    mm = nib.affines.apply_affine(AFFINE, np.moveaxis(np.indices(SHAPE), 0, -1))
    mask = np.linalg.norm(mm, axis=-1) < 14
    data = np.where(mask[..., None], components(torch.as_tensor(CIGAR)).numpy(), 0)
    return nib.Nifti1Image(data.astype(np.float32), AFFINE), mask


def displacement_of(matrix):
    """Where points come from, for tissue that the matrix moves."""
    mm = nib.affines.apply_affine(AFFINE, np.moveaxis(np.indices(SHAPE), 0, -1))
    return mm @ np.linalg.inv(matrix).T - mm


@pytest.mark.parametrize("interpolation", ["components", "log"])
def test_staying_changes_nothing(image, interpolation):
    tensors, mask = image
    moved, covered = carried(
        tensors, mask, np.zeros((*SHAPE, 3)), AFFINE, interpolation=interpolation
    )
    assert (covered == mask).all()
    assert_allclose(moved, tensors.get_fdata(), atol=1e-9)


@pytest.mark.parametrize("interpolation", ["components", "log"])
@pytest.mark.parametrize("reorientation", ["ppd", "finite_strain"])
def test_a_turned_brain_has_turned_tensors(image, interpolation, reorientation):
    angle = np.deg2rad(30)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    how = {"interpolation": interpolation, "reorientation": reorientation}
    moved, covered = carried(*image, displacement_of(turn), AFFINE, **how)
    expected = components(torch.as_tensor(turn @ CIGAR @ turn.T)).numpy()
    assert covered.sum() == pytest.approx(image[1].sum(), rel=0.05)
    assert_allclose(moved[covered], np.broadcast_to(expected, (covered.sum(), 6)), atol=1e-7)
    assert (moved[~covered] == 0).all()


def test_a_shear_follows_the_fibre(image):
    shear = np.eye(3)
    shear[1, 0] = 0.5  # tissue along x goes up in y
    for reorientation, off in (("ppd", 0.0), ("finite_strain", 12.5), ("none", 26.57)):
        moved, covered = carried(
            *image, displacement_of(shear), AFFINE, reorientation=reorientation
        )
        first = eigen(torch.as_tensor(moved[covered]).double())[1][..., 0].numpy()
        fibre = np.array([1, 0.5, 0]) / np.sqrt(1.25)
        degrees = np.rad2deg(np.arccos(np.abs(first @ fibre).clip(max=1)))
        assert_allclose(degrees, off, atol=0.1)


def test_voxels_beyond_the_brain_are_not_mixed_in(image):
    """Half a voxel aside, the border keeps whole tensors: zeros outside do not thin them."""
    moved, covered = carried(*image, np.full((*SHAPE, 3), 1.0), AFFINE)
    assert_allclose(
        moved[covered], np.broadcast_to(moved[10, 12, 9], (covered.sum(), 6)), atol=1e-9
    )


def test_a_folded_mapping_gives_finite_tensors(image):
    displacement = np.zeros((*SHAPE, 3))
    displacement[8:12] = 2.0 * (10 - np.arange(8, 12))[:, None, None, None]
    moved, _ = carried(*image, displacement, AFFINE)
    assert np.isfinite(moved).all()


def test_maps_of_a_tensor_image(image, tmp_path):
    tensors, mask = image
    data = tensors.get_fdata(dtype=np.float32)
    data[10, 12, 9] = components(torch.diag(torch.tensor([1e-3, 0.5e-3, -0.2e-3])))
    paths, raised = write_tensor(data, mask, AFFINE, tmp_path, template=True, maps=MAPS)
    assert raised == pytest.approx(1 / mask.sum())
    read = {name: read_nifti(path).get_fdata() for name, path in paths.items()}
    assert_allclose(read["diffusivity"], data, atol=1e-10)
    assert_allclose(read["md"][mask].min(), (1e-3 + 0.5e-3 + FLOOR) / 3, rtol=1e-5)
    assert read["fa"].max() <= 1
    assert_allclose(read["theta"][9, 12, 9], 0, atol=1e-3)
    for name in MAPS:
        assert (read[name][~mask] == 0).all()
    values = eigen(torch.as_tensor(data[9, 12, 9]).double())[0]
    assert_allclose(read["sigma"][9, 12, 9], (values - values.mean()).norm(), rtol=1e-5)
    assert_allclose(matrices(torch.as_tensor(data[9, 12, 9])), CIGAR, atol=1e-9)


def test_maps_of_what_a_network_sees_are_those_of_the_stored_tensor(image, tmp_path):
    """Of the packed image, in its scale: FA and theta have none, MD and sigma are divided by it."""
    tensors, mask = image
    data = tensors.get_fdata(dtype=np.float32)
    paths, _ = write_tensor(data, mask, AFFINE, tmp_path, template=True, maps=MAPS)
    seen = np.moveaxis(data, -1, 0) / 3e-3
    for name, scale in (("md", 3e-3), ("sigma", 3e-3), ("fa", 1), ("theta", 1)):
        stored = read_nifti(paths[name]).get_fdata()
        assert_allclose(
            map_of(seen, name) * scale, stored, rtol=1e-4, atol=1e-9 + 1e-3 * (scale == 1)
        )
