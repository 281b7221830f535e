"""Pictures of volumes: slices with heatmaps, contours and letters for the sides.

Every function takes in-memory images and returns a matplotlib `Figure`; `save` writes it.
Nothing here opens an input file or touches pyplot's global state, so that figures can be drawn from
any number of processes and threads.

Slices are shown in neurological convention: the left of the brain is on the left of the picture,
and letters say so on every slice. Images of people who were mirrored so that one side is affected
in all (`pipelines.images.mark_ipsilateral`) have I and C, ipsilateral and contralateral, instead.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pipelines.images import is_ipsilateral

Volume = SpatialImage | tuple[NDArray, NDArray] | NDArray
"""A nibabel image, or an array (X, Y, Z) with its 4x4 affine (voxel to RAS+ mm).

An array (or a tensor) alone is drawn in the order of its axes, in voxels and without sides: nobody
knows which is left.
"""

MINUS = "\N{MINUS SIGN}"
INK = "#22303a"
QUIET = "#8a969e"
ACCENT = "#1d6a7a"
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
_FRONT_AND_BACK = ("P", "A")  # left and right edge of a sagittal slice


def save(figure: Figure, path: Path | str, *, dpi: int = 100) -> Path:
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
    path = Path(path)
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
    oriented: bool = True
    sides: tuple[str, str] = ("L", "R")

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
            # A blanked region has no brightness of its own.
            box, lit = near, inside if brain.foreground[inside].any() else lit
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
    oriented = isinstance(volume, tuple | SpatialImage)
    if not oriented:
        volume = np.asarray(volume), np.eye(4)
    if isinstance(volume, tuple):
        array, affine = np.asarray(volume[0]), np.asarray(volume[1], dtype=float)
        array = array.astype(np.float32)
        image: SpatialImage = nib.Nifti1Image(array, affine)
    else:
        image = cast(SpatialImage, volume)
    if len(image.shape) != 3:
        raise ValueError(f"a mosaic needs one 3D volume, not an array of shape {image.shape}")
    image = nib.as_closest_canonical(image)
    data = np.nan_to_num(np.asarray(image.dataobj, dtype=np.float32), posinf=0, neginf=0)
    sides = ("I", "C") if is_ipsilateral(image) else ("L", "R")
    return _Brain(data, np.asarray(image.affine, dtype=float), oriented, sides)


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


def over_limit(volume: Volume) -> SpatialImage:
    """A map over its own upper limit of colours, cut at -1 and 1.

    For maps of several networks below each other, which differ in how much relevance there is.
    """
    brain = _canonical(volume)
    scaled = np.clip(brain.data / overlay_limits(brain.data)[1], -1, 1)
    return nib.Nifti1Image(scaled.astype(np.float32), brain.affine)


def plot_rows(
    volume: Volume,
    overlays: Mapping[str, Volume],
    *,
    n_slices: int = 8,
    overlay_range: tuple[float, float] | None = None,
    units: str = "",
) -> Figure:
    """Draw axial slices of several maps below each other: the same slices, the same colours.

    Parameters
    ----------
    volume
        Anatomy, (X, Y, Z) in any storage orientation.
    overlays
        Heading of each row, and its map on any grid of the same space.
    n_slices
        Slices in each row.
    overlay_range
        Lowest and highest value of the colour bar; default `overlay_limits` of all maps.
    units
        What the colour bar measures.
    """
    brain = _canonical(volume)
    values = {name: _onto(_canonical(one), brain) for name, one in overlays.items()}
    limits = overlay_range or overlay_limits(np.stack(list(values.values())))
    colours = {name: _overlay(one, limits, None) for name, one in values.items()}
    view = _view(brain, None)
    figure, rows, bar = _row_axes(brain, view, list(colours), n_slices)
    axis, spacing = 2, max(1, round(4 / brain.voxel[2]))
    indices = _slice_indices(brain.foreground, axis, n_slices, spacing)
    for colour, row in zip(colours.values(), rows, strict=True):
        for axes, index in zip(row, indices, strict=False):
            _draw_slice(axes, brain, view, axis, index, colour)
            _annotate(axes, brain, axis, index)
    empty = not any(one.visible.any() for one in colours.values())
    _draw_bar(bar, _Paint(*limits, None), units, empty=empty)
    return figure


def plot_columns(
    volume: Volume,
    overlays: Mapping[str, Volume],
    z_mm: Sequence[float],
    *,
    across: int = 2,
    units: str = "",
) -> Figure:
    """Draw the same axial slices of several thresholded maps in columns beside each other.

    Parameters
    ----------
    volume
        Anatomy, (X, Y, Z) in any storage orientation.
    overlays
        Heading of each column, and its map, 0 where there is nothing, on any grid of the same
        space.
    z_mm
        Height of each slice; the nearest voxel is taken.
    across
        Slices beside each other in a column.
    units
        What the colour bar measures.
    """
    brain = _canonical(volume)
    values = {name: _onto(_canonical(one), brain) for name, one in overlays.items()}
    sizes = [np.abs(one[one != 0]) for one in values.values()]
    there = np.concatenate(sizes)
    least = float(there.min()) if there.size else 1.0
    high = overlay_limits(np.concatenate([there, -there]))[1]
    colours = {name: _overlay(one, (-high, high), 0.5 * least) for name, one in values.items()}
    view = _view(brain, None)
    figure, columns, bar = _column_axes(brain, view, list(colours), len(z_mm), across)
    heights = [int(np.rint(np.linalg.inv(brain.affine) @ [0, 0, z, 1])[2]) for z in z_mm]
    for colour, cells in zip(colours.values(), columns, strict=True):
        for axes, index in zip(cells, heights, strict=True):
            _draw_slice(axes, brain, view, 2, index, colour)
            _annotate(axes, brain, 2, index)
    _draw_bar(bar, _Paint(-high, high, 0.5 * least), units, empty=not there.size)
    return figure


def _column_axes(
    brain: _Brain, view: _View, headings: Sequence[str], slices: int, across: int
) -> tuple[Figure, list[list[Axes]], Axes]:
    """Lay out a block of axial slices below each heading, and a colour bar."""
    box = [(one.stop - one.start) * edge for one, edge in zip(view.box, brain.voxel, strict=True)]
    head, right, between, gap = 0.5, 0.95, 0.14, 0.04
    count, rows = len(headings), -(-slices // across)
    # With few columns, slices do not grow beyond what three columns would leave them.
    room = _WIDTH - right - 0.05 - between * (max(count, 3) - 1)
    wide = room / (max(count, 3) * across)
    high = wide * box[1] / box[0]
    total = head + rows * high + 0.05
    broad = 0.05 + count * across * wide + between * (count - 1) + right
    figure, columns = Figure(figsize=(broad, total), dpi=100, facecolor="black"), []
    for k, heading in enumerate(headings):
        left = 0.05 + k * (across * wide + between)
        text: dict[str, Any] = {"color": "white", "va": "center", "size": 11}
        figure.text((left + 0.05) / broad, 1 - head / 2 / total, heading, **text)
        columns.append(
            [
                figure.add_axes(
                    (
                        (left + wide * (n % across)) / broad,
                        (total - head - high * (n // across + 1)) / total,
                        (wide - gap) / broad,
                        (high - gap) / total,
                    )
                )
                for n in range(slices)
            ]
        )
    for axes in (one for cells in columns for one in cells):
        axes.set_axis_off()
    tall = min(2.2, 0.6 * total)
    place = (broad - 0.82) / broad, (total - tall) / 2 / total, 0.13 / broad, tall / total
    return figure, columns, figure.add_axes(place)


def _row_axes(
    brain: _Brain, view: _View, headings: Sequence[str], n_slices: int
) -> tuple[Figure, list[list[Axes]], Axes]:
    """Lay out a row of axial slices below each heading, and a colour bar."""
    box = [(one.stop - one.start) * edge for one, edge in zip(view.box, brain.voxel, strict=True)]
    head, right, gap = 0.3, 0.95, 0.04
    column = (_WIDTH - right - 0.05) / n_slices
    high = column * box[1] / box[0]
    total = len(headings) * (head + high) + 0.05
    figure, rows = Figure(figsize=(_WIDTH, total), dpi=100, facecolor="black"), []
    for k, heading in enumerate(headings):
        top = total - k * (head + high)
        figure.text(
            0.1 / _WIDTH, (top - head / 2) / total, heading, color="white", va="center", size=11
        )
        places = [(0.05 + one * column) / _WIDTH for one in range(n_slices)]
        size = (column - gap) / _WIDTH, high / total
        rows.append([figure.add_axes((x, (top - head - high) / total, *size)) for x in places])
    for axes in (one for row in rows for one in row):
        axes.set_axis_off()
    room = min(2.2, 0.6 * total)
    place = (_WIDTH - 0.82) / _WIDTH, (total - room) / 2 / total, 0.13 / _WIDTH, room / total
    return figure, rows, figure.add_axes(place)


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
    if not brain.oriented:
        axes.text(0.03, 0.03, f"{'ijk'[axis]} {index}", va="bottom", **style, **shadow)
        return
    edges = brain.sides if axis else _FRONT_AND_BACK
    for where, letter in zip((0.03, 0.97), edges, strict=True):
        side = "left" if where < 0.5 else "right"
        axes.text(where, 0.97, letter, ha=side, va="top", weight="bold", **style, **shadow)
    where = brain.position(axis, index)
    beside = 0 if axis else where - brain.midline
    hemisphere = "" if abs(beside) < 4 else f" ({brain.sides[beside > 0]})"
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


def colour_directions(
    anisotropy: Volume, directions: NDArray, *, title: str | None = None, n_slices: int = 7
) -> Figure:
    """Draw principal diffusion directions in colour, as bright as they are anisotropic.

    Red runs left-right, green back-front and blue down-up (Pajevic and Pierpaoli 1999).

    Parameters
    ----------
    anisotropy
        Fractional anisotropy, (X, Y, Z), RAS+ axes.
    directions : (X, Y, Z, 3) array
        Unit vectors along the world axes; their sign does not matter.
    """
    brain = _canonical(anisotropy)
    inside = brain.data > 0
    view = _View(_box(inside, (2, 2, 2)), (0.0, 1.0))
    figure, cells, _ = _mosaic_axes(brain, view, n_slices, title, with_bar=False)
    rgb = np.clip(np.abs(directions) * brain.data[..., None] ** 0.8 * 1.25, 0, 1)
    for axis, row in zip(_AXES, cells, strict=True):
        spacing = max(1, round(4 / brain.voxel[axis]))
        for axes, index in zip(row, _slice_indices(inside, axis, n_slices, spacing), strict=False):
            axes.imshow(
                _plane(rgb, axis, index),
                origin="lower",
                extent=_extent(brain, axis),
                interpolation="bilinear",
            )
            _zoom(axes, brain, view.box, axis)
            _annotate(axes, brain, axis, index)
    return figure


def transversal_display(
    volume: Volume, *, highest: float = 4.0, n_slices: int = 12, units: str = ""
) -> Figure:
    """Draw transversal slices from below upwards in one fixed scale of colours.

    As readers of dopamine transporter SPECT are used to; the scale is the same for everybody, so
    that people can be compared.

    Parameters
    ----------
    volume
        Uptake relative to its reference region, (X, Y, Z) in the template's space.
    highest
        Value of the lightest colour.
    n_slices
        Slices 4 mm apart, the middle ones through the striata (z = 0 mm).
    units
        What the colour bar measures.
    """
    brain = _canonical(volume)
    columns = (n_slices + 1) // 2
    heights = 4.0 * (np.arange(n_slices) - (n_slices - 1) / 2)
    rows = np.round((heights - brain.affine[2, 3]) / brain.voxel[2]).astype(int)
    rows = rows[(rows >= 0) & (rows < brain.data.shape[2])]
    view = _View(_box(brain.data > 0.3, (2, 2, 2)), (0.0, highest))
    figure, cells, bar = _row_axes(brain, view, ["", ""], columns)
    for axes, index in zip((one for row in cells for one in row), rows, strict=False):
        axes.imshow(
            _plane(brain.data, 2, index),
            cmap=_UPTAKE,
            vmin=0,
            vmax=highest,
            origin="lower",
            extent=_extent(brain, 2),
            interpolation="bilinear",
        )
        _zoom(axes, brain, view.box, 2)
        _annotate(axes, brain, 2, index)
    bar.imshow(
        np.linspace(0, highest, 256)[:, None],
        cmap=_UPTAKE,
        origin="lower",
        aspect="auto",
        extent=(0, 1, 0, highest),
    )
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.tick_params(colors="white", labelsize=7.5, length=2)
    bar.set_xlabel("\n".join(_wrapped(units, 15)), color="white", size=7.5, labelpad=8, x=1.6)
    return figure


_UPTAKE = "inferno"


def glass_brain(overlay: SpatialImage, *, title: str | None = None, units: str = "") -> Figure:
    """Draw a map of MNI space through a transparent brain, the strongest value along each ray.

    Left and right hemisphere from the side, the brain from behind and from above; the left is on
    the left of the picture, and letters say so.

    Parameters
    ----------
    overlay
        A map (X, Y, Z) in MNI space, in any storage orientation; 0 is not shown.
    title
        A line above the brains.
    units
        What the colour bar measures.

    Raises
    ------
    ValueError
        Where the map is not three-dimensional.
    """
    brain = _canonical(overlay)
    # Imported here: it takes a second, and no other figure needs it.
    from nilearn.plotting import plot_glass_brain

    low, high = overlay_limits(brain.data)
    empty = not brain.data.any()
    figure = Figure(figsize=(_WIDTH, 2.6 + 0.3 * bool(title)), dpi=100, facecolor="black")
    FigureCanvasAgg(figure)
    room = 2.6 / (2.6 + 0.3 * bool(title))
    display = plot_glass_brain(
        None if empty else nib.Nifti1Image(brain.data, brain.affine),
        display_mode="lyrz",
        figure=figure,
        axes=(0.0, 0.0, 0.9, room),
        colorbar=False,
        threshold=0,
        plot_abs=False,
        symmetric_cbar=low < 0,
        vmin=low,
        vmax=high,
        cmap=SIGNED if low < 0 else HEAT,
        alpha=1.0,
        black_bg=True,
        annotate=not is_ipsilateral(overlay),
    )
    words = ("ipsilateral", "contralateral") if is_ipsilateral(overlay) else ("left", "right")
    for side, word in zip("lr", words, strict=True):
        axes = display.axes[side].ax
        axes.text(0.02, 0.02, f"{word} side", color="white", size=8, transform=axes.transAxes)
    if is_ipsilateral(overlay):
        for view in "yz":
            for where, letter in zip((0.02, 0.94), brain.sides, strict=True):
                axes = display.axes[view].ax
                axes.text(where, 0.93, letter, color="white", size=9, transform=axes.transAxes)
    if title:
        figure.text(0.01, (1 + room) / 2, title, color="white", va="center", size=11)
    bar = figure.add_axes((0.92, 0.25 * room, 0.013, 0.6 * room))
    _draw_bar(bar, _Paint(low, high, 0.0), units, empty=empty)
    return figure


# Charts of a cohort -----------------------------------------------------------------------------
