"""Baselines from a packed cache to tables: the same people as the network, honest words."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from models.grids import Grid
from models.regions import region_table
from models.training.metrics import classification_metrics
from models.training.splits import Plan, split_people
from models.volumes import write_cache
from pipelines import charts, comparison
from pipelines.baselines import BASELINES, BaselineOptions, titles
from pipelines.derivatives import read_table, write_table
from pipelines.heatmaps import Regions
from pipelines.interfaces.baselines import BaselineFeatures, BaselineFold, Baselines
from pipelines.interfaces.networks import prediction_keys

GRID = Grid("tiny", (12, 14, 12), 15.0, (-82.0, -112.0, -70.0))
CLASSES = ["CN", "AD"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Features and eight folds, for the tests that only look."""
    return made(tmp_path_factory.mktemp("study"))


@pytest.fixture
def cohort(tmp_path):
    return made(tmp_path)


def made(folder):
    """Twenty people, the first of whom has two sessions; patients are darker on one side."""
    rng = np.random.default_rng(0)
    rows, volumes = [], []
    for number in range(20):
        for session in ("ses-1", "ses-2") if number == 0 else ("",):
            positive = number % 2 == 0
            volume = 1 + 0.2 * rng.normal(size=(1, *GRID.shape))
            volume[:, :6] -= 0.3 * positive
            volume[:, :, 0] = 0
            volume[:, :, 1 : 1 + int(rng.integers(3))] = 0
            rows.append(
                {
                    "participant_id": f"sub-{number:02d}",
                    "session_id": session,
                    "positive": positive,
                    "train": True,
                    "test": session != "ses-2",
                    "age": 60.0 + number if number != 3 else np.nan,
                    "sex": "FM"[number % 3 == 0],
                    "lesion_volume_ml": 1.0 + 4.0 * positive + number / 10,
                    "hippocampus": 3.0 - 0.5 * positive + 0.1 * rng.normal(),
                }
            )
            volumes.append(volume)
    table = pd.DataFrame(rows)
    write_table(folder / "cohort.tsv", table)
    cache = write_cache(folder / "cache", prediction_keys(table), iter(volumes), GRID)
    return folder, table, cache


def run(interface, folder):
    folder.mkdir(exist_ok=True)
    return interface.run(cwd=str(folder)).outputs


def features(folder, **more):
    given = {
        "cache": str(folder / "cache"), "content_hash": "x", "cohort": folder / "cohort.tsv",
        "names": list(BASELINES), "atlas": "AAL",
    }  # fmt: skip
    return run(BaselineFeatures(**given | more), folder / "features")


def splits(table, **more):
    labels = dict(zip(table["participant_id"].str[4:], table["positive"], strict=True))
    return split_people(labels, Plan(folds=4, validation_share=0.2, **more))


def fold(folder, split, path, **more):
    given = {
        "features": path, "cohort": folder / "cohort.tsv", "split": asdict(split),
        "options": asdict(BaselineOptions()), "covariates": ["age", "sex"], "seed": 1,
    }  # fmt: skip
    return run(BaselineFold(**given | more), folder / f"fold{split.number}")


@pytest.fixture(scope="module")
def fitted(study):
    folder, table, _ = study
    found = features(folder)
    chosen = splits(table, repeats=2)
    return found, chosen, [fold(folder, split, found.features) for split in chosen]


def network(table, seed=0):
    """What a network might have said of everybody."""
    rng = np.random.default_rng(seed)
    tested = table[table["test"]]
    probability = np.clip(0.4 + 0.2 * tested["positive"] + 0.2 * rng.normal(size=20), 0, 1)
    return pd.DataFrame(
        {
            "participant_id": tested["participant_id"],
            "session_id": tested["session_id"].replace("", np.nan),
            "label": np.where(tested["positive"], "AD", "CN"),
            "probability": probability,
            "predicted": np.where(probability >= 0.5, "AD", "CN"),
        }
    )


# --- what they look at ---------------------------------------------------------------------------


def test_features_are_those_of_the_packed_images(cohort):
    folder, _, cache = cohort
    found = features(folder)
    with np.load(found.features) as stored:
        flat = np.asarray(cache.volumes, float).reshape(21, -1)
        assert_allclose(stored["voxels"], flat @ flat.T)
        assert_allclose(stored["mask"], (flat != 0).astype(float) @ (flat != 0).T)
        atlas = Regions.on("AAL", GRID)
        for row in (0, 20):
            means = region_table(
                np.asarray(cache.volumes[row, 0], np.float32), atlas.labels, atlas.atlas.labels
            )
            assert_allclose(stored["regions"][row], means["density"])
    assert found.facts["svm_regions"] == "mean intensity of each region of AAL"
    assert "not zero" in found.facts["mask"]


def test_volumes_stand_for_the_regions_where_there_are_any(cohort):
    folder, table, _ = cohort
    found = features(folder, names=["svm_regions"], volumes=["hippocampus"])
    with np.load(found.features) as stored:
        assert set(stored) == {"regions"}
        assert_allclose(stored["regions"][:, 0], table["hippocampus"])
    assert found.facts == {"svm_regions": "volumes of regions, from the columns hippocampus"}


def test_volumes_of_the_registration_stand_beside_columns(cohort):
    folder, table, _ = cohort
    told = table[["participant_id", "session_id"]].assign(Amygdala=np.arange(21.0))
    write_table(folder / "joined.tsv", told.iloc[::-1].drop(index=7))
    found = features(
        folder, names=["svm_regions"], volumes=["hippocampus"], regions=["Amygdala"],
        measured=folder / "joined.tsv",
    )  # fmt: skip
    with np.load(found.features) as stored:
        assert_allclose(stored["regions"][:, 0], table["hippocampus"])
        expected = np.where(np.arange(21) == 7, np.nan, np.arange(21.0))
        assert_allclose(stored["regions"][:, 1], expected)
    said = "volumes of regions, from the columns hippocampus and the registration (Amygdala)"
    assert found.facts == {"svm_regions": said}


# --- one fold ------------------------------------------------------------------------------------


def test_everybody_is_tested_once_per_repeat_by_every_baseline(fitted):
    _, chosen, folds = fitted
    every = pd.concat([read_table(one.scores) for one in folds])
    assert set(every["session_id"].fillna("")) == {"ses-1", ""}
    counts = every.groupby(["classifier", "repeat"])["participant_id"].agg(["size", "nunique"])
    assert counts.to_numpy().tolist() == [[20, 20]] * 2 * len(BASELINES)
    for split, one in zip(chosen, folds, strict=True):
        tested = read_table(one.scores)["participant_id"].str[4:]
        assert set(tested) == set(split.people("test"))


def test_labels_and_images_of_the_test_people_do_not_reach_a_fold(cohort):
    folder, table, _ = cohort
    split = splits(table)[0]
    clean = read_table(fold(folder, split, features(folder).features).scores)
    tested = table["participant_id"].str[4:].isin(split.people("test"))
    write_table(
        folder / "cohort.tsv",
        table.assign(
            positive=table["positive"] ^ tested,
            age=table["age"].mask(tested & (table.index > 3), 1e6),
        ),
    )
    again = read_table(fold(folder, split, features(folder).features).scores)
    assert_array_equal(
        again[again["classifier"] != "covariates"]["score"],
        clean[clean["classifier"] != "covariates"]["score"],
    )
    near = again["classifier"].eq("covariates") & again["participant_id"].isin(
        table.loc[table.index <= 3, "participant_id"]
    )
    assert_array_equal(again[near]["score"], clean[near]["score"])


def test_who_validates_the_network_teaches_the_baselines(cohort):
    """Their images matter: without them the scores are others."""
    folder, table, _ = cohort
    split = splits(table)[0]
    path = features(folder).features
    clean = read_table(fold(folder, split, path).scores)
    without = {who: role for who, role in split.roles.items() if role != "validation"}
    fewer = read_table(fold(folder, type(split)(1, 1, 9, without), path).scores)
    assert not np.allclose(clean["score"], fewer["score"])


def test_a_baseline_that_cannot_be_fitted_stops_no_other(cohort):
    folder, table, _ = cohort
    found = fold(folder, splits(table)[0], features(folder).features, covariates=[])
    choices = json.loads(Path(found.choices).read_text())
    assert "[cohort] covariates" in choices["covariates"]["NotComputed"]
    assert set(read_table(found.scores)["classifier"]) == set(BASELINES) - {"covariates"}
    assert 0 <= choices["mask"]["InnerBalancedAccuracy"] <= 1


def test_relatives_stay_together_inside_a_fold(cohort):
    folder, table, _ = cohort
    split, path = splits(table)[0], features(folder).features
    clean = read_table(fold(folder, split, path).scores)
    tested = table["participant_id"].str[4:].isin(split.people("test"))
    write_table(folder / "cohort.tsv", table.assign(family=np.where(tested, "f1", None)))
    again = read_table(fold(folder, split, path).scores)
    assert_array_equal(clean["score"], again["score"])
    write_table(folder / "cohort.tsv", table.assign(family="f1"))
    choices = json.loads(Path(fold(folder, split, path).choices).read_text())
    assert all("training and in the test part" in one["NotComputed"] for one in choices.values())


def test_one_class_in_a_fold_is_said(cohort):
    folder, table, _ = cohort
    split = splits(table)[0]
    roles = {
        who: role if int(who) % 2 or role == "test" else "nobody"
        for who, role in split.roles.items()
    }
    found = fold(folder, type(split)(1, 1, 1, roles), features(folder).features)
    choices = json.loads(Path(found.choices).read_text())
    assert all("fewer than two people (0)" in one["NotComputed"] for one in choices.values())
    assert read_table(found.scores).empty


# --- beside the network --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def beside(fitted, study):
    found, _, folds = fitted
    folder, table, _ = study
    write_table(folder / "predictions.tsv", network(table))
    outputs = run(
        Baselines(
            predictions=folder / "predictions.tsv",
            scores=[one.scores for one in folds], choices=[one.choices for one in folds],
            facts=found.facts, covariates=["age", "sex"], options=asdict(BaselineOptions()),
            model="x", classes=CLASSES,
        ),
        folder / "beside",
    )  # fmt: skip
    return outputs.products, [read_table(one.scores) for one in folds], network(table)


def table_of(products, name):
    return read_table(products[f"group/model-x_desc-baselines_{name}.tsv"]["file"])


def test_the_tables_are_of_the_same_people(beside):
    products, scores, seen = beside
    found = table_of(products, "predictions")
    assert set(found["classifier"]) == set(BASELINES)
    means = pd.concat(scores).groupby(["classifier", "participant_id"])["score"].mean()
    assert_allclose(
        found.set_index(["classifier", "participant_id"])["score"],
        means.reindex(pd.MultiIndex.from_frame(found[["classifier", "participant_id"]])),
    )
    assert (found["n_models"] == 2).all()
    assert ((found["score"] >= 0) == (found["predicted"] == "AD")).all()
    measured = table_of(products, "metrics")
    assert list(dict.fromkeys(measured["classifier"])) == ["network", *BASELINES]
    expected = classification_metrics(seen["label"] == "AD", seen["probability"])
    mine = measured[measured["classifier"] == "network"]
    for metric in comparison.METRICS:
        assert_allclose(
            mine[mine["metric"] == metric][["value", "ci_low", "ci_high"]],
            expected[expected["metric"] == metric][["value", "ci_low", "ci_high"]],
        )
    voxels = found[found["classifier"] == "svm_voxels"]
    accuracy = (voxels["label"] == voxels["predicted"]).mean()
    told = measured[(measured["classifier"] == "svm_voxels") & (measured["metric"] == "accuracy")]
    assert told["value"].item() == pytest.approx(accuracy)


def test_an_effect_on_tissue_is_found_by_voxels_and_not_by_mask_or_covariates(beside):
    measured = table_of(beside[0], "metrics").set_index(["classifier", "metric"])["value"]
    assert measured["svm_voxels", "roc_auc"] > 0.9
    assert measured["svm_regions", "roc_auc"] > 0.9
    assert measured["mask", "roc_auc"] < 0.8


def test_sidecars_say_what_was_looked_at_and_chosen(beside):
    products, _, _ = beside
    sidecar = products["group/model-x_desc-baselines_metrics.tsv"]["sidecar"]
    assert sidecar["Features"]["covariates"] == "age, sex"
    assert len(sidecar["Chosen"]["svm_voxels_rbf"]) == 8
    assert set(sidecar["Chosen"]["svm_voxels_rbf"][0]) == {"C", "gamma", "InnerBalancedAccuracy"}
    assert sidecar["NotComputed"] == []
    assert "group/figures/model-x_desc-baselines.png" in products


def test_comparisons_follow_the_tests(beside):
    found = table_of(beside[0], "comparisons")
    assert list(found["classifier"]) == list(BASELINES)
    assert (found["people"] == 20).all()
    assert_allclose(found["auc_difference"], found["auc_network"] - found["auc_baseline"])
    for row in found.itertuples():
        assert row.verdict == comparison.verdict(row.auc_difference, row.p_auc)


def test_the_network_is_judged_by_its_own_threshold(study):
    seen = network(study[1])
    lower = seen.assign(threshold=0.3, predicted=np.where(seen["probability"] >= 0.3, "AD", "CN"))
    nobody = pd.DataFrame(columns=["classifier", "label", "score"])
    found = comparison.metrics(nobody, lower, "AD").set_index("metric")["value"]
    assert found["accuracy"] == pytest.approx((lower["label"] == lower["predicted"]).mean())
    assert (lower["predicted"] != seen["predicted"]).any()


@pytest.mark.parametrize(
    ("difference", "p", "said"),
    [
        (0.1, 0.04, "better"),
        (-0.1, 0.04, "worse"),
        (0.1, 0.05, "undecided"),
        (0.1, np.nan, "unknown"),
    ],
)
def test_verdicts(difference, p, said):
    assert comparison.verdict(difference, p) == said


def test_a_baseline_missing_from_one_fold_is_left_out_with_its_reason(fitted, study):
    found, _, folds = fitted
    folder, table, _ = study
    write_table(folder / "predictions.tsv", network(table))
    choices = json.loads(Path(folds[3].choices).read_text()) | {"mask": {"NotComputed": "no brain"}}
    (folder / "other.json").write_text(json.dumps(choices))
    paths = [one.choices for one in folds]
    paths[3] = folder / "other.json"
    outputs = run(
        Baselines(
            predictions=folder / "predictions.tsv", scores=[one.scores for one in folds],
            choices=paths, facts=found.facts, options=asdict(BaselineOptions()), model="x",
            classes=CLASSES,
        ),
        folder / "without",
    )  # fmt: skip
    assert "mask" not in set(table_of(outputs.products, "metrics")["classifier"])
    sidecar = outputs.products["group/model-x_desc-baselines_metrics.tsv"]["sidecar"]
    assert sidecar["NotComputed"] == ["mask: no brain"]


def test_without_any_baseline_the_tables_are_empty_but_there(fitted, study):
    folder, table, _ = study
    write_table(folder / "predictions.tsv", network(table))
    nothing = {name: {"NotComputed": "too few"} for name in BASELINES}
    (folder / "nothing.json").write_text(json.dumps(nothing))
    outputs = run(
        Baselines(
            predictions=folder / "predictions.tsv", scores=[one.scores for one in fitted[2]],
            choices=[folder / "nothing.json"] * 8, facts={}, options=asdict(BaselineOptions()),
            model="x", classes=CLASSES,
        ),
        folder / "nothing",
    )  # fmt: skip
    assert set(table_of(outputs.products, "metrics")["classifier"]) == {"network"}
    assert "verdict" in table_of(outputs.products, "comparisons")
    assert table_of(outputs.products, "predictions").empty


def test_the_figure_has_the_network_on_top(beside):
    figure = charts.forest(table_of(beside[0], "metrics"), titles(list(BASELINES)))
    left, right = figure.axes
    ticks = {
        tick.get_text(): at
        for tick, at in zip(left.get_yticklabels(), left.get_yticks(), strict=True)
    }
    assert max(ticks, key=ticks.get) == "network"
    assert set(ticks) == {
        "network",
        "linear SVM on the voxels",
        "SVM with a radial kernel on the voxels",
        "linear SVM on regions",
        "linear SVM on the lesion volume",
        "covariates alone",
        "brain mask alone",
    }
    assert right.get_xlabel() == "area under the ROC curve"
