"""One linear model, fitted in every voxel."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.errors import InputError

Data = torch.Tensor | np.ndarray

# Values of a block in float64, about four of which exist at a time.
BLOCK_VALUES = 1_000_000
# Below this share of its own size, what is left of a voxel is float32 rounding, not signal.
FLAT = 1e-6
# A voxel that the model explains entirely has an infinite t: maps hold this much of it.
LEAST_UNEXPLAINED = 1e-12


@dataclass(frozen=True, eq=False)
class Design:
    """Who is compared, and what is held constant.

    Parameters
    ----------
    matrix : numpy.ndarray
        (people, columns), float64, of full column rank, with fewer columns than people.
    names : tuple of str
        One name per column.
    contrast : numpy.ndarray
        (columns,), the weights of the tested combination of coefficients.

    Raises
    ------
    InputError
        The columns depend on each other, or there are too few people for them.
    """

    matrix: np.ndarray
    names: tuple[str, ...]
    contrast: np.ndarray

    def __post_init__(self):
        people, columns = self.matrix.shape
        if len(self.names) != columns or self.contrast.shape != (columns,):
            raise ValueError(f"a design of {columns} columns needs as many names and weights")
        if not self.contrast.any():
            raise ValueError("the contrast is zero everywhere: it tests nothing")
        if self.dof < 1:
            raise InputError(
                f"{people} people are too few for a model of {columns} columns "
                f"({', '.join(self.names)}): add people or drop covariates."
            )
        if np.linalg.matrix_rank(self.matrix) < columns:
            raise InputError(
                f"the columns {', '.join(self.names)} depend on each other: drop one of them."
            )

    @property
    def dof(self) -> int:
        """Residual degrees of freedom."""
        return self.matrix.shape[0] - self.matrix.shape[1]


@dataclass(frozen=True, eq=False)
class GlmFit:
    """The tested effect in every voxel.

    Parameters
    ----------
    t : numpy.ndarray
        (voxels,), float64; 0 where not ``valid``.
    beta : numpy.ndarray
        (voxels,), float64, the contrast of the coefficients in units of the data.
    dof : int
        Residual degrees of freedom.
    valid : numpy.ndarray
        (voxels,), bool; False where the data are not finite or do not vary beyond what the
        nuisance columns explain (a constant voxel, say).
    """

    t: np.ndarray
    beta: np.ndarray
    dof: int
    valid: np.ndarray


def two_group_design(
    is_positive: np.ndarray,
    covariates: np.ndarray | None = None,
    covariate_names: Sequence[str] = (),
) -> Design:
    """Positive minus negative group, adjusted for covariates.

    Parameters
    ----------
    is_positive : numpy.ndarray
        (people,), True for the group that the contrast adds, False for the one it subtracts.
    covariates : numpy.ndarray, optional
        (people, covariates), numbers in any unit: they are standardised here.
    covariate_names : sequence of str
        One name per covariate, for the messages and the table.

    Returns
    -------
    Design
        Columns intercept, group, then the covariates.

    Raises
    ------
    InputError
        A group of fewer than two people, or a covariate that is missing for somebody, is the
        same for everybody, or follows from the group and the other covariates.
    """
    group = np.asarray(is_positive, dtype=bool)
    _check_groups(group)
    columns = [np.ones(len(group)), group.astype(float)]
    names = ["intercept", "group", *covariate_names]
    if covariates is not None:
        values = np.asarray(covariates, dtype=float)
        if values.shape != (len(group), len(covariate_names)):
            raise ValueError(
                f"covariates are {values.shape}, expected {(len(group), len(covariate_names))}"
            )
        for name, column in zip(covariate_names, values.T, strict=True):
            columns.append(_standardised(name, column, columns))
    return Design(np.column_stack(columns), tuple(names), np.eye(len(names))[1])


def _check_groups(group: np.ndarray) -> None:
    for name, size in (("positive", group.sum()), ("negative", (~group).sum())):
        if size < 2:
            raise InputError(
                f"the {name} group has {size} of {len(group)} people; a comparison needs at least "
                "two in each: check the target column and the classes of the recipe."
            )


def _standardised(name: str, column: np.ndarray, earlier: list[np.ndarray]) -> np.ndarray:
    if not np.isfinite(column).all():
        missing = int((~np.isfinite(column)).sum())
        raise InputError(
            f"covariate '{name}' is missing or not a number for {missing} people: complete it, "
            "leave these people out, or drop the covariate."
        )
    centred = column - column.mean()
    if np.linalg.norm(centred) <= 1e-9 * np.linalg.norm(column):
        raise InputError(f"covariate '{name}' is the same for everybody: drop it.")
    column = centred / centred.std()
    basis = np.linalg.qr(np.column_stack(earlier))[0]
    if np.linalg.norm(column - basis @ (basis.T @ column)) <= 1e-6 * np.linalg.norm(column):
        raise InputError(
            f"covariate '{name}' follows from the group and the covariates before it "
            "(collinear): drop it."
        )
    return column


def partition(design: Design) -> tuple[np.ndarray, np.ndarray]:
    """Split a design into what is tested and what is nuisance.

    The model ``X b`` is written again as ``g (c'b) + Z d``, with ``Z`` spanning the designs in
    which the contrast ``c`` is zero.

    Returns
    -------
    regressor : numpy.ndarray
        (people,), ``g``; its coefficient is the contrast.
    nuisance : numpy.ndarray
        (people, columns - 1), ``Z``; the untested columns themselves where the contrast picks
        a single one.
    """
    contrast = design.contrast.astype(float)
    regressor = design.matrix @ contrast / (contrast @ contrast)
    if np.count_nonzero(contrast) == 1:
        return regressor, design.matrix[:, contrast == 0]
    left = np.linalg.svd(contrast[None])[2][1:]
    return regressor, design.matrix @ left.T


def residualised(regressor: np.ndarray, nuisance: np.ndarray) -> np.ndarray:
    """Part of a vector (people,) that the nuisance columns do not explain."""
    basis = np.linalg.qr(nuisance)[0]
    # Twice: the second pass removes what rounding left of the first.
    once = regressor - basis @ (basis.T @ regressor)
    return once - basis @ (basis.T @ once)


def unit_residuals(block: torch.Tensor, basis: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Residualise voxels against the nuisance and scale each to length one.

    Parameters
    ----------
    block : torch.Tensor
        (people, voxels), float64.
    basis : torch.Tensor
        (people, k), float64, orthonormal columns that span the nuisance.

    Returns
    -------
    residuals : torch.Tensor
        (people, voxels); zero where the voxel is not usable.
    length : torch.Tensor
        (voxels,), the length of the residuals before scaling; zero where not usable.
    """
    finite = torch.isfinite(block.sum(dim=0))
    if not finite.all():
        block = torch.where(finite, block, 0.0)
    residuals = block - basis @ (basis.T @ block)
    length = torch.linalg.vector_norm(residuals, dim=0)
    usable = length > FLAT * torch.linalg.vector_norm(block, dim=0)
    residuals *= torch.where(usable, 1 / length, 0.0)
    return residuals, torch.where(usable, length, 0.0)


def voxel_blocks(data: Data, size: int | None) -> Iterator[tuple[slice, torch.Tensor]]:
    """Walk over (people, voxels) data, memory mapped or not, as float64 blocks on the CPU."""
    size = size or max(64, BLOCK_VALUES // data.shape[0])
    for start in range(0, data.shape[1], size):
        where = slice(start, min(start + size, data.shape[1]))
        block = data[:, where]
        if isinstance(block, np.ndarray):
            block = torch.from_numpy(block.astype(np.float64))
        yield where, block.to("cpu", torch.float64)


def fit(data: Data, design: Design, block_voxels: int | None = None) -> GlmFit:
    """Least squares in every voxel.

    Parameters
    ----------
    data : torch.Tensor or numpy.ndarray
        (people, voxels), rows in the order of the design; computed in float64, by blocks.
    design : Design
        The model and its contrast.
    block_voxels : int, optional
        Voxels held in float64 at a time; the default takes some tens of MB.

    Returns
    -------
    GlmFit
        t and contrast of every voxel. A voxel that the model explains without any rest has
        ``|t| = 1e6 sqrt(dof)`` in place of infinity.
    """
    check_people(data, design)
    raw, nuisance = partition(design)
    rest = residualised(raw, nuisance)
    unit = torch.from_numpy(rest / np.linalg.norm(rest))
    basis = torch.from_numpy(np.linalg.qr(nuisance)[0])
    correlation, length = np.zeros(data.shape[1]), np.zeros(data.shape[1])
    for where, block in voxel_blocks(data, block_voxels):
        residuals, size = unit_residuals(block, basis)
        correlation[where], length[where] = (unit @ residuals).numpy(), size.numpy()
    beta = correlation * length / np.linalg.norm(rest)
    return GlmFit(t_of(correlation, design.dof), beta, design.dof, length > 0)


def check_people(data: Data, design: Design) -> None:
    """Refuse data whose rows are not the people of the design."""
    if data.ndim != 2 or data.shape[0] != design.matrix.shape[0]:
        raise ValueError(
            f"data are {tuple(data.shape)}, expected ({design.matrix.shape[0]} people, voxels)"
        )


def t_of(correlation: np.ndarray, dof: int) -> np.ndarray:
    """T value of a partial correlation; finite also at a correlation of one."""
    unexplained = np.maximum(1 - correlation**2, LEAST_UNEXPLAINED)
    return correlation * np.sqrt(dof / unexplained)
