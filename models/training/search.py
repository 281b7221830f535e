"""Random search over settings, judged on validation people only (Bergstra & Bengio 2012)."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.errors import InputError

TABLES = ("network", "training.protocol")
# What cannot be drawn, and why.
FIXED = {
    "network.name": "a model's folds are of one architecture; use --compare network=a,b",
    "network.file": "a model's folds are of one architecture; use --compare config=a.toml,b.toml",
    "training.protocol.select": "by it the draws are held against each other",
}


@dataclass(frozen=True)
class Search:
    """[training.search]: settings that are drawn anew for every fold.

    Parameters
    ----------
    draws : int
        Trainings of a fold, of which the one that is best on its validation people is kept; 0
        draws nothing.
    space : mapping of str to list
        Key of ``[network]`` or ``[training.protocol]``, such as ``"network.model"``, to the
        values it may take, all equally likely.
    each : str
        A key of ``space`` whose values are all drawn at least ``at_least`` times (Eitel 2021:
        each architecture twice in five draws).
    at_least : int
    """

    draws: int = 0
    space: dict[str, Any] = field(default_factory=dict)
    each: str = ""
    at_least: int = 0

    def __post_init__(self) -> None:
        if self.draws < 0 or self.at_least < 0:
            raise InputError("[training.search] draws and at_least: must be 0 or more")
        if bool(self.draws) != bool(self.space):
            raise InputError("[training.search]: draws and a space belong together; give both")
        for key, values in self.space.items():
            if not _table(key):
                raise InputError(
                    f"[training.search] space: '{key}' must begin with one of: "
                    f"{', '.join(f'{one}.' for one in TABLES)}"
                )
            if key in FIXED:
                raise InputError(f"[training.search] space: {key}: {FIXED[key]}")
            if not isinstance(values, list | tuple) or not values:
                raise InputError(f"[training.search] space: {key} must be a list of values")
        if self.each and self.each not in self.space:
            raise InputError(f"[training.search] each = '{self.each}': is not in the space")
        if self.each and self.at_least * len(self.space[self.each]) > self.draws:
            raise InputError(
                f"[training.search] draws = {self.draws}: too few for each of "
                f"{len(self.space[self.each])} values of {self.each} {self.at_least} times"
            )


def _table(key: str) -> str:
    """The table a key belongs to; "" where it belongs to none."""
    return next((one for one in TABLES if key.startswith(f"{one}.") and key != f"{one}."), "")


def draw(search: Search, seed: int) -> list[dict[str, Any]]:
    """Settings of each training: key to value; ``[{}]`` where nothing is searched.

    Parameters
    ----------
    seed : int
        Of the fold: the same seed draws the same settings.
    """
    if not search.draws:
        return [{}]
    generator = np.random.default_rng(seed)
    columns = {key: _column(search, key, generator) for key in search.space}
    return [{key: columns[key][i] for key in columns} for i in range(search.draws)]


def _column(search: Search, key: str, generator: np.random.Generator) -> list[Any]:
    values = list(search.space[key])
    sure = values * search.at_least if key == search.each else []
    rest = [values[i] for i in generator.integers(len(values), size=search.draws - len(sure))]
    every = sure + rest
    return [every[i] for i in generator.permutation(len(every))]


def applied(
    settings: Mapping[str, Any], network: Mapping[str, Any], protocol: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables of network and protocol with drawn settings laid over them."""
    tables = {"network": deepcopy(dict(network)), "training.protocol": deepcopy(dict(protocol))}
    for key, value in settings.items():
        table = _table(key)
        tables[table][key.removeprefix(f"{table}.")] = value
    return tables["network"], tables["training.protocol"]


def every_setting(search: Search) -> list[dict[str, Any]]:
    """Settings in which each value of the space occurs, to try whether all of them can be."""
    most = max((len(values) for values in search.space.values()), default=1)
    return [
        {key: values[i % len(values)] for key, values in search.space.items()} for i in range(most)
    ]


def best(merits: Sequence[tuple[float, ...]]) -> int:
    """Which training is kept: the one of the highest merit, of equal ones the first drawn."""
    return max(range(len(merits)), key=lambda i: (merits[i], -i))
