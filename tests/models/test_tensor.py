"""Tensors: conventions, shape against the formulas of the paper, logarithms, mirrors."""

from math import pi, sqrt

import numpy as np
import pytest
import torch
from dipy.reconst.dti import fractional_anisotropy, from_lower_triangular, lower_triangular
from numpy.testing import assert_allclose
from scipy.linalg import expm, logm

from models.tensor import (
    OF_LOWER_TRIANGULAR,
    assembled,
    components,
    eigen,
    exponential,
    logarithm,
    matrices,
    mean,
    mirrored,
    positive,
    scalars,
    shape,
)

DEGENERATE = torch.tensor(
    [
        [2.0, 0, 0, 2.0, 0, 2.0],  # a ball
        [3.0, 0, 0, 1.0, 0, 1.0],  # a cigar
        [1.0, 0, 0, 3.0, 0, 3.0],  # a disc
        [0.0, 0, 0, 0.0, 0, 0.0],  # nothing
    ],
    dtype=torch.float64,
)


def random_tensors(count=200, seed=1):
    """Positive tensors with the sizes of the brain's, in 1e-3 mm^2/s."""
    generator = torch.Generator().manual_seed(seed)
    vectors, _ = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator, dtype=torch.float64))
    values = 0.1 + 2 * torch.rand(count, 3, generator=generator, dtype=torch.float64)
    return assembled(values.sort(-1, descending=True).values, vectors)


def test_components_stand_as_in_bids():
    matrix = torch.tensor([[1.0, 2, 3], [2, 4, 5], [3, 5, 6]])
    assert components(matrix).tolist() == [1, 2, 3, 4, 5, 6]
    assert torch.equal(matrices(components(matrix)), matrix)
    theirs = lower_triangular(matrix.numpy())
    assert theirs[list(OF_LOWER_TRIANGULAR)].tolist() == [1, 2, 3, 4, 5, 6]
    assert_allclose(from_lower_triangular(theirs), matrix)


def test_eigensystem_is_sorted_and_gives_the_tensor_back():
    tensors = random_tensors().reshape(4, 50, 6)
    values, vectors = eigen(tensors)
    assert values.shape == (4, 50, 3)
    assert (values.diff(dim=-1) <= 0).all()
    assert_allclose(assembled(values, vectors), tensors, atol=1e-12)
    turned = matrices(tensors) @ vectors[..., :1]
    assert_allclose(turned, values[..., :1, None] * vectors[..., :1], atol=1e-12)


def test_shape_is_that_of_the_paper_and_its_inverse():
    values, _ = eigen(random_tensors())
    form = shape(values)
    for (l1, l2, l3), mu, sigma, theta, fa in zip(
        values.tolist(), form.mu, form.sigma, form.theta, form.fa, strict=True
    ):
        m = (l1 + l2 + l3) / 3
        s = sqrt((l1 - m) ** 2 + (l2 - m) ** 2 + (l3 - m) ** 2)
        t = np.arctan2(sqrt(1 / 3) * (l2 - l3), l1 - m)
        assert mu == pytest.approx(m)
        assert sigma == pytest.approx(s)
        assert theta == pytest.approx(t)
        assert fa == pytest.approx(sqrt(3 / 2) * s / sqrt(3 * m**2 + s**2))
        again = (
            m + s * sqrt(2 / 3) * np.cos(t),
            m + s * (-sqrt(1 / 6) * np.cos(t) + sqrt(1 / 2) * np.sin(t)),
            m - s * (sqrt(1 / 6) * np.cos(t) + sqrt(1 / 2) * np.sin(t)),
        )
        assert_allclose(again, (l1, l2, l3))
    assert_allclose(form.eigenvalues, values, atol=1e-12)


def test_shape_by_invariants_of_the_matrix():
    """An oracle without eigenvalues: the trace, the norm and the determinant of the deviation."""
    tensors = random_tensors()
    form = shape(eigen(tensors)[0])
    matrix = matrices(tensors)
    mu = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)
    deviation = matrix - mu[:, None, None] * torch.eye(3)
    sigma = deviation.flatten(1).norm(dim=1)
    cosine = 3 * sqrt(6) * torch.linalg.det(deviation / sigma[:, None, None])
    assert_allclose(form.mu, mu)
    assert_allclose(form.sigma, sigma)
    assert_allclose(form.theta, torch.acos(cosine.clamp(-1, 1)) / 3, atol=1e-6)


def test_scalars_against_dipy():
    values, _ = eigen(random_tensors())
    found = scalars(values)
    assert_allclose(found["fa"], fractional_anisotropy(values.numpy()))
    assert_allclose(found["md"], values.mean(-1))
    assert_allclose(found["ad"], values[:, 0])
    assert_allclose(found["rd"], (values[:, 1] + values[:, 2]) / 2)


def test_degenerate_tensors_have_a_shape_without_nan():
    form = shape(eigen(DEGENERATE)[0])
    assert_allclose(form.fa, [0, sqrt(4 / 11), sqrt(4 / 19), 0], atol=1e-12)
    assert_allclose(form.theta[1:3], [0, pi / 3], atol=1e-9)
    assert torch.isfinite(form.theta).all()
    assert_allclose(form.eigenvalues[:3], [[2, 2, 2], [3, 1, 1], [3, 3, 1]], atol=1e-12)


def test_negative_eigenvalues_are_raised_and_counted():
    good = random_tensors(3)
    bad = assembled(torch.tensor([[1.5, 0.3, -0.2]], dtype=torch.float64), eigen(good[:1])[1])
    mended, raised = positive(torch.cat([good, bad]), 0.01)
    assert raised.tolist() == [False, False, False, True]
    assert torch.equal(mended[:3], good)
    assert_allclose(eigen(mended[3:])[0], [[1.5, 0.3, 0.01]], atol=1e-12)


def test_logarithm_is_the_matrix_logarithm_and_comes_back():
    tensors = random_tensors(20)
    logs = logarithm(tensors)
    for tensor, log in zip(matrices(tensors), matrices(logs), strict=True):
        assert_allclose(log, logm(tensor.numpy()), atol=1e-10)
        assert_allclose(expm(log.numpy()), tensor, atol=1e-10)
    assert_allclose(exponential(logs), tensors, atol=1e-12)


def test_log_euclidean_mean_does_not_swell():
    """Halfway between two turned cigars, the determinant stays; that of plain means grows."""
    cigar = torch.tensor([[2.0, 0, 0, 0.2, 0, 0.2], [0.2, 0, 0, 2.0, 0, 0.2]]).double()
    halfway = mean(cigar, torch.tensor([3.0, 3.0]))
    determinant = torch.linalg.det(matrices(cigar[0]))
    assert torch.linalg.det(matrices(halfway)) == pytest.approx(float(determinant))
    assert torch.linalg.det(matrices(cigar.mean(0))) > 2 * determinant
    assert_allclose(mean(cigar, torch.tensor([1.0, 0.0])), cigar[0], atol=1e-12)


def test_a_mirror_moves_voxels_and_turns_directions():
    image = random_tensors(24).reshape(4, 3, 2, 6)
    once = mirrored(image)
    turn = torch.diag(torch.tensor([-1.0, 1, 1]).double())
    assert_allclose(matrices(once), turn @ matrices(image.flip(0)) @ turn, atol=1e-12)
    assert torch.equal(mirrored(once), image)
    channels_first = image.movedim(-1, 0)
    assert torch.equal(mirrored(channels_first, axis=1, channel=0), once.movedim(-1, 0))
