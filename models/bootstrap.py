"""Bootstrap over people and over repeated trainings.

Both are drawn with replacement, each on its own (Owen 2007, Ann Appl Stat 1:386): a person that is
drawn counts in every repeat, a repeat that is drawn counts for everybody. The spread is thus not
too small for crossed data; with only a few repeats, r, the repeats' part of the variance falls
short by the factor (r - 1) / r.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models.errors import InputError


@dataclass(frozen=True, eq=False)
class Draws:
    """How often each person and each repeat counts, in every draw.

    Parameters
    ----------
    people : numpy.ndarray
        (draws, people), float64.
    repeats : numpy.ndarray
        (draws, repeats), float64.
    """

    people: np.ndarray
    repeats: np.ndarray


def observed(people: int, repeats: int) -> Draws:
    """The sample itself: one draw in which everybody counts once."""
    return Draws(np.ones((1, people)), np.ones((1, repeats)))


def draw(
    people: int, repeats: int, count: int = 2000, seed: int = 0, strata: np.ndarray | None = None
) -> Draws:
    """Draw people and repeats with replacement.

    Parameters
    ----------
    people, repeats : int
        How many there are.
    count : int
        Number of draws.
    seed : int
        Seed of the draws.
    strata : numpy.ndarray, optional
        (people,), labels (classes, sites): each label keeps its number of people.

    Raises
    ------
    InputError
        Fewer than one draw.
    """
    if count < 1:
        raise InputError(f"{count} bootstrap draws: at least one is needed, 2000 are usual.")
    rng = np.random.default_rng(seed)
    labels = np.zeros(people, int) if strata is None else np.asarray(strata)
    if labels.shape != (people,):
        raise ValueError(f"strata are {labels.shape}, expected ({people},)")
    counts = np.zeros((count, people))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        counts[:, members] = _with_replacement(len(members), count, rng)
    return Draws(counts, _with_replacement(repeats, count, rng))


def _with_replacement(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.multinomial(size, np.full(size, 1 / size), size=count).astype(float)


def means(values: np.ndarray, members: np.ndarray, draws: Draws) -> Iterator[np.ndarray]:
    """Mean over the members, for one repeat after the other.

    Parameters
    ----------
    values : numpy.ndarray
        (repeats, people, columns). What is not finite is left out.
    members : numpy.ndarray
        (repeats, people) bool, who counts in which repeat.
    draws : Draws
        Counts of n draws.

    Yields
    ------
    numpy.ndarray
        (n, columns); NaN where nobody counts.
    """
    for one, chosen in zip(values, members, strict=True):
        rows = one[chosen]
        finite = np.isfinite(rows)
        weights = draws.people[:, chosen]
        yield ratio(weights @ np.where(finite, rows, 0.0), weights @ finite)


def over_repeats(per_repeat: Iterator[np.ndarray], draws: Draws) -> np.ndarray:
    """Mean (n, columns) over repeats of (n, columns) each; repeats without a value left out."""
    total: np.ndarray | float = 0.0
    count: np.ndarray | float = 0.0
    for one, weight in zip(per_repeat, draws.repeats.T, strict=True):
        finite = np.isfinite(one)
        total = total + weight[:, None] * np.where(finite, one, 0.0)
        count = count + weight[:, None] * finite
    return ratio(np.asarray(total), np.asarray(count))


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval over the first axis; draws without a value are left out.

    The bounds are values that were drawn, so that bounds of ranks are ranks.
    """
    if not 0 < level < 1:
        raise InputError(f"a confidence level of {level}: choose one between 0 and 1.")
    # Rounded: 0.025 times the draws must not end beside the whole number that is meant.
    tail = round((1 - level) / 2, 12)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")
        low = np.nanquantile(samples, tail, axis=0, method="inverted_cdf")
        high = np.nanquantile(samples, 1 - tail, axis=0, method="inverted_cdf")
    return low, high


def sd_over_repeats(per_repeat: np.ndarray) -> np.ndarray:
    """Standard deviation over the first axis; NaN with fewer than two values."""
    finite = np.isfinite(per_repeat)
    count = finite.sum(axis=0)
    mean = ratio(np.where(finite, per_repeat, 0.0).sum(axis=0), count)
    square = np.where(finite, (per_repeat - mean) ** 2, 0.0).sum(axis=0)
    return np.sqrt(ratio(square, np.maximum(count - 1, 0)))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient, NaN where the denominator is zero."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    result = np.full(shape, np.nan)
    np.divide(numerator, denominator, out=result, where=np.asarray(denominator) != 0)
    return result
