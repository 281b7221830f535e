"""The grids of the published systems, and the template's whole extent at any voxel size."""

import nibabel as nib
import numpy as np
import pytest

from models.grids import GRIDS, full_grid

# name: shape, voxel in mm, world position of voxel (0, 0, 0)
PUBLISHED = {
    "1mm": ((193, 229, 193), 1.0, (-96, -132, -78)),
    "crop1mm": ((182, 218, 182), 1.0, (-90, -126, -72)),
    "2mm": ((96, 114, 96), 2.0, (-96, -132, -78)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_grids(name):
    shape, voxel_mm, origin = PUBLISHED[name]
    affine = GRIDS[name].affine
    assert GRIDS[name].shape == shape
    assert nib.affines.voxel_sizes(affine) == pytest.approx([voxel_mm] * 3)
    assert nib.affines.apply_affine(affine, [0, 0, 0]) == pytest.approx(origin)


@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_is_ras_and_named_for_bids(name):
    grid = GRIDS[name]
    assert grid.name == name
    assert name.isalnum()
    assert nib.aff2axcodes(grid.affine) == ("R", "A", "S")
    assert f"{grid.voxel_mm:g} mm" in grid.description
    assert "x".join(map(str, grid.shape)) in grid.description


def test_the_crop_is_a_crop():
    whole, crop = GRIDS["1mm"], GRIDS["crop1mm"]
    assert nib.affines.apply_affine(whole.affine, [6, 6, 6]) == pytest.approx(crop.origin_mm)
    assert [stop - 6 for stop in (188, 224, 188)] == list(crop.shape)
    assert all(6 + n <= size for n, size in zip(crop.shape, whole.shape, strict=True))


@pytest.mark.parametrize("name", ["1mm", "2mm", "3mm"])
def test_full_grid_takes_a_named_one_of_the_same_voxels(name):
    assert full_grid(GRIDS[name].voxel_mm) is GRIDS[name]


@pytest.mark.parametrize("voxel_mm", [0.7, 1.5, 2.5, 4.0])
def test_full_grid_covers_the_template_and_no_more(voxel_mm):
    grid, template = full_grid(voxel_mm), GRIDS["1mm"]
    last = nib.affines.apply_affine(template.affine, np.array(template.shape) - 1)
    end = nib.affines.apply_affine(grid.affine, np.array(grid.shape) - 1)
    assert grid.name.isalnum()
    assert grid.origin_mm == template.origin_mm
    assert (end <= last + 1e-9).all()
    assert (end + voxel_mm > last).all()


def test_grids_of_different_voxels_have_different_names():
    sizes = [0.7, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 15.0]
    assert len({full_grid(size).name for size in sizes}) == len(sizes)
