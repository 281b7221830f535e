"""The stages of a group run, each a page: its nodes, what they are given, and a sink of its own.

What is computed is kept when a later stage fails.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from pipelines.atlases import SHIPPED, atlas
from pipelines.explain import in_list
from pipelines.interfaces.analytics import AnalyseMethod, CompareMethods
from pipelines.interfaces.attribution import ExplainFold
from pipelines.interfaces.baselines import BaselineFeatures, BaselineFold, Baselines
from pipelines.interfaces.carried import CarryMaps, GatherMaps
from pipelines.interfaces.harmonisation import HarmoniseFold
from pipelines.interfaces.lesions import AnalyseLesions, CompareTransfer
from pipelines.interfaces.networks import PackVolumes, Predictions, TrainFold
from pipelines.interfaces.sink import SaveProducts
from pipelines.interfaces.statistics import VoxelwiseTest
from pipelines.interfaces.summaries import BLOCK, PersonMaps, SummariseMethod
from pipelines.interfaces.volumes import CohortVolumes, RegionVolumes
from pipelines.people import check_design
from pipelines.region_volumes import Deformations, columns_of, measured_of
from pipelines.study import Study

CACHED = [("cache", "cache"), ("content_hash", "content_hash")]
ONCE = [("cohort", "cohort")]  # of equal sessions of a person, one trains


@dataclass(frozen=True)
class Stages:
    """Adds stages to the workflow of a group run; a stage finds the nodes before it by name."""

    study: Study
    cohort: Path
    folds: list[dict[str, Any]]
    output_dir: Path
    workflow: pe.Workflow
    versions: Mapping[str, str]
    device: str = "cpu"
    processes: int = 1

    def classify(self, card: Mapping[str, Any], *, force: bool) -> None:
        """Pack the images, train every fold, gather the predictions."""
        study = self.study
        pack = pe.Node(
            PackVolumes(
                cohort=self.cohort,
                grid=dict(study.grid),
                modality=study.modality,
                intensity=study.intensity,
                model=study.model,
                view=study.view.as_dict(),
                sides=study.view.sides.values(self.output_dir / "participants.tsv"),
            ),
            name="pack",
        )
        train = pe.MapNode(
            TrainFold(
                network=dict(study.network),
                protocol=dict(study.protocol),
                search=dict(study.search),
                seed=study.seed,
                threshold=study.threshold,
                model=study.model,
                stored=str(self.output_dir),
                force=force,
                harmonised=self._harmonised,
                processes=self.processes,
                **self._gpu,
            ),
            iterfield=["split", "transfer", *self._maps],
            name="train",
            mem_gb=3,
            n_procs=self.processes,
        )
        train.inputs.split = self.folds
        train.inputs.transfer = study.starts.folds if study.starts else [{} for _ in self.folds]
        predict = pe.Node(Predictions(card=dict(card), **self._shared), name="predict")
        # The model card is written after the weights, and what harmonises their images (in2).
        gather = pe.Node(niu.Merge(4 if self._maps else 3), name="gather")
        after = 3 if self._maps else 2
        scores = [("scores", "scores"), ("seen", "seen"), ("history", "histories")]
        self.workflow.connect(
            [
                (pack, train, [*CACHED, *ONCE]),
                (pack, predict, [("content_hash", "content_hash")]),
                (train, predict, [*scores, ("weights", "weights")]),
                (train, gather, [("products", "in1")]),
                (predict, gather, [("products", f"in{after}")]),
                (pack, gather, [("products", f"in{after + 1}")]),
                (gather, self._sink("save_model"), [("out", "products")]),
            ]
        )

    def fit_baselines(self) -> None:
        """What the baselines look at, every fold of them, and the network beside them."""
        study, options = self.study, asdict(self.study.baselines)
        if not study.registered and not study.volumes:  # no atlas fits the images
            options["names"] = tuple(one for one in options["names"] if one != "svm_regions")
        site = [study.site] if study.site else []
        covariates = list(dict.fromkeys([*study.covariates, *site]))
        look = BaselineFeatures(
            cohort=self.cohort,
            names=list(options["names"]),
            atlas=study.atlas,
            volumes=columns_of(study.volumes),
            regions=measured_of(study.volumes),
        )
        # One file serves every fold, unless each sees the images in its own way.
        features = (
            pe.MapNode(look, iterfield=self._maps, name="features", mem_gb=2)
            if self._maps
            else pe.Node(look, name="features", mem_gb=2)
        )
        fit = pe.MapNode(
            BaselineFold(options=options, covariates=covariates, words=site, seed=study.seed),
            iterfield=["split", *(["features"] if self._maps else [])],
            name="fit_baselines",
            mem_gb=2,
        )
        fit.inputs.split = self.folds
        named = {"model": study.model, "classes": list(study.classes)}
        beside = pe.Node(Baselines(covariates=covariates, options=options, **named), name="beside")
        pack, predict = self._nodes("pack", "predict")
        self.workflow.connect(
            [
                (pack, features, CACHED),
                (pack, fit, ONCE),
                (features, fit, [("features", "features")]),
                (features, beside, [(("facts", the_facts), "facts")]),
                (fit, beside, [("scores", "scores"), ("choices", "choices")]),
                (predict, beside, [("table", "predictions")]),
                (beside, self._sink("save_baselines"), [(("products", in_list), "products")]),
            ]
        )

    def explain(self) -> None:
        """Explain the test people of every fold, summarise every method, draw everybody's maps."""
        study, attributions = self.study, self._attributions
        shared = {"atlas": study.atlas, "space": study.space}
        explain = pe.MapNode(
            ExplainFold(
                cohort=self.cohort,
                network=dict(study.network),
                attributions=attributions,
                **shared,
                **self._gpu,
            ),
            iterfield=["split", "weights", *self._maps],
            name="explain",
            mem_gb=3,
        )
        explain.inputs.split = self.folds
        summarise = pe.MapNode(
            SummariseMethod(repeats=self._repeats, **shared, **self._shared),
            iterfield=["attribution"],
            name="summarise",
            mem_gb=2,
        )
        summarise.inputs.attribution = attributions
        draw = pe.MapNode(
            PersonMaps(**shared, **self._shared),
            iterfield=["attribution", "facts", "block"],
            name="draw",
            mem_gb=1,
        )
        blocks = max(1, math.ceil(len(self._tested) / BLOCK))  # of people, a node for each
        draw.inputs.attribution = for_each_block(attributions, blocks)
        draw.inputs.block = [[first, blocks] for _ in attributions for first in range(blocks)]
        pack, train, predict = self._nodes("pack", "train", "predict")
        explained = pe.Node(niu.Merge(2), name="explained")
        self.workflow.connect(
            [
                (pack, explain, CACHED),
                (train, explain, [("weights", "weights")]),
                (pack, summarise, CACHED),
                (explain, summarise, [("maps", "folds")]),
                (predict, summarise, [("table", "predictions")]),
                (pack, draw, CACHED),
                (predict, draw, [("table", "predictions")]),
                (summarise, draw, [(("facts", for_each_block, blocks), "facts")]),
                (summarise, explained, [("products", "in1")]),
                (draw, explained, [("products", "in2")]),
                (explained, self._sink("save_heatmaps"), [("out", "products")]),
            ]
        )

    def analyse(self) -> None:
        """Analyse every method over the trainings, then compare the methods."""
        study, attributions = self.study, self._attributions
        analyse = pe.MapNode(
            AnalyseMethod(
                atlas=study.atlas,
                repeats=self._repeats,
                volumes=dict(study.volumes),
                exclude=asdict(study.exclude),
                covariates=list(study.covariates),
                intensity=study.intensity,
                splits=self.folds,
                min_cluster_mm3=study.statistics.min_cluster_mm3,
                seed=study.seed,
                **self._shared,
            ),
            iterfield=["attribution", "region_tables"],
            name="analyse",
            mem_gb=3,
        )
        analyse.inputs.attribution = attributions
        compare = pe.Node(
            CompareMethods(
                names=[one["name"] for one in attributions],
                methods=[one["method"] for one in attributions],
                atlas=study.atlas,
                **self._shared,
            ),
            name="compare",
        )
        pack, train, predict, explain, summarise = self._nodes(
            "pack", "train", "predict", "explain", "summarise"
        )
        for node in (analyse, compare):
            self.workflow.connect(
                [
                    (pack, node, CACHED),
                    (train, node, [("scores", "scores")]),
                    (predict, node, [("table", "predictions")]),
                    (summarise, node, [("region_tables", "region_tables")]),
                ]
            )
        analysed = pe.Node(niu.Merge(2), name="analysed")
        self.workflow.connect(
            [
                (explain, analyse, [("maps", "folds")]),
                (analyse, compare, [("distances", "distances")]),
                (analyse, analysed, [("products", "in1")]),
                (compare, analysed, [("products", "in2")]),
                (analysed, self._sink("save_analytics"), [("out", "products")]),
            ]
        )

    def look_beside(self) -> None:
        """Lesions beside the maps, and the maps before transfer: where there is either."""
        study = self.study
        starts = study.starts.folds if study.starts else []
        common = {
            **self._shared,
            "atlas": study.atlas,
            "network": dict(study.network),
            "seed": study.seed,
        }
        wanted: dict[str, Any] = {}
        if study.lesions:
            wanted["lesions"] = AnalyseLesions(**common)
        if any(starts) and not study.harmonisation.wanted:
            wanted["transfer"] = CompareTransfer(splits=self.folds, starts=starts, **common)
        pack, predict, summarise = self._nodes("pack", "predict", "summarise")
        for name, interface in wanted.items():
            node = pe.MapNode(interface, iterfield=["attribution", "stack"], name=name, mem_gb=3)
            node.inputs.attribution = self._attributions
            self.workflow.connect(
                [
                    (pack, node, CACHED),
                    (predict, node, [("table", "predictions")]),
                    (summarise, node, [("stack", "stack")]),
                    (node, self._sink(f"save_{name}"), [("products", "products")]),
                ]
            )

    def carry_to_template(self) -> None:
        """Take the maps of images that were not registered to the template, person by person."""
        study, attributions = self.study, self._attributions
        ways = list(study.ways.values())
        carry = pe.MapNode(
            CarryMaps(names=self._explained, maps=self._of_images, modality=study.modality),
            iterfield=["participant", "session", "image", "transform"],
            name="carry_maps",
            mem_gb=1.5,
        )
        gather = pe.Node(
            GatherMaps(
                attributions=attributions,
                maps=self._of_images,
                grid=dict(study.grid),
                classes=list(study.classes),
                model=study.model,
                modality=study.modality,
                atlas=study.atlas,
                ipsilateral=study.view.mirror,
            ),
            name="gather_maps",
            mem_gb=2,
        )
        for node, plural in ((carry, ""), (gather, "s")):
            setattr(node.inputs, f"participant{plural}", [one for one, _ in study.ways])
            setattr(node.inputs, f"session{plural}", [one for _, one in study.ways])
        carry.inputs.image = [image for image, _ in ways]
        carry.inputs.transform = [transform for _, transform in ways]
        pack, predict, summarise = self._nodes("pack", "predict", "summarise")
        self.workflow.connect(
            [
                (pack, carry, CACHED),
                (predict, carry, [("table", "predictions")]),
                (predict, gather, [("table", "predictions")]),
                (summarise, carry, [("facts", "facts")]),
                (carry, gather, [("out_file", "files")]),
                (gather, self._sink("save_carried"), [("products", "products")]),
            ]
        )

    def harmonise(self) -> None:
        """Learn in every fold what the sites add to the images; all who see images get it."""
        harmonise = pe.MapNode(
            HarmoniseFold(model=self.study.model, **self._harmonised),
            iterfield=["split"],
            name="harmonise",
            mem_gb=2,
        )
        harmonise.inputs.split = self.folds
        pack, gather = self._nodes("pack", "gather")
        self.workflow.connect(
            [
                (pack, harmonise, [*CACHED, *ONCE]),
                (harmonise, gather, [("products", "in2")]),
                *[
                    (harmonise, node, [("maps", "harmonisation")])
                    for node in self._nodes("train", "features", "explain")
                    if node is not None
                ],
            ]
        )

    def measure_volumes(self, deformations: Deformations) -> None:
        """Volumes of the regions of each image, then of everybody in one table."""
        transforms, grid = list(deformations.files.values()), dict(deformations.grid)
        measure = pe.MapNode(
            RegionVolumes(grid=grid, atlas=self.study.atlas),
            iterfield=["transform"],
            name="measure",
            mem_gb=1.5,
        )
        measure.inputs.transform = transforms
        tabulate = pe.Node(
            CohortVolumes(
                participants=[participant for participant, _ in deformations.files],
                sessions=[session for _, session in deformations.files],
                transforms=transforms,
                grid=grid,
                atlas=self.study.atlas,
                model=self.study.model,
            ),
            name="tabulate",
        )
        self.workflow.connect(
            [
                (measure, tabulate, [("table", "tables")]),
                (tabulate, self._sink("save_volumes"), [(("products", in_list), "products")]),
                *[
                    (tabulate, node, [("joined", "measured")])
                    for node in self._nodes("features", "analyse")
                    if node is not None
                ],
            ]
        )

    def test(self) -> None:
        """Test every map: the images first, then the heatmaps in the recipe's order."""
        study, options = self.study, self.study.statistics
        asked = {key: value for key, value in asdict(options).items() if key != "memory_mb"}
        asked["cluster_atlases"] = tuple(map(_atlas_place, options.cluster_atlases))
        test = pe.MapNode(
            VoxelwiseTest(
                intensity=study.intensity,
                covariates=list(study.covariates),
                atlas=study.atlas,
                options=asked,
                memory_mb=options.memory_mb,
                exchange_within_fold=max(self._repeats) == 1,
                seed=study.seed,
                **self._shared,
                **self._gpu,
            ),
            iterfield=["name", "stack"],
            name="test",
            mem_gb=2,
        )
        if options.columns or options.blocks:
            participants = self.output_dir / "participants.tsv"
            check_design(options, study.classes, self.cohort, participants, self._tested)
            test.inputs.participants = participants
        test.inputs.name = [*self._of_images, *(n for n in options.maps if n in self._explained)]
        stacks = pe.Node(
            niu.Function(["stacks", "names", "wanted"], ["chosen"], function=choose_stacks),
            name="stacks",
        )
        stacks.inputs.stacks = []
        stacks.inputs.names = self._explained
        stacks.inputs.wanted = list(options.maps)
        pack, predict, summarise, carried = self._nodes(
            "pack", "predict", "summarise", "gather_maps"
        )
        if carried is not None:
            stacks.inputs.names = [*self._explained, *self._of_images]
            maps = (carried, stacks, [("stacks", "stacks")])
            people = (carried, test, [("people", "people"), ("brain", "brain")])
        else:
            maps = (summarise, stacks, [("stack", "stacks")])
            people = (predict, test, [("table", "people")])
        self.workflow.connect(
            [
                *([maps] if study.attributions else []),
                (pack, test, CACHED),
                people,
                (stacks, test, [("chosen", "stack")]),
                (test, self._sink("save_tests"), [("products", "products")]),
            ]
        )

    def _nodes(self, *names: str) -> list[Any]:
        """Nodes of earlier stages; None of stages that there are not."""
        return [self.workflow.get_node(name) for name in names]

    def _sink(self, name: str) -> pe.Node:
        common = {"SoftwareVersions": self.versions}
        sink = SaveProducts(output_dir=str(self.output_dir), common=common)
        return pe.Node(sink, name=name, overwrite=True)

    @property
    def _attributions(self) -> list[dict[str, Any]]:
        return [dict(one) for one in self.study.attributions]

    @property
    def _explained(self) -> list[str]:
        return [one["name"] for one in self.study.attributions]

    @property
    def _of_images(self) -> list[str]:
        """Maps to test that are no heatmaps."""
        return [name for name in self.study.statistics.maps if name not in self._explained]

    @property
    def _gpu(self) -> dict[str, Any]:
        return {"device": self.device, "use_gpu": self.device != "cpu"}

    @property
    def _maps(self) -> list[str]:
        """Field of a fold's harmonisation, where there is any."""
        return ["harmonisation"] if self.study.harmonisation.wanted else []

    @property
    def _harmonised(self) -> dict[str, Any]:
        if not self.study.harmonisation.wanted:
            return {}
        return {"options": asdict(self.study.harmonisation), "site": self.study.site}

    @property
    def _repeats(self) -> list[int]:
        return [fold["repeat"] for fold in self.folds]

    @property
    def _tested(self) -> set[str]:
        """Participants who are tested in any fold."""
        roles = [role for fold in self.folds for role in fold["roles"].items()]
        return {person for person, role in roles if role == "test"}

    @property
    def _shared(self) -> dict[str, Any]:
        study = self.study
        return {
            "cohort": self.cohort,
            "model": study.model,
            "classes": list(study.classes),
            "modality": study.modality,
        }


def _atlas_place(wanted: str) -> str:
    """A shipped atlas by its name, a file by its whole path, once it is known to be readable."""
    atlas(wanted)
    return wanted if wanted in SHIPPED else str(Path(wanted).absolute())


def for_each_block(values: list, blocks: int) -> list:
    """Every value as often as there are blocks of people, one after the other."""
    return [value for value in values for _ in range(blocks)]


def the_facts(facts: dict | list) -> dict:
    """What the baselines look at, which is the same in every fold."""
    return facts[0] if isinstance(facts, list) else facts


def choose_stacks(stacks: list, names: list, wanted: list) -> list:
    """Stacks of the maps to test, "" for those of the images, which come first."""
    found = dict(zip(names, stacks, strict=True))
    ordered = sorted(wanted, key=lambda name: name in found)
    return [found.get(name, "") for name in ordered]
