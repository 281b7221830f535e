"""Undersampling against its definition."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from models.training.balance import undersample


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 120))
def test_each_value_is_as_frequent_as_the_rarest_of_its_cell(seed, n):
    rng = np.random.default_rng(seed)
    people = [f"{i:03d}" for i in range(n)]
    values = pd.Series(rng.choice(["F", "M", None], n, p=[0.6, 0.3, 0.1]), people)
    cells = pd.DataFrame({"age": rng.choice([60.0, 65.0, np.nan], n)}, people)
    left_out = undersample(values, cells, seed)
    assert left_out <= set(people)
    known = values[values.notna() & cells["age"].notna()]
    for age in (60.0, 65.0):
        mine = known[cells["age"] == age]
        kept = mine[[one not in left_out for one in mine.index]]
        sizes = {sex: int((mine == sex).sum()) for sex in known.unique()}
        for sex in sizes:
            assert (kept == sex).sum() == min(sizes.values())
    assert set(people) - set(known.index) <= left_out


def test_the_seed_decides_and_not_the_order():
    values = pd.Series(["F"] * 30 + ["M"] * 10, [f"{i:02d}" for i in range(40)])
    cells = pd.DataFrame({"positive": True}, values.index)
    once = undersample(values, cells, 1)
    assert once == undersample(values[::-1], cells[::-1], 1)
    assert once != undersample(values, cells, 2)
    assert len(once) == 20


def test_a_cell_without_one_of_the_values_is_left_out_whole():
    values = pd.Series({"a": "F", "b": "F", "c": "M", "d": "F"})
    cells = pd.DataFrame({"age": {"a": 60, "b": 60, "c": 65, "d": 65}})
    assert undersample(values, cells) == {"a", "b"}
