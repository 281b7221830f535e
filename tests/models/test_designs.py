import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from models.errors import InputError
from models.statistics.designs import one_sample_design, table_design
from models.statistics.glm import fit, two_group_design


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    people = 60
    return pd.DataFrame(
        {
            "group": rng.permutation(["AD", "CN", "MCI"] * 20),
            "sex": rng.choice(["F", "M"], people),
            "age": rng.normal(70, 8, people),
            "iq": rng.normal(100, 15, people),
            "site": rng.choice([3, 5, 9], people),
            "y": rng.normal(size=people),
        }
    )


def ours(table, *arguments, **options):
    return fit(table[["y"]].to_numpy(), table_design(table, *arguments, **options))


def test_differences_of_groups_agree_with_statsmodels(table):
    terms = ["group", "age", "sex", "site"]
    model = smf.ols("y ~ C(group) + age + sex + C(site)", table).fit()
    for text, oracle in (
        ("AD - CN", "-C(group)[T.CN] = 0"),
        ("MCI - CN", "C(group)[T.MCI] - C(group)[T.CN] = 0"),
        ("0.5*AD + 0.5*MCI - CN", "0.5 * C(group)[T.MCI] - C(group)[T.CN] = 0"),
        ("M - F", "sex[T.M] = 0"),
        ("sex[F] - sex[M]", "-sex[T.M] = 0"),
        ("site[9] - 5", "C(site)[T.9] - C(site)[T.5] = 0"),
    ):
        test = model.t_test(oracle)
        found = ours(table, terms, text, categorical=("site",))
        assert found.t[0] == pytest.approx(test.tvalue.item(), rel=1e-9)
        assert found.beta[0] == pytest.approx(test.effect.item(), rel=1e-9)


def test_f_of_a_group_agrees_with_statsmodels(table):
    terms = ["group", "age", "sex"]
    model = smf.ols("y ~ group + age + sex", table).fit()
    test = model.f_test("group[T.CN] = 0, group[T.MCI] = 0")
    for contrast in ("group", ["AD - CN", "AD - MCI"], ["AD - CN", "MCI - CN"]):
        found = ours(table, terms, contrast)
        assert found.statistic[0] == pytest.approx(test.fvalue, rel=1e-9)
        assert found.dof == test.df_denom


def test_interactions_agree_with_statsmodels(table):
    terms = ["group", "age", "sex", "group:age"]
    centred = table.assign(age=(table["age"] - table["age"].mean()) / table["age"].std(ddof=0))
    model = smf.ols("y ~ group * age + sex", centred).fit()
    test = model.t_test("group[T.MCI]:age - group[T.CN]:age = 0")
    found = ours(table, terms, "MCI:age - CN:age")
    assert found.t[0] == pytest.approx(test.tvalue.item(), rel=1e-9)
    assert found.beta[0] == pytest.approx(test.effect.item(), rel=1e-9)
    test = model.f_test("group[T.CN]:age = 0, group[T.MCI]:age = 0")
    assert ours(table, terms, "group:age").statistic[0] == pytest.approx(test.fvalue, rel=1e-9)
    # Beside its interaction, a group's effect is that at the mean age.
    test = model.t_test("group[T.MCI] - group[T.CN] = 0")
    assert ours(table, terms, "MCI - CN").t[0] == pytest.approx(test.tvalue.item(), rel=1e-9)


def test_two_covariates_interact(table):
    model = smf.ols("y ~ age * iq", table).fit()
    found = ours(table, ["age", "iq", "age:iq"], "age:iq")
    assert found.t[0] == pytest.approx(model.tvalues["age:iq"], rel=1e-7)


def test_two_groups_interact(table):
    model = smf.ols("y ~ group * sex", table).fit()
    found = ours(table, ["group", "sex", "group:sex"], "CN:M - CN:F - AD:M + AD:F")
    assert found.t[0] == pytest.approx(model.tvalues["group[T.CN]:sex[T.M]"], rel=1e-9)


def test_two_group_design_is_the_same_test(table):
    two = table[table["group"] != "MCI"].reset_index(drop=True)
    one = fit(two[["y"]].to_numpy(), two_group_design(two["group"] == "AD", two[["age"]], ["age"]))
    assert ours(two, ["group", "age"], "AD - CN").t[0] == pytest.approx(one.t[0], rel=1e-9)


def test_one_sample_is_the_mean_at_the_average_of_the_covariates(table):
    y = table[["y"]].to_numpy() + 0.5
    found = fit(y, one_sample_design(len(y), table[["age"]], ["age"]))
    model = smf.ols("y ~ age", pd.DataFrame({"y": y[:, 0], "age": table.age - table.age.mean()}))
    assert found.t[0] == pytest.approx(model.fit().tvalues["Intercept"], rel=1e-9)
    alone = fit(y, one_sample_design(len(y)))
    assert alone.beta[0] == pytest.approx(y.mean())
    assert alone.dof == len(y) - 1


def test_units_of_covariates_do_not_matter(table):
    other = table.assign(age=table["age"] * -365.25 + 4)
    terms = ["group", "age", "group:age"]
    assert ours(other, terms, "AD - CN").t[0] == pytest.approx(ours(table, terms, "AD - CN").t[0])
    slopes = [ours(people, terms, "AD:age - CN:age").t[0] for people in (table, other)]
    assert slopes[0] == pytest.approx(-slopes[1])


@pytest.mark.parametrize(
    ("terms", "contrast", "change", "message"),
    [
        (["group", "weight"], "AD - CN", {}, "'weight', which is no column .* group, sex, age"),
        (["group"], "AD - HC", {}, r"'HC', which is neither .* group\[AD\], group\[CN\]"),
        (["group"], "AD", {}, "weights of the levels of 'group' must add up to 0, not 1"),
        (["group", "sex"], "sex", {}, "say which way, 'M - F' or 'F - M'"),
        (["group", "age"], "AD:age - CN:age", {}, "'CN:age', which is no term"),
        (["group"], "AD - AD", {}, "tests nothing"),
        (["group"], ["AD - CN", "CN - AD"], {}, "depend on each other"),
        (["group", "site"], "AD - CN", {"site": "here"}, "'site' is 'here' for everybody"),
        (["group", "age"], "AD - CN", {"age": 70.0}, "'age' is the same for everybody"),
        (["group", "age"], "AD - CN", {"age": [np.nan] * 3 + [70.0, 60] * 28 + [1]}, "3 people"),
        (["group"], "AD - CN", {"group": [None] * 2 + ["AD", "CN"] * 29}, "missing for 2 people"),
        (["group"], "AD - CN", {"group": ["X", *(["AD", "CN"] * 30)[:59]]}, "'X' for 1 of 60"),
        (
            ["group", "site"],
            "AD - CN",
            {"site": ["a", "b", "c"] * 20, "group": ["AD", "CN", "MCI"] * 20},
            "follows from",
        ),
        (["age", "iq"], "age", {"iq": "age"}, "'iq' of the term 'iq' follows"),
        (
            ["group", "sex"],
            "X - AD",
            {"sex": ["AD", "X"] * 30},
            "'AD', which is a level of several",
        ),
    ],
)
def test_unusable_designs_are_named(table, terms, contrast, change, message):
    for name, values in change.items():
        table[name] = table[values] if isinstance(values, str) and values in table else values
    with pytest.raises(InputError, match=message):
        table_design(table, terms, contrast)
