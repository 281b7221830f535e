"""Networks as people write them, and what must never be explained silently and wrongly."""

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.attribution import (
    ACROSS_CHANNELS,
    METHODS,
    OF_TENSORS,
    attribute,
    check_parameters,
    context,
    explain,
)
from models.attribution.lrp import described
from models.errors import InputError
from pipelines.interfaces.attribution import Surroundings, explain_rows

QUICK = {
    "integrated_gradients": {"steps": 2},
    "smoothgrad": {"samples": 2},
    "occlusion": {"patch_mm": 4.0, "stride_mm": 4.0},
}
GRID = (8, 8, 8)
ANY_IMAGE = [method for method in METHODS if method not in OF_TENSORS]


def ask(model, volumes, method="saliency", **parameters):
    parameters = QUICK.get(method, {}) | parameters
    if "regions" in context(method):
        parameters.setdefault("regions", np.indices(GRID)[0] // 4 + 1)
    return attribute(model, volumes, method=method, **parameters)


class Viewing(nn.Module):
    """The commonest way to flatten."""

    def __init__(self):
        super().__init__()
        self.features, self.head = nn.Conv3d(1, 4, 3), nn.Linear(4 * 216, 2)

    def forward(self, x, mask=None):
        features = F.relu(self.features(x))
        self.seen = features
        return self.head(features.view(features.size(0), -1))


@pytest.mark.parametrize("method", ANY_IMAGE)
def test_view_optional_arguments_and_stored_features(method):
    model, volumes = Viewing(), torch.rand(2, 1, *GRID)
    found = ask(model, volumes, method)
    assert torch.allclose(found.score, model(volumes)[:, 1], rtol=1e-4, atol=1e-5)
    model = Viewing()
    ask(model, volumes, method)
    assert not hasattr(model, "seen")  # as before


class Louder(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 5


def ending(*layers):
    return nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.Flatten(), *layers).eval()


def test_a_layer_that_does_something_else_is_not_taken_for_its_base():
    model, volumes = ending(Louder(432, 2)), torch.rand(1, 1, *GRID)
    with pytest.raises(InputError, match="not known here"):
        ask(model, volumes, "lrp_0")
    assert torch.allclose(ask(model, volumes).score, model(volumes)[:, 1], rtol=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("method", ANY_IMAGE)
def test_hooks_are_run_or_refused(method):
    model, volumes = ending(nn.Linear(432, 2)), torch.rand(1, 1, *GRID)
    nn.utils.weight_norm(model[0])
    model(volumes)
    with torch.no_grad():
        model[0].weight_g *= 2  # the weight follows at the next call
    if method.startswith(("lrp", "deep")):
        with pytest.raises(InputError, match="hook"):
            ask(model, volumes, method)
        return
    found = ask(model, volumes, method)
    assert torch.allclose(found.score, model(volumes)[:, 1], rtol=1e-4)


@pytest.mark.parametrize("method", ANY_IMAGE)
def test_people_are_never_mixed_by_batch_statistics(method):
    norm = nn.BatchNorm3d(2, track_running_stats=False)
    model = nn.Sequential(nn.Conv3d(1, 2, 3), norm, nn.Flatten(), nn.Linear(432, 2))
    with pytest.raises(InputError, match="'1' keeps no running statistics"):
        ask(model, torch.rand(2, 1, *GRID), method)


@pytest.mark.parametrize("last", [nn.Flatten(), nn.Unflatten(1, (1,)), nn.Identity()])
@pytest.mark.parametrize("method", ["saliency", "lrp_0", "occlusion"])
def test_a_reshaped_sigmoid_does_not_hide_the_score(method, last):
    convolution = nn.Conv3d(1, 1, 3)
    model = nn.Sequential(convolution, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Sigmoid(), last)
    if isinstance(last, nn.Unflatten):
        model.append(nn.Flatten())
    volumes = torch.rand(1, 1, *GRID)
    expected = convolution(volumes).mean()
    assert torch.allclose(ask(model, volumes, method).score, expected, rtol=1e-4)


class Joined(nn.Module):
    def __init__(self, axis):
        super().__init__()
        self.axis, self.convolution = axis, nn.Conv3d(1, 2, 3)

    def forward(self, x):
        y = self.convolution(x)
        return torch.cat([y, F.relu(y)], axis=self.axis).mean((2, 3, 4))


def test_axis_is_dim_and_people_are_not_joined():
    volumes = torch.rand(2, 1, *GRID)
    assert ask(Joined(1), volumes, target=3).heatmap.shape == volumes.shape
    with pytest.raises(InputError, match="joins people"):
        ask(Joined(0), volumes, "lrp_0")


def test_methods_across_channels_repeat_one_map_which_the_app_counts_once():
    model = nn.Sequential(nn.Conv3d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(432, 2))
    volumes = torch.rand(1, 3, *GRID)
    around = Surroundings((1.0,) * 3, np.indices(GRID)[0] // 4 + 1)
    for method in ANY_IMAGE:
        heatmap = ask(model, volumes, method).heatmap
        entry = {"name": "x", "method": method} | QUICK.get(method, {})
        shown = torch.from_numpy(explain_rows(model, volumes.numpy(), [0], entry, 1, around)[0])
        expected = heatmap.sum(1)
        if method in ACROSS_CHANNELS:
            assert torch.equal(heatmap[:, :1].expand_as(heatmap), heatmap)
            expected = heatmap[:, 0]
        assert torch.allclose(shown, expected, atol=1e-6), method


class Broadcast(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Conv3d(1, 4, 1), nn.Conv3d(1, 1, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head((self.wide(x) + self.narrow(x)).mean((2, 3, 4)))


def test_a_branch_of_one_channel_added_to_many():
    model, volumes = Broadcast().double(), torch.rand(2, 1, *GRID).double()
    found = ask(model, volumes, "lrp_0", start="logit")
    shares = sum(share for name, share in found.ledger.items() if name != "start")
    assert torch.allclose(shares, found.ledger["start"])
    x = volumes.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    assert torch.allclose(found.heatmap.double(), volumes * gradient, atol=1e-6)


def test_a_falling_leaky_relu_keeps_its_place_before_a_pooling():
    falling = nn.LeakyReLU(-0.5)
    model = nn.Sequential(nn.Conv3d(1, 2, 3), falling, nn.MaxPool3d(2), nn.Flatten())
    model.append(nn.Linear(54, 2))
    volumes = torch.rand(1, 1, *GRID)
    found = ask(model, volumes, "lrp_epsilon")
    assert torch.allclose(found.score, model(volumes)[:, 1], rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("lrp_epsilon", {"epsilon": "x"}),
        ("lrp_epsilon", {"epsilon": -1.0}),
        ("lrp_epsilon", {"epsilon": float("nan")}),
        ("lrp_alpha_beta", {"beta": float("inf")}),
        ("lrp_alpha_beta", {"beta": True}),
        ("lrp_epsilon", {"unit": "a"}),
        ("smoothgrad", {"samples": 2.5}),
        ("integrated_gradients", {"baseline": None}),
        ("integrated_gradients", {"baseline": float("nan")}),
        ("occlusion", {"fill": float("nan")}),
        ("occlusion", {"patch_mm": "x"}),
        ("saliency", {"form": ["abs"]}),
        ("lrp_composite", {"preset": ["x"]}),
        ("lrp_composite", {"rules": "conv"}),
        ("lrp_composite", {"rules": [["conv"]]}),
        ("lrp_composite", {"rules": [[1, "epsilon"]]}),
        ("lrp_composite", {"rules": [["any", "epsilon", {"epsilon": "x"}]]}),
        ("lrp_composite", {"rules": [["any", "epsilon", {"beta": 1}]]}),
        ("lrp_composite", {"rules": [["conv 4-2", "flat"], ["any", "epsilon"]]}),
        ("lrp_composite", {"rules": [["conv 0", "flat"], ["any", "epsilon"]]}),
    ],
)
def test_values_of_another_kind_are_input_errors(method, parameters):
    with pytest.raises(InputError):
        ask(ending(nn.Linear(432, 2)), torch.rand(1, 1, *GRID), method, **parameters)


def test_what_belongs_to_the_run_is_no_recipe_value():
    with pytest.raises(InputError, match="set by the run"):
        check_parameters("occlusion", {"voxel_mm": 9.0})
    check_parameters("occlusion", {"patch_mm": [10, 10, 20], "fill": 0.5})


def test_the_doors():
    model = ending(nn.Linear(432, 2))
    volume = nib.Nifti1Image(np.random.default_rng(0).random(GRID), np.eye(4))
    atlas = nib.Nifti1Image((np.indices(GRID)[0] // 4 + 1).astype(np.int16), np.eye(4))
    heatmap = explain(model, volume, method="region_occlusion", regions=atlas, autocast=False)
    assert heatmap.shape == GRID
    with pytest.raises(InputError, match="no numbers"):
        attribute(model, torch.full((1, 1, *GRID), torch.nan), method="saliency")
    with pytest.raises(InputError, match="number of a class"):
        attribute(model, torch.rand(1, 1, *GRID), method="saliency", target="AD")
    with pytest.raises(InputError, match="9x9x9 voxels"):
        explain(model, np.zeros((9, 9, 9)), method="saliency")
    found = attribute(nn.DataParallel(model), torch.ones(1, 1, *GRID, dtype=int), method="lrp_0")
    assert found.heatmap.shape == (1, 1, *GRID)


def test_a_composite_can_be_written_down():
    assert described(rules=[["any", "epsilon"]]) == [
        ["any", "epsilon", {"epsilon": 1e-3, "bias": "absorb"}]
    ]
    assert described("nazari2021")[1] == ["conv 1-2", "flat", {}]
