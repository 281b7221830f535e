"""The anomaly workflows are built from data: their graphs, their splits. Nothing is run here."""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from models.anomaly.scores import SCORES
from models.errors import InputError
from models.grids import GRIDS
from models.training.splits import Split
from pipelines import anomaly_charts
from pipelines.anomaly import AnomalyStudy, init_anomaly_wf
from pipelines.anomaly_scores import (
    differences,
    false_alarms,
    people_table,
    split_scores,
    summary,
    with_intervals,
)
from pipelines.interfaces.anomaly import check_scale

# node: the nodes that it feeds
SKELETON = {
    "pack": {"brain", "learn", "people", "compare", "found"},
    "brain": {"learn", "people", "compare", "found"},
    "learn": {"people", "compare", "found"},
    "people": {"save_maps"},
    "compare": {"gather"},
    "found": {"gather"},
    "gather": {"save_model"},
    "save_model": set(),
    "save_maps": set(),
}
STUDY = AnomalyStudy(
    model="tiny",
    classes=("HC", "PD"),
    grid=asdict(GRIDS["3mm"]),
    modality="dwimap",
    intensity="max",
    channels=2,
    parameters=("md", "fa"),
    autoencoders=({"name": "ae", "method": "ae"}, {"name": "sae", "method": "sae"}),
    atlas="AAL",
)


@pytest.fixture
def workflow(tmp_path):
    cohort = tmp_path / "cohort.tsv"
    cohort.write_text("participant_id\tsession_id\n")
    roles = {"01": "test", "02": "train", "03": "train", "04": "test"}
    splits = [Split(number, 1, number, roles) for number in (1, 2, 3)]
    return init_anomaly_wf(
        study=STUDY, cohort=cohort, splits=splits, card=STUDY.card({}, {"torch": "2"}, 3),
        output_dir=tmp_path / "out", work_dir=tmp_path / "work",
    )  # fmt: skip


def test_the_graph_is_the_skeleton(workflow):
    graph = workflow._graph
    found = {node.name: {after.name for after in graph.successors(node)} for node in graph}
    assert found == SKELETON


def test_every_auto_encoder_learns_every_split(workflow):
    learn = workflow.get_node("learn")
    pairs = [
        (split["number"], one["name"])
        for split, one in zip(learn.inputs.split, learn.inputs.autoencoder, strict=True)
    ]
    assert pairs == [(n, name) for n in (1, 2, 3) for name in ("ae", "sae")]


def test_what_a_node_is_fed_is_its_own(workflow):
    """Nodes that share a list of connections would be given each other's fields."""
    graph = workflow._graph
    for source, target, edge in graph.edges(data=True):
        fields = target.inputs.copyable_trait_names()
        for _, field in edge["connect"]:
            assert field in fields or target.name in ("found", "gather"), (source.name, field)


def test_equal_sessions_train_once_and_are_told_of(workflow):
    pack, learn, found = (workflow.get_node(name) for name in ("pack", "learn", "found"))
    edges = workflow._graph
    assert ("cohort", "cohort") in edges.get_edge_data(pack, learn)["connect"]
    assert ("products", "in3") in edges.get_edge_data(pack, found)["connect"]
    assert pack.inputs.model == "tiny"


def test_the_card_is_written_after_the_weights(workflow):
    order = {
        source.name: edge["connect"][0][1]
        for source, _, edge in workflow._graph.in_edges(workflow.get_node("gather"), data=True)
    }
    assert order == {"found": "in1", "compare": "in2"}


def test_the_card_says_what_it_is():
    card = replace(STUDY, nuclei="PD25").card({"name": "tiny"}, {}, 3)
    assert (card["Kind"], card["Folds"], card["Nuclei"]) == ("anomaly", 3, "PD25")
    assert "Attributions" not in card


@pytest.mark.parametrize(
    ("volume", "said"),
    [
        (np.full((1, 2, 2, 2), 1.5), "must lie in \\[0, 1\\]"),
        (np.full((1, 2, 2, 2), -0.5), "must lie in \\[0, 1\\]"),
        (np.full((1, 2, 2, 2), np.nan), "NaN or infinite"),
        (np.zeros((1, 2, 2, 2)), "is empty"),
    ],
)
def test_a_scale_that_no_sigmoid_gives_back_is_refused(volume, said):
    with pytest.raises(InputError, match=f"sub-07.*{said}"):
        check_scale(volume, "sub-07_T1w.nii.gz")
    check_scale(np.full((1, 2, 2, 2), 0.5), "sub-07_T1w.nii.gz")


# --- tables --------------------------------------------------------------------------------------


def percentages():
    """Two splits of six controls and four patients, who differ in one region."""
    rng, rows = np.random.default_rng(0), []
    for split in (1, 2):
        for number in range(10):
            patient, left_out = number >= 6, number % 2 == split % 2
            role = "test" if patient or left_out else "train"
            for method in ("ae", "sae"):
                for roi, voxels in (("whole brain", 900), ("putamen", 40 + 2 * (method == "ae"))):
                    gain = 5.0 if patient and roi == "putamen" and method == "sae" else 0.0
                    percent = 2 + 0.1 * rng.random() + gain
                    rows.append(
                        (
                            f"sub-{number:02d}",
                            "",
                            patient,
                            role,
                            split,
                            method,
                            roi,
                            voxels,
                            percent,
                        )
                    )
    columns = [
        "participant_id",
        "session_id",
        "positive",
        "role",
        "split",
        "method",
        "roi",
        "voxels",
    ]
    return pd.DataFrame(rows, columns=[*columns, "percent"])


def test_scores_of_splits_and_their_summary():
    table = percentages()
    scores = split_scores(table)
    assert len(scores) == 8
    assert set(scores["controls"]) == {3}
    assert set(scores["patients"]) == {4}
    regions = summary(scores).set_index(["method", "roi"])
    best = regions.loc[("sae", "putamen")]
    assert best["splits"] == 2
    assert (best["gmean"], best["gmean_sd"], best["auc"], best["gmean_held_out"]) == (1, 0, 1, 1)
    by_hand = scores[(scores["method"] == "ae") & (scores["roi"] == "putamen")]["gmean"]
    assert regions.loc[("ae", "putamen"), "gmean"] == pytest.approx(by_hand.mean())
    assert regions.loc[("ae", "putamen"), "gmean_sd"] == pytest.approx(by_hand.std())
    assert {*SCORES} <= set(regions.columns)
    assert regions.loc[("ae", "putamen"), "voxels"] == 42
    assert best["voxels"] == 40


def test_auto_encoders_are_compared_within_splits():
    scores = split_scores(percentages())
    found = differences(scores).set_index("roi")
    assert found.loc["putamen", ["first", "second"]].tolist() == ["ae", "sae"]
    wide = scores[scores["roi"] == "putamen"].pivot(index="split", columns="method", values="gmean")
    gap = wide["ae"] - wide["sae"]
    assert found.loc["putamen", "gmean"] == pytest.approx(gap.mean())
    assert found.loc["putamen", "gmean_sd"] == pytest.approx(gap.std())
    assert found.loc["putamen", "gmean_higher"] == (gap > 0).sum() == 0
    assert found.loc["putamen", "splits"] == 2


def test_one_patient_leaves_the_held_out_scores_empty():
    table = percentages()
    table = table[~table["positive"] | (table["participant_id"] == "sub-06")]
    found = differences(split_scores(table))
    assert found["gmean"].notna().all()
    assert found["gmean_held_out"].isna().all()
    regions = with_intervals(summary(split_scores(table)), people_table(table, ("HC", "PD")), "PD")
    assert regions["gmean_held_out"].isna().all()
    assert regions["people_auc"].notna().all()
    assert len(anomaly_charts.gmeans(regions).axes) == 1


def test_a_region_that_one_auto_encoder_does_not_score_stays_empty():
    table = percentages()
    table.loc[(table["method"] == "ae") & (table["roi"] == "putamen"), "percent"] = np.nan
    scores = split_scores(table)
    regions = with_intervals(summary(scores), people_table(table, ("HC", "PD")), "PD")
    row = regions.set_index(["method", "roi"]).loc[("ae", "putamen")]
    assert row.drop(["voxels", "splits"]).isna().all()
    assert row["splits"] == 0
    found = differences(scores).set_index("roi")
    assert found.loc["putamen", "splits"] == 0
    assert found.loc["whole brain", "splits"] == 2
    assert len(anomaly_charts.percentages(table[table["method"] == "ae"], ("HC", "PD")).axes) == 2


def test_people_count_by_the_splits_that_left_them_out():
    table = percentages()
    people = people_table(table, ("HC", "PD"))
    assert set(people[people["label"] == "PD"]["splits"]) == {2}
    assert set(people[people["label"] == "HC"]["splits"]) == {1}
    one = people[(people["participant_id"] == "sub-01") & (people["method"] == "ae")].iloc[0]
    given = table[(table["participant_id"] == "sub-01") & (table["method"] == "ae")]
    given = given[(given["role"] == "test") & (given["roi"] == "whole brain")]
    assert one["percent"] == given["percent"].item()
    found = with_intervals(summary(split_scores(table)), people, "PD")
    sure = found[(found["method"] == "sae") & (found["roi"] == "putamen")].iloc[0]
    assert sure["people_auc"] == 1
    assert 0.5 < sure["people_auc_low"] < 1


def test_false_alarms_are_counted_in_controls_alone():
    found = false_alarms(percentages(), 0.98).set_index(["method", "role"])
    assert found.loc[("sae", "test"), "people"] == 6
    assert found.loc[("sae", "train"), "people"] == 6
    assert found.loc[("sae", "test"), "percent"] == pytest.approx(2.05, abs=0.05)
    assert found["expected"].iloc[0] == pytest.approx(2)
    table = percentages()
    again = false_alarms(pd.concat([table, table[table["split"] == 2].assign(split=3)]), 0.98)
    assert set(again["people"]) == {6}
    assert set(again["maps"]) == {9}
    whole = table[~table["positive"] & (table["roi"] == "whole brain") & (table["method"] == "ae")]
    left_out = whole[whole["role"] == "test"]
    sd = again.set_index(["method", "role"]).loc[("ae", "test"), "sd"]
    assert sd == pytest.approx(left_out["percent"].std())


def test_charts_are_drawn_also_of_nothing():
    table = percentages()
    regions = summary(split_scores(table))
    assert len(anomaly_charts.gmeans(regions).axes) == 1
    assert len(anomaly_charts.percentages(table, ("HC", "PD")).axes) == 2
    drawn = anomaly_charts.percentages(table[table["method"] == "ae"], ("HC", "PD"))
    points = [len(one.get_offsets()) for one in drawn.axes[0].collections]
    assert points == [3, 3]  # controls that the first split left out, in two regions
    image = np.random.default_rng(0).random((2, 8, 9, 4))
    figure = anomaly_charts.reconstructions(image, {"ae": image, "sae": image}, ("sub-01", 2))
    assert len(figure.axes) == 6
    only = table[~table["positive"]]
    anomaly_charts.gmeans(summary(split_scores(only)))
