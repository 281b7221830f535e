"""Filtered back-projection of a gamma camera's views into transversal slices.

Nazari et al. 2021 reconstruct with a Shepp-Logan filter cut off at 1.25 cycles/cm, without
correction for attenuation and scatter.

Space: RAS+ in mm about the axis of rotation. A view at angle a is taken by a detector that stands
at (-sin a, -cos a): at 0 degrees behind the person's back, at 90 degrees on the left (DICOM's Start
Angle, 0054,0200). Seen from there, the person's upper end upwards, u runs to the viewer's right::

    u = x cos a - y sin a
"""

from collections.abc import Sequence

import numpy as np

from models.errors import InputError

CUTOFF_PER_CM = 1.25
FEWEST_VIEWS = 16
EVEN_DEGREES = 0.5  # how far a view may lie from where even spacing puts it


def check_angles(angles: Sequence[float]) -> None:
    """Whether views at these angles, in degrees, can be back-projected.

    Raises
    ------
    InputError
        An angle that is no number, too few directions, an arc below 180 degrees, or uneven spacing.
    """
    if not np.isfinite(angles).all():
        raise InputError("an angle of the views is no number")
    around = np.unique(_lines(angles))
    if len(around) < FEWEST_VIEWS:
        raise InputError(
            f"{len(angles)} views from {len(around)} directions are too few to reconstruct from "
            f"({FEWEST_VIEWS} directions, a view and the one opposite being one); are the angles "
            "in degrees?"
        )
    gaps = np.diff(np.append(around, around[0] + 180.0))
    if np.abs(gaps - gaps.mean()).max() > EVEN_DEGREES:
        raise InputError(
            f"the angles leave gaps of {gaps.min():.1f} to {gaps.max():.1f} degrees: filtered "
            "back-projection needs views spread evenly over 180 or 360 degrees"
        )


def _lines(angles: Sequence[float]) -> np.ndarray:
    """Direction of each view's lines of response in degrees; of views that share one, the same."""
    folded = np.mod(np.asarray(angles, float), 180.0)
    folded[folded > 180.0 - EVEN_DEGREES] -= 180.0
    order = np.argsort(folded, kind="stable")
    lines, last = np.empty_like(folded), -np.inf
    for view in order:
        last = folded[view] if folded[view] - last > EVEN_DEGREES else last
        lines[view] = last
    return lines


def _shares(angles: Sequence[float]) -> np.ndarray:
    """What each view counts, 1 in all: directions alike, whoever is seen twice shares."""
    _, line, seen = np.unique(_lines(angles), return_inverse=True, return_counts=True)
    return 1.0 / (seen[line] * len(seen))


def shepp_logan(bins: int, bin_mm: float, cutoff_per_cm: float = CUTOFF_PER_CM) -> np.ndarray:
    """Frequency response of the ramp with Shepp and Logan's window.

    |f| sinc(f / 2 f_c) up to the cut-off f_c, and 0 above (Shepp & Logan 1974; with the cut-off as
    in MATLAB's iradon). The ramp is that of a detector with bins of this size, its value at f = 0
    included (Kak & Slaney 1988, eq. 61), without which slices have an offset.

    Parameters
    ----------
    bins : int
        Length of the padded rows that are filtered.
    bin_mm : float
        Width of a detector's bin in mm.
    cutoff_per_cm : float
        In cycles/cm. Above the detector's own limit, that limit ends the ramp.

    Returns
    -------
    numpy.ndarray
        (bins // 2 + 1,), 1/mm; for `numpy.fft.rfft`.
    """
    if cutoff_per_cm <= 0:
        raise InputError(f"a cut-off of {cutoff_per_cm:g} cycles/cm: it must be above 0")
    frequency = np.fft.rfftfreq(bins, bin_mm)
    distance = np.minimum(np.arange(bins), bins - np.arange(bins))
    kernel = np.zeros(bins)
    kernel[0] = 0.25
    odd = distance % 2 == 1
    kernel[odd] = -1.0 / (np.pi * distance[odd]) ** 2
    ramp = np.fft.rfft(kernel).real / bin_mm
    cutoff = cutoff_per_cm / 10
    return np.where(frequency <= cutoff, ramp * np.sinc(frequency / (2 * cutoff)), 0)


def reconstruct(
    views: np.ndarray,
    angles: Sequence[float],
    bin_mm: float,
    *,
    cutoff_per_cm: float = CUTOFF_PER_CM,
    centre: float | None = None,
) -> np.ndarray:
    """Transversal slices of a set of views.

    Parameters
    ----------
    views : numpy.ndarray
        (bins, rows, views); bins run along u, rows upwards.
    angles : sequence of float
        Degrees of each view, as above.
    bin_mm : float
        Width of a bin.
    cutoff_per_cm : float
        Of the filter.
    centre : float, optional
        Bin on which the axis of rotation falls; the middle by default.

    Returns
    -------
    numpy.ndarray
        (bins, bins, rows) float32: x to the right of the person, y forwards, z upwards, voxels of
        ``bin_mm`` along x and y with the axis of rotation in the middle. In counts per bin and
        mm; where a filter rings, negative.

    Raises
    ------
    InputError
        See `check_angles`.
    """
    check_angles(angles)
    bins, rows, _ = views.shape
    filtered = _filtered(views, shepp_logan(_padded(bins), bin_mm, cutoff_per_cm))
    middle = (bins - 1) / 2 if centre is None else centre
    from_axis = np.arange(bins) - (bins - 1) / 2
    slices = np.zeros((bins, bins, rows), np.float32)
    # Every line of response counts once, whether the views go half, all or part of the way round.
    shares = np.pi * _shares(angles)
    for view, degrees, share in zip(np.moveaxis(filtered, 2, 0), angles, shares, strict=True):
        radians = np.deg2rad(degrees)
        u = from_axis[:, None] * np.cos(radians) - from_axis[None] * np.sin(radians) + middle
        slices += np.float32(share) * _between(view, u)
    return slices


def _padded(bins: int) -> int:
    """Length from which on the ends of a row do not wrap into each other."""
    return int(2 ** np.ceil(np.log2(2 * bins)))


def _filtered(views: np.ndarray, response: np.ndarray) -> np.ndarray:
    length = 2 * (len(response) - 1)
    spectrum = np.fft.rfft(views, length, axis=0) * response[:, None, None]
    return np.fft.irfft(spectrum, length, axis=0)[: len(views)].astype(np.float32)


def _between(view: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Rows of a view (bins, rows) at positions u (x, y), linearly; 0 beside the detector."""
    low = np.floor(u).astype(int)
    share = (u - low)[..., None].astype(np.float32)
    edged = np.pad(view, ((1, 1), (0, 0)))
    first = np.clip(low + 1, 0, len(edged) - 1)
    second = np.clip(low + 2, 0, len(edged) - 1)
    return edged[first] * (1 - share) + edged[second] * share
