"""Exchangeability: which rearrangements of the people's errors are as likely as the one seen.

A rearrangement is an order of the people, signs, or both. What is rearranged are units: single
people, or blocks of people (the sessions of one person, a family) that move as wholes. Winkler et
al. 2014 (doi:10.1016/j.neuroimage.2014.01.060), section "Exchangeability blocks".
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product

import numpy as np

from models.errors import InputError

Move = tuple[np.ndarray, np.ndarray | None]


@dataclass(frozen=True, eq=False)
class Exchange:
    """What may be rearranged. By default everybody may change places with everybody.

    Parameters
    ----------
    within : numpy.ndarray, optional
        (people,), labels (test folds, sites): places change only within a label.
    whole : numpy.ndarray, optional
        (people,), labels of blocks that move as wholes, their members in the order of the rows.
    permute : bool
        Whether places change. It asks that the errors be exchangeable.
    flip : bool
        Whether signs change, all of a block together. It asks that the errors be symmetric about
        zero, and it is what tests a mean against zero. Exact for a mean without covariates; with
        nuisance columns it is approximate, and slightly liberal with few people: two groups of
        ten with variances 1 and 9 gave 6.5 % in place of 5 % (benchmarks/calibration.py).
    variance : numpy.ndarray, optional
        (people,), labels of groups whose errors may differ in variance. The statistic is then
        Aspin and Welch's v, or G, and places change only within a label.
    across_variance : bool
        Whether places change between variance groups all the same.
    """

    within: np.ndarray | None = None
    whole: np.ndarray | None = None
    permute: bool = True
    flip: bool = False
    variance: np.ndarray | None = None
    across_variance: bool = False


SIGN_FLIPS = Exchange(permute=False, flip=True)


def codes(labels: np.ndarray | None, people: int) -> np.ndarray:
    """Labels as integers from zero; one label for all where there are none."""
    if labels is None:
        return np.zeros(people, dtype=int)
    if len(labels) != people:
        raise ValueError(f"{len(labels)} exchange labels for {people} people")
    return np.unique(np.asarray(labels), return_inverse=True)[1].reshape(-1)


class Moves:
    """The rearrangements of a test: all there are, or a random choice.

    Parameters
    ----------
    exchange : Exchange
        What may be rearranged.
    matrix : numpy.ndarray
        (people, columns), the design: orders that lead to the same rows are one order.
    n_permutations : int
        Rearrangements drawn beside the observed one, unless there are at most this many.
    seed : int
        Seed of the draw.

    Attributes
    ----------
    exact : bool
        Whether these are all the distinct rearrangements.
    count : int
        How many there are beside the observed one.

    Raises
    ------
    InputError
        Nothing can be rearranged, or blocks that are to change places are unequal.
    """

    def __init__(self, exchange: Exchange, matrix: np.ndarray, n_permutations: int, seed: int):
        if n_permutations < 1:
            raise InputError(f"{n_permutations} permutations: at least one is needed.")
        people = len(matrix)
        self.exchange, self.seed, self.people = exchange, seed, people
        self.variance = codes(exchange.variance, people)
        self.unit_of = (
            np.arange(people) if exchange.whole is None else codes(exchange.whole, people)
        )
        self.units = int(self.unit_of.max()) + 1
        orders = 1
        if exchange.permute:
            self.members = _members(self.unit_of)
            self.classes = self._classes()
            self.rows = self._unit_codes(np.column_stack([matrix, self.variance]))
            orders = n_distinct_orders(self.rows, self.classes)
        distinct = orders * 2 ** (self.units * exchange.flip)
        if distinct == 1:
            raise InputError(
                "nobody can change places: within every exchange block all people have the same "
                "group and covariates. Use larger blocks or none, or flip signs (which is what "
                "tests a mean against zero)."
            )
        self.exact = distinct <= n_permutations
        self.count = distinct - 1 if self.exact else n_permutations

    def _unit_codes(self, values: np.ndarray) -> np.ndarray:
        """(units,) ints, equal where the members of two units have the same values."""
        patterns = values[self.members].reshape(self.units, -1)
        return np.unique(patterns, axis=0, return_inverse=True)[1].reshape(-1)

    def _classes(self) -> np.ndarray:
        """(units,) ints: units of one class may change places."""
        within = codes(self.exchange.within, self.people)
        if (within[self.members] != within[self.members[:, :1]]).any():
            raise InputError(
                "a block that moves as a whole has people of several exchange blocks: a whole "
                "block must lie within one site (or fold)."
            )
        held = 0 if self.exchange.across_variance else self.variance
        return self._unit_codes(np.column_stack([within, np.broadcast_to(held, within.shape)]))

    def fixed(self, columns: np.ndarray) -> np.ndarray:
        """Which columns (people, k) no rearrangement changes; (k,) bool."""
        if self.exchange.flip:
            return np.zeros(columns.shape[1], dtype=bool)
        first = np.unique(self.classes, return_index=True)[1][self.classes]
        patterns = columns[self.members]
        return (patterns == patterns[first]).all(axis=(0, 1))

    def chunks(self, size: int) -> Iterator[Move]:
        """Orders (at most size, people) and signs of the same shape, or no signs.

        Person i gets the design row of ``order[i]``, times ``sign[i]``.
        """
        moves = self._all() if self.exact else self._random()
        while chunk := list(islice(moves, size)):
            signs = np.stack([sign for _, sign in chunk]) if self.exchange.flip else None
            yield np.stack([order for order, _ in chunk]), signs

    def _random(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        signs = np.random.default_rng([self.seed, 1])
        stay = np.arange(self.people)
        orders = (
            map(self._of_people, random_orders(self.classes, self.count, self.seed))
            if self.exchange.permute
            else (stay for _ in range(self.count))
        )
        for order in orders:
            flips = self.exchange.flip * signs.integers(0, 2, self.units, dtype=np.int8)
            yield order, (1 - 2 * flips)[self.unit_of]

    def _all(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Every distinct rearrangement but the observed one."""
        orders = [np.arange(self.people)]
        if self.exchange.permute:
            orders += map(self._of_people, _other_orders(self.rows, self.classes))
        choices = (1, -1) if self.exchange.flip else (1,)
        everything = product(orders, product(choices, repeat=self.units))
        for order, signs in islice(everything, 1, None):
            yield order, np.array(signs, dtype=np.int8)[self.unit_of]

    def _of_people(self, of_units: np.ndarray) -> np.ndarray:
        order = np.empty(self.people, dtype=np.intp)
        order[self.members] = self.members[of_units]
        return order


def _members(unit_of: np.ndarray) -> np.ndarray:
    """(units, size), the people of each unit."""
    sizes = np.bincount(unit_of)
    if sizes.min() != sizes.max():
        raise InputError(
            f"blocks that change places as wholes must be of equal size; these have "
            f"{sizes.min()} to {sizes.max()} people. Average the images of each block, or flip "
            "signs in place of changing places."
        )
    return np.argsort(unit_of, kind="stable").reshape(len(sizes), -1)


def n_distinct_orders(rows: np.ndarray, blocks: np.ndarray) -> int:
    """Count the orders that differ, given which design rows are equal, within blocks."""
    count = 1
    for block in np.unique(blocks):
        sizes = np.unique(rows[blocks == block], return_counts=True)[1]
        count *= math.factorial(int(sizes.sum()))
        count //= math.prod(math.factorial(int(size)) for size in sizes)
    return count


def random_orders(blocks: np.ndarray, count: int, seed: int) -> Iterator[np.ndarray]:
    """Draw orders (units,), each unit's place taken by one of the same block."""
    rng = np.random.default_rng(seed)
    places = np.argsort(blocks, kind="stable")
    for _ in range(count):
        order = np.empty_like(places)
        order[places] = np.lexsort((rng.random(len(blocks)), blocks))
        yield order


def _other_orders(rows: np.ndarray, blocks: np.ndarray) -> Iterator[np.ndarray]:
    """Every distinct order but the observed one."""
    members = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
    someone = {row: unit for unit, row in reversed(list(enumerate(rows)))}
    for arrangement in product(*(list(_arrangements(rows[units])) for units in members)):
        new = np.empty_like(rows)
        for units, taken in zip(members, arrangement, strict=True):
            new[units] = taken
        if not np.array_equal(new, rows):
            yield np.array([someone[row] for row in new])


def _arrangements(units: np.ndarray) -> Iterator[tuple[int, ...]]:
    """Distinct arrangements of a multiset, in lexicographic order."""
    current = sorted(int(unit) for unit in units)
    while True:
        yield tuple(current)
        rises = [i for i in range(len(current) - 1) if current[i] < current[i + 1]]
        if not rises:
            return
        pivot = rises[-1]
        swap = max(i for i in range(pivot + 1, len(current)) if current[i] > current[pivot])
        current[pivot], current[swap] = current[swap], current[pivot]
        current[pivot + 1 :] = reversed(current[pivot + 1 :])
