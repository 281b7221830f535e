"""Rankings of regions against loops and cases made by hand."""

import numpy as np
import pandas as pd
import pytest

from models import bootstrap
from models.errors import InputError
from models.rankings import group_values, person_values, ranking, strongest
from models.region_cube import RegionCube

PATIENTS = np.array([True] * 12 + [False] * 10)
CONTROLS = ~PATIENTS


def cube_of(sums, voxels=None):
    regions = pd.DataFrame(
        {
            "index": np.arange(10, 10 + sums.shape[2]),
            "name": [f"R{i}" for i in range(sums.shape[2])],
        }
    )
    voxels = np.full(sums.shape, 4) if voxels is None else np.broadcast_to(voxels, sums.shape)
    return RegionCube(regions, voxels, sums)


@pytest.fixture
def cube():
    rng = np.random.default_rng(2)
    sums = rng.normal(size=(3, 22, 6)) + np.array([5, 1, 9, 3, 7, 2.0])
    sums[:, PATIENTS] *= [1, 1, 1, 3, 1, 0.5]
    return cube_of(sums, np.array([10, 2, 40, 5, 0, 3]))


def slow_value(cube, metric, members, controls, people, repeats):
    """Mean over the listed repeats of the mean over the listed people, regions one by one."""
    result = np.full(cube.sums.shape[2], np.nan)
    for region in range(len(result)):
        found = []
        for r in repeats:
            group = [cube.sums[r, p, region] for p in people if members[r, p]]
            base = [cube.sums[r, p, region] for p in people if controls[p]]
            voxels = cube.voxels[0, 0, region]
            if metric == "sum":
                found.append(np.mean(group))
            elif metric == "density":
                found.append(np.mean(group) / voxels if voxels else np.nan)
            else:
                found.append(np.mean(group) / np.mean(base))
        result[region] = np.mean(found)
    return result


@pytest.mark.parametrize("metric", ["sum", "density", "gain"])
def test_ranking_agrees_with_a_loop(cube, metric):
    members = PATIENTS & (np.random.default_rng(1).random((3, 22)) < 0.8)
    table = ranking(cube, metric, members, CONTROLS, strata=PATIENTS, draws=60, top=2, seed=5)
    sample = bootstrap.draw(22, 3, 60, 5, PATIENTS)
    everyone, repeats = range(22), range(3)
    expected = slow_value(cube, metric, members, CONTROLS, everyone, repeats)
    drawn = np.array(
        [
            slow_value(
                cube,
                metric,
                members,
                CONTROLS,
                np.repeat(np.arange(22), sample.people[i].astype(int)),
                np.repeat(np.arange(3), sample.repeats[i].astype(int)),
            )
            for i in range(60)
        ]
    )
    table = table.sort_values("index")
    np.testing.assert_allclose(table["value"], expected)
    ranks = pd.DataFrame(drawn).rank(axis=1, ascending=False)
    known = table["value"].notna().to_numpy()
    assert known.sum() == (5 if metric == "density" else 6)
    for name, samples in (("", drawn), ("rank_", ranks.to_numpy())):
        low, high = np.sort(samples, axis=0)[[1, 58]]  # of 60: the 2nd and the 59th
        np.testing.assert_allclose(table[f"{name}low"], low)
        np.testing.assert_allclose(table[f"{name}high"], high)
    np.testing.assert_allclose(table["rank"], pd.Series(expected).rank(ascending=False))
    np.testing.assert_allclose(table["top_share"][known], (ranks <= 2).mean()[known])
    single = [slow_value(cube, metric, members, CONTROLS, everyone, [r]) for r in range(3)]
    np.testing.assert_allclose(table["sd_repeats"], np.std(single, axis=0, ddof=1))
    np.testing.assert_allclose(group_values(cube, metric, members, CONTROLS), single)


def test_regions_without_a_value_come_last(cube):
    table = ranking(cube, "density", PATIENTS, draws=20)
    assert table["name"].iloc[-1] == "R4"
    assert table.iloc[-1][["value", "low", "high", "rank", "top_share"]].isna().all()
    assert table["rank"].tolist()[:-1] == [1, 2, 3, 4, 5]
    cube.sums[:, CONTROLS, 2] = 0
    assert ranking(cube, "gain", PATIENTS, CONTROLS, draws=20)["name"].iloc[-1] == "R2"


def test_gain_of_controls_is_one_and_does_not_depend_on_scale(cube):
    table = ranking(cube, "gain", CONTROLS, CONTROLS, draws=50)
    np.testing.assert_allclose(table[["value", "low", "high"]], 1)
    doubled = cube_of(cube.sums * 2, cube.voxels)
    one, two = (ranking(c, "gain", PATIENTS, CONTROLS, draws=50) for c in (cube, doubled))
    pd.testing.assert_frame_equal(one, two)
    one, two = (ranking(c, "sum", PATIENTS, draws=50) for c in (cube, doubled))
    np.testing.assert_allclose(
        two[["value", "low", "high", "sd_repeats"]] / 2, one[["value", "low", "high", "sd_repeats"]]
    )
    pd.testing.assert_frame_equal(one.filter(like="rank"), two.filter(like="rank"))


def test_intervals_cover_known_means_and_sure_ranks():
    rng = np.random.default_rng(8)
    truth = np.array([1.0, 3.0, 2.0, 2.1])
    inside, sure = [], []
    for seed in range(150):
        sums = truth + rng.normal(size=(1, 40, 4))
        table = ranking(cube_of(sums), "sum", np.ones(40, bool), draws=300, seed=seed)
        table = table.sort_values("index")
        inside.append((table["low"] <= truth) & (truth <= table["high"]))
        sure.append(table[["rank_low", "rank_high"]].to_numpy())
    assert 0.90 < np.mean(inside) < 0.98
    sure = np.array(sure)
    assert (sure[:, 0] == 4).mean() > 0.95  # the lowest by far
    assert (sure[:, 2, 0] < sure[:, 2, 1]).mean() > 0.8  # two that are hard to tell apart
    assert np.isnan(table["sd_repeats"]).all()


def test_signed_ranking_looks_at_magnitude():
    sums = np.tile([1.0, -5.0, 3.0], (1, 4, 1))
    everyone = np.ones(4, bool)
    table = ranking(cube_of(sums), "sum", everyone, signed=True, draws=5)
    assert table["name"].tolist() == ["R1", "R2", "R0"]
    assert table["value"].tolist() == [-5, 3, 1]
    assert ranking(cube_of(sums), "sum", everyone, draws=5)["name"].tolist() == ["R2", "R0", "R1"]


def test_strongest_sums_the_magnitudes_of_group_means():
    sums = np.zeros((1, 4, 4))
    sums[0, :2] = [4.0, -8.0, 0.4, 9.0]
    sums[0, 2:] = [-4.0, 4.0, 0.4, 9.0]
    cube = cube_of(sums, np.array([4, 4, 4, 0]))
    groups = {"MS": np.array([1, 1, 0, 0], bool), "HC": np.array([0, 0, 1, 1], bool)}
    table = strongest(cube, groups, 2)
    assert table["name"].tolist() == ["R1", "R0"]
    assert table["mean_MS"].tolist() == [-2, 1]
    assert table["mean_HC"].tolist() == [1, -1]
    assert table["total"].tolist() == [3, 2]
    assert len(strongest(cube, groups)) == 3


def test_values_of_people_are_means_over_their_repeats(cube):
    cube.sums[1, 3] = np.nan
    members = np.zeros((3, 22), bool)
    members[:2, 3] = members[:, 5] = True
    table = person_values(cube, "sum", {"TP": members, "HC": CONTROLS}, [12, 10])
    assert table["group"].value_counts().to_dict() == {"HC": 20, "TP": 4}
    first = table[table["group"] == "TP"]
    assert first["name"].tolist() == ["R2", "R0"] * 2
    assert first["person"].tolist() == [3, 3, 5, 5]
    expected = [*cube.sums[0, 3, [2, 0]], *cube.sums[:, 5, [2, 0]].mean(0)]
    np.testing.assert_allclose(first["value"], expected)
    gains = person_values(cube, "gain", {"HC": CONTROLS}, [10], CONTROLS)
    assert gains["value"].mean() == pytest.approx(1)
    with pytest.raises(InputError, match="check the atlas"):
        person_values(cube, "sum", {"HC": CONTROLS}, [99])


def test_groups_that_cannot_be_ranked_are_errors(cube):
    with pytest.raises(InputError, match="fewer than two people"):
        ranking(cube, "sum", np.arange(22) == 3)
    cube.sums[:, :11] = np.nan
    with pytest.raises(InputError, match="fewer than two people"):
        ranking(cube, "sum", PATIENTS)
    with pytest.raises(InputError, match="controls: fewer"):
        ranking(cube, "gain", CONTROLS, np.arange(22) == 20)
    with pytest.raises(InputError, match="say who they are"):
        ranking(cube, "gain", CONTROLS)
    with pytest.raises(InputError, match="choose one of"):
        ranking(cube, "median", CONTROLS)
