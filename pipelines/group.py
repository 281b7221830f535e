"""Group level: pack, train, predict, explain out of fold, test; on derivatives alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from models.training.splits import Split
from pipelines.interfaces.attribution import ExplainFold, SummariseMethod
from pipelines.interfaces.networks import PackVolumes, Predictions, TrainFold
from pipelines.interfaces.sink import SaveProducts
from pipelines.interfaces.statistics import VoxelwiseTest


@dataclass(frozen=True)
class StatisticsOptions:
    """How maps of two groups are compared.

    Parameters
    ----------
    maps : tuple of str
        ``image``, and names of attributions.
    smoothing_fwhm_mm : float
    permutations : int
    alpha : float
        Family-wise error.
    min_cluster_mm3 : float
    """

    maps: tuple[str, ...] = ("image",)
    smoothing_fwhm_mm: float = 8.0
    permutations: int = 1000
    alpha: float = 0.05
    min_cluster_mm3: float = 0.0


@dataclass(frozen=True)
class Study:
    """What a group run is about; everything that its model card must say.

    Parameters
    ----------
    model : str
        Label of the model.
    classes : tuple of str
        Negative and positive class as in participants.tsv.
    grid : dict
        name, shape, voxel_mm, origin_mm.
    intensity : str
        Intensity scale of the network's input.
    network, protocol : dict
        The recipe's tables.
    attributions : tuple of dict
        Each with a unique alphanumeric ``name``, a ``method`` and parameters.
    atlas : str
        Name or file.
    covariates : tuple of str
        Columns of the cohort table.
    statistics : StatisticsOptions
    seed : int
    """

    model: str
    classes: tuple[str, str]
    grid: Mapping[str, Any]
    intensity: str
    network: Mapping[str, Any]
    protocol: Mapping[str, Any]
    attributions: tuple[Mapping[str, Any], ...]
    atlas: str
    covariates: tuple[str, ...]
    statistics: StatisticsOptions
    seed: int

    def card(self, recipe: Mapping[str, Any], versions: Mapping[str, str], folds: int) -> dict:
        """The model card without its results."""
        return {
            "Name": self.model,
            "Classes": list(self.classes),
            "Grid": dict(self.grid),
            "Intensity": self.intensity,
            "Network": dict(self.network),
            "Protocol": dict(self.protocol),
            "Attributions": [dict(one) for one in self.attributions],
            "Atlas": self.atlas,
            "Seed": self.seed,
            "Folds": folds,
            "Versions": dict(versions),
            "Recipe": dict(recipe),
            "IntendedUse": "research; not a medical device",
        }


def init_group_wf(
    *,
    study: Study,
    cohort: Path,
    splits: Sequence[Split],
    card: Mapping[str, Any],
    output_dir: Path,
    work_dir: Path,
    device: str = "cpu",
    force: bool = False,
) -> pe.Workflow:
    """Classify, explain out of fold, aggregate and test.

    Folds, methods and maps are MapNodes, so that any nipype plugin runs them side by side.

    Parameters
    ----------
    cohort : Path
        Table of :func:`pipelines.interfaces.networks.read_cohort`.
    splits : sequence of Split
    card : mapping
        See :meth:`Study.card`.
    """
    plan = _Plan(study, cohort, [asdict(split) for split in splits], output_dir, device)
    pack, train, predict = plan.classification(card, force=force)
    explain, summarise, stacks = plan.explanation()
    test = plan.statistics()
    # A sink per stage: what is computed is kept when a later stage fails.
    gather = pe.Node(niu.Merge(2), name="gather")  # the model card is written after the weights
    save_model, save_heatmaps, save_tests = (
        pe.Node(
            SaveProducts(output_dir=str(output_dir), common={"SoftwareVersions": card["Versions"]}),
            name=name,
            overwrite=True,
        )
        for name in ("save_model", "save_heatmaps", "save_tests")
    )

    workflow = pe.Workflow(f"group_{study.model}", base_dir=str(work_dir))
    cached = [("cache", "cache"), ("content_hash", "content_hash")]
    workflow.connect(
        [
            (pack, train, cached),
            (pack, predict, [("content_hash", "content_hash")]),
            (
                train,
                predict,
                [("scores", "scores"), ("history", "histories"), ("weights", "weights")],
            ),
            (train, gather, [("products", "in1")]),
            (predict, gather, [("products", "in2")]),
            (gather, save_model, [("out", "products")]),
        ]
    )
    if study.attributions:
        workflow.connect(
            [
                (pack, explain, cached),
                (pack, summarise, cached),
                (train, explain, [("weights", "weights")]),
                (explain, summarise, [("maps", "folds")]),
                (predict, summarise, [("table", "predictions")]),
                (summarise, save_heatmaps, [("products", "products")]),
                (summarise, stacks, [("stack", "stacks")]),
            ]
        )
    if study.statistics.maps:
        workflow.connect(
            [
                (pack, test, cached),
                (predict, test, [("table", "people")]),
                (stacks, test, [("chosen", "stack")]),
                (test, save_tests, [("products", "products")]),
            ]
        )
    return workflow


@dataclass(frozen=True)
class _Plan:
    """The nodes of a group run, by stage; :func:`init_group_wf` connects them."""

    study: Study
    cohort: Path
    folds: list[dict[str, Any]]
    output_dir: Path
    device: str

    @property
    def _gpu(self) -> dict[str, Any]:
        return {"device": self.device, "use_gpu": self.device != "cpu"}

    @property
    def _shared(self) -> dict[str, Any]:
        study = self.study
        return {"cohort": self.cohort, "model": study.model, "classes": list(study.classes)}

    def classification(
        self, card: Mapping[str, Any], *, force: bool
    ) -> tuple[pe.Node, pe.MapNode, pe.Node]:
        """Pack the images, train every fold, gather the predictions."""
        study = self.study
        pack = pe.Node(
            PackVolumes(cohort=self.cohort, grid=dict(study.grid), intensity=study.intensity),
            name="pack",
        )
        train = pe.MapNode(
            TrainFold(
                cohort=self.cohort,
                network=dict(study.network),
                protocol=dict(study.protocol),
                seed=study.seed,
                model=study.model,
                stored=str(self.output_dir),
                force=force,
                **self._gpu,
            ),
            iterfield=["split"],
            name="train",
            mem_gb=3,
        )
        train.inputs.split = self.folds
        return pack, train, pe.Node(Predictions(card=dict(card), **self._shared), name="predict")

    def explanation(self) -> tuple[pe.MapNode, pe.MapNode, pe.Node]:
        """Explain the test people of every fold, summarise every method, choose maps to test."""
        study = self.study
        attributions = [dict(one) for one in study.attributions]
        explain = pe.MapNode(
            ExplainFold(
                cohort=self.cohort,
                network=dict(study.network),
                attributions=attributions,
                atlas=study.atlas,
                **self._gpu,
            ),
            iterfield=["split", "weights"],
            name="explain",
            mem_gb=3,
        )
        explain.inputs.split = self.folds
        summarise = pe.MapNode(
            SummariseMethod(atlas=study.atlas, **self._shared),
            iterfield=["attribution"],
            name="summarise",
            mem_gb=2,
        )
        summarise.inputs.attribution = attributions
        stacks = pe.Node(
            niu.Function(["stacks", "names", "wanted"], ["chosen"], function=choose_stacks),
            name="stacks",
        )
        stacks.inputs.stacks = []
        stacks.inputs.names = [one["name"] for one in attributions]
        stacks.inputs.wanted = list(study.statistics.maps)
        return explain, summarise, stacks

    def statistics(self) -> pe.MapNode:
        """Test every map: the images first, then the heatmaps in the recipe's order."""
        study, options = self.study, self.study.statistics
        test = pe.MapNode(
            VoxelwiseTest(
                covariates=list(study.covariates),
                atlas=study.atlas,
                smoothing_fwhm_mm=options.smoothing_fwhm_mm,
                permutations=options.permutations,
                alpha=options.alpha,
                min_cluster_mm3=options.min_cluster_mm3,
                exchange_within_fold=max(fold["repeat"] for fold in self.folds) == 1,
                seed=study.seed,
                **self._shared,
                **self._gpu,
            ),
            iterfield=["name", "stack"],
            name="test",
            mem_gb=2,
        )
        test.inputs.name = sorted(options.maps, key=lambda name: name != "image")
        return test


def choose_stacks(stacks: list, names: list, wanted: list) -> list:
    """Stacks of the maps to test, "" for the images, which come first."""
    found = dict(zip(names, stacks, strict=True))
    images = [""] if "image" in wanted else []
    return images + [found[name] for name in wanted if name != "image"]
