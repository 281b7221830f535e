"""The sessions of people: what sessions.tsv says of them, and their order in time."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from models.errors import InputError
from pipelines.derivatives import read_table


def read_sessions(folder: Path, people: Iterable[str]) -> pd.DataFrame:
    """The rows of ``sub-*/sub-*_sessions.tsv`` of some people, empty where nobody has one.

    Parameters
    ----------
    folder : Path
    people : iterable of str
        With ``sub-``.

    Returns
    -------
    DataFrame
        participant_id, session_id (with ``ses-``), and whatever else the tables hold.
    """
    found = [pd.DataFrame(columns=["participant_id", "session_id"], dtype=object)]
    for person in sorted(people):
        path = folder / person / f"{person}_sessions.tsv"
        if path.exists():
            found.append(_read(path).assign(participant_id=person))
    return pd.concat(found, ignore_index=True)


def _read(path: Path) -> pd.DataFrame:
    try:
        table = read_table(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a tab-separated table in UTF-8 ({error})") from error
    if "session_id" not in table:
        raise InputError(f"{path}: has no column session_id; add it")
    names = table["session_id"].astype(str).str.strip().str.removeprefix("ses-")
    return table.assign(session_id="ses-" + names)


def ordered(keys: Iterable[tuple[str, str]], sessions: pd.DataFrame) -> dict[str, list[str]]:
    """Sessions (without ``ses-``) of each person, the earliest first.

    By ``acq_time`` of sessions.tsv where it is there for all sessions of the person, else by
    their labels, in which 2 comes before 10.
    """
    when: Mapping[tuple[str, str], str] = {}
    if "acq_time" in sessions:
        known = sessions.dropna(subset=["acq_time"])
        labels = known["session_id"].str.removeprefix("ses-")
        when = dict(
            zip(
                zip(known["participant_id"], labels, strict=True),
                known["acq_time"].astype(str),
                strict=True,
            )
        )
    people: dict[str, list[str]] = {}
    for person, session in keys:
        people.setdefault(person, []).append(session)
    return {
        person: sorted(theirs, key=lambda one: (when[person, one], _natural(one)))
        if all((person, one) in when for one in theirs)
        else sorted(theirs, key=_natural)
        for person, theirs in people.items()
    }


def _natural(session: str) -> list[tuple[int, int, str]]:
    """Sort key of a session label in which 2 comes before 10."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.findall(r"\d+|\D+", session)
    ]
