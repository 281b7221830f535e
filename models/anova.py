"""Analysis of variance with two factors, for data of any balance."""

import numpy as np
import pandas as pd
from scipy.stats import f as f_distribution

from models.errors import InputError


def two_way(values: np.ndarray, first: np.ndarray, second: np.ndarray) -> pd.DataFrame:
    """Effects of two factors and of their interaction, each adjusted for the others (type III).

    Parameters
    ----------
    values : numpy.ndarray
        (people,); people with a value that is not finite are left out.
    first, second : numpy.ndarray
        (people,), level of each factor. A factor with one level is left out, and so is an
        interaction some of whose cells are empty.

    Returns
    -------
    pandas.DataFrame
        effect ("first", "second", "interaction"), F, df, df_residual, p.

    Raises
    ------
    InputError
        Fewer people than the model has parameters, or the same value for everybody.
    """
    values, first, second = (np.asarray(one) for one in (values, first, second))
    known = np.isfinite(values.astype(float))
    values, first, second = values[known].astype(float), first[known], second[known]
    blocks = _effects(first, second)
    design = np.hstack([np.ones((len(values), 1)), *blocks.values()])
    residual_df = len(values) - design.shape[1]
    if residual_df < 1 or np.ptp(values) == 0:
        raise InputError("too few people, or the same value for everybody: no analysis of variance")
    full = _residual(design, values)
    rows = []
    for name, block in blocks.items():
        others = [one for other, one in blocks.items() if other != name]
        less = np.hstack([np.ones((len(values), 1)), *others])
        df = block.shape[1]
        ratio = ((_residual(less, values) - full) / df) / (full / residual_df)
        rows.append((name, ratio, df, residual_df, f_distribution.sf(ratio, df, residual_df)))
    return pd.DataFrame(rows, columns=["effect", "F", "df", "df_residual", "p"])


def _effects(first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of each effect, coded so that they add up to zero over the levels."""
    one, two = _coded(first), _coded(second)
    cells = {(str(a), str(b)) for a, b in zip(first, second, strict=True)}
    complete = len(cells) == len(np.unique(first)) * len(np.unique(second))
    product = (one[:, :, None] * two[:, None]).reshape(len(first), one.shape[1] * two.shape[1])
    blocks = {"first": one, "second": two, "interaction": product if complete else product[:, :0]}
    return {name: block for name, block in blocks.items() if block.shape[1]}


def _coded(levels: np.ndarray) -> np.ndarray:
    names, place = np.unique(levels, return_inverse=True)
    codes = np.vstack([np.eye(len(names) - 1), -np.ones(len(names) - 1)])
    return codes[place]


def _residual(design: np.ndarray, values: np.ndarray) -> float:
    weights = np.linalg.lstsq(design, values, rcond=None)[0]
    return float(((values - design @ weights) ** 2).sum())
