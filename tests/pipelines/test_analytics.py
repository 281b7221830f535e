"""Analytics of planted maps: every number against a slow replica, and what nobody can compute."""

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from models.errors import InputError
from models.grids import Grid
from models.volumes import write_cache
from pipelines.analytics import ONE_TRAINING
from pipelines.atlases import atlas
from pipelines.charts import overlap_matrix, region_intervals
from pipelines.derivatives import read_table, write_table
from pipelines.figures import plot_rows
from pipelines.heatmaps import Regions
from pipelines.images import read_nifti
from pipelines.interfaces.analytics import NO_VOLUMES, AnalyseMethod, CompareMethods
from pipelines.interfaces.summaries import SummariseMethod
from pipelines.retrainings import Retrainings

GRID = Grid("15mm", (12, 14, 12), 15.0, (-82.5, -110.0, -70.0))
PEOPLE, REPEATS, FOLDS = 12, 2, 2
PATIENT = np.arange(PEOPLE) % 2 == 1
KEYS = [(f"{i:02d}", "a" if i == 3 else "") for i in range(PEOPLE)]
STEM = "mod-T1w_space-MNI152NLin2009cAsym_model-x_target-AD"
PAIRS = 6  # regions on each side
RUNTIME = {"classes": ["CN", "AD"], "model": "x"}


def region(name):
    """Voxels of a region, as a mask."""
    labels = np.zeros(GRID.shape, int)
    for k in range(PAIRS):
        labels[1:6, 1 + 2 * k : 3 + 2 * k, 2:9] = 2 * k + 1
        labels[6:11, 1 + 2 * k : 3 + 2 * k, 2:9] = 2 * k + 2
    return labels if name is None else labels == NAMES.index(name) + 1


NAMES = [f"R{k}_{side}" for k in range(PAIRS) for side in "LR"]


def planted(seed, repeats=REPEATS):
    """Maps (repeats, people, x, y, z), all positive, patients stronger in R2 and R4_L."""
    rng = np.random.default_rng(seed)
    maps = rng.random((repeats, PEOPLE, *GRID.shape)).astype(np.float32)
    maps[:, PATIENT] += 1.5 * (region("R2_L") | region("R2_R")) + 0.7 * region("R4_L")
    maps[:, 3, region("R5_R")] += 4  # the patient with another fingerprint
    return maps


def probabilities(repeats=REPEATS):
    """(repeats, people): one control is a false alarm in the last repeat, nobody is missed."""
    chance = np.where(PATIENT, 0.95, 0.2) * np.ones((repeats, 1))
    chance[-1, 0] = 0.7
    return chance


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Files of a group run after its explanation, for two methods and two trainings."""
    folder = tmp_path_factory.mktemp("world")
    maps = {"plain": planted(1), "signed": planted(2) - 0.8}
    return SimpleNamespace(folder=folder, maps=maps, **written(folder, maps))


def written(folder, maps, chance=None):
    """Write everything that the nodes read; the inputs that they share, and the fold folders."""
    chance = probabilities() if chance is None else chance
    labels = nib.Nifti1Image(region(None).astype(np.int32), GRID.affine)
    nib.save(labels, folder / "atlas-Toy_dseg.nii.gz")
    names = pd.DataFrame({"index": range(1, len(NAMES) + 1), "name": NAMES})
    write_table(folder / "atlas-Toy_dseg.tsv", names)
    brain = np.zeros((1, *GRID.shape), np.float32)
    brain[0, 1:11, 1:13, 2:9] = 1
    cache = write_cache(folder / "cache", KEYS, (brain for _ in KEYS), GRID)
    ids = pd.DataFrame(
        {
            "participant_id": [f"sub-{sub}" for sub, _ in KEYS],
            "session_id": [f"ses-{ses}" if ses else None for _, ses in KEYS],
        }
    )
    write_table(folder / "predictions.tsv", ids.assign(label=np.where(PATIENT, "AD", "CN")))
    volumes = np.arange(PEOPLE) ** 1.5
    write_table(folder / "cohort.tsv", ids.assign(positive=PATIENT, mm3=volumes))
    folds, repeats, scores = [], [], []
    for repeat, row in enumerate(chance):
        for fold in range(FOLDS):
            number = len(folds) + 1
            people = [i for i in range(PEOPLE) if i % FOLDS == fold and np.isfinite(row[i])][::-1]
            path = folder / f"maps{number}"
            path.mkdir()
            index = {"keys": [KEYS[i] for i in people], "fold": number}
            (path / "index.json").write_text(json.dumps(index))
            for method, every in maps.items():
                np.save(path / f"{method}.npy", every[repeat][people])
            table = ids.iloc[people].assign(
                repeat=repeat + 1, probability=row[people], threshold=0.5
            )
            write_table(folder / f"scores{number}.tsv", table)
            folds.append(str(path))
            repeats.append(repeat + 1)
            scores.append(str(folder / f"scores{number}.tsv"))
    shared = {
        "scores": scores, "predictions": folder / "predictions.tsv",
        "cohort": folder / "cohort.tsv", "cache": str(folder / "cache"),
        "content_hash": cache.content_hash, "atlas": str(folder / "atlas-Toy_dseg.nii.gz"),
        **RUNTIME,
    }  # fmt: skip
    return {"shared": shared, "folds": folds, "repeats": repeats}


def tables(world, method):
    """The region tables that SummariseMethod hands on."""
    node = SummariseMethod(
        attribution={"name": method, "method": "saliency"}, folds=world.folds, repeats=world.repeats
    )
    path = world.folder / f"{method}.tsv"
    write_table(path, node._per_repeat(Regions.on(world.shared["atlas"], GRID)))
    return path


def analysed(world, method, folder, **options):
    folder.mkdir(exist_ok=True)
    node = AnalyseMethod(
        attribution={"name": method, "method": "saliency"}, folds=world.folds,
        repeats=world.repeats, region_tables=tables(world, method), seed=1,
        **world.shared, **options,
    )  # fmt: skip
    node._run_interface(SimpleNamespace(cwd=str(folder)))
    return node._results


@pytest.fixture(scope="module")
def plain(world):
    return analysed(world, "plain", world.folder / "plain", volumes={"R2": "mm3", "nowhere": "mm3"})


@pytest.fixture(scope="module")
def signed(world):
    return analysed(world, "signed", world.folder / "signed")


def table(results, ending):
    return read_table(results["products"][f"group/{STEM}_{ending}"]["file"])


def image(results, ending):
    return np.asarray(read_nifti(results["products"][f"group/{STEM}_{ending}"]["file"]).dataobj)


def sidecar(results, ending):
    return results["products"][f"group/{STEM}_{ending}"]["sidecar"]


# --- what everything is made from ----------------------------------------------------------------


def test_people_are_put_together_over_repeats(world):
    scores = [world.folder / f"scores{i}.tsv" for i in (1, 2, 3, 4)]
    people = Retrainings.read(world.folder / "predictions.tsv", scores, "AD")
    np.testing.assert_array_equal(people.probability, probabilities())
    assert people.keys == KEYS
    np.testing.assert_array_equal(people.outcomes["FP"][:, 0], [False, True])
    assert people.outcomes["TP"].sum() == 2 * PATIENT.sum()


def test_region_tables_are_those_of_every_repeat(world):
    found = read_table(tables(world, "signed"))
    assert len(found) == REPEATS * PEOPLE * len(NAMES)
    for repeat, person, name in ((1, 4, "R2_L"), (2, 3, "R5_R")):
        row = found[
            (found["repeat"] == repeat)
            & (found["sub"].astype(int) == person)
            & (found["name"] == name)
        ]
        values = world.maps["signed"][repeat - 1, person][region(name)]
        assert row["sum"].item() == pytest.approx(values.sum(), rel=1e-5)
        assert row["absolute"].item() == pytest.approx(np.abs(values).sum(), rel=1e-5)
        assert row["voxels"].item() == region(name).sum()


# --- rankings ------------------------------------------------------------------------------------


def test_rankings_are_means_over_people_and_trainings(world, plain):
    found = table(plain, "method-plain_atlas-Toy_desc-ranking_heatmap.tsv")
    maps = world.maps["plain"]
    chosen = found.set_index(["metric", "group", "name"])
    for group, members in (("AD", PATIENT), ("CN", ~PATIENT)):
        for name in ("R2_L", "R0_R"):
            values = maps[:, members][:, :, region(name)].sum(axis=2)
            row = chosen.loc[("sum", group, name)]
            assert row["value"] == pytest.approx(values.mean(), rel=1e-5)
            assert row["sd_repeats"] == pytest.approx(values.mean(axis=1).std(ddof=1), rel=1e-3)
            assert row["low"] <= row["value"] <= row["high"]
            density = chosen.loc[("density", group, name), "value"]
            assert density == pytest.approx(values.mean() / region(name).sum(), rel=1e-5)
    top = found[(found["metric"] == "sum") & (found["group"] == "AD")]["name"]
    assert set(top.head(2)) == {"R2_L", "R2_R"}
    assert set(found["metric"]) == {"sum", "density", "gain"}
    facts = sidecar(plain, "method-plain_atlas-Toy_desc-ranking_heatmap.tsv")
    assert facts["RankedBy"] == "value"
    assert facts["Participants"] == {"CN": 6, "AD": 6}
    assert facts["Trainings"] == 2


def test_the_gain_of_true_positives_is_over_true_negatives(world, plain):
    found = table(plain, "method-plain_atlas-Toy_desc-ranking_heatmap.tsv")
    row = found[(found["metric"] == "gain") & (found["group"] == "TP") & (found["name"] == "R2_L")]
    sums = world.maps["plain"][:, :, region("R2_L")].sum(axis=2)
    negative = ~PATIENT & (probabilities() < 0.5)
    gains = [sums[r, PATIENT].mean() / sums[r, negative[r]].mean() for r in range(REPEATS)]
    assert row["value"].item() == pytest.approx(np.mean(gains), rel=1e-5)


def test_sides_are_joined(world, plain):
    found = table(plain, "method-plain_atlas-Toy_desc-rankingMerged_heatmap.tsv")
    row = found[(found["metric"] == "sum") & (found["group"] == "AD")].set_index("name")
    both = region("R4_L") | region("R4_R")
    assert len(row) == PAIRS
    expected = world.maps["plain"][:, PATIENT][:, :, both].sum(axis=2).mean()
    assert row.loc["R4", "value"] == pytest.approx(expected, rel=1e-5)


def test_signed_maps_are_ranked_by_magnitude_and_absolute_sums_are_given(world, signed):
    ending = "method-signed_atlas-Toy_desc-ranking_heatmap.tsv"
    found = table(signed, ending)
    assert sidecar(signed, ending)["RankedBy"] == "magnitude"
    row = found[
        (found["metric"] == "absolute") & (found["group"] == "CN") & (found["name"] == "R1_L")
    ]
    expected = np.abs(world.maps["signed"][:, ~PATIENT][:, :, region("R1_L")]).sum(axis=2).mean()
    assert row["value"].item() == pytest.approx(expected, rel=1e-5)
    plain_sums = found[(found["metric"] == "sum") & (found["group"] == "CN")]
    assert (plain_sums["value"] < 0).any()
    assert (np.diff(plain_sums["value"].abs()) <= 1e-9).all()


def test_signed_maps_have_a_gain_of_magnitudes(world, signed):
    """Sums of both signs may cancel, and a ratio to nearly nothing would head the ranking."""
    ending = "method-signed_atlas-Toy_desc-ranking_heatmap.tsv"
    found = table(signed, ending)
    gains = found[(found["metric"] == "gain") & (found["group"] == "AD")].set_index("name")
    sums = np.abs(world.maps["signed"])[:, :, region("R1_L")].sum(axis=2)
    expected = np.mean([one[PATIENT].mean() / one[~PATIENT].mean() for one in sums])
    assert gains.loc["R1_L", "value"] == pytest.approx(expected, rel=1e-5)
    assert (gains["value"].dropna() >= 0).all()
    assert "both signs" in sidecar(signed, ending)["Metrics"]["gain"]


# --- maps ----------------------------------------------------------------------------------------


def test_maps_of_outcomes_are_means_of_trainings(world, plain):
    maps, called = world.maps["plain"], probabilities() >= 0.5
    groups = {"TP": PATIENT & called, "TN": ~PATIENT & ~called}
    for name, group in groups.items():
        each = [one[members].mean(axis=0) for one, members in zip(maps, group, strict=True)]
        stem = f"method-plain_outcome-{name}_stat"
        mean = image(plain, f"{stem}-mean_res-15mm_heatmap.nii.gz")
        np.testing.assert_allclose(mean, np.mean(each, axis=0), rtol=1e-5)
        spread = image(plain, f"{stem}-std_res-15mm_heatmap.nii.gz")
        np.testing.assert_allclose(spread, np.std(each, axis=0, ddof=1), rtol=1e-3, atol=1e-6)
    ending = "method-plain_outcome-TN_stat-mean_res-15mm_heatmap.nii.gz"
    assert sidecar(plain, ending)["PeoplePerTraining"] == [6, 5]


def test_an_outcome_of_one_training_has_no_spread_and_nobody_has_no_map(world, plain):
    stem = f"group/{STEM}_method-plain_outcome"
    np.testing.assert_allclose(
        image(plain, "method-plain_outcome-FP_stat-mean_res-15mm_heatmap.nii.gz"),
        world.maps["plain"][1, 0],
    )
    assert f"{stem}-FP_stat-std_res-15mm_heatmap.nii.gz" not in plain["products"]
    assert not [path for path in plain["products"] if path.startswith(f"{stem}-FN")]
    facts = sidecar(plain, "method-plain_outcome-TP_stat-mean_res-15mm_heatmap.nii.gz")
    assert "mean map of FN: nobody was one." in facts["NotComputed"]


def test_the_contrast_is_of_the_classes(world, plain):
    maps = world.maps["plain"]
    each = maps[:, PATIENT].mean(axis=1) - maps[:, ~PATIENT].mean(axis=1)
    stem = "method-plain_contrast-ADMinusCN_stat"
    mean = image(plain, f"{stem}-mean_res-15mm_heatmap.nii.gz")
    np.testing.assert_allclose(mean, each.mean(axis=0), atol=1e-6)
    spread = image(plain, f"{stem}-std_res-15mm_heatmap.nii.gz")
    np.testing.assert_allclose(spread, each.std(axis=0, ddof=1), atol=1e-6)


def test_clusters_are_where_the_groups_differ_and_serve_as_an_atlas(world, plain):
    stem = "method-plain_outcome-correct_contrast-ADMinusCN_res-15mm_desc-P95_dseg"
    labels, found = image(plain, f"{stem}.nii.gz"), table(plain, f"{stem}.tsv")
    assert set(np.unique(labels)) == {0, *found["index"]}
    planted_here = region("R2_L") | region("R2_R") | region("R4_L") | region("R5_R")
    assert ((labels > 0) & planted_here).sum() > 0.95 * (labels > 0).sum()
    assert found["region"].iloc[0].startswith("R2")
    path = plain["products"][f"group/{STEM}_{stem}.nii.gz"]["file"]
    assert list(atlas(path).labels["index"]) == list(found["index"])


def test_distances_between_trainings_are_of_maps_over_their_maximum(world, plain):
    found = read_table(plain["distances"]).set_index("outcome")
    means = world.maps["plain"][:, PATIENT].mean(axis=1, dtype=np.float64)
    scaled = means / means.max(axis=(1, 2, 3), keepdims=True)
    assert found.loc["TP", "mean"] == pytest.approx(np.linalg.norm(scaled[0] - scaled[1]), rel=1e-5)
    assert set(found.index) == {"TP", "TN"}
    assert found["low"].isna().all()  # one pair has no interval


# --- fingerprints and volumes --------------------------------------------------------------------


def test_the_odd_patient_is_of_the_most_distant_pair(world, plain):
    ending = "method-plain_atlas-Toy_desc-fingerprints_heatmap.tsv"
    found = table(plain, ending).set_index("participant_id")
    assert list(found.index) == list(found.columns) == [f"sub-{i:02d}" for i in range(1, 12, 2)]
    maps = world.maps["plain"]
    vectors = [[maps[r, i][region(n)].mean() for n in NAMES] for r in (0, 1) for i in (1, 3)]
    one, other, again, another = (np.array(v) / np.linalg.norm(v) for v in vectors)
    expected = np.mean([1 - one @ other, 1 - again @ another])
    assert found.loc["sub-01", "sub-03"] == pytest.approx(expected, rel=1e-4)
    pair = sidecar(plain, ending)["MostDistant"]
    assert "sub-03" in pair["People"]
    assert pair["Mean"] == pytest.approx(found.to_numpy().max(), rel=1e-6)


def test_relevance_is_correlated_with_volume_over_true_positives(world, plain):
    found = table(plain, "method-plain_atlas-Toy_desc-volumes_heatmap.tsv")
    both = region("R2_L") | region("R2_R")
    sums = world.maps["plain"][:, PATIENT][:, :, both].sum(axis=2, dtype=np.float64)
    volumes = (np.arange(PEOPLE) ** 1.5)[PATIENT]
    expected = np.mean([np.corrcoef(one, volumes)[0, 1] for one in sums])
    assert found["r"].item() == pytest.approx(expected, rel=1e-4)
    assert found["people"].item() == PATIENT.sum()
    assert found["column"].item() == "mm3"
    assert found["permutations"].item() == 720  # all orders of six people
    facts = sidecar(plain, "method-plain_atlas-Toy_desc-volumes_heatmap.tsv")
    assert any("nowhere" in sentence for sentence in facts["NotComputed"])


def test_volumes_of_the_registration_are_those_of_the_very_image(world, plain):
    """The same numbers by the registration as by the column, in another order of people."""
    rows = [
        {
            "participant_id": f"sub-{who}",
            "session_id": f"ses-{when}" if when else None,
            "R2": i**1.5,
        }
        for i, (who, when) in enumerate(KEYS)
    ]
    other = {"participant_id": "sub-03", "session_id": "ses-other", "R2": 1e6}
    path = world.folder / "joined.tsv"
    write_table(path, pd.DataFrame([other, *rows[::-1]]))
    told = analysed(
        world, "plain", world.folder / "told", volumes={"R2": "jacobian"}, measured=path
    )
    ending = "method-plain_atlas-Toy_desc-volumes_heatmap.tsv"
    expected = table(plain, ending).assign(column="jacobian")
    pd.testing.assert_frame_equal(table(told, ending), expected)


def test_without_volumes_there_is_no_table_of_them(signed):
    assert not [path for path in signed["products"] if "desc-volumes" in path]
    facts = sidecar(signed, "method-signed_atlas-Toy_desc-ranking_heatmap.tsv")
    assert NO_VOLUMES in facts["NotComputed"]


def test_a_volume_needs_its_column(world, tmp_path):
    with pytest.raises(InputError, match="no column 'absent'"):
        analysed(world, "plain", tmp_path, volumes={"R2": "absent"})


# --- between methods -----------------------------------------------------------------------------


def compared(world, distances, folder):
    folder.mkdir(exist_ok=True)
    names = list(world.maps)
    node = CompareMethods(
        names=names, methods=["saliency"] * len(names), distances=distances,
        region_tables=[tables(world, name) for name in names], **world.shared,
    )  # fmt: skip
    node._run_interface(SimpleNamespace(cwd=str(folder)))
    return node._results


def top10(maps, members, *, absolute=False):
    sums = [np.mean([one[region(n)].sum() for one in maps[members]]) for n in NAMES]
    return set(np.argsort(-np.abs(sums) if absolute else -np.array(sums))[:10])


def test_methods_and_trainings_share_regions(world, plain, signed):
    results = compared(world, [plain["distances"], signed["distances"]], world.folder / "compared")
    found = table(results, "atlas-Toy_desc-overlap_heatmap.tsv")
    row = found.set_index(["metric", "outcome", "first", "second"])["mean"]
    first = [top10(maps, PATIENT) for maps in world.maps["plain"]]
    second = [top10(maps, PATIENT, absolute=True) for maps in world.maps["signed"]]
    assert row["sum", "TP", "plain", "plain"] == pytest.approx(len(first[0] & first[1]) / 10)
    shared = np.mean([len(a & b) / 10 for a, b in zip(first, second, strict=True)])
    assert row["sum", "TP", "plain", "signed"] == pytest.approx(shared)
    assert found["low"].dropna().between(0, 1).all()
    assert found["high"].dropna().between(0, 1).all()
    distances = table(results, "desc-distances_heatmap.tsv")
    assert list(distances["method"]) == ["plain", "plain", "signed", "signed"]
    assert f"group/figures/{STEM}_atlas-Toy_desc-overlap_heatmap.png" in results["products"]


# --- what is not there ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One training, as hold-out: two people were never tested, and nobody is sure of."""
    folder = tmp_path_factory.mktemp("alone")
    chance = np.where(PATIENT, 0.8, 0.2)[None].copy()
    chance[0, [0, 1]] = np.nan
    maps = {"plain": planted(5, repeats=1)}
    return SimpleNamespace(folder=folder, maps=maps, **written(folder, maps, chance))


def test_one_training_says_what_it_does_not_know(alone):
    results = analysed(alone, "plain", alone.folder / "plain")
    ending = "method-plain_atlas-Toy_desc-ranking_heatmap.tsv"
    facts = sidecar(results, ending)
    assert ONE_TRAINING in facts["Limits"]
    assert any("distance between trainings, TP" in one for one in facts["NotComputed"])
    assert any(one.startswith("most distant pair: 0 of") for one in facts["NotComputed"])
    assert not [path for path in results["products"] if "stat-std" in path]
    assert table(results, ending)["sd_repeats"].isna().all()
    tested = np.setdiff1d(np.flatnonzero(PATIENT), [1])
    mean = image(results, "method-plain_outcome-TP_stat-mean_res-15mm_heatmap.nii.gz")
    np.testing.assert_allclose(mean, alone.maps["plain"][0, tested].mean(axis=0), rtol=1e-5)
    both = compared(alone, [results["distances"]], alone.folder / "compared")
    assert table(both, "desc-distances_heatmap.tsv").empty
    assert any(
        "overlap between trainings" in one
        for one in sidecar(both, "desc-distances_heatmap.tsv")["NotComputed"]
    )


def test_nothing_of_a_sidecar_is_beyond_json(plain, signed):
    for results in (plain, signed):
        for product in results["products"].values():
            json.loads(json.dumps(product["sidecar"], allow_nan=False))


# --- pictures ------------------------------------------------------------------------------------


def test_values_far_out_do_not_squeeze_the_others_and_are_counted():
    rankings = pd.DataFrame(
        {"group": "AD", "index": [1, 2], "name": ["A_x", "B"], "value": [2.0, 1.0],
         "low": [1.5, 0.5], "high": [2.5, 1.5], "rank": [1.0, 2.0]}
    )  # fmt: skip
    values = np.append(np.linspace(0.5, 2.5, 999), 1e6)
    people = pd.DataFrame({"group": "AD", "index": 1, "value": values})
    (axes,) = region_intervals(rankings, people).axes
    assert axes.get_xlim()[1] < 10
    assert "outside: 1" in axes.get_xlabel()
    assert [one.get_text() for one in axes.get_yticklabels()] == ["A x", "B"]


def test_a_matrix_of_overlaps_is_symmetric_and_has_dashes_where_nothing_is_known():
    pairs = pd.DataFrame({"outcome": "TP", "first": "a", "second": ["b", "a"], "mean": [0.4, 0.9]})
    (axes,) = overlap_matrix(pairs, {"a": "first", "b": "second"}).axes
    texts = {one.get_position(): one.get_text() for one in axes.texts}
    assert texts == {(0, 0): "90%", (1, 0): "40%", (0, 1): "40%", (1, 1): "–"}


def test_rows_of_maps_share_slices_and_colours():
    anatomy = np.zeros((20, 20, 20), np.float32)
    anatomy[4:16, 4:16, 4:16] = 1
    affine = np.diag([4.0, 4, 4, 1])
    weak, strong = (anatomy * one for one in (0.1, 2.0))
    figure = plot_rows((anatomy, affine), {"w": (weak, affine), "s": (strong, affine)}, n_slices=3)
    *cells, bar = figure.axes
    words = [[text.get_text() for text in one.texts] for one in cells]
    assert len(cells) == 6
    assert words[:3] == words[3:]
    assert bar.get_ylim() == pytest.approx((0, 2.0))
    assert [one.get_text() for one in figure.texts] == ["w", "s"]
