"""The group level on FLAIR: from registered images and lesion masks to sentences of the page."""

import numpy as np
import pandas as pd
import pytest

from models.grids import full_grid
from models.volumes import to_grid
from pipelines.atlases import template
from pipelines.derivatives import read_sidecar, read_table, write_json, write_table
from pipelines.images import read_nifti, write_nifti
from pipelines.inputs import Scan
from pipelines.preprocess.flair import MODALITY, FlairOptions, flair_paths, lesion_path

GRID = full_grid(3.0)
OPTIONS = FlairOptions("linear", 3.0)
PEOPLE = [f"{i:02d}" for i in range(1, 13)]
RECIPE = """\
[training]
folds = 2

[training.protocol]
epochs = 3

[[attribution]]
method = "input_x_gradient"

[statistics]
maps = ["image"]
permutations = 20
"""


def store(out, who, image, lesions):
    """What the participant level leaves of one person, as far as the group level looks."""
    scan = Scan(who, "", out / "none", lesions=out / "mask" if lesions is not None else None)
    paths = flair_paths(scan, OPTIONS)
    for name, data in (("registered", image), ("registered_mask", image > 0)):
        path = out / paths[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(path, data, GRID.affine, template=True)
    load = None
    if lesions is not None:
        write_nifti(out / lesion_path(scan, OPTIONS), lesions, GRID.affine, template=True)
        load = float(lesions.sum()) * 0.027
    row = {
        "participant_id": f"sub-{who}",
        "session_id": None,
        "registration": "linear",
        "mask_volume_ml": 1500.0,
        "template_overlap": 0.97,
        "lesion_volume_ml": load,
    }
    write_table(out / paths["quality"], pd.DataFrame([row | {"flags": None}]))
    write_json((out / paths["quality"]).with_suffix(".json"), {"Options": {"lesions": "keep"}})


@pytest.fixture(scope="module")
def done(tmp_path_factory, brainwhy):
    """Twelve people; patients have a bright ball behind, a control has no mask any more."""
    out, rng = tmp_path_factory.mktemp("flair") / "out", np.random.default_rng(0)
    source = read_nifti(template())
    brain = to_grid(np.asarray(source.dataobj, np.float32), source.affine, GRID)
    brain[brain < 20] = 0
    for i, who in enumerate(PEOPLE):
        noise = np.where(brain > 0, rng.normal(0, 3, brain.shape), 0)
        lesions = np.zeros(brain.shape, bool)
        if i % 2 == 0:
            lesions[20 : 23 + i // 2, 30:34, 38:42] = True
        image = np.where(lesions, 160.0, np.clip(brain + noise, 1, None) * (brain > 0))
        store(out, who, image.astype(np.float32), None if who == "12" else lesions)
    # Of a mask that has left the dataset since: its quality numbers know of no lesions.
    stale = out / lesion_path(Scan("12", "", out / "none"), OPTIONS)
    write_nifti(stale, np.ones(brain.shape, bool), GRID.affine, template=True)
    table = [
        {"participant_id": f"sub-{who}", "diagnosis": "HC" if i % 2 else "MS", "age": 30 + i,
         "sex": "FM"[i // 2 % 2]}
        for i, who in enumerate(PEOPLE)
    ]  # fmt: skip
    write_table(out / "participants.tsv", pd.DataFrame(table))
    write_json(out / "dataset_description.json", {"Name": "x", "DatasetType": "derivative"})
    (out.parent / "tiny.toml").write_text(RECIPE)
    ran = brainwhy(
        out, out, "group", "--recipe", "demo-flair", "--config-file", out.parent / "tiny.toml",
        "--nprocs", 1, "--device", "cpu",
    )  # fmt: skip
    assert ran.code == 0, ran.said
    return out, ran


def test_lesions_stand_beside_relevance(done):
    out, _ = done
    path = next(out.glob("group/*_method-inputxgradient_desc-lesions_heatmap.tsv"))
    table = read_table(path).set_index("participant_id")
    assert table["lesion_voxels"].notna().sum() == 11
    assert np.isnan(table.loc["sub-12", "lesion_voxels"])
    # By value: 48 voxels and 16 more for every further patient, all inside the brain.
    patients = table[table["label"] == "MS"]
    assert patients["lesion_voxels"].tolist() == [48, 64, 80, 96, 112, 128]
    assert (patients["lesion_coverage"] < 0.003).all()
    assert patients["lesion_relevance_untrained"].notna().all()
    facts = read_sidecar(path)
    assert facts["Correlation"]["everybody"]["people"] == 11
    assert set(facts["Means"]) == {"MS", "HC"}
    assert list(out.glob("group/*_atlas-Neuromorphometrics_desc-lesionload_heatmap.tsv"))


def test_the_lesion_volume_is_fitted_beside_the_network(done):
    out, _ = done
    table = read_table(out / "group/model-demoflair_desc-baselines_metrics.tsv")
    aucs = table[table["metric"] == "roc_auc"].set_index("classifier")["value"]
    assert {"network", "svm_lesions", "svm_voxels"} == set(aucs.index)
    assert aucs["svm_lesions"] > 0.9  # patients have lesions, controls have none


def test_the_page_tells_of_lesions(done):
    out, _ = done
    text = " ".join((out / "group.html").read_text().split())
    assert "Lesions of MS are" in text
    assert "of an untrained network" in text
    assert "Sum of relevance and lesion sum, everybody" in text
    assert "a mark per person" in text


def test_lesion_masks_of_the_image_are_found_again(done):
    out, _ = done
    stored = MODALITY.stored(out, OPTIONS)
    assert sorted(stored) == [(who, "") for who in PEOPLE]
