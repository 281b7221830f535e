"""What an anomaly detection refuses before it begins, and how it divides the controls."""

import pandas as pd
import pytest

from bidsapp import anomaly
from bidsapp.cohort import CohortTable
from bidsapp.compare import run_compared
from bidsapp.settings import Settings, load_recipe
from models.errors import InputError
from pipelines.preprocess import modality_of


class Diary:
    """Remembers what it was told."""

    def __init__(self):
        self.told = []

    def warn(self, sentence):
        self.told.append(sentence)


def settings_of(tmp_path, recipe, **tables):
    return Settings(
        bids_dir=tmp_path / "raw",
        output_dir=tmp_path / "out",
        levels=("group",),
        recipe=load_recipe(recipe).overridden(tables),
        work_dir=tmp_path / "work",
    )


@pytest.mark.parametrize(
    ("recipe", "intensity", "taken"),
    [
        ("t1w-anomaly", "max", True),
        ("t1w-anomaly", "minmax", True),  # the remedy for an image with negative values
        ("t1w-anomaly", "percentile", True),
        ("t1w-anomaly", "zscore", False),
        ("demo-anomaly", "max", True),
        ("demo-anomaly", "minmax", False),  # MD and FA have units
    ],
)
def test_scales_within_0_and_1_are_taken(tmp_path, recipe, intensity, taken):
    settings = settings_of(tmp_path, recipe, preprocessing={"intensity": intensity})
    modality = modality_of(settings.recipe.input.modality)
    if taken:
        anomaly.check_recipe(settings, modality)
        return
    with pytest.raises(InputError, match=f"intensity = '{intensity}'.*use 'max'"):
        anomaly.check_recipe(settings, modality)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"cohort": {"group": "family"}}, "do not keep families together"),
        ({"preprocessing": {"mirror": True}}, "left as left"),
        ({"preprocessing": {"mask": {"regions": ["Putamen_L"]}}}, "the whole brain"),
        ({"preprocessing": {"registration": "none"}}, "registration = 'none'"),
    ],
)
def test_what_anomalies_cannot_be_looked_for_in(tmp_path, tables, said):
    settings = settings_of(tmp_path, "t1w-anomaly", **tables)
    with pytest.raises(InputError, match=said):
        anomaly.check_recipe(settings, modality_of("T1w"))


def test_auto_encoders_are_not_compared_as_classifiers_are(tmp_path):
    settings = settings_of(tmp_path, "demo-anomaly")
    with pytest.raises(InputError, match=r"several .*autoencoder"):
        run_compared(settings, "anomaly.quantile=0.95,0.98")


def cohort(controls, patients):
    rows = [
        (f"sub-{k:02d}", "", f"{k}.nii.gz", k >= controls, True, True, 50 + k, "FM"[k % 2])
        for k in range(controls + patients)
    ]
    columns = ["participant_id", "session_id", "image", "positive", "train", "test", "age", "sex"]
    return CohortTable(pd.DataFrame(rows, columns=columns), [], {})


def test_patients_are_tested_in_every_split_and_controls_train_where_they_are_not(tmp_path):
    settings, diary = settings_of(tmp_path, "demo-anomaly"), Diary()
    splits = anomaly.divisions(settings, cohort(16, 5), diary)
    assert [one.number for one in splits] == [1, 2, 3, 4]
    for split in splits:
        assert set(split.people("test")) >= {f"{k:02d}" for k in range(16, 21)}
        assert set(split.people("train")) < {f"{k:02d}" for k in range(16)}
        assert len(split.people("train")) == 16 - round(16 * 15 / 56)
    assert {one for split in splits for one in split.people("test")} == {
        f"{k:02d}" for k in range(21)
    }
    assert not [one for one in diary.told if "without a map" in one]


def test_controls_without_a_map_are_named(tmp_path):
    settings, diary = settings_of(tmp_path, "demo-anomaly", anomaly={"splits": 2}), Diary()
    splits = anomaly.divisions(settings, cohort(16, 5), diary)
    tested = {one for split in splits for one in split.people("test")}
    (told,) = [one for one in diary.told if "without a map" in one]
    for k in range(16):
        assert (f"sub-{k:02d}" in told) == (f"{k:02d}" not in tested)


def test_too_few_controls_are_refused_with_the_number_needed(tmp_path):
    settings = settings_of(tmp_path, "demo-anomaly")
    with pytest.raises(InputError, match=r"5 controls are too few .*at least 6 are needed"):
        anomaly.divisions(settings, cohort(5, 3), Diary())
