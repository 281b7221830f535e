"""A planted effect through the whole node: every correction, design, file and sidecar."""

from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from models.errors import InputError
from models.grids import Grid
from models.statistics.exchange import Exchange
from models.statistics.glm import two_group_design
from models.volumes import write_cache
from pipelines.derivatives import read_table, write_table
from pipelines.heatmaps import Regions
from pipelines.interfaces.statistics import VoxelwiseTest, _Report
from pipelines.statistics import CORRECTIONS, StatisticsOptions, contrast_label
from pipelines.voxelwise import infer

GRID = Grid("9mm", (21, 25, 21), 9.0, (-96.0, -132.0, -78.0))
PLANTED_MM = np.array([-27.0, -21.0, -15.0])  # left hippocampus
ALL = tuple(CORRECTIONS)
# What AAL has within a voxel of the planted centre.
REGIONS = ("Hippocampus_L", "ParaHippocampal_L", "Lingual_L", "Fusiform_L", "Thalamus_L")
EVERY = StatisticsOptions(
    smoothing_fwhm_mm=12.0, permutations=199, corrections=ALL, cluster_p=0.01,
    cluster_atlases=("AICHA",),
)  # fmt: skip


def distance_mm(centre):
    places = np.indices(GRID.shape).reshape(3, -1).T
    mm = nib.affines.apply_affine(GRID.affine, places)
    return np.linalg.norm(mm - centre, axis=1).reshape(GRID.shape)


INSIDE = distance_mm([0, -18, 8]) < 70
EFFECT = distance_mm(PLANTED_MM) < 16
FAR = distance_mm(PLANTED_MM) > 45


class Cohort:
    """Twenty people, ten with less tissue in one hippocampus: the left one by default."""

    def __init__(self, folder, effect=-0.8, planted=EFFECT):
        rng = np.random.default_rng(5)
        people = [f"sub-{i:02d}" for i in range(20)]
        positive = np.arange(20) % 2 == 0
        self.folder, self.positive = folder, positive
        noise = (
            1
            + 0.25 * rng.standard_normal((20, *GRID.shape))
            + positive[:, None, None, None] * effect * planted
        )
        volumes = np.where(INSIDE, noise, 0)[:, None]
        write_cache(folder / "cache", [(one[4:], "") for one in people], volumes, GRID)
        label = np.where(positive, "AD", "CN")
        age = rng.normal(70, 8, 20).round(1)
        write_table(
            folder / "people.tsv",
            pd.DataFrame({"participant_id": people, "session_id": "", "label": label, "fold": 1}),
        )
        rows = {"participant_id": people, "session_id": "", "image": "x", "positive": positive}
        write_table(
            folder / "cohort.tsv",
            pd.DataFrame({**rows, "train": True, "test": True, "age": age}),
        )
        write_table(
            folder / "participants.tsv",
            pd.DataFrame(
                {
                    "participant_id": [one[4:] for one in reversed(people)],
                    "diagnosis": label[::-1],
                    "code": positive[::-1].astype(int),
                    "age": age[::-1],
                    "site": [["Rome", "Oslo", "Kiel"][i % 3] for i in range(20)],
                    "family": [f"f{i // 2}" for i in range(20)],
                    "hospital": [1.0, *([np.nan] + [1.0, 2.0, 3.0] * 6)],
                    "score": [np.nan, *rng.normal(size=19)],
                }
            ),
        )

    def run(self, options, *, drawn=False):
        """What the node makes; the brains are drawn only where they are looked at."""
        with pytest.MonkeyPatch.context() as patch:
            if not drawn:
                patch.setattr(_Report, "_figures", lambda report, *_: report._null())
            return self._run(options)

    def _run(self, options, **changes):
        asked = asdict(options)
        memory = asked.pop("memory_mb")
        node = VoxelwiseTest(
            **{"name": "image"} | changes, stack="", people=self.folder / "people.tsv",
            cohort=self.folder / "cohort.tsv", participants=self.folder / "participants.tsv",
            cache=str(self.folder / "cache"), content_hash="x", classes=["CN", "AD"],
            covariates=["age"], model="tiny", atlas="AAL", options=asked, memory_mb=memory,
            exchange_within_fold=True, seed=1,
        )  # fmt: skip
        folder = self.folder / "node"
        folder.mkdir(exist_ok=True)
        return Result(node.run(cwd=str(folder)).outputs.products, folder)


class Result:
    """Products of a test by what their names say."""

    def __init__(self, products, folder):
        self.products, self.folder = products, folder

    def one(self, end):
        (path,) = [one for one in self.products if one.endswith(end)]
        return self.products[path]

    def map(self, end):
        return np.asarray(nib.load(self.one(f"{end}_statmap.nii.gz")["file"]).dataobj)

    def sidecar(self, end):
        return self.one(f"{end}_statmap.nii.gz")["sidecar"]

    def clusters(self, desc="FWE"):
        return read_table(Path(self.one(f"desc-{desc}_clusters.tsv")["file"]))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    once = lru_cache(Regions.on)  # reading an atlas takes longer than any test here
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Regions, "on", once)
        yield Cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def every(cohort):
    return cohort.run(EVERY, drawn=True)


def test_every_correction_leaves_a_map_that_finds_the_effect(every):
    t = every.map("stat-t_res-9mm")
    assert t[EFFECT].max() < -3
    for name, correction in CORRECTIONS.items():
        p = every.map(f"stat-p_res-9mm_desc-{correction.desc}")
        assert p.shape == GRID.shape
        assert (p[~INSIDE] == 1).all()
        assert p[EFFECT].min() <= 0.05, name
        assert (p[FAR & INSIDE] > 0.05).mean() > 0.99, name


def test_permuted_p_are_multiples_of_one_over_the_permutations(every):
    for desc in ("FWE", "FWEextent", "FWEmass", "FWEtfce"):
        p = every.map(f"stat-p_res-9mm_desc-{desc}") * 200
        np.testing.assert_allclose(p, p.round(), atol=1e-3)
        sidecar = every.sidecar(f"stat-p_res-9mm_desc-{desc}")
        assert sidecar["Permutations"] == 200
        assert not sidecar["ExactPermutation"]


def test_derived_maps_follow_from_the_first_correction(every):
    t, p = every.map("stat-t_res-9mm"), every.map("stat-p_res-9mm_desc-FWE")
    np.testing.assert_allclose(every.map("stat-logp_res-9mm_desc-FWE"), -np.log10(p), atol=1e-6)
    kept = every.map("stat-t_res-9mm_desc-FWE")
    np.testing.assert_array_equal(kept, np.where(p <= 0.05, t, 0))
    enhanced = every.map("stat-tfce_res-9mm")
    assert np.sign(enhanced[EFFECT]).tolist() == np.sign(t[EFFECT]).tolist()
    assert np.unravel_index(np.abs(enhanced).argmax(), GRID.shape) in np.argwhere(EFFECT)


def test_the_table_names_the_cluster(every):
    table = every.clusters()
    row = table.iloc[0]
    assert row["sign"] == "negative"
    assert row["volume_mm3"] == pytest.approx(row["voxels"] * 729)
    assert np.linalg.norm(row[["x_mm", "y_mm", "z_mm"]].to_numpy(float) - PLANTED_MM) < 16
    assert row["x_mm"] < 0
    assert row["region"].removeprefix("near ") in REGIONS
    assert "%" in row["regions_AAL"]
    assert "%" in row["regions_AICHA"]
    for name in ALL[1:]:
        assert 0 < row[f"p_{name}"] <= 0.05, name
    assert row["peak_p_fwe"] == pytest.approx(0.005)


def test_a_change_on_the_right_is_named_on_the_right(tmp_path):
    mirrored = PLANTED_MM * [-1, 1, 1]
    right = Cohort(tmp_path, planted=distance_mm(mirrored) < 16)
    row = right.run(replace(EVERY, corrections=("voxel",))).clusters().iloc[0]
    assert np.linalg.norm(row[["x_mm", "y_mm", "z_mm"]].to_numpy(float) - mirrored) < 16
    assert not row["region"].endswith("_L")
    for shares in (row["regions_AAL"], row["regions_AICHA"]):
        sides = [part.split(" ")[0] for part in shares.split("; ")]
        assert all(not name.endswith(("_L", "-L")) for name in sides), shares
        assert any(name.endswith(("_R", "-R")) for name in sides), shares


def test_sidecars_say_what_was_done(every):
    first = every.sidecar("stat-t_res-9mm")
    assert first["Correction"] == ("family-wise error, permutation of the largest |t| (two-sided)")
    assert first["ThresholdT"] == first["Threshold"] > 3
    assert first["Participants"] == {"AD": 10, "CN": 10}
    assert first["DegreesOfFreedom"] == 17
    assert first["Covariates"] == ["age"]
    mass = every.sidecar("stat-p_res-9mm_desc-FWEmass")
    assert mass["ClusterFormingP"] == 0.01
    assert mass["ClusterFormingThreshold"] == pytest.approx(2.898, abs=1e-3)  # t of 17, two-sided
    assert mass["ThresholdOf"] == "mass of a cluster"
    field = every.sidecar("stat-p_res-9mm_desc-RFT")
    assert all(9 < width < 40 for width in field["SmoothnessFWHM_mm"])
    assert len(field["Resels"]) == 4
    assert every.sidecar("stat-p_res-9mm_desc-FDR")["ErrorRate"] == "false discovery rate"


def test_no_copy_of_the_maps_is_left(every):
    assert not list(every.folder.glob("*.npy"))


def test_tests_of_images_carry_the_model_and_have_pictures(every):
    stem = "mod-T1w_space-MNI152NLin2009cAsym_model-tiny_contrast-ADMinusCN"
    assert all(Path(one).name.startswith(stem) for one in every.products)
    pictures = {Path(one).name for one in every.products if one.endswith(".png")}
    assert pictures == {f"{stem}_res-9mm_{what}.png" for what in ("statmap", "glass", "null")}


@pytest.mark.parametrize("name", ["extent", "mass", "tfce", "fdr", "random_field"])
def test_the_first_correction_decides(cohort, every, name):
    desc = CORRECTIONS[name].desc
    found = cohort.run(replace(EVERY, corrections=(name,), cluster_atlases=()))
    p = found.map(f"stat-p_res-9mm_desc-{desc}")
    # the same permutations, whatever else is corrected
    np.testing.assert_allclose(p, every.map(f"stat-p_res-9mm_desc-{desc}"), atol=1e-6)
    kept = found.map(f"stat-t_res-9mm_desc-{desc}") != 0
    np.testing.assert_array_equal(kept, p <= 0.05)
    table = found.clusters(desc)
    assert CORRECTIONS[name].p_column in table
    assert table["voxels"].sum() == kept.sum()
    permuted = CORRECTIONS[name].permuted
    assert ("Permutations" in found.sidecar("stat-t_res-9mm")) == permuted
    assert any(one.endswith("_null.png") for one in found.products) == permuted


def test_a_smallest_cluster_is_kept_to(cohort):
    options = replace(EVERY, corrections=("voxel",), min_cluster_mm3=1e6)
    found = cohort.run(options)
    assert found.clusters().empty
    assert not found.map("stat-t_res-9mm_desc-FWE").any()


def test_terms_give_the_same_as_two_groups_with_a_covariate(cohort, every):
    """Rows of participants.tsv are in another order than the maps."""
    options = replace(
        EVERY, corrections=("voxel",), terms=("code", "age"), contrast="1 - 0",
        categorical=("code",),
    )  # fmt: skip
    found = cohort.run(options)
    np.testing.assert_allclose(
        found.map("contrast-1Minus0_stat-t_res-9mm"), every.map("stat-t_res-9mm"), atol=1e-5
    )
    assert found.sidecar("stat-t_res-9mm")["Terms"] == ["code", "age"]


def test_an_f_test_of_sites_knows_no_sign(cohort):
    options = replace(
        EVERY, corrections=("voxel", "mass", "fdr", "random_field"), contrast="site",
        terms=("diagnosis", "site"), cluster_atlases=(), alpha=0.29,
    )  # fmt: skip
    found = cohort.run(options)
    assert found.map("contrast-site_stat-F_res-9mm").min() >= 0
    sidecar = found.sidecar("stat-F_res-9mm")
    assert (sidecar["NumeratorDegreesOfFreedom"], sidecar["DegreesOfFreedom"]) == (2, 16)
    assert sidecar["Correction"].endswith("largest F")
    table = found.clusters()
    assert "sign" not in table
    assert "peak_F" in table


def test_who_lacks_a_value_is_left_out(cohort):
    options = replace(EVERY, corrections=("fdr",), terms=("diagnosis", "score"), contrast="score")
    sidecar = cohort.run(options).sidecar("stat-t_res-9mm")
    assert sidecar["Excluded"] == {"sub-19": "score is missing"}
    assert sum(sidecar["Participants"].values()) == 19


def test_groups_of_their_own_variance_flip_signs(cohort):
    options = replace(EVERY, corrections=("voxel",), variance_groups=True)
    sidecar = cohort.run(options).sidecar("stat-v_res-9mm")
    assert sidecar["Exchangeability"] == "signs are flipped"
    assert sidecar["VarianceGroups"] == ["AD", "CN"]


def test_places_change_within_sites(cohort):
    """Sites need not be in the design; whoever has none is left out, and named."""
    options = replace(EVERY, corrections=("voxel",), exchange_within="hospital")
    sidecar = cohort.run(options).sidecar("stat-t_res-9mm")
    assert sidecar["Exchangeability"] == "within hospital"
    assert sidecar["Excluded"] == {"sub-18": "hospital is missing"}
    assert sidecar["DesignColumns"] == ["intercept", "group", "age"]


def test_families_move_together(cohort):
    options = replace(
        EVERY, corrections=("voxel",), exchange_whole="family", contrast="age", terms=("age",)
    )
    sidecar = cohort.run(options).sidecar("stat-t_res-9mm")
    assert sidecar["Exchangeability"] == "free; people of one family together"
    flipped = cohort.run(replace(options, contrast="mean", terms=()))
    told = flipped.sidecar("stat-t_res-9mm")
    assert told["Exchangeability"] == "signs are flipped; people of one family together"
    assert told["Permutations"] == 200  # of 2 ** 10


def test_the_mean_is_tested_by_flips(cohort):
    options = replace(EVERY, corrections=("voxel",), contrast="mean", permutations=20)
    sidecar = cohort.run(options).sidecar("contrast-mean_stat-t_res-9mm")
    assert sidecar["Exchangeability"] == "signs are flipped"
    assert sidecar["DesignColumns"] == ["mean"]


def test_a_tail_is_told(cohort):
    options = replace(EVERY, corrections=("voxel",), tail=True)
    told = cohort.run(options)
    tail = told.sidecar("stat-p_res-9mm_desc-FWE")["TailApproximation"]
    assert isinstance(tail["Accepted"], bool)
    assert tail["GoodnessOfFitP"] > 0.05 if tail["Accepted"] else tail["GoodnessOfFitP"] <= 0.05
    if tail["Accepted"]:
        assert told.map("stat-p_res-9mm_desc-FWE").min() < 1 / 200


def test_few_people_are_told_before_anything_is_permuted(monkeypatch):
    monkeypatch.setattr("pipelines.voxelwise.permutation_test", None)
    data = np.random.default_rng(0).normal(size=(5, int(INSIDE.sum()))).astype(np.float32)
    design = two_group_design(np.array([1, 1, 0, 0, 0], bool))
    with pytest.raises(InputError, match="random-field"):
        infer(data, INSIDE, GRID, design, Exchange(), EVERY)


@pytest.mark.parametrize(
    ("contrast", "label"),
    [
        ("AD - CN", "ADMinusCN"),
        ("0.5*AD + 0.5*MCI - CN", "0p5ADPlus0p5MCIMinusCN"),
        ("AD:age - CN:age", "ADByageMinusCNByage"),
        (("age", "-1*sex"), "ageAndMinus1sex"),
    ],
)
def test_contrasts_become_labels(contrast, label):
    assert contrast_label(contrast) == label


def test_a_map_of_a_tensor_is_tested_under_its_own_name(tmp_path):
    """Patients whose tensors are rounder at the same size: FA falls, MD stays."""
    cohort = Cohort(tmp_path, effect=0.0)
    rng = np.random.default_rng(7)
    size = np.where(INSIDE, 0.3 * (1 + 0.05 * rng.standard_normal((20, *GRID.shape))), 0)
    cigar = 0.4 - 0.3 * cohort.positive[:, None, None, None] * EFFECT
    volumes = np.zeros((20, 6, *GRID.shape), np.float32)
    volumes[:, 0] = size * (1 + 2 * cigar)
    volumes[:, 3] = volumes[:, 5] = size * (1 - cigar)
    keys = [(f"{i:02d}", "") for i in range(20)]
    write_cache(tmp_path / "cache", keys, volumes, GRID, channels=6)
    options = StatisticsOptions(maps=("fa",), permutations=50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Report, "_figures", lambda report, *_: report._null())
        found = {name: cohort._run(options, modality="dwi", name=name) for name in ("fa", "md")}
    t = {
        name: one.map(f"param-{name}_contrast-ADMinusCN_stat-t_res-9mm")
        for name, one in found.items()
    }
    assert t["fa"][EFFECT].max() < -3
    assert np.abs(t["md"][EFFECT]).max() < 5
    assert np.abs(np.median(t["fa"][EFFECT])) > 5 * np.abs(np.median(t["md"][EFFECT]))
    assert found["fa"].sidecar("stat-t_res-9mm")["Intensity"] == "as preprocessed"
