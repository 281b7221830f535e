"""The analytics on the group page: what it says, what it leaves out, and that it stays apart."""

import pandas as pd
import pytest

from bidsapp.report.analytics import analytics, is_analytic
from bidsapp.report.current import Current
from bidsapp.report.group import group_page
from bidsapp.report.shelf import Shelf, item
from pipelines.charts import overlap_matrix
from pipelines.derivatives import write_json, write_table
from pipelines.figures import save

STEM = "mod-T1w_space-MNI152NLin2009cAsym_model-x_target-AD"
ONE = "There is one training: nothing is known of others."


def add(root, ending, frame, **facts):
    path = root / f"group/{STEM}_{ending}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, pd.DataFrame(frame))
    write_json(path.with_suffix(".json"), facts)


def draw(root, ending):
    nothing = pd.DataFrame(columns=["outcome", "first", "second", "mean"])
    save(overlap_matrix(nothing, {}), root / f"group/figures/{STEM}_{ending}.png")


@pytest.fixture
def derivatives(tmp_path):
    card = {
        "Classes": ["CN", "AD"],
        "Attributions": [{"name": "occlusion", "method": "occlusion"}],
        "Recipe": {"cohort": {"positive": "AD", "negative": "CN", "target": "diagnosis"}},
    }
    folder = tmp_path / "models/model-x"
    folder.mkdir(parents=True)
    write_json(folder / "model-x_modelcard.json", card)
    pair = {"People": ["sub-07", "sub-09"], "Mean": 0.25}
    ranking = {
        "metric": ["sum", "sum"], "group": ["AD", "CN"], "name": ["Hippocampus", "Insula"],
        "rank": [1, 1], "rank_low": [1, 1], "rank_high": [4, 9],
    }  # fmt: skip
    add(tmp_path, "method-occlusion_atlas-AAL_desc-rankingMerged_heatmap", ranking,
        Method="occlusion", NotComputed=["mean map of FN: nobody was one."])  # fmt: skip
    add(tmp_path, "method-occlusion_atlas-AAL_desc-fingerprints_heatmap", {"sub-07": [0.0]},
        MostDistant=pair)  # fmt: skip
    clusters = {
        "index": [1, 2], "name": ["a", "b"], "region": ["Hippocampus_L", "n/a"],
        "share": [0.22, None], "volume_mm3": [540.0, 27.0], "mean": [0.5, 0.4],
        "sd_repeats": [0.1, 0.1],
        "stability": [0.9, 0.6], "x_mm": [-24.0, 0], "y_mm": [-12.0, 0], "z_mm": [-18.0, 0],
    }  # fmt: skip
    stem = "method-occlusion_outcome-correct_contrast-ADMinusCN"
    add(tmp_path, f"{stem}_res-3mm_desc-P95_dseg", clusters)
    overlap = {
        "metric": ["sum", "density"], "outcome": "TP", "first": "occlusion", "second": "occlusion",
        "mean": [0.7, 0.1], "low": [0.5, None], "high": [0.9, None],
    }  # fmt: skip
    add(tmp_path, "atlas-AAL_desc-overlap_heatmap", overlap, Limits=[ONE])
    distances = {"method": ["occlusion"], "outcome": ["TN"], "mean": [12.5]}
    add(tmp_path, "desc-distances_heatmap", distances, NotComputed=["distance, TP: too few."])
    for ending in (
        "method-occlusion_atlas-AAL_desc-rankingMerged_heatmap",
        "method-occlusion_atlas-AAL_desc-fingerprints_heatmap",
        "method-occlusion_outcome-all_stat-mean_heatmap",
        "method-occlusion_contrast-ADMinusCN_stat-mean_heatmap",
        f"{stem}_desc-P95_heatmap",
        "atlas-AAL_desc-overlap_heatmap",
    ):
        draw(tmp_path, ending)
    return tmp_path


def found(root):
    shelf = Shelf(root)
    return analytics(shelf, Current.of(shelf, "x"), ["AD", "CN"])


def test_numbers_are_said_with_their_intervals(derivatives):
    section = found(derivatives)
    assert section.likeness.columns == ["Method", "Top 10 shared, TP", "Distance, TN"]
    assert section.likeness.rows == [
        ("occlusion", "70\N{NO-BREAK SPACE}% (50\N{NO-BREAK SPACE}% to 90\N{NO-BREAK SPACE}%)",
         "12.5")
    ]  # fmt: skip
    (one,) = section.methods
    assert one.title == "Occlusion"
    assert one.sentences[0].startswith("Hippocampus has the largest sum among AD; its rank may lie")
    assert "from 1 to 4" in one.sentences[0]
    assert "sub-07 and sub-09" in one.sentences[1]
    assert len(one.clusters.rows) == 2
    assert one.clusters.columns[:2] == ["Region with most of it", "Share in that region"]
    assert [str(cell) for cell in one.clusters.rows[0][:2]] == ["Hippocampus L", "0.220"]
    assert len(one.pictures) == 4
    assert len(one.cluster_pictures) == 1


def test_limits_and_gaps_are_said(derivatives):
    section = found(derivatives)
    assert section.limits == [ONE]
    assert section.missing == ["distance, TP: too few."]
    assert section.methods[0].missing == ["mean map of FN: nobody was one."]
    page = group_page(derivatives, "x").read_text()
    assert ONE in page
    assert "mean map of FN: nobody was one." in page


def test_every_picture_is_shown_once_and_in_no_other_section(derivatives):
    page = group_page(derivatives, "x").read_text()
    assert page.count("<img ") == 6
    assert "No mean heatmap was found." in page
    assert "No voxelwise test was found." in page


@pytest.mark.parametrize("ending", ["contrast-MCIMinusCN_stat-mean", "outcome-all_stat-mean"])
def test_what_the_card_is_not_about_is_left_out(derivatives, ending):
    before = len(found(derivatives).methods[0].pictures)
    other = "occlusion" if "contrast" in ending else "old"
    draw(derivatives, f"method-{other}_{ending}_heatmap")
    section = found(derivatives)
    assert [one.title for one in section.methods] == ["Occlusion"]
    assert len(section.methods[0].pictures) == before


def test_a_page_without_analytics_has_no_section(tmp_path):
    (tmp_path / "group").mkdir()
    assert found(tmp_path) is None


@pytest.mark.parametrize("content", ["", "a\tb\n1\t2\t3\n", "x\n"])
def test_damaged_tables_stop_no_page(derivatives, content):
    for path in (derivatives / "group").glob("*.tsv"):
        path.write_text(content)
    assert "Regions and trainings" in group_page(derivatives, "x").read_text()


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("method-a_stat-mean_res-3mm_desc-AD_heatmap.nii.gz", False),
        ("method-a_atlas-AAL_heatmap.tsv", False),
        ("method-a_contrast-ADMinusCN_stat-t_res-3mm_statmap.nii.gz", False),
        ("method-a_contrast-ADMinusCN_res-3mm_desc-FWE_clusters.tsv", False),
        ("method-a_outcome-TP_stat-mean_res-3mm_heatmap.nii.gz", True),
        ("method-a_atlas-AAL_desc-ranking_heatmap.tsv", True),
        ("method-a_outcome-correct_contrast-ADMinusCN_res-3mm_desc-P95_dseg.nii.gz", True),
    ],
)
def test_files_are_told_apart_by_their_names(tmp_path, name, ours):
    assert is_analytic(item(tmp_path / f"{STEM}_{name}")) == ours
