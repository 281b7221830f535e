"""FSL by option: what topup and eddy are given, and how their results come back; without FSL."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nipype.interfaces import fsl
from numpy.testing import assert_allclose

from models.diffusion_phantom import table_of
from models.errors import InputError
from pipelines.diffusion_options import Diffusion
from pipelines.gradient_files import load_table, save_table, write_fsl
from pipelines.images import read_nifti, write_nifti
from pipelines.inputs import Scan
from pipelines.interfaces.diffusion import ConformDwi
from pipelines.interfaces.diffusion_fsl import (
    ForFsl,
    FromFsl,
    acquisition,
    check_fsl,
    las,
    motion_of,
)
from pipelines.phase_encoding import PhaseEncoding
from pipelines.preprocess.dwi import DwiOptions, init_dwi_wf

# A stand-in for the programs: it writes what they write, the images as they are.
STAND_IN = """#!/bin/sh
echo "$0 $@" >> "$STAND_IN_LOG"
for one in "$@"; do case $one in
  --imain=*) imain=${one#*=};; --out=*) out=${one#*=};; --bvecs=*) bvecs=${one#*=};;
  --iout=*) iout=${one#*=};; --fout=*) fout=${one#*=};;
esac; done
case $0 in
*topup)
  cp "$imain" "${out}_fieldcoef.nii.gz"; echo 0 0 0 0 0 0 > "${out}_movpar.txt"
  cp "$imain" "$iout"; cp "$imain" "$fout"; for k in 01 02; do
  cp "$imain" warpfield_$k.nii.gz; cp "$imain" jac_$k.nii.gz; echo 1 > xfm_$k.mat; done;;
*)
  cp "$imain" "$out.nii.gz"; cp "$bvecs" "$out.eddy_rotated_bvecs"
  for k in 0 1 2 3 4 5 6; do echo 0.$k 0 0 0.01 0 0 0 0; done > "$out.eddy_parameters"
  for k in 0 1 2 3 4 5 6; do echo 0.5 0.$k; done > "$out.eddy_restricted_movement_rms";;
esac
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Stand-ins on PATH; their calls, one per line."""
    folder = tmp_path / "fsl bin"
    folder.mkdir()
    for name in ("topup", "eddy_openmp"):
        (folder / name).write_text(STAND_IN)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "calls"))
    monkeypatch.delenv("FSLDIR", raising=False)
    return tmp_path / "calls"


def raw(folder, axcodes="LAS", *, direction="AP", encoding="j-", **said):
    """A series of six directions with a bright brain, stored along other axes, and its table."""
    rng = np.random.default_rng(0)
    shape, table = (18, 20, 16), table_of(6, 1000.0)
    ball = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - [9, 11, 8], axis=-1) < 6
    data = (ball[..., None] * rng.uniform(50, 100, 7) + rng.uniform(1, 2, (*shape, 7))).astype("f4")
    affine = np.diag([4.0, 4, 5, 1])
    affine[:3, 3] = [-36, -42, -31]
    image = nib.Nifti1Image(data, affine)
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axcodes)
    )
    image = image.as_reoriented(turn)
    path = folder / f"sub-01/dwi/sub-01_dir-{direction}_dwi.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_description.json").write_text("{}")
    nib.save(image, path)
    stem = str(path).removesuffix(".nii.gz")
    write_fsl(table, image.affine, Path(f"{stem}.bval"), Path(f"{stem}.bvec"))
    sidecar = {"PhaseEncodingDirection": encoding, "TotalReadoutTime": 0.05} | said
    Path(f"{stem}.json").write_text(json.dumps({k: v for k, v in sidecar.items() if v}))
    return path, table


def workflow_of(path, tmp_path):
    write_nifti(tmp_path / "template.nii.gz", np.ones((2, 2, 2)), np.eye(4))
    return init_dwi_wf(
        name="dwi_wf", scan=Scan("01", "", path), output_dir=tmp_path / "out",
        template=tmp_path / "template.nii.gz",
        options=DwiOptions("linear", dwi=Diffusion(gibbs="none", motion="fsl")),
    )  # fmt: skip


def test_without_fsl_the_remedy_is_said(tmp_path, monkeypatch):
    path, _ = raw(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"eddy of FSL is not on PATH; install FSL .* 'ants'"):
        workflow_of(path, tmp_path)
    with pytest.raises(InputError, match="eddy and topup of FSL"):
        check_fsl(pair=True)


def test_the_graph_ends_where_that_of_ants_does(tmp_path, programs):
    path, _ = raw(tmp_path)
    alone = {node.name for node in workflow_of(path, tmp_path)._graph}
    assert {"prepare", "eddy", "resample", "brain", "fit"} <= alone
    assert not {"reference", "align", "pair", "topup"} & alone
    raw(tmp_path, direction="PA", encoding="j")
    paired = workflow_of(path, tmp_path)
    assert paired.get_node("topup") is not None
    assert paired.get_node("resample").inputs.pair is True
    assert str(paired.get_node("prepare").inputs.opposite).endswith("dir-PA_dwi.nii.gz")


# Raw axes, phase encoding along them, and what it is along LAS.
ROWS = [
    ("LAS", "j-", [0, -1, 0]),
    ("RAS", "j-", [0, -1, 0]),
    ("LPS", "j", [0, -1, 0]),
    ("LAS", "i", [1, 0, 0]),
    ("RAS", "i", [-1, 0, 0]),
    ("RPI", "k", [0, 0, -1]),
    ("PIR", "i", [0, -1, 0]),
    ("PIR", "k-", [1, 0, 0]),
]


@pytest.mark.parametrize(("axcodes", "encoding", "row"), ROWS)
def test_phase_encoding_is_told_along_the_axes_that_fsl_sees(tmp_path, axcodes, encoding, row):
    path, _ = raw(tmp_path, axcodes, encoding=encoding)
    affine = nib.load(path).affine
    told = PhaseEncoding.of(
        path, {"PhaseEncodingDirection": encoding, "TotalReadoutTime": 0.05}, affine
    )
    assert acquisition(told, affine, path) == [*row, 0.05]


@pytest.mark.parametrize("lacking", ["PhaseEncodingDirection", "TotalReadoutTime"])
def test_what_eddy_must_know_is_asked_for(tmp_path, lacking):
    path, _ = raw(tmp_path, **{lacking: None}, direction="XX")
    series = ConformDwi(in_file=path).run(cwd=tmp_path).outputs
    with pytest.raises(InputError, match=rf"has no {lacking}, .*motion = 'ants'"):
        ForFsl(in_file=series.out_file, table=series.table, source=path).run(cwd=tmp_path)


def test_las_there_and_back():
    data = np.arange(24.0).reshape(2, 3, 4)
    affine = np.array([[2.0, 0.1, 0, 3], [-0.1, 2, 0, 4], [0, 0, 3, 5], [0, 0, 0, 1]])
    turned, there = las(data, affine)
    for voxel in ((0, 1, 2), (1, 2, 3)):
        (found,) = np.argwhere(turned == data[voxel])
        assert_allclose(there @ [*found, 1], affine @ [*voxel, 1])
    again, back = las(turned, there)
    assert (again == data).all()
    assert_allclose(back, affine)


@pytest.mark.parametrize("axcodes", ["LAS", "RAS", "LPS"])
def test_the_command_lines_and_what_they_are_given(tmp_path, axcodes):
    path, table = raw(tmp_path, axcodes, encoding="j-" if axcodes[1] == "A" else "j")
    other, _ = raw(tmp_path, axcodes, direction="PA", encoding="j" if axcodes[1] == "A" else "j-")
    series = ConformDwi(in_file=path).run(cwd=tmp_path).outputs
    given = (
        ForFsl(in_file=series.out_file, table=series.table, source=path, opposite=other)
        .run(cwd=tmp_path)
        .outputs
    )
    assert np.loadtxt(given.parameters).tolist() == [[0, -1, 0, 0.05], [0, 1, 0, 0.05]]
    assert np.loadtxt(given.index).tolist() == [1] * 7
    assert np.loadtxt(given.b_values).tolist() == [0, *[1000] * 6]
    image, conformed = read_nifti(given.series), read_nifti(series.out_file)
    assert nib.aff2axcodes(image.affine) == tuple("LAS")
    assert (np.asarray(image.dataobj)[::-1] == np.asarray(conformed.dataobj)).all()
    # Along LAS, FSL's vectors are those of the world but for x, which runs the other way.
    vectors = np.loadtxt(given.b_vectors).T
    assert_allclose(vectors[1:] * [-1, 1, 1], table.directions[1:], atol=1e-5)
    assert read_nifti(given.pair).shape == (18, 20, 16, 2)
    mask = np.asarray(read_nifti(given.mask).dataobj)
    assert 0 < mask.mean() < 1
    eddy = fsl.Eddy(
        in_file=given.series, in_mask=given.mask, in_index=given.index, in_acqp=given.parameters,
        in_bval=given.b_values, in_bvec=given.b_vectors, is_shelled=True, slm="linear",
    )  # fmt: skip
    line = eddy.cmdline
    for text in (
        f"--imain={given.series}", f"--mask={given.mask}", f"--acqp={given.parameters}",
        f"--index={given.index}", f"--bvecs={given.b_vectors}", f"--bvals={given.b_values}",
        "--data_is_shelled", "--slm=linear",
    ):  # fmt: skip
        assert text in line
    topup = fsl.TOPUP(in_file=given.pair, encoding_file=given.parameters).cmdline
    assert f"--imain={given.pair}" in topup
    assert f"--datain={given.parameters}" in topup


def test_results_come_back_along_the_world(tmp_path, programs):
    """Through stand-ins that change nothing, series and directions are what they were."""
    path, table = raw(tmp_path, "LPS", encoding="j")
    raw(tmp_path, "LPS", direction="PA", encoding="j-")
    series = ConformDwi(in_file=path).run(cwd=tmp_path).outputs
    workflow = workflow_of(path, tmp_path)
    kept = {"prepare", "topup", "eddy", "resample"}
    workflow.remove_nodes([one for one in list(workflow._graph) if one.name not in kept])
    workflow.get_node("prepare").inputs.trait_set(in_file=series.out_file, table=series.table)
    workflow.get_node("resample").inputs.table = series.table
    workflow.base_dir = str(tmp_path / "work")
    workflow.config["execution"] = {"crashdump_dir": str(tmp_path)}
    graph = workflow.run()
    (last,) = [node for node in graph if node.name == "resample"]
    found = last.result.outputs
    image, before = read_nifti(found.out_file), read_nifti(series.out_file)
    assert_allclose(image.affine, before.affine, atol=1e-5)
    assert_allclose(np.asarray(image.dataobj), np.asarray(before.dataobj), rtol=1e-6)
    assert_allclose(load_table(found.table).directions, table.directions, atol=1e-5)
    assert found.motion["displacement_mm"] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert found.motion["shifts_mm"][3] == [0.3, 0, 0]
    assert found.motion["turns_degrees"][3] == [0.573, 0, 0]
    assert "topup" in found.meta["SusceptibilityDistortion"]
    topup, eddy = programs.read_text().splitlines()
    assert "topup" in topup
    assert "--topup=" in eddy


def test_motion_without_the_file_of_displacements(tmp_path):
    (tmp_path / "parameters").write_text("0 0 0 0 0 0 1\n3 4 0 0 0 0 1\n")
    motion = motion_of(str(tmp_path / "parameters"))
    assert motion["displacement_mm"] == [0.0, 5.0]


def test_turned_directions_are_scaled_and_b0s_have_none(tmp_path):
    table = table_of(6, 1000.0)
    write_nifti(tmp_path / "s.nii.gz", *las(np.ones((3, 3, 3, 7)), np.eye(4)))
    (tmp_path / "p").write_text("0 0 0 0 0 0\n" * 7)
    turned = np.vstack([[0.3, 0, 0], 0.9 * table.directions[1:] * [-1, 1, 1]])
    np.savetxt(tmp_path / "v", turned.T)
    found = FromFsl(
        in_file=tmp_path / "s.nii.gz", b_vectors=tmp_path / "v", parameters=tmp_path / "p",
        table=save_table(table, tmp_path / "table.json"),
    ).run(cwd=tmp_path).outputs  # fmt: skip
    assert_allclose(load_table(found.table).directions, table.directions, atol=1e-6)
    assert "no image of opposite" in found.meta["SusceptibilityDistortion"]
