"""Raw projections: found, read with their sidecar, reconstructed with the sides where they are."""

import json

import nibabel as nib
import numpy as np
import pytest

from models.errors import InputError
from pipelines.images import read_nifti
from pipelines.inputs import find_scans, modalities_there
from pipelines.interfaces.nuclear import ConformUptake
from pipelines.projections import is_projections, reconstructed

BINS, ROWS, BIN_MM, ROW_MM = 48, 20, 6.0, 5.0
ANGLES = [6.0 * i for i in range(60)]
SIDECAR = {
    "ProjectionAngles": ANGLES,
    "ProjectionColumns": "right",
    "ProjectionRows": "up",
    "TracerName": "ioflupane",
}
# x to the right, y forwards, z upwards (mm), radius of a Gaussian, counts: right in front, above.
BLOBS = ((0, 0, 0, 40.0, 1.0), (40, 30, 25, 12.0, 3.0))


def views(*, turned=(), centre=(BINS - 1) / 2):
    """Line integrals of Gaussian blobs, (columns, rows, views), by what a viewer sees."""
    u = (np.arange(BINS) - centre) * BIN_MM
    v = (np.arange(ROWS) - (ROWS - 1) / 2) * ROW_MM
    found = np.zeros((BINS, ROWS, len(ANGLES)))
    for i, angle in enumerate(np.deg2rad(ANGLES)):
        for x, y, z, width, value in BLOBS:
            across = np.exp(-((u - x * np.cos(angle) + y * np.sin(angle)) ** 2) / 2 / width**2)
            up = np.exp(-((v - z) ** 2) / 2 / width**2)
            found[..., i] += value * width * np.sqrt(2 * np.pi) * across[:, None] * up
    return np.flip(found, turned) if turned else found


def write(folder, data, sidecar, name="sub-01_proj"):
    path = folder / f"sub-01/spect/{name}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_description.json").write_text("{}")
    image = nib.Nifti1Image(np.asarray(data, np.float32), np.diag([BIN_MM, ROW_MM, 1.0, 1.0]))
    nib.save(image, path)
    path.with_name(f"{name}.json").write_text(json.dumps(sidecar))
    return path


def hottest_mm(image):
    """World position (RAS+) of the maximum."""
    data = np.asarray(image.dataobj)
    voxel = np.unravel_index(data.argmax(), data.shape)
    return nib.affines.apply_affine(image.affine, voxel)


@pytest.mark.parametrize("columns", ["right", "left"])
@pytest.mark.parametrize("rows", ["up", "down"])
def test_the_blob_is_where_it_was_whatever_way_the_detector_is_read(tmp_path, columns, rows):
    turned = tuple(np.flatnonzero([columns == "left", rows == "down"]))
    said = SIDECAR | {"ProjectionColumns": columns, "ProjectionRows": rows}
    path = write(tmp_path, views(turned=turned), said)
    image, facts = reconstructed(path, said, 1.25)
    assert nib.aff2axcodes(image.affine) == tuple("RAS")
    np.testing.assert_allclose(hottest_mm(image), (40, 30, 25), atol=BIN_MM)
    assert image.shape == (BINS, BINS, ROWS)
    assert image.header.get_zooms() == (BIN_MM, BIN_MM, ROW_MM)
    assert facts["ReconFilterCutoff"] == 1.25
    assert np.asarray(image.dataobj).min() == 0
    peak = 3.0 + np.exp(-(40**2 + 30**2 + 25**2) / 2 / 40**2)
    assert np.asarray(image.dataobj).max() == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("columns", ["right", "left"])
def test_the_centre_of_rotation_counts_columns_as_they_are_stored(tmp_path, columns):
    centre = 26.0
    data = views(centre=centre, turned=(0,) if columns == "left" else ())
    stored = centre if columns == "right" else BINS - 1 - centre
    said = SIDECAR | {"ProjectionColumns": columns, "CentreOfRotation": stored}
    image, _ = reconstructed(write(tmp_path, data, said), said, 1.25)
    np.testing.assert_allclose(hottest_mm(image), (40, 30, 25), atol=BIN_MM)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ProjectionAngles": None}, "has no ProjectionAngles"),
        ({"ProjectionAngles": ANGLES[:-1]}, "has 60 views, its ProjectionAngles are 59"),
        ({"ProjectionAngles": [i * 2.0 for i in range(60)]}, "spread evenly over 180 or 360"),
        ({"ProjectionAngles": [float("nan"), *ANGLES[1:]]}, "has no ProjectionAngles"),
        ({"ProjectionAngles": [True] * 60}, "has no ProjectionAngles"),
        ({"ProjectionAngles": [i * 0.1 for i in range(60)]}, "are the angles in degrees"),
        ({"CentreOfRotation": "23.5 bins"}, "CentreOfRotation in its sidecar is '23.5 bins'"),
        ({"CentreOfRotation": [23.5]}, "CentreOfRotation in its sidecar"),
        ({"CentreOfRotation": -5, "ProjectionColumns": "left"}, "is '-5'; write the column"),
        ({"CentreOfRotation": 300}, r"the column \(0 to 47\)"),
        ({"ProjectionColumns": None}, "ProjectionColumns: 'right' or 'left'"),
        ({"ProjectionColumns": "up"}, "ProjectionColumns: 'right' or 'left'"),
        ({"ProjectionRows": ""}, "ProjectionRows: 'up' or 'down'"),
    ],
)
def test_a_sidecar_that_leaves_the_sides_open_is_refused(tmp_path, change, sentence):
    said = SIDECAR | change
    path = write(tmp_path, views(), said)
    with pytest.raises(InputError, match=sentence) as refused:
        reconstructed(path, said, 1.25)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (np.zeros((BINS, ROWS, 60)), "counts are missing"),
        (np.full((BINS, ROWS, 60), np.nan), "counts are missing"),
        (np.ones((BINS, ROWS, 60, 2)), "one energy window"),
        (np.ones((BINS, ROWS)), "one energy window"),
    ],
)
def test_files_that_are_no_projections_are_refused(tmp_path, data, sentence):
    with pytest.raises(InputError, match=sentence):
        reconstructed(write(tmp_path, data, SIDECAR), SIDECAR, 1.25)


def test_a_file_that_is_no_image_is_refused(tmp_path):
    path = write(tmp_path, views(), SIDECAR)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a readable NIfTI"):
        reconstructed(path, SIDECAR, 1.25)


def test_the_app_conforms_them_and_says_how(tmp_path, monkeypatch):
    path = write(tmp_path, views(), SIDECAR)
    monkeypatch.chdir(tmp_path)
    found = ConformUptake(in_file=path, cutoff_per_cm=0.7).run().outputs
    np.testing.assert_allclose(hottest_mm(read_nifti(found.out_file)), (40, 30, 25), atol=BIN_MM)
    assert found.meta["ReconFilterType"] == "Shepp-Logan"
    assert found.meta["ReconFilterCutoff"] == 0.7
    assert found.meta["Warnings"] == []
    assert found.meta["TracerName"] == "ioflupane"


def test_they_are_found_where_there_is_no_reconstructed_image(tmp_path):
    write(tmp_path, views(), SIDECAR)
    assert modalities_there(tmp_path, ("T1w", "spect")) == ["spect"]
    ((scan,), warnings) = find_scans(tmp_path, ["01"], "spect")
    assert is_projections(scan.path)
    assert warnings == []
    write(tmp_path, views(), SIDECAR, "sub-01_spect")
    ((scan,), warnings) = find_scans(tmp_path, ["01"], "spect")
    assert scan.path.name == "sub-01_spect.nii.gz"
    assert warnings == ["sub-01: sub-01_spect.nii.gz is used, sub-01_proj.nii.gz passed over"]
