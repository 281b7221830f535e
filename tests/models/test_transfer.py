"""Starting from the weights of another training: what is taken over, what is refused and why."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from models.errors import InputError
from models.networks import build
from models.training.loop import train
from models.training.protocol import Protocol
from models.training.transfer import Transfer, last_layer, start_from


def toy(seed, *, channels=1, side=6, outputs=2, width=4):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv3d(channels, width, 3),
        nn.BatchNorm3d(width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * (side - 2) ** 3, 8),
        nn.Dropout(0.5),
        nn.Linear(8, outputs),
    )


def taken(network, weights):
    """Names of what equals the source."""
    return {n for n, value in network.state_dict().items() if torch.equal(value, weights[n])}


def trained_source():
    source = toy(1)
    fit(source, epochs=2)
    return source.state_dict()


def fit(network, epochs=3):
    rng = np.random.default_rng(0)
    labels = np.arange(16) % 2 == 0
    volumes = rng.normal(size=(16, 1, 6, 6, 6)).astype(np.float16)
    protocol = Protocol(epochs=epochs, learning_rate=1e-2, select="last", patience=0)
    rows = list(range(16))
    train(network, volumes, labels, train_rows=rows, validation_rows=[], protocol=protocol)
    return network


def test_all_weights_are_taken_over_and_all_are_trained():
    weights = trained_source()
    network = toy(2)
    start_from(network, weights, source="m")
    assert taken(network, weights) == set(weights)
    assert weights["1.running_mean"].any()  # BatchNorm's statistics among them
    assert all(weight.requires_grad for weight in network.parameters())
    fit(network)
    assert not taken(network, weights) & {name for name, _ in network.named_parameters()}


def test_a_new_head_is_drawn_and_the_rest_taken_over():
    weights = trained_source()
    network, drawn = toy(2), toy(2)
    start_from(network, weights, source="m", head="new")
    assert taken(network, weights) == {n for n in weights if not n.startswith("6.")}
    assert torch.equal(network[6].weight, drawn[6].weight)


def test_frozen_layers_stay_to_the_bit_statistics_included():
    weights = trained_source()
    network = toy(2)
    start_from(network, weights, source="m", freeze=("0", "1"))
    fit(network)
    assert taken(network, weights) == {n for n in weights if n.startswith(("0.", "1."))}


def test_a_source_is_left_alone():
    weights = trained_source()
    before = deepcopy(weights)
    network = toy(2)
    start_from(network, weights, source="m")
    fit(network)
    assert all(torch.equal(weights[name], before[name]) for name in weights)


@pytest.mark.parametrize(
    ("here", "head", "words"),
    [
        ({"side": 8}, "keep", r"4.weight is \(8, 256\) there and \(8, 864\) here; .*another grid"),
        ({"channels": 2}, "keep", "another number of channels"),
        ({"outputs": 1}, "keep", r"\(2, 8\) there and \(1, 8\) here.*head = 'new' takes over"),
        ({"side": 8, "outputs": 1}, "new", "another grid"),
    ],
)
def test_shapes_that_do_not_fit_are_named_with_what_is_possible(here, head, words):
    network = toy(2, **here)
    before = deepcopy(network.state_dict())
    with pytest.raises(InputError, match=words):
        start_from(network, trained_source(), source="adt1w", head=head)
    assert taken(network, before) == set(before)


def test_another_number_of_outputs_is_possible_with_a_new_head():
    weights = trained_source()
    network = toy(2, outputs=1)
    start_from(network, weights, source="m", head="new")
    assert torch.equal(network[4].weight, weights["4.weight"])
    assert network[6].out_features == 1


def test_another_architecture_is_refused():
    shape = (96, 114, 96)
    theirs, ours = build("boehle2019", shape), build("rieke2018", shape)
    with pytest.raises(InputError, match=r"model ad: has other layers .* is only"):
        start_from(ours, theirs.state_dict(), source="ad")


def test_another_grid_fits_where_no_layer_depends_on_it():
    theirs, ours = (build("resnet3d", shape) for shape in ((32, 32, 32), (40, 36, 32)))
    start_from(ours, theirs.state_dict(), source="m", freeze=(last_layer(ours),))
    assert taken(ours, theirs.state_dict()) == set(theirs.state_dict())


def test_layers_to_freeze_must_exist_and_not_be_new():
    with pytest.raises(InputError, match=r"freeze: the network has no layer 'conv1'.*it has: 0, 1"):
        start_from(toy(2), trained_source(), source="m", freeze=("conv1",))
    with pytest.raises(InputError, match="layer '6' is the last"):
        start_from(toy(2), trained_source(), source="m", head="new", freeze=("6",))


def test_unknown_choices_are_refused():
    with pytest.raises(InputError, match="head = 'old' is unknown"):
        Transfer(head="old")
    with pytest.raises(InputError, match="fold = 'first': write 'best' or a fold's number"):
        Transfer(fold="first")
