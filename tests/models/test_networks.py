"""Sizes of the published architectures, and the contract that every network keeps."""

import pytest
import torch
from torch import fx, nn
from torch.nn.modules.dropout import _DropoutNd

from models.errors import InputError
from models.networks import NETWORKS, build
from models.networks.layers import pooled_blocks, spatial_shape

TENSOR = {"channels": 6, "outputs": 1}
UKB_B, MS_B = ({"study": study, "model": "B"} for study in ("ukb", "ms"))
MM1, MM2, UKB = (193, 229, 193), (96, 114, 96), (182, 218, 182)
CROP = (145, 171, 150)  # of UKB, around the brain


def _pif(study, name):
    """Options of "A", "B", "A-PIF" or "B-PIF" as published."""
    filters = name.endswith("-PIF")
    return {"study": study, "model": name[0], "filters": filters, "outputs": 1}


# network, grid, options: features after flattening, parameters (methods and docstrings)
SIZES = [
    ("boehle2019", MM1, {}, 5120, 728_898),
    ("boehle2019", UKB, {}, 2304, 368_450),
    ("boehle2019", MM2, {}, 128, 89_922),
    ("demo", (64, 76, 64), {}, 8064, 275_810),
    ("diktiometry", (96, 112, 96), TENSOR, 16_128, 1_471_425),
    ("eitel2019", MM2, {"outputs": 1}, 128, 333_889),
    ("liu2018", UKB, {"outputs": 1}, 450, 130_001),
    ("liu2018", CROP, {"outputs": 1}, 100, 116_001),
    ("nazari2021", (71, 90, 72), {}, 7_361_280, 117_802_306),
    ("nazari2021", (61, 44, 35), {}, 1_503_040, 24_070_466),
    ("resnet3d", MM2, {}, 128, 2_078_674),
    ("resnet3d", (64, 76, 64), {"blocks": (1, 1, 1, 1)}, 128, 902_674),
    ("rieke2018", MM1, {}, 5120, 737_026),
    ("rieke2018", MM2, {}, 128, 98_050),
] + [
    ("pif", grid, _pif(study, model), features, parameters)
    for study, grid, model, features, parameters in [
        ("adni", MM2, "A", 1296, 238_997),
        ("adni", MM2, "B", 1296, 499_845),
        ("adni", MM2, "A-PIF", 1134, 259_131),
        ("adni", MM2, "B-PIF", 1134, 519_979),
        ("ukb", UKB, "A", 11_200, 1_303_769),
        ("ukb", UKB, "B", 6144, 787_785),
        ("ukb", UKB, "A-PIF", 7776, 1_348_665),
        ("ukb", UKB, "B-PIF", 1458, 301_895),
        ("ms", MM2, "A", 2880, 468_521),
        ("ms", MM2, "B", 2880, 621_961),
        ("ms", MM2, "A-PIF", 1512, 428_545),
        ("ms", MM2, "B-PIF", 1512, 471_329),
    ]
]

# network, grid, options: spatial shape of the output of every layer that changes it
MAPS = [
    ("eitel2019", MM2, {}, "94x112x94 31x37x31 29x35x29 9x11x9 7x9x7 5x7x5 1x2x1"),
    ("nazari2021", (71, 90, 72), {}, "71x90x72"),
    ("diktiometry", (96, 112, 96), TENSOR, "96x112x96 48x56x48 24x28x24 12x14x12 6x7x6"),
    ("resnet3d", MM2, {}, "48x57x48 24x29x24 12x15x12 6x8x6 3x4x3 1x1x1"),
    ("rieke2018", MM2, {}, "94x112x94 47x56x47 45x54x45 15x18x15 13x16x13 6x8x6 4x6x4 1x2x1"),
    ("liu2018", CROP, {}, "73x57x75 71x55x73 23x18x24 21x16x22 10x8x11 8x6x9 3x2x3 1x2x1"),
    ("pif", MM2, {}, "94x112x94 31x37x31 29x35x29 14x17x14 12x15x12 10x13x10 3x3x3"),
    ("pif", MM2, {"reassemble": True}, "94x112x94 31x37x31 29x35x29 14x17x14 12x15x12 10x13x10"),
    ("pif", UKB, UKB_B, "180x216x180 60x72x60 58x70x58 19x23x19 17x21x17 8x10x8 3x3x3"),
    ("pif", MM2, MS_B, "94x112x94 31x37x31 29x35x29 10x12x10 3x3x3"),
]

SMALLEST = {
    "boehle2019": (78, 78, 78),
    "demo": (22, 22, 22),
    "diktiometry": (16, 16, 16),
    "eitel2019": (71, 71, 71),
    "liu2018": (123, 112, 147),
    "nazari2021": (1, 1, 1),
    "pif": (71, 71, 71),
    "resnet3d": (1, 1, 1),
    "rieke2018": (78, 78, 78),
}
CHEAP = {"liu2018": ({"parts": (1, 1, 1)}, (62, 38, 74))}  # where the whole costs seconds


def cheapest(name):
    """Options and grid of a network that runs quickly, but that loses nothing of it."""
    return CHEAP.get(name, ({}, SMALLEST[name]))


def walk(network: nn.Module, shape: tuple[int, ...], channels: int = 1):
    """Shapes after each layer of a real forward pass of two images, without memory or time."""
    volume = torch.empty(2, channels, *shape, device="meta")
    with torch.no_grad():
        for layer in network.to("meta").eval():
            volume = layer(volume)
            yield layer, volume.shape


# --- published sizes -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "shape", "options", "features", "parameters"), SIZES)
def test_sizes(name, shape, options, features, parameters):
    with torch.device("meta"):
        network = build(name, shape, **options)
    assert sum(p.numel() for p in network.parameters()) == parameters
    first = next(layer for layer in network if isinstance(layer, nn.Linear))
    assert first.in_features == features
    shapes = dict(walk(network, shape, options.get("channels", 1)))
    flat = next(size for layer, size in shapes.items() if isinstance(layer, nn.Flatten))
    assert flat[1] == features
    assert [*shapes.values()][-1] == (2, options.get("outputs", 2))


@pytest.mark.parametrize(("name", "shape", "options", "maps"), MAPS)
def test_feature_maps(name, shape, options, maps):
    with torch.device("meta"):
        network = build(name, shape, **options)
    found = []
    for _, size in walk(network, shape, options.get("channels", 1)):
        grid = "x".join(map(str, size[2:]))
        if grid and grid not in found[-1:]:
            found.append(grid)
    assert found == maps.split()


def names(network):
    return [type(layer).__name__ for layer in network]


def test_boehle2019_is_the_published_sequence():
    network = build("boehle2019", (96, 114, 96))
    block = ["Conv3d", "BatchNorm3d", "ReLU", "MaxPool3d"]
    head = ["Flatten", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert names(network) == block * 4 + head
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv3d)]
    assert [layer.out_channels for layer in convolutions] == [8, 16, 32, 64]
    assert {layer.kernel_size for layer in convolutions} == {(3, 3, 3)}
    assert {layer.padding for layer in convolutions} == {(0, 0, 0)}
    assert [p.kernel_size for p in network if isinstance(p, nn.MaxPool3d)] == [2, 3, 2, 3]
    assert [d.p for d in network if isinstance(d, nn.Dropout)] == [0.4, 0.4]


def test_rieke2018_has_the_trunk_of_boehle2019():
    network, trunk = build("rieke2018", MM2), build("boehle2019", MM2)
    assert [str(layer) for layer in network[:17]] == [str(layer) for layer in trunk[:17]]
    assert names(network)[17:] == ["Dropout", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert network[17].p == 0.8
    assert [fc.out_features for fc in network if isinstance(fc, nn.Linear)] == [128, 64, 2]


def test_eitel2019_pools_after_the_first_second_and_fourth_elu():
    network = build("eitel2019", MM2, outputs=1)
    plain, pooled = ["Conv3d", "ELU"], ["Conv3d", "ELU", "MaxPool3d", "Dropout"]
    assert names(network) == pooled * 2 + plain + pooled + ["Flatten", "Linear"]
    assert {d.p for d in network if isinstance(d, nn.Dropout)} == {0.3}
    # the two convolutions whose weights were penalised, as the docstring numbers them
    convolutions = [i for i, layer in enumerate(network) if isinstance(layer, nn.Conv3d)]
    assert convolutions[2:] == [8, 10]


def test_nazari2021_drops_out_after_its_first_fully_connected_layer_only():
    with torch.device("meta"):
        network = build("nazari2021", (61, 44, 35))
    head = ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert names(network) == ["Conv3d", "ReLU"] * 4 + ["Flatten", *head]
    assert network[11].p == 0.2


def test_diktiometry_has_eight_convolutions_two_layers_and_the_widths_of_a_recipe():
    network = build("diktiometry", (32, 32, 32), widths=(2, 3, 4, 5), hidden=7, outputs=1)
    block = ["Conv3d", "BatchNorm3d", "ReLU"]
    head = ["Flatten", "Dropout", "Linear", "ReLU", "Linear"]
    assert names(network) == (block * 2 + ["MaxPool3d"]) * 2 + head
    assert [c.out_channels for c in network if isinstance(c, nn.Conv3d)] == [2, 3, 4, 5]
    assert network[-1].in_features == 7
    with pytest.raises(InputError, match="even number of filter counts, not 3"):
        build("diktiometry", (32, 32, 32), widths=(2, 3, 4))
    published = build("diktiometry", (32, 32, 32))
    assert names(published).count("Conv3d") == 8
    assert names(published).count("Linear") == 2


def test_resnet3d_adds_out_of_place_and_uses_no_module_twice():
    network = build("resnet3d", (16, 16, 16)).eval()
    seen = []
    for module in network.modules():
        if not [*module.children()]:
            assert not getattr(module, "inplace", False)
            module.register_forward_hook(lambda module, *_: seen.append(module))
    with torch.no_grad():
        network(torch.rand(1, 1, 16, 16, 16))
    assert len(seen) == len(set(seen)) > 60
    block = network[5]
    volume = torch.randn(2, 16, 4, 4, 4)
    with torch.no_grad():
        expected = (block.residual(volume) + volume).clamp(min=0)
        assert torch.equal(block(volume), expected)


def test_liu2018_shares_one_network_between_the_patches_and_averages():
    network = build("liu2018", SMALLEST["liu2018"], outputs=1).eval()
    volume = torch.randn(1, 1, *SMALLEST["liu2018"])
    padded = torch.zeros(1, 1, 124, 114, 148)
    padded[..., :123, :112, :147] = volume
    with torch.no_grad():
        scores = [
            network[1:-1](padded[..., x : x + 62, y : y + 38, z : z + 74])
            for x in (0, 62)
            for y in (0, 38, 76)
            for z in (0, 74)
        ]
        torch.testing.assert_close(network(volume), torch.stack(scores).mean(0))
    assert torch.stack(scores).std() > 0


# --- the contract --------------------------------------------------------------------------------


def test_there_is_a_smallest_grid_for_every_network():
    assert set(SMALLEST) == set(NETWORKS)
    assert {name for name, *_ in SIZES} == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_smallest_grid_works_and_one_voxel_less_does_not(name):
    options, n = cheapest(name)
    network = build(name, n, **options).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 1, *n)).shape == (1, 2)
    refuse_less(name, n, options)


def refuse_less(name, n, options):
    least = n[0] if len(set(n)) == 1 else "x".join(map(str, n))
    for axis in range(3):
        short = tuple(size - (i == axis) for i, size in enumerate(n))
        message = f"{'x'.join(map(str, short))} voxels is too small.*at least {least} voxel"
        with pytest.raises(InputError, match=message):
            build(name, short, **options)


def test_parts_of_a_grid_are_counted_in_its_smallest_size():
    with torch.device("meta"):
        build("liu2018", SMALLEST["liu2018"])
    refuse_less("liu2018", SMALLEST["liu2018"], {})


@pytest.mark.parametrize(
    "layers",
    [
        pooled_blocks(1, [2], (2,)),
        pooled_blocks(1, [2, 2], (3, 2)),
        pooled_blocks(1, [2, 2, 2], (2, 3, 2)),
        [nn.Conv3d(1, 1, 3, padding=1), nn.MaxPool3d(4, stride=2), nn.Conv3d(1, 1, 3)],
        [nn.Conv3d(1, 1, 5, stride=3), nn.AvgPool3d(3, stride=1)],
        [nn.Conv3d(1, 1, (3, 1, 2), stride=(1, 2, 3), padding=(0, 0, 1)), nn.MaxPool3d(2)],
    ],
)
def test_the_refused_grid_would_have_failed_in_torch_too(layers):
    with pytest.raises(InputError) as caught:
        spatial_shape(layers, (0, 0, 0))
    said = str(caught.value).split("at least ")[1].split()[0].split("x")
    smallest = [int(n) for n in (said * 3)[:3]]
    blocks = nn.Sequential(*layers).eval()
    assert blocks(torch.rand(1, 1, *smallest)).shape[2:] == spatial_shape(layers, smallest)
    larger = [n + 5 for n in smallest]
    assert blocks(torch.rand(1, 1, *larger)).shape[2:] == spatial_shape(layers, larger)
    for axis in range(3):
        short = [n - (i == axis) for i, n in enumerate(smallest)]
        with pytest.raises(RuntimeError):
            blocks(torch.rand(1, 1, *short))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_returns_scores_before_softmax(name):
    options, smallest = cheapest(name)
    shape = (smallest[0], smallest[1] + 7, smallest[2] + 1)
    if name == "liu2018":
        options = {**options, "convolution_dropout": 0.25}
    network = build(name, shape, channels=2, outputs=3, dropout=0.25, **options).eval()
    with torch.no_grad():
        scores = network(torch.randn(2, 2, *shape))
    assert scores.shape == (2, 3)
    assert not torch.allclose(scores.sum(1), torch.ones(2))
    rates = {layer.p for layer in network.modules() if isinstance(layer, _DropoutNd)}
    assert rates - {0.125} == {0.25}  # liu2018 takes half of it after its last convolution
    assert isinstance([m for m in network.modules() if [*m.parameters(False)]][-1], nn.Linear)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_can_be_traced_and_learns(name):
    options, shape = cheapest(name)
    shape = tuple(max(n, 4) for n in shape)
    network = build(name, shape, outputs=1, **options)
    volumes = torch.rand(2, 1, *shape)
    network(volumes).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    traced = fx.symbolic_trace(network.eval())
    with torch.no_grad():
        torch.testing.assert_close(traced(volumes), network(volumes), rtol=0, atol=0)
    leaves = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    modules = dict(network.named_modules())
    owners = {name for name, module in modules.items() if [*module.parameters(False)]}
    assert owners <= leaves
    assert all(type(modules[leaf]).__module__.startswith("torch.nn") for leaf in leaves)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_drawn_afresh_and_follow_the_seed(name):
    options, shape = cheapest(name)

    def draw(seed):
        torch.manual_seed(seed)
        return torch.nn.utils.parameters_to_vector(build(name, shape, **options).parameters())

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_unknown_names_and_options_are_input_errors():
    with pytest.raises(InputError, match="no network 'resnet'; choose one of: boehle2019, demo"):
        build("resnet", (96, 114, 96))
    with pytest.raises(InputError, match=r"network 'demo'.*'width'"):
        build("demo", (64, 76, 64), width=3)
    with pytest.raises(InputError, match=r"network 'demo'.*between 0 and 1, but got 3"):
        build("demo", (64, 76, 64), dropout=3)
    with pytest.raises(InputError, match=r"no model 'C' of study 'adni'; choose one of: adni A,"):
        build("pif", (96, 114, 96), model="C")
    with pytest.raises(InputError, match="widths has 4 entries, blocks 2"):
        build("resnet3d", (96, 114, 96), blocks=(1, 1))
