"""Sizes of the published architectures, and the contract that every network keeps."""

import pytest
import torch
from torch import nn

from models.errors import InputError
from models.networks import NETWORKS, build
from models.networks.layers import pooled_blocks, pooled_shape

# network, grid: features after flattening, parameters (methods.md, or the network's docstring)
SIZES = [
    ("boehle2019", (193, 229, 193), 5120, 728_898),
    ("boehle2019", (182, 218, 182), 2304, 368_450),
    ("boehle2019", (96, 114, 96), 128, 89_922),
    ("demo", (64, 76, 64), 8064, 275_810),
]
SMALLEST = {"boehle2019": 78, "demo": 22}


def flattened(network: nn.Module, shape: tuple[int, ...], channels: int = 1) -> int:
    """Features after Flatten in a real forward pass, without memory or time."""
    trunk = [*network.children()]
    cut = next(i for i, layer in enumerate(trunk) if isinstance(layer, nn.Flatten)) + 1
    with torch.no_grad():
        volume = torch.empty(2, channels, *shape, device="meta")
        return nn.Sequential(*trunk[:cut]).to("meta")(volume).shape[1]


@pytest.mark.parametrize(("name", "shape", "features", "parameters"), SIZES)
def test_sizes(name, shape, features, parameters):
    network = build(name, shape)
    assert sum(p.numel() for p in network.parameters()) == parameters
    first = next(layer for layer in network if isinstance(layer, nn.Linear))
    assert first.in_features == features
    assert flattened(network, shape) == features


def test_boehle2019_is_the_published_sequence():
    layers = [type(layer).__name__ for layer in build("boehle2019", (96, 114, 96))]
    block = ["Conv3d", "BatchNorm3d", "ReLU", "MaxPool3d"]
    head = ["Flatten", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert layers == block * 4 + head
    network = build("boehle2019", (96, 114, 96))
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv3d)]
    assert [layer.out_channels for layer in convolutions] == [8, 16, 32, 64]
    assert {layer.kernel_size for layer in convolutions} == {(3, 3, 3)}
    assert {layer.padding for layer in convolutions} == {(0, 0, 0)}
    assert [p.kernel_size for p in network if isinstance(p, nn.MaxPool3d)] == [2, 3, 2, 3]
    assert [d.p for d in network if isinstance(d, nn.Dropout)] == [0.4, 0.4]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_smallest_grid_works_and_one_voxel_less_does_not(name):
    n = SMALLEST[name]
    network = build(name, (n, n, n)).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 1, n, n, n)).shape == (1, 2)
    for short in ((n - 1, n, n), (n, n - 1, n), (n, n, n - 1)):
        message = f"{'x'.join(map(str, short))} voxels is too small.*at least {n} voxels"
        with pytest.raises(InputError, match=message):
            build(name, short)


@pytest.mark.parametrize("pools", [(2,), (3, 2), (2, 3, 2), (2, 2, 3)])
def test_the_refused_grid_would_have_failed_in_torch_too(pools):
    with pytest.raises(InputError) as caught:
        pooled_shape((1, 1, 1), pools)
    smallest = int(str(caught.value).split("at least ")[1].split()[0])
    blocks = nn.Sequential(*pooled_blocks(1, [2] * len(pools), pools)).eval()
    assert blocks(torch.rand(1, 1, *[smallest] * 3)).shape[2:] == pooled_shape(
        [smallest] * 3, pools
    )
    with pytest.raises(RuntimeError):
        blocks(torch.rand(1, 1, smallest - 1, smallest, smallest))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_returns_scores_before_softmax(name):
    shape = (SMALLEST[name], SMALLEST[name] + 7, SMALLEST[name] + 1)
    network = build(name, shape, channels=2, outputs=3, dropout=0.25).eval()
    with torch.no_grad():
        scores = network(torch.randn(2, 2, *shape))
    assert scores.shape == (2, 3)
    assert not torch.allclose(scores.sum(1), torch.ones(2))
    assert {layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)} == {0.25}
    assert isinstance([*network.modules()][-1], nn.Linear)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_drawn_afresh_and_follow_the_seed(name):
    shape = (SMALLEST[name],) * 3

    def draw(seed):
        torch.manual_seed(seed)
        return torch.nn.utils.parameters_to_vector(build(name, shape).parameters())

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_unknown_names_and_options_are_input_errors():
    with pytest.raises(InputError, match="no network 'resnet'; choose one of: boehle2019, demo"):
        build("resnet", (96, 114, 96))
    with pytest.raises(InputError, match=r"network 'demo'.*'width'"):
        build("demo", (64, 76, 64), width=3)
