"""One linear model, fitted in every voxel."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch

from models.errors import InputError

# Or anything with a shape that hands out arrays for `data[:, start:stop]`.
Data = torch.Tensor | np.ndarray

# Values in float64 in work at a time, on all threads; each exists about four times.
BLOCK_VALUES = 1_000_000
# Values of a piece that is read from disk at once, in the type that they are stored in.
READ_VALUES = 8_000_000
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
        (columns,), the weights of the tested combination of coefficients, for a t test; or
        (combinations, columns), for an F test of whether any of them differs from zero.

    Raises
    ------
    InputError
        The columns depend on each other, the tested combinations do, or there are too few people
        for the columns.
    """

    matrix: np.ndarray
    names: tuple[str, ...]
    contrast: np.ndarray

    def __post_init__(self):
        people, columns = self.matrix.shape
        rows = np.atleast_2d(self.contrast)
        if len(self.names) != columns or rows.ndim != 2 or rows.shape[1] != columns:
            raise ValueError(f"a design of {columns} columns needs as many names and weights")
        if not rows.any(axis=1).all():
            raise ValueError("the contrast is zero everywhere: it tests nothing")
        if np.linalg.matrix_rank(rows) < len(rows):
            raise InputError(
                f"the {len(rows)} combinations of an F test depend on each other: drop one of them."
            )
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

    @property
    def is_f(self) -> bool:
        """Whether the contrast asks for an F test."""
        return self.contrast.ndim == 2

    @property
    def rank(self) -> int:
        """Combinations that are tested together; 1 for a t test."""
        return len(np.atleast_2d(self.contrast))


@dataclass(frozen=True, eq=False)
class GlmFit:
    """The tested effect in every voxel.

    Parameters
    ----------
    statistic : numpy.ndarray
        (voxels,), float64, t, or F for an F contrast; 0 where not ``valid``.
    beta : numpy.ndarray
        (voxels,), or (combinations, voxels) for an F contrast; float64, the contrast of the
        coefficients in units of the data.
    dof : int
        Residual degrees of freedom.
    valid : numpy.ndarray
        (voxels,), bool; False where the data are not finite or do not vary beyond what the
        nuisance columns explain (a constant voxel, say).
    """

    statistic: np.ndarray
    beta: np.ndarray
    dof: int
    valid: np.ndarray

    @property
    def t(self) -> np.ndarray:
        """The statistic, by its usual name."""
        return self.statistic


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
    column = standardised(name, column)
    if follows(column, earlier):
        raise InputError(
            f"covariate '{name}' follows from the group and the covariates before it "
            "(collinear): drop it."
        )
    return column


def standardised(name: str, column: np.ndarray) -> np.ndarray:
    """A covariate (people,) with mean 0 and standard deviation 1.

    Raises
    ------
    InputError
        It is missing for somebody, or the same for everybody.
    """
    if not np.isfinite(column).all():
        missing = int((~np.isfinite(column)).sum())
        raise InputError(
            f"covariate '{name}' is missing or not a number for {missing} people: complete it, "
            "leave these people out, or drop the covariate."
        )
    centred = column - column.mean()
    if np.linalg.norm(centred) <= 1e-9 * np.linalg.norm(column):
        raise InputError(f"covariate '{name}' is the same for everybody: drop it.")
    return centred / centred.std()


def follows(column: np.ndarray, earlier: list[np.ndarray]) -> bool:
    """Whether a column (people,) is, but for rounding, a combination of earlier ones."""
    rest = residualised(column, np.column_stack(earlier)) if earlier else column
    return bool(np.linalg.norm(rest) <= 1e-6 * np.linalg.norm(column))


def partition(design: Design) -> tuple[np.ndarray, np.ndarray]:
    """Split a design into what is tested and what is nuisance.

    The model ``X b`` is written again as ``G (C b) + Z d``, with ``Z`` spanning the designs in
    which the contrast ``C`` is zero.

    Returns
    -------
    regressor : numpy.ndarray
        (people,), or (people, combinations) for an F contrast: ``G``; its coefficients are the
        contrast.
    nuisance : numpy.ndarray
        (people, columns - combinations), ``Z``; the untested columns themselves where the
        contrast concerns no more columns than it has combinations.
    """
    rows = np.atleast_2d(design.contrast).astype(float)
    regressors = design.matrix @ np.linalg.pinv(rows)
    regressor = regressors if design.is_f else regressors[:, 0]
    tested = rows.any(axis=0)
    if tested.sum() == len(rows):
        return regressor, design.matrix[:, ~tested]
    left = np.linalg.svd(rows)[2][len(rows) :]
    return regressor, design.matrix @ left.T


def residualised(regressor: np.ndarray, nuisance: np.ndarray) -> np.ndarray:
    """Part of a vector (people,), or of several (people, k), that nuisance does not explain."""
    basis = np.linalg.qr(nuisance)[0]
    # Twice: the second pass removes what rounding left of the first.
    once = regressor - basis @ (basis.T @ regressor)
    return once - basis @ (basis.T @ once)


def orthonormal(rest: np.ndarray) -> np.ndarray:
    """Directions (people, k) of length one that span residualised regressors.

    A single regressor keeps its sign.
    """
    columns = rest.reshape(len(rest), -1)
    if columns.shape[1] == 1:
        return columns / np.linalg.norm(columns)
    return np.linalg.qr(columns)[0]


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


def visit_blocks(
    data: Data, size: int | None, visit: Callable[[slice, torch.Tensor], None]
) -> None:
    """Call ``visit(where, block)`` for all (people, voxels) blocks of the data, in any order.

    Blocks come as float64 on the CPU. As many are in work at a time as torch has threads, each on
    one of them: blocks are too small for threads to share.
    """
    threads = torch.get_num_threads()
    blocks, lock = _blocks(data, size or max(8, BLOCK_VALUES // threads // data.shape[0])), Lock()

    def work() -> None:
        while True:
            with lock:
                found = next(blocks, None)
            if found is None:
                return
            where, block = found
            if isinstance(block, np.ndarray):
                block = torch.from_numpy(block.astype(np.float64))
            visit(where, block.to("cpu", torch.float64))

    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for worker in [pool.submit(work) for _ in range(threads)]:
                worker.result()
    finally:
        torch.set_num_threads(threads)


def _blocks(data: Data, size: int) -> Iterator[tuple[slice, Data]]:
    """Cut (people, voxels) data by columns.

    What lies on disk (a memory map, or anything else that is cut by columns) is read in wider
    pieces, in its own type: with many people a block is narrower than what a disk hands out.
    """
    people, voxels = data.shape
    in_memory = isinstance(data, torch.Tensor) or type(data) is np.ndarray
    wide = voxels if in_memory else max(size, READ_VALUES // people)
    for first in range(0, voxels, wide):
        piece = data if in_memory else np.array(data[:, first : first + wide])
        for start in range(0, piece.shape[1], size):
            stop = min(start + size, piece.shape[1])
            yield slice(first + start, first + stop), piece[:, start:stop]


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
        t (or F) and contrast of every voxel. A voxel that the model explains without any rest
        has ``|t| = 1e6 sqrt(dof)`` in place of infinity.
    """
    check_people(data, design)
    raw, nuisance = partition(design)
    rest = residualised(raw, nuisance)
    units = orthonormal(rest)
    basis = torch.from_numpy(np.linalg.qr(nuisance)[0])
    correlation = np.zeros((design.rank, data.shape[1]))
    length = np.zeros(data.shape[1])

    def visit(where: slice, block: torch.Tensor) -> None:
        residuals, size = unit_residuals(block, basis)
        correlation[:, where] = torch.from_numpy(units.T) @ residuals
        length[where] = size

    visit_blocks(data, block_voxels, visit)
    # rest = units (units' rest), whose coefficients on the residuals are units' residuals.
    beta = np.linalg.solve(units.T @ rest.reshape(units.shape), correlation * length)
    if design.is_f:
        f = f_of((correlation**2).sum(axis=0), design.rank, design.dof)
        return GlmFit(f, beta, design.dof, length > 0)
    return GlmFit(t_of(correlation[0], design.dof), beta[0], design.dof, length > 0)


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


def f_of(explained: np.ndarray, rank: int, dof: int) -> np.ndarray:
    """F value of a partial R^2; finite also where everything is explained."""
    return explained / np.maximum(1 - explained, LEAST_UNEXPLAINED) * dof / rank
