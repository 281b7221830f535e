"""How often a test finds something where there is nothing.

    python benchmarks/calibration.py [--data-sets 200] [--json FILE]

Null data sets are smooth Gaussian noise in a small volume, with a covariate that differs between
the groups and moves the data. For every correction, the table holds the share of data sets with
any significant voxel, and the interval in which it lies in 95 % of such tables if the error is
exactly alpha.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import ndimage, stats

from models.statistics.exchange import SIGN_FLIPS, Exchange
from models.statistics.glm import Design, two_group_design
from models.statistics.permutation import Spatial, permutation_test

SHAPE = (12, 12, 12)
PEOPLE = 20
SIGMA_VOXELS = 1.5
CLUSTER_P = 0.01
ALPHAS = (0.05, 0.01)
CORRECTIONS = ("voxel", "extent", "mass", "tfce")
TESTS = ("two groups", "one sample", "variance groups")


def null_data(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Data (people, voxels) that a covariate (people,) moves, and that covariate."""
    rng = np.random.default_rng([seed, 20])
    noise = rng.standard_normal((PEOPLE, *SHAPE), dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, (0, *[SIGMA_VOXELS] * 3)).reshape(PEOPLE, -1)
    age = rng.normal(size=PEOPLE) + (np.arange(PEOPLE) % 2)
    return noise / noise.std() + 0.5 * age[:, None].astype(np.float32), age


def null_p(test: str, seed: int, permutations: int, tail: bool = False) -> dict[str, float]:
    """Smallest corrected p of each correction on one null data set."""
    data, age = null_data(seed)
    group = np.arange(PEOPLE) % 2 == 0
    exchange = Exchange()
    design = two_group_design(group, age[:, None], ("age",))
    if test != "two groups":
        data = data - 0.5 * age[:, None].astype(np.float32)
        exchange = SIGN_FLIPS
        design = Design(np.ones((PEOPLE, 1)), ("mean",), np.ones(1))
    if test == "variance groups":
        data = data * np.where(group, 1, 3)[:, None].astype(np.float32)
        exchange = Exchange(permute=False, flip=True, variance=group)
        design = two_group_design(group)
    spatial = Spatial(np.ones(SHAPE, bool), cluster_p=CLUSTER_P, tfce=True)
    result = permutation_test(
        data, design, permutations, seed, exchange, spatial=spatial, tail=tail
    )
    return {
        name: float(found.p_fwe.min())
        for name, found in {"voxel": result.voxel, **result.spatial}.items()
    }


def interval(alpha: float, data_sets: int) -> tuple[int, int]:
    """Counts between which 95 % of binomial draws lie."""
    low, high = stats.binom.interval(0.95, data_sets, alpha)
    return int(low), int(high)


def calibration(
    test: str, data_sets: int, permutations: int, tail: bool = False
) -> dict[str, np.ndarray]:
    """Smallest p (data sets,) of each correction."""
    found = [null_p(test, seed, permutations, tail) for seed in range(data_sets)]
    return {name: np.array([p[name] for p in found]) for name in CORRECTIONS}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-sets", type=int, default=200)
    parser.add_argument("--permutations", type=int, default=199)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    n = arguments.data_sets
    rows = []
    print(f"{n} null data sets, {arguments.permutations} permutations, {PEOPLE} people, {SHAPE}")
    print(f"{'test':24}{'correction':12}{'alpha':>7}{'rate':>8}   95 % interval   inside")
    for test, tail in [*((test, False) for test in TESTS), ("two groups", True)]:
        smallest = calibration(test, n, arguments.permutations, tail)
        name = test + (", tail fitted" if tail else "")
        for correction, p in smallest.items():
            for alpha in ALPHAS:
                low, high = interval(alpha, n)
                hits = int((p <= alpha + 1e-9).sum())
                row = {"test": name, "correction": correction, "alpha": alpha, "rate": hits / n}
                row |= {"low": low / n, "high": high / n, "inside": low <= hits <= high}
                rows.append(row)
                print(
                    f"{name:24}{correction:12}{alpha:7.2f}{hits / n:8.3f}   "
                    f"{low / n:.3f} - {high / n:.3f}   {'yes' if row['inside'] else 'NO'}",
                    flush=True,
                )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
