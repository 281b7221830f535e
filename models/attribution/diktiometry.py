"""From the gradient to a tensor to that of its size and shape: voxel-based diktiometry.

A network of tensor images scores N. Its gradient by the six components of a voxel says what a
change of the tensor would do to N; the chain rule makes of it what a change of mean diffusivity,
of anisotropy or of shape would do, the tensor's directions kept.

Estudillo-Romero A, Haegelen C, Jannin P, Baxter JSH (2022). Voxel-based diktiometry. Human Brain
Mapping, doi:10.1002/hbm.26009. Eq. 4 as printed has no consistent units, and two of its forms are
off by a factor; the ones here are those that finite differences confirm.
"""

from math import sqrt

import torch
from torch import nn

from models.attribution import Explanation
from models.attribution.gradients import input_gradient, scores_of
from models.errors import InputError
from models.tensor import COMPONENTS, OFF_DIAGONAL, eigen, matrices, shape

# Deviations below this share of the tensor's size are rounding: they have no direction.
NO_SHAPE = 1e-6
MEASURES = ("mu", "sigma", "theta", "muhat", "thetahat", "fa", "fadirection")


def diktiometry(
    model: nn.Module, volumes: torch.Tensor, target: int, *, measure: str = "fa"
) -> Explanation:
    """Derivative of the score by a measure of each voxel's tensor (Estudillo-Romero et al. 2022).

    Parameters
    ----------
    model, volumes, target
        As of every method; ``volumes`` are (N, 6, x, y, z), the components in the order of
        `models.tensor`, 0 outside the brain.
    measure : str
        One of :data:`MEASURES`, see `derivatives`. Of the image as the network sees it: a
        derivative by ``mu`` is per unit of its scale.

    Returns
    -------
    Explanation
        The same map in each channel.

    Raises
    ------
    models.errors.InputError
        Unknown measure, or images without six channels.
    """
    if measure not in MEASURES:
        raise InputError(
            f"diktiometry measure = '{measure}' is unknown; choose one of: {', '.join(MEASURES)}"
        )
    if volumes.shape[1] != len(COMPONENTS):
        raise InputError(
            f"diktiometry is of diffusion tensors with six channels ({', '.join(COMPONENTS)}), not "
            f"of images with {volumes.shape[1]}"
        )
    gradient, score = input_gradient(scores_of(model), volumes, target)
    found = torch.zeros_like(volumes[:, 0])
    inside = (volumes.detach() != 0).any(1)
    tensors, slopes = (one.detach().movedim(1, -1)[inside].double() for one in (volumes, gradient))
    found[inside] = derivatives(tensors, slopes)[measure].to(found.dtype)
    return Explanation(found[:, None].expand_as(volumes), score, {})


def derivatives(tensors: torch.Tensor, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
    """Derivatives of N by measures of each tensor, by name, each (...,).

    With N_k = dN/dl_k = r_k^T G r_k for the eigenvalues l_k and eigenvectors r_k, and G the
    symmetric matrix dN/dD, in which each off-diagonal component is shared by two entries.

    Parameters
    ----------
    tensors : (..., 6) torch.Tensor
    gradient : (..., 6) torch.Tensor
        dN by each component, as a network's input gives it.

    Returns
    -------
    dict
        ``mu``, ``sigma``, ``theta``: by the measure, the other two held. ``muhat``, ``thetahat``:
        the same per unit of change of the eigenvalues (|dl| = 1; for sigma both are one).
        ``fa``: by FA at fixed mean plus by FA at fixed sigma. ``fadirection``: by FA at a fixed
        size of the tensor. All are 0 where the tensor has no shape or no size.
    """
    values, vectors = eigen(tensors)
    by_value = _by_eigenvalue(vectors, gradient)
    form = shape(values)
    scale = values.abs().amax(-1)
    shaped = form.sigma > NO_SHAPE * scale
    sigma = torch.where(shaped, form.sigma, 1)
    by_mu = by_value.sum(-1)
    by_sigma = (by_value * (values - form.mu[..., None])).sum(-1) / sigma
    thetahat = (by_value * _around(values)).sum(-1) / (sqrt(3) * sigma)
    ok = shaped & (form.mu > NO_SHAPE * scale)
    mu, fa = torch.where(ok, form.mu, 1), torch.where(ok, form.fa, 1)
    size = 3 * mu**2 + sigma**2
    found = {
        "mu": by_mu,
        "sigma": by_sigma,
        "theta": sigma * thetahat,
        "muhat": by_mu / sqrt(3),
        "thetahat": thetahat,
        "fa": size / (3 * fa) * (sigma / mu**2 * by_sigma - by_mu / mu),
        "fadirection": sigma / fa * (by_sigma - sigma / (3 * mu) * by_mu),
    }
    known = {name: ok if name.startswith("fa") else shaped for name in found}
    known["mu"] = known["muhat"] = scale > 0
    known["theta"] = known["thetahat"] = shaped & _apart(values, form.sigma)
    return {name: torch.where(known[name], value, 0) for name, value in found.items()}


def _by_eigenvalue(vectors: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """dN/dl_k = r_k^T G r_k, (..., 3)."""
    share = torch.ones(6, dtype=gradient.dtype, device=gradient.device)
    share[list(OFF_DIAGONAL)] = 0.5
    return (vectors * (matrices(gradient * share) @ vectors)).sum(-2)


def _around(values: torch.Tensor) -> torch.Tensor:
    """sqrt(3) dl/dtheta: each eigenvalue moves with the difference of the other two."""
    return values.roll(1, -1) - values.roll(-1, -1)


def _apart(values: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Whether no two eigenvalues are equal: else two eigenvectors, and theta's sign, are chance."""
    return (values[..., :2] - values[..., 1:]).amin(-1) > NO_SHAPE * sigma
