"""Images that are there twice: the same voxels under two names, or nearly the same.

One scan under two names on two sides of a split makes a network look better than it is (Yagis 2021,
doi:10.1038/s41598-021-01681-w). Equal voxels are found by their hashes. Scans that are nearly equal
(the same scan processed twice, a repeat of one person, an identical twin) are found by the
correlation of thumbnails. All brains are alike, so each thumbnail is taken less the mean of the
cohort, and what is compared is what sets a brain apart from the others.

Measured on 21 scans of 19 people, registered affinely: the second scans of two
people correlate with the first ones by .65 to .72 (203 days apart in one of them), scans of
different people by .36 at most and -.06 on average, at 2 and at 3 mm. Without taking the mean
away, different people reach .85; without a common scale of intensity (each image over its maximum)
one pair of them is above a repeat.
"""

import hashlib
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from models.errors import InputError

CUBE_MM = 8.0
ALIKE = 0.5  # between repeats and different people, see above
# Fewer people do not tell what is common to all; see :func:`near_pairs`.
FEWEST = 8


def voxel_hash(data: np.ndarray) -> str:
    """SHA-256 of the voxels and their shape; the type of number and the byte order play no part."""
    values = np.ascontiguousarray(data, dtype="<f4")
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()


def equal_pairs(hashes: Sequence[str]) -> list[tuple[int, int]]:
    """All pairs (i, j), i < j, of equal hashes."""
    rows: dict[str, list[int]] = {}
    for row, digest in enumerate(hashes):
        rows.setdefault(digest, []).append(row)
    return sorted(pair for same in rows.values() for pair in combinations(same, 2))


def thumbnail(volume: np.ndarray, voxel_mm: float) -> np.ndarray:
    """Means over cubes of about 8 mm, as one row, on a common scale of intensity.

    Parameters
    ----------
    volume : (channels, x, y, z) array
        Zero outside the brain; its non-zero voxels are brought to mean 0 and SD 1 per channel.
    voxel_mm : float

    Returns
    -------
    (cubes,) float32 array; voxels at the upper ends that fill no cube are left out.
    """
    edge = max(1, round(CUBE_MM / voxel_mm))
    cubes = [size // edge for size in volume.shape[1:]]
    x, y, z = (edge * count for count in cubes)
    shape = [len(volume), *(size for count in cubes for size in (count, edge))]
    scaled = np.stack([_standardised(channel) for channel in volume])
    return scaled[:, :x, :y, :z].reshape(shape).mean(axis=(2, 4, 6)).reshape(-1)


def _standardised(channel: np.ndarray) -> np.ndarray:
    brain = channel != 0
    values = channel[brain].astype(np.float32)
    if not len(values) or values.std() == 0:
        return np.zeros(channel.shape, np.float32)
    scaled = np.zeros(channel.shape, np.float32)
    scaled[brain] = (values - values.mean()) / values.std()
    return scaled


def near_pairs(
    thumbnails: np.ndarray, threshold: float = ALIKE, block: int = 1024
) -> list[tuple[int, int, float]]:
    """Pairs of images that set themselves apart from the cohort in the same way.

    Parameters
    ----------
    thumbnails : (images, cubes) array
    threshold : float
        Correlation from which a pair is told.
    block : int
        Images whose correlations with all later ones are held at once: memory is that of the
        standardised thumbnails and of block x images.

    Returns
    -------
    list of (i, j, correlation)
        i < j, the highest first. Empty for fewer than eight images: with n images, the
        deviations from their mean correlate by -1 / (n - 1) already by construction.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"a threshold of {threshold} for near-duplicates: choose one in (0, 1]")
    if len(thumbnails) < FEWEST:
        return []
    rows = _deviations(np.asarray(thumbnails, np.float32))
    found = []
    for start in range(0, len(rows), block):
        stop = min(start + block, len(rows))
        alike = rows[start:stop] @ rows[start:].T
        for i, j in np.argwhere(alike >= threshold):
            if i < j:
                found.append((int(start + i), int(start + j), min(float(alike[i, j]), 1.0)))
    return sorted(found, key=lambda pair: (-pair[2], pair[:2]))


def _deviations(thumbnails: np.ndarray) -> np.ndarray:
    """Standardise every cube over the images, then every image to a row of length one."""
    rows = thumbnails - thumbnails.mean(axis=0)
    spread = rows.std(axis=0)
    varies = spread > 1e-3 * spread.max(initial=0.0)
    if not varies.any():
        return np.zeros((len(rows), 1), np.float32)
    rows = rows[:, varies] / spread[varies]
    rows -= rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)
