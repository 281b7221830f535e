"""Random search: what may be drawn, how often, and that a seed draws the same again."""

from collections import Counter

import pytest

from models.errors import InputError
from models.training.search import Search, applied, best, draw, every_setting

EITEL2021 = {
    "network.model": ["A", "B"],
    "training.protocol.learning_rate": [1e-4, 5e-5],
    "training.protocol.batch_size": [4, 6, 12],
    "training.protocol.patience": [12, 16],
}


@pytest.mark.parametrize("seed", range(20))
def test_each_architecture_at_least_twice_in_five_draws(seed):
    found = draw(Search(5, EITEL2021, each="network.model", at_least=2), seed)
    assert len(found) == 5
    assert min(Counter(one["network.model"] for one in found).values()) >= 2
    assert all(one[key] in values for one in found for key, values in EITEL2021.items())


def test_a_seed_draws_the_same_and_another_seed_others():
    search = Search(5, EITEL2021)
    assert draw(search, 3) == draw(search, 3)
    assert len({str(draw(search, seed)) for seed in range(10)}) == 10


def test_all_values_come_up_equally_often():
    found = [one for seed in range(400) for one in draw(Search(5, EITEL2021), seed)]
    counts = Counter(one["training.protocol.batch_size"] for one in found)
    assert set(counts) == {4, 6, 12}
    # Binomial(2000, 1/3): SD 21; the chance to leave 5 SD is below 1e-6.
    assert all(abs(n - 2000 / 3) < 5 * 21.1 for n in counts.values())


def test_without_a_search_one_training_as_the_recipe_says():
    assert draw(Search(), 0) == [{}]
    assert applied({}, {"name": "pif"}, {"epochs": 3}) == ({"name": "pif"}, {"epochs": 3})


def test_settings_are_laid_over_copies():
    network, protocol = {"name": "pif", "model": "A"}, {"epochs": 3}
    changes = {"network.model": "B", "training.protocol.epochs": 5}
    assert applied(changes, network, protocol) == ({"name": "pif", "model": "B"}, {"epochs": 5})
    assert (network["model"], protocol["epochs"]) == ("A", 3)


def test_every_value_is_tried_once():
    tried = every_setting(Search(5, EITEL2021))
    assert len(tried) == 3
    for key, values in EITEL2021.items():
        assert {one[key] for one in tried} == set(values)
    assert every_setting(Search()) == [{}]


def test_the_first_of_equals_is_kept():
    assert best([(0.5, -1.0), (0.7, -2.0), (0.7, -1.5), (0.7, -1.5)]) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"draws": 3}, "belong together"),
        ({"draws": -1}, "0 or more"),
        ({"space": {"network.model": ["A"]}}, "belong together"),
        ({"draws": 2, "space": {"model": ["A"]}}, "must begin with"),
        ({"draws": 2, "space": {"network.": ["A"]}}, "must begin with"),
        ({"draws": 2, "space": {"network.model": "A"}}, "must be a list"),
        ({"draws": 2, "space": {"network.name": ["pif"]}}, "of one architecture; use --compare"),
        ({"draws": 2, "space": {"network.file": ["a.py"]}}, "of one architecture; use --compare"),
        ({"draws": 2, "space": {"training.protocol.select": ["last"]}}, "held against each other"),
        ({"draws": 2, "space": {"network.model": []}}, "must be a list"),
        ({"draws": 2, "space": {"network.model": ["A"]}, "each": "x"}, "is not in the space"),
        (
            {"draws": 3, "space": EITEL2021, "each": "network.model", "at_least": 2},
            "too few for each of 2 values",
        ),
    ],
)
def test_what_cannot_be_searched(options, words):
    with pytest.raises(InputError, match=words):
        Search(**options)
