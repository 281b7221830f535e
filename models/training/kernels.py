"""Kernels between images or rows of a table, fitted on the training rows alone.

The Gram matrix of the voxels holds inner products and nothing that is fitted, so it is computed
once for a cohort, from a memory map and in blocks of voxels. Centring, scale and principal
components are then taken from its training part, for which no voxel is needed any more.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError


@dataclass(frozen=True, eq=False)
class Kernel:
    """Similarities of the rows that are fitted, and of other rows with them.

    Parameters
    ----------
    fitted : numpy.ndarray
        (n, n), among the rows that are fitted.
    others : numpy.ndarray
        (m, n), of other rows with them.
    others_norm : numpy.ndarray
        (m,), of each other row with itself.
    """

    fitted: NDArray
    others: NDArray
    others_norm: NDArray

    def rbf(self, gamma: float) -> "Kernel":
        """exp(-gamma d²), d the distance that belongs to a linear kernel."""
        norm = np.diag(self.fitted)
        near = np.exp(-gamma * _squares(norm, norm, self.fitted))
        return Kernel(
            near,
            np.exp(-gamma * _squares(self.others_norm, norm, self.others)),
            np.ones(len(self.others)),
        )


# Rows to fit on, other rows -> their kernel.
Source = Callable[[NDArray, NDArray], Kernel]


def _squares(first: NDArray, second: NDArray, inner: NDArray) -> NDArray:
    return np.maximum(first[:, None] + second[None] - 2 * inner, 0)


def voxel_blocks(
    volumes: np.ndarray, *, rows: Sequence[int] | None = None, block_mb: float = 256
) -> Iterator[NDArray]:
    """Voxels of all images, some at a time.

    Parameters
    ----------
    volumes : (images, C, x, y, z) array
        Usually a memory map; every voxel is read once.
    rows : sequence of int, optional
        Images to take; default all.
    block_mb : float
        Memory of a block as float64.

    Yields
    ------
    (images, v) float64 array
    """
    flat = volumes.reshape(len(volumes), -1)
    taken = np.arange(len(volumes)) if rows is None else np.asarray(rows, int)
    step = max(1, int(block_mb * 2**20 / (8 * max(len(taken), 1))))
    for start in range(0, flat.shape[1], step):
        yield np.asarray(flat[taken, start : start + step], np.float64)


def gram(blocks: Iterable[NDArray]) -> NDArray:
    """Inner products (n, n) of rows whose columns come in blocks (n, v); float64."""
    total: NDArray | None = None
    for block in blocks:
        part = block @ block.T
        total = part if total is None else np.add(total, part, out=total)
    if total is None:
        raise ValueError("there are no columns")
    return total


def of_gram(products: NDArray, components: int = 0) -> Source:
    """Linear kernel of rows of which the inner products are known.

    The mean of the fitted rows is taken off, and what is left is divided by its mean square, so
    that C and gamma mean the same on any grid and intensity scale. Columns keep their own
    spread: to give each voxel unit variance would raise the noise of the brain's border.

    Parameters
    ----------
    products : (n, n) array
        See :func:`gram`.
    components : int
        Principal components of the fitted rows to keep; 0 for all.
    """

    def kernel(fit: NDArray, rows: NDArray) -> Kernel:
        return _centred(
            products[np.ix_(fit, fit)],
            products[np.ix_(rows, fit)],
            products[rows, rows],
            components,
        )

    return kernel


def of_table(values: NDArray, components: int = 0) -> Source:
    """Linear kernel of the rows of a table, each column to mean 0 and variance 1.

    Parameters
    ----------
    values : (n, p) array
        What is not finite is replaced by the mean of the fitted rows; a column that is constant
        in them plays no part.
    components : int
        As in :func:`of_gram`.
    """

    def kernel(fit: NDArray, rows: NDArray) -> Kernel:
        known = np.where(np.isfinite(values), values, np.nan)
        mean, spread = _moments(known[fit])
        fitted, others = (np.nan_to_num((known[some] - mean) / spread) for some in (fit, rows))
        return _centred(fitted @ fitted.T, others @ fitted.T, (others**2).sum(1), components)

    return kernel


def _moments(values: NDArray) -> tuple[NDArray, NDArray]:
    """Mean and standard deviation of the columns; the latter infinite where nothing varies."""
    seen = np.isfinite(values)
    count = np.maximum(seen.sum(0), 1)
    mean = np.where(seen, values, 0).sum(0) / count
    spread = np.sqrt(np.where(seen, (values - mean) ** 2, 0).sum(0) / count)
    constant = spread <= 1e-12 * np.maximum(np.abs(mean), 1)
    return mean, np.where(constant, np.inf, spread)


def _centred(fitted: NDArray, others: NDArray, norm: NDArray, components: int) -> Kernel:
    """Centre by the mean of the fitted rows (Schölkopf 1998, appendix B), scale, project."""
    mean, total = fitted.mean(0), fitted.mean()
    own = others.mean(1)
    centred = fitted - mean[None] - mean[:, None] + total
    size = float(np.trace(centred)) / len(centred)
    if not size > 1e-10 * max(float(np.trace(fitted)) / len(fitted), 1e-300):
        raise InputError(
            "all training images are alike in what a baseline looks at, so nothing can be learnt "
            "of it: leave it out of [baselines] names"
        )
    kernel = Kernel(
        centred / size,
        (others - own[:, None] - mean[None] + total) / size,
        (norm - 2 * own + total) / size,
    )
    return _projected(kernel, components) if components else kernel


def _projected(kernel: Kernel, components: int) -> Kernel:
    """Keep the leading principal components, which the centred kernel itself tells."""
    values, vectors = np.linalg.eigh(kernel.fitted)
    kept = np.argsort(values)[::-1][:components]
    kept = kept[values[kept] > 1e-10 * values.max()]
    scores = kernel.others @ vectors[:, kept] / np.sqrt(values[kept])
    basis = vectors[:, kept] * np.sqrt(values[kept])
    return Kernel(basis @ basis.T, scores @ basis.T, (scores**2).sum(1))
