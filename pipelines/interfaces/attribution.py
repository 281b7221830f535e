"""Interfaces of the explanation: one fold, one method over the cohort, one new person."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
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
from models.regions import opposite
from pipelines.choices import ATTRIBUTION_KEYS, PREDICTED
from pipelines.derivatives import (
    SPACE,
    derivative_uri,
    label,
    read_table,
    relative_path,
    write_table,
)
from pipelines.heatmaps import (
    HeatmapNames,
    Products,
    Regions,
    Seen,
    anatomy,
    ledger_facts,
    person_prediction,
    person_products,
    sides_facts,
)
from pipelines.images import write_nifti
from pipelines.interfaces.networks import prediction_keys, read_cohort, rows_of

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

    Methods that take minutes show their progress and leave what they have in ``folder``. A ledger
    also holds the ``score`` that is explained and the ``output`` whose score it is: ``target``, or
    with ``explain = "predicted"`` the image's most activated one.
    """
    import torch

    from models.attribution import ACROSS_CHANNELS, attribute, context

    across = attribution["method"] in ACROSS_CHANNELS
    parameters = {k: v for k, v in attribution.items() if k not in ATTRIBUTION_KEYS}
    asked = context(attribution["method"])
    parameters |= {k: v for k, v in vars(surroundings).items() if k in asked}
    maps: list[np.ndarray] = [np.empty(0)] * len(rows)
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
    return np.stack(maps), ledgers


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
            maps, ledgers = explain_rows(
                network, images, rows, attribution, self.inputs.target, around, folder
            )
            np.save(folder / f"{attribution['name']}.npy", maps)
            index[attribution["name"]] = ledgers
        (folder / "index.json").write_text(json.dumps(index))
        self._results["maps"] = str(folder)
        return runtime


class SummariseMethodInputSpec(BaseInterfaceInputSpec):
    attribution = traits.Dict(mandatory=True)
    folds = traits.List(traits.Str, mandatory=True, desc="folders of ExplainFold")
    repeats = traits.List(traits.Int, mandatory=True, desc="repeat of each folder, from 1")
    predictions = File(exists=True, mandatory=True)
    cohort = File(exists=True, mandatory=True)
    cache = traits.Str(mandatory=True)
    content_hash = traits.Str(mandatory=True)
    classes = traits.List(traits.Str, mandatory=True, desc="negative, positive")
    model = traits.Str(mandatory=True)
    modality = traits.Str("T1w", usedefault=True)
    atlas = traits.Str(mandatory=True)
    space = traits.Str(SPACE, usedefault=True, desc="of the images")


class SummariseMethodOutputSpec(TraitedSpec):
    stack = File(exists=True, desc="(people, x, y, z) maps, rows as in `people`")
    people = File(exists=True, desc="participant, class and fold of each row")
    region_tables = File(exists=True, desc="of every person in every repeat")
    products = traits.Dict


class SummariseMethod(SimpleInterface):
    """One method over the cohort: each person's mean map, class means, region tables.

    Images that were not registered have each person's map alone.
    """

    input_spec = SummariseMethodInputSpec
    output_spec = SummariseMethodOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from models.volumes import open_cache

        cwd = Path(runtime.cwd)
        cache = open_cache(Path(self.inputs.cache))
        table = read_table(Path(self.inputs.predictions))
        keys = prediction_keys(table)
        maps, ledgers, folds = self._gather(keys, cache.grid.shape)
        np.save(cwd / "stack.npy", maps)
        write_table(cwd / "people.tsv", table[["participant_id", "session_id", "label", "fold"]])
        self._results["stack"] = str(cwd / "stack.npy")
        self._results["people"] = str(cwd / "people.tsv")
        sides = {"ipsilateral": cache.ipsilateral}
        regions = Regions.of_space(self.inputs.space, self.inputs.atlas, cache.grid, **sides)
        if regions is not None:
            write_table(cwd / "regions.tsv", self._per_repeat(regions))
            self._results["region_tables"] = str(cwd / "regions.tsv")
        self._results["products"] = self._products(
            cwd, cache, keys, table, maps, ledgers, folds, regions
        )
        return runtime

    def _per_repeat(self, regions: Regions) -> pd.DataFrame:
        """Region table of every person in every repeat, one below the other."""
        name, tables = self.inputs.attribution["name"], []
        for folder, repeat in zip(map(Path, self.inputs.folds), self.inputs.repeats, strict=True):
            keys = json.loads((folder / "index.json").read_text())["keys"]
            maps = np.load(folder / f"{name}.npy", mmap_mode="r")
            for (sub, ses), one in zip(keys, maps, strict=True):
                strength = regions.table(np.abs(one))["sum"]
                found = regions.table(one).assign(absolute=strength)
                tables.append(found.assign(repeat=repeat, sub=sub, ses=ses))
        columns = ["repeat", "sub", "ses", "index", "name", "voxels", "sum", "absolute"]
        return pd.concat(tables, ignore_index=True)[columns]

    def _gather(
        self, keys: list[tuple[str, str]], shape: tuple[int, int, int]
    ) -> tuple[np.ndarray, list[list[dict[str, float]]], list[list[int]]]:
        """Mean map per image over the folds that tested it, with ledgers and fold numbers."""
        name = self.inputs.attribution["name"]
        where = {key: row for row, key in enumerate(keys)}
        maps = np.zeros((len(keys), *shape), np.float32)
        ledgers: list[list[dict[str, float]]] = [[] for _ in keys]
        folds: list[list[int]] = [[] for _ in keys]
        for folder in map(Path, self.inputs.folds):
            index = json.loads((folder / "index.json").read_text())
            found = np.load(folder / f"{name}.npy", mmap_mode="r")
            for i, key in enumerate(index["keys"]):
                row = where[tuple(key)]
                maps[row] += found[i]
                ledgers[row].append(index[name][i])
                folds[row].append(index["fold"])
        maps /= np.array([max(len(f), 1) for f in folds], np.float32)[:, None, None, None]
        return maps, ledgers, folds

    def _products(
        self,
        cwd: Path,
        cache: Any,
        keys: Any,
        table: pd.DataFrame,
        maps: np.ndarray,
        ledgers: Any,
        folds: Any,
        regions: Regions | None,
    ) -> Products:
        negative, positive = self.inputs.classes
        attribution, model = self.inputs.attribution, self.inputs.model
        names = HeatmapNames(model, positive, cache.grid, self.inputs.modality, self.inputs.space)
        # A person's map is shown as the person is; those of the group as the network saw them.
        group = replace(names, ipsilateral=cache.ipsilateral)
        own = Regions.of_space(self.inputs.space, self.inputs.atlas, cache.grid)
        tables = [regions.table(one) for one in maps] if regions else []
        controls = (table["label"] == negative).to_numpy()
        control_sums = None
        if regions and controls.any():
            sums = np.array([one["sum"] for one in tables])
            control_sums = pd.Series(sums[controls].mean(0))
        rows = cache.rows(keys)
        cohort = read_cohort(self.inputs.cohort)
        images = dict(zip(prediction_keys(cohort), cohort["image"], strict=True))
        products: Products = {}
        for i, (sub, ses) in enumerate(keys):
            models = [f"model-{model}_fold-{number}" for number in folds[i]]
            facts = method_facts(attribution, positive, models) | {
                "Sources": [derivative_uri(images[sub, ses])],
                "OutOfFold": True,
                **explained_facts(attribution, ledgers[i], self.inputs.classes),
                **ledger_facts(ledgers[i]),
            }
            mirrored = cache.ipsilateral and cache.mirrored[rows[i]]
            volume = np.asarray(cache.volumes[rows[i], 0], np.float32)
            products |= person_products(
                cwd,
                {"sub": sub, "ses": ses},
                attribution["name"],
                _turned(maps[i], mirrored),
                facts | _mirror_facts(mirrored, ipsilateral=cache.ipsilateral),
                names,
                own,
                Seen.of(_turned(volume, mirrored), images[sub, ses], cache.grid),
                _turned_sums(control_sums, own, mirrored),
            )
        if regions is None:
            return products
        mean = np.asarray(cache.volumes[rows, 0], np.float32).mean(0)
        background = anatomy(mean, cache.grid.affine, ipsilateral=cache.ipsilateral)
        return products | self._group(cwd, table, maps, tables, group, regions, background)

    def _group(
        self,
        cwd: Path,
        table: pd.DataFrame,
        maps: np.ndarray,
        tables: list[pd.DataFrame],
        names: HeatmapNames,
        regions: Regions,
        background: nib.Nifti1Image,
    ) -> Products:
        from models.regions import group_region_table
        from pipelines.charts import region_ranking
        from pipelines.figures import overlay_limits, plot_slices, save

        method, grid = self.inputs.attribution["name"], names.grid
        negative, positive = self.inputs.classes
        facts = method_facts(self.inputs.attribution, positive, [f"model-{names.model}"])
        facts |= sides_facts(ipsilateral=names.ipsilateral)
        products: Products = {}
        per_class: dict[str, list[pd.DataFrame]] = {}
        limits = overlay_limits(maps[(table["label"] == positive).to_numpy()].mean(0))
        for one in (positive, negative):
            chosen = (table["label"] == one).to_numpy()
            per_class[one] = [t for t, use in zip(tables, chosen, strict=True) if use]
            path = relative_path(
                "heatmap", ".nii.gz", names.image(method, stat="mean", desc=label(one))
            )
            figure = f"group/figures/{Path(path).name.removesuffix('.nii.gz')}.png"
            mean = write_nifti(
                cwd / Path(path).name,
                maps[chosen].mean(0),
                grid.affine,
                template=True,
                ipsilateral=names.ipsilateral,
            )
            drawn = plot_slices(
                background, mean, overlay_range=limits, title=f"mean of {one}", units="relevance"
            )
            save(drawn, cwd / Path(figure).name)
            products[path] = {
                "file": str(cwd / Path(path).name),
                "sidecar": facts
                | {
                    "Description": f"Mean out-of-fold heatmap of {int(chosen.sum())} {one}",
                    "People": int(chosen.sum()),
                    "Resolution": grid.description,
                },
            }
            products[figure] = {"file": str(cwd / Path(figure).name), "sidecar": None}
        means = group_region_table(per_class, control=negative)
        entities = names.entities(method, atlas=label(regions.atlas.name))
        path = relative_path("heatmap", ".tsv", entities)
        write_table(cwd / Path(path).name, means)
        figure = f"group/figures/{Path(path).stem}.png"
        save(region_ranking(means, (positive, negative)), cwd / Path(figure).name)
        products[path] = {"file": str(cwd / Path(path).name), "sidecar": facts | regions.sidecar}
        products[figure] = {"file": str(cwd / Path(figure).name), "sidecar": None}
        return products


def _turned(volume: np.ndarray, mirrored: bool) -> np.ndarray:
    """What a network saw, or its map, with left and right as the person has them."""
    return volume[::-1] if mirrored else volume


def _turned_sums(
    sums: pd.Series | None, regions: Regions | None, mirrored: bool
) -> pd.Series | None:
    """The controls' sums beside a person's: those of the other half where it was mirrored."""
    if sums is None or regions is None or not mirrored:
        return sums
    other = opposite([str(name) for name in regions.atlas.labels["name"]])
    return pd.Series(sums.to_numpy()[other])


def _mirror_facts(mirrored: bool, *, ipsilateral: bool) -> dict[str, Any]:
    if not ipsilateral:
        return {}
    return {"Mirrored": MIRRORED_BACK if mirrored else "no: the affected side is left as it is"}


MIRRORED_BACK = "the network saw the image mirrored; the map is mirrored back, so left is left"


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
        seen = Seen.of(_turned(volume[0, 0], mirrored), self.inputs.image, model.grid)
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
                _turned(mean, mirrored),
                facts | _mirror_facts(mirrored, ipsilateral=view.mirror),
                names,
                regions,
                seen,
                _turned_sums(sums, regions, mirrored),
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
