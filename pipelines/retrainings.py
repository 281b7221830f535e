"""What repeated trainings said about each person, and the maps that they left on disk.

Everything is out of fold: in every repeat a person is seen by the one network that was not
trained on that person.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from models.contrasts import outcomes
from models.region_cube import RegionCube, stack
from pipelines.derivatives import read_table
from pipelines.interfaces.networks import prediction_keys


@dataclass(frozen=True, eq=False)
class Retrainings:
    """The people of a cohort over repeated trainings.

    Parameters
    ----------
    keys : list of tuple
        (participant, session) of the image that is judged of each person, without prefixes.
    positive : numpy.ndarray
        (people,) bool, True for patients.
    probability : numpy.ndarray
        (repeats, people), out of fold; NaN for a person who was not tested in that repeat.
    threshold : numpy.ndarray
        (repeats, people), from which the fold that tested the person called it positive.
    """

    keys: list[tuple[str, str]]
    positive: np.ndarray
    probability: np.ndarray
    threshold: np.ndarray

    @classmethod
    def read(cls, predictions: Path, scores: Sequence[Path], positive: str) -> "Retrainings":
        """Join the cohort's table of predictions with the scores of every fold.

        Parameters
        ----------
        predictions : Path
            Columns participant_id, session_id and label; one image of each person is taken.
        scores : sequence of Path
            Of every fold: participant_id, session_id, repeat, probability, threshold.
        positive : str
            The class of the patients.
        """
        people = read_table(predictions).drop_duplicates("participant_id")
        keys = prediction_keys(people)
        every = pd.concat([read_table(path) for path in scores], ignore_index=True)
        probability = np.full((int(every["repeat"].max()), len(keys)), np.nan)
        threshold = np.full_like(probability, np.nan)
        column = {key: i for i, key in enumerate(keys)}
        for key, row in zip(prediction_keys(every), every.itertuples(), strict=True):
            if key in column:
                probability[row.repeat - 1, column[key]] = row.probability
                threshold[row.repeat - 1, column[key]] = row.threshold
        return cls(keys, (people["label"] == positive).to_numpy(), probability, threshold)

    @property
    def repeats(self) -> int:
        """Number of repeated trainings."""
        return len(self.probability)

    @property
    def names(self) -> list[str]:
        """Participants, one per column."""
        return [f"sub-{participant}" for participant, _ in self.keys]

    @property
    def tested(self) -> np.ndarray:
        """(repeats, people) bool, who has a map in which repeat."""
        return np.isfinite(self.probability)

    @cached_property
    def outcomes(self) -> dict[str, np.ndarray]:
        """TP, FP, TN and FN, each (repeats, people) bool."""
        return outcomes(self.positive, self.probability >= self.threshold, self.tested)

    def cube(self, region_tables: Path, column: str = "sum") -> RegionCube:
        """Region tables of one method.

        Parameters
        ----------
        region_tables : Path
            Columns repeat, sub, ses, index, name, voxels, sum and absolute.
        column : {"sum", "absolute"}
            Which sums: of relevance, or of its absolute values.
        """
        text = {"sub": str, "ses": str}
        every = pd.read_csv(region_tables, sep="\t", dtype=text, keep_default_na=False)
        every["sum"] = every[column]
        found = dict(list(every.groupby(["repeat", "sub", "ses"], sort=False)))
        repeats = range(1, self.repeats + 1)
        return stack([[found.get((repeat, *key)) for key in self.keys] for repeat in repeats])

    def maps(self, folds: Sequence[Path], repeats: Sequence[int], method: str) -> list["FoldMaps"]:
        """Maps of one method per repeat, rows as in ``keys``.

        Parameters
        ----------
        folds : sequence of Path
            Folders of `ExplainFold`.
        repeats : sequence of int
            Repeat of each folder, counted from 1.
        method : str
            Name of the attribution.
        """
        per_repeat: list[list[Path]] = [[] for _ in range(self.repeats)]
        for folder, repeat in zip(folds, repeats, strict=True):
            per_repeat[repeat - 1].append(folder)
        return [FoldMaps.open(folders, method, self.keys) for folders in per_repeat]


@dataclass(frozen=True, eq=False)
class FoldMaps:
    """Maps (people, voxels) that lie in several memory-mapped files, read row by row.

    Parameters
    ----------
    files : list of numpy.ndarray
        Memory-mapped, each (people of the fold, x, y, z).
    where : list of tuple or None
        File and row of each person; None for a person without a map, whose row reads as NaN.
    """

    files: list[np.ndarray]
    where: list[tuple[int, int] | None]

    @classmethod
    def open(
        cls, folders: Sequence[Path], method: str, keys: Sequence[tuple[str, str]]
    ) -> "FoldMaps":
        """Map the files of one repeat's folds."""
        places: dict[tuple[str, str], tuple[int, int]] = {}
        files = []
        for number, folder in enumerate(folders):
            listed = json.loads((folder / "index.json").read_text())["keys"]
            places |= {(sub, ses): (number, row) for row, (sub, ses) in enumerate(listed)}
            files.append(np.load(folder / f"{method}.npy", mmap_mode="r"))
        return cls(files, [places.get(key) for key in keys])

    @property
    def shape(self) -> tuple[int, int]:
        """People and voxels."""
        return len(self.where), int(np.prod(self.files[0].shape[1:]))

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows of some people, (people, voxels) float32, copied into memory."""
        chosen = self.where[rows]
        found = np.full((len(chosen), self.shape[1]), np.nan, np.float32)
        for i, place in enumerate(chosen):
            if place is not None:
                found[i] = self.files[place[0]][place[1]].reshape(-1)
        return found
