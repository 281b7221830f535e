r"""Family-wise error by permutation: Freedman-Lane with the maximum of \|t\|.

Freedman and Lane permute the residuals ``e`` of the nuisance model, add the nuisance fit back and
fit the whole model again. With ``P`` the permutation, ``Q`` an orthonormal basis of the nuisance
and ``h`` the tested regressor, residualised against ``Q`` and of length one, that fit's t depends
on ``P e`` only through its partial correlation with ``h``::

    r = h'Pe / |Pe - QQ'Pe|          t = r sqrt(dof / (1 - r^2))

The nuisance fit that was added back is what ``Q`` removes again. As ``P`` keeps lengths,
``|Pe - QQ'Pe|^2 = |e|^2 - |(P'Q)'e|^2`` and ``h'Pe = (P'h)'e``: permuting the people's residuals
is permuting the rows of ``h`` and ``Q`` together. The data are therefore residualised and scaled
once, and a permutation costs one product with ``1 + k`` short vectors per voxel. Columns that are
constant wherever people are exchanged (the intercept) do not move, and cost nothing.

The products are in float32; data are residualised and observed t values are computed in float64.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product

import numpy as np
import torch
from torch.nn import functional as F

from models.errors import InputError
from models.statistics.glm import (
    Data,
    Design,
    check_people,
    fit,
    partition,
    residualised,
    t_of,
    unit_residuals,
    voxel_blocks,
)

# Voxels per block and design rows per product: both operands and the result stay in cache.
CPU_BLOCK = (2048, 192)
GPU_BLOCK = (32768, 768)
DESIGN_BYTES = 64_000_000
# With few degrees of freedom t is steep in r, and float32 would blur it; such cohorts are small
# enough for float64 on the CPU.
SMALL_DOF = 20
# float32 maxima against float64 observations: a tie must count as a tie.
TIE = 1e-4

Progress = Callable[[int, int], object]


@dataclass(frozen=True, eq=False)
class PermutationResult:
    """What the permutations say about every voxel.

    Parameters
    ----------
    t : numpy.ndarray
        (voxels,), float64, as fitted; 0 where not ``valid``.
    p_fwe : numpy.ndarray
        (voxels,), two-sided p value corrected over all voxels; 1 where not ``valid``. Maxima
        within 1e-4 of a voxel's t count as reaching it.
    max_distribution : numpy.ndarray
        (n_permutations,), the largest absolute t of each, the observed order first.
    n_permutations : int
        Orders looked at, the observed one included; the smallest possible p is its inverse.
    exact : bool
        True if these are all the distinct orders there are.
    dof : int
        Residual degrees of freedom.
    valid : numpy.ndarray
        (voxels,), bool; False where the data are not finite or do not vary.
    """

    t: np.ndarray
    p_fwe: np.ndarray
    max_distribution: np.ndarray
    n_permutations: int
    exact: bool
    dof: int
    valid: np.ndarray

    def threshold_at(self, alpha: float) -> float:
        """Absolute t that must be exceeded for ``p_fwe <= alpha``; infinity if nothing can."""
        allowed = math.floor(alpha * self.n_permutations + 1e-9)
        if allowed < 1:
            return math.inf
        descending = np.sort(self.max_distribution)[::-1]
        return float(descending[allowed]) if allowed < len(descending) else 0.0


def max_statistic(
    data: Data,
    design: Design,
    n_permutations: int = 1000,
    seed: int = 0,
    exchange_within: np.ndarray | None = None,
    device: str | torch.device = "cpu",
    block_voxels: int | None = None,
    progress: Progress | None = None,
) -> PermutationResult:
    """Test one contrast in every voxel, both signs, corrected for all voxels.

    Parameters
    ----------
    data : torch.Tensor or numpy.ndarray
        (people, voxels), one row per person; float32 is enough, a memory map is read in blocks.
    design : Design
        The model and its contrast.
    n_permutations : int
        Random orders drawn beside the observed one. If there are at most this many distinct
        orders in all, each is visited once instead and the test is exact.
    seed : int
        Seed of the orders.
    exchange_within : numpy.ndarray, optional
        (people,), block labels (test folds, sites): people change places only within their own
        block. By default everybody may change places.
    device : str or torch.device
        Where the products run.
    block_voxels : int, optional
        Voxels handled at a time; the default fits the device.
    progress : callable, optional
        Called with (done, total) as the work advances.

    Returns
    -------
    PermutationResult
        For a seed, the orders are always the same; the maxima agree within float32 rounding
        between devices, thread counts and block sizes.

    Raises
    ------
    InputError
        Nobody can change places, or no voxel varies.
    """
    check_people(data, design)
    if n_permutations < 1:
        raise InputError(f"{n_permutations} permutations: at least one is needed.")
    blocks = _block_codes(exchange_within, design.matrix.shape[0])
    exact, count, orders = _orders(design, blocks, n_permutations, seed)
    observed = fit(data, design)
    if not observed.valid.any():
        raise InputError("no voxel varies between people: check the maps and their mask.")
    kernel = _Kernel(design, blocks, torch.device(device), block_voxels)
    permuted = t_of(np.sqrt(kernel.maxima(data, orders, count, progress)), design.dof)
    t = np.abs(observed.t)
    maxima = np.concatenate([[t.max()], permuted])
    p = np.where(observed.valid, _corrected(t, maxima), 1.0)
    return PermutationResult(
        t=observed.t,
        p_fwe=p,
        max_distribution=maxima,
        n_permutations=len(maxima),
        exact=exact,
        dof=design.dof,
        valid=observed.valid,
    )


def _corrected(t: np.ndarray, maxima: np.ndarray) -> np.ndarray:
    """Share of the maxima (the observed one among them) that reach each voxel's absolute t."""
    reached = np.searchsorted(np.sort(maxima), t * (1 - TIE), side="left")
    return (len(maxima) - reached) / len(maxima)


# ---- Orders ----------------------------------------------------------------------------------


def _block_codes(labels: np.ndarray | None, people: int) -> np.ndarray:
    if labels is None:
        return np.zeros(people, dtype=int)
    if len(labels) != people:
        raise ValueError(f"{len(labels)} exchange labels for {people} people")
    return np.unique(np.asarray(labels), return_inverse=True)[1].reshape(-1)


def _orders(
    design: Design, blocks: np.ndarray, n_permutations: int, seed: int
) -> tuple[bool, int, Iterator[np.ndarray]]:
    """Whether these are all orders, how many beside the observed one, and the orders."""
    rows = np.unique(design.matrix, axis=0, return_inverse=True)[1].reshape(-1)
    distinct = n_distinct_orders(rows, blocks)
    if distinct == 1:
        raise InputError(
            "nobody can change places: within every exchange block all people have the same "
            "group and covariates. Use larger blocks or none."
        )
    if distinct <= n_permutations:
        return True, distinct - 1, _other_orders(rows, blocks)
    return False, n_permutations, random_orders(blocks, n_permutations, seed)


def _chunks(orders: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Gather orders (people,) into arrays (at most size, people)."""
    while chunk := list(islice(orders, size)):
        yield np.stack(chunk)


def n_distinct_orders(rows: np.ndarray, blocks: np.ndarray) -> int:
    """Count the orders that differ, given which design rows are equal, within blocks."""
    count = 1
    for block in np.unique(blocks):
        sizes = np.unique(rows[blocks == block], return_counts=True)[1]
        count *= math.factorial(int(sizes.sum()))
        count //= math.prod(math.factorial(int(size)) for size in sizes)
    return count


def random_orders(blocks: np.ndarray, count: int, seed: int) -> Iterator[np.ndarray]:
    """Draw orders (people,), each person's place taken by somebody of the same block."""
    rng = np.random.default_rng(seed)
    places = np.argsort(blocks, kind="stable")
    for _ in range(count):
        order = np.empty_like(places)
        order[places] = np.lexsort((rng.random(len(blocks)), blocks))
        yield order


def _other_orders(rows: np.ndarray, blocks: np.ndarray) -> Iterator[np.ndarray]:
    """Every distinct order but the observed one."""
    members = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
    someone = {row: person for person, row in reversed(list(enumerate(rows)))}
    for arrangement in product(*(list(_arrangements(rows[people])) for people in members)):
        new = np.empty_like(rows)
        for people, codes in zip(members, arrangement, strict=True):
            new[people] = codes
        if not np.array_equal(new, rows):
            yield np.array([someone[row] for row in new])


def _arrangements(codes: np.ndarray) -> Iterator[tuple[int, ...]]:
    """Distinct arrangements of a multiset, in lexicographic order."""
    current = sorted(int(code) for code in codes)
    while True:
        yield tuple(current)
        rises = [i for i in range(len(current) - 1) if current[i] < current[i + 1]]
        if not rises:
            return
        pivot = rises[-1]
        swap = max(i for i in range(pivot + 1, len(current)) if current[i] > current[pivot])
        current[pivot], current[swap] = current[swap], current[pivot]
        current[pivot + 1 :] = reversed(current[pivot + 1 :])


# ---- Maxima ----------------------------------------------------------------------------------


class _Kernel:
    """Largest r^2 over voxels for many orders, in bounded memory.

    ``moving`` (1 + k, people) holds the tested regressor and the nuisance directions that an
    exchange moves; ``basis`` all of the nuisance.
    """

    def __init__(self, design, blocks, device, block_voxels):
        raw, nuisance = partition(design)
        regressor = residualised(raw, nuisance)
        directions = _moving(nuisance, blocks)
        unit = regressor / np.linalg.norm(regressor)
        small = design.dof < SMALL_DOF
        self.device = torch.device("cpu") if small else device
        self.dtype = torch.float64 if small else torch.float32
        self.moving = np.vstack([unit, directions.T]).astype("f8" if small else "f4")
        self.basis = torch.from_numpy(np.linalg.qr(nuisance)[0])
        voxels, rows = CPU_BLOCK if self.device.type == "cpu" else GPU_BLOCK
        self.voxels = block_voxels or max(64, min(voxels, voxels * 1000 // len(design.matrix)))
        self.orders_per_product = max(8, rows // len(self.moving))

    def maxima(
        self, data: Data, orders: Iterator[np.ndarray], count: int, progress: Progress | None
    ) -> np.ndarray:
        """(count,) float64: the largest r^2 of each order."""
        order_bytes = 16 * self.moving.shape[1]
        at_once = max(
            self.orders_per_product, DESIGN_BYTES // (2 * self.moving.nbytes + order_bytes)
        )
        n_blocks = math.ceil(data.shape[1] / self.voxels)
        total = n_blocks * math.ceil(count / at_once)
        best, done = [], 0
        for chunk in _chunks(orders, at_once):
            operands = self._operands(chunk)
            chunk_best = [
                torch.zeros(rows, dtype=self.dtype, device=self.device) for rows, _ in operands
            ]
            for _, block in voxel_blocks(data, self.voxels):
                residuals = self._to_device(unit_residuals(block, self.basis)[0])
                for so_far, (rows, operand) in zip(chunk_best, operands, strict=True):
                    torch.maximum(so_far, self._max_r2(operand, residuals, rows), out=so_far)
                done += 1
                if progress is not None:
                    progress(done, total)
            best += chunk_best
        return torch.cat(best).clamp(max=1.0).cpu().double().numpy()

    def _operands(self, orders: np.ndarray) -> list[tuple[int, torch.Tensor]]:
        """Permuted designs, ((1 + k) * orders, people) each, ready for the product."""
        step = self.orders_per_product
        parts = (orders[start : start + step] for start in range(0, len(orders), step))
        return [(len(part), self._ready(self.moving[:, part])) for part in parts]

    def _ready(self, permuted: np.ndarray) -> torch.Tensor:
        flat = torch.from_numpy(permuted.reshape(-1, permuted.shape[-1]))
        return self._packed(flat.to(self.device))

    def _to_device(self, residuals: torch.Tensor) -> torch.Tensor:
        """(people, voxels) float64 to (voxels, people), as and where it is multiplied."""
        return self._packed(residuals.T.to(self.dtype).contiguous().to(self.device))

    def _packed(self, matrix: torch.Tensor) -> torch.Tensor:
        # oneDNN's float32 product is more than twice as fast as the BLAS that torch.mm calls on
        # processors for which that BLAS was not written.
        fits = self.device.type == "cpu" and self.dtype == torch.float32
        return matrix.to_mkldnn() if fits and torch.backends.mkldnn.is_available() else matrix

    def _max_r2(self, operand: torch.Tensor, residuals: torch.Tensor, rows: int) -> torch.Tensor:
        products = F.linear(operand, residuals)  # ((1 + k) * rows, voxels)
        if products.is_mkldnn:
            products = products.to_dense()
        squares = products.square_().view(-1, rows, products.shape[1])
        if len(squares) == 1:
            return squares[0].amax(dim=1)
        left = squares[1]
        for direction in squares[2:]:
            left += direction
        # Never 0 / 0, where the permuted nuisance alone explains a voxel.
        left.neg_().add_(1.0).clamp_(min=4 * torch.finfo(self.dtype).eps)
        return squares[0].div_(left).amax(dim=1)


def _moving(nuisance: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Orthonormal nuisance directions, (people, k), less those that an exchange leaves alone."""
    first = np.unique(blocks, return_index=True)[1]
    fixed = np.array([np.array_equal(column, column[first][blocks]) for column in nuisance.T])
    fixed = fixed.astype(bool)
    ordered = np.hstack([nuisance[:, fixed], nuisance[:, ~fixed]])
    return np.linalg.qr(ordered)[0][:, fixed.sum() :]
