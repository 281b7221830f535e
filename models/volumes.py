"""A cohort's images, packed once into one memory-mapped file that training reads from.

The cache is a plain ``volumes.npy`` of float16, shape (images, channels, x, y, z), beside an
``index.json`` that says whose they are. Uncompressed float16 is what reads fastest. It rounds each
voxel by less than 1/2048 of its own value, on every scale of :func:`scale_intensity`: far under the
noise of an image.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

from models.errors import InputError
from models.grids import Grid
from models.smoothing import FWHM_PER_SIGMA

SAME_EDGE_MM = 1e-3  # rounding in headers


@dataclass(frozen=True)
class VolumeCache:
    """Images of a cohort on one grid.

    Attributes
    ----------
    volumes : numpy.ndarray
        (images, channels, x, y, z) float16, memory-mapped read-only, RAS+.
    keys : list of tuple
        (participant, session) of each image; session is "" where there is none.
    grid : Grid
        The grid of all images.
    content_hash : str
        SHA-256 over the voxels, the keys and the grid: what a model trained on this cache names.
    image_hashes : list of str
        SHA-256 over the voxels of each image: the same image has the same under any name.
    mirrored : list of bool
        Of each image, whether left and right were exchanged so that the affected side is left in
        all (ipsilateral); empty where left is left in all.
    """

    volumes: np.ndarray
    keys: list[tuple[str, str]]
    grid: Grid
    content_hash: str
    image_hashes: list[str]
    mirrored: list[bool] = field(default_factory=list)

    @property
    def ipsilateral(self) -> bool:
        """Whether the left half of the images is everybody's affected side."""
        return bool(self.mirrored)

    def rows(self, keys: Iterable[tuple[str, str]]) -> list[int]:
        """Row number of each (participant, session)."""
        where = {key: row for row, key in enumerate(self.keys)}
        return [where[participant, session] for participant, session in keys]


def write_cache(
    folder: Path,
    keys: Sequence[tuple[str, str]],
    volumes: Iterable[np.ndarray],
    grid: Grid,
    channels: int = 1,
    mirrored: Sequence[bool] = (),
) -> VolumeCache:
    """Pack ``volumes`` (each (channels, x, y, z)) one after the other; memory stays at one image.

    The index is written last, so a cache with an index is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    packed = np.lib.format.open_memmap(
        folder / "volumes.npy",
        mode="w+",
        dtype=np.float16,
        shape=(len(keys), channels, *grid.shape),
    )
    digest = hashlib.sha256(repr((list(keys), grid)).encode())
    hashes = []
    for row, (_, volume) in enumerate(zip(keys, volumes, strict=True)):
        packed[row] = volume
        digest.update(packed[row].tobytes())
        hashes.append(hashlib.sha256(packed[row].tobytes()).hexdigest())
    packed.flush()
    index = {
        "keys": [list(key) for key in keys],
        "grid": [grid.name, list(grid.shape), grid.voxel_mm, list(grid.origin_mm)],
        "content_hash": digest.hexdigest(),
        "image_hashes": hashes,
        "mirrored": [bool(one) for one in mirrored],
    }
    partial = folder / "index.json.part"
    partial.write_text(json.dumps(index))
    partial.replace(folder / "index.json")
    return open_cache(folder)


def open_cache(folder: Path) -> VolumeCache:
    """Open what :func:`write_cache` wrote, without reading the voxels."""
    index = json.loads((folder / "index.json").read_text())
    name, shape, voxel_mm, origin = index["grid"]
    return VolumeCache(
        volumes=np.load(folder / "volumes.npy", mmap_mode="r"),
        keys=[(participant, session) for participant, session in index["keys"]],
        grid=Grid(name, tuple(shape), voxel_mm, tuple(origin)),
        content_hash=index["content_hash"],
        image_hashes=index["image_hashes"],
        mirrored=index["mirrored"],
    )


def mean_volume(volumes: np.ndarray, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Mean of some ``rows`` of (rows, ...) volumes, float32; one at a time is in memory."""
    total = np.zeros(volumes.shape[1:], np.float64)
    for row in rows:
        total += volumes[row]
    return np.asarray(total / len(rows), np.float32)


def to_grid(data: np.ndarray, affine: np.ndarray, grid: Grid, order: int = 1) -> np.ndarray:
    """Resample a volume onto ``grid`` through the world coordinates (RAS+, mm).

    A finer image is first smoothed to the coarser voxel size (FWHM^2 = new^2 - old^2), since
    picking every n-th voxel would alias. The same grid returns the voxels untouched.

    Parameters
    ----------
    data : (x, y, z) array
    affine : (4, 4) array
        Voxel to world of ``data``, RAS+ axes, mm.
    grid : Grid
    order : int
        0 for labels (never smoothed), 1 for images.

    Returns
    -------
    (x, y, z) array on ``grid``; zero outside the field of view.
    """
    if data.shape == grid.shape and np.allclose(affine, grid.affine):
        return data
    return _resampled(data, affine, grid.affine, grid, order)


def _resampled(
    data: np.ndarray, affine: np.ndarray, wanted: np.ndarray, grid: Grid, order: int
) -> np.ndarray:
    """Resample onto ``grid``'s voxels where the affine ``wanted`` places them."""
    if order > 0:
        old_mm = np.linalg.norm(affine[:3, :3], axis=0)
        fwhm_mm = np.sqrt(np.clip(grid.voxel_mm**2 - old_mm**2, 0, None))
        data = gaussian_filter(data.astype(np.float32), fwhm_mm / FWHM_PER_SIGMA / old_mm)
    mapping = np.linalg.inv(affine) @ wanted
    # grid-constant: with "constant", a border voxel met at -1e-15 instead of 0 would be outside.
    return affine_transform(
        data,
        mapping[:3, :3],
        mapping[:3, 3],
        output_shape=grid.shape,
        order=order,
        mode="grid-constant",
    )


def centred_affine(shape: Sequence[int], affine: np.ndarray, grid: Grid) -> np.ndarray:
    """Where ``grid``'s voxels lie when the middles of an image and of the grid are joined.

    The image is neither moved nor turned: its axes stay. Joined are the voxels of index
    n // 2 along each axis.

    Parameters
    ----------
    shape : sequence of int
        Of the image.
    affine : (4, 4) array
        Voxel to world of the image, RAS+ axes, mm.
    grid : Grid

    Returns
    -------
    (4, 4) array
        Voxel of the grid to the image's world, mm.
    """
    placed = affine.astype(float)
    placed[:3, :3] *= grid.voxel_mm / np.linalg.norm(affine[:3, :3], axis=0)
    middle, mine = (np.array(one) // 2 for one in (shape, grid.shape))
    placed[:3, 3] = affine[:3, :3] @ middle + affine[:3, 3] - placed[:3, :3] @ mine
    return placed


def centred(data: np.ndarray, affine: np.ndarray, grid: Grid, order: int = 1) -> np.ndarray:
    """Pad or crop an image about its middle to a grid, as :func:`centred_affine` places it.

    Voxels are copied where their edges are those of the grid, else resampled as in
    :func:`to_grid`. This is the comparison without registration of Klingenberg et al. 2021.
    """
    edges_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(edges_mm, grid.voxel_mm, rtol=0, atol=SAME_EDGE_MM):
        placed = centred_affine(data.shape, affine, grid)
        return _resampled(data, affine, placed, grid, order)
    made = np.zeros(grid.shape, data.dtype)
    start = [n // 2 - mine // 2 for n, mine in zip(data.shape, grid.shape, strict=True)]
    theirs, ours = [], []
    for first, n, mine in zip(start, data.shape, grid.shape, strict=True):
        theirs.append(slice(max(first, 0), min(first + mine, n)))
        ours.append(slice(max(-first, 0), min(n - first, mine)))
    made[tuple(ours)] = data[tuple(theirs)]
    return made


def share_outside(mask: np.ndarray, affine: np.ndarray, placed: np.ndarray, grid: Grid) -> float:
    """Share of a mask's voxels whose centre lies beyond the grid that ``placed`` places."""
    voxels = np.argwhere(mask)
    to_grid_voxel = np.linalg.inv(placed) @ affine
    index = voxels @ to_grid_voxel[:3, :3].T + to_grid_voxel[:3, 3]
    beyond = (index < -0.5) | (index > np.array(grid.shape) - 0.5)
    return float(beyond.any(axis=1).mean()) if len(voxels) else 0.0


# --- intensity -----------------------------------------------------------------------------------

LARGEST_PERCENTILE = 99.0


def _over_maximum(values: np.ndarray, brain: np.ndarray) -> np.ndarray:
    return values / _positive(values.max())


def _between_extremes(values: np.ndarray, brain: np.ndarray) -> np.ndarray:
    least = values.min()
    return np.where(brain, (values - least) / _positive(values.max() - least), 0)


def _standardised(values: np.ndarray, brain: np.ndarray) -> np.ndarray:
    inside = values[brain]
    return np.where(brain, (values - inside.mean()) / (float(inside.std()) or 1.0), 0)


def _over_percentile(values: np.ndarray, brain: np.ndarray) -> np.ndarray:
    large = _positive(np.percentile(values[brain], LARGEST_PERCENTILE))
    return np.where(brain, np.minimum(values / large, 1), 0)


def _positive(value: float) -> float:
    return max(float(value), float(np.finfo(np.float32).tiny))


# Each a function of (image, brain). What is outside the brain stays exactly 0.
INTENSITIES = {
    "max": _over_maximum,
    "minmax": _between_extremes,
    "percentile": _over_percentile,
    "zscore": _standardised,
    "stored": lambda values, brain: values,
    "binding": lambda values, brain: np.where(brain, values - 1, 0),
}


def scale_intensity(data: np.ndarray, how: str, brain: np.ndarray | None = None) -> np.ndarray:
    """Bring one image to a common intensity scale.

    Parameters
    ----------
    data : array
        A skull-stripped image, zero outside the brain.
    how : {"max", "minmax", "percentile", "zscore", "stored", "binding"}
        ``max`` divides by the image's maximum (Böhle 2019, Eitel 2021). ``minmax`` takes the
        image's range, background included, to [0, 1] (Eitel 2019): the same, unless interpolation
        or bias correction left negative values. ``percentile`` divides by the 99th percentile of
        the brain and cuts at 1, so that a bright vessel does not darken the brain (no publication
        of those reproduced here). ``zscore`` subtracts the brain's mean and divides by its
        standard deviation. ``stored`` takes the values as they are (SPECT: relative to the
        reference region), ``binding`` takes 1 from them, so that the reference region is 0.
    brain : bool array, optional
        Voxels of the brain, default the non-zero ones.

    Returns
    -------
    array
        float32, shape of ``data``.

    Raises
    ------
    models.errors.InputError
        There is no brain, or no such scale.
    """
    if how not in INTENSITIES:
        raise InputError(f"intensity '{how}' is unknown; choose one of: {', '.join(INTENSITIES)}")
    brain = data != 0 if brain is None else brain
    if not brain.any():
        raise InputError("the image is empty inside the brain mask")
    return INTENSITIES[how](data.astype(np.float32), brain).astype(np.float32)
