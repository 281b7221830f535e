"""Who trains, who validates, who is tested: always decided per person, never per image.

People are dealt out like cards. They are ordered by class, then by the first column of the strata,
then by the next; in that order each goes to the part that is furthest behind its share of the class
so far, then of the class and the first column, and so on (systematic sampling from an ordered
list). Every part so gets its share of every stratum to within one person, at every depth, and a
stratum too small for all parts shares its turn with its neighbours of the same class: none has to
be merged beforehand. The relatives of a family are dealt as one, the largest families first.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from models.errors import InputError
from models.training.balance import undersample

SEEN = ("train", "validation")


@dataclass(frozen=True)
class Split:
    """One division of the cohort, for one training.

    Attributes
    ----------
    repeat, fold : int
        Counted from 1. Within a repeat, everybody is tested at most once. ``number`` is the flat
        count over repeats and folds, and part of the seed of the training.
    roles : dict
        Participant to "train", "validation", "test", "unused" (left out by the balancing), or
        "related" (left out, too, but relatives of the person train or validate).
    division : int
        Counted from 1: repeats with the same division have the same roles, and differ by the
        seed of their training only. Default: each repeat has its own.
    """

    repeat: int
    fold: int
    number: int
    roles: Mapping[str, str]
    division: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "division", self.division or self.repeat)

    def people(self, role: str) -> list[str]:
        """Participants with this role, in a fixed order."""
        return sorted(person for person, has in self.roles.items() if has == role)


@dataclass(frozen=True)
class Plan:
    """Into which parts the people are divided, and how often.

    Parameters
    ----------
    folds : int
        Test parts of a k-fold; not used by a hold-out.
    repeats : int
        Divisions of the cohort, each drawn anew.
    runs : int
        Trainings on each division, which differ by their seeds only.
    holdout : bool
        One test part per division, in place of ``folds``.
    test_share, validation_share : float
        Share of the people that is tested in a hold-out; share of the others that validates,
        0 for none.
    test_people, validation_people : int
        Numbers of people in place of the shares; 0 takes the share.
    equal_parts : bool
        As many of each class in the parts set aside (hold-out and validation), not the cohort's
        proportion.
    """

    folds: int = 5
    repeats: int = 1
    runs: int = 1
    holdout: bool = False
    test_share: float = 0.2
    test_people: int = 0
    validation_share: float = 0.15
    validation_people: int = 0
    equal_parts: bool = False

    def __post_init__(self) -> None:
        if not self.holdout and self.folds < 2:
            raise InputError(
                f"[training] folds = {self.folds}: cross-validation needs at least 2 folds; raise "
                "it, or use split = 'holdout'"
            )


@dataclass(frozen=True)
class Likeness:
    """What of people counts when they are divided.

    Parameters
    ----------
    strata : DataFrame
        Index participant, a column per property that all parts shall have alike, the most
        important first. Numbers are ordered; a missing value is a stratum of its own.
    families : mapping of str to str
        Participant to family; who is not named has none. Relatives are never on two sides.
    balance : Series
        Index participant: the property that undersampling makes equally frequent in each cell.
    cells : DataFrame
        Index participant: the class and these columns make a cell.
    """

    strata: pd.DataFrame = field(default_factory=pd.DataFrame)
    families: Mapping[str, str] = field(default_factory=dict)
    balance: pd.Series | None = None
    cells: pd.DataFrame = field(default_factory=pd.DataFrame)

    def family(self, person: str) -> str:
        """The family of a person; a person without one is a family alone."""
        return f"family {self.families[person]}" if person in self.families else person


ANYBODY = Likeness()


def split_people(
    labels: Mapping[str, bool],
    plan: Plan | None = None,
    *,
    likeness: Likeness = ANYBODY,
    seed: int = 0,
) -> list[Split]:
    """Stratified k-fold or hold-out over people, repeated.

    Parameters
    ----------
    labels : mapping of participant to bool
        True for the positive class.
    plan : Plan, optional
    likeness : Likeness
        Strata, families, and what is balanced by leaving people out, anew in every division.
    seed : int
        More repeats keep the first ones as they are.

    Returns
    -------
    list of Split
        Division by division, run by run, fold by fold.

    Raises
    ------
    models.errors.InputError
        A class has fewer people than folds, or a part of a split would lack a class.
    """
    plan = plan or Plan()
    splits: list[Split] = []
    for division in range(1, plan.repeats + 1):
        folds = list(_division(labels, plan, likeness, seed, division))
        for run in range(1, plan.runs + 1):
            repeat = (division - 1) * plan.runs + run
            for fold, roles in enumerate(folds, start=1):
                splits.append(Split(repeat, fold, len(splits) + 1, roles, division))
    for split in splits:
        check_split(split, likeness)
    return splits


def check_split(split: Split, likeness: Likeness = ANYBODY) -> None:
    """Fail loudly where a family is on two sides of a split.

    Raises
    ------
    models.errors.InputError
        Relatives train and validate, or are tested with relatives seen in training.
    """
    sides: dict[str, tuple[str, str]] = {}
    for person, role in split.roles.items():
        if role in (*SEEN, "test"):
            other, side = sides.setdefault(likeness.family(person), (person, role))
            if side != role:
                raise InputError(
                    f"split {split.number}: {other} ({side}) and {person} ({role}) are of one "
                    "family but on two sides; this is an error of the program, please report it"
                )


def mixed_seed(*numbers: int) -> int:
    """One seed of several numbers, such that neighbours do not meet (seed 1, repeat 2 and 2, 1)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _division(
    labels: Mapping[str, bool], plan: Plan, likeness: Likeness, seed: int, division: int
) -> Iterable[dict[str, str]]:
    """Roles of every fold of one division."""
    everybody = sorted(labels)
    left_out = _balanced_away(labels, likeness, mixed_seed(seed, division, 0))
    deck = _Deck.of([one for one in everybody if one not in left_out], labels, likeness)
    _check_size(deck, plan)
    for fold, test in enumerate(_tests(deck, plan, mixed_seed(seed, division)), start=1):
        roles = dict.fromkeys(deck.people, "train") | {deck.people[row]: "test" for row in test}
        rest = np.setdiff1d(np.arange(len(deck.people)), test)
        for row in _validation(deck, rest, plan, mixed_seed(seed, division, fold)):
            roles[deck.people[row]] = "validation"
        yield {one: roles[one] for one in deck.people} | _roles_of_unused(roles, left_out, likeness)


def _balanced_away(labels: Mapping[str, bool], likeness: Likeness, seed: int) -> frozenset[str]:
    if likeness.balance is None:
        return frozenset()
    people = sorted(labels)
    cells = likeness.cells.reindex(people).assign(positive=[labels[one] for one in people])
    return undersample(likeness.balance.reindex(people), cells, seed)


def _roles_of_unused(
    roles: Mapping[str, str], left_out: Iterable[str], likeness: Likeness
) -> dict[str, str]:
    seen = {likeness.family(one) for one, role in roles.items() if role in SEEN}
    return {
        one: "related" if likeness.family(one) in seen else "unused" for one in sorted(left_out)
    }


def _check_size(deck: "_Deck", plan: Plan) -> None:
    smallest = int(min(deck.sizes))
    needed = 2 if plan.holdout else plan.folds
    if smallest < needed:
        raise InputError(
            f"the smaller class has {smallest} people, fewer than the {needed} folds need: add "
            "people, or lower [training] folds"
            if not plan.holdout
            else f"the smaller class has {smallest} people; a hold-out needs {needed}: add people"
        )


# --- parts ---------------------------------------------------------------------------------------


def _tests(deck: "_Deck", plan: Plan, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    if plan.holdout:
        return [_set_aside(deck, plan.test_people, plan.test_share, plan, "test", rng)]
    part = deck.deal(np.full((plan.folds, 2), 1 / plan.folds), rng)
    tests = [np.flatnonzero(part == fold) for fold in range(plan.folds)]
    for test in tests:
        _check_sides(deck, test, f"a test part of one in {plan.folds} folds", "folds")
    return tests


def _validation(deck: "_Deck", rest: np.ndarray, plan: Plan, seed: int) -> np.ndarray:
    if not (plan.validation_people or plan.validation_share > 0):
        return np.array([], dtype=int)
    people, share = plan.validation_people, plan.validation_share
    rng = np.random.default_rng(seed)
    return rest[_set_aside(deck.only(rest), people, share, plan, "validation", rng)]


def _set_aside(
    deck: "_Deck", people: int, share: float, plan: Plan, role: str, rng: np.random.Generator
) -> np.ndarray:
    """Rows of the part for ``role``; both classes are in it and in what is left."""
    total = len(deck.people)
    option = f"{role}_people" if people else f"{role}_share"
    part = f"a {role} part of {people or f'{share:g}'}"
    size = people or max(2 if role == "validation" else 1, round(share * total))
    if size >= total:
        raise InputError(
            f"{total} people are too few to set {part} aside: change [training] {option}, or add "
            "people"
        )
    counts = _per_class(size, deck.sizes, plan.equal_parts)
    if (counts >= deck.sizes).any() or not counts.all():
        raise _one_class(deck, part, option)
    shares = counts / deck.sizes
    chosen = np.flatnonzero(deck.deal(np.stack([shares, 1 - shares]), rng) == 0)
    _check_sides(deck, chosen, part, option)
    return chosen


def _per_class(size: int, sizes: np.ndarray, equal: bool) -> np.ndarray:
    """Numbers of negatives and positives in a part: equal, or in proportion (largest remainder)."""
    exact = np.full(2, size / 2) if equal else size * sizes / sizes.sum()
    counts = np.floor(exact).astype(int)
    counts[np.argmax(exact - counts)] += size - counts.sum()
    return counts


def _check_sides(deck: "_Deck", chosen: np.ndarray, part: str, option: str) -> None:
    inside = np.bincount(deck.classes[chosen], minlength=2)
    if not inside.all() or (inside == deck.sizes).any():
        raise _one_class(deck, part, option)


def _one_class(deck: "_Deck", part: str, option: str) -> InputError:
    families = ", or see to families that hold most of a class" if deck.has_families else ""
    return InputError(
        f"with {part}, a part of the split has one class only ({deck.sizes[1]} of "
        f"{len(deck.people)} people are positive): change [training] {option}, or add people to "
        f"the smaller class{families}"
    )


# --- dealing -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Deck:
    """People in a fixed order, with what they are dealt out by.

    Attributes
    ----------
    people : list of str
    classes : (people,) int array
        1 for the positive class.
    columns : (people, columns) int array
        Codes of the strata's columns.
    families : (people,) int array
    """

    people: list[str]
    classes: np.ndarray
    columns: np.ndarray
    families: np.ndarray

    @classmethod
    def of(cls, people: Sequence[str], labels: Mapping[str, bool], likeness: Likeness) -> "_Deck":
        strata = likeness.strata.reindex(people)
        codes = [pd.factorize(strata[name], sort=True)[0] for name in strata]
        families = [likeness.family(one) for one in people]
        return cls(
            list(people),
            np.array([labels[one] for one in people], dtype=int),
            np.array(codes, dtype=int).T.reshape(len(people), len(codes)),
            np.unique(families, return_inverse=True)[1],
        )

    @property
    def sizes(self) -> np.ndarray:
        """People of the negative and of the positive class."""
        return np.bincount(self.classes, minlength=2)

    @property
    def has_families(self) -> bool:
        """Whether anybody has a relative."""
        return len(set(self.families.tolist())) < len(self.people)

    def only(self, rows: np.ndarray) -> "_Deck":
        """The deck of some of the people."""
        people = [self.people[row] for row in rows]
        return _Deck(people, self.classes[rows], self.columns[rows], self.families[rows])

    def deal(self, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Part of each person; ``shares`` is (parts, classes), each class adding up to one."""
        codes = self._codes()
        head_start = _head_start(shares, rng)
        place = rng.permutation(len(shares))  # ties go to any part, the same one in this deal
        seen = np.zeros(codes.max() + 1)
        have = np.zeros((len(shares), codes.max() + 1))
        parts = np.zeros(len(self.people), dtype=int)
        for rows in self._units(rng):
            strata, classes = codes[:, rows], self.classes[rows]
            np.add.at(seen, strata, 1)
            wanted = shares[:, None, classes] * seen[strata]  # (parts, levels, rows)
            behind = (wanted - have[:, strata]).sum(axis=2)
            behind[:, 0] += head_start[:, classes].mean(axis=1)
            parts[rows] = part = np.lexsort([place, *-behind.round(6).T[::-1]])[0]
            np.add.at(have[part], strata, 1)
        return parts

    def _codes(self) -> np.ndarray:
        """Stratum of each person at every level, (levels, people), the most important first.

        The class, the whole cohort (so that parts are of one size), then class and columns. No
        two levels have a code in common.
        """
        nested = np.column_stack([self.classes, self.columns])
        depths = [
            np.unique(nested[:, :depth], axis=0, return_inverse=True)[1].reshape(-1)
            for depth in (1, 0, *range(2, nested.shape[1] + 1))
        ]
        ends = np.cumsum([0, *(level.max() + 1 for level in depths)])
        return np.stack([level + end for level, end in zip(depths, ends, strict=False)])

    def _units(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Rows of every family: the largest first, then by strata, then at random."""
        order = np.argsort(self.families, kind="stable")
        units = np.split(order, np.flatnonzero(np.diff(self.families[order])) + 1)
        nested = np.column_stack([self.classes, self.columns])
        lucky = rng.permutation(len(units))
        keys = [
            (-len(rows), *nested[rows[0]], luck) for rows, luck in zip(units, lucky, strict=True)
        ]
        return [units[i] for i in sorted(range(len(units)), key=keys.__getitem__)]


def _head_start(shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where in each class the dealing starts, (parts, classes): the phase of systematic sampling.

    Parts of equal shares need none, since ties are broken at random.
    """
    if np.ptp(shares, axis=0).max() == 0:
        return np.zeros_like(shares)
    phase = rng.uniform(-0.5, 0.5, shares.shape[1])
    return np.stack([phase, -phase])
