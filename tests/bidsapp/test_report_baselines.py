"""What the group page says of the network beside simple classifiers."""

import pandas as pd
import pytest

from bidsapp.report.baselines import beside
from bidsapp.report.group import group_page
from bidsapp.report.methods import methods_text
from bidsapp.report.shelf import Shelf
from bidsapp.settings import load_recipe
from pipelines.baselines import BASELINES
from pipelines.charts import forest
from pipelines.derivatives import write_json, write_table
from pipelines.figures import save

ROWS = {
    # classifier: area, p, network's area less this, verdict
    "svm_voxels": (0.80, 0.2, 0.1, "undecided"),
    "svm_voxels_rbf": (0.95, 0.3, -0.05, "undecided"),
    "svm_regions": (0.99, 0.01, -0.09, "worse"),
    "covariates": (0.55, 0.0004, 0.35, "better"),
    "mask": (0.88, None, 0.02, "unknown"),
}


def write(root, names=tuple(BASELINES), missing=()):
    stem = root / "group/model-x_desc-baselines"
    classifiers = ["network", *ROWS]
    table = pd.DataFrame(
        [
            (one, metric, value, max(value - 0.1, 0), min(value + 0.1, 1))
            for one in classifiers
            for metric, value in (
                ("balanced_accuracy", 0.8),
                ("roc_auc", ROWS[one][0] if one in ROWS else 0.9),
            )
        ],
        columns=["classifier", "metric", "value", "ci_low", "ci_high"],
    )
    write_table(stem.with_name(f"{stem.name}_metrics.tsv"), table)
    sidecar = {"Features": {"mask": "which voxels are not zero"}, "NotComputed": list(missing)}
    write_json(stem.with_name(f"{stem.name}_metrics.json"), sidecar)
    rows = [
        {
            "classifier": name, "people": 24, "auc_network": 0.9, "auc_baseline": area,
            "auc_difference": less, "ci_low": less - 0.2 if p else None,
            "ci_high": less + 0.2 if p else None, "p_auc": p, "network_only_right": 3,
            "baseline_only_right": 1, "p_accuracy": 0.625, "verdict": verdict,
        }
        for name, (area, p, less, verdict) in ROWS.items()
    ]  # fmt: skip
    write_table(stem.with_name(f"{stem.name}_comparisons.tsv"), pd.DataFrame(rows))
    card = {"Classes": ["CN", "AD"], "Recipe": {"baselines": {"names": list(names)}}}
    write_json(root / "models/model-x/model-x_modelcard.json", card)
    save(forest(table, {}), root / "group/figures/model-x_desc-baselines.png", dpi=20)


def sentences(root, **more):
    found = beside(Shelf(root), "x", "95 % CI", **{"beats_chance": True} | more)
    return found, [one.text for one in found.sentences]


def test_every_baseline_has_a_sentence_that_says_whether_it_is_beaten(tmp_path):
    write(tmp_path)
    found, said = sentences(tmp_path)
    assert said == [
        "The network does not clearly beat a linear SVM on the voxels (area under the ROC curve "
        "0.90 against 0.80, DeLong’s p = 0.200): nothing shows that a network was needed.",
        "The network does not beat an SVM with a radial kernel on the voxels (area under the ROC "
        "curve 0.90 against 0.95, DeLong’s p = 0.300): nothing shows that a network was needed.",
        "The network does worse than a linear SVM on regions (area under the ROC curve 0.90 "
        "against 0.99, DeLong’s p = 0.010): nothing shows that it learnt more than one number per "
        "region.",
        "The network beats the covariates alone (area under the ROC curve 0.90 against 0.55, "
        "DeLong’s p below 0.001).",
        "Whether the network beats the brain mask alone is not known (area under the ROC curve "
        "0.90 against 0.88; no test fits).",
    ]
    kinds = [one.kind for one in found.sentences]
    assert kinds == ["attention", "attention", "attention", "good", "attention"]
    assert found.summary.text == (
        "On the same people, the network beats the covariates alone; it does not clearly beat a "
        "linear SVM on the voxels and an SVM with a radial kernel on the voxels; it does worse "
        "than a linear SVM on regions; it cannot be told from the brain mask alone."
    )


@pytest.mark.parametrize(("verdict", "kind"), [("better", "plain"), ("undecided", "attention")])
def test_who_does_not_beat_the_mask_may_have_learnt_the_stripping(
    tmp_path, monkeypatch, verdict, kind
):
    p = 0.01 if verdict == "better" else 0.6
    monkeypatch.setitem(ROWS, "mask", (0.88, p, 0.02, verdict))
    write(tmp_path)
    found, said = sentences(tmp_path)
    assert ("what it learnt may be the skull-stripping" in said[-1]) == (verdict != "better")
    assert found.summary.kind == kind


def test_a_network_at_chance_has_learnt_nothing_to_be_explained_away(tmp_path):
    write(tmp_path)
    found, said = sentences(tmp_path, beats_chance=False)
    assert not any("learnt" in one or "needed" in one for one in said)
    # A baseline may by chance lie below chance: to beat it is no merit.
    assert said[3].endswith("DeLong’s p below 0.001), but not chance.")
    assert found.summary.text.endswith("; it does not beat chance.")
    assert found.sentences[3].kind == found.summary.kind == "attention"


def test_the_table_holds_the_intervals_and_both_tests(tmp_path):
    write(tmp_path, missing=["mask: all training images are alike"])
    found, _ = sentences(tmp_path)
    rows = [[cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in found.table.rows]
    assert rows[0] == [
        "Network", "80 % (70 % to 90 %)", "0.90 (0.80 to 1.00)", "–", "–", "–", "–",
    ]  # fmt: skip
    assert rows[4] == [
        "Covariates alone", "80 % (70 % to 90 %)", "0.55 (0.45 to 0.65)", "0.35 (0.15 to 0.55)",
        "below 0.001", "3 / 1", "0.625",
    ]  # fmt: skip
    assert rows[2][3] == "−0.05 (−0.25 to 0.15)"
    assert rows[5][3:5] == ["0.02", "not known"]
    assert found.looked_at == [("Brain mask alone", "which voxels are not zero")]
    assert found.missing == ["brain mask alone: all training images are alike"]


def test_what_the_recipe_no_longer_names_is_not_shown(tmp_path):
    write(tmp_path, names=["mask"])
    assert len(sentences(tmp_path)[1]) == 1
    write(tmp_path, names=[])
    assert beside(Shelf(tmp_path), "x", "CI", beats_chance=True) is None


def test_reasons_are_given_once_where_nothing_could_be_fitted(tmp_path):
    missing = [f"{name}: too few people" for name in ("svm_voxels", "mask")]
    write(tmp_path, names=["svm_voxels", "mask"], missing=missing)
    path = tmp_path / "group/model-x_desc-baselines_comparisons.tsv"
    write_table(path, pd.read_csv(path, sep="\t").iloc[:0])
    found, said = sentences(tmp_path)
    assert (found.summary, found.table, said) == (None, None, [])
    assert found.missing == ["linear SVM on the voxels and brain mask alone: too few people"]
    page = group_page(tmp_path, "x").read_text()
    assert "Not fitted: linear SVM on the voxels and brain mask alone: too few people" in page
    assert "McNemar" not in page


def test_the_page_shows_them_once(tmp_path):
    write(tmp_path)
    page = group_page(tmp_path, "x").read_text()
    assert page.count("Beside simple classifiers") == 1
    assert page.count("The network does worse than a linear SVM on regions") == 1
    assert page.count('alt="Balanced accuracy and area under the ROC curve') == 1
    assert "Other pictures" not in page


def test_without_baselines_the_page_says_nothing_of_them(tmp_path):
    write(tmp_path)
    for path in (tmp_path / "group").rglob("*baselines*"):
        path.unlink()
    assert "Beside simple classifiers" not in group_page(tmp_path, "x").read_text()


@pytest.mark.parametrize(
    ("changes", "there", "absent"),
    [
        ({}, "McNemar’s exact test", "principal component"),
        ({"pca": 10}, "the first 10 principal components of the voxels were kept", "n/a"),
        ({"names": ["covariates"]}, "covariates (age and sex)", "support vector"),
        ({"names": ["svm_regions"]}, "mean intensity of each region", "gamma"),
    ],
)
def test_methods_say_what_was_fitted(changes, there, absent):
    recipe = load_recipe("demo-t1w").overridden({"baselines": changes}).as_dict()
    text = str(methods_text(recipe, {}, stages=["baselines"]))
    assert there in text
    assert absent not in text


def test_methods_do_not_claim_what_was_not_asked_for():
    recipe = load_recipe("demo-t1w").overridden({"baselines": {"names": []}}).as_dict()
    assert "simple classifier" not in str(methods_text(recipe, {}, stages=["baselines"]))
    assert "simple classifier" not in str(methods_text({}, {}, stages=["baselines"]))


def test_methods_say_how_sites_were_taken_off():
    tables = {
        "cohort": {"site": "scanner"},
        "harmonisation": {"method": "combat", "preserve": ["age", "sex"]},
    }
    recipe = load_recipe("demo-t1w").overridden(tables).as_dict()
    text = str(methods_text(recipe, {}, stages=["network", "baselines"]))
    assert "ComBat" in text
    assert "with age and sex preserved" in text
    assert "covariates (age, sex and scanner)" in text
    assert "Johnson WE" in text
    plain = load_recipe("demo-t1w").as_dict()
    assert "ComBat" not in str(methods_text(plain, {}, stages=["network"]))
