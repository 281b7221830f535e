"""Where the time of an epoch goes: reading, augmenting, stepping; and what options of it save.

python benchmarks/training.py [--quick] [--json FILE] [--threads N] [--device DEV]

Rows whose peer is "float32", "contiguous" or "at once" inform: what is faster depends on the
machine, and their target is only that nothing is out of all proportion. On a GPU, give --device.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rows import Row, alternate, parser, report

from models.grids import GRIDS
from models.networks import build
from models.training.augmentation import Augmentation
from models.training.batches import batches, read, reading
from models.training.objective import Objective
from models.training.optimiser import adam
from models.training.precision import Precision
from models.training.protocol import Protocol
from models.training.ranks import Ranks
from models.training.update import Update
from models.volumes import write_cache

BATCH = 4
MOVED = Augmentation(flip_probability=0.5, shift_voxels=2, shift_axes=("sagittal",))
EVERYTHING = Augmentation(
    gamma=0.3,
    noise_sd=0.05,
    flip_probability=0.5,
    rotation_degrees=17,
    shift_voxels=10,
    shift_axes=("sagittal", "coronal"),
)
INFORMS = 20.0


def main() -> None:
    """Measure and report."""
    command = parser(__doc__)
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--device", default="cpu")
    arguments = command.parse_args()
    torch.set_num_threads(arguments.threads)
    grid = "3mm" if arguments.quick else "2mm"
    with tempfile.TemporaryDirectory() as folder:
        found = list(measured(grid, Path(folder), arguments.device, 3 if arguments.quick else 7))
    report(found, arguments.json)


def measured(grid: str, folder: Path, device: str, repeats: int) -> Iterator[Row]:
    """Rows of one network on one grid."""
    shape, name = GRIDS[grid].shape, "demo" if grid == "3mm" else "boehle2019"
    what = f"{name} {grid}, batch of {BATCH}"
    rng = np.random.default_rng(0)
    images = (rng.random((1, *shape), np.float32) + 0.1 for _ in range(16))
    cache = write_cache(folder, [(f"{i:02d}", "") for i in range(16)], images, GRIDS[grid])
    rows, labels = list(range(BATCH)), np.arange(16) % 2 == 0
    stored = read(cache.volumes, rows)
    on_device = stored.to(device).float()

    def augment(how: Augmentation) -> Callable[[], object]:
        draws = how.draw(labels[rows], torch.Generator().manual_seed(0))
        return lambda: finished(how.apply(on_device, draws), device)

    def step(**options: object) -> Callable[[], object]:
        take = update(name, shape, device, **options)
        return lambda: take(stored, labels[rows], Augmentation().draw(labels[rows], GENERATOR))

    usual = step()
    seconds = alternate(
        {
            "read": lambda: read(cache.volumes, rows),
            "augment: flip and shift": augment(MOVED),
            "augment: all": augment(EVERYTHING),
            "shift one by one": lambda: one_by_one(on_device, 2),
            "shift": augment(Augmentation(shift_voxels=2)),
            "step": usual,
            "channels_last": step(memory_format="channels_last"),
            "bf16": step(precision="bf16"),
            "4 parts": step(accumulate=BATCH),
        },
        repeats,
    )
    for part, target in (("read", 0.1), ("augment: flip and shift", 0.1), ("augment: all", 0.5)):
        yield Row(f"{what}: {part}", seconds[part], seconds["step"], "step", "s", target)
    yield Row(
        f"{what}: shift", seconds["shift"], seconds["shift one by one"], "one by one", "s", 2.0
    )
    for option, peer in (
        ("channels_last", "contiguous"),
        ("bf16", "float32"),
        ("4 parts", "at once"),
    ):
        yield Row(f"{what}: step, {option}", seconds[option], seconds["step"], peer, "s", INFORMS)
    yield from reading_ahead(cache.volumes, folder / "volumes.npy", usual, what, repeats)


GENERATOR = torch.Generator().manual_seed(0)


def update(name: str, shape: tuple[int, ...], device: str, **options: object) -> Update:
    """One optimiser's update of a network with these options of the protocol."""
    protocol = replace(Protocol(batch_size=BATCH), **options)  # type: ignore[arg-type]
    torch.manual_seed(0)
    precision = Precision.of(protocol.precision, protocol.memory_format, device)
    model = precision.place(build(name, shape).to(device))
    return Update(
        model=model,
        network=model,
        optimiser=adam(model, protocol),
        objective=Objective(),
        augmentation=Augmentation(),
        precision=precision,
        ranks=Ranks(),
        device=device,
        parts=protocol.accumulate,
    )


def one_by_one(images: torch.Tensor, step: int) -> torch.Tensor:
    """The plain way to shift: a loop over the images."""
    moved = torch.zeros_like(images)
    for k, image in enumerate(images):
        by = k % (2 * step + 1) - step
        kept = image.shape[1] - abs(by)
        moved[k].narrow(1, max(by, 0), kept).copy_(image.narrow(1, max(-by, 0), kept))
    return moved


def finished(result: torch.Tensor, device: str) -> torch.Tensor:
    """The result, once the device has it."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return result


def reading_ahead(
    volumes: np.ndarray, file: Path, step: Callable[[], object], what: str, repeats: int
) -> Iterator[Row]:
    """An epoch of 4 batches from a disk, whose pages are forgotten first, read ahead or in turn."""
    cut = batches(list(range(len(volumes))), BATCH)

    def epoch(batch_images: Iterator[object]) -> None:
        for _ in batch_images:
            step()

    def ahead() -> None:
        forget(file)
        epoch(reading(volumes, cut))

    def in_turn() -> None:
        forget(file)
        epoch((rows, read(volumes, rows)) for rows in cut)

    seconds = alternate({"ahead": ahead, "in turn": in_turn}, max(repeats // 2, 2))
    yield Row(
        f"{what}: epoch of 4 steps from disk, read ahead",
        seconds["ahead"],
        seconds["in turn"],
        "in turn",
        "s",
        1.1,
    )


def forget(file: Path) -> None:
    """Drop a file's pages from memory, where the system lets us."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
