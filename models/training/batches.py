"""Images of a cohort, a batch at a time."""

from collections.abc import Sequence

import numpy as np
import torch


def batches(rows: Sequence[int], size: int) -> list[list[int]]:
    """Batches of ``size``; a last one of a single image joins its neighbour (BatchNorm)."""
    cut = [list(rows[i : i + size]) for i in range(0, len(rows), size)]
    if len(cut) > 1 and len(cut[-1]) == 1:
        last = cut.pop()
        cut[-1] += last
    return cut


def read(volumes: np.ndarray, rows: Sequence[int]) -> torch.Tensor:
    """Images (len(rows), C, x, y, z) float32, copied from the memory map."""
    return torch.from_numpy(np.stack([volumes[row] for row in rows]).astype(np.float32))
