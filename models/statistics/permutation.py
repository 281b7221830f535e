"""Corrected p values by permutation: voxels, cluster extents and masses, TFCE.

All are corrected by the distribution of their maximum over the image, all from the same
rearrangements of the people (Freedman and Lane; `models.statistics.kernels`). Where only voxels
are asked for, no map of a rearrangement is ever formed, and only its maximum is kept.

Observed statistics are computed in float64, those of the rearrangements mostly in float32.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from scipy import stats

from models.errors import InputError
from models.statistics.exchange import Exchange, Moves
from models.statistics.glm import Data, Design, check_people, fit, visit_blocks
from models.statistics.kernels import Correlation, Kernel, Welch
from models.statistics.tail import Tail, fit_tail

MEMORY_MB = 120.0
GPU_MEMORY_MB = 2000.0
ALTERNATIVES = ("two-sided", "greater")
# float32 maxima against float64 observations: a tie must count as a tie.
TIE = 1e-4

Progress = Callable[[int, int], object]


@dataclass(frozen=True, eq=False)
class Spatial:
    """Statistics of neighbouring voxels, to be corrected beside those of single voxels.

    Parameters
    ----------
    mask : numpy.ndarray
        3-D bool; the columns of the data are ``image[mask]``.
    cluster_t : float, optional
        Voxels beyond this statistic (t, F, v or G) form clusters.
    cluster_p : float, optional
        The same as an uncorrected p value of the parametric test, two-sided if the test is.
    tfce : bool
        Whether threshold-free cluster enhancement is computed (E = 0.5, H = 2).
    connectivity : {18, 26, 6}
        As for `models.statistics.components.Lattice`.
    """

    mask: np.ndarray
    cluster_t: float | None = None
    cluster_p: float | None = None
    tfce: bool = False
    connectivity: int = 18

    def __post_init__(self):
        if self.cluster_t is not None and self.cluster_p is not None:
            raise ValueError("clusters are formed by a t or by a p, not by both")
        if self.cluster_t is not None and not self.cluster_t > 0:
            raise InputError(f"a cluster-forming threshold of {self.cluster_t}: use one above 0.")
        if self.cluster_p is not None and not 0 < self.cluster_p < 0.5:
            raise InputError(f"a cluster-forming p of {self.cluster_p}: use one between 0 and 0.5.")

    def threshold(self, design: Design, two_sided: bool) -> float | None:
        """Cluster-forming statistic, None if no clusters are wanted."""
        if self.cluster_p is None:
            return self.cluster_t
        if design.is_f:
            return float(stats.f.isf(self.cluster_p, design.rank, design.dof))
        return float(stats.t.isf(self.cluster_p / (1 + two_sided), design.dof))


@dataclass(frozen=True, eq=False)
class Corrected:
    """One statistic of every voxel, corrected by the distribution of its maximum.

    Parameters
    ----------
    observed : numpy.ndarray
        (voxels,): the statistic itself; extent in voxels, or mass, of the cluster that the voxel
        lies in (0 outside clusters); TFCE.
    p_fwe : numpy.ndarray
        (voxels,), corrected over all voxels; 1 where not valid. Maxima within 1e-4 of what was
        observed count as reaching it.
    max_distribution : numpy.ndarray
        (n_permutations,), the largest of each rearrangement, the observed one first.
    tail : Tail or None
        The generalised Pareto tail, where one was asked for and could be fitted. It makes p only
        if ``tail.accepted``.
    """

    observed: np.ndarray
    p_fwe: np.ndarray
    max_distribution: np.ndarray
    tail: Tail | None = None

    def threshold_at(self, alpha: float) -> float:
        """What must be exceeded for ``p_fwe <= alpha``; infinity if nothing can."""
        tail = self.tail
        if tail is not None and tail.accepted and alpha < tail.share:
            return tail.value_at(alpha) if alpha >= tail.floor else math.inf
        allowed = math.floor(alpha * len(self.max_distribution) + 1e-9)
        if allowed < 1:
            return math.inf
        descending = np.sort(self.max_distribution)[::-1]
        return float(descending[allowed]) if allowed < len(descending) else -math.inf


@dataclass(frozen=True, eq=False)
class PermutationResult:
    """What the permutations say about every voxel.

    Parameters
    ----------
    name : {"t", "F", "v", "G"}
        The statistic: v and G allow for variance groups.
    voxel : Corrected
        The statistic; float64, as fitted, 0 where not ``valid``.
    spatial : dict
        "extent", "mass" and "tfce", as far as asked for, to `Corrected`.
    cluster_threshold : float or None
        The statistic beyond which voxels form clusters.
    n_permutations : int
        Rearrangements looked at, the observed one included; without a tail, the smallest possible
        p is its inverse.
    exact : bool
        True if these are all the distinct ones there are.
    dof : int
        Residual degrees of freedom.
    valid : numpy.ndarray
        (voxels,), bool; False where the data are not finite or do not vary.
    """

    name: str
    voxel: Corrected
    spatial: dict[str, Corrected]
    cluster_threshold: float | None
    n_permutations: int
    exact: bool
    dof: int
    valid: np.ndarray

    @property
    def t(self) -> np.ndarray:
        """(voxels,), the statistic."""
        return self.voxel.observed

    @property
    def p_fwe(self) -> np.ndarray:
        """(voxels,), the voxels' corrected p."""
        return self.voxel.p_fwe

    @property
    def max_distribution(self) -> np.ndarray:
        """(n_permutations,), the largest statistic of each."""
        return self.voxel.max_distribution

    def threshold_at(self, alpha: float) -> float:
        """What the statistic, or its absolute value, must exceed for ``p_fwe <= alpha``."""
        return self.voxel.threshold_at(alpha)


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
    """`permutation_test` of voxels, two-sided, places changing within ``exchange_within``."""
    return permutation_test(
        data,
        design,
        n_permutations,
        seed,
        Exchange(within=exchange_within),
        device=device,
        block_voxels=block_voxels,
        progress=progress,
    )


def permutation_test(
    data: Data,
    design: Design,
    n_permutations: int = 1000,
    seed: int = 0,
    exchange: Exchange | None = None,
    *,
    alternative: str = "two-sided",
    spatial: Spatial | None = None,
    tail: bool = False,
    device: str | torch.device = "cpu",
    memory_mb: float | None = None,
    block_voxels: int | None = None,
    progress: Progress | None = None,
) -> PermutationResult:
    """Test one contrast in every voxel, corrected for all voxels.

    Parameters
    ----------
    data : torch.Tensor or numpy.ndarray
        (people, voxels), one row per person; float32 is enough. A memory map, or anything else
        that hands out arrays for ``data[:, start:stop]``, is read in blocks.
    design : Design
        The model and its contrast.
    n_permutations : int
        Rearrangements drawn beside the observed one. If there are at most this many distinct
        ones in all, each is visited once instead and the test is exact.
    seed : int
        Seed of the rearrangements.
    exchange : Exchange, optional
        What may be rearranged; by default everybody may change places.
    alternative : {"two-sided", "greater"}
        For t and v: both signs, or only effects above zero (turn the contrast for the others). F
        and G know no sign.
    spatial : Spatial, optional
        Cluster and TFCE statistics that are corrected, too. Maps are then formed, and enhanced on
        as many threads as torch uses.
    tail : bool
        Whether small p values come from a generalised Pareto tail, where one fits
        (`models.statistics.tail`). Not used if the test is exact.
    device : str or torch.device
        Where the products run.
    memory_mb : float, optional
        Memory to work in, beyond the data and the results, whatever the number of people and
        voxels; 120, with a GPU 2000, if not given. More of it means fewer walks over the data.
    block_voxels : int, optional
        Voxels handled at a time; the default fits the device and the memory.
    progress : callable, optional
        Called with (done, total) as the work advances.

    Returns
    -------
    PermutationResult
        For a seed, the rearrangements are always the same; the maxima agree within float32
        rounding between devices, thread counts and block sizes.

    Raises
    ------
    InputError
        Nothing can be rearranged, or no voxel varies.
    """
    check_people(data, design)
    if alternative not in ALTERNATIVES:
        raise ValueError(f"alternative '{alternative}': choose among {', '.join(ALTERNATIVES)}")
    exchange = exchange or Exchange()
    device = torch.device(device)
    memory = 1e6 * (memory_mb or (MEMORY_MB if device.type == "cpu" else GPU_MEMORY_MB))
    two_sided = alternative == "two-sided" and not design.is_f
    moves = Moves(exchange, design.matrix, n_permutations, seed)
    measures = _Measures(spatial, design, two_sided, data.shape[1])
    signed = not design.is_f and (not two_sided or bool(measures.names))
    kernel: Kernel
    if exchange.variance is None:
        kernel = Correlation(design, moves, device, signed, memory, block_voxels)
    else:
        kernel = Welch(design, moves, signed, memory, block_voxels)
    statistic, valid = _observed(data, design, kernel)
    if not valid.any():
        raise InputError("no voxel varies between people: check the maps and their mask.")
    if measures.names:
        permuted = _largest_of_maps(data, kernel, measures, memory, progress)
    else:
        permuted = _largest(data, kernel, progress)[:, None]
    observed = measures.whole(statistic)
    corrected = {
        name: _corrected(values, column, valid, two_sided, tail and not moves.exact)
        for (name, values), column in zip(observed.items(), permuted.T, strict=True)
    }
    return PermutationResult(
        name=("G" if design.is_f else "v") if exchange.variance is not None else "tF"[design.is_f],
        voxel=corrected.pop("voxel"),
        spatial=corrected,
        cluster_threshold=measures.threshold,
        n_permutations=moves.count + 1,
        exact=moves.exact,
        dof=design.dof,
        valid=valid,
    )


def _observed(data: Data, design: Design, kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
    """The statistic of every voxel as it is, and which voxels have one."""
    observed = fit(data, design)
    if isinstance(kernel, Correlation):
        return observed.statistic, observed.valid
    people = np.arange(data.shape[0])[None]
    statistic = next(_maps(data, kernel, iter([(people, None)])))[0]
    if not kernel.signed and not design.is_f:
        statistic = np.copysign(statistic, observed.statistic)
    return np.where(observed.valid, statistic, 0.0), observed.valid


def _corrected(
    observed: np.ndarray, permuted: np.ndarray, valid: np.ndarray, two_sided: bool, fitted: bool
) -> Corrected:
    """Share of the maxima (the observed one among them) that reach each voxel's value."""
    values = np.abs(observed) if two_sided else observed
    maxima = np.concatenate([[values[valid].max()], permuted])
    reached = np.searchsorted(np.sort(maxima), values - TIE * np.abs(values), side="left")
    p = (len(maxima) - reached) / len(maxima)
    tail = fit_tail(permuted) if fitted else None
    if tail is not None and tail.accepted:
        beyond = values > tail.start
        p[beyond] = tail.p(values[beyond])
    return Corrected(observed, np.where(valid, p, 1.0), maxima, tail)


# ---- Maxima ----------------------------------------------------------------------------------


def _largest(data: Data, kernel: Kernel, progress: Progress | None) -> np.ndarray:
    """(moves,) float64, the largest statistic of each; no map is formed."""
    lock = Lock()
    total = kernel.n_blocks(data) * math.ceil(kernel.moves.count / kernel.at_once)
    largest, done = [], 0
    for orders, signs in kernel.moves.chunks(kernel.at_once):
        operands = kernel.operands(orders, signs)
        best = torch.full((len(orders),), -torch.inf, dtype=kernel.dtype, device=kernel.device)

        def visit(_: slice, block: torch.Tensor, best=best, operands=operands) -> None:
            nonlocal done
            found = [scores.amax(dim=1) for _, scores in kernel.scores(operands, block)]
            with lock:
                torch.maximum(best, torch.cat(found), out=best)
                done += 1
                if progress is not None:
                    progress(min(done, total), total)

        visit_blocks(data, kernel.voxels, visit)
        largest.append(best.cpu().double())
    return kernel.statistic(torch.cat(largest)).numpy()


def _maps(
    data: Data, kernel: Kernel, chunks: Iterator[tuple[np.ndarray, np.ndarray | None]]
) -> Iterator[np.ndarray]:
    """Maps of the statistic, (moves, voxels), a chunk of moves at a time."""
    for orders, signs in chunks:
        operands = kernel.operands(orders, signs)
        maps = torch.empty(len(orders), data.shape[1], dtype=kernel.dtype)

        def visit(where: slice, block: torch.Tensor, maps=maps, operands=operands) -> None:
            for rows, scores in kernel.scores(operands, block):
                maps[rows, where] = kernel.statistic(scores).cpu()

        visit_blocks(data, kernel.voxels, visit)
        yield maps.numpy()


def _largest_of_maps(
    data: Data, kernel: Kernel, measures: "_Measures", memory: float, progress: Progress | None
) -> np.ndarray:
    """(moves, measures) float64, the largest of each measure of each map."""
    map_bytes = data.shape[1] * torch.finfo(kernel.dtype).bits // 8
    size = max(1, min(kernel.at_once, int(memory / 3 / map_bytes)))
    largest: list[list[float]] = []
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for maps in _maps(data, kernel, kernel.moves.chunks(size)):
            for found in threads.map(measures.largest, maps):
                largest.append(found)
                if progress is not None:
                    progress(len(largest), kernel.moves.count)
    return np.array(largest)


class _Measures:
    """What is taken from a map: its voxels, and what `Spatial` asks for."""

    def __init__(self, spatial: Spatial | None, design: Design, two_sided: bool, voxels: int):
        self.two_sided = two_sided
        self.threshold = spatial.threshold(design, two_sided) if spatial else None
        self.names: tuple[str, ...] = ()
        if spatial is None:
            return
        # Numba takes half a second to import; a test of voxels does without.
        from models.statistics import components, tfce

        if self.threshold is not None:
            self.names += ("extent", "mass")
        if spatial.tfce:
            self.names += ("tfce",)
        if not self.names:
            raise ValueError("ask for clusters or for TFCE, or leave `spatial` out")
        lattice = components.Lattice(spatial.mask, spatial.connectivity)
        if lattice.voxels != voxels:
            raise ValueError(f"data of {voxels} voxels for a mask of {lattice.voxels}")
        height = self.threshold or 0.0
        self._clusters = lambda t: components.clusters(t, height, lattice, two_sided)
        self._largest = lambda t: components.largest_cluster(t, height, lattice, two_sided)
        self._tfce = lambda t: tfce.tfce(t, lattice, two_sided)

    def whole(self, statistic: np.ndarray) -> dict[str, np.ndarray]:
        """Every measure in every voxel; clusters are counted, and so have no sign."""
        found = {"voxel": statistic}
        if "extent" in self.names:
            found["extent"], found["mass"] = self._clusters(statistic)
        if "tfce" in self.names:
            found["tfce"] = self._tfce(statistic)
        return found

    def largest(self, statistic: np.ndarray) -> list[float]:
        """The maximum of every measure, in the same order."""
        found = [self._peak(statistic)]
        if "extent" in self.names:
            found += self._largest(statistic)
        if "tfce" in self.names:
            found.append(self._peak(self._tfce(statistic)))
        return found

    def _peak(self, values: np.ndarray) -> float:
        return float(max(values.max(), -values.min()) if self.two_sided else values.max())
