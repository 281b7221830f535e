"""FP-CIT SPECT with known truth: heads, and patients whose striatal and insular loss we made.

Every scan is one placing of a template's anatomy, filled with a person's own uptake, blurred as
by a collimator and counted as by a camera. All randomness comes from the person's own seed and
none of it depends on the group: a patient with ``loss=0`` is a control.

Space: the template's world, RAS+ in mm, unless a name says otherwise. Uptake: relative to brain
tissue without specific binding, which is 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage

from models.phantom import SCANNER_MM, Canvas, head_shape, move, pose, sample, stored, stream
from models.smoothing import FWHM_PER_SIGMA
from models.uptake import FLUID, SIDES, STRUCTURES, Anatomy

# Specific binding of healthy people, and how much people differ (SD of the logarithm).
BINDING = {"caudate": 2.7, "putamen": 3.0, "pallidum": 1.5}
PEOPLE_SD, SIDES_SD, NUCLEI_SD = 0.12, 0.03, 0.04
# Uptake of the rest: binding to serotonin transporters, above all.
EXTRASTRIATAL = {"Thalamus": 0.5, "Amygdala": 0.45, "Insula": 0.6, "stem": 0.35}
EXTRASTRIATAL_SD = 0.10
# Of the loss in the putamen of the affected side; the putamen goes before the caudate.
PUTAMEN_OTHER_SIDE, CAUDATE, LOSS_SD = 0.75, 0.55, 0.08
# The insula loses this share of what the putamen of the affected side does: few enough that its
# signal alone does not give everybody away.
INSULA = 0.3
GREY, WHITE = 1.05, 0.90
SCALP, SCALP_MM = 0.3, (6.0, 12.0)
COLLIMATOR_MM, FILTER_MM = 8.0, 5.0  # FWHM; together a camera's resolution
COUNTS = 60.0  # of a voxel of 64 mm^3 with uptake 1


@dataclass(frozen=True)
class UptakeScan:
    """One simulated acquisition and what is true of it.

    Attributes
    ----------
    image : nibabel.Nifti1Image
        float32 counts.
    ratios : dict of str to float
        True specific binding: ``caudate_L`` and so on.
    insula : float
        True specific uptake of the insula.
    """

    image: nib.Nifti1Image
    ratios: dict[str, float]
    insula: float


def person_binding(
    person: np.random.SeedSequence, *, patient: bool, side: str, loss: float
) -> tuple[dict[str, float], dict[str, float]]:
    """True specific binding of one person.

    Parameters
    ----------
    person : numpy.random.SeedSequence
    patient : bool
    side : {"L", "R"}
        Side of the brain that is more affected; of patients only.
    loss : float
        Share (0 to 1) that the putamen of that side has lost.

    Returns
    -------
    nuclei : dict of str to float
        ``caudate_L``, ``putamen_R``, ``pallidum_L`` and so on.
    rest : dict of str to float
        Regions of :data:`EXTRASTRIATAL`.
    """
    rng = stream(person, 10)
    own = np.exp(rng.normal(0, PEOPLE_SD))
    halves = dict(zip(SIDES, np.exp(rng.normal(0, SIDES_SD, 2)), strict=True))
    nuclei = {
        f"{name}_{half}": level * own * halves[half] * np.exp(rng.normal(0, NUCLEI_SD))
        for name, level in BINDING.items()
        for half in SIDES
    }
    rest = {
        name: level * np.exp(rng.normal(0, EXTRASTRIATAL_SD))
        for name, level in EXTRASTRIATAL.items()
    }
    factor = np.exp(rng.normal(0, LOSS_SD))
    if patient:
        lost = min(loss * factor, 1.0)
        for name in nuclei:
            structure, half = name.split("_")
            share = lost * (1.0 if half == side else PUTAMEN_OTHER_SIDE)
            nuclei[name] *= 1 - share * (CAUDATE if structure == "caudate" else 1.0)
        rest["Insula"] *= 1 - lost * INSULA
    return nuclei, rest


def uptake_map(
    anatomy: Anatomy, nuclei: Mapping[str, float], rest: Mapping[str, float]
) -> np.ndarray:
    """Uptake on the template's grid, unblurred; 0 outside the brain and scalp."""
    white = np.percentile(anatomy.tissue[anatomy.brain], 75)
    uptake = np.where(anatomy.tissue > 0.93 * white, WHITE, GREY).astype(np.float32)
    uptake[anatomy.ventricles] = FLUID
    for name, level in rest.items():
        uptake[anatomy.stem if name == "stem" else anatomy.region(name)] = 1 + level
    for name, level in nuclei.items():
        structure, half = name.split("_")
        uptake[anatomy.region(structure.capitalize(), side=half)] = 1 + level
    outside = ndimage.distance_transform_edt(~anatomy.brain, sampling=anatomy.voxel_mm)
    scalp = (SCALP_MM[0] <= outside) & (outside <= SCALP_MM[1])
    uptake[~anatomy.brain] = 0
    uptake[scalp] = SCALP
    return uptake


def simulate_uptake(
    anatomy: Anatomy,
    person: np.random.SeedSequence,
    *,
    patient: bool,
    side: str,
    loss: float,
    voxel_mm: float,
    session: int = 1,
    gain: float = 1.0,
    axcodes: str = "RAS",
) -> UptakeScan:
    """Simulate one scan of one person.

    Parameters
    ----------
    anatomy : Anatomy
        The template that all heads are shaped from.
    person : numpy.random.SeedSequence
        From `models.phantom.person_seed`; settles the head and, with ``session``, the scan.
    patient, side, loss
        See `person_binding`.
    voxel_mm : float
        Edge of the cubic voxel of the scan.
    session : int
        Another session shows the same head in another position with other counts.
    gain : float
        Counts relative to the usual: activity and duration.
    axcodes : str
        Storage orientation, such as "LPS"; world coordinates do not depend on it.
    """
    nuclei, rest = person_binding(person, patient=patient, side=side, loss=loss)
    acquisition = stream(person, 11, session)
    canvas = Canvas.covering(SCANNER_MM, voxel_mm)
    to_template = head_shape(stream(person, 12)) @ np.linalg.inv(pose(acquisition))
    own = Canvas(anatomy.tissue.shape, anatomy.voxel_mm, anatomy.affine[:3, 3])
    blurred = _blurred(uptake_map(anatomy, nuclei, rest), COLLIMATOR_MM, anatomy.voxel_mm)
    uptake = sample(blurred, own, move(to_template, canvas.points_mm()))
    expected = uptake * COUNTS * gain * (voxel_mm / 4.0) ** 3
    counts = acquisition.poisson(np.clip(expected, 0, None)).astype(np.float32)
    image = stored(_blurred(counts, FILTER_MM, voxel_mm), canvas.affine, axcodes)
    ratios = {name: float(nuclei[name]) for name in nuclei if name.split("_")[0] in STRUCTURES}
    return UptakeScan(image, ratios, float(rest["Insula"]))


def _blurred(volume: np.ndarray, fwhm_mm: float, voxel_mm: float) -> np.ndarray:
    return ndimage.gaussian_filter(volume, fwhm_mm / FWHM_PER_SIGMA / voxel_mm).astype(np.float32)
