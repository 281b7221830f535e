import importlib.util
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "calibration.py"
DATA_SETS = 200


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("calibration", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "test",
    [
        "two groups",
        pytest.param("one sample", marks=pytest.mark.slow),
        pytest.param("variance groups", marks=pytest.mark.slow),
    ],
)
def test_the_family_wise_error_is_what_was_asked_for(benchmark, test):
    smallest = benchmark.calibration(test, DATA_SETS, permutations=199)
    for name, p in smallest.items():
        assert (p >= 1 / 200).all()
        low, high = benchmark.interval(0.05, DATA_SETS)
        assert low <= (p <= 0.05).sum() <= high, name
        # Anything rarer than 1 in 1000 at 1 %.
        assert (p <= 0.01).sum() <= 8, name
        # All of the distribution, not its tail alone.
        assert 0.4 < np.mean(p <= 0.5) < 0.6, name
