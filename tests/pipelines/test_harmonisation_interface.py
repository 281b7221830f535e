"""Harmonisation over files: the maps of a fold, who may be harmonised, and that nothing leaks."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.torch import load_file

from models.errors import InputError
from models.grids import Grid
from models.harmonisation import Harmonised
from models.training.splits import Plan, Split, split_people
from models.volumes import open_cache, write_cache
from pipelines.derivatives import file_hash, read_table, write_table
from pipelines.explain import harmonised_by
from pipelines.harmonisation import (
    HarmonisationOptions,
    check_sites,
    coded,
    coding,
    read_maps,
    seen,
)
from pipelines.interfaces.baselines import BaselineFeatures
from pipelines.interfaces.harmonisation import HarmoniseFold
from pipelines.interfaces.networks import TrainFold, prediction_keys
from pipelines.stored_models import made_by

GRID = Grid("tiny", (46, 46, 46), 4.0, (-90.0, -90.0, -90.0))
OPTIONS = HarmonisationOptions("combat", ("age", "sex"))


def made(folder, **changes):
    """Twenty people of two sites, one of which is brighter."""
    rng = np.random.default_rng(0)
    number = np.arange(20)
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{k:02d}" for k in number],
            "session_id": "",
            "positive": number % 2 == 0,
            "train": True,
            "test": True,
            "centre": np.where(number % 4 < 2, 1, 2),
            "age": rng.normal(70, 5, 20),
            "sex": rng.choice(["F", "M"], 20),
        }
    ).assign(**changes)
    volumes = [
        1 + 0.05 * rng.normal(size=(1, *GRID.shape)) + 0.5 * (site == 2) for site in table["centre"]
    ]
    write_table(folder / "cohort.tsv", table)
    write_cache(folder / "cache", prediction_keys(table), iter(volumes), GRID)
    return table


@pytest.fixture
def cohort(tmp_path):
    return tmp_path, made(tmp_path)


def split_of(table, number=0):
    labels = dict(zip(table["participant_id"].str[4:], table["positive"], strict=True))
    return split_people(labels, Plan(folds=4, validation_share=0.2))[number]


def run(interface, folder):
    folder.mkdir(exist_ok=True)
    return interface.run(cwd=str(folder)).outputs


def harmonise(folder, split, **more):
    given = {
        "cache": str(folder / "cache"), "content_hash": "x", "cohort": folder / "cohort.tsv",
        "split": asdict(split), "site": "centre", "options": asdict(OPTIONS), "model": "m",
    }  # fmt: skip
    return run(HarmoniseFold(**given | more), folder / "harmonise")


def test_the_maps_take_the_site_off_everybody(cohort):
    folder, table = cohort
    found = harmonise(folder, split_of(table))
    assert list(found.products) == ["models/model-m/model-m_fold-1_harmonisation.safetensors"]
    read = read_table(folder / "cohort.tsv")
    read["session_id"] = ""
    images = seen(open_cache(folder / "cache"), read, found.maps)
    assert isinstance(images, Harmonised)
    level = np.array([images[row].mean() for row in range(20)])
    bright = table["centre"] == 2
    assert abs(level[bright].mean() - level[~bright].mean()) < 0.02
    raw = np.asarray(open_cache(folder / "cache").volumes, float).mean((1, 2, 3, 4))
    assert raw[bright].mean() - raw[~bright].mean() > 0.4


def test_the_maps_do_not_depend_on_who_is_tested_or_validates(cohort):
    folder, table = cohort
    split = split_of(table)
    clean = file_hash(harmonise(folder, split).maps)
    out = ~table["participant_id"].str[4:].isin(split.people("train"))
    assert out.any()
    cache = open_cache(folder / "cache")
    poisoned = [
        np.full(cache.volumes.shape[1:], np.nan) if bad else v
        for bad, v in zip(out, cache.volumes, strict=True)
    ]
    write_cache(folder / "cache2", cache.keys, iter(poisoned), GRID)
    changed = table.assign(
        positive=table["positive"] ^ out,
        age=table["age"].mask(out, 5),
        sex=table["sex"].mask(out, "X"),
    )
    write_table(folder / "cohort.tsv", changed)
    again = harmonise(folder, split, cache=str(folder / "cache2"))
    assert file_hash(again.maps) == clean


def test_a_new_person_is_harmonised_as_the_cohort_was(cohort):
    folder, table = cohort
    found = harmonise(folder, split_of(table))
    cache, stored = open_cache(folder / "cache"), read_maps(found.maps)
    images = seen(cache, read_table(folder / "cohort.tsv"), found.maps)
    known = table[["participant_id", "centre", "age", "sex"]]
    gap = pd.DataFrame({"participant_id": ["sub-gap"], "centre": [np.nan]})
    write_table(folder / "participants.tsv", pd.concat([known, gap]))  # so centre 1 is read as 1.0

    model = SimpleNamespace(card={"Harmonisation": OPTIONS.card("centre")})
    people = harmonised_by(model, folder)
    for row in (0, 3):
        person = people[f"sub-{row:02d}"]
        assert_allclose(stored.apply(cache.volumes[row], person, "sub-x"), images[row], rtol=1e-5)
    with pytest.raises(InputError, match=r"sub-x: .*column 'centre' of participants.tsv"):
        stored.apply(cache.volumes[0], {"age": "70"}, "sub-x")
    with pytest.raises(InputError, match="site '7' has no training people"):
        stored.apply(cache.volumes[0], {"centre": "7"}, "sub-x")
    assert harmonised_by(SimpleNamespace(card={"Harmonisation": None}), folder) == {}


def test_maps_that_are_lost_are_missed(tmp_path):
    with pytest.raises(InputError, match="copy the model's folder whole"):
        read_maps(tmp_path / "nothing.safetensors")


def test_a_network_is_trained_on_harmonised_images(cohort):
    """Other maps make another fold; without maps the fold is what it was."""
    folder, table = cohort
    split = split_of(table)
    maps = harmonise(folder, split).maps
    given = {
        "cache": str(folder / "cache"), "content_hash": "x", "cohort": folder / "cohort.tsv",
        "split": asdict(split), "network": {"name": "demo"}, "seed": 1, "model": "m",
        "protocol": {"epochs": 1, "select": "last"},
    }  # fmt: skip
    plain = run(TrainFold(**given), folder / "plain")
    harmonised = {"site": "centre", "options": asdict(OPTIONS)}
    taken = run(TrainFold(**given, harmonisation=maps, harmonised=harmonised), folder / "taken")
    assert made_by(Path(plain.weights)) != made_by(Path(taken.weights))
    first, second = (load_file(one.weights) for one in (plain, taken))
    assert any(not first[name].equal(second[name]) for name in first)
    assert not np.allclose(read_table(plain.scores)["score"], read_table(taken.scores)["score"])


def test_baselines_see_the_harmonised_voxels_and_the_same_mask(cohort):
    folder, table = cohort
    maps = harmonise(folder, split_of(table)).maps
    given = {
        "cache": str(folder / "cache"), "content_hash": "x", "cohort": folder / "cohort.tsv",
        "names": ["svm_voxels", "mask"], "atlas": "AAL",
    }  # fmt: skip
    plain = np.load(run(BaselineFeatures(**given), folder / "plain").features)
    taken = np.load(run(BaselineFeatures(**given, harmonisation=maps), folder / "taken").features)
    images = seen(open_cache(folder / "cache"), read_table(folder / "cohort.tsv"), maps)[:]
    flat = images.reshape(20, -1).astype(float)
    assert_allclose(taken["voxels"], flat @ flat.T, rtol=1e-5)
    assert not np.allclose(taken["voxels"], plain["voxels"])
    assert_array_equal(taken["mask"], plain["mask"])


# --- covariates ----------------------------------------------------------------------------------


def test_words_become_columns_of_the_words_that_were_fitted():
    table = pd.DataFrame({"age": [1, 2, None], "field": ["a", "c", "b"]})
    code = coding(table, ["age", "field"])
    assert [one["name"] for one in code] == ["age", "field", "field"]
    new = pd.DataFrame({"age": ["7", "x"], "field": ["c", "unheard of"]})
    assert_array_equal(coded(new, code), [[7, 0, 1], [np.nan] * 3])


# --- who can be harmonised -----------------------------------------------------------------------


def test_a_site_that_a_fold_cannot_learn_is_refused_before_anything_runs(tmp_path):
    table = made(tmp_path)
    split = split_of(table)
    check_sites(table, [split], "centre")
    lonely = table.assign(centre=table["centre"].where(table["participant_id"] != "sub-05", 9))
    with pytest.raises(InputError, match=r"sub-05 is to .* images of site '9'"):
        check_sites(lonely, [split], "centre")
    with pytest.raises(InputError, match="names one site"):
        check_sites(table.assign(centre=1), [split], "centre")
    unused = Split(1, 1, 1, dict(split.roles) | {"05": "unused"})
    check_sites(lonely, [unused], "centre")
