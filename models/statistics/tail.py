"""The tail of a null distribution, for p values smaller than the permutations can resolve.

A generalised Pareto distribution is fitted to the largest maxima (Knijnenburg et al. 2009,
doi:10.1093/bioinformatics/btp211; Winkler et al. 2016, doi:10.1016/j.neuroimage.2016.05.068).
With Hosking and Wallis (1987)'s shape k and scale a, an excess x over the start of the tail has
the survival function ``(1 - k x / a)^(1/k)``, and the moments give, with m the mean and s the
standard deviation of the excesses, ``k = (m^2/s^2 - 1) / 2``, ``a = m (m^2/s^2 + 1) / 2``.

Departing from these papers, k is held at or below 0 (at 0 the tail is exponential, ``a = m``): a
tail with k > 0 ends soon after the largest of few maxima, and calls impossible what the next
permutation may bring.
"""

from dataclasses import dataclass

import numpy as np

# The tail starts at the first of these quantiles from where on the fit is not rejected.
STARTS = (0.75, 0.8, 0.85, 0.9, 0.95)
FEWEST = 25
REJECTED = 0.05
SIMULATIONS = 500


@dataclass(frozen=True)
class Tail:
    """A fitted tail.

    Parameters
    ----------
    start : float
        Where it begins; below, the empirical distribution stands.
    share : float
        Share of the distribution beyond ``start``.
    shape, scale : float
        k (at most 0) and a.
    floor : float
        Least p that is given out, the square of what the permutations resolve: the fit does not
        reach further.
    p_fit : float
        Anderson-Darling p value of the fit, by parametric bootstrap; small if it is poor.
    accepted : bool
        Whether the fit is used. If not, empirical p values are kept.
    """

    start: float
    share: float
    shape: float
    scale: float
    floor: float
    p_fit: float
    accepted: bool

    def p(self, values: np.ndarray) -> np.ndarray:
        """P value of values beyond ``start``."""
        excess = np.maximum(np.asarray(values, float) - self.start, 0)
        return np.maximum(self.share * survival(excess, self.shape, self.scale), self.floor)

    def value_at(self, p: float) -> float:
        """Value whose p is this; for p below ``share`` and not below ``floor``."""
        rest = p / self.share
        if self.shape == 0:
            return self.start - self.scale * float(np.log(rest))
        return self.start + self.scale / self.shape * (1 - rest**self.shape)


def survival(excess: np.ndarray, shape: np.ndarray | float, scale: np.ndarray | float):
    """Share of a generalised Pareto distribution beyond an excess; shape at most 0."""
    bent = np.minimum(shape, -1e-12)
    return np.where(
        np.equal(shape, 0), np.exp(-excess / scale), (1 - bent * excess / scale) ** (1 / bent)
    )


def fit_tail(maxima: np.ndarray, seed: int = 0) -> Tail | None:
    """Fit the tail of a distribution of maxima.

    Parameters
    ----------
    maxima : numpy.ndarray
        (permutations,), without the observed one.
    seed : int
        Of the bootstrap that judges the fit.

    Returns
    -------
    Tail or None
        The first that is not rejected among tails that start at the quantiles .75 to .95, else
        the last, not accepted. None if there are too few distinct values for any (25 in a tail).
    """
    ordered = np.sort(np.asarray(maxima, float))
    last = None
    for quantile in STARTS:
        start = float(np.quantile(ordered, quantile))
        excess = ordered[ordered > start] - start
        if len(np.unique(excess)) < FEWEST:
            break
        last = _fitted(start, excess, len(ordered), seed)
        if last.accepted:
            break
    return last


def _fitted(start: float, excess: np.ndarray, count: int, seed: int) -> Tail:
    shape, scale = (float(value) for value in _moments(excess))
    uniform = np.random.default_rng(seed).random((SIMULATIONS, len(excess)))
    relative = -np.log(uniform) if shape == 0 else (1 - uniform**shape) / shape
    drawn = np.sort(scale * relative, axis=1)
    least = _anderson_darling(excess, shape, scale)
    others = _anderson_darling(drawn, *(value[:, None] for value in _moments(drawn)))
    p_fit = float((1 + (others >= least).sum()) / (1 + SIMULATIONS))
    share = len(excess) / (count + 1)
    return Tail(start, share, shape, scale, 1 / (count + 1) ** 2, p_fit, p_fit > REJECTED)


def _moments(excess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, variance = excess.mean(axis=-1), excess.var(axis=-1, ddof=1)
    ratio = mean**2 / variance
    shape = np.minimum((ratio - 1) / 2, 0)
    return shape, np.where(shape < 0, mean * (ratio + 1) / 2, mean)


def _anderson_darling(ordered: np.ndarray, shape, scale) -> np.ndarray:
    """A^2 of ascending excesses (..., n) against a generalised Pareto distribution."""
    tiny = np.finfo(float).tiny
    beyond = np.clip(survival(ordered, shape, scale), tiny, 1 - 1e-16)
    n = ordered.shape[-1]
    weight = 2 * np.arange(1, n + 1) - 1
    terms = np.log1p(-beyond) + np.log(beyond[..., ::-1])
    return -n - (weight * terms).sum(axis=-1) / n
