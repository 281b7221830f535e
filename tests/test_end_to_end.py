"""Both levels on a small cohort with everything in it that a real one has."""

import json
import os
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import COHORT, SIDE_MM, bright_centre_mm, call, listing

from pipelines.derivatives import file_hash, has_sidecar, read_sidecar, read_table, sidecar_path
from pipelines.stored_models import StoredModel

MNI = "space-MNI152NLin2009cAsym"
HEATMAP = f"*_mod-T1w_{MNI}_model-tiny_target-AD_method-saliency_res-3mm_heatmap.nii.gz"
EVERYBODY = [*COHORT, "new"]


@pytest.fixture(scope="module")
def explained(study):
    """Participant level after group: one person of the cohort, and one who is new."""
    before = {path: np.asarray(nib.load(path).dataobj) for path in study.anat("01", HEATMAP)}
    tables = {path: read_table(path) for path in study.anat("01", "*_predictions.tsv")}
    outcome = study.run("participant", "--participant-label", "sub-new", "01")
    return outcome, before, tables


def splits(study):
    """Role of every person, per fold."""
    files = sorted((study.out / "models/model-tiny").glob("*_split.tsv"))
    return [
        dict(read_table(file)[["participant_id", "role"]].itertuples(index=False)) for file in files
    ]


def results(study):
    """When each node of every workflow was last run; the sinks always are."""
    return {
        path: path.stat().st_mtime_ns
        for path in (study.out / ".work").rglob("result_*.pklz")
        if not path.parent.name.startswith("save")
    }


# --- participant level ---------------------------------------------------------------------------


def test_one_broken_scan_fails_and_the_others_are_done(study):
    assert study.participant.code == 1
    assert study.participant.said.count("brainwhy: failed:") == 1
    assert "failed: sub-cut: " in study.participant.said
    assert (
        "raw/sub-cut/anat/sub-cut_T1w.nii.gz: the voxels cannot be read" in study.participant.said
    )
    assert "sub-noT1w: has no T1w image; skipped" in study.participant.said
    for who in EVERYBODY:
        sessions = COHORT[who][3] if who in COHORT else ("",)
        assert len(study.anat(who, "*_desc-preprocLinear_T1w.nii.gz")) == len(sessions)


def test_nothing_is_half_written(study):
    for who in ("cut", "noT1w"):
        assert not study.anat(who, "*")
        assert (study.out / f"sub-{who}.html").exists()
    assert "cut short" in (study.out / "sub-cut.html").read_text()
    assert not [path for path in study.out.rglob("*.part") if ".work" not in path.parts]
    for who in EVERYBODY:
        for path in study.anat(who, "*"):
            if path.suffix != ".json" and has_sidecar(path):
                assert sidecar_path(path).exists(), path.name
            if path.suffix == ".json":
                assert [one for one in path.parent.glob(f"{path.stem}.*") if one != path], path.name


@pytest.mark.parametrize("who", EVERYBODY)
def test_sides_are_kept_from_the_scanner_to_the_template(study, who):
    side = COHORT[who][1] if who in COHORT else "R"
    raws = sorted((study.raw / f"sub-{who}").rglob("*_T1w.nii.gz"))
    for raw in raws:
        stem = raw.name.removesuffix("_T1w.nii.gz")
        (native,) = study.anat(who, f"{stem}_desc-preproc_T1w.nii.gz")
        (template,) = study.anat(who, f"{stem}_{MNI}_res-3mm_desc-preprocLinear_T1w.nii.gz")
        assert nib.aff2axcodes(nib.load(native).affine) == ("R", "A", "S")
        np.testing.assert_allclose(bright_centre_mm(native), bright_centre_mm(raw), atol=1)
        np.testing.assert_allclose(bright_centre_mm(template), SIDE_MM[side], atol=6)


def test_derivatives_share_their_grids(study):
    for who in EVERYBODY:
        for name in ("T1w", "mask"):
            desc = {"T1w": "preproc", "mask": "brain"}[name]
            for template in study.anat(who, f"*_desc-{desc}Linear_{name}.nii.gz"):
                image = nib.load(template)
                assert image.shape == (64, 76, 64)
                assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 4
        for native, mask in zip(
            study.anat(who, "*_desc-preproc_T1w.nii.gz"),
            study.anat(who, "*_desc-brain_mask.nii.gz"),
            strict=True,
        ):
            np.testing.assert_allclose(nib.load(native).affine, nib.load(mask).affine, atol=1e-4)
            assert set(np.unique(nib.load(mask).dataobj)) == {0, 1}


def test_sidecars_say_where_it_comes_from(study):
    (path,) = study.anat("02", f"*_{MNI}_res-3mm_desc-preprocLinear_T1w.nii.gz")
    sidecar = read_sidecar(path)
    assert sidecar["Sources"] == ["bids:raw:sub-02/anat/sub-02_T1w.nii.gz"]
    assert sidecar["RawAxes"] == "LAS"
    assert sidecar["RawSHA256"] == file_hash(study.raw / "sub-02/anat/sub-02_T1w.nii.gz")
    assert sidecar["SkullStripped"]
    assert sidecar["BrainMaskMethod"] == "outline of the input"
    assert any("no skull" in warning for warning in sidecar["Warnings"])


def test_the_table_is_carried_over_whole(study):
    assert file_hash(study.out / "participants.tsv") == file_hash(study.raw / "participants.tsv")


# --- group level ---------------------------------------------------------------------------------


def test_group_says_who_is_left_out_and_why(study):
    assert study.group.code == 0
    for sentence in (
        "sub-new is left out: diagnosis is missing",
        "sub-gone is left out: in participants.tsv, but without preprocessed image",
        "sub-05: age is missing; left out of the statistics only",
        "3 AD and 3 CN, 7 images, 2 trainings",
    ):
        assert sentence in study.group.said
    page = (study.out / "group.html").read_text()
    assert "sub-gone" in page
    assert "age is missing" in page


def test_nobody_is_in_two_parts_of_a_fold_and_everybody_is_tested_once(study):
    folds = splits(study)
    assert len(folds) == 2
    for file in (study.out / "models/model-tiny").glob("*_split.tsv"):
        assert read_table(file)["participant_id"].is_unique
    people = {f"sub-{who}" for who in COHORT}
    for roles in folds:
        assert set(roles) == people
    tested = [who for roles in folds for who, role in roles.items() if role == "test"]
    assert sorted(tested) == sorted(people)


def test_predictions_and_heatmaps_come_from_networks_that_never_saw_the_person(study):
    table = read_table(study.out / "group/model-tiny_desc-oof_predictions.tsv")
    assert sorted(table["participant_id"]) == [f"sub-{who}" for who in COHORT]
    assert table.loc[table["participant_id"] == "sub-03", "session_id"].tolist() == ["ses-1"]
    folds = splits(study)
    for row in table.itertuples():
        assert row.n_models == 1
        assert folds[row.fold - 1][row.participant_id] == "test"
    for who in COHORT:
        (path,) = study.anat(who, HEATMAP)  # one image per person is judged
        sidecar = read_sidecar(path)
        own = [n for n, roles in enumerate(folds, start=1) if roles[f"sub-{who}"] == "test"]
        assert sidecar["Models"] == [f"model-tiny_fold-{n}" for n in own]
        assert sidecar["OutOfFold"]
    assert not study.anat("cut", HEATMAP)


def test_a_score_is_what_the_stored_network_says(study):
    """The weights on disk reproduce the prediction: no fold was mistaken for another."""
    from pipelines.images import network_input

    model = StoredModel(study.out / "models/model-tiny")
    table = read_table(study.out / "group/model-tiny_desc-oof_predictions.tsv")
    import torch

    for row in table.itertuples():
        who = row.participant_id.removeprefix("sub-")
        (image, *_) = study.anat(who, "*_desc-preprocLinear_T1w.nii.gz")
        volume = torch.from_numpy(network_input(image, model.grid, "max")[None])
        with torch.no_grad():
            scores = model.network(row.fold)(volume)[0]
        assert row.score == pytest.approx(float(scores[1] - scores[0]), abs=5e-3)


def test_statistics_leave_out_who_lacks_a_covariate_and_say_so(study):
    for path in study.out.glob("group/*_stat-t_res-3mm_statmap.json"):
        sidecar = json.loads(path.read_text())
        assert list(sidecar["Excluded"]) == ["sub-05"]
        assert "age" in sidecar["Excluded"]["sub-05"]
        assert sidecar["Participants"] == {"AD": 2, "CN": 3}
        assert sidecar["Covariates"] == ["age"]


def test_everything_that_is_promised_is_written(study):
    for pattern, count in {
        "group/*_stat-t_res-3mm_statmap.nii.gz": 2,
        "group/*_stat-p_res-3mm_desc-FWE_statmap.nii.gz": 2,
        "group/*_desc-FWE_clusters.tsv": 2,
        "group/*_stat-mean_res-3mm_desc-AD_heatmap.nii.gz": 1,
        "group/*_method-saliency_atlas-AAL_heatmap.tsv": 1,
        "group/model-tiny_desc-oof_metrics.tsv": 1,
        "group/qc.tsv": 1,
        "models/model-tiny/*_weights.safetensors": 2,
        "models/model-tiny/*_history.tsv": 2,
        "models/model-tiny/model-tiny_modelcard.json": 1,
        "group.html": 1,
        "logs/group.json": 1,
    }.items():
        assert len(list(study.out.glob(pattern))) == count, pattern
    quality = read_table(study.out / "group/qc.tsv")
    assert len(quality) == sum(len(one[3]) for one in COHORT.values()) + 1
    card = StoredModel(study.out / "models/model-tiny").card
    assert card["Classes"] == ["CN", "AD"]
    assert card["Recipe"]["name"] == "tiny"


def test_statistics_are_finite_and_inside_the_brain(study):
    for path in study.out.glob("group/*_stat-t_res-3mm_statmap.nii.gz"):
        t = np.asarray(nib.load(path).dataobj)
        p = np.asarray(
            nib.load(str(path).replace("_stat-t_res-3mm_", "_stat-p_res-3mm_desc-FWE_")).dataobj
        )
        assert np.isfinite(t).all()
        assert p.min() > 0
        assert p.max() <= 1
        assert 0.02 < (t != 0).mean() < 0.5


# --- participant level after group ---------------------------------------------------------------


def test_a_new_person_is_explained_by_the_whole_ensemble(study, explained):
    outcome, _, _ = explained
    assert outcome.code == 0
    (path,) = study.anat("new", "*_model-tiny_predictions.tsv")
    row = read_table(path).iloc[0]
    assert row["n_models"] == 2
    assert not row["out_of_fold"]
    (heatmap,) = study.anat("new", HEATMAP)
    assert read_sidecar(heatmap)["Models"] == ["model-tiny_fold-1", "model-tiny_fold-2"]
    assert np.asarray(nib.load(heatmap).dataobj).any()
    (regions,) = study.anat("new", "*_method-saliency_atlas-AAL_heatmap.tsv")
    assert np.isfinite(read_table(regions)["gain"]).any()  # the group's controls are known here


def test_a_person_of_the_cohort_only_by_folds_that_never_saw_the_person(study, explained):
    (path,) = study.anat("01", "*_model-tiny_predictions.tsv")
    row = read_table(path).iloc[0]
    assert row["n_models"] == 1
    assert row["out_of_fold"]
    (heatmap,) = study.anat("01", HEATMAP)
    own = [n for n, roles in enumerate(splits(study), 1) if roles["sub-01"] == "test"]
    assert read_sidecar(heatmap)["Models"] == [f"model-tiny_fold-{n}" for n in own]


def test_both_levels_give_a_person_the_same_map_and_the_same_probability(study, explained):
    _, before, tables = explained
    assert before
    for path, heatmap in before.items():
        again = np.asarray(nib.load(path).dataobj)
        assert np.corrcoef(again.ravel(), heatmap.ravel())[0, 1] > 0.999
    assert tables
    for path, table in tables.items():
        again = read_table(path)
        assert again.columns.tolist() == table.columns.tolist()
        np.testing.assert_allclose(again["probability"], table["probability"], atol=2e-3)


def test_the_official_validator_finds_no_error(study, explained, tmp_path):
    validator = shutil.which(
        "bids-validator-deno", path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    )
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    run = subprocess.run(
        [validator, str(study.out), "--format", "json", "--max-rows", "-1"],
        env={**os.environ, "HOME": str(tmp_path), "DENO_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    issues = json.loads(run.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert run.returncode == 0


# --- again ---------------------------------------------------------------------------------------


def test_a_second_run_runs_no_node_and_touches_no_image(study, explained):
    images = [path for who in EVERYBODY for path in study.anat(who, "*preproc*_T1w.nii.gz")]
    before = {path: path.stat().st_mtime_ns for path in images}
    nodes = results(study)
    assert len(nodes) > 60
    weights = {path: file_hash(path) for path in study.out.glob("models/*/*.safetensors")}
    again = study.run("participant", "--participant-label", "01", "new")
    group = study.run("group")
    assert (again.code, group.code) == (0, 0)
    assert "2 of 2 scans are already preprocessed" in again.said
    assert results(study) == nodes
    assert {path: path.stat().st_mtime_ns for path in images} == before
    assert {path: file_hash(path) for path in weights} == weights


def test_a_second_group_run_keeps_what_the_same_model_told_of_a_new_person(study, explained):
    files = [*study.anat("new", HEATMAP), *study.anat("new", "*_model-tiny_predictions.tsv")]
    assert len(files) > 1
    for path in files:
        os.utime(path, (1_000_000_000, 1_000_000_000))
    assert study.run("group").code == 0
    assert all(path.exists() for path in files)


def test_a_lost_file_is_written_again_and_only_its_person_is_touched(study, explained):
    others = {
        path: path.stat().st_mtime_ns
        for who in EVERYBODY
        if who != "06"
        for path in study.anat(who, "*")
    }
    (lost,) = study.anat("06", f"*_{MNI}_res-3mm_desc-preprocLinear_T1w.nii.gz")
    sidecar = sidecar_path(study.anat("06", "*_desc-preproc_T1w.nii.gz")[0])
    was, nodes = np.asarray(nib.load(lost).dataobj), results(study)
    lost.unlink()
    sidecar.unlink()
    assert study.run("participant", "--participant-label", "06").code == 0
    np.testing.assert_array_equal(np.asarray(nib.load(lost).dataobj), was)
    assert sidecar.exists()
    assert nodes.items() <= results(study).items()  # the work dir remembered
    assert {path: path.stat().st_mtime_ns for path in others} == others


def test_force_does_it_again_to_the_same_bits(study, explained):
    (path,) = study.anat("02", f"*_{MNI}_res-3mm_desc-preprocLinear_T1w.nii.gz")
    was, when = np.asarray(nib.load(path).dataobj), path.stat().st_mtime_ns
    assert study.run("participant", "--participant-label", "02", "--force").code == 0
    assert path.stat().st_mtime_ns > when
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), was)


@pytest.mark.usefixtures("permissions_count")
def test_a_read_only_dataset_is_enough(study, recipe, tmp_path):
    raw = tmp_path / "raw"
    shutil.copytree(study.raw, raw)
    paths = [raw, *raw.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        outcome = call(raw, tmp_path / "out", "participant", "--participant-label", "01",
                       "--recipe", recipe, "--nprocs", 1)  # fmt: skip
    finally:
        for path in paths:
            path.chmod(path.stat().st_mode | 0o200)
    assert outcome.code == 0


def test_the_dataset_was_never_written_to(study, explained):
    assert listing(study.raw) == study.raw_before


def test_tables_are_tables(study, explained):
    for path in study.out.rglob("*.tsv"):
        if ".work" not in path.parts:
            table = pd.read_csv(path, sep="\t", keep_default_na=False, dtype=str)
            assert not table.isin([""]).to_numpy().any(), path.name  # BIDS: n/a, never empty
            assert not table.isin(["nan", "inf", "-inf"]).to_numpy().any(), path.name
