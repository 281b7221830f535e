"""The group workflow is built from data: its graph, its folds, its maps. Nothing is run here."""

from dataclasses import asdict, replace
from pathlib import Path

import networkx as nx
import pytest
from nipype.pipeline.engine import MapNode

from models.errors import InputError
from models.grids import GRIDS
from models.training.splits import Plan, split_people
from pipelines.baselines import BaselineOptions
from pipelines.explain import init_explain_wf
from pipelines.group import init_group_wf
from pipelines.harmonisation import HarmonisationOptions
from pipelines.inputs import Scan
from pipelines.region_volumes import Deformations
from pipelines.stages import choose_stacks, for_each_block
from pipelines.statistics import StatisticsOptions
from pipelines.stored_models import StoredModel
from pipelines.study import Study
from pipelines.transfer import Starts

# node: the nodes that it feeds
SKELETON = {
    "pack": {"train", "predict", "explain", "summarise", "analyse", "compare", "test", "features"}
    | {"gather", "fit_baselines", "draw"},
    "train": {"predict", "explain", "analyse", "compare", "gather"},
    "predict": {"summarise", "draw", "analyse", "compare", "test", "gather", "beside"},
    "features": {"fit_baselines", "beside"},
    "fit_baselines": {"beside"},
    "beside": {"save_baselines"},
    "save_baselines": set(),
    "explain": {"summarise", "analyse"},
    "summarise": {"stacks", "analyse", "compare", "draw", "explained"},
    "draw": {"explained"},
    "explained": {"save_heatmaps"},
    "analyse": {"compare", "analysed"},
    "compare": {"analysed"},
    "analysed": {"save_analytics"},
    "stacks": {"test"},
    "test": {"save_tests"},
    "gather": {"save_model"},
    "save_model": set(),
    "save_heatmaps": set(),
    "save_analytics": set(),
    "save_tests": set(),
}
ATTRIBUTIONS = (
    {"name": "saliency", "method": "saliency"},
    {"name": "lrpbeta1", "method": "lrp_alpha_beta", "beta": 1.0},
)
LABELS = {f"{i:02d}": bool(i % 2) for i in range(12)}


def study(**changes):
    return Study(
        **{
            "model": "tiny",
            "classes": ("CN", "AD"),
            "grid": asdict(GRIDS["3mm"]),
            "modality": "T1w",
            "intensity": "max",
            "network": {"name": "demo"},
            "protocol": {"epochs": 2},
            "attributions": ATTRIBUTIONS,
            "atlas": "AAL",
            "covariates": ("age",),
            "statistics": StatisticsOptions(maps=("image", "lrpbeta1")),
            "seed": 3,
            "baselines": BaselineOptions(),
        }
        | changes
    )


@pytest.fixture
def build(tmp_path):
    cohort = tmp_path / "cohort.tsv"
    cohort.write_text("participant_id\tsession_id\n")

    def make(described=None, folds=3, repeats=1, **options):
        one = described or study()
        splits = split_people(LABELS, Plan(folds=folds, repeats=repeats))
        return init_group_wf(
            study=one, cohort=cohort, splits=splits,
            card=one.card({"name": "tiny"}, {"torch": "2"}, len(splits)),
            output_dir=tmp_path / "out", work_dir=tmp_path / "work", **options,
        )  # fmt: skip

    return make


def test_the_graph_is_the_skeleton(build):
    graph = build()._graph
    found = {node.name: {after.name for after in graph.successors(node)} for node in graph}
    assert found == SKELETON
    assert nx.is_directed_acyclic_graph(graph)


def test_lesions_and_transfer_stand_beside_the_maps_where_there_are_any(build):
    starts = Starts([{"name": "other", "model": "m", "fold": 1, "freeze": [], "head": "keep",
                      "fingerprint": "f"}] * 3, [])  # fmt: skip
    workflow = build(study(modality="FLAIR", lesions=True, starts=starts))
    graph = workflow._graph
    feeds = {node.name: {after.name for after in graph.successors(node)} for node in graph}
    for name in ("lesions", "transfer"):
        assert feeds[name] == {f"save_{name}"}
        before = {node for node, after in feeds.items() if name in after}
        assert before == {"pack", "predict", "summarise"}
        node = workflow.get_node(name)
        assert node.iterfield == ["attribution", "stack"]
        assert [one["name"] for one in node.inputs.attribution] == ["saliency", "lrpbeta1"]
    assert len(workflow.get_node("transfer").inputs.splits) == 3
    plain = {node.name for node in build(study(starts=Starts([{}] * 3, [])))._graph}
    assert not plain & {"lesions", "transfer"}
    assert not {"lesions"} & {
        node.name for node in build(study(lesions=True, space="individual"))._graph
    }


def test_a_stage_that_fails_takes_nothing_from_those_before(build):
    """What is saved of a stage depends on nothing that comes after it."""
    graph = build()._graph
    needs = {
        node.name: {before.name for before in nx.ancestors(graph, node)}
        for node in graph
        if node.name.startswith("save")
    }
    assert needs["save_model"] == {"pack", "train", "predict", "gather"}
    before = {"pack", "train", "predict", "explain", "summarise"}
    assert needs["save_heatmaps"] == before | {"draw", "explained"}
    assert not needs["save_baselines"] & {"explain", "summarise", "test"}
    assert "test" in needs["save_tests"]
    assert "test" not in needs["save_analytics"]


def test_the_card_is_written_after_the_weights(build):
    """A model counts as stored as soon as it has a card."""
    workflow = build()
    order = {
        source.name: edge["connect"][0][1]
        for source, _, edge in workflow._graph.in_edges(workflow.get_node("gather"), data=True)
    }
    assert order == {"train": "in1", "predict": "in2", "pack": "in3"}


@pytest.mark.parametrize(
    ("changes", "left_out"),
    [
        ({"statistics": StatisticsOptions(maps=())}, {"stacks", "test", "save_tests"}),
        (
            {"baselines": BaselineOptions(names=())},
            {"features", "fit_baselines", "beside", "save_baselines"},
        ),
        (
            {"attributions": (), "statistics": StatisticsOptions(maps=("image",))},
            {"explain", "summarise", "draw", "explained", "save_heatmaps"}
            | {"analyse", "compare", "analysed", "save_analytics"},
        ),
        (  # images that were not registered
            {"space": "individual"},
            {"analyse", "compare", "analysed", "save_analytics", "stacks", "test", "save_tests"},
        ),
    ],
)
def test_what_was_not_asked_for_is_not_in_the_graph(build, changes, left_out):
    names = {node.name for node in build(study(**changes))._graph}
    assert names == set(SKELETON) - left_out


def test_folds_methods_and_maps_are_mapped(build):
    workflow = build(folds=3, repeats=2)
    nodes = {name: workflow.get_node(name) for name in SKELETON}
    mapped = {name for name, node in nodes.items() if isinstance(node, MapNode)}
    assert mapped == {"train", "explain", "summarise", "draw", "analyse", "test", "fit_baselines"}
    assert len(nodes["train"].inputs.split) == len(nodes["explain"].inputs.split) == 6
    assert nodes["summarise"].inputs.attribution == [dict(one) for one in ATTRIBUTIONS]
    assert nodes["test"].inputs.name == ["image", "lrpbeta1"]


def test_maps_of_unregistered_images_are_taken_to_the_template_before_they_are_tested(
    build, tmp_path
):
    files = [tmp_path / f"{name}.h5" for name in ("image", "way")]
    for file in files:
        file.write_bytes(b"")
    ways = {("01", ""): tuple(map(str, files)), ("02", "b"): tuple(map(str, files))}
    maps = ("md", "lrpbeta1")
    workflow = build(
        study(
            space="individual", modality="dwi", ways=ways, statistics=StatisticsOptions(maps=maps)
        )
    )
    graph = workflow._graph
    after = {node.name: {one.name for one in graph.successors(node)} for node in graph}
    assert after["carry_maps"] == {"gather_maps"}
    assert {"stacks", "test", "save_carried"} <= after["gather_maps"]
    assert "test" not in after["predict"]  # who has no way there is not tested
    carry, gather = (workflow.get_node(name).inputs for name in ("carry_maps", "gather_maps"))
    assert carry.participant == gather.participants == ["01", "02"]
    assert carry.session == gather.sessions == ["", "b"]
    assert (list(carry.names), list(carry.maps)) == (["saliency", "lrpbeta1"], ["md"])
    assert list(workflow.get_node("stacks").inputs.names) == ["saliency", "lrpbeta1", "md"]
    assert "analyse" not in after
    (said,) = study(space="individual", ways=ways).card({}, {}, 3)["NotComputed"]
    assert "taken to the template afterwards" in said


def test_everybody_of_every_method_is_drawn_once(build, monkeypatch):
    monkeypatch.setattr("pipelines.stages.BLOCK", 5)
    draw = build().get_node("draw")
    rows = [
        (one["name"], row)
        for one, (first, step) in zip(draw.inputs.attribution, draw.inputs.block, strict=True)
        for row in range(first, len(LABELS), step)
    ]
    assert len(draw.inputs.block) == 2 * 3
    assert "stack" not in draw.inputs.copyable_trait_names()  # each node would read it whole
    assert sorted(rows) == sorted((a["name"], row) for a in ATTRIBUTIONS for row in range(12))
    assert for_each_block(["a", "b"], 3) == ["a", "a", "a", "b", "b", "b"]


def test_train_and_explain_get_the_same_splits_in_the_same_order(build):
    workflow = build(folds=4)
    train, explain = (workflow.get_node(name).inputs.split for name in ("train", "explain"))
    assert train == explain
    assert [split["number"] for split in train] == [1, 2, 3, 4]
    for split in train:
        assert set(split["roles"]) == set(LABELS)


def test_baselines_are_fitted_on_the_splits_of_the_network(build):
    workflow = build(study(volumes={"Hippocampus": "hippocampus_ml"}), folds=4)
    fit, features = (workflow.get_node(name).inputs for name in ("fit_baselines", "features"))
    assert fit.split == workflow.get_node("train").inputs.split
    assert fit.options["names"] == tuple(features.names)
    assert fit.covariates == ["age"]
    assert features.volumes == ["hippocampus_ml"]


def test_what_learns_takes_doubled_sessions_once(build):
    workflow = build(study(**HARMONISED))
    given = {
        after.name
        for _, after, edge in workflow._graph.out_edges(workflow.get_node("pack"), data=True)
        if ("cohort", "cohort") in edge["connect"]
    }
    assert given == {"train", "harmonise", "fit_baselines"}


HARMONISED = {
    "site": "centre",
    "harmonisation": HarmonisationOptions("combat", preserve=("age",)),
}


def test_every_fold_sees_its_own_harmonised_images(build):
    workflow = build(study(**HARMONISED))
    graph = workflow._graph
    maps = {
        after.name
        for _, after, edge in graph.out_edges(workflow.get_node("harmonise"), data=True)
        if ("maps", "harmonisation") in edge["connect"]
    }
    assert maps == {"train", "explain", "features"}
    for name in maps:
        assert "harmonisation" in workflow.get_node(name).iterfield
    fit = workflow.get_node("fit_baselines")
    assert set(fit.iterfield) == {"split", "features"}
    assert fit.inputs.covariates == ["age", "centre"]
    assert fit.inputs.words == ["centre"]
    harmonise = workflow.get_node("harmonise").inputs
    assert harmonise.split == workflow.get_node("train").inputs.split
    assert harmonise.options["preserve"] == ("age",)


def test_a_harmonised_model_has_a_card_after_its_maps(build):
    workflow = build(study(**HARMONISED))
    order = {
        source.name: edge["connect"][0][1]
        for source, _, edge in workflow._graph.in_edges(workflow.get_node("gather"), data=True)
    }
    assert order == {"train": "in1", "harmonise": "in2", "predict": "in3", "pack": "in4"}
    assert workflow.get_node("gather").interface._numinputs == 4
    card = study(**HARMONISED).card({}, {}, 2)
    assert card["Harmonisation"]["Site"] == "centre"
    assert study().card({}, {}, 2)["Harmonisation"] is None


def test_without_harmonisation_nothing_asks_for_maps(build):
    workflow = build()
    assert workflow.get_node("harmonise") is None
    for name in ("train", "explain"):
        assert "harmonisation" not in workflow.get_node(name).iterfield


def test_maps_are_told_apart_by_their_repeat(build):
    workflow = build(folds=3, repeats=2)
    for name in ("summarise", "analyse"):
        assert workflow.get_node(name).inputs.repeats == [1, 1, 1, 2, 2, 2]


def test_methods_are_analysed_alone_and_compared_together(build):
    workflow = build(study(volumes={"Hippocampus": "hippocampus_ml"}, seed=5))
    analyse, compare = (workflow.get_node(name) for name in ("analyse", "compare"))
    assert analyse.inputs.attribution == [dict(one) for one in ATTRIBUTIONS]
    assert analyse.inputs.volumes == {"Hippocampus": "hippocampus_ml"}
    assert analyse.inputs.seed == 5
    assert compare.inputs.names == ["saliency", "lrpbeta1"]
    assert compare.inputs.methods == ["saliency", "lrp_alpha_beta"]


def test_volumes_of_the_registration_are_measured_once_for_all_who_ask(build, tmp_path):
    files = {
        (one, session): str(tmp_path / f"{one}.h5") for one, session in (("a", ""), ("b", "2"))
    }
    for path in files.values():
        Path(path).write_bytes(b"")
    volumes = {"Hippocampus": "jacobian", "Amygdala": "mm3"}
    workflow = build(study(volumes=volumes, deformations=Deformations(files, asdict(GRIDS["3mm"]))))
    measure, tabulate = workflow.get_node("measure"), workflow.get_node("tabulate")
    assert isinstance(measure, MapNode)
    assert measure.inputs.transform == list(files.values())
    assert (tabulate.inputs.participants, tabulate.inputs.sessions) == (["a", "b"], ["", "2"])
    features = workflow.get_node("features")
    assert (features.inputs.volumes, features.inputs.regions) == (["mm3"], ["Hippocampus"])
    fed = {node.name for node in workflow._graph.successors(tabulate)}
    assert fed == {"features", "analyse", "save_volumes"}
    assert build(study(volumes={"Amygdala": "mm3"})).get_node("measure") is None


def test_no_person_is_in_two_parts_and_everybody_is_tested_once(build):
    splits = build(folds=3).get_node("train").inputs.split
    for person in LABELS:
        assert [split["roles"][person] for split in splits].count("test") == 1


def test_people_are_exchanged_within_folds_only_where_there_is_one_repeat(build):
    # with more repeats, the maps of a person come from several folds
    assert build().get_node("test").inputs.exchange_within_fold
    assert not build(repeats=2).get_node("test").inputs.exchange_within_fold


def test_the_recipe_reaches_the_tests_but_for_what_changes_no_result(build):
    options = StatisticsOptions(corrections=("mass", "tfce"), tail=True, memory_mb=500.0)
    node = build(study(statistics=options)).get_node("test")
    assert node.inputs.options["corrections"] == ("mass", "tfce")
    assert node.inputs.options["tail"]
    assert "memory_mb" not in node.inputs.options
    assert node.inputs.memory_mb == 500
    hashes = {
        build(study(statistics=replace(options, **changes)))
        .get_node("test")
        .inputs.get_hashval()[1]
        for changes in ({}, {"memory_mb": 90.0}, {"tail": False})
    }
    assert len(hashes) == 2


def test_terms_are_looked_for_before_anything_runs(build, tmp_path):
    (tmp_path / "out").mkdir()
    people = "".join(f"{one}\t{50 + int(one) ** 2}\tOslo\n" for one in LABELS)
    (tmp_path / "out/participants.tsv").write_text("participant_id\tage\tsite\n" + people)
    rows = "".join(f"sub-{one}\t\t{sick}\tTrue\n" for one, sick in LABELS.items())
    header = "participant_id\tsession_id\tpositive\ttest\n"
    (tmp_path / "cohort.tsv").write_text(header + rows)
    options = StatisticsOptions(terms=("age",), contrast="age")
    node = build(study(statistics=options)).get_node("test")
    assert node.inputs.participants == str(tmp_path / "out/participants.tsv")
    with pytest.raises(InputError, match="no column 'sites'; did you mean 'site'"):
        build(study(statistics=replace(options, terms=("sites",))))
    with pytest.raises(InputError, match="'site' is 'Oslo' for everybody"):
        build(study(statistics=replace(options, terms=("age", "site"))))
    blocks = build(study(statistics=StatisticsOptions(exchange_within="site"))).get_node("test")
    assert blocks.inputs.participants == str(tmp_path / "out/participants.tsv")


def test_an_atlas_of_clusters_is_looked_for_before_anything_runs(build):
    with pytest.raises(InputError, match="no such atlas"):
        build(study(statistics=StatisticsOptions(cluster_atlases=("nowhere.nii.gz",))))


@pytest.mark.parametrize(("device", "gpu"), [("cpu", False), ("cuda:1", True)])
def test_the_device_reaches_what_computes(build, device, gpu):
    workflow = build(device=device)
    for name in ("train", "explain", "test"):
        node = workflow.get_node(name)
        assert node.inputs.device == device
        assert node.is_gpu_node() == gpu


def test_the_seed_and_the_network_reach_the_training(build):
    train = build().get_node("train")
    assert train.inputs.seed == 3
    assert train.inputs.network == {"name": "demo"}
    assert train.inputs.protocol == {"epochs": 2}
    assert not train.inputs.force
    assert build(force=True).get_node("train").inputs.force


def test_the_card_says_what_the_model_is():
    card = study().card({"name": "tiny"}, {"torch": "2"}, 3)
    assert card["Classes"] == ["CN", "AD"]
    assert card["Folds"] == 3
    assert card["Grid"]["shape"] == GRIDS["3mm"].shape
    assert card["Attributions"] == [dict(one) for one in ATTRIBUTIONS]
    assert "not a medical device" in card["IntendedUse"]


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (["image"], [""]),
        (["image", "b"], ["", "/b"]),
        (["b", "image"], ["", "/b"]),
        (["b", "a"], ["/b", "/a"]),
        (["b", "md", "a", "fa"], ["", "", "/b", "/a"]),
    ],
)
def test_stacks_lie_in_the_order_of_the_names(build, wanted, chosen):
    assert choose_stacks(["/a", "/b"], ["a", "b"], wanted) == chosen
    attributions = ({"name": "a", "method": "saliency"}, {"name": "b", "method": "saliency"})
    described = study(attributions=attributions, statistics=StatisticsOptions(maps=tuple(wanted)))
    names = build(described).get_node("test").inputs.name
    assert names == sorted(wanted, key=lambda name: name in ("a", "b"))


# --- explaining ----------------------------------------------------------------------------------


class Model(StoredModel):
    """A stored model without files."""

    name = "tiny"

    @property
    def card(self):
        return study().card({}, {}, 2)

    def unseen_folds(self, participant):
        return {"01": ([2], True), "02": ([], True)}.get(participant, ([1, 2], False))


def test_only_folds_that_may_are_given_and_nobody_without_one(tmp_path):
    image = tmp_path / "x.nii.gz"
    image.write_bytes(b"")
    scans = [Scan("01", "", image), Scan("02", "", image), Scan("new", "a", image)]
    workflow = init_explain_wf(
        scans=[(scan, image) for scan in scans], model=Model(tmp_path), output_dir=tmp_path / "out",
        work_dir=tmp_path / "work", versions={},
    )  # fmt: skip
    folds = {
        name.split(".")[0]: workflow.get_node(name).inputs
        for name in workflow.list_node_names()
        if name.endswith(".explain")
    }
    assert set(folds) == {"sub_01", "sub_new_ses_a"}
    assert (folds["sub_01"].folds, folds["sub_01"].known) == ([2], True)
    assert (folds["sub_new_ses_a"].folds, folds["sub_new_ses_a"].known) == ([1, 2], False)
