"""Occlusion against captum, patch 10 and stride 5 voxels, and about 100 regions.

``python benchmarks/occlusion_rows.py [--quick] [--json FILE]``; 2 threads, one image of noise, so
that no patch can be skipped as background. Where cores are shared, set OMP_WAIT_POLICY=passive.

Ours is the whole map, from the forward pass of the image to the heatmap, divided by its windows.
captum would need minutes to hours for it, so its own loop is run on windows drawn from all of them
(borders in proportion; each takes it a full forward pass) and divided by these and the pass of the
image itself. All take turns in one process; medians. The row "difference" is the largest between
the means over the drawn windows (regions: between their values), in the unit of the score. Relative
to the score it says little here: an untrained network's is near 0 (.03 for boehle2019 at 2 mm), and
single precision alone moves captum's drops by 9e-7 of that. Float64 is compared in the tests.

Regions: the Voronoi cells of 100 points in an ellipsoid that fills 9/10 of each axis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from captum.attr import FeatureAblation, Occlusion
from rows import Row, alternate, parser, report
from scipy.spatial import cKDTree
from torch import nn

from models.attribution.increments import Constant, Increments
from models.attribution.occlusion import network_stages, occlusion, region_occlusion
from models.attribution.windows import Windows, windows
from models.networks import build

PATCH, STRIDE, REGIONS = 10, 5, 100


@dataclass(frozen=True)
class Case:
    """A network, its image, how much faster we want to be, and the windows drawn for captum."""

    label: str
    network: str
    shape: tuple[int, int, int]
    channels: int
    outputs: int
    faster: float
    faster_regions: float
    drawn: int


CASES = (
    Case("boehle2019 2 mm", "boehle2019", (96, 114, 96), 1, 2, 150, 20, 12),
    Case("eitel2019", "eitel2019", (96, 114, 96), 1, 1, 150, 5, 3),
    Case("boehle2019 1 mm", "boehle2019", (193, 229, 193), 1, 2, 50, 20, 4),
    Case("nazari2021", "nazari2021", (71, 90, 72), 1, 2, 50, 5, 12),
    Case("diktiometry", "diktiometry", (96, 112, 96), 6, 1, 50, 5, 8),
)
QUICK = 2


class DrawnWindows(Occlusion):
    """captum's Occlusion on some of its windows."""

    drawn: np.ndarray

    def _get_feature_idx_to_tensor_idx(self, *_: Any, **__: Any) -> dict[int, list[int]]:
        return {int(number): [0] for number in self.drawn}


class DrawnRegions(FeatureAblation):
    """captum's FeatureAblation on some regions."""

    drawn: np.ndarray

    def _get_feature_idx_to_tensor_idx(self, *_: Any, **__: Any) -> dict[int, list[int]]:
        return {int(number): [0] for number in self.drawn}


def rows(quick: bool) -> list[Row]:
    """Rows of windows and regions for all networks."""
    torch.set_num_threads(2)
    cases = CASES[:QUICK] if quick else CASES
    repeats = 1 if quick else 3
    return [
        row for case in cases for kind in (window_rows, region_rows) for row in kind(case, repeats)
    ]


def window_rows(case: Case, repeats: int) -> list[Row]:
    """Milliseconds per window, and the difference."""
    model, image = network_and_image(case)
    lattice = windows(case.shape, PATCH, STRIDE, 1)
    drawn = np.sort(np.random.default_rng(0).choice(len(lattice), case.drawn, replace=False))
    captum = DrawnWindows(model)
    captum.drawn = _captum_order(lattice, drawn)

    def peer() -> torch.Tensor:
        return captum.attribute(
            image,
            target=case.outputs - 1,
            sliding_window_shapes=(case.channels, PATCH, PATCH, PATCH),
            strides=(case.channels, STRIDE, STRIDE, STRIDE),
        )

    def ours() -> torch.Tensor:
        return occlusion(model, image, 1, patch_mm=PATCH, stride_mm=STRIDE).heatmap

    known, drops = np.isin(np.arange(len(lattice)), drawn), np.zeros(len(lattice))
    drops[drawn] = _drops(model, image, lattice, drawn)
    with np.errstate(invalid="ignore"):
        expected = lattice.mean(drops, known)  # nan where no drawn window lies

    def difference(_: torch.Tensor, theirs: torch.Tensor) -> float:
        return float(np.nanmax(np.abs(theirs[0, 0].numpy() - expected)))

    name = f"{case.label}: occlusion, a window of {len(lattice)}"
    return _both(name, ours, peer, (len(lattice), case.drawn), case.faster, difference, repeats)


def region_rows(case: Case, repeats: int) -> list[Row]:
    """Milliseconds per region, and the difference."""
    model, image = network_and_image(case)
    labels = parcellation(case.shape)
    drawn = np.sort(np.random.default_rng(0).choice(REGIONS, case.drawn, replace=False)) + 1
    captum = DrawnRegions(model)
    captum.drawn = drawn
    mask, compared = torch.from_numpy(labels), torch.from_numpy(np.isin(labels, drawn))

    def peer() -> torch.Tensor:
        return captum.attribute(
            image, target=case.outputs - 1, feature_mask=mask.expand(image.shape)
        )

    def ours() -> torch.Tensor:
        return region_occlusion(model, image, 1, regions=labels).heatmap

    def difference(mine: torch.Tensor, theirs: torch.Tensor) -> float:
        return float((mine - theirs)[0, 0][compared].abs().max())

    name = f"{case.label}: region occlusion, a region of {REGIONS}"
    counts = (REGIONS, case.drawn)
    return _both(name, ours, peer, counts, case.faster_regions, difference, repeats)


def _both(
    name: str,
    ours: Callable[[], torch.Tensor],
    peer: Callable[[], torch.Tensor],
    counts: tuple[int, int],
    faster: float,
    difference: Callable[[torch.Tensor, torch.Tensor], float],
    repeats: int,
) -> list[Row]:
    """Rows of all that we do and what captum does of it."""
    results: dict[str, torch.Tensor] = {}
    functions = {
        "ours": lambda: results.update(ours=ours()),
        "peer": lambda: results.update(peer=peer()),
    }
    seconds, (whole, drawn) = alternate(functions, repeats), counts
    mine, theirs = seconds["ours"] / whole * 1e3, seconds["peer"] / (drawn + 1) * 1e3
    apart = difference(results["ours"], results["peer"])
    return [
        Row(name, mine, theirs, f"captum, {drawn} drawn", "ms", 1 / faster),
        Row(f"{name}: difference", apart, 1e-6, "limit", "score", 1.0),
    ]


def network_and_image(case: Case) -> tuple[nn.Module, torch.Tensor]:
    """Network with random weights in evaluation mode, and noise."""
    torch.manual_seed(0)
    model = build(case.network, case.shape, channels=case.channels, outputs=case.outputs)
    return model.eval(), torch.randn(1, case.channels, *case.shape)


def parcellation(shape: tuple[int, ...]) -> np.ndarray:
    """Labels 1 to 100 of the nearest of 100 points in an ellipsoid, 0 outside."""
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"), -1)
    inside = (places**2).sum(-1) < 0.9**2
    points = np.random.default_rng(0).choice(places[inside], REGIONS, replace=False)
    labels = np.zeros(shape, int)
    labels[inside] = cKDTree(points).query(places[inside])[1] + 1
    return labels


def _captum_order(lattice: Windows, numbers: np.ndarray) -> np.ndarray:
    """Captum counts windows with the first axis running fastest, ours with the last."""
    places = np.unravel_index(numbers, lattice.counts)
    return np.sort(np.ravel_multi_index(places[::-1], lattice.counts[::-1]))


def _drops(
    model: nn.Module, image: torch.Tensor, lattice: Windows, numbers: np.ndarray
) -> np.ndarray:
    """Our drops of some windows."""
    low, high = lattice.low[numbers], lattice.high[numbers]
    with torch.no_grad():
        kept = Increments(network_stages(model, image, 1), image)
        scores = kept.versions(Constant(image.new_zeros(image.shape[1]), high - low), low, high)
        return (kept.scores - scores)[:, -1].double().numpy()


if __name__ == "__main__":
    arguments = parser(__doc__).parse_args()
    report(rows(arguments.quick), arguments.json)
