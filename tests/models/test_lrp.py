"""Layer-wise relevance propagation against slow replicas on dense matrices.

The replica knows nothing of the code under test: it probes every convolution, BatchNorm, average
pooling and fully connected layer of the model in eval mode for its matrix and bias, and works
through the formulas one output unit after the other.
"""

from copy import deepcopy
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.attribution import explain
from models.attribution.gradients import input_x_gradient
from models.attribution.lrp import (
    AlphaBeta,
    Epsilon,
    Flat,
    linear_chain,
    lrp_alpha_beta,
    lrp_epsilon,
    propagate,
)
from models.errors import InputError
from models.networks import build

# --- networks and people -------------------------------------------------------------------------

# name: (input shape, layers). Each ends in two scores; together they hold every known layer.
NETWORKS = {
    "3D": (
        (1, 6, 6, 6),
        lambda: [
            nn.Conv3d(1, 4, 3),
            nn.BatchNorm3d(4),
            nn.ReLU(),
            nn.MaxPool3d(2),
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(32, 6),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.Linear(6, 2),
        ],
    ),
    "3D padded": (
        (2, 4, 5, 3),
        lambda: [
            nn.Conv3d(2, 3, 3, padding=1, bias=False),
            nn.BatchNorm3d(3, affine=False),
            nn.ReLU(),  # not ELU: its last bit breaks the ties of the background
            nn.Dropout3d(0.3),
            nn.MaxPool3d((2, 3, 1)),
            nn.Conv3d(3, 4, (2, 1, 3), padding=(1, 0, 1)),
            nn.ELU(),
            nn.Flatten(),
            nn.Linear(4 * 3 * 1 * 3, 2),
        ],
    ),
    "3D averaged": (
        (1, 7, 6, 6),
        lambda: [
            nn.Conv3d(1, 3, 3),
            nn.BatchNorm3d(3),
            nn.ELU(),
            nn.AvgPool3d(2),
            nn.Conv3d(3, 4, 2, padding=1),
            nn.ReLU(),
            nn.AvgPool3d(3, stride=2, padding=1, count_include_pad=False),
            nn.Flatten(),
            nn.Linear(32, 2),
        ],
    ),
    "2D strided": (
        (2, 9, 8),
        lambda: [
            nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
            nn.BatchNorm2d(4),
            nn.LeakyReLU(0.2),
            nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
            nn.Sequential(nn.Conv2d(4, 3, 2, dilation=(1, 2), padding=(0, 1)), nn.ReLU()),
            nn.Flatten(),
            nn.Identity(),
            nn.Linear(18, 2),
        ],
    ),
    "dense": ((7,), lambda: [nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 2, bias=False)]),
}
INPUTS = ("brain", "signed", "negative")


def network(name: str, seed: int) -> nn.Sequential:
    """Float64, eval mode, with BatchNorm statistics like those of a trained network."""
    torch.manual_seed(seed)
    model = nn.Sequential(*NETWORKS[name][1]()).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 3)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model


def people(name: str, seed: int, kind: str = "brain", n: int = 3) -> torch.Tensor:
    """``brain``: at least 0, zero background; ``signed``: the same with both signs."""
    torch.manual_seed(seed + 1)
    volumes = torch.randn(n, *NETWORKS[name][0], dtype=torch.float64)
    if kind != "signed":
        volumes = volumes.abs() if kind == "brain" else -volumes.abs()
    first = volumes.shape[2] if volumes.dim() > 2 else 3
    volumes[:, ..., : (first + 1) // 2] *= 0
    return volumes


# --- the replica ---------------------------------------------------------------------------------


def dense(function, shape):
    """Matrix (outputs, inputs) and bias of an affine ``function`` on ``shape``."""
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    with torch.no_grad():
        bias = function(zero).flatten()
    matrix = torch.autograd.functional.jacobian(lambda x: function(x).flatten(), zero)
    return matrix.reshape(len(bias), -1).numpy(), bias.numpy()


def field(module, shape):
    """(outputs, inputs) True where a unit of ``module`` looks at an input."""
    all_ones = deepcopy(module)
    for parameter in all_ones.parameters():
        nn.init.ones_(parameter)
    return dense(all_ones, shape)[0] > 0


def steps(model):
    """The model cut into affine parts (with their BatchNorm), poolings and all others."""
    layers = [m for m in model.modules() if not isinstance(m, nn.Sequential)]
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    parts = []
    for layer in layers:
        if isinstance(layer, norms):
            parts[-1][1].append(layer)
        elif isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d | nn.AvgPool3d):
            parts.append(("affine", [layer]))
        elif isinstance(layer, nn.MaxPool2d | nn.MaxPool3d):
            parts.append(("pool", [layer]))
        else:
            parts.append(("pass", [layer]))
    return [(kind, nn.Sequential(*group)) for kind, group in parts]


def pool_relevance(pool, a, relevance):
    """All relevance of a window to the first of its largest voxels, in the order of the memory."""
    dims = a.ndim - 1

    def each(value):
        return (value,) * dims if isinstance(value, int) else tuple(value)

    kernel, stride, padding = each(pool.kernel_size), each(pool.stride), each(pool.padding)
    below = np.zeros_like(a)
    for where in np.ndindex(relevance.shape):
        channel, corner = where[0], np.multiply(where[1:], stride) - padding
        best = None
        for offset in product(*map(range, kernel)):
            voxel = tuple(corner + offset)
            inside = all(0 <= v < n for v, n in zip(voxel, a.shape[1:], strict=True))
            if inside and (best is None or a[(channel, *voxel)] > a[(channel, *best)]):
                best = voxel
        below[(channel, *best)] += relevance[where]
    return below


def epsilon_rule(matrix, bias, a, relevance, looks_at, *, epsilon, with_bias=True):
    below = np.zeros_like(a)
    for j in range(len(relevance)):
        z = matrix[j] * a
        total = z.sum() + (bias[j] if with_bias else 0)
        total += epsilon if total >= 0 else -epsilon
        if total != 0:
            below += z / total * relevance[j]
    return below


def alpha_beta_rule(matrix, bias, a, relevance, looks_at, *, beta):
    below = np.zeros_like(a)
    for j in range(len(relevance)):
        z = matrix[j] * a
        positive, negative = np.where(z > 0, z, 0), np.where(z < 0, z, 0)
        if (z > 0).any() and (z < 0).any():
            shares = (1 + beta) * positive / positive.sum() - beta * negative / negative.sum()
        elif (z > 0).any():
            shares = positive / positive.sum()
        elif (z < 0).any():
            shares = negative / negative.sum()
        else:
            continue
        below += shares * relevance[j]
    return below


def flat_rule(matrix, bias, a, relevance, looks_at):
    below = np.zeros_like(a)
    for j in range(len(relevance)):
        below += looks_at[j] / looks_at[j].sum() * relevance[j]
    return below


def replica(model, volume, target, rule, first=None, start="probability"):
    """Heatmap of one person (C, ...)."""
    parts, activations = steps(model), [volume[None]]
    with torch.no_grad():
        for _, part in parts:
            activations.append(part(activations[-1]))
    scores = activations[-1][0].numpy()
    relevance = np.zeros_like(scores)
    relevance[target] = {
        "probability": np.exp(scores[target]) / np.exp(scores).sum(),
        "logit": scores[target],
        "one": 1.0,
    }[start]
    lowest = next(part for kind, part in parts if kind == "affine")
    for (kind, part), a in zip(reversed(parts), reversed(activations[:-1]), strict=True):
        a = a[0]
        if kind == "pool":
            relevance = pool_relevance(part[0], a.numpy(), relevance)
        elif kind == "affine":
            matrix, bias = dense(part, a.shape)
            chosen = first if first is not None and part is lowest else rule
            looks_at = field(part[0], a.shape) if chosen is flat_rule else None
            relevance = chosen(matrix, bias, a.numpy().ravel(), relevance.ravel(), looks_at)
        relevance = relevance.reshape(a.shape)
    return relevance


def assert_same(explanation, model, volumes, *rest, **options):
    for heatmap, volume in zip(explanation.heatmap, volumes, strict=True):
        expected = replica(model, volume, *rest, **options)
        scale = max(1e-12, np.abs(expected).max())
        np.testing.assert_allclose(heatmap.numpy(), expected, rtol=1e-8, atol=1e-8 * scale)


SEEDS = st.integers(0, 2**16)
NAMES = st.sampled_from(list(NETWORKS))
KINDS = st.sampled_from(INPUTS)
MANY = settings(max_examples=25, deadline=None)


@MANY
@given(
    SEEDS, NAMES, KINDS, st.sampled_from([1e-3, 1e-2, 0.25]), st.sampled_from(["absorb", "ignore"])
)
def test_epsilon_is_its_formula(seed, name, kind, epsilon, bias):
    model, volumes = network(name, seed), people(name, seed, kind)
    found = lrp_epsilon(model, volumes, 1, epsilon=epsilon, bias=bias)
    rule = partial(epsilon_rule, epsilon=epsilon, with_bias=bias == "absorb")
    assert_same(found, model, volumes, 1, rule)


@MANY
@given(SEEDS, NAMES, KINDS, st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0, 4.0]), st.integers(0, 1))
def test_alpha_beta_is_its_formula(seed, name, kind, beta, target):
    model, volumes = network(name, seed), people(name, seed, kind)
    found = lrp_alpha_beta(model, volumes, target, beta=beta)
    assert_same(found, model, volumes, target, partial(alpha_beta_rule, beta=beta))


@MANY
@given(SEEDS, NAMES, KINDS)
def test_flat_is_its_formula(seed, name, kind):
    model, volumes = network(name, seed), people(name, seed, kind)
    assert_same(propagate(model, volumes, 1, Flat()), model, volumes, 1, flat_rule)


@pytest.mark.parametrize("name", NETWORKS)
def test_flat_at_the_input_layer_only(name):
    model, volumes = network(name, 3), people(name, 3)
    found = lrp_alpha_beta(model, volumes, 1, beta=1.0, input_layer="flat")
    rule = partial(alpha_beta_rule, beta=1.0)
    assert_same(found, model, volumes, 1, rule, first=flat_rule)


@pytest.mark.parametrize("start", ["probability", "logit", "one"])
@pytest.mark.parametrize("target", [0, 1])
def test_start_options(start, target):
    model, volumes = network("3D", 5), people("3D", 5)
    rule = partial(alpha_beta_rule, beta=1.0)
    found = lrp_alpha_beta(model, volumes, target, beta=1.0, start=start)
    assert_same(found, model, volumes, target, rule, start=start)
    scores = model(volumes).detach()
    expected = {
        "probability": scores.softmax(1)[:, target],
        "logit": scores[:, target],
        "one": torch.ones(3, dtype=torch.float64),
    }[start]
    assert torch.allclose(found.ledger["start"], expected, rtol=1e-10)
    assert torch.allclose(found.score, scores[:, target], rtol=1e-10)


# --- identities and examples by hand -------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["3D", "dense"])
def test_without_epsilon_a_relu_network_gives_input_times_gradient(name, seed):
    """Shrikumar et al. 2016 for LRP-0 started at the logit, biases taking their share."""
    model, volumes = network(name, seed), people(name, seed, "signed")
    found = lrp_epsilon(model, volumes, 1, epsilon=0.0, start="logit").heatmap
    expected = input_x_gradient(model, volumes, 1).heatmap
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-8 * float(expected.abs().max()))


def linear(*rows, bias=None):
    layer = nn.Linear(len(rows[0]), len(rows), bias=bias is not None).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return nn.Sequential(layer).eval()


def vector(*values):
    return torch.tensor([values], dtype=torch.float64)


@pytest.mark.parametrize(
    ("rule", "expected", "ledger"),
    [
        # z = (2, 3, -1), bias 1, sum 5
        (Epsilon(0.0), [0.4, 0.6, -0.2], {"bias": 0.2, "epsilon": 0, "no_input": 0}),
        (Epsilon(5.0), [0.2, 0.3, -0.1], {"bias": 0.1, "epsilon": 0.5, "no_input": 0}),
        (Epsilon(0.0, "ignore"), [0.5, 0.75, -0.25], {"bias": 0}),
        (AlphaBeta(0.0), [0.4, 0.6, 0.0], {"no_input": 0}),
        (AlphaBeta(1.0), [0.8, 1.2, -1.0], {"no_input": 0}),
        (Flat(), [1 / 3, 1 / 3, 1 / 3], {}),
    ],
)
def test_one_unit_by_hand(rule, expected, ledger):
    model = linear([2.0, 1.0, -1.0], [9.0, 9.0, 9.0], bias=[1.0, 0.0])
    found = propagate(model, vector(1.0, 3.0, 1.0), 0, rule, start="one")
    assert found.heatmap[0].tolist() == pytest.approx(expected, abs=1e-12)
    for name, share in ledger.items():
        assert float(found.ledger[name]) == pytest.approx(share, abs=1e-12)


def test_epsilon_pushes_away_from_zero_on_both_sides():
    model = linear([1.0, -3.0], [0.0, 0.0])
    found = lrp_epsilon(model, vector(1.0, 1.0), 0, epsilon=2.0, start="one")
    assert found.heatmap[0].tolist() == pytest.approx([-0.25, 0.75])  # sum -2, divisor -4
    level = lrp_epsilon(linear([1.0, -1.0], [0.0, 0.0]), vector(1.0, 1.0), 0, start="one")
    assert level.heatmap[0].tolist() == pytest.approx([1000, -1000])  # sum 0, divisor +0.001


@pytest.mark.parametrize("beta", [0.0, 0.5, 4.0])
@pytest.mark.parametrize(
    ("weights", "inputs", "expected"),
    [
        ([1.0, 3.0], [1.0, 1.0], [0.25, 0.75]),
        ([-1.0, -3.0], [1.0, 1.0], [0.25, 0.75]),
        ([-1.0, 3.0], [-1.0, 1.0], [0.25, 0.75]),
        ([-1.0, -3.0], [-1.0, -1.0], [0.25, 0.75]),
        ([1.0, -3.0], [1.0, 0.0], [1.0, 0.0]),
        ([1.0, -3.0], [0.0, 1.0], [0.0, 1.0]),
        ([1.0, 3.0], [0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_inputs_of_one_sign_take_the_whole_relevance(beta, weights, inputs, expected):
    model = linear(weights, [0.0, 0.0], bias=[5.0, 0.0])
    found = lrp_alpha_beta(model, vector(*inputs), 0, beta=beta, start="one")
    assert found.heatmap[0].tolist() == pytest.approx(expected)
    assert float(found.ledger["no_input"]) == pytest.approx(1 - sum(expected))


def last_layer(*weights):
    layer = nn.Linear(len(weights), 2).double()
    with torch.no_grad():
        layer.weight[1] = torch.tensor(weights)
    return layer


def test_flat_counts_the_taps_inside_the_image_at_padded_borders():
    convolution = nn.Conv2d(1, 1, 3, padding=1).double()
    only_the_corner = last_layer(1.0, *[0.0] * 8)
    model = nn.Sequential(convolution, nn.Flatten(), only_the_corner).eval()
    volume = torch.rand(1, 1, 3, 3, dtype=torch.float64)
    found = propagate(model, volume, 1, AlphaBeta(0.0), first=Flat(), start="one").heatmap[0, 0]
    quarter = [[0.25, 0.25, 0], [0.25, 0.25, 0], [0, 0, 0]]
    np.testing.assert_allclose(found, quarter, atol=1e-12)


def test_flat_enters_units_that_see_padding_only():
    convolution = nn.Conv2d(1, 1, 1, padding=1, bias=True).double()
    nn.init.ones_(convolution.bias)
    model = nn.Sequential(convolution, nn.Flatten(), last_layer(*[1.0] * 25)).eval()
    found = propagate(model, torch.zeros(1, 1, 3, 3).double(), 1, Flat(), start="one")
    assert float(found.ledger["map"]) == pytest.approx(9 / 25)
    assert float(found.ledger["no_input"]) == pytest.approx(16 / 25)


@pytest.mark.parametrize("dims", [2, 3])
def test_ties_of_a_maximum_go_to_the_first(dims):
    pool = (nn.MaxPool2d if dims == 2 else nn.MaxPool3d)(2)
    volume = torch.ones(1, 1, *[4] * dims, dtype=torch.float64)
    volume[0, 0].flatten()[0] = 0.5  # the first window's winner is its second voxel
    n = 2**dims
    model = nn.Sequential(pool, nn.Flatten(), last_layer(*[1.0] * n)).eval()
    found = lrp_alpha_beta(model, volume, 1, start="one").heatmap[0, 0].numpy()
    expected = np.zeros([4] * dims)
    expected[(slice(None, None, 2),) * dims] = 1 / n
    expected.flat[:2] = 0, 1 / n
    np.testing.assert_allclose(found, expected, atol=1e-12)


# --- folding and the chain -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", NETWORKS)
def test_the_folded_chain_is_the_network(name, seed):
    model, volumes = network(name, seed), people(name, seed, "signed")
    with torch.no_grad():
        expected, found = model(volumes), volumes
        for layer in linear_chain(model):
            found = layer.forward(found)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


def nest(*layers):
    return nn.Sequential(nn.Sequential(nn.Conv3d(1, 2, 3), *layers), nn.Flatten()).double()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(7, 2)

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nest(nn.AdaptiveAvgPool3d(1)), r"layer '0\.1' \(AdaptiveAvgPool3d\)"),
        (nest(nn.ReLU(), nn.Sigmoid()), r"layer '0\.2' \(Sigmoid\)"),
        (nn.Sequential(nn.Flatten(), Residual()), r"layer '1' \(Residual\)"),
        (Residual(), r"layer 'Residual' \(Residual\)"),
        (nest(nn.ReLU(), nn.BatchNorm3d(2)), r"BatchNorm '0\.2' does not follow"),
        (nn.Sequential(nn.BatchNorm3d(1), nn.Flatten()), "BatchNorm '0' does not follow"),
        (nest(nn.AvgPool3d(2), nn.BatchNorm3d(2)), r"BatchNorm '0\.2' does not follow"),
        (nest(nn.BatchNorm3d(2, track_running_stats=False)), r"BatchNorm '0\.1' keeps no running"),
        (nn.Sequential(nn.Conv3d(1, 2, 3, padding="same")), "zero padding given in voxels"),
        (
            nn.Sequential(nn.Conv3d(1, 2, 3, padding=1, padding_mode="circular")),
            "zero padding given in voxels",
        ),
    ],
)
def test_layers_without_a_rule_are_named(model, message):
    with pytest.raises(InputError, match=message):
        lrp_epsilon(model.eval(), torch.rand(1, 1, 5, 5, 5), 0)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lrp_alpha_beta", {"beta": -0.5}, "beta must be at least 0, not -0.5"),
        ("lrp_alpha_beta", {"input_layer": "square"}, "input_layer is same or flat, not 'square'"),
        ("lrp_alpha_beta", {"start": "score"}, "start 'score' is unknown; choose probability"),
        ("lrp_epsilon", {"bias": "share"}, "bias is absorb or ignore, not 'share'"),
        ("lrp_epsilon", {"start": "score"}, "start 'score' is unknown"),
    ],
)
def test_unknown_options_are_input_errors(method, options, message):
    model, volumes = network("3D", 0).float(), people("3D", 0).float()
    with pytest.raises(InputError, match=message):
        explain(model, volumes, method=method, **options)


# --- the ledger ----------------------------------------------------------------------------------

RULES = {
    "epsilon": partial(lrp_epsilon, epsilon=1e-3),
    "small epsilon": partial(lrp_epsilon, epsilon=1e-4, bias="ignore"),
    "beta 0": partial(lrp_alpha_beta, beta=0.0),
    "beta 1": partial(lrp_alpha_beta, beta=1.0),
    "beta 4": partial(lrp_alpha_beta, beta=4.0, start="logit"),
    "flat below": partial(lrp_alpha_beta, beta=1.0, input_layer="flat"),
}
SHARES = {"map", "bias", "epsilon", "no_input"}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_ledger_adds_up(name, rule):
    absorbed = torch.zeros(())
    for seed in range(20):
        for kind in INPUTS:
            found = RULES[rule](network(name, seed), people(name, seed, kind), 1)
            ledger = dict(found.ledger)
            start = ledger.pop("start")
            assert set(ledger) <= SHARES
            total = torch.stack([*ledger.values()]).sum(0)
            assert torch.allclose(total, start, rtol=1e-6, atol=0)
            assert torch.allclose(ledger["map"], found.heatmap.flatten(1).sum(1))
            absorbed = absorbed + (start - ledger["map"]).abs().sum()
    if name == "3D":
        # Zero background (and biases, and epsilon) must really have been there to be entered.
        assert absorbed > 1e-3 or rule == "flat below"


def test_a_background_of_zeros_is_entered_as_no_input():
    model = network("3D", 0)
    with torch.no_grad():
        model[1].bias.fill_(3.0)  # every unit fires, also those that look at nothing
    found = lrp_alpha_beta(model, people("3D", 0), 1)
    assert (found.ledger["no_input"].abs() > 0.02 * found.ledger["start"]).all()
    everywhere = lrp_alpha_beta(model, people("3D", 0).abs() + 0.1, 1)
    assert torch.allclose(everywhere.ledger["no_input"], torch.zeros(3, dtype=torch.float64))
    assert torch.allclose(everywhere.ledger["map"], everywhere.ledger["start"])


@pytest.mark.parametrize("size", [1e-3, 1e-20, 1e-30, 1e-37, 1e-41, 0.0])
@pytest.mark.parametrize("rule", [AlphaBeta(0.0), AlphaBeta(1.0), Epsilon(0.0, "ignore")])
def test_filters_that_decayed_to_nothing_do_no_harm(size, rule):
    """Weight decay drives unused filters below what float32 can divide by."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()
    with torch.no_grad():
        model[0].weight[0] = size
        model[0].bias.fill_(1.0)
        model[3].weight.abs_()
    found = propagate(model, torch.rand(2, 1, 4, 4, 4), 1, rule)
    ledger = dict(found.ledger)
    start = ledger.pop("start")
    assert found.heatmap.isfinite().all()
    assert torch.allclose(torch.stack([*ledger.values()]).sum(0), start, rtol=1e-3)


@pytest.mark.parametrize("method", ["lrp_epsilon", "lrp_alpha_beta"])
@pytest.mark.parametrize(("name", "n"), [("demo", 46), ("boehle2019", 78)])
def test_a_whole_network_on_a_skull_stripped_image(name, n, method):
    torch.manual_seed(0)
    model = build(name, (n, n, n)).double().eval()
    for norm in (m for m in model if isinstance(m, nn.BatchNorm3d)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.02, 0.3)
    volumes = torch.zeros(1, 1, n, n, n, dtype=torch.float64)
    volumes[..., 10:-8, 8:-6, 12:-10] = torch.rand(n - 18, n - 14, n - 22).double() + 0.1
    found = explain(model, volumes, method=method)
    ledger = dict(found.ledger)
    start = ledger.pop("start")
    assert torch.allclose(torch.stack([*ledger.values()]).sum(0), start, rtol=1e-6)
    assert torch.allclose(start, model(volumes).softmax(1)[:, 1])
    assert not found.heatmap[volumes == 0].any()
    assert found.heatmap.any()
