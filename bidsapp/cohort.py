"""The cohort of a group run: participants.tsv held against what is on disk, in plain language."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from bidsapp.sessions import ordered, read_sessions
from bidsapp.settings import Cohort as CohortOptions
from models.errors import InputError
from pipelines.choices import JACOBIAN
from pipelines.derivatives import label, read_table, text

# Columns of the tables that covariates are joined to.
RESERVED = frozenset(
    (
        *("session_id", "image", "positive", "train", "test", "row", "family"),
        *("label", "probability", "score", "threshold", "predicted", "outcome", "n_models"),
        *("fold", "folds", "lesions", "lesion_volume_ml"),
    )
)


@dataclass(frozen=True)
class CohortTable:
    """Who takes part, and what was noticed.

    Attributes
    ----------
    rows : DataFrame
        One row per image; columns of :func:`pipelines.interfaces.networks.read_cohort`.
    warnings : list of str
    excluded : dict
        Participant to the reason.
    """

    rows: pd.DataFrame
    warnings: list[str]
    excluded: dict[str, str]

    @property
    def labels(self) -> dict[str, bool]:
        """Participant (without ``sub-``) to whether the person is of the positive class."""
        ids = self.rows["participant_id"].str.removeprefix("sub-")
        return dict(zip(ids, self.rows["positive"].astype(bool), strict=True))

    @property
    def families(self) -> dict[str, str]:
        """Participant (without ``sub-``) to family, of those who have one."""
        if "family" not in self.rows:
            return {}
        known = self.rows[self.rows["family"] != ""]
        ids = known["participant_id"].str.removeprefix("sub-")
        return dict(zip(ids, known["family"], strict=True))


def read_participants(folder: Path) -> pd.DataFrame:
    """participants.tsv with one row per person.

    Raises
    ------
    models.errors.InputError
        Missing, without ``participant_id``, or a person twice.
    """
    path = folder / "participants.tsv"
    if not path.exists():
        raise InputError(
            f"{path}: missing; put a table there with the columns participant_id and the one to "
            "predict, or run the participant level on a dataset that has it"
        )
    table = _read(path)
    if "participant_id" not in table:
        first = table.columns[0] if len(table.columns) else "nothing"
        raise InputError(f"{path}: has no column participant_id (it begins with '{first}'); add it")
    table["participant_id"] = "sub-" + table["participant_id"].str.strip().str.removeprefix("sub-")
    doubled = table.loc[table["participant_id"].duplicated(), "participant_id"]
    if len(doubled):
        raise InputError(f"{path}: {doubled.iloc[0]} stands there twice; keep one row")
    return table


def _read(path: Path) -> pd.DataFrame:
    try:
        table = read_table(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not a tab-separated table in UTF-8 ({error}); save it as one"
        ) from error
    if not isinstance(table.index, pd.RangeIndex):  # what pandas makes of cells without a header
        raise InputError(f"{path}: its rows have more cells than its header has names; mend it")
    return table


def check_table(folder: Path, options: CohortOptions) -> tuple[pd.DataFrame, tuple[str, str]]:
    """participants.tsv, and the negative and positive class that it holds.

    Raises
    ------
    models.errors.InputError
        The table, the target, a class or a covariate is not there.
    """
    path = folder / "participants.tsv"
    table = read_participants(folder)
    classes = _classes(path, table, options)
    check_columns(path, table, options.covariates, "--covariates")
    check_columns(path, table, [options.group] if options.group else [], "[cohort] group")
    return table, classes


def build_cohort(
    folder: Path,
    images: Mapping[tuple[str, str], Path],
    options: CohortOptions,
    participants: Sequence[str] = (),
    volumes: Sequence[str] = (),
    preserve: Sequence[str] | None = None,
) -> CohortTable:
    """Join the table with the images.

    Parameters
    ----------
    folder : Path
        Holds participants.tsv.
    images : mapping of (participant, session) to Path
        Labels without prefixes.
    options : Cohort
        Target column, classes, covariates, sessions.
    participants : sequence of str
        Labels to keep; all when empty.
    volumes : sequence of str
        Columns with the volumes of regions, taken over as they are; "jacobian" is none.
    preserve : sequence of str, optional
        Columns whose effect harmonisation keeps; None where nothing is harmonised.
    """
    path = folder / "participants.tsv"
    table, classes = check_table(folder, options)
    warnings, excluded = [], {}
    on_disk = {f"sub-{participant}" for participant, _ in images}
    if participants:
        wanted = {f"sub-{name}" for name in participants}
        if wanted - on_disk:
            raise InputError(
                f"--participant-label: {folder} has no preprocessed image of "
                f"{', '.join(sorted(wanted - on_disk))}; run the participant level for them"
            )
        on_disk &= wanted
    sessions = read_sessions(folder, on_disk)
    people = dict(zip(table["participant_id"], table[options.target].map(text), strict=True))
    for person in sorted(on_disk - set(people)):
        excluded[person] = f"not in {path.name}"
    for person, value in people.items():
        if person not in on_disk and value in classes and not participants:
            excluded[person] = "in participants.tsv, but without preprocessed image"
        elif person in on_disk and value not in classes:
            is_what = f"'{value}', neither {classes[0]} nor {classes[1]}" if value else "missing"
            excluded[person] = f"{options.target} is {is_what}"
    ruled = _ruled_out(path, table, sessions, options, on_disk - set(excluded))
    if preserve is not None:
        ruled |= _without_site(path, table, options.site, on_disk - set(excluded) - set(ruled))
    excluded |= ruled
    if excluded:
        warnings += [f"{person} is left out: {reason}" for person, reason in excluded.items()]
    order = ordered([(f"sub-{person}", session) for person, session in images], sessions)
    rows = _rows(images, order, people, classes, options, (on_disk & set(people)) - set(ruled))
    _check_both_classes(path, rows, classes, options)
    site = [options.site] if options.site else []
    if JACOBIAN in volumes:
        _check_word(path, table)
        volumes = [column for column in volumes if column != JACOBIAN]
    for names, asked in (
        (volumes, "[regions] volumes"),
        (site, "[cohort] site"),
        (preserve or (), "[harmonisation] preserve"),
    ):
        check_columns(path, table, names, asked)
    columns = list(dict.fromkeys([*options.covariates, *volumes, *site, *(preserve or ())]))
    taken = sorted(RESERVED & set(columns))
    if taken:
        raise InputError(
            f"{path}: a covariate or volume may not be called '{taken[0]}'; rename the column"
        )
    rows = rows.merge(table[["participant_id", *columns]], on="participant_id")
    if options.group:
        rows["family"], told = _families(path, rows, table, options.group)
        warnings += told
    for name in options.covariates:
        warnings += _unusable(path, rows, name)
    return CohortTable(rows, warnings, excluded)


def _check_word(path: Path, table: pd.DataFrame) -> None:
    if JACOBIAN in table:
        raise InputError(
            f"{path}: has a column '{JACOBIAN}', and in [regions] volumes that word asks for the "
            "volumes that the registration tells; rename the column"
        )


def _unusable(path: Path, rows: pd.DataFrame, name: str) -> list[str]:
    """Sentences about whom the statistics must do without for want of a covariate."""
    numbers = pd.to_numeric(rows[name], errors="coerce")
    words = sorted(map(str, rows.loc[numbers.isna(), name].dropna().unique()))
    if numbers.isna().all() and len(words) > 2:
        raise InputError(
            f"--covariates: column '{name}' of {path} holds {len(words)} different words "
            f"({', '.join(words[:4])}, ...); only numbers or two words can be used"
        )
    usable = rows[name].notna() if numbers.isna().all() else numbers.notna()
    if rows.loc[usable, name].nunique() < 2:
        raise InputError(
            f"--covariates: column '{name}' of {path} is the same for everybody who takes part, so "
            "nothing can be adjusted for it; leave it out"
        )
    people = rows[~usable].drop_duplicates("participant_id")
    return [
        f"{person}: {name} is {'missing' if pd.isna(value) else repr(str(value))}; left out of the "
        "statistics only"
        for person, value in zip(people["participant_id"], people[name], strict=True)
    ]


def _classes(path: Path, table: pd.DataFrame, options: CohortOptions) -> tuple[str, str]:
    """Negative and positive class, checked against the column."""
    if not options.target:
        raise InputError(
            f"say what to predict: --target COLUMN of {path} --positive V --negative V"
        )
    check_columns(path, table, [options.target], "--target")
    there = table[options.target].map(text)
    counts = there[there != ""].value_counts()
    for flag, value in (("--positive", options.positive), ("--negative", options.negative)):
        if not value or value not in counts:
            listed = ", ".join(f"{name} ({n})" for name, n in counts.items())
            raise InputError(
                f"{flag} '{value}': column '{options.target}' of {path} holds {listed or 'nothing'}"
            )
    if label(options.positive) == label(options.negative):
        raise InputError(
            f"--positive '{options.positive}' and --negative '{options.negative}' are one in file "
            f"names, where only letters and digits may stand: rename one in {path}"
        )
    return options.negative, options.positive


def check_columns(path: Path, table: pd.DataFrame, names: Sequence[str], flag: str) -> None:
    """Refuse a column that the table does not have, and name the nearest; ``flag`` asked for it."""
    for name in names:
        if name not in table:
            near = get_close_matches(name, list(table.columns), n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(table.columns)}"
            raise InputError(f"{flag}: {path} has no column '{name}'; {hint}")


def _without_site(path: Path, table: pd.DataFrame, site: str, people: set[str]) -> dict[str, str]:
    """Participant to the reason, of those who cannot be harmonised for want of a site."""
    check_columns(path, table, [site], "[cohort] site")
    named = dict(zip(table["participant_id"], table[site].map(text), strict=True))
    return {
        person: f"{site} is missing, by which images are harmonised"
        for person in sorted(people)
        if not named[person]
    }


def _ruled_out(
    path: Path,
    table: pd.DataFrame,
    sessions: pd.DataFrame,
    options: CohortOptions,
    people: set[str],
) -> dict[str, str]:
    """Participant to the reason, of those whom [cohort.exclude] rules out."""
    excluded: dict[str, str] = {}
    target = table[options.target].map(text)
    for name, positive in ((options.negative, False), (options.positive, True)):
        mine = set(table.loc[target == name, "participant_id"]) & people
        for column, values in options.exclude.rules(positive).items():
            _check_rule(path, table, sessions, column, mine)
            for source in (sessions, table):
                if column in source:
                    chosen = source["participant_id"].isin(mine)
                    found = source[chosen & source[column].map(text).isin(values)]
                    for row in found.to_dict("records"):
                        where = f" in {row['session_id']}" if source is sessions else ""
                        excluded[row["participant_id"]] = (
                            f"{column} is {text(row[column])}{where} ([cohort.exclude])"
                        )
    return excluded


def _check_rule(
    path: Path, table: pd.DataFrame, sessions: pd.DataFrame, column: str, people: set[str]
) -> None:
    """A rule must speak of a column that exists for somebody it is about."""
    if column in table or column in sessions:
        return
    if sessions.empty and people:
        raise InputError(
            f"[cohort.exclude]: {path} has no column '{column}', and nobody has a sessions.tsv "
            f"below {path.parent}: run the participant level again, which carries them over, or "
            "mend the recipe"
        )
    everything = table.join(sessions.drop(columns="participant_id"), rsuffix="_")
    check_columns(path, everything, [column], "[cohort.exclude]")


def _families(
    path: Path, rows: pd.DataFrame, table: pd.DataFrame, column: str
) -> tuple[pd.Series, list[str]]:
    """Family of each row, "" for none, and what was noticed."""
    family = rows["participant_id"].map(table.set_index("participant_id")[column].map(text))
    lacking = sorted(rows.loc[family == "", "participant_id"].unique())
    if (family == "").all():
        raise InputError(
            f"[cohort] group: column '{column}' of {path} is empty for everybody who takes part; "
            "leave it out, or fill it in"
        )
    if not lacking:
        return family, []
    some = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
    return family, [
        f"{column} is missing for {len(lacking)} people ({some}): each is taken to have no "
        "relative here"
    ]


def _rows(
    images: Mapping[tuple[str, str], Path],
    order: Mapping[str, Sequence[str]],
    people: Mapping[str, str],
    classes: tuple[str, str],
    options: CohortOptions,
    taken: set[str],
) -> pd.DataFrame:
    uses = dict(zip(classes, (options.sessions.negative, options.sessions.positive), strict=True))
    rows = [
        {
            "participant_id": person,
            "session_id": f"ses-{session}" if session else "",
            "image": str(images[person.removeprefix("sub-"), session]),
            "positive": people[person] == classes[1],
            "train": session in _chosen(sessions, uses[people[person]].train),
            "test": session in _chosen(sessions, uses[people[person]].test),
        }
        for person, sessions in sorted(order.items())
        if person in taken and people[person] in classes
        for session in sessions
    ]
    columns = ["participant_id", "session_id", "image", "positive", "train", "test"]
    return pd.DataFrame(rows, columns=columns)


def _chosen(sessions: Sequence[str], which: str) -> Sequence[str]:
    return {"first": sessions[:1], "last": sessions[-1:], "all": sessions}[which]


def _check_both_classes(
    path: Path, rows: pd.DataFrame, classes: tuple[str, str], options: CohortOptions
) -> None:
    for name, positive in zip(classes, (False, True), strict=True):
        if not (rows["positive"] == positive).any():
            raise InputError(
                f"{path}: nobody with {options.target} = {name} has a preprocessed image; both "
                "classes are needed, so run the participant level for them"
            )
