"""Tensors turned along: known mappings, and a real ANTs transform."""

import ants
import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from models.jacobian import derivative
from models.reorientation import finite_strain, preserve_principal_direction
from models.tensor import assembled, components, eigen, matrices


def rotation(axis, degrees):
    """Rotation matrix by the formula of Rodrigues."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def turn_between(one, other):
    """The smallest rotation that takes one unit vector to another."""
    axis = np.cross(one, other)
    if np.linalg.norm(axis) < 1e-12:
        return np.eye(3)
    return rotation(axis, np.rad2deg(np.arctan2(np.linalg.norm(axis), one @ other)))


def ppd_replica(tensor, forward):
    """R2 R1 of Alexander 2001, step by step."""
    _, vectors = np.linalg.eigh(tensor)
    e1, e2 = vectors[:, 2], vectors[:, 1]
    n1 = forward @ e1 / np.linalg.norm(forward @ e1)
    n2 = forward @ e2 / np.linalg.norm(forward @ e2)
    first = turn_between(e1, n1)
    flat = n2 - (n2 @ n1) * n1
    second = turn_between(first @ e2, flat / np.linalg.norm(flat))
    turned = second @ first
    return turned @ tensor @ turned.T


@pytest.fixture(scope="module")
def tensors():
    generator = torch.Generator().manual_seed(1)
    vectors, _ = torch.linalg.qr(torch.randn(60, 3, 3, generator=generator).double())
    values = torch.rand(60, 3, generator=generator).double() + torch.tensor([1.4, 0.7, 0.1])
    return assembled(values, vectors)


def first_direction(tensors):
    return eigen(tensors)[1][..., 0]


def degrees(one, other):
    """Angle between lines."""
    return np.rad2deg(np.arccos((one * other).sum(-1).abs().clamp(max=1).numpy()))


def test_the_frame_is_that_of_the_two_rotations(tensors):
    rng = np.random.default_rng(2)
    forward = np.eye(3) + 0.4 * rng.standard_normal((60, 3, 3))
    found = matrices(preserve_principal_direction(tensors, torch.as_tensor(forward)))
    for matrix, tensor, mapping in zip(found, matrices(tensors), forward, strict=True):
        assert_allclose(matrix, ppd_replica(tensor.numpy(), mapping), atol=1e-10)


@pytest.mark.parametrize("method", [preserve_principal_direction, finite_strain])
def test_a_rotation_turns_the_tensor(tensors, method):
    turn = torch.as_tensor(rotation(np.array([1.0, -2, 0.5]), 37))
    expected = components(turn @ matrices(tensors) @ turn.T)
    assert_allclose(method(tensors, turn), expected, atol=1e-12)
    assert_allclose(method(tensors, 1.3 * turn), expected, atol=1e-12)  # growth turns nothing
    assert_allclose(method(tensors, turn.T @ turn), tensors, atol=1e-12)


def test_a_shear_is_followed_by_the_principal_direction_only(tensors):
    shear = torch.eye(3).double()
    shear[0, 1], shear[2, 0] = 0.8, -0.5
    wanted = torch.nn.functional.normalize(
        (shear @ first_direction(tensors)[..., None])[..., 0], dim=-1
    )
    ppd = preserve_principal_direction(tensors, shear)
    assert degrees(first_direction(ppd), wanted).max() < 1e-5
    assert degrees(first_direction(finite_strain(tensors, shear)), wanted).mean() > 5
    assert_allclose(eigen(ppd)[0], eigen(tensors)[0], atol=1e-12)


def test_there_and_back(tensors):
    """The second eigenvector loses only what the shear takes out of its plane; e1 nothing."""
    forward = torch.tensor([[1.0, 0.3, 0], [0, 1.1, -0.2], [0.1, 0, 0.9]]).double()
    there = preserve_principal_direction(tensors, forward)
    back = preserve_principal_direction(there, torch.linalg.inv(forward))
    assert degrees(first_direction(back), first_direction(tensors)).max() < 1e-5
    turn = torch.as_tensor(rotation(np.array([0.2, 1.0, 3.0]), 80))
    again = preserve_principal_direction(preserve_principal_direction(tensors, turn), turn.T)
    assert_allclose(again, tensors, atol=1e-12)


def test_degenerate_tensors_keep_their_eigenvalues():
    odd = torch.tensor([[2.0, 0, 0, 2, 0, 2], [3.0, 0, 0, 1, 0, 1], [0.0, 0, 0, 0, 0, 0]]).double()
    shear = torch.tensor([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 1]]).double()
    for method in (preserve_principal_direction, finite_strain):
        assert_allclose(eigen(method(odd, shear))[0], eigen(odd)[0], atol=1e-12)


# --- through ANTs --------------------------------------------------------------------------------

AFFINE = np.array([[2.0, 0, 0, -30], [0, 2, 0, -34], [0, 0, 2, -26], [0, 0, 0, 1]])
SHAPE = (32, 34, 28)


def ants_pullback(tmp_path, matrix, warp):
    """Displacement in mm along RAS of a warp after an affine, as antspyx composes them.

    ``matrix`` (RAS) takes new points to old ones; ``warp`` (RAS, mm) displaces new points first.
    """
    folder = tmp_path / "t"
    folder.mkdir()
    reference = ants.from_nibabel_nifti(nib.Nifti1Image(np.zeros(SHAPE, np.float32), AFFINE))
    lps = np.diag([-1.0, -1, 1])
    affine = ants.create_ants_transform(
        transform_type="AffineTransform",
        parameters=[*(lps @ matrix @ lps).ravel(), 0, 0, 0],
        fixed_parameters=[0, 0, 0],
    )
    ants.write_transform(affine, str(folder / "a.mat"))
    field = ants.from_numpy(
        np.ascontiguousarray(warp @ lps),
        origin=reference.origin,
        spacing=reference.spacing,
        direction=reference.direction,
        has_components=True,
    )
    ants.image_write(field, str(folder / "w.nii.gz"))
    made = ants.apply_transforms(
        reference,
        reference,
        [str(folder / "w.nii.gz"), str(folder / "a.mat")],  # points go through the first one first
        compose=str(folder / "c_"),
        whichtoinvert=[False, False],
    )
    return ants.image_read(made).numpy() @ lps


@pytest.mark.parametrize("kind", ["rotation", "shear"])
def test_a_mapping_through_ants_turns_a_known_direction(tmp_path, kind):
    """A fibre along a known direction lies where the mapping says, in every voxel."""
    turn = rotation(np.array([0.3, 1.0, -0.4]), 25)
    shear = np.eye(3) + np.array([[0, 0.5, 0], [0, 0, 0.3], [0, 0, 0]])
    old_from_new = {"rotation": turn.T, "shear": np.linalg.inv(shear)}[kind]
    field = ants_pullback(tmp_path, old_from_new, np.zeros((*SHAPE, 3), np.float32))
    pullback = derivative(field.astype(np.float64), AFFINE)
    assert_allclose(pullback, np.broadcast_to(old_from_new, pullback.shape), atol=2e-5)
    e1 = np.array([0.6, 0.64, 0.48])
    tensor = 0.3 * np.eye(3) + 1.4 * np.outer(e1, e1)
    given = components(torch.as_tensor(tensor)).expand(*SHAPE, 6)
    turned = preserve_principal_direction(given, torch.linalg.inv(torch.as_tensor(pullback)))
    wanted = np.linalg.solve(old_from_new, e1)
    wanted = torch.as_tensor(wanted / np.linalg.norm(wanted)).expand(*SHAPE, 3)
    assert degrees(first_direction(turned), wanted).max() < 0.01


def test_a_warp_and_an_affine_through_ants(tmp_path):
    """Fibres along the level lines of a coordinate stay along them when space is bent."""
    where = nib.affines.apply_affine(AFFINE, np.stack(np.indices(SHAPE), -1))
    warp = np.zeros((*SHAPE, 3), np.float32)
    warp[..., 0] = 3 * np.sin(where[..., 1] / 12)  # old x of new points bends with y
    matrix = rotation(np.array([0, 0, 1.0]), 10)
    field = ants_pullback(tmp_path, matrix, warp)
    pullback = derivative(field.astype(np.float64), AFFINE)
    exact = np.broadcast_to(np.eye(3), (*SHAPE, 3, 3)).copy()
    exact[..., 0, 1] = np.cos(where[..., 1] / 12) / 4
    exact = matrix @ exact
    inner = (slice(2, -2),) * 3
    assert_allclose(pullback[inner], exact[inner], atol=5e-3)
    along_y = components(torch.diag(torch.tensor([0.3, 1.7, 0.3]).double())).expand(*SHAPE, 6)
    turned = preserve_principal_direction(along_y, torch.linalg.inv(torch.as_tensor(pullback)))
    wanted = np.linalg.solve(exact, np.broadcast_to([0, 1.0, 0], (*SHAPE, 3))[..., None])[..., 0]
    wanted = torch.as_tensor(wanted / np.linalg.norm(wanted, axis=-1, keepdims=True))
    assert degrees(first_direction(turned), wanted)[inner].max() < 0.3
