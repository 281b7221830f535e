"""False discovery rates against statsmodels."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from models.errors import InputError
from models.statistics.fdr import adjusted_p, p_of_f, p_of_t


@pytest.mark.parametrize(("method", "oracle"), [("bh", "fdr_bh"), ("by", "fdr_by")])
@pytest.mark.parametrize("size", [1, 7, 5000])
def test_adjusted_p_equals_statsmodels(method, oracle, size):
    rng = np.random.default_rng(size)
    p = rng.random(size) ** 3
    p[:: max(1, size // 5)] = p[0]  # ties
    expected = multipletests(p, method=oracle)[1]
    np.testing.assert_allclose(adjusted_p(p, method), expected, rtol=1e-12)


def test_maps_keep_their_shape_and_what_was_not_tested():
    rng = np.random.default_rng(0)
    p = rng.random((4, 5, 6))
    p[1] = np.nan
    found = adjusted_p(p)
    assert found.shape == p.shape
    np.testing.assert_array_equal(np.isnan(found), np.isnan(p))
    tested = ~np.isnan(p)
    np.testing.assert_allclose(found[tested], multipletests(p[tested], method="fdr_bh")[1])
    assert np.isnan(adjusted_p(np.full(3, np.nan))).all()
    assert adjusted_p(np.array([])).size == 0


def test_rate_of_false_discoveries_is_held():
    rng = np.random.default_rng(5)
    rates = []
    for _ in range(200):
        z = rng.normal(size=400)
        z[:40] += 3.5
        found = adjusted_p(stats.norm.sf(z)) <= 0.1
        rates.append(found[40:].sum() / max(found.sum(), 1))
    assert 0.07 < np.mean(rates) < 0.11  # the theory says 0.1 x 360 / 400


def test_p_of_statistics():
    t = np.array([-3.0, 0.0, 2.0, np.nan])
    np.testing.assert_allclose(p_of_t(t, 12), p_of_f(t**2, 1, 12), rtol=1e-12)
    np.testing.assert_allclose(p_of_t(t, 12, two_sided=False), 1 - stats.t.cdf(t, 12))


@pytest.mark.parametrize("wrong", [-0.1, 1.5, np.inf])
def test_what_is_no_p_value_is_an_error(wrong):
    with pytest.raises(InputError, match="between 0 and 1"):
        adjusted_p(np.array([0.1, wrong]))
