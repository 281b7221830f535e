"""Occlusion against a full forward pass per patch, and against captum."""

import os
from copy import deepcopy

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation, Occlusion
from torch import nn

import models.attribution.increments as increments
import models.attribution.occlusion as module
import models.attribution.stages as planned
from models.attribution import checkpoint as checkpoints
from models.attribution.increments import Increments
from models.attribution.occlusion import occlusion, region_occlusion
from models.attribution.windows import windows
from models.errors import InputError
from models.networks import build

# --- networks and people -------------------------------------------------------------------------


class Residual(nn.Module):
    """Two branches that are added, then three that stand side by side, one of them pooled less."""

    def __init__(self):
        super().__init__()
        self.first, self.left = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1)
        self.norm, self.wide = nn.BatchNorm3d(4), nn.Conv3d(4, 3, 5, padding=2)
        self.pool, self.last = nn.MaxPool3d(2), nn.Linear(11, 2)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = self.pool(torch.relu(self.norm(self.left(x)) + x))
        x = torch.cat([x, self.wide(x), x + x], 1)
        return self.last(x.mean((2, 3, 4)))


class Unreadable(nn.Module):
    """Its course depends on the data, so that torch.fx cannot follow it."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv3d(1, 3, 3), nn.Linear(3, 2)

    def forward(self, x):
        x = self.conv(x).flatten(2).amax(2)
        return self.last(x) if len(x) > 0 else x


class Scale(nn.Module):
    """A layer that is not known: divides by the largest value of the map."""

    def forward(self, x):
        return x / x.abs().amax((1, 2, 3, 4), keepdim=True)


def _head(features, outputs=2):
    return [nn.Flatten(), nn.Linear(features, 6), nn.ReLU(), nn.Dropout(0.4), nn.Linear(6, outputs)]


# name: (image with channels, layers). Odd sizes; each holds what its name says.
NETWORKS = {
    "pooled": (
        (2, 13, 15, 12),
        lambda: [
            nn.Conv3d(2, 4, 3),
            nn.BatchNorm3d(4),
            nn.ReLU(),
            nn.MaxPool3d(2),
            nn.Conv3d(4, 5, 3, padding=1),
            nn.BatchNorm3d(5),
            nn.ELU(),
            nn.MaxPool3d(2),
            *_head(5 * 2 * 3 * 2),
        ],
    ),
    "strided and dilated": (
        (1, 14, 11, 13),
        lambda: [
            nn.Conv3d(1, 4, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv3d(4, 4, (2, 3, 1), dilation=(2, 1, 1), padding=(1, 1, 0), groups=2),
            nn.LeakyReLU(0.1),
            nn.Conv3d(4, 4, 3, padding="same", bias=False),
            nn.Tanh(),
            *_head(4 * 7 * 6 * 7),
        ],
    ),
    "strides over gaps": (
        (1, 13, 12, 11),
        lambda: [nn.Conv3d(1, 4, 2, stride=3), nn.ReLU(), *_head(4 * 4 * 4 * 4)],
    ),
    "overlapping pools": (
        (1, 13, 12, 11),
        lambda: [
            nn.Conv3d(1, 16, 3),
            nn.MaxPool3d(3, stride=2, padding=1, ceil_mode=True),
            nn.ReLU(),
            nn.Conv3d(16, 4, 2),
            nn.ReLU(),
            nn.BatchNorm3d(4),
            nn.MaxPool3d(2, stride=1, dilation=2),
            *_head(4 * 3 * 3 * 2),
        ],
    ),
    "averages with padding": (
        (1, 13, 12, 11),
        lambda: [
            nn.Conv3d(1, 4, 3),
            nn.ReLU(),
            nn.AvgPool3d(3, stride=2, padding=1),
            nn.Sigmoid(),
            nn.AvgPool3d(2, stride=2, padding=1, ceil_mode=True),
            *_head(4 * 4 * 3 * 3),
        ],
    ),
    "averages without padding": (
        (1, 13, 12, 11),
        lambda: [
            nn.BatchNorm3d(1),
            nn.Conv3d(1, 4, 3),
            nn.AvgPool3d((3, 2, 3), stride=2, padding=(1, 0, 1), count_include_pad=False),
            nn.ELU(),
            nn.AvgPool3d(2, ceil_mode=True, divisor_override=5),
            *_head(4 * 3 * 3 * 3),
        ],
    ),
    "adaptive": (
        (1, 10, 14, 12),
        lambda: [
            nn.Conv3d(1, 4, 3),
            nn.ReLU(),
            nn.AdaptiveMaxPool3d((4, 6, 5)),
            nn.Conv3d(4, 3, 1),
            nn.AdaptiveAvgPool3d((2, 4, 2)),
            *_head(3 * 2 * 4 * 2),
        ],
    ),
    "global average": (
        (1, 10, 11, 12),
        lambda: [
            nn.Conv3d(1, 4, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Conv3d(4, 5, 1),
            nn.Flatten(),
            nn.Linear(5, 2),
            nn.Softmax(1),
        ],
    ),
    "transposed": (
        (1, 9, 10, 8),
        lambda: [
            nn.Conv3d(1, 4, 3, stride=2),
            nn.ReLU(),
            nn.ConvTranspose3d(4, 3, 3, stride=2, padding=1, output_padding=1, groups=1),
            nn.BatchNorm3d(3),
            nn.ReLU(),
            nn.ConvTranspose3d(3, 2, 2, stride=3, dilation=2),
            *_head(2 * 24 * 24 * 18),
        ],
    ),
    "one output": (
        (1, 10, 11, 9),
        lambda: [nn.Conv3d(1, 4, 3), nn.ELU(), nn.MaxPool3d(3), *_head(4 * 2 * 3 * 2, 1)],
    ),
    "unknown in the middle": (
        (1, 10, 9, 9),
        lambda: [
            nn.Conv3d(1, 3, 3),
            nn.ReLU(),
            Scale(),
            nn.Conv3d(3, 3, 3, padding=1, padding_mode="replicate"),
            nn.MaxPool3d(2),
            *_head(3 * 4 * 3 * 3),
        ],
    ),
    "2D": (
        (3, 21, 18),
        lambda: [
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.ConvTranspose2d(8, 4, 2, stride=2),
            nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
            *_head(4 * 10 * 9),
        ],
    ),
    "residual": ((1, 11, 10, 12), lambda: [Residual()]),
    "unreadable": ((1, 8, 9, 7), lambda: [Unreadable()]),
}


def _network(name, seed=0):
    """Float64 network in evaluation mode with running statistics of its own, and two people."""
    torch.manual_seed(seed)
    shape, layers = NETWORKS[name]
    model = nn.Sequential(*layers()).double().eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, -2, 2)  # negative ones turn a maximum around
            nn.init.uniform_(layer.bias, -1, 1)
    return model, torch.randn(2, *shape, dtype=torch.float64)


def _score(model, image):
    if isinstance(model[-1], nn.Softmax):
        model = model[:-1]
    with torch.no_grad():
        scores = model(image[None])[0]
    return float(scores[-1])


def _naive(model, image, patch, stride, fill=0.0):
    """Map (x, y[, z]) of one image by a full forward pass per window, in float64."""
    total, times = np.zeros(image.shape[1:]), np.zeros(image.shape[1:])
    counts = [
        int(np.ceil((n - p) / s)) + 1
        for n, p, s in zip(image.shape[1:], patch, stride, strict=True)
    ]
    score = _score(model, image)
    for place in np.ndindex(*counts):
        cut = tuple(slice(i * s, i * s + p) for i, s, p in zip(place, stride, patch, strict=True))
        covered = image.clone()
        covered[(slice(None), *cut)] = torch.as_tensor(fill, dtype=image.dtype).view(
            -1, *(1,) * len(cut)
        )
        total[cut] += score - _score(model, covered)
        times[cut] += 1
    return total / times


def _assert_equal(heatmap, naive):
    assert np.abs(heatmap.numpy() - naive).max() < 1e-10 * max(1, np.abs(naive).max())
    assert np.ptp(naive) > 1e-6


# --- exactness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_a_forward_pass_per_window(name):
    model, people = _network(name)
    patch, stride = ((4, 5, 3), (3, 2, 3)) if people.dim() == 5 else ((5, 4), (2, 3))
    result = occlusion(model, people, 1, patch_mm=patch, stride_mm=stride)
    for image, heatmap in zip(people, result.heatmap, strict=True):
        naive = _naive(model, image, patch, stride)
        for channel in heatmap:
            _assert_equal(channel, naive)


@pytest.mark.parametrize("name", ["pooled", "overlapping pools", "residual", "2D"])
@pytest.mark.parametrize("seed", [1, 2])
def test_exact_for_any_way_of_grouping(name, seed, monkeypatch):
    """Small batches and chunks, evened boxes, and pooling at once or apart."""
    model, people = _network(name, seed)
    axes = people.dim() - 2
    naive = _naive(model, people[0], (3,) * axes, (3,) * axes)
    for cheap, call, batch, memory in [
        (0, 0, 1, 0.01),
        (10**9, 1e15, 5000, 0.05),
        (0, 1e15, 1e6, 1),
    ]:
        monkeypatch.setattr(planned, "CHEAP", cheap)
        monkeypatch.setattr(increments, "MACS_PER_CALL", {"cpu": call})
        monkeypatch.setattr(increments, "BATCH_VALUES", {"cpu": batch})
        result = occlusion(model, people[:1], 1, patch_mm=3, stride_mm=3, memory_mb=memory)
        _assert_equal(result.heatmap[0, 0], naive)


@pytest.mark.parametrize("memory_mb", [None, 0.02])
@pytest.mark.parametrize("stride", [(1, 2, 3), (3, 3, 4)])
def test_large_linear_layer_takes_only_what_changed(monkeypatch, memory_mb, stride):
    monkeypatch.setattr(planned, "LARGE_LINEAR", 10)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), *_head(3 * 9 * 8 * 10, 1)
    ).double()
    image = torch.randn(1, 1, 9, 8, 10, dtype=torch.float64)
    result = occlusion(
        model.eval(), image, 1, patch_mm=(3, 4, 5), stride_mm=stride, memory_mb=memory_mb
    )
    _assert_equal(result.heatmap[0, 0], _naive(model, image[0], (3, 4, 5), stride))


@pytest.mark.parametrize("fill", ["mean", 0.7])
def test_fill(fill):
    model, people = _network("pooled")
    result = occlusion(model, people, 1, patch_mm=5, stride_mm=4, fill=fill)
    cover = people[1].flatten(1).mean(1) if fill == "mean" else fill
    _assert_equal(result.heatmap[1, 0], _naive(model, people[1], (5,) * 3, (4,) * 3, cover))


def test_lengths_are_rounded_to_voxels():
    model, people = _network("pooled")
    voxel = (2.0, 1.0, 3.0)
    result = occlusion(model, people, 1, patch_mm=(6, 4.4, 7), stride_mm=3, voxel_mm=voxel)
    _assert_equal(result.heatmap[0, 0], _naive(model, people[0], (3, 4, 2), (2, 3, 1)))


def test_class_zero_of_one_output_is_the_negative():
    model, people = _network("one output")
    one, zero = (occlusion(model, people, t, patch_mm=4, stride_mm=4) for t in (1, 0))
    torch.testing.assert_close(one.heatmap, -zero.heatmap)
    torch.testing.assert_close(one.score, model(people)[:, 0].detach())


@pytest.mark.parametrize("name", ["boehle2019", "demo"])
def test_equals_captum_in_single_precision(name):
    torch.manual_seed(0)
    shape = (78, 80, 79) if name == "boehle2019" else (25, 27, 26)
    model = build(name, shape).eval()
    image = torch.rand(1, 1, *shape)
    patch, stride = (30, 11)[name == "demo"], (24, 8)[name == "demo"]
    ours = occlusion(model, image, 1, patch_mm=patch, stride_mm=stride).heatmap
    peer = Occlusion(model).attribute(
        image, target=1, sliding_window_shapes=(1, *(patch,) * 3), strides=(1, *(stride,) * 3)
    )
    assert (ours - peer).abs().max() < 1e-6 * model(image).abs().max()
    assert peer.abs().max() > 1e-4


@pytest.mark.parametrize("background", [True, False])
def test_regions_equal_captum(background):
    model, people = _network("pooled")
    labels = np.random.default_rng(0).integers(0, 5, people.shape[2:])
    labels[:3] = 70  # a label far away, and a region of one piece
    ours = region_occlusion(model, people, 1, regions=labels, background=background)
    mask = torch.from_numpy(np.unique(labels, return_inverse=True)[1].reshape(labels.shape))
    peer = FeatureAblation(model).attribute(
        people, target=1, feature_mask=mask.expand(1, 2, *mask.shape)
    )
    expected = peer if background else peer * torch.from_numpy(labels != 0)
    torch.testing.assert_close(ours.heatmap, expected.double(), rtol=0, atol=1e-10)
    shared = region_occlusion(
        model, people, 1, regions=labels, background=background, per_voxel=True
    )
    count = torch.from_numpy(np.bincount(labels.ravel())[labels])
    torch.testing.assert_close(shared.heatmap * count, expected.double(), rtol=0, atol=1e-10)


# --- work that is not done -----------------------------------------------------------------------


def test_what_changes_nothing_is_not_computed(monkeypatch):
    """Background that equals the fill, and a border that pooling leaves out."""
    model, people = _network("pooled")
    people[:, :, :6] = 0
    computed = []
    versions = Increments.versions

    def counted(self, changes, low, high):
        computed.append((low, high))
        return versions(self, changes, low, high)

    monkeypatch.setattr(Increments, "versions", counted)
    result = occlusion(model, people[:1], 1, patch_mm=2, stride_mm=2)
    low = np.concatenate([low for low, _ in computed])
    assert low[:, 0].min() == 6
    assert (result.heatmap[0, :, :6] == 0).all()
    # 15 voxels: the convolution leaves 13, pooling 6 of 12 and 3 of 6; the last voxel is not seen.
    assert low[:, 1].max() <= 12
    assert (result.heatmap[0, :, :, 14:] == 0).all()
    _assert_equal(result.heatmap[0, 0], _naive(model, people[0], (2,) * 3, (2,) * 3))


def test_multiply_adds_are_those_of_the_changed_outputs():
    """Counted by hand: 3 voxels reach 5 outputs of the first and 7 of the second convolution."""
    model = nn.Sequential(
        nn.Conv3d(1, 4, 3), nn.Conv3d(4, 2, 3), nn.Flatten(), nn.Linear(2 * 4096, 2)
    )
    image = torch.randn(1, 1, 20, 20, 20)
    kept = Increments(module.network_stages(model, image, 1), image)
    low = np.array([[8, 8, 8], [0, 8, 8]])
    counted = kept.multiply_adds(low, low + 3)
    assert counted[0] == 5**3 * 4 * 27 + 7**3 * 8 * 27
    assert counted[1] == 3 * 5**2 * 4 * 27 + 3 * 7**2 * 8 * 27


def test_coarse_to_fine_tries_only_what_stands_out():
    """One voxel decides: near it the map is that of all windows tried there."""
    model = nn.Sequential(nn.Conv3d(1, 2, 1), nn.Flatten(), nn.Linear(2 * 16**3, 2)).double()
    weight = torch.zeros(2, 2, 16, 16, 16, dtype=torch.float64)
    weight[1, 0, 3, 4, 5] = 1
    model[2].weight.data = weight.flatten(1)
    model[0].weight.data.fill_(1)
    image = torch.ones(1, 1, 16, 16, 16, dtype=torch.float64)
    steps = []
    fine = occlusion(model, image, 1, patch_mm=4, stride_mm=1)
    coarse = occlusion(
        model, image, 1, patch_mm=4, stride_mm=1, coarse_to_fine=True,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert coarse.heatmap[0, 0, 3, 4, 5] == fine.heatmap[0, 0, 3, 4, 5] == 1
    assert coarse.heatmap[0, 0, 9:].abs().max() == 0
    assert steps[-1] == (13**3, 13**3)
    assert steps[0][0] < 100  # 4 x 4 x 4 windows cover the image


# --- interruption and memory ---------------------------------------------------------------------


def _long(model, people, **keywords):
    return occlusion(model, people, 1, patch_mm=4, stride_mm=3, memory_mb=0.1, **keywords)


def test_goes_on_after_an_interruption(tmp_path, monkeypatch):
    model, people = _network("pooled")
    path, seen = tmp_path / "sweep.npz", []

    def stop(done, total):
        seen.append(done)
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _long(model, people, progress=stop, checkpoint=path)
    assert os.listdir(tmp_path) == ["sweep.npz"]
    computed = _counted(monkeypatch)
    again = _long(model, people, checkpoint=path)
    total = 2 * len(windows(people.shape[2:], 4, 3, 1))
    assert 0 < sum(computed) <= total - seen[-1]
    torch.testing.assert_close(again.heatmap, _long(model, people).heatmap, rtol=0, atol=0)


def _counted(monkeypatch):
    computed, drops = [], module._Sweep._drops

    def counted(self, versions):
        computed.append(len(versions))
        return drops(self, versions)

    monkeypatch.setattr(module._Sweep, "_drops", counted)
    return computed


@pytest.mark.parametrize("changed", ["weights", "image", "stride", "file"])
def test_another_sweep_begins_anew(tmp_path, monkeypatch, changed):
    model, people = _network("pooled")
    path = tmp_path / "sweep.npz"
    _long(model, people, checkpoint=path)
    if changed == "weights":
        model[0].weight.data[0, 0, 0, 0, 0] += 1
    elif changed == "image":
        people[1, 0, 6, 6, 6] += 1
    elif changed == "file":
        path.write_bytes(path.read_bytes()[:200])
    stride = 2 if changed == "stride" else 3
    computed = _counted(monkeypatch)
    result = occlusion(model, people, 1, patch_mm=4, stride_mm=stride, checkpoint=path)
    assert sum(computed) > len(people) * 50
    fresh = occlusion(model, people, 1, patch_mm=4, stride_mm=stride)
    torch.testing.assert_close(result.heatmap, fresh.heatmap, rtol=0, atol=0)


def test_checkpoint_is_written_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", -1.0)
    model, people = _network("pooled")
    path, found = tmp_path / "sweep.npz", []
    _long(model, people, checkpoint=path, progress=lambda *_: found.append(path.exists()))
    assert len(found) > 2
    assert all(found)


def test_halves_when_memory_runs_out(monkeypatch):
    model, people = _network("pooled")
    versions, sizes = Increments.versions, []

    def tight(self, changes, low, high):
        sizes.append(len(low))
        if len(low) > 7:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return versions(self, changes, low, high)

    monkeypatch.setattr(Increments, "versions", tight)
    halved = occlusion(model, people, 1, patch_mm=4, stride_mm=3)
    monkeypatch.undo()
    whole = occlusion(model, people, 1, patch_mm=4, stride_mm=3)
    assert max(sizes) > 7
    torch.testing.assert_close(halved.heatmap, whole.heatmap, rtol=0, atol=1e-12)


@pytest.mark.parametrize("message", ["something else", "out of memory"])
def test_other_errors_and_no_memory_at_all_are_raised(monkeypatch, message):
    model, people = _network("pooled")

    def broken(*_):
        raise RuntimeError(message)

    monkeypatch.setattr(Increments, "versions", broken)
    with pytest.raises(RuntimeError, match=message):
        occlusion(model, people, 1, patch_mm=6, stride_mm=6)


# --- manners -------------------------------------------------------------------------------------


def test_leaves_the_model_and_the_images_alone():
    model, people = _network("pooled")
    before, images = deepcopy(model.state_dict()), people.clone()
    for stop in (False, True):
        try:
            occlusion(model, people, 1, patch_mm=4, stride_mm=4, progress=_raise if stop else None)
        except ZeroDivisionError:
            assert stop
        assert torch.is_grad_enabled()
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert torch.equal(people, images)
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(layer._forward_hooks for layer in model.modules())


def _raise(done, total):
    raise ZeroDivisionError


def test_stays_in_evaluation_mode_semantics():
    """A batch of people gives what each of them gives alone."""
    model, people = _network("residual")
    both = occlusion(model, people, 1, patch_mm=5, stride_mm=4)
    for person in range(2):
        alone = occlusion(model, people[person : person + 1], 1, patch_mm=5, stride_mm=4)
        assert torch.equal(alone.heatmap[0], both.heatmap[person])
        assert torch.equal(alone.score[0], both.score[person])


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"patch_mm": 0}, "patch_mm"),
        ({"patch_mm": (1, 2)}, "patch_mm"),
        ({"patch_mm": 2, "stride_mm": 3}, "gaps"),
        ({"fill": "median"}, "median"),
    ],
)
def test_says_what_is_wrong(keywords, message):
    model, people = _network("pooled")
    with pytest.raises(InputError, match=message):
        occlusion(model, people, 1, **{"patch_mm": 4, "stride_mm": 3} | keywords)


def test_says_what_is_wrong_with_target_atlas_and_network():
    model, people = _network("pooled")
    with pytest.raises(InputError, match="class 2"):
        occlusion(model, people, 2)
    for regions, message in [
        (None, "regions"),
        (np.zeros((3, 3, 3)), "grid"),
        (np.full(people.shape[2:], 0.5), "whole number"),
        (np.zeros(people.shape[2:]), "nothing to cover"),
    ]:
        with pytest.raises(InputError, match=message):
            region_occlusion(model, people, 1, regions=regions)
