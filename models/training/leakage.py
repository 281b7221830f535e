"""Nobody on two sides: checked again where rows of images are about to be used."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import pandas as pd

from models.errors import InputError

# Column of the cohort's table, and what it says when two sides have a value in common.
SHARED = {"participant_id": "a person", "family": "a family"}


def check_sides(cohort: pd.DataFrame, sides: Mapping[str, Sequence[int]]) -> None:
    """Fail loudly where two sides of a split have a person or a family in common.

    Parameters
    ----------
    cohort : DataFrame
        One row per image; those of the columns of :data:`SHARED` that it has are compared, an
        empty family is nobody's.
    sides : mapping of str to sequence of int
        "train", "validation", "test" to rows of the table.

    Raises
    ------
    models.errors.InputError
        Names both sides and what they share.
    """
    for column, what in SHARED.items():
        if column not in cohort:
            continue
        values = {
            side: set(cohort[column].iloc[list(rows)].dropna()) - {""}
            for side, rows in sides.items()
        }
        for one, other in combinations(values, 2):
            both = sorted(map(str, values[one] & values[other]))
            if both:
                raise InputError(
                    f"leakage: {what} is used for {one} and for {other} ({', '.join(both[:5])}); "
                    "the table of the cohort or of the split was changed, so run the group level "
                    "again with --force"
                )
