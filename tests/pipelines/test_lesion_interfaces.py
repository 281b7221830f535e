"""Lesions at group level: numbers of every person, and maps before and after transfer."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from models.errors import InputError
from models.grids import full_grid
from models.lesions import measures
from models.volumes import open_cache, write_cache
from pipelines import transfer
from pipelines.derivatives import read_table, write_table
from pipelines.images import write_nifti
from pipelines.interfaces.baselines import BaselineFold
from pipelines.interfaces.lesions import AnalyseLesions, CompareTransfer

GRID = full_grid(6.0)
PEOPLE = [f"{i:02d}" for i in range(1, 9)]
METHOD = {"name": "inputxgradient", "method": "input_x_gradient"}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Eight people, four of them patients with lesions that take more and more of the map."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    brain = np.zeros(GRID.shape, bool)
    brain[6:27, 6:33, 6:27] = True
    volumes, maps, rows, masks = [], [], [], {}
    for i, who in enumerate(PEOPLE):
        patient = i < 4
        lesions = np.zeros(GRID.shape, bool)
        if patient:
            lesions[12 : 13 + i, 10:13, 16:18] = True
        volumes.append(np.where(brain, rng.uniform(0.4, 0.6, GRID.shape), 0) + lesions)
        maps.append(np.where(brain, rng.normal(0, 0.02, GRID.shape), 0) + lesions)
        path = ""
        if who != "08":  # a control without a mask
            path = str(tmp_path / f"{who}.nii.gz")
            write_nifti(tmp_path / f"{who}.nii.gz", lesions, GRID.affine, template=True)
            masks[who] = lesions
        rows.append((f"sub-{who}", patient, path, lesions.sum() * 0.216 if path else None))
    cohort = pd.DataFrame(
        rows, columns=["participant_id", "positive", "lesions", "lesion_volume_ml"]
    )
    cohort = cohort.assign(session_id="", train=True, test=True, image="none")
    write_table(tmp_path / "cohort.tsv", cohort)
    table = pd.DataFrame(
        {
            "participant_id": cohort["participant_id"],
            "session_id": None,
            "label": np.where(cohort["positive"], "MS", "HC"),
            "probability": 0.5,
        }
    )
    write_table(tmp_path / "predictions.tsv", table)
    np.save(tmp_path / "stack.npy", np.stack(maps).astype(np.float32))
    cache = write_cache(
        tmp_path / "cache", [(who, "") for who in PEOPLE], [v[None] for v in volumes], GRID
    )
    given = {
        "attribution": METHOD,
        "stack": str(tmp_path / "stack.npy"),
        "predictions": str(tmp_path / "predictions.tsv"),
        "cohort": str(tmp_path / "cohort.tsv"),
        "cache": str(tmp_path / "cache"),
        "content_hash": cache.content_hash,
        "classes": ["HC", "MS"],
        "modality": "FLAIR",
        "model": "tiny",
        "atlas": "Neuromorphometrics",
        "network": {"name": "demo"},
        "seed": 0,
    }
    return tmp_path, given, np.stack(maps).astype(np.float32), masks, brain


def one(products, end):
    found = [path for path in products if path.endswith(end)]
    assert len(found) == 1, products.keys()
    return found[0], products[found[0]]


def test_every_person_s_numbers(study):
    _, given, maps, masks, brain = study
    products = AnalyseLesions(**given).run().outputs.products
    path, product = one(products, "_desc-lesions_heatmap.tsv")
    assert path == (
        "group/mod-FLAIR_space-MNI152NLin2009cAsym_model-tiny_target-MS_method-inputxgradient"
        "_desc-lesions_heatmap.tsv"
    )
    table = read_table(product["file"]).set_index("participant_id")
    for i, who in enumerate(PEOPLE):
        row = table.loc[f"sub-{who}"]
        if who not in masks:
            assert np.isnan(row["lesion_voxels"])
            continue
        for name, value in measures(maps[i], masks[who], brain).items():
            assert row[name] == pytest.approx(value, nan_ok=True), name
        assert np.isfinite(row["auc"]) == (i < 4)
        assert np.isfinite(row["auc_untrained"]) == (i < 4)
    assert (table["auc"].dropna() > 0.9).all()
    assert (table["top_share"].dropna() > table["top_share_untrained"].dropna()).all()


def test_of_several_images_of_a_person_the_first_counts_in_the_correlation(study):
    """A second image of everybody, the same: no more people, and not a smaller p."""
    folder, given, maps, _, _ = study
    p = _correlation(given)["everybody"]
    for name in ("cohort", "predictions"):
        table = read_table(folder / f"{name}.tsv")
        both = [table.assign(session_id=f"ses-{k}") for k in (1, 2)]
        write_table(folder / f"{name}.tsv", pd.concat(both))
    np.save(folder / "stack.npy", np.concatenate([maps, maps]))
    first = open_cache(folder / "cache")
    keys = [(who, session) for session in "12" for who in PEOPLE]
    write_cache(folder / "both", keys, [*first.volumes, *first.volumes], GRID)
    again = _correlation(given | {"cache": str(folder / "both")})["everybody"]
    assert (again["people"], again["r"], again["p"]) == (p["people"], p["r"], p["p"])


def _correlation(given):
    products = AnalyseLesions(**given).run().outputs.products
    return one(products, "_desc-lesions_heatmap.tsv")[1]["sidecar"]["Correlation"]


def test_means_and_the_correlation_of_lesions_and_relevance(study):
    _, given, maps, masks, _ = study
    facts = one(AnalyseLesions(**given).run().outputs.products, "_desc-lesions_heatmap.tsv")[1]
    said = facts["sidecar"]
    voxels = [masks[who].sum() for who in PEOPLE[:4]]
    assert said["Means"]["MS"]["lesion_voxels"] == pytest.approx(np.mean(voxels))
    assert said["Means"]["HC"]["lesion_relevance_untrained"] is None
    known = [i for i, who in enumerate(PEOPLE) if who in masks]
    sums = [maps[i].sum() for i in known]
    r = np.corrcoef(sums, [masks[PEOPLE[i]].sum() for i in known])[0, 1]
    assert said["Correlation"]["everybody"]["r"] == pytest.approx(r, abs=1e-6)
    assert said["Correlation"]["everybody"]["people"] == 7
    assert 0 < said["Correlation"]["everybody"]["p"] < 0.05
    assert said["MeanMap"]["auc"] > 0.9
    json.dumps(said)


def test_patients_without_lesions_count_by_both_networks(study):
    """An empty mask is a patient like the others, or both means were of other people."""
    folder, given, *_ = study
    write_nifti(folder / "01.nii.gz", np.zeros(GRID.shape, bool), GRID.affine, template=True)
    product = one(AnalyseLesions(**given).run().outputs.products, "_desc-lesions_heatmap.tsv")[1]
    table = read_table(product["file"]).set_index("participant_id")
    empty = table.loc["sub-01"]
    assert empty["lesion_relevance"] == empty["lesion_relevance_untrained"] == 0
    assert np.isnan(empty["auc_untrained"])
    assert table.loc["sub-08"].isna()["lesion_relevance_untrained"]
    known = table.loc[["sub-01", "sub-02", "sub-03", "sub-04"], "lesion_relevance_untrained"]
    mean = product["sidecar"]["Means"]["MS"]["lesion_relevance_untrained"]
    assert mean == pytest.approx(known.sum() / 4)


def test_lesion_load_of_regions_is_beside_their_relevance(study):
    _, given, _, masks, _ = study
    products = AnalyseLesions(**given).run().outputs.products
    table = read_table(one(products, "_desc-lesionload_heatmap.tsv")[1]["file"])
    assert not any(name.startswith(("Left", "Right")) for name in table["name"])
    assert 0 < table["lesion_voxels"].sum() <= np.mean([masks[who].sum() for who in PEOPLE[:4]])
    top = table.loc[table["lesion_share"].idxmax()]
    assert top["relevance_density"] > table["relevance_density"].median()


def test_nobody_with_a_mask_is_no_error(study):
    folder, given, *_ = study
    cohort = read_table(folder / "cohort.tsv").assign(lesions="")
    write_table(folder / "cohort.tsv", cohort)
    assert AnalyseLesions(**given).run().outputs.products == {}


def test_maps_before_and_after_transfer(study, monkeypatch):
    _, given, maps, *_ = study
    seen = []

    def start(network, plan):
        assert plan["head"] == "keep"  # the source as it was, not with a layer drawn here
        seen.append(plan["fold"])
        for weights in network.parameters():
            weights.data.fill_(0.01 * plan["fold"])

    monkeypatch.setattr(transfer, "start", start)
    roles = [
        dict.fromkeys(PEOPLE[:2] + PEOPLE[4:6], "test"),
        dict.fromkeys(PEOPLE[2:4] + PEOPLE[6:], "test"),
    ]
    splits = [{"repeat": 1, "fold": i, "number": i, "roles": one} for i, one in enumerate(roles, 1)]
    starts = [{"fold": fold, "name": "other", "head": "new"} for fold in (1, 2)]
    products = CompareTransfer(splits=splits, starts=starts, **given).run().outputs.products
    assert seen == [1, 2]
    images = {}
    for name in ("untrained", "source", "finetuned"):
        _, product = one(products, f"_desc-{name}_heatmap.nii.gz")
        images[name] = nib.load(product["file"]).get_fdata()
    assert np.allclose(images["finetuned"], maps[:4].mean(0), atol=1e-6)
    assert not np.allclose(images["source"], images["untrained"])
    table = read_table(one(products, "_desc-transfer_heatmap.tsv")[1]["file"])
    assert {"density_untrained", "density_source", "density_finetuned"} <= set(table)
    assert "group/figures" in one(products, "_desc-transfer_heatmap.png")[0]


def test_a_source_of_another_last_layer_has_no_map(study, monkeypatch):
    _, given, *_ = study

    def start(network, plan):
        raise InputError("model other: has other shapes")

    monkeypatch.setattr(transfer, "start", start)
    splits = [{"repeat": 1, "fold": 1, "number": 1, "roles": dict.fromkeys(PEOPLE, "test")}]
    starts = [{"fold": 1, "name": "other", "head": "new"}]
    products = CompareTransfer(splits=splits, starts=starts, **given).run().outputs.products
    assert not [path for path in products if "desc-source" in path]
    product = one(products, "_desc-transfer_heatmap.tsv")[1]
    assert product["sidecar"]["NotComputed"] == [
        "map of the source model: model other: has other shapes"
    ]
    assert "density_source" not in read_table(product["file"])


def test_the_lesion_volume_is_a_baseline(study):
    folder, given, *_ = study
    np.savez(folder / "features.npz")
    roles = {who: ("test" if who in ("01", "05") else "train") for who in PEOPLE}
    options = {"names": ["svm_lesions"], "c": [1.0], "gamma": [1.0], "pca": 0, "inner_folds": 2}
    fold = BaselineFold(
        features=str(folder / "features.npz"), cohort=given["cohort"], options=options, seed=0,
        split={"repeat": 1, "fold": 1, "number": 1, "roles": roles},
    )  # fmt: skip
    scores = read_table(fold.run().outputs.scores).set_index("participant_id")["score"]
    assert scores["sub-01"] > scores["sub-05"]
    cohort = read_table(folder / "cohort.tsv").drop(columns="lesion_volume_ml")
    write_table(folder / "cohort.tsv", cohort)
    missing = json.loads(Path(fold.run().outputs.choices).read_text())
    assert "no lesion masks" in missing["svm_lesions"]["NotComputed"]
