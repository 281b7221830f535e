"""Divisions of the controls into training and test parts that are alike in age and sex."""

from collections.abc import Mapping

import numpy as np

from models.errors import InputError

LEAST_TRAINING, LEAST_TEST = 4, 2
TRIES = 500  # draws per division


def matched_divisions(
    people: list[str],
    covariates: Mapping[str, np.ndarray],
    *,
    count: int = 10,
    test_share: float = 15 / 56,
    tolerance: float = 0.25,
    seed: int = 0,
) -> tuple[list[list[str]], list[str]]:
    """Draw the test people of every division; the others train.

    Each division is drawn at random among those who were tested least so far, so that everybody
    is left out of a training as soon as the count allows, and drawn again until the means of both
    parts lie within ``tolerance`` standard deviations of the mean of all controls. Of two words
    it is the share that must: a quarter of a standard deviation of half men, half women is 12 %.

    Parameters
    ----------
    people : list of str
        The controls.
    covariates : mapping of str to (people,) array
        Numbers, or words of which there are two; missing ones (NaN, "") do not count.
    count : int
        Divisions.
    test_share : float
        Of the controls; 15 of 56 in the paper.
    tolerance : float
    seed : int

    Returns
    -------
    divisions : list of list of str
        Test people, sorted.
    warnings : list of str
        Sentences about divisions that are less alike than wanted.

    Raises
    ------
    models.errors.InputError
        Fewer controls than the smallest division needs; the message says how many.
    """
    tests = round(test_share * len(people))
    if tests < LEAST_TEST or len(people) - tests < LEAST_TRAINING:
        raise InputError(
            f"{len(people)} controls are too few to learn from: with {test_share:.0%} of them left "
            f"out of each training, at least {_needed(test_share)} are needed "
            f"({LEAST_TRAINING} to train, {LEAST_TEST} to test)"
        )
    columns = {name: _standard(values) for name, values in covariates.items()}
    rng = np.random.default_rng(seed)
    tested = np.zeros(len(people), int)
    divisions, warnings = [], []
    for number in range(1, count + 1):
        drawn = [_draw(tested, tests, rng) for _ in range(TRIES)]
        distances = [_distance(columns, chosen) for chosen in drawn]
        best = next((k for k, d in enumerate(distances) if d <= tolerance), None)
        if best is None:
            best = int(np.argmin(distances))
            name = max(columns, key=lambda one: _distance({one: columns[one]}, drawn[best]))
            warnings.append(
                f"split {number}: the parts of the controls differ in {name} by "
                f"{distances[best]:.2f} standard deviations; more controls would match better"
            )
        tested[drawn[best]] += 1
        divisions.append(sorted(people[row] for row in drawn[best]))
    return divisions, warnings


def _needed(test_share: float) -> int:
    """Smallest number of controls that can be divided."""
    n = LEAST_TRAINING + LEAST_TEST
    while round(test_share * n) < LEAST_TEST or n - round(test_share * n) < LEAST_TRAINING:
        n += 1
    return n


def _standard(values: np.ndarray) -> np.ndarray:
    """Numbers as z-scores, two words as 0 and 1 over their standard deviation; NaN if missing."""
    if values.dtype.kind not in "fiub":
        words = sorted({str(one) for one in values if str(one) not in ("", "nan")})
        values = np.array([words.index(str(v)) if str(v) in words else np.nan for v in values])
    numbers = values.astype(float)
    spread = np.nanstd(numbers)
    return (numbers - np.nanmean(numbers)) / (spread if spread > 0 else 1.0)


def _draw(tested: np.ndarray, tests: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of test people: by lot, those tested least first."""
    order = rng.permutation(len(tested))
    return order[np.argsort(tested[order], kind="stable")][:tests]


def _distance(columns: Mapping[str, np.ndarray], chosen: np.ndarray) -> float:
    """Largest distance, in standard deviations, of a part's mean from that of all controls."""
    rest = np.setdiff1d(np.arange(len(next(iter(columns.values()), []))), chosen)
    means = [abs(_mean(values[part])) for values in columns.values() for part in (chosen, rest)]
    return max(means, default=0.0)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0
