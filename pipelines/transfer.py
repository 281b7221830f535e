"""Which stored network each fold starts from, and whether that would leak its test people.

A network that was trained on a person knows the person, also after it is trained further on
others: its test on that person would flatter it. Two guards keep this out:

- By name. Where the stored model was trained on this very dataset (it lies in this output folder),
  a fold starts only from networks that neither trained nor validated on the people whom it tests;
  without one, the run is refused. Where the model comes from elsewhere, the same names need not be
  the same people: such networks are taken last, and with a warning.
- By content. An image that is tested, and whose voxels are those of an image the stored network
  was trained or validated on, stops the fold, whatever the names are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file
from torch import nn

from models.errors import InputError
from models.grids import Grid
from models.training.splits import Split
from models.training.transfer import Transfer, start_from
from pipelines.derivatives import read_table, write_table
from pipelines.stored_models import StoredModel, choose_model, made_by, model_file


@dataclass(frozen=True)
class Starts:
    """Where the folds of a run start from.

    Attributes
    ----------
    folds : list of dict
        Of each split: model (folder), name, fold, fingerprint, freeze, head; {} where the weights
        are drawn.
    warnings : list of str
    """

    folds: list[dict[str, Any]]
    warnings: list[str]

    @property
    def provenance(self) -> dict[str, Any] | None:
        """What the model card says of it."""
        if not self.folds or not self.folds[0]:
            return None
        first = self.folds[0]
        return {
            "Model": first["name"],
            "Freeze": first["freeze"],
            "Head": first["head"],
            "Folds": [
                {"Fold": number, "Source": one["fold"], "SourceFingerprint": one["fingerprint"]}
                for number, one in enumerate(self.folds, start=1)
            ],
            "Warnings": self.warnings,
        }


def plan_starts(
    options: Transfer,
    splits: Sequence[Split],
    *,
    model: str,
    networks: Sequence[nn.Module],
    table: Mapping[str, Any],
    output_dir: Path,
    grid: Grid,
) -> Starts:
    """Choose a stored network for every split.

    Parameters
    ----------
    options : Transfer
    splits : sequence of Split
    model : str
        Label of the model that is to be trained.
    networks : sequence of nn.Module
        Such networks, of every setting that a search may draw, to try the weights on.
    table : mapping
        The recipe's [network].
    output_dir : Path
    grid : Grid
        Of the images here. Weights may fit images of another one, which is said.

    Raises
    ------
    models.errors.InputError
        No such model or fold, another architecture, shapes that do not fit, or every fold of it
        has seen the people of this dataset who would be tested.
    """
    if not options.model:
        return Starts([{} for _ in splits], [])
    source = choose_model(output_dir, options.model, option="[training.transfer] model")
    assert source is not None  # it was asked for, so it is there
    _check_source(source, model, table, output_dir)
    rank = _ranking(source, options)
    here = _same_dataset(source, output_dir)
    chosen = [_fold_for(split, source, rank, here=here) for split in splits]
    for fold in sorted(set(chosen)):  # a search may have given each another shape
        weights = load_file(source.weights(fold))
        for network in networks:
            start_from(
                network, weights, source=source.name, head=options.head, freeze=options.freeze
            )
    folds = [
        {
            "model": str(source.folder.absolute()),
            "name": source.name,
            "fold": fold,
            "fingerprint": made_by(source.weights(fold)),
            "freeze": list(options.freeze),
            "head": options.head,
        }
        for fold in chosen
    ]
    return Starts(folds, _of_other_grid(source, grid) + _warnings(splits, chosen, source))


def _of_other_grid(source: StoredModel, grid: Grid) -> list[str]:
    """A sentence where the weights fit, but were learnt on voxels of other size or place."""
    theirs = source.grid
    if (theirs.shape, theirs.voxel_mm, theirs.origin_mm) == (
        grid.shape, grid.voxel_mm, grid.origin_mm
    ):  # fmt: skip
        return []
    return [
        f"model {source.name}, from which the weights start, was trained on grid {_grid(theirs)}, "
        f"and the images here lie on {_grid(grid)}: what its filters learnt has another size or "
        "place here"
    ]


def _grid(grid: Grid) -> str:
    return f"{grid.name} ({'x'.join(map(str, grid.shape))} voxels of {grid.voxel_mm:g} mm)"


def _same_dataset(source: StoredModel, output_dir: Path) -> bool:
    above = source.folder.absolute().parents
    return output_dir.exists() and any(folder.samefile(output_dir) for folder in above)


def _check_source(
    source: StoredModel, model: str, table: Mapping[str, Any], output_dir: Path
) -> None:
    if source.name == model and _same_dataset(source, output_dir):
        raise InputError(
            f"[training.transfer] model {model}: is the one that is to be trained; give the recipe "
            "another name"
        )
    theirs, ours = (_architecture(one) for one in (source.card["Network"], table))
    if theirs != ours:
        raise InputError(
            f"[training.transfer] model {source.name}: is {theirs}, and the recipe asks for "
            f"{ours}; choose the same [network], or another model"
        )


def _architecture(table: Mapping[str, Any]) -> str:
    return table.get("name", "a network of your own")


def _ranking(source: StoredModel, options: Transfer) -> list[int]:
    """The folds that may be taken, best validation score first."""
    if options.fold != "best":
        if options.fold not in source.folds:
            raise InputError(
                f"[training.transfer] fold = {options.fold}: model {source.name} has the folds 1 "
                f"to {len(source.folds)}"
            )
        return [int(options.fold)]
    if len(source.folds) == 1:
        return source.folds
    merits = {fold: _merit(source, fold) for fold in source.folds}
    if not any(merit > (-inf, -inf) for merit in merits.values()):
        raise InputError(
            f"[training.transfer] model {source.name}: was trained without validation people, so "
            "none of its folds is known to be the best; name one by fold = N"
        )
    return sorted(source.folds, key=lambda fold: (merits[fold], -fold), reverse=True)


def _merit(source: StoredModel, fold: int) -> tuple[float, float]:
    """Validation score of the epoch that was kept, by what selected it; then its loss."""
    history = source.history(fold)
    kept = history.loc[history["selected"] == 1].iloc[0]
    select = source.card["Protocol"]["select"]
    loss = -inf if pd.isna(kept["validation_loss"]) else -float(kept["validation_loss"])
    if select in ("last", "validation_loss"):
        return loss, loss
    return (-inf if pd.isna(kept[select]) else float(kept[select])), loss


def _fold_for(split: Split, source: StoredModel, rank: list[int], *, here: bool) -> int:
    tested = set(split.people("test"))
    unseen = [fold for fold in rank if not tested & source.known_to(fold)]
    if unseen or not here:
        return (unseen or rank)[0]
    known = sorted(tested & source.known_to(rank[0]))
    more = f" and {len(known) - 1} more" * (len(known) > 1)
    raise InputError(
        f"[training.transfer] model {source.name}: was trained on sub-{known[0]}{more} of those "
        f"whom fold {split.number} tests, so that its test would be worth nothing; train both with "
        "the same [training] split, folds, repeats and --random-seed on the same people, or the "
        "source on other people"
    )


def _warnings(splits: Sequence[Split], chosen: Sequence[int], source: StoredModel) -> list[str]:
    met: set[str] = set()
    for split, fold in zip(splits, chosen, strict=True):
        met |= set(split.people("test")) & source.known_to(fold)
    found = []
    before = source.card.get("Transfer")
    if before:
        found.append(
            f"model {source.name}, from which the weights start, itself started from model "
            f"{before['Model']}: whether that one was trained on people who are tested here was "
            "not checked"
        )
    if not (source.folder / f"model-{source.name}_images.tsv").exists():
        found.append(
            f"model {source.name}, from which the weights start, does not say which images it was "
            "made of: whether one of them is tested here could be checked by names only"
        )
    if not met:
        return found
    names = ", ".join(f"sub-{person}" for person in sorted(met)[:3])
    return [
        *found,
        f"model {source.name}, from which the weights start, was trained on people of the same "
        f"names as {len(met)} who are tested here ({names}{', ...' * (len(met) > 3)}): if they are "
        "the same people, the test is too optimistic",
    ]


def start(network: nn.Module, plan: Mapping[str, Any]) -> None:
    """Put the weights that a split's plan names into ``network``, and freeze its layers."""
    if not plan:
        return
    source = StoredModel(Path(plan["model"]))
    start_from(
        network,
        load_file(source.weights(plan["fold"])),
        source=plan["name"],
        head=plan["head"],
        freeze=tuple(plan["freeze"]),
    )


def identity(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What of a split's plan decides the result: the weights, wherever they lie."""
    return {key: plan[key] for key in ("fingerprint", "freeze", "head") if plan}


# --- the same image under any name ---------------------------------------------------------------


def images_file(model: str) -> str:
    """Table of the images that a model has to do with."""
    return model_file(model, "images", ".tsv")


def write_images(path: Path, keys: Sequence[tuple[str, str]], hashes: Sequence[str]) -> None:
    """Write whose images a model was made of, and the hash of each one's voxels."""
    rows = [
        (f"sub-{participant}", f"ses-{session}" if session else None, sha256)
        for (participant, session), sha256 in zip(keys, hashes, strict=True)
    ]
    write_table(path, pd.DataFrame(rows, columns=["participant_id", "session_id", "sha256"]))


def check_images(plan: Mapping[str, Any], tested: Mapping[str, str]) -> None:
    """Refuse to start from a network that has seen an image which is to be tested.

    Parameters
    ----------
    plan : mapping
        Of the split.
    tested : mapping of str to str
        Name of a test image to the hash of its voxels.

    Raises
    ------
    models.errors.InputError
        Naming the pairs.
    """
    if not plan:
        return
    source = StoredModel(Path(plan["model"]))
    path = source.folder / f"model-{source.name}_images.tsv"
    if not path.exists():
        return  # a model of an older version: names are all there is
    table = read_table(path)
    seen = table["participant_id"].str.removeprefix("sub-").isin(source.seen_by(plan["fold"]))
    theirs = dict(zip(table.loc[seen, "sha256"], table.loc[seen, "participant_id"], strict=True))
    pairs = [f"{name} = {theirs[sha]} there" for name, sha in tested.items() if sha in theirs]
    if pairs:
        raise InputError(
            f"[training.transfer] model {source.name}, fold {plan['fold']}: was trained on images "
            f"that are tested here ({', '.join(pairs[:5])}{', ...' * (len(pairs) > 5)}); take the "
            "people out by --participant-label, or take a model that was trained without them"
        )
