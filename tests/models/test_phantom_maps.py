"""Maps with known truth: what a patient has is the spheres, and nothing else."""

import nibabel as nib
import numpy as np
import pytest

from models.grids import full_grid
from models.phantom import person_seed
from models.phantom_maps import maps_model, simulate_maps

GRID = full_grid(6.0)


@pytest.fixture(scope="module")
def template():
    """White matter inside grey matter inside fluid."""
    x, y, z = np.indices(GRID.shape) - np.array(GRID.shape).reshape(3, 1, 1, 1) / 2
    radius = np.sqrt(x**2 + y**2 + z**2)
    signal = np.select([radius < 7, radius < 10, radius < 12], [90.0, 65.0, 30.0])
    return nib.Nifti1Image(signal.astype(np.float32), GRID.affine)


def model(template, effect=0.6):
    region = np.zeros(GRID.shape, bool)
    region[12:20, 14:22, 12:20] = True
    return maps_model(template, region, GRID, effect)


def test_a_patient_differs_by_the_spheres_alone(template):
    one, seed = model(template), person_seed(0, 3)
    patient = simulate_maps(one, seed, patient=True, age=60)
    control = simulate_maps(one, seed, patient=False, age=60)
    assert patient.altered.any()
    assert not control.altered.any()
    changed = patient.md != control.md
    assert (patient.altered <= changed).all()
    raised = patient.md[patient.altered] - control.md[patient.altered]
    assert (raised > 0.4e-3).mean() > 0.9
    assert (patient.fa[patient.altered] <= control.fa[patient.altered]).all()
    assert changed.sum() < 4 * 60  # four spheres of at most two voxels' radius


def test_without_effect_the_groups_are_one(template):
    one, seed = model(template, 0.0), person_seed(0, 3)
    patient = simulate_maps(one, seed, patient=True, age=60)
    control = simulate_maps(one, seed, patient=False, age=60)
    assert np.array_equal(patient.md, control.md)
    assert np.array_equal(patient.fa, control.fa)
    assert not patient.altered.any()


def test_tissues_have_their_values_and_people_differ(template):
    one = model(template)
    people = [simulate_maps(one, person_seed(0, k), patient=False, age=62) for k in range(3)]
    middle = np.asarray(template.dataobj) == 90
    md = np.median([person.md[middle] for person in people])
    fa = np.median([person.fa[middle] for person in people])
    assert md == pytest.approx(0.72e-3, rel=0.1)
    assert 0.3 < fa < 0.6
    assert not np.array_equal(people[0].md, people[1].md)
    for person in people:
        assert person.fa.min() >= 0
        assert person.fa.max() <= 1
        assert person.md.max() <= 3e-3
        assert ((person.md == 0) == (person.fa == 0)).all()
    again = simulate_maps(one, person_seed(0, 1), patient=False, age=62)
    assert np.array_equal(again.md, people[1].md)
    old = simulate_maps(one, person_seed(0, 1), patient=False, age=82)
    assert old.md[middle].mean() > people[1].md[middle].mean()
