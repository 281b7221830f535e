"""A template of the user's: transforms joined in the right order, brains that end in MNI by it."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from numpy.testing import assert_allclose
from scipy import ndimage

from bidsapp.settings import Recipe
from models.errors import InputError
from models.grids import full_grid
from pipelines.images import read_nifti, write_nifti
from pipelines.inputs import Scan
from pipelines.interfaces.ants import Register
from pipelines.own_template import by_own_template
from pipelines.preprocess.dwi import DwiOptions
from pipelines.preprocess.t1w import T1wOptions, init_t1w_wf, t1w_fingerprint
from pipelines.transforms import chained

ants = pytest.importorskip("ants")

EDGE = 6.0
SHIFT = np.array([9.0, -30.0, 40.0])  # of the user's template against MNI, mm
POINTS = np.array([[0.0, 0, 0], [20, -30, 10], [-25, 14, -12]])


def affine_file(path, matrix, shift):
    made = ants.create_ants_transform(
        transform_type="AffineTransform", matrix=np.array(matrix), translation=shift
    )
    ants.write_transform(made, str(path))
    return path


@pytest.fixture(scope="module")
def brains(small_template, tmp_path_factory):
    """MNI on the grid of results; the same brain elsewhere, wider, as the user's template."""
    folder = tmp_path_factory.mktemp("brains")
    grid, data = full_grid(EDGE), np.asarray(small_template.dataobj, np.float32)
    back = np.linalg.inv(small_template.affine) @ grid.affine
    mni = ndimage.affine_transform(
        data, back[:3, :3], back[:3, 3], output_shape=grid.shape, order=1
    )
    mni[mni < 20] = 0
    write_nifti(folder / "mni.nii.gz", mni, grid.affine, template=True)
    place = np.diag([1.1, 1.0, 1.0, 1.0])
    place[:3, 3] = SHIFT
    # The same anatomy on voxels whose affine is stretched and moved: nothing is resampled.
    write_nifti(folder / "own.nii.gz", data, place @ small_template.affine)
    return folder


def test_points_go_through_the_first_transform_first(tmp_path):
    first = affine_file(tmp_path / "a.h5", np.diag([2.0, 1, 1]), (10.0, 0, 0))
    second = affine_file(tmp_path / "b.h5", [[0, -1.0, 0], [1, 0, 0], [0, 0, 1]], (0, 5.0, 0))
    third = affine_file(tmp_path / "c.h5", np.eye(3), (0, 0, -3.0))
    both = chained([first, second], tmp_path / "both.h5")
    every = ants.read_transform(str(chained([both, third], tmp_path / "every.h5")))
    steps = [ants.read_transform(str(one)) for one in (first, second, third)]
    for point in POINTS:
        expected = tuple(point)
        for step in steps:
            expected = step.apply_to_point(expected)
        assert_allclose(every.apply_to_point(tuple(point)), expected, atol=1e-9)


@pytest.fixture(scope="module")
def way(brains):
    return by_own_template(str(brains / "own.nii.gz"), brains / "mni.nii.gz", EDGE, 1)


def test_the_way_between_the_templates_is_made_once(brains, way):
    there, back = (ants.read_transform(way[name]) for name in ("mni_to_own", "own_to_mni"))
    for point in POINTS:  # LPS
        found = np.array(there.apply_to_point(tuple(point)))
        expected = (point * [1.1, 1, 1]) + SHIFT * [-1, -1, 1]
        assert np.linalg.norm(found - expected) < 4
        assert_allclose(back.apply_to_point(tuple(found)), point, atol=0.5)
    before = Path(way["mni_to_own"]).stat().st_mtime_ns
    again = by_own_template(str(brains / "own.nii.gz"), brains / "mni.nii.gz", EDGE, 1)
    assert again == way
    assert Path(way["mni_to_own"]).stat().st_mtime_ns == before


@pytest.mark.parametrize("how", ["linear", "nonlinear"])
def test_a_brain_ends_in_mni_by_the_template(brains, way, tmp_path, brain, how):
    image = brain(3, "RAS", side="L")
    write_nifti(tmp_path / "brain.nii.gz", image.get_fdata(), image.affine)
    write_nifti(tmp_path / "mask.nii.gz", image.get_fdata() > 0, image.affine)
    found = Register(
        in_file=tmp_path / "brain.nii.gz", mask=tmp_path / "mask.nii.gz",
        template=brains / "mni.nii.gz", how=how, **way,
    ).run(cwd=tmp_path).outputs  # fmt: skip
    assert "by its SyN to MNI" in found.meta["Registration"]
    mni = np.asarray(read_nifti(brains / "mni.nii.gz").dataobj) > 0
    there = np.asarray(read_nifti(found.out_mask).dataobj) > 0
    # The brain's rim is as wide as it was made: at 6 mm, a quarter of the voxels lie there.
    assert (there & mni).sum() > 0.98 * mni.sum()
    assert there.sum() < 1.35 * mni.sum()
    registered = read_nifti(found.out_file)
    data = np.asarray(registered.dataobj)
    bright = apply_affine(registered.affine, np.argwhere(data > 0.95 * data.max())).mean(0)
    assert bright[0] < -8  # left is left
    there, back = (ants.read_transform(one) for one in (found.to_template, found.to_native))
    for point in POINTS:
        there_and_back = back.apply_to_point(there.apply_to_point(tuple(point)))
        assert_allclose(there_and_back, point, atol=2)


def test_a_head_and_half_a_brain_are_refused(brains, tmp_path):
    image = read_nifti(brains / "own.nii.gz")
    data = np.asarray(image.dataobj)
    noisy = data + np.random.default_rng(0).uniform(1, 30, data.shape)
    write_nifti(tmp_path / "head.nii.gz", noisy, image.affine)
    with pytest.raises(InputError, match=r"head\.nii\.gz: shows more than a brain"):
        by_own_template(str(tmp_path / "head.nii.gz"), brains / "mni.nii.gz", EDGE, 1)
    assert not list(brains.glob("tmp*"))


def test_the_file_must_be_there_and_its_voxels_make_the_fingerprint(brains, tmp_path):
    for kind in (T1wOptions, DwiOptions):
        with pytest.raises(InputError, match=r"--template nowhere\.nii: there is no such file"):
            kind(template="nowhere.nii")
    raw = tmp_path / "sub-01_T1w.nii.gz"
    raw.write_bytes(b"x")
    scan = Scan("01", "", raw)
    copies = [tmp_path / f"{name}.nii.gz" for name in "ab"]
    for one in copies:
        one.write_bytes((brains / "own.nii.gz").read_bytes())
    prints = [t1w_fingerprint(scan, T1wOptions(template=str(one))) for one in copies]
    prints.append(t1w_fingerprint(scan, T1wOptions()))
    copies[0].write_bytes(b"other")
    prints.append(t1w_fingerprint(scan, T1wOptions(template=str(copies[0]))))
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    assert DwiOptions(template=str(copies[1])).t1w.template == str(copies[1])


def test_the_workflow_hands_the_template_to_the_registration(brains, way, tmp_path):
    raw = tmp_path / "sub-01_T1w.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), raw)
    options = T1wOptions("linear", EDGE, template=str(brains / "own.nii.gz"))
    workflow = init_t1w_wf(
        name="t1w_wf", scan=Scan("01", "", raw), output_dir=tmp_path,
        template=brains / "mni.nii.gz", options=options,
    )  # fmt: skip
    given = workflow.get_node("register").inputs
    assert {name: getattr(given, name) for name in way} == way


def test_other_modalities_refuse_it():
    with pytest.raises(InputError, match="for T1w and dwi, not for spect"):
        Recipe().overridden(
            {
                "input": {"modality": "spect"},
                "preprocessing": {"template": "x", "registration": "linear"},
                "statistics": {"maps": []},
            }
        )
