"""Maps of MD and FA that another pipeline made: found, checked, taken over, handed to networks."""

import json
from dataclasses import asdict

import nibabel as nib
import numpy as np
import pytest

from models.errors import InputError
from models.grids import GRIDS, full_grid
from pipelines.derivatives import read_sidecar, read_table
from pipelines.inputs import find_scans
from pipelines.interfaces.maps import TakeMaps
from pipelines.participant import init_participant_wf, template_on_grid
from pipelines.preprocess import modality_of
from pipelines.preprocess.dwimap import FULL_SCALE, MODALITY, beside, maps_input

GRID = full_grid(6.0)
STEM = "sub-{}_space-MNI152NLin2009cAsym_model-tensor_param-{}_dwimap.nii.gz"


def maps(seed=0):
    rng = np.random.default_rng(seed)
    brain = np.zeros(GRID.shape, bool)
    brain[5:-5, 5:-5, 5:-5] = True
    md = np.where(brain, rng.uniform(0.6e-3, 1.2e-3, GRID.shape), 0)
    fa = np.where(brain, rng.uniform(0.05, 0.7, GRID.shape), 0)
    return {"md": md, "fa": fa}


def save(folder, who, volumes, affine=GRID.affine):
    place = folder / f"sub-{who}/dwi"
    place.mkdir(parents=True, exist_ok=True)
    for name, values in volumes.items():
        image = nib.Nifti1Image(values.astype(np.float32), affine)
        nib.save(image, place / STEM.format(who, name))
    description = {"Name": "maps", "BIDSVersion": "1.11.1", "DatasetType": "derivative"}
    (folder / "dataset_description.json").write_text(json.dumps(description))
    return place / STEM.format(who, "md")


@pytest.fixture
def take(tmp_path):
    template = template_on_grid(6.0, tmp_path / "template")

    def run(path):
        node = TakeMaps(
            md=path, fa=beside(path, "fa"), template=template, full_scale=FULL_SCALE,
            participant="01",
        )  # fmt: skip
        folder = tmp_path / "node"
        folder.mkdir(exist_ok=True)
        return node.run(cwd=str(folder)).outputs

    return run


def test_the_map_of_md_is_the_scan_of_a_derivative_dataset(tmp_path):
    save(tmp_path, "01", maps())
    scans, warnings = find_scans(tmp_path, ["01"], "dwimap", names=MODALITY.names)
    assert [scan.path.name for scan in scans] == [STEM.format("01", "md")]
    assert not warnings
    assert modality_of("dwimap") is MODALITY


def test_both_levels_of_files_are_written_and_found_again(tmp_path):
    save(tmp_path / "in", "01", maps())
    (scan,), _ = find_scans(tmp_path / "in", ["01"], "dwimap", names=MODALITY.names)
    options = MODALITY.options({"resolution_mm": 6.0}, 0)
    out = tmp_path / "out"
    assert not MODALITY.is_done(out, scan, options)
    workflow = init_participant_wf(
        scans=[scan], output_dir=out, work_dir=tmp_path / "work", modality=MODALITY, options=options
    )
    workflow.run(plugin="Linear")
    assert MODALITY.is_done(out, scan, options)
    stored = MODALITY.stored(out, options)
    assert list(stored) == [("01", "")]
    volume = maps_input(stored["01", ""], GRID, "max")
    given = maps()
    np.testing.assert_allclose(volume[0], given["md"] / 3e-3, atol=1e-6)
    np.testing.assert_allclose(volume[1], given["fa"], atol=1e-6)
    sidecar = read_sidecar(stored["01", ""])
    assert sidecar["Units"] == "mm^2/s"
    assert set(sidecar["GivenSHA256"]) == {STEM.format("01", "md"), STEM.format("01", "fa")}
    quality = read_table(out / MODALITY.paths(scan, options)["quality"])
    assert quality["clipped_share"].item() == 0
    save(tmp_path / "in", "01", maps(1))  # another map: to be taken again
    assert not MODALITY.is_done(out, scan, options)


def test_maps_in_any_orientation_come_out_on_the_template(tmp_path, take):
    straight = maps()
    image = nib.Nifti1Image(straight["md"].astype(np.float32), GRID.affine)
    turned = image.as_reoriented([[0, -1], [1, -1], [2, 1]])
    flipped = {k: v[::-1, ::-1] for k, v in straight.items()}
    path = save(tmp_path, "01", flipped, turned.affine)
    found = nib.load(take(path).md)
    np.testing.assert_allclose(found.get_fdata(), straight["md"], atol=1e-8)


def test_a_background_of_nan_becomes_zero_and_is_told_of(tmp_path, take):
    volumes = {k: np.where(v == 0, np.nan, v) for k, v in maps().items()}
    outputs = take(save(tmp_path, "01", volumes))
    assert any("NaN" in sentence for sentence in outputs.meta["Warnings"])
    np.testing.assert_allclose(nib.load(outputs.md).get_fdata(), maps()["md"], atol=1e-8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v | {"md": v["md"] * 1000}, "must be in mm2/s"),
        (lambda v: v | {"fa": v["fa"] * 1000}, "must be in a share"),
        (lambda v: v | {"fa": v["fa"][:-2]}, "is on another grid"),
        (lambda v: v | {"md": -v["md"]}, "no voxel above 0"),
        (lambda v: {"md": v["md"]}, "FA must lie beside"),
    ],
)
def test_maps_that_cannot_be_used_say_why(tmp_path, take, change, said):
    path = save(tmp_path, "01", change(maps()))
    with pytest.raises(InputError, match=said) as raised:
        take(path)
    assert "sub-01" in str(raised.value)


def test_what_exceeds_the_scale_is_cut(tmp_path):
    volumes = maps()
    volumes["md"][10, 10, 10], volumes["fa"][10, 10, 10] = 4e-3, -0.2  # a voxel of noise
    seen = maps_input(save(tmp_path, "01", volumes), GRID, "max")
    assert seen[:, 10, 10, 10].tolist() == [1, 0]


def test_a_scale_without_units_is_refused(tmp_path):
    path = save(tmp_path, "01", maps())
    with pytest.raises(InputError, match="use 'max'"):
        maps_input(path, GRID, "zscore")


def test_the_grid_of_the_paper_is_cut_from_that_of_the_template():
    paper, template = GRIDS["crop1p5mm"], full_grid(1.5)
    assert asdict(paper)["shape"] == (121, 145, 121)
    steps = (np.array(paper.origin_mm) - template.origin_mm) / 1.5
    assert np.array_equal(steps, np.round(steps))
