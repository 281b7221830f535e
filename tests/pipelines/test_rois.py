"""Regions of interest: lobes and nuclei from the atlases that ship, and from one's own."""

import nibabel as nib
import numpy as np
import pytest

from models.errors import InputError
from models.grids import GRIDS
from pipelines.atlases import atlas, on_grid
from pipelines.rois import LOBES, WHOLE, regions_of_interest

GRID = GRIDS["3mm"]


def brain_of(source):
    return on_grid(source, GRID.affine, GRID.shape) > 0


@pytest.mark.parametrize("name", LOBES)
def test_lobes_are_disjoint_and_every_pattern_means_something(name):
    source = atlas(name)
    found = regions_of_interest(source, None, GRID, brain_of(source), least=1)
    assert next(iter(found)) == WHOLE
    assert found[WHOLE].all()
    assert set(LOBES[name]) <= set(found)
    assert {"thalamus", "putamen", "caudate", "pallidum"} <= set(found)
    assert np.sum([found[lobe] for lobe in LOBES[name]], 0).max() == 1
    for nucleus in ("thalamus", "putamen", "caudate", "pallidum"):
        assert not (found[nucleus] & ~found["subcortical"]).any()


def test_lobes_lie_where_lobes_lie():
    source = atlas("Neuromorphometrics")
    brain = brain_of(source)
    found = regions_of_interest(source, None, GRID, brain, least=1)
    places = nib.affines.apply_affine(GRID.affine, np.argwhere(brain))
    middle = {name: places[inside].mean(0) for name, inside in found.items()}
    assert middle["frontal"][1] > middle["parietal"][1] > middle["occipital"][1]
    assert middle["temporal"][2] < middle["parietal"][2]
    assert abs(middle["thalamus"][0]) < 3  # both sides
    assert found["white matter"].sum() > found["subcortical"].sum()


def own_atlas(folder, labels, names):
    path = folder / "own.nii.gz"
    nib.save(nib.Nifti1Image(labels.astype(np.int16), GRID.affine), path)
    rows = "".join(f"{index}\t{name}\n" for index, name in names.items())
    path.with_name("own.tsv").write_text("index\tname\n" + rows)
    return atlas(path)


def test_an_atlas_without_a_table_gives_its_own_regions_with_sides_joined(tmp_path):
    labels = np.zeros(GRID.shape)
    labels[10:20, 30:40, 30:40], labels[44:54, 30:40, 30:40] = 1, 2
    labels[30, 30, 30] = 3
    nuclei = own_atlas(tmp_path, labels, {1: "SN_L", 2: "SN_R", 3: "STN"})
    source = atlas("AAL")
    brain = np.ones(GRID.shape, bool)
    found = regions_of_interest(source, nuclei, GRID, brain, least=10)
    assert found["SN"].sum() == 2000
    assert "STN" not in found  # one voxel
    assert "putamen" not in found  # the nuclei are those of the second atlas


def test_no_region_with_enough_voxels_is_told(tmp_path):
    labels = np.zeros(GRID.shape)
    labels[30, 30, 30] = 1
    small = own_atlas(tmp_path, labels, {1: "dot"})
    with pytest.raises(InputError, match=r"own.nii.gz.*no region has 10 voxels"):
        regions_of_interest(small, None, GRID, np.ones(GRID.shape, bool), least=10)
