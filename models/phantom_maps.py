"""Diffusivity and anisotropy maps with known truth: people in template space, and focal changes.

What a person's maps look like after registration to the template: small leftovers of the
registration, smooth differences between people, noise; in patients, a few small spheres of raised
diffusivity and lowered anisotropy. All randomness comes from the person's own seed, none of it
depends on the diagnosis but the spheres.

Units: diffusivity (MD) in mm2/s, anisotropy (FA) from 0 to 1.
"""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage

from models.grids import Grid
from models.phantom import smooth_field, stream
from models.volumes import to_grid

# T1w signal of the template -> MD in 1e-3 mm2/s and FA: fluid, grey matter, white matter.
T1W = (0.0, 30.0, 45.0, 60.0, 75.0, 90.0)
MD = (3.0, 2.7, 1.7, 0.86, 0.79, 0.72)
FA = (0.04, 0.05, 0.08, 0.15, 0.28, 0.46)
FOCI, RADIUS_MM = 4, 6.0
MEAN_AGE = 62.0


@dataclass(frozen=True, eq=False)
class MapsModel:
    """The maps that all people are made from.

    Attributes
    ----------
    grid : Grid
    signal : numpy.ndarray
        T1w signal of the template, zero outside the brain.
    fibres : numpy.ndarray
        Factor of FA: the same bundles in everybody.
    region : numpy.ndarray
        bool, where the middles of changed spheres may lie.
    effect : float
        Share of FA that is lost, and MD gained in 1.5e-3 mm2/s, in the middle of a sphere.
    """

    grid: Grid
    signal: np.ndarray
    fibres: np.ndarray
    region: np.ndarray
    effect: float


@dataclass(frozen=True, eq=False)
class Maps:
    """One person: ``md`` and ``fa`` float32, and ``altered``, bool, all on the model's grid."""

    md: np.ndarray
    fa: np.ndarray
    altered: np.ndarray


def maps_model(
    template: nib.Nifti1Image, region: np.ndarray, grid: Grid, effect: float
) -> MapsModel:
    """Build the maps.

    Parameters
    ----------
    template : nibabel.Nifti1Image
        Skull-stripped T1w brain.
    region : numpy.ndarray
        bool on ``grid``.
    grid : Grid
        Of all maps.
    effect : float
        From 0 (a null dataset) to 1.
    """
    stored = np.asarray(template.dataobj, np.float32)
    signal = to_grid(stored, template.affine, grid)
    signal[to_grid((stored > 0).astype(np.float32), template.affine, grid) < 0.5] = 0
    bundles = smooth_field(np.random.default_rng(0), _axes(grid), 9.0, 0.5, 1.2)[0]
    return MapsModel(grid, signal, 1 + 0.6 * np.tanh(bundles), region & (signal > 0), effect)


def simulate_maps(
    model: MapsModel, person: np.random.SeedSequence, *, patient: bool, age: float
) -> Maps:
    """One person's maps.

    Parameters
    ----------
    person : numpy.random.SeedSequence
        From :func:`models.phantom.person_seed`.
    patient : bool
        Whether the spheres are changed.
    age : float
        Years; raises MD and lowers FA a little, in both groups alike.
    """
    axes, voxel = _axes(model.grid), model.grid.voxel_mm
    shape, noise, foci = (stream(person, key) for key in (10, 11, 12))
    shift = smooth_field(shape, axes, 24.0, 1.4, 3.5, channels=3) / voxel
    where = np.indices(model.grid.shape) + shift
    signal = ndimage.map_coordinates(model.signal, where, np.float32, order=1)
    fibres = ndimage.map_coordinates(model.fibres, where, np.float32, order=1)
    older = np.clip((age - MEAN_AGE) / 20, -1, 1)
    md = np.interp(signal, T1W, MD) * (1 + 0.03 * older + 0.04 * _slow(shape, axes))
    fa = np.interp(signal, T1W, FA) * fibres * (1 - 0.04 * older + 0.06 * _slow(shape, axes))
    spheres = _spheres(model, foci)
    if patient:
        md = md + 1.5 * model.effect * spheres
        fa = fa * (1 - model.effect * spheres)
    md += noise.normal(0, 0.03, md.shape)
    fa += noise.normal(0, 0.025, fa.shape)
    inside = signal > 20
    md, fa = (
        np.where(inside, values, 0) for values in (md.clip(0.05, 3.0) / 1000, fa.clip(0.001, 1))
    )
    altered = inside & (spheres > 0.5) & patient & (model.effect > 0)
    return Maps(md.astype(np.float32), fa.astype(np.float32), altered)


def _axes(grid: Grid) -> list[np.ndarray]:
    steps = zip(grid.origin_mm, grid.shape, strict=True)
    return [origin + grid.voxel_mm * np.arange(count) for origin, count in steps]


def _slow(rng: np.random.Generator, axes: list[np.ndarray]) -> np.ndarray:
    """A smooth difference between people, standard deviation near 1."""
    return smooth_field(rng, axes, 60.0, 1.6, 3.0)[0]


def _spheres(model: MapsModel, rng: np.random.Generator) -> np.ndarray:
    """Spheres with soft edges, 1 in their middles, at random places of the region."""
    places = np.argwhere(model.region)
    middles = places[rng.choice(len(places), FOCI, replace=False)]
    found = np.zeros(model.grid.shape)
    for middle in middles:
        offsets = np.indices(model.grid.shape) - middle.reshape(3, 1, 1, 1)
        distance = np.sqrt((offsets**2).sum(0)) * model.grid.voxel_mm
        found = np.maximum(found, np.clip((RADIUS_MM + 1.5 - distance) / 3.0, 0, 1))
    return found
