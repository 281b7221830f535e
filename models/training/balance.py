"""Balancing by leaving people out (undersampling)."""

import numpy as np
import pandas as pd


def undersample(values: pd.Series, cells: pd.DataFrame, seed: int = 0) -> frozenset[str]:
    """Who is left out so that in every cell each value is as frequent as the rarest.

    Klingenberg 2021 balanced the sexes so within bins of five years of age, per diagnosis.

    Parameters
    ----------
    values : Series
        Index participant; what is balanced, such as the sex.
    cells : DataFrame
        Index participant; the columns together make a cell.
    seed : int

    Returns
    -------
    frozenset of str
        Participants. Who lacks the value or a column of the cell cannot be balanced and is left
        out, and so is a whole cell in which a value does not occur.
    """
    rng = np.random.default_rng(seed)
    known = values.notna() & cells.loc[values.index].notna().all(axis=1)
    wanted = sorted(values[known].unique(), key=str)
    kept: list[str] = []
    for _, members in values[known].groupby([cells.loc[known, name] for name in cells]):
        piles = [sorted(members.index[members == value]) for value in wanted]
        size = min(map(len, piles))
        for pile in piles:
            kept += rng.permutation(pile)[:size].tolist()
    return frozenset(values.index) - frozenset(kept)
