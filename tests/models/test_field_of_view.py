"""Robust field of view: what is kept is measured from the top of the head."""

import numpy as np
import pytest

from models.field_of_view import first_slice


def head(neck_mm, air_mm, voxel_mm=2.0):
    """A ball of 180 mm on a neck, below some air."""
    shape = (100, 100, int((neck_mm + 180 + air_mm) / voxel_mm))
    x, y, z = np.indices(shape)
    centre = (neck_mm + 90) / voxel_mm
    ball = (x - 50) ** 2 + (y - 50) ** 2 + (z - centre) ** 2 < (90 / voxel_mm) ** 2
    neck = ((x - 50) ** 2 + (y - 50) ** 2 < (55 / voxel_mm) ** 2) & (z < centre)
    noise = np.random.default_rng(0).normal(0, 2, shape)
    return np.where(ball | neck, 100.0, 0.0) + noise


@pytest.mark.parametrize(("neck_mm", "air_mm"), [(60, 0), (60, 40), (120, 10)])
def test_170_mm_remain_below_the_top(neck_mm, air_mm):
    data = head(neck_mm, air_mm)
    first = first_slice(data, np.full(3, 2.0))
    top_mm = neck_mm + 180
    # A few slices of the crown have too little tissue to be the top.
    assert first * 2.0 == pytest.approx(top_mm - 170, abs=8)


def test_a_scan_that_ends_earlier_is_left_alone():
    assert first_slice(head(0, 0)[..., 20:], np.full(3, 2.0)) == 0
    assert first_slice(np.zeros((20, 20, 20)), np.full(3, 2.0)) == 0


def test_thick_slices_are_counted_in_mm():
    data = head(100, 0)[..., ::2]  # 4 mm apart
    first = first_slice(data, np.array([2.0, 2.0, 4.0]))
    assert first * 4.0 == pytest.approx(100 + 180 - 170, abs=8)
