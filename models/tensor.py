"""Diffusion tensors: their components, eigensystem, shape, logarithm and mirror image.

Everywhere, a tensor is a symmetric 3x3 matrix in mm^2/s (or any unit, kept) along the RAS+ world
axes. Its six components stand last, in the order of BIDS (BEP016): Dxx, Dxy, Dxz, Dyy, Dyz, Dzz.
All functions take torch tensors of any leading shape, on any device, and do not mind what the
leading axes are: a whole image is one batch.
"""

from dataclasses import dataclass
from math import pi, sqrt

import torch

# Row and column of each component; NEGATED turn their sign when x is mirrored.
ROWS, COLUMNS = (0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2)
COMPONENTS = ("Dxx", "Dxy", "Dxz", "Dyy", "Dyz", "Dzz")
NEGATED = (1, 2)
OFF_DIAGONAL = (1, 2, 4)
# Same as ``lower_triangular`` of dipy (Dxx, Dxy, Dyy, Dxz, Dyz, Dzz): where each component stands.
OF_LOWER_TRIANGULAR = (0, 1, 3, 2, 4, 5)

_PLACES = ((0, 1, 2), (1, 3, 4), (2, 4, 5))  # component at each row and column


def matrices(components: torch.Tensor) -> torch.Tensor:
    """Symmetric matrices (..., 3, 3) of components (..., 6)."""
    return components[..., torch.tensor(_PLACES, device=components.device)]


def components(matrices: torch.Tensor) -> torch.Tensor:
    """Components (..., 6) of symmetric matrices (..., 3, 3); the upper triangle is read."""
    return matrices[..., ROWS, COLUMNS]


# --- eigensystem ---------------------------------------------------------------------------------


def eigen(components: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues (..., 3), the largest first, and unit eigenvectors (..., 3, 3) as columns."""
    values, vectors = torch.linalg.eigh(matrices(components))
    return values.flip(-1), vectors.flip(-1)


def assembled(values: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Components (..., 6) of the tensors with these eigenvalues and eigenvectors (columns)."""
    return components((vectors * values[..., None, :]) @ vectors.mT)


def positive(tensors: torch.Tensor, floor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Raise eigenvalues to a small positive floor, as noise makes some negative.

    Parameters
    ----------
    tensors : (..., 6) torch.Tensor
    floor : float
        In the unit of the tensors.

    Returns
    -------
    mended : (..., 6) torch.Tensor
        Those without such an eigenvalue are the given ones, bit by bit.
    raised : (...,) bool torch.Tensor
        Which ones had one.
    """
    values, vectors = eigen(tensors)
    raised = (values < floor).any(-1)
    mended = assembled(values.clamp_min(floor), vectors)
    return torch.where(raised[..., None], mended, tensors), raised


# --- shape ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """Size and shape of tensors (Estudillo-Romero et al. 2022).

    Attributes
    ----------
    mu : (...,) torch.Tensor
        Mean diffusivity, in the unit of the tensors.
    sigma : (...,) torch.Tensor
        Length of the deviation of the eigenvalues from their mean, same unit.
    theta : (...,) torch.Tensor
        Angle within that deviation, radians, from 0 (a cigar) to pi/3 (a disc).
    """

    mu: torch.Tensor
    sigma: torch.Tensor
    theta: torch.Tensor

    @property
    def fa(self) -> torch.Tensor:
        """Fractional anisotropy, 0 where the tensor is 0; above 1 with negative eigenvalues."""
        size = torch.sqrt(3 * self.mu**2 + self.sigma**2)
        return torch.where(size > 0, sqrt(1.5) * self.sigma / size, 0)

    @property
    def eigenvalues(self) -> torch.Tensor:
        """The eigenvalues (..., 3) again, the largest first."""
        third = torch.tensor([0, -2 * pi / 3, 2 * pi / 3], dtype=self.mu.dtype)
        angles = self.theta[..., None] + third.to(self.mu.device)
        return self.mu[..., None] + sqrt(2 / 3) * self.sigma[..., None] * torch.cos(angles)


def shape(values: torch.Tensor) -> Shape:
    """Size and shape of tensors by their eigenvalues (..., 3), the largest first.

    mu = (l1 + l2 + l3) / 3, sigma = |l - mu|, theta = atan2((l2 - l3) / sqrt 3, l1 - mu).
    """
    mu = values.mean(-1)
    sigma = torch.linalg.vector_norm(values - mu[..., None], dim=-1)
    across = (values[..., 1] - values[..., 2]) / sqrt(3)
    return Shape(mu, sigma, torch.atan2(across, values[..., 0] - mu))


def scalars(values: torch.Tensor) -> dict[str, torch.Tensor]:
    """The usual maps by eigenvalues (..., 3): md, fa, ad, rd, and the shape's sigma and theta."""
    form = shape(values)
    return {
        "md": form.mu,
        "fa": form.fa,
        "ad": values[..., 0],
        "rd": values[..., 1:].mean(-1),
        "sigma": form.sigma,
        "theta": form.theta,
    }


# --- logarithm -----------------------------------------------------------------------------------


def logarithm(tensors: torch.Tensor) -> torch.Tensor:
    """Matrix logarithm (..., 6) of tensors with positive eigenvalues.

    Means and interpolations of logarithms stay positive and do not swell (Arsigny et al. 2006).
    """
    values, vectors = eigen(tensors)
    return assembled(values.log(), vectors)


def exponential(logarithms: torch.Tensor) -> torch.Tensor:
    """Tensors (..., 6) of their matrix logarithms."""
    values, vectors = eigen(logarithms)
    return assembled(values.exp(), vectors)


def mean(tensors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Log-Euclidean weighted mean (..., 6).

    Parameters
    ----------
    tensors : (..., n, 6) torch.Tensor
        With positive eigenvalues.
    weights : (..., n) torch.Tensor
        Of each tensor; they are made to add up to 1.
    """
    shares = weights / weights.sum(-1, keepdim=True)
    return exponential((shares[..., None] * logarithm(tensors)).sum(-2))


# --- mirror --------------------------------------------------------------------------------------


def mirrored(image: torch.Tensor, *, axis: int = 0, channel: int = -1) -> torch.Tensor:
    """A tensor image with left and right exchanged: voxels, and what the tensors point to.

    Parameters
    ----------
    image : torch.Tensor
        With six components along ``channel``.
    axis : int
        That runs along x (the voxel axis is the world axis, RAS+).
    """
    sign = torch.ones(6, dtype=image.dtype, device=image.device)
    sign[list(NEGATED)] = -1
    size = [1] * image.dim()
    size[channel] = 6
    return image.flip(axis) * sign.reshape(size)
