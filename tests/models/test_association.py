"""Correlations over people against scipy, enumeration and simulated truth."""

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from models import bootstrap
from models.association import correlation, correlations, ipsilateral
from models.errors import InputError

ORACLES = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}


def cohort(people=30, repeats=1, slope=-0.8, seed=0):
    rng = np.random.default_rng(seed)
    volume = rng.normal(3500, 400, people)
    standard = (volume - 3500) / 400
    return slope * standard + rng.normal(size=(repeats, people)), volume


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("ties", [False, True])
def test_correlation_is_the_mean_over_repeats(method, ties):
    relevance, volume = cohort(repeats=4)
    if ties:
        relevance, volume = np.round(relevance), np.round(volume, -2)
    members = np.random.default_rng(5).random((4, 30)) < 0.7
    relevance[2, 3] = np.nan
    found = correlation(relevance, volume, members, method=method, n_permutations=50, draws=10)
    single = []
    for x, chosen in zip(relevance, members, strict=True):
        use = chosen & np.isfinite(x)
        single.append(ORACLES[method](x[use], volume[use]).statistic)
    assert found.r == pytest.approx(np.mean(single), abs=1e-12)
    assert found.sd_repeats == pytest.approx(np.std(single, ddof=1))
    assert found.people == (members & np.isfinite(relevance)).any(0).sum()
    assert (found.permutations, found.exact) == (51, False)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
def test_few_people_are_enumerated(method, alternative):
    relevance, volume = cohort(people=6, repeats=2, seed=3)
    members = np.ones((2, 6), bool)
    members[1, 4] = False
    found = correlation(relevance, volume, members, method=method, alternative=alternative)

    def mean_r(measure):
        return np.mean(
            [
                ORACLES[method](x[use], measure[use]).statistic
                for x, use in zip(relevance, members, strict=True)
            ]
        )

    observed = mean_r(volume)
    r = np.array([mean_r(volume[list(order)]) for order in permutations(range(6))])
    extreme = {
        "two-sided": abs(r) >= abs(observed) - 1e-9,
        "less": r <= observed + 1e-9,
        "greater": r >= observed - 1e-9,
    }
    assert found.exact
    assert found.permutations == 720
    assert found.p == pytest.approx(extreme[alternative].mean())
    assert found.p >= 1 / 720


def test_random_permutations_agree_with_the_parametric_test():
    relevance, volume = cohort(people=40, slope=-0.35)
    found = correlation(relevance[0], volume, n_permutations=20_000, draws=10)
    oracle = stats.pearsonr(relevance[0], volume)
    assert 0.005 < oracle.pvalue < 0.2
    assert found.p == pytest.approx(oracle.pvalue, rel=0.1)
    less = correlation(relevance[0], volume, alternative="less", n_permutations=20_000, draws=10)
    assert less.p == pytest.approx(oracle.pvalue / 2, rel=0.15)


def test_the_observed_order_counts_among_the_random_ones():
    volume = np.arange(30.0)
    found = correlation(-volume, volume, n_permutations=199, draws=1)
    assert found.r == pytest.approx(-1)
    assert found.p == 1 / 200


def test_p_is_calibrated_without_an_association():
    sets = 400
    low = 0
    for seed in range(sets):
        relevance, volume = cohort(people=12, repeats=3, slope=0, seed=seed)
        low += correlation(relevance, volume, n_permutations=99, draws=1, seed=seed).p <= 0.1
    lower, upper = stats.binom.interval(0.99, sets, 0.1)
    assert lower <= low <= upper


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_interval_resamples_people_and_repeats(method):
    relevance, volume = cohort(people=12, repeats=3)
    relevance, volume = np.round(relevance, 1), np.round(volume, -2)
    members = np.random.default_rng(1).random((3, 12)) < 0.8
    members[0] = True
    found = correlation(relevance, volume, members, method=method, draws=80, n_permutations=1)
    sample = bootstrap.draw(12, 3, 80, 0)
    r = []
    for counts, times in zip(sample.people, sample.repeats, strict=True):
        people = np.repeat(np.arange(12), counts.astype(int))
        taken = [people[members[i, people]] for i in np.repeat(np.arange(3), times.astype(int))]
        which = np.repeat(np.arange(3), times.astype(int))
        single = [
            ORACLES[method](relevance[i, rows], volume[rows]).statistic
            for i, rows in zip(which, taken, strict=True)
        ]
        r.append(np.mean(single))
    low, high = np.sort(r)[[1, 77]]
    assert (found.low, found.high) == pytest.approx((low, high))


def test_interval_covers_the_truth():
    truth, covered = -0.8 / np.sqrt(1.64), 0
    for seed in range(200):
        relevance, volume = cohort(people=60, seed=seed)
        found = correlation(relevance, volume, draws=300, n_permutations=1, seed=seed)
        covered += found.low <= truth <= found.high
    assert 0.89 <= covered / 200 <= 0.985


def test_scale_and_seed():
    relevance, volume = cohort(repeats=2)
    one = correlation(relevance, volume, n_permutations=200, draws=50)
    two = correlation(relevance * 1e-6 + 4, volume / 1000, n_permutations=200, draws=50)
    assert (two.r, two.p, two.low) == pytest.approx((one.r, one.p, one.low), rel=1e-6)
    assert correlation(relevance, volume, n_permutations=200, draws=50) == one
    flipped = correlation(-relevance, volume, n_permutations=200, draws=50)
    assert (flipped.r, flipped.p) == pytest.approx((-one.r, one.p))


def test_groups_and_sides():
    relevance, volume = cohort(people=20)
    groups = {"all": np.ones(20, bool), "first": np.arange(20) < 9}
    table = correlations(relevance, volume, groups, n_permutations=20, draws=5)
    assert table["group"].tolist() == ["all", "first"]
    assert table["people"].tolist() == [20, 9]
    assert table["r"][1] == pytest.approx(stats.pearsonr(relevance[0, :9], volume[:9]).statistic)
    same, other = ipsilateral(np.array([[1, 2]]), np.array([[3, 4]]), np.array(["R", "L"]))
    assert (same.tolist(), other.tolist()) == ([[3, 2]], [[1, 4]])
    with pytest.raises(InputError, match="neither L nor R"):
        ipsilateral(np.ones(2), np.ones(2), np.array(["L", "n/a"]))


def test_what_cannot_be_correlated_is_an_error():
    relevance, volume = cohort(people=5)
    with pytest.raises(InputError, match="fewer than three people"):
        correlation(relevance, np.where(np.arange(5) < 3, np.nan, volume))
    with pytest.raises(InputError, match="the same for everybody"):
        correlation(relevance, np.full(5, 0.1))
    with pytest.raises(InputError, match="the same for everybody"):
        correlation(np.zeros(5), volume)
    with pytest.raises(InputError, match="at least one"):
        correlation(relevance, volume, n_permutations=0)
    with pytest.raises(ValueError, match="measures for relevance"):
        correlation(relevance, volume[:4])
