"""The middle of a pair of opposite phase encoding, on a distortion that is known."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.ndimage import map_coordinates

from models.distortion import halfway, stretch

SHAPE = (6, 80, 6)


def bump(y, height):
    """Field in voxels along y, and its slope."""
    shape = np.exp(-(((y - 40) / 12) ** 2))
    return height * shape, height * shape * -2 * (y - 40) / 144


@pytest.mark.parametrize("height", [2.0, -4.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_middle_of_the_pair_is_the_truth(height, axis):
    """True m is seen at m + b(m) in one image and at m - b(m) in the other."""
    m = np.arange(-20, 110, 0.01)
    seen, other = m + bump(m, height)[0], m - bump(m, height)[0]
    y = np.arange(80.0)
    shift = np.interp(y, seen, other) - y  # what lies at y here lies at y + shift there
    volume = np.broadcast_to(shift[None, :, None], SHAPE)
    volume = np.moveaxis(volume, 1, axis)
    found = np.moveaxis(halfway(volume, axis), axis, 1)
    expected = bump(y, height)[0]
    assert_allclose(found[2, 5:-5, 3], expected[5:-5], atol=0.02)


def test_stretched_signal_is_conserved():
    """Signal squeezed to a third, and pulled apart elsewhere, adds up to what it was."""
    y = np.arange(80.0)
    e, slope = bump(y, 5.0)
    truth = np.exp(-(((y - 38) / 9) ** 2)) + 0.2
    fine = np.arange(-10, 90, 0.01)
    where = fine + bump(fine, 5.0)[0]
    mass = np.interp(fine, y, truth)
    distorted = np.histogram(where, bins=np.arange(-0.5, 80), weights=mass)[0] * 0.01
    field = np.broadcast_to(e[None, :, None], SHAPE)
    points = np.indices(SHAPE, float)
    points[1] += field
    volume = np.broadcast_to(distorted[None, :, None], SHAPE)
    mended = map_coordinates(volume, points, order=1) * stretch(field, 1)
    assert_allclose(mended[2, 5:-5, 3], truth[5:-5], rtol=0.06)
    assert_allclose(stretch(field, 1)[2, 1:-1, 3], 1 + slope[1:-1], atol=0.02)


def test_folds_do_not_turn_signal_negative():
    field = np.zeros(SHAPE)
    field[:, 40:] = -5
    factor = stretch(field, 1)
    assert factor.min() > 0
    assert np.isfinite(halfway(2 * field, 1)).all()
