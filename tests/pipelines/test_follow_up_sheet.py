"""Follow-up of clusters: who is in which subset, the uptake of the images, what is written."""

import json

import numpy as np
import pandas as pd
import pytest

from models.grids import Grid
from models.volumes import write_cache
from pipelines.analytics import Sheet
from pipelines.derivatives import read_table, write_table
from pipelines.follow_up import NOT_NEW, add_follow_up, measured_people
from pipelines.heatmaps import HeatmapNames
from pipelines.images import write_nifti
from pipelines.preprocess import modality_of
from pipelines.retrainings import Retrainings

GRID = Grid("tiny", (6, 5, 4), 4.0, (-10.0, -8.0, -6.0))
CLASSES = ("normal", "reduced")
# Role of each person, "" for one that the balancing left out; patients and controls in turn.
ROLES = ["train"] * 8 + ["validation"] * 4 + ["test"] * 6 + ["unused"]
LABELS = np.zeros(GRID.shape, int)
LABELS[1:3, 1:3, 1:3] = 1
LABELS[4, 3, 2] = 2
CLUSTERS = pd.DataFrame({"index": [1, 2], "name": ["Insula_ipsi", "Pole"]})


def uptake_of(i):
    """Uptake of a person in cluster 1; elsewhere 1."""
    return 1.5 + 0.01 * i - 0.25 * (i % 2 == 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Cohort, cache on the scale "binding", scores of the tested people."""
    folder = tmp_path_factory.mktemp("world")
    who = [f"sub-{i:02d}" for i in range(len(ROLES))]
    positive = np.arange(len(ROLES)) % 2 == 0
    images, volumes = [], []
    for i, name in enumerate(who):
        volume = np.ones(GRID.shape, np.float32)
        volume[LABELS == 1] = uptake_of(i)
        volume[0] = 0
        volumes.append(np.where(volume != 0, volume - 1, 0)[None])
        path = folder / f"{name}_spect.nii.gz"
        write_nifti(path, volume, GRID.affine, template=True)
        ratios = {"putamen_L": 3.0 + i, "putamen_R": 2.0 + i, "caudate_L": 1.0, "caudate_R": 1.5}
        sidecar = {"SpecificBindingRatio": ratios, "LowerPutamen": "R"}
        path.with_name(f"{name}_spect.json").write_text(json.dumps(sidecar))
        images.append(str(path))
    keys = [(name[4:], "") for name in who]
    cache = write_cache(folder / "cache", keys, volumes, GRID)
    cohort = pd.DataFrame(
        {
            "participant_id": who, "session_id": "", "image": images, "positive": positive,
            "age": 60.0 + np.arange(len(who)) % 7,
        }
    )  # fmt: skip
    tested = [i for i, role in enumerate(ROLES) if role == "test"]
    ids = cohort.loc[tested, ["participant_id", "session_id"]].assign(session_id=None)
    label = np.where(positive[tested], "reduced", "normal")
    write_table(folder / "predictions.tsv", ids.assign(label=label))
    write_table(folder / "scores.tsv", ids.assign(repeat=1, probability=0.5, threshold=0.5))
    people = Retrainings.read(folder / "predictions.tsv", [folder / "scores.tsv"], "reduced")
    splits = [{"roles": dict(zip((name[4:] for name in who), ROLES, strict=True))}]
    return measured_people(
        cohort, cache, people, modality_of("spect"), ["age"], "binding", splits=splits
    )


def test_people_are_in_the_subset_of_their_role_and_who_was_left_out_is_nowhere(world):
    found = dict(zip(world.names, world.subset, strict=True))
    words = {"train": "training", "validation": "validation", "test": "test"}
    expected = {f"sub-{i:02d}": words[role] for i, role in enumerate(ROLES) if role in words}
    assert found == expected


def test_who_was_trained_on_in_one_fold_is_no_validation_person(world):
    from pipelines.follow_up import _given

    splits = [{"roles": {"1": "train", "2": "validation"}}, {"roles": {"1": "validation"}}]
    assert _given(splits) == {"1": "training", "2": "validation"}
    assert _given(splits[::-1]) == {"1": "training", "2": "validation"}


@pytest.fixture(scope="module")
def sheet(world, tmp_path_factory):
    names = HeatmapNames("m", "reduced", GRID, "spect", ipsilateral=True)
    made = Sheet(tmp_path_factory.mktemp("sheet"), names, "lrp", {})
    add_follow_up(made, LABELS, CLUSTERS, world, CLASSES, seed=1)
    return made


def table(sheet, desc):
    (path,) = [one for one in sheet.products if f"_desc-{desc}_" in one and one.endswith(".tsv")]
    return read_table(sheet.products[path]["file"]), sheet.products[path]["sidecar"]


def test_uptake_is_that_of_the_images_in_each_subset_apart(sheet):
    found, said = table(sheet, "uptake")
    assert said["Subsets"] == {"training": 8, "validation": 4, "test": 6}
    assert said["Caution"] == NOT_NEW
    rows = found[found["cluster"] == "Insula_ipsi"].set_index("subset")
    for subset, role in (("training", "train"), ("validation", "validation"), ("test", "test")):
        own = [i for i, one in enumerate(ROLES) if one == role]
        ill, well = ([uptake_of(i) for i in own if (i % 2 == 0) == one] for one in (True, False))
        assert rows.loc[subset, "mean_positive"] == pytest.approx(np.mean(ill), abs=1e-3)
        assert rows.loc[subset, "mean_negative"] == pytest.approx(np.mean(well), abs=1e-3)
        assert rows.loc[subset, "auc"] == 1.0


def test_the_measure_is_the_binding_of_the_lower_putamen(sheet):
    people, _ = table(sheet, "uptakePeople")
    row = people.set_index("participant_id").loc["sub-03"]
    assert row["ipsilateral putamen SBR"] == 5.0
    assert row["contralateral putamen SBR"] == 6.0
    related, said = table(sheet, "uptakeCorrelation")
    assert said["Measure"] == "ipsilateral putamen SBR"
    within = related[(related["cluster"] == "Insula_ipsi") & (related["group"] != "everybody")]
    assert (within["r"] > 0.999).all()
    assert (within["people"] == 9).all()


def test_two_subsets_are_drawn_training_first(world, tmp_path, monkeypatch):
    from pipelines import charts

    drawn = []
    real = charts.uptake_groups
    monkeypatch.setattr(charts, "uptake_groups", lambda *a: drawn.append(a) or real(*a))
    names = HeatmapNames("m", "reduced", GRID, "spect")
    add_follow_up(Sheet(tmp_path, names, "lrp", {}), LABELS, CLUSTERS, world, CLASSES, seed=1)
    people, _, shown, _ = drawn[0]
    assert list(pd.unique(people["subset"])) == ["training", "test"]
    assert shown[0] == "Insula_ipsi"


def test_no_cluster_is_said(world, tmp_path):
    made = Sheet(tmp_path, HeatmapNames("m", "reduced", GRID, "spect"), "lrp", {})
    add_follow_up(made, LABELS * 0, CLUSTERS.head(0), world, CLASSES, seed=1)
    assert made.products == {}
    assert "there is none" in made.missing[0]
