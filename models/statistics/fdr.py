"""False discovery rate of a map."""

from typing import Literal

import numpy as np
from scipy import stats

from models.errors import InputError


def adjusted_p(p: np.ndarray, method: Literal["bh", "by"] = "bh") -> np.ndarray:
    """Smallest false discovery rate at which each value is still called significant.

    Parameters
    ----------
    p : numpy.ndarray
        P values without correction, any shape. NaN marks what was not tested: it is not counted
        and stays NaN.
    method : {"bh", "by"}
        Benjamini & Hochberg (1995), for tests that are independent or positively dependent, as
        smooth maps are; Benjamini & Yekutieli (2001), for any dependence, larger by the factor
        1 + 1/2 + ... + 1/n.

    Returns
    -------
    numpy.ndarray
        The same shape, float64.

    Raises
    ------
    InputError
        A p value outside 0 to 1.
    """
    p = np.asarray(p, float)
    tested = ~np.isnan(p)
    values = p[tested]
    if ((values < 0) | (values > 1)).any():
        raise InputError("p values must lie between 0 and 1: this map holds something else.")
    result = np.full(p.shape, np.nan)
    result[tested] = _step_up(values, _FACTORS[method](len(values)))
    return result


_FACTORS = {
    "bh": lambda _: 1.0,
    "by": lambda count: float((1 / np.arange(1, count + 1)).sum()),
}


def _step_up(values: np.ndarray, factor: float) -> np.ndarray:
    falling = np.argsort(values)[::-1]
    rank = np.arange(len(values), 0, -1)
    scaled = values[falling] * len(values) / rank * factor
    result = np.empty(len(values))
    result[falling] = np.minimum.accumulate(scaled).clip(max=1.0)
    return result


def p_of_t(t: np.ndarray, dof: float, two_sided: bool = True) -> np.ndarray:
    """P values of a t map; those of large positive values alone if not ``two_sided``."""
    t = np.asarray(t, float)
    return 2 * stats.t.sf(np.abs(t), dof) if two_sided else stats.t.sf(t, dof)


def p_of_f(f: np.ndarray, numerator: int, dof: float) -> np.ndarray:
    """P values of an F map with these degrees of freedom."""
    return stats.f.sf(np.asarray(f, float), numerator, dof)
