"""White matter lesions of known place and size, for the synthetic heads of `models.phantom`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from models.phantom import Canvas, HeadModel

WHITE = (80.0, 105.0)  # T1w signal of the model's white matter
FLUID = 55.0  # below, deep inside the brain: ventricles
DEEP_MM, EDGE_MM = 25.0, 8.0  # of ventricles and of lesions below the brain's surface
NEAR_MM = 6.0  # decay of the density with the distance from the ventricles
BEHIND_MM, IN_FRONT = -20.0, 0.15  # y where the posterior half begins; density before it
RADII_MM = (2.5, 5.5)
AWAY_MM = 2.0  # lesions are not cut by the wall of a ventricle
SMOOTH_MM = 1.0


@dataclass(frozen=True)
class Lesion:
    """An ellipsoid in the template's world.

    Attributes
    ----------
    centre_mm, radii_mm : tuple of float
        RAS+.
    """

    centre_mm: tuple[float, ...]
    radii_mm: tuple[float, ...]

    @property
    def volume_ml(self) -> float:
        """Of the whole ellipsoid."""
        return float(4 / 3 * np.pi * np.prod(self.radii_mm)) / 1000


def lesion_density(model: HeadModel) -> np.ndarray:
    """Chance that a lesion has its centre in each voxel of the model's canvas; sums to 1.

    In white matter, near the ventricles, and mostly behind: the preference that Eitel et al. 2019
    describe.
    """
    canvas = model.canvas
    depth = ndimage.distance_transform_edt(model.brain > 0.5, sampling=canvas.voxel_mm)
    fluid = ndimage.binary_opening((depth > DEEP_MM) & (model.signal < FLUID))
    distance = ndimage.distance_transform_edt(~fluid, sampling=canvas.voxel_mm)
    white = (model.signal > WHITE[0]) & (model.signal < WHITE[1]) & (depth > EDGE_MM)
    density = np.where(white & (distance > AWAY_MM), np.exp(-distance / NEAR_MM), 0.0)
    y = canvas.points_mm()[1]
    density = np.where(y < BEHIND_MM, density, IN_FRONT * density)
    return density / density.sum()


def draw_lesions(
    density: np.ndarray, canvas: Canvas, rng: np.random.Generator, load_ml: float
) -> list[Lesion]:
    """Lesions whose volumes add up to at least ``load_ml``; none for 0."""
    places = np.flatnonzero(density)
    chance = density.ravel()[places]
    lesions: list[Lesion] = []
    while sum(one.volume_ml for one in lesions) < load_ml:
        voxel = np.unravel_index(rng.choice(places, p=chance), density.shape)
        centre = canvas.origin_mm + canvas.voxel_mm * np.array(voxel)
        radii = rng.uniform(*RADII_MM, 3)
        lesions.append(Lesion(tuple(map(float, centre)), tuple(map(float, radii))))
    return lesions


def lesion_share(model: HeadModel, lesions: Sequence[Lesion]) -> np.ndarray:
    """Share of each voxel of the canvas that is lesion, (x, y, z) 0 to 1; within white matter."""
    canvas = model.canvas
    inside = np.zeros(canvas.shape, bool)
    points = canvas.points_mm()
    for one in lesions:
        centre, radii = (
            np.reshape(values, (3, 1, 1, 1)) for values in (one.centre_mm, one.radii_mm)
        )
        inside |= (((points - centre) / radii) ** 2).sum(axis=0) < 1
    tissue = (model.brain > 0.5) & (model.signal > FLUID)
    blur = SMOOTH_MM / canvas.voxel_mm
    return ndimage.gaussian_filter((inside & tissue).astype(np.float32), blur)
