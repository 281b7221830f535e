"""Interfaces of lesions at group level: how much relevance they get; before and after transfer."""

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

from models.errors import InputError
from models.lesions import measures
from models.regions import merge_sides
from models.smoothing import smooth
from models.trust.localisation import roc_auc, top_share
from pipelines.analytics import Sheet
from pipelines.derivatives import label, read_table
from pipelines.heatmaps import HeatmapNames, Regions, anatomy
from pipelines.images import read_nifti
from pipelines.interfaces.attribution import Surroundings, explain_rows, method_facts
from pipelines.interfaces.networks import prediction_keys, read_cohort, rows_of

SMOOTHING_MM = 4.0  # before a map is held against a mask
OFTEN = 0.1  # share of the patients with a lesion in a voxel, for the mean map
NO_MASKS = "lesion relevance: nobody of the cohort has a lesion mask"


class _SharedInputSpec(BaseInterfaceInputSpec):
    attribution = traits.Dict(mandatory=True)
    stack = File(exists=True, mandatory=True, desc="(people, x, y, z) out-of-fold maps")
    predictions = File(exists=True, mandatory=True, desc="rows as in the stack")
    cohort = File(exists=True, mandatory=True)
    cache = traits.Str(mandatory=True)
    content_hash = traits.Str(mandatory=True)
    classes = traits.List(traits.Str, mandatory=True, desc="negative, positive")
    modality = traits.Str(mandatory=True)
    model = traits.Str(mandatory=True)
    atlas = traits.Str(mandatory=True)
    network = traits.Dict(mandatory=True)
    seed = traits.Int(mandatory=True)


class _SharedOutputSpec(TraitedSpec):
    products = traits.Dict


class _Shared(SimpleInterface):
    """What both have in common: people, images, maps, and a network that never learnt."""

    def _open(self, runtime: Any) -> None:
        from models.volumes import open_cache

        given = self.inputs
        self.cache = open_cache(Path(given.cache))
        self.table = read_table(Path(given.predictions))
        self.keys = prediction_keys(self.table)
        self.rows = self.cache.rows(self.keys)
        self.maps = np.load(given.stack, mmap_mode="r")
        self.positive = (self.table["label"] == given.classes[1]).to_numpy()
        self.regions = Regions.on(given.atlas, self.cache.grid)
        names = HeatmapNames(given.model, given.classes[1], self.cache.grid, given.modality)
        facts = method_facts(given.attribution, given.classes[1], [f"model-{given.model}"])
        self.sheet = Sheet(Path(runtime.cwd), names, given.attribution["name"], facts)

    def _explained(self, network: Any, rows: list[int]) -> np.ndarray:
        """Maps of the positive class by another network, (rows, x, y, z)."""
        around = Surroundings.on(self.cache.grid, self.regions)
        network = network.eval()
        return explain_rows(network, self.cache.volumes, rows, self.inputs.attribution, 1, around)[
            0
        ]

    def _untrained(self) -> Any:
        """The same architecture with freshly drawn weights."""
        import torch

        from pipelines.stored_models import new_network

        torch.manual_seed(self.inputs.seed)
        return new_network(self.inputs.network, self.cache.grid)

    def _background(self) -> nib.Nifti1Image:
        mean = np.zeros(self.cache.grid.shape)
        for row in self.rows:
            mean += np.asarray(self.cache.volumes[row, 0], np.float32) / len(self.rows)
        return anatomy(mean, self.cache.grid.affine)


# --- lesions -------------------------------------------------------------------------------------


class AnalyseLesions(_Shared):
    """Lesion relevance against lesion coverage, per person, beside an untrained network."""

    input_spec = _SharedInputSpec
    output_spec = _SharedOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        self._open(runtime)
        masks = self._masks()
        if not any(one is not None for one in masks):
            self.sheet.missing.append(NO_MASKS)
            self._results["products"] = {}
            return runtime
        table, means = self._people(masks)
        facts = {
            "Description": "Lesions and the relevance that they get, person by person (S3: "
            "equation 2 of Eitel et al. 2019)",
            "OutOfFold": True,
            "SmoothingFwhmMm": SMOOTHING_MM,
            "Untrained": "the same architecture with random weights, the same images: patients "
            "with a lesion mask",
            "Means": _means(table, self.inputs.classes),
            "MeanMap": means,
            "Correlation": self._correlations(table),
        }
        facts["NotComputed"] = list(self.sheet.missing)
        self.sheet.table(table, facts, desc="lesions")
        self._draw(table)
        self._loads(masks)
        self._results["products"] = self.sheet.products
        return runtime

    def _masks(self) -> list[np.ndarray | None]:
        """Lesions of each row on the grid of the maps; None for who has no mask."""
        from models.volumes import to_grid

        cohort = read_cohort(self.inputs.cohort)
        paths = dict(zip(prediction_keys(cohort), cohort["lesions"], strict=True))
        found: list[np.ndarray | None] = []
        for key in self.keys:
            path = paths[key]
            if not isinstance(path, str) or not path:
                found.append(None)
                continue
            image = read_nifti(path)
            stored = (np.asarray(image.dataobj) > 0).astype(np.uint8)
            found.append(to_grid(stored, image.affine, self.cache.grid, order=0) > 0)
        return found

    def _people(self, masks: list[np.ndarray | None]) -> tuple[pd.DataFrame, dict[str, Any]]:
        ids = ["participant_id", "session_id", "label", "probability"]
        chosen, _ = self._patients(masks)
        untrained = self._explained(self._untrained(), [self.rows[i] for i in chosen])
        control = dict(zip(chosen, untrained, strict=True))
        rows = []
        for i, mask in enumerate(masks):
            row = self.table.iloc[i][ids].to_dict()
            if mask is not None:
                brain = np.asarray(self.cache.volumes[self.rows[i], 0]) != 0
                row |= measures(self.maps[i], mask, brain) | self._localised(
                    self.maps[i], mask, brain
                )
                if i in control:
                    row |= _suffixed(
                        {"lesion_relevance": measures(control[i], mask, brain)["lesion_relevance"]}
                        | self._localised(control[i], mask, brain)
                    )
            rows.append(row)
        return pd.DataFrame(rows), self._mean_map(masks, chosen, untrained)

    def _localised(
        self, relevance: np.ndarray, mask: np.ndarray, brain: np.ndarray
    ) -> dict[str, float]:
        """Area under the curve and share of the top 1 %, of the smoothed map."""
        if not (mask & brain).any() or (mask | ~brain).all():
            return {"auc": float("nan"), "top_share": float("nan")}
        smoothed = smooth(np.asarray(relevance, float), self.cache.grid.affine, SMOOTHING_MM)
        return {
            "auc": roc_auc(smoothed, mask, brain),
            "top_share": top_share(smoothed, mask, brain),
        }

    def _mean_map(
        self, masks: list[np.ndarray | None], chosen: list[int], untrained: np.ndarray
    ) -> dict[str, Any]:
        """The same of the patients' mean map and where they often have lesions."""
        if not chosen:
            return {}
        patients, lesions = self._patients(masks)
        share = np.mean(lesions, axis=0)
        often = share >= min(OFTEN, share.max())
        brain = np.mean(
            [np.asarray(self.cache.volumes[self.rows[i], 0]) != 0 for i in patients], axis=0
        )
        brain = brain >= 0.5
        mean = np.mean([self.maps[i] for i in patients], axis=0)
        found = self._localised(mean, often, brain)
        found |= _suffixed(self._localised(untrained.mean(0), often, brain))
        return {"Where": f"at least {OFTEN:.0%} of the patients have a lesion"} | found

    def _patients(self, masks: list[np.ndarray | None]) -> tuple[list[int], list[np.ndarray]]:
        """Rows of the patients who have a mask, and the masks."""
        both = [(i, one) for i, one in enumerate(masks) if one is not None and self.positive[i]]
        return [i for i, _ in both], [one for _, one in both]

    def _correlations(self, table: pd.DataFrame) -> dict[str, Any]:
        """Lesion sum and relevance sum (S3 figure 4), over everybody and over the patients.

        The first image of each person counts: those of one person cannot change places with those
        of others, as a permutation asks.
        """
        from models.association import correlation

        known = table["lesion_voxels"].notna() & ~table.duplicated("participant_id")
        groups = {"everybody": known, self.inputs.classes[1]: known & self.positive}
        found = {}
        for name, members in groups.items():
            result = self.sheet.attempt(
                f"correlation of lesion sum and relevance sum, {name}",
                correlation,
                table["relevance_sum"].to_numpy(float),
                table["lesion_voxels"].to_numpy(float),
                members.to_numpy(bool),
                seed=self.inputs.seed,
            )
            if result is not None:
                found[name] = vars(result)
        return found

    def _draw(self, table: pd.DataFrame) -> None:
        from pipelines.charts import lesion_scatter

        known = table.dropna(subset=["lesion_voxels"])
        voxel_ml = self.cache.grid.voxel_mm**3 / 1000
        drawn = lesion_scatter(known.assign(lesion_ml=known["lesion_voxels"] * voxel_ml))
        self.sheet.figure(drawn, desc="lesions")

    def _loads(self, masks: list[np.ndarray | None]) -> None:
        """Per region, sides joined: lesions of the patients beside their relevance."""
        who, lesions = self._patients(masks)
        if not who:
            return
        tables = {
            "lesion": np.mean(lesions, axis=0),
            "relevance": np.mean([self.maps[i] for i in who], axis=0),
        }
        joined = {name: merge_sides(self.regions.table(one)) for name, one in tables.items()}
        table = joined["lesion"][["index", "name", "voxels"]].assign(
            lesion_voxels=joined["lesion"]["sum"],
            lesion_share=joined["lesion"]["density"],
            relevance_sum=joined["relevance"]["sum"],
            relevance_density=joined["relevance"]["density"],
        )
        facts = {
            "Description": f"Mean lesion load and mean relevance of {len(who)} patients per region",
            "Sides": "joined",
            **self.regions.sidecar,
        }
        self.sheet.table(table, facts, atlas=label(self.regions.atlas.name), desc="lesionload")


def _suffixed(values: dict[str, float]) -> dict[str, float]:
    return {f"{name}_untrained": value for name, value in values.items()}


def _means(table: pd.DataFrame, classes: list[str]) -> dict[str, dict[str, float | None]]:
    """Means of every number over each class; None where nobody has one."""
    numbers = table.select_dtypes("number").drop(
        columns=["session_id", "probability"], errors="ignore"
    )
    return {
        one: {
            name: None if pd.isna(value) else float(value)
            for name, value in numbers[table["label"] == one].mean().items()
        }
        for one in classes
    }


# --- transfer ------------------------------------------------------------------------------------


class CompareTransferInputSpec(_SharedInputSpec):
    splits = traits.List(traits.Dict, mandatory=True)
    starts = traits.List(traits.Dict, mandatory=True, desc="of each split: the stored network")


class CompareTransfer(_Shared):
    """Mean maps of the patients before and after transfer (Eitel et al. 2019, figure 6).

    By an untrained network, by the one that the weights started from, as it was, and by the one
    that was trained further. Networks trained from scratch are another model: see ``--compare``.
    """

    input_spec = CompareTransferInputSpec
    output_spec = _SharedOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from pipelines.figures import over_limit, plot_rows

        self._open(runtime)
        if not self.positive.any():
            raise InputError("before and after transfer: no patient was tested")
        means = {
            "untrained": self._explained(
                self._untrained(),
                [row for row, use in zip(self.rows, self.positive, strict=True) if use],
            ).mean(0),
            "source": self.sheet.attempt("map of the source model", self._source),
            "finetuned": self.maps[self.positive].mean(0),
        }
        known = {name: mean for name, mean in means.items() if mean is not None}
        words = {
            "untrained": "untrained: random weights",
            "source": f"source: model {self.inputs.starts[0]['name']} as it was",
            "finetuned": "after training further",
        }
        images, columns = {}, {}
        for name, mean in known.items():
            facts: dict[str, Any] = {"Description": f"Mean map of all patients, {words[name]}"}
            image = self.sheet.image(mean.astype(np.float32), facts, stat="mean", desc=name)
            images[words[name]] = over_limit(image)
            joined = merge_sides(self.regions.table(mean))
            columns[f"density_{name}"] = joined["density"].to_numpy()
        table = joined[["index", "name", "voxels"]].assign(**columns)
        facts = {
            "Description": "Mean relevance per voxel of the patients before and after transfer",
            "Sides": "joined",
            "NotComputed": list(self.sheet.missing),
            **self.regions.sidecar,
        }
        self.sheet.table(table, facts, atlas=label(self.regions.atlas.name), desc="transfer")
        drawn = plot_rows(
            self._background(),
            images,
            overlay_range=(-1.0, 1.0),
            units="relevance, each row over its 99.5th percentile",
        )
        self.sheet.figure(drawn, desc="transfer")
        self._results["products"] = self.sheet.products
        return runtime

    def _source(self) -> np.ndarray:
        """Mean map by the stored networks: of every fold, over its test patients.

        With their own last layer, also where training drew another one.

        Raises
        ------
        models.errors.InputError
            Their last layer has other shapes than that of this network.
        """
        from models.training.splits import Split
        from pipelines.stored_models import new_network
        from pipelines.transfer import start

        cohort, given = read_cohort(self.inputs.cohort), self.inputs
        total, count = np.zeros(self.cache.grid.shape), 0
        for split, plan in zip(given.splits, given.starts, strict=True):
            rows = rows_of(cohort, Split(**split).people("test"), "test")
            rows = [row for row in rows if bool(cohort["positive"].iloc[row])]
            if not rows:
                continue
            network = new_network(given.network, self.cache.grid)
            start(network, {**plan, "head": "keep", "freeze": ()})
            total += self._explained(network, rows).sum(0)
            count += len(rows)
        return total / max(count, 1)
