"""What two sides of a split have in common is found in the tables themselves."""

import pandas as pd
import pytest

from models.errors import InputError
from models.training.leakage import check_sides

COHORT = pd.DataFrame(
    {
        "participant_id": ["sub-1", "sub-1", "sub-2", "sub-3", "sub-4"],
        "family": ["", "", "x", "x", float("nan")],
    }
)


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        ({"train": [0, 2], "test": [1]}, "a person is used for train and for test (sub-1)"),
        ({"train": [0], "validation": [1]}, "a person is used for train and for validation"),
        ({"validation": [2], "test": [3]}, "a family is used for validation and for test (x)"),
    ],
)
def test_what_is_on_two_sides_is_named(sides, words):
    with pytest.raises(InputError) as caught:
        check_sides(COHORT, sides)
    assert words in str(caught.value)


def test_clean_sides_pass_and_nobody_is_related_to_nobody():
    check_sides(COHORT, {"train": [0, 1], "validation": [], "test": [2, 3]})
    check_sides(COHORT.drop(columns="family"), {"train": [2], "validation": [4], "test": [3]})
    check_sides(COHORT, {"train": [1], "test": [4]})
