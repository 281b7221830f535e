"""Feature visualisation on filters whose best image is known."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from models.attribution.visualisation import blurred, feature_visualisation
from models.errors import InputError

PLAIN = {"blur_sigma": 0.0, "jitter": 0}


def cosine(a, b):
    return float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))


@pytest.mark.parametrize("shape", [(2, 7, 6), (1, 5, 6, 5)])
def test_the_best_image_of_a_linear_filter_is_the_filter(shape):
    torch.manual_seed(0)
    conv = nn.Conv2d if len(shape) == 3 else nn.Conv3d
    model = nn.Sequential(conv(shape[0], 4, shape[1:]), nn.Flatten(), nn.Linear(4, 2))
    for number in (0, 3):
        found = feature_visualisation(model, shape, filter=number, steps=20, **PLAIN)
        weight = model[0].weight[number].detach()
        assert found.image.shape == shape
        assert cosine(found.image, weight) > 0.999
        # every step adds learning_rate * gradient / rms: the activation rises in a straight line
        rise = 0.1 * weight.norm() * weight.numel() ** 0.5
        assert torch.allclose(found.trace.diff(), rise.expand(20), rtol=1e-3)


def test_the_trace_is_the_activation_of_the_image():
    model = nn.Sequential(nn.Conv3d(1, 3, 3), nn.ELU(), nn.Flatten(), nn.LazyLinear(2))
    volumes = torch.zeros(1, 1, 8, 8, 8)
    model(volumes)
    found = feature_visualisation(model, (1, 8, 8, 8), layer="1", filter=2, steps=15)
    assert found.trace.shape == (16,)
    assert found.trace[-1] > found.trace[0] + 0.1
    activation = model[1](model[0](found.image[None]))[0, 2].mean()
    assert torch.allclose(found.trace[-1], activation.detach())


def test_neurons_of_a_later_layer_and_dropout():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ELU(), nn.MaxPool2d(2), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(27, 4), nn.Dropout(0.9),
    )  # fmt: skip
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = feature_visualisation(model, (1, 8, 8), layer="7", filter=1, steps=10)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    activation = model.eval()(found.image[None])[0, 1]
    assert torch.allclose(found.trace[-1], activation.detach(), atol=1e-6)
    assert found.trace[-1] > found.trace[0]


def test_the_seed_decides():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3))
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = feature_visualisation(model, (1, 12, 12), steps=8, seed=1)
    assert torch.equal(torch.rand(1), expected)  # nobody else's random numbers are used up
    again = feature_visualisation(model, (1, 12, 12), steps=8, seed=1)
    other = feature_visualisation(model, (1, 12, 12), steps=8, seed=2)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.trace, again.trace)
    assert not torch.allclose(first.image, other.image)


def roughness(image):
    return (image.diff(dim=1).square().mean() / image.square().mean()).item()


def test_blur_and_jitter_make_smoother_images():
    """The filter looks for single pixels: what it likes best is a chessboard."""
    model = nn.Sequential(nn.Conv2d(1, 1, 3, bias=False))
    model[0].weight.data = torch.tensor([[[[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]]]])
    model.append(nn.ReLU())
    rough = feature_visualisation(model, (1, 16, 16), layer="1", steps=30, **PLAIN)
    smooth = feature_visualisation(model, (1, 16, 16), layer="1", steps=30, blur_sigma=1, jitter=0)
    moved = feature_visualisation(model, (1, 16, 16), layer="1", steps=30, blur_sigma=0, jitter=3)
    assert roughness(smooth.image) < 0.5 * roughness(rough.image)
    assert not torch.allclose(moved.image, rough.image)
    assert rough.trace[-1] > smooth.trace[-1] > 0


def test_limits_are_kept():
    model = nn.Sequential(nn.Conv2d(1, 1, 3))
    model[0].weight.data = torch.tensor([[[[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]]]])
    found = feature_visualisation(model, (1, 9, 9), steps=40, limits=(0.0, 1.0))
    assert found.image.min() >= 0
    assert found.image.max() <= 1
    assert found.image.std() > 0.1


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.3])
@pytest.mark.parametrize("shape", [(2, 3, 11, 12), (1, 2, 9, 10, 11)])
def test_blur_is_scipys(shape, sigma):
    image = torch.randn(shape, dtype=torch.float64)
    sigmas = (0, 0) + (sigma,) * (len(shape) - 2)
    reach = int(np.ceil(4 * sigma))
    expected = gaussian_filter(image.numpy(), sigmas, mode="nearest", radius=(0, 0) + (reach,) * (
        len(shape) - 2))  # fmt: skip
    assert torch.allclose(blurred(image, sigma), torch.from_numpy(expected), atol=1e-12)
    assert blurred(image, 0) is image


def test_a_filter_that_does_not_answer_gives_noise_not_nan():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    nn.init.constant_(model[0].bias, -100)
    found = feature_visualisation(model, (1, 8, 8), layer="1", steps=3)
    assert found.image.isfinite().all()
    assert not found.trace.any()


def test_any_dtype_and_frozen_networks():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ELU(), nn.Conv2d(2, 2, 3)).double()
    model.requires_grad_(False)
    found = feature_visualisation(model, (1, 9, 9), steps=5)
    assert found.image.dtype == found.trace.dtype == torch.float32
    half = feature_visualisation(model.bfloat16(), (1, 9, 9), steps=5, blur_sigma=0.5)
    assert cosine(found.image, half.image) > 0.9


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"layer": "conv9"}, "no layer 'conv9'; its convolutions are: 0, 2"),
        ({"filter": 5}, "no filter 5: the layer has 0 to 3"),
        ({"filter": -1}, "no filter -1"),
        ({"steps": 0}, "steps must be 1 or more, not 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, not 0.0"),
        ({"blur_sigma": -1.0}, "blur_sigma must be 0 or more"),
        ({"jitter": -1}, "jitter must be 0 or more"),
    ],
)
def test_impossible_values_are_input_errors(parameters, message):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 4, 3)).train()
    with pytest.raises(InputError, match=message):
        feature_visualisation(model, (1, 9, 9), **parameters)
    assert model.training
    assert model[2].training


class Fork(nn.Module):
    """Two branches: the layer that is asked for is not the last to run before the sum."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3)
        self.norm, self.relu = nn.BatchNorm2d(2), nn.ELU()
        self.pool, self.drop = nn.MaxPool2d(2), nn.Dropout()

    def forward(self, x):
        one, two = self.one(x), self.two(x)
        one = self.relu(self.norm(one))
        three = self.drop(one)
        four = self.pool(three)
        return four.flatten(2).mean(2) + two.flatten(2).mean(2)


@pytest.mark.parametrize("layer", ["one", "norm", "relu", "two", "drop", "pool"])
def test_layers_of_a_branch(layer):
    torch.manual_seed(0)
    model = Fork().eval()
    nn.init.normal_(model.norm.running_mean)
    nn.init.normal_(model.norm.weight)
    found = feature_visualisation(model, (1, 10, 10), layer=layer, filter=1, steps=4)
    results = {}
    getattr(model, layer).register_forward_hook(lambda m, i, result: results.update(r=result))
    model(found.image[None])
    assert torch.allclose(found.trace[-1], results["r"][0, 1].mean().detach(), atol=1e-6)
