"""Stacks of region tables."""

import numpy as np
import pandas as pd
import pytest

from models.errors import InputError
from models.region_cube import RegionCube, stack
from models.regions import gain, merge_sides, region_table

NAMES = pd.DataFrame(
    {"index": [3, 1, 7, 5, 9], "name": ["Insula_L", "Pons", "Insula_R", "Empty", "Lonely_L"]}
)


@pytest.fixture
def tables():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 3, 7, 9], (6, 6, 6))

    def person():
        values = rng.normal(size=labels.shape)
        values[rng.random(labels.shape) < 0.1] = np.nan
        return region_table(values, labels, NAMES)

    return [[person() for _ in range(4)] for _ in range(3)]


def test_stack_holds_every_table(tables):
    tables[1][2] = None
    cube = stack(tables)
    assert cube.sums.shape == cube.voxels.shape == (3, 4, 5)
    assert np.isnan(cube.sums[1, 2]).all()
    assert not cube.voxels[1, 2].any()
    np.testing.assert_array_equal(cube.sums[2, 3], tables[2][3]["sum"])
    np.testing.assert_allclose(cube.density[2, 3], tables[2][3]["density"])
    assert cube.regions["name"].tolist() == NAMES["name"].tolist()


def test_sides_merge_as_in_single_tables(tables):
    merged = stack(tables).merged_sides()
    expected = stack([[merge_sides(one) for one in repeat] for repeat in tables])
    pd.testing.assert_frame_equal(merged.regions, expected.regions)
    np.testing.assert_array_equal(merged.voxels, expected.voxels)
    np.testing.assert_allclose(merged.sums, expected.sums, rtol=1e-12)
    tables[0][1] = None
    assert np.isnan(stack(tables).merged_sides().sums[0, 1]).all()


def test_gain_is_relative_to_the_controls_of_the_repeat(tables):
    tables[0][1] = None
    cube = stack(tables)
    controls = np.array([True, True, False, False])
    found = cube.gain(controls)
    mean = cube.sums[2, :2].mean(0)
    np.testing.assert_allclose(found[2, 3], gain(cube.sums[2, 3], mean))
    np.testing.assert_allclose(found[0, 0, :3], 1)  # the only control with a map there
    assert np.isnan(found[..., 3]).all()  # a region without a voxel


def test_tables_that_do_not_fit_are_errors(tables):
    with pytest.raises(InputError, match="no region tables"):
        stack([[None]])
    with pytest.raises(InputError, match="different numbers of people"):
        stack([tables[0], tables[1][:3]])
    tables[1][1] = tables[1][1].assign(name=list("abcde"))
    with pytest.raises(InputError, match="different regions"):
        stack(tables)
    tables[1][1] = tables[0][0].iloc[:4]
    with pytest.raises(InputError, match="different regions"):
        stack(tables)
    with pytest.raises(ValueError, match="5 regions"):
        RegionCube(NAMES, np.ones((1, 2, 4)), np.ones((1, 2, 4)))
