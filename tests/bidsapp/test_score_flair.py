"""The FLAIR demo held against its truth: numbers of tables that were made here."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bidsapp import score, score_flair
from bidsapp.demo import cli
from bidsapp.score_flair import FILLED, SCRATCH, TRAINED_FURTHER
from models.errors import InputError
from pipelines.derivatives import write_json, write_table

VARIANTS = {SCRATCH: "a", TRAINED_FURTHER: "b", FILLED: "c"}
AREAS = {
    "linear SVM on the lesion volume, images of demo-flair": 1.0,
    "linear SVM on the voxels, images of demo-flair": 0.7,
    f"network, {SCRATCH}": 0.9,
    f"network, {TRAINED_FURTHER}": 0.95,
    f"network, {FILLED}": 0.6,
}
AFFINE = nib.affines.from_matvec(6 * np.eye(3), (-75, -111, -75))
SHAPE = (26, 32, 27)
WHERE = np.s_[7:11, 10:14, 15:18]


def mask(where):
    data = np.zeros(SHAPE, np.uint8)
    data[where] = 1
    return nib.Nifti1Image(data, AFFINE)


def people(relevance):
    """Two patients with lesions, one without, and a control with one."""
    return pd.DataFrame(
        {
            "participant_id": ["sub-01", "sub-03", "sub-05", "sub-02"],
            "label": ["MS", "MS", "MS", "HC"],
            "lesion_voxels": [40, 20, 0, 1],
            "lesion_coverage": [0.01, 0.02, 0.0, 0.001],
            "lesion_relevance": [relevance, relevance + 0.1, 0.0, 0.9],
            "lesion_relevance_untrained": [0.02, 0.04, None, None],
            "auc": [0.8, 0.6, None, 0.1],
            "auc_untrained": [0.5, 0.4, None, None],
            "top_share": [0.3, 0.2, None, 0.0],
            "top_share_untrained": [0.05, 0.05, None, None],
        }
    )


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A dataset's truth, and what three compared networks leave."""
    monkeypatch.setattr(
        score, "of_untrained", lambda output, model: {"lrpepsilon": mask(np.s_[:0])}
    )
    truth = tmp_path / "ds" / score.TRUTH_FOLDER / score.TRUTH_NAME
    truth.parent.mkdir(parents=True)
    nib.save(mask(WHERE), truth)
    sidecar = {"Modality": "FLAIR", "AffectedGroup": "MS"}
    write_json(truth.with_name(truth.name.replace(".nii.gz", ".json")), sidecar)
    out = tmp_path / "out"
    stem = out / score_flair.COMPARED
    variants = {name: f"model-{model}" for name, model in VARIANTS.items()}
    table = pd.DataFrame({"classifier": AREAS.keys(), "roc_auc": AREAS.values()})
    table = table.assign(balanced_accuracy=0.8, sensitivity=0.7, specificity=0.9)
    write_table(stem.with_name(f"{stem.name}_classifiers.tsv"), table)
    write_json(stem.with_name(f"{stem.name}_metrics.json"), {"Variants": variants})
    for model in VARIANTS.values():
        name = f"group/mod-FLAIR_space-X_model-{model}_target-MS_method-lrpepsilon"
        write_table(out / f"{name}_desc-lesions_heatmap.tsv", people(0.2))
        nib.save(mask(WHERE), out / f"{name}_stat-mean_res-6mm_desc-MS_heatmap.nii.gz")
    for who, where in (("01", WHERE), ("03", WHERE), ("02", np.s_[:0])):
        path = out / f"sub-{who}/anat/sub-{who}_label-L_desc-lesionLinear_mask.nii.gz"
        path.parent.mkdir(parents=True)
        nib.save(mask(where), path)
    return tmp_path / "ds", out


def test_numbers_of_every_patient_and_their_means(made):
    found = score_flair.score(*made)
    assert list(found["patients"][SCRATCH]) == ["sub-01", "sub-03"]
    assert found["patients"][SCRATCH]["sub-01"]["concentration"] == pytest.approx(0.2 / 0.01)
    means = found["lesions"][SCRATCH]
    assert means["relevance"] == pytest.approx(0.25)
    assert means["coverage"] == pytest.approx(0.015)
    assert means["concentration"] == pytest.approx(0.25 / 0.015)
    assert means["ratio"] == pytest.approx(0.25 / 0.03)
    assert (means["auc"], means["auc_untrained"]) == pytest.approx((0.7, 0.45))


def test_maps_and_masks_are_held_against_the_true_place(made):
    found = score_flair.score(*made)
    assert found["masks"]["overlap"] == 1.0
    assert found["mean_map"][SCRATCH]["auc"] > 0.99
    assert found["mean_map"][SCRATCH]["auc_untrained"] == pytest.approx(0.5)
    other = made[1] / "sub-03/anat/sub-03_label-L_desc-lesionLinear_mask.nii.gz"
    nib.save(mask(np.s_[15:19, 10:14, 15:18]), other)
    # Both places are often lesions now: twice as many voxels, half of them true.
    assert score_flair.score(*made)["masks"]["overlap"] == pytest.approx(2 / 3)


def test_lesions_of_controls_are_not_those_of_patients(made):
    """Two patients: without care, one control would be more than a tenth of them."""
    control = made[1] / "sub-02/anat/sub-02_label-L_desc-lesionLinear_mask.nii.gz"
    nib.save(mask(np.s_[15:19, 10:14, 15:18]), control)
    assert score_flair.score(*made)["masks"]["overlap"] == 1.0


def test_table_3_is_printed_and_requirements_are_met(made, capsys, tmp_path):
    dataset, out = made
    asked = ["score", str(dataset), str(out), "--strict", "--json", str(tmp_path / "s.json")]
    assert cli.main(asked) == 0
    said = capsys.readouterr().out
    for name in AREAS:
        assert name in said
    assert "sub-03" in said
    assert "NOT met" not in said
    stored = json.loads((tmp_path / "s.json").read_text())
    assert stored["summary"]["filling_costs_auc"] == pytest.approx(0.35)
    assert all(stored["requirements"].values())


def test_relevance_no_larger_than_the_lesions_are_is_not_enough(made, capsys):
    dataset, out = made
    name = "mod-FLAIR_space-X_model-a_target-MS_method-lrpepsilon_desc-lesions_heatmap.tsv"
    table = people(0.0)
    table["lesion_relevance"] = table["lesion_coverage"]
    write_table(out / "group" / name, table)
    met = score_flair.score(dataset, out)["requirements"]
    assert not met["scratch_relevance"]
    assert not met["scratch_ratio"]
    assert met["further_relevance"]
    assert cli.main(["score", str(dataset), str(out), "--strict"]) == 64
    assert "scratch_relevance" in capsys.readouterr().out


def test_without_a_comparison_the_commands_are_named(made):
    dataset, out = made
    stem = out / score_flair.COMPARED
    stem.with_name(f"{stem.name}_metrics.json").unlink()
    with pytest.raises(InputError, match="--compare config=demo-flair,demo-flair-pretrained"):
        score_flair.score(dataset, out)
