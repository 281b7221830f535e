"""Grad-CAM against a network whose map is known by hand, and against captum."""

import pytest
import torch
import torch.nn.functional as F
from captum.attr import GuidedGradCam, LayerAttribution, LayerGradCam
from torch import nn

from models.attribution.gradcam import grad_cam, guided_grad_cam
from models.attribution.gradients import guided_backprop
from models.errors import InputError

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
MODE = {2: "bilinear", 3: "trilinear"}


def network(axes, outputs=2, inplace=False):
    torch.manual_seed(0)
    conv, norm, pool = CONV[axes], NORM[axes], POOL[axes]
    model = nn.Sequential(
        conv(1, 4, 3), norm(4), nn.ReLU(inplace), pool(2), conv(4, 6, 2), nn.ReLU(inplace),
        conv(6, 5, 2, padding=1), norm(5), nn.Dropout(), nn.ReLU(inplace), pool(2),
        nn.Flatten(), nn.LazyLinear(7), nn.ReLU(inplace), nn.Linear(7, outputs),
    ).double()  # fmt: skip
    model.eval()(volumes(axes))
    for module in model:
        if isinstance(module, NORM[axes]):
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model


def volumes(axes, n=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn((n, 1, *[14, 13, 12][:axes]), generator=generator).double()


def close(found, expected, relative=1e-10):
    assert expected.abs().max() > 0
    assert (found - expected).norm() <= relative * expected.norm()


@pytest.mark.parametrize("axes", [2, 3])
def test_the_map_that_is_known_by_hand(axes):
    """Filters 1x1 of weight f, their means weighted by v: alpha = v / voxels, A = f x."""
    model = nn.Sequential(CONV[axes](1, 3, 1, bias=False), nn.Flatten(2), Mean(), nn.Linear(3, 2))
    model = model.double()
    f = torch.tensor([2.0, -1.0, 0.5])
    v = torch.tensor([[1.0, 1.0, 1.0], [3.0, 1.0, -4.0]])
    with torch.no_grad():
        model[0].weight.copy_(f.view(-1, *[1] * (axes + 1)))
        model[3].weight.copy_(v)
    x = volumes(axes)
    size = x[0].numel()
    for target, weight in ((0, 1.5), (1, 3.0)):
        found = grad_cam(model, x, target)
        assert torch.allclose(found.heatmap, (weight * x / size).clamp(min=0), atol=1e-14)
        assert torch.allclose(found.score, model(x)[:, target])
        guided = guided_grad_cam(model, x, target).heatmap  # without activations: the gradient
        assert torch.allclose(guided, found.heatmap * weight / size, atol=1e-16)


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(2)


def test_a_map_of_one_voxel_is_spread_and_of_two_interpolated():
    """Voxel centres of the coarse grid at 1 and 3 of 0 ... 4: the faces of the grids coincide."""
    model = nn.Sequential(nn.Conv1d(1, 1, 2, 2, bias=False), nn.Flatten(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[2].weight.fill_(0.5)
    x = torch.tensor([[[1.0, 0.0, 2.0, 3.0]]]).double()  # A = 1, 5
    expected = 0.5 * torch.tensor([[[1.0, 2.0, 4.0, 5.0]]]).double()
    assert torch.allclose(grad_cam(model, x, 1).heatmap, expected)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("layer", ["0", "1", "2", "3", "4", "6", None])
@pytest.mark.parametrize("target", [0, 1])
def test_captum_agrees_at_every_layer(axes, layer, target):
    model, x = network(axes), volumes(axes)
    module = model[6 if layer is None else int(layer)]
    coarse = LayerGradCam(model, module).attribute(x, target, relu_attributions=True)
    expected = LayerAttribution.interpolate(coarse, x.shape[2:], MODE[axes])
    found = grad_cam(model, x, target, layer=layer)
    if expected.abs().max() > 0:
        close(found.heatmap, expected)
    assert torch.allclose(found.heatmap, expected, atol=1e-14)
    assert torch.allclose(found.score, model(x)[:, target])


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("layer", ["0", "4", None])
def test_captum_agrees_on_guided_grad_cam(axes, layer):
    model, x = network(axes), volumes(axes)
    module = model[6 if layer is None else int(layer)]
    largest = 0.0
    for target in (0, 1):
        peer = GuidedGradCam(model, module)
        expected = peer.attribute(
            x.clone().requires_grad_(True), target, interpolate_mode=MODE[axes]
        )
        found = guided_grad_cam(model, x, target, layer=layer)
        assert torch.allclose(found.heatmap, expected, rtol=1e-10, atol=1e-16)
        product = grad_cam(model, x, target, layer=layer).heatmap
        product = product * guided_backprop(model, x, target).heatmap
        assert torch.allclose(found.heatmap, product, rtol=1e-10, atol=1e-16)
        assert torch.allclose(found.score, model(x)[:, target])
        largest = max(largest, float(found.heatmap.abs().max()))
    assert largest > 0


@pytest.mark.parametrize("axes", [2, 3])
def test_captum_agrees_after_the_nonlinearity(axes):
    model, x = network(axes), volumes(axes)
    for layer, activation in (("0", 2), ("4", 5), (None, 9)):
        coarse = LayerGradCam(model, model[activation]).attribute(x, 1, relu_attributions=True)
        expected = LayerAttribution.interpolate(coarse, x.shape[2:], MODE[axes])
        found = grad_cam(model, x, 1, layer=layer, at="activation").heatmap
        assert torch.allclose(found, expected, atol=1e-14)
        guided = guided_grad_cam(model, x, 1, layer=layer, at="activation").heatmap
        assert torch.allclose(guided, found * guided_backprop(model, x, 1).heatmap, atol=1e-14)


def test_activations_that_write_into_their_input_change_nothing():
    """captum 0.9 hands out the result of "4" after the ReLU has written into it."""
    x = volumes(3)
    plain, inplace = network(3), network(3, inplace=True)
    for layer in ("0", "4", None):
        expected = grad_cam(plain, x, 1, layer=layer).heatmap
        assert torch.equal(grad_cam(inplace, x, 1, layer=layer).heatmap, expected)
        assert torch.equal(grad_cam(Unreadable(inplace), x, 1, layer=layer and f"inner.{layer}")
                           .heatmap.gt(0), expected.gt(0))  # fmt: skip


class Unreadable(nn.Module):
    def __init__(self, inner, last=None):
        super().__init__()
        self.inner, self.last = inner, last

    def forward(self, x):
        scores = self.inner(x) if x.abs().sum() > -1 else x
        return scores if self.last is None else self.last(scores)


def hooks(model):
    return [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()]


@pytest.mark.parametrize("frozen", [False, True])
def test_networks_that_cannot_be_read(frozen):
    model, x = network(3).requires_grad_(not frozen), volumes(3)
    broken = Unreadable(model)
    before = hooks(broken)
    for layer in ("0", "4", None):
        expected = grad_cam(model, x, 1, layer=layer)
        found = grad_cam(broken, x, 1, layer=layer and f"inner.{layer}")
        assert torch.allclose(found.heatmap, expected.heatmap, atol=1e-14)
        assert torch.allclose(found.score, expected.score)
    with pytest.raises(InputError, match=r"no layer '4'; its convolutions are: inner\.0, inner\.4"):
        grad_cam(broken, x, 1, layer="4")
    with pytest.raises(InputError, match="at='activation' has to read the network"):
        grad_cam(broken, x, 1, at="activation")
    with pytest.raises(InputError, match="cannot be read"):
        guided_grad_cam(broken, x, 1)
    with pytest.raises(InputError, match="ends in softmax or sigmoid"):
        grad_cam(Unreadable(model, nn.Softmax(1)), x, 1)
    broken.spare = nn.Conv3d(1, 1, 1).double()
    with pytest.raises(InputError, match="took no part"):
        grad_cam(broken, x, 1, layer="spare")
    del broken.spare
    with pytest.raises(ZeroDivisionError):
        grad_cam(Unreadable(model, lambda scores: 1 / 0), x, 1)
    assert hooks(broken) == before
    assert torch.is_grad_enabled()


class Twice(nn.Module):
    """One convolution used twice, and a branch round it."""

    def __init__(self):
        super().__init__()
        self.first, self.shared = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.out = nn.Linear(3, 2)

    def forward(self, x):
        a = F.relu(self.first(x))
        b = F.relu(self.shared(a))
        c = F.relu(self.shared(b)) + a
        return self.out(c.flatten(2).mean(2))


def test_of_a_layer_that_is_used_twice_the_last_time_counts():
    torch.manual_seed(0)
    model, x = Twice().double(), volumes(2)
    a = model.first(x).relu()
    last = model.shared(model.shared(a).relu())
    slope = (last > 0) * model.out.weight[1].view(3, 1, 1) / x[0].numel()
    expected = (slope.mean((2, 3), True) * last).sum(1, True).relu()
    for layer in (None, "shared"):
        close(grad_cam(model, x, 1, layer=layer).heatmap, expected)
    for explain in (grad_cam, guided_grad_cam):
        assert explain(model, x, 1, layer="first").heatmap.abs().max() > 0


def test_several_channels_and_one_output():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(1)).double()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    model(x)
    one, other = grad_cam(model, x, 1), grad_cam(model, x, 0)
    assert one.heatmap.shape == x.shape
    assert torch.equal(one.heatmap[:, 0], one.heatmap[:, 2])
    assert torch.equal(one.score, -other.score)
    assert one.heatmap.any()
    assert not torch.allclose(one.heatmap, other.heatmap)
    with_sigmoid = grad_cam(nn.Sequential(model, nn.Sigmoid()), x, 1)
    assert torch.equal(with_sigmoid.heatmap, one.heatmap)


@pytest.mark.parametrize("explain", [grad_cam, guided_grad_cam])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_dtype(explain, dtype):
    model, x = network(3), volumes(3)
    expected = explain(model, x, 0).heatmap
    found = explain(model.to(dtype), x.to(dtype), 0).heatmap
    error = (found.double() - expected).norm() / expected.norm()
    assert error < (1e-5 if dtype is torch.float32 else 0.2)


@pytest.mark.parametrize("explain", [grad_cam, guided_grad_cam])
def test_layers_that_do_not_exist_or_are_no_maps(explain):
    model, x = network(3), volumes(3)
    with pytest.raises(InputError, match="no layer 'conv'; its convolutions are: 0, 4, 6; its"):
        explain(model, x, 1, layer="conv")
    with pytest.raises(InputError, match=r"is \(7,\): name a convolution"):
        explain(model, x, 1, layer="12")
    with pytest.raises(InputError, match="at is output or activation, not 'input'"):
        explain(model, x, 1, at="input")
    with pytest.raises(InputError, match="no nonlinearity follows layer '14'"):
        explain(model, x, 1, layer="14", at="activation")
    dense = nn.Sequential(nn.Flatten(), nn.LazyLinear(2).double())
    dense(x)
    with pytest.raises(InputError, match="no convolution; name a layer: 0, 1"):
        explain(dense, x, 1)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("explain", [grad_cam, guided_grad_cam])
def test_nothing_is_left_in_the_model(explain):
    model, x = network(3), volumes(3)
    model[4].weight.requires_grad_(False)
    before = [(id(p), p._version, p.requires_grad, p.grad) for p in model.parameters()]
    kinds, given = [type(m) for m in model.modules()], x.clone()
    explain(model, x, 1)
    assert [(id(p), p._version, p.requires_grad, p.grad) for p in model.parameters()] == before
    assert [type(m) for m in model.modules()] == kinds
    assert not any(hooks(model))
    assert torch.equal(x, given)
    assert not x.requires_grad
    with torch.no_grad(), torch.enable_grad():
        explain(model, x, 1)
        assert torch.is_grad_enabled()
