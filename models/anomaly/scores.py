"""From errors of reconstruction to scores: thresholds, percentages of regions, g-means.

After Muñoz-Ramírez et al.: errors above a high quantile of the training controls' errors are
abnormal; the score of a region is the percentage of its voxels that are; a person is called
pathological above the percentage with the best geometric mean of sensitivity and specificity.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

MEASURES = ("error", "z")
FLOOR = 0.1  # quantile of the standard deviations that smaller ones are raised to
TINY = float(np.finfo(np.float32).tiny)
HALVINGS = 50  # random halves of the people, for the threshold that is fixed on others


def joint_error(image: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """Square root of the sum over channels of the squared error.

    Parameters
    ----------
    image, reconstruction : (C, ...) array

    Returns
    -------
    (...) float32 array
        NaN where a channel of the reconstruction is.
    """
    difference = image.astype(np.float32) - reconstruction.astype(np.float32)
    return np.sqrt(np.square(difference).sum(0))


@dataclass(frozen=True, eq=False)
class Normal:
    """How well controls are reconstructed: what an error is judged by.

    Parameters
    ----------
    mean, sd : (voxels,) float32 array
        Over the training controls, per voxel of the brain; NaN where nobody is scored.
    threshold : float
        The quantile of all their errors, or z, above which a voxel is abnormal.
    measure : {"error", "z"}
        What the threshold is on. Of errors, most above it lie where everybody is hard to give
        back, such as at borders; z asks who is harder to give back than others at that place.
    """

    mean: np.ndarray
    sd: np.ndarray
    threshold: float
    measure: str = "error"

    def z(self, error: np.ndarray) -> np.ndarray:
        """Errors (..., voxels) in standard deviations from the training controls' mean.

        The smallest tenth of the deviations is raised to its upper end: a voxel where the
        controls happen to agree would otherwise be abnormal in everybody.
        """
        floor = max(float(np.nanquantile(self.sd, FLOOR)), TINY)
        return (error - self.mean) / np.maximum(self.sd, floor)

    def abnormal(self, error: np.ndarray) -> np.ndarray:
        """Bool: whether errors, or their z, are above the threshold; False where they are NaN."""
        measured = error if self.measure == "error" else self.z(error)
        return np.nan_to_num(measured, nan=-np.inf) > self.threshold


def normal_errors(errors: Iterable[np.ndarray], quantile: float, measure: str = "error") -> Normal:
    """Learn from the training controls' errors what is normal.

    Parameters
    ----------
    errors : iterable of (voxels,) array
        Joint errors of two controls or more.
    quantile : float
        Of the errors of all of them together, such as 0.98.
    measure : {"error", "z"}
        What the quantile is of. The z of a training control are by mean and standard deviation of
        the others: by its own, too, they would be too small, and left-out people alarm too often.
    """
    stacked = np.stack([np.asarray(one, np.float32) for one in errors])
    if len(stacked) < (2 if measure == "error" else 3):
        raise ValueError("a spread needs two controls or more, a z of the others three")
    finite = np.isfinite(stacked).all(0)
    mean = np.where(finite, stacked.mean(0), np.nan).astype(np.float32)
    sd = np.where(finite, stacked.std(0, ddof=1), np.nan).astype(np.float32)
    known = stacked[:, finite] if measure == "error" else _others_z(stacked[:, finite])
    return Normal(mean, sd, float(np.quantile(known, quantile)), measure)


def training_abnormal(errors: Sequence[np.ndarray], normal: Normal) -> np.ndarray:
    """Bool (people, voxels): what of the training controls' errors is abnormal.

    Their z are by the others, as those that the threshold was learnt from.
    """
    stacked = np.stack([np.asarray(one, np.float32) for one in errors])
    if normal.measure == "error":
        return normal.abnormal(stacked)
    finite = np.isfinite(stacked).all(0)
    found = np.zeros(stacked.shape, bool)
    found[:, finite] = _others_z(stacked[:, finite]) > normal.threshold
    return found


def _others_z(errors: np.ndarray) -> np.ndarray:
    """The z of each of (people, voxels) by mean and standard deviation of all others."""
    n = len(errors)
    mean, variance = errors.mean(0), errors.var(0, ddof=1)
    away = errors - mean
    rest = ((n - 1) * variance - n / (n - 1) * away**2) / (n - 2)
    sd = np.sqrt(np.maximum(rest, 0))
    floor = np.quantile(sd, FLOOR, axis=1, keepdims=True)
    return n / (n - 1) * away / np.maximum(sd, np.maximum(floor, TINY))


def abnormal_percent(
    abnormal: np.ndarray,
    scored: np.ndarray,
    regions: Mapping[str, np.ndarray],
    *,
    least: int = 1,
) -> dict[str, float]:
    """Percentage of the scored voxels of each region that are abnormal.

    Parameters
    ----------
    abnormal, scored : (voxels,) bool array
    regions : mapping of str to (voxels,) bool array
    least : int
        Scored voxels that a region must have; NaN where it has fewer.
    """
    found = {}
    for name, region in regions.items():
        count = int((region & scored).sum())
        hits = int((region & scored & abnormal).sum())
        found[name] = 100 * hits / count if count >= max(least, 1) else float("nan")
    return found


@dataclass(frozen=True)
class Division:
    """How a threshold divides patients from controls.

    Parameters
    ----------
    threshold : float
        At or above it, a person is called pathological.
    sensitivity, specificity, gmean : float
    """

    threshold: float
    sensitivity: float
    specificity: float

    @property
    def gmean(self) -> float:
        """Square root of sensitivity times specificity."""
        return float(np.sqrt(self.sensitivity * self.specificity))


def divide(percent: np.ndarray, positive: np.ndarray, threshold: float) -> Division:
    """Sensitivity and specificity of "at or above ``threshold``"."""
    called = percent >= threshold
    return Division(threshold, float(called[positive].mean()), float((~called[~positive]).mean()))


def best_division(percent: np.ndarray, positive: np.ndarray) -> Division:
    """The threshold on the ROC curve with the largest g-mean; of equals, the lowest.

    Parameters
    ----------
    percent : (people,) array
    positive : (people,) bool array
        Both classes must be there. The threshold is chosen on the people it is scored on, which
        flatters it: see :func:`held_out_division`.
    """
    values = np.unique(percent)
    thresholds = np.concatenate([values[:1], (values[1:] + values[:-1]) / 2])
    found = [divide(percent, positive, one) for one in thresholds]
    return max(found, key=lambda one: (one.gmean, -one.threshold))


def held_out_division(
    percent: np.ndarray, positive: np.ndarray, seed: int = 0, halvings: int = HALVINGS
) -> Division:
    """What the best threshold of one half of the people does in the other half.

    People are halved by lot within their class, the threshold of each half is taken to the other;
    sensitivity and specificity are means over all of it, so that nobody is ever scored by a
    threshold that this person helped to choose.

    Returns
    -------
    Division
        ``threshold`` is the mean one; all NaN where a class has fewer than two people.
    """
    rows = [np.flatnonzero(positive == one) for one in (False, True)]
    if min(map(len, rows)) < 2:
        return Division(float("nan"), float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(halvings):
        cut = [np.array_split(rng.permutation(one), 2) for one in rows]
        halves = [np.concatenate([one[k] for one in cut]) for k in (0, 1)]
        for there, here in (halves, halves[::-1]):
            chosen = best_division(percent[there], positive[there])
            found.append(divide(percent[here], positive[here], chosen.threshold))
    means = np.mean([(one.threshold, one.sensitivity, one.specificity) for one in found], 0)
    return Division(*map(float, means))


SCORES = (
    *("gmean", "sensitivity", "specificity", "threshold", "auc"),
    *("gmean_held_out", "sensitivity_held_out", "specificity_held_out", "threshold_held_out"),
)


def region_scores(percent: np.ndarray, positive: np.ndarray, seed: int = 0) -> dict[str, float]:
    """All of :data:`SCORES` for one region in one split; NaN where a class has nobody.

    Parameters
    ----------
    percent : (people,) array
        Abnormal percentage of test controls and patients; NaN is left out.
    positive : (people,) bool array
    """
    known = np.isfinite(percent)
    percent, positive = percent[known], positive[known]
    if positive.all() or not positive.any():
        return dict.fromkeys(SCORES, float("nan"))
    best, fair = best_division(percent, positive), held_out_division(percent, positive, seed)
    values = {"auc": float(roc_auc_score(positive, percent))}
    for suffix, one in (("", best), ("_held_out", fair)):
        for name in ("gmean", "sensitivity", "specificity", "threshold"):
            values[name + suffix] = getattr(one, name)
    return {name: values[name] for name in SCORES}


def over_splits(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) over splits; NaN is left out."""
    known = np.asarray([one for one in values if np.isfinite(one)], float)
    if not len(known):
        return float("nan"), float("nan")
    return float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else float("nan")


@dataclass(frozen=True, eq=False)
class PersonMaps:
    """One person, mean over splits; vectors of the brain's voxels, NaN where not scored.

    Parameters
    ----------
    reconstruction, absolute : (C, voxels) float32 array
        And the absolute error of each channel.
    error, z : (voxels,) float32 array
        Joint error, and the same against the training controls.
    share : (voxels,) float32 array
        Of the splits in which the voxel is above the threshold.
    """

    reconstruction: np.ndarray
    absolute: np.ndarray
    error: np.ndarray
    z: np.ndarray
    share: np.ndarray

    @property
    def abnormal(self) -> np.ndarray:
        """(voxels,) bool: above the threshold in more than half of the splits."""
        return self.share > 0.5

    @classmethod
    def over(cls, image: np.ndarray, splits: Iterable[tuple[np.ndarray, Normal]]) -> "PersonMaps":
        """Average over the (reconstruction, normal) of splits that did not train on the person.

        Parameters
        ----------
        image : (C, voxels) array
        splits : iterable of ((C, voxels) array, Normal)
        """
        sums: list[np.ndarray] = []
        count = 0
        for found, normal in splits:
            error = joint_error(image, found)
            absolute = np.abs(image.astype(np.float32) - found.astype(np.float32))
            one = [found.astype(np.float32), absolute, error, normal.z(error)]
            one.append(normal.abnormal(error).astype(np.float32))
            sums = [a + b for a, b in zip(sums, one, strict=True)] if sums else one
            count += 1
        if not count:
            raise ValueError("no split may judge this person")
        reconstruction, absolute, error, z, share = (total / count for total in sums)
        return cls(reconstruction, absolute, error, z, share)
