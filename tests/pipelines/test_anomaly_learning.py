"""One auto-encoder on one split: who is learnt, who is judged, and what is not learnt again."""

from dataclasses import asdict, replace
from pathlib import Path
from shutil import copyfile

import numpy as np
import pandas as pd
import pytest

from models.grids import GRIDS
from models.training.splits import Split
from models.volumes import write_cache
from pipelines.interfaces.anomaly import LearnControls
from pipelines.stored_models import made_by

GRID = replace(GRIDS["3mm"], shape=(16, 18, 8))
ROLES = {"01": "train", "02": "train", "03": "train", "04": "train", "05": "test", "06": "test"}
AUTOENCODER = {"name": "ae", "method": "ae", "widths": [4], "slices": 4, "epochs": 2}


@pytest.fixture
def learn(tmp_path):
    rng = np.random.default_rng(0)
    keys = [(name, "") for name in ROLES]
    volumes = rng.uniform(0.2, 0.8, (6, 2, *GRID.shape)).astype(np.float32)
    cache = write_cache(tmp_path / "cache", keys, volumes, GRID, 2)
    cohort = pd.DataFrame({"participant_id": [f"sub-{name}" for name in ROLES]})
    cohort = cohort.assign(session_id="", image="x", positive=cohort.index == 5)
    cohort.assign(train=True, test=True).to_csv(tmp_path / "cohort.tsv", sep="\t", index=False)

    def run(brain, number=1, **more):
        name = f"node{len(list(tmp_path.iterdir()))}"
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "brain.npy", brain)
        regions = tmp_path / name / "regions.npz"
        np.savez(regions, names=["whole brain"], inside=np.ones((1, int(brain.sum())), bool))
        node = LearnControls(
            cache=str(tmp_path / "cache"), content_hash=cache.content_hash,
            cohort=tmp_path / "cohort.tsv", model="tiny", brain=tmp_path / name / "brain.npy",
            regions=regions, split=asdict(Split(1, 1, number, ROLES)), autoencoder=AUTOENCODER,
            quantile=0.9, seed=0, **more,
        )  # fmt: skip
        return node.run(cwd=str(tmp_path / name)).outputs

    return run


def whole():
    brain = np.zeros(GRID.shape, bool)
    brain[2:-2, 2:-2] = True
    return brain


def test_patients_and_left_out_controls_are_judged_by_what_others_taught(learn):
    table = pd.read_csv(learn(whole()).scores, sep="\t")
    assert table.groupby("role")["participant_id"].apply(sorted).to_dict() == {
        "train": ["sub-01", "sub-02", "sub-03", "sub-04"], "test": ["sub-05", "sub-06"]
    }  # fmt: skip
    assert set(table["voxels"]) == {12 * 14 * 4}  # of eight slices, four are learnt and scored
    fewer = pd.read_csv(learn(whole(), least_voxels=12 * 14 * 4 + 1).scores, sep="\t")
    assert fewer["percent"].isna().all()
    # The quantile is that of the training controls, so that it holds of them together.
    assert table.loc[table["role"] == "train", "percent"].mean() == pytest.approx(10, abs=0.1)


def test_a_stored_training_is_taken_when_images_people_and_brain_are_the_same(learn, tmp_path):
    first = learn(whole())
    stored = tmp_path / "out"
    for path, product in first.products.items():
        (stored / path).parent.mkdir(parents=True, exist_ok=True)
        copyfile(product["file"], stored / path)
    again = learn(whole(), stored=str(stored))
    assert made_by(Path(again.weights)) == made_by(Path(first.weights))
    assert not list(tmp_path.glob("*/checkpoint*"))[1:]  # learnt once
    smaller = whole()
    smaller[..., 0] = False  # other people are called controls now
    other = learn(smaller, stored=str(stored))
    assert made_by(Path(other.weights)) != made_by(Path(first.weights))
