"""Synthetic lesions: in white matter, near the ventricles, mostly behind, of a known volume."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from models.lesion_phantom import BEHIND_MM, FLUID, draw_lesions, lesion_density, lesion_share
from models.phantom import head_model, person_seed, simulate, stream
from pipelines.atlases import template


@pytest.fixture(scope="module")
def model():
    brain = nib.Nifti1Image.from_filename(template())
    nothing = np.zeros(brain.shape, np.int16)
    return head_model(brain, nothing, [], effect=0.0, voxel_mm=4.0)


@pytest.fixture(scope="module")
def density(model):
    return lesion_density(model)


def test_the_density_is_behind_and_near_the_ventricles_in_white_matter(model, density):
    assert density.sum() == pytest.approx(1)
    there = density > 0
    assert (model.brain[there] > 0.9).all()
    assert (model.signal[there] > 80).all()
    x, y, _ = model.canvas.points_mm()
    assert density[y < BEHIND_MM].sum() > 0.6
    assert density[x < 0].sum() == pytest.approx(0.5, abs=0.1)  # no side is preferred
    deep = ndimage.distance_transform_edt(model.brain > 0.5, sampling=model.canvas.voxel_mm)
    fluid = ndimage.binary_opening((deep > 25) & (model.signal < FLUID))
    distance = ndimage.distance_transform_edt(~fluid, sampling=model.canvas.voxel_mm)
    assert (density * distance).sum() < distance[there].mean()


def test_lesions_have_the_volume_that_was_asked_for(model, density):
    assert draw_lesions(density, model.canvas, np.random.default_rng(0), 0.0) == []
    rng = np.random.default_rng(1)
    lesions = draw_lesions(density, model.canvas, rng, 8.0)
    total = sum(one.volume_ml for one in lesions)
    assert 8.0 <= total < 8.0 + 4 / 3 * np.pi * 5.5**3 / 1000
    share = lesion_share(model, lesions)
    # Lesions overlap, and what reaches into fluid is cut off.
    volume_ml = share.sum() * model.canvas.voxel_mm**3 / 1000
    assert 0.5 * total < volume_ml <= 1.05 * total
    assert not lesion_share(model, []).any()


@pytest.mark.parametrize(("contrast", "sign"), [("FLAIR", 1), ("T1w", -1)])
def test_lesions_are_bright_in_flair_and_dark_in_t1w(model, density, contrast, sign):
    lesions = draw_lesions(density, model.canvas, stream(person_seed(0, 0), 5), 15.0)
    share = lesion_share(model, lesions)
    given = {"patient": False, "age": 42.0, "voxel_mm": 4.0, "contrast": contrast}
    ill = simulate(model, person_seed(0, 0), lesions=share, **given)
    well = simulate(model, person_seed(0, 0), **given)
    inside = ill.altered.get_fdata() > 0
    difference = ill.image.get_fdata() - well.image.get_fdata()
    assert sign * difference[inside].mean() > 0
    far = ~ndimage.binary_dilation(inside, iterations=2)
    assert np.abs(difference[far]).mean() < 1e-3 * np.abs(difference[inside]).mean()
    assert not well.altered.get_fdata().any()
