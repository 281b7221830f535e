"""Variants of a recipe: which there are, who takes part, and what is said of them."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bidsapp import compare, group, images, run
from bidsapp.compare import report, run_compared, variants_of
from bidsapp.settings import Settings, load_recipe
from models.errors import InputError
from models.training.paired import delong, mcnemar
from pipelines.derivatives import read_table, write_json, write_table


@pytest.fixture
def settings(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    return Settings(
        bids_dir=tmp_path / "raw",
        output_dir=tmp_path / "out",
        levels=("group",),
        recipe=load_recipe("demo-t1w"),
        work_dir=work,
    )


# --- variants ------------------------------------------------------------------------------------


def test_a_value_changes_its_key_alone(settings):
    key, variants = variants_of(settings, "training.protocol.learning_rate=1e-3, 2e-3")
    assert key == "training.protocol.learning_rate"
    assert [one.name for one in variants] == ["1e-3", "2e-3"]
    assert [one.model for one in variants] == ["demot1w1e3", "demot1w2e3"]
    rates = [one.settings.recipe.training.protocol.learning_rate for one in variants]
    assert rates == [1e-3, 2e-3]
    back = variants[0].settings.recipe.overridden(
        {"name": "demo-t1w", "training": {"protocol": {"learning_rate": 2e-3}}}
    )
    assert back == settings.recipe
    assert not variants[0].settings.explain


def test_values_are_toml_or_text(settings):
    _, variants = variants_of(settings, "preprocessing.registration=linear,nonlinear")
    assert variants[0].settings.recipe.preprocessing.registration == "linear"
    _, variants = variants_of(settings, "network=demo,boehle2019")
    assert variants[1].settings.recipe.network == {"name": "boehle2019"}
    pif = replace(settings, recipe=load_recipe("ad-t1w-pif"))
    _, variants = variants_of(pif, "network.filters=true,false")
    assert [one.settings.recipe.network["filters"] for one in variants] == [True, False]
    assert variants[1].settings.recipe.network["study"] == "adni"


def test_files_are_laid_over_the_recipe(settings, tmp_path):
    for name, epochs in (("short", 3), ("long", 9)):
        (tmp_path / f"{name}.toml").write_text(f"[training.protocol]\nepochs = {epochs}\n")
    files = ",".join(str(tmp_path / f"{name}.toml") for name in ("short", "long"))
    _, variants = variants_of(settings, f"config={files}")
    assert [one.name for one in variants] == ["short", "long"]
    assert [one.settings.recipe.training.protocol.epochs for one in variants] == [3, 9]
    assert variants[0].model == "demot1wshort"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("training.folds", "write KEY=a,b,c"),
        ("training.folds=3", "write KEY=a,b,c"),
        ("training.folds=3,3", "write KEY=a,b,c"),
        ("training.fold=3,4", "did you mean 'folds'"),
        ("train.folds=3,4", r"no table \[train\]"),
        ("training.folds=3,four", "must be int"),
        ("training.protocol.learning_rate=0.01,00.1", "must be float|alike but for signs"),
    ],
)
def test_what_cannot_be_compared(settings, asked, words):
    with pytest.raises(InputError, match=words):
        variants_of(settings, asked)


def test_only_people_with_every_image_take_part(settings, monkeypatch, capsys):
    _, variants = variants_of(settings, "preprocessing.registration=linear,nonlinear")
    there = {"linear": ["01", "02"], "nonlinear": ["01", "02", "03"]}
    monkeypatch.setattr(
        images,
        "registered",
        lambda s: {(p, ""): Path(p) for p in there[s.recipe.preprocessing.registration]},
    )
    assert compare._common_people(variants) == ("01", "02")
    assert "sub-03 is left out: has no image for linear" in capsys.readouterr().err
    there["linear"] = []
    with pytest.raises(InputError, match="nobody has an image for every variant"):
        compare._common_people(variants)


def test_whom_one_variant_cannot_take_none_takes(settings, monkeypatch, capsys):
    _, variants = variants_of(settings, "training.folds=2,3,4")
    takes = {2: {"01": True, "02": False}, 3: {"01": True}}

    def cohort_of(settings):
        assert settings.participants == ("01", "02")
        if settings.recipe.training.folds == 4:
            raise InputError("it says so in its own run")
        return SimpleNamespace(labels=takes[settings.recipe.training.folds])

    monkeypatch.setattr(images, "cohort_of", cohort_of)
    assert compare._taken_by_all(variants, ("01", "02")) == ("01",)
    assert "sub-02 is left out, as 3 cannot take this person" in capsys.readouterr().err


def test_a_variant_that_fails_leaves_the_others(settings, monkeypatch):
    done = []
    monkeypatch.setattr(run, "check_recipe", lambda s: None)
    monkeypatch.setattr(images, "registered", lambda s: {("01", ""): Path("x")})
    monkeypatch.setattr(group, "group", lambda s: s.recipe.training.folds == 3)
    monkeypatch.setattr(compare, "report", lambda *a: done.append([one.name for one in a[3]]))
    assert run_compared(settings, "training.folds=2,3,4") == run.FAILED
    assert done == [["2", "4"]]
    assert run_compared(settings, "training.folds=3,4") == run.FAILED
    assert len(done) == 1


# --- the report ----------------------------------------------------------------------------------


def store(settings, variant, accuracy):
    """What the group level leaves of a variant with one training per division."""
    folder = settings.output_dir / f"models/model-{variant.model}"
    rows = []
    for number, value in enumerate(accuracy, start=1):
        stem = f"model-{variant.model}_fold-{number}"
        roles = {"01": "test", "02": "train"}
        split = [(f"sub-{p}", number, 1, number, role) for p, role in roles.items()]
        columns = ["participant_id", "repeat", "fold", "division", "role"]
        write_table(folder / f"{stem}_split.tsv", pd.DataFrame(split, columns=columns))
        history = {"epoch": [1, 2], "updates": [5, 5], "seconds": [1.0, 2.0], "selected": [0, 1]}
        write_table(folder / f"{stem}_history.tsv", pd.DataFrame(history))
        rows.append((number, number, 12, value, np.nan))
    write_json(folder / f"model-{variant.model}_modelcard.json", {"Folds": len(accuracy)})
    columns = ["division", "repeat", "n", "balanced_accuracy", "roc_auc"]
    path = f"group/model-{variant.model}_desc-oof_repeats.tsv"
    write_table(settings.output_dir / path, pd.DataFrame(rows, columns=columns))
    right = round(12 * accuracy[0])
    answers = [("AD", "AD" if i < right else "CN", i % 5) for i in range(12)]
    people = [(f"sub-{i:02d}", *row) for i, row in enumerate(answers)]
    columns = ["participant_id", "label", "predicted", "score"]
    path = f"group/model-{variant.model}_desc-oof_predictions.tsv"
    write_table(settings.output_dir / path, pd.DataFrame(people, columns=columns))


def test_tables_picture_and_page(settings):
    _, variants = variants_of(settings, "preprocessing.registration=linear,nonlinear")
    worse = np.array([0.6, 0.65, 0.7, 0.62, 0.66, 0.68])
    better = worse + np.linspace(0.1, 0.15, 6)
    for one, values in zip(variants, (worse, better), strict=True):
        store(settings, one, values)
    page = report(settings.output_dir, "demo-t1w", "preprocessing.registration", variants)
    stem = settings.output_dir / "group/model-demot1w_desc-comparepreprocessingregistration"
    pairs = read_table(stem.with_name(f"{stem.name}_metrics.tsv")).set_index("metric")
    row = pairs.loc["balanced_accuracy"]
    assert (row["first"], row["second"]) == ("linear", "nonlinear")
    assert row["difference"] == pytest.approx(-0.125)
    assert row["p_divisions"] == pytest.approx(2 / 2**6)
    assert pairs.loc["updates", "first_mean"] == 10
    assert np.isnan(pairs.loc["seconds", "p_trainings"])
    facts = json.loads(stem.with_name(f"{stem.name}_metrics.json").read_text())
    assert facts["Key"] == "preprocessing.registration"
    text = page.read_text()
    assert page.parent == settings.output_dir
    assert "65 % against 78 %, a difference (p = 0.031 over 6 splits)" in text.replace("\xa0", " ")
    assert "data:image/png" in text
    assert "not independent" in text


@pytest.mark.parametrize("values", ["true,false", "1e-3,2e-3"])
def test_values_that_look_like_truths_or_numbers_keep_their_names(settings, values):
    pif = replace(settings, recipe=load_recipe("ad-t1w-pif"))
    key = "network.filters" if "true" in values else "training.protocol.learning_rate"
    _, variants = variants_of(pif, f"{key}={values}")
    for one, accuracy in zip(variants, ([0.6, 0.7], [0.9, 0.95]), strict=True):
        store(settings, one, accuracy)
    text = report(settings.output_dir, "ad-t1w-pif", key, variants).read_text()
    first, second = values.split(",")
    assert f"Balanced accuracy of {first} against {second}" in text
    assert f'<th scope="col" class="n">{first}</th>' in text


def test_few_splits_are_said_to_tell_nothing(settings):
    _, variants = variants_of(settings, "preprocessing.registration=linear,nonlinear")
    for one, values in zip(variants, ([0.6, 0.7], [0.9, 0.95]), strict=True):
        store(settings, one, values)
    text = report(settings.output_dir, "demo-t1w", "registration", variants).read_text()
    assert "cannot be told from 2 splits" in text


def test_other_splits_are_refused(settings):
    _, variants = variants_of(settings, "preprocessing.registration=linear,nonlinear")
    for one in variants:
        store(settings, one, [0.6, 0.7])
    path = settings.output_dir / "models/model-demot1wlinear/model-demot1wlinear_fold-1_split.tsv"
    table = read_table(path)
    write_table(path, table.assign(role=["train", "test"]))
    with pytest.raises(InputError, match="trained on other splits than linear"):
        report(settings.output_dir, "demo-t1w", "registration", variants)


def test_areas_and_accuracies_are_compared_over_people():
    """As the paired tests alone would, whatever the order of the tables."""
    rng = np.random.default_rng(1)
    label = np.repeat(["AD", "CN"], 10)
    first = pd.DataFrame({"participant_id": [f"sub-{i}" for i in range(20)], "label": label})
    first["score"] = rng.normal(size=20) + 2 * (label == "AD")
    second = first.assign(score=rng.normal(size=20))
    for one in (first, second):
        one["predicted"] = np.where(one["score"] > 0.5, "AD", "CN")
        one["target"] = "AD"
    shuffled = second.sample(frac=1, random_state=0)
    truth = label == "AD"
    area = delong(truth, first["score"].to_numpy(), second["score"].to_numpy()).p
    assert compare._p_people("roc_auc", first, shuffled) == pytest.approx(area)
    calls = [one["predicted"].to_numpy() == "AD" for one in (first, second)]
    assert compare._p_people("accuracy", first, shuffled) == mcnemar(truth, *calls).p
    assert np.isnan(compare._p_people("sensitivity", first, second))


def test_heatmaps_regions_and_lesions_are_on_the_page(settings):
    """Maps of both variants below each other, on scales of their own."""
    _, variants = variants_of(settings, "preprocessing.registration=linear,nonlinear")
    group = settings.output_dir / "group"
    for k, one in enumerate(variants):
        store(settings, one, [0.6, 0.7])
        stem = f"mod-T1w_space-MNI_model-{one.model}_target-AD_method-saliency"
        data = np.zeros((12, 14, 12), np.float32)
        data[4 + k : 6 + k, 5:8, 5:7] = 10.0**k
        affine = nib.affines.from_matvec(12 * np.eye(3), (-66, -100, -60))
        image = nib.Nifti1Image(data, affine)
        nib.save(image, group / f"{stem}_stat-mean_res-12mm_desc-AD_heatmap.nii.gz")
        names = {"index": [1, 2], "name": ["Left Insula", "Brain Stem"], "voxels": [4, 4]}
        regions = pd.DataFrame(names | {"sum_AD": [4.0, -8.0], "density_AD": [1.0 + k, -2.0]})
        write_table(group / f"{stem}_atlas-AAL_heatmap.tsv", regions)
        columns = {"participant_id": ["sub-01"], "label": ["AD"], "lesion_voxels": [4]}
        people = pd.DataFrame(columns)
        write_table(group / f"{stem}_desc-lesions_heatmap.tsv", people)
        means = {"AD": {"lesion_coverage": 0.01, "lesion_relevance": 0.1 + k}}
        write_json(group / f"{stem}_desc-lesions_heatmap.json", {"Means": means})
    page = report(settings.output_dir, "demo-t1w", "preprocessing.registration", variants)
    stem = "model-demot1w_desc-comparepreprocessingregistration"
    endings = ("maps", "atlas-AAL_regions")
    assert all((group / f"figures/{stem}_method-saliency_{one}.png").is_file() for one in endings)
    assert read_table(group / f"{stem}_lesions.tsv")["lesion_relevance"].tolist() == [0.1, 1.1]
    text = page.read_text()
    assert "Heatmaps of the patients" in text
    assert text.count("data:image/png") == 3
    assert "only what exceeds the untrained network was learnt" in text
