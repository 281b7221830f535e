"""The T1w workflow: its graph, its names, and when a scan counts as done. Nothing is run here."""

import itertools
import re
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from nibabel.affines import apply_affine

from models.grids import GRIDS, MNI_ORIGIN_MM, full_grid
from pipelines.atlases import template as mni
from pipelines.derivatives import ENTITY_ORDER, has_sidecar, sidecar_path, write_json
from pipelines.images import in_template, percent_cut, read_nifti, write_nifti
from pipelines.inputs import Scan
from pipelines.interfaces.images import Centre
from pipelines.participant import init_participant_wf, template_on_grid
from pipelines.preprocess.t1w import (
    MODALITY,
    T1wOptions,
    init_t1w_wf,
    t1w_fingerprint,
    t1w_paths,
)
from pipelines.quality import flags_of, flags_of_cut

# node: the nodes that it feeds
SKELETON = {
    "conform": {"brain_mask", "bias_field", "save"},
    "brain_mask": {"bias_field", "register", "quality", "figures", "save"},
    "bias_field": {"register", "figures", "save"},
    "register": {"quality", "figures", "save"},
    "quality": {"save"},
    "figures": {"save"},
    "save": {"outputnode"},
    "outputnode": set(),
}


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "raw/sub-01/anat/sub-01_T1w.nii.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"voxels")
    return Scan("01", "", path)


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "template.nii.gz"
    write_nifti(path, np.ones((2, 2, 2)), np.eye(4))
    return path


def build(scan, template, tmp_path, **options):
    device = options.pop("device", "cpu")
    return init_t1w_wf(
        name="t1w_wf", scan=scan, output_dir=tmp_path / "out", template=template,
        options=T1wOptions(**options), device=device,
    )  # fmt: skip


# --- graph ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("registration", ["nonlinear", "linear", "none"])
def test_the_graph_is_the_skeleton(scan, template, tmp_path, registration):
    graph = build(scan, template, tmp_path, registration=registration)._graph
    found = {node.name: {after.name for after in graph.successors(node)} for node in graph}
    assert found == SKELETON
    assert nx.is_directed_acyclic_graph(graph)


@pytest.mark.parametrize("registration", ["nonlinear", "none"])
def test_every_derivative_is_connected_to_the_sink(scan, template, tmp_path, registration):
    workflow = build(scan, template, tmp_path, registration=registration)
    save = workflow.get_node("save")
    fed = {
        target
        for _, _, edge in workflow._graph.in_edges(save, data=True)
        for _, target in edge["connect"]
    }
    assert set(save.inputs.paths) <= fed
    assert {name for name in fed if name.endswith("_meta")} == fed - set(save.inputs.paths)
    assert {"register_meta", "mask_meta", "conform_meta", "quality_meta"} <= fed


@pytest.mark.parametrize("registration", ["nonlinear", "none"])
def test_every_described_derivative_has_the_fields_bids_requires(
    scan, template, tmp_path, registration
):
    workflow = build(scan, template, tmp_path, registration=registration, resolution_mm=3.0)
    inputs = workflow.get_node("save").inputs
    assert inputs.common["Sources"] == ["bids:raw:sub-01/anat/sub-01_T1w.nii.gz"]
    for name, path in inputs.paths.items():
        if has_sidecar(path):
            sidecar = inputs.sidecars[name]
            assert "Description" in sidecar, name
            # Of the native image, the brain mask's node says whether it came with its skull.
            assert ("SkullStripped" in sidecar) == (name == "registered"), name
            assert ("Resolution" in sidecar) == ("_res-" in path), name
            assert (sidecar.get("Type") == "Brain") == path.endswith("_mask.nii.gz"), name
            if "_space-individual_" in path:
                reference = "bids::sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"
                assert sidecar["SpatialReference"] == reference, name
                assert str(MNI_ORIGIN_MM) not in sidecar["Resolution"], name


def test_what_is_not_registered_says_so_and_has_no_transform(scan, template, tmp_path):
    paths = t1w_paths(scan, T1wOptions("none", 2.0))
    name = "sub-01/anat/sub-01_space-individual_res-2mm_desc-preprocNone_T1w.nii.gz"
    assert paths["registered"] == name
    assert not [path for path in paths.values() if "MNI" in path or path.endswith(".h5")]
    node = build(scan, template, tmp_path, registration="none", resolution_mm=2.0)
    assert node.get_node("register").inputs.resolution_mm == 2.0


def test_variants_share_what_comes_before_the_registration(scan, template, tmp_path):
    """So that the work dir's cache serves the mask and the bias field of the first to the next."""
    variants = [
        build(scan, template, tmp_path, registration=how) for how in ("nonlinear", "linear", "none")
    ]
    for name in ("conform", "brain_mask", "bias_field"):
        nodes = [one.get_node(name) for one in variants]
        assert len({str(node.inputs.get()) for node in nodes}) == 1, name
        assert len({type(node.interface) for node in nodes}) == 1, name
    assert len({str(one.get_node("register").inputs.get()) for one in variants}) == 3


def test_options_reach_their_nodes(scan, template, tmp_path):
    workflow = build(scan, template, tmp_path, registration="linear", seed=7)
    assert workflow.get_node("register").inputs.how == "linear"
    assert workflow.get_node("register").inputs.seed == 7
    assert workflow.get_node("bias_field").inputs.seed == 7
    assert not workflow.get_node("brain_mask").is_gpu_node()
    assert build(scan, template, tmp_path, device="cuda").get_node("brain_mask").is_gpu_node()


def test_denoising_is_a_node_of_its_own_between_the_scan_and_the_bias_field(
    scan, template, tmp_path
):
    workflow = build(scan, template, tmp_path, denoise="nlm")
    graph = workflow._graph
    found = {node.name: {after.name for after in graph.successors(node)} for node in graph}
    conform = SKELETON["conform"] - {"bias_field"} | {"denoise"}
    assert found == SKELETON | {"conform": conform, "denoise": {"bias_field", "save"}}
    sidecars = workflow.get_node("save").inputs.sidecars
    assert "non-local means" in sidecars["image"]["Description"]
    assert sidecars["quality"]["Options"]["denoise"] == "nlm"


def test_the_brain_extraction_of_the_recipe_is_used(scan, template, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.brain_extraction.check_robex", lambda: None)
    options = {"brain_extraction": "robex", "seed": 7}
    node = build(scan, template, tmp_path, **options).get_node("brain_mask")
    assert (node.inputs.method, node.inputs.seed) == ("robex", 7)
    # deepbet draws nothing: another seed must not redo its mask
    masks = [build(scan, template, tmp_path, seed=seed).get_node("brain_mask") for seed in (1, 7)]
    assert str(masks[0].inputs.get()) == str(masks[1].inputs.get())


def test_people_and_sessions_are_independent_branches(scan, tmp_path):
    scans = [scan, Scan("02", "1", scan.path), Scan("02", "2", scan.path)]
    workflow = init_participant_wf(
        scans=scans, output_dir=tmp_path / "out", work_dir=tmp_path / "work",
        modality=MODALITY, options=T1wOptions(resolution_mm=6.0),
    )  # fmt: skip
    names = workflow.list_node_names()
    assert len(names) == 3 * len(SKELETON)
    folders = {name.rsplit(".", 1)[0] for name in names}
    assert folders == {"sub_01.t1w_wf", "sub_02.t1w_ses_1_wf", "sub_02.t1w_ses_2_wf"}
    flat = nx.Graph(workflow._create_flat_graph())
    assert nx.number_connected_components(flat) == 3


def test_the_template_is_made_once_and_is_a_brain(tmp_path):
    path = template_on_grid(3.0, tmp_path)
    when = path.stat().st_mtime_ns
    assert template_on_grid(3.0, tmp_path) == path
    assert path.stat().st_mtime_ns == when
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    brain = np.asarray(read_nifti(path).dataobj) > 0
    original = np.asarray(read_nifti(mni()).dataobj) > 0
    assert brain.sum() * 3**3 == pytest.approx(original.sum(), rel=0.15)  # mm3; a thin rim more


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("session", ["", "2"])
@pytest.mark.parametrize("how", ["linear", "nonlinear", "none"])
def test_names_are_valid_and_unique(session, how):
    scan = Scan("01", session, Path("x"))
    paths = t1w_paths(scan, T1wOptions(how, 1.5))
    assert len(set(paths.values())) == len(paths)
    assert list(paths)[-1] == "quality"  # the last to be written marks the set as complete
    for path in paths.values():
        folder, name = path.rsplit("/", 1)
        assert folder in ("sub-01/ses-2/anat" if session else "sub-01/anat", "sub-01/figures")
        *entities, _ = name.split("_")
        keys = [entity.split("-")[0] for entity in entities]
        assert keys == sorted(keys, key=ENTITY_ORDER.index)
        assert all(re.fullmatch(r"[a-z]+-[0-9a-zA-Z]+", entity) for entity in entities)
        assert ("ses-2" in entities) == bool(session)


def test_variants_of_the_registration_do_not_overwrite_each_other():
    scan = Scan("01", "", Path("x"))
    variants = [
        t1w_paths(scan, T1wOptions(how, mm))
        for how, mm in itertools.product(("linear", "nonlinear", "none"), (1.0, 2.0))
    ]
    registered = [paths["registered"] for paths in variants]
    assert len(set(registered)) == 6
    assert len({paths["image"] for paths in variants}) == 1  # native space knows no variant


# --- done ----------------------------------------------------------------------------------------


def finish(scan, options, output_dir):
    """Write empty derivatives as a finished run leaves them."""
    for path in t1w_paths(scan, options).values():
        target = output_dir / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"")
        if has_sidecar(target):
            write_json(sidecar_path(target), {"Fingerprint": t1w_fingerprint(scan, options)})


def test_done_is_done(scan, tmp_path):
    options = T1wOptions()
    assert not MODALITY.is_done(tmp_path, scan, options)
    finish(scan, options, tmp_path)
    assert MODALITY.is_done(tmp_path, scan, options)


def test_every_file_that_is_lost_is_missed(scan, tmp_path):
    options = T1wOptions()
    finish(scan, options, tmp_path)
    files = [path for path in tmp_path.rglob("sub-01_*") if "raw" not in path.parts]
    assert len(files) == len(t1w_paths(scan, options)) + 5
    for path in files:
        kept = path.read_bytes()
        path.unlink()
        assert not MODALITY.is_done(tmp_path, scan, options), path.name
        path.write_bytes(kept)
    assert MODALITY.is_done(tmp_path, scan, options)


@pytest.mark.parametrize(
    "other",
    [
        {"registration": "linear"},
        {"resolution_mm": 2.0},
        {"seed": 2},
        {"denoise": "nlm"},
        {"brain_extraction": "robex"},
    ],
)
def test_other_options_are_other_work(scan, tmp_path, other):
    finish(scan, T1wOptions(), tmp_path)
    assert not MODALITY.is_done(tmp_path, scan, T1wOptions(**other))
    assert t1w_fingerprint(scan, T1wOptions(**other)) != t1w_fingerprint(scan, T1wOptions())


def test_other_voxels_are_other_work_but_another_place_is_not(scan, tmp_path):
    finish(scan, T1wOptions(), tmp_path)
    moved = scan.path.rename(tmp_path / "elsewhere.nii.gz")
    assert MODALITY.is_done(tmp_path, Scan("01", "", moved), T1wOptions())
    moved.write_bytes(b"other voxels")
    assert not MODALITY.is_done(tmp_path, Scan("01", "", moved), T1wOptions())


# --- without registration ------------------------------------------------------------------------


def centre(tmp_path, image, mask, affine, resolution_mm=3.0):
    write_nifti(tmp_path / "image.nii.gz", image, affine)
    write_nifti(tmp_path / "mask.nii.gz", mask, affine)
    node = Centre(
        in_file=tmp_path / "image.nii.gz",
        mask=tmp_path / "mask.nii.gz",
        resolution_mm=resolution_mm,
    )
    return node.run(cwd=tmp_path).outputs


def test_a_brain_is_centred_without_skull_and_stays_where_it_was_scanned(tmp_path):
    affine = np.array([[0, 0, 1.2, -80], [1.0, 0, 0, -100], [0, 1.1, 0, -90], [0, 0, 0, 1]])
    affine = affine[:, [2, 0, 1, 3]]  # RAS+
    image = np.full((130, 200, 170), 7.0)
    mask = np.zeros(image.shape, bool)
    mask[40:90, 60:140, 50:120] = True
    image[mask] = 100
    image[70:76, 100:106, 90:96] = 300  # off the middle
    out = centre(tmp_path, image, mask, affine)
    made, kept = read_nifti(out.out_file), np.asarray(read_nifti(out.out_mask).dataobj) > 0
    data = np.asarray(made.dataobj)
    assert made.shape == full_grid(3.0).shape
    assert ((data != 0) == kept).all()
    assert out.outside_percent == 0
    volume = kept.sum() * 27
    # Each of the box's faces, 60 mm and more apart, falls on whole voxels of 3 mm.
    assert volume == pytest.approx(mask.sum() * np.linalg.det(affine[:3, :3]), rel=0.05)
    bright = apply_affine(made.affine, np.argwhere(data > 200).mean(0))
    np.testing.assert_allclose(bright, apply_affine(affine, [72.5, 102.5, 92.5]), atol=1)
    assert not in_template(made)


def test_a_brain_that_the_grid_cuts_is_counted_and_flagged(tmp_path):
    image = np.full((64, 64, 120), 100.0)  # 360 mm high: the grid has 192
    mask = np.zeros(image.shape, bool)
    mask[16:48, 16:48, 80:112] = True
    out = centre(tmp_path, image, mask, np.diag([3.0, 3, 3, 1]))
    row = {"registration": "none", "mask_volume_ml": 1400.0, "brain_outside_percent": 62.5}
    assert out.outside_percent == row["brain_outside_percent"]  # from 92 on, 20 of 32 slices
    assert flags_of(row) == ["62.5 % of the brain lies outside of the grid"]
    assert flags_of(row | {"brain_outside_percent": 0.05}) == []


def test_what_a_smaller_grid_of_the_network_cuts_is_counted_too(tmp_path):
    whole = full_grid(1.0)
    mask = np.zeros(whole.shape, bool)
    mask[90:100, 90:100, :20] = True  # crop1mm begins at 6
    write_nifti(tmp_path / "mask.nii.gz", mask, np.diag([1.0, 1, 1, 1]))
    assert percent_cut(tmp_path / "mask.nii.gz", GRIDS["crop1mm"]) == pytest.approx(30)
    assert percent_cut(tmp_path / "mask.nii.gz", GRIDS["1mm"]) == 0
    assert flags_of_cut(30.0, "crop1mm") == ["30.0 % of the brain lies outside of the grid crop1mm"]


def test_a_grid_finer_than_the_scan_is_warned_of(tmp_path):
    image = np.full((40, 48, 40), 100.0)
    affine = np.diag([4.0, 4, 4, 1])
    (warning,) = centre(tmp_path, image, image > 0, affine).meta["Warnings"]
    assert "resolution_mm = 3 is finer than the scan (4 mm)" in warning
    assert centre(tmp_path, image, image > 0, affine, 4.0).meta["Warnings"] == []


# --- quality -------------------------------------------------------------------------------------


def test_a_good_scan_has_no_flag():
    row = {"mask_volume_ml": 1400.0, "template_correlation": 0.9, "template_overlap": 0.97}
    assert flags_of(row) == []


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        ({"mask_volume_ml": 300.0}, "unusual brain mask volume (300 ml)"),
        ({"mask_volume_ml": 2600.0}, "unusual brain mask volume (2600 ml)"),
        ({"template_correlation": 0.3}, "low correlation with the template (0.30)"),
        ({"template_overlap": 0.7}, "brain does not cover the template (Dice 0.70)"),
    ],
)
def test_what_is_far_off_is_flagged(spoilt, words):
    row = {"mask_volume_ml": 1400.0, "template_correlation": 0.9, "template_overlap": 0.97}
    assert flags_of(row | spoilt) == [words]


def test_what_is_stored_is_found_by_person_and_session(tmp_path):
    options = T1wOptions("linear", 3.0)
    scans = [Scan("01", "", tmp_path), Scan("02", "a", tmp_path), Scan("02", "b", tmp_path)]
    for scan in scans:
        target = tmp_path / t1w_paths(scan, options)["registered"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    found = MODALITY.stored(tmp_path, options)
    assert list(found) == [("01", ""), ("02", "a"), ("02", "b")]
    assert found["02", "b"] == tmp_path / t1w_paths(scans[2], options)["registered"]
    assert MODALITY.stored(tmp_path, T1wOptions("nonlinear", 3.0)) == {}
    assert MODALITY.stored(tmp_path, options, "quality") == {}
