"""Tables of people become designs and exchange blocks, or are refused before anything runs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from models.errors import InputError
from pipelines.derivatives import write_table
from pipelines.people import People, check_columns, check_design, complete, exchange, join_people
from pipelines.statistics import StatisticsOptions

OPTIONS = StatisticsOptions(terms=("diagnosis", "age"), contrast="AD - CN", permutations=50)
SITES = ["Rome", "Rome", "Oslo", "Oslo", "Kiel", "Kiel"] * 2


@pytest.fixture
def tables(tmp_path):
    """Twelve people in six families and three sites; the cohort lacks what participants.tsv has."""
    people = [f"sub-{i:02d}" for i in range(12)]
    positive = np.arange(12) % 2 == 0
    rows = {"participant_id": people, "session_id": "", "image": "x", "positive": positive}
    age = 60.0 + np.arange(12) ** 1.5
    write_table(
        tmp_path / "cohort.tsv",
        pd.DataFrame({**rows, "train": True, "test": True, "age": age}),
    )
    more = {
        "diagnosis": np.where(positive, "AD", "CN"),
        "age": age,
        "site": SITES,
        "family": [f"f{i // 2}" for i in range(12)],
        "mixed": ["1", "2", "Rome"] * 4,
        "lumps": ["a"] * 3 + ["b"] * 9,
        "room": [1.0, np.nan, *[2.0] * 10],
    }
    participants = pd.DataFrame({"participant_id": [one[4:] for one in people], **more})
    write_table(tmp_path / "participants.tsv", participants[::-1])
    return tmp_path


def joined(tables, options, covariates=()):
    cohort = pd.read_csv(tables / "cohort.tsv", sep="\t", dtype={"participant_id": str})
    table = cohort.assign(label=np.where(cohort["positive"], "AD", "CN"))
    return join_people(
        table, options, covariates, tables / "cohort.tsv", tables / "participants.tsv"
    )


def checked(tables, tested=None, **changes):
    tested = [f"{i:02d}" for i in range(12)] if tested is None else tested
    check_design(
        replace(OPTIONS, **changes), ("CN", "AD"), tables / "cohort.tsv",
        tables / "participants.tsv", tested,
    )  # fmt: skip


def test_a_target_in_numbers_is_a_group():
    labels = np.array(["1", "0", "1", "0", "1"])
    people = People(labels, pd.DataFrame({"sick": [1, 0, 1, 0, 1], "age": [6.0, 7, 9, 4, 5]}))
    options = StatisticsOptions(terms=("sick", "age"), contrast="1 - 0")
    assert people.design(options, ("0", "1")).names == ("mean", "sick[1]", "age")


def test_rows_follow_the_maps_whatever_the_order_of_the_tables(tables):
    options = replace(OPTIONS, exchange_within="site", exchange_whole="family")
    kept, people, excluded = joined(tables, options)
    assert kept["participant_id"].tolist() == [f"sub-{i:02d}" for i in range(12)]
    assert people.columns["diagnosis"].tolist() == people.labels.tolist()
    assert people.blocks["site"].tolist() == SITES
    assert excluded == {}


def test_blocks_do_not_ask_for_terms(tables):
    options = StatisticsOptions(exchange_within="room")
    kept, people, excluded = joined(tables, options, ["age"])
    assert list(people.columns) == ["age"]
    assert excluded == {"sub-01": "room is missing"}
    assert people.blocks["room"].tolist() == ["1"] + ["2"] * 10
    assert len(kept) == 11


def test_blocks_say_who_changes_places(tables):
    options = replace(OPTIONS, exchange_within="site", exchange_whole="family")
    _, people, _ = joined(tables, options)
    made = exchange(options, people, None)
    assert made.within.tolist() == SITES
    assert made.whole.tolist() == [f"f{i // 2}" for i in range(12)]
    assert made.permute
    assert not made.flip
    one = exchange(replace(OPTIONS, exchange_within="site"), people, None)
    assert one.whole is None
    free = exchange(OPTIONS, people, None)
    assert free.within is None


def test_folds_and_sites_part_people_together(tables):
    options = replace(OPTIONS, exchange_within="site")
    _, people, _ = joined(tables, options)
    folds = np.repeat([1, 2], 6)
    within = exchange(options, people, folds).within
    same = within[:, None] == within
    expected = (folds[:, None] == folds) & (np.array(SITES)[:, None] == np.array(SITES))
    np.testing.assert_array_equal(same, expected)


def test_families_in_several_folds_are_refused(tables):
    options = replace(OPTIONS, exchange_whole="family")
    _, people, _ = joined(tables, options)
    with pytest.raises(InputError, match="family 'f0' were tested in several folds"):
        exchange(options, people, np.arange(12) % 2)
    assert exchange(options, people, np.repeat([0, 1], 6)).whole is not None


def test_flips_take_families_but_no_folds(tables):
    options = replace(OPTIONS, contrast="mean", terms=(), exchange_whole="family")
    _, people, _ = joined(tables, options)
    made = exchange(options, people, np.arange(12) % 2)
    assert made.flip
    assert made.within is None
    assert len(set(made.whole)) == 6


def test_numbers_and_words_in_one_column_are_not_guessed_about():
    """A site 'Rome' among 1 and 2 would otherwise be taken for a missing number."""
    columns = pd.DataFrame({"site": ["1", "2", "Rome"]}, index=list("abc"))
    with pytest.raises(InputError, match="'site' has both numbers and words \\('Rome'\\)"):
        complete(columns, OPTIONS)
    kept, excluded = complete(columns, replace(OPTIONS, categorical=("site",)))
    assert kept["site"].tolist() == ["1", "2", "Rome"]
    assert excluded == {}


def test_a_number_that_is_none_is_quoted():
    columns = pd.DataFrame({"age": ["70", ">89", None, "66"]}, index=list("abcd"))
    kept, excluded = complete(columns, StatisticsOptions())
    assert kept["age"].tolist() == [70, 66]
    assert excluded == {"b": "age is '>89', not a number", "c": "age is missing"}


def test_a_column_that_is_not_there_is_named_before_anything_runs(tables):
    with pytest.raises(InputError, match="no column 'ages'; did you mean 'age'"):
        check_columns(tables / "participants.tsv", ["ages"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrast": "AD - HC"}, "'HC', which is neither a level nor a covariate"),
        ({"terms": ("diagnosis", "site", "family"), "contrast": "AD - CN"}, "follows from"),
        ({"terms": ("diagnosis", "mixed")}, "both numbers and words"),
        ({"exchange_within": "sites"}, "no column 'sites'; did you mean 'site'"),
        ({"exchange_whole": "lumps"}, "equal size; these have 3 to 9 people"),
        ({"exchange_whole": "family", "exchange_within": "diagnosis"}, "must lie within one site"),
        ({"exchange_within": "diagnosis", "terms": ("diagnosis",)}, "nobody can change places"),
    ],
)
def test_what_cannot_be_tested_is_told_before_anything_is_trained(tables, changes, message):
    checked(tables)
    with pytest.raises(InputError, match=message):
        checked(tables, **changes)


def test_only_those_who_will_be_tested_count(tables):
    checked(tables, ["00", "01", "02", "03", "04", "05"])
    with pytest.raises(InputError, match="'AD' for everybody"):
        checked(tables, ["00", "02", "04", "06"])
