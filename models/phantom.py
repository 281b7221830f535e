"""Brains with known truth: synthetic T1w heads, and patients whose change we made ourselves.

A head model is built once from a brain template and an atlas; every scan is one warp of it. All
randomness comes from the person's own seed, none of it depends on the diagnosis: a patient with
``effect=0`` is a control.

Space: the template's world, RAS+ in mm, unless a name says otherwise. Intensities: the
template's own (white matter about 90) until the scanner's gain is applied.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage

# T1w signal in units of the template, whose white matter is about 90 and ventricles about 35.
AIR, BONE, CSF, MUSCLE, MARROW, FAT = 0.0, 8.0, 25.0, 45.0, 50.0, 100.0

# From the brain's hull outwards (mm): the signal at each distance. Piecewise linear.
SHELL_MM = (0.0, 0.5, 2.0, 2.5, 3.5, 4.5, 5.5, 7.0, 8.0, 9.5)
SHELL_SIGNAL = (CSF, CSF, CSF, BONE, BONE, MARROW, MARROW, BONE, BONE, MUSCLE)
SKULL_MM, SCALP_MM, SKIN_MM = 8.0, 13.0, 4.0

# Head outside the skull: (centre, radii) of ellipsoids in mm.
FACE = ((0.0, 45.0, -62.0), (60.0, 50.0, 70.0))
NECK = ((0.0, -28.0, -110.0), (58.0, 60.0, 95.0))
EYES = tuple((((side * 33.0), 66.0, -36.0), (12.0, 12.0, 12.0)) for side in (-1, 1))
AIRWAYS = (
    ((0.0, 62.0, -62.0), (11.0, 30.0, 20.0)),
    ((0.0, 22.0, -85.0), (9.0, 10.0, 40.0)),
)

CANVAS_MM = ((-102.0, 102.0), (-142.0, 112.0), (-140.0, 112.0))  # what the head model covers
SCANNER_MM = ((-96.0, 96.0), (-129.0, 105.0), (-117.0, 102.0))  # field of view of a scan

# Cubic B-splines (free-form deformation) stay invertible while their coefficients are below
# spacing / 2.48 (Choi & Lee 2000); the two scales use .55 and .37 of that bound.
WARP_SCALES_MM = ((45.0, 6.0, 10.0), (20.0, 2.0, 3.0))  # spacing, SD, limit of the coefficients
WARP_GRID_MM = 5.0
# The template's brain is larger than most: so scaled, the mean is about 1.5 litres.
HEAD_TO_TEMPLATE = 1.08
MEAN_AGE = 72.0


@dataclass(frozen=True)
class Canvas:
    """An axis-aligned RAS+ grid: ``shape`` voxels of ``voxel_mm`` from ``origin_mm``."""

    shape: tuple[int, ...]
    voxel_mm: float
    origin_mm: np.ndarray

    @classmethod
    def covering(cls, extent_mm: Sequence[tuple[float, float]], voxel_mm: float) -> "Canvas":
        """Return the grid whose first voxel centre sits at the lower corner of the extent."""
        low, high = np.transpose(extent_mm)
        counts = np.ceil((high - low) / voxel_mm).astype(int) + 1
        return cls(tuple(int(n) for n in counts), voxel_mm, low)

    @property
    def affine(self) -> np.ndarray:
        """Voxel to world matrix, (4, 4)."""
        return nib.affines.from_matvec(np.eye(3) * self.voxel_mm, self.origin_mm)

    def axes_mm(self) -> list[np.ndarray]:
        """World coordinates along each axis."""
        steps = zip(self.origin_mm, self.shape, strict=True)
        return [origin + self.voxel_mm * np.arange(count) for origin, count in steps]

    def points_mm(self) -> np.ndarray:
        """World coordinates of every voxel, (3, x, y, z)."""
        return np.stack(np.meshgrid(*self.axes_mm(), indexing="ij")).astype(np.float32)


@dataclass(frozen=True)
class HeadModel:
    """The head all scans are warped from.

    Attributes
    ----------
    canvas : Canvas
        Grid of ``signal``, ``brain`` and ``altered``.
    signal, brain : numpy.ndarray
        T1w signal of the healthy head; share of each voxel that is brain (0 to 1).
    altered : numpy.ndarray
        Share of each voxel (0 to 1) that is turned CSF-like in a patient.
    warp_canvas : Canvas
        Coarse grid of displacements.
    ventricle_pull : numpy.ndarray
        (3, x, y, z) on ``warp_canvas``, mm: the displacement that widens the ventricles.
    """

    canvas: Canvas
    signal: np.ndarray
    brain: np.ndarray
    altered: np.ndarray
    warp_canvas: Canvas
    ventricle_pull: np.ndarray


@dataclass(frozen=True)
class Scanner:
    """What a site does to an image.

    Parameters
    ----------
    noise : float
        SD of the Gaussian noise in each channel, as a share of white matter.
    bias : float
        SD of the logarithm of the receive field.
    gain : float
        Stored units per template unit.
    """

    noise: float = 0.025
    bias: float = 0.12
    gain: float = 8.0


@dataclass(frozen=True)
class Scan:
    """One simulated acquisition: three images on one grid.

    Attributes
    ----------
    image : nibabel.Nifti1Image
        int16 T1w head.
    brain, altered : nibabel.Nifti1Image
        uint8 truth: the brain, and the voxels that were turned CSF-like (empty in controls).
    """

    image: nib.Nifti1Image
    brain: nib.Nifti1Image
    altered: nib.Nifti1Image


def head_model(
    template: nib.Nifti1Image,
    label_map: np.ndarray,
    labels: Sequence[int],
    *,
    effect: float,
    voxel_mm: float,
) -> HeadModel:
    """Build the head from which scans of ``voxel_mm`` are made.

    Parameters
    ----------
    template : nibabel.Nifti1Image
        Skull-stripped T1w brain, RAS+ at 1 mm.
    label_map : numpy.ndarray
        Integer atlas labels on the template's grid.
    labels : sequence of int
        The regions that a patient loses tissue from.
    effect : float
        Share of each region's volume that is turned CSF-like, outer shell first (0 to 1).
    voxel_mm : float
        Voxel of the scans to come; the model is blurred to it (partial volume).
    """
    if not 0 <= effect <= 1:
        raise ValueError(f"effect is a share between 0 and 1, not {effect}")
    canvas = Canvas.covering(CANVAS_MM, min(2.0, voxel_mm))
    tissue = np.asanyarray(template.dataobj).astype(np.float32)
    shell = shrunk_shell(label_map, labels, effect).astype(np.float32)
    blur_mm = 0.35 * voxel_mm
    brain = _onto(canvas, tissue > 0, template.affine, blur_mm)
    tissue = _onto(canvas, tissue, template.affine, blur_mm)
    warp_canvas = Canvas.covering(CANVAS_MM, WARP_GRID_MM)
    return HeadModel(
        canvas=canvas,
        signal=_wear_skull(canvas, tissue, brain),
        brain=brain,
        altered=_onto(canvas, shell, template.affine, blur_mm),
        warp_canvas=warp_canvas,
        ventricle_pull=_ventricle_pull(canvas, tissue, brain, warp_canvas),
    )


def shrunk_shell(label_map: np.ndarray, labels: Sequence[int], effect: float) -> np.ndarray:
    """Return the outer ``effect`` share of every region's voxels (bool, the map's shape).

    Each label is shrunk by itself, so that left and right lose the same share.
    """
    shell = np.zeros(label_map.shape, bool)
    for label in labels:
        region = label_map == label
        bounds = ndimage.find_objects(region.astype(np.uint8))[0]
        box = tuple(slice(max(b.start - 1, 0), b.stop + 1) for b in bounds)
        depth = ndimage.distance_transform_edt(region[box])
        # The smoothing orders voxels of equal distance: corners go before faces.
        depth = (depth + ndimage.gaussian_filter(depth, 1.0) * 0.1)[region[box]]
        outermost = np.argsort(depth, kind="stable")[: round(effect * depth.size)]
        lost = np.zeros(depth.size, bool)
        lost[outermost] = True
        shell[box][region[box]] = lost
    return shell


def person_seed(seed: int, index: int) -> np.random.SeedSequence:
    """Seed of person ``index``: equal to ``SeedSequence(seed).spawn(n)[index]`` for any n."""
    return np.random.SeedSequence(seed, spawn_key=(index,))


def stream(person: np.random.SeedSequence, *key: int) -> np.random.Generator:
    """Return a generator for one purpose of one person.

    The key, not the order of calls, settles its numbers; `simulate` uses keys that begin with
    0, 1 and 2.
    """
    return np.random.default_rng(
        np.random.SeedSequence(person.entropy, spawn_key=(*person.spawn_key, *key))
    )


def displacement(model: HeadModel, rng: np.random.Generator, age: float) -> np.ndarray:
    """Displacement (3, x, y, z) in mm on the model's warp grid: template point = p + d(p).

    The ventricles widen with age (about 1 mm of wall per 20 years); everything else is chance.
    """
    axes = model.warp_canvas.axes_mm()
    field = sum(smooth_field(rng, axes, *scale, channels=3) for scale in WARP_SCALES_MM)
    return field + model.ventricle_pull * np.clip((age - MEAN_AGE) / 20.0, -1.0, 1.0)


def smooth_field(
    rng: np.random.Generator,
    axes_mm: Sequence[np.ndarray],
    spacing_mm: float,
    sd: float,
    limit: float,
    *,
    channels: int = 1,
) -> np.ndarray:
    """Random cubic B-spline field, (channels, x, y, z).

    Parameters
    ----------
    axes_mm : sequence of numpy.ndarray
        World coordinates along each axis.
    spacing_mm : float
        Distance of the control points.
    sd, limit : float
        Standard deviation of the coefficients, and the bound they are clipped to.
    """
    bases = [_spline_basis(axis, spacing_mm) for axis in axes_mm]
    counts = [basis.shape[1] for basis in bases]
    control = rng.normal(0.0, sd, (channels, *counts)).clip(-limit, limit)
    return np.einsum("cijk,xi,yj,zk->cxyz", control, *bases, optimize=True).astype(np.float32)


def simulate(
    model: HeadModel,
    person: np.random.SeedSequence,
    *,
    patient: bool,
    age: float,
    voxel_mm: float,
    session: int = 1,
    scanner: Scanner | None = None,
    axcodes: str = "RAS",
    contrast: str = "T1w",
    lesions: np.ndarray | None = None,
) -> Scan:
    """Simulate one scan of one person.

    Parameters
    ----------
    model : HeadModel
        From `head_model`, for the same ``voxel_mm``.
    person : numpy.random.SeedSequence
        From `person_seed`; settles anatomy and, with ``session``, the acquisition.
    patient : bool
        Whether the model's altered voxels are turned CSF-like.
    age : float
        Years; widens the ventricles, in patients and controls alike.
    voxel_mm : float
        Edge of the cubic voxel.
    session : int
        Another session shows the same anatomy in another position, field and noise.
    scanner : Scanner, optional
        Site effects.
    axcodes : str
        Storage orientation, such as "LPS"; world coordinates do not depend on it.
    contrast : {"T1w", "FLAIR"}
        Which contrast is acquired.
    lesions : numpy.ndarray, optional
        Share of each voxel of the model's canvas (0 to 1) that is a lesion of this person; in the
        place of ``altered``.

    Returns
    -------
    Scan
    """
    shape, warp, acquisition = (stream(person, *key) for key in ((0,), (1,), (2, session)))
    canvas = Canvas.covering(SCANNER_MM, voxel_mm)
    to_head = head_shape(shape) @ np.linalg.inv(pose(acquisition))
    points = move(to_head, canvas.points_mm())
    points += sample(displacement(model, warp, age), model.warp_canvas, points)
    signal = sample(model.signal, model.canvas, points)
    altered = np.zeros_like(signal)
    if patient:
        altered = sample(model.altered, model.canvas, points)
        signal += altered * (CSF - signal)
    signal = np.interp(signal, *CONTRASTS[contrast]).astype(np.float32)
    if lesions is not None:
        altered = sample(lesions.astype(np.float32), model.canvas, points)
        signal += altered * (LESION[contrast] - signal)
    image = _acquire(signal, canvas, acquisition, scanner or Scanner())
    brain = sample(model.brain, model.canvas, points) >= 0.5
    return Scan(
        *(
            stored(data, canvas.affine, axcodes)
            for data in (image, brain.astype(np.uint8), _most_altered(altered).astype(np.uint8))
        )
    )


# T1w signal -> signal of the contrast: FLAIR darkens CSF and swaps grey and white matter.
CONTRASTS = {
    "T1w": ((0.0, 200.0), (0.0, 200.0)),
    "FLAIR": ((AIR, BONE, CSF, MUSCLE, 70.0, 90.0, FAT), (0.0, 5.0, 15.0, 55.0, 95.0, 75.0, 95.0)),
}

LESION = {"T1w": 68.0, "FLAIR": 125.0}  # signal of a white matter lesion in each contrast


def _onto(canvas: Canvas, volume: np.ndarray, affine: np.ndarray, blur_mm: float) -> np.ndarray:
    """Blur a template volume (SD in mm) and sample it on the canvas, zero outside."""
    sigma = blur_mm / nib.affines.voxel_sizes(affine)
    volume = ndimage.gaussian_filter(volume.astype(np.float32), sigma, truncate=2.5)
    to_volume = np.linalg.inv(affine) @ canvas.affine
    return ndimage.affine_transform(
        volume, to_volume[:3, :3], to_volume[:3, 3], canvas.shape, order=1
    )


def _wear_skull(canvas: Canvas, tissue: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Put cerebrospinal fluid, skull, scalp, face and neck around the brain."""
    voxel = canvas.voxel_mm
    hull = (ndimage.gaussian_filter(brain, 5.0 / voxel) > 0.4) | (brain > 0.5)
    distance = ndimage.distance_transform_edt(~hull, sampling=voxel).astype(np.float32)
    head = distance < SCALP_MM
    for ellipsoid in (FACE, NECK):
        head |= _inside(canvas, *ellipsoid)
    depth = ndimage.distance_transform_edt(head, sampling=voxel)
    signal = np.where(depth <= SKIN_MM, FAT, _muscle(canvas)).astype(np.float32)
    for part, value in ((EYES, CSF), (AIRWAYS, AIR)):
        for ellipsoid in part:
            signal[_inside(canvas, *ellipsoid)] = value
    signal[~head] = AIR
    signal = np.where(distance < SKULL_MM, np.interp(distance, SHELL_MM, SHELL_SIGNAL), signal)
    signal = ndimage.gaussian_filter(signal.astype(np.float32), 1.0 / voxel)
    # Tissue already carries its share of each voxel: it was blurred together with its edge.
    return tissue + (1.0 - brain) * signal


def _muscle(canvas: Canvas) -> np.ndarray:
    """Streaks of muscle, fat and air cells; one fixed pattern, people differ by their warp."""
    rng = np.random.default_rng(0)
    return MUSCLE + smooth_field(rng, canvas.axes_mm(), 7.0, 50.0, 150.0)[0].clip(-30.0, 40.0)


def _inside(canvas: Canvas, centre_mm: Sequence[float], radii_mm: Sequence[float]) -> np.ndarray:
    squared = [
        ((axis - c) / r) ** 2
        for axis, c, r in zip(canvas.axes_mm(), centre_mm, radii_mm, strict=True)
    ]
    return np.add.outer(np.add.outer(squared[0], squared[1]), squared[2]) < 1.0


def _ventricle_pull(
    canvas: Canvas, tissue: np.ndarray, brain: np.ndarray, warp_canvas: Canvas
) -> np.ndarray:
    """Displacement towards the ventricles, at most 1 mm long, on the warp grid.

    Points beside a ventricle then show what lies inside it: the ventricle widens.
    """
    inner = ndimage.distance_transform_edt(brain > 0.5, sampling=canvas.voxel_mm) > 25.0
    fluid = (inner & (tissue < 55.0)).astype(np.float32)
    smooth = ndimage.gaussian_filter(fluid, 6.0 / canvas.voxel_mm)
    uphill = np.stack(np.gradient(smooth))
    pull = uphill / np.linalg.norm(uphill, axis=0).max()
    return sample(pull, canvas, warp_canvas.points_mm())


def move(matrix: np.ndarray, points_mm: np.ndarray) -> np.ndarray:
    """Apply a (4, 4) matrix to points (3, x, y, z)."""
    moved = np.einsum("ab,bxyz->axyz", matrix[:3, :3], points_mm)
    return (moved + matrix[:3, 3].reshape(3, 1, 1, 1)).astype(np.float32)


def pose(rng: np.random.Generator) -> np.ndarray:
    """Position of a head in the scanner: up to 8 degrees and 6 mm, (4, 4)."""
    pitch, roll, yaw = np.deg2rad(rng.uniform(-8.0, 8.0, 3))
    rotation = nib.eulerangles.euler2mat(yaw, roll, pitch)
    return nib.affines.from_matvec(rotation, rng.uniform(-6.0, 6.0, 3))


def head_shape(rng: np.random.Generator) -> np.ndarray:
    """Size, proportions and a little shear of one head, (4, 4), scanner to template."""
    matrix = np.diag(HEAD_TO_TEMPLATE * rng.normal(1.0, 0.03) * rng.normal(1.0, 0.02, 3))
    matrix += np.triu(rng.normal(0.0, 0.015, (3, 3)), 1)
    return nib.affines.from_matvec(matrix)


def sample(volume: np.ndarray, canvas: Canvas, points_mm: np.ndarray) -> np.ndarray:
    """Linear interpolation at world points (3, ...); leading channels are kept; 0 outside."""
    voxels = (points_mm - canvas.origin_mm.reshape(3, 1, 1, 1)) / canvas.voxel_mm
    voxels = voxels.astype(np.float32)
    if volume.ndim == 3:
        return ndimage.map_coordinates(volume, voxels, np.float32, order=1)
    return np.stack([ndimage.map_coordinates(v, voxels, np.float32, order=1) for v in volume])


def _acquire(
    signal: np.ndarray, canvas: Canvas, rng: np.random.Generator, scanner: Scanner
) -> np.ndarray:
    """Receive field, Rician noise and gain; int16."""
    field = smooth_field(rng, canvas.axes_mm(), 90.0, 3.0 * scanner.bias, 9.0 * scanner.bias)[0]
    noise = rng.normal(0.0, 90.0 * scanner.noise, (2, *signal.shape)).astype(np.float32)
    magnitude = np.hypot(signal * np.exp(field) + noise[0], noise[1])
    gain = scanner.gain * rng.uniform(0.9, 1.1)
    return np.round(magnitude * gain).astype(np.int16)


def _most_altered(altered: np.ndarray) -> np.ndarray:
    """Pick the voxels turned the most, as many as make up the altered volume.

    A threshold of one half would lose thin shells, which fill no voxel by half.
    """
    count = round(float(altered.sum()))
    mask = np.zeros(altered.size, bool)
    mask[np.argsort(-altered, axis=None, kind="stable")[:count]] = True
    return mask.reshape(altered.shape)


def stored(data: np.ndarray, affine: np.ndarray, axcodes: str) -> nib.Nifti1Image:
    """NIfTI image of RAS+ data with its axes flipped or swapped to ``axcodes``."""
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    change = ornt_transform(io_orientation(affine), axcodes2ornt(axcodes))
    image = image.as_reoriented(change)
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    return image


def _spline_basis(axis_mm: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Cubic B-spline values, (points, control points); the controls cover the axis and one more."""
    position = (axis_mm - axis_mm[0]) / spacing_mm + 1.0
    t = np.abs(position[:, None] - np.arange(int(np.ceil(position[-1])) + 2))
    return np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6)
