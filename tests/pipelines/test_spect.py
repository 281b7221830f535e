"""The SPECT workflow: graph, names, when it is done; and phantoms through its interfaces."""

import itertools
import json
from pathlib import Path

import networkx as nx
import nibabel as nib
import numpy as np
import pytest

from models.errors import InputError
from models.phantom import (
    SCANNER_MM,
    Canvas,
    head_shape,
    move,
    person_seed,
    pose,
    sample,
    stream,
)
from models.uptake import hottest_mean
from models.uptake_phantom import simulate_uptake
from pipelines.derivatives import ENTITY_ORDER, read_table
from pipelines.images import load_volume, read_nifti, write_nifti
from pipelines.inputs import Scan
from pipelines.interfaces.nuclear import (
    ConformUptake,
    MeasureBinding,
    RegisterUptake,
    anatomy_of,
    flags_of,
    recorded_box,
    template_uptake,
)
from pipelines.participant import template_on_grid
from pipelines.preprocess.spect import (
    MODALITY,
    SpectOptions,
    init_spect_wf,
    spect_fingerprint,
    spect_paths,
)

SKELETON = {
    "conform": {"register", "save"},
    "register": {"measure", "save"},
    "measure": {"figures", "save"},
    "figures": {"save"},
    "save": {"outputnode"},
    "outputnode": set(),
}
THROUGH_T1W = {"conform_t1w": {"t1w_mask", "register"}, "t1w_mask": {"register"}}
PLAIN = {
    "template": "",
    "reference": "brain",
    "percentile": 75.0,
    "putamen_ml": 10.0,
    "caudate_ml": 5.0,
    "cutoff_per_cm": 1.25,
}


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "raw/sub-01/spect/sub-01_spect.nii.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"voxels")
    t1w = tmp_path / "raw/sub-01/anat/sub-01_T1w.nii.gz"
    t1w.parent.mkdir(parents=True)
    t1w.write_bytes(b"anatomy")
    return Scan("01", "", path, Scan("01", "", t1w))


def build(scan, tmp_path, **options):
    template = tmp_path / "template.nii.gz"
    write_nifti(template, np.ones((2, 2, 2)), np.eye(4))
    return init_spect_wf(
        name="spect_wf", scan=scan, output_dir=tmp_path / "out", template=template,
        options=SpectOptions(**options),
    )  # fmt: skip


# --- graph ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("registration", "more"), [("linear", {}), ("t1w", THROUGH_T1W)])
def test_the_graph_is_the_skeleton(scan, tmp_path, registration, more):
    graph = build(scan, tmp_path, registration=registration)._graph
    found = {node.name: {after.name for after in graph.successors(node)} for node in graph}
    assert found == SKELETON | more
    assert nx.is_directed_acyclic_graph(graph)


def test_every_derivative_is_connected_to_the_sink(scan, tmp_path):
    workflow = build(scan, tmp_path)
    save = workflow.get_node("save")
    fed = {
        target
        for _, _, edge in workflow._graph.in_edges(save, data=True)
        for _, target in edge["connect"]
    }
    assert set(save.inputs.paths) <= fed


def test_who_has_no_t1w_image_is_registered_without_and_it_is_said(scan, tmp_path):
    alone = Scan("01", "", scan.path)
    workflow = build(alone, tmp_path, registration="t1w")
    assert len(workflow.list_node_names()) == len(SKELETON)
    assert workflow.get_node("register").inputs.lacks_t1w
    for one, how in ((alone, "linear"), (scan, "t1w")):
        made = build(one, tmp_path, registration=how)
        assert not made.get_node("register").inputs.lacks_t1w


@pytest.mark.parametrize("session", ["", "1"])
def test_names(scan, session):
    paths = spect_paths(Scan("01", session, scan.path), SpectOptions())
    assert len(set(paths.values())) == len(paths)
    assert list(paths)[-1] == "quality"
    for path in paths.values():
        entities = [part.split("-")[0] for part in Path(path).name.split("_")[:-1]]
        assert entities == sorted(entities, key=ENTITY_ORDER.index)
        assert ("ses" in entities) == bool(session)
        assert "/figures/" in path or "/spect/" in path


@pytest.mark.parametrize(
    "change",
    [
        {"registration": "t1w"},
        {"resolution_mm": 4.0},
        {"percentile": 50.0},
        {"putamen_ml": 5.0},
        {"reference": "occipital"},
        {"cutoff_per_cm": 0.7},
        {"seed": 2},
    ],
)
def test_what_changes_the_result_changes_the_fingerprint(scan, change):
    assert spect_fingerprint(scan, SpectOptions()) != spect_fingerprint(
        scan, SpectOptions(**change)
    )


def test_the_fingerprint_knows_image_sidecar_and_the_t1w_that_is_used(scan):
    linear, through = SpectOptions(), SpectOptions(registration="t1w")
    before = spect_fingerprint(scan, linear), spect_fingerprint(scan, through)
    scan.t1w.path.write_bytes(b"another")
    after = spect_fingerprint(scan, linear), spect_fingerprint(scan, through)
    assert before[0] == after[0]
    assert before[1] != after[1]
    (scan.path.parent / "sub-01_spect.json").write_text('{"TracerName": "FP-CIT"}')
    assert spect_fingerprint(scan, linear) != after[0]
    scan.path.write_bytes(b"changed")
    assert spect_fingerprint(scan, linear) != before[0]


def test_options_come_from_the_recipe():
    table = {"registration": "linear", "resolution_mm": 2.0, "spect": PLAIN}
    assert SpectOptions.of(table, 4) == SpectOptions(seed=5)
    with pytest.raises(InputError, match="'nonlinear': SPECT images are registered"):
        SpectOptions.of(table | {"registration": "nonlinear"}, 0)
    with pytest.raises(InputError, match=r"--spect-template .*nowhere\.nii: there is no"):
        SpectOptions.of(table | {"spect": PLAIN | {"template": "nowhere.nii"}}, 0)


# --- bad input -----------------------------------------------------------------------------------


def raw(folder, data, sidecar=None, affine=None):
    path = folder / "sub-01/spect/sub-01_spect.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_description.json").write_text("{}")
    affine = np.diag([4.0, 4, 4, 1]) if affine is None else affine
    image = nib.Nifti1Image(np.asarray(data, np.float32), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, path)
    said = {"TracerName": "ioflupane", "TracerRadionuclide": "I123"}
    path.with_name("sub-01_spect.json").write_text(json.dumps(said if sidecar is None else sidecar))
    return path


def conformed(path, folder, monkeypatch):
    monkeypatch.chdir(folder)
    return ConformUptake(in_file=path).run().outputs


def test_a_series_is_averaged_and_negative_voxels_are_cut(tmp_path, monkeypatch):
    data = np.ones((20, 20, 20, 3))
    data[..., 2] = 4
    data[0, 0, 0] = -1
    found = conformed(raw(tmp_path, data), tmp_path, monkeypatch)
    values = np.asarray(read_nifti(found.out_file).dataobj)
    assert values[1, 1, 1] == pytest.approx(2.0)
    assert values[0, 0, 0] == 0
    assert found.meta["Warnings"] == [
        "the series of 3 volumes was averaged over time",
        "0.0% of the voxels were negative and set to 0",
    ]
    assert found.meta["TracerName"] == "ioflupane"


def test_no_tracer_is_a_warning_and_another_a_refusal(tmp_path, monkeypatch):
    data = np.random.default_rng(0).random((20, 20, 20))
    found = conformed(raw(tmp_path, data, {}), tmp_path, monkeypatch)
    assert any("taken for 123I-FP-CIT" in one for one in found.meta["Warnings"])
    other = raw(tmp_path, data, {"TracerName": "HMPAO", "TracerRadionuclide": "Tc99m"})
    with pytest.raises(InputError, match="its tracer is Tc99m HMPAO, not 123I-FP-CIT"):
        conformed(other, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("value", "sentence"), [(0, "every voxel is 0"), (-3, "every voxel is -3")]
)
def test_an_empty_image_is_refused(tmp_path, monkeypatch, value, sentence):
    with pytest.raises(InputError, match=sentence):
        conformed(raw(tmp_path, np.full((20, 20, 20), value)), tmp_path, monkeypatch)


def test_only_negative_voxels_are_refused(tmp_path, monkeypatch):
    data = -np.random.default_rng(0).random((20, 20, 20))
    with pytest.raises(InputError, match="no voxel is above 0"):
        conformed(raw(tmp_path, data), tmp_path, monkeypatch)


@pytest.mark.parametrize("broken", ["neither", (1, -1, -1), (-1, 1, 1), (-1, -1, 1), (1, 1, -1)])
def test_sides_that_cannot_be_told_are_refused(tmp_path, broken):
    image = nib.Nifti1Image(np.random.default_rng(0).random((20, 20, 20)), np.eye(4) * 4)
    if broken == "neither":
        image.set_sform(None, 0)
        image.set_qform(None, 0)
    else:
        image.set_sform(np.diag([*np.multiply(broken, 4.0), 1]), 1)
        image.set_qform(np.diag([4.0, 4, 4, 1]), 1)
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="left and right"):
        load_volume(tmp_path / "a.nii.gz")


def test_forms_of_an_oblique_scan_may_differ_a_little(tmp_path):
    image = nib.Nifti1Image(np.random.default_rng(0).random((20, 20, 20)), np.eye(4) * 4)
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]]
    image.set_sform(turned @ np.diag([4.0, 4, 4, 1]), 2)
    image.set_qform(np.diag([4.0, 4, 4, 1]), 1)
    nib.save(image, tmp_path / "a.nii.gz")
    assert load_volume(tmp_path / "a.nii.gz")[1] == "RAS"


GOOD = {
    "template_correlation": 0.9,
    "striatal_shift_mm": 3.0,
    "striata_seen": 1.0,
    "cerebellum_seen": 1.0,
    "sbr_putamen_L": 1.0,
    "sbr_putamen_R": 0.8,
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, None),
        ({"template_correlation": 0.2}, "low correlation"),
        ({"striatal_shift_mm": 31.0}, "31 mm from the template's striata"),
        ({"striata_seen": 0.5}, "cuts the striata (50% of them seen)"),
        ({"cerebellum_seen": 0.7}, "cuts the cerebellum"),
        ({"sbr_putamen_R": -0.1}, "binding below zero (putamen_R)"),
    ],
)
def test_flags(change, sentence):
    flags = flags_of(GOOD | change)
    assert (len(flags) == 0) == (sentence is None)
    assert all(sentence in one for one in flags)


# --- phantoms ------------------------------------------------------------------------------------

# person: (side of the loss, storage)
PEOPLE = {"0": ("L", "LAS"), "1": ("R", "LPS")}


@pytest.fixture(scope="module")
def coarse(tmp_path_factory):
    """Template brain at 6 mm, and its anatomy."""
    path = template_on_grid(6.0, tmp_path_factory.mktemp("template"))
    return path, anatomy_of(path)


def measured(folder, template, image, monkeypatch):
    """One scan through the interfaces."""
    folder.mkdir(exist_ok=True)
    path = raw(folder, image.get_fdata(), affine=image.affine)
    monkeypatch.chdir(folder)
    there = ConformUptake(in_file=path).run().outputs
    moved = RegisterUptake(in_file=there.out_file, template=str(template)).run().outputs
    return moved, MeasureBinding(
        participant="01", in_file=moved.out_file, seen=moved.out_seen, template=str(template),
        ml={"caudate": 5.0, "putamen": 8.0},
    ).run().outputs  # fmt: skip


@pytest.fixture(scope="module")
def patients(tmp_path_factory, coarse):
    template, anatomy = coarse
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for who, (side, axcodes) in PEOPLE.items():
            scan = simulate_uptake(
                anatomy, person_seed(0, int(who)), patient=True, side=side, loss=0.6,
                voxel_mm=6.0, axcodes=axcodes,
            )  # fmt: skip
            folder = tmp_path_factory.mktemp(f"sub{who}")
            found[who] = (scan, *measured(folder, template, scan.image, patch))
    return found


@pytest.mark.parametrize("who", PEOPLE)
def test_the_planted_side_is_found_whatever_the_storage(patients, who):
    side = PEOPLE[who][0]
    scan, _, found = patients[who]
    table = read_table(Path(found.out_quality)).iloc[0]
    assert table["lower_putamen"] == side
    assert found.binding_meta["LowerPutamen"] == side
    assert table["flags"] is np.nan or table["flags"] != table["flags"]
    ratios = read_table(Path(found.out_ratios)).set_index("region")
    assert ratios.loc["putamen", "ipsilateral"] < ratios.loc["putamen", "contralateral"]
    column = {"L": "left", "R": "right"}[side]
    assert ratios.loc["putamen", "ipsilateral"] == ratios.loc["putamen", column]
    order = sorted(scan.ratios, key=scan.ratios.get)
    putamen = [name for name in order if name.startswith("putamen")]
    assert putamen[0] == f"putamen_{side}"


@pytest.mark.parametrize("who", PEOPLE)
def test_the_network_sees_the_lower_side_left(patients, coarse, who, tmp_path):
    from models.grids import Grid
    from pipelines.view import View

    _, _, found = patients[who]
    path = tmp_path / "a_spect.nii.gz"
    path.write_bytes(Path(found.out_file).read_bytes())
    path.with_name("a_spect.json").write_text(json.dumps(found.binding_meta))
    grid = Grid("6mm", (23, 30, 24), 6.0, (-66.0, -102.0, -60.0))
    seen = View(mirror=True).read(MODALITY, path, grid, "stored")[0]
    half = np.zeros(grid.shape, bool)
    half[:11] = True
    left, right = (hottest_mean(seen, one, 8.0, 6.0) for one in (half, ~half))
    assert left < right


def test_binding_follows_the_truth(patients):
    true, found = [], []
    for scan, _, outputs in patients.values():
        for name, ratio in scan.ratios.items():
            true.append(ratio)
            found.append(outputs.binding_meta["SpecificBindingRatio"][name])
    assert np.corrcoef(true, found)[0, 1] > 0.95
    assert all(0 < f < t for f, t in zip(found, true, strict=True))  # blurred, never more


def test_the_transform_and_its_inverse_undo_each_other(patients):
    import ants

    _, moved, _ = patients["0"]
    there, back = (ants.read_transform(path) for path in (moved.to_template, moved.to_native))
    for point in itertools.product((-30.0, 20.0), repeat=3):
        again = back.apply_to_point(there.apply_to_point(point))
        np.testing.assert_allclose(again, point, atol=1e-2)


def filled(image, below):
    """The image with nothing in its lowest slices, as some cameras write what they did not see."""
    data = image.get_fdata()
    data[:, :, :below] = 0
    return nib.Nifti1Image(data, image.affine)


@pytest.mark.parametrize(
    "cut", [lambda image: image.slicer[:, :, 16:], lambda image: filled(image, 16)]
)
def test_a_cut_field_of_view_is_flagged_and_its_zeros_are_no_uptake(
    coarse, tmp_path, monkeypatch, cut
):
    template, anatomy = coarse
    scan = simulate_uptake(
        anatomy, person_seed(0, 3), patient=False, side="", loss=0.0, voxel_mm=6.0
    )
    _, whole = measured(tmp_path / "whole", template, scan.image, monkeypatch)
    # from 21 mm below the commissures upwards
    _, found = measured(tmp_path / "cut", template, cut(scan.image), monkeypatch)
    flags = read_table(Path(found.out_quality))["flags"].iloc[0]
    assert "cuts the cerebellum" in flags
    # A third of the reference region is not there: zeros would lower its percentile by a tenth.
    expected = whole.binding_meta["ReferenceUptake"]
    assert found.binding_meta["ReferenceUptake"] == pytest.approx(expected, rel=0.03)


def test_outer_planes_of_one_value_were_not_recorded():
    data = np.random.default_rng(0).random((6, 7, 8))
    data[2, 3, 4] = 0
    assert recorded_box(data).all()
    data[:2] = data[:, -1:] = data[:, :, 4] = -1.0
    found = recorded_box(data)
    assert found[2:, :-1].all()
    assert found.sum() == 4 * 6 * 8
    assert recorded_box(np.zeros((3, 3, 3))).all()


def template_file(folder, data, affine):
    path = folder / "own.nii.gz"
    write_nifti(path, data, affine, template=True)
    return str(path)


def test_a_template_of_the_users_own_is_taken(coarse, tmp_path):
    _, anatomy = coarse
    built = template_uptake(anatomy, "")
    own = template_file(tmp_path, built * 2, anatomy.affine)
    np.testing.assert_allclose(template_uptake(anatomy, own), built * 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("turned", "moved_mm", "kept", "sentence"),
    [
        ((1, 1, 1), 500.0, 99, "covers 0% of the brain in MNI space"),
        ((1, 1, 1), 0.0, 17, r"covers \d\d% of the brain"),
        ((-1, -1, 1), 0.0, 99, "does not look like FP-CIT in MNI space"),
        ((1, -1, -1), 0.0, 99, "does not look like FP-CIT in MNI space"),
    ],
)
def test_what_is_no_template_in_mni_space_is_refused(
    coarse, tmp_path, turned, moved_mm, kept, sentence
):
    _, anatomy = coarse
    affine = np.diag([*turned, 1.0]) @ anatomy.affine
    affine[:3, 3] += moved_mm
    uptake = template_uptake(anatomy, "")[:, :, :kept]
    own = template_file(tmp_path, uptake, affine)
    with pytest.raises(InputError, match=rf"--spect-template {own}: .*{sentence}"):
        template_uptake(anatomy, own)


# --- through the T1w image -----------------------------------------------------------------------


def anatomical(anatomy, person, voxel_mm):
    """The same head on T1w, in another position, and its brain."""
    canvas = Canvas.covering(SCANNER_MM, voxel_mm)
    to_template = head_shape(stream(person, 12)) @ np.linalg.inv(pose(stream(person, 99)))
    own = Canvas(anatomy.tissue.shape, anatomy.voxel_mm, anatomy.affine[:3, 3])
    points = move(to_template, canvas.points_mm())
    tissue, brain = (sample(one, own, points) for one in (anatomy.tissue, 1.0 * anatomy.brain))
    return tissue, brain > 0.5, canvas.affine


def test_through_the_t1w_image_uptake_comes_to_lie_on_the_template(coarse, tmp_path, monkeypatch):
    """The way by the T1w image and the truth of the phantom agree, for each side's loss."""
    template, anatomy = coarse
    person = person_seed(0, 1)
    scan = simulate_uptake(
        anatomy, person, patient=True, side="R", loss=0.6, voxel_mm=6.0, axcodes="LPS"
    )
    tissue, brain, affine = anatomical(anatomy, person, 4.0)
    t1w, mask = tmp_path / "t1w.nii.gz", tmp_path / "mask.nii.gz"
    write_nifti(t1w, tissue, affine)
    write_nifti(mask, brain, affine)
    path = raw(tmp_path, scan.image.get_fdata(), affine=scan.image.affine)
    monkeypatch.chdir(tmp_path)
    conformed_file = ConformUptake(in_file=path).run().outputs.out_file
    moved = RegisterUptake(
        in_file=conformed_file, template=str(template), t1w=str(t1w), t1w_mask=str(mask)
    ).run().outputs  # fmt: skip
    assert moved.meta["Registration"].startswith("rigid to the T1w, affine")
    # Where the phantom says that points of the template are in the scan (RAS), and what was found.
    truth = pose(stream(person, 11, 1)) @ np.linalg.inv(head_shape(stream(person, 12)))
    import ants

    found = ants.read_transform(moved.to_template)
    for point in itertools.product((-25.0, 25.0), (-40.0, 20.0), (-15.0, 30.0)):
        expected = (truth @ [*point, 1.0])[:3]
        lps = np.array(found.apply_to_point(np.array(point) * (-1, -1, 1)))
        assert np.linalg.norm(lps * (-1, -1, 1) - expected) < 6.0  # a voxel
    measured_ = MeasureBinding(
        participant="01", in_file=moved.out_file, seen=moved.out_seen, template=str(template),
        ml={"caudate": 5.0, "putamen": 8.0},
    ).run().outputs  # fmt: skip
    assert measured_.binding_meta["LowerPutamen"] == "R"
    assert measured_.meta["Warnings"] == []


def test_the_reference_region_may_be_the_occipital_cortex(patients, coarse, tmp_path, monkeypatch):
    template, anatomy = coarse
    _, moved, _ = patients["0"]
    monkeypatch.chdir(tmp_path)
    found = MeasureBinding(
        participant="01", in_file=moved.out_file, seen=moved.out_seen, template=str(template),
        ml={"caudate": 5.0, "putamen": 8.0}, reference="occipital", percentile=50.0,
    ).run().outputs  # fmt: skip
    assert found.binding_meta["ReferenceRegion"] == "occipital cortex"
    scaled = np.asarray(read_nifti(found.out_file).dataobj)
    assert np.median(scaled[anatomy.reference("occipital")]) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(InputError, match="no reference region 'pons': choose brain or occipital"):
        anatomy.reference("pons")
