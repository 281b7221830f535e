"""Gradients against finite differences and autograd, and a model that comes back as it was."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from models.attribution import METHODS, check_parameters, defaults, explain
from models.attribution.gradients import input_x_gradient, saliency
from models.errors import InputError


def network(seed=0):
    """A small trained-looking network: BatchNorm has seen something, dropout would be noticed."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Sequential(nn.Conv3d(1, 3, 3), nn.BatchNorm3d(3), nn.ReLU(), nn.MaxPool3d(2)),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(24, 5),
        nn.ELU(),
        nn.Linear(5, 2),
    )
    with torch.no_grad():
        model[0][1].running_mean.normal_()
        model[0][1].running_var.uniform_(0.5, 2)
    return model.eval()


def people(n=3, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 6, 6, 6, generator=generator, dtype=torch.float64).to(dtype)


def finite_differences(model, volumes, target, step=1e-6):
    """Central differences of the score, voxel by voxel, in float64."""
    gradient = torch.zeros_like(volumes)
    with torch.no_grad():
        for i in range(volumes[0].numel()):
            ahead, behind = volumes.clone(), volumes.clone()
            ahead.flatten(1)[:, i] += step
            behind.flatten(1)[:, i] -= step
            change = (model(ahead) - model(behind))[:, target] / (2 * step)
            gradient.flatten(1)[:, i] = change
    return gradient


@pytest.mark.parametrize("target", [0, 1])
def test_gradients_are_finite_differences(target):
    model, volumes = network().double(), people(2, dtype=torch.float64)
    expected = finite_differences(model, volumes, target)
    assert expected.abs().max() > 1e-3
    for found, formula in (
        (saliency(model, volumes, target, form="signed"), expected),
        (saliency(model, volumes, target), expected.abs()),
        (saliency(model, volumes, target, form="square"), expected**2),
        (input_x_gradient(model, volumes, target), expected * volumes),
    ):
        assert torch.allclose(found.heatmap, formula, atol=1e-8)
        assert torch.equal(found.score, model(volumes)[:, target])
        assert found.ledger == {}


def test_gradients_are_autograds():
    model, volumes = network().double(), people(1, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x)[0], volumes)
    for target in (0, 1):
        found = saliency(model, volumes, target, form="signed").heatmap
        assert torch.allclose(found, jacobian[target], atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_explain_returns_float32_maps_of_the_inputs_shape(method):
    model, volumes = network(), people()
    found = explain(model, volumes, method=method)
    assert found.heatmap.shape == volumes.shape
    assert found.heatmap.dtype == torch.float32
    assert not found.heatmap.requires_grad
    assert not found.score.requires_grad
    assert torch.allclose(found.score, model(volumes)[:, 1], atol=1e-6)
    assert (found.heatmap.abs().amax((1, 2, 3, 4)) > 0).all()
    assert all(share.shape == (3,) for share in found.ledger.values())


@pytest.mark.parametrize("method", METHODS)
def test_the_classes_are_explained_apart(method):
    model, volumes = network(), people()
    one, other = (explain(model, volumes, method=method, target=t) for t in (0, 1))
    assert not torch.allclose(one.heatmap, other.heatmap)
    assert torch.allclose(torch.stack([one.score, other.score], 1), model(volumes), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_people_one_by_one(method):
    model, volumes = network().double(), people(dtype=torch.float64)
    together = explain(model, volumes, method=method)
    for i in range(len(volumes)):
        alone = explain(model, volumes[i : i + 1], method=method)
        assert torch.allclose(together.heatmap[i], alone.heatmap[0], rtol=1e-6, atol=1e-9)
        assert together.ledger.keys() == alone.ledger.keys()
        for name, share in together.ledger.items():
            assert torch.allclose(share[i], alone.ledger[name][0], atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_training_mode_and_no_grad_around_it_do_not_matter(method):
    model, volumes = network(), people()
    expected = explain(model, volumes, method=method).heatmap
    model.train()
    with torch.no_grad():
        found = explain(model, volumes, method=method).heatmap
    assert torch.equal(found, expected)


def snapshot(model):
    """Everything of a model that somebody could miss afterwards."""
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "identity": [id(value) for value in (*model.parameters(), *model.buffers())],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "modules": [(name, type(m)) for name, m in model.named_modules()],
        "hooks": [
            len(hooks)
            for m in model.modules()
            for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)
        ],
    }


def assert_unchanged(model, before):
    after = snapshot(model)
    for name in ("identity", "requires_grad", "modes", "modules", "hooks"):
        assert after[name] == before[name], name
    assert all(torch.equal(after["state"][k], v) for k, v in before["state"].items())
    for now, then in zip(after["gradients"], before["gradients"], strict=True):
        assert (now is None) == (then is None)
        assert now is None or torch.equal(now, then)


class Refuses(nn.Module):
    """A layer that no method can pass."""

    def forward(self, x):
        raise RuntimeError("out of memory")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_the_model_comes_back_as_it_was(method, training):
    model, volumes = network().train(training), people()
    model[0][1].training = not training  # a frozen BatchNorm in a network that is training
    model[3].weight.requires_grad_(False)
    model[5].weight.grad = torch.ones_like(model[5].weight)
    before, given = snapshot(model), volumes.clone()
    explain(model, volumes, method=method)
    assert_unchanged(model, before)
    assert torch.equal(volumes, given)
    assert not volumes.requires_grad

    broken = nn.Sequential(*model, Refuses())
    before = snapshot(broken)
    with pytest.raises((RuntimeError, InputError), match=r"out of memory|Refuses"):
        explain(broken, volumes, method=method)
    assert_unchanged(broken, before)
    assert torch.equal(volumes, given)


@pytest.mark.parametrize("method", METHODS)
def test_it_can_be_asked_twice(method):
    model, volumes = network(), people()
    first = explain(model, volumes, method=method)
    assert torch.equal(explain(deepcopy(model), volumes, method=method).heatmap, first.heatmap)
    assert torch.equal(explain(model, volumes, method=method).heatmap, first.heatmap)


def test_unknown_methods_and_parameters_are_input_errors():
    model, volumes = network(), people(1)
    with pytest.raises(InputError, match=r"no attribution 'shap'; choose one of: .*saliency"):
        explain(model, volumes, method="shap")
    with pytest.raises(InputError, match="saliency has no parameter 'beta'; it has: form"):
        explain(model, volumes, method="saliency", beta=1.0)
    with pytest.raises(InputError, match="no form 'cube'; choose one of: abs, square, signed"):
        explain(model, volumes, method="saliency", form="cube")
    with pytest.raises(InputError, match="no parameter 'model'"):
        check_parameters("saliency", {"model": model})
    with pytest.raises(InputError, match="lrp_alpha_beta has no parameter 'epsilon'"):
        check_parameters("lrp_alpha_beta", {"beta": 1.0, "epsilon": 1.0})
    check_parameters("lrp_epsilon", {"epsilon": 1e-4, "bias": "ignore", "start": "logit"})


def test_defaults_are_what_a_call_without_parameters_uses():
    assert defaults("saliency") == {"form": "abs"}
    assert defaults("input_x_gradient") == {}
    assert defaults("lrp_epsilon") == {"epsilon": 1e-3, "bias": "absorb", "start": "probability"}
    assert defaults("lrp_alpha_beta")["beta"] == 0
    model, volumes = network(), people()
    for method in METHODS:
        check_parameters(method, defaults(method))
        spelled = explain(model, volumes, method=method, **defaults(method))
        assert torch.equal(spelled.heatmap, explain(model, volumes, method=method).heatmap)
