"""Region tables of many people and repeated trainings, as one array."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from models.bootstrap import means, observed, ratio
from models.errors import InputError
from models.regions import merge_sides


@dataclass(frozen=True, eq=False)
class RegionCube:
    """What the maps of a cohort amount to in every region.

    Parameters
    ----------
    regions : pandas.DataFrame
        Columns index and name, one row per region.
    voxels : numpy.ndarray
        (repeats, people, regions), usable voxels; 0 for a person without a map in that repeat.
    sums : numpy.ndarray
        (repeats, people, regions), float64; NaN for a person without a map in that repeat.
    """

    regions: pd.DataFrame
    voxels: np.ndarray
    sums: np.ndarray

    def __post_init__(self):
        if self.voxels.shape != self.sums.shape or self.sums.shape[2:] != (len(self.regions),):
            raise ValueError(
                f"sums {self.sums.shape}, voxels {self.voxels.shape}, {len(self.regions)} regions"
            )

    @property
    def density(self) -> np.ndarray:
        """Sum per voxel, (repeats, people, regions); NaN where a region has no voxel."""
        return ratio(self.sums, self.voxels)

    def gain(self, controls: np.ndarray) -> np.ndarray:
        """Sum over the mean sum of the controls of that repeat, (repeats, people, regions).

        NaN where the controls' mean is zero. ``controls``: bool, (people,) or (repeats, people).
        """
        repeats, people, _ = self.sums.shape
        chosen = np.broadcast_to(np.asarray(controls, bool), (repeats, people))
        mean = np.stack(list(means(self.sums, chosen, observed(people, repeats))))
        return ratio(self.sums, mean)

    def merged_sides(self) -> "RegionCube":
        """Left and right half of every region joined; see `models.regions.merge_sides`."""
        merged, halves = _sides(self.regions)
        regions = merged[["index", "name"]]
        return replace(
            self,
            regions=regions,
            voxels=np.rint(self.voxels @ halves.T).astype(np.int64),
            sums=_joined(self.sums, halves),
        )


def stack(tables: Sequence[Sequence[pd.DataFrame | None]]) -> RegionCube:
    """Gather the region tables of people (inner) and repeats (outer).

    Parameters
    ----------
    tables : sequence of sequences of pandas.DataFrame or None
        For every repeat, the `models.regions.region_table` of each person, people in one order;
        None for a person without a map in that repeat.

    Raises
    ------
    InputError
        No tables, repeats of different numbers of people, or tables that list different regions.
    """
    known = [one for repeat in tables for one in repeat if one is not None]
    if not known:
        raise InputError("no region tables: there is nothing to rank.")
    if len({len(repeat) for repeat in tables}) != 1:
        raise InputError("the repeats have different numbers of people: give None for no map.")
    first = known[0][["index", "name"]].reset_index(drop=True)
    if not all(_same_regions(first, one) for one in known):
        raise InputError("the region tables list different regions: make them with one atlas.")
    voxels = [[_column(one, "voxels", len(first), 0) for one in repeat] for repeat in tables]
    sums = [[_column(one, "sum", len(first), np.nan) for one in repeat] for repeat in tables]
    return RegionCube(first, np.array(voxels, np.int64), np.array(sums, np.float64))


def _same_regions(first: pd.DataFrame, table: pd.DataFrame) -> bool:
    return all(np.array_equal(first[name], table[name]) for name in ("index", "name"))


def _column(table: pd.DataFrame | None, name: str, size: int, missing: float) -> np.ndarray:
    return np.full(size, missing) if table is None else table[name].to_numpy()


def _sides(regions: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Merged regions, and which regions (merged, regions) each is made of."""
    table = regions.assign(voxels=1, density=0.0)
    own = np.eye(len(regions))
    merged = [merge_sides(table.assign(sum=one)) for one in own]
    return merged[0], np.column_stack([one["sum"].to_numpy() for one in merged])


def _joined(sums: np.ndarray, halves: np.ndarray) -> np.ndarray:
    """Sums of halves; a person without a map stays without."""
    unknown = np.isnan(sums)
    joined = np.where(unknown, 0.0, sums) @ halves.T
    joined[(unknown @ halves.T) > 0] = np.nan
    return joined
