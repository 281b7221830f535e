"""What a network sees of an image: crops, blanked regions, one affected side for everybody."""

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from models.errors import InputError
from models.grids import GRIDS, Grid
from models.regions import ipsilateral_name, merge_sides, opposite, region_mask, side_of
from models.volumes import open_cache, write_cache
from pipelines.atlases import atlas, on_grid
from pipelines.derivatives import read_table, write_table
from pipelines.figures import plot_slices
from pipelines.heatmaps import MIRRORED_BACK, anatomy
from pipelines.images import is_ipsilateral, mark_ipsilateral, read_nifti, write_nifti
from pipelines.interfaces.networks import PackVolumes
from pipelines.interfaces.summaries import PersonMaps, SummariseMethod, stack_of
from pipelines.preprocess import modality_of
from pipelines.view import Mask, Sides, View

GRID = Grid("12mm", (13, 16, 13), 12.0, (-72.0, -106.0, -62.0))
SPECT, T1W, DWI = (modality_of(one) for one in ("spect", "T1w", "dwi"))
LEFT, RIGHT = (2, 8, 5), (10, 8, 5)  # voxels that are each other's mirror image


# --- grids and masks -----------------------------------------------------------------------------


def test_a_crop_keeps_its_place_in_the_world():
    whole, part = GRIDS["spect"], GRIDS["spect"].cropped([[5, 66], [31, 75], [17, 52]])
    assert part.shape == (61, 44, 35)  # Nazari et al. 2021
    place = nib.affines.apply_affine
    np.testing.assert_allclose(place(part.affine, (1, 2, 3)), place(whole.affine, (6, 33, 20)))
    assert part.name.isalnum()
    assert whole.cropped(()) is whole


@pytest.mark.parametrize("box", [[[0, 72], [0, 90], [0, 72]], [[5, 5], [0, 9], [0, 9]], [[0, 9]]])
def test_a_crop_outside_the_grid_is_refused(box):
    with pytest.raises(InputError, match=r"71x90x72 voxels of the grid 'spect'"):
        GRIDS["spect"].cropped(box)


def test_a_mask_covers_its_regions_and_their_margin():
    labels = np.zeros((9, 9, 9), int)
    labels[4, 4, 4], labels[0, 0, 0] = 1, 2
    names = pd.DataFrame({"index": [1, 2], "name": ["Putamen_L", "Insula_L"]})
    found = region_mask(labels, names, ["Putamen"], np.diag([2.0, 2, 2, 1]), 4.0)
    where = np.indices(labels.shape) - 4
    np.testing.assert_array_equal(found, 2 * np.linalg.norm(where, axis=0) <= 4)
    with pytest.raises(InputError, match="no region 'Putamn'; did you mean 'Putamen'"):
        region_mask(labels, names, ["Putamn"], np.eye(4))


def test_the_striatal_mask_leaves_the_outer_insula():
    mask = Mask(("Caudate", "Putamen", "Pallidum", "Thalamus", "Amygdala"), 6.0)
    grid = GRIDS["spect"]
    blank = mask.voxels(grid, symmetric=True)
    np.testing.assert_array_equal(blank, blank[::-1])
    found = atlas("AAL")
    labels = on_grid(found, grid.affine, grid.shape)
    index = dict(zip(found.labels["name"], found.labels["index"], strict=True))
    for name in ("Caudate_L", "Putamen_R", "Thalamus_L", "Amygdala_R"):
        assert blank[labels == index[name]].all()
    left = [1 - blank[labels == index[name]].mean() for name in ("Insula_L", "Insula_R")]
    assert 0.4 < min(left) < max(left) < 0.75  # as the recipe says


# --- names of sides ------------------------------------------------------------------------------


def test_halves_are_renamed_and_still_pair_up():
    names = ["Insula_L", "Insula_R", "Vermis_3", "Left-Putamen"]
    renamed = [ipsilateral_name(one) for one in names]
    assert renamed == ["Insula_ipsi", "Insula_contra", "Vermis_3", "Putamen_ipsi"]
    assert [side_of(one) for one in renamed] == ["L", "R", None, "L"]
    table = pd.DataFrame({"index": range(4), "name": renamed, "voxels": 1, "sum": 2.0})
    assert merge_sides(table)["name"].tolist() == ["Insula", "Vermis_3", "Putamen_ipsi"]


def test_the_other_half_of_every_region():
    assert opposite(["Insula_L", "Vermis_3", "Insula_R", "Alone_L"]).tolist() == [2, 1, 0, 3]


# --- views ---------------------------------------------------------------------------------------


@pytest.fixture
def people(tmp_path):
    """Registered images with a hot spot left or right, and the sidecars that say which is lower."""
    found = {}
    for name, hot, lower in (("L", RIGHT, "L"), ("R", LEFT, "R")):
        data = np.ones(GRID.shape, np.float32)
        data[hot] = 5
        path = tmp_path / f"sub-{name}/spect/sub-{name}_space-MNI_spect.nii.gz"
        path.parent.mkdir(parents=True)
        write_nifti(path, data, GRID.affine, template=True)
        ratios = dict.fromkeys(("caudate_L", "caudate_R", "putamen_L", "putamen_R"), 1.0)
        ratios[f"putamen_{lower}"] = 0.5
        said = {"LowerPutamen": lower, "SpecificBindingRatio": ratios}
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(said))
        found[name] = path
    return found


def test_the_lower_side_is_left_in_what_the_network_sees(people):
    view = View(mirror=True)
    seen = {who: view.read(SPECT, path, GRID, "stored")[0] for who, path in people.items()}
    assert [view.is_mirrored(SPECT, people[who]) for who in "LR"] == [False, True]
    np.testing.assert_array_equal(seen["L"], seen["R"])
    assert seen["R"][RIGHT] == 5  # what is hot is on the other side
    plain = View().read(SPECT, people["R"], GRID, "stored")[0]
    np.testing.assert_array_equal(plain[::-1], seen["R"])


def test_measures_go_by_the_lower_side(people):
    found = SPECT.measures(people["R"])
    assert next(iter(found)) == "ipsilateral putamen SBR"
    assert found["ipsilateral putamen SBR"] == 0.5
    assert found["contralateral putamen SBR"] == 1.0


def test_blanked_regions_are_zero_after_mirroring(people):
    mask = Mask(("Insula_L",), 12.0)
    view = View(mask, mirror=True)
    blank = mask.voxels(GRID, symmetric=True)
    assert blank.any()
    assert (blank != mask.voxels(GRID)).any()  # mirroring needs both sides
    for path in people.values():
        seen = view.read(SPECT, path, GRID, "stored")[0]
        assert (seen[blank] == 0).all()
        assert (seen[~blank] != 0).any()


@pytest.mark.parametrize("intensity", ["stored", "binding", "max", "zscore"])
@pytest.mark.parametrize("kind", [SPECT, T1W], ids=["spect", "T1w"])
def test_blanked_voxels_do_not_show_in_the_scale_of_the_others(tmp_path, kind, intensity):
    mask, seen = Mask(("Insula",), 12.0), []
    rng = np.random.default_rng(0)
    data = rng.uniform(1, 2, GRID.shape).astype(np.float32)
    for factor in (1, 9):
        path = tmp_path / f"sub-{factor}_{kind.suffix}.nii.gz"
        changed = np.where(mask.voxels(GRID), factor * data, data)
        write_nifti(path, changed, GRID.affine, template=True)
        seen.append(View(mask).read(kind, path, GRID, intensity))
    np.testing.assert_array_equal(*seen)
    assert (seen[0][0][mask.voxels(GRID)] == 0).all()
    assert seen[0].std() > 0


def test_what_cannot_be_seen_is_refused():
    with pytest.raises(InputError, match="T1w images do not tell which side"):
        View(mirror=True).check(T1W, GRID)
    with pytest.raises(InputError, match=r"its middle is at x = -1 mm"):
        View(mirror=True).check(SPECT, GRIDS["2mm"])
    with pytest.raises(InputError, match="no region 'Striatum'"):
        View(Mask(("Striatum",))).check(T1W, GRID)
    View(Mask(("Putamen",), 4.0), mirror=True).check(SPECT, GRIDS["spect"])


def test_a_view_survives_a_model_card():
    view = View(Mask(("Putamen", "Caudate"), 4.0), mirror=True)
    assert View.of(json.loads(json.dumps(view.as_dict()))) == view
    assert View.of({}) == View()


def test_packed_images_say_who_was_mirrored(people, tmp_path):
    rows = [
        {"participant_id": f"sub-{who}", "session_id": "", "image": str(path), "positive": True,
         "train": True, "test": True}
        for who, path in people.items()
    ]  # fmt: skip
    stored = read_nifti(people["R"])  # two people, not one person twice
    data = np.asarray(stored.dataobj) * 1.1
    write_nifti(people["R"], data, stored.affine, template=True)
    write_table(tmp_path / "cohort.tsv", pd.DataFrame(rows))
    grid = {"name": GRID.name, "shape": list(GRID.shape), "voxel_mm": 12.0,
            "origin_mm": list(GRID.origin_mm)}  # fmt: skip
    shared = {"cohort": tmp_path / "cohort.tsv", "grid": grid, "modality": "spect"}
    caches = {}
    for mirror in (True, False):
        view = View(mirror=mirror).as_dict()
        node = PackVolumes(intensity="stored", view=view, **shared)
        (tmp_path / str(mirror)).mkdir()
        node._run_interface(SimpleNamespace(cwd=str(tmp_path / str(mirror))))
        caches[mirror] = open_cache(tmp_path / str(mirror) / "cache")
    assert caches[True].mirrored == [False, True]
    assert caches[True].ipsilateral
    left, right = caches[True].volumes[:, 0].astype(np.float32)
    np.testing.assert_allclose(1.1 * left, right, rtol=2e-3)
    assert caches[False].mirrored == []
    assert not caches[False].ipsilateral
    assert (caches[False].volumes[0] != caches[False].volumes[1]).any()


# --- where maps are shown ------------------------------------------------------------------------


@pytest.fixture
def summarised(people, tmp_path):
    """Both people's maps, hot on the ipsilateral side as the network saw them."""
    folder = tmp_path / "maps"
    folder.mkdir()
    keys = [("L", ""), ("R", "")]
    view = View(mirror=True)
    volumes = [view.read(SPECT, people[sub], GRID, "stored") for sub, _ in keys]
    cache = write_cache(tmp_path / "cache", keys, volumes, GRID, mirrored=[False, True])
    maps = np.zeros((2, *GRID.shape), np.float32)
    maps[:, LEFT[0], LEFT[1], LEFT[2]] = 1
    np.save(folder / "one.npy", maps)
    index = {"keys": keys, "fold": 1, "one": [{"score": 1.0, "output": 1.0} for _ in keys]}
    (folder / "index.json").write_text(json.dumps(index))
    ids = pd.DataFrame({"participant_id": ["sub-L", "sub-R"], "session_id": [None, None]})
    images = ids.assign(image=[str(people[sub]) for sub, _ in keys], positive=[True, False])
    write_table(tmp_path / "cohort.tsv", images)
    write_table(tmp_path / "predictions.tsv", ids.assign(label=["reduced", "normal"], fold=1))
    shared = {
        "attribution": {"name": "one", "method": "saliency"}, "cohort": tmp_path / "cohort.tsv",
        "predictions": tmp_path / "predictions.tsv", "content_hash": cache.content_hash,
        "cache": str(tmp_path / "cache"), "classes": ["normal", "reduced"], "model": "x",
        "modality": "spect", "atlas": "AAL",
    }  # fmt: skip
    (tmp_path / "out").mkdir()
    of_all = SummariseMethod(folds=[str(folder)], repeats=[1], **shared)
    of_all._run_interface(SimpleNamespace(cwd=str(tmp_path / "out")))
    facts, products = of_all._results["facts"], of_all._results["products"]
    for first in (0, 1):
        block = PersonMaps(block=[first, 2], facts=facts, **shared)
        block._run_interface(SimpleNamespace(cwd=str(tmp_path / "out")))
        assert not products.keys() & block._results["products"].keys()
        products |= block._results["products"]
    maps[0] += 1
    np.save(folder / "one.npy", maps)
    (tmp_path / "again").mkdir()
    of_all._run_interface(SimpleNamespace(cwd=str(tmp_path / "again")))
    return {"products": products, "facts": facts, "of_other_maps": of_all._results["facts"]}


def one_product(results, start, ending):
    (found,) = (
        value
        for path, value in results["products"].items()
        if path.startswith(start) and path.endswith(ending)
    )
    return found


def test_the_facts_of_other_maps_are_others(summarised):
    """Who draws one person's map is told by them, and does not read everybody's."""
    first, second = (
        json.loads(Path(summarised[one]).read_text()) for one in ("facts", "of_other_maps")
    )
    assert first.pop("stack") != second.pop("stack")
    assert first["ledgers"] == second["ledgers"]
    np.testing.assert_array_equal(stack_of(summarised["facts"])[1][LEFT], 1)


@pytest.mark.parametrize(("who", "hot"), [("L", LEFT), ("R", RIGHT)])
def test_a_persons_map_is_on_the_persons_own_side(summarised, who, hot):
    product = one_product(summarised, f"sub-{who}/spect/", "_heatmap.nii.gz")
    image = read_nifti(product["file"])
    data = np.asarray(image.dataobj)
    assert np.unravel_index(data.argmax(), data.shape) == hot
    assert not is_ipsilateral(image)
    assert (product["sidecar"]["Mirrored"] == MIRRORED_BACK) == (who == "R")
    table = read_table(one_product(summarised, f"sub-{who}/spect/", "_heatmap.tsv")["file"])
    names = table.loc[table["sum"] > 0, "name"]
    assert all(side_of(name) == who for name in names)
    assert not table["name"].str.contains("ipsi|contra").any()


def test_the_groups_maps_say_ipsilateral(summarised):
    product = one_product(summarised, "group/", "desc-reduced_heatmap.nii.gz")
    image = read_nifti(product["file"])
    assert is_ipsilateral(image)
    assert np.asarray(image.dataobj)[LEFT] == 1
    assert "mirrored" in product["sidecar"]["Lateralisation"]
    table = read_table(one_product(summarised, "group/", "atlas-AAL_heatmap.tsv")["file"])
    assert not any(name.endswith(("_L", "_R")) for name in table["name"])
    assert table["name"].str.endswith("_ipsi").any()


def test_figures_write_the_sides_that_an_image_has():
    data = np.pad(np.ones((6, 6, 6), np.float32), 3)
    affine = np.diag([8.0, 8, 8, 1])
    affine[:3, 3] = -44
    letters = {}
    for ipsilateral in (False, True):
        image = anatomy(data, affine, ipsilateral=ipsilateral)
        drawn = plot_slices(image)
        letters[ipsilateral] = {t.get_text() for axes in drawn.axes for t in axes.texts}
    assert {"L", "R"} <= letters[False]
    assert {"I", "C"} <= letters[True]
    assert not {"L", "R"} & letters[True]
    assert any("(I)" in text for text in letters[True])


def test_the_mark_survives_the_disk(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", np.ones((3, 3, 3)), np.eye(4), ipsilateral=True)
    assert is_ipsilateral(nib.load(tmp_path / "a.nii.gz"))
    assert not is_ipsilateral(nib.Nifti1Image(np.ones((3, 3, 3)), np.eye(4)))
    assert is_ipsilateral(mark_ipsilateral(nib.Nifti1Image(np.ones((3, 3, 3)), np.eye(4))))


# --- sides by a column of participants.tsv -------------------------------------------------------

ONSET = Sides("onset", mirrored="left", kept="right")


@pytest.fixture
def tensors(tmp_path):
    """Tensor images of four people, two with a side, in an output folder with its table."""
    onset = {"sub-1": "left", "sub-2": "right", "sub-3": "n/a", "sub-4": "both"}
    table = pd.DataFrame({"participant_id": list(onset), "onset": list(onset.values())})
    write_table(tmp_path / "participants.tsv", table)
    data = np.random.default_rng(0).normal(0, 1e-3, (*GRID.shape, 6))
    paths = {}
    for who in onset:
        paths[who] = tmp_path / who / "ses-1/dwi" / f"{who}_ses-1_dwimap.nii.gz"
        paths[who].parent.mkdir(parents=True)
        write_nifti(paths[who], data, GRID.affine, template=True)
    return paths


def test_a_column_tells_who_is_mirrored_and_tensors_turn(tensors):
    view = View(mirror=True, sides=ONSET)
    view.check(DWI, GRID)
    assert [view.is_mirrored(DWI, tensors[f"sub-{n}"]) for n in (1, 2, 3)] == [True, False, False]
    left, right = (view.read(DWI, tensors[who], GRID, "max") for who in ("sub-1", "sub-2"))
    expected = right[:, ::-1] * np.array([1, -1, -1, 1, 1, 1])[:, None, None, None]
    np.testing.assert_array_equal(left, expected)
    assert View.of(view.as_dict()) == view
    assert View.of({"mirror": True}).sides == Sides()  # of older model cards


def test_no_side_is_guessed(tensors, tmp_path):
    table = tmp_path / "participants.tsv"
    view = View(mirror=True, sides=ONSET)
    with pytest.raises(InputError, match="onset of sub-4 is 'both', neither 'left' nor 'right'"):
        view.is_mirrored(DWI, tensors["sub-4"])
    ONSET.check(table, ["sub-1", "sub-2"])
    with pytest.raises(InputError, match="onset of sub-3, sub-4 is neither"):
        ONSET.check(table, ["sub-1", "sub-3", "sub-4"])
    with pytest.raises(InputError, match=r"no column 'side'.*it has: participant_id, onset"):
        Sides("side", "L", "R").check(table, ["sub-1"])
    Sides().check(table, ["sub-3"])
    with pytest.raises(InputError, match="say by 'mirrored' and 'kept'"):
        Sides("onset", "left", "left")
    with pytest.raises(InputError, match="needs \\[preprocessing\\] mirror = true"):
        View(sides=ONSET).check(DWI, GRID)
    with pytest.raises(InputError, match="name a column of participants"):
        View(mirror=True).check(DWI, GRID)


def test_a_table_that_changed_is_read_again(tensors, tmp_path):
    import os

    view = View(mirror=True, sides=ONSET)
    assert view.is_mirrored(DWI, tensors["sub-1"])
    table = read_table(tmp_path / "participants.tsv").replace("left", "right")
    write_table(tmp_path / "participants.tsv", table)
    os.utime(tmp_path / "participants.tsv", (1, 1))
    assert not view.is_mirrored(DWI, tensors["sub-1"])
