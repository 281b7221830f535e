r"""The statistic of every voxel for many rearrangements, by blocks, in bounded memory.

Freedman and Lane permute the residuals ``e`` of the nuisance model, add the nuisance fit back and
fit the whole model again. With ``P`` the rearrangement (an order, signs, or both), ``Q`` an
orthonormal basis of the nuisance and ``H`` one of the tested regressors, residualised against
``Q``, that fit's statistic depends on ``P e`` only through its partial correlation with ``H``::

    R^2 = |H'Pe|^2 / |Pe - QQ'Pe|^2      F = R^2 / (1 - R^2) * dof / c      t = sign sqrt(F)

with ``c`` the columns of ``H``. The nuisance fit that was added back is what ``Q`` removes again.
As ``P`` keeps lengths, ``|Pe - QQ'Pe|^2 = |e|^2 - |(P'Q)'e|^2`` and ``H'Pe = (P'H)'e``:
rearranging the people's residuals is rearranging the rows of ``H`` and ``Q`` together. The data
are therefore residualised and scaled once, and a rearrangement costs one product with ``c + k``
short vectors per voxel. Columns that no rearrangement changes (the intercept, where places
change) do not move, and cost nothing.

The products are in float32; data are residualised in float64.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from models.errors import InputError
from models.statistics.exchange import Moves
from models.statistics.glm import (
    Data,
    Design,
    orthonormal,
    partition,
    residualised,
    unit_residuals,
)

# Voxels per block and design rows per product: both operands and the result stay in cache.
CPU_BLOCK = (2048, 192)
GPU_BLOCK = (32768, 768)
WELCH_BLOCK = (1024, 192)
# Bytes per value of a block of data: float64 with what is computed from it, float32 copies.
BLOCK_BYTES = 40
# With few degrees of freedom t is steep in r, and float32 would blur it; such cohorts are small
# enough for float64 on the CPU.
SMALL_DOF = 20
# A share of a voxel's variance that is rounding.
NOTHING = 1e-12


class Kernel(ABC):
    """Scores of many rearrangements.

    Parameters
    ----------
    moves : Moves
        Where the rearrangements come from.
    moving : numpy.ndarray
        (directions, people), the rows that a rearrangement moves.
    block : tuple of int
        Voxels of a block of data and design rows of a product.
    signed : bool
        Whether scores have the sign of the effect; else they are its strength.
    memory : float
        Bytes to work in. A third is for blocks of data, a third for moved designs, and the rest
        is left to whoever stores the scores.
    block_voxels : int, optional
        Voxels of a block, in place of what fits.
    """

    device = torch.device("cpu")
    dtype = torch.float64

    def __init__(
        self,
        moves: Moves,
        moving: np.ndarray,
        basis: np.ndarray,
        block: tuple[int, int],
        signed: bool,
        memory: float,
        block_voxels: int | None,
    ):
        self.moves, self.moving, self.signed = moves, moving, signed
        self.basis = torch.from_numpy(basis)
        people = moving.shape[-1]
        fits = int(memory / 3 / BLOCK_BYTES / people / torch.get_num_threads())
        self.voxels = block_voxels or max(8, min(block[0], fits))
        directions = moving.size // people
        self.per_product = max(8, block[1] // directions)
        # A moved design exists as made and as packed; its order as drawn and as gathered.
        bytes_per_move = 2 * moving.nbytes + 18 * people
        self.at_once = max(self.per_product, int(memory / 3 / bytes_per_move))

    def operands(self, orders: np.ndarray, signs: np.ndarray | None) -> list[tuple[slice, Any]]:
        """Moves, a product's worth at a time: which these are, and their designs."""
        made = []
        for start in range(0, len(orders), self.per_product):
            rows = slice(start, min(start + self.per_product, len(orders)))
            flips = None if signs is None else signs[rows].astype(self.moving.dtype)
            made.append((rows, self._operand(orders[rows], flips)))
        return made

    def scores(
        self, operands: list[tuple[slice, Any]], block: torch.Tensor
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Scores (moves, voxels) of a block of data, a product's worth of moves at a time."""
        ready = self._block(unit_residuals(block, self.basis)[0])
        for rows, operand in operands:
            yield rows, self._scores(operand, ready, rows.stop - rows.start)

    def n_blocks(self, data: Data) -> int:
        """Blocks of data in a sweep, at least."""
        return math.ceil(data.shape[1] / self.voxels)

    @abstractmethod
    def statistic(self, scores: torch.Tensor) -> torch.Tensor:
        """T, F, v or G of scores; may overwrite them."""

    @abstractmethod
    def _operand(self, orders: np.ndarray, signs: np.ndarray | None) -> Any:
        """Moved designs, ready for the product."""

    @abstractmethod
    def _block(self, residuals: torch.Tensor) -> Any:
        """Residuals (people, voxels), as and where they are multiplied."""

    @abstractmethod
    def _scores(self, operand: Any, block: Any, rows: int) -> torch.Tensor:
        """(rows, voxels)."""


class Correlation(Kernel):
    """Partial R^2, with the sign of the effect if asked: what t and F are functions of."""

    def __init__(
        self,
        design: Design,
        moves: Moves,
        device: torch.device,
        signed: bool,
        memory: float,
        block_voxels: int | None = None,
    ):
        raw, nuisance = partition(design)
        self.rank, self.is_f, self.dof = design.rank, design.is_f, design.dof
        small = design.dof < SMALL_DOF
        self.device = torch.device("cpu") if small else device
        self.dtype = torch.float64 if small else torch.float32
        fixed = moves.fixed(nuisance)
        ordered = np.hstack([nuisance[:, fixed], nuisance[:, ~fixed]])
        basis = np.linalg.qr(ordered)[0]
        tested = orthonormal(residualised(raw, nuisance))
        moving = np.vstack([tested.T, basis[:, fixed.sum() :].T]).astype("f8" if small else "f4")
        block = CPU_BLOCK if self.device.type == "cpu" else GPU_BLOCK
        super().__init__(moves, moving, basis, block, signed, memory, block_voxels)

    def statistic(self, scores: torch.Tensor) -> torch.Tensor:
        """T of signed or unsigned R^2, or F."""
        strength = scores.abs()
        # Never x / 0, where the model leaves no rest of a voxel.
        rest = (1 - strength).clamp_(min=max(NOTHING, torch.finfo(scores.dtype).eps))
        strength.div_(rest).mul_(self.dof / self.rank)
        return strength if self.is_f else torch.copysign(strength.sqrt_(), scores)

    def _operand(self, orders: np.ndarray, signs: np.ndarray | None) -> torch.Tensor:
        moved = self.moving[:, orders]
        if signs is not None:
            moved *= signs
        return self._packed(torch.from_numpy(moved.reshape(-1, moved.shape[-1])).to(self.device))

    def _block(self, residuals: torch.Tensor) -> torch.Tensor:
        return self._packed(residuals.T.to(self.dtype).contiguous().to(self.device))

    def _packed(self, matrix: torch.Tensor) -> torch.Tensor:
        # oneDNN's float32 product is more than twice as fast as the BLAS that torch.mm calls on
        # processors for which that BLAS was not written.
        fits = self.device.type == "cpu" and self.dtype == torch.float32
        return matrix.to_mkldnn() if fits and torch.backends.mkldnn.is_available() else matrix

    def _scores(self, operand: torch.Tensor, block: torch.Tensor, rows: int) -> torch.Tensor:
        products = F.linear(operand, block)  # ((c + k) * rows, voxels)
        if products.is_mkldnn:
            products = products.to_dense()
        products = products.view(-1, rows, products.shape[1])
        effect = products[0].clone() if self.signed else None
        squares = products.square_()
        explained = squares[0]
        for direction in squares[1 : self.rank]:
            explained += direction
        if len(squares) > self.rank:
            left = squares[self.rank]
            for direction in squares[self.rank + 1 :]:
                left += direction
            # Never 0 / 0, where the permuted nuisance alone explains a voxel.
            left.neg_().add_(1.0).clamp_(min=4 * torch.finfo(self.dtype).eps)
            explained.div_(left)
        return explained if effect is None else explained.copysign_(effect)


class Welch(Kernel):
    r"""Aspin and Welch's v, or G: variances that differ between groups of people.

    Winkler et al. 2014 (doi:10.1016/j.neuroimage.2014.01.060), eq. 9 and 10. With least-squares
    coefficients ``b`` of the model ``M`` and residual-forming matrix ``R``::

        G = b'C (C'(M'WM)^-1 C)^-1 C'b / (L s)       W_nn = sum_g R_nn / e_g'e_g  (n in g)
        L = 1 + 2 (s - 1) / (s (s + 2)) sum_g (1 - sum_g W_nn / trace W)^2 / sum_g R_nn

    and ``v = sign sqrt(G)`` for a contrast of rank ``s = 1``. With ``M = [H Q]`` orthonormal,
    ``(C'(M'WM)^-1 C)^-1`` is what eliminating the columns ``Q`` leaves of ``M'WM``. Computed in
    float64 on the CPU.
    """

    def __init__(
        self,
        design: Design,
        moves: Moves,
        signed: bool,
        memory: float,
        block_voxels: int | None = None,
    ):
        raw, nuisance = partition(design)
        basis = np.linalg.qr(nuisance)[0]
        model = np.hstack([orthonormal(residualised(raw, nuisance)), basis])
        sizes = np.bincount(moves.variance)
        self.rank, self.is_f = design.rank, design.is_f
        masks = (moves.variance == np.arange(len(sizes))[:, None]).astype(float)
        degrees = masks @ (1 - (model**2).sum(axis=1))
        if sizes.min() < 2 or degrees.min() < 1e-6:
            raise InputError(
                f"a variance group of {sizes[np.argmin(degrees)]} people leaves no residual to "
                "estimate a variance from: join it with another, or drop covariates."
            )
        parts = model.T * masks[:, None]  # (groups, columns, people)
        self.grams = torch.from_numpy(parts @ model)
        self.degrees = torch.from_numpy(degrees)[:, None, None]
        self.sizes = torch.from_numpy(sizes.astype(float))[:, None, None]
        moving = np.concatenate([parts, masks[:, None]], axis=1)
        super().__init__(moves, moving, basis, WELCH_BLOCK, signed, memory, block_voxels)

    def statistic(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores are v or G already."""
        return scores

    def _operand(self, orders: np.ndarray, signs: np.ndarray | None) -> tuple:
        moved = self.moving[:, :, orders]  # (groups, columns + 1, moves, people)
        if signs is not None:
            moved[:, :-1] *= signs
        return torch.from_numpy(moved[:, :-1].copy()), torch.from_numpy(moved[:, -1].copy())

    def _block(self, residuals: torch.Tensor) -> torch.Tensor:
        return residuals

    def _scores(self, operand: Any, block: torch.Tensor, rows: int) -> torch.Tensor:
        parts, masks = operand
        products = parts @ block  # (groups, columns, moves, voxels)
        weights = self.degrees / self._squared_errors(products, masks @ block.square())
        beta = products.sum(dim=0)
        inner = self._schur(torch.einsum("gpq,gmv->pqmv", self.grams, weights))
        effect = beta[: self.rank]
        g = torch.einsum("amv,abmv,bmv->mv", effect, inner, effect).clamp_(min=0)
        if self.is_f:
            return g / (self._correction(weights) * self.rank)
        return torch.copysign(g.sqrt_(), effect[0]) if self.signed else g.sqrt_()

    def _squared_errors(self, products: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
        """(groups, moves, voxels): of each group's share of the residuals of the full model."""
        beta = products.sum(dim=0)
        fitted = torch.einsum("pmv,gpq,qmv->gmv", beta, self.grams, beta)
        crossed = torch.einsum("pmv,gpmv->gmv", beta, products)
        return (squares - 2 * crossed + fitted).clamp_(min=NOTHING)

    def _schur(self, gram: torch.Tensor) -> torch.Tensor:
        """Eliminate the nuisance, the columns from ``rank`` on."""
        for last in range(len(gram) - 1, self.rank - 1, -1):
            column = gram[:last, last]
            outer = column[:, None] * column[None] / gram[last, last]
            gram = gram[:last, :last] - outer
        return gram

    def _correction(self, weights: torch.Tensor) -> torch.Tensor:
        totals = weights * self.sizes
        uneven = ((1 - totals / totals.sum(dim=0)) ** 2 / self.degrees).sum(dim=0)
        return 1 + 2 * (self.rank - 1) / (self.rank * (self.rank + 2)) * uneven
