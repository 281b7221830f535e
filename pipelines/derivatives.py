"""Names, sidecars and atomic writes of the output folder (a BIDS derivative dataset)."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from models.errors import InputError
from models.grids import Grid
from pipelines.partial import ENDING, appearing, keep, remove_leftovers

SPACE = "MNI152NLin2009cAsym"
OWN_SPACE = "individual"  # of a person's image that was not registered
COPY_BYTES = 2**20
CLOCK_SLACK_S = 5.0  # a file server's clock may run behind

ENTITY_ORDER = (
    *("sub", "ses", "acq", "ce", "trc", "rec", "dir", "run", "mod", "from", "to", "mode"),
    *("space", "meas", "model", "param", "fold", "target", "method", "outcome", "contrast"),
    *("stat", "atlas", "seg", "res", "label", "desc"),
)

# Folder of a participant's file by its suffix, or by its ``mod-`` where it has one.
DATATYPES = {
    "dwi": "dwi",
    "dwimap": "dwi",
    "spect": "spect",
    "proj": "spect",
    "mimap": "spect",
    "pet": "pet",
}

# No trailing slashes: with one, the official validator still reports the directory itself.
BIDSIGNORE = """\
*.html
**/figures
/group
/models
*_xfm.*
*_dwimap.*
*_heatmap.*
*_anomalymap.*
*_predictions.*
*_qc.*
*_mimap.*
*_dwi.bval
*_dwi.bvec
**/spect
"""


README = """\
Derivatives written by BrainWhy: preprocessed images, predictions and heatmaps of each participant
(sub-*/ and sub-*.html), the cohort's models, maps and statistics (models/, group/, group.html),
and what each run did (logs/). Research use only; not a medical device.
"""


def label(text: str) -> str:
    """Reduce ``text`` to what BIDS allows in a label (letters and digits)."""
    reduced = re.sub(r"[^0-9a-zA-Z]", "", text)
    if not reduced:
        raise InputError(f"'{text}' has no letter or digit left to make a BIDS label of")
    return reduced


def filename(suffix: str, extension: str, entities: Mapping[str, str]) -> str:
    """BIDS file name with the entities in their standard order.

    Empty values are left out, so that ``ses`` may be "" where there are no sessions.
    """
    unknown = set(entities) - set(ENTITY_ORDER)
    if unknown:
        raise ValueError(f"no such entity: {sorted(unknown)}")
    parts = [f"{key}-{entities[key]}" for key in ENTITY_ORDER if entities.get(key)]
    return "_".join([*parts, suffix]) + extension


def relative_path(
    suffix: str, extension: str, entities: Mapping[str, str], datatype: str = ""
) -> str:
    """Path of a derivative below the output folder: the participant's folder, or ``group``.

    Parameters
    ----------
    datatype : str
        Folder of the participant's file where neither suffix nor ``mod-`` tell it.
    """
    name = filename(suffix, extension, entities)
    if "sub" not in entities:
        return f"group/{name}"
    folder = datatype or datatype_of(entities.get("mod", suffix))
    return f"{participant_folder(entities)}/{folder}/{name}"


def datatype_of(suffix: str) -> str:
    """BIDS folder of images with this suffix."""
    return DATATYPES.get(suffix, "anat")


def participant_folder(entities: Mapping[str, str]) -> str:
    """``sub-01`` or ``sub-01/ses-1``."""
    session = f"/ses-{entities['ses']}" if entities.get("ses") else ""
    return f"sub-{entities['sub']}{session}"


def derivative_uri(path: str | Path) -> str:
    """BIDS URI of a file of this dataset, from its participant's folder on."""
    parts = Path(path).parts
    first = max(i for i, part in enumerate(parts[:-1]) if part.startswith("sub-"))
    return "bids::" + "/".join(parts[first:])


def sidecar_path(path: str | Path) -> Path:
    """The .json that belongs to a file."""
    path = Path(path)
    return path.with_name(path.name.split(".")[0] + ".json")


def has_sidecar(path: str | Path) -> bool:
    """Whether a derivative has a .json of its own; figures, transforms and .bval have none."""
    return not str(path).endswith((".png", ".h5", ".mat", ".bval", ".bvec"))


def read_sidecar(path: str | Path) -> dict[str, Any]:
    """Sidecar of a file, empty when there is none."""
    sidecar = sidecar_path(path)
    return json.loads(sidecar.read_text()) if sidecar.exists() else {}


def grid_sidecar(grid: Grid) -> dict[str, Any]:
    """What BIDS requires of a file with ``res-``."""
    return {"Resolution": grid.description}


# --- writing -------------------------------------------------------------------------------------


def place(source: str | Path, target: Path) -> None:
    """Copy a finished file into the output folder in one step, as other processes see it."""
    with Path(source).open("rb") as finished, appearing(target) as stream:
        shutil.copyfileobj(finished, stream, COPY_BYTES)


def write_text(target: Path, text: str) -> None:
    """Write a text file in one step."""
    with appearing(target) as stream:
        stream.write(text.encode())


def write_json(target: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file in one step."""
    write_text(target, _json(content))


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, default=str) + "\n"


def write_table(target: Path, table: pd.DataFrame) -> None:
    """Write a BIDS table: tab-separated, ``n/a`` for missing values."""
    write_text(target, table.to_csv(sep="\t", index=False, na_rep="n/a"))


def read_table(path: Path) -> pd.DataFrame:
    """Read a BIDS table; labels stay text, ``n/a`` becomes missing."""
    ids = {"participant_id": str, "session_id": str}
    return pd.read_csv(path, sep="\t", na_values=["n/a"], keep_default_na=False, dtype=ids)


def text(value: object) -> str:
    """Write a cell as its table has it: 1.0, which pandas makes of 1 beside a gap, as 1.

    A missing one is empty.
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if pd.isna(value) else str(value).strip()


def fingerprint(*parts: Any) -> str:
    """Hash of everything a result depends on; equal fingerprints mean it need not be redone."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _belongs(path: Path, model: str) -> bool:
    """Whether a file is a model's: by its name, or a mask's by its sidecar."""
    if "_label-anomaly_" in path.name:
        return read_sidecar(path).get("Model") == model
    return f"model-{model}_" in path.name


def remove_older(output_dir: Path, model: str, before: float) -> int:
    """Remove a model's results of earlier runs, such as those of people now left out.

    Parameters
    ----------
    model : str
        Label of the model.
    before : float
        Seconds since the epoch: every current file was written after.

    Returns
    -------
    int
        Number of files removed.
    """
    places = ("group/*", "group/figures/*", "sub-*/**/*", f"models/model-{model}/*")
    older = [
        path
        for folder in places
        for path in output_dir.glob(folder)
        if _belongs(path, model) and path.stat().st_mtime < before - CLOCK_SLACK_S
    ]
    for path in older:
        path.unlink(missing_ok=True)
    return len(older)


def remove_half_written(output_dir: Path, people: Iterable[str] | None = None) -> int:
    """Remove what killed runs have left half-written; what others are writing now stays.

    Parameters
    ----------
    people : iterable of str, optional
        Labels without ``sub-`` whose folders are looked through; without them everybody's, and
        those of the group.

    Returns
    -------
    int
        Number of files removed.
    """
    every = ("sub-*/**/", "group/**/", "models/**/")
    folders = every if people is None else [f"sub-{person}/**/" for person in people]
    places = ("", "logs/", *folders)
    return remove_leftovers(
        [path for place in places for path in output_dir.glob(f"{place}.*{ENDING}")]
    )


# --- the dataset ---------------------------------------------------------------------------------


def write_dataset(
    output_dir: Path, bids_dir: Path, version: str, links: Mapping[str, str] | None = None
) -> None:
    """Write dataset_description.json and .bidsignore, and carry participants.tsv over.

    What is there already is not written again, so that a dataset which thousands of jobs share is
    written once. Several processes may do so at once: every file appears whole.
    """
    links = {"raw": _link(output_dir, bids_dir)} | dict(links or {})
    description = {
        "Name": "BrainWhy derivatives",
        "BIDSVersion": "1.11.1",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "BrainWhy", "Version": version}],
        "SourceDatasets": [{"URL": url} for url in links.values()],
        "DatasetLinks": links,
    }
    keep(output_dir / "dataset_description.json", _json(description).encode())
    keep(output_dir / ".bidsignore", BIDSIGNORE.encode())
    keep(output_dir / "README", README.encode())
    for name in ("participants.tsv", "participants.json"):
        _carry(bids_dir / name, output_dir / name)


def carry_sessions(output_dir: Path, bids_dir: Path, people: Iterable[str]) -> None:
    """Carry the sessions.tsv of people (without ``sub-``) over: the group level reads them."""
    for person in people:
        for ending in ("tsv", "json"):
            path = f"sub-{person}/sub-{person}_sessions.{ending}"
            _carry(bids_dir / path, output_dir / path)


def _carry(source: Path, target: Path) -> None:
    if source.exists():
        keep(target, source.read_bytes())


def _link(output_dir: Path, bids_dir: Path) -> str:
    """Relative when the output lies inside the dataset (it moves along), else a file URI."""
    output, raw = os.path.abspath(output_dir), os.path.abspath(bids_dir)
    if output.startswith(raw + os.sep):
        return Path(os.path.relpath(raw, output)).as_posix()
    return Path(raw).as_uri()
