"""Chain rule from the tensor to its shape, against finite differences through the eigensystem."""

from math import sqrt

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from models.attribution import ACROSS_CHANNELS, attribute
from models.attribution.diktiometry import MEASURES, derivatives
from models.errors import InputError
from models.networks import build
from models.tensor import Shape, assembled, eigen, shape

STEP = 1e-5


def score(tensors):
    """Any smooth function of the six components, another at each place."""
    weights = torch.linspace(-1, 1, tensors.numel(), dtype=tensors.dtype).reshape(tensors.shape)
    return (torch.sin(3 * weights * tensors) + (tensors * weights.flip(0)) ** 2).sum(-1)


@pytest.fixture(scope="module")
def case():
    """Tensors, their gradient by the components, eigenvectors and shape."""
    generator = torch.Generator().manual_seed(3)
    vectors, _ = torch.linalg.qr(torch.randn(40, 3, 3, generator=generator).double())
    values = torch.rand(40, 3, generator=generator).double() + torch.tensor([2.4, 1.2, 0.1])
    tensors = assembled(values, vectors).requires_grad_()
    (gradient,) = torch.autograd.grad(score(tensors).sum(), tensors)
    tensors = tensors.detach()
    return tensors, gradient, eigen(tensors)[1], shape(values)


def slope(vectors, moved):
    """Central difference of the score, for eigenvalues at -step and +step, eigenvectors kept."""
    low, high = (score(assembled(moved(step), vectors)) for step in (-STEP, STEP))
    return (high - low) / (2 * STEP)


@pytest.mark.parametrize("name", ["mu", "sigma", "theta"])
def test_one_measure_is_changed_and_the_others_are_held(case, name):
    tensors, gradient, vectors, form = case

    def moved(step):
        values = {"mu": form.mu, "sigma": form.sigma, "theta": form.theta}
        values[name] = values[name] + step
        return Shape(**values).eigenvalues

    found = derivatives(tensors, gradient)[name]
    assert_allclose(found, slope(vectors, moved), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "of"), [("muhat", "mu"), ("sigma", "sigma"), ("thetahat", "theta")]
)
def test_hats_move_the_eigenvalues_by_one(case, name, of):
    """|dl| per unit is sqrt(3) along mu, 1 along sigma and sigma along theta."""
    tensors, gradient, vectors, form = case
    length = {"mu": sqrt(3) * torch.ones(40), "sigma": torch.ones(40), "theta": form.sigma}[of]

    def moved(step):
        values = {"mu": form.mu, "sigma": form.sigma, "theta": form.theta}
        values[of] = values[of] + step / length
        return Shape(**values).eigenvalues

    steps = (moved(STEP) - moved(-STEP)) / (2 * STEP)
    assert_allclose(steps.norm(dim=-1), 1, rtol=1e-6)
    assert_allclose(
        derivatives(tensors, gradient)[name], slope(vectors, moved), rtol=1e-5, atol=1e-7
    )


def test_fa_is_the_sum_over_both_ways_of_changing_it(case):
    tensors, gradient, vectors, form = case

    def fa_changed(step, *, by):
        """The shape whose FA differs by ``step``, found by solving for mu or sigma."""
        fa = form.fa + step
        # FA^2 (3 mu^2 + sigma^2) = 3/2 sigma^2
        if by == "sigma":
            sigma = form.mu * fa * torch.sqrt(3 / (1.5 - fa**2))
            return Shape(form.mu, sigma, form.theta).eigenvalues
        mu = form.sigma * torch.sqrt((1.5 / fa**2 - 1) / 3)
        return Shape(mu, form.sigma, form.theta).eigenvalues

    both = sum(
        slope(vectors, lambda step, by=by: fa_changed(step, by=by)) for by in ("sigma", "mu")
    )
    assert_allclose(derivatives(tensors, gradient)["fa"], both, rtol=1e-5, atol=1e-6)


def test_fa_direction_keeps_the_size_of_the_tensor(case):
    tensors, gradient, vectors, form = case
    size = torch.sqrt(3 * form.mu**2 + form.sigma**2)

    def moved(step):
        sigma = (form.fa + step) * size / sqrt(1.5)
        mu = torch.sqrt((size**2 - sigma**2) / 3)
        return Shape(mu, sigma, form.theta).eigenvalues

    assert_allclose(moved(0.0).norm(dim=-1), size)
    assert_allclose(moved(0.1).norm(dim=-1), size)
    found = derivatives(tensors, gradient)["fadirection"]
    assert_allclose(found, slope(vectors, moved), rtol=1e-5, atol=1e-6)


def test_by_autograd_through_an_eigendecomposition():
    """The other way round: N that is a function of the shape alone has these derivatives."""
    generator = torch.Generator().manual_seed(5)
    vectors, _ = torch.linalg.qr(torch.randn(30, 3, 3, generator=generator).double())
    values = torch.rand(30, 3, generator=generator).double() + torch.tensor([2.4, 1.2, 0.1])
    tensors = assembled(values, vectors).requires_grad_()
    form = shape(torch.linalg.eigvalsh(_matrices(tensors)).flip(-1))
    scores = 2 * form.mu - 3 * form.sigma + 0.5 * form.theta
    (gradient,) = torch.autograd.grad(scores.sum(), tensors)
    found = derivatives(tensors.detach(), gradient)
    for name, expected in (("mu", 2), ("sigma", -3), ("theta", 0.5), ("muhat", 2 / sqrt(3))):
        assert_allclose(found[name], expected, atol=1e-9)


def _matrices(tensors):
    xx, xy, xz, yy, yz, zz = tensors.unbind(-1)
    rows = [torch.stack(row, -1) for row in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))]
    return torch.stack(rows, -2)


def test_slow_replica_voxel_by_voxel(case):
    tensors, gradient, _, form = case
    found = derivatives(tensors, gradient)
    for i in range(len(tensors)):
        d, g = np.zeros((3, 3)), np.zeros((3, 3))
        for k, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]):
            d[row, column] = d[column, row] = tensors[i, k]
            share = 1.0 if row == column else 0.5
            g[row, column] = g[column, row] = share * gradient[i, k]
        _, vectors = np.linalg.eigh(d)
        n = [vectors[:, k] @ g @ vectors[:, k] for k in (2, 1, 0)]
        t, s = float(form.theta[i]), float(form.sigma[i])
        by_sigma = (
            sqrt(2 / 3) * np.cos(t) * n[0]
            + (sqrt(1 / 2) * np.sin(t) - sqrt(1 / 6) * np.cos(t)) * n[1]
            - (sqrt(1 / 2) * np.sin(t) + sqrt(1 / 6) * np.cos(t)) * n[2]
        )
        by_theta = (
            -sqrt(2 / 3) * s * np.sin(t) * n[0]
            + s * (sqrt(1 / 2) * np.cos(t) + sqrt(1 / 6) * np.sin(t)) * n[1]
            - s * (sqrt(1 / 2) * np.cos(t) - sqrt(1 / 6) * np.sin(t)) * n[2]
        )
        assert found["mu"][i] == pytest.approx(sum(n))
        assert found["sigma"][i] == pytest.approx(by_sigma)
        assert found["theta"][i] == pytest.approx(by_theta)


def test_tensors_without_shape_or_size_give_zero():
    tensors = torch.tensor(
        [[2.0, 0, 0, 2, 0, 2], [0.0, 0, 0, 0, 0, 0], [3.0, 0, 0, 1, 0, 1], [1.0, 0, 0, 0, 0, -2]]
    ).double()
    found = derivatives(tensors, torch.ones_like(tensors))
    assert all(torch.isfinite(value).all() for value in found.values())
    ball, nothing, cigar, odd = ({name: float(v[i]) for name, v in found.items()} for i in range(4))
    assert ball["mu"] == pytest.approx(3)
    assert all(ball[name] == 0 for name in ("sigma", "theta", "thetahat", "fa", "fadirection"))
    assert set(nothing.values()) == {0}
    assert cigar["theta"] == cigar["thetahat"] == 0
    assert cigar["fa"] != 0
    assert odd["fa"] == odd["fadirection"] == 0  # a negative mean has no FA
    assert odd["sigma"] != 0


# --- through a network ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    """A network of six channels with one logit, and two tensor images with an empty border."""
    torch.manual_seed(1)
    model = build("diktiometry", (16, 16, 16), channels=6, outputs=1).double().eval()
    generator = torch.Generator().manual_seed(2)
    vectors, _ = torch.linalg.qr(torch.randn(2, 16, 16, 16, 3, 3, generator=generator).double())
    values = torch.rand(2, 16, 16, 16, 3, generator=generator).double()
    volumes = assembled(values + torch.tensor([0.9, 0.5, 0.1]), vectors).movedim(-1, 1)
    volumes[:, :, :3] = 0
    return model, volumes.contiguous()


@pytest.mark.parametrize("measure", MEASURES)
def test_a_network_s_map_is_the_slope_of_its_score(network, measure):
    """All voxels of one person change at once, each along its own measure, by a random amount."""
    model, volumes = network
    found = attribute(model, volumes, method="diktiometry", measure=measure)
    assert found.heatmap.shape == volumes.shape
    assert torch.equal(found.heatmap[:, :1].expand_as(found.heatmap), found.heatmap)
    assert (found.heatmap[:, :, :3] == 0).all()
    assert torch.allclose(found.score, model(volumes)[:, 0])
    other = attribute(model, volumes, method="diktiometry", measure=measure, target=0)
    assert torch.allclose(other.heatmap, -found.heatmap)
    if measure == "fa":
        return  # a sum over two ways of changing it, see above
    inside = (volumes[0] != 0).any(0)
    values, vectors = eigen(volumes[0].movedim(0, -1)[inside])
    form = shape(values)
    amount = torch.rand(len(values), generator=torch.Generator().manual_seed(3)).double()

    def moved(step):
        steps = step * amount
        mu, sigma, theta = form.mu, form.sigma, form.theta
        size = torch.sqrt(3 * mu**2 + sigma**2)
        turned = (form.fa + steps) * size / sqrt(1.5)
        return {
            "mu": Shape(mu + steps, sigma, theta),
            "muhat": Shape(mu + steps / sqrt(3), sigma, theta),
            "sigma": Shape(mu, sigma + steps, theta),
            "theta": Shape(mu, sigma, theta + steps),
            "thetahat": Shape(mu, sigma, theta + steps / sigma),
            "fadirection": Shape(torch.sqrt((size**2 - turned**2) / 3), turned, theta),
        }[measure].eigenvalues

    def scored(step):
        image = volumes[:1].clone()
        image[0][:, inside] = assembled(moved(step), vectors).T
        return float(model(image)[0, 0].detach())

    slope = (scored(1e-6) - scored(-1e-6)) / 2e-6
    assert float((found.heatmap[0, 0][inside] * amount).sum()) == pytest.approx(slope, rel=1e-3)


def test_other_images_and_measures_are_refused(network):
    model, volumes = network
    assert "diktiometry" in ACROSS_CHANNELS
    with pytest.raises(InputError, match="measure = 'md' is unknown; choose one of: mu, sigma"):
        attribute(model, volumes, method="diktiometry", measure="md")
    scalar = build("diktiometry", (16, 16, 16))
    with pytest.raises(InputError, match="six channels"):
        attribute(scalar, torch.rand(1, 1, 16, 16, 16), method="diktiometry")
