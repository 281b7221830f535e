"""The page of a cohort's anomalies: what it says where numbers are missing."""

import numpy as np
import pandas as pd

from bidsapp.report import anomaly
from models.anomaly.scores import SCORES


def regions(**known):
    """One row of the table of regions; what is not known is NaN."""
    names = [*SCORES, *(f"{one}_sd" for one in SCORES)]
    areas = ("people_auc", "people_auc_low", "people_auc_high")
    row = {"method": "ae", "roi": "whole brain", "voxels": 5, "splits": 2} | dict.fromkeys(
        [*names, *areas], np.nan
    )
    return pd.DataFrame([row | known])


def test_scores_that_could_not_be_had_are_not_written_as_nan():
    table = regions(gmean=0.5, gmean_sd=0.1, people_auc=0.75)
    none = pd.DataFrame()
    said = [one.text for one in anomaly._statements({"regions": table, "controls": none}, {})]
    assert "area under the curve 0.75;" in said[0]
    assert "0.50 ± 0.10 with the best threshold" in said[0]
    cells = anomaly._score_tables(table)[0].rows[0]
    for text in (*said, *map(str, cells)):
        assert "nan" not in text.split(), text
    assert cells[3] == anomaly.UNKNOWN


def test_an_area_is_told_with_its_interval():
    table = regions(people_auc=0.9, people_auc_low=0.8, people_auc_high=0.97)
    assert anomaly._score_tables(table)[0].rows[0][-1] == "0.90 (0.80 to 0.97)"
