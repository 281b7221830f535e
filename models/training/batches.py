"""Images of a cohort, a batch at a time, read while the one before is computed."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch


def batches(rows: Sequence[int], size: int, least: int = 2) -> list[list[int]]:
    """Batches of ``size``; a last one of fewer than ``least`` joins its neighbour.

    A single image would leave BatchNorm without a spread.
    """
    cut = [list(rows[i : i + size]) for i in range(0, len(rows), size)]
    if len(cut) > 1 and len(cut[-1]) < min(least, size + 1):
        last = cut.pop()
        cut[-1] += last
    return cut


def read(volumes: np.ndarray, rows: Sequence[int]) -> torch.Tensor:
    """Images (len(rows), C, x, y, z) as they are stored, copied from the memory map."""
    return torch.from_numpy(np.stack([volumes[row] for row in rows]))


def reading(
    volumes: np.ndarray, cut: Sequence[list[int]], *, pinned: bool = False
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Rows and images of every batch, in order; a thread reads one batch ahead.

    Parameters
    ----------
    volumes : (images, C, x, y, z) array
    cut : sequence of list of int
    pinned : bool
        Whether the images go to a GPU, which takes them faster from pinned memory.
    """

    def fetch(rows: list[int]) -> torch.Tensor:
        images = read(volumes, rows)
        return images.pin_memory() if pinned else images

    with ThreadPoolExecutor(1) as thread:
        ahead = [thread.submit(fetch, rows) for rows in cut[:1]]
        for number, rows in enumerate(cut, start=1):
            images = ahead.pop().result()
            ahead = [thread.submit(fetch, after) for after in cut[number : number + 1]]
            yield rows, images
