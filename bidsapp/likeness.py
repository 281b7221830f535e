"""What of the cohort counts when people are divided: strata, families, balance; in plain words."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bidsapp.cohort import CohortTable, check_columns, read_participants
from bidsapp.settings import Training, column_and_bin
from models.errors import InputError
from models.training.splits import Likeness, Split
from pipelines.derivatives import text


def read_likeness(
    folder: Path, cohort: CohortTable, training: Training
) -> tuple[Likeness, list[str]]:
    """Properties of the people that the recipe stratifies and balances by.

    Parameters
    ----------
    folder : Path
        Holds participants.tsv.
    cohort : CohortTable
    training : Training
        Its ``stratify`` and ``balance``.

    Returns
    -------
    likeness : Likeness
    warnings : list of str
        Missing values, and strata smaller than the number of folds.

    Raises
    ------
    models.errors.InputError
        A column is not there, a binned one holds words, or everybody lacks it.
    """
    path = folder / "participants.tsv"
    people = read_participants(folder).set_index("participant_id")
    people.index = people.index.str.removeprefix("sub-")
    people = people.loc[sorted(cohort.labels)]
    warnings: list[str] = []
    strata = pd.DataFrame(index=people.index)
    for name in training.stratify:
        strata[name] = _column(path, people, name, "[training] stratify", warnings)
    balance = training.balance
    cells = pd.DataFrame(index=people.index)
    for name in balance.within:
        cells[name] = _column(path, people, name, "[training.balance] within", warnings)
    column = None
    if balance.column:
        column = _column(path, people, balance.column, "[training.balance] column", warnings)
        if column.nunique() < 2:
            raise InputError(
                f"[training.balance] column: '{balance.column}' of {path} is the same for "
                "everybody who takes part; there is nothing to balance"
            )
    if training.stratify:
        parts = training.folds if training.split == "kfold" else 2
        warnings += _small(cohort.labels, strata, parts)
    return Likeness(strata, cohort.families, column, cells), list(dict.fromkeys(warnings))


def _column(
    path: Path, people: pd.DataFrame, name: str, where: str, warnings: list[str]
) -> pd.Series:
    """Values of a column, cut into bins where the recipe says so; missing ones are NaN."""
    column, width = column_and_bin(where, name)
    check_columns(path, people, [column], where)
    values = people[column]
    known = values.map(text) != ""
    if width is not None:
        numbers = pd.to_numeric(values, errors="coerce")
        words = values[known & numbers.isna()]
        if len(words):
            raise InputError(
                f"{where}: column '{column}' of {path} holds '{text(words.iloc[0])}', which cannot "
                f"be cut into bins of {width:g}; name it without ':{width:g}', or mend the table"
            )
        found = np.floor(numbers / width) * width
    else:
        found = values.map(text).where(known).astype(object)
    if not known.all():
        lacking = [f"sub-{one}" for one in people.index[~known]]
        some = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
        does = "are left out by it" if "balance" in where else "form a stratum of their own"
        warnings.append(
            f"{where}: {column} is missing for {len(lacking)} people ({some}); they {does}"
        )
    return found


def _small(labels: Mapping[str, bool], strata: pd.DataFrame, parts: int) -> list[str]:
    """A sentence about strata that cannot be in every part."""
    classes = pd.Series({one: labels[one] for one in strata.index}, name="class")
    sizes = (
        strata.fillna("missing")
        .astype(str)
        .groupby([classes, *(strata[name].fillna("missing").astype(str) for name in strata)])
        .size()
    )
    small = sizes[sizes < parts]
    if small.empty:
        return []
    return [
        f"[training] stratify: {len(small)} of {len(sizes)} strata have fewer people than the "
        f"{parts} parts (the smallest {small.min()}); they share their turn with the strata next "
        f"to them in the order class, {', '.join(strata)}"
    ]


def balanced_away(splits: Sequence[Split]) -> str:
    """A sentence about whom the balancing leaves out; empty where nobody is."""
    first = {split.division: split for split in reversed(splits)}
    counts = [
        len(split.people("unused")) + len(split.people("related")) for split in first.values()
    ]
    if not any(counts):
        return ""
    never = set.intersection(
        *(
            {one for one, role in split.roles.items() if role in ("unused", "related")}
            for split in splits
        )
    )
    drawn = f"{min(counts)}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    people = len(splits[0].roles)
    many = f" in each of the {len(first)} divisions, drawn anew" if len(first) > 1 else ""
    lost = f"; {len(never)} take part in none" if never and len(first) > 1 else ""
    return (
        f"[training.balance]: {drawn} of {people} people are left out{many}{lost} (role unused in "
        "the split tables)"
    )
