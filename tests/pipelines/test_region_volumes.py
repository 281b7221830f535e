"""Volumes of regions by the registration: ITK's transforms, the tables, what is refused."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from models.errors import InputError
from models.grids import Grid
from models.jacobian import voxel_volumes
from pipelines.derivatives import read_table, write_table
from pipelines.images import read_nifti, write_nifti
from pipelines.interfaces.ants import Register
from pipelines.interfaces.volumes import CohortVolumes, RegionVolumes, displacement, of_images
from pipelines.region_volumes import check_regions, columns_of, measured_of

ants = pytest.importorskip("ants")

GRID = Grid("4mm", (34, 38, 32), 4.0, (-66.0, -80.0, -60.0))
LABELS = {1: "Core_L", 2: "Core_R", 3: "Shell"}


@pytest.fixture
def folder(tmp_path):
    """An atlas of a small ball in two halves, within a shell; one region has no voxel."""
    where = np.stack(np.indices(GRID.shape), -1) * GRID.voxel_mm + GRID.origin_mm
    radius = np.linalg.norm(where, axis=-1)
    labels = np.where(radius < 45, 3, 0)
    labels[radius < 22] = np.where(where[..., 0] < 0, 1, 2)[radius < 22]
    write_nifti(tmp_path / "atlas-Ball_dseg.nii.gz", labels.astype(np.int16), GRID.affine)
    names = pd.DataFrame({"index": [*LABELS, 4, 5], "name": [*LABELS.values(), "Rim_L", "Rim_R"]})
    write_table(tmp_path / "atlas-Ball_dseg.tsv", names)
    np.save(tmp_path / "labels.npy", labels)
    return tmp_path


def affine_transform(path, matrix, shift=(0.0, 0.0, 0.0)):
    """A transform of points, x to matrix x + shift, in RAS+; ITK's axes are LPS+."""
    flip = np.diag([-1.0, -1.0, 1.0])
    made = ants.create_ants_transform(
        transform_type="AffineTransform", matrix=flip @ np.asarray(matrix) @ flip,
        translation=tuple(flip @ np.asarray(shift)),
    )  # fmt: skip
    ants.write_transform(made, str(path))
    return path


def measured(folder, transform):
    node = RegionVolumes(
        transform=transform, grid=asdict(GRID), atlas=str(folder / "atlas-Ball_dseg.nii.gz")
    )
    return read_table(node.run(cwd=str(folder)).outputs.table).set_index("name")


@pytest.mark.parametrize(
    "matrix",
    [np.eye(3), 1.2 * np.eye(3), [[1, 0.3, 0], [0, 0.9, -0.2], [0.1, 0, 1.1]]],
    ids=["identity", "scaling", "general"],
)
def test_a_linear_transform_scales_every_region_by_its_determinant(folder, matrix):
    found = measured(folder, affine_transform(folder / "t.mat", matrix, (5, -9, 3)))
    expected = found["voxels"] * GRID.voxel_mm**3 * np.linalg.det(matrix)
    assert found.loc["Core_L", "voxels"] > 100
    assert_allclose(found["sum"], expected, rtol=1e-4)


def test_displacements_are_along_the_axes_of_the_grid(folder):
    matrix, shift = np.array([[1, 0.3, 0], [0, 0.9, -0.2], [0.1, 0, 1.1]]), np.array([5, -9, 3])
    found = displacement(affine_transform(folder / "t.mat", matrix, shift), GRID, folder)
    for voxel in [(0, 0, 0), (33, 2, 17), (5, 30, 31)]:
        point = np.array(voxel) * GRID.voxel_mm + GRID.origin_mm
        assert_allclose(found[voxel], matrix @ point + shift - point, atol=1e-3)
    assert not list(folder.glob("composed_*"))  # large, and not needed any more


def test_the_volume_is_that_of_the_region_warped_to_the_person(folder):
    """A real registration, with the inverse transform and nearest neighbour as the oracle."""
    where = np.stack(np.indices(GRID.shape), -1) * GRID.voxel_mm + GRID.origin_mm
    radius = np.linalg.norm(where, axis=-1)

    def ball(edge):
        return 1 / (1 + np.exp((radius - edge) / 2))

    write_nifti(folder / "template.nii.gz", 50 * ball(50) + 100 * ball(22), GRID.affine)
    write_nifti(folder / "native.nii.gz", 50 * ball(50) + 100 * ball(16), GRID.affine)
    write_nifti(folder / "mask.nii.gz", 1.0 * (radius < 58), GRID.affine)
    out = Register(
        in_file=folder / "native.nii.gz", mask=folder / "mask.nii.gz",
        template=folder / "template.nii.gz", how="nonlinear",
    ).run(cwd=str(folder)).outputs  # fmt: skip
    found = measured(folder, out.to_template)
    labels = ants.image_read(str(folder / "atlas-Ball_dseg.nii.gz"))
    # On a fine grid: nearest neighbour draws edges to a voxel only.
    fine = ants.resample_image(ants.image_read(str(folder / "native.nii.gz")), (1, 1, 1), False, 1)
    warped = ants.apply_transforms(fine, labels, [out.to_native], interpolator="nearestNeighbor")
    for index, name in LABELS.items():
        native = (warped.numpy() == index).sum() * np.prod(warped.spacing)
        assert found.loc[name, "sum"] == pytest.approx(native, rel=0.03), name
    core = found.loc[["Core_L", "Core_R"]]
    assert core["sum"].sum() < 0.9 * core["voxels"].sum() * GRID.voxel_mm**3
    assert found.loc["Shell", "sum"] > found.loc["Shell", "voxels"] * GRID.voxel_mm**3
    again = displacement(out.to_template, GRID, folder)
    assert_array_equal(again, displacement(out.to_template, GRID, folder))
    total = voxel_volumes(again, GRID.affine)[np.load(folder / "labels.npy") > 0].sum()
    assert found["sum"].sum() == pytest.approx(total, rel=1e-5)


def test_what_is_no_transform_is_named(folder):
    (folder / "broken_xfm.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"0" * 100)
    with pytest.raises(InputError, match=r"broken_xfm\.h5: cannot be read as a transform"):
        displacement(folder / "broken_xfm.h5", GRID, folder)


# --- the cohort ----------------------------------------------------------------------------------


def test_everybody_stands_in_one_table(folder):
    tables = []
    for person in (1, 2):
        path = folder / f"{person}.tsv"
        voxels = np.array([5, 6, 7, 0, 3])
        table = pd.DataFrame(
            {"index": range(1, 6), "voxels": voxels, "sum": 10.0 * person * voxels}
        )
        names = [*LABELS.values(), "Rim_L", "Rim_R"]
        write_table(path, table.assign(name=names, density=10.0 * person))
        tables.append(path)
    stems = [f"/data/out/sub-0{i}/anat/sub-0{i}_xfm.h5" for i in (1, 2)]
    out = CohortVolumes(
        tables=tables, participants=["01", "02"], sessions=["", "b"], transforms=stems,
        grid=asdict(GRID), atlas=str(folder / "atlas-Ball_dseg.nii.gz"), model="x",
    ).run(cwd=str(folder)).outputs  # fmt: skip
    ((path, product),) = out.products.items()
    assert path == "group/model-x_atlas-Ball_desc-jacobian_volumes.tsv"
    table = read_table(product["file"])
    assert list(table) == ["participant_id", "session_id", *LABELS.values(), "Rim_L", "Rim_R"]
    assert list(table["Core_R"]) == [60, 120]
    assert table["Rim_L"].isna().all()  # no voxel is no volume of zero
    sidecar = product["sidecar"]
    assert sidecar["Core_L"]["Units"] == "mm3"
    assert sidecar["Atlas"] == "Ball"
    assert sidecar["Sources"][1] == "bids::sub-02/anat/sub-02_xfm.h5"
    whole = read_table(out.joined)
    assert list(whole["Core"]) == [110, 220]
    assert whole["Rim"].isna().all()  # half of a region is not the region
    keys = [("02", "b"), ("03", ""), ("01", "")]
    assert_array_equal(of_images(whole, keys, "Core"), [220, np.nan, 110])


def test_regions_of_a_recipe(folder):
    wanted = {"Core": "jacobian", "Shell": "mm3", "Rim": "jacobian", "Other": "mm3"}
    assert columns_of(wanted) == ["mm3"]
    assert measured_of(wanted) == ["Core", "Rim"]
    check_regions(str(folder / "atlas-Ball_dseg.nii.gz"), ["Core", "Shell"])
    with pytest.raises(InputError, match=r"no region 'Coer'.*did you mean 'Core'"):
        check_regions(str(folder / "atlas-Ball_dseg.nii.gz"), ["Coer"])
    check_regions("AAL", ["Hippocampus", "Amygdala"])


def test_the_grid_of_a_node_is_the_template_s(folder):
    measured(folder, affine_transform(folder / "t.mat", np.eye(3)))
    made = read_nifti(folder / "grid.nii.gz")
    assert_allclose(made.affine, GRID.affine)
