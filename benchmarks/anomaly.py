"""Whole-brain inference of the siamese auto-encoder beside a loop over its patches.

python benchmarks/anomaly.py [--quick] [--dimensions 2 3] [--json FILE]
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from rows import Row, alternate, parser, report

from models.anomaly import build
from models.anomaly.patches import padded

SHAPE = (121, 145, 121)
QUICK_SHAPE = (48, 58, 24)
CHANNELS = 2
LOOP = 300  # places of the loop, drawn at random
LIMIT_S = 60.0
STRIDES = (3, 5)
DIFFERENCE = 1e-5


def phantom(shape: tuple[int, ...], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Random image (C, x, y, z) inside an ellipsoid that is as large as a brain."""
    axes = [np.linspace(-1, 1, n) / r for n, r in zip(shape, (0.78, 0.81, 0.83), strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    brain = torch.from_numpy(x**2 + y**2 + z**2 < 1)
    generator = torch.Generator().manual_seed(0)
    volume = torch.rand(CHANNELS, *shape, generator=generator) * brain
    return volume.to(device), brain.to(device)


def loop_over(
    model: torch.nn.Module, volume: torch.Tensor, places: torch.Tensor, dimensions: int
) -> torch.Tensor:
    """Centres (n, C) by cutting out and passing every patch alone."""
    wide, middle = padded(volume, 15, dimensions), (0, slice(None), *[7] * dimensions)
    found = []
    with torch.no_grad():
        for x, y, z in places.tolist():
            patch = wide[:, x : x + 15, y : y + 15]
            patch = patch[..., z] if dimensions == 2 else patch[..., z : z + 15]
            found.append(model(patch[None])[middle])
    return torch.stack(found)


def measure(shape: tuple[int, ...], dimensions: int, device: str, repeats: int) -> list[Row]:
    """Rows of one kind of patches on one device."""
    torch.manual_seed(0)
    name = "sae" if dimensions == 2 else "sae3d"
    model = build(name, shape, channels=CHANNELS).to(device).eval()
    volume, brain = phantom(shape, device)
    reader, voxels = model.reader(), int(brain.sum())
    order = torch.randperm(voxels, generator=torch.Generator().manual_seed(1))[:LOOP]
    places = brain.nonzero()[order.to(device)]
    title = f"{name} on {device}, {'x'.join(map(str, shape))}, {voxels} voxels"
    timed = {
        "loop": lambda: loop_over(model, volume, places, dimensions),
        "centres": lambda: reader.centres(volume, brain),
    }
    timed |= {f"overlap {s}": _overlap(reader, volume, brain, s) for s in STRIDES}
    timed = {key: _waiting(one, device) for key, one in timed.items()}
    timed["loop"]()
    seconds = alternate(timed, repeats)
    alone = seconds["loop"] * voxels / len(places)
    dense = reader.centres(volume, brain)[:, places[:, 0], places[:, 1], places[:, 2]].T
    gap = float((dense - loop_over(model, volume, places, dimensions)).abs().max())
    rows = [
        Row(f"{title}: centres", seconds["centres"], alone, f"loop, {LOOP} drawn", "s", 0.1),
        Row(f"{title}: centres", seconds["centres"], LIMIT_S, "limit", "s", 1.0),
        Row(f"{title}: difference", gap, DIFFERENCE, "limit", "intensity", 1.0),
    ]
    for stride in STRIDES:
        taken = seconds[f"overlap {stride}"]
        rows.append(Row(f"{title}: overlap, stride {stride}", taken, LIMIT_S, "limit", "s", 1.0))
    return rows


def _overlap(reader: object, volume: torch.Tensor, brain: torch.Tensor, stride: int) -> Callable:
    return lambda: reader.overlap(volume, brain, stride)  # type: ignore[attr-defined]


def _waiting(function: Callable, device: str) -> Callable:
    """Call, and wait until the device is done."""

    def run() -> None:
        function()
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    return run


def main() -> None:
    """Measure on the CPU, and on CUDA where there is one."""
    arguments = parser(__doc__)
    arguments.add_argument("--dimensions", type=int, nargs="+", default=[2, 3], choices=[2, 3])
    options = arguments.parse_args()
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    began, rows = time.perf_counter(), []
    for dimensions in options.dimensions:
        for device in devices:
            shape = QUICK_SHAPE if options.quick else SHAPE
            rows += measure(shape, dimensions, device, 1 if options.quick else 3)
    report(rows, options.json)
    print(f"{time.perf_counter() - began:.0f} s, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
