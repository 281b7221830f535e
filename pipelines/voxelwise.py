"""One voxelwise test with every correction that was asked for."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.errors import InputError
from models.grids import Grid
from models.statistics.exchange import Exchange
from models.statistics.fdr import adjusted_p, p_of_f, p_of_t
from models.statistics.glm import Design, fit
from models.statistics.permutation import Corrected, PermutationResult, Spatial, permutation_test
from pipelines.statistics import CLUSTERS, CORRECTIONS, StatisticsOptions

CONNECTIVITY = 18


# --- corrections ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Outcome:
    """One correction of a test.

    Parameters
    ----------
    p : numpy.ndarray
        (voxels,), corrected; 1 where the voxel could not be tested.
    threshold : float
        What the correction's measure must exceed (for the false discovery rate: reach) to be
        significant; infinite if nothing can.
    maxima : numpy.ndarray or None
        (permutations,), the largest value of each, the observed one first.
    facts : dict
        For sidecars.
    """

    p: np.ndarray
    threshold: float
    maxima: np.ndarray | None
    facts: dict[str, Any]


@dataclass(frozen=True, eq=False)
class VoxelwiseResult:
    """A tested contrast.

    Parameters
    ----------
    name : {"t", "F", "v", "G"}
        The statistic.
    statistic : numpy.ndarray
        (voxels,), 0 where it could not be computed.
    outcomes : dict
        Correction to `Outcome`, in the order of the recipe.
    tfce : numpy.ndarray or None
        (voxels,), the enhanced statistic.
    facts : dict
        For sidecars.
    """

    name: str
    statistic: np.ndarray
    outcomes: dict[str, Outcome]
    tfce: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def infer(
    data: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    design: Design,
    rearranged: Exchange,
    options: StatisticsOptions,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> VoxelwiseResult:
    """Test a contrast in every voxel; all corrections by permutation share their permutations.

    Parameters
    ----------
    data : array
        (people, voxels), a memory map as well: the columns are ``image[mask]``.
    mask : numpy.ndarray
        3-D bool, on ``grid``.
    grid : Grid
    design : Design
    rearranged : Exchange
    options : StatisticsOptions

    Raises
    ------
    models.errors.InputError
        Nothing varies, nothing can be rearranged, or random-field theory has too few people.
    """
    noise = None
    if "random_field" in options.corrections:  # first, since it is quick to say no
        from models.statistics.random_field import smoothness

        noise = smoothness(data, mask, [grid.voxel_mm] * 3, design.matrix)
    if options.permuted:
        result = permutation_test(
            data,
            design,
            options.permutations,
            seed,
            rearranged,
            spatial=_spatial(options, mask),
            tail=options.tail,
            device=device,
            memory_mb=options.memory_mb or None,
        )
        return _outcomes(_permuted_map(result), result, noise, design, options)
    found = fit(data, design)
    if not found.valid.any():
        raise InputError("no voxel varies between people: check the maps and their mask.")
    shown = _Map("F" if design.is_f else "t", found.statistic, found.valid)
    return _outcomes(shown, None, noise, design, options)


@dataclass(frozen=True, eq=False)
class _Map:
    name: str
    statistic: np.ndarray
    valid: np.ndarray

    @property
    def signed(self) -> bool:
        return self.name in "tv"

    @property
    def height(self) -> np.ndarray:
        return np.abs(self.statistic) if self.signed else self.statistic

    @property
    def words(self) -> str:
        return f"|{self.name}|" if self.signed else self.name


def _permuted_map(result: PermutationResult) -> _Map:
    return _Map(result.name, result.t, result.valid)


def _spatial(options: StatisticsOptions, mask: np.ndarray) -> Spatial | None:
    clusters = any(name in CLUSTERS for name in options.corrections)
    if not clusters and "tfce" not in options.corrections:
        return None
    return Spatial(
        mask,
        cluster_p=options.cluster_p if clusters else None,
        tfce="tfce" in options.corrections,
        connectivity=CONNECTIVITY,
    )


def _outcomes(
    shown: _Map,
    result: PermutationResult | None,
    noise: Any,
    design: Design,
    options: StatisticsOptions,
) -> VoxelwiseResult:
    outcomes = {}
    for name in options.corrections:
        if name == "fdr":
            made = _false_discoveries(shown, design, options)
        elif name == "random_field":
            made = _random_field(shown, noise, design, options)
        else:
            assert result is not None
            made = _by_permutation(name, result, options)
        outcomes[name] = made
    facts: dict[str, Any] = {"Statistic": shown.name, "DegreesOfFreedom": design.dof}
    if design.is_f:
        facts["NumeratorDegreesOfFreedom"] = design.rank
    enhanced = None
    if result is not None:
        facts |= {"Permutations": result.n_permutations, "ExactPermutation": result.exact}
        enhanced = result.spatial["tfce"].observed if "tfce" in result.spatial else None
    return VoxelwiseResult(shown.name, shown.statistic, outcomes, enhanced, facts)


def _said(name: str, words: str, threshold: float, options: StatisticsOptions) -> dict[str, Any]:
    """What a sidecar says of any correction."""
    correction = CORRECTIONS[name]
    sides = " (two-sided)" if words.startswith("|") else ""
    limit = threshold if np.isfinite(threshold) else None
    return {
        "Correction": f"{correction.rate}, {correction.how.format(statistic=words)}{sides}",
        "CorrectedBy": name,
        "ErrorRate": correction.rate,
        "Alpha": options.alpha,
        "Threshold": limit,
        "ThresholdOf": correction.measure.format(statistic=words),
        **({"ThresholdT": limit} if correction.on_statistic and "t" in words else {}),
    }


def _by_permutation(name: str, result: PermutationResult, options: StatisticsOptions) -> Outcome:
    found = result.voxel if name == "voxel" else result.spatial[name]
    threshold = found.threshold_at(options.alpha)
    facts = _said(name, _permuted_map(result).words, threshold, options)
    if name in CLUSTERS:
        facts |= {
            "ClusterFormingP": options.cluster_p,
            "ClusterFormingThreshold": result.cluster_threshold,
            "Connectivity": CONNECTIVITY,
        }
    if name == "tfce":
        from models.statistics.tfce import EXTENT_POWER, HEIGHT_POWER

        facts |= {"ExtentPower": EXTENT_POWER, "HeightPower": HEIGHT_POWER}
        facts["Connectivity"] = CONNECTIVITY
    if options.tail:
        facts["TailApproximation"] = _tail(found, result)
    return Outcome(found.p_fwe, threshold, found.max_distribution, facts)


def _tail(found: Corrected, result: PermutationResult) -> dict[str, Any]:
    """Whether small p come from a fitted tail, and if not, why."""
    tail = found.tail
    if tail is None:
        exact = "all permutations were visited" if result.exact else "too few distinct maxima"
        return {"Accepted": False, "Reason": exact}
    return {
        "Accepted": tail.accepted,
        "GoodnessOfFitP": tail.p_fit,
        "Start": tail.start,
        "Share": tail.share,
        "Shape": tail.shape,
        "Scale": tail.scale,
        "LeastP": tail.floor,
    }


def _false_discoveries(shown: _Map, design: Design, options: StatisticsOptions) -> Outcome:
    p = (
        p_of_f(shown.statistic, design.rank, design.dof)
        if design.is_f
        else p_of_t(shown.statistic, design.dof)
    )
    q = np.nan_to_num(adjusted_p(np.where(shown.valid, p, np.nan)), nan=1.0)
    height = shown.height[q <= options.alpha]
    threshold = float(height.min()) if height.size else np.inf
    return Outcome(q, threshold, None, _said("fdr", shown.words, threshold, options))


def _random_field(shown: _Map, noise: Any, design: Design, options: StatisticsOptions) -> Outcome:
    from models.statistics.random_field import Field, peak_p, threshold

    kind = Field("f" if design.is_f else "t", design.dof, design.rank, not design.is_f)
    p = peak_p(np.where(shown.valid, shown.statistic, np.nan), kind, noise.resels, noise.voxels)
    limit = threshold(options.alpha, kind, noise.resels, noise.voxels)
    facts = _said("random_field", shown.words, limit, options) | {
        "SmoothnessFWHM_mm": [round(float(width), 4) for width in noise.fwhm_mm],
        "Resels": [float(count) for count in noise.resels],
        "SearchVoxels": noise.voxels,
    }
    return Outcome(np.nan_to_num(p, nan=1.0), limit, None, facts)
