"""Family-wise error by random-field theory, as SPM computes it, for comparison.

The theory needs smooth maps: at a width (FWHM) of three voxels or more the corrected p values of
peaks are valid and somewhat conservative. Cluster extents need more: a cluster-forming threshold
of about p = 0.001, some 20 residual degrees of freedom and stationary smoothness; below that they
reject too much or too little (Hayasaka & Nichols 2003, NeuroImage 20:2343). Permutation needs
none of this.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import gamma, inf, log, pi, sqrt
from typing import Literal

import numpy as np
from scipy import optimize, stats
from scipy.special import gammaln

from models.errors import InputError

# A field of fewer degrees of freedom is infinite somewhere in a volume.
LEAST_DOF = 4
# Values held in float64 at a time.
BLOCK_VALUES = 2_000_000
# Below this share of its own size, what a model leaves of a voxel is rounding, not signal.
FLAT = 1e-6
# Resels per voxel along an axis that are rounding: neighbours are the same.
SAME = 1e-6
_RESEL = 4 * log(2)
_PAIRS = tuple(combinations(range(4), 2))
_SUBSETS = tuple(axes for size in range(4) for axes in combinations(range(3), size))


# ---- Smoothness ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Smoothness:
    """How smooth the noise of a search volume is.

    Parameters
    ----------
    fwhm_mm : numpy.ndarray
        (3,), width at half height, along each axis of the grid, of the Gaussian kernel that
        would have made the noise from white noise.
    resels : numpy.ndarray
        (4,), resel counts of the search volume by dimension 0 to 3.
    resels_per_voxel : numpy.ndarray
        (voxels,), local estimate; NaN where a forward neighbour is not in the search volume.
    valid : numpy.ndarray
        (voxels,), bool: the voxels searched; False where data are not finite or do not vary.
    """

    fwhm_mm: np.ndarray
    resels: np.ndarray
    resels_per_voxel: np.ndarray
    valid: np.ndarray

    @property
    def voxels(self) -> int:
        """Number of voxels searched."""
        return int(self.valid.sum())


def smoothness(
    data: np.ndarray,
    mask: np.ndarray,
    voxel_mm: Sequence[float],
    design: np.ndarray | None = None,
    block_values: int = BLOCK_VALUES,
) -> Smoothness:
    """Estimate smoothness and resels from the residuals of a linear model.

    Every voxel's residuals are scaled to length one; the products ``L`` of their differences to
    the three forward neighbours then give the resels per voxel, ``sqrt(|L| / (4 log 2)^3)``,
    without bias for any number of people (Worsley 1996; Kiebel et al. 1999, NeuroImage 10:756;
    SPM12). Differences stand for derivatives: for Gaussian noise of width w voxels this makes
    the estimate too large, by some 5 % at w = 3 and 1 % at w = 6.

    Parameters
    ----------
    data : numpy.ndarray
        (people, voxels), memory-mapped or not: residuals in any scale or, with ``design``, the
        data that the model is fitted to. Voxels in the order of ``mask[mask]``.
    mask : numpy.ndarray
        3-D bool, the search volume.
    voxel_mm : sequence of float
        The voxel's three edges.
    design : numpy.ndarray, optional
        (people, columns); what these columns explain is removed while reading.
    block_values : int
        Values held in float64 at a time; memory is about five times this.

    Returns
    -------
    Smoothness

    Raises
    ------
    InputError
        Too few people for their columns, a mask that is thinner than two voxels everywhere
        along an axis, or data that do not vary in space.
    """
    mask = np.asarray(mask, bool)
    if data.ndim != 2 or mask.ndim != 3 or data.shape[1] != mask.sum():
        raise ValueError(f"data {data.shape} do not fit a mask of {mask.sum()} voxels, 3-D")
    basis = _basis(data.shape[0], design)
    neighbours = _forward_neighbours(mask)
    valid = np.zeros(data.shape[1], bool)
    roughness = np.full((data.shape[1], 3, 3), np.nan)
    for where, columns in _blocks(neighbours, data.shape[0], block_values):
        usable, covariance = _differences(data, basis, neighbours[:, where], columns, block_values)
        valid[where], roughness[where] = usable, covariance
    roughness[(neighbours[1:] < 0).any(axis=0)] = np.nan
    local, fwhm = _widths(roughness)
    searched = mask.copy()
    searched[mask] = valid
    return Smoothness(fwhm * np.asarray(voxel_mm, float), resels(searched, fwhm), local, valid)


def _basis(people: int, design: np.ndarray | None) -> np.ndarray:
    """Orthonormal columns (people, k) of what is removed."""
    matrix = np.zeros((people, 0)) if design is None else np.asarray(design, float)
    rank = np.linalg.matrix_rank(matrix) if matrix.size else 0
    if matrix.shape[0] != people:
        raise ValueError(f"a design of {matrix.shape[0]} rows for {people} people")
    if people - max(rank, 1) < LEAST_DOF:
        raise InputError(
            f"{people} people leave fewer than {LEAST_DOF} residual degrees of freedom, too few "
            "for random-field theory: add people, drop covariates, or use permutation."
        )
    return np.linalg.svd(matrix, full_matrices=False)[0][:, :rank]


def _forward_neighbours(mask: np.ndarray) -> np.ndarray:
    """(4, voxels) int: each voxel's own column and those of the next one along x, y, z, or -1."""
    column = np.full(np.add(mask.shape, 1), -1)
    column[:-1, :-1, :-1][mask] = np.arange(mask.sum())
    steps = np.vstack([np.zeros(3, int), np.eye(3, dtype=int)])
    voxels = np.argwhere(mask)
    return np.stack([column[tuple((voxels + step).T)] for step in steps])


def _blocks(
    neighbours: np.ndarray, people: int, block_values: int
) -> Iterator[tuple[slice, slice]]:
    """Runs of voxels, and the columns that they and their neighbours span."""
    reach = neighbours.max(axis=0) + 1
    # At least as many voxels as lie between neighbours, so that no column is read often.
    least = int((reach - neighbours[0]).max())
    size = max(least, block_values // people - least)
    edges = [*range(0, len(reach), size), len(reach)]
    for start, stop in pairwise(edges):
        yield slice(start, stop), slice(start, int(reach[start:stop].max()))


def _differences(data, basis, neighbours, columns, block_values) -> tuple[np.ndarray, np.ndarray]:
    """Usable voxels (v,), and products (v, 3, 3) of the unit residuals' forward differences."""
    width = columns.stop - columns.start
    # A missing neighbour stands for itself here; the caller discards what comes of it.
    index = np.where(neighbours < 0, neighbours[0], neighbours) - columns.start
    square, cross = np.zeros(width), np.zeros((6, index.shape[1]))
    loading = np.zeros((basis.shape[1], width))
    step = max(1, block_values // width)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        for start in range(0, data.shape[0], step):
            rows = slice(start, start + step)
            chunk = np.asarray(data[rows, columns], np.float64)
            square += np.einsum("pv,pv->v", chunk, chunk)
            loading += basis[rows].T @ chunk
            at = [chunk[:, one] for one in index]
            for total, (i, j) in zip(cross, _PAIRS, strict=True):
                total += np.einsum("pv,pv->v", at[i], at[j])
        length = square - (loading**2).sum(axis=0)
        usable = np.isfinite(length) & (length > FLAT**2 * square)
        length = np.sqrt(np.where(usable, length, np.nan))
        explained = [loading[:, one] for one in index]
        for total, (i, j) in zip(cross, _PAIRS, strict=True):
            total -= (explained[i] * explained[j]).sum(axis=0)
            total /= length[index[i]] * length[index[j]]
    return usable[index[0]], _covariance(cross)


def _covariance(correlation: np.ndarray) -> np.ndarray:
    """Products (v, 3, 3) of differences from the correlations (6, v) of a voxel and its next."""
    gram = np.ones((4, 4, correlation.shape[1]))
    for one, (i, j) in zip(correlation, _PAIRS, strict=True):
        gram[i, j] = gram[j, i] = one
    return np.moveaxis(gram[1:, 1:] - gram[1:, :1] - gram[:1, 1:] + 1, -1, 0)


def _widths(roughness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Resels per voxel (v,), and the width (3,) in voxels.

    The widths are in proportion to the mean of each axis, and their product agrees with the mean
    resels per voxel.
    """
    known = np.isfinite(roughness).all(axis=(1, 2))
    volume = np.full(len(roughness), np.nan)
    volume[known] = np.sqrt(np.linalg.det(roughness[known]).clip(min=0) / _RESEL**3)
    if not known.any():
        raise InputError(
            "no voxel of the mask has its three forward neighbours in it: random-field theory "
            "needs a volume at least two voxels thick; use permutation."
        )
    axes = np.sqrt(np.diagonal(roughness[known], axis1=1, axis2=2).clip(min=0) / _RESEL)
    per_axis, mean = axes.mean(axis=0), volume[known].mean()
    if mean <= SAME**3 or (per_axis <= SAME).any():
        raise InputError("the maps do not vary from voxel to voxel: check them and their mask.")
    return volume, 1 / (per_axis * np.cbrt(mean / per_axis.prod()))


def resels(mask: np.ndarray, fwhm_voxels: Sequence[float] | np.ndarray) -> np.ndarray:
    """Resel counts (4,) of a volume, by dimension (Worsley et al. 1996, Hum Brain Mapp 4:58).

    Voxels are the corners of a lattice whose points, edges, faces and cubes are counted; the
    count of dimension 0 is the Euler characteristic.

    Parameters
    ----------
    mask : numpy.ndarray
        3-D bool.
    fwhm_voxels : sequence of float
        Width of the noise in voxels, per axis.
    """
    count = {axes: _complete(np.asarray(mask, bool), axes) for axes in _SUBSETS}
    result = np.zeros(4)
    for axes in _SUBSETS:
        above = (other for other in _SUBSETS if set(axes) <= set(other))
        own = sum((-1) ** (len(other) - len(axes)) * count[other] for other in above)
        result[len(axes)] += own / np.prod([fwhm_voxels[axis] for axis in axes])
    return result


def _complete(mask: np.ndarray, axes: tuple[int, ...]) -> int:
    """Number of points, edges, faces or cubes along the axes that have all corners."""
    for axis in axes:
        mask = np.delete(mask, 0, axis) & np.delete(mask, -1, axis)
    return int(mask.sum())


# ---- Fields ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """What kind of statistic a map holds.

    Parameters
    ----------
    kind : {"t", "f", "z"}
    dof : float
        Residual degrees of freedom, at least 4; not used for z.
    numerator : int
        Degrees of freedom of the hypothesis, for f.
    two_sided : bool
        Whether large negative values count too; not for f.

    Raises
    ------
    InputError
        Too few degrees of freedom.
    """

    kind: Literal["t", "f", "z"]
    dof: float = inf
    numerator: int = 1
    two_sided: bool = False

    def __post_init__(self):
        if self.kind not in _DENSITIES:
            raise ValueError(f"a field of {self.kind!r}: expected one of {', '.join(_DENSITIES)}")
        if self.two_sided and self.kind == "f":
            raise ValueError("F has one side only")
        if self.kind != "z" and not LEAST_DOF <= self.dof < inf:
            raise InputError(
                f"{self.dof} residual degrees of freedom: random-field theory needs at least "
                f"{LEAST_DOF} in a volume; add people, drop covariates, or use permutation."
            )

    def densities(self, height: np.ndarray | float) -> np.ndarray:
        """EC densities per resel, (4, ...), of dimensions 0 to 3, at each height.

        Worsley et al. 1996, table II. Dimension 0 is the p value without correction.
        """
        height = np.asarray(height, float)
        if self.two_sided:
            return 2 * _DENSITIES[self.kind](np.abs(height), self)
        return _DENSITIES[self.kind](height, self)

    def height(self, p: np.ndarray | float) -> np.ndarray:
        """Height that is exceeded with probability p at one voxel."""
        p = np.asarray(p, float) / (2 if self.two_sided else 1)
        if self.kind == "z":
            return stats.norm.isf(p)
        if self.kind == "t":
            return stats.t.isf(p, self.dof)
        return stats.f.isf(p, self.numerator, self.dof)


def _gaussian(u: np.ndarray, _: Field) -> np.ndarray:
    return np.stack([stats.norm.sf(u), *(np.exp(-(u**2) / 2) * _polynomials(u, 1.0, 1.0))])


def _student(u: np.ndarray, field: Field) -> np.ndarray:
    v = field.dof
    tail = np.exp(-(v - 1) / 2 * np.log1p(u**2 / v))
    ratio = np.exp(gammaln((v + 1) / 2) - gammaln(v / 2)) / sqrt(v / 2)
    return np.stack([stats.t.sf(u, v), *(tail * _polynomials(u, ratio, (v - 1) / v))])


def _polynomials(u: np.ndarray, second: float, third: float) -> np.ndarray:
    """Dimensions 1 to 3 of z and t, less the tail that they share."""
    return np.stack(
        [
            np.full_like(u, sqrt(_RESEL) / (2 * pi)),
            _RESEL / (2 * pi) ** 1.5 * second * u,
            _RESEL**1.5 / (2 * pi) ** 2 * (third * u**2 - 1),
        ]
    )


def _fisher(u: np.ndarray, field: Field) -> np.ndarray:
    k, v = field.numerator, field.dof
    # Kept off zero, where a power and the polynomial that cancels it are infinite and zero.
    x = np.maximum(k * u / v, 1e-30)
    polynomials = (
        sqrt(2) * np.ones_like(x),
        (v - 1) * x - (k - 1),
        ((v - 1) * (v - 2) * x**2 - (2 * v * k - v - k - 1) * x + (k - 1) * (k - 2)) / sqrt(2),
    )
    rows = [stats.f.sf(u, k, v)]
    for d, polynomial in enumerate(polynomials, start=1):
        scale = gammaln((v + k - d) / 2) - gammaln(v / 2) - gammaln(k / 2)
        scale += (k - d) / 2 * np.log(x) - (v + k - 2) / 2 * np.log1p(x)
        rows.append((_RESEL / (2 * pi)) ** (d / 2) * np.exp(scale) * polynomial)
    return np.stack(rows)


_DENSITIES = {"t": _student, "f": _fisher, "z": _gaussian}


# ---- p values --------------------------------------------------------------------------------


def peak_p(
    values: np.ndarray, field: Field, resel_counts: np.ndarray, voxels: int | None = None
) -> np.ndarray:
    """Family-wise corrected p of every value, as if it were a peak.

    ``1 - exp(-E)`` with E the Euler characteristic expected above the value (Worsley et al.
    1996), as in SPM.

    Parameters
    ----------
    values : numpy.ndarray
        Statistics, any shape; NaN stays NaN.
    field : Field
        Their kind.
    resel_counts : numpy.ndarray
        (4,), of the search volume.
    voxels : int, optional
        Number of voxels searched: the smaller of this p and Bonferroni's is then taken.
    """
    values = np.asarray(values, float)
    height = np.abs(values) if field.two_sided else values
    lowest = _highest_expectation(field, resel_counts)
    densities = field.densities(np.maximum(height, lowest))
    p = -np.expm1(-_expected(densities, resel_counts))
    if voxels is None:
        return p
    return np.minimum(p, voxels * field.densities(height)[0]).clip(max=1.0)


def threshold(
    alpha: float, field: Field, resel_counts: np.ndarray, voxels: int | None = None
) -> float:
    """Height whose `peak_p` is alpha.

    Raises
    ------
    InputError
        An alpha that is not between 0 and 0.3.
    """
    if not 0 < alpha < 0.3:
        raise InputError(f"a family-wise error of {alpha}: choose one between 0 and 0.3.")

    def excess(height: float) -> float:
        return log(float(peak_p(np.array(height), field, resel_counts, voxels))) - log(alpha)

    low = float(_highest_expectation(field, resel_counts))
    high = float(field.height(alpha / 10))
    while excess(high) > 0:
        high *= 1.5
    return low if excess(low) <= 0 else float(optimize.brentq(excess, low, high, xtol=1e-10))


def cluster_p(
    extent_resels: np.ndarray, height: float, field: Field, resel_counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """P values of the extent of clusters (Friston et al. 1994, Hum Brain Mapp 1:210, as SPM).

    Read the module's note on when not to trust them.

    Parameters
    ----------
    extent_resels : numpy.ndarray
        Size of each cluster: its voxels over the product of the three widths in voxels.
    height : float
        The cluster-forming threshold.
    field : Field
        The kind of statistic.
    resel_counts : numpy.ndarray
        (4,), of the search volume.

    Returns
    -------
    corrected : numpy.ndarray
        Chance that the noise has any cluster of this extent or more.
    uncorrected : numpy.ndarray
        Chance that one cluster of the noise has this extent or more.

    Raises
    ------
    InputError
        A threshold so low that the theory expects no separate clusters.
    """
    densities = field.densities(height)
    if densities[3] <= 0 or height <= _highest_expectation(field, resel_counts):
        raise InputError(
            f"a cluster-forming threshold of {height} is too low for random-field theory: "
            "take one near p = 0.001."
        )
    mean_extent = densities[0] / densities[3]
    beta = (gamma(2.5) / mean_extent) ** (2 / 3)
    uncorrected = np.exp(-beta * np.asarray(extent_resels, float) ** (2 / 3))
    return -np.expm1(-_expected(densities, resel_counts) * uncorrected), uncorrected


def _expected(densities: np.ndarray, resel_counts: np.ndarray) -> np.ndarray:
    """Expected Euler characteristic; a dimension that would count negative counts nothing."""
    return np.tensordot(np.asarray(resel_counts, float), densities.clip(min=0), axes=1)


def _highest_expectation(field: Field, resel_counts: np.ndarray) -> np.ndarray:
    """Height at which most is expected: below it, p no longer falls with the height."""
    largest = 0.5 if field.kind != "f" and not field.two_sided else 1.0
    heights = field.height(np.geomspace(1e-4, largest, 1000))
    return heights[np.argmax(_expected(field.densities(heights), resel_counts))]
