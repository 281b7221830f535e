"""Interfaces of the anomaly detection: find the brain, learn controls, map people, compare."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
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
    traits,
)
from tqdm import tqdm

from models.errors import InputError
from pipelines.anomaly_maps import AnomalyNames, anomaly_products
from pipelines.anomaly_scores import ONE_CLASS
from pipelines.derivatives import (
    derivative_uri,
    fingerprint,
    label,
    read_table,
    write_json,
    write_table,
)
from pipelines.heatmaps import Products, Regions
from pipelines.interfaces.networks import read_cohort, rows_of, session_label

log = logging.getLogger("brainwhy.training")

REVISION = 1  # raised when the same images and settings would give other weights
BRAIN_SHARE = 0.9  # of the controls whose brain must be at a voxel
SLACK = 1e-3  # rounding beyond [0, 1]
DETERMINISM = "bitwise on the same machine and thread count (CPU)"


def person_of(row: Any) -> tuple[str, str]:
    """(participant, session) of a row, without prefixes."""
    return str(row.participant_id).removeprefix("sub-"), session_label(row)


class _SharedInputSpec(BaseInterfaceInputSpec):
    cache = traits.Str(mandatory=True)
    content_hash = traits.Str(mandatory=True)
    cohort = File(exists=True, mandatory=True)
    model = traits.Str(mandatory=True, desc="label of the model")


class FindBrainInputSpec(_SharedInputSpec):
    atlas = traits.Str(mandatory=True)
    nuclei = traits.Str("", usedefault=True, desc="a second atlas")
    least_voxels = traits.Int(mandatory=True)


class FindBrainOutputSpec(TraitedSpec):
    brain = File(exists=True, desc="(x, y, z) bool")
    regions = File(exists=True, desc="names and (regions, voxels of the brain) bool")
    products = traits.Dict


class FindBrain(SimpleInterface):
    """Check the scale of the images; the controls' common brain, and its regions of interest."""

    input_spec = FindBrainInputSpec
    output_spec = FindBrainOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from models.volumes import open_cache
        from pipelines.images import write_nifti
        from pipelines.rois import regions_of_interest, roi_atlases
        from pipelines.stored_models import model_file

        cohort, cache = read_cohort(self.inputs.cohort), open_cache(Path(self.inputs.cache))
        controls = ~cohort["positive"].to_numpy(bool)
        share = np.zeros(cache.grid.shape, np.float32)
        for row, image in enumerate(cohort["image"]):
            volume = np.asarray(cache.volumes[row], np.float32)
            check_scale(volume, image)
            share += (volume != 0).any(0) * controls[row]
        brain = share >= BRAIN_SHARE * controls.sum() - 1e-6
        if not brain.any():
            raise InputError("the controls' brains do not overlap: look at the quality figures")
        lobes, nuclei = roi_atlases(self.inputs.atlas, self.inputs.nuclei)
        found = regions_of_interest(
            lobes, nuclei, cache.grid, brain, least=self.inputs.least_voxels
        )
        cwd = Path(runtime.cwd)
        np.save(cwd / "brain.npy", brain)
        np.savez(cwd / "regions.npz", names=list(found), inside=np.stack(list(found.values())))
        path = model_file(self.inputs.model, "brain", ".nii.gz")
        write_nifti(cwd / "brain.nii.gz", brain, cache.grid.affine, template=True)
        self._results["brain"] = str(cwd / "brain.npy")
        self._results["regions"] = str(cwd / "regions.npz")
        self._results["products"] = {path: {"file": str(cwd / "brain.nii.gz"), "sidecar": None}}
        return runtime


def check_scale(volume: np.ndarray, image: str | Path) -> None:
    """Refuse an image that a sigmoid cannot give back."""
    if not np.isfinite(volume).all():
        raise InputError(f"{image}: has NaN or infinite voxels on the recipe's grid; mend it")
    low, high = float(volume.min()), float(volume.max())
    if low < -SLACK or high > 1 + SLACK:
        raise InputError(
            f"{image}: its values run from {low:.3g} to {high:.3g} when scaled, and must lie in "
            "[0, 1]; export it without negative values, or use [preprocessing] intensity = "
            "'minmax'"
        )
    if not volume.any():
        raise InputError(f"{image}: is empty on the recipe's grid; look at its registration")


def load_regions(path: str | Path) -> dict[str, np.ndarray]:
    """Regions of interest as :class:`FindBrain` wrote them."""
    stored = np.load(path)
    return dict(zip(map(str, stored["names"]), stored["inside"], strict=True))


class LearnControlsInputSpec(_SharedInputSpec):
    brain = File(exists=True, mandatory=True)
    regions = File(exists=True, mandatory=True)
    split = traits.Dict(mandatory=True, desc="repeat, fold, number, roles")
    autoencoder = traits.Dict(mandatory=True, desc="name, method, options")
    quantile = traits.Float(mandatory=True)
    measure = traits.Str("error", usedefault=True, desc="what the quantile is of: error or z")
    least_voxels = traits.Int(1, usedefault=True, desc="scored voxels that a region must have")
    one_class_stride = traits.Int(0, usedefault=True, desc="voxels between places; 0 for none")
    seed = traits.Int(mandatory=True)
    stored = traits.Str("", usedefault=True, desc="output folder that may hold this training")
    force = traits.Bool(False, usedefault=True)
    device = traits.Str("cpu", usedefault=True, nohash=True)
    use_gpu = traits.Bool(False, usedefault=True, nohash=True)


class LearnControlsOutputSpec(TraitedSpec):
    folder = traits.Str(desc="reconstructions.npy, normal.safetensors, index.json")
    scores = File(exists=True, desc="abnormal percentage per person and region")
    weights = File(exists=True)
    products = traits.Dict(desc="weights, normal errors, split, history")


class LearnControls(SimpleInterface):
    """Train one auto-encoder on the training controls of one split, and score everybody else."""

    input_spec = LearnControlsInputSpec
    output_spec = LearnControlsOutputSpec
    can_resume = True  # nipype would empty the folder, and with it the checkpoint

    def _run_interface(self, runtime: Any) -> Any:
        from models.training.splits import Split
        from models.volumes import open_cache
        from pipelines.detectors import detector_file, save_normal
        from pipelines.stored_models import model_file, write_split

        cwd, split = Path(runtime.cwd), Split(**self.inputs.split)
        self._cohort = read_cohort(self.inputs.cohort)
        self._cache = open_cache(Path(self.inputs.cache))
        self._brain = np.load(self.inputs.brain)
        name, model, number = self.inputs.autoencoder["name"], self.inputs.model, split.number
        files = {
            kind: cwd / f"{kind}{extension}"
            for kind, extension in (
                ("weights", ".safetensors"),
                ("normal", ".safetensors"),
                ("history", ".tsv"),
            )
        }
        network = self._trained(files, split)
        learnt, judged = self._parts(split)
        scores, normal = self._judge(network, cwd, split, learnt, judged)
        save_normal(normal, files["normal"])
        write_table(cwd / "scores.tsv", scores)
        write_split(split, cwd / "split.tsv")
        products = {
            detector_file(model, name, kind, path.suffix, number): path
            for kind, path in files.items()
        } | {model_file(model, "split", ".tsv", number): cwd / "split.tsv"}
        self._results["folder"] = str(cwd)
        self._results["scores"] = str(cwd / "scores.tsv")
        self._results["weights"] = str(files["weights"])
        self._results["products"] = {
            path: {"file": str(file), "sidecar": None} for path, file in products.items()
        }
        return runtime

    def _parts(self, split: Any) -> tuple[list[int], list[int]]:
        """Rows of the training controls' and of everybody else's image that is judged."""
        learnt = rows_of(self._cohort, split.people("train"), "test")
        return learnt, rows_of(self._cohort, split.people("test"), "test")

    def _trained(self, files: dict[str, Path], split: Any) -> Any:
        """The network of this split: the stored one if it is of the same making."""
        import torch
        from safetensors.torch import load_file

        from models.anomaly.fitting import fit
        from pipelines.detectors import detector_file, new_detector
        from pipelines.stored_models import made_by, save_weights

        given, cache = self.inputs, self._cache
        rows = rows_of(self._cohort, split.people("train"), "train")
        keys = [cache.keys[row] for row in rows]
        brain = hashlib.sha256(self._brain.tobytes()).hexdigest()  # of whom are called controls
        this = fingerprint(REVISION, given.content_hash, brain, keys, given.autoencoder, given.seed)
        seed = given.seed + split.number
        torch.manual_seed(seed)
        network = new_detector(given.autoencoder, cache.grid.shape, cache.volumes.shape[1])
        old = {
            kind: Path(given.stored)
            / detector_file(given.model, given.autoencoder["name"], kind, ending, split.number)
            for kind, ending in (("weights", ".safetensors"), ("history", ".tsv"))
        }
        if given.stored and not given.force and made_by(old["weights"]) == this:
            for kind, path in old.items():
                copyfile(path, files[kind])
            network.load_state_dict(load_file(files["weights"]))
            return network.eval().to(given.device)
        history = fit(
            network,
            np.stack([cache.volumes[row] for row in rows]),
            self._brain,
            seed=seed,
            device=given.device,
            checkpoint=files["weights"].with_name(f"checkpoint-{this[:16]}.pt"),
            report=lambda row: log.info(
                "%s, split %d, epoch %d: loss %.4f",
                given.autoencoder["name"],
                split.number,
                row["epoch"],
                row["loss"],
            ),
        )
        write_table(files["history"], pd.DataFrame(history))
        save_weights(network, files["weights"], this)
        return network

    def _judge(
        self, network: Any, cwd: Path, split: Any, learnt: list[int], judged: list[int]
    ) -> tuple[pd.DataFrame, Any]:
        """Percentages of everybody, and what errors are normal."""
        from models.anomaly.scores import joint_error, normal_errors, training_abnormal

        regions = load_regions(self.inputs.regions)
        volumes, brain = self._cache.volumes, self._brain
        name, rows = self.inputs.autoencoder["name"], []
        errors = {
            row: joint_error(_inside(volumes[row], brain), self._reconstruct(network, row))
            for row in learnt
        }
        normal = normal_errors(errors.values(), self.inputs.quantile, self.inputs.measure)
        abnormal = training_abnormal(list(errors.values()), normal)
        for (row, error), one in zip(errors.items(), abnormal, strict=True):
            rows += self._rows(split, row, name, one, np.isfinite(error), regions)
        found = np.lib.format.open_memmap(
            cwd / "reconstructions.npy",
            mode="w+",
            dtype=np.float16,
            shape=(len(judged), volumes.shape[1], int(brain.sum())),
        )
        for place, row in enumerate(judged):
            reconstruction = self._reconstruct(network, row)
            found[place] = reconstruction
            error = joint_error(_inside(volumes[row], brain), reconstruction)
            scored = np.isfinite(error)
            rows += self._rows(split, row, name, normal.abnormal(error), scored, regions)
        found.flush()
        keys = [self._cache.keys[row] for row in judged]
        write_json(cwd / "index.json", {"name": name, "split": split.number, "keys": keys})
        if self.inputs.one_class_stride and hasattr(network, "reader"):
            rows += self._one_class(network, split, learnt, judged, regions)
        return pd.DataFrame(rows), normal

    def _reconstruct(self, network: Any, row: int) -> np.ndarray:
        return reconstruction_of(
            network, np.asarray(self._cache.volumes[row]), self._brain, self.inputs.device
        )

    def _rows(
        self,
        split: Any,
        row: int,
        method: str,
        abnormal: np.ndarray,
        scored: np.ndarray,
        regions: Mapping[str, np.ndarray],
        least: int | None = None,
    ) -> list[dict[str, Any]]:
        from models.anomaly.scores import abnormal_percent

        image = self._cohort.iloc[row]
        who = str(image["participant_id"])
        shared = {
            "participant_id": who,
            "session_id": image["session_id"],
            "positive": bool(image["positive"]),
            "role": split.roles[who.removeprefix("sub-")],
            "split": split.number,
            "method": method,
        }
        least = self.inputs.least_voxels if least is None else least
        percent = abnormal_percent(abnormal, scored, regions, least=least)
        return [
            shared | {"roi": roi, "voxels": int((regions[roi] & scored).sum()), "percent": value}
            for roi, value in percent.items()
        ]

    def _one_class(
        self,
        network: Any,
        split: Any,
        learnt: list[int],
        judged: list[int],
        regions: Mapping[str, np.ndarray],
    ) -> list[dict[str, Any]]:
        """Rows of the one-class machines on the codes: percentage of places outside."""
        import torch

        from models.anomaly.oneclass import one_class_scores

        stride, device = self.inputs.one_class_stride, self.inputs.device
        lattice = np.zeros_like(self._brain)
        lattice[::stride, ::stride, ::stride] = True
        places = lattice[self._brain]
        middles = torch.from_numpy(np.argwhere(lattice & self._brain)).to(device)
        reader = network.reader()

        def codes(rows: Sequence[int]) -> np.ndarray:
            images = (torch.from_numpy(np.array(self._cache.volumes[r])) for r in rows)
            found = [reader.codes(one.to(device).float(), middles) for one in images]
            return torch.stack(found).cpu().numpy()

        outside = one_class_scores(codes(learnt), codes(judged)) > 0
        inside = {name: region[places] for name, region in regions.items()}
        name = self.inputs.autoencoder["name"] + ONE_CLASS
        everywhere = np.ones(int(places.sum()), bool)
        rows = []
        for row, one in zip(judged, outside, strict=True):
            rows += self._rows(split, row, name, one, everywhere, inside, least=1)  # places
        return rows


def _inside(volume: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """(C, voxels) float32 of the brain."""
    return np.asarray(volume, np.float32)[:, brain]


def reconstruction_of(
    network: Any, volume: np.ndarray, brain: np.ndarray, device: str
) -> np.ndarray:
    """(C, voxels of the brain) float32: what the network makes of one image."""
    import torch

    image = torch.from_numpy(volume.astype(np.float32)).to(device)
    found = network.reconstruct(image, torch.from_numpy(brain).to(device))
    return found.cpu().numpy()[:, brain]


class MapPeopleInputSpec(_SharedInputSpec):
    brain = File(exists=True, mandatory=True)
    autoencoder = traits.Dict(mandatory=True)
    folders = traits.List(traits.Str, mandatory=True, desc="of LearnControls, all of them")
    scores = traits.List(File(exists=True), mandatory=True, desc="of LearnControls, all of them")
    classes = traits.List(traits.Str, mandatory=True, desc="negative, positive")
    modality = traits.Str(mandatory=True)
    parameters = traits.List(traits.Str, desc="of the channels")
    atlas = traits.Str(mandatory=True)
    quantile = traits.Float(mandatory=True)
    measure = traits.Str("error", usedefault=True, desc="what the quantile is of: error or z")


class MapPeopleOutputSpec(TraitedSpec):
    products = traits.Dict


class MapPeople(SimpleInterface):
    """Everybody's maps of one auto-encoder, from the splits that did not train on the person."""

    input_spec = MapPeopleInputSpec
    output_spec = MapPeopleOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from models.volumes import open_cache

        given, cwd = self.inputs, Path(runtime.cwd)
        cache, brain = open_cache(Path(given.cache)), np.load(given.brain)
        names = AnomalyNames(given.model, given.modality, given.parameters, cache.grid, brain)
        regions, name = Regions.on(given.atlas, cache.grid), given.autoencoder["name"]
        cohort = read_cohort(given.cohort)
        splits = _splits_of([Path(one) for one in given.folders], name)
        percent = _mean_percent(given.scores, name)
        products: Products = {}
        sums: dict[bool, list[Any]] = {}
        for row, image in enumerate(tqdm(list(cohort.itertuples()), desc=name, disable=None)):
            found = splits.get(key := cache.keys[row], [])
            if not found:
                continue
            maps = _person_maps(_inside(cache.volumes[row], brain), found)
            facts = method_facts(
                given.autoencoder,
                given.model,
                [number for number, *_ in found],
                given.quantile,
                given.measure,
            ) | {"Sources": [derivative_uri(image.image)], "OutOfTraining": True}
            products |= anomaly_products(
                cwd, {"sub": key[0], "ses": key[1]}, name, maps, percent[key], facts, names,
                regions, np.asarray(cache.volumes[row, 0], np.float32),
            )  # fmt: skip
            total = sums.setdefault(bool(image.positive), [np.zeros_like(maps.z), 0])
            total[0] += np.nan_to_num(maps.z)
            total[1] += 1
        background = np.mean([cache.volumes[row, 0] for row in range(len(cohort))], 0)
        products |= self._means(cwd, sums, names, background.astype(np.float32))
        self._results["products"] = products
        return runtime

    def _means(
        self, cwd: Path, sums: dict[bool, list[Any]], names: AnomalyNames, background: np.ndarray
    ) -> Products:
        """Mean z of each class, with its figure."""
        import nibabel as nib

        from pipelines.figures import plot_slices, save
        from pipelines.heatmaps import anatomy

        name, products = self.inputs.autoencoder["name"], Products()
        for positive, (total, people) in sums.items():
            one = self.inputs.classes[positive]
            facts = {"People": people, "AutoEncoder": self.inputs.autoencoder["method"]}
            ids = {"desc": label(one)}
            written = names.write(cwd, ids, name, "z", total / people, facts)
            path = next(iter(written))
            written[path]["sidecar"]["Description"] = (
                f"Mean z of {people} {one}; controls by splits that left them out"
            )
            figure = f"group/figures/{Path(path).name.removesuffix('.nii.gz')}.png"
            drawn = plot_slices(
                anatomy(background, names.grid.affine),
                nib.Nifti1Image(np.maximum(names.volume(total / people), 0), names.grid.affine),
                overlay_range=(0, 3),
                threshold=0.5,
                title=f"mean z of {one}",
                units="z of the error (above 0.5)",
            )
            save(drawn, cwd / Path(figure).name)
            products |= written
            products[figure] = {"file": str(cwd / Path(figure).name), "sidecar": None}
        return products


def method_facts(
    autoencoder: Mapping[str, Any],
    model: str,
    splits: Sequence[int],
    quantile: float,
    measure: str,
) -> dict[str, Any]:
    """What every sidecar of a person's map says of its making."""
    name = autoencoder["name"]
    return {
        "AutoEncoder": autoencoder["method"],
        "Parameters": {k: v for k, v in autoencoder.items() if k not in ("name", "method")},
        "Models": [f"model-{model}_fold-{number}_method-{name}" for number in splits],
        "ThresholdQuantile": quantile,
        "ThresholdOf": f"{measure} of the training controls of each split",
        "Determinism": DETERMINISM,
    }


Judged = tuple[int, np.ndarray, Any]  # split, reconstruction (C, voxels), what is normal


def _splits_of(folders: Sequence[Path], name: str) -> dict[tuple[str, str], list[Judged]]:
    """Reconstructions of each person by one auto-encoder, memory-mapped."""
    from pipelines.detectors import load_normal

    found: dict[tuple[str, str], list[Judged]] = {}
    for folder in folders:
        index = json.loads((folder / "index.json").read_text())
        if index["name"] != name:
            continue
        stack = np.load(folder / "reconstructions.npy", mmap_mode="r")
        normal = load_normal(folder / "normal.safetensors")
        for place, (sub, ses) in enumerate(index["keys"]):
            found.setdefault((sub, ses), []).append((index["split"], stack[place], normal))
    return found


def _person_maps(image: np.ndarray, found: Sequence[Judged]) -> Any:
    from models.anomaly.scores import PersonMaps

    return PersonMaps.over(
        image, ((np.asarray(stack, np.float32), normal) for _, stack, normal in found)
    )


def read_scores(paths: Sequence[str]) -> pd.DataFrame:
    """Every split's percentages, one below the other."""
    table = pd.concat([read_table(Path(path)) for path in paths], ignore_index=True)
    table["session_id"] = table["session_id"].fillna("")
    return table


def _mean_percent(paths: Sequence[str], name: str) -> dict[tuple[str, str], dict[str, float]]:
    """Region of interest to percentage of each person, mean over the splits that test them."""
    table = read_scores(paths)
    table = table[(table["method"] == name) & (table["role"] == "test")]
    means = table.groupby(["participant_id", "session_id", "roi"], sort=False)["percent"].mean()
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in means.reset_index().itertuples():
        found.setdefault(person_of(row), {})[str(row.roi)] = float(row.percent)
    return found


class CompareDetectorsInputSpec(_SharedInputSpec):
    brain = File(exists=True, mandatory=True)
    regions = File(exists=True, mandatory=True)
    folders = traits.List(traits.Str, mandatory=True)
    scores = traits.List(File(exists=True), mandatory=True)
    weights = traits.List(File(exists=True), mandatory=True)
    classes = traits.List(traits.Str, mandatory=True)
    quantile = traits.Float(mandatory=True)
    seed = traits.Int(mandatory=True)
    card = traits.Dict(mandatory=True)


class CompareDetectorsOutputSpec(TraitedSpec):
    products = traits.Dict


class CompareDetectors(SimpleInterface):
    """Scores of every auto-encoder in every region, over the splits; tables, figures, card."""

    input_spec = CompareDetectorsInputSpec
    output_spec = CompareDetectorsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from pipelines.anomaly_scores import (
            differences,
            false_alarms,
            people_table,
            split_scores,
            summary,
            with_intervals,
        )
        from pipelines.stored_models import made_by, model_file

        given, cwd = self.inputs, Path(runtime.cwd)
        table = read_scores(given.scores)
        per_split = split_scores(table, given.seed)
        people = people_table(table, given.classes)
        regions = with_intervals(summary(per_split), people, given.classes[1])
        tables = {
            "splits": (per_split, "Scores of each split; controls left out of it, all patients"),
            "regions": (regions, "Mean and SD of the scores over the splits"),
            "differences": (differences(per_split), "Auto-encoders compared within each split"),
            "people": (people, "Abnormal percentage of each person"),
            "controls": (
                false_alarms(table, given.quantile),
                "Abnormal percentage of the controls' brains, against what the quantile promises",
            ),
        }
        products: Products = {}
        for name, (content, what) in tables.items():
            path = f"group/model-{given.model}_desc-{name}_anomalyscores.tsv"
            write_table(cwd / Path(path).name, content)
            sidecar = {"Description": what, "PositiveClass": given.classes[1], **COLUMNS}
            products[path] = {"file": str(cwd / Path(path).name), "sidecar": sidecar}
        products |= self._figures(cwd, table, regions)
        brain_share = {"BrainShare": BRAIN_SHARE, "Determinism": DETERMINISM}
        card = given.card | brain_share | {
            "ImagesSHA256": given.content_hash,
            "FoldFingerprints": [made_by(Path(one)) for one in given.weights],
        }  # fmt: skip
        write_json(cwd / "modelcard.json", card)
        card_path = model_file(given.model, "modelcard", ".json")
        products[card_path] = {"file": str(cwd / "modelcard.json"), "sidecar": None}
        self._results["products"] = products
        return runtime

    def _figures(self, cwd: Path, table: pd.DataFrame, regions: pd.DataFrame) -> Products:
        from models.volumes import open_cache
        from pipelines import anomaly_charts as charts
        from pipelines.interfaces.networks import group_figures

        given = self.inputs
        cache, brain = open_cache(Path(given.cache)), np.load(given.brain)
        controls = table.loc[~table["positive"].astype(bool), "participant_id"]
        drawn = {"gmeans": charts.gmeans(regions)}
        for method in dict.fromkeys(table["method"]):
            drawn[f"percentages{method}"] = charts.percentages(
                table[table["method"] == method], given.classes, seed=given.seed
            )
        shown = _example(given.folders, cache, brain, set(controls))
        drawn["reconstructions"] = charts.reconstructions(*shown)
        return group_figures(cwd, given.model, drawn)


COLUMNS = {
    "gmean": {"Description": "Square root of sensitivity x specificity, with the threshold that is "
              "best for the very people it is scored on: optimistic, as in the publication"},
    "gmean_held_out": {"Description": "The same with the threshold chosen on the other half of the "
                       "people, mean over random halves"},
    "voxels": {"Description": "Voxels of the region that are scored (of one-class machines, their "
               "places); auto-encoders of slices score those around the middle of the brain only"},
    "auc": {"Description": "Area under the ROC curve of the percentage"},
    "percent": {"Description": "Voxels above the abnormality threshold", "Units": "%"},
}  # fmt: skip


def _example(
    folders: Sequence[str], cache: Any, brain: np.ndarray, controls: set[str]
) -> tuple[np.ndarray, dict[str, np.ndarray], tuple[str, int]]:
    """One control, left out of the first split: image, reconstructions, name and slice."""
    found: dict[str, np.ndarray] = {}
    image, who = np.zeros((1, *brain.shape)), ""
    for folder in map(Path, folders):
        index = json.loads((folder / "index.json").read_text())
        if index["name"] in found:
            continue
        place = next(
            (k for k, key in enumerate(index["keys"]) if f"sub-{key[0]}" in controls), None
        )
        if place is None:
            continue
        volume = np.zeros((cache.volumes.shape[1], *brain.shape), np.float32)
        values = np.asarray(np.load(folder / "reconstructions.npy", mmap_mode="r")[place])
        volume[:, brain] = np.nan_to_num(values)
        found[index["name"]] = volume
        key = tuple(index["keys"][place])
        who, image = f"sub-{key[0]}", np.asarray(cache.volumes[cache.keys.index(key)], np.float32)
    levels = np.flatnonzero(brain.any(axis=(0, 1)))
    return image * brain, found, (who, int((levels[0] + levels[-1] + 1) // 2))


class DetectPersonInputSpec(BaseInterfaceInputSpec):
    image = File(exists=True, mandatory=True, desc="registered image")
    participant = traits.Str(mandatory=True)
    session = traits.Str("", usedefault=True)
    model = traits.Str(mandatory=True, desc="folder of the stored model")
    making = traits.Str(mandatory=True, desc="fingerprint of its card and weights")
    splits = traits.List(traits.Int, mandatory=True, desc="those that did not train on the person")
    device = traits.Str("cpu", usedefault=True, nohash=True)
    use_gpu = traits.Bool(False, usedefault=True, nohash=True)


class DetectPersonOutputSpec(TraitedSpec):
    products = traits.Dict


class DetectPerson(SimpleInterface):
    """Anomaly maps of one person by a stored model."""

    input_spec = DetectPersonInputSpec
    output_spec = DetectPersonOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from pipelines.detectors import StoredDetectors
        from pipelines.preprocess import modality_of
        from pipelines.rois import regions_of_interest, roi_atlases

        given, cwd = self.inputs, Path(runtime.cwd)
        model = StoredDetectors(Path(given.model))
        card, kind, brain = model.card, modality_of(model.modality), model.brain
        volume = kind.volume(given.image, model.grid, card["Intensity"])
        check_scale(volume, given.image)
        atlases = roi_atlases(card["Atlas"], card["Nuclei"])
        rois = regions_of_interest(*atlases, model.grid, brain, least=card["LeastVoxels"])
        names = AnomalyNames(model.name, model.modality, kind.parameters, model.grid, brain)
        regions = Regions.on(card["Atlas"], model.grid)
        ids = {"sub": given.participant, "ses": given.session}
        products: Products = {}
        for autoencoder in model.autoencoders:
            maps, percent = self._maps(model, autoencoder, volume, brain, rois)
            quantile, measure = card["Quantile"], card["Measure"]
            facts = method_facts(autoencoder, model.name, given.splits, quantile, measure) | {
                "Sources": [derivative_uri(given.image)],
                "OutOfTraining": True,
            }
            products |= anomaly_products(
                cwd, ids, autoencoder["name"], maps, percent, facts, names, regions, volume[0]
            )
        self._results["products"] = products
        return runtime

    def _maps(
        self, model: Any, autoencoder: Any, volume: np.ndarray, brain: np.ndarray, rois: Any
    ) -> tuple[Any, dict[str, float]]:
        from models.anomaly.scores import abnormal_percent, joint_error

        image, found, percents = _inside(volume, brain), [], []
        for split in self.inputs.splits:
            network = model.detector(autoencoder, split).to(self.inputs.device)
            made = reconstruction_of(network, volume, brain, self.inputs.device)
            normal, error = model.normal(autoencoder, split), joint_error(image, made)
            found.append((split, made, normal))
            scored = np.isfinite(error)
            least = model.card["LeastVoxels"]
            percents.append(abnormal_percent(normal.abnormal(error), scored, rois, least=least))
        mean = pd.DataFrame(percents).mean()
        return _person_maps(image, found), {str(k): float(v) for k, v in mean.items()}
