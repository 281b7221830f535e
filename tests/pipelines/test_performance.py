"""Tables of the performance, from the scores of every fold."""

import numpy as np
import pandas as pd
import pytest

from pipelines.performance import COLUMNS, measured, pooled, subsets


def study(thresholds=(0.5, 0.5), repeats=2):
    """Eight people in two folds, repeated; person 7 has two sessions, one of them judged."""
    rng = np.random.default_rng(1)
    people = [f"sub-{i}" for i in range(8)]
    cohort = pd.DataFrame(
        {
            "participant_id": people,
            "session_id": ["", "", "", "", "", "", "", "ses-1"],
            "positive": [bool(i % 2) for i in range(8)],
        }
    )
    scores = [
        {
            "participant_id": person,
            "session_id": cohort["session_id"][i],
            "repeat": repeat,
            "fold": 1 + (i >= 4),
            "division": repeat,
            "number": 2 * (repeat - 1) + 1 + (i >= 4),
            "n_train": 4,
            "score": 0.0,
            "probability": rng.random(),
            "threshold": thresholds[repeat - 1],
        }
        for repeat in range(1, repeats + 1)
        for i, person in enumerate(people)
    ]
    return pd.DataFrame(scores), cohort


def test_the_mean_probability_is_held_against_the_mean_threshold():
    scores, cohort = study(thresholds=(0.2, 0.7))
    table = pooled(scores, cohort, ["CN", "AD"])
    for row in table.itertuples():
        mine = scores[scores["participant_id"] == row.participant_id]
        assert row.probability == pytest.approx(mine["probability"].mean())
        assert row.threshold == pytest.approx(0.45)
        assert row.predicted == ("AD" if row.probability >= row.threshold else "CN")
        assert row.n_models == 2
        assert row.folds == ("1,3" if row.fold == 1 else "2,4")
    assert table["outcome"].isin(["TP", "FP", "TN", "FN"]).all()
    assert table["session_id"].isna().tolist() == [True] * 7 + [False]


def test_every_column_of_the_metrics_is_described():
    scores, cohort = study()
    people = pooled(scores, cohort, ["CN", "AD"])
    tables = measured(people, scores, cohort, "AD")
    metrics = tables["metrics"]
    assert list(metrics) == ["metric", *COLUMNS]
    assert metrics["metric"].is_unique
    row = metrics.set_index("metric").loc["accuracy"]
    hits = (people["label"] == people["predicted"]).mean()
    assert row["value"] == hits
    assert row["mean"] == pytest.approx(tables["repeats"]["accuracy"].mean())
    assert row["sd"] == pytest.approx(tables["repeats"]["accuracy"].std())
    assert row["n_repeats"] == 2
    assert np.isfinite(row[["splits_low", "splits_high"]].to_numpy(float)).all()
    assert metrics.set_index("metric")["mean"].isna()["calibration_slope"]
    assert tables["calibration"]["n"].sum() == 8


def test_one_training_has_no_spread():
    scores, cohort = study(repeats=1)
    people = pooled(scores, cohort, ["CN", "AD"])
    row = measured(people, scores, cohort, "AD")["metrics"].set_index("metric").loc["accuracy"]
    assert np.isnan(row["sd"])
    assert np.isnan(row["se"])
    assert row["value"] == row["mean"]


def test_the_ensemble_on_training_images_stands_beside_test_images():
    """Each image's mean over the networks that were trained on it: counts by hand."""
    scores, cohort = study()
    tested = pooled(scores, cohort, ["CN", "AD"])
    seen = scores.assign(probability=np.where(scores["participant_id"] == "sub-0", 0.9, 0.1))
    seen.loc[seen["participant_id"].isin(["sub-1", "sub-3"]), "probability"] = 0.8
    table = subsets(tested, pooled(seen, cohort, ["CN", "AD"]), "AD").set_index("metric")
    assert dict(table["training"].loc[["TP", "FN", "TN", "FP"]]) == {
        "TP": 2, "FN": 2, "TN": 3, "FP": 1
    }  # fmt: skip
    assert table.loc["sensitivity", "training"] == 0.5
    assert table.loc["specificity", "training"] == 0.75
    assert table.loc["accuracy", "training"] == 0.625
    right = (tested["predicted"] == tested["label"]).mean()
    assert table.loc["accuracy", "testing"] == pytest.approx(right)
    assert set(table["training_images"]) == set(table["testing_images"]) == {8}
