"""Gradient methods against finite differences, slow replicas and captum."""

import pytest
import torch
import torch.nn.functional as F
from captum.attr import GuidedBackprop, InputXGradient, IntegratedGradients, Saliency
from scipy.special import roots_legendre
from torch import nn

from models.attribution.derivatives import lean
from models.attribution.gradients import (
    guided_backprop,
    input_gradient,
    input_x_gradient,
    integrated_gradients,
    saliency,
    scores_of,
    smoothgrad,
)
from models.attribution.graph import read
from models.errors import InputError

GRADIENTS = {
    "saliency": saliency,
    "input_x_gradient": input_x_gradient,
    "guided_backprop": guided_backprop,
    "integrated_gradients": integrated_gradients,
    "smoothgrad": smoothgrad,
}


class Residual(nn.Module):
    """Functions instead of layers, branches, and activations that write into their input."""

    def __init__(self, conv):
        super().__init__()
        self.one, self.two = conv(2, 4, 3, padding=1), conv(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        first = F.relu(self.one(x))
        second = self.relu(self.two(first)) + first
        both = torch.cat([second, first], 1)
        return self.out(both.flatten(2).mean(2))


def pooled(conv, norm, pool):
    return nn.Sequential(
        conv(2, 4, 3), norm(4), nn.ReLU(), nn.Dropout(0.5), pool(2), conv(4, 3, 2), nn.ELU(),
        nn.Flatten(), nn.LazyLinear(6), nn.ReLU(), nn.Linear(6, 2),
    )  # fmt: skip


def strided():
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, stride=2, padding=1, groups=2), nn.LeakyReLU(0.1),
        nn.MaxPool3d(3, stride=2, padding=1, ceil_mode=True), nn.BatchNorm3d(4),
        nn.Conv3d(4, 12, 2, padding=1, dilation=2), nn.GELU(), nn.MaxPool3d(2, stride=1),
        nn.ConvTranspose3d(12, 3, 2, stride=2), nn.ReLU(inplace=True), nn.AvgPool3d(2),
        nn.Flatten(), nn.LazyLinear(2),
    )  # fmt: skip


def smooth():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding="same", padding_mode="circular"), nn.Tanh(),
        nn.Conv2d(3, 3, 3, stride=2), nn.Softplus(), nn.Flatten(), nn.LazyLinear(2),
    )  # fmt: skip


NETWORKS = {
    "pooled 3D": (lambda: pooled(nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d), 3),
    "pooled 2D": (lambda: pooled(nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d), 2),
    "pooled 1D": (lambda: pooled(nn.Conv1d, nn.BatchNorm1d, nn.MaxPool1d), 1),
    "residual 3D": (lambda: Residual(nn.Conv3d), 3),
    "residual 2D": (lambda: Residual(nn.Conv2d), 2),
    "strided": (strided, 3),
    "smooth": (smooth, 2),
}


def images(axes, n=2, seed=1, size=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n, 2, *[size, size - 1, size][:axes]), generator=generator).double()


def made(name, seed=0, axes=None):
    """A network in float64 and two images; BatchNorm has seen something."""
    build, axes = NETWORKS[name] if isinstance(name, str) else (name, axes)
    torch.manual_seed(seed)
    model, volumes = build().double(), images(axes)
    model.eval()(volumes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)  # half of the scales turn the order of values round
            nn.init.normal_(module.bias)
    return model, volumes


def finite_differences(model, volumes, target, step=1e-6):
    """Central differences of the score, one voxel moved in each image of a batch."""
    rows = []
    for volume in volumes:
        moves = step * torch.eye(volume.numel(), dtype=volume.dtype).view(-1, *volume.shape)
        with torch.no_grad():
            change = model(volume + moves)[:, target] - model(volume - moves)[:, target]
        rows.append((change / (2 * step)).view(volume.shape))
    return torch.stack(rows)


def plain_gradient(model, volumes, target=1):
    inputs = volumes.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(model(inputs.clone())[:, target].sum(), inputs)
    return gradient


def close(found, expected, relative=1e-10):
    assert expected.abs().max() > 0
    assert (found - expected).norm() <= relative * expected.norm()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("target", [0, 1])
def test_gradients_are_finite_differences(name, target):
    model, volumes = made(name)
    expected = finite_differences(model, volumes, target)
    found = saliency(model, volumes, target, form="signed")
    assert torch.allclose(found.heatmap, expected, atol=1e-8)
    assert torch.allclose(found.score, model(volumes)[:, target], atol=1e-12)
    assert found.ledger == {}
    times_input = input_x_gradient(model, volumes, target).heatmap
    assert torch.allclose(times_input, expected * volumes, atol=1e-8)
    assert torch.allclose(saliency(model, volumes, target).heatmap, expected.abs(), atol=1e-8)
    squared = saliency(model, volumes, target, form="square").heatmap
    assert torch.allclose(squared, expected**2, atol=1e-8)


@pytest.mark.parametrize("name", NETWORKS)
def test_captum_agrees_on_gradients(name):
    model, volumes = made(name)
    inputs = volumes.clone().requires_grad_(True)
    close(saliency(model, volumes, 1).heatmap, Saliency(model).attribute(inputs, 1))
    expected = InputXGradient(model).attribute(inputs, 1)
    close(input_x_gradient(model, volumes, 1).heatmap, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_captum_agrees_on_integrated_gradients(name):
    """captum 0.9 rounds the weights of its steps to float32; 8 equal steps lose nothing by that."""
    model, volumes = made(name)
    peer = IntegratedGradients(model)
    for baseline, number in (("zero", 0), (0.3, 0.3)):
        empty = torch.full_like(volumes, number)
        found = integrated_gradients(model, volumes, 1, steps=8, baseline=baseline)
        close(
            found.heatmap,
            peer.attribute(volumes, empty, 1, n_steps=8, method="riemann_middle"),
        )
        gauss = {"rule": "gauss-legendre", "baseline": baseline, "steps": 7}
        found = integrated_gradients(model, volumes, 1, **gauss)
        theirs = peer.attribute(volumes, empty, 1, n_steps=7, method="gausslegendre")
        close(found.heatmap, theirs, 1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_integrated_gradients_are_a_weighted_mean_along_the_path(name):
    model, volumes = made(name)
    places, weights = roots_legendre(5)
    mean = sum(
        weight / 2 * plain_gradient(model, 0.3 + (place + 1) / 2 * (volumes - 0.3))
        for place, weight in zip(places, weights, strict=True)
    )
    found = integrated_gradients(model, volumes, 1, steps=5, rule="gauss-legendre", baseline=0.3)
    close(found.heatmap, mean * (volumes - 0.3))


@pytest.mark.parametrize("pool", ["3D", "2D", "1D"])
def test_captum_agrees_on_guided_backprop_of_relu(pool):
    """captum guides nn.ReLU only: here, all activations are."""
    model, volumes = made(f"pooled {pool}")
    model[6] = nn.ReLU()
    found = guided_backprop(model, volumes, 1)
    close(found.heatmap, GuidedBackprop(model).attribute(volumes.clone().requires_grad_(True), 1))
    assert not torch.allclose(found.heatmap, plain_gradient(model, volumes))
    size = guided_backprop(model, volumes, 1, form="abs").heatmap
    assert torch.equal(size, found.heatmap.abs())


def guided_by_hand(layers, volumes, target, rule):
    """Layer by layer: what arrives at an activation, less its negative values, times its slope."""
    passed = [volumes]
    for layer in layers:
        passed.append(layer(passed[-1]))
    arriving = torch.zeros_like(passed[-1])
    arriving[:, target] = 1
    for layer, before in zip(reversed(layers), reversed(passed[:-1]), strict=True):
        if isinstance(layer, nn.ReLU | nn.ELU | nn.LeakyReLU | nn.GELU):
            slope = torch.func.vjp(layer, before)[1](torch.ones_like(before))[0]
            arriving = arriving.clamp(min=0) * (slope if rule == "guided" else 1)
        else:
            arriving = torch.func.vjp(layer, before)[1](arriving)[0]
    return arriving


@pytest.mark.parametrize("rule", ["guided", "deconvolution"])
@pytest.mark.parametrize("name", ["pooled 3D", "pooled 2D", "pooled 1D", "strided"])
def test_guided_backprop_is_what_it_says_for_every_activation(name, rule):
    """captum 0.9 passes ELU, LeakyReLU and GELU as if they were no activations."""
    model, volumes = made(name)
    layers = [nn.ReLU() if isinstance(layer, nn.ReLU) else layer for layer in model]
    expected = guided_by_hand(layers, volumes, 1, rule)
    close(guided_backprop(model, volumes, 1, rule=rule).heatmap, expected)


def test_guided_backprop_of_functions_branches_and_in_place():
    """captum sees layers only, so that the functional ReLU goes unguided there."""
    model, volumes = made("residual 3D")
    found = guided_backprop(model, volumes, 1).heatmap
    with torch.no_grad():
        first = model.one(volumes)
        second = model.two(first.relu())
    voxels = first[0, 0].numel()
    out = model.out.weight[1]
    top = (out[:4].clamp(min=0) / voxels).view(4, 1, 1, 1) * (second > 0)
    below = torch.func.vjp(model.two, first)[1](top)[0]
    below = (below + (out[:4] + out[4:]).view(4, 1, 1, 1) / voxels).clamp(min=0) * (first > 0)
    close(found, torch.func.vjp(model.one, volumes)[1](below)[0])
    peer = GuidedBackprop(model).attribute(volumes.clone().requires_grad_(True), 1)
    assert not torch.allclose(found, peer)


# --- the lean form -------------------------------------------------------------------------------

STACKS = {
    "overlapping windows": [nn.Conv2d(1, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 1, 1)],
    "dilated windows": [nn.Conv2d(1, 3, 2), nn.ReLU(), nn.MaxPool2d(2, 2, 0, 2)],
    "two poolings": [nn.Conv2d(1, 3, 2), nn.ELU(), nn.MaxPool2d(2), nn.MaxPool2d(2)],
    "falling leaky": [nn.Conv2d(1, 3, 2), nn.LeakyReLU(-0.5), nn.MaxPool2d(2)],
    "falling elu": [nn.Conv2d(1, 3, 2), nn.ELU(-1.0), nn.MaxPool2d(2)],
    "gelu": [nn.Conv2d(1, 3, 2), nn.GELU(), nn.MaxPool2d(2)],
    "stride leaves a rest": [nn.Conv2d(1, 3, 3, 4), nn.ReLU()],
    "stride, rest, padding": [nn.Conv2d(1, 3, (2, 3), (3, 2), (1, 0), (2, 1)), nn.ReLU()],
    "groups": [nn.Conv2d(1, 4, 2), nn.Conv2d(4, 8, 2, groups=2), nn.Conv2d(8, 8, 2, groups=8)],
    "wide": [nn.Conv2d(1, 20, 2), nn.Conv2d(20, 3, 2, 2, 1)],
    "padded otherwise": [nn.Conv2d(1, 3, 3, padding=1, padding_mode="reflect"), nn.ReLU()],
    "no bias": [nn.Conv2d(1, 3, 2, bias=False), nn.BatchNorm2d(3, affine=False), nn.ReLU()],
    "norm after pooling": [nn.Conv2d(1, 3, 2), nn.MaxPool2d(2), nn.BatchNorm2d(3), nn.ReLU()],
    "norm of the image": [nn.BatchNorm2d(1), nn.Conv2d(1, 3, 2), nn.ReLU(), nn.MaxPool2d(2)],
    "nothing first": [nn.Identity(), nn.Dropout(), nn.ReLU(), nn.MaxPool2d(2)],
    "nothing last": [nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Dropout()],
}


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("background", [False, True])
def test_the_lean_form_is_the_same_function_with_the_same_gradient(name, background):
    torch.manual_seed(0)
    model = nn.Sequential(*STACKS[name], nn.Flatten(), nn.LazyLinear(2)).double()
    volumes = torch.randn(2, 1, 13, 12, dtype=torch.float64)
    if background:  # flat: every window is a tie
        volumes[:, :, :7] = 0
    model(volumes)
    model.eval()
    assert torch.allclose(lean(read(model)).run(volumes), model(volumes), atol=1e-12)
    close(saliency(model, volumes, 1, form="signed").heatmap, plain_gradient(model, volumes))


class Branches(nn.Module):
    """What must not be joined: each result is taken twice, and the last step is a dropout."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.pool, self.drop = nn.MaxPool2d(2), nn.Dropout()

    def forward(self, x):
        raw = self.conv(x)
        active = torch.relu(self.norm(raw))
        small = self.pool(active)
        total = small.flatten(2).mean(2) + active.flatten(2).mean(2) + raw.flatten(2).mean(2)
        return self.drop(total)


def test_results_that_are_taken_twice_stay():
    model, volumes = made(Branches, axes=2)
    assert torch.allclose(lean(read(model)).run(volumes), model(volumes), atol=1e-12)
    close(saliency(model, volumes, 1, form="signed").heatmap, plain_gradient(model, volumes))


def test_hooks_of_others_still_run():
    model, volumes = made("pooled 3D")
    model[0] = nn.utils.weight_norm(model[0])  # recomputes the weight in a hook
    with torch.no_grad():
        model[0].weight_g *= 2
    close(saliency(model, volumes, 1, form="signed").heatmap, plain_gradient(model, volumes))


def test_batchnorm_in_training_mode_is_not_folded():
    """Called directly, not through attribute(): the network is taken in the mode it is in."""
    model, volumes = made("pooled 2D")
    model[1].train()
    expected = model(volumes)
    assert torch.allclose(scores_of(model)(volumes), expected, atol=1e-12)


def saved_bytes(function):
    total = 0

    def pack(tensor):
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return total


def test_little_is_kept_for_the_way_back():
    model, volumes = made("pooled 3D")
    volumes = images(3, size=24)
    model[8] = nn.Linear(10 * 9 * 10 * 3, 6).double()
    network = scores_of(model)
    inputs = volumes.clone().requires_grad_(True)
    assert saved_bytes(lambda: network(inputs)) < 0.3 * saved_bytes(lambda: model(inputs))


# --- networks of all kinds -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", GRADIENTS)
def test_any_dtype(method, dtype):
    model, volumes = made("pooled 3D")
    expected = GRADIENTS[method](model, volumes, 1).heatmap
    found = GRADIENTS[method](model.to(dtype), volumes.to(dtype), 1)
    assert found.heatmap.shape == volumes.shape
    error = (found.heatmap.double() - expected).norm() / expected.norm()
    assert error < (1e-5 if dtype is torch.float32 else 0.2)


@pytest.mark.parametrize("method", GRADIENTS)
def test_one_output_and_what_comes_after_the_score(method):
    explain = GRADIENTS[method]
    model, volumes = made("pooled 3D")
    model[-1] = nn.Linear(6, 1).double()
    one, other = explain(model, volumes, 1), explain(model, volumes, 0)
    assert torch.equal(one.score, -other.score)
    assert torch.allclose(one.score, model(volumes)[:, 0], atol=1e-12)
    with_sigmoid = explain(nn.Sequential(model, nn.Sigmoid()), volumes, 1)
    assert torch.equal(with_sigmoid.heatmap, one.heatmap)
    assert torch.equal(with_sigmoid.score, one.score)
    with pytest.raises(InputError, match="no class 2"):
        explain(model, volumes, 2)
    if method in ("input_x_gradient", "integrated_gradients"):
        assert torch.allclose(one.heatmap, -other.heatmap)


class Unreadable(nn.Module):
    """Its course depends on the data."""

    def __init__(self, inner, last=None):
        super().__init__()
        self.inner, self.last = inner, last

    def forward(self, x):
        scores = self.inner(x) if x.abs().sum() > -1 else x
        return scores if self.last is None else self.last(scores)


@pytest.mark.parametrize("method", GRADIENTS)
def test_networks_that_cannot_be_read(method):
    model, volumes = made("residual 3D")
    if method == "guided_backprop":
        with pytest.raises(InputError, match="cannot be read as a list of layers"):
            guided_backprop(Unreadable(model), volumes, 1)
        return
    expected = GRADIENTS[method](model, volumes, 1)
    found = GRADIENTS[method](Unreadable(model), volumes, 1)
    close(found.heatmap, expected.heatmap)
    assert torch.allclose(found.score, expected.score)
    for last in (nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid(), lambda s: s.softmax(1)[:, :2]):
        with pytest.raises(InputError, match="ends in softmax or sigmoid"):
            GRADIENTS[method](Unreadable(model, last), volumes, 1)
    with pytest.raises(InputError, match="cannot be read"):
        GRADIENTS[method](Unreadable(model, lambda s: (s, s)), volumes, 1)


def state(model):
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        [(k, id(p), p.requires_grad, p._version, p.grad) for k, p in model.named_parameters()],
        [(k, id(b), b._version) for k, b in model.named_buffers()],
        [(k, type(m), m.training, getattr(m, "inplace", 0)) for k, m in model.named_modules()],
        [len(getattr(m, h)) for m in model.modules() for h in hooks],
    )


class Breaks(nn.Module):
    """Fine on the way there, not on the way back."""

    def forward(self, x):
        if x.requires_grad:
            x.register_hook(self.stop)
        return x * 1

    def stop(self, gradient):
        raise RuntimeError("broken on the way back")


@pytest.mark.parametrize("name", ["pooled 3D", "residual 2D"])
@pytest.mark.parametrize("method", GRADIENTS)
def test_nothing_is_left_in_the_model(method, name):
    model, volumes = made(name)
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(False)
    before, given = state(model), volumes.clone()
    GRADIENTS[method](model, volumes, 1)
    assert state(model) == before
    assert torch.equal(volumes, given)
    assert not volumes.requires_grad

    if method != "guided_backprop":
        broken = Unreadable(model, Breaks())
        before = state(broken)
        with pytest.raises(RuntimeError, match="on the way back"):
            GRADIENTS[method](broken, volumes, 1)
        assert state(broken) == before


@pytest.mark.parametrize("method", GRADIENTS)
def test_frozen_networks(method):
    model, volumes = made("residual 3D")
    expected = GRADIENTS[method](model, volumes, 1).heatmap
    model.requires_grad_(False)
    assert torch.equal(GRADIENTS[method](model, volumes, 1).heatmap, expected)


# --- sums over many images -----------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["midpoint", "gauss-legendre"])
@pytest.mark.parametrize("baseline", ["zero", "mean", -0.4])
def test_integrated_gradients_become_complete(rule, baseline):
    model, volumes = made("smooth")
    missing = []
    for steps in (2, 8, 32):
        found = integrated_gradients(model, volumes, 0, steps=steps, rule=rule, baseline=baseline)
        ledger = found.ledger
        assert torch.allclose(ledger["map"] + ledger["quadrature"], ledger["start"], atol=1e-12)
        assert torch.allclose(ledger["map"], found.heatmap.flatten(1).sum(1))
        missing.append(ledger["quadrature"].abs().max())
    order = 2 if rule == "midpoint" else 6
    assert missing[1] < missing[0] / 2**order
    assert missing[2] < 1e-3 * found.ledger["start"].abs().max()
    empty = {"zero": volumes * 0, "mean": volumes.mean((2, 3), True) + 0 * volumes}.get(
        baseline, volumes * 0 + -0.4
    )
    assert torch.allclose(found.ledger["start"], (model(volumes) - model(empty))[:, 0])


def test_more_steps_help_where_there_are_kinks():
    model, volumes = made("pooled 3D")
    missing = [
        integrated_gradients(model, volumes, 1, steps=steps).ledger["quadrature"].abs().max()
        for steps in (4, 64, 1024)
    ]
    assert missing[0] > 5 * missing[1] > 25 * missing[2]


@pytest.mark.parametrize("method", ["integrated_gradients", "smoothgrad"])
def test_neither_batch_nor_company_matters(method):
    model, volumes = made("residual 3D")
    volumes = images(3, n=3)
    expected = GRADIENTS[method](model, volumes, 1)
    for batch in (1, 2, 7, 100):
        found = GRADIENTS[method](model, volumes, 1, batch=batch)
        close(found.heatmap, expected.heatmap, 1e-12)
        assert torch.allclose(found.score, expected.score)
    for i in range(3):
        alone = GRADIENTS[method](model, volumes[i : i + 1], 1)
        close(alone.heatmap[0], expected.heatmap[i], 1e-12)


class Small(nn.Module):
    """Has memory for a few images only."""

    def __init__(self, inner, most, error):
        super().__init__()
        self.inner, self.most, self.error, self.seen = inner, most, error, []

    def forward(self, x):
        self.seen.append(len(x))
        if x.requires_grad and len(x) > self.most:
            raise self.error
        return self.inner(x)


@pytest.mark.parametrize("method", ["integrated_gradients", "smoothgrad"])
def test_a_batch_that_does_not_fit_is_halved(method):
    model, volumes = made("residual 3D")
    expected = GRADIENTS[method](model, volumes, 1)
    full = torch.OutOfMemoryError("CUDA out of memory")
    small = Unreadable(Small(model, 3, full))
    close(GRADIENTS[method](small, volumes, 1, batch=16).heatmap, expected.heatmap, 1e-12)
    assert small.inner.seen[:4] == [16, 8, 4, 2]
    assert {16, 8, 4}.isdisjoint(small.inner.seen[3:])
    with pytest.raises(torch.OutOfMemoryError):
        GRADIENTS[method](Unreadable(Small(model, 0, full)), volumes, 1, batch=16)
    other = Unreadable(Small(model, 3, RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        GRADIENTS[method](other, volumes, 1, batch=16)


def test_smoothgrad_is_the_mean_over_noisy_copies():
    model, volumes = made("pooled 3D")
    generator = torch.Generator().manual_seed(3)
    gradients = []
    spread = 0.2 * (volumes.amax((2, 3, 4), True) - volumes.amin((2, 3, 4), True))
    for _ in range(6):
        noise = torch.randn(volumes.shape[1:], generator=generator).double()
        gradients.append(plain_gradient(model, volumes + spread * noise))
    gradients = torch.stack(gradients)
    for form, expected in (
        ("signed", gradients.mean(0)),
        ("abs", gradients.mean(0).abs()),
        ("square", gradients.square().mean(0)),
    ):
        found = smoothgrad(model, volumes, 1, samples=6, noise=0.2, seed=3, form=form)
        close(found.heatmap, expected)
        assert torch.allclose(found.score, model(volumes)[:, 1])
    again = smoothgrad(model, volumes, 1, samples=6, noise=0.2, seed=3, form="square")
    assert torch.equal(again.heatmap, found.heatmap)
    other = smoothgrad(model, volumes, 1, samples=6, noise=0.2, seed=4, form="square")
    assert not torch.allclose(other.heatmap, found.heatmap)


def test_smoothgrad_without_noise_is_saliency_and_leaves_the_random_state_alone():
    model, volumes = made("pooled 2D")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    found = smoothgrad(model, volumes, 1, noise=0.0, samples=3)
    assert torch.equal(torch.rand(1), expected)
    close(found.heatmap, saliency(model, volumes, 1).heatmap)


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        (saliency, {"form": "cube"}, "no form 'cube'; choose one of: abs, square, signed"),
        (guided_backprop, {"form": "cube"}, "no form 'cube'"),
        (guided_backprop, {"rule": "lrp"}, "no rule 'lrp'; choose one of: guided, deconvolution"),
        (integrated_gradients, {"steps": 0}, "steps must be 1 or more, not 0"),
        (integrated_gradients, {"batch": 0}, "batch must be 1 or more, not 0"),
        (integrated_gradients, {"rule": "simpson"}, "choose one of: midpoint, gauss-legendre"),
        (integrated_gradients, {"baseline": "noise"}, "choose one of: zero, mean"),
        (smoothgrad, {"samples": 0}, "samples must be 1 or more"),
        (smoothgrad, {"noise": -0.1}, "not -0.1"),
        (smoothgrad, {"form": "cube"}, "no form 'cube'"),
    ],
)
def test_impossible_values_are_input_errors(method, parameters, message):
    model, volumes = made("smooth")
    with pytest.raises(InputError, match=message):
        method(model, volumes, 1, **parameters)


def test_input_gradient_works_on_any_function():
    volumes = torch.rand(2, 1, 3, 3)
    gradient, score = input_gradient(lambda x: x.flatten(1)[:, :2] ** 2, volumes, 1)
    assert torch.equal(score, volumes.flatten(1)[:, 1] ** 2)
    assert torch.equal(gradient.flatten(1)[:, 1], 2 * volumes.flatten(1)[:, 1])
    assert gradient.count_nonzero() == 2
