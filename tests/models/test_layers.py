"""Networks as relevance sees them: nodes that do what the network does, and their adjoints."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from models.attribution import graph, layers, lrp
from models.attribution.convolution import to_winners
from models.attribution.layers import (
    Affine,
    Convolution,
    Dense,
    Joining,
    Mapping,
    MaxPool,
    Padded,
    Passing,
    Scaling,
    Summing,
    relevance_nodes,
)
from models.errors import InputError


def made(*modules, shape, seed=0):
    """A float64 network with the statistics of a trained one, and two images."""
    torch.manual_seed(seed)
    model = nn.Sequential(*deepcopy(modules)).double().eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.3, 3)
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    return model, torch.randn(2, *shape, dtype=torch.float64)


def run(nodes, image):
    """Result of every node, each computed from what the nodes below it gave."""
    results = {-1: image}
    for position, node in enumerate(nodes):
        inputs = [results[source] for source in node.inputs]
        results[position] = climb(node.layer, inputs)
    return results


def climb(layer, inputs):
    if isinstance(layer, Joining | Passing):
        return layer.module(*inputs)
    if isinstance(layer, MaxPool):
        return layer.forward(inputs[0])[0]
    z = layer.op(inputs[0] if len(inputs) == 1 else torch.stack(inputs, 1), layer.weight)
    z = z + layer.spread_bias(z)
    return z if layer.pool is None else layer.pool.forward(z)[0]


POOLED = [
    nn.Conv3d(1, 3, 3),
    nn.BatchNorm3d(3),
    nn.ReLU(),
    nn.Dropout3d(),
    nn.MaxPool3d(2, stride=1),
    nn.Flatten(),
    nn.Linear(24, 4),
    nn.BatchNorm1d(4),
    nn.ELU(),
    nn.Linear(4, 2),
    nn.Softmax(1),
]
LOOSE = [
    nn.BatchNorm3d(1),
    nn.AvgPool3d(2),
    nn.MaxPool3d((2, 1, 1)),
    nn.ConvTranspose3d(1, 2, 2, stride=2, output_padding=1),
    nn.BatchNorm3d(2),
    nn.GELU(),
    nn.MaxPool3d(2),  # not joined: GELU falls and rises
    nn.BatchNorm3d(2),
    nn.Conv3d(2, 2, 2, padding="same"),
    nn.AdaptiveAvgPool3d(1),
    nn.Flatten(),
]


@pytest.mark.parametrize("batchnorm", ["fold", "pass"])
@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("modules", [POOLED, LOOSE], ids=["pooled", "loose"])
def test_the_nodes_give_the_networks_scores(modules, swap, batchnorm):
    model, image = made(*modules, shape=(1, 5, 5, 5))
    nodes = relevance_nodes(model, swap=swap, batchnorm=batchnorm)
    before_softmax = model[:-1] if isinstance(model[-1], nn.Softmax) else model
    found = run(nodes, image)[len(nodes) - 1]
    assert torch.allclose(found, before_softmax(image), rtol=1e-12, atol=1e-14)


def summary(nodes):
    return [(type(node.layer).__name__, node.names, node.inputs) for node in nodes]


def test_batchnorm_and_pooling_become_part_of_the_convolution():
    model, _ = made(*POOLED, shape=(1, 5, 5, 5))
    nodes = relevance_nodes(model)
    assert summary(nodes) == [
        ("Convolution", ["0", "1", "4"], (-1,)),
        ("Passing", ["2"], (0,)),
        ("Passing", ["3"], (1,)),
        ("Passing", ["5"], (2,)),
        ("Dense", ["6", "7"], (3,)),
        ("Passing", ["8"], (4,)),
        ("Dense", ["9"], (5,)),
    ]
    assert nodes[0].layer.pool.module is model[4]


def test_a_pooling_stays_above_the_activation_for_rules_that_give_to_zeros():
    model, _ = made(*POOLED, shape=(1, 5, 5, 5))
    nodes = relevance_nodes(model, swap=False)
    assert [node.names for node in nodes][:4] == [["0", "1"], ["2"], ["3"], ["4"]]


def test_batchnorm_hands_on_where_asked():
    model, _ = made(*POOLED, shape=(1, 5, 5, 5))
    nodes = relevance_nodes(model, batchnorm="pass")
    assert next(node.names for node in nodes if isinstance(node.layer, Passing)) == ["1"]
    with pytest.raises(InputError, match="batchnorm is fold or pass, not 'merge'"):
        relevance_nodes(model, batchnorm="merge")


def test_batchnorm_that_follows_no_weights_is_a_layer_of_its_own():
    model, _ = made(*LOOSE, shape=(1, 5, 5, 5))
    kinds = [type(node.layer) for node in relevance_nodes(model)]
    assert kinds == [
        *(Scaling, Mapping, MaxPool, Convolution),
        *(Passing, MaxPool, Scaling, Padded, Mapping, Passing),
    ]


def test_the_networks_weights_are_never_written_to():
    model, _ = made(*POOLED, shape=(1, 5, 5, 5))
    before = deepcopy(model.state_dict())
    nodes = relevance_nodes(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(
        not node.layer.weight.requires_grad for node in nodes if isinstance(node.layer, Affine)
    )


class Shared(nn.Module):
    """What two layers look at cannot be folded or pooled away."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        self.pool = nn.MaxPool2d(2, stride=1)

    def forward(self, x):
        x = self.conv(x)
        return torch.cat([self.pool(x).flatten(1), self.norm(x).flatten(1)], 1)


def test_what_two_layers_look_at_is_not_joined():
    torch.manual_seed(0)
    model, image = Shared().double().eval(), torch.randn(2, 1, 5, 5, dtype=torch.float64)
    nodes = relevance_nodes(model)
    assert [type(node.layer) for node in nodes] == [
        *(Convolution, MaxPool, Passing),
        *(Scaling, Passing, Joining),
    ]
    assert torch.allclose(run(nodes, image)[5], model(image))


# --- adjoints ------------------------------------------------------------------------------------

# name: (module, shape of its input)
LAYERS = {
    "linear": (nn.Linear(6, 4), (6,)),
    "conv": (nn.Conv3d(2, 3, 3, stride=(1, 2, 1), padding=(0, 1, 2)), (2, 4, 5, 4)),
    "plain conv": (nn.Conv3d(2, 3, (3, 1, 2), padding=(1, 0, 1)), (2, 4, 5, 4)),
    "dilated": (nn.Conv2d(2, 4, 2, dilation=(1, 2), groups=2), (2, 4, 5)),
    "transposed": (
        nn.ConvTranspose3d(2, 3, 3, stride=2, padding=1, output_padding=(1, 0, 1)),
        (2, 2, 3, 2),
    ),
    "transposed dilated": (nn.ConvTranspose2d(4, 4, 2, dilation=2, groups=2), (4, 3, 2)),
    "circular": (nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), (1, 4, 5)),
    "same": (nn.Conv2d(2, 2, (2, 3), padding="same"), (2, 4, 5)),
    "average": (nn.AvgPool3d(2, stride=1, padding=1), (2, 3, 4, 3)),
    "adaptive": (nn.AdaptiveAvgPool2d((2, 3)), (2, 5, 4)),
    "batchnorm": (nn.BatchNorm2d(3), (3, 2, 4)),
}


def jacobian(function, shape):
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    rows = torch.autograd.functional.jacobian(lambda a: function(a).flatten(), zero)
    return rows.reshape(len(rows), -1)


def ones_like(module):
    module = deepcopy(module)
    for parameter in module.parameters():
        nn.init.ones_(parameter)
    return module


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_matrix(name):
    module, shape = LAYERS[name]
    model, image = made(module, shape=shape)
    (node,) = relevance_nodes(model)
    layer, matrix = node.layer, jacobian(model, shape)
    z = layer.op(image, layer.weight)
    assert torch.allclose(z.flatten(1), image.flatten(1) @ matrix.T)
    assert torch.allclose(z + layer.spread_bias(z), model(image))
    s = torch.randn_like(z)
    below = layer.adjoint(image.shape, s, layer.weight)
    assert torch.allclose(below.flatten(1), s.flatten(1) @ matrix)
    if name != "batchnorm":
        taps = jacobian(ones_like(model), shape).sum(1)
        assert torch.allclose(layer.taps(image).expand_as(z)[0].flatten(), taps)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ceil_mode", [True, False])
def test_relevance_of_a_pooling_returns_to_its_winners(seed, ceil_mode):
    """The winner is where the gradient of the pooling goes."""
    torch.manual_seed(seed)
    pool = nn.MaxPool3d(2, stride=1 + seed % 2, padding=seed // 2, ceil_mode=ceil_mode)
    a = torch.randn(2, 3, 5, 4, 5, dtype=torch.float64, requires_grad=True)
    values, winners = MaxPool(pool).forward(a)
    assert torch.equal(values, pool(a))
    relevance = torch.randn_like(values)
    (expected,) = torch.autograd.grad(values, a, relevance)
    assert torch.allclose(to_winners(relevance, winners, a.shape), expected)


# --- what has no rule, and how to give it one ----------------------------------------------------


class Doubling(nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.InstanceNorm3d(2), r"no rule for layer '0\.1' \(InstanceNorm3d\).*register"),
        (nn.AdaptiveMaxPool3d(1), r"layer '0\.1' \(AdaptiveMaxPool3d\)"),
        (nn.PixelShuffle(1), r"layer '0\.1' \(PixelShuffle\)"),
        (Doubling(), r"calls 'mul'"),
    ],
)
def test_layers_without_a_rule_are_named(module, message):
    model = nn.Sequential(nn.Sequential(nn.Conv3d(1, 2, 3), module), nn.Flatten())
    with pytest.raises(InputError, match=message):
        lrp.lrp_epsilon(model.eval(), torch.rand(1, 1, 5, 5, 5), 0)


def test_a_module_of_ones_own_can_be_given_a_rule(monkeypatch):
    monkeypatch.setattr(layers, "LAYERS", dict(layers.LAYERS))
    leaves = set(graph.LEAVES)
    monkeypatch.setattr(layers, "LEAVES", leaves)
    monkeypatch.setattr(graph, "LEAVES", leaves)
    model, image = made(nn.Flatten(), Doubling(), nn.Linear(8, 2, bias=False), shape=(1, 2, 2, 2))
    layers.register(Doubling, lambda module, like: Mapping(like.new_ones(1), function=module))
    nodes = relevance_nodes(model)
    assert [type(node.layer) for node in nodes] == [Passing, Mapping, Dense]
    found = lrp.lrp_0(model, image, 1, start="logit")
    (gradient,) = torch.autograd.grad(model(image.requires_grad_())[:, 1].sum(), image)
    assert torch.allclose(found.heatmap, image * gradient)


def test_a_sum_of_branches_hands_each_its_own():
    layer = Summing(torch.ones(2, dtype=torch.float64))
    both = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    assert torch.allclose(layer.op(both, layer.weight), both[:, 0] + both[:, 1])
    s = torch.randn(3, 4, 5, dtype=torch.float64)
    assert torch.equal(layer.adjoint(both.shape, s, layer.weight), torch.stack([s, s], 1))
