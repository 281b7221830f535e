"""The files of a demo dataset that are no images, and how images are written."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bidsapp import __version__
from bidsapp.score import TRUTH_FOLDER
from models.errors import InputError

if TYPE_CHECKING:
    import nibabel as nib

BIDS_VERSION = "1.11.1"
LESION_FOLDER = Path("derivatives/lesions")


@dataclass(frozen=True)
class Texts:
    """What a demo says of itself.

    Parameters
    ----------
    name : str
        Of the dataset.
    readme, truth_readme : str
        Of the dataset, and of the truth in it.
    columns : mapping
        participants.json.
    rows : sequence of mapping
        participants.tsv.
    kind : {"raw", "derivative"}
    ignored, truth_ignored : str
        .bidsignore of both.
    """

    name: str
    readme: str
    truth_readme: str
    columns: Mapping[str, Any]
    rows: Sequence[Mapping[str, str]]
    kind: str = "raw"
    ignored: str = ""
    truth_ignored: str = "/space-*\n"


def write_texts(target: Path, texts: Texts) -> None:
    """Write everything that is not an image; the description first, it marks the demo."""
    import pandas as pd

    from pipelines.derivatives import write_json, write_table, write_text

    licence = {"License": "Terms of the ICBM 152 template, see README"}
    described = description(texts.name, texts.kind) | licence
    write_json(target / "dataset_description.json", described)
    if texts.ignored:
        write_text(target / ".bidsignore", texts.ignored)
    write_text(target / "README", texts.readme)
    write_table(target / "participants.tsv", pd.DataFrame(list(texts.rows)))
    write_json(target / "participants.json", texts.columns)
    truth = target / TRUTH_FOLDER
    named = description("BrainWhy demo: what was changed, and where", "derivative")
    write_json(truth / "dataset_description.json", named | OF_RAW)
    write_text(truth / "README", texts.truth_readme)
    write_text(truth / ".bidsignore", texts.truth_ignored)


OF_RAW = {"DatasetLinks": {"raw": "../.."}}


def description(name: str, kind: str) -> dict[str, Any]:
    """What the dataset_description.json of a dataset of the demo holds."""
    return {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": kind,
        "GeneratedBy": [{"Name": "brainwhy-demo", "Version": __version__}],
    }


def claim(target: Path, force: bool) -> None:
    """Make ``target`` an empty or emptied folder; only an earlier demo is ever removed."""
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file: give a folder to write the demo dataset to.")
    if target.is_dir() and any(target.iterdir()):
        if not force:
            raise InputError(
                f"{target} is not empty: give another folder, or --force to replace a demo there."
            )
        if not _is_demo(target):
            raise InputError(f"{target} holds no BrainWhy demo, so --force does not touch it.")
        made = (TRUTH_FOLDER, LESION_FOLDER)
        for folder in (*target.glob("sub-*"), *(target / one for one in made)):
            shutil.rmtree(folder, ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)


def _is_demo(target: Path) -> bool:
    try:
        description = json.loads((target / "dataset_description.json").read_text())
        return any(tool["Name"] == "brainwhy-demo" for tool in description["GeneratedBy"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_image(path: Path, image: "nib.Nifti1Image", sidecar: dict[str, Any]) -> None:
    """Write an image with its sidecar."""
    from pipelines.derivatives import sidecar_path, write_json

    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)
    write_json(sidecar_path(path), sidecar)
