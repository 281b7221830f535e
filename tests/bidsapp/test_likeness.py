"""Strata, families and balance, from the columns of participants.tsv."""

import numpy as np
import pandas as pd
import pytest

from bidsapp.cohort import build_cohort
from bidsapp.likeness import balanced_away, read_likeness
from bidsapp.settings import Balance, Cohort, Training
from models.errors import InputError
from models.training.splits import Plan, split_people
from pipelines.derivatives import write_table


def study(folder, n=24, **columns):
    """A cohort with these columns; its table of people and its rows."""
    table = {
        "participant_id": [f"sub-{i:02d}" for i in range(n)],
        "diagnosis": ["AD", "CN"] * (n // 2),
        "sex": ["F", "F", "M", "M"] * (n // 4),
        "age": [60 + i for i in range(n)],
        "site": [1, 2, 1] * (n // 3),
    }
    write_table(folder / "participants.tsv", pd.DataFrame(table | columns))
    images = {(f"{i:02d}", ""): folder / f"{i}.nii.gz" for i in range(n)}
    group = next(iter({"family"} & set(columns)), "")
    return build_cohort(folder, images, Cohort("diagnosis", "AD", "CN", group=group))


def complaint(folder, cohort, training):
    with pytest.raises(InputError) as caught:
        read_likeness(folder, cohort, training)
    return str(caught.value)


def test_columns_are_taken_and_cut_into_bins(tmp_path):
    cohort = study(tmp_path)
    training = Training(folds=2, stratify=("sex", "age:5", "site"))
    likeness, warnings = read_likeness(tmp_path, cohort, training)
    assert list(likeness.strata) == ["sex", "age:5", "site"]
    assert likeness.strata.index.tolist() == [f"{i:02d}" for i in range(24)]
    assert likeness.strata["age:5"].tolist() == [5.0 * ((60 + i) // 5) for i in range(24)]
    assert likeness.strata["site"].tolist() == ["1", "2", "1"] * 8  # numbers that are names
    assert likeness.families == {}
    (said,) = warnings
    assert "have fewer people than the 2 parts (the smallest 1)" in said
    assert "class, sex, age:5, site" in said


def test_large_strata_are_no_news(tmp_path):
    training = Training(folds=3, stratify=("sex",))
    assert read_likeness(tmp_path, study(tmp_path), training)[1] == []


def test_missing_values_are_a_stratum_and_said(tmp_path):
    cohort = study(tmp_path, site=["A", "B", "n/a", ""] * 6)
    training = Training(folds=2, stratify=("site",))
    likeness, warnings = read_likeness(tmp_path, cohort, training)
    assert likeness.strata["site"].isna().sum() == 12
    assert "site is missing for 12 people (sub-02, sub-03, " in warnings[0]
    assert "a stratum of their own" in warnings[0]
    split_people(cohort.labels, Plan(folds=2), likeness=likeness)


def test_columns_that_do_not_fit_are_refused(tmp_path):
    cohort = study(tmp_path)
    said = complaint(tmp_path, cohort, Training(stratify=("sexe",)))
    assert "[training] stratify" in said
    assert "did you mean 'sex'?" in said
    said = complaint(tmp_path, cohort, Training(stratify=("sex:5",)))
    assert "holds 'F', which cannot be cut into bins of 5" in said
    said = complaint(tmp_path, cohort, Training(balance=Balance("Sex")))
    assert "[training.balance] column" in said
    cohort = study(tmp_path, sex=["F"] * 24)
    said = complaint(tmp_path, cohort, Training(balance=Balance("sex")))
    assert "the same for everybody" in said


def test_who_is_balanced_away_is_said(tmp_path):
    sexes = np.array(["F"] * 24)
    sexes[:8] = "M"  # 4 men and 8 women of each class
    cohort = study(tmp_path, sex=sexes)
    likeness, _ = read_likeness(tmp_path, cohort, Training(balance=Balance("sex")))
    splits = split_people(cohort.labels, Plan(folds=2), likeness=likeness)
    said = balanced_away(splits)
    assert said.startswith("[training.balance]: 8 of 24 people are left out (role unused")
    often = split_people(cohort.labels, Plan(folds=2, repeats=3, runs=2), likeness=likeness)
    assert "8 of 24 people are left out in each of the 3 divisions, drawn anew" in balanced_away(
        often
    )
    assert balanced_away(split_people(cohort.labels)) == ""


def test_families_come_with_the_cohort(tmp_path):
    families = ["n/a"] * 20 + ["x", "x", "7", "7"]
    cohort = study(tmp_path, family=families)
    assert cohort.families == {"20": "x", "21": "x", "22": "7", "23": "7"}
    likeness, _ = read_likeness(tmp_path, cohort, Training())
    for split in split_people(cohort.labels, likeness=likeness):
        assert split.roles["20"] == split.roles["21"]
        assert split.roles["22"] == split.roles["23"]
    assert any("family is missing for 20 people (sub-00, " in one for one in cohort.warnings)


def test_a_family_column_that_is_empty_or_not_there(tmp_path):
    with pytest.raises(InputError, match=r"'family' of .* is empty for everybody"):
        study(tmp_path, family=["n/a"] * 24)
    study(tmp_path)
    with pytest.raises(InputError, match=r"\[cohort\] group: .* has no column 'famly'"):
        build_cohort(tmp_path, {}, Cohort("diagnosis", "AD", "CN", group="famly"))
