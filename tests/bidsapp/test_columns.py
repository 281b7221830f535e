"""Diktiometry beside the traditional tests: which maps stand in which column, and the regions."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bidsapp.columns import BOTH, NETWORKS, POST, PRE, TRADITIONAL, columns, regions, write_columns
from bidsapp.report.columns import beside_traditional, is_column
from bidsapp.report.shelf import Shelf
from models.grids import full_grid
from pipelines.atlases import atlas, on_grid
from pipelines.derivatives import read_sidecar, read_table
from pipelines.figures import plot_columns
from pipelines.images import write_nifti

GRID = full_grid(6.0)
MEASURES = {"muhat": "diktiometrymd", "sigma": "diktiometrysigma", "fa": "diktiometryfa"}


@pytest.fixture(scope="module")
def labels():
    """AAL on the grid."""
    source = atlas("AAL")
    table = source.labels.set_index("name")["index"]
    return on_grid(source, GRID.affine, GRID.shape), table


def card(folder, model, space, **more):
    path = folder / f"models/model-{model}/model-{model}_modelcard.json"
    path.parent.mkdir(parents=True)
    entries = [
        {"name": name, "method": "diktiometry", "measure": measure}
        for measure, name in MEASURES.items()
    ]
    content = {"Classes": ["HC", "PD"], "Space": space, "Attributions": entries, "Atlas": "AAL"}
    path.write_text(json.dumps(content | more))


def statmap(folder, model, map_of, where, value=5.0, *, thresholded=True):
    volume = np.where(where, value, 0.0)
    desc = "_desc-FWE" if thresholded else ""
    name = (
        f"mod-dwi_space-MNI152NLin2009cAsym_model-{model}_{map_of}_contrast-PDMinusHC_stat-t"
        f"_res-6mm{desc}_statmap"
    )
    (folder / "group").mkdir(exist_ok=True)
    write_nifti(folder / f"group/{name}.nii.gz", volume, GRID.affine, template=True)
    (folder / f"group/{name}.json").write_text('{"Correction": "FWE"}')


@pytest.fixture
def both(tmp_path, labels):
    """A model of registered tensors, one of unregistered ones, and tests of both."""
    data, index = labels
    card(tmp_path, "pre", "MNI152NLin2009cAsym")
    card(tmp_path, "post", "individual")
    hippocampus, putamen, caudate = (
        data == index[one] for one in ("Hippocampus_L", "Putamen_R", "Caudate_L")
    )
    named = "target-PD_method-diktiometrymd"
    statmap(tmp_path, "pre", named, hippocampus | putamen)
    statmap(tmp_path, "pre", named, data > 0, thresholded=False)
    statmap(tmp_path, "post", named, putamen, -4.0)
    statmap(tmp_path, "pre", "param-md", hippocampus | caudate)
    return tmp_path


def test_the_other_kind_of_model_stands_beside(both):
    for model in ("pre", "post"):
        (found,) = columns(both, model)  # of sigma and fa there is nothing to show
        assert found.measure == "md"
        assert dict(found.models) == {POST: "post", PRE: "pre", TRADITIONAL: "pre"}
        assert all("desc-FWE" in path.name for path in found.maps.values())


@pytest.mark.parametrize(
    "change", [{"Classes": ["HC", "AD"]}, {"Attributions": []}, {"Space": "MNI152NLin2009cAsym"}]
)
def test_a_model_of_something_else_does_not(both, change):
    path = both / "models/model-post/model-post_modelcard.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (found,) = columns(both, "pre")
    assert set(found.maps) == {PRE, TRADITIONAL}


def test_one_column_alone_is_none(both):
    for path in (both / "group").glob("*param-md*"):
        path.unlink()
    (both / "models/model-post/model-post_modelcard.json").unlink()
    assert columns(both, "pre") == []
    assert write_columns(both, "pre", both) == []


def test_regions_are_told_by_who_sees_them(both, labels):
    data, index = labels
    (found,) = columns(both, "pre")
    table = regions(found, "AAL").set_index("name")
    assert dict(table["seen_by"]) == {
        "Hippocampus_L": BOTH, "Caudate_L": "traditional only", "Putamen_R": NETWORKS
    }  # fmt: skip
    voxels = (data == index["Putamen_R"]).sum()
    assert table.loc["Putamen_R", "post_mm3"] == table.loc["Putamen_R", "pre_mm3"] == 216 * voxels
    assert table.loc["Putamen_R", "traditional_mm3"] == 0


def test_what_the_atlas_has_no_name_for_is_told(both, labels):
    data, index = labels
    nowhere = np.zeros(data.shape, bool)
    nowhere[tuple(np.argwhere(data == 0)[:5].T)] = True
    statmap(both, "pre", "param-md", nowhere | (data == index["Caudate_L"]))
    *_, table = write_columns(both, "pre", both)
    row = read_table(table).set_index("name").loc["unlabelled"]
    assert (row["traditional_mm3"], row["pre_mm3"]) == (5 * 216, 0)
    shelf = Shelf(both)
    (found,) = beside_traditional(shelf, "pre", shelf.find("group/figures/*.png"))
    share = 100 * 5 / (5 + (data == index["Caudate_L"]).sum())
    assert found.sentence.startswith("3 regions with significant voxels")
    assert f"no name for {share:.0f} % (traditional) of the volume" in found.sentence


def test_maps_of_an_earlier_grid_are_left(both, labels):
    statmap(both, "pre", "param-md", labels[0] > 0)
    for path in (both / "group").glob("*param-md*res-6mm*"):
        path.rename(path.with_name(path.name.replace("res-6mm", "res-2mm")))
    (left,) = columns(both, "pre")
    assert TRADITIONAL in left.maps  # a card without a grid may have any
    card = both / "models/model-pre/model-pre_modelcard.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"Grid": {"name": "6mm"}}))
    (found,) = columns(both, "pre")
    assert set(found.maps) == {POST, PRE}


def test_an_empty_column_says_so(both, labels, monkeypatch):
    statmap(both, "pre", "param-md", labels[0] < 0)
    drawn = []
    monkeypatch.setattr(
        "bidsapp.columns.plot_columns",
        lambda anatomy, maps, *given, **more: drawn.extend(maps) or plot_columns(
            anatomy, maps, *given, **more
        ),
    )  # fmt: skip
    write_columns(both, "pre", both)
    assert ["nothing significant" in one for one in drawn] == [False, False, True]


def test_what_is_written_is_on_the_page(both):
    *pictures, table = write_columns(both, "pre", both)
    assert [one.name for one in pictures] == ["model-pre_desc-columnsmd.png"]
    assert len(read_table(table)) == 3
    assert read_sidecar(table)["Models"]["md"][POST] == "post"
    assert read_sidecar(table)["Corrections"]["md"][TRADITIONAL] == "FWE"
    shelf = Shelf(both)
    figures = shelf.find("group/figures/*.png")
    assert all(map(is_column, figures))
    (found,) = beside_traditional(shelf, "pre", figures)
    assert found.title == "Mean diffusivity"
    assert "1 by both, 1 by diktiometry alone and 1 by the traditional test alone" in found.sentence
    assert len(found.regions.rows) == 3
    assert found.picture is not None
    assert beside_traditional(shelf, "post", figures) == []


def test_nothing_significant_is_said(both):
    for path in (both / "group").glob("*_statmap.nii.gz"):
        image = nib.load(path)
        write_nifti(path, np.zeros(image.shape), image.affine, template=True)
    write_columns(both, "pre", both)
    shelf = Shelf(both)
    (found,) = beside_traditional(shelf, "pre", shelf.find("group/figures/*.png"))
    assert "No region has a significant voxel" in found.sentence
    assert found.regions is None
    assert isinstance(shelf.table(both / "group/model-pre_desc-columns_regions.tsv"), pd.DataFrame)
