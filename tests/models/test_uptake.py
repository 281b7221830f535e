"""Uptake: template, reference, hottest voxels, sides; and the phantom that plants the truth."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InputError
from models.phantom import person_seed
from models.uptake import (
    Anatomy,
    Binding,
    binding,
    healthy_uptake,
    hottest_mean,
    mirrored,
    reference_uptake,
    striatal_shift_mm,
    uptake_template,
)
from models.uptake_phantom import person_binding, simulate_uptake, uptake_map

ML = {"caudate": 3.0, "putamen": 4.0}
# Ellipsoids of a made-up brain: region -> (centre, radii) of the left half, in mm.
NUCLEI = {
    "Caudate": ((-14, 10, 10), (6, 12, 10)),
    "Putamen": ((-28, 4, 2), (7, 14, 10)),
    "Pallidum": ((-19, -2, 0), (4, 6, 5)),
    "Thalamus": ((-10, -18, 8), (8, 10, 8)),
    "Amygdala": ((-24, -2, -18), (7, 7, 7)),
    "Insula": ((-42, 6, 0), (3, 14, 12)),
    "Cerebelum": ((-24, -62, -40), (20, 18, 12)),
}


def ball(points, centre, radii):
    return sum(((p - c) / r) ** 2 for p, c, r in zip(points, centre, radii, strict=True)) <= 1


@pytest.fixture(scope="module")
def anatomy():
    """A symmetric brain on a grid of 4 mm that is symmetric about x = 0."""
    affine = nib.affines.from_matvec(np.eye(3) * 4, (-80, -104, -72))
    points = [axis + 4.0 * np.indices((41, 48, 40))[i] for i, axis in enumerate((-80, -104, -72))]
    tissue = np.where(ball(points, (0, -16, 0), (68, 84, 66)), 90.0, 0.0)
    tissue[ball(points, (0, -10, 16), (6, 22, 8))] = 30.0  # ventricle
    labels, index = np.zeros(tissue.shape, int), {}
    for name, ((x, y, z), radii) in NUCLEI.items():
        for side, sign in (("L", 1), ("R", -1)):
            index[f"{name}_{side}"] = len(index) + 1
            labels[ball(points, (sign * x, y, z), radii)] = index[f"{name}_{side}"]
    return Anatomy(tissue, labels, index, affine)


# --- anatomy -------------------------------------------------------------------------------------


def test_the_reference_region_leaves_the_striata_and_the_rest_out(anatomy):
    reference = anatomy.reference()
    assert reference.any()
    for one in (
        anatomy.region("Caudate", "Putamen", "Pallidum"),
        anatomy.region("Thalamus"),
        anatomy.stem,
        anatomy.ventricles,
        ~anatomy.brain,
    ):
        assert one.any()
        assert not (reference & one).any()


def test_volumes_of_interest_are_apart_on_their_sides_and_hold_their_nucleus(anatomy):
    found = anatomy.volumes_of_interest
    assert np.sum(list(found.values()), axis=0).max() == 1
    x = np.indices(anatomy.tissue.shape)[0] * 4 - 80
    for name, inside in found.items():
        structure, side = name.split("_")
        assert (anatomy.region(structure.capitalize(), side=side) & ~inside).sum() == 0
        assert (np.sign(x[inside]) != (1 if side == "L" else -1)).all()


def test_an_atlas_without_striata_is_refused(anatomy):
    with pytest.raises(InputError, match="no region Caudate"):
        Anatomy(anatomy.tissue, anatomy.labels, {"Insula_L": 1}, anatomy.affine).region("Caudate")


def test_the_template_is_symmetric_and_brightest_in_the_striata(anatomy):
    found = uptake_template(anatomy)
    np.testing.assert_allclose(found, found[::-1], atol=1e-5)
    hottest = np.unravel_index(found.argmax(), found.shape)
    assert anatomy.region("Putamen", "Caudate", "Pallidum")[hottest]
    assert found[~anatomy.brain].mean() < 0.1


# --- mirroring -----------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(first=st.integers(-9, -1), size=st.integers(4, 12), seed=st.integers(0, 9))
def test_mirroring_puts_every_value_at_minus_x(first, size, seed):
    volume = np.random.default_rng(seed).normal(size=(size, 2, 2)).astype(np.float32)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[0, 3] = 2.0 * first
    turned = mirrored(volume, affine)
    for i in range(size):
        j = -2 * first - i  # the voxel at minus x
        expected = volume[j] if 0 <= j < size else 0
        np.testing.assert_allclose(turned[i], expected, atol=1e-6)


# --- measures ------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), ml=st.floats(0.05, 0.5))
def test_the_hottest_mean_is_that_of_the_sorted_values(seed, ml):
    volume = np.random.default_rng(seed).normal(size=(6, 5, 4))
    inside = volume > -0.5
    count = max(1, round(1000 * ml / 8))
    expected = sorted(volume[inside], reverse=True)[:count]
    assert hottest_mean(volume, inside, ml, 2.0) == pytest.approx(np.mean(expected))


def test_more_hottest_voxels_than_there_are_is_an_error():
    with pytest.raises(InputError, match=r"of 0\.2 ml has no hottest 5 ml"):
        hottest_mean(np.ones((3, 3, 3)), np.ones((3, 3, 3), bool), 5.0, 2.0)


def test_scaling_divides_by_the_percentile(anatomy):
    volume = np.random.default_rng(0).uniform(1, 2, anatomy.tissue.shape)
    expected = np.percentile(volume[anatomy.reference()], 75)
    assert reference_uptake(volume, anatomy.reference()) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_a_reference_region_without_uptake_is_an_error(anatomy, value):
    volume = np.full(anatomy.tissue.shape, value)
    with pytest.raises(InputError, match="reference region shows no uptake"):
        reference_uptake(volume, anatomy.reference())


def test_binding_of_an_unblurred_image_is_what_was_put_in(anatomy):
    volume = anatomy.brain.astype(float)
    truth = {"caudate_L": 2.0, "caudate_R": 1.5, "putamen_L": 1.0, "putamen_R": 0.4}
    for name, ratio in truth.items():
        structure, side = name.split("_")
        volume[anatomy.region(structure.capitalize(), side=side)] = 1 + ratio
    found = binding(volume, anatomy, {"caudate": 1.0, "putamen": 1.0})
    assert found.ratios == pytest.approx(truth)
    assert found.lower_side == "R"
    assert found.ipsilateral("putamen") == pytest.approx(0.4)
    assert found.contralateral("caudate") == pytest.approx(2.0)
    assert found.asymmetry("putamen") == pytest.approx(100 * (0.4 - 1.0) / 0.7)
    assert found.caudate_to_putamen("L") == pytest.approx(2.0)


def test_no_ratio_where_the_putamen_binds_nothing():
    found = Binding({"caudate_L": 1, "caudate_R": 1, "putamen_L": -0.1, "putamen_R": -0.3})
    assert found.lower_side == "R"
    assert np.isnan(found.caudate_to_putamen("L"))
    assert np.isnan(found.asymmetry("putamen"))


def test_equal_putamina_are_not_mirrored():
    even = dict.fromkeys(("caudate_L", "caudate_R", "putamen_L", "putamen_R"), 1.0)
    assert Binding(even).lower_side == "L"


def test_striata_elsewhere_are_far_from_the_template(anatomy):
    volume = uptake_template(anatomy)
    assert striatal_shift_mm(volume, anatomy) < 8
    assert striatal_shift_mm(np.roll(volume, 10, axis=1), anatomy) > 20


# --- phantom -------------------------------------------------------------------------------------


def simulated(anatomy, **options):
    given = {"patient": True, "side": "L", "loss": 0.6, "voxel_mm": 4.0} | options
    return simulate_uptake(anatomy, person_seed(0, given.pop("index", 0)), **given)


def test_without_loss_a_patient_is_a_control():
    seed = person_seed(0, 3)
    patient = person_binding(seed, patient=True, side="L", loss=0.0)
    assert patient == person_binding(seed, patient=False, side="n/a", loss=0.6)


@pytest.mark.parametrize("side", ["L", "R"])
def test_the_loss_is_larger_on_its_side_and_in_the_putamen(side):
    other = "R" if side == "L" else "L"
    lost = dict.fromkeys(("putamen", "caudate"), 0.0)
    for index in range(20):
        seed = person_seed(1, index)
        whole, rest = person_binding(seed, patient=False, side="", loss=0.6)
        ill, rest_ill = person_binding(seed, patient=True, side=side, loss=0.6)
        share = {name: 1 - ill[name] / whole[name] for name in whole}
        assert share[f"putamen_{side}"] > share[f"putamen_{other}"] > 0
        assert share[f"putamen_{side}"] > share[f"caudate_{side}"] > share[f"caudate_{other}"] > 0
        assert rest_ill["Insula"] < rest["Insula"]
        assert rest_ill["Thalamus"] == rest["Thalamus"]
        lost["putamen"] += share[f"putamen_{side}"] / 20
    assert lost["putamen"] == pytest.approx(0.6, abs=0.05)


def test_the_map_holds_the_uptake_of_every_region(anatomy):
    nuclei, rest = person_binding(person_seed(0, 0), patient=True, side="L", loss=0.5)
    found = uptake_map(anatomy, nuclei, rest)
    for name, ratio in nuclei.items():
        structure, side = name.split("_")
        inside = anatomy.region(structure.capitalize(), side=side)
        np.testing.assert_allclose(found[inside], 1 + ratio, rtol=1e-6)
    np.testing.assert_allclose(found[anatomy.region("Insula")], 1 + rest["Insula"], rtol=1e-6)


@pytest.mark.parametrize("axcodes", ["LAS", "LPS", "PIR"])
def test_the_storage_changes_no_world_position(anatomy, axcodes):
    one = nib.as_closest_canonical(simulated(anatomy).image)
    other = nib.as_closest_canonical(simulated(anatomy, axcodes=axcodes).image)
    np.testing.assert_array_equal(one.get_fdata(), other.get_fdata())
    np.testing.assert_allclose(one.affine, other.affine)


@pytest.mark.parametrize("side", ["L", "R"])
def test_the_affected_side_is_darker_where_it_is_said_to_be(anatomy, side):
    image = nib.as_closest_canonical(simulated(anatomy, side=side, loss=0.8).image)
    data = image.get_fdata()
    x_mm = nib.affines.apply_affine(image.affine, np.argwhere(data > -np.inf))[:, 0]
    x_mm = x_mm.reshape(data.shape)
    left, right = (np.sort(data[here])[-40:].mean() for here in (x_mm < 0, x_mm > 0))
    affected, other = (left, right) if side == "L" else (right, left)
    assert affected < 0.95 * other


def test_a_person_is_the_same_in_any_call_and_sessions_differ(anatomy):
    again = simulated(anatomy).image.get_fdata()
    np.testing.assert_array_equal(simulated(anatomy).image.get_fdata(), again)
    assert np.abs(simulated(anatomy, session=2).image.get_fdata() - again).max() > 1


def test_counts_follow_the_gain(anatomy):
    few, many = (simulated(anatomy, gain=gain).image.get_fdata().sum() for gain in (0.5, 1.0))
    assert many / few == pytest.approx(2.0, rel=0.02)


def test_the_healthy_map_is_what_the_template_is_blurred_from(anatomy):
    sharp = healthy_uptake(anatomy)
    assert sharp[anatomy.region("Putamen")].min() == 4.0
    assert sharp[~anatomy.brain].max() == 0
