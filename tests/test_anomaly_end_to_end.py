"""Anomaly detection from maps on disk to pages, on a handful of small brains."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bidsapp import score
from bidsapp.demo import maps as demo_maps
from bidsapp.score_anomaly import models
from pipelines.stored_models import StoredModel, made_by

RECIPE = """\
name = "tiny-anomaly"
description = "Seconds on one core: 6 mm maps on the 3 mm grid, two splits."

[input]
modality = "dwimap"

[preprocessing]
resolution_mm = 6.0
grid = "3mm"

[cohort]
target = "diagnosis"
positive = "PD"
negative = "HC"
covariates = ["age", "sex"]

[anomaly]
splits = 2
test_share = 0.34

[[autoencoder]]
method = "ae"
widths = [4, 8]
slices = 8
epochs = 1

[[autoencoder]]
method = "sae"
width = 4
patches_per_image = 20
batch_size = 20
epochs = 1
stride = 8
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, brainwhy):
    folder = tmp_path_factory.mktemp("anomaly")
    maps, out, recipe = folder / "maps", folder / "out", folder / "tiny.toml"
    recipe.write_text(RECIPE)
    demo_maps.make(maps, participants=10, resolution=6.0)
    table = pd.read_csv(maps / "participants.tsv", sep="\t")
    table.loc[table["participant_id"] == "sub-10", "diagnosis"] = "n/a"  # new to the model
    table.to_csv(maps / "participants.tsv", sep="\t", index=False)

    def call(*arguments):
        return brainwhy(maps, out, *arguments, "--recipe", recipe, "--nprocs", 1)

    first = call("participant", "group")
    return maps, out, call, first


def images(out, participant, stat, method="*"):
    pattern = f"sub-{participant}/dwi/*_method-{method}_stat-{stat}_*_anomalymap.nii.gz"
    return sorted(out.glob(pattern))


def roles(out, split):
    table = pd.read_csv(
        out / f"models/model-tinyanomaly/model-tinyanomaly_fold-{split}_split.tsv", sep="\t"
    )
    return dict(zip(table["participant_id"], table["role"], strict=True))


def test_both_levels_are_done(run):
    _, out, _, first = run
    assert first.code == 0, first.said
    card = json.loads(
        (out / "models/model-tinyanomaly/model-tinyanomaly_modelcard.json").read_text()
    )
    assert (card["Kind"], card["Folds"], card["Channels"]) == ("anomaly", 2, 2)
    assert len(card["FoldFingerprints"]) == 4
    assert models(out) == ["tinyanomaly"]


def test_official_validator_finds_no_error(run, tmp_path):
    _, out, _, _ = run
    validator = shutil.which(
        "bids-validator-deno", path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    )
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    found = subprocess.run(
        [validator, str(out), "--format", "json"],
        env={**os.environ, "HOME": str(tmp_path), "DENO_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    issues = json.loads(found.stdout)["issues"]["issues"]
    assert [one for one in issues if one.get("severity") == "error"] == []


def test_a_control_is_mapped_only_by_splits_that_left_it_out(run):
    _, out, _, first = run
    seen = {split: roles(out, split) for split in (1, 2)}
    assert "sub-10" not in seen[1]
    for person, role in seen[1].items():
        allowed = [split for split in (1, 2) if seen[split][person] == "test"]
        found = images(out, person.removeprefix("sub-"), "z", "sae")
        assert len(found) == bool(allowed), (person, role)
        if not allowed:
            assert person in first.said  # told that there is no map
            continue
        sidecar = json.loads(found[0].with_name(found[0].name.split(".")[0] + ".json").read_text())
        assert sidecar["Models"] == [f"model-tinyanomaly_fold-{n}_method-sae" for n in allowed]
        assert StoredModel(out / "models/model-tinyanomaly").unseen_folds(
            person.removeprefix("sub-")
        ) == (allowed, True)


def test_maps_agree_with_each_other(run):
    _, out, _, _ = run
    (error,) = images(out, "01", "error", "sae")
    channels = images(out, "01", "abserror", "sae")
    assert [path.name.split("_param-")[1][:2] for path in channels] == ["fa", "md"]
    joint = nib.load(error).get_fdata()
    parts = [nib.load(path).get_fdata() for path in channels]
    one = np.sqrt(sum(part**2 for part in parts))
    assert joint.any()
    # Equal in one split; of two, the mean of norms is at least the norm of means.
    assert (joint - one).min() > -1e-3
    mask = nib.load(next(out.glob("sub-01/dwi/*label-anomaly_desc-tinyanomalysae_mask.nii.gz")))
    inside = np.asarray(mask.dataobj) > 0
    assert joint[inside].min() > np.median(joint[joint > 0])
    table = pd.read_csv(next(out.glob("sub-01/dwi/*method-sae_*_anomalymap.tsv")), sep="\t")
    assert {"roi", "region"} == set(table["kind"])
    whole = table.loc[table["name"] == "whole brain", "percent"].item()
    assert whole == pytest.approx(100 * inside.sum() / (joint > 0).sum(), abs=2)


def test_slices_that_are_not_scored_are_empty(run):
    _, out, _, _ = run
    (path,) = images(out, "01", "error", "ae")
    scored = np.flatnonzero(nib.load(path).get_fdata().any((0, 1)))
    assert len(scored) == 8


def test_scores_say_what_is_optimistic(run):
    _, out, _, _ = run
    path = out / "group/model-tinyanomaly_desc-regions_anomalyscores"
    table = pd.read_csv(path.with_suffix(".tsv"), sep="\t")
    assert set(table["method"]) == {"ae", "sae"}
    assert {"gmean", "gmean_sd", "gmean_held_out", "people_auc_low"} <= set(table)
    assert "optimistic" in json.loads(path.with_suffix(".json").read_text())["gmean"]["Description"]
    people = pd.read_csv(out / "group/model-tinyanomaly_desc-people_anomalyscores.tsv", sep="\t")
    assert "sub-10" not in set(people["participant_id"])


def test_pages_show_the_scores_and_the_maps(run):
    _, out, _, _ = run
    page = (out / "group.html").read_text()
    for words in ("False alarms", "held out", "optimistic", "Muñoz-Ramírez", "mean z of the error"):
        assert words in page, words
    person = (out / "sub-01.html").read_text()
    assert "Anomalies" in person
    assert "none of which trained on this person" in person


def test_a_new_person_is_mapped_by_all_splits_and_nothing_is_learnt_again(run):
    _, out, call, _ = run
    weights = sorted(out.glob("models/*/*_weights.safetensors"))
    before = [path.stat().st_mtime_ns for path in weights]
    assert not images(out, "10", "z")
    again = call("participant", "--participant-label", "10", "02")
    assert again.code == 0, again.said
    found = images(out, "10", "z", "sae")
    assert len(found) == 1
    sidecar = json.loads(found[0].with_name(found[0].name.split(".")[0] + ".json").read_text())
    assert len(sidecar["Models"]) == 2
    assert [path.stat().st_mtime_ns for path in weights] == before


def test_one_person_is_mapped_alike_at_both_levels(run):
    _, out, call, _ = run
    (path,) = images(out, "01", "z", "sae")
    group = nib.load(path).get_fdata()
    path.unlink()
    assert call("participant", "--participant-label", "01").code == 0
    alone = nib.load(path).get_fdata()
    # At group level, reconstructions are kept in half precision.
    np.testing.assert_allclose(alone, group, atol=0.02 * np.abs(group).max())
    assert np.corrcoef(alone.ravel(), group.ravel())[0, 1] > 0.999


def test_scores_against_the_truth(run):
    maps, out, _, _ = run
    found = score.score(maps, out)
    assert set(found["maps"]) == {"ae", "sae"}
    assert 0 <= found["maps"]["sae"]["auc"] <= 1
    assert found["controls"]["sae"]["expected"] == pytest.approx(2)
    assert set(found["requirements"]) == {one.name for one in score.ANOMALY_REQUIREMENTS}
    assert "sae" in score.score_table(found)


def test_maps_that_another_threshold_or_auto_encoder_made_go(run, tmp_path):
    _, out, call, _ = run
    call("participant", "--participant-label", "10")
    assert images(out, "10", "z", "ae")
    for path in out.rglob("*"):  # as if all of this had been a minute ago
        os.utime(path, (time.time() - 60,) * 2)
    before = {path.name: made_by(path) for path in out.glob("models/*/*-sae_weights.safetensors")}
    sae = RECIPE[RECIPE.rindex("[[autoencoder]]") :]
    (tmp_path / "other.toml").write_text("[anomaly]\nquantile = 0.9\n" + sae)
    assert call("group", "--config-file", tmp_path / "other.toml").code == 0
    after = {path.name: made_by(path) for path in out.glob("models/*/*_weights.safetensors")}
    assert after == before  # nothing was learnt again
    # Nobody of the cohort asked for the map of sub-10: by the old threshold, it is no longer right.
    assert not images(out, "10", "z")
    assert not images(out, "01", "z", "ae")
    sidecars = [json.loads(path.read_text()) for path in out.glob("sub-*/dwi/*_anomalymap.json")]
    assert {one["ThresholdQuantile"] for one in sidecars} == {0.9}
    assert not list(out.glob("sub-10/dwi/*label-anomaly*"))
    again = call("participant", "--participant-label", "10")
    assert again.code == 0, again.said
    assert len(images(out, "10", "z")) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ('[preprocessing]\nintensity = "zscore"', "intensity = 'zscore'"),
        ("[anomaly]\ntest_share = 0.9", "controls are too few"),
        ("[anomaly]\nleast_voxels = 999999", "no region has 999999 voxels"),
        ('[[autoencoder]]\nmethod = "sae"\ncolour = 1', "colour"),
        ('[[autoencoder]]\nmethod = "gan"', "gan"),
        ("[anomaly]\nquantile = 2", "quantile"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(run, tmp_path, changes, said):
    _, _, call, _ = run
    extra = Path(tmp_path) / "extra.toml"
    extra.write_text(changes + "\n")
    found = call("group", "--config-file", extra)
    assert found.code in (1, 64)
    assert said in found.said
