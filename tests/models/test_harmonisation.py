"""ComBat against neuroCombat, planted effects, and leaks."""

import numpy as np
import pandas as pd
import pytest
from neuroCombat import neuroCombat
from numpy.testing import assert_allclose, assert_array_equal

from models.errors import InputError
from models.harmonisation import Design, Harmonised, fit

SHAPE = (1, 6, 5, 4)
SITES = ("A", "B", "C")


def cohort(seed=0, per_site=30, confounded=0.0, effect=1.0):
    """Images with a site's shift and spread, an effect of age and one of the disease."""
    rng = np.random.default_rng(seed)
    sites = np.repeat(SITES, per_site)
    chance = {"A": 0.5 + confounded, "B": 0.5 - confounded, "C": 0.5}
    labels = rng.random(len(sites)) < np.array([chance[site] for site in sites])
    age = rng.normal(70, 6, len(sites))
    base = rng.uniform(8, 12, SHAPE)
    shift = {
        site: rng.normal(at, 0.3, SHAPE) for site, at in zip(SITES, (1.5, -1.5, 0), strict=True)
    }
    spread = {"A": 0.7, "B": 1.6, "C": 1.0}
    ill = np.zeros(SHAPE, bool)
    ill[:, :2] = True
    volumes = np.array(
        [
            base
            + shift[site]
            - effect * one * ill
            - 0.08 * (old - 70)
            + spread[site] * rng.normal(0, 0.5, SHAPE)
            for site, one, old in zip(sites, labels, age, strict=True)
        ]
    )
    volumes[:, :, -1] = 0  # no brain there
    return volumes, sites, age[:, None], labels, ill


def harmonised(volumes, combat, sites, age):
    return Harmonised(volumes, combat, list(sites), age)[:]


def gap(values, members, where):
    """Largest difference between the means of two groups, over some voxels."""
    return np.abs(values[members].mean(0) - values[~members].mean(0))[where].mean()


@pytest.mark.parametrize("with_age", [True, False])
@pytest.mark.parametrize("block_mb", [256, 0.02])
def test_it_is_the_oracles(with_age, block_mb):
    volumes, sites, age, _, _ = cohort()
    age = age if with_age else age[:, :0]
    names = ["age"] if with_age else []
    combat, notes = fit(volumes, Design(sites, age, names), block_mb=block_mb)
    inside = combat.mask
    assert not inside[:, -1].any()
    assert inside[:, :-1].all()
    table = pd.DataFrame({"site": sites} | ({"age": age[:, 0]} if with_age else {}))
    oracle = neuroCombat(volumes[:, inside].T, table, "site", continuous_cols=names)["data"].T
    mine = harmonised(volumes, combat, sites, age)[:, inside]
    assert np.abs(oracle - volumes[:, inside]).max() > 1
    assert_allclose(mine, oracle, rtol=1e-3)
    assert notes == []


def test_planted_site_effects_vanish_in_people_it_has_not_seen():
    volumes, sites, age, labels, ill = cohort(per_site=60)
    train = np.arange(len(sites)) % 3 > 0
    combat, _ = fit(volumes[train], Design(sites[train], age[train], ["age"], labels[train]))
    after = harmonised(volumes, combat, sites, age)
    healthy = combat.mask & ~ill
    for part in (train, ~train):
        for site in SITES:
            before = gap(volumes[part], sites[part] == site, healthy)
            left = gap(after[part], sites[part] == site, healthy)
            assert left < 0.25 or left < 0.2 * before
        young = 0.08 * (age - 70)  # age is kept, and varies by chance from site to site
        spreads, raw = (
            [(one[:, healthy] + young)[part & (sites == site)].std(0).mean() for site in SITES]
            for one in (after, volumes)
        )
        assert max(raw) / min(raw) > 1.5
        assert max(spreads) / min(spreads) < 1.15


@pytest.mark.parametrize("confounded", [0.0, 0.35])
def test_a_planted_disease_stays(confounded):
    volumes, sites, age, labels, ill = cohort(per_site=120, confounded=confounded)
    train = np.arange(len(sites)) % 2 == 0
    combat, notes = fit(volumes[train], Design(sites[train], age[train], ["age"], labels[train]))
    after = harmonised(volumes, combat, sites, age)
    for part in (train, ~train):
        left = gap(after[part], labels[part], combat.mask & ill)
        # It is scaled along with the rest of what is people's own.
        assert 0.9 < left < 1.3
        assert gap(after[part], labels[part], combat.mask & ~ill) < 0.15
    assert bool(notes) == bool(confounded)
    if not confounded:
        return
    # Without the training people's labels, the patients' site takes their disease along.
    blind, _ = fit(volumes[train], Design(sites[train], age[train], ["age"]))
    assert gap(harmonised(volumes, blind, sites, age), labels, blind.mask & ill) < left - 0.15


def test_the_effect_of_age_stays():
    volumes, sites, age, labels, _ = cohort(per_site=80)
    combat, _ = fit(volumes, Design(sites, age, ["age"], labels))
    after = harmonised(volumes, combat, sites, age)[:, combat.mask]
    slopes = np.polyfit(age[:, 0], after, 1)[0]
    assert slopes.mean() == pytest.approx(-0.08, abs=0.01)


def test_nothing_of_the_tested_reaches_the_fit_or_another_person():
    volumes, sites, age, labels, _ = cohort()
    train = np.arange(len(sites)) % 3 > 0
    poisoned = np.where(train[:, None, None, None, None], volumes, np.nan)
    design = Design(sites[train], age[train], ["age"], labels[train])
    combat, _ = fit(poisoned[train], design)
    clean, _ = fit(volumes[train], design)
    for name in ("factor", "shift", "slopes", "centre", "mask"):
        assert_array_equal(getattr(combat, name), getattr(clean, name))
    one = np.flatnonzero(~train)[4]
    alone = combat.apply(volumes[one], sites[one], age[one])
    assert_array_equal(
        Harmonised(poisoned, combat, list(sites), age)[: one + 1][one][0, 0, 0, 0], np.nan
    )
    assert_array_equal(harmonised(volumes, combat, sites, age)[one], alone)


def test_zeros_stay_zero_and_what_lies_outside_stays_as_it_is():
    volumes, sites, age, _, _ = cohort()
    volumes[:70, :, 0, 0, 0] = 0  # tissue in few people
    volumes[3, :, 2, 2, 2] = 0
    combat, _ = fit(volumes, Design(sites, age, ["age"]))
    after = harmonised(volumes, combat, sites, age)
    assert not combat.mask[:, 0, 0, 0].any()
    assert_array_equal(after[:, ~combat.mask], volumes.astype(np.float32)[:, ~combat.mask])
    assert_array_equal(after == 0, volumes == 0)


@pytest.mark.parametrize("block_mb", [256, 0.01])
def test_blocks_are_the_images(block_mb):
    volumes, sites, age, _, _ = cohort()
    age[5] = np.nan
    combat, _ = fit(volumes, Design(sites, age, ["age"]))
    lazily = Harmonised(volumes.astype(np.float16), combat, list(sites), age)
    blocks = np.hstack(list(lazily.blocks(block_mb=block_mb)))
    assert_allclose(blocks, lazily[:].reshape(len(sites), -1), rtol=1e-5)
    assert_array_equal(lazily[[2, 7]], np.stack([lazily[2], lazily[7]]))
    assert lazily.shape == volumes.shape
    assert lazily[0].dtype == np.float32


def test_a_missing_covariate_counts_as_the_mean():
    volumes, sites, age, _, _ = cohort()
    combat, _ = fit(volumes, Design(sites, age, ["age"]))
    assert_allclose(
        combat.apply(volumes[0], "A", np.array([np.nan])),
        combat.apply(volumes[0], "A", age.mean(0)),
    )


# --- what cannot be done -------------------------------------------------------------------------


def test_an_unknown_site_is_refused_by_name():
    volumes, sites, age, _, _ = cohort()
    combat, _ = fit(volumes, Design(sites, age, ["age"]))
    with pytest.raises(InputError, match=r"site 'D' has no training people, .*known: A, B, C"):
        combat.apply(volumes[0], "D", age[0])
    blocks = np.hstack(list(Harmonised(volumes, combat, ["D", *sites[1:]], age).blocks()))
    assert np.isnan(blocks[0]).all()
    assert np.isfinite(blocks[1:]).all()


@pytest.mark.parametrize(
    ("sites", "words"),
    [(["A"] * 90, "all training images are of one site"), (["A", *["B"] * 89], "site 'A' has one")],
)
def test_sites_that_tell_nothing_are_refused(sites, words):
    volumes, _, age, _, _ = cohort()
    with pytest.raises(InputError, match=words):
        fit(volumes, Design(sites, age, ["age"]))


def test_a_covariate_that_follows_the_sites_is_refused():
    volumes, sites, _, _, _ = cohort()
    field = np.where(sites == "B", 3.0, 1.5)[:, None]
    with pytest.raises(InputError, match="covariate 'field' cannot be told apart"):
        fit(volumes, Design(sites, field, ["field"]))


def test_a_site_of_one_class_each_is_warned_of_loudly():
    volumes, _, age, labels, _ = cohort()
    sites = np.where(labels, "A", "B")
    combat, notes = fit(volumes, Design(sites, age, ["age"], labels))
    assert notes[0].startswith("SITE AND DIAGNOSIS CANNOT BE TOLD APART")
    assert np.isfinite(combat.factor).all()


def test_a_brain_that_nobody_shares_is_refused():
    with pytest.raises(InputError, match="no voxel is tissue"):
        fit(np.zeros((90, *SHAPE)), Design(np.repeat(SITES, 30), np.zeros((90, 0))))
