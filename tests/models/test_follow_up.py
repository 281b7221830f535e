"""Follow-up of clusters: group comparisons, correlations, analysis of variance."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import f_oneway, pearsonr, ttest_ind

from models.anova import two_way
from models.errors import InputError
from models.follow_up import balance, cluster_means, compare, correlate


def slow_anova(values, first, second):
    """F of each effect by full and reduced models written out with dummy columns."""
    a, b = (pd.get_dummies(one, drop_first=False).to_numpy(float) for one in (first, second))

    def sums(columns):
        return np.column_stack(columns)

    def effect(d):
        return [d[:, i] - d[:, -1] for i in range(d.shape[1] - 1)]

    one, two = effect(a), effect(b)
    both = [x * y for x in one for y in two]
    ones = np.ones(len(values))

    def rss(blocks):
        design = sums([ones, *blocks])
        return np.sum((values - design @ np.linalg.pinv(design) @ values) ** 2)

    full = rss([*one, *two, *both])
    left = len(values) - 1 - len(one) - len(two) - len(both)
    parts = {"first": (one, [*two, *both]), "second": (two, [*one, *both])}
    parts["interaction"] = (both, [*one, *two])
    return {
        name: ((rss(rest) - full) / len(own)) / (full / left) for name, (own, rest) in parts.items()
    }


@pytest.mark.parametrize("seed", range(4))
def test_anova_agrees_with_models_written_out(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.choice(list("abc"), 60), rng.choice([True, False], 60, p=(0.3, 0.7))
    values = rng.normal(size=60) + (first == "a") * 0.5 + second * 0.7
    found = two_way(values, first, second).set_index("effect")
    for name, expected in slow_anova(values, first, second).items():
        assert found.loc[name, "F"] == pytest.approx(expected)
    assert found["df"].to_dict() == {"first": 2, "second": 1, "interaction": 2}
    assert (found["df_residual"] == 54).all()


def test_one_subset_leaves_the_classic_one_way_analysis():
    rng = np.random.default_rng(0)
    values, groups = rng.normal(size=40), np.repeat([True, False], 20)
    found = two_way(values, np.full(40, "test"), groups)
    expected = f_oneway(values[groups], values[~groups])
    assert found["effect"].tolist() == ["second"]
    assert found["F"].iloc[0] == pytest.approx(expected.statistic)
    assert found["p"].iloc[0] == pytest.approx(expected.pvalue)


def test_an_empty_cell_leaves_the_interaction_out():
    first = np.array(list("aaaabbbb"))
    second = np.array([1, 1, 2, 2, 1, 1, 1, 1])
    found = two_way(np.arange(8.0) ** 2, first, second)
    assert found["effect"].tolist() == ["first", "second"]


def test_the_same_age_for_everybody_cannot_be_analysed():
    with pytest.raises(InputError, match="same value"):
        two_way(np.ones(10), np.repeat(["a", "b"], 5), np.tile([True, False], 5))


def test_cluster_means_agree_with_a_loop():
    rng = np.random.default_rng(0)
    labels, volume = rng.integers(0, 4, (5, 6, 7)), rng.normal(size=(5, 6, 7))
    expected = [volume[labels == i].mean() for i in (1, 2, 3)]
    np.testing.assert_allclose(cluster_means(volume, labels, 3), expected)


def planted(n=200):
    """Patients take up less in the insula in both subsets; in the pons nothing differs."""
    rng = np.random.default_rng(0)
    positive, subset = rng.random(n) < 0.5, np.where(np.arange(n) < 150, "training", "test")
    binding = np.where(positive, 0.5, 1.5) + rng.normal(0, 0.2, n)
    uptake = pd.DataFrame(
        {
            "Insula_ipsi": 1 + 0.1 * binding + rng.normal(0, 0.05, n),
            "pons": rng.normal(1, 0.05, n),
        }
    )
    return uptake, positive, subset, binding


def test_classes_are_compared_within_each_subset():
    uptake, positive, subset, _ = planted()
    table = compare(uptake, positive, subset).set_index(["cluster", "subset"])
    row = table.loc["Insula_ipsi", "training"]
    chosen = subset == "training"
    values = uptake["Insula_ipsi"].to_numpy()
    ours, theirs = values[chosen & positive], values[chosen & ~positive]
    expected = ttest_ind(ours, theirs, equal_var=False)
    assert row["p"] == pytest.approx(expected.pvalue)
    assert row["difference"] == pytest.approx(ours.mean() - theirs.mean())
    pairs = (ours[:, None] < theirs) + 0.5 * (ours[:, None] == theirs)
    assert row["auc"] == pytest.approx(pairs.mean())
    assert row["auc_low"] < row["auc"] < row["auc_high"]
    assert row["n_positive"] + row["n_negative"] == 150
    assert table.loc["Insula_ipsi", "test"]["auc"] > 0.8
    assert table.loc["pons", "test"]["p"] > 0.01


def test_a_subset_with_one_class_has_no_numbers():
    uptake, _, subset, _ = planted(20)
    table = compare(uptake, np.ones(20, bool), subset)
    assert table[["t", "p", "auc", "mean_negative"]].isna().all(axis=None)


def test_correlation_is_pearson_within_each_group():
    uptake, positive, _, binding = planted()
    groups = {"everybody": np.ones(200, bool), "reduced": positive, "nobody": np.zeros(200, bool)}
    table = correlate(uptake, binding, groups).set_index(["cluster", "group"])
    values = uptake["Insula_ipsi"].to_numpy()
    r = table["r"]
    assert r["Insula_ipsi", "everybody"] == pytest.approx(pearsonr(values, binding).statistic)
    inside = pearsonr(values[positive], binding[positive]).statistic
    assert r["Insula_ipsi", "reduced"] == pytest.approx(inside)
    assert ("Insula_ipsi", "nobody") not in table.index
    assert table.loc[("Insula_ipsi", "everybody"), "p"] < 0.001


def test_balance_names_the_covariate_that_differs():
    rng = np.random.default_rng(0)
    positive = np.tile([True, False], 50)
    subset = np.repeat(["training", "test"], 50)
    table = pd.DataFrame(
        {
            "age": np.where(positive, 75, 65) + rng.normal(0, 3, 100),
            "sex": rng.choice(["F", "M"], 100),
            "constant": np.ones(100),
        }
    )
    found = balance(table, positive, subset).set_index(["covariate", "effect"])["p"]
    assert found["age", "class"] < 1e-6
    assert found["age", "subset"] > 0.01
    assert found["sex", "class"] > 0.01
    assert "constant" not in found.index.get_level_values(0)
