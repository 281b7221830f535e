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
    folds = [asdict(split) for split in splits]
    gpu = {"device": device, "use_gpu": device != "cpu"}
    shared = {"cohort": cohort, "model": study.model, "classes": list(study.classes)}
    options = study.statistics
    heatmaps = [name for name in options.maps if name != "image"]

    pack = pe.Node(
        PackVolumes(cohort=cohort, grid=dict(study.grid), intensity=study.intensity), name="pack"
    )
    train = pe.MapNode(
        TrainFold(
            cohort=cohort,
            network=dict(study.network),
            protocol=dict(study.protocol),
            seed=study.seed,
            model=study.model,
            stored=str(output_dir),
            force=force,
            **gpu,
        ),
        iterfield=["split"],
        name="train",
        mem_gb=3,
    )
    train.inputs.split = folds
    predict = pe.Node(Predictions(card=dict(card), **shared), name="predict")
    explain = pe.MapNode(
        ExplainFold(
            cohort=cohort,
            network=dict(study.network),
            attributions=[dict(one) for one in study.attributions],
            **gpu,
        ),
        iterfield=["split", "weights"],
        name="explain",
        mem_gb=3,
    )
    explain.inputs.split = folds
    summarise = pe.MapNode(
        SummariseMethod(atlas=study.atlas, **shared),
        iterfield=["attribution"],
        name="summarise",
        mem_gb=2,
    )
    summarise.inputs.attribution = [dict(one) for one in study.attributions]
    stacks = pe.Node(
        niu.Function(["stacks", "names", "wanted"], ["chosen"], function=choose_stacks),
        name="stacks",
    )
    stacks.inputs.stacks = []
    stacks.inputs.names = [one["name"] for one in study.attributions]
    stacks.inputs.wanted = list(options.maps)
    test = pe.MapNode(
        VoxelwiseTest(
            covariates=list(study.covariates),
            atlas=study.atlas,
            smoothing_fwhm_mm=options.smoothing_fwhm_mm,
            permutations=options.permutations,
            alpha=options.alpha,
            min_cluster_mm3=options.min_cluster_mm3,
            exchange_within_fold=max(split.repeat for split in splits) == 1,
            seed=study.seed,
            **shared,
            **gpu,
        ),
        iterfield=["name", "stack"],
        name="test",
        mem_gb=2,
    )
    test.inputs.name = ["image", *heatmaps] if "image" in options.maps else heatmaps
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
            (train, predict, [("scores", "scores"), ("history", "histories")]),
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
    if options.maps:
        workflow.connect(
            [
                (pack, test, cached),
                (predict, test, [("table", "people")]),
                (stacks, test, [("chosen", "stack")]),
                (test, save_tests, [("products", "products")]),
            ]
        )
    return workflow


def choose_stacks(stacks: list, names: list, wanted: list) -> list:
    """Stacks of the maps to test, "" for the images, which come first."""
    found = dict(zip(names, stacks, strict=True))
    images = [""] if "image" in wanted else []
    return images + [found[name] for name in wanted if name != "image"]
