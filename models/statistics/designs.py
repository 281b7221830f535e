"""Designs from a table of people: groups, covariates, interactions and sites, by name.

Terms are names of columns, or several joined by ``:`` for an interaction. A column of numbers is
a covariate, standardised; a column of words (or one that is said to be categorical) is a group
with a column for each level but the first, centred. All but the intercept being centred, the
coefficient of a term is its effect at the average of the others, and the intercept is the mean.

A contrast is a sum of weighted names, ``"AD - CN"``, ``"0.5*AD + 0.5*MCI - CN"``, ``"age"``,
``"AD:age - CN:age"``, with spaces about ``+`` and ``-``; ``"mean"`` is the intercept, for a
one-sample test. A level that two columns have is written ``"group[AD]"``. The name of a group, or
of an interaction with one, tests all its differences together (F); so do several contrasts.
"""

import re
from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from models.errors import InputError
from models.statistics.glm import Design, follows, standardised

MEAN = "mean"
FEWEST = 2


def one_sample_design(
    people: int, covariates: np.ndarray | None = None, covariate_names: Sequence[str] = ()
) -> Design:
    """The mean of all people against zero, adjusted for covariates; tested by sign flips.

    Parameters
    ----------
    people : int
        How many.
    covariates : numpy.ndarray, optional
        (people, covariates), numbers in any unit: they are standardised here.
    covariate_names : sequence of str
        One name per covariate.

    Raises
    ------
    InputError
        A covariate that is missing for somebody, the same for everybody, or follows from others.
    """
    values = np.zeros((people, 0)) if covariates is None else np.asarray(covariates, float)
    return table_design(
        pd.DataFrame(values, columns=list(covariate_names), index=range(people)),
        list(covariate_names),
        MEAN,
    )


def table_design(
    table: pd.DataFrame,
    terms: Sequence[str],
    contrast: str | Sequence[str],
    categorical: Sequence[str] = (),
) -> Design:
    """A design of named terms.

    Parameters
    ----------
    table : pandas.DataFrame
        One row per person, in the order of the data.
    terms : sequence of str
        Columns, and interactions as ``"group:age"``; the intercept comes by itself.
    contrast : str or sequence of str
        What is tested, as this module describes; several make an F test.
    categorical : sequence of str
        Columns of numbers that are names (of sites, say).

    Returns
    -------
    Design
        With the columns "mean", ``column[level]`` for the levels of groups but the first in
        alphabetical order, covariates by their name, and interactions joined by ``:``.

    Raises
    ------
    InputError
        A term, a level or a contrast that does not exist; a value that is missing; a level of one
        person; a column that is the same for everybody or follows from those before it.
    """
    sources = list(dict.fromkeys(name for term in terms for name in term.split(":")))
    for name in sources:
        if name not in table:
            raise InputError(
                f"the design names '{name}', which is no column of the table; there are "
                f"{', '.join(map(str, table.columns))}."
            )
    factors = {name: _factor(table[name], name in categorical) for name in sources}
    columns = {MEAN: np.ones(len(table))}
    parts: dict[str, list[str]] = {}
    for term in terms:
        made = _term(term, factors)
        for name, column in made.items():
            if follows(column, list(columns.values())):
                raise InputError(
                    f"'{name}' of the term '{term}' follows from the terms before it, or is empty "
                    "(collinear): drop the term, or join levels."
                )
            columns[name] = column
        parts[term] = list(made)
    names = tuple(columns)
    weights = _contrast(contrast, names, factors, parts)
    return Design(np.column_stack(list(columns.values())), names, weights)


# ---- Columns ---------------------------------------------------------------------------------

# Levels of a group, the first being the reference; None for a covariate.
_Factor = tuple[list[str] | None, dict[str, np.ndarray]]


def _factor(column: pd.Series, categorical: bool) -> _Factor:
    """Levels and centred columns of one column of the table."""
    name = str(column.name)
    if not categorical and pd.api.types.is_numeric_dtype(column) and column.dtype != bool:
        return None, {name: standardised(name, column.to_numpy(float, na_value=np.nan))}
    if column.isna().any():
        raise InputError(
            f"'{name}' is missing for {int(column.isna().sum())} people: complete it, leave these "
            "people out, or drop the term."
        )
    words = column.map(_word)
    sizes = words.value_counts().sort_index()
    if len(sizes) < 2:
        raise InputError(f"'{name}' is '{sizes.index[0]}' for everybody: drop the term.")
    if sizes.min() < FEWEST:
        raise InputError(
            f"'{name}' is '{sizes.idxmin()}' for {sizes.min()} of {len(words)} people; a level "
            f"needs at least {FEWEST}: join it with another level or leave these people out."
        )
    levels = list(sizes.index)
    dummies = {f"{name}[{level}]": (words == level).to_numpy(float) for level in levels[1:]}
    return levels, {key: dummy - dummy.mean() for key, dummy in dummies.items()}


def _word(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _term(term: str, factors: dict[str, _Factor]) -> dict[str, np.ndarray]:
    """Columns of a term: those of its factors, multiplied."""
    parts = [factors[name][1].items() for name in term.split(":")]
    return {
        ":".join(name for name, _ in chosen): np.prod([column for _, column in chosen], axis=0)
        for chosen in product(*parts)
    }


# ---- Contrasts -------------------------------------------------------------------------------


def _contrast(
    contrast: str | Sequence[str],
    names: tuple[str, ...],
    factors: dict[str, _Factor],
    parts: dict[str, list[str]],
) -> np.ndarray:
    if isinstance(contrast, str):
        whole = parts.get(contrast, ())
        if len(whole) > 1:
            return np.eye(len(names))[[names.index(name) for name in whole]]
        return _weights(contrast, names, factors)
    return np.stack([_weights(row, names, factors) for row in contrast])


def _weights(text: str, names: tuple[str, ...], factors: dict[str, _Factor]) -> np.ndarray:
    """(columns,), the weights of one sum of names."""
    weights = np.zeros(len(names))
    balance: dict[str, float] = {}
    for part in re.split(r"\s+(?=[+-]\s)", text.strip()):
        factor, name = _weighted(part)
        column, margins = _resolved(name, text, factors)
        for margin in margins:
            balance[margin] = balance.get(margin, 0.0) + factor
        if column is None:
            continue
        if column not in names:
            raise InputError(
                f"the contrast '{text}' names '{name}', which is no term of the design; there are "
                f"{', '.join(names)}."
            )
        weights[names.index(column)] += factor
    for group, total in balance.items():
        if abs(total) > 1e-9:
            raise InputError(
                f"the contrast '{text}' does not say against what: the weights of the levels of "
                f"'{group}' must add up to 0, not {total:g}."
            )
    if not weights.any():
        raise InputError(f"the contrast '{text}' tests nothing: all its weights are zero.")
    return weights


def _weighted(part: str) -> tuple[float, str]:
    """``"- 0.5*AD"`` as (-0.5, "AD")."""
    sign, rest = (part[0], part[1:].strip()) if part[:2] in ("+ ", "- ") else ("+", part)
    found = re.fullmatch(r"(-?\d*\.?\d+)\s*\*\s*(.+)", rest)
    weight, name = (float(found[1]), found[2]) if found else (1.0, rest)
    return (-weight if sign == "-" else weight), name.strip()


def _resolved(name: str, text: str, factors: dict[str, _Factor]) -> tuple[str | None, list[str]]:
    """The column of a name (None at a reference level), and what its weights add up to 0 over.

    The latter are, for each group of the name, its column with the level left out: reference
    levels have no coefficient, which is right only for differences.
    """
    if name == MEAN:
        return MEAN, []
    parts = [_named(part, text, factors) for part in name.split(":")]
    columns = [source if level is None else f"{source}[{level}]" for source, level in parts]
    margins = [
        ":".join([*columns[:i], source, *columns[i + 1 :]])
        for i, (source, level) in enumerate(parts)
        if level is not None
    ]
    first = [
        level is not None and level == (factors[source][0] or [""])[0] for source, level in parts
    ]
    return (None if any(first) else ":".join(columns)), margins


def _named(part: str, text: str, factors: dict[str, _Factor]) -> tuple[str, str | None]:
    """The column of the table that a word means, and the level if it is one."""
    if part in factors:
        levels = factors[part][0]
        if levels is None:
            return part, None
        if len(levels) == 2:
            raise InputError(
                f"the contrast '{text}' names the group '{part}': say which way, "
                f"'{levels[1]} - {levels[0]}' or '{levels[0]} - {levels[1]}'."
            )
    choices = [
        (source, level)
        for source, (levels, _) in factors.items()
        for level in levels or ()
        if part in (level, f"{source}[{level}]")
    ]
    if len(choices) == 1:
        return choices[0]
    known = [f"{s}[{level}]" for s, (levels, _) in factors.items() for level in levels or ()]
    known += [source for source, (levels, _) in factors.items() if levels is None]
    problem = "is a level of several columns" if choices else "is neither a level nor a covariate"
    raise InputError(
        f"the contrast '{text}' names '{part}', which {problem}; there are {', '.join(known)}."
    )
