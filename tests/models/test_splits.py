"""Nobody is ever on two sides."""

from itertools import chain

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InputError
from models.training.splits import Likeness, Plan, Split, check_split, split_people


def cohort(positive: int, negative: int) -> dict[str, bool]:
    return {f"p{i:03d}": True for i in range(positive)} | {
        f"n{i:03d}": False for i in range(negative)
    }


def positives(people: list[str]) -> int:
    return sum(person.startswith("p") for person in people)


def parts(split):
    return {role: split.people(role) for role in ("train", "validation", "test")}


@settings(max_examples=40, deadline=None)
@given(
    positive=st.integers(12, 40),
    negative=st.integers(12, 40),
    folds=st.integers(2, 6),
    repeats=st.integers(1, 3),
    share=st.sampled_from([0.0, 0.15, 0.3]),
    seed=st.integers(0, 2**16),
)
def test_k_fold(positive, negative, folds, repeats, share, seed):
    labels = cohort(positive, negative)
    plan = Plan(folds=folds, repeats=repeats, validation_share=share)
    splits = split_people(labels, plan, seed=seed)
    assert [split.number for split in splits] == list(range(1, folds * repeats + 1))
    assert [(split.repeat, split.fold) for split in splits] == [
        (repeat, fold) for repeat in range(1, repeats + 1) for fold in range(1, folds + 1)
    ]
    for repeat in range(1, repeats + 1):
        tested = [split.people("test") for split in splits if split.repeat == repeat]
        assert sorted(chain(*tested)) == sorted(labels)
        for test in tested:
            assert positives(test) in (positive // folds, -(-positive // folds))
            assert len(test) - positives(test) in (negative // folds, -(-negative // folds))
    for split in splits:
        sides = parts(split)
        assert sorted(chain(*sides.values())) == sorted(labels)
        rest = len(labels) - len(sides["test"])
        assert len(sides["validation"]) == (max(2, round(share * rest)) if share else 0)
        for role, people in sides.items():
            if people or role != "validation":
                assert 0 < positives(people) < len(people)
        if share:
            expected = positives(sides["train"] + sides["validation"]) / rest
            assert abs(positives(sides["validation"]) - expected * len(sides["validation"])) <= 1


def test_the_order_of_the_table_does_not_matter():
    labels = cohort(11, 13)
    backwards = dict(reversed(labels.items()))
    one, other = (split_people(people, Plan(folds=3), seed=4) for people in (labels, backwards))
    assert [dict(split.roles) for split in one] == [dict(split.roles) for split in other]


def test_the_seed_decides_and_repeats_differ():
    labels, plan = cohort(20, 20), Plan(folds=4, repeats=3)

    def tests(seed):
        return [s.people("test") for s in split_people(labels, plan, seed=seed)]

    assert tests(1) == tests(1)
    assert tests(1) != tests(2)
    once = tests(1)
    assert len({tuple(test) for test in once}) == 12
    splits = split_people(labels, plan, seed=1)
    assert len({tuple(split.people("validation")) for split in splits}) == 12


def test_more_repeats_keep_the_first_ones():
    labels = cohort(12, 15)
    few = split_people(labels, Plan(folds=3, repeats=1), seed=7)
    many = split_people(labels, Plan(folds=3, repeats=4), seed=7)
    assert [dict(s.roles) for s in few] == [dict(s.roles) for s in many[:3]]


@pytest.mark.parametrize("test_share", [0.2, 0.34])
def test_hold_out(test_share):
    labels = cohort(30, 60)
    plan = Plan(holdout=True, repeats=5, test_share=test_share)
    splits = split_people(labels, plan, seed=3)
    assert [(split.repeat, split.fold, split.number) for split in splits] == [
        (i, 1, i) for i in range(1, 6)
    ]
    for split in splits:
        sides = parts(split)
        assert sorted(chain(*sides.values())) == sorted(labels)
        assert len(sides["test"]) == pytest.approx(test_share * 90, abs=1)
        assert positives(sides["test"]) == pytest.approx(test_share * 30, abs=1)
        assert len(sides["validation"]) == round(0.15 * (90 - len(sides["test"])))
    assert len({tuple(split.people("test")) for split in splits}) == 5


def test_without_validation_everybody_else_trains():
    for split in split_people(cohort(6, 6), Plan(folds=3, validation_share=0)):
        assert set(split.roles.values()) == {"train", "test"}


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (cohort(4, 40), {"folds": 5}, "smaller class has 4 people, fewer than the 5 folds"),
        (cohort(40, 1), {"folds": 2}, "smaller class has 1 people"),
        (cohort(10, 0), {"folds": 2}, "smaller class has 0 people"),
        ({}, {"folds": 2}, "smaller class has 0 people"),
        (cohort(9, 9), {"folds": 1}, "folds = 1.*at least 2.*holdout"),
        (cohort(2, 2), {"folds": 2}, "2 people are too few.*validation_share"),
        (cohort(6, 6), {"folds": 2, "validation_share": 0.9}, "validation_share"),
        # Two validation people drawn from 2 + 10: proportion would make both of them negative.
        (cohort(4, 20), {"folds": 2, "validation_share": 0.15}, "one class.*validation_share"),
        (cohort(4, 20), {"holdout": True, "test_share": 0.05}, "one class.*test_share"),
        (cohort(40, 1), {"holdout": True}, "smaller class has 1 people; a hold-out needs 2"),
        (cohort(30, 30), {"holdout": True, "test_people": 60}, "too few.*test_people"),
        (cohort(20, 40), {"holdout": True, "test_people": 40, "equal_parts": True}, "test_people"),
        (cohort(20, 40), {"folds": 4, "validation_people": 45}, "validation_people"),
        (cohort(4, 4), {"holdout": True, "test_share": 0.99}, "test_share"),
    ],
)
def test_cohorts_that_cannot_be_split_are_refused(labels, options, message):
    with pytest.raises(InputError, match=message):
        split_people(labels, Plan(**options))


# --- counts and runs -----------------------------------------------------------------------------


def test_numbers_of_people_in_place_of_shares():
    """Boehle 2019: 30 and 30 people test, 18 and 18 validate, of unequal classes."""
    plan = Plan(holdout=True, test_people=60, validation_people=36, equal_parts=True, repeats=3)
    for split in split_people(cohort(97, 140), plan):
        sides = parts(split)
        assert (positives(sides["test"]), len(sides["test"])) == (30, 60)
        assert (positives(sides["validation"]), len(sides["validation"])) == (18, 36)
        assert len(sides["train"]) == 237 - 96


@pytest.mark.parametrize(("positive", "negative"), [(200, 232), (100, 332), (211, 221)])
def test_numbers_in_the_proportion_of_the_classes(positive, negative):
    """Klingenberg 2021: 306, 63 and 63 people."""
    plan = Plan(holdout=True, test_people=63, validation_people=63, repeats=4)
    for split in split_people(cohort(positive, negative), plan):
        sides = parts(split)
        assert {role: len(people) for role, people in sides.items()} == {
            "train": 306, "validation": 63, "test": 63
        }  # fmt: skip
        for role in ("test", "validation"):
            assert abs(positives(sides[role]) - 63 * positive / 432) < 1


@pytest.mark.parametrize("holdout", [True, False])
def test_runs_repeat_a_division_with_other_seeds(holdout):
    plan = Plan(folds=3, holdout=holdout, repeats=2, runs=3)
    splits = split_people(cohort(20, 25), plan)
    assert [split.number for split in splits] == list(range(1, len(splits) + 1))
    assert sorted({split.repeat for split in splits}) == [1, 2, 3, 4, 5, 6]
    assert {(split.repeat, split.division) for split in splits} == {
        (1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)
    }  # fmt: skip
    by_place = {(split.repeat, split.fold): dict(split.roles) for split in splits}
    for (repeat, fold), roles in by_place.items():
        assert roles == by_place[1 if repeat <= 3 else 4, fold]
    assert by_place[1, 1] != by_place[4, 1]


def test_a_split_without_runs_is_a_division_of_its_own():
    assert Split(3, 1, 7, {}).division == 3


# --- strata --------------------------------------------------------------------------------------


def people_like(seed, n):
    """A cohort with sex, site (one of them rare) and age, some of it missing."""
    rng = np.random.default_rng(seed)
    people = [f"{i:04d}" for i in rng.permutation(n)]
    labels = dict(zip(people, rng.random(n) < 0.4, strict=True))
    strata = pd.DataFrame(
        {
            "sex": rng.choice(["F", "M"], n),
            "site": rng.choice(["A", "B", "C", None], n, p=[0.6, 0.25, 0.05, 0.1]),
            "age": rng.integers(10, 17, n) * 5.0,
        },
        index=people,
    )
    return labels, strata


def counts(split_of, labels, strata, depth):
    """People of every nested stratum in every part."""
    table = strata.iloc[:, :depth].fillna("missing").astype(str)
    table = table.assign(label=pd.Series(labels), part=pd.Series(split_of))
    keys = ["label", *table.columns[:depth]]
    return table.groupby([*keys, "part"]).size().unstack(fill_value=0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(60, 120), folds=st.integers(2, 7))
def test_every_fold_has_its_share_of_every_stratum_to_one_person(seed, n, folds):
    labels, strata = people_like(seed, n)
    plan = Plan(folds=folds, validation_share=0)
    splits = split_people(labels, plan, likeness=Likeness(strata), seed=seed)
    tested_in = {one: split.fold for split in splits for one in split.people("test")}
    for depth in range(4):
        table = counts(tested_in, labels, strata, depth).reindex(
            columns=range(1, folds + 1), fill_value=0
        )
        assert (table.max(axis=1) - table.min(axis=1)).max() <= 1
    sizes = pd.Series(tested_in).value_counts()
    assert sizes.max() - sizes.min() <= 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(60, 120), tested=st.integers(12, 40))
def test_a_part_set_aside_has_its_share_of_every_stratum_to_one_person(seed, n, tested):
    labels, strata = people_like(seed, n)
    plan = Plan(holdout=True, test_people=tested, validation_people=8)
    (split,) = split_people(labels, plan, likeness=Likeness(strata), seed=seed)
    assert len(split.people("test")) == tested
    assert len(split.people("validation")) == 8
    of_class = {
        label: sum(labels[one] == label for one in split.people("test"))
        / sum(has == label for has in labels.values())
        for label in (True, False)
    }
    for depth in range(4):
        table = counts(split.roles, labels, strata, depth)
        for key, row in table.iterrows():
            share = of_class[key[0] if isinstance(key, tuple) else key]
            assert abs(row.get("test", 0) - share * row.sum()) < 1 + 1e-9


def test_everybody_is_tested_as_often_as_others_in_a_repeated_hold_out():
    labels, strata = people_like(3, 60)
    plan = Plan(holdout=True, test_share=0.25, repeats=400, validation_share=0)
    splits = split_people(labels, plan, likeness=Likeness(strata))
    times = pd.Series(chain(*(split.people("test") for split in splits))).value_counts()
    # 400 x .25 = 100, SD 8.7; 60 people: within 4 SD. Rounding of a class moves it by a little.
    assert len(times) == 60
    assert times.min() > 60
    assert times.max() < 140


def test_a_stratum_of_one_shares_its_turn():
    labels = cohort(10, 10)
    strata = pd.DataFrame({"site": dict.fromkeys(labels, "A") | {"p003": "B"}})
    splits = split_people(labels, Plan(folds=5), likeness=Likeness(strata))
    assert all(positives(split.people("test")) == 2 for split in splits)


# --- families ------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), folds=st.integers(2, 5), holdout=st.booleans())
def test_families_are_on_one_side(seed, folds, holdout):
    labels, strata = people_like(seed, 90)
    rng = np.random.default_rng(seed)
    families = {one: f"f{rng.integers(30)}" for one in sorted(labels) if rng.random() < 0.6}
    plan = Plan(folds=folds, holdout=holdout, test_share=0.3, validation_share=0.2)
    likeness = Likeness(strata, families)
    for split in split_people(labels, plan, likeness=likeness, seed=seed):
        for family in set(families.values()):
            assert len({split.roles[one] for one in families if families[one] == family}) == 1
        for part in parts(split).values():
            assert 0 < sum(labels[one] for one in part) < len(part)
        wanted = 90 * 0.3 if holdout else 90 / folds
        assert abs(len(split.people("test")) - wanted) <= 4  # families of up to eight


def test_a_family_that_holds_a_class_is_refused():
    labels = cohort(8, 30)
    families = {one: "one" for one in labels if one.startswith("p")}
    with pytest.raises(InputError, match=r"one class only.*families"):
        split_people(labels, Plan(folds=4), likeness=Likeness(families=families))


def test_a_family_on_two_sides_is_noticed():
    likeness = Likeness(families={"a": "x", "b": "x", "c": "y"})
    check_split(Split(1, 1, 1, {"a": "train", "b": "train", "c": "test"}), likeness)
    check_split(Split(1, 1, 1, {"a": "train", "b": "unused", "c": "test"}), likeness)
    for roles in ({"a": "train", "b": "test"}, {"a": "validation", "b": "train"}):
        with pytest.raises(InputError, match=r"a \(.*b \(.*one family but on two sides"):
            check_split(Split(1, 1, 1, roles), likeness)


# --- balance -------------------------------------------------------------------------------------


def test_sexes_are_balanced_within_age_and_class_and_drawn_anew():
    labels, strata = people_like(5, 300)
    likeness = Likeness(strata, balance=strata["sex"], cells=strata[["age"]])
    splits = split_people(labels, Plan(folds=3, repeats=4), likeness=likeness, seed=2)
    table = strata.assign(label=pd.Series(labels))
    for split in splits:
        assert set(split.roles) == set(labels)
        used = table.loc[[one for one, role in split.roles.items() if role != "unused"]]
        sizes = used.groupby(["label", "age", "sex"]).size().unstack(fill_value=0)
        whole = table.groupby(["label", "age", "sex"]).size().unstack(fill_value=0)
        expected = whole.min(axis=1)
        assert (sizes["F"] == sizes["M"]).all()
        assert sizes["F"].reindex(expected.index, fill_value=0).equals(expected)
    unused = [tuple(split.people("unused")) for split in splits]
    assert len(set(unused)) == 4  # once per division, the same in its folds
    assert unused[0] == unused[2] != unused[3]


def test_a_relative_of_somebody_seen_is_no_stranger():
    labels = cohort(12, 12)
    sexes = pd.Series({one: "F" if int(one[1:]) < 7 else "M" for one in labels})
    families = {"p000": "x", "p001": "x", "p002": "x", "p003": "x"}
    likeness = Likeness(families=families, balance=sexes, cells=pd.DataFrame(index=sexes.index))
    roles = [
        split.roles for split in split_people(labels, Plan(folds=3, repeats=8), likeness=likeness)
    ]
    seen = False
    for has in roles:
        family = {has[one] for one in families}
        assert not (family & {"train", "validation"} and "unused" in family)
        seen |= "related" in family
    assert seen
