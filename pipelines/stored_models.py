"""Trained models on disk: weights, splits and the model card below ``models/``."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from models.errors import InputError
from models.grids import Grid
from models.networks import build, own
from models.training.splits import SEEN, Split
from pipelines.derivatives import SPACE, label, read_table, text, write_table
from pipelines.view import View


def model_folder(model: str) -> str:
    """Folder of a model below the output folder."""
    return f"models/model-{model}"


def model_file(model: str, suffix: str, extension: str, fold: int | None = None) -> str:
    """Path of one of a model's files below the output folder."""
    part = f"_fold-{fold}" if fold is not None else ""
    return f"{model_folder(model)}/model-{model}{part}_{suffix}{extension}"


def network_file(model: str) -> str:
    """Path of the Python file of a model whose network is a user's."""
    return model_file(model, "network", ".py")


@dataclass(frozen=True)
class StoredModel:
    """A trained ensemble, one network per fold.

    Attributes
    ----------
    folder : Path
        Holds ``model-<label>_modelcard.json`` and the folds' files.
    """

    folder: Path

    @cached_property
    def name(self) -> str:
        """The model's label, by its card: a folder may have been renamed."""
        cards = sorted(self.folder.glob("model-*_modelcard.json"))
        name = cards[0].name.removesuffix("_modelcard.json") if cards else self.folder.name
        return name.removeprefix("model-")

    @cached_property
    def card(self) -> dict[str, Any]:
        """The model card."""
        return json.loads((self.folder / f"model-{self.name}_modelcard.json").read_text())

    @property
    def grid(self) -> Grid:
        """Grid of the input."""
        return grid_from_card(self.card["Grid"])

    @property
    def view(self) -> View:
        """What of an image its networks see."""
        return View.of(self.card.get("View", {}))

    @property
    def modality(self) -> str:
        """BIDS suffix of the images that it was trained on."""
        return self.card["Modality"]

    @property
    def space(self) -> str:
        """BIDS label of the space of these images."""
        return self.card.get("Space", SPACE)

    @property
    def folds(self) -> list[int]:
        """Numbers of the folds, from 1."""
        return list(range(1, self.card["Folds"] + 1))

    def weights(self, fold: int) -> Path:
        """Weights of a fold."""
        return self.folder / f"model-{self.name}_fold-{fold}_weights.safetensors"

    def harmonisation(self, fold: int) -> Path:
        """Maps that take the sites off a fold's images, where its card tells of harmonisation."""
        return self.folder / f"model-{self.name}_fold-{fold}_harmonisation.safetensors"

    def unseen_folds(self, participant: str) -> tuple[list[int], bool]:
        """Folds that may explain a person, and whether the person was in the cohort.

        A fold may if it tested the person or never met the person, be it that the balancing left
        the person out. A person it validated on counts as seen, and so does a relative of
        somebody it was trained or validated on: of those whom its split names, and of new people by
        the column of participants.tsv that the recipe's ``[cohort] group`` names.
        """
        relatives = self._relatives(participant)
        allowed, known = [], False
        for fold in self.folds:
            split = self.split(fold)
            roles = split.loc[split["participant_id"] == f"sub-{participant}", "role"]
            known |= len(roles) > 0
            family = split["participant_id"].isin(relatives) & split["role"].isin(SEEN)
            if all(role in ("test", "unused") for role in roles) and not family.any():
                allowed.append(fold)
        return allowed, known

    def _relatives(self, participant: str) -> set[str]:
        """A person's family (with ``sub-``) in the dataset whose folder holds the model."""
        families = self._families
        mine = families.get(f"sub-{participant}", "")
        return {one for one, name in families.items() if mine and name == mine}

    @cached_property
    def _families(self) -> dict[str, str]:
        """Participant to family; empty where the recipe knew of none."""
        column = ((self.card.get("Recipe") or {}).get("cohort") or {}).get("group")
        path = self.folder.absolute().parents[1] / "participants.tsv"
        table = read_table(path) if column and path.exists() else pd.DataFrame()
        if not {"participant_id", column} <= set(table):
            return {}
        people = "sub-" + table["participant_id"].str.strip().str.removeprefix("sub-")
        return dict(zip(people, table[column].map(text), strict=True))

    def new_network(self) -> nn.Module:
        """Its network with freshly drawn weights.

        Where the network is a user's, this runs the Python file in the model's folder.
        """
        return new_network(self._table, self.grid)

    @property
    def _table(self) -> dict[str, Any]:
        table = dict(self.card["Network"])
        return table | ({"file": str(self.folder / table["file"])} if "file" in table else {})

    def threshold(self, folds: Sequence[int]) -> float:
        """Probability from which folds together call somebody positive: the mean of theirs."""
        stored = self.card.get("Thresholds") or []
        chosen = [stored[fold - 1] for fold in folds if fold <= len(stored)]
        return sum(chosen) / len(chosen) if chosen else 0.5

    def network(self, fold: int) -> nn.Module:
        """The trained network of a fold, in eval mode."""
        return trained_network(self.weights(fold), self._table, self.grid)

    def seen_by(self, fold: int) -> set[str]:
        """Participants (without ``sub-``) on whom a fold was trained or validated."""
        return self._with_role(fold, SEEN)

    def known_to(self, fold: int) -> set[str]:
        """The same, and people who took no part but are relatives of such."""
        return self._with_role(fold, (*SEEN, "related"))

    def _with_role(self, fold: int, roles: Sequence[str]) -> set[str]:
        split = self.split(fold)
        chosen = split.loc[split["role"].isin(roles), "participant_id"]
        return set(chosen.str.removeprefix("sub-"))

    def split(self, fold: int) -> pd.DataFrame:
        """Who had which role in a fold."""
        path = self.folder / f"model-{self.name}_fold-{fold}_split.tsv"
        if not path.exists():
            raise InputError(
                f"{path}: missing, so who trained this fold is not known; copy the model's "
                "folder whole, or run the group level again"
            )
        return read_table(path)

    def history(self, fold: int) -> pd.DataFrame:
        """History of a fold's training, a row per epoch."""
        return read_table(self.folder / f"model-{self.name}_fold-{fold}_history.tsv")

    def effort(self, fold: int) -> dict[str, float]:
        """Epochs, updates and seconds until a training of the fold ended; mean over its draws."""
        searched = self.folder / f"model-{self.name}_fold-{fold}_search.tsv"
        if searched.exists():
            return read_table(searched)[list(EFFORT)].mean().to_dict()
        history = self.history(fold)
        return {"epochs": len(history), **history[["updates", "seconds"]].sum().to_dict()}


EFFORT = ("epochs", "updates", "seconds")


def grid_from_card(entry: Mapping[str, Any]) -> Grid:
    """Grid of a model card: name, shape, voxel_mm, origin_mm."""
    return Grid(entry["name"], tuple(entry["shape"]), entry["voxel_mm"], tuple(entry["origin_mm"]))


def new_network(network: Mapping[str, Any], grid: Grid) -> nn.Module:
    """A network with fresh weights.

    Parameters
    ----------
    network : mapping
        The recipe's table: the ``name`` of a network or a Python ``file`` (which is run), and
        options of its ``build``. With a ``sha256``, the file must be the one that has it.

    Raises
    ------
    models.errors.InputError
        It cannot be built on this grid, or the file is missing or has been changed.
    """
    options = {key: value for key, value in network.items() if key not in IDENTITY}
    if "file" not in network:
        return build(network["name"], grid.shape, **options)
    source = _source(network["file"])
    if _sha256(source) != network.get("sha256", _sha256(source)):
        raise InputError(
            f"{network['file']}: was changed after the run or model that names it; put the file "
            "back as it was, or run the group level again"
        )
    return own.build(source, network["file"], grid.shape, **options)


IDENTITY = ("name", "file", "sha256")


def sealed(network: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's table with the hash of the user's file, where it names one."""
    if "file" not in network:
        return dict(network)
    return dict(network) | {"sha256": _sha256(_source(network["file"]))}


def identity(network: Mapping[str, Any]) -> dict[str, Any]:
    """What of the table decides the network: wherever a user's file lies, its content does."""
    return {key: value for key, value in network.items() if key != "file"}


def _source(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"[network] file {file}: cannot be read ({error}); name a Python file that defines "
            "build(shape, *, channels=1, outputs=2)"
        ) from error


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def save_weights(
    network: nn.Module, path: Path, made_by: str, table: Mapping[str, Any] | None = None
) -> None:
    """Write safetensors.

    Parameters
    ----------
    made_by : str
        Fingerprint of what the weights were trained on and how.
    table : mapping, optional
        The network's options, which a search may have drawn for this fold alone.
    """
    state = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
    own = {key: value for key, value in (table or {}).items() if key not in IDENTITY}
    save_file(state, path, metadata={"fingerprint": made_by, "network": json.dumps(own)})


def made_by(path: Path) -> str:
    """Fingerprint inside a weights file, "" where there is no such file."""
    return _metadata(path).get("fingerprint", "") if path.exists() else ""


def trained_network(path: Path, table: Mapping[str, Any], grid: Grid) -> nn.Module:
    """The network of a weights file, in eval mode.

    Parameters
    ----------
    table : mapping
        The model's ``[network]``; options that a search drew for this file go before.
    """
    network = new_network(dict(table) | json.loads(_metadata(path).get("network", "{}")), grid)
    network.load_state_dict(load_file(path))
    return network.eval()


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as stored:
        return stored.metadata() or {}


def stored_folds(output_dir: Path, model: str) -> list[str]:
    """Fingerprints of a model's folds below the output folder; empty where it has none."""
    paths = sorted((output_dir / model_folder(model)).glob("*_weights.safetensors"))
    return [made_by(path) for path in paths]


def write_split(split: Split, path: Path) -> None:
    """Write who had which role in a fold."""
    rows = [
        (f"sub-{person}", split.repeat, split.fold, split.division, role)
        for person, role in sorted(split.roles.items())
    ]
    columns = ["participant_id", "repeat", "fold", "division", "role"]
    write_table(path, pd.DataFrame(rows, columns=columns))


def choose_model(
    output_dir: Path, wanted: str | None, *, option: str = "--model", recipe: str = ""
) -> StoredModel | None:
    """The stored model that a flag or a recipe asks for.

    Parameters
    ----------
    wanted : str, optional
        A name below ``output_dir/models``, or a model's folder anywhere.
    option : str
        What asks for it, for errors.
    recipe : str
        Of the run: its own model is taken where there are several and none was asked for.

    Returns
    -------
    StoredModel or None
        None when nothing is stored and nothing was asked for.

    Raises
    ------
    models.errors.InputError
        The model asked for is not there, or there are several and none was named.
    """
    stored = [
        StoredModel(path.parent)
        for path in sorted(output_dir.glob("models/model-*/model-*_modelcard.json"))
    ]
    if wanted is None:
        own = [model for model in stored if recipe and model.name == label(recipe)]
        stored = own or stored
        if len(stored) > 1:
            names = ", ".join(model.name for model in stored)
            raise InputError(
                f"{output_dir}/models holds several models: choose by --model ({names})"
            )
        return stored[0] if stored else None
    if Path(wanted).is_dir():
        given = Path(wanted)
        if not list(given.glob("model-*_modelcard.json")):
            raise InputError(f"{option} {wanted}: the folder holds no model-*_modelcard.json")
        return StoredModel(given)
    for model in stored:
        if model.name in (wanted, label(wanted)):
            return model
    names = ", ".join(model.name for model in stored) or "none"
    raise InputError(f"{option} {wanted}: not below {output_dir}/models (there: {names})")


def column_of(card: Mapping[str, Any], target: str) -> int:
    """Output of the network that belongs to a class."""
    classes: Sequence[str] = card["Classes"]
    return list(classes).index(target)
