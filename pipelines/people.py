"""Who is in a voxelwise test, by which design, and who may change places with whom."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from models.errors import InputError
from models.statistics.exchange import Exchange, Moves
from pipelines.derivatives import read_table
from pipelines.interfaces.networks import read_cohort
from pipelines.statistics import StatisticsOptions

if TYPE_CHECKING:
    from models.statistics.glm import Design


@dataclass(frozen=True, eq=False)
class People:
    """Who is tested, in the order of the maps.

    Parameters
    ----------
    labels : numpy.ndarray
        (people,), the class of each.
    columns : pandas.DataFrame
        (people, columns), what the design is made of, without gaps.
    blocks : pandas.DataFrame
        (people, columns) of text, who may change places with whom, without gaps.
    """

    labels: np.ndarray
    columns: pd.DataFrame
    blocks: pd.DataFrame = field(default_factory=pd.DataFrame)

    def design(self, options: StatisticsOptions, classes: Sequence[str]) -> "Design":
        """The recipe's design; without a contrast, positive minus negative class.

        Raises
        ------
        models.errors.InputError
            The terms or the contrast do not fit the columns.
        """
        if not options.contrast:
            from models.statistics.glm import two_group_design

            names = list(self.columns)
            values = self.columns.to_numpy(float) if names else None
            return two_group_design(self.labels == classes[1], values, names)
        from models.statistics.designs import table_design

        names = [name for name in self.columns if self._tells_the_class(name)]
        contrast = options.contrast if isinstance(options.contrast, str) else options.rows
        return table_design(self.columns, options.terms, contrast, [*options.categorical, *names])

    def _tells_the_class(self, name: str) -> bool:
        """Whether a column is the target, which is a group even where it is written in numbers."""
        return bool((self.columns[name].map(as_text) == self.labels).all())


def complete(
    columns: pd.DataFrame, options: StatisticsOptions, blocks: Sequence[str] = ()
) -> tuple[pd.DataFrame, dict]:
    """Columns as numbers or words, and why people are left out.

    Parameters
    ----------
    columns : pandas.DataFrame
        As read, with the participants as index.
    blocks : sequence of str
        Columns that hold labels, whatever they look like.

    Returns
    -------
    columns : pandas.DataFrame
        Without the people who lack a value.
    excluded : dict
        Participant to the reason.
    """
    made = columns.copy()
    excluded: dict[str, str] = {}
    for name in columns:
        words = name in blocks or (options.contrast and name in options.categorical)
        made[name] = columns[name] if words else _as_number(columns[name], bool(options.contrast))
        for person in made.index[made[name].isna()]:
            excluded.setdefault(person, _why(name, columns.at[person, name]))
    return made.drop(index=list(excluded)), excluded


def _why(name: str, value: object) -> str:
    return f"{name} is missing" if pd.isna(value) else f"{name} is '{value}', not a number"


def _as_number(column: pd.Series, words_allowed: bool) -> pd.Series:
    """Numbers as they are; a column of two words becomes 0 and 1, or stays where words may."""
    numbers = pd.to_numeric(column, errors="coerce")
    others = column[numbers.isna() & column.notna()]
    if words_allowed and len(others):
        if numbers.notna().any():
            raise InputError(
                f"participants.tsv: column '{column.name}' has both numbers and words "
                f"('{others.iloc[0]}'); write n/a where a number is not known, or, if these are "
                "names, list it under [statistics] categorical"
            )
        return column
    if numbers.notna().any() or column.isna().all():
        return numbers
    words = sorted(column.dropna().unique())
    if len(words) > 2:
        raise InputError(
            f"participants.tsv: covariate '{column.name}' has {len(words)} different words "
            f"({', '.join(map(str, words[:4]))}, ...); only numbers or two words can be used"
        )
    return column.map({word: float(i) for i, word in enumerate(words)})


def as_text(value: object) -> str:
    """A cell as the word it stands for: 3.0, which pandas makes of 3 beside a gap, as 3."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def exchange(options: StatisticsOptions, people: People, folds: np.ndarray | None) -> Exchange:
    """What may be rearranged: places, within test folds and named blocks, or signs.

    Signs change for a mean, and where the classes may differ in variance: changing places between
    classes of unequal variance is far from valid for the largest of many voxels, even with a
    statistic that allows for it (44 % in place of 5 % for 8 people of threefold deviation among
    32, 200 voxels). Flips do not know of test folds.

    Raises
    ------
    models.errors.InputError
        People who are to move together were tested in several folds.
    """
    whole = _block(people, options.exchange_whole)
    if options.flips:
        variance = people.labels if options.variance_groups else None
        return Exchange(permute=False, flip=True, variance=variance, whole=whole)
    if folds is not None and whole is not None:
        _check_folds(whole, folds, options.exchange_whole)
    return Exchange(within=_joined(folds, _block(people, options.exchange_within)), whole=whole)


def _block(people: People, name: str) -> np.ndarray | None:
    return people.blocks[name].to_numpy(str) if name else None


def _joined(folds: np.ndarray | None, sites: np.ndarray | None) -> np.ndarray | None:
    """Labels that are the same where both are the same."""
    if folds is None or sites is None:
        return sites if folds is None else folds
    return np.unique(np.stack([folds.astype(str), sites]), axis=1, return_inverse=True)[1].ravel()


def _check_folds(whole: np.ndarray, folds: np.ndarray, name: str) -> None:
    for block in np.unique(whole):
        if len(np.unique(folds[whole == block])) > 1:
            raise InputError(
                f"[statistics] exchange_whole: the people of {name} '{block}' were tested in "
                "several folds, whose heatmaps come from different networks and cannot move "
                "together: test images only, or repeat the cross-validation ([training] repeats)"
            )


# --- tables --------------------------------------------------------------------------------------


def read_people(path: Path) -> pd.DataFrame:
    """participants.tsv with ``sub-`` before every participant, one row each."""
    table = read_table(path)
    ids = table["participant_id"].str.strip().str.removeprefix("sub-")
    return table.assign(participant_id="sub-" + ids).drop_duplicates("participant_id")


def join_people(
    table: pd.DataFrame,
    options: StatisticsOptions,
    covariates: Sequence[str],
    cohort: str | Path,
    participants: Path | None,
) -> tuple[pd.DataFrame, People, dict[str, str]]:
    """Who is in a test, with what the design and the exchange blocks are made of.

    Parameters
    ----------
    table : pandas.DataFrame
        participant_id and label, a row per image; the first of a person is taken.
    covariates : sequence of str
        Columns of the cohort, used where the recipe has no contrast.
    cohort, participants : Path
        Tables of :func:`pipelines.interfaces.networks.read_cohort` and :func:`read_people`; the
        latter is needed where the recipe names columns of its own.

    Returns
    -------
    table : pandas.DataFrame
        One row per person who is in it.
    people : People
        In the same order.
    excluded : dict
        Participant to the reason.
    """
    columns = _columns(options, cohort, participants)
    table = table.drop_duplicates("participant_id").set_index("participant_id", drop=False)
    table = table[table["participant_id"].isin(columns.index)]
    named = options.columns if options.contrast else list(covariates)
    design, lacking = complete(columns.loc[table.index, named], options)
    blocks, homeless = complete(columns.loc[table.index, options.blocks], options, options.blocks)
    excluded = homeless | lacking
    table = table.drop(index=list(excluded)).reset_index(drop=True)
    kept = table["participant_id"]
    people = People(
        table["label"].to_numpy(str),
        design.loc[kept].reset_index(drop=True),
        blocks.loc[kept].reset_index(drop=True).map(as_text),
    )
    return table, people, excluded


def _columns(
    options: StatisticsOptions, cohort: str | Path, participants: Path | None
) -> pd.DataFrame:
    """Everybody's columns, by participant."""
    source = read_cohort(cohort).drop_duplicates("participant_id").set_index("participant_id")
    if participants is None:
        return source
    people = read_people(participants).set_index("participant_id")
    if options.contrast:
        return people
    return source.join(people[[one for one in options.blocks if one not in source]])


def check_columns(path: Path, names: list[str]) -> None:
    """Before anything is computed: participants.tsv has the columns that the terms name.

    Raises
    ------
    models.errors.InputError
        It lacks one.
    """
    there = list(read_people(path).columns)
    for name in names:
        if name not in there:
            near = get_close_matches(name, there, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(there)}"
            raise InputError(f"[statistics]: {path} has no column '{name}'; {hint}")


def check_design(
    options: StatisticsOptions,
    classes: Sequence[str],
    cohort: Path,
    participants: Path,
    tested: Collection[str],
) -> None:
    """Before anything is computed: terms, contrast and blocks fit the people who will be tested.

    Parameters
    ----------
    classes : sequence of str
        Negative and positive.
    tested : collection of str
        Participants, without prefix.

    Raises
    ------
    models.errors.InputError
        They do not.
    """
    check_columns(participants, [*options.columns, *options.blocks])
    rows = read_cohort(cohort)
    rows = rows[rows["test"] & rows["participant_id"].str.removeprefix("sub-").isin(tested)]
    table = rows.assign(label=np.where(rows["positive"], classes[1], classes[0]))
    _, people, _ = join_people(table, options, (), cohort, participants)
    design = people.design(options, classes)
    if options.permuted:
        Moves(exchange(options, people, None), design.matrix, options.permutations, seed=0)
