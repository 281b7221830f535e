"""Who trains, who validates, who is tested: always decided per person, never per image."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

from models.errors import InputError


@dataclass(frozen=True)
class Split:
    """One division of the cohort.

    Attributes
    ----------
    repeat, fold : int
        Counted from 1. ``number`` is the flat count over repeats and folds.
    roles : dict
        Participant to "train", "validation" or "test".
    """

    repeat: int
    fold: int
    number: int
    roles: Mapping[str, str]

    def people(self, role: str) -> list[str]:
        """Participants with this role, in a fixed order."""
        return sorted(person for person, has in self.roles.items() if has == role)


def split_people(
    labels: Mapping[str, bool],
    *,
    folds: int,
    repeats: int = 1,
    validation_share: float = 0.15,
    test_share: float | None = None,
    seed: int = 0,
) -> list[Split]:
    """Stratified k-fold (or, with ``test_share``, hold-out) over people.

    Parameters
    ----------
    labels : mapping of participant to bool
        True for the positive class.
    folds, repeats : int
        ``folds`` test sets per repeat; with ``test_share`` one test set per repeat.
    validation_share : float
        Share of the people not tested that validates; 0 for none.
    test_share : float, optional
        Share of the people tested in a hold-out.
    seed : int

    Raises
    ------
    models.errors.InputError
        A class has fewer people than folds, or a part of a split would lack a class.
    """
    if test_share is None and folds < 2:
        raise InputError(
            f"[training] folds = {folds}: cross-validation needs at least 2 folds; raise it, or "
            "use split = 'holdout'"
        )
    people = np.array(sorted(labels))
    classes = np.array([labels[person] for person in people], dtype=bool)
    smallest = min(int(classes.sum()), int((~classes).sum()))
    if smallest < max(folds, 2):
        raise InputError(
            f"the smaller class has {smallest} people, fewer than the {max(folds, 2)} folds need: "
            "add people, or lower [training] folds"
        )
    splits: list[Split] = []
    for repeat in range(1, repeats + 1):
        for fold, test in enumerate(
            _tests(classes, folds, test_share, _mixed(seed, repeat)), start=1
        ):
            roles = dict.fromkeys(people.tolist(), "train") | dict.fromkeys(
                people[test].tolist(), "test"
            )
            rest = np.setdiff1d(np.arange(len(people)), test)
            for row in _validation(classes, rest, validation_share, _mixed(seed, repeat, fold)):
                roles[str(people[row])] = "validation"
            splits.append(Split(repeat, fold, len(splits) + 1, roles))
    return splits


def _mixed(*numbers: int) -> int:
    """One seed of several numbers, such that neighbours do not meet (seed 1, repeat 2 and 2, 1)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _tests(
    classes: np.ndarray, folds: int, test_share: float | None, seed: int
) -> list[np.ndarray]:
    if test_share is None:
        folder = StratifiedKFold(folds, shuffle=True, random_state=seed)
        return [test for _, test in folder.split(classes, classes)]
    return [_set_aside(classes, test_share, seed, f"a test part of {test_share:g}", "test_share")]


def _validation(classes: np.ndarray, rest: np.ndarray, share: float, seed: int) -> np.ndarray:
    if share <= 0:
        return np.array([], dtype=int)
    n = max(2, round(share * len(rest)))
    part, option = f"a validation part of {share:g}", "validation_share"
    return rest[_set_aside(classes[rest], n, seed, part, option)]


def _set_aside(classes: np.ndarray, size: float, seed: int, part: str, option: str) -> np.ndarray:
    """Stratified rows of ``part``; both classes are in it and in what is left."""
    try:
        chooser = StratifiedShuffleSplit(1, test_size=size, random_state=seed)
        left, chosen = next(chooser.split(classes, classes))
    except ValueError as error:
        raise InputError(
            f"{len(classes)} people are too few to set {part} aside: "
            f"change [training] {option}, or add people"
        ) from error
    for side in (left, chosen):
        if len(set(classes[side].tolist())) < 2:
            raise InputError(
                f"with {part}, a part of the split has one class only "
                f"({int(classes.sum())} of {len(classes)} people are positive): "
                f"change [training] {option}, or add people to the smaller class"
            )
    return chosen
