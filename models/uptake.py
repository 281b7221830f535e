"""Uptake of a dopamine transporter tracer: template, reference region, specific binding.

Space: RAS+ in mm. Volumes are (x, y, z) on one axis-aligned grid with its voxel-to-world
``affine``; the uptake of a registered image is relative to its reference region, which then is 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from models.errors import InputError
from models.smoothing import smooth

STRUCTURES = ("caudate", "putamen")
REFERENCES = ("brain", "occipital")
SIDES = ("L", "R")
MARGIN_MM = 8.0  # how far a generous volume of interest reaches beyond its nucleus
SPILL_MM = 8.0  # how far the signal of the striata blurs into the reference region
TEMPLATE_FWHM_MM = 9.0

# Uptake of a healthy person per region, the rest of the brain being 1. They lie in the range of
# what is published; a registration by mutual information needs the order, not the values.
HEALTHY = {
    "Caudate": 3.6,
    "Putamen": 4.0,
    "Pallidum": 2.6,
    "Thalamus": 1.5,
    "Amygdala": 1.4,
    "Insula": 1.3,
}
STEM, FLUID = 1.3, 0.5

# Brain stem in MNI space: what no atlas label covers, within this box (mm).
STEM_MM = ((-20.0, 20.0), (-46.0, -6.0), (-80.0, -6.0))
DEEP_MM = 20.0  # ventricles lie so far below the surface of the brain
DARK = 0.6  # and are darker than this share of white matter on T1w


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Where the striata, the reference region and the rest of a template lie.

    Parameters
    ----------
    tissue : numpy.ndarray
        T1w template brain, (x, y, z), zero outside.
    labels : numpy.ndarray
        int, atlas labels on the same grid, 0 outside every region.
    index : mapping of str to int
        Label of each region; the two halves end in ``_L`` and ``_R``.
    affine : numpy.ndarray
        (4, 4), voxel to RAS+ mm; axis-aligned, cubic voxels.
    """

    tissue: np.ndarray
    labels: np.ndarray
    index: Mapping[str, int]
    affine: np.ndarray

    @property
    def voxel_mm(self) -> float:
        """Edge of the cubic voxel."""
        return float(self.affine[0, 0])

    @property
    def brain(self) -> np.ndarray:
        """The template's brain with its fluid, bool."""
        return self.tissue > 0

    def region(self, *names: str, side: str = "") -> np.ndarray:
        """Voxels of regions whose names begin so, bool; both halves without ``side``."""
        wanted = [
            number
            for region, number in self.index.items()
            if region.startswith(names) and region.endswith(f"_{side}" if side else "")
        ]
        if not wanted:
            raise InputError(f"the atlas has no region {' or '.join(names)}: use AAL")
        return np.isin(self.labels, wanted)

    @cached_property
    def stem(self) -> np.ndarray:
        """Brain stem, bool."""
        points = _axes_mm(self.affine, self.tissue.shape)
        box = [
            (low <= axis) & (axis <= high)
            for axis, (low, high) in zip(points, STEM_MM, strict=True)
        ]
        inside = np.zeros(self.tissue.shape, bool)
        inside[np.ix_(*box)] = True
        return self.brain & (self.labels == 0) & inside

    @cached_property
    def ventricles(self) -> np.ndarray:
        """Fluid deep inside the brain, bool."""
        deep = ndimage.distance_transform_edt(self.brain, sampling=self.voxel_mm) > DEEP_MM
        white = np.percentile(self.tissue[self.brain], 90)
        return deep & (self.tissue < DARK * white)

    def reference(self, name: str = "brain") -> np.ndarray:
        """Region whose uptake counts as not specific, bool: one of :data:`REFERENCES`.

        Raises
        ------
        InputError
            There is no such region.
        """
        if name not in REFERENCES:
            raise InputError(f"no reference region '{name}': choose {' or '.join(REFERENCES)}")
        return self.whole_reference if name == "brain" else self.occipital

    @cached_property
    def occipital(self) -> np.ndarray:
        """Occipital cortex of both sides, bool: the usual reference of quantification."""
        return self.region("Occipital", "Calcarine", "Cuneus", "Lingual") & self.brain

    @cached_property
    def whole_reference(self) -> np.ndarray:
        """Whole brain without striata, thalamus, brain stem and ventricles, bool.

        Nazari et al. 2021; voxels that the signal of the striata blurs into are left out, too.
        """
        striata = self.region("Caudate", "Putamen", "Pallidum")
        hot = ndimage.distance_transform_edt(~striata, sampling=self.voxel_mm) <= SPILL_MM
        fluid = ndimage.binary_dilation(self.ventricles)
        return self.brain & ~hot & ~fluid & ~self.stem & ~self.region("Thalamus")

    @cached_property
    def volumes_of_interest(self) -> dict[str, np.ndarray]:
        """Generous volume per nucleus, ``putamen_L`` and so on, bool.

        A voxel within 8 mm of a nucleus belongs to the nearest one, so that the four are apart;
        the pallidum counts as putamen, which it cannot be told from.
        """
        nuclei = {"caudate": ("Caudate",), "putamen": ("Putamen", "Pallidum")}
        names = [f"{structure}_{side}" for structure in STRUCTURES for side in SIDES]
        away = np.stack(
            [
                ndimage.distance_transform_edt(
                    ~self.region(*nuclei[structure], side=side), sampling=self.voxel_mm
                )
                for structure in STRUCTURES
                for side in SIDES
            ]
        )
        nearest, near = away.argmin(axis=0), away.min(axis=0) <= MARGIN_MM
        return {name: near & (nearest == i) for i, name in enumerate(names)}


def healthy_uptake(anatomy: Anatomy) -> np.ndarray:
    """Uptake of a healthy person as the atlas draws it, unblurred; 0 outside the brain."""
    uptake = anatomy.brain.astype(np.float32)
    uptake[anatomy.ventricles] = FLUID
    uptake[anatomy.stem] = STEM
    for region, level in HEALTHY.items():
        uptake[anatomy.region(region)] = level
    return uptake


def uptake_template(anatomy: Anatomy, fwhm_mm: float = TEMPLATE_FWHM_MM) -> np.ndarray:
    """Template of FP-CIT SPECT: the healthy uptake at a camera's resolution, left like right.

    Parameters
    ----------
    anatomy : Anatomy
    fwhm_mm : float
        Resolution in mm.
    """
    blurred = smooth(healthy_uptake(anatomy), anatomy.affine, fwhm_mm)
    return (blurred + mirrored(blurred, anatomy.affine)) / 2


def mirrored(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The volume with left and right exchanged at x = 0, on the same grid; 0 from outside.

    On a grid that is symmetric about x = 0 the voxels are reversed, exactly.
    """
    first, step = float(affine[0, 3]), float(affine[0, 0])
    # Voxel i lies at first + i step; its mirror image at -first - i step, voxel turn - i.
    turn = -2 * first / step
    if abs(turn - (len(volume) - 1)) < 1e-6:
        return volume[::-1].copy()
    flip = np.diag([-1.0, 1.0, 1.0])
    return ndimage.affine_transform(volume, flip, [turn, 0, 0], order=1, mode="grid-constant")


def reference_uptake(volume: np.ndarray, reference: np.ndarray, percentile: float = 75.0) -> float:
    """Uptake of the reference region: its 75th percentile (Nazari et al. 2021).

    Raises
    ------
    InputError
        It is not above zero.
    """
    values = volume[reference & np.isfinite(volume)]
    found = float(np.percentile(values, percentile)) if values.size else 0.0
    if found <= 0:
        raise InputError(
            "the reference region shows no uptake: the brain is outside the field of view, or "
            "the registration failed; look at the image"
        )
    return found


def hottest_mean(volume: np.ndarray, inside: np.ndarray, ml: float, voxel_mm: float) -> float:
    """Mean of the hottest ``ml`` millilitres of a volume of interest.

    Raises
    ------
    InputError
        The volume of interest is smaller than that.
    """
    count = max(1, round(1000 * ml / voxel_mm**3))
    values = volume[inside]
    if len(values) < count:
        raise InputError(
            f"a volume of interest of {len(values) * voxel_mm**3 / 1000:.1f} ml has no hottest "
            f"{ml:g} ml: choose less"
        )
    return float(np.partition(values, len(values) - count)[len(values) - count :].mean())


@dataclass(frozen=True)
class Binding:
    """Specific binding ratios of the four nuclei.

    Parameters
    ----------
    ratios : mapping of str to float
        ``caudate_L``, ``caudate_R``, ``putamen_L``, ``putamen_R``: hottest voxels over the
        reference region, less 1.
    """

    ratios: Mapping[str, float]

    @property
    def lower_side(self) -> str:
        """L or R: where the putamen binds less; L where both are equal."""
        return "R" if self.ratios["putamen_R"] < self.ratios["putamen_L"] else "L"

    def ipsilateral(self, structure: str) -> float:
        """Ratio on the side of the lower putamen."""
        return self.ratios[f"{structure}_{self.lower_side}"]

    def contralateral(self, structure: str) -> float:
        """Ratio on the other side."""
        return self.ratios[f"{structure}_{'R' if self.lower_side == 'L' else 'L'}"]

    def asymmetry(self, structure: str) -> float:
        """(right - left) over their mean, in percent: positive where the left binds less."""
        left, right = (self.ratios[f"{structure}_{side}"] for side in SIDES)
        mean = (left + right) / 2
        return 100 * (right - left) / mean if mean > 0 else np.nan

    def caudate_to_putamen(self, side: str) -> float:
        """Caudate over putamen; NaN where the putamen binds nothing."""
        putamen = self.ratios[f"putamen_{side}"]
        return self.ratios[f"caudate_{side}"] / putamen if putamen > 0 else np.nan


def binding(volume: np.ndarray, anatomy: Anatomy, ml: Mapping[str, float]) -> Binding:
    """Specific binding by hottest-voxels analysis.

    Parameters
    ----------
    volume : numpy.ndarray
        Registered uptake over that of the reference region.
    anatomy : Anatomy
        On the same grid.
    ml : mapping of str to float
        Millilitres that count of each structure and side.
    """
    return Binding(
        {
            name: hottest_mean(volume, inside, ml[name.split("_")[0]], anatomy.voxel_mm) - 1
            for name, inside in anatomy.volumes_of_interest.items()
        }
    )


def striatal_shift_mm(volume: np.ndarray, anatomy: Anatomy, ml: float = 25.0) -> float:
    """How far the hottest voxels of the brain lie from where the template has its striata.

    Distance in mm of the centre of the brain's hottest ``ml`` from the centre of the striata; a
    registration that failed puts something else there.
    """
    count = max(1, round(1000 * ml / anatomy.voxel_mm**3))
    inside = np.flatnonzero(anatomy.brain)
    order = np.argpartition(volume.ravel()[inside], len(inside) - count)[-count:]
    hottest = np.stack(np.unravel_index(inside[order], volume.shape)).mean(axis=1)
    striata = np.argwhere(anatomy.region("Caudate", "Putamen")).mean(axis=0)
    return float(np.linalg.norm(hottest - striata) * anatomy.voxel_mm)


def _axes_mm(affine: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    return [affine[i, 3] + affine[i, i] * np.arange(size) for i, size in enumerate(shape)]
