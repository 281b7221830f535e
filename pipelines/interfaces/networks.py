"""Interfaces of the classification: pack the images, train a fold, gather the predictions."""

import json
import logging
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import pandas as pd
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from tqdm import tqdm

from pipelines.derivatives import fingerprint, read_table, write_json, write_table
from pipelines.heatmaps import Products, person_prediction

log = logging.getLogger("brainwhy.training")


REVISION = 2  # raised when the same images and settings would give other weights


def read_cohort(path: str | Path) -> pd.DataFrame:
    """Cohort table of a group run: one row per image.

    Columns: participant_id, session_id ("" without sessions), image (path), positive (bool),
    train and test (bool: whether the image may be used so), family ("" for none; not there when
    the recipe knows of none), then the covariates.
    """
    table = read_table(Path(path))
    for name in {"session_id", "family"} & set(table):
        table[name] = table[name].fillna("").astype(str)
    return table


def session_label(row: Any) -> str:
    """Session of a table's row without ``ses-``, "" where it has none."""
    return "" if pd.isna(row.session_id) else str(row.session_id).removeprefix("ses-")


def prediction_keys(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(participant, session) of each row of a table of predictions, without prefixes."""
    return [
        (str(row.participant_id).removeprefix("sub-"), session_label(row))
        for row in table.itertuples()
    ]


def image_name(participant: str, session: str) -> str:
    """``sub-01`` or ``sub-01_ses-1`` of an image's key."""
    return f"sub-{participant}" + f"_ses-{session}" * bool(session)


def rows_of(cohort: pd.DataFrame, people: list[str], use: str) -> list[int]:
    """Rows of the images of ``people`` that may be used for "train" or "test"."""
    chosen = cohort["participant_id"].str.removeprefix("sub-").isin(people) & cohort[use]
    return np.flatnonzero(chosen).tolist()


def sides_of(cohort: pd.DataFrame, split: Any) -> dict[str, list[int]]:
    """Rows of the images that train, validate and test a fold; nobody is on two sides.

    Raises
    ------
    models.errors.InputError
        A person or a family is on two sides.
    """
    from models.training.leakage import check_sides

    uses = {"train": "train", "validation": "test", "test": "test"}
    sides = {role: rows_of(cohort, split.people(role), use) for role, use in uses.items()}
    check_sides(cohort, sides)
    return sides


def _uses(cohort: pd.DataFrame) -> list[list[str]]:
    """Who is of which class and used for what: part of what makes a fold."""
    columns = ["participant_id", "session_id", "positive", "train", "test"]
    return cohort[columns].astype(str).to_numpy().tolist()


class PackVolumesInputSpec(BaseInterfaceInputSpec):
    cohort = File(exists=True, mandatory=True)
    grid = traits.Dict(mandatory=True, desc="name, shape, voxel_mm, origin_mm")
    modality = traits.Str("T1w", usedefault=True)
    intensity = traits.Str(mandatory=True)
    model = traits.Str("model", usedefault=True, desc="label of the model")
    view = traits.Dict({}, usedefault=True, desc="of pipelines.view.View")
    sides = traits.Dict({}, usedefault=True, desc="participant -> side: another one packs anew")


class PackVolumesOutputSpec(TraitedSpec):
    cache = traits.Str(desc="folder of the packed images")
    content_hash = traits.Str(desc="hash of the packed voxels")
    cohort = File(exists=True, desc="the cohort; of equal sessions of a person, one trains")
    products = traits.Dict(desc="pairs of images that are equal or nearly so")


class PackVolumes(SimpleInterface):
    """Bring every image of the cohort to the recipe's grid, into one memory-mapped file.

    The same voxels under the names of two people stop the run.
    """

    input_spec = PackVolumesInputSpec
    output_spec = PackVolumesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from models.volumes import write_cache
        from pipelines import duplicates
        from pipelines.preprocess import modality_of
        from pipelines.stored_models import grid_from_card
        from pipelines.view import View

        cohort = read_cohort(self.inputs.cohort)
        grid, kind = grid_from_card(self.inputs.grid), modality_of(self.inputs.modality)
        images = tqdm(cohort["image"], desc="packing images", unit="image", disable=None)
        view, intensity = View.of(self.inputs.view), self.inputs.intensity
        volumes = (view.read(kind, path, grid, intensity) for path in images)
        mirrored = [view.is_mirrored(kind, path) for path in cohort["image"]] * view.mirror
        cwd, keys = Path(runtime.cwd), prediction_keys(cohort)
        seen = duplicates.Seen(grid.voxel_mm)
        watched = seen.watch(cohort["image"], volumes)
        cache = write_cache(cwd / "cache", keys, watched, grid, kind.channels, mirrored)
        found = duplicates.find(cohort, seen, cache.image_hashes, kind.alike)
        duplicates.refuse(found, cohort)
        write_table(cwd / "cohort.tsv", duplicates.used_once(cohort, found))
        self._results["cache"] = str(cwd / "cache")
        self._results["content_hash"] = cache.content_hash
        self._results["cohort"] = str(cwd / "cohort.tsv")
        self._results["products"] = duplicates.products(
            cwd, self.inputs.model, found, cohort, kind.alike
        )
        return runtime


class TrainFoldInputSpec(BaseInterfaceInputSpec):
    cache = traits.Str(mandatory=True)
    content_hash = traits.Str(mandatory=True)
    cohort = File(exists=True, mandatory=True)
    split = traits.Dict(mandatory=True, desc="repeat, fold, number, roles")
    network = traits.Dict(mandatory=True)
    protocol = traits.Dict(mandatory=True)
    search = traits.Dict({}, usedefault=True, desc="[training.search] of the recipe")
    seed = traits.Int(mandatory=True)
    threshold = traits.Any(0.5, usedefault=True, desc='a probability, or "validation"')
    model = traits.Str(mandatory=True, desc="label of the model")
    transfer = traits.Dict({}, usedefault=True, desc="stored network that the weights start from")
    harmonisation = File(exists=True, desc="maps of the fold; without them images stay as they are")
    harmonised = traits.Dict({}, usedefault=True, desc="how the maps were made: site, options")
    stored = traits.Str("", usedefault=True, desc="output folder that may hold this very fold")
    force = traits.Bool(False, usedefault=True)
    processes = traits.Int(1, usedefault=True, nohash=True, desc="that train the fold together")
    device = traits.Str("cpu", usedefault=True, nohash=True)
    use_gpu = traits.Bool(False, usedefault=True, nohash=True)


class TrainFoldOutputSpec(TraitedSpec):
    weights = File(exists=True)
    history = File(exists=True, desc="one row per epoch")
    scores = File(exists=True, desc="scores of the test images")
    seen = File(exists=True, desc="scores of the images that it was trained on")
    products = traits.Dict(desc="weights, split, history, table of images, network of a user")


class TrainFold(SimpleInterface):
    """Train one network on one split; a stored fold of the same making is taken instead."""

    input_spec = TrainFoldInputSpec
    output_spec = TrainFoldOutputSpec
    can_resume = True  # nipype would empty the folder, and with it the checkpoint

    def _run_interface(self, runtime: Any) -> Any:
        from models.training.splits import Split
        from models.volumes import open_cache
        from pipelines import stored_models, transfer
        from pipelines.stored_models import made_by, model_file, write_split

        cwd, split = Path(runtime.cwd), Split(**self.inputs.split)
        paths = {
            "weights": model_file(self.inputs.model, "weights", ".safetensors", split.number),
            "split": model_file(self.inputs.model, "split", ".tsv", split.number),
            "history": model_file(self.inputs.model, "history", ".tsv", split.number),
        }
        if self.inputs.search.get("draws"):
            paths["search"] = model_file(self.inputs.model, "search", ".tsv", split.number)
        files = {name: cwd / Path(path).name for name, path in paths.items()}
        this = fingerprint(
            REVISION,
            self.inputs.content_hash,
            _uses(read_cohort(self.inputs.cohort)),
            self.inputs.split,
            stored_models.identity(self.inputs.network),
            self.inputs.protocol,
            self.inputs.search,
            self.inputs.seed,
            transfer.identity(self.inputs.transfer),
            *self._harmonised(),
        )
        old = {name: Path(self.inputs.stored) / path for name, path in paths.items()}
        if self.inputs.stored and not self.inputs.force and made_by(old["weights"]) == this:
            for name in {"weights", "history", "search"} & set(files):
                copyfile(old[name], files[name])
        else:
            self._train(files, split, this)
        write_split(split, files["split"])
        cohort, cache = read_cohort(self.inputs.cohort), open_cache(Path(self.inputs.cache))
        tables = self._scores(files["weights"], cohort, cache, split)
        for name, table in tables.items():
            write_table(cwd / f"{name}.tsv", table)
        self._results["weights"] = str(files["weights"])
        self._results["history"] = str(files["history"])
        self._results |= {name: str(cwd / f"{name}.tsv") for name in tables}
        files |= self._shared(cwd, cache, paths)
        self._results["products"] = {
            path: {"file": str(files[name]), "sidecar": None} for name, path in paths.items()
        }
        return runtime

    def _harmonised(self) -> list[Any]:
        """What of the making of a fold is in its harmonisation."""
        from pipelines.harmonisation import identity

        given = self.inputs.harmonised
        return identity(read_cohort(self.inputs.cohort), **given) if given else []

    def _seen(self, cache: Any, cohort: pd.DataFrame) -> Any:
        """The images as the network sees them."""
        from pipelines.harmonisation import seen

        return seen(cache, cohort, self.inputs.harmonisation or "")

    def _shared(self, cwd: Path, cache: Any, paths: dict[str, str]) -> dict[str, Path]:
        """What belongs to the model and is the same from every fold; its places join ``paths``."""
        from pipelines.stored_models import network_file
        from pipelines.transfer import images_file, write_images

        paths["images"] = images_file(self.inputs.model)
        files = {"images": cwd / "images.tsv"}
        write_images(files["images"], cache.keys, cache.image_hashes)
        if "file" in self.inputs.network:
            paths["network"] = network_file(self.inputs.model)
            files["network"] = cwd / "network.py"
            copyfile(self.inputs.network["file"], files["network"])
        return files

    def _train(self, files: dict[str, Path], split: Any, this: str) -> None:
        """Train by every setting that the search draws, and keep what validates best."""
        from models.training.history import merit, summary
        from models.training.search import Search, applied, best, draw

        rows, merits = [], []
        search = Search(**self.inputs.search)
        settings = draw(search, self.inputs.seed + split.number)
        for number, changes in enumerate(settings, start=1):
            own = {
                name: path.with_name(f"draw-{number}_{path.name}") for name, path in files.items()
            }
            tables = applied(changes, self.inputs.network, self.inputs.protocol)
            history, protocol = self._train_once(own, split, f"{this[:16]}-{number}", this, *tables)
            kept = next(row for row in history if row["selected"])
            merits.append(merit(kept, protocol.select) if search.draws else (0.0,))
            rows.append({"draw": number, **changes, **_flat(summary(history, protocol.epochs))})
        chosen = best(merits)
        for name in ("weights", "history"):
            path = files[name]
            path.with_name(f"draw-{chosen + 1}_{path.name}").replace(path)
        if "search" in files:
            table = pd.DataFrame(rows)
            write_table(files["search"], table.assign(kept=table.index == chosen))

    def _train_once(
        self,
        files: dict[str, Path],
        split: Any,
        checkpoint: str,
        this: str,
        table: dict[str, Any],
        options: dict[str, Any],
    ) -> tuple[list[dict[str, float]], Any]:
        """Train one network, here or by several processes, and read what it took."""
        from models.training.augmentation import Augmentation
        from models.training.protocol import Protocol
        from pipelines.together import devices_of, train_together

        call: dict[str, Any] = {
            "weights": str(files["weights"]),
            "history": str(files["history"]),
            "checkpoint": str(files["weights"].with_name(f"checkpoint-{checkpoint}.pt")),
            "this": this,
            "table": table,
            "options": options,
        }
        if self.inputs.processes == 1:
            self.train_here(**call)
        else:
            inputs = {k: v for k, v in self.inputs.get().items() if isdefined(v)}
            devices = devices_of(self.inputs.device, self.inputs.processes)
            job = files["weights"].with_name(f"job-{checkpoint}.json")
            train_together(inputs, call, job, devices)
        history: Any = read_table(files["history"]).to_dict("records")
        augmentation = Augmentation(**options.get("augmentation", {}))
        return history, Protocol(**options | {"augmentation": augmentation})

    def train_here(
        self,
        weights: str,
        history: str,
        checkpoint: str,
        this: str,
        table: dict[str, Any],
        options: dict[str, Any],
    ) -> None:
        """Train one network in this process, which may be one of several.

        Parameters
        ----------
        weights, history, checkpoint : str
            Files to write; by the first process only.
        this : str
            Fingerprint of the fold.
        table, options : dict
            The recipe's network and protocol.
        """
        import torch

        from models.training.augmentation import Augmentation
        from models.training.loop import train
        from models.training.protocol import Protocol
        from models.training.ranks import Ranks
        from models.training.splits import Split
        from models.volumes import open_cache
        from pipelines.stored_models import new_network, save_weights
        from pipelines.transfer import check_images, start

        split = Split(**self.inputs.split)
        cohort, cache = read_cohort(self.inputs.cohort), open_cache(Path(self.inputs.cache))
        sides = sides_of(cohort, split)
        seed = self.inputs.seed + split.number
        torch.manual_seed(seed)
        network = new_network(table, cache.grid)
        names = [image_name(*key) for key in cache.keys]
        tested = rows_of(cohort, split.people("test"), "test")
        check_images(self.inputs.transfer, {names[i]: cache.image_hashes[i] for i in tested})
        start(network, self.inputs.transfer)
        augmentation = Augmentation(**options.get("augmentation", {}))
        rows = train(
            network,
            self._seen(cache, cohort),
            cohort["positive"].to_numpy(bool),
            train_rows=sides["train"],
            validation_rows=sides["validation"],
            protocol=Protocol(**options | {"augmentation": augmentation}),
            seed=seed,
            device=self.inputs.device,
            checkpoint=Path(checkpoint),
            names=names,
            report=lambda row: log.info(
                "fold %d, epoch %d: training loss %.3f",
                split.number,
                row["epoch"],
                row["train_loss"],
            ),
        )
        if Ranks.here().rank == 0:
            write_table(Path(history), pd.DataFrame(rows))
            save_weights(network, Path(weights), this, table)

    def _scores(
        self, weights: Path, cohort: pd.DataFrame, cache: Any, split: Any
    ) -> dict[str, pd.DataFrame]:
        """Scores of the test and training images, with the threshold of the validation people."""
        from models.training.evaluation import predict
        from models.training.objective import log_odds, probability
        from pipelines.stored_models import trained_network

        network = trained_network(weights, self.inputs.network, cache.grid)
        network.to(self.inputs.device)
        images, sides = self._seen(cache, cohort), sides_of(cohort, split)
        scores = {
            side: predict(network, images, sides[side], device=self.inputs.device)
            for side in ("test", "train", "validation")
        }
        positive = cohort["positive"].to_numpy(bool)[sides["validation"]]
        threshold = self._threshold(positive, probability(scores["validation"]).numpy())
        return {
            name: pd.DataFrame(
                {
                    "participant_id": cohort["participant_id"].iloc[sides[side]],
                    "session_id": cohort["session_id"].iloc[sides[side]],
                    "repeat": split.repeat,
                    "fold": split.fold,
                    "division": split.division,
                    "number": split.number,
                    "n_train": len(split.people("train")),
                    "score": log_odds(scores[side]).numpy(),
                    "probability": probability(scores[side]).numpy(),
                    "threshold": threshold,
                }
            )
            for name, side in (("scores", "test"), ("seen", "train"))
        }

    def _threshold(self, positive: np.ndarray, chance: np.ndarray) -> float:
        from models.training.thresholds import best_threshold

        if self.inputs.threshold != "validation":
            return float(self.inputs.threshold)
        return best_threshold(positive, chance)


def _flat(summary: dict[str, Any]) -> dict[str, Any]:
    """What a training took and reached, in one row."""
    rest = {key.lower(): value for key, value in summary.items() if key != "Validation"}
    return rest | summary["Validation"]


class PredictionsInputSpec(BaseInterfaceInputSpec):
    cohort = File(exists=True, mandatory=True)
    scores = traits.List(File(exists=True), mandatory=True, desc="of every fold")
    seen = traits.List(File(exists=True), desc="of every fold, of the images it was trained on")
    histories = traits.List(File(exists=True), mandatory=True, desc="of every fold")
    weights = traits.List(File(exists=True), mandatory=True, desc="of every fold")
    content_hash = traits.Str(mandatory=True, desc="of the packed images")
    model = traits.Str(mandatory=True)
    classes = traits.List(traits.Str, mandatory=True, desc="negative, positive")
    modality = traits.Str("T1w", usedefault=True)
    card = traits.Dict(mandatory=True, desc="model card without results")


class PredictionsOutputSpec(TraitedSpec):
    table = File(exists=True, desc="out-of-fold prediction per image")
    products = traits.Dict


class Predictions(SimpleInterface):
    """Out-of-fold predictions (mean over repeats), metrics, model card, figures."""

    input_spec = PredictionsInputSpec
    output_spec = PredictionsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from pipelines import performance
        from pipelines.stored_models import made_by, model_file

        cwd, model = Path(runtime.cwd), self.inputs.model
        cohort, scores = read_cohort(self.inputs.cohort), self._scores(self.inputs.scores)
        table = performance.pooled(scores, cohort, self.inputs.classes)
        people = table.drop_duplicates("participant_id")  # one image per person is judged
        tables = performance.measured(people, scores, cohort, self.inputs.classes[1])
        metrics = tables["metrics"]
        order = list(self.inputs.classes)
        confusion = (
            pd.crosstab(people["label"], people["predicted"])
            .reindex(index=order, columns=order, fill_value=0)
            .rename_axis(columns=None)
            .reset_index()
        )
        products: Products = {}
        for name, content in (
            ("predictions", table.drop(columns="folds")),
            ("confusion", confusion),
            *tables.items(),
        ):
            path = f"group/model-{model}_desc-oof_{name}.tsv"
            write_table(cwd / Path(path).name, content)
            products[path] = {
                "file": str(cwd / Path(path).name),
                "sidecar": {
                    "Description": OOF,
                    "PositiveClass": self.inputs.classes[1],
                    "ConfidenceLevel": performance.LEVEL,
                    **({"Columns": performance.COLUMNS} if name == "metrics" else {}),
                },
            }
        if isdefined(self.inputs.seen) and self.inputs.seen:
            products |= self._subsets(cwd, table, cohort)
        card = self.inputs.card | {
            "ImagesSHA256": self.inputs.content_hash,
            "FoldFingerprints": [made_by(Path(weights)) for weights in self.inputs.weights],
            "Determinism": "bitwise on the same machine and thread count (CPU)",
            "Trainings": self._trainings(),
            "Metrics": json.loads(metrics.to_json(orient="records")),
            "Thresholds": scores.groupby("number")["threshold"].first().tolist(),
        }
        card_path = model_file(model, "modelcard", ".json")
        write_json(cwd / "modelcard.json", card)
        products[card_path] = {"file": str(cwd / "modelcard.json"), "sidecar": None}
        products |= self._figures(cwd, people, confusion, tables)
        for row in table.itertuples():
            products |= person_prediction(
                cwd,
                {"sub": row.participant_id.removeprefix("sub-"), "ses": session_label(row)},
                model,
                self.inputs.classes,
                row.probability,
                row.score,
                [int(number) for number in str(row.folds).split(",")],
                known=True,
                modality=self.inputs.modality,
                threshold=row.threshold,
            )
        write_table(cwd / "table.tsv", table)
        self._results["table"] = str(cwd / "table.tsv")
        self._results["products"] = products
        return runtime

    def _subsets(self, cwd: Path, table: pd.DataFrame, cohort: pd.DataFrame) -> Products:
        """The ensemble on training images, beside test images."""
        from pipelines import performance

        given = self.inputs
        seen = performance.pooled(self._scores(given.seen), cohort, given.classes)
        path = f"group/model-{given.model}_desc-subsets_metrics.tsv"
        write_table(cwd / Path(path).name, performance.subsets(table, seen, given.classes[1]))
        said = "Mean probability over the networks that were trained on an image, or tested it"
        sidecar = {"Description": said, "PositiveClass": given.classes[1]}
        return {path: {"file": str(cwd / Path(path).name), "sidecar": sidecar}}

    def _trainings(self) -> list[dict[str, Any]]:
        """What each fold took until it stopped, and which epoch it kept."""
        from models.training.history import summary

        epochs = self.inputs.card["Protocol"]["epochs"]
        found = []
        for number, path in enumerate(self.inputs.histories, start=1):
            history: Any = read_table(Path(path)).to_dict("records")
            found.append({"Fold": number, **summary(history, epochs)})
        return found

    def _scores(self, files: list[str]) -> pd.DataFrame:
        """Scores of all folds, in one table."""
        every = pd.concat([read_table(Path(path)) for path in files])
        return every.assign(session_id=every["session_id"].fillna(""))

    def _figures(
        self,
        cwd: Path,
        people: pd.DataFrame,
        confusion: pd.DataFrame,
        tables: dict[str, pd.DataFrame],
    ) -> Products:
        from pipelines import charts

        positive = self.inputs.classes[1]
        drawn = {
            "roc": charts.roc(people, positive),
            "confusion": charts.confusion(confusion),
            "probabilities": charts.probabilities(people, positive),
            "reliability": charts.reliability(tables["calibration"], people, positive),
            "learning": charts.learning_curves(
                [read_table(Path(path)) for path in self.inputs.histories]
            ),
        }
        return group_figures(cwd, self.inputs.model, drawn)


OOF = "Every person was predicted by networks that never saw that person; mean over repeats"


def group_figures(cwd: Path, model: str, drawn: dict[str, Any]) -> Products:
    """Save figures as products ``group/figures/model-<label>_desc-<what>.png``."""
    from pipelines.figures import save

    products: Products = {}
    for what, figure in drawn.items():
        name = f"model-{model}_desc-{what}.png"
        save(figure, cwd / name)
        products[f"group/figures/{name}"] = {"file": str(cwd / name), "sidecar": None}
    return products
