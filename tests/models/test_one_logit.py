"""Networks of one logit: both classes are explained as a network of two scores would be."""

import pytest
import torch
from torch import nn

from models.attribution import attribute

METHODS = [
    ("lrp_epsilon", {"epsilon": 1e-6}),
    ("lrp_alpha_beta", {"beta": 0.0}),
    ("lrp_alpha_beta", {"beta": 1.0}),
    ("deep_taylor", {}),
]


def one_logit(*, averaged=False):
    torch.manual_seed(0)
    end = [nn.Conv3d(3, 1, 2), nn.AdaptiveAvgPool3d(1), nn.Flatten()]
    dense = [nn.Flatten(), nn.Linear(24, 6), nn.ReLU(), nn.Linear(6, 1)]
    top = end if averaged else dense
    return nn.Sequential(nn.Conv3d(1, 3, 3), nn.ReLU(), nn.MaxPool3d(2), *top).eval()


def two_scores(model):
    """The same network with a score for each class, minus and plus the logit."""
    double = one_logit(averaged=isinstance(model[-1], nn.Flatten))
    place = max(k for k, layer in enumerate(double) if isinstance(layer, nn.Linear | nn.Conv3d))
    last = model[place]
    if isinstance(last, nn.Linear):
        double[place] = nn.Linear(last.in_features, 2)
    else:
        double[place] = nn.Conv3d(3, 2, 2)
    with torch.no_grad():
        double[place].weight.copy_(torch.cat([-last.weight, last.weight]))
        double[place].bias.copy_(torch.cat([-last.bias, last.bias]))
    return double.eval()


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("start", ["logit", "one"])
@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize(("method", "options"), METHODS)
def test_lrp_of_either_class(method, options, target, start, averaged):
    model = one_logit(averaged=averaged).double()
    double = two_scores(model).double()
    images = torch.randn(5, 1, 6, 6, 6, dtype=torch.float64)
    scores = double(images)
    assert torch.allclose(model(images)[:, 0], scores[:, 1])
    options = options | ({} if method == "deep_taylor" else {"start": start})
    one = attribute(model, images, method=method, target=target, **options)
    two = attribute(double, images, method=method, target=target, **options)
    assert torch.allclose(one.score, two.score)
    if method == "deep_taylor":  # starts at the probability: softmax of two against sigmoid of one
        one, two = (
            found.heatmap / found.ledger["start"].float().reshape(-1, 1, 1, 1, 1)
            for found in (one, two)
        )
        assert torch.allclose(one, two, atol=1e-5)
    else:
        assert torch.allclose(one.heatmap, two.heatmap, atol=1e-5)


@pytest.mark.parametrize("target", [0, 1])
def test_the_start_is_the_probability_of_the_class_by_sigmoid(target):
    model = one_logit()
    images = torch.randn(4, 1, 6, 6, 6)
    logit = model(images)[:, 0]
    found = attribute(model, images, method="lrp_alpha_beta", target=target, start="probability")
    expected = torch.sigmoid(logit if target else -logit)
    assert torch.allclose(found.ledger["start"].float(), expected, atol=1e-6)
    assert (found.ledger["start"] > 0).all()


@pytest.mark.parametrize("method", ["saliency", "input_x_gradient", "occlusion"])
def test_gradients_and_occlusion_of_either_class_are_each_others_negative(method):
    model = one_logit()
    images = torch.randn(2, 1, 6, 6, 6)
    options = {"form": "signed"} if method == "saliency" else {}
    if method == "occlusion":
        options = {"patch_mm": 2.0, "stride_mm": 2.0}
    zero, one = (
        attribute(model, images, method=method, target=target, **options) for target in (0, 1)
    )
    assert torch.allclose(zero.heatmap, -one.heatmap, atol=1e-5)
    assert torch.allclose(zero.score, -one.score)
