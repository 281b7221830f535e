"""Harmonisation over files: whose site, which covariates, and the maps beside a fold's weights."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import safe_open
from safetensors.numpy import save_file

from models.errors import InputError
from models.harmonisation import Combat, Harmonised
from models.training.splits import Split
from models.volumes import VolumeCache
from pipelines.derivatives import text

METHODS = ("none", "combat")
MAPS = ("mask", "factor", "shift", "slopes", "centre")
REVISION = 1  # raised when the same images and settings would give other maps


@dataclass(frozen=True)
class HarmonisationOptions:
    """Whether and how sites are taken off the images.

    Parameters
    ----------
    method : {"none", "combat"}
    preserve : tuple of str
        Columns whose effect on the images is kept; never the target.
    use_labels : bool
        Whether the training people's classes are told apart from their sites while estimating.
    """

    method: str = "none"
    preserve: tuple[str, ...] = ()
    use_labels: bool = True

    @property
    def wanted(self) -> bool:
        """Whether anything is done."""
        return self.method != "none"

    def card(self, site: str) -> dict[str, Any] | None:
        """What a model card says of it."""
        if not self.wanted:
            return None
        return {
            "Method": "ComBat",
            "Site": site,
            "Preserve": list(self.preserve),
            "TrainingLabelsUsed": self.use_labels,
        }


def site_names(column: pd.Series) -> list[str]:
    """Sites as text; a missing one is empty."""
    return [text(one) for one in column]


def identity(cohort: pd.DataFrame, options: Mapping[str, Any], site: str) -> list[Any]:
    """What the maps depend on beside the images; nothing where nothing is done."""
    if options.get("method", "none") == "none":
        return []
    columns = [site, *options["preserve"]]
    return [[REVISION, dict(options), site, cohort[columns].astype(str).to_numpy().tolist()]]


def check_sites(cohort: pd.DataFrame, splits: Sequence[Split], site: str) -> None:
    """Refuse, before anything is trained, a fold that cannot harmonise its people.

    Raises
    ------
    models.errors.InputError
        A person's site has fewer than two images, or there is one site, in a training part.
    """
    people, sites = cohort["participant_id"].str.removeprefix("sub-"), site_names(cohort[site])
    of_person = dict(zip(people, sites, strict=True))
    images = people[cohort["train"].astype(bool)].value_counts()
    for split in splits:
        counts: dict[str, int] = {}
        for person in split.people("train"):
            name = of_person[person]
            counts[name] = counts.get(name, 0) + int(images.get(person, 0))
        for person, role in sorted(split.roles.items()):
            name = of_person[person]
            if role not in _VERBS:  # takes no part in this fold
                continue
            if counts.get(name, 0) < 2:
                raise InputError(
                    f"sub-{person} is to {_VERBS[role]} in fold {split.number}, but the training "
                    f"part of that fold has {counts.get(name, 0)} images of site '{name}', and "
                    "harmonisation needs at least 2: leave the people of that site out, or turn "
                    "[harmonisation] off"
                )
        if len(counts) < 2:
            raise InputError(
                f"column '{site}' names one site in the training part of fold {split.number}: "
                "there is nothing to harmonise, so turn [harmonisation] off"
            )


_VERBS = {"train": "train", "validation": "validate", "test": "be tested"}

# --- covariates ----------------------------------------------------------------------------------


def coding(table: pd.DataFrame, names: Sequence[str]) -> list[dict[str, str]]:
    """How columns become numbers, from the rows that are fitted.

    A column of words gives one column for each word but the first.
    """
    found: list[dict[str, str]] = []
    for name in names:
        known = table[name].dropna()
        if pd.to_numeric(known, errors="coerce").notna().all():
            found.append({"name": name})
        else:
            words = sorted({text(one) for one in known})
            found += [{"name": name, "word": word, "words": "\n".join(words)} for word in words[1:]]
    return found


def coded(table: pd.DataFrame, code: Sequence[Mapping[str, str]]) -> np.ndarray:
    """Covariates (rows, columns) of a table; NaN for what is missing or was never fitted."""
    columns = np.full((len(table), len(code)), np.nan)
    for k, one in enumerate(code):
        if "word" not in one:
            columns[:, k] = pd.to_numeric(table[one["name"]], errors="coerce")
            continue
        words = table[one["name"]].map(text)
        known = words.isin(one["words"].split("\n"))
        columns[:, k] = np.where(known, words == one["word"], np.nan)
    return columns


# --- maps ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class StoredCombat:
    """The maps of a fold, and which columns they go by."""

    combat: Combat
    site: str
    code: list[dict[str, str]]

    def apply(self, volume: np.ndarray, person: Mapping[str, Any], who: str) -> np.ndarray:
        """Harmonise a person's (C, x, y, z) image by the person's row of participants.tsv."""
        site = text(person.get(self.site))
        if not site:
            raise InputError(
                f"{who}: the model was trained on harmonised images, and column '{self.site}' of "
                "participants.tsv does not say which site this person's are from: fill it in"
            )
        names = {one["name"] for one in self.code}
        row = pd.DataFrame([{name: person.get(name) for name in names}])
        return self.combat.apply(volume, site, coded(row, self.code)[0])


def write_maps(
    path: Path, combat: Combat, site: str, code: Sequence[Mapping[str, str]], notes: Sequence[str]
) -> None:
    """Write the maps of a fold as safetensors."""
    arrays = {name: np.ascontiguousarray(getattr(combat, name)) for name in MAPS}
    arrays["mask"] = arrays["mask"].astype(np.uint8)
    about = {"sites": list(combat.sites), "site": site, "code": list(code), "notes": list(notes)}
    save_file(arrays, path, metadata={"harmonisation": json.dumps(about)})


def read_maps(path: str | Path) -> StoredCombat:
    """Read what :func:`write_maps` wrote.

    Raises
    ------
    models.errors.InputError
        The file is missing.
    """
    if not Path(path).exists():
        raise InputError(
            f"{path}: missing, so images cannot be harmonised as those of the training were; copy "
            "the model's folder whole, or run the group level again"
        )
    with safe_open(path, framework="np") as stored:
        about = json.loads(stored.metadata()["harmonisation"])
        arrays = {name: stored.get_tensor(name) for name in MAPS}
    arrays["mask"] = arrays["mask"].astype(bool)
    return StoredCombat(Combat(tuple(about["sites"]), **arrays), about["site"], about["code"])


def seen(cache: VolumeCache, cohort: pd.DataFrame, maps: str | Path) -> np.ndarray | Harmonised:
    """A cohort's images as a fold's network sees them: harmonised, where there are maps."""
    if not maps:
        return cache.volumes
    stored = read_maps(maps)
    sites = site_names(cohort[stored.site])
    return Harmonised(cache.volumes, stored.combat, sites, coded(cohort, stored.code))
