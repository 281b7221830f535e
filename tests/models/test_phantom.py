"""Phantoms: the change is where it is said to be, and nothing else depends on the group."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from models.phantom import (
    HEAD_TO_TEMPLATE,
    WARP_SCALES_MM,
    Scanner,
    displacement,
    head_model,
    person_seed,
    shrunk_shell,
    simulate,
    smooth_field,
    stream,
)
from pipelines.atlases import atlas, on_grid, template

VOXEL_MM = 4.0
LEFT, RIGHT = (4101, 4201), (4102, 4202)  # AAL: hippocampus, amygdala
SILENT = Scanner(noise=0.0, bias=0.0)


@pytest.fixture(scope="module")
def brain():
    return nib.Nifti1Image.from_filename(template())


@pytest.fixture(scope="module")
def label_map(brain):
    return on_grid(atlas("AAL"), brain.affine, brain.shape)


@pytest.fixture(scope="module")
def model(brain, label_map):
    return head_model(brain, label_map, LEFT + RIGHT, effect=0.6, voxel_mm=VOXEL_MM)


def scan(model, index=0, *, patient=True, age=72, **options):
    return simulate(
        model, person_seed(0, index), patient=patient, age=age, voxel_mm=VOXEL_MM, **options
    )


def data(image):
    return np.asanyarray(nib.as_closest_canonical(image).dataobj).astype(float)


def centroid_x_mm(image):
    voxels = np.argwhere(np.asanyarray(image.dataobj))
    return nib.affines.apply_affine(image.affine, voxels).mean(0)[0]


@pytest.mark.parametrize("effect", [0.0, 0.3, 1.0])
def test_shell_is_the_outer_share_of_each_region(effect):
    ball = np.linalg.norm(np.indices((21, 21, 21)) - 10, axis=0) <= 8
    labels = np.zeros((21, 21, 50), int)
    labels[:, :, :21][ball] = 1
    labels[5:15, 5:15, 30:40] = 2
    shell = shrunk_shell(labels, (1, 2), effect)
    assert not shell[labels == 0].any()
    for label in (1, 2):
        region = labels == label
        assert shell[region].sum() == round(effect * region.sum())
        if 0 < effect < 1:
            depth = ndimage.distance_transform_edt(region)
            assert depth[shell & region].max() <= depth[region & ~shell].min() + 1


def test_a_label_without_effect_list_is_left_alone():
    labels = np.ones((5, 5, 5), int)
    labels[:2] = 2
    assert not shrunk_shell(labels, (2,), 1.0)[labels == 1].any()


def test_effect_must_be_a_share(brain, label_map):
    with pytest.raises(ValueError, match="between 0 and 1"):
        head_model(brain, label_map, LEFT, effect=60, voxel_mm=VOXEL_MM)


def test_same_seed_same_scan_and_streams_match_spawn(model):
    spawned = np.random.SeedSequence(0).spawn(5)[3]
    one = simulate(model, spawned, patient=True, age=72, voxel_mm=VOXEL_MM)
    np.testing.assert_array_equal(data(one.image), data(scan(model, 3).image))
    spawned.spawn(4)  # a seed that was spawned from elsewhere still gives the same person
    again = simulate(model, spawned, patient=True, age=72, voxel_mm=VOXEL_MM)
    np.testing.assert_array_equal(data(again.image), data(one.image))


def test_people_and_sessions_differ(model):
    first, second = scan(model), scan(model, session=2)
    other = scan(model, 1)
    assert not np.array_equal(data(first.image), data(second.image))
    assert not np.array_equal(data(first.brain), data(other.brain))
    # One anatomy in another position: the brain's volume stays, to the coarse grid's rounding.
    volumes = [data(s.brain).sum() for s in (first, second, other)]
    assert volumes[1] == pytest.approx(volumes[0], rel=0.01)
    assert volumes[2] != pytest.approx(volumes[0], rel=0.01)


def test_patient_differs_from_the_same_person_as_control_only_in_the_region(model):
    patient, control = scan(model, patient=True), scan(model, patient=False)
    assert not data(control.altered).any()
    changed = data(patient.image) != data(control.image)
    near = ndimage.distance_transform_edt(data(patient.altered) == 0, sampling=VOXEL_MM) <= 12
    assert changed[near].any()
    assert not changed[~near].any()
    altered = data(patient.altered) > 0
    assert data(patient.image)[altered].mean() < 0.75 * data(control.image)[altered].mean()


def test_null_patient_is_a_control(brain, label_map):
    null = head_model(brain, label_map, LEFT + RIGHT, effect=0.0, voxel_mm=VOXEL_MM)
    patient, control = scan(null, patient=True), scan(null, patient=False)
    np.testing.assert_array_equal(data(patient.image), data(control.image))
    assert not data(patient.altered).any()


def test_altered_volume_is_the_share_of_the_region(model, label_map):
    region_ml = np.isin(label_map, LEFT + RIGHT).sum() / 1000 / HEAD_TO_TEMPLATE**3
    altered_ml = [data(scan(model, k).altered).sum() * VOXEL_MM**3 / 1000 for k in range(6)]
    assert np.mean(altered_ml) == pytest.approx(0.6 * region_ml, rel=0.12)


@pytest.mark.parametrize(("labels", "sign"), [(LEFT, -1), (RIGHT, 1)])
def test_sides_hold_in_every_storage_orientation(brain, label_map, labels, sign):
    one_sided = head_model(brain, label_map, labels, effect=1.0, voxel_mm=6.0)
    for axcodes in ("RAS", "LAS", "LPS"):
        result = simulate(
            one_sided, person_seed(0, 0), patient=True, age=72, voxel_mm=6.0, axcodes=axcodes
        )
        for image in (result.image, result.brain, result.altered):
            assert "".join(nib.aff2axcodes(image.affine)) == axcodes
        assert 15 < sign * centroid_x_mm(result.altered) < 40


def test_storage_orientation_changes_nothing_else(model):
    ras, lps = scan(model, axcodes="RAS"), scan(model, axcodes="LPS")
    np.testing.assert_array_equal(data(ras.image), data(lps.image))
    np.testing.assert_allclose(nib.as_closest_canonical(lps.image).affine, ras.image.affine)


@pytest.mark.parametrize("age", [55, 90])
def test_warp_is_invertible(model, age):
    spacing = model.warp_canvas.voxel_mm
    for index in range(10):
        field = displacement(model, stream(person_seed(1, index), 1), age)
        jacobian = np.stack([np.stack(np.gradient(part, spacing)) for part in field])
        jacobian = np.moveaxis(jacobian, (0, 1), (-2, -1)) + np.eye(3)
        assert np.linalg.det(jacobian).min() > 0.1
        assert 1.0 < np.linalg.norm(field, axis=0).mean() < 8.0


def test_warp_stays_below_the_bound_that_guarantees_invertibility():
    assert sum(limit / (spacing / 2.48) for spacing, _, limit in WARP_SCALES_MM) < 1


def test_smooth_field_has_its_scale_and_its_limit():
    axes = [np.arange(0.0, 120.0, 4.0)] * 3
    field = smooth_field(np.random.default_rng(0), axes, 20.0, 5.0, 6.0, channels=3)
    assert field.shape == (3, 30, 30, 30)
    assert np.abs(field).max() <= 6.0  # B-splines are a partition of unity
    neighbours = np.corrcoef(field[:, 1:].ravel(), field[:, :-1].ravel())[0, 1]
    assert neighbours > 0.9


@pytest.mark.parametrize("patient", [True, False])
def test_age_widens_the_ventricles(model, patient):
    def fluid(age):
        result = scan(model, age=age, patient=patient, scanner=SILENT)
        deep = ndimage.distance_transform_edt(data(result.brain), sampling=VOXEL_MM) > 22
        image = data(result.image)
        return (image[deep] < 0.75 * np.median(image[deep])).sum()

    assert fluid(90) > fluid(55) + 20  # voxels of 64 mm3


@pytest.mark.parametrize("age", [55, 90])
def test_groups_differ_in_nothing_but_the_altered_region(model, age):
    patient, control = (scan(model, age=age, patient=p, scanner=SILENT) for p in (True, False))
    elsewhere = ~ndimage.binary_dilation(data(patient.altered) > 0, iterations=3)
    difference = np.abs(data(patient.image) - data(control.image))
    assert difference[elsewhere].max() < 0.02 * data(control.image).max() < difference.max()


def test_head_has_dark_skull_and_bright_scalp_around_a_plausible_brain(model):
    result = scan(model, patient=False, scanner=SILENT)
    image, brain = data(result.image), data(result.brain) > 0
    assert 1.3 < brain.sum() * VOXEL_MM**3 / 1e6 < 2.4  # litres
    distance = ndimage.distance_transform_edt(~brain, sampling=VOXEL_MM)
    top = np.zeros(brain.shape, bool)
    top[..., int(np.argwhere(brain)[:, 2].mean()) + 5 :] = True
    skull = image[top & (distance > 4) & (distance < 8)].mean()
    scalp = image[top & (distance > 9) & (distance < 13)].mean()
    air = image[top & (distance > 25)].mean()
    tissue = np.median(image[brain])
    assert skull < 0.5 * tissue
    assert scalp > 1.3 * skull
    assert air < 0.05 * tissue


def test_scanner_sets_noise_and_gain(model):
    noisy = scan(model, scanner=Scanner(noise=0.05, gain=5.0))
    corner = data(noisy.image)[:6, :6, -6:]
    # Rician noise without signal: mean = SD * sqrt(pi / 2); the gain varies by 10 %.
    assert corner.mean() == pytest.approx(0.05 * 90 * 5 * np.sqrt(np.pi / 2), rel=0.15)


def test_flair_darkens_fluid_and_swaps_grey_and_white(model):
    t1w = data(scan(model, patient=False, scanner=SILENT).image)
    result = scan(model, patient=False, scanner=SILENT, contrast="FLAIR")
    flair, brain = data(result.image), data(result.brain) > 0
    white = brain & (t1w > np.percentile(t1w[brain], 90))
    grey = brain & (np.abs(t1w - 0.8 * np.median(t1w[white])) < 0.03 * t1w[white].mean())
    fluid = brain & (t1w < 0.4 * np.median(t1w[white]))
    assert flair[grey].mean() > flair[white].mean() > 2 * flair[fluid].mean()


def test_brain_extraction_finds_the_brain(brain, label_map, tmp_path):
    deepbet = pytest.importorskip("deepbet")
    model = head_model(brain, label_map, LEFT, effect=0.6, voxel_mm=3.0)
    result = simulate(model, person_seed(0, 0), patient=True, age=72, voxel_mm=3.0, axcodes="LAS")
    raw, found = tmp_path / "raw.nii.gz", tmp_path / "mask.nii.gz"
    result.image.to_filename(raw)
    deepbet.BrainExtraction(no_gpu=True).run(str(raw), mask_path=str(found))
    mask = np.asanyarray(nib.Nifti1Image.from_filename(found).dataobj) > 0
    truth = np.asanyarray(result.brain.dataobj) > 0
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) >= 0.93
