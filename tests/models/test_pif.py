"""Patch-individual filters against a loop over patches, and what the rearrangements promise."""

import operator

import pytest
import torch
from torch import fx, nn
from torch.nn import functional

from models.errors import InputError
from models.networks import build
from models.networks.patches import JoinPatches, Outside, PatchIndividualFilters, SplitPatches

# voxels of the feature maps, patch, kernel: whole and broken patches, odd and even, 2 to 4 a side
CASES = [
    ((10, 13, 10), 5, 3),
    ((6, 6, 6), 5, 3),
    ((8, 5, 9), 4, 3),
    ((4, 7, 3), 2, 1),
    ((11, 12, 7), 6, 5),
]


def corners(shape, patch, shift):
    """First voxel of every patch, the last axis fastest."""
    whole = [n if n % patch == 0 else n + patch - n % patch for n in shape]
    axes = [range(shift, n - patch + 1, patch) for n in whole]
    return [(x, y, z) for x in axes[0] for y in axes[1] for z in axes[2]]


def cut_out(volume, shape, patch, corner):
    padded = torch.zeros(*volume.shape[:2], *(n + patch for n in shape), dtype=volume.dtype)
    padded[..., : shape[0], : shape[1], : shape[2]] = volume
    x, y, z = corner
    return padded[..., x : x + patch, y : y + patch, z : z + patch]


def filter_one_by_one(layer, volume, shape, patch, padding=0):
    """Per strand: list of (corner, output of this patch's own filters), sample by sample."""
    channels = volume.shape[1]
    found = []
    for strand, shift in ((layer.strand, 0), (layer.overlap, patch // 2)):
        weight, bias = strand[1].weight, strand[1].bias
        places = corners(shape, patch, shift)
        width = len(weight) // len(places)
        assert weight.shape[:2] == (len(places) * width, channels)
        rows = []
        for number, corner in enumerate(places):
            own = slice(number * width, (number + 1) * width)
            outputs = [
                functional.conv3d(
                    cut_out(one[None], shape, patch, corner),
                    weight[own],
                    bias[own],
                    padding=padding,
                )
                for one in volume
            ]
            rows.append((corner, torch.cat(outputs)))
        found.append(rows)
    return found


@pytest.mark.parametrize(("shape", "patch", "kernel"), CASES)
def test_one_grouped_convolution_is_the_loop_over_patches(shape, patch, kernel):
    torch.manual_seed(0)
    layer = PatchIndividualFilters(3, 2, shape, patch=patch, kernel=kernel).double()
    volume = torch.randn(2, 3, *shape, dtype=torch.float64, requires_grad=True)
    strands = filter_one_by_one(layer, volume, shape, patch)
    expected = torch.cat([output for rows in strands for _, output in rows], 1)
    found = layer(volume)
    assert found.shape == (2, layer.features // (patch - kernel + 1) ** 3, *found.shape[2:])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    wanted = [volume, *layer.parameters()]
    cotangent = torch.randn_like(found)
    for ours, theirs in zip(
        torch.autograd.grad(found, wanted, cotangent),
        torch.autograd.grad(expected, wanted, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("shape", "patch", "kernel"), CASES)
def test_reassembled_patches_lie_where_they_came_from(shape, patch, kernel):
    torch.manual_seed(0)
    layer = PatchIndividualFilters(3, 2, shape, patch=patch, kernel=kernel, reassemble=True)
    layer.double()
    volume = torch.randn(2, 3, *shape, dtype=torch.float64)
    total = torch.zeros(2, 2, *(n + patch for n in shape), dtype=torch.float64)
    count = torch.zeros_like(total)
    with torch.no_grad():
        for rows in filter_one_by_one(layer, volume, shape, patch, padding=kernel // 2):
            for (x, y, z), output in rows:
                place = (..., slice(x, x + patch), slice(y, y + patch), slice(z, z + patch))
                total[place] += output
                count[place] += 1
        inside = (..., slice(shape[0]), slice(shape[1]), slice(shape[2]))
        assert set(count[inside].unique().tolist()) == {1.0, 2.0}
        found = layer(volume)
    assert found.shape == (2, 2, *shape)
    assert found[0].numel() == layer.features
    torch.testing.assert_close(found, total[inside] / count[inside], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("shape", [(10, 13, 10), (6, 7, 15), (5, 8, 9)])
def test_cutting_moves_every_voxel_to_one_place_and_joining_is_its_transpose(shape, shift):
    if shift:
        shape = tuple(n + 5 for n in shape)
    cut = SplitPatches(shape, (5, 4, 3), (shift, shift, shift // 2))
    assert not [*cut.parameters()]
    numbers = torch.arange(1.0, 2 * torch.tensor(shape).prod() + 1).reshape(1, 2, *shape)
    patches = cut(numbers)
    kept = patches[patches > 0]
    assert len(kept) == len(kept.unique())
    back = JoinPatches(cut)(patches)
    assert torch.equal(back, torch.where(torch.isin(numbers, kept), numbers, 0))
    assert torch.equal(back + Outside(cut, shape)(numbers), numbers)
    if not shift:
        assert torch.equal(back, numbers)
    a, b = torch.randn(3, 2, *shape).double(), torch.randn(3, *patches.shape[1:]).double()
    torch.testing.assert_close((cut(a) * b).sum(), (a * JoinPatches(cut)(b)).sum())


@pytest.mark.parametrize("reassemble", [False, True])
def test_gradients_of_the_strands_are_averaged_in_training_only(reassemble):
    torch.manual_seed(0)
    shape = (10, 13, 10)
    layers = [
        PatchIndividualFilters(
            3, 2, shape, reassemble=reassemble, average_gradients=average
        ).double()
        for average in (True, False)
    ]
    layers[0].load_state_dict(layers[1].state_dict())
    volume = torch.randn(2, 3, *shape, dtype=torch.float64, requires_grad=True)
    both = torch.zeros(shape, dtype=torch.bool)
    both[2:7, 2:12, 2:7] = True  # the second strand is 1x2x1 patches of 5 from voxel 2

    def backward(layer):
        output = layer(volume)
        wanted = [volume, *layer.parameters()]
        return output, *torch.autograd.grad(output.square().sum(), wanted)

    averaged, exact = map(backward, layers)
    assert torch.equal(averaged[0], exact[0])
    assert torch.equal(averaged[1], torch.where(both, exact[1] / 2, exact[1]))
    assert exact[1][..., both].abs().min() > 0
    for ours, theirs in zip(averaged[2:], exact[2:], strict=True):
        assert torch.equal(ours, theirs)  # the filters themselves learn from their own strand
    assert torch.equal(backward(layers[0].eval())[1], exact[1])


class Tracer(fx.Tracer):
    """Takes what rearranges as one step, as attributions do."""

    def is_leaf_module(self, m, module_qualified_name):
        return getattr(m, "rearranges", False) or super().is_leaf_module(m, module_qualified_name)


@pytest.mark.parametrize(
    ("options", "rearranging", "calls"),
    [
        ({}, 2, [torch.cat]),
        ({"average_gradients": True}, 2, [torch.cat]),
        ({"reassemble": True}, 5, [operator.add, "unsqueeze", "unsqueeze", torch.cat, "mean"]),
    ],
)
def test_a_trace_shows_rearrangements_and_two_convolutions(options, rearranging, calls):
    layer = PatchIndividualFilters(3, 2, (10, 13, 10), **options).eval()
    graph = Tracer().trace(layer)
    targets = [node.target for node in graph.nodes if node.op == "call_module"]
    called = [layer.get_submodule(target) for target in targets]
    moving = [module for module in called if getattr(module, "rearranges", False)]
    assert len(moving) == rearranging
    assert not any([*module.parameters()] for module in moving)
    assert [module.groups for module in called if isinstance(module, nn.Conv3d)] == [12, 2]
    nodes = [node for node in graph.nodes if node.op.startswith("call_")]
    assert [node.target for node in nodes if node.op != "call_module"] == calls
    assert not [node for node in graph.nodes if node.op == "get_attr"]
    volume = torch.randn(2, 3, 10, 13, 10)
    assert torch.equal(fx.GraphModule(layer, graph)(volume), layer(volume))


@pytest.mark.parametrize("study", ["adni", "ukb", "ms"])
def test_patches_of_the_published_networks(study):
    expected = {"adni": (12, 2, 3), "ukb": (36, 12, 6), "ms": (12, 2, 4)}[study]
    shape = (182, 218, 182) if study == "ukb" else (96, 114, 96)
    network = build("pif", shape, study=study, model="A")
    layer = next(one for one in network if isinstance(one, PatchIndividualFilters))
    groups = [layer.strand[1].groups, layer.overlap[1].groups]
    assert (*groups, layer.strand[1].out_channels // groups[0]) == expected
    assert all(key.endswith((".weight", ".bias")) for key in network.state_dict())


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((5, 8, 8), {}, "more than one patch of 5 voxels .* maps have 5x8x8"),
        ((8, 8, 8), {"kernel": 6}, "filters of 6 voxels on patches of 5"),
        ((8, 8, 8), {"kernel": 2, "reassemble": True}, "an odd number where it is reassembled"),
        ((8, 8, 8), {"patch": 1, "kernel": 1}, "patches need at least 2 voxels"),
    ],
)
def test_patches_that_cannot_be_are_input_errors(shape, options, message):
    with pytest.raises(InputError, match=message):
        PatchIndividualFilters(3, 2, shape, **options)
