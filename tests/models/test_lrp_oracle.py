"""Layer-wise relevance propagation against zennit 0.5.1 and captum 0.9, by other people.

Our conventions are switched to zennit's, and what it does differently is taken out of it:

- biases belong to the denominators (``bias="absorb"``), and inputs of one sign take alpha or -beta
  of the relevance (``one_signed="weigh"``);
- its stabiliser, which is added to every denominator, only fills in for zeros;
- a folded BatchNorm keeps dividing by sqrt(1 + eps), which its gradient then brings into the map.
"""

import sys
from copy import deepcopy
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from captum import attr as captum
from torch import nn

from models.attribution import layers
from models.attribution.lrp import lrp_alpha_beta, lrp_composite, lrp_epsilon, lrp_w2
from models.networks import build


def _stand_in_for_torchvision():
    """zennit imports two classes of torchvision, which no test uses and a wheel brings CUDA for."""
    if find_spec("torchvision"):
        return
    names = ("torchvision", "torchvision.models", "torchvision.models.resnet")
    made = {name: sys.modules.setdefault(name, ModuleType(name)) for name in names}
    for name in ("Bottleneck", "BasicBlock"):
        setattr(made["torchvision.models.resnet"], name, type(name, (nn.Module,), {}))
    for name in ("vgg11", "vgg11_bn"):
        setattr(made["torchvision.models"], name, None)


_stand_in_for_torchvision()
pytest.importorskip("zennit", reason="zennit is not here: pip install --no-deps zennit==0.5.1")

from zennit import rules as zennit  # noqa: E402
from zennit.attribution import Gradient  # noqa: E402
from zennit.canonizers import SequentialMergeBatchNorm  # noqa: E402
from zennit.composites import NameMapComposite  # noqa: E402

NORMS = (nn.BatchNorm1d, nn.BatchNorm3d)
ACTIVATIONS = (nn.ReLU, nn.ELU)

# --- networks and images -------------------------------------------------------------------------

# name: smallest grid, options
NETWORKS = {
    "demo": ((22, 23, 22), {}),
    "diktiometry": ((16, 17, 18), {"channels": 2, "widths": (4, 4, 6, 6, 8, 8, 8, 8)}),
    "nazari2021": ((7, 6, 5), {}),
    "boehle2019": ((78, 78, 79), {}),
    "eitel2019": ((71, 71, 71), {}),
}
LARGE = ("boehle2019", "eitel2019")


def network(name, dtype=torch.float64, seed=0):
    """As after training: BatchNorm has statistics, biases are not 0.

    Weights are torch's usual ones, whatever a network begins its training with.
    """
    grid, options = NETWORKS[name]
    model = build(name, grid, **options).eval()
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv3d | nn.Linear):
            module.reset_parameters()
    model = model.to(dtype)
    for module in model.modules():
        if isinstance(module, NORMS):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.02, 0.3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, 0, 0.1)
    return model


def heads(name, dtype=torch.float64, kind="brain"):
    torch.manual_seed(1)
    grid, options = NETWORKS[name]
    volumes = torch.randn(1, options.get("channels", 1), *grid, dtype=torch.float64)
    if kind == "brain":
        volumes = volumes.abs() + 0.1
        volumes[..., : grid[2] // 5] = 0
    return volumes.to(dtype)


# --- zennit --------------------------------------------------------------------------------------


class Merged(SequentialMergeBatchNorm):
    """BatchNorm that is nothing any more once it is folded."""

    def register(self, linears, batch_norm):
        super().register(linears, batch_norm)
        batch_norm.eps = 0.0


def filled(epsilon=0.0):
    """Denominators of 0 become 1, whose numerators are 0; epsilon is added as by zennit."""

    def stabilise(z):
        z = z + (z.sign() + (z == 0)) * epsilon
        return torch.where(z == 0, torch.ones_like(z), z)

    return stabilise


def plus():
    return zennit.ZPlus(stabilizer=filled())


def alpha_beta(beta):
    return zennit.AlphaBeta(alpha=1 + beta, beta=beta, stabilizer=filled())


def epsilon(value):
    return zennit.Epsilon(epsilon=filled(value))


def flat():
    return zennit.Flat(stabilizer=filled())


def hooks(model, linear, convolution, lower=None, count=0):
    """(names, hook) for every layer; the lowest ``count`` convolutions take ``lower``."""
    found, convolutions = [], 0
    for name, module in model.named_modules():
        hook = None
        if isinstance(module, nn.Linear):
            hook = linear()
        elif isinstance(module, nn.Conv3d):
            convolutions += 1
            hook = lower() if convolutions <= count else convolution()
        elif isinstance(module, nn.AvgPool3d):
            hook = zennit.Norm(stabilizer=filled(1e-9))
        elif isinstance(module, ACTIVATIONS):
            hook = zennit.Pass()
        if hook is not None:
            found.append(([name], hook))
    return found


def zennit_map(model, volumes, target, *chosen, merge=Merged, **options):
    """Relevance by zennit, the score's own value put on the class."""
    model = deepcopy(model)
    composite = NameMapComposite(hooks(model, *chosen, **options), canonizers=[merge()])
    start = torch.zeros(1, 2, dtype=volumes.dtype)
    start[0, target] = model(volumes)[0, target].detach()
    with Gradient(model, composite) as attributor:
        return attributor(volumes, start)[1].detach()


# --- the same by ours ----------------------------------------------------------------------------

ALPHA = {"bias": "absorb", "one_signed": "weigh"}
AVERAGES = ["sum", "epsilon", {"epsilon": 1e-9}]


def everywhere(*rule):
    return [AVERAGES, ["any", *rule]]


def on_top(linear, convolution, *lower):
    return [AVERAGES, *lower, ["linear", "epsilon", {"epsilon": linear}], ["conv", *convolution]]


PLUS, ALPHA2 = ("alpha_beta", {"beta": 0.0, **ALPHA}), ("alpha_beta", {"beta": 1.0, **ALPHA})

# name: (our rules, zennit's on linear layers and on convolutions, its flat convolutions)
RULES = {
    "epsilon": (
        everywhere("epsilon", {"epsilon": 1e-3}),
        (lambda: epsilon(1e-3), lambda: epsilon(1e-3)),
        0,
    ),
    "deep_taylor": (everywhere(*PLUS), (plus, plus), 0),
    "alpha2_beta1": (everywhere(*ALPHA2), (lambda: alpha_beta(1.0), lambda: alpha_beta(1.0)), 0),
    "alpha5_beta4": (
        everywhere("alpha_beta", {"beta": 4.0, **ALPHA}),
        (lambda: alpha_beta(4.0), lambda: alpha_beta(4.0)),
        0,
    ),
    "gamma": (
        everywhere("gamma", {"gamma": 0.25}),
        (lambda: zennit.Gamma(0.25, stabilizer=filled()),) * 2,
        0,
    ),
    "flat": (everywhere("flat"), (flat, flat), 0),
    "w2": (
        everywhere("w2"),
        (lambda: zennit.WSquare(stabilizer=filled(), zero_params="bias"),) * 2,
        0,
    ),
    "epsilon_plus": (on_top(1e-6, PLUS), (lambda: epsilon(1e-6), plus), 0),
    "epsilon_plus_flat": (
        on_top(1e-6, PLUS, ["conv 1", "flat"]),
        (lambda: epsilon(1e-6), plus),
        1,
    ),
    "epsilon_alpha2_beta1": (
        on_top(1e-6, ALPHA2),
        (lambda: epsilon(1e-6), lambda: alpha_beta(1.0)),
        0,
    ),
    "epsilon_alpha2_beta1_flat": (
        on_top(1e-6, ALPHA2, ["conv 1", "flat"]),
        (lambda: epsilon(1e-6), lambda: alpha_beta(1.0)),
        1,
    ),
    "nazari2021": (
        on_top(1e-4, ALPHA2, ["conv 1-2", "flat"]),
        (lambda: epsilon(1e-4), lambda: alpha_beta(1.0)),
        2,
    ),
}


def difference(name, rule, kind="brain", dtype=torch.float64, seed=0):
    """Largest difference from zennit's map, relative to its largest value."""
    model, volumes = network(name, dtype, seed), heads(name, dtype, kind)
    ours, theirs, flats = RULES[rule]
    expected = zennit_map(model, volumes, 1, *theirs, lower=flat, count=flats)
    found = lrp_composite(model, volumes, 1, rules=ours, start="logit").heatmap
    assert expected.abs().max() > 0
    return float((found - expected).abs().max() / expected.abs().max())


CASES = [
    (name, rule)
    for name in NETWORKS
    for rule in RULES
    if name not in LARGE or rule in ("epsilon", "epsilon_alpha2_beta1_flat")
]
REST = [(name, rule) for name in NETWORKS for rule in RULES if (name, rule) not in CASES]


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_maps_are_zennits(name, rule):
    assert difference(name, rule) < 1e-10
    if name not in LARGE:
        assert difference(name, rule, kind="noise", seed=1) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rule"), REST)
def test_maps_of_large_networks_are_zennits(name, rule):
    assert difference(name, rule) < 1e-10
    assert difference(name, rule, kind="noise", seed=1) < 1e-10


# --- float32 -------------------------------------------------------------------------------------


@pytest.fixture
def shared_winners(monkeypatch):
    """Max-poolings of ours that pick what the network itself picks.

    Rounding decides between values that are nearly the same, and it differs where BatchNorm is
    folded or positive and negative parts are added up apart: a few windows in a million then hand
    their relevance to another voxel.
    """
    picked = {}

    def record(pool, inputs, result):
        picked[pool] = nn.functional.max_pool3d(
            inputs[0], pool.kernel_size, pool.stride, return_indices=True
        )[1]

    def forward(self, a):
        winners = picked[self.module]
        return a.flatten(2).gather(2, winners.flatten(2)).view(winners.shape), winners

    def share(model, volumes):
        pools = [module for module in model.modules() if isinstance(module, nn.MaxPool3d)]
        handles = [pool.register_forward_hook(record) for pool in pools]
        model(volumes)
        for handle in handles:
            handle.remove()

    monkeypatch.setattr(layers.MaxPool, "forward", forward)
    return share


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "epsilon"])
@pytest.mark.parametrize("name", ["demo", "diktiometry", "nazari2021"])
def test_maps_in_float32_are_zennits_where_the_winners_are_the_same(name, rule, shared_winners):
    model, volumes = network(name, torch.float32), heads(name, torch.float32)
    shared_winners(model, volumes)
    ours, theirs, flats = RULES[rule]
    expected = zennit_map(model, volumes, 1, *theirs, lower=flat, count=flats)
    found = lrp_composite(model, volumes, 1, rules=ours, start="logit").heatmap
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize("name", ["demo", "diktiometry", "nazari2021"])
def test_epsilon_in_float32_is_as_near_to_float64_as_zennits(name, shared_winners):
    """Small denominators enlarge both codes' rounding, to 1e-5 of the largest value and more."""
    ours, theirs, _ = RULES["epsilon"]
    exact = network(name), heads(name)
    shared_winners(*exact)
    expected = lrp_composite(*exact, 1, rules=ours, start="logit").heatmap
    rounded = network(name).float(), heads(name, torch.float32)
    shared_winners(*rounded)
    found = lrp_composite(*rounded, 1, rules=ours, start="logit").heatmap
    peers = zennit_map(*rounded, 1, *theirs)
    error, peers_error = ((one - expected).norm() / expected.norm() for one in (found, peers))
    assert error < 2 * peers_error


# --- where the peers are wrong, or refuse --------------------------------------------------------


def test_zennit_conserves_only_if_biases_are_left_out():
    """Ours leaves them out of alpha-beta, as Böhle 2019 does, or says what they took."""
    model, volumes = network("diktiometry"), heads("diktiometry", kind="noise")
    start = float(model(volumes)[0, 1].detach())

    def loss(parameters):
        rule = lambda: zennit.ZPlus(stabilizer=filled(), zero_params=parameters)  # noqa: E731
        return abs(1 - float(zennit_map(model, volumes, 1, rule, rule).sum()) / start)

    assert loss(None) > 0.3
    assert loss("bias") < 1e-10
    found = lrp_alpha_beta(model, volumes, 1, start="logit")
    assert float(found.ledger["map"]) == pytest.approx(start)
    found = lrp_alpha_beta(model, volumes, 1, start="logit", bias="absorb").ledger
    assert abs(float(found["bias"]) / start) > 0.3
    assert float(found["map"] + found["bias"] + found["no_input"]) == pytest.approx(start)


def test_zennit_with_biases_left_out_is_our_default():
    """But where inputs of one sign only would lose their relevance: here there are none."""
    model, volumes = network("demo"), heads("demo", kind="noise")
    rule = lambda: zennit.ZPlus(stabilizer=filled(), zero_params="bias")  # noqa: E731
    expected = zennit_map(model, volumes, 1, rule, rule)
    found = lrp_alpha_beta(model, volumes, 1, start="logit").heatmap
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-8


def test_zennits_folded_batchnorm_goes_on_scaling():
    """By 1/sqrt(1 + 1e-5) each, in its forward pass and in its relevance."""
    model, volumes = network("diktiometry"), heads("diktiometry")
    merged = zennit_map(model, volumes, 1, flat, flat)
    scaled = zennit_map(model, volumes, 1, flat, flat, merge=SequentialMergeBatchNorm)
    norms = sum(isinstance(module, NORMS) for module in model.modules())
    assert torch.allclose(scaled * (1 + 1e-5) ** (norms / 2), merged, rtol=1e-12, atol=0)
    assert norms == 8


def test_zennits_w_square_spreads_to_biases_what_ours_does_not():
    model, volumes = network("nazari2021"), heads("nazari2021")
    rule = lambda: zennit.WSquare(stabilizer=filled())  # noqa: E731
    start = float(model(volumes)[0, 1].detach())
    assert abs(float(zennit_map(model, volumes, 1, rule, rule).sum()) / start - 1) > 1e-3
    found = lrp_w2(model, volumes, 1, start="logit")
    assert float(found.heatmap.sum()) == pytest.approx(start)


@pytest.mark.parametrize("layer", ["Conv3d", "Flatten"])
def test_captum_refuses_what_networks_of_volumes_are_made_of(layer):
    first = [nn.Conv3d(1, 1, 1)] * (layer == "Conv3d")
    model = nn.Sequential(*first, nn.Flatten(), nn.Linear(8, 2)).eval()
    with pytest.raises(TypeError, match=f"{layer}.* has no rule"):
        captum.LRP(model).attribute(torch.rand(1, 1, 2, 2, 2), target=1)


def test_captums_epsilon_rule_on_vectors_is_ours():
    """It adds its 1e-9 to the denominator and starts with the score."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 2))
    model, vectors = model.double().eval(), torch.randn(3, 9, dtype=torch.float64)
    expected = captum.LRP(deepcopy(model)).attribute(vectors.clone(), target=1)
    found = lrp_epsilon(model, vectors, 1, epsilon=1e-9, start="logit").heatmap
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-8)
