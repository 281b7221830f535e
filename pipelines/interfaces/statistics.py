"""Interface of the voxelwise statistics: one contrast, one map per person."""

from collections.abc import Mapping
from dataclasses import dataclass
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
    isdefined,
    traits,
)

from models.errors import InputError
from models.grids import Grid
from pipelines.derivatives import SPACE, grid_sidecar, label, read_table, relative_path, write_table
from pipelines.heatmaps import HeatmapNames, Products, Regions, anatomy, sides_facts
from pipelines.images import mark_ipsilateral, write_nifti
from pipelines.interfaces.networks import prediction_keys
from pipelines.people import exchange, join_people
from pipelines.statistics import CORRECTIONS, StatisticsOptions, contrast_label

BRAIN_SHARE = 0.9
_SCALES = {"zscore": "z-score inside each brain", "stored": "as preprocessed"}


class VoxelwiseTestInputSpec(BaseInterfaceInputSpec):
    name = traits.Str(mandatory=True, desc="`image`, a map of it, or the name of an attribution")
    stack = traits.Str(mandatory=True, desc="(people, x, y, z) maps; '' takes the images")
    people = File(exists=True, mandatory=True, desc="participant, label and fold of each row")
    cohort = File(exists=True, mandatory=True)
    participants = File(exists=True, desc="columns of the recipe's terms and blocks, if any")
    brain = File(exists=True, desc="(2, x, y, z): share of people with brain, mean; else the cache")
    cache = traits.Str(mandatory=True)
    content_hash = traits.Str(mandatory=True)
    classes = traits.List(traits.Str, mandatory=True)
    modality = traits.Str("T1w", usedefault=True)
    covariates = traits.List(traits.Str, mandatory=True)
    model = traits.Str(mandatory=True)
    atlas = traits.Str(mandatory=True)
    intensity = traits.Str("max", usedefault=True, desc="scale of the packed images")
    options = traits.Dict(mandatory=True, desc="fields of StatisticsOptions")
    exchange_within_fold = traits.Bool(mandatory=True)
    seed = traits.Int(mandatory=True)
    memory_mb = traits.Float(0.0, usedefault=True, nohash=True, desc="0: what fits the device")
    device = traits.Str("cpu", usedefault=True, nohash=True)
    use_gpu = traits.Bool(False, usedefault=True, nohash=True)


class VoxelwiseTestOutputSpec(TraitedSpec):
    products = traits.Dict


class VoxelwiseTest(SimpleInterface):
    """GLM per voxel, corrected p values, clusters and their regions."""

    input_spec = VoxelwiseTestInputSpec
    output_spec = VoxelwiseTestOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from models.volumes import open_cache
        from pipelines.voxelwise import infer

        cwd, cache, options = Path(runtime.cwd), open_cache(Path(self.inputs.cache)), self._options
        table, people, excluded = self._people()
        rows = cache.rows(prediction_keys(table))
        mask, background = self._brain(cache, rows)
        design = people.design(options, self.inputs.classes)
        within = self._folds(table)
        maps = cwd / "maps.npy"
        try:
            self._write_maps(maps, cache, table, rows, mask)
            result = infer(
                np.load(maps, mmap_mode="r"), mask, cache.grid, design,
                self._exchange(people, within), options,
                seed=self.inputs.seed, device=self.inputs.device,
            )  # fmt: skip
        finally:
            maps.unlink(missing_ok=True)  # as large as all maps together
        facts = self._facts(people, excluded, design, within, int(mask.sum())) | result.facts
        facts |= sides_facts(ipsilateral=cache.ipsilateral)
        shelf = _Shelf(cwd, self._entities(cache.grid), cache.grid, cache.ipsilateral)
        self._results["products"] = _Report(shelf, options, mask, result, facts).products(
            [
                Regions.on(name, cache.grid, ipsilateral=cache.ipsilateral)
                for name in (self.inputs.atlas, *options.cluster_atlases)
            ],
            background,
        )
        return runtime

    @property
    def _explains(self) -> bool:
        """Whether the maps are heatmaps, and not made of the images alone."""
        from pipelines.preprocess import modality_of

        own = ("image", *modality_of(self.inputs.modality).maps)
        return bool(self.inputs.stack) and self.inputs.name not in own

    def _brain(self, cache: Any, rows: list[int]) -> tuple[np.ndarray, nib.Nifti1Image]:
        """Voxels inside the brain of nearly everybody, and a background for pictures."""
        if not isdefined(self.inputs.brain):
            return _brain(cache, rows)
        share, mean = np.load(self.inputs.brain)
        sides = {"ipsilateral": cache.ipsilateral}
        return _enough(share), anatomy(mean, cache.grid.affine, **sides)

    @property
    def _options(self) -> StatisticsOptions:
        return StatisticsOptions(**self.inputs.options, memory_mb=self.inputs.memory_mb)

    @property
    def _scale(self) -> str:
        """Images that have a scale of their own, such as uptake, keep it; maps of a tensor, too."""
        own = self.inputs.intensity in ("stored", "binding") or self.inputs.name != "image"
        return "stored" if own else "zscore"

    def _people(self) -> tuple[pd.DataFrame, Any, dict[str, str]]:
        """Rows of the predictions, one per person with complete columns; who is left out, why."""
        table = read_table(Path(self.inputs.people))
        table["row"] = np.arange(len(table))
        given = self.inputs
        participants = Path(given.participants) if isdefined(given.participants) else None
        return join_people(table, self._options, given.covariates, given.cohort, participants)

    def _write_maps(
        self, path: Path, cache: Any, people: pd.DataFrame, rows: list[int], mask: np.ndarray
    ) -> None:
        """(people, voxels in the mask) float32, smoothed, one person after the other."""
        from models.smoothing import smooth
        from models.volumes import scale_intensity

        stack = np.load(self.inputs.stack, mmap_mode="r") if self.inputs.stack else None
        data = np.lib.format.open_memmap(
            path, mode="w+", dtype=np.float32, shape=(len(people), int(mask.sum()))
        )
        fwhm = self._options.smoothing_fwhm_mm
        for i, (row, cached) in enumerate(zip(people["row"], rows, strict=True)):
            volume = (
                scale_intensity(self._image(cache.volumes[cached]), self._scale)
                if stack is None
                else np.asarray(stack[row], np.float32)
            )
            data[i] = smooth(volume, cache.grid.affine, fwhm, mask)[mask]
        data.flush()

    def _image(self, volume: np.ndarray) -> np.ndarray:
        """The first channel, or the map that is made of all of them."""
        from pipelines.preprocess import modality_of

        if self.inputs.name == "image":
            return np.asarray(volume[0], np.float32)
        make = modality_of(self.inputs.modality).maps[self.inputs.name]
        return make(np.asarray(volume, np.float32))

    def _folds(self, people: pd.DataFrame) -> np.ndarray | None:
        """Test folds, where maps of one fold share a network and those of two folds do not."""
        if self.inputs.exchange_within_fold and self._explains:
            return people["fold"].to_numpy(int)
        return None

    def _exchanged(self, within: np.ndarray | None) -> str | None:
        options = self._options
        if not options.permuted:
            return None
        if options.flips:
            moves = "signs are flipped"
        else:
            limits = ["test fold"] * (within is not None)
            limits += [options.exchange_within] * bool(options.exchange_within)
            moves = f"within {' and '.join(limits)}" if limits else "free"
        whole = f"; people of one {options.exchange_whole} together"
        return moves + whole * bool(options.exchange_whole)

    def _exchange(self, people: Any, within: np.ndarray | None) -> Any:
        return exchange(self._options, people, within)

    def _facts(
        self,
        people: Any,
        excluded: dict[str, str],
        design: Any,
        within: np.ndarray | None,
        voxels: int,
    ) -> dict[str, Any]:
        options, (negative, positive) = self._options, self.inputs.classes
        counts = {name: int((people.labels == name).sum()) for name in (positive, negative)}
        return {
            "Contrast": ", ".join(options.rows) if options.contrast else f"{positive} - {negative}",
            **({"Terms": list(options.terms)} if options.contrast else {}),
            "DesignColumns": list(design.names),
            "ContrastWeights": np.asarray(design.contrast).tolist(),
            "Exchangeability": self._exchanged(within),
            "VarianceGroups": [positive, negative] if options.variance_groups else None,
            "SmoothingFWHM_mm": options.smoothing_fwhm_mm,
            "Intensity": "as computed" if self._explains else _SCALES[self._scale],
            "MinClusterMm3": options.min_cluster_mm3,
            "Participants": counts,
            "Excluded": excluded,
            "Covariates": [] if options.contrast else list(self.inputs.covariates),
            "Mask": f"{voxels} voxels in the brain of at least {BRAIN_SHARE:.0%} of the people",
            "Seed": self.inputs.seed,
            "Determinism": "same orders for the same seed; maxima within float32 rounding",
        }

    def _entities(self, grid: Grid) -> dict[str, str]:
        contrast = self._options.contrast
        classes = reversed(list(self.inputs.classes))
        named = contrast_label(contrast) if contrast else "Minus".join(map(label, classes))
        if self._explains:
            names = HeatmapNames(
                self.inputs.model, self.inputs.classes[1], grid, self.inputs.modality
            )
            return names.image(self.inputs.name, contrast=named)
        return {
            "mod": self.inputs.modality,
            "space": SPACE,
            "model": self.inputs.model,
            "param": "" if self.inputs.name == "image" else self.inputs.name,
            "res": grid.name,
            "contrast": named,
        }


# --- products ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shelf:
    """Writes the files of a test under their names."""

    cwd: Path
    entities: Mapping[str, str]
    grid: Grid
    ipsilateral: bool = False

    def image(
        self, volume: np.ndarray, facts: Mapping[str, Any], what: str, **more: str
    ) -> Products:
        path = relative_path("statmap", ".nii.gz", {**self.entities, **more})
        file = self.cwd / Path(path).name
        sides = {"ipsilateral": self.ipsilateral}
        write_nifti(file, volume, self.grid.affine, template=True, **sides)
        sidecar = {"Description": what, **facts, **grid_sidecar(self.grid)}
        return {path: {"file": str(file), "sidecar": sidecar}}

    def table(self, rows: pd.DataFrame, facts: Mapping[str, Any], desc: str) -> Products:
        path = relative_path("clusters", ".tsv", {**self.entities, "desc": desc})
        write_table(self.cwd / Path(path).name, rows)
        return {path: {"file": str(self.cwd / Path(path).name), "sidecar": dict(facts)}}

    def figure(self, figure: Any, what: str) -> Products:
        from pipelines.figures import save

        stem = Path(relative_path("x", "", self.entities)).name.removesuffix("_x")
        name = f"{stem}_{what}.png"
        save(figure, self.cwd / name)
        return {f"group/figures/{name}": {"file": str(self.cwd / name), "sidecar": None}}


@dataclass(frozen=True)
class _Report:
    """Maps, clusters and pictures of a result."""

    shelf: _Shelf
    options: StatisticsOptions
    mask: np.ndarray
    result: Any
    facts: Mapping[str, Any]

    @property
    def first(self) -> str:
        """The correction that decides what is significant."""
        return self.options.corrections[0]

    def products(self, regions: list[Regions], background: nib.Nifti1Image) -> Products:
        statistic = self._volume(self.result.statistic)
        p = {name: self._volume(one.p, 1.0) for name, one in self.result.outcomes.items()}
        labels, clusters = self._clusters(statistic, p, regions)
        kept = np.where(labels > 0, statistic, 0)
        desc, name = CORRECTIONS[self.first].desc, self.result.name
        facts = {
            **self.facts,
            **self.result.outcomes[self.first].facts,
            **{key: regions[0].sidecar[key] for key in ("Atlas", "AtlasNote")},
            "Atlases": list(dict.fromkeys(one.atlas.name for one in regions)),
        }
        shelf = self.shelf
        products = shelf.image(statistic, facts, f"{name} value", stat=name)
        products |= self._corrected(p)
        # + 0.0, so that p = 1 reads 0 and not -0
        products |= shelf.image(
            -np.log10(p[self.first]) + 0.0, facts, "minus log10 of the corrected p value",
            stat="logp", desc=desc,
        )  # fmt: skip
        said = f"{name} value of the significant clusters, else 0"
        products |= shelf.image(kept, facts, said, stat=name, desc=desc)
        if self.result.tfce is not None:
            enhanced = self._volume(self.result.tfce)
            products |= shelf.image(
                enhanced, facts, "threshold-free cluster enhancement", stat="tfce"
            )
        return products | shelf.table(clusters, facts, desc) | self._figures(kept, background)

    def _volume(self, values: np.ndarray, outside: float = 0.0) -> np.ndarray:
        volume = np.full(self.mask.shape, outside)
        volume[self.mask] = values
        return volume

    def _corrected(self, p: Mapping[str, np.ndarray]) -> Products:
        """The p map of every correction."""
        products: Products = {}
        for name, volume in p.items():
            facts = {**self.facts, **self.result.outcomes[name].facts}
            what = "corrected p value, 1 outside the mask"
            products |= self.shelf.image(volume, facts, what, stat="p", desc=CORRECTIONS[name].desc)
        return products

    def _clusters(
        self, statistic: np.ndarray, p: Mapping[str, np.ndarray], regions: list[Regions]
    ) -> tuple[np.ndarray, pd.DataFrame]:
        from models.statistics.clusters import name_peaks, name_shares, significant_clusters

        affine, options = self.shelf.grid.affine, self.options
        labels, table = significant_clusters(
            statistic, p[self.first], affine, options.alpha, options.min_cluster_mm3,
            also={name: volume for name, volume in p.items() if name != self.first},
        )  # fmt: skip
        main = regions[0]
        table = name_peaks(table, main.labels, affine, main.atlas.labels)
        shares = {
            f"regions_{label(one.atlas.name)}": (one.labels, one.atlas.labels) for one in regions
        }
        table = name_shares(table, labels, shares)
        if self.result.name in "FG":  # which knows no sign
            table = table.drop(columns="sign")
        return labels, table.rename(
            columns={
                "peak_t": f"peak_{self.result.name}",
                "peak_p_fwe": CORRECTIONS[self.first].p_column,
            }
        )

    def _figures(self, kept: np.ndarray, background: nib.Nifti1Image) -> Products:
        from pipelines.figures import glass_brain, plot_slices

        image = nib.Nifti1Image(kept.astype(np.float32), self.shelf.grid.affine)
        if self.shelf.ipsilateral:
            mark_ipsilateral(image)
        least = float(np.abs(kept[kept != 0]).min()) if kept.any() else None
        units = self.result.name
        slices = plot_slices(background, image, units=units, threshold=least)
        return {
            **self.shelf.figure(slices, "statmap"),
            **self.shelf.figure(glass_brain(image, units=units), "glass"),
            **self._null(),
        }

    def _null(self) -> Products:
        """The null distribution of the first correction that has one."""
        from pipelines.charts import null_distribution

        outcomes = [one for one in self.result.outcomes.values() if one.maxima is not None]
        if not outcomes:
            return {}
        one = outcomes[0]
        figure = null_distribution(one.maxima[1:], one.threshold, float(one.maxima[0]))
        figure.axes[0].set_xlabel(f"largest {one.facts['ThresholdOf']} over the brain")
        return self.shelf.figure(figure, "null")


def _brain(cache: Any, rows: list[int]) -> tuple[np.ndarray, nib.Nifti1Image]:
    """Voxels inside the brain of nearly everybody, and the mean image; one image at a time."""
    inside = np.zeros(cache.grid.shape, np.int32)
    total = np.zeros(cache.grid.shape, np.float32)
    for row in rows:
        volume = np.asarray(cache.volumes[row, 0], np.float32)
        inside += volume != 0
        total += volume
    mask = _enough(inside / len(rows))
    background = anatomy(total / len(rows), cache.grid.affine, ipsilateral=cache.ipsilateral)
    return mask, background


def _enough(share: np.ndarray) -> np.ndarray:
    """Voxels of the brain of nearly everybody, by the share of people who have brain there."""
    mask = share >= BRAIN_SHARE
    if not mask.any():
        raise InputError("the people's brains do not overlap: look at the registration figures")
    return mask
