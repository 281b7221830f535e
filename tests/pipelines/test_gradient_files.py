"""Files of gradient tables: inheritance, bad text, round trips."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from models.diffusion_phantom import table_of
from models.errors import InputError
from pipelines.gradient_files import load_table, read_gradients, save_table, table_file, write_fsl

TABLE = table_of(8, 1000.0)
LAS = np.diag([-2.0, 2, 2, 1])


@pytest.fixture
def image(tmp_path):
    (tmp_path / "dataset_description.json").write_text("{}")
    folder = tmp_path / "sub-1/ses-2/dwi"
    folder.mkdir(parents=True)
    return folder / "sub-1_ses-2_dir-AP_dwi.nii.gz"


def write(image, stem=None, affine=LAS):
    stem = stem or str(image).removesuffix(".nii.gz")
    write_fsl(TABLE, affine, image.parent / f"{stem}.bval", image.parent / f"{stem}.bvec")


@pytest.mark.parametrize("affine", [LAS, np.diag([2.0, 2, 2, 1]), np.diag([-2.0, -2, 2, 1])])
def test_what_is_written_is_read(image, affine):
    write(image, affine=affine)
    table, notes = read_gradients(image, 9, affine)
    assert notes == []
    assert_allclose(table.directions, TABLE.directions, atol=1e-6)
    again = load_table(save_table(table, image.parent / "table.json"))
    assert_allclose(again.directions, table.directions)
    assert_allclose(again.b_values, TABLE.b_values)


def test_tables_are_inherited_from_folders_above(image, tmp_path):
    write_fsl(TABLE, LAS, tmp_path / "dwi.bval", tmp_path / "dwi.bvec")
    assert table_file(image, ".bval") == tmp_path / "dwi.bval"
    (tmp_path / "sub-1/sub-1_dir-AP_dwi.bval").write_text("0 1000")
    assert table_file(image, ".bval").name == "sub-1_dir-AP_dwi.bval"
    (image.parent / "sub-1_ses-2_dir-PA_dwi.bval").write_text("0 7")  # of another image
    assert table_file(image, ".bval").name == "sub-1_dir-AP_dwi.bval"
    write(image)
    assert table_file(image, ".bval").parent == image.parent


@pytest.mark.parametrize("ending", [".bval", ".bvec"])
def test_a_missing_or_unreadable_table_is_named(image, ending):
    write(image)
    file = table_file(image, ending)
    file.write_text("0 1000\n0 abc\n")
    with pytest.raises(InputError, match=f"{file.name}: is no table of numbers"):
        read_gradients(image, 9, LAS)
    file.unlink()
    with pytest.raises(InputError, match=rf"{image.name}: has no \{ending} file beside it"):
        read_gradients(image, 9, LAS)
