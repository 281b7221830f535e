"""Layer-wise relevance propagation against slow replicas on dense matrices.

The replica knows nothing of the code under test: it probes every layer of the model in eval mode
for its matrix and bias, and works through the formulas of the papers row by row.
"""

from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from models.attribution import attribute, propagation
from models.attribution.gradients import input_x_gradient
from models.attribution.lrp import (
    PRESETS,
    deep_taylor,
    lrp_0,
    lrp_alpha_beta,
    lrp_composite,
    lrp_epsilon,
    lrp_flat,
    lrp_gamma,
    lrp_w2,
)
from models.attribution.rules import AlphaBeta, Epsilon, Flat
from models.errors import InputError
from models.networks import build
from models.networks.patches import MeanOverPatches, PatchesAsImages, SplitPatches

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
AVERAGES = (nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
POOLS = (nn.MaxPool2d, nn.MaxPool3d)
ADD, CAT = "add", "cat"

# --- networks ------------------------------------------------------------------------------------


def chain(*layers):
    return lambda: nn.Sequential(*layers_of(layers))


def layers_of(layers):
    return [deepcopy(layer) for layer in layers]


class Residual(nn.Module):
    """A branch that is added in place, functions instead of modules, x + x."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv3d(1, 3, 3, padding=1), nn.BatchNorm3d(3)
        self.branch, self.branch_norm = nn.Conv3d(3, 3, 3, padding=1), nn.BatchNorm3d(3)
        self.head = nn.Linear(24, 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        y = self.branch_norm(self.branch(x))
        y += x
        y = F.relu(y, inplace=True)
        y = F.max_pool3d(y + y, 2)
        return self.head(y.view(y.size(0), -1))

    def plan(self):
        return [
            (self.first, [-1]),
            (self.norm, [0]),
            (nn.ReLU(), [1]),
            (self.branch, [2]),
            (self.branch_norm, [3]),
            (ADD, [4, 2]),
            (nn.ReLU(), [5]),
            (ADD, [6, 6]),
            (nn.MaxPool3d(2), [7]),
            (nn.Flatten(), [8]),
            (self.head, [9]),
        ]


class Branches(nn.Module):
    """Two strands and the image itself side by side, a mean over space."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 3, 1)
        self.norm, self.mixed = nn.BatchNorm2d(3), nn.Conv2d(7, 4, 2)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(4, 2)

    def forward(self, x):
        left = F.elu(self.left(x))
        right = self.norm(F.leaky_relu(self.right(x), 0.2))
        y = torch.cat([left, x, right], dim=1)
        y = self.pool(self.mixed(y).relu())
        return self.head(y.mean((2, 3)))

    def plan(self):
        return [
            (self.left, [-1]),
            (nn.ELU(), [0]),
            (self.right, [-1]),
            (nn.LeakyReLU(0.2), [2]),
            (self.norm, [3]),
            (CAT, [1, -1, 4]),
            (self.mixed, [5]),
            (nn.ReLU(), [6]),
            (self.pool, [7]),
            (nn.AdaptiveAvgPool2d(1), [8]),
            (nn.Flatten(), [9]),
            (self.head, [10]),
        ]


# name: (input shape, maker). Together they hold every layer that has a rule.
NETWORKS = {
    "3D": (
        (1, 6, 6, 6),
        chain(
            nn.Conv3d(1, 4, 3),
            nn.BatchNorm3d(4),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(2),
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(32, 6),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.Linear(6, 2),
        ),
    ),
    "3D padded": (
        (2, 4, 5, 3),
        chain(
            nn.Conv3d(2, 3, 3, padding=1, bias=False),
            nn.BatchNorm3d(3, affine=False),
            nn.ReLU(),  # not ELU: its last bit breaks the ties of the background
            nn.Dropout3d(0.3),
            nn.MaxPool3d((2, 3, 1)),
            nn.Conv3d(3, 4, (2, 1, 3), padding=(1, 0, 1)),
            nn.ELU(),
            nn.Flatten(),
            nn.Linear(4 * 3 * 1 * 3, 2),
        ),
    ),
    "3D averaged": (
        (1, 7, 6, 6),
        chain(
            nn.Conv3d(1, 3, 3),
            nn.BatchNorm3d(3),
            nn.ELU(),
            nn.AvgPool3d(2),
            nn.Conv3d(3, 4, 2, padding=1),
            nn.ReLU(),
            nn.AvgPool3d(3, stride=2, padding=1, count_include_pad=False),
            nn.Flatten(),
            nn.Linear(32, 2),
        ),
    ),
    "3D adaptive": (
        (1, 5, 4, 4),
        chain(
            nn.Conv3d(1, 3, 2),
            nn.ReLU(),
            nn.BatchNorm3d(3),  # follows no weights: a factor and a shift of its own
            nn.AdaptiveAvgPool3d((2, 2, 1)),
            nn.Flatten(),
            nn.Linear(12, 1),
            nn.Sigmoid(),
        ),
    ),
    "3D transposed": (
        (1, 3, 4, 3),
        chain(
            nn.Conv3d(1, 2, 2),
            nn.ReLU(),
            nn.ConvTranspose3d(
                2, 3, (3, 2, 3), stride=2, padding=(1, 0, 1), output_padding=(1, 1, 0)
            ),
            nn.BatchNorm3d(3),
            nn.ELU(),
            nn.MaxPool3d(2),
            nn.Flatten(),
            nn.Linear(18, 2),
        ),
    ),
    "3D tied": (
        (1, 5, 5, 4),
        chain(
            nn.MaxPool3d(2, stride=1),
            nn.Conv3d(1, 3, 2, stride=(1, 2, 1)),
            nn.BatchNorm3d(3),
            nn.ReLU(),
            nn.MaxPool3d(2, stride=1),
            nn.MaxPool3d((2, 1, 1)),
            nn.Flatten(),
            nn.Linear(3, 2),
            nn.Softmax(1),
        ),
    ),
    "2D strided": (
        (2, 9, 8),
        chain(
            nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
            nn.BatchNorm2d(4),
            nn.LeakyReLU(0.2),
            nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
            nn.Sequential(nn.Conv2d(4, 3, 2, dilation=(1, 2), padding=(0, 1)), nn.ReLU()),
            nn.Flatten(),
            nn.Identity(),
            nn.Linear(18, 2),
        ),
    ),
    "2D transposed": (
        (2, 3, 3),
        chain(
            nn.ConvTranspose2d(2, 4, 3, stride=2, output_padding=1, groups=2),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 2, 2, dilation=2, padding=1),
            nn.GELU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 2),
        ),
    ),
    "2D same": (
        (2, 5, 4),
        chain(
            nn.Conv2d(2, 3, (3, 2), padding="same"),  # even kernels are padded on one side more
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Conv2d(3, 2, 3, padding="same"),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(40, 2),
        ),
    ),
    "2D circular": (
        (1, 5, 4),
        chain(
            nn.Conv2d(1, 4, 3, padding=(1, 1), padding_mode="circular"),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 2, 2, padding=1, padding_mode="circular", groups=2),
            nn.Tanh(),
            nn.AvgPool2d(2, stride=1),
            nn.Flatten(),
            nn.Linear(8, 2),
        ),
    ),
    "residual": ((1, 4, 4, 5), Residual),
    "branches": ((2, 5, 6), Branches),
    "dense": ((7,), chain(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 2, bias=False))),
    "one output": ((6,), chain(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1))),
}
INPUTS = ("brain", "signed", "negative")
# A background of zeros makes ties of values that are not 0 themselves: rounding would decide them.
UNTIED = ("branches",)


def network(name, seed):
    """Float64, eval mode, with BatchNorm statistics like those of a trained network."""
    torch.manual_seed(seed)
    model = NETWORKS[name][1]()
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    model = model.double().eval()
    for module in model.modules():
        if isinstance(module, NORMS):
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 3)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model


def people(name, seed, kind="brain", n=2):
    """``brain``: at least 0, zero background; ``signed``: the same with both signs."""
    torch.manual_seed(seed + 1)
    volumes = torch.randn(n, *NETWORKS[name][0], dtype=torch.float64)
    if kind != "signed":
        volumes = volumes.abs() if kind == "brain" else -volumes.abs()
    if name not in UNTIED:
        volumes[..., : (volumes.shape[-1] + 1) // 2] *= 0
    return volumes


# --- the replica ---------------------------------------------------------------------------------


@dataclass
class Part:
    """A layer with its BatchNorm: what it is, the modules, and the parts that feed it."""

    kind: str  # conv, linear, sum, add, cat, pool or pass
    modules: list
    sources: list

    def __call__(self, *inputs):
        if self.kind == "add":
            return inputs[0] + inputs[1]
        return torch.cat(inputs, 1) if self.kind == "cat" else nn.Sequential(*self.modules)(*inputs)


def kind_of(module, batchnorm):
    if module in (ADD, CAT):
        return module
    if isinstance(module, NORMS):
        return "sum" if batchnorm == "fold" else "pass"
    kinds = {"conv": CONVOLUTIONS, "linear": nn.Linear, "sum": AVERAGES, "pool": POOLS}
    return next((kind for kind, types in kinds.items() if isinstance(module, types)), "pass")


def plan_of(model):
    if hasattr(model, "plan"):
        return model.plan()
    leaves = [m for m in model.modules() if not isinstance(m, nn.Sequential)]
    if isinstance(leaves[-1], nn.Sigmoid | nn.Softmax):
        leaves.pop()
    return [(leaf, [position - 1]) for position, leaf in enumerate(leaves)]


def parts_of(model, batchnorm="fold"):
    """The model cut into parts; BatchNorm belongs to the weights before it if there are any."""
    parts, where = [], {-1: -1}
    for position, (module, sources) in enumerate(plan_of(model)):
        sources = [where[source] for source in sources]
        below = parts[sources[0]] if sources[0] >= 0 else None
        if batchnorm == "fold" and isinstance(module, NORMS) and below.kind in ("conv", "linear"):
            below.modules.append(module)
            where[position] = sources[0]
            continue
        parts.append(Part(kind_of(module, batchnorm), [module], sources))
        where[position] = len(parts) - 1
    return parts


def dense(function, shape):
    """Matrix (outputs, inputs) and bias of an affine ``function`` on ``shape``."""
    with torch.no_grad():
        bias = function(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
    zeros = torch.zeros(len(bias), *shape, dtype=torch.float64, requires_grad=True)
    (matrix,) = torch.autograd.grad(function(zeros).flatten(1).diagonal().sum(), zeros)
    return matrix.flatten(1).numpy(), bias.numpy()


def matrices(part, shape):
    """Matrix, bias, and the matrix had all weights been one."""
    if part.kind == "add":
        both = np.hstack([np.eye(np.prod(shape, dtype=int))] * 2)
        return both, np.zeros(len(both)), both
    ones = deepcopy(part.modules[0])
    for parameter in ones.parameters():
        nn.init.ones_(parameter)
    return (*dense(part, shape), dense(ones, shape)[0])


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


# Each rule: shares (outputs, inputs) of a layer's contributions z = w a, its bias, its weights and
# its taps (the weights had they been one).


def over(numerator, denominator):
    """Rows divided by their denominator; 0 where that is 0."""
    return np.divide(
        numerator, denominator[:, None], where=denominator[:, None] != 0, out=0 * numerator
    )


def epsilon_rule(z, b, weights, taps, *, epsilon=0.0, bias="absorb"):
    total = z.sum(1) + b * (bias == "absorb")
    return over(z, total + np.where(total >= 0, epsilon, -epsilon))


def alpha_beta_rule(z, b, weights, taps, *, beta=0.0, bias="ignore", one_signed="pass"):
    b = b * (bias == "absorb")
    up, down = z.clip(min=0), z.clip(max=0)
    all_up, all_down = up.sum(1) + b.clip(min=0), down.sum(1) + b.clip(max=0)
    alpha, minus_beta = np.full_like(b, 1 + beta), np.full_like(b, -beta)
    if one_signed == "pass":
        alpha[all_down == 0] = 1
        minus_beta[all_up == 0] = 1
    return alpha[:, None] * over(up, all_up) + minus_beta[:, None] * over(down, all_down)


def gamma_rule(z, b, weights, taps, *, gamma=0.25, bias="absorb"):
    """Positive shares weighted up or, where the sum is negative, negative shares."""
    b = b * (bias == "absorb")
    below = z.sum(1) + b < 0

    def weighted(part):
        side = np.where(below.reshape(-1, *[1] * (part.ndim - 1)), part.clip(max=0), part.clip(0))
        return part + gamma * side

    return over(weighted(z), weighted(z).sum(1) + weighted(b))


def montavon_gamma(z, b, weights, taps, *, gamma):
    """As printed, section 10.2.1: a_j (w_jk + gamma w+_jk), for a >= 0; the bias is w_0k."""
    a = np.divide(z, weights, where=weights != 0, out=0 * z)
    assert (a >= 0).all()
    shares = a * (weights + gamma * weights.clip(min=0))
    return over(shares, shares.sum(1) + b + gamma * b.clip(min=0))


def flat_rule(z, b, weights, taps):
    return over(taps, taps.sum(1))


def w2_rule(z, b, weights, taps):
    return over(weights**2, (weights**2).sum(1))


STARTS = {
    "probability": lambda scores, t: (
        scores.softmax(0)[t] if len(scores) > 1 else torch.sigmoid(scores[0] if t else -scores[0])
    ),
    "logit": lambda scores, t: scores[t] if len(scores) > 1 else (scores[0] if t else -scores[0]),
    "one": lambda scores, t: torch.ones(()),
}


def run(parts, volume):
    results = {-1: volume[None]}
    with torch.no_grad():
        for position, part in enumerate(parts):
            results[position] = part(*[results[source].clone() for source in part.sources])
    return {position: result[0] for position, result in results.items()}


def replica(
    model, volume, target, rule, *, start="probability", batchnorm="fold", module=None, unit=0
):
    """Heatmap of one person (C, ...).

    ``rule`` is one of the above or, given the kind of a layer, its number among its kind, and
    whether it is the lowest, says which.
    """
    parts = parts_of(model, batchnorm)
    results = run(parts, volume)
    top = len(parts) - 1
    relevance = {top: np.zeros(results[top].shape)}
    if module is None:
        relevance[top][target if len(results[top]) > 1 else 0] = STARTS[start](results[top], target)
        if target == 0 and len(results[top]) == 1:  # explained by the network of the negative logit
            parts = parts_of(of_negative_logit(model), batchnorm)
            results = run(parts, volume)
    else:
        (top,) = [position for position, part in enumerate(parts) if part.modules[-1] is module]
        relevance = {top: np.zeros(results[top].shape)}
        relevance[top][unit] = results[top][unit]
    for position in range(top, -1, -1):
        part, inputs = parts[position], [results[source] for source in parts[position].sources]
        if position not in relevance:
            continue
        below = shared(parts, position, inputs, relevance.pop(position), rule)
        for source, share in zip(part.sources, below, strict=True):
            relevance[source] = relevance.get(source, 0) + share
    return relevance[-1]


def of_negative_logit(model):
    model = deepcopy(model)
    last = [one for one in model.modules() if isinstance(one, nn.Linear | nn.Conv3d)][-1]
    with torch.no_grad():
        for weight in last.parameters():
            weight.neg_()
    return model


def shared(parts, position, inputs, relevance, rule):
    """Relevance of each input of a part."""
    part, shape = parts[position], inputs[0].shape
    if part.kind == "pass":
        return [relevance.reshape(shape)]
    if part.kind == "cat":
        return np.split(relevance, np.cumsum([len(one) for one in inputs])[:-1])
    if part.kind == "pool":
        return [pool_relevance(part.modules[0], inputs[0].numpy(), relevance)]
    weights, b, taps = matrices(part, shape)
    a = np.concatenate([one.numpy().ravel() for one in inputs])
    chosen = rule(*place(parts, position)) if getattr(rule, "by_layer", False) else rule
    below = relevance.ravel() @ chosen(weights * a, b, weights, taps)
    return [one.reshape(shape) for one in np.split(below, len(inputs))]


def place(parts, position):
    """Kind of a layer, its number among its kind, and whether it is the lowest with weights."""
    kinds = ["sum" if part.kind == "add" else part.kind for part in parts[: position + 1]]
    weighted = [kind for kind in kinds if kind in ("conv", "linear")]
    return kinds[-1], kinds.count(kinds[-1]), len(weighted) == 1 and kinds[-1] != "sum"


def by_layer(choose):
    choose.by_layer = True
    return choose


def flat_first(rule):
    return by_layer(lambda kind, number, first: flat_rule if first else rule)


def assert_same(explanation, model, volumes, target, rule, **options):
    starts = explanation.ledger["start"].abs()
    for heatmap, volume, start in zip(explanation.heatmap, volumes, starts, strict=True):
        expected = replica(model, volume, target, rule, **options)
        scale = max(1e-8 * float(start), np.abs(expected).max())
        np.testing.assert_allclose(heatmap.numpy(), expected, rtol=1e-8, atol=1e-8 * scale)


# --- every rule is its formula -------------------------------------------------------------------

BIAS = st.sampled_from(["absorb", "ignore"])
BETA = st.sampled_from([0.0, 0.1, 0.25, 1.0, 4.0])

# method: (its parameters, the formula)
METHODS = {
    lrp_0: ({"bias": BIAS}, epsilon_rule),
    lrp_epsilon: ({"bias": BIAS, "epsilon": st.sampled_from([1e-3, 0.25])}, epsilon_rule),
    lrp_gamma: ({"bias": BIAS, "gamma": st.sampled_from([0.0, 0.25, 3.0])}, gamma_rule),
    lrp_alpha_beta: (
        {"beta": BETA, "bias": BIAS, "one_signed": st.sampled_from(["pass", "weigh"])},
        alpha_beta_rule,
    ),
    deep_taylor: ({}, partial(alpha_beta_rule, beta=0.0, one_signed="weigh")),
    lrp_flat: ({}, flat_rule),
    lrp_w2: ({}, w2_rule),
}
SEEDS, KINDS = st.integers(0, 2**16), st.sampled_from(INPUTS)
SOME = settings(
    max_examples=4, deadline=None, derandomize=True, database=None, phases=[Phase.generate]
)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
@pytest.mark.parametrize("name", NETWORKS)
@SOME
@given(st.data())
def test_a_rule_is_its_formula(name, method, data):
    seed, kind, target = data.draw(SEEDS), data.draw(KINDS), data.draw(st.integers(0, 1))
    parameters, formula = METHODS[method]
    parameters = {key: data.draw(values) for key, values in parameters.items()}
    options = {
        "start": data.draw(st.sampled_from(list(STARTS))),
        "batchnorm": data.draw(st.sampled_from(["fold", "fold", "pass"])),
    }
    model, volumes = network(name, seed), people(name, seed, kind)
    found = method(model, volumes, target, **parameters, **options)
    assert_same(found, model, volumes, target, partial(formula, **parameters), **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_flat_at_the_input_layer_only(name):
    model, volumes = network(name, 3), people(name, 3)
    found = lrp_alpha_beta(model, volumes, 1, beta=1.0, input_layer="flat")
    assert_same(found, model, volumes, 1, flat_first(partial(alpha_beta_rule, beta=1.0)))


@pytest.mark.parametrize("gamma", [0.0, 0.25, 2.0])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["3D", "dense"])
def test_gamma_is_as_printed_where_the_inputs_are_not_negative(name, seed, gamma):
    model, volumes = network(name, seed), people(name, seed)
    with torch.no_grad():
        best = int(model(volumes[:1]).argmax())
        if model[-1].bias is not None:
            model[-1].bias[best] += 3
    found = lrp_gamma(model, volumes[:1], best, gamma=gamma, start="logit")
    assert float(found.score) > 0
    rule = partial(montavon_gamma, gamma=gamma)
    assert_same(found, model, volumes[:1], best, rule, start="logit")


def eps(value):
    return partial(epsilon_rule, epsilon=value)


def sums(rule):
    """Averages and additions share by what each input adds, whatever the preset says."""
    return by_layer(lambda kind, *where: eps(1e-9) if kind == "sum" else rule(kind, *where))


def preset(*, fully_connected, convolution, flat=0):
    def choose(kind, number, first):
        if kind == "linear":
            return fully_connected
        return flat_rule if number <= flat else convolution

    return sums(choose)


PLUS, ALPHA2 = partial(alpha_beta_rule, beta=0.0), partial(alpha_beta_rule, beta=1.0)
EXPECTED = {
    "nazari2021": preset(fully_connected=eps(1e-4), convolution=ALPHA2, flat=2),
    "epsilon_plus": preset(fully_connected=eps(1e-6), convolution=PLUS),
    "epsilon_plus_flat": preset(fully_connected=eps(1e-6), convolution=PLUS, flat=1),
    "epsilon_alpha2_beta1": preset(fully_connected=eps(1e-6), convolution=ALPHA2),
    "epsilon_alpha2_beta1_flat": preset(fully_connected=eps(1e-6), convolution=ALPHA2, flat=1),
    "epsilon_gamma": preset(fully_connected=eps(1e-6), convolution=gamma_rule),
}


def test_every_preset_is_tested():
    assert set(EXPECTED) == set(PRESETS)


@pytest.mark.parametrize(
    "name", ["3D averaged", "3D padded", "2D circular", "residual", "branches"]
)
@pytest.mark.parametrize("preset", EXPECTED)
def test_presets_are_rules_by_layer(name, preset):
    for kind in ("brain", "signed"):
        model, volumes = network(name, 7), people(name, 7, kind)
        found = lrp_composite(model, volumes, 0, preset=preset)
        assert_same(found, model, volumes, 0, EXPECTED[preset])


@pytest.mark.parametrize("name", ["3D averaged", "3D transposed", "2D same", "residual"])
def test_rules_given_by_layer(name):
    rules = [
        ["linear 1-", "epsilon", {"epsilon": 0.1}],
        ["sum", "gamma", {"gamma": 1.0}],
        ["conv 2", "w2"],
        ["first", "flat"],
        ["any", "alpha_beta", {"beta": 0.5, "bias": "absorb", "one_signed": "weigh"}],
    ]

    @by_layer
    def expected(kind, number, first):
        if kind == "linear":
            return eps(0.1)
        if kind == "sum":
            return partial(gamma_rule, gamma=1.0)
        if (kind, number) == ("conv", 2):
            return w2_rule
        if first:
            return flat_rule
        return partial(alpha_beta_rule, beta=0.5, bias="absorb", one_signed="weigh")

    model, volumes = network(name, 11), people(name, 11, "signed")
    assert_same(lrp_composite(model, volumes, 1, rules=rules), model, volumes, 1, expected)


@pytest.mark.parametrize("batchnorm", ["fold", "pass"])
@pytest.mark.parametrize("lifting", [nn.BatchNorm3d(3), nn.Sigmoid(), nn.Softplus(), nn.GELU()])
def test_windows_in_which_relu_leaves_nothing_keep_their_first_voxel(lifting, batchnorm):
    """The layer behind the pooling makes something of nothing, and relevance goes there."""
    torch.manual_seed(0)
    layers = [nn.Conv3d(1, 3, 2), nn.ReLU(), nn.MaxPool3d(2), deepcopy(lifting)]
    layers += [nn.Conv3d(3, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2)]
    model, volumes = nn.Sequential(*layers).double().eval(), torch.randn(2, 1, 5, 5, 5).double()
    with torch.no_grad():
        model[0].bias -= 0.4
        model[4].weight.abs_()
        if isinstance(lifting, NORMS):
            model[3].running_mean.normal_()
    assert (model[:3](volumes) == 0).any()
    found = lrp_alpha_beta(model, volumes, 1, beta=1.0, batchnorm=batchnorm)
    assert_same(found, model, volumes, 1, ALPHA2, batchnorm=batchnorm)


@pytest.mark.parametrize("unit", [0, 1])
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("3D", "2"),  # the activation between BatchNorm and pooling
        ("3D", "1"),  # the end of the folded layer
        ("3D", "3"),
        ("3D", "6"),
        ("3D averaged", "3"),
        ("2D strided", "4.0"),
        ("3D tied", "3"),
        ("residual", "branch_norm"),
        ("branches", "mixed"),
        ("branches", "right"),
    ],
)
def test_a_hidden_filter_starts_with_its_activations(name, layer, unit):
    model, volumes = network(name, 5), people(name, 5)
    module = model.get_submodule(layer)
    seen = []
    hook = module.register_forward_hook(lambda module, inputs, result: seen.append(result.clone()))
    with torch.no_grad():
        model(volumes)
    hook.remove()
    found = lrp_alpha_beta(model, volumes, 1, beta=1.0, layer=layer, unit=unit)
    start = seen[0][:, unit].flatten(1).sum(1) if seen[0].dim() > 2 else seen[0][:, unit]
    assert torch.allclose(found.ledger["start"], start, rtol=1e-10)
    if module in [part.modules[-1] for part in parts_of(model)]:
        assert_same(found, model, volumes, 1, ALPHA2, module=module, unit=unit)


def test_a_hidden_filter_that_does_not_exist_is_an_input_error():
    model, volumes = network("3D", 0), people("3D", 0)
    with pytest.raises(InputError, match=r"no layer 'conv1'; it has: 0, 1"):
        lrp_flat(model, volumes, 1, layer="conv1")
    with pytest.raises(InputError, match="layer '0' has the units 0 to 3"):
        lrp_flat(model, volumes, 1, layer="0", unit=4)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("name", ["3D", "3D tied", "3D adaptive", "one output"])
def test_start_options(name, start, target):
    model, volumes = network(name, 5), people(name, 5)
    found = lrp_alpha_beta(model, volumes, target, beta=1.0, start=start)
    bare = deepcopy(model)
    if isinstance(bare[-1], nn.Sigmoid | nn.Softmax):
        bare = bare[:-1]  # explained before it
    scores = bare(volumes).detach()
    one = scores.shape[1] == 1
    score = scores[:, target] if not one else scores[:, 0] * (1 if target else -1)
    probability = score.sigmoid() if one else scores.softmax(1)[:, target]
    expected = {"probability": probability, "logit": score, "one": torch.ones_like(score)}[start]
    assert torch.allclose(found.ledger["start"], expected, rtol=1e-10)
    assert torch.allclose(found.score, score, rtol=1e-10)


def propagate(model, volumes, target, rule, first=None, start="probability"):
    composite = [("first", first)] if first else []
    return propagation.propagate(model, volumes, target, [*composite, ("any", rule)], start=start)


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


# --- options that do not exist --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lrp_alpha_beta", {"beta": -0.5}, "beta must be at least 0, not -0.5"),
        ("lrp_alpha_beta", {"input_layer": "square"}, "input_layer is same or flat, not 'square'"),
        (
            "lrp_alpha_beta",
            {"start": "score"},
            "start 'score' is unknown; choose one of: probability",
        ),
        ("lrp_epsilon", {"bias": "share"}, "bias is absorb or ignore, not 'share'"),
        ("lrp_epsilon", {"start": "score"}, "start 'score' is unknown"),
    ],
)
def test_unknown_options_are_input_errors(method, options, message):
    model, volumes = network("3D", 0).float(), people("3D", 0).float()
    with pytest.raises(InputError, match=message):
        attribute(model, volumes, method=method, **options)


# --- the ledger ----------------------------------------------------------------------------------

RULES = {
    "lrp_0": lrp_0,
    "lrp_0 ignore": partial(lrp_0, bias="ignore"),
    "epsilon": partial(lrp_epsilon, epsilon=1e-3),
    "epsilon ignore": partial(lrp_epsilon, epsilon=1e-4, bias="ignore"),
    "gamma": lrp_gamma,
    "gamma ignore": partial(lrp_gamma, gamma=2.0, bias="ignore"),
    "beta 0": partial(lrp_alpha_beta, beta=0.0),
    "beta 1": partial(lrp_alpha_beta, beta=1.0),
    "beta 4": partial(lrp_alpha_beta, beta=4.0, start="logit"),
    "beta 1 absorb": partial(lrp_alpha_beta, beta=1.0, bias="absorb"),
    "beta 1 weigh": partial(lrp_alpha_beta, beta=1.0, one_signed="weigh"),
    "flat below": partial(lrp_alpha_beta, beta=1.0, input_layer="flat"),
    "deep_taylor": deep_taylor,
    "flat": lrp_flat,
    "w2": lrp_w2,
    **{preset: partial(lrp_composite, preset=preset) for preset in PRESETS},
}
SHARES = {"map", "bias", "epsilon", "no_input"}


def assert_ledger_closes(found):
    """map + bias + epsilon + no_input = start, and the map is what it says."""
    ledger = dict(found.ledger)
    start = ledger.pop("start")
    assert set(ledger) <= SHARES
    assert found.heatmap.isfinite().all()
    shares = torch.stack([*ledger.values()])
    assert shares.shape == (len(ledger), len(found.heatmap))
    assert shares.isfinite().all()
    assert ((shares.sum(0) - start).abs() <= 1e-6 * start.abs()).all()
    assert torch.allclose(ledger["map"], found.heatmap.flatten(1).sum(1), rtol=1e-9, atol=1e-12)
    return ledger, start


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_ledger_adds_up(name, rule):
    absorbed = 0.0
    for seed, kind in enumerate(INPUTS):
        found = RULES[rule](network(name, seed), people(name, seed, kind), seed % 2)
        ledger, start = assert_ledger_closes(found)
        absorbed += float((start - ledger["map"]).abs().sum())
    if name == "3D" and rule not in ("flat", "w2", "flat below"):
        # Zero background (and biases, and epsilon) must really have been there to be entered.
        assert absorbed > 1e-3


# name: (grid, options) as small as the architecture allows, and whether it takes seconds
SEED_NETWORKS = {
    "demo": ((22, 23, 22), {}),
    "diktiometry": (
        (16, 17, 16),
        {"channels": 6, "outputs": 1, "widths": (4, 4, 6, 6, 8, 8, 8, 8)},
    ),
    "nazari2021": ((6, 5, 6), {}),
    "boehle2019": ((78, 78, 79), {}),
    "eitel2019": ((71, 71, 71), {"outputs": 1}),
}
LARGE = ("boehle2019", "eitel2019")


def seed_network(name, seed, state="statistics"):
    """``untrained``, with ``statistics`` and biases like a trained one's, or really ``trained``."""
    torch.manual_seed(seed)
    grid, options = SEED_NETWORKS[name]
    model = build(name, grid, **options).double()
    for module in model.modules():
        if state == "statistics" and isinstance(module, NORMS):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.02, 0.3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if state == "statistics" and getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, 0, 0.1)
    if state == "trained":
        train(model, heads(name, seed, n=4))
    return model.eval()


def train(model, volumes):
    """A few steps on half of the people being patients."""
    truth = torch.arange(len(volumes)) % 2
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(3):
        scores = model.train()(volumes)
        patient = scores[:, -1] - (scores[:, 0] if scores.shape[1] == 2 else 0)
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(patient, truth.double()).backward()
        optimiser.step()
    model.zero_grad(set_to_none=True)


def heads(name, seed, kind="brain", n=1):
    """``brain``: positive within a background of zeros; ``noise``: everywhere, of both signs."""
    torch.manual_seed(seed + 1)
    grid, options = SEED_NETWORKS[name]
    volumes = torch.randn(n, options.get("channels", 1), *grid, dtype=torch.float64)
    if kind == "noise":
        return volumes
    low, high = ([n * part // 8 for n in grid] for part in (1, 7))
    inside = torch.zeros_like(volumes)
    inside[(..., *map(slice, low, high))] = 1
    return (volumes.abs() + 0.1) * inside


def close_on_seeds(name, rule, seeds):
    for seed in seeds:
        state = ("untrained", "statistics", "trained")[seed % 3]
        kind = ("brain", "noise")[seed % 2]
        found = RULES[rule](seed_network(name, seed, state), heads(name, seed, kind), seed % 2)
        assert_ledger_closes(found)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["demo", "diktiometry", "nazari2021"])
def test_the_ledger_adds_up_on_published_networks(name, rule):
    close_on_seeds(name, rule, range(6))


@pytest.mark.parametrize(("seed", "rule"), enumerate(["epsilon", "beta 1", "nazari2021"], start=2))
@pytest.mark.parametrize("name", LARGE)
def test_the_ledger_adds_up_on_large_networks(name, seed, rule):
    model = seed_network(name, seed)
    assert_ledger_closes(RULES[rule](model, heads(name, seed), 1))


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", SEED_NETWORKS)
def test_the_ledger_adds_up_on_twenty_seeds(name, rule):
    close_on_seeds(name, rule, range(20))


@pytest.mark.parametrize("state", ["untrained", "statistics", "trained"])
@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("name", ["demo", "diktiometry", "nazari2021"])
def test_alpha_beta_alone_conserves_where_every_unit_sees_something(name, beta, state):
    """Without biases in the denominators, on images without receptive fields of zeros."""
    for seed in range(4):
        model, volumes = seed_network(name, seed, state), heads(name, seed, "noise")
        found = lrp_alpha_beta(model, volumes, 1, beta=beta)
        start = found.ledger["start"]
        assert ((found.heatmap.flatten(1).sum(1) - start).abs() < 1e-3 * start).all()


def test_a_background_of_zeros_is_entered_as_no_input():
    model = network("3D", 0)
    with torch.no_grad():
        model[1].bias.fill_(3.0)  # every unit fires, also those that look at nothing
    found = lrp_alpha_beta(model, people("3D", 0), 1)
    assert (found.ledger["no_input"].abs() > 0.02 * found.ledger["start"]).all()
    everywhere = lrp_alpha_beta(model, people("3D", 0).abs() + 0.1, 1)
    assert torch.allclose(everywhere.ledger["no_input"], torch.zeros(2, dtype=torch.float64))
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
def test_a_background_of_zeros_gets_nothing_by_rules_that_look_at_it(method):
    model, volumes = seed_network("demo", 0), heads("demo", 0)
    found = attribute(model, volumes, method=method)
    assert torch.allclose(found.ledger["start"], model(volumes).softmax(1)[:, 1])
    assert not found.heatmap[volumes == 0].any()
    assert found.heatmap.any()


# --- networks that cut the image into patches ----------------------------------------------------


def patches_as_images():
    torch.manual_seed(0)
    split = PatchesAsImages((4, 5, 4), (2, 3, 2))
    layers = [nn.Conv3d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 2), MeanOverPatches(8)]
    return nn.Sequential(split, *layers).double().eval()


def patches_as_channels():
    """The patches are longer than the image: zeros fill them up."""
    torch.manual_seed(0)
    split = SplitPatches((4, 5, 4), (2, 3, 3))
    layers = [nn.Conv3d(8, 16, 2, groups=8), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)]
    return nn.Sequential(split, *layers).double().eval()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("make", [patches_as_images, patches_as_channels])
def test_the_ledger_adds_up_over_patches(make, rule):
    model = make()
    for seed in range(3):
        torch.manual_seed(seed)
        volumes = torch.randn(3, 1, 4, 5, 4, dtype=torch.float64)
        assert_ledger_closes(RULES[rule](model, volumes, 1))


@pytest.mark.parametrize("make", [patches_as_images, patches_as_channels])
def test_relevance_of_patches_returns_to_where_they_were_cut(make):
    model, volumes = make(), torch.randn(3, 1, 4, 5, 4, dtype=torch.float64)
    found = lrp_0(model, volumes, 1, start="logit")
    expected = input_x_gradient(model, volumes, 1).heatmap
    assert torch.allclose(found.heatmap, expected, rtol=1e-6, atol=1e-10)
    alone = lrp_0(model, volumes[1:2], 1, start="logit")
    for name, share in alone.ledger.items():
        assert torch.allclose(found.ledger[name][1:2], share)


def test_what_spreads_beyond_the_image_is_entered():
    found = lrp_flat(patches_as_channels(), torch.randn(2, 1, 4, 5, 4).double(), 1, start="one")
    assert (found.ledger["no_input"] > 0.1).all()
