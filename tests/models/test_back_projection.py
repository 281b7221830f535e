"""Filtered back-projection: discs whose views are known, sides, the filter, and iradon."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InputError
from models.projections import check_angles, reconstruct, shepp_logan

# x to the right, y forwards, radius (mm), counts per mm^3: a head, and more on the right in front.
DISCS = ((0, 0, 80, 1.0), (35, 25, 15, 2.0), (-35, 25, 15, 1.0), (0, -45, 12, -0.5))
BINS, BIN_MM = 96, 4.0
ROUND = np.arange(120) * 3.0


def views(angles, discs=DISCS, bins=BINS, bin_mm=BIN_MM, rows=2, centre=None):
    """Chords through discs, from the paper's geometry: mean over each bin, (bins, rows, views)."""
    found = np.zeros((bins, rows, len(angles)))
    middle = (bins - 1) / 2 if centre is None else centre
    for part in (np.arange(16) + 0.5) / 16 - 0.5:
        u = (np.arange(bins) - middle + part) * bin_mm
        for i, angle in enumerate(np.deg2rad(angles)):
            for x, y, radius, value in discs:
                away = u - (x * np.cos(angle) - y * np.sin(angle))
                chord = 2 * np.sqrt(np.clip(radius**2 - away**2, 0, None))
                found[:, :, i] += value * chord[:, None] / 16
    return found


def at(slices, x, y):
    """Mean of 3 x 3 voxels around a point in mm."""
    i, j = (round(one / BIN_MM + (BINS - 1) / 2) for one in (x, y))
    return float(slices[i - 1 : i + 2, j - 1 : j + 2, 0].mean())


@pytest.mark.parametrize(
    "angles",
    [
        *(ROUND, ROUND[::-1], ROUND + 7.0, np.arange(120) * 1.5, np.arange(64) * 360 / 64),
        *(np.arange(121) * 3.0, np.arange(91) * 3.0),
    ],
    ids=["round", "backwards", "turned", "half", "few", "both ends", "three quarters"],
)
def test_discs_come_back_with_their_values_where_they_were(angles):
    found = reconstruct(views(angles), angles, BIN_MM)
    assert found.shape == (BINS, BINS, 2)
    for point, value in {(35, 25): 3.0, (-35, 25): 2.0, (0, -45): 0.5, (0, 0): 1.0}.items():
        assert at(found, *point) == pytest.approx(value, abs=0.05)
    assert at(found, 120, 0) == pytest.approx(0.0, abs=0.03)


def test_the_right_of_the_person_is_at_the_upper_end_of_x_and_the_front_of_y():
    found = reconstruct(views(ROUND), ROUND, BIN_MM)[..., 0]
    half = BINS // 2
    quarters = {
        (side, depth): found[
            slice(half, None) if side == "right" else slice(half),
            slice(half, None) if depth == "front" else slice(half),
        ].max()
        for side in ("right", "left")
        for depth in ("front", "back")
    }
    assert max(quarters, key=quarters.get) == ("right", "front")


@pytest.mark.parametrize(
    ("angle", "to_the_right_of_the_viewer"),
    [(0, (1, 0)), (90, (0, -1)), (180, (-1, 0)), (270, (0, 1))],
)
def test_what_a_viewer_at_the_detector_sees(angle, to_the_right_of_the_viewer):
    """From behind, the person's right is right; from the left, the back is; from before, the left.

    A viewer who looks at the axis from (-sin a, -cos a), head up: right is look x up.
    """
    look = np.array([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle)), 0.0])
    right = np.cross(look, [0, 0, 1])[:2]
    np.testing.assert_allclose(right, to_the_right_of_the_viewer, atol=1e-12)
    x, y = 30 * right
    seen = views([angle], discs=((x, y, 10, 1.0),))[:, 0, 0]
    assert (seen * np.arange(BINS)).sum() / seen.sum() == pytest.approx(
        (BINS - 1) / 2 + 30 / BIN_MM
    )


def test_lines_that_are_seen_twice_count_once():
    """Three quarters of the way round give the slices of half the way, not streaks along one."""
    half, more = np.arange(60) * 3.0, np.arange(90) * 3.0
    np.testing.assert_allclose(
        reconstruct(views(more), more, BIN_MM), reconstruct(views(half), half, BIN_MM), atol=1e-4
    )


def test_an_axis_of_rotation_beside_the_middle():
    found = reconstruct(views(ROUND, centre=50.0), ROUND, BIN_MM, centre=50.0)
    assert at(found, 35, 25) == pytest.approx(3.0, abs=0.05)
    assert at(found, -35, 25) == pytest.approx(2.0, abs=0.05)


def test_rows_are_slices_of_their_own():
    both = np.concatenate([views(ROUND, rows=1), 2 * views(ROUND, rows=1)], axis=1)
    found = reconstruct(both, ROUND, BIN_MM)
    np.testing.assert_allclose(found[..., 1], 2 * found[..., 0], rtol=1e-4, atol=1e-4)


def test_scikit_image_finds_the_same():
    """iradon's Shepp-Logan filter is cut off at the detector's own limit."""
    from skimage.transform import iradon

    # Its axes are (row down, column); its views are those of u = column cos a - row sin a, about
    # the voxel at half the size, not the middle: an odd number of bins has both in one place.
    odd = views(ROUND, rows=1, bins=BINS + 1)[:, 0]
    ours = reconstruct(odd[:, None], ROUND, BIN_MM, cutoff_per_cm=10 / (2 * BIN_MM))[..., 0]
    theirs = iradon(odd, ROUND, filter_name="shepp-logan", circle=True).T / BIN_MM
    away = np.hypot(*np.meshgrid(*[np.arange(BINS + 1) - BINS / 2] * 2, indexing="ij"))
    inside = away < BINS / 2 - 1
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=0.02)


def test_the_filter_is_a_ramp_under_a_window_that_ends():
    bins, bin_mm, cutoff = 512, 2.0, 1.25
    frequency = np.fft.rfftfreq(bins, bin_mm)
    found = shepp_logan(bins, bin_mm, cutoff)
    inside = (frequency > 0.02) & (frequency < cutoff / 10)
    window = np.sin(np.pi * frequency[inside] / (2 * cutoff / 10))
    window /= np.pi * frequency[inside] / (2 * cutoff / 10)
    np.testing.assert_allclose(found[inside], frequency[inside] * window, rtol=0.02)
    assert (found[frequency > cutoff / 10] == 0).all()
    assert 0 < found[0] < 1e-3


@settings(max_examples=15, deadline=None)
@given(st.floats(0.3, 1.1), st.floats(0.05, 0.9))
def test_a_lower_cut_off_keeps_less_noise(cutoff, share):
    noise = np.random.default_rng(0).normal(size=(48, 1, 60))
    angles = np.arange(60) * 6.0
    less, more = (
        reconstruct(noise, angles, 4.0, cutoff_per_cm=one).std() for one in (cutoff * share, cutoff)
    )
    assert less < more


@pytest.mark.parametrize(
    ("angles", "sentence"),
    [
        (np.arange(8) * 45.0, "8 views from 4 directions are too few"),
        (np.zeros(60), "60 views from 1 directions are too few"),
        (np.deg2rad(ROUND), "are the angles in degrees"),
        (np.append(ROUND[1:], np.nan), "no number"),
        (np.arange(60) * 2.0, "gaps of 2.0 to 62.0 degrees"),
        (np.delete(np.arange(60) * 3.0, 20), "gaps of 3.0 to 6.0"),
    ],
)
def test_views_that_cannot_be_reconstructed(angles, sentence):
    with pytest.raises(InputError, match=sentence):
        check_angles(angles)
    with pytest.raises(InputError, match=sentence):
        reconstruct(np.ones((32, 1, len(angles))), angles, 4.0)


@pytest.mark.parametrize("arc", [180, 360, 720])
def test_even_views_are_taken(arc):
    check_angles(np.arange(120) * arc / 120 + 3.3)


def test_a_cut_off_above_zero():
    with pytest.raises(InputError, match="must be above 0"):
        shepp_logan(64, 4.0, 0.0)
