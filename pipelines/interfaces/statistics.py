"""Interface of the voxelwise statistics: two groups, covariates, one map per person."""

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
from pipelines.derivatives import SPACE, grid_sidecar, label, read_table, relative_path, write_table
from pipelines.heatmaps import HeatmapNames, Products, Regions, anatomy
from pipelines.images import write_nifti
from pipelines.interfaces.networks import prediction_keys, read_cohort

BRAIN_SHARE = 0.9


class VoxelwiseTestInputSpec(BaseInterfaceInputSpec):
    name = traits.Str(mandatory=True, desc="`image`, or the name of an attribution")
    stack = traits.Str(mandatory=True, desc="(people, x, y, z) maps; '' takes the images")
    people = File(exists=True, mandatory=True, desc="participant, label and fold of each row")
    cohort = File(exists=True, mandatory=True)
    cache = traits.Str(mandatory=True)
    content_hash = traits.Str(mandatory=True)
    classes = traits.List(traits.Str, mandatory=True)
    covariates = traits.List(traits.Str, mandatory=True)
    model = traits.Str(mandatory=True)
    atlas = traits.Str(mandatory=True)
    smoothing_fwhm_mm = traits.Float(mandatory=True)
    permutations = traits.Int(mandatory=True)
    alpha = traits.Float(mandatory=True)
    min_cluster_mm3 = traits.Float(mandatory=True)
    exchange_within_fold = traits.Bool(mandatory=True)
    seed = traits.Int(mandatory=True)
    device = traits.Str("cpu", usedefault=True, nohash=True)
    use_gpu = traits.Bool(False, usedefault=True, nohash=True)


class VoxelwiseTestOutputSpec(TraitedSpec):
    products = traits.Dict


class VoxelwiseTest(SimpleInterface):
    """GLM per voxel, permutation max-statistic FWE, clusters (positive minus negative class)."""

    input_spec = VoxelwiseTestInputSpec
    output_spec = VoxelwiseTestOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from models.statistics.clusters import name_peaks, significant_clusters
        from models.statistics.permutation import max_statistic
        from models.volumes import open_cache

        cache = open_cache(Path(self.inputs.cache))
        people, excluded = self._people()
        rows = cache.rows(prediction_keys(people))
        mask = _brain_mask(cache, rows)
        data = self._data(cache, people, rows, mask)
        design = self._design(people)
        result = max_statistic(
            data,
            design,
            n_permutations=self.inputs.permutations,
            seed=self.inputs.seed,
            exchange_within=self._exchange(people),
            device=self.inputs.device,
        )
        t, p = np.zeros(mask.shape), np.ones(mask.shape)
        t[mask], p[mask] = result.t, result.p_fwe
        labels, clusters = significant_clusters(
            t, p, cache.grid.affine, self.inputs.alpha, self.inputs.min_cluster_mm3
        )
        regions = Regions.on(self.inputs.atlas, cache.grid)
        clusters = name_peaks(clusters, regions.labels, cache.grid.affine, regions.atlas.labels)
        threshold = result.threshold_at(self.inputs.alpha)
        facts = self._facts(people, excluded, result, threshold, regions, int(mask.sum()))
        self._results["products"] = self._products(
            Path(runtime.cwd), cache, facts, t, p, np.where(labels > 0, t, 0), clusters
        ) | self._figures(
            Path(runtime.cwd), cache, rows, np.where(labels > 0, t, 0), result, threshold
        )
        return runtime

    def _people(self) -> tuple[pd.DataFrame, dict[str, str]]:
        """One row per person with complete covariates, and why others are left out."""
        table = read_table(Path(self.inputs.people))
        table["row"] = np.arange(len(table))
        table = table.drop_duplicates("participant_id")
        cohort = read_cohort(self.inputs.cohort).drop_duplicates("participant_id")
        covariates = list(self.inputs.covariates)
        table = table.merge(cohort[["participant_id", *covariates]], on="participant_id")
        excluded: dict[str, str] = {}
        for name in covariates:
            table[name] = _as_number(table[name])
            for person in table.loc[table[name].isna(), "participant_id"]:
                excluded.setdefault(person, f"{name} is missing")
        kept = table[~table["participant_id"].isin(excluded)].reset_index(drop=True)
        return kept, excluded

    def _data(
        self, cache: Any, people: pd.DataFrame, rows: list[int], mask: np.ndarray
    ) -> np.ndarray:
        """(people, voxels in the mask) float32, smoothed."""
        from models.smoothing import smooth
        from models.volumes import scale_intensity

        stack = np.load(self.inputs.stack, mmap_mode="r") if self.inputs.stack else None
        data = np.empty((len(people), int(mask.sum())), np.float32)
        for i, (row, cached) in enumerate(zip(people["row"], rows, strict=True)):
            volume = (
                scale_intensity(np.asarray(cache.volumes[cached, 0], np.float32), "zscore")
                if stack is None
                else np.asarray(stack[row], np.float32)
            )
            data[i] = smooth(volume, cache.grid.affine, self.inputs.smoothing_fwhm_mm, mask)[mask]
        return data

    def _design(self, people: pd.DataFrame) -> Any:
        from models.statistics.glm import two_group_design

        names = list(self.inputs.covariates)
        positive = (people["label"] == self.inputs.classes[1]).to_numpy()
        return two_group_design(positive, people[names].to_numpy(float) if names else None, names)

    def _exchange(self, people: pd.DataFrame) -> np.ndarray | None:
        """Test folds, where maps of one fold share a network and those of two folds do not."""
        if self.inputs.exchange_within_fold and self.inputs.stack:
            return people["fold"].to_numpy(int)
        return None

    def _facts(
        self,
        people: pd.DataFrame,
        excluded: dict[str, str],
        result: Any,
        threshold: float,
        regions: Regions,
        voxels: int,
    ) -> dict[str, Any]:
        negative, positive = self.inputs.classes
        return {
            "Contrast": f"{positive} - {negative}",
            "Alpha": self.inputs.alpha,
            "Correction": "family-wise error, permutation of the largest absolute t (two-sided)",
            "Permutations": int(result.n_permutations),
            "ExactPermutation": bool(result.exact),
            "Exchangeability": "within test fold" if self._exchange(people) is not None else "free",
            "ThresholdT": _finite(float(threshold)),
            "DegreesOfFreedom": int(result.dof),
            "SmoothingFWHM_mm": self.inputs.smoothing_fwhm_mm,
            "Intensity": "z-score inside each brain" if not self.inputs.stack else "as computed",
            "MinClusterMm3": self.inputs.min_cluster_mm3,
            "Participants": people["label"].value_counts().to_dict(),
            "Excluded": excluded,
            "Covariates": list(self.inputs.covariates),
            "Mask": f"{voxels} voxels in the brain of at least {BRAIN_SHARE:.0%} of the people",
            "Seed": self.inputs.seed,
            "Determinism": "same orders for the same seed; maxima within float32 rounding",
            **{key: regions.sidecar[key] for key in ("Atlas", "AtlasNote")},
        }

    def _entities(self, cache: Any, **more: str) -> dict[str, str]:
        contrast = "Minus".join(map(label, reversed(list(self.inputs.classes))))
        if self.inputs.stack:
            names = HeatmapNames(self.inputs.model, self.inputs.classes[1], cache.grid)
            return names.image(self.inputs.name, contrast=contrast, **more)
        return {"mod": "T1w", "space": SPACE, "res": cache.grid.name, "contrast": contrast, **more}

    def _products(
        self,
        cwd: Path,
        cache: Any,
        facts: dict[str, Any],
        t: np.ndarray,
        p: np.ndarray,
        kept: np.ndarray,
        clusters: pd.DataFrame,
    ) -> Products:
        products: Products = {}
        for volume, more, what in (
            (t, {"stat": "t"}, "t value"),
            (p, {"stat": "p", "desc": "FWE"}, "corrected p value, 1 outside the mask"),
            (kept, {"stat": "t", "desc": "FWE"}, "t value of the significant clusters, else 0"),
        ):
            path = relative_path("statmap", ".nii.gz", self._entities(cache, **more))
            write_nifti(cwd / Path(path).name, volume, cache.grid.affine, template=True)
            products[path] = {
                "file": str(cwd / Path(path).name),
                "sidecar": {"Description": what, **facts, **grid_sidecar(cache.grid)},
            }
        path = relative_path("clusters", ".tsv", self._entities(cache, desc="FWE"))
        write_table(cwd / Path(path).name, clusters)
        products[path] = {"file": str(cwd / Path(path).name), "sidecar": facts}
        return products

    def _figures(
        self,
        cwd: Path,
        cache: Any,
        rows: list[int],
        kept: np.ndarray,
        result: Any,
        threshold: float,
    ) -> Products:
        from pipelines.charts import null_distribution
        from pipelines.figures import plot_slices, save

        mean = np.asarray(cache.volumes[rows, 0], np.float32).mean(0)
        background = anatomy(mean, cache.grid.affine)
        image = nib.Nifti1Image(kept.astype(np.float32), cache.grid.affine)
        drawn = {
            "statmap": plot_slices(background, image, units="t", threshold=_finite(threshold)),
            "null": null_distribution(
                result.max_distribution, threshold, float(result.max_distribution[0])
            ),
        }
        stem = Path(relative_path("x", "", self._entities(cache))).name.removesuffix("_x")
        products: Products = {}
        for what, figure in drawn.items():
            name = f"{stem}_{what}.png"
            save(figure, cwd / name)
            products[f"group/figures/{name}"] = {"file": str(cwd / name), "sidecar": None}
        return products


def _finite(threshold: float) -> float | None:
    """A threshold that can be drawn: with few permutations it is infinite."""
    return threshold if np.isfinite(threshold) else None


def _brain_mask(cache: Any, rows: list[int]) -> np.ndarray:
    """Voxels inside the brain of nearly everybody."""
    share = np.mean([np.asarray(cache.volumes[row, 0]) != 0 for row in rows], axis=0)
    mask = share >= BRAIN_SHARE
    if not mask.any():
        raise InputError("the people's brains do not overlap: look at the registration figures")
    return mask


def _as_number(column: pd.Series) -> pd.Series:
    """Numbers as they are; a column with two different words becomes 0 and 1."""
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().any() or column.isna().all():
        return numbers
    words = sorted(column.dropna().unique())
    if len(words) > 2:
        raise InputError(
            f"participants.tsv: covariate '{column.name}' has {len(words)} different words "
            f"({', '.join(map(str, words[:4]))}, ...); only numbers or two words can be used"
        )
    return column.map({word: float(i) for i, word in enumerate(words)})
