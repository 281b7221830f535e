"""Interfaces of the explanation: of one fold, of one new person."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from tqdm import tqdm

from models.grids import Grid
from pipelines.choices import ATTRIBUTION_KEYS, PREDICTED
from pipelines.derivatives import (
    SPACE,
    derivative_uri,
    read_table,
)
from pipelines.heatmaps import (
    HeatmapNames,
    Regions,
    Seen,
    ledger_facts,
    mirror_facts,
    person_prediction,
    person_products,
    turned,
    turned_sums,
)
from pipelines.interfaces.networks import read_cohort, rows_of

BATCH = 4


def method_facts(attribution: dict[str, Any], target: str, models: list[str]) -> dict[str, Any]:
    """The part of a heatmap's sidecar that is known before it is computed."""
    given = {key: value for key, value in attribution.items() if key not in ATTRIBUTION_KEYS}
    if attribution.get("explain") == "predicted":
        target = PREDICTED
    score = f"class score of {target} before softmax or sigmoid"
    if "unit" in attribution:
        score = f"activations of filter {attribution['unit']} of layer {attribution['layer']}"
    return {
        "Description": f"Why the network's {score} is what it is",
        "Method": attribution["method"],
        "Parameters": all_parameters(attribution["method"], given),
        "ExplainedClass": target,
        "ExplainedScore": score,
        "MaxPooling": "relevance and gradients go to the first maximum",
        "Models": models,
        "Determinism": "bitwise on the same machine and thread count on a CPU; to rounding on CUDA",
    }


def all_parameters(method: str, given: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a method with its defaults filled in, and what they stand for spelled out."""
    from models.attribution import defaults

    every = defaults(method) | given
    if method == "lrp_composite":
        from models.attribution.lrp import described

        composite = {key: every.pop(key) for key in ("preset", "rules")}
        every["rules"] = described(**composite)
    if every.get("layer") == "":  # relevance starts at the class
        every = {key: value for key, value in every.items() if key not in ("layer", "unit")}
    if "cam" in method and every["layer"] is None:
        every["layer"] = "last convolution"
    return every


def check_values(attribution: dict[str, Any]) -> None:
    """Raise InputError for a parameter value that does not exist, by explaining a toy network.

    Names of layers are not looked at: they belong to the network of the recipe.
    """
    from torch import nn

    from models.attribution import OF_TENSORS

    n = 6 if attribution["method"] in OF_TENSORS else 1
    toy = nn.Sequential(nn.Conv3d(n, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2))
    volume = np.ones((1, n, 4, 4, 4), np.float32)
    given = {key: value for key, value in attribution.items() if key not in ("layer", "unit")}
    explain_rows(toy, volume, [0], given, 1, Surroundings((4.0,) * 3, np.ones((4, 4, 4), int)))


@dataclass(frozen=True)
class Surroundings:
    """What some methods ask for beside the image.

    Parameters
    ----------
    voxel_mm : tuple of float
        Voxel edges.
    regions : (x, y, z) int array
        Labels of the atlas on the grid.
    """

    voxel_mm: tuple[float, ...]
    regions: np.ndarray

    @classmethod
    def on(cls, grid: Grid, regions: Regions | None) -> "Surroundings":
        """Of a grid and an atlas on it; without an atlas, there is no region."""
        labels = np.zeros(grid.shape, np.int32) if regions is None else regions.labels
        return cls(tuple(np.linalg.norm(grid.affine[:3, :3], axis=0)), labels)


def explain_rows(
    network: Any,
    volumes: Any,
    rows: list[int],
    attribution: dict[str, Any],
    target: int,
    surroundings: Surroundings,
    folder: Path | None = None,
) -> tuple[np.ndarray, list[dict[str, float]]]:
    """Heatmaps (rows, x, y, z) float32, over all channels, and each one's ledger.

    With a ``folder``, they are in its file ``<method>.npy``: those of thousands of people do not
    fit into memory. Methods that take minutes leave what they have there, too. A ledger
    also holds the ``score`` that is explained and the ``output`` whose score it is: ``target``, or
    with ``explain = "predicted"`` the image's most activated one.
    """
    import torch

    from models.attribution import ACROSS_CHANNELS, attribute, context

    across = attribution["method"] in ACROSS_CHANNELS
    parameters = {k: v for k, v in attribution.items() if k not in ATTRIBUTION_KEYS}
    asked = context(attribution["method"])
    parameters |= {k: v for k, v in vars(surroundings).items() if k in asked}
    maps = _room(len(rows), np.shape(volumes[rows[0]])[1:], attribution["name"], folder)
    ledgers: list[dict[str, float]] = [{}] * len(rows)
    for output, chosen in _batches(network, volumes, rows, attribution, target):
        batch = np.stack([volumes[rows[i]] for i in chosen]).astype(np.float32)
        if folder is not None and "checkpoint" in asked:
            parameters["checkpoint"] = folder / f"{attribution['name']}_{chosen[0]}.npz"
            parameters["progress"] = _bar(f"{attribution['name']}, images from {chosen[0] + 1}")
        found = attribute(
            network,
            torch.from_numpy(batch),
            method=attribution["method"],
            target=output,
            **parameters,
        )
        shown = (found.heatmap[:, 0] if across else found.heatmap.sum(1)).numpy()
        for place, i in enumerate(chosen):
            maps[i] = shown[place]
            ledgers[i] = {"score": float(found.score[place]), "output": float(output)} | {
                name: float(share[place]) for name, share in found.ledger.items()
            }
    return maps, ledgers


def _room(people: int, shape: tuple[int, ...], name: str, folder: Path | None) -> np.ndarray:
    """An array for so many maps, in a file where there is a folder for it."""
    if folder is None:
        return np.empty((people, *shape), np.float32)
    file = folder / f"{name}.npy"
    return np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(people, *shape))


def _batches(
    network: Any, volumes: Any, rows: list[int], attribution: dict[str, Any], target: int
) -> list[tuple[int, list[int]]]:
    """Places in ``rows`` that go together, with the output by which they are explained."""
    outputs = [target] * len(rows)
    if attribution.get("explain") == "predicted":
        from models.training.evaluation import predict
        from models.training.objective import log_odds

        device = str(next(network.parameters()).device)
        odds = log_odds(predict(network, volumes, rows, BATCH, device))
        outputs = [int(one > 0) for one in odds]
    return [
        (output, places[start : start + BATCH])
        for output in dict.fromkeys(outputs)
        for places in [[i for i, one in enumerate(outputs) if one == output]]
        for start in range(0, len(places), BATCH)
    ]


def explained_facts(
    attribution: dict[str, Any], ledgers: list[dict[str, float]], classes: Sequence[str]
) -> dict[str, Any]:
    """What the sidecar of a person says of the explained scores; they leave the ledgers."""
    scores = [ledger.pop("score") for ledger in ledgers]
    outputs = [classes[int(ledger.pop("output"))] for ledger in ledgers]
    facts: dict[str, Any] = {"Score": float(np.mean(scores))}
    if attribution.get("explain") != "predicted":
        return facts
    alike = len(set(outputs)) == 1
    said = outputs[0] if alike else PREDICTED
    return facts | {
        "ExplainedClass": said,
        "ExplainedScore": f"class score of {said} before softmax or sigmoid",
        "ExplainedBecause": "predicted by the network",
        "ExplainedByModel": outputs,
    }


def _bar(what: str) -> Callable[[int, int], object]:
    """Progress of one call, as (done, total), on a bar."""
    bar = tqdm(desc=what, unit="patch", disable=None, leave=False)

    def advance(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return advance


class ExplainFoldInputSpec(BaseInterfaceInputSpec):
    cache = traits.Str(mandatory=True)
    content_hash = traits.Str(mandatory=True)
    cohort = File(exists=True, mandatory=True)
    split = traits.Dict(mandatory=True)
    weights = File(exists=True, mandatory=True)
    network = traits.Dict(mandatory=True)
    attributions = traits.List(traits.Dict, mandatory=True)
    atlas = traits.Str(mandatory=True)
    space = traits.Str(SPACE, usedefault=True, desc="of the images")
    harmonisation = File(exists=True, desc="maps of the fold; without them images stay as they are")
    target = traits.Int(1, usedefault=True, desc="output that is explained")
    device = traits.Str("cpu", usedefault=True, nohash=True)
    use_gpu = traits.Bool(False, usedefault=True, nohash=True)


class ExplainFoldOutputSpec(TraitedSpec):
    maps = traits.Str(desc="folder: <method>.npy and index.json")


class ExplainFold(SimpleInterface):
    """Heatmaps of a fold's test people by the network that never saw them."""

    input_spec = ExplainFoldInputSpec
    output_spec = ExplainFoldOutputSpec
    can_resume = True  # occlusion goes on where it was

    def _run_interface(self, runtime: Any) -> Any:
        from models.training.splits import Split
        from models.volumes import open_cache
        from pipelines.harmonisation import seen
        from pipelines.stored_models import trained_network

        folder = Path(runtime.cwd) / "maps"
        folder.mkdir(exist_ok=True)
        split = Split(**self.inputs.split)
        cohort, cache = read_cohort(self.inputs.cohort), open_cache(Path(self.inputs.cache))
        rows = rows_of(cohort, split.people("test"), "test")
        network = trained_network(Path(self.inputs.weights), self.inputs.network, cache.grid)
        network.to(self.inputs.device)
        index: dict[str, Any] = {"keys": [cache.keys[row] for row in rows], "fold": split.number}
        regions = Regions.of_space(self.inputs.space, self.inputs.atlas, cache.grid)
        around = Surroundings.on(cache.grid, regions)
        images = seen(cache, cohort, self.inputs.harmonisation or "")
        for attribution in self.inputs.attributions:
            _, ledgers = explain_rows(
                network, images, rows, attribution, self.inputs.target, around, folder
            )
            index[attribution["name"]] = ledgers
        (folder / "index.json").write_text(json.dumps(index))
        self._results["maps"] = str(folder)
        return runtime


class ExplainPersonInputSpec(BaseInterfaceInputSpec):
    image = File(exists=True, mandatory=True, desc="registered brain")
    participant = traits.Str(mandatory=True)
    session = traits.Str("", usedefault=True)
    model = traits.Str(mandatory=True, desc="folder of the stored model")
    making = traits.Str(mandatory=True, desc="fingerprint of its card and weights")
    folds = traits.List(traits.Int, mandatory=True, desc="folds that never saw the person")
    known = traits.Bool(False, usedefault=True, desc="whether the person was in the cohort")
    person = traits.Dict({}, usedefault=True, desc="row of participants.tsv, to harmonise by")
    control_sums = traits.Dict({}, usedefault=True, desc="method -> table of the group")
    device = traits.Str("cpu", usedefault=True, nohash=True)
    use_gpu = traits.Bool(False, usedefault=True, nohash=True)


class ExplainPersonOutputSpec(TraitedSpec):
    products = traits.Dict


class ExplainPerson(SimpleInterface):
    """Prediction and heatmaps of one person by a stored ensemble."""

    input_spec = ExplainPersonInputSpec
    output_spec = ExplainPersonOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import torch

        from models.training.objective import log_odds, probability
        from pipelines.preprocess import modality_of
        from pipelines.stored_models import StoredModel, column_of

        cwd = Path(runtime.cwd)
        model = StoredModel(Path(self.inputs.model))
        card = model.card
        positive = card["Classes"][1]
        kind, view, image = modality_of(model.modality), model.view, self.inputs.image
        volume = view.read(kind, image, model.grid, card["Intensity"])[None]
        mirrored = view.is_mirrored(kind, image)
        networks = [model.network(fold).to(self.inputs.device) for fold in self.inputs.folds]
        volumes = [self._seen(model, fold, volume) for fold in self.inputs.folds]
        with torch.no_grad():
            scores = torch.cat(
                [
                    network(torch.from_numpy(one).to(self.inputs.device)).cpu()
                    for network, one in zip(networks, volumes, strict=True)
                ]
            )
        ids = {"sub": self.inputs.participant, "ses": self.inputs.session}
        products = person_prediction(
            cwd,
            ids,
            model.name,
            card["Classes"],
            float(probability(scores).mean()),
            float(log_odds(scores).mean()),
            self.inputs.folds,
            known=self.inputs.known,
            modality=model.modality,
            threshold=model.threshold(self.inputs.folds),
        )
        names = HeatmapNames(model.name, positive, model.grid, model.modality, model.space)
        regions = Regions.of_space(model.space, card["Atlas"], model.grid)
        seen = Seen.of(turned(volume[0, 0], mirrored), self.inputs.image, model.grid)
        around, column = Surroundings.on(model.grid, regions), column_of(card, positive)
        for attribution in card["Attributions"]:
            found = [
                explain_rows(network, one, [0], attribution, column, around)
                for network, one in zip(networks, volumes, strict=True)
            ]
            ledgers = [one[1][0] for one in found]
            facts = method_facts(
                attribution, positive, [f"model-{model.name}_fold-{n}" for n in self.inputs.folds]
            ) | {
                "Sources": [derivative_uri(self.inputs.image)],
                "OutOfFold": True,
                **explained_facts(attribution, ledgers, card["Classes"]),
                **ledger_facts(ledgers),
            }
            mean = np.mean([one[0][0] for one in found], axis=0)
            sums = self._control_sums(attribution["name"], card["Classes"][0])
            products |= person_products(
                cwd,
                ids,
                attribution["name"],
                turned(mean, mirrored),
                facts | mirror_facts(mirrored, ipsilateral=view.mirror),
                names,
                regions,
                seen,
                turned_sums(sums, regions, mirrored),
            )
        self._results["products"] = products
        return runtime

    def _seen(self, model: Any, fold: int, volume: np.ndarray) -> np.ndarray:
        """The (1, C, x, y, z) image as this fold's network sees it."""
        from pipelines.harmonisation import read_maps

        if not model.card.get("Harmonisation"):
            return volume
        stored = read_maps(model.harmonisation(fold))
        return stored.apply(volume[0], self.inputs.person, f"sub-{self.inputs.participant}")[None]

    def _control_sums(self, method: str, negative: str) -> pd.Series | None:
        path = self.inputs.control_sums.get(method)
        return read_table(Path(path))[f"sum_{negative}"] if path else None
