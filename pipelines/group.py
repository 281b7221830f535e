"""Group level: pack, train, predict, explain out of fold, test; on derivatives alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from models.training.splits import Split
from pipelines.atlases import SHIPPED, atlas
from pipelines.baselines import BaselineOptions
from pipelines.derivatives import SPACE
from pipelines.explain import in_list
from pipelines.harmonisation import HarmonisationOptions
from pipelines.heatmaps import NO_ANALYTICS, NO_COMMON_SPACE
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
from pipelines.statistics import StatisticsOptions
from pipelines.stored_models import network_file
from pipelines.transfer import Starts
from pipelines.view import Mask, View


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
    modality : str
        BIDS suffix of the images.
    intensity : str
        Intensity scale of the network's input.
    network, protocol : dict
        The recipe's tables.
    view : View
        What of an image the network sees.
    exclude : Mask
        Regions that do not count for the percentile above which clusters lie.
    attributions : tuple of dict
        Each with a unique alphanumeric ``name``, a ``method`` and parameters.
    atlas : str
        Name or file.
    covariates : tuple of str
        Columns of the cohort table.
    statistics : StatisticsOptions
    seed : int
    volumes : dict
        Region, sides joined, to the column of the cohort table that holds its volume, or to
        "jacobian" where the registration is to tell it.
    deformations : Deformations, optional
        Of everybody, where the registration is to tell volumes.
    threshold : float or str
        Probability from which the answer is the positive class; "validation": chosen per fold on
        its validation people.
    search : dict
        The recipe's [training.search].
    starts : Starts, optional
        Stored networks that the folds start from.
    space : str
        BIDS label of the space of the images. Where it is not the template's, a voxel is another
        place in every brain: there are no tables of regions, no means and no tests.
    ways : mapping
        (participant, session) to (image, transform from the template) of images that were not
        registered, where their maps can be taken there; then there are means and tests after all.
    baselines : BaselineOptions
        Simple classifiers beside the network; none without names.
    site : str
        Column of the cohort table with the site of each image; "" without one.
    harmonisation : HarmonisationOptions
        Whether sites are taken off the images inside each fold.
    lesions : bool
        Whether the cohort table names everybody's lesion mask.
    """

    model: str
    classes: tuple[str, str]
    grid: Mapping[str, Any]
    modality: str
    intensity: str
    network: Mapping[str, Any]
    protocol: Mapping[str, Any]
    attributions: tuple[Mapping[str, Any], ...]
    atlas: str
    covariates: tuple[str, ...]
    statistics: StatisticsOptions
    seed: int
    volumes: Mapping[str, str] = field(default_factory=dict)
    deformations: Deformations | None = None
    threshold: float | str = 0.5
    starts: Starts | None = None
    space: str = SPACE
    ways: Mapping[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    baselines: BaselineOptions = field(default_factory=lambda: BaselineOptions(names=()))
    site: str = ""
    harmonisation: HarmonisationOptions = field(default_factory=HarmonisationOptions)
    lesions: bool = False
    view: View = field(default_factory=View)
    exclude: Mask = field(default_factory=Mask)

    @property
    def registered(self) -> bool:
        """Whether voxels correspond between people."""
        return self.space == SPACE

    @property
    def comparable(self) -> bool:
        """Whether maps are in one space, at once or in the end."""
        return self.registered or bool(self.ways and self.attributions)

    @property
    def _limits(self) -> list[str]:
        if self.registered:
            return []
        return [NO_ANALYTICS if self.comparable else NO_COMMON_SPACE]

    def card(self, recipe: Mapping[str, Any], versions: Mapping[str, str], folds: int) -> dict:
        """The model card without its results."""
        network, recipe = dict(self.network), dict(recipe)
        if "file" in network:  # the model's folder holds a copy
            network["file"] = Path(network_file(self.model)).name
            recipe["network"] = network
        return {
            "Name": self.model,
            "Classes": list(self.classes),
            "Grid": dict(self.grid),
            "Modality": self.modality,
            "Space": self.space,
            "NotComputed": self._limits,
            "Intensity": self.intensity,
            "View": self.view.as_dict(),
            "Network": network,
            "Protocol": dict(self.protocol),
            "Attributions": [dict(one) for one in self.attributions],
            "Atlas": self.atlas,
            "Seed": self.seed,
            "Folds": folds,
            "Versions": dict(versions),
            "Recipe": recipe,
            "Search": dict(self.search),
            "Harmonisation": self.harmonisation.card(self.site),
            "Transfer": self.starts.provenance if self.starts else None,
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
    processes: int = 1,
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
    processes : int
        That train a fold together, each on a GPU of its own.
    """
    folds = [asdict(split) for split in splits]
    plan = _Plan(study, cohort, folds, output_dir, device, processes)
    pack, train, predict = plan.classification(card, force=force)
    explain, summarise, stacks = plan.explanation()
    draw = plan.person_maps()
    explained, analysed = (pe.Node(niu.Merge(2), name=one) for one in ("explained", "analysed"))
    analyse, compare = plan.analytics()
    test = plan.statistics()
    features, fit_baselines, beside = plan.baselines()
    # A sink per stage: what is computed is kept when a later stage fails.
    harmonise = plan.harmonisation() if study.harmonisation.wanted else None
    # The model card is written after the weights, and what harmonises their images.
    gather = pe.Node(niu.Merge(4 if harmonise else 3), name="gather")
    save_model, save_baselines, save_heatmaps, save_volumes, save_analytics, save_tests = (
        pe.Node(
            SaveProducts(output_dir=str(output_dir), common={"SoftwareVersions": card["Versions"]}),
            name=name,
            overwrite=True,
        )
        for name in (
            *("save_model", "save_baselines", "save_heatmaps", "save_volumes"),
            *("save_analytics", "save_tests"),
        )
    )

    workflow = pe.Workflow(f"group_{study.model}", base_dir=str(work_dir))
    cached = [("cache", "cache"), ("content_hash", "content_hash")]
    once = [("cohort", "cohort")]  # of equal sessions of a person, one trains
    workflow.connect(
        [
            (pack, train, [*cached, *once]),
            (pack, predict, [("content_hash", "content_hash")]),
            (
                train,
                predict,
                [
                    *[("scores", "scores"), ("seen", "seen")],
                    *[("history", "histories"), ("weights", "weights")],
                ],
            ),
            (train, gather, [("products", "in1")]),
            (predict, gather, [("products", "in3" if harmonise else "in2")]),
            (pack, gather, [("products", "in4" if harmonise else "in3")]),
            (gather, save_model, [("out", "products")]),
        ]
    )
    if harmonise:
        mapped = [train, *([features] if study.baselines.names else [])]
        mapped += [explain] if study.attributions else []
        workflow.connect(
            [
                (pack, harmonise, [*cached, *once]),
                (harmonise, gather, [("products", "in2")]),
                *[(harmonise, node, [("maps", "harmonisation")]) for node in mapped],
            ]
        )
    if study.baselines.names:
        workflow.connect(
            [
                (pack, features, cached),
                (pack, fit_baselines, once),
                (features, fit_baselines, [("features", "features")]),
                (features, beside, [(("facts", the_facts), "facts")]),
                (fit_baselines, beside, [("scores", "scores"), ("choices", "choices")]),
                (predict, beside, [("table", "predictions")]),
                (beside, save_baselines, [(("products", in_list), "products")]),
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
                (pack, draw, cached),
                (predict, draw, [("table", "predictions")]),
                *[
                    (summarise, draw, [((one, for_each_block, plan.blocks), one)])
                    for one in ("stack", "facts")
                ],
                (summarise, explained, [("products", "in1")]),
                (draw, explained, [("products", "in2")]),
                (explained, save_heatmaps, [("out", "products")]),
            ]
        )
    if study.attributions and study.registered:
        workflow.connect(
            [
                (summarise, stacks, [("stack", "stacks")]),
                *[
                    connection
                    for node in (analyse, compare)
                    for connection in (
                        (pack, node, cached),
                        (train, node, [("scores", "scores")]),
                        (predict, node, [("table", "predictions")]),
                        (summarise, node, [("region_tables", "region_tables")]),
                    )
                ],
                (explain, analyse, [("maps", "folds")]),
                (analyse, compare, [("distances", "distances")]),
                (analyse, analysed, [("products", "in1")]),
                (compare, analysed, [("products", "in2")]),
                (analysed, save_analytics, [("out", "products")]),
            ]
        )
        plan.beside_maps(workflow, card["Versions"])
    if study.deformations:
        measure, tabulate = plan.volumes(study.deformations)
        told = [features] if study.baselines.names else []
        told += [analyse] if study.attributions and study.registered else []
        workflow.connect(
            [
                (measure, tabulate, [("table", "tables")]),
                (tabulate, save_volumes, [(("products", in_list), "products")]),
                *[(tabulate, node, [("joined", "measured")]) for node in told],
            ]
        )
    if study.attributions and study.ways:
        plan.carried(workflow, stacks, card["Versions"])
    carried = workflow.get_node("gather_maps")
    if study.statistics.maps and study.comparable:
        people = (carried, test, [("people", "people"), ("brain", "brain")])
        workflow.connect(
            [
                (pack, test, cached),
                people if carried else (predict, test, [("table", "people")]),
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
    processes: int = 1

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
    def blocks(self) -> int:
        """Nodes that share the drawing of everybody's maps of one method."""
        return max(1, math.ceil(len(self._tested) / BLOCK))

    @property
    def _shared(self) -> dict[str, Any]:
        study = self.study
        return {
            "cohort": self.cohort,
            "model": study.model,
            "classes": list(study.classes),
            "modality": study.modality,
        }

    def classification(
        self, card: Mapping[str, Any], *, force: bool
    ) -> tuple[pe.Node, pe.MapNode, pe.Node]:
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
        return pack, train, pe.Node(Predictions(card=dict(card), **self._shared), name="predict")

    def harmonisation(self) -> pe.MapNode:
        """Learn in every fold what the sites add to the images."""
        harmonise = pe.MapNode(
            HarmoniseFold(model=self.study.model, **self._harmonised),
            iterfield=["split"],
            name="harmonise",
            mem_gb=2,
        )
        harmonise.inputs.split = self.folds
        return harmonise

    def baselines(self) -> tuple[pe.Node, pe.MapNode, pe.Node]:
        """What the baselines look at, every fold of them, and the network beside them."""
        study, options = self.study, asdict(self.study.baselines)
        if not study.registered and not study.volumes:  # no atlas fits the images
            options["names"] = tuple(one for one in options["names"] if one != "svm_regions")
        covariates = list(dict.fromkeys([*study.covariates, *([study.site] if study.site else [])]))
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
            BaselineFold(
                options=options,
                covariates=covariates,
                words=[study.site] if study.site else [],
                seed=study.seed,
            ),
            iterfield=["split", *(["features"] if self._maps else [])],
            name="fit_baselines",
            mem_gb=2,
        )
        fit.inputs.split = self.folds
        beside = pe.Node(
            Baselines(
                covariates=covariates,
                options=options,
                model=study.model,
                classes=list(study.classes),
            ),
            name="beside",
        )
        return features, fit, beside

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
                space=study.space,
                **self._gpu,
            ),
            iterfield=["split", "weights", *self._maps],
            name="explain",
            mem_gb=3,
        )
        explain.inputs.split = self.folds
        summarise = pe.MapNode(
            SummariseMethod(
                atlas=study.atlas, space=study.space, repeats=self._repeats, **self._shared
            ),
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

    def person_maps(self) -> pe.MapNode:
        """Draw everybody's map of every method, some people per node."""
        study, blocks = self.study, self.blocks
        draw = pe.MapNode(
            PersonMaps(atlas=study.atlas, space=study.space, **self._shared),
            iterfield=["attribution", "stack", "facts", "block"],
            name="draw",
            mem_gb=1,
        )
        attributions = [dict(one) for one in study.attributions]
        draw.inputs.attribution = for_each_block(attributions, blocks)
        draw.inputs.block = [[first, blocks] for _ in attributions for first in range(blocks)]
        return draw

    def analytics(self) -> tuple[pe.MapNode, pe.Node]:
        """Analyse every method over the trainings, then compare the methods."""
        study = self.study
        attributions = [dict(one) for one in study.attributions]
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
        return analyse, compare

    def beside_maps(self, workflow: pe.Workflow, versions: Mapping[str, str]) -> None:
        """Lesions beside the maps, and the maps before transfer: where there is either."""
        study = self.study
        attributions = [dict(one) for one in study.attributions]
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
        pack, predict, summarise = (
            workflow.get_node(name) for name in ("pack", "predict", "summarise")
        )
        for name, interface in wanted.items():
            node = pe.MapNode(interface, iterfield=["attribution", "stack"], name=name, mem_gb=3)
            node.inputs.attribution = attributions
            save = pe.Node(
                SaveProducts(
                    output_dir=str(self.output_dir), common={"SoftwareVersions": versions}
                ),
                name=f"save_{name}",
                overwrite=True,
            )
            workflow.connect(
                [
                    (pack, node, [("cache", "cache"), ("content_hash", "content_hash")]),
                    (predict, node, [("table", "predictions")]),
                    (summarise, node, [("stack", "stack")]),
                    (node, save, [("products", "products")]),
                ]
            )

    def carried(self, workflow: pe.Workflow, stacks: pe.Node, versions: Mapping[str, str]) -> None:
        """Take the maps of images that were not registered to the template, person by person."""
        study = self.study
        attributions = [dict(one) for one in study.attributions]
        names = [one["name"] for one in attributions]
        own = [name for name in study.statistics.maps if name not in names]
        ways = list(study.ways.values())
        carry = pe.MapNode(
            CarryMaps(names=names, maps=own, modality=study.modality),
            iterfield=["participant", "session", "image", "transform"],
            name="carry_maps",
            mem_gb=1.5,
        )
        gather = pe.Node(
            GatherMaps(
                attributions=attributions,
                maps=own,
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
        save = pe.Node(
            SaveProducts(output_dir=str(self.output_dir), common={"SoftwareVersions": versions}),
            name="save_carried",
            overwrite=True,
        )
        pack, predict, summarise = (
            workflow.get_node(name) for name in ("pack", "predict", "summarise")
        )
        stacks.inputs.names = [*names, *own]
        workflow.connect(
            [
                (pack, carry, [("cache", "cache"), ("content_hash", "content_hash")]),
                (predict, carry, [("table", "predictions")]),
                (predict, gather, [("table", "predictions")]),
                (summarise, carry, [("stack", "stacks")]),
                (carry, gather, [("out_file", "files")]),
                (gather, save, [("products", "products")]),
                (gather, stacks, [("stacks", "stacks")]),
            ]
        )

    def volumes(self, deformations: Deformations) -> tuple[pe.MapNode, pe.Node]:
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
        return measure, tabulate

    def statistics(self) -> pe.MapNode:
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
                exchange_within_fold=max(fold["repeat"] for fold in self.folds) == 1,
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
        explained = [one["name"] for one in study.attributions]
        test.inputs.name = sorted(options.maps, key=lambda name: name in explained)
        return test


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
