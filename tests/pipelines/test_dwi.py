"""The DWI workflow: its graph, its names, when a scan counts as done, what a network sees."""

import json
from dataclasses import replace
from pathlib import Path

import networkx as nx
import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bidsapp.settings import Preprocessing
from models.diffusion_phantom import fibres, simulate_diffusion, table_of
from models.errors import InputError
from models.grids import GRIDS, full_grid
from models.phantom import Canvas, head_model, person_seed, simulate
from models.tensor import mirrored
from pipelines.atlases import template as mni
from pipelines.derivatives import has_sidecar, read_sidecar, read_table
from pipelines.diffusion_options import CHOICES, MAPS, Diffusion
from pipelines.gradient_files import write_fsl
from pipelines.images import read_nifti, write_nifti
from pipelines.inputs import Scan, find_scans
from pipelines.participant import init_participant_wf
from pipelines.preprocess import modality_of
from pipelines.preprocess.dwi import (
    MODALITY,
    DwiOptions,
    dwi_fingerprint,
    dwi_paths,
    init_dwi_wf,
    tensor_input,
)

# What every scan has, node: the nodes that it feeds.
SHARED = {
    "conform": {"denoise", "unring", "reference", "align", "resample", "fit", "save"},
    "denoise": {"unring", "fit", "save"},
    "unring": {"reference", "align", "resample", "save"},
    "reference": {"align", "resample"},
    "align": {"resample"},
    "resample": {"brain", "fit", "quality", "figures", "save"},
    "brain": {"fit", "carry", "quality", "figures", "save", "register"},
    "fit": {"carry", "quality", "figures", "save"},
    "register": {"carry", "save"},
    "carry": {"quality", "figures", "save"},
    "quality": {"save"},
    "figures": {"save"},
    "save": {"outputnode"},
    "outputnode": set(),
}
BY_T1W = {
    "t1w_wf": {"register"},
    "conform": SHARED["conform"] | {"register"},
    "register": {"carry", "figures", "save"},
}
PAIR = {"pair": {"resample", "save"}}
LAS = np.diag([-2.0, 2, 2, 1])


@pytest.fixture
def scan(tmp_path):
    """A DWI with its tables, a T1w image, and an opposite DWI; their voxels do not matter."""
    raw = tmp_path / "raw"
    for folder in ("anat", "dwi"):
        (raw / "sub-01" / folder).mkdir(parents=True)
    (raw / "dataset_description.json").write_text("{}")
    t1w = raw / "sub-01/anat/sub-01_T1w.nii.gz"
    t1w.write_bytes(b"T1w")
    for direction in ("AP", "PA"):
        path = raw / f"sub-01/dwi/sub-01_dir-{direction}_dwi.nii.gz"
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.uint8), LAS), path)
        for ending in ("bval", "bvec"):
            path.with_name(f"sub-01_dir-{direction}_dwi.{ending}").write_text("0 1000")
    return Scan("01", "", path.with_name("sub-01_dir-AP_dwi.nii.gz"), Scan("01", "", t1w))


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "template.nii.gz"
    write_nifti(path, np.ones((2, 2, 2)), np.eye(4))
    return path


def build(scan, template, tmp_path, registration="nonlinear", **dwi):
    return init_dwi_wf(
        name="dwi_wf",
        scan=scan,
        output_dir=tmp_path / "out",
        template=template,
        options=DwiOptions(registration, 2.0, dwi=Diffusion(**{"gibbs": "dipy"} | dwi)),
    )


def without_pair(scan):
    for path in scan.path.parent.glob("*dir-PA*"):
        path.unlink()
    return scan


@pytest.mark.parametrize(("alone", "pair"), [(False, True), (False, False), (True, False)])
def test_the_graph_is_the_skeleton(scan, template, tmp_path, alone, pair):
    scan = scan if pair else without_pair(scan)
    scan = replace(scan, t1w=None) if alone else scan
    graph = build(scan, template, tmp_path)._graph
    found = {node.name: {after.name for after in graph.successors(node)} for node in graph}
    expected = SHARED | ({} if alone else BY_T1W)
    if pair:
        expected |= PAIR | {
            "conform": expected["conform"] | {"pair"},
            "reference": expected["reference"] | {"pair"},
        }
    assert found == expected
    assert nx.is_directed_acyclic_graph(graph)


@pytest.mark.parametrize("registration", MODALITY.registrations)
@pytest.mark.parametrize("alone", [False, True])
def test_every_derivative_is_connected_and_described(scan, template, tmp_path, registration, alone):
    scan = replace(scan, t1w=None) if alone else scan
    workflow = build(scan, template, tmp_path, registration)
    save = workflow.get_node("save")
    fed = {
        target
        for _, _, edge in workflow._graph.in_edges(save, data=True)
        for _, target in edge["connect"]
    }
    assert set(save.inputs.paths) <= fed
    assert list(save.inputs.paths)[-1] == "quality"
    assert len(save.inputs.common["Sources"]) == 3 - alone
    for name, path in save.inputs.paths.items():
        if has_sidecar(path):
            sidecar = save.inputs.sidecars[name]
            assert "Description" in sidecar, name
            assert ("Resolution" in sidecar) == ("_res-" in path), name
            assert ("SpatialReference" in sidecar) or "_space-T1w" not in path, name
            assert ("Type" in sidecar) == path.endswith("_mask.nii.gz"), name
            assert ("SkullStripped" in sidecar) or path.endswith(("_mask.nii.gz", ".tsv")), name


def test_a_choice_without_rings_or_deformation(scan, template, tmp_path):
    workflow = build(scan, template, tmp_path, gibbs="none", coregistration="rigid", fit="OLS")
    assert workflow.get_node("unring") is None
    assert workflow.get_node("register").inputs.how == "rigid"
    assert workflow.get_node("fit").inputs.method == "OLS"
    assert workflow.get_node("save").inputs.unring_meta == {"GibbsCorrection": "none"}


def test_names(scan):
    paths = dwi_paths(scan, DwiOptions("nonlinear", 2.0))
    space = "sub-01/dwi/sub-01_space-MNI152NLin2009cAsym_model-tensor_param-"
    assert paths["registered"] == f"{space}diffusivity_res-2mm_desc-nonlinear_dwimap.nii.gz"
    assert paths["registered_md"] == f"{space}md_res-2mm_desc-nonlinear_dwimap.nii.gz"
    assert paths["tensor"] == "sub-01/dwi/sub-01_model-tensor_param-diffusivity_dwimap.nii.gz"
    assert paths["to_t1w"] == "sub-01/dwi/sub-01_from-dwi_to-T1w_mode-image_xfm.h5"
    own = dwi_paths(scan, DwiOptions("none", 2.0))
    assert own["registered"] == (
        "sub-01/dwi/sub-01_space-T1w_model-tensor_param-diffusivity_res-2mm_dwimap.nii.gz"
    )
    assert not {own["registered"], own["quality"]} & set(paths.values())
    assert "to_t1w" not in dwi_paths(replace(scan, t1w=None), DwiOptions("none", 2.0))


def test_everything_that_decides_a_result_is_in_the_fingerprint(scan):
    options = DwiOptions("nonlinear", 2.0)
    made = [dwi_fingerprint(scan, options)]
    made.append(dwi_fingerprint(scan, replace(options, dwi=Diffusion(fit="OLS"))))
    made.append(dwi_fingerprint(replace(scan, t1w=None), options))
    scan.path.with_name("sub-01_dir-AP_dwi.json").write_text(json.dumps({"TotalReadoutTime": 1}))
    made.append(dwi_fingerprint(scan, options))
    scan.path.with_name("sub-01_dir-AP_dwi.bvec").write_text("0 1")
    made.append(dwi_fingerprint(scan, options))
    without_pair(scan)
    made.append(dwi_fingerprint(scan, options))
    assert len(set(made)) == len(made)


def test_options_come_from_the_recipe():
    table = {
        "registration": "none", "resolution_mm": 2.0, "brain_extraction": "deepbet",
        "denoise": "nlm", "dwi": {"fit": "RESTORE"},
    }  # fmt: skip
    options = DwiOptions.of(table, 3)
    assert options.dwi.fit == "RESTORE"
    assert options.seed == 4
    assert options.t1w.registration == "nonlinear"  # maps are taken to MNI by it
    assert not options.registered
    with pytest.raises(InputError, match="go through the T1w image anyway"):
        DwiOptions.of(table | {"registration": "t1w"}, 0)


@pytest.mark.parametrize("name", CHOICES)
def test_unknown_choices_are_refused(name):
    with pytest.raises(InputError, match=rf"\[preprocessing.dwi\] {name} = 'x'"):
        Diffusion(**{name: "x"})
    assert getattr(Preprocessing().dwi, name) == CHOICES[name][0]


def test_the_longest_series_is_the_scan(tmp_path):
    """An opposite b0 whose name comes first is no scan, and is not called passed over."""
    folder = tmp_path / "sub-01/dwi"
    folder.mkdir(parents=True)
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    for direction, volumes in (("AP", 2), ("PA", 9)):
        image = nib.Nifti1Image(np.zeros((4, 4, 4, volumes), np.uint8), LAS)
        nib.save(image, folder / f"sub-01_dir-{direction}_dwi.nii.gz")
    (folder / "sub-01_dir-XX_dwi.nii.gz").write_bytes(b"no image")
    kind = {"rank": MODALITY.rank, "others_are": MODALITY.others_are}
    (scan,), (said,) = find_scans(tmp_path, ["01"], "dwi", **kind)
    assert scan.path.name == "sub-01_dir-PA_dwi.nii.gz"
    assert "sub-01_dir-AP_dwi.nii.gz" in said
    assert "tells the distortion" in said


# --- what a network sees -------------------------------------------------------------------------


def test_a_network_sees_six_components_in_one_scale(tmp_path):
    grid = GRIDS["crop2mm"]
    whole = full_grid(2.0)
    data = np.random.default_rng(0).normal(0, 1e-3, (*whole.shape, 6)).astype(np.float32)
    for affine, template in ((whole.affine, True), (whole.affine + np.eye(4, k=3) * 9, False)):
        write_nifti(tmp_path / "t.nii.gz", data, affine, template=template)
        seen = tensor_input(tmp_path / "t.nii.gz", grid, "max")
        assert seen.shape == (6, 96, 112, 96)
        assert_allclose(seen, np.moveaxis(data[:, 1:-1], -1, 0) / 3e-3, atol=1e-5)
    assert_allclose(tensor_input(tmp_path / "t.nii.gz", grid, "stored"), 3 * seen, rtol=1e-5)
    with pytest.raises(InputError, match="choose max or stored"):
        tensor_input(tmp_path / "t.nii.gz", grid, "zscore")


def test_half_a_voxel_beside_the_stored_grid_left_is_treated_like_right(tmp_path):
    whole, grid = full_grid(2.0), GRIDS["mirror2mm"]
    tensors = np.zeros((*whole.shape, 6), np.float32)
    tensor = np.array([2, 0.2, 0.1, 1, 0.3, 1], np.float32) * 1e-3
    tensors[28:69, 40:60, 40:60] = tensor  # world x from -40 to 40
    write_nifti(tmp_path / "t.nii.gz", tensors, whole.affine, template=True)
    seen = tensor_input(tmp_path / "t.nii.gz", grid, "max")
    brain = seen[3] != 0
    assert (brain == brain[::-1]).all()
    found = np.flatnonzero(brain.any((1, 2)))
    assert grid.affine[0, 0] * found[[0, -1]] + grid.affine[0, 3] == pytest.approx([-41, 41])
    # What lies beyond the brain is not mixed in: diffusion does not fall at its edge.
    assert_allclose(seen[:, brain], np.repeat(tensor[:, None] / 3e-3, brain.sum(), 1), rtol=1e-5)


def test_the_modality_is_registered():
    assert modality_of("dwi") is MODALITY
    assert MODALITY.channels == len(MODALITY.parameters) == 6


# --- the phantom, and all of it ------------------------------------------------------------------


def test_fibres_of_the_phantom_are_alike_on_both_sides():
    canvas = Canvas.covering(((-42, 42), (-50, 40), (-20, 50)), 4.0)
    found = fibres(canvas)
    assert_allclose(np.linalg.norm(found, axis=0), 1, atol=1e-6)
    rows, columns = np.triu_indices(3)
    dyad = np.moveaxis((found[:, None] * found[None])[rows, columns], 0, -1)
    import torch

    assert_allclose(mirrored(torch.as_tensor(dyad)), dyad, atol=1e-6)
    middle = found[:, canvas.shape[0] // 2, canvas.shape[1] // 2, -5]
    assert abs(middle[0]) > 0.95  # the corpus callosum


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """One person of the phantom at 5 mm, LAS: raw scans, and the true tensor."""
    folder = tmp_path_factory.mktemp("study")
    brain = nib.Nifti1Image.from_filename(mni())
    model = head_model(brain, np.zeros(brain.shape, np.int16), [], effect=0.0, voxel_mm=5.0)
    made = {"age": 60.0, "voxel_mm": 5.0, "axcodes": "LAS"}
    table = table_of(12, 1000.0)
    diffusion = simulate_diffusion(model, person_seed(0, 1), table=table, **made)
    t1w = simulate(model, person_seed(0, 1), patient=False, session=2, **made)
    (folder / "dataset_description.json").write_text("{}")
    for kind in ("anat", "dwi"):
        (folder / "sub-01" / kind).mkdir(parents=True)
    path = folder / "sub-01/dwi/sub-01_dir-AP_dwi.nii.gz"
    nib.save(diffusion.image, path)
    stem = str(path).removesuffix(".nii.gz")
    write_fsl(table, diffusion.image.affine, Path(f"{stem}.bval"), Path(f"{stem}.bvec"))
    nib.save(t1w.image, folder / "sub-01/anat/sub-01_T1w.nii.gz")
    scan = Scan("01", "", path, Scan("01", "", folder / "sub-01/anat/sub-01_T1w.nii.gz"))
    return scan, diffusion


@pytest.mark.slow
@pytest.mark.parametrize(
    ("registration", "alone"), [("linear", False), ("none", False), ("linear", True)]
)
def test_a_small_head_from_raw_to_mni(study, tmp_path, registration, alone):
    """Fibres of the phantom lie where they were made, in the person's space and in MNI."""
    scan, truth = study
    scan = replace(scan, t1w=None) if alone else scan
    options = DwiOptions(registration, 4.0, dwi=Diffusion(gibbs="dipy"))
    out = tmp_path / "out"
    init_participant_wf(
        scans=[scan], output_dir=out, work_dir=tmp_path / "work", modality=MODALITY, options=options
    ).run()
    assert MODALITY.is_done(out, scan, options)
    paths = {name: out / path for name, path in dwi_paths(scan, options).items()}
    image = read_nifti(paths["tensor"])
    found = np.asarray(image.dataobj)
    assert _degrees(found, truth.tensor) < 6
    registered = np.asarray(read_nifti(paths["registered"]).dataobj)
    if registration != "none":
        canvas = full_grid(4.0)
        expected = fibres(Canvas(canvas.shape, 4.0, np.array(canvas.origin_mm)))
        rows, columns = np.triu_indices(3)
        dyads = np.moveaxis((expected[:, None] * expected[None])[rows, columns], 0, -1)
        assert _degrees(registered, dyads) < 15
    row = read_table(paths["quality"]).iloc[0]
    assert row["volumes"] == 13
    assert 0.3 < row["white_fa"] < 0.7
    assert row["residual_percent"] < 3
    sidecar = read_sidecar(paths["registered"])
    assert any("TotalReadoutTime" in one for one in sidecar["Warnings"])
    assert any("no T1w image" in one for one in sidecar["Warnings"]) == alone
    for name in MAPS:
        data = np.asarray(read_nifti(paths[f"registered_{name}"]).dataobj)
        assert np.isfinite(data).all()


def _degrees(found, expected):
    """Median angle of first eigenvectors where the found tensor is clearly anisotropic."""
    import torch

    from models.tensor import eigen, scalars

    values, vectors = eigen(torch.as_tensor(found).double())
    first = eigen(torch.as_tensor(expected).double())[1][..., 0]
    clear = (scalars(values)["fa"] > 0.35) & (values[..., 2] > 0)
    cosine = (vectors[..., 0] * first).sum(-1).abs().clamp(max=1)
    return float(torch.rad2deg(torch.acos(cosine[clear])).median())
