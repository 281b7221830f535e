"""Volumes of deformed voxels: mappings whose determinant is known."""

import numpy as np
import pytest
from nibabel.affines import apply_affine
from numpy.testing import assert_allclose

from models.jacobian import voxel_volumes

AFFINE = np.array([[-2.0, 0, 0, 20], [0, 1.5, 0.5, -30], [0, -0.5, 3.0, 5], [0, 0, 0, 1]])
VOXEL = abs(np.linalg.det(AFFINE[:3, :3]))
SHAPE = (9, 10, 11)


def points(shape=SHAPE, affine=AFFINE):
    """World points (x, y, z, 3) of the voxels."""
    return apply_affine(affine, np.stack(np.indices(shape), -1))


def linear(matrix, shift=(0.0, 0.0, 0.0)):
    """Displacement of an affine mapping."""
    where = points()
    return where @ np.transpose(matrix) + shift - where


@pytest.mark.parametrize(
    ("matrix", "factor"),
    [
        (np.eye(3), 1),
        (1.1 * np.eye(3), 1.1**3),
        (np.diag([0.5, 1, 3]), 1.5),
        ([[1, 0.4, 0], [0, 1, -0.7], [0, 0, 1]], 1),  # shears
        ([[0, -1, 0], [1, 0, 0], [0, 0, 1]], 1),  # a turn
        (np.diag([-1.0, 1, 1]), 1),  # a mirror has no negative volume
        (np.zeros((3, 3)), 0),
    ],
)
def test_affine_mappings_are_exact_to_the_border(matrix, factor):
    found = voxel_volumes(linear(matrix, (7, -3, 100)), AFFINE)
    assert found.shape == SHAPE
    assert_allclose(found, factor * VOXEL, atol=1e-9)


def test_a_local_expansion_is_found_where_it_is():
    """A radial bulge, whose determinant is f' (f / r)^2 for the radius f(r)."""
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    where = points((41, 41, 41), affine) - 10.0
    radius = np.linalg.norm(where, axis=-1)
    swell = 0.2 * np.exp(-(radius**2) / 18)  # f = r (1 + swell)
    expected = (1 + swell - radius**2 / 9 * swell) * (1 + swell) ** 2 * 0.5**3
    found = voxel_volumes(where * swell[..., None], affine)
    inside = (slice(1, -1),) * 3
    assert_allclose(found[inside], expected[inside], rtol=0.01)
    assert found[20, 20, 20] == pytest.approx(1.2**3 / 8, rel=0.01)
    assert found[0, 0, 0] == pytest.approx(1 / 8, rel=0.01)


def test_a_region_takes_what_its_neighbour_gives():
    """Points move along x only, and not at the ends: volumes change, their sum does not."""
    shape, affine = (61, 4, 4), np.eye(4)
    x = points(shape, affine)[..., 0]
    moved = np.zeros((*shape, 3))
    moved[..., 0] = 4 * np.sin(np.pi * x / 60) ** 2
    found = voxel_volumes(moved, affine)
    assert found[5:25].mean() > 1.1
    assert found[35:55].mean() < 0.9
    assert found.mean() == pytest.approx(1, abs=1e-3)


def test_single_precision_stays_single():
    field = linear(1.1 * np.eye(3)).astype(np.float32)
    found = voxel_volumes(field, AFFINE)
    assert found.dtype == np.float32
    assert_allclose(found, 1.1**3 * VOXEL, rtol=1e-4)


@pytest.mark.parametrize("shape", [(4, 4, 4), (4, 4, 4, 2), (4, 4, 4, 1, 3)])
def test_what_is_no_displacement_is_refused(shape):
    with pytest.raises(ValueError, match="a displacement is"):
        voxel_volumes(np.zeros(shape), np.eye(4))
