"""Voxelwise statistics beside nilearn, and within their memory.

Run by statistics.py. Two threads for everybody. nilearn gets float64, with which it is fastest.
The long run takes about 20 minutes, and 10 GB of disk in the folder for temporary files.
"""

import subprocess
import sys
import tempfile
import threading
import time
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from nilearn.mass_univariate import permuted_ols
from nilearn.mass_univariate._utils import calculate_cluster_measures, calculate_tfce
from rows import Row, alternate, parser, report
from scipy import ndimage

from models.statistics.components import CONNECTIVITY, Lattice, largest_cluster
from models.statistics.glm import Design, two_group_design
from models.statistics.permutation import Spatial, permutation_test
from models.statistics.tfce import tfce

THREADS = 2
BRAIN = (79, 95, 79)  # 2 mm: about 230 000 voxels in the ellipsoid below
SMALL = (49, 59, 49)
RADII = (0.456, 0.474, 0.43)
SIGMA_VOXELS = 1.7  # 8 mm FWHM on 2 mm voxels
LIMIT_MB = 200.0
FLAG_MB = 4000.0


def brain(shape: tuple[int, ...]) -> np.ndarray:
    """An ellipsoid in a grid, (x, y, z) bool."""
    relative = [
        (np.arange(n) - (n - 1) / 2) / (radius * n) for n, radius in zip(shape, RADII, strict=True)
    ]
    x, y, z = np.meshgrid(*relative, indexing="ij")
    return x**2 + y**2 + z**2 < 1


def cohort(people: int) -> tuple[Design, np.ndarray, np.ndarray]:
    """Two groups and two covariates: design, group (people,), covariates (people, 2)."""
    rng = np.random.default_rng(0)
    group = np.arange(people) % 2 == 0
    covariates = rng.normal(size=(people, 2))
    return two_group_design(group, covariates, ("age", "sex")), group, covariates


# ---- Time ------------------------------------------------------------------------------------


def voxel_row(people: int, voxels: int, permutations: int, repeats: int) -> Row:
    """Voxel FWE from data to corrected p values."""
    design, group, covariates = cohort(people)
    data = np.random.default_rng(1).standard_normal((people, voxels), dtype=np.float32)
    wide = data.astype(np.float64)

    def peer(count: int):
        # No intercept among the covariates: with one, nilearn flips signs instead.
        return permuted_ols(
            group.astype(float)[:, None],
            wide,
            covariates,
            n_perm=count,
            n_jobs=THREADS,
            output_type="dict",
            verbose=0,
        )

    permutation_test(data[:, :100], design, 10)
    peer(2)
    seconds = alternate(
        {
            "ours": lambda: permutation_test(data, design, permutations),
            "peer": lambda: peer(permutations),
        },
        repeats,
    )
    name = f"voxel FWE, {people} people, {voxels} voxels, {permutations} permutations"
    return Row(name, seconds["ours"], seconds["peer"], "nilearn permuted_ols", "s", 1 / 30)


def smooth_and_noise(mask: np.ndarray) -> dict[str, np.ndarray]:
    """Two maps (x, y, z) of standard deviation one in the mask, zero outside."""
    noise = np.random.default_rng(2).standard_normal(mask.shape)
    maps = {"smooth": ndimage.gaussian_filter(noise, SIGMA_VOXELS), "noise": noise}
    return {name: np.where(mask, image / image[mask].std(), 0) for name, image in maps.items()}


def map_rows(shape: tuple[int, ...], connectivity: int, repeats: int) -> list[Row]:
    """TFCE and cluster maxima of one map, one thread each."""
    mask = brain(shape)
    lattice = Lattice(mask, connectivity)
    near = ndimage.generate_binary_structure(3, CONNECTIVITY[connectivity])
    rows = []
    for name, image in smooth_and_noise(mask).items():
        ours, theirs = image[mask].astype(np.float32), image.astype(np.float32)[..., None]
        tfce(ours, lattice)
        largest_cluster(ours, 3.1, lattice)
        label = f"{name} map, {lattice.voxels} voxels, {connectivity} neighbours"
        seconds = alternate(
            {
                "ours": lambda ours=ours: tfce(ours, lattice),
                "peer": lambda theirs=theirs: calculate_tfce(theirs, near),
            },
            repeats,
        )
        rows.append(Row(f"TFCE, {label}", seconds["ours"], seconds["peer"], "nilearn", "s", 0.04))
        seconds = alternate(
            {
                "ours": lambda ours=ours: largest_cluster(ours, 3.1, lattice),
                "peer": lambda theirs=theirs: calculate_cluster_measures(
                    theirs, 3.1, near, two_sided_test=True
                ),
            },
            3 * repeats,
        )
        target = {"smooth": 0.5, "noise": 0.05}[name]
        label = f"clusters, {label}"
        rows.append(Row(label, seconds["ours"], seconds["peer"], "nilearn", "s", target))
    return rows


def exactness_row(side: int) -> Row:
    """TFCE against the integral, level by level between the values of a map."""
    image = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(side,) * 3), 1.2)
    image *= 3 / image.std()
    ours = tfce(image.ravel(), Lattice(np.ones(image.shape, bool)))
    literal = np.zeros(image.shape)
    near = ndimage.generate_binary_structure(3, CONNECTIVITY[18])
    for sign in (1, -1):
        height = np.maximum(sign * image, 0)
        for low, high in pairwise(np.unique(np.append(height, 0))):
            labels, _ = ndimage.label(height >= high, near)
            gained = np.sqrt(np.bincount(labels.ravel())) * (high**3 - low**3) / 3
            gained[0] = 0
            literal += sign * gained[labels]
    difference = float((np.abs(ours - literal.ravel()) / np.abs(ours)).max())
    name = f"TFCE, largest relative difference from the integral, {side}^3 voxels"
    return Row(name, difference, 1e-9, "limit", "", 1.0)


# ---- Memory ----------------------------------------------------------------------------------


def memory_rows(quick: bool) -> list[Row]:
    """Peak of the working memory, each in a process of its own."""
    shape = SMALL if quick else BRAIN
    voxels = int(brain(shape).sum())
    rows = []
    for people in (213,) if quick else (213, 560):
        for what in ("all",) if quick else ("voxel", "all"):
            peak = measured(people, shape, what, 20 if quick else 200, 0)
            corrections = {"voxel": "voxel FWE", "all": "voxel, cluster and TFCE FWE"}[what]
            name = f"working memory, {corrections}, {people} people, {voxels} voxels"
            rows.append(Row(name, peak, LIMIT_MB, "limit", "MB", 1.0))
    peak = measured(10_000, (29, 35, 29) if quick else BRAIN, "all", 20 if quick else 100, FLAG_MB)
    voxels = int(brain((29, 35, 29) if quick else BRAIN).sum())
    name = f"memory flag, all corrections, 10000 people on disk, {voxels} voxels"
    return [*rows, Row(name, peak, FLAG_MB, "limit", "MB", 1.0)]


def measured(
    people: int, shape: tuple[int, ...], what: str, permutations: int, flag_mb: float
) -> float:
    """Peak in MB, as `measure` prints it."""
    arguments = [str(people), ",".join(map(str, shape)), what, str(permutations), str(flag_mb)]
    command = [sys.executable, __file__, "measure", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def measure(people: int, shape: tuple[int, ...], what: str, count: int, flag_mb: float) -> None:
    """Print by how many MB the anonymous memory grew at most, beyond data and libraries.

    Pages of a file that is mapped are the kernel's cache, and not counted.
    """
    mask = brain(shape)
    design, *_ = cohort(people)
    small = np.ones((4, 4, 4), bool)
    warm = np.random.default_rng(0).standard_normal((people, 64), dtype=np.float32)
    permutation_test(warm, design, 3, spatial=Spatial(small, cluster_t=3.0, tfce=True))
    with tempfile.TemporaryDirectory() as folder:
        data = stored(Path(folder), people, int(mask.sum()), on_disk=flag_mb > 0)
        spatial = Spatial(mask, cluster_t=3.0, tfce=True) if what == "all" else None
        options = {"memory_mb": flag_mb} if flag_mb else {}
        with Peak() as peak:
            permutation_test(data, design, count, spatial=spatial, **options)
        print(peak.mb)


def stored(folder: Path, people: int, voxels: int, on_disk: bool) -> np.ndarray:
    """Noise (people, voxels) float32, in memory or in a file."""
    rng = np.random.default_rng(4)
    if not on_disk:
        return rng.standard_normal((people, voxels), dtype=np.float32)
    path = folder / "data.f32"
    noise = rng.standard_normal(2 * voxels, dtype=np.float32)
    with path.open("wb") as file:
        for start in rng.integers(0, voxels, people):
            noise[start : start + voxels].tofile(file)
    return np.memmap(path, np.float32, "r", shape=(people, voxels))


class Peak:
    """Largest growth of the process's anonymous memory inside a `with`, sampled every 2 ms."""

    def __enter__(self):
        self.start = self.largest = self._now()
        self.running = True
        self.watch = threading.Thread(target=self._sample)
        self.watch.start()
        return self

    def __exit__(self, *_):
        self.running = False
        self.watch.join()
        self.mb = (self.largest - self.start) / 1000

    def _sample(self):
        while self.running:
            self.largest = max(self.largest, self._now())
            time.sleep(0.002)

    @staticmethod
    def _now() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(THREADS)
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["measure"]:
        people, grid, what, permutations, flag_mb = sys.argv[2:]
        shape = tuple(map(int, grid.split(",")))
        return measure(int(people), shape, what, int(permutations), float(flag_mb))
    arguments = parser(__doc__.splitlines()[0]).parse_args()
    return report(quick_rows() if arguments.quick else all_rows(), arguments.json)


def quick_rows() -> list[Row]:
    """Everything in small."""
    return [
        voxel_row(213, 40_000, 200, 1),
        *map_rows(BRAIN, 6, 1),
        exactness_row(12),
        *memory_rows(quick=True),
    ]


def all_rows() -> list[Row]:
    """Everything in the size of a brain at 2 mm."""
    voxels = int(brain(BRAIN).sum())
    rows = [voxel_row(people, voxels, 1000, 3) for people in (213, 560)]
    rows += [*map_rows(BRAIN, 6, 5), *map_rows(BRAIN, 18, 5), exactness_row(20)]
    return rows + memory_rows(quick=False)


if __name__ == "__main__":
    main()
