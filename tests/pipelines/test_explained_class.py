"""Which class a map explains: the positive one in everybody, or the one that is predicted."""

import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

from bidsapp.settings import load_recipe
from models.attribution import attribute
from models.errors import InputError
from pipelines.choices import PREDICTED
from pipelines.interfaces.attribution import (
    Surroundings,
    explain_rows,
    explained_facts,
    method_facts,
)

AROUND = Surroundings((4.0,) * 3, np.zeros((4, 4, 4), int))
LRP = {"method": "lrp_epsilon", "name": "lrp", "start": "logit"}
GRADIENT = {"method": "input_x_gradient", "name": "gxi"}


def network(outputs, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 64, outputs)
    ).eval()


@pytest.fixture
def volumes():
    """Images of both predictions, more than one batch of them."""
    return np.random.default_rng(1).normal(0, 3, (11, 1, 4, 4, 4)).astype(np.float32)


@pytest.mark.parametrize("entry", [LRP, GRADIENT])
@pytest.mark.parametrize("outputs", [1, 2])
def test_each_image_is_explained_by_its_most_activated_output(volumes, outputs, entry):
    model = network(outputs)
    rows = [5, 0, 1, 2, 3, 4, 7, 9, 10]
    found, ledgers = explain_rows(model, volumes, rows, entry | {"explain": "predicted"}, 1, AROUND)
    seen = set()
    for row, shown, ledger in zip(rows, found, ledgers, strict=True):
        one = torch.from_numpy(volumes[row : row + 1])
        with torch.no_grad():
            scores = model(one)[0]
        expected = int(scores.argmax()) if outputs == 2 else int(scores[0] > 0)
        parameters = {key: value for key, value in entry.items() if key not in ("name", "method")}
        alone = attribute(model, one, method=entry["method"], target=expected, **parameters)
        np.testing.assert_allclose(shown, alone.heatmap[0, 0], atol=1e-6)
        assert ledger["output"] == expected
        assert ledger["score"] == pytest.approx(float(alone.score[0]), abs=1e-5)
        assert ledger["score"] > 0 or outputs == 2
        seen.add(expected)
    assert seen == {0, 1}


def test_maps_of_many_people_are_in_a_file_and_not_in_memory(tmp_path):
    people, edge = 300, 16
    volumes = np.random.default_rng(0).normal(size=(people, 1, edge, edge, edge)).astype("f4")
    around = Surroundings((4.0,) * 3, np.zeros((edge,) * 3, int))
    model = nn.Sequential(nn.Flatten(), nn.Linear(edge**3, 2)).eval()
    wanted, _ = explain_rows(model, volumes, list(range(people)), GRADIENT, 1, around)
    tracemalloc.start()
    explain_rows(model, volumes, list(range(people)), GRADIENT, 1, around, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < wanted.nbytes / 4
    np.testing.assert_array_equal(np.load(tmp_path / "gxi.npy"), wanted)


def test_the_positive_class_is_explained_in_everybody_by_default(volumes):
    model, rows = network(2), list(range(11))
    _, ledgers = explain_rows(model, volumes, rows, LRP, 1, AROUND)
    assert {ledger["output"] for ledger in ledgers} == {1.0}
    facts = explained_facts(LRP, [dict(ledgers[0])], ["normal", "reduced"])
    assert facts == {"Score": ledgers[0]["score"]}


@pytest.mark.parametrize(
    ("outputs", "said"), [((0.0,), "normal"), ((1.0, 1.0), "reduced"), ((0.0, 1.0), PREDICTED)]
)
def test_the_sidecar_names_the_class(outputs, said):
    entry = LRP | {"explain": "predicted"}
    ledgers = [{"score": 2.0, "output": one, "start": 2.0} for one in outputs]
    facts = method_facts(entry, "reduced", ["model-x"])
    assert facts["ExplainedClass"] == PREDICTED
    assert "explain" not in facts["Parameters"]
    facts |= explained_facts(entry, ledgers, ["normal", "reduced"])
    assert facts["ExplainedClass"] == said
    assert said in facts["ExplainedScore"]
    assert facts["ExplainedByModel"] == [["normal", "reduced"][int(one)] for one in outputs]
    assert ledgers[0] == {"start": 2.0}


def test_a_recipe_says_which(tmp_path):
    mine = tmp_path / "mine.toml"
    text = (
        'extends = "pd-spect"\nname = "mine"\n[[attribution]]\nmethod = "saliency"\n'
        'name = "lrpcomposite"\nexplain = '
    )
    mine.write_text(text + '"predicted"\n')
    assert load_recipe(str(mine)).attribution[0]["explain"] == "predicted"
    mine.write_text(text + '"true"\n')
    with pytest.raises(InputError, match="explain"):
        load_recipe(str(mine))
    mine.write_text(text.replace("saliency", "lrp_0") + '"predicted"\nlayer = "0"\nunit = 1\n')
    with pytest.raises(InputError, match="a unit is no class"):
        load_recipe(str(mine))
