"""Nobody is ever on two sides."""

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InputError
from models.training.splits import split_people


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
    options = {"folds": folds, "repeats": repeats, "validation_share": share, "seed": seed}
    splits = split_people(labels, **options)
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
    one, other = (split_people(people, folds=3, seed=4) for people in (labels, backwards))
    assert [dict(split.roles) for split in one] == [dict(split.roles) for split in other]


def test_the_seed_decides_and_repeats_differ():
    labels = cohort(20, 20)

    def tests(seed):
        return [s.people("test") for s in split_people(labels, folds=4, repeats=3, seed=seed)]

    assert tests(1) == tests(1)
    assert tests(1) != tests(2)
    once = tests(1)
    assert len({tuple(test) for test in once}) == 12
    splits = split_people(labels, folds=4, repeats=3, seed=1)
    assert len({tuple(split.people("validation")) for split in splits}) == 12


def test_more_repeats_keep_the_first_ones():
    labels = cohort(12, 15)
    few = split_people(labels, folds=3, repeats=1, seed=7)
    many = split_people(labels, folds=3, repeats=4, seed=7)
    assert [dict(s.roles) for s in few] == [dict(s.roles) for s in many[:3]]


@pytest.mark.parametrize("test_share", [0.2, 0.34])
def test_hold_out(test_share):
    labels = cohort(30, 60)
    splits = split_people(labels, folds=1, repeats=5, test_share=test_share, seed=3)
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
    for split in split_people(cohort(6, 6), folds=3, validation_share=0):
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
        (cohort(4, 20), {"folds": 1, "test_share": 0.05}, "one class.*test_share"),
        (cohort(4, 4), {"folds": 1, "test_share": 0.01}, "test_share"),
        (cohort(4, 4), {"folds": 1, "test_share": 0.99}, "test_share"),
    ],
)
def test_cohorts_that_cannot_be_split_are_refused(labels, options, message):
    with pytest.raises(InputError, match=message):
        split_people(labels, **options)
