"""Figures of the reports: slices of volumes and the charts of a cohort.

Every function takes in-memory images or tables and returns a matplotlib `Figure`; `save` writes it.
Nothing here opens an input file or touches pyplot's global state, so that figures can be drawn from
any number of processes and threads.

Slices are shown in neurological convention: the left of the brain is on the left of the picture,
and letters say so on every slice.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score, roc_curve

Volume = SpatialImage | tuple[NDArray, NDArray]
"""A nibabel image, or an array (X, Y, Z) with its 4x4 affine (voxel to RAS+ mm)."""

MINUS = "\N{MINUS SIGN}"
INK = "#22303a"
QUIET = "#8a969e"
ACCENT = "#1d6a7a"
CLASS_COLOURS = ("#c8572f", "#2b6c99", "#8a7a2b", "#7a4f9a")
CLASS_MARKERS = ("o", "s", "^", "D")
CONTOUR_COLOUR = "#4fd6ea"

# Both maps grow lighter with strength, so that they are read right without colour vision too.
HEAT = LinearSegmentedColormap.from_list(
    "brainwhy_heat", ["#7a1408", "#c9330c", "#f47a14", "#ffc235", "#fff5c4"]
)
SIGNED = LinearSegmentedColormap.from_list(
    "brainwhy_signed",
    [
        (0, "#c9f1ff"),
        (0.2, "#55b4ff"),
        (0.4, "#1f63d6"),
        (0.5, "#2b2350"),
        (0.6, "#c9330c"),
        (0.8, "#f58a1e"),
        (1, "#fff0b0"),
    ],
)

_WIDTH = 10.0  # inches of every mosaic: 1000 pixels at 100 dpi
_AXES = (2, 1, 0)  # rows of a mosaic: axial, coronal, sagittal
_EDGES = {2: ("L", "R"), 1: ("L", "R"), 0: ("P", "A")}  # left and right edge of each kind of slice


def save(figure: Figure, path: Path, *, dpi: int = 100) -> Path:
    """Write a figure as a small PNG, byte for byte the same for the same figure.

    The picture is reduced to a palette of 256 colours, which keeps a mosaic below 300 kB.

    Parameters
    ----------
    figure
        What any function of this module returned.
    path
        Where to write; parent folders are created.
    dpi
        Pixels per inch; mosaics are 10 inches wide.
    """
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        stream, "PNG", optimize=True
    )
    path.write_bytes(stream.getvalue())
    return path


# Slices of volumes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Brain:
    """An array (X, Y, Z) whose axes run closest to right, anterior, superior; affine in mm."""

    data: NDArray
    affine: NDArray

    @property
    def voxel(self) -> NDArray:
        """Edge lengths of a voxel in mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def oblique(self) -> bool:
        """Whether the axes of the array are turned against those of the scanner."""
        cosines = self.affine[:3, :3] / self.voxel
        return bool(np.abs(cosines - np.eye(3)).max() > 1e-3)

    @cached_property
    def foreground(self) -> NDArray:
        """Mask of what is clearly brighter than an empty background."""
        corners = self.data[np.ix_((0, -1), (0, -1), (0, -1))]
        distance = np.abs(self.data - np.median(corners))
        return distance > 0.1 * max(np.percentile(distance, 99), 1e-12)

    @cached_property
    def midline(self) -> float:
        """Coordinate in mm that halves what is shown from left to right.

        The origin will not do: in an image as it came from the scanner it may lie anywhere.
        """
        profile = np.cumsum(self.foreground.sum(axis=(1, 2)))
        return self.position(0, int(np.searchsorted(profile, profile[-1] / 2)))

    def position(self, axis: int, index: int) -> float:
        """Coordinate in mm of the centre of slice `index` along `axis`."""
        centre = (np.array(self.data.shape) - 1) / 2
        centre[axis] = index
        return float((self.affine @ [*centre, 1])[axis])


@dataclass(frozen=True)
class _View:
    """The part of a volume that is shown, in voxels, and the intensities shown black and white."""

    box: tuple[slice, ...]
    window: tuple[float, float]


def _view(brain: _Brain, inside: NDArray | None) -> _View:
    """Show the foreground; around a mask no more than 35 mm of it, as bright as the mask needs."""
    box, lit = _box(brain.foreground, (2, 2, 2)), brain.foreground
    if inside is not None and inside.any():
        margin = np.ceil(35 / brain.voxel).astype(int)
        near = tuple(
            slice(max(one.start, other.start), min(one.stop, other.stop))
            for one, other in zip(box, _box(inside, margin), strict=True)
        )
        if all(one.start < one.stop for one in near):
            box, lit = near, inside
    values = brain.data[lit]
    low, high = np.percentile(values, (0.5, 99.5)) if values.size else (0.0, 1.0)
    low = min(low, 0) if values.size and values.min() < 0 else 0
    return _View(box, (float(low), float(max(high, low + 1e-12))))


def _box(mask: NDArray, margin: Sequence[int] | NDArray) -> tuple[slice, ...]:
    """Bounding box of a mask, wider by a margin in voxels; everything when the mask is empty."""
    if not mask.any():
        return tuple(slice(0, size) for size in mask.shape)
    found = ndimage.find_objects(mask.astype(np.uint8))[0]
    return tuple(
        slice(max(one.start - int(more), 0), min(one.stop + int(more), size))
        for one, more, size in zip(found, margin, mask.shape, strict=True)
    )


def _canonical(volume: Volume) -> _Brain:
    if isinstance(volume, tuple):
        array, affine = np.asarray(volume[0]), np.asarray(volume[1], dtype=float)
        array = array.astype(np.float32)
        image: SpatialImage = nib.Nifti1Image(array, affine)
    else:
        image = volume
    if len(image.shape) != 3:
        raise ValueError(f"a mosaic needs one 3D volume, not an array of shape {image.shape}")
    image = nib.as_closest_canonical(image)
    data = np.nan_to_num(np.asarray(image.dataobj, dtype=np.float32), posinf=0, neginf=0)
    return _Brain(data, np.asarray(image.affine, dtype=float))


def _onto(moving: _Brain, grid: _Brain) -> NDArray:
    """Values of `moving` at the voxels of `grid`, linearly interpolated; 0 outside."""
    same = moving.data.shape == grid.data.shape and np.allclose(
        moving.affine, grid.affine, atol=1e-3
    )
    if same:
        return moving.data
    matrix = np.linalg.inv(moving.affine) @ grid.affine
    return ndimage.affine_transform(
        moving.data, matrix[:3, :3], matrix[:3, 3], output_shape=grid.data.shape, order=1
    )


def _slice_indices(mass: NDArray, axis: int, count: int, spacing: int) -> NDArray:
    """Evenly spaced slices across the middle 92 % of what is to be seen along an axis."""
    profile = mass.sum(axis=tuple(other for other in range(3) if other != axis))
    size = profile.size
    if profile.sum() <= 0:
        profile = np.ones(size)
    first, last = np.searchsorted(np.cumsum(profile) / profile.sum(), (0.04, 0.96))
    lacking = (count - 1) * spacing - (last - first)
    if lacking > 0:
        first, last = first - lacking / 2, last + lacking / 2
    chosen = np.linspace(max(first, 0), min(last, size - 1), count)
    return np.unique(np.round(chosen).astype(int))


def _is_signed(data: NDArray) -> bool:
    return bool(data.size and -data.min() > 0.01 * np.abs(data).max())


def overlay_limits(data: NDArray) -> tuple[float, float]:
    """Range of colours of a map: robust, symmetric about 0 when the map is signed.

    Parameters
    ----------
    data
        Values of the map, any shape; zeros and values that are not finite do not count.

    Returns
    -------
    tuple
        (-v, v) of a signed map, (0, v) of one without negative values, with v the 99.5th
        percentile of the absolute values; v = 1 where the map is empty.
    """
    values = data[np.isfinite(data) & (data != 0)]
    if not values.size:
        return 0.0, 1.0
    high = float(np.percentile(np.abs(values), 99.5)) or 1.0
    return (-high, high) if _is_signed(values) else (0.0, high)


@dataclass(frozen=True)
class _Paint:
    """How values of an overlay become colours; strong values are opaque, weak ones fade out."""

    low: float
    high: float
    threshold: float | None

    @property
    def signed(self) -> bool:
        return self.low < 0

    @property
    def colours(self) -> Colormap:
        return SIGNED if self.signed else HEAT

    def __call__(self, values: NDArray) -> NDArray:
        """RGBA, shape (*values.shape, 4), of values."""
        rgba = self.colours(np.clip((values - self.low) / (self.high - self.low), 0, 1))
        strength = np.abs(values) if self.signed else values - self.low
        share = strength / (self.high if self.signed else self.high - self.low)
        rgba[..., 3] = np.clip((share - 0.12) / 0.45, 0, 1)
        if self.threshold is not None:
            rgba[..., 3] = np.abs(values) >= self.threshold
        return rgba


def plot_slices(
    volume: Volume,
    overlay: Volume | None = None,
    *,
    contour: Volume | None = None,
    contour_levels: Sequence[float] = (0.5,),
    n_slices: int = 7,
    title: str | None = None,
    overlay_range: tuple[float, float] | None = None,
    threshold: float | None = None,
    units: str = "",
) -> Figure:
    """Draw rows of axial, coronal and sagittal slices through where something is.

    Parameters
    ----------
    volume
        Anatomy, (X, Y, Z) in any storage orientation; shown along the axes closest to RAS+.
    overlay
        A map in colour over it, on any grid of the same space; linearly resampled.
    contour
        A volume whose outlines are drawn, on any grid of the same space.
    contour_levels
        Values of `contour` at which lines are drawn.
    n_slices
        Slices in each row.
    title
        A line above the mosaic.
    overlay_range
        Lowest and highest value of the colour bar; default see `overlay_limits`.
    threshold
        Hide the overlay where its absolute value is smaller. Without one, colours fade out
        towards 0.
    units
        What the colour bar measures.

    Raises
    ------
    ValueError
        Where a volume is not three-dimensional.
    """
    brain = _canonical(volume)
    lines = None if contour is None else _onto(_canonical(contour), brain)
    colour = None
    if overlay is not None:
        colour = _overlay(_onto(_canonical(overlay), brain), overlay_range, threshold)
    mass = _mass(brain, colour, lines, contour_levels)
    view = _view(brain, None if lines is None else lines > min(contour_levels))
    figure, cells, bar = _mosaic_axes(brain, view, n_slices, title, with_bar=colour is not None)
    for axis, row in zip(_AXES, cells, strict=True):
        spacing = max(1, round(4 / brain.voxel[axis]))
        for axes, index in zip(row, _slice_indices(mass, axis, n_slices, spacing), strict=False):
            _draw_slice(axes, brain, view, axis, index, colour)
            if lines is not None:
                _draw_contour(axes, brain, axis, index, lines, contour_levels)
            _annotate(axes, brain, axis, index)
    if colour is not None and bar is not None:
        _draw_bar(bar, colour.paint, units, empty=not colour.visible.any())
    return figure


@dataclass(frozen=True)
class _Overlay:
    """A map on the anatomy's voxels: values, strength where it will be seen, and colours."""

    values: NDArray
    visible: NDArray
    paint: _Paint


def _overlay(
    values: NDArray, limits: tuple[float, float] | None, threshold: float | None
) -> _Overlay:
    low, high = limits if limits is not None else overlay_limits(values)
    if not high > low:
        raise ValueError(f"the colour range {low} to {high} is empty")
    strength = np.abs(values)
    floor = threshold if threshold is not None else 0.25 * strength.max(initial=0)
    visible = np.where((strength >= floor) & (strength > 0), strength, 0)
    return _Overlay(values, visible, _Paint(low, high, threshold))


def _mass(
    brain: _Brain, colour: _Overlay | None, lines: NDArray | None, levels: Sequence[float]
) -> NDArray:
    """Weigh what the slices should run through: overlay, else contoured thing, else image."""
    if colour is not None and colour.visible.any():
        return colour.visible
    if lines is not None and (lines > min(levels)).any():
        return lines > min(levels)
    return brain.foreground


def _mosaic_axes(
    brain: _Brain, view: _View, n_slices: int, title: str | None, *, with_bar: bool
) -> tuple[Figure, list[list[Axes]], Axes | None]:
    """Lay out three rows of equal columns, each as high as its slices need."""
    extent = [
        (one.stop - one.start) * edge for one, edge in zip(view.box, brain.voxel, strict=True)
    ]
    head, right, gap = (0.34 if title else 0.06), (0.95 if with_bar else 0.05), 0.04
    column = (_WIDTH - right - 0.05) / n_slices
    heights = [
        column * extent[1] / extent[0],
        column * extent[2] / extent[0],
        column * extent[2] / extent[1],
    ]
    total = head + sum(heights) + 3 * gap + 0.05
    figure = Figure(figsize=(_WIDTH, total), dpi=100, facecolor="black")
    top, rows = total - head, []
    for height in heights:
        rows.append(
            [
                figure.add_axes(
                    (
                        (0.05 + k * column) / _WIDTH,
                        (top - height) / total,
                        (column - gap) / _WIDTH,
                        height / total,
                    )
                )
                for k in range(n_slices)
            ]
        )
        top -= height + gap
    for axes in (one for row in rows for one in row):
        axes.set_axis_off()
    if title:
        figure.text(0.1 / _WIDTH, 1 - 0.17 / total, title, color="white", va="center", size=11)
    if not with_bar:
        return figure, rows, None
    room = min(2.2, 0.6 * (total - head))
    bar = figure.add_axes(
        ((_WIDTH - 0.82) / _WIDTH, (total - head - room) / 2 / total, 0.13 / _WIDTH, room / total)
    )
    return figure, rows, bar


def _plane(data: NDArray, axis: int, index: int) -> NDArray:
    """One slice with its horizontal axis last: rows go up, columns to the right of the picture."""
    return np.swapaxes(np.take(data, index, axis=axis), 0, 1)


def _extent(brain: _Brain, axis: int) -> tuple[float, float, float, float]:
    across, up = (other for other in range(3) if other != axis)
    return (
        0,
        brain.data.shape[across] * brain.voxel[across],
        0,
        brain.data.shape[up] * brain.voxel[up],
    )


def _draw_slice(
    axes: Axes, brain: _Brain, view: _View, axis: int, index: int, colour: _Overlay | None
) -> None:
    low, high = view.window
    shown: dict[str, Any] = {
        "origin": "lower",
        "extent": _extent(brain, axis),
        "interpolation": "bilinear",
    }
    axes.imshow(_plane(brain.data, axis, index), cmap="gray", vmin=low, vmax=high, **shown)
    if colour is not None:
        # Interpolating values rather than colours keeps thin, strong spots from turning muddy.
        values = _plane(colour.values, axis, index)
        fine = ndimage.zoom(values, 2, order=1, mode="nearest", grid_mode=True)
        axes.imshow(colour.paint(fine), **shown)
    _zoom(axes, brain, view.box, axis)


def _zoom(axes: Axes, brain: _Brain, box: tuple[slice, ...], axis: int) -> None:
    across, up = (other for other in range(3) if other != axis)
    axes.set_xlim(box[across].start * brain.voxel[across], box[across].stop * brain.voxel[across])
    axes.set_ylim(box[up].start * brain.voxel[up], box[up].stop * brain.voxel[up])


def _draw_contour(
    axes: Axes, brain: _Brain, axis: int, index: int, lines: NDArray, levels: Sequence[float]
) -> None:
    plane = _plane(lines, axis, index)
    reached = [one for one in sorted(levels) if plane.min() < one < plane.max()]
    if not reached:
        return
    across, up = (other for other in range(3) if other != axis)
    x = (np.arange(plane.shape[1]) + 0.5) * brain.voxel[across]
    y = (np.arange(plane.shape[0]) + 0.5) * brain.voxel[up]
    width = 1.1 if len(levels) == 1 else 0.7
    axes.contour(x, y, plane, levels=reached, colors=CONTOUR_COLOUR, linewidths=width)


def _annotate(axes: Axes, brain: _Brain, axis: int, index: int) -> None:
    style: dict[str, Any] = {"color": "white", "size": 7.5, "transform": axes.transAxes}
    shadow: dict[str, Any] = {
        "path_effects": [patheffects.withStroke(linewidth=1.6, foreground="black")]
    }
    for where, letter in zip((0.03, 0.97), _EDGES[axis], strict=True):
        side = "left" if where < 0.5 else "right"
        axes.text(where, 0.97, letter, ha=side, va="top", weight="bold", **style, **shadow)
    where = brain.position(axis, index)
    beside = 0 if axis else where - brain.midline
    hemisphere = "" if abs(beside) < 4 else " (L)" if beside < 0 else " (R)"
    about = "≈" if brain.oblique else ""
    value = f"{'xyz'[axis]} {about}{where:.0f}".replace("-", MINUS)
    # The empty corner of a sagittal slice is below the forehead.
    corner, side = (0.03, "left") if axis else (0.97, "right")
    axes.text(corner, 0.03, f"{value}{hemisphere}", ha=side, va="bottom", **style, **shadow)


def _draw_bar(axes: Axes, paint: _Paint, units: str, *, empty: bool) -> None:
    """Colour bar, blended with grey as the map is with the anatomy."""
    if empty:
        axes.set_axis_off()
        axes.text(0, 0.5, "nothing\nto show", color="white", size=7.5, transform=axes.transAxes)
        return
    values = np.linspace(paint.low, paint.high, 256)[:, None]
    rgba = paint(values)
    opaque = rgba[..., 3:]
    axes.imshow(
        opaque * rgba[..., :3] + (1 - opaque) * 0.25,
        origin="lower",
        aspect="auto",
        extent=(0, 1, paint.low, paint.high),
    )
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    exponent = _exponent(max(abs(paint.low), abs(paint.high)))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value / 10.0**exponent:g}".replace("-", MINUS))
    )
    axes.tick_params(colors="white", labelsize=7.5, length=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    lines = _wrapped(units, 15)
    if exponent:
        lines = [f"$\\times 10^{{{exponent}}}$", *lines]
    axes.set_xlabel("\n".join(lines), color="white", size=7.5, labelpad=8, x=1.6)


def _exponent(largest: float) -> int:
    """Power of ten taken out of the colour bar's numbers: 0 where they are readable as they are."""
    power = int(np.floor(np.log10(largest))) if largest > 0 else 0
    return 0 if -2 <= power < 4 else power


def _wrapped(text: str, width: int) -> list[str]:
    lines: list[str] = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], joined] if len(joined) <= width else [*lines, word]
    return [one for one in lines if one]


def mask_contour(volume: Volume, mask: Volume, *, title: str | None = None) -> Figure:
    """Draw the outline of a mask over its image (both (X, Y, Z), any orientation)."""
    return plot_slices(volume, contour=mask, title=title)


def registration_overlay(
    registered: Volume, template: Volume, *, title: str | None = None
) -> Figure:
    """Draw the edges of a template over an image registered to it.

    The lines are the template's outline and its border between grey and white matter: where
    they follow the image underneath, the registration is good.

    Parameters
    ----------
    registered
        Image in the template's space, (X, Y, Z).
    template
        Skull-stripped template, zero outside the brain, on any grid of the same space.
    """
    data = _canonical(template).data
    inside = data[data > 0]
    levels = tuple(np.quantile(inside, (0.05, 0.6))) if inside.size else (0.5,)
    return plot_slices(registered, contour=template, contour_levels=levels, title=title)


# Charts of a cohort -----------------------------------------------------------------------------


def _chart(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    axes = list(np.ravel(figure.subplots(1, panels)))
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(QUIET)
        one.tick_params(colors=INK, labelsize=8.5, length=3, color=QUIET)
        one.xaxis.label.set(color=INK, size=9)
        one.yaxis.label.set(color=INK, size=9)
        one.title.set(color=INK, size=10)
    return figure, axes


def _nothing(axes: Axes, sentence: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, sentence, ha="center", va="center", color=QUIET, size=10, wrap=True)


def _classes(labels: pd.Series, positive: str | None) -> list[str]:
    """Classes in a fixed order, the positive one first."""
    names = sorted(labels.dropna().astype(str).unique())
    return sorted(names, key=lambda name: name != positive)


def roc(predictions: pd.DataFrame, positive: str) -> Figure:
    """Draw the receiver operating characteristic of out-of-fold predictions.

    Parameters
    ----------
    predictions
        One row per person: `label` (class) and `probability` (of `positive`, 0 to 1).
    positive
        The class that a high probability speaks for.
    """
    figure, (axes,) = _chart(4.2, 4.0)
    known = predictions.dropna(subset=["label", "probability"])
    truth = (known["label"].astype(str) == positive).to_numpy()
    if truth.all() or not truth.any():
        _nothing(axes, "A ROC curve needs people of both classes.")
        return figure
    scores = known["probability"].to_numpy(float)
    false_rate, true_rate, _ = roc_curve(truth, scores, drop_intermediate=False)
    axes.plot([0, 1], [0, 1], color=QUIET, lw=1, ls=(0, (4, 3)))
    axes.fill_between(false_rate, true_rate, color=ACCENT, alpha=0.08, lw=0)
    axes.plot(false_rate, true_rate, color=ACCENT, lw=2, solid_joinstyle="round")
    axes.text(0.97, 0.06, f"AUC {roc_auc_score(truth, scores):.2f}", ha="right", size=13, color=INK)
    axes.text(0.62, 0.57, "chance", rotation=45, color=QUIET, size=8, ha="center", va="center")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set_xlabel(f"false alarms: people without {positive} called {positive}")
    axes.set_ylabel(f"sensitivity: people with {positive} called {positive}")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def confusion(table: pd.DataFrame) -> Figure:
    """Draw a confusion matrix.

    Parameters
    ----------
    table
        First column `label` (true class), one column of counts per predicted class.
    """
    figure, (axes,) = _chart(3.8, 3.4)
    counts = table.set_index(table.columns[0]).astype(float)
    share = counts.div(counts.sum(axis=1).replace(0, np.nan), axis=0).fillna(0).to_numpy()
    axes.imshow(
        share, cmap=LinearSegmentedColormap.from_list("", ["#f3f6f7", ACCENT]), vmin=0, vmax=1
    )
    for (row, column), part in np.ndenumerate(share):
        ink = "white" if part > 0.55 else INK
        axes.text(
            column,
            row - 0.06,
            f"{counts.iat[row, column]:.0f}",
            ha="center",
            va="center",
            size=18,
            color=ink,
        )
        axes.text(
            column,
            row + 0.24,
            f"{part:.0%} of {counts.index[row]}",
            ha="center",
            va="center",
            size=8,
            color=ink,
        )
    axes.set_xticks(range(counts.shape[1]), counts.columns.astype(str))
    axes.set_yticks(range(counts.shape[0]), counts.index.astype(str))
    axes.set(xlabel="the network's answer", ylabel="true class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def region_ranking(
    table: pd.DataFrame,
    classes: Sequence[str] = (),
    top: int = 25,
    *,
    measure: str = "sum",
    title: str | None = None,
) -> Figure:
    """Draw the regions with the most relevance, all classes side by side.

    Parameters
    ----------
    table
        One row per region: `name` and, for every class, `<measure>_<class>`; or, for one person,
        `<measure>` itself.
    classes
        Classes, the one that orders the regions first; empty for a person's table.
    top
        How many regions.
    measure
        `sum`, `density` (mean per voxel) or `gain` (relative to the controls' mean sum).
    """
    wanted = {name: f"{measure}_{name}" for name in classes} or {"": measure}
    columns = {name: column for name, column in wanted.items() if column in table}
    figure, (axes,) = _chart(7.2, 0.7 + 0.21 * min(top, max(len(table), 3)))
    if not columns or table.empty:
        _nothing(axes, f"The table has no column {measure}.")
        return figure
    leading = table[next(iter(columns.values()))].abs()
    best = table.loc[leading.sort_values(ascending=False, kind="stable").index[:top]]
    rows = np.arange(len(best))[::-1]
    values = best[list(columns.values())].to_numpy(float)
    axes.hlines(rows, np.nanmin(values, 1), np.nanmax(values, 1), color="#d5dbde", lw=2, zorder=1)
    for k, name in enumerate(columns):
        axes.scatter(
            values[:, k],
            rows,
            s=26,
            color=CLASS_COLOURS[k % 4] if name else ACCENT,
            marker=CLASS_MARKERS[k % 4],
            label=name,
            zorder=3,
            lw=0,
        )
    axes.axvline(0, color=QUIET, lw=0.8, zorder=0)
    axes.set_yticks(rows, best["name"].astype(str).str.replace("_", " "))
    axes.set(ylim=(-0.7, len(best) - 0.3), title=title or "")
    axes.set_xlabel(
        {
            "sum": "relevance summed over the region (arbitrary units)",
            "density": "relevance per voxel (arbitrary units)",
            "gain": "relevance relative to the controls' mean",
        }.get(measure, measure)
    )
    axes.ticklabel_format(axis="x", scilimits=(-3, 4), useMathText=True)
    axes.grid(axis="x", color="#eef1f2", zorder=0)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if len(columns) > 1:
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def learning_curves(histories: Sequence[pd.DataFrame]) -> Figure:
    """Draw loss and balanced accuracy over epochs, a thin line per fold and a thick mean.

    Parameters
    ----------
    histories
        Per fold: `epoch train_loss validation_loss validation_balanced_accuracy`.
    """
    figure, (loss, accuracy) = _chart(7.6, 3.1, panels=2)
    if not len(histories):
        _nothing(loss, "No training history was found.")
        accuracy.set_axis_off()
        return figure
    _curves(loss, histories, "train_loss", QUIET, "training")
    _curves(loss, histories, "validation_loss", ACCENT, "validation")
    _curves(accuracy, histories, "validation_balanced_accuracy", ACCENT, "validation")
    accuracy.axhline(0.5, color=QUIET, lw=1, ls=(0, (4, 3)))
    accuracy.text(
        0.99,
        0.5,
        "chance",
        color=QUIET,
        size=8,
        ha="right",
        va="bottom",
        transform=accuracy.get_yaxis_transform(),
    )
    loss.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    accuracy.set(xlabel="epoch", ylabel="balanced accuracy", ylim=(0, 1.03))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    loss.legend(frameon=False, fontsize=8.5)
    for axes in (loss, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def _curves(
    axes: Axes, histories: Sequence[pd.DataFrame], column: str, colour: str, label: str
) -> None:
    found = [one.set_index("epoch")[column] for one in histories if {"epoch", column} <= set(one)]
    for one in found:
        axes.plot(one.index, one, color=colour, lw=0.8, alpha=0.35)
    if found:
        mean = pd.concat(found, axis=1).mean(axis=1)
        axes.plot(mean.index, mean, color=colour, lw=2.2, label=label)


def probabilities(predictions: pd.DataFrame, positive: str | None = None) -> Figure:
    """Draw every person's probability, in a strip per true class.

    Parameters
    ----------
    predictions
        One row per person: `participant_id label probability predicted`.
    positive
        The class whose probability it is; named on the axis.
    """
    names = _classes(predictions["label"], positive)
    figure, (axes,) = _chart(6.4, 0.9 + 0.85 * max(len(names), 1))
    axes.axvline(0.5, color=QUIET, lw=1, ls=(0, (4, 3)), zorder=0)
    for k, name in enumerate(names):
        group = predictions[predictions["label"].astype(str) == name].sort_values("probability")
        height = len(names) - 1 - k + _swarm(group["probability"].to_numpy(float))
        _strip(axes, group, height, CLASS_COLOURS[k % 4], CLASS_MARKERS[k % 4])
    axes.set_yticks(range(len(names)), names[::-1])
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.55, max(len(names), 1) - 0.4))
    axes.set_xlabel(f"probability of {positive}" if positive else "probability")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=10)
    return figure


def _strip(axes: Axes, group: pd.DataFrame, height: NDArray, colour: str, marker: str) -> None:
    """Dots of one class; those called wrong are hollow and named."""
    chance = group["probability"].to_numpy(float)
    answer = group.get("predicted", group["label"])
    wrong = (answer.astype(str) != group["label"].astype(str)).to_numpy()
    style: dict[str, Any] = {
        "s": 34,
        "marker": marker,
        "zorder": 3,
        "linewidths": 1.3,
        "edgecolors": colour,
    }
    axes.scatter(chance[~wrong], height[~wrong], c=colour, **style)
    axes.scatter(chance[wrong], height[wrong], c="white", **style)
    if "participant_id" in group and wrong.sum() <= 12:
        for k, name in enumerate(group["participant_id"][wrong]):
            # Above and below by turns, so that names of close marks do not run together.
            offset, side = ((0, 6), "bottom") if k % 2 == 0 else ((0, -6), "top")
            axes.annotate(
                str(name),
                (chance[wrong][k], height[wrong][k]),
                offset,
                textcoords="offset points",
                size=7,
                ha="center",
                va=side,
                color=INK,
            )


def _swarm(sorted_values: NDArray, near: float = 0.025, step: float = 0.12) -> NDArray:
    """Vertical offsets that keep dots with close values apart; the same for the same values."""
    offsets = np.zeros(len(sorted_values))
    pattern = np.array([0, 1, -1, 2, -2]) * step
    run = 0
    for k in range(1, len(sorted_values)):
        run = run + 1 if sorted_values[k] - sorted_values[k - 1] < near else 0
        offsets[k] = pattern[run % len(pattern)]
    return offsets


def qc_scatter(qc: pd.DataFrame) -> Figure:
    """Draw brain volume against likeness to the template; flagged images are named.

    Parameters
    ----------
    qc
        One row per image: `participant_id mask_volume_ml template_correlation flags`
        (`flags` missing or "n/a" when nothing was flagged), and `session_id` if there are any.
    """
    figure, (axes,) = _chart(5.6, 3.8)
    wanted = ["mask_volume_ml", "template_correlation"]
    if not set(wanted) <= set(qc) or qc[wanted].dropna().empty:
        _nothing(axes, "No quality numbers were found.")
        return figure
    known = qc.dropna(subset=wanted)
    flagged = is_flagged(known).to_numpy()
    x, y = (known[name].to_numpy(float) for name in wanted)
    axes.scatter(x[~flagged], y[~flagged], s=30, color=ACCENT, alpha=0.75, lw=0)
    axes.scatter(x[flagged], y[flagged], s=42, color=CLASS_COLOURS[0], marker="D", lw=0)
    for row in np.flatnonzero(flagged)[:20]:
        axes.annotate(
            str(known["participant_id"].iat[row]),
            (x[row], y[row]),
            (6, 4),
            textcoords="offset points",
            size=8,
            color=INK,
        )
    axes.set(xlabel="brain mask (ml)", ylabel="correlation with the template")
    axes.margins(0.12)
    axes.grid(color="#eef1f2")
    axes.set_axisbelow(True)
    return figure


def is_flagged(qc: pd.DataFrame) -> pd.Series:
    """Whether each row of a QC table carries a flag; text "n/a" and empty cells do not count."""
    if "flags" not in qc:
        return pd.Series(False, index=qc.index)
    text = qc["flags"].fillna("").astype(str).str.strip().str.lower()
    return ~text.isin(["", "n/a", "nan", "none"])


def null_distribution(
    max_distribution: NDArray, threshold: float, observed: float | None = None
) -> Figure:
    """Draw the permutation distribution of the largest statistic, with its threshold.

    Parameters
    ----------
    max_distribution
        Largest absolute t of every permutation, shape (permutations,).
    threshold
        Value that the corrected map is cut at.
    observed
        Largest absolute t of the real labels.
    """
    figure, (axes,) = _chart(5.2, 2.8)
    axes.hist(np.asarray(max_distribution), bins=30, color="#cfd8dc")
    axes.axvline(threshold, color=ACCENT, lw=2)
    axes.text(
        threshold,
        1.02,
        f"threshold {threshold:.2f}",
        color=ACCENT,
        size=8.5,
        ha="center",
        transform=axes.get_xaxis_transform(),
    )
    if observed is not None:
        axes.axvline(observed, color=CLASS_COLOURS[0], lw=2, ls=(0, (3, 2)))
        axes.text(
            observed,
            0.9,
            f" observed {observed:.2f} ",
            ha="left" if observed >= threshold else "right",
            color=CLASS_COLOURS[0],
            size=8.5,
            transform=axes.get_xaxis_transform(),
        )
    axes.set(xlabel="largest |t| over the brain", ylabel="permutations")
    return figure
