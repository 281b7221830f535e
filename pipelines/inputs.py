"""Finds the images of a raw BIDS dataset. The only module that knows pybids."""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from models.errors import InputError
from pipelines.derivatives import datatype_of
from pipelines.projections import SUFFIX as PROJECTIONS
from pipelines.projections import is_projections
from pipelines.tracers import Tracer

LABEL = re.compile(r"sub-([0-9a-zA-Z]+)")

# BIDS knows no SPECT: pybids finds the suffix, but no datatype; people also file it as PET. Raw
# projections stand for the image of who has no other.
UNKNOWN_TO_BIDS = {"spect": ("spect", "pet", PROJECTIONS)}


@dataclass(frozen=True)
class Scan:
    """One image of one person.

    Attributes
    ----------
    participant : str
        Label without ``sub-``.
    session : str
        Label without ``ses-``, "" where the dataset has no sessions.
    path : Path
        As found below ``bids_dir``; symlinks are not resolved.
    t1w : Scan, optional
        The person's T1w image that goes with it, for modalities that use one.
    lesions : Path, optional
        The lesion mask that goes with it, for modalities that use one.
    """

    participant: str
    session: str
    path: Path
    t1w: "Scan | None" = None
    lesions: Path | None = None

    @property
    def entities(self) -> dict[str, str]:
        """``sub`` and ``ses`` for the names of derivatives."""
        return {"sub": self.participant, "ses": self.session}


def check_dataset(bids_dir: Path) -> None:
    """Raise InputError unless ``bids_dir`` looks like a BIDS dataset with participants."""
    if not bids_dir.is_dir():
        raise InputError(f"{bids_dir}: there is no such folder; give the root of a BIDS dataset")
    description = bids_dir / "dataset_description.json"
    if not description.exists():
        raise InputError(
            f"{description}: missing; a BIDS dataset has one (is {bids_dir} its root folder?)"
        )
    try:
        json.loads(description.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{description}: not valid JSON ({error}); mend it") from error
    if not participants_on_disk(bids_dir):
        odd = odd_folders(bids_dir)
        if odd:
            raise InputError(f"{bids_dir / odd[0]}: {ODD}; rename it")
        raise InputError(f"{bids_dir}: has no sub-* folder; give the root of a BIDS dataset")


def participants_on_disk(bids_dir: Path) -> list[str]:
    """Labels of all participants' folders, sorted, without ``sub-``."""
    return sorted(name[4:] for name in _folders(bids_dir) if LABEL.fullmatch(name))


def odd_folders(bids_dir: Path) -> list[str]:
    """Names of ``sub-*`` folders that pybids would take for somebody else (``sub-01_old``)."""
    return sorted(name for name in _folders(bids_dir) if not LABEL.fullmatch(name))


def _folders(bids_dir: Path) -> list[str]:
    with os.scandir(bids_dir) as entries:
        return [e.name for e in entries if e.name.startswith("sub-") and e.is_dir()]


ODD = "a participant's label may hold letters and digits only"


def unreadable(path: Path) -> str:
    """Why a file cannot be opened, as a sentence; "" when it can."""
    try:
        path.open("rb").close()
    except FileNotFoundError:
        return (
            f"{path}: is a link to a file that is not here; fetch its content (DataLad: datalad "
            "get), or mount the folder that it leads to"
        )
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror}); see to its permissions"
    return ""


def choose_participants(bids_dir: Path, wanted: Sequence[str]) -> list[str]:
    """Participants to process: all on disk, or the wanted ones.

    Raises
    ------
    models.errors.InputError
        A wanted label has no folder; the message lists near ones.
    """
    there = participants_on_disk(bids_dir)
    labels = [name.removeprefix("sub-") for name in wanted]
    missing = [name for name in labels if name not in there]
    if missing:
        some = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
        raise InputError(
            f"--participant-label: {bids_dir} has no sub-{missing[0]}; it has {len(there)} "
            f"participants ({some})"
        )
    return sorted(set(labels)) or there


def find_scans(
    bids_dir: Path,
    participants: Sequence[str],
    suffix: str,
    *,
    sessions: Sequence[str] = (),
    filters: Mapping[str, Any] | None = None,
    names: str = "*",
    rank: Callable[[Path], Any] = str,
    others_are: str = "passed over",
) -> tuple[list[Scan], list[str]]:
    """Images of one modality, at most one per person and session.

    Only the folders of ``participants`` are indexed, so one person of a large dataset is found
    as fast as of a small one.

    Parameters
    ----------
    bids_dir : Path
    participants : sequence of str
        Labels without ``sub-``.
    suffix : str
        BIDS suffix, such as ``T1w``.
    sessions : sequence of str
        Labels to keep; all when empty.
    filters : mapping
        More pybids entities to ask for (``--bids-filter-file``).
    names : str
        Pattern that file names must match; others are not scans of this modality.
    rank : callable
        Of several images of a session, that of the lowest value is the scan.
    others_are : str
        What is said of the others.

    Returns
    -------
    scans : list of Scan
        Sorted by participant and session.
    warnings : list of str
        Sentences about images passed over.
    """
    layout = _layout(bids_dir, participants)
    query: dict[str, Any] = {
        **_kind(suffix),
        "extension": [".nii", ".nii.gz"],
        "scope": "self",
    } | dict(filters or {})
    by_key: dict[tuple[str, str], list[Path]] = {}
    for file in _asked(layout, query):
        if not _is_of(Path(file.path), suffix):
            continue
        key = file.entities["subject"], str(file.entities.get("session", ""))
        wanted = fnmatch(Path(file.path).name, names)
        if wanted and (not sessions or key[1] in sessions):
            by_key.setdefault(key, []).append(Path(file.path))
    scans, warnings = [], []
    if set(participants) == set(participants_on_disk(bids_dir)):
        warnings += [f"{name}: {ODD}; left out" for name in odd_folders(bids_dir)]
    for (participant, session), paths in sorted(by_key.items()):
        first, *others = sorted(paths, key=lambda path: (is_projections(path), rank(path), path))
        scans.append(Scan(participant, session, first))
        if others:
            names = ", ".join(path.name for path in others)
            warnings.append(f"sub-{participant}: {first.name} is used, {names} {others_are}")
    return scans, warnings


def _kind(suffix: str) -> dict[str, Any]:
    """What pybids is asked for images with this suffix."""
    if suffix in UNKNOWN_TO_BIDS:
        return {"suffix": list(UNKNOWN_TO_BIDS[suffix])}
    return {"suffix": suffix, "datatype": datatype_of(suffix)}


def _is_of(path: Path, suffix: str) -> bool:
    """Whether a file is an image of this suffix; a PET file is a SPECT only where it says so."""
    if suffix not in UNKNOWN_TO_BIDS or path.name.split(".")[0].endswith(f"_{suffix}"):
        return True
    if is_projections(path):
        return path.parent.name == datatype_of(suffix)
    if unreadable_sidecar(path):
        return True  # nobody knows: whoever reads it says what is wrong, of this person alone
    tracer = Tracer.of(path, metadata_of(path))
    return tracer.is_stated or (bool(tracer.nuclide) and not tracer.is_other)


def metadata_of(path: Path) -> dict[str, Any]:
    """Sidecar of a raw image with what it inherits from the folders above, the nearest first.

    Raises
    ------
    models.errors.InputError
        A sidecar is no JSON.
    """
    stem = path.name.split(".")[0]
    own = set(stem.split("_"))
    found: dict[str, Any] = {}
    for folder in path.parents:
        said = [
            one
            for one in sorted(folder.glob(f"*{stem.rsplit('_', 1)[-1]}.json"))
            if set(one.name.removesuffix(".json").split("_")) <= own
        ]
        for one in sorted(said, key=lambda file: -len(file.name.split("_"))):
            found = _json(one) | found
        if (folder / "dataset_description.json").exists():
            break
    return found


def unreadable_sidecar(path: Path) -> str:
    """Why the metadata of a raw image cannot be read, as a sentence; "" when they can."""
    try:
        metadata_of(path)
    except InputError as error:
        return str(error)
    return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); mend it") from error
    return content if isinstance(content, dict) else {}


def with_t1w(scans: Sequence[Scan], t1w: Sequence[Scan]) -> tuple[list[Scan], list[str]]:
    """Give each scan the T1w image of its session, else the person's first one.

    Returns
    -------
    scans : list of Scan
        ``t1w`` is None for people without any.
    warnings : list of str
        Sentences about people whose T1w image is missing or of another session.
    """
    by_key = {(one.participant, one.session): one for one in t1w}
    firsts = {one.participant: one for one in reversed(t1w)}
    joined, warnings = [], []
    for scan in scans:
        own = by_key.get((scan.participant, scan.session))
        found = own or firsts.get(scan.participant)
        who = f"sub-{scan.participant}" + (f" ses-{scan.session}" if scan.session else "")
        if found is None:
            warnings.append(f"{who}: has no T1w image to go with {scan.path.name}")
        elif own is None:
            warnings.append(
                f"{who}: has no T1w image of that session; {found.path.name} goes with "
                f"{scan.path.name}"
            )
        joined.append(replace(scan, t1w=found))
    return joined, warnings


def modalities_there(folder: Path, suffixes: Iterable[str]) -> list[str]:
    """Those of ``suffixes`` that the first participants with any image have, in their order."""
    people = participants_on_disk(folder) if folder.is_dir() else []
    for person in people:
        there = [
            suffix
            for suffix in suffixes
            for place in ("", "ses-*/")
            for kind in UNKNOWN_TO_BIDS.get(suffix, (suffix,))
            if any(
                _is_of(path, suffix)
                for path in (folder / f"sub-{person}").glob(
                    f"{place}{datatype_of(kind)}/*_{kind}.nii*"
                )
            )
        ]
        if there:
            return list(dict.fromkeys(there))
    return []


def _asked(layout: Any, query: Mapping[str, Any]) -> list[Any]:
    from bids.layout import Query

    special = {None: Query.NONE, "*": Query.ANY}
    known = {
        key: special.get(value, value) if value is None or isinstance(value, str) else value
        for key, value in query.items()
    }
    try:
        return layout.get(**known)
    except ValueError as error:  # an entity that does not exist
        reason = str(error).split(" If you're sure")[0]
        raise InputError(f"--bids-filter-file: {reason}") from error


def _layout(bids_dir: Path, participants: Iterable[str]) -> Any:
    from bids import BIDSLayout, BIDSLayoutIndexer

    labels = "|".join(re.escape(name) for name in participants)
    # pybids matches against paths relative to the root, which begin with a slash.
    others = re.compile(rf"^/?sub-(?!({labels})(/|$))")
    hidden = re.compile(r"/\.")
    indexer = BIDSLayoutIndexer(
        validate=False,
        index_metadata=False,
        ignore=[
            others,
            hidden,
            re.compile(r"^/?(derivatives|sourcedata|code|stimuli|models)(/|$)"),
        ],
    )
    return BIDSLayout(str(bids_dir), validate=False, indexer=indexer)
