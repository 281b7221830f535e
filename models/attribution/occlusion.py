"""Occlusion: how much the score drops when a part of the image is covered."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from models.attribution import Explanation, is_out_of_memory
from models.attribution.checkpoint import Checkpoint, fingerprint
from models.attribution.graph import IMAGE, Graph, Step, read, without_normaliser
from models.attribution.increments import Boxes, Changes, Constant, Increments
from models.attribution.kinds import is_hooked
from models.attribution.scores import class_score
from models.attribution.stages import Stage, stages
from models.attribution.windows import counts_inside, windows
from models.errors import InputError

Progress = Callable[[int, int], object]

MEMORY_MB = 256  # for changed values on a CPU; beside them are the network and its feature maps


@torch.no_grad()
def occlusion(
    model: nn.Module,
    volumes: torch.Tensor,
    target: int,
    *,
    patch_mm: float | Sequence[float] = 40.0,
    stride_mm: float | Sequence[float] = 20.0,
    voxel_mm: float | Sequence[float] = 1.0,
    fill: float | str = "zero",
    coarse_to_fine: bool = False,
    refine_share: float = 0.25,
    memory_mb: float | None = None,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Explanation:
    """Score of the image minus score with a patch covered, averaged over the patches on a voxel.

    All patches of an image share its feature maps: only what a patch changes in them is computed.
    The result is that of a full forward pass per patch, up to rounding.

    Parameters
    ----------
    model : nn.Module
        Maps (N, C, x, y[, z]) to (N, outputs); a sigmoid or softmax at its end is left out. Layers
        that are not known, and all after them, are run as a whole for every patch; so is a network
        that torch.fx cannot read.
    volumes : torch.Tensor
        (N, C, x, y[, z]). All channels are covered together.
    target : int
        Class whose score drops.
    patch_mm, stride_mm, voxel_mm : float or sequence of float
        Edge and step of the patches and edge of a voxel in mm, one for all axes or one per axis.
        Patches are rounded to voxels and cover the whole image; the last along an axis is cut off.
    fill : {"zero", "mean"} or float
        What covers the patch; "mean" is each channel's mean over the image.
    coarse_to_fine : bool
        Approximation: first as few patches as cover the image, then only those of the others that
        touch a voxel whose value exceeds ``refine_share`` of the largest (absolute values). The map
        is the mean over the patches that were tried; fine detail where the coarse map is faint is
        lost, and an effect that large patches share evenly may be missed.
    refine_share : float
        Between 0 (refine all) and 1.
    memory_mb : float, optional
        For what is computed at once; without it 256 MB, or a quarter of a GPU's free memory. When
        memory runs out, half as much is computed at once.
    progress : callable, optional
        Called with the patches done and their number, over all images.
    checkpoint : path, optional
        ``.npz`` file in which an interrupted call leaves its scores. A call with the same network,
        images and parameters goes on from there, another one begins anew.

    Returns
    -------
    Explanation
        Heatmaps (N, C, x, y[, z]), the same in all channels; no ledger.

    Notes
    -----
    A patch that changes nothing (background that equals ``fill``) or that the network does not see
    (pooling leaves a border out) costs nothing: its drop is 0.

    Raises
    ------
    models.errors.InputError
        A length is not positive, the stride leaves gaps, ``fill`` is unknown, a BatchNorm has no
        running statistics, or the network has no such class.

    References
    ----------
    Zeiler MD, Fergus R (2014). Visualizing and understanding convolutional networks. ECCV 2014,
    section 4.2.
    """
    lattice = windows(volumes.shape[2:], patch_mm, stride_mm, voxel_mm)
    low, high = lattice.low, lattice.high

    def heatmap(image: torch.Tensor, sweep: _Sweep) -> np.ndarray:
        cover = _cover(image, fill)
        differs = (image[0] != _per_voxel(cover, image)).any(0)
        sweep.skip(counts_inside(differs, low, high) == 0)
        sweep.changes = lambda versions: Constant(cover, (high - low)[versions])
        known = np.ones(len(lattice), bool)
        if coarse_to_fine:
            known = lattice.coarse()
            sweep.run(known)
            coarse = np.abs(lattice.mean(sweep.drops, known))
            known |= lattice.touching(coarse > refine_share * coarse.max())
        sweep.run(known)
        return lattice.mean(sweep.drops, known)

    settings = (lattice, fill, target)
    task = _Task(target, low, high, settings, memory_mb, progress, checkpoint)
    return task.explain(model, volumes, heatmap)


@torch.no_grad()
def region_occlusion(
    model: nn.Module,
    volumes: torch.Tensor,
    target: int,
    *,
    regions: Any = None,
    fill: float | str = "zero",
    background: bool = False,
    per_voxel: bool = False,
    memory_mb: float | None = None,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Explanation:
    """Score of the image minus score with a region of an atlas covered.

    Parameters
    ----------
    model, volumes, target, fill, memory_mb, progress, checkpoint
        As for :func:`occlusion`; progress counts regions.
    regions : array of int
        (x, y[, z]) label of every voxel, on the grid of the images.
    background : bool
        Cover label 0 like a region; otherwise it is left alone and 0 in the map.
    per_voxel : bool
        Divide each drop by the region's number of voxels.

    Returns
    -------
    Explanation
        Heatmaps (N, C, x, y[, z]) with one value per region, the same in all channels; no ledger.

    Raises
    ------
    models.errors.InputError
        As for :func:`occlusion`; or ``regions`` does not fit the images or has no label.
    """
    atlas = _Atlas.of(regions, tuple(volumes.shape[2:]), background)

    def heatmap(image: torch.Tensor, sweep: _Sweep) -> np.ndarray:
        cover = _per_voxel(_cover(image, fill), image)
        covered = torch.where(torch.from_numpy(atlas.inside).to(image.device), cover, image[0])
        differs = (image[0] != covered).any(0).cpu().numpy()
        sweep.skip(np.bincount(atlas.places[differs], minlength=len(atlas.low) + 1)[1:] == 0)
        sweep.changes = _Regions(atlas, image[0], covered)
        sweep.run(np.ones(len(atlas.low), bool))
        values = sweep.drops / atlas.voxels if per_voxel else sweep.drops
        return np.concatenate([[0.0], values])[atlas.places]

    settings = (atlas.labels, fill, target, background)
    task = _Task(target, atlas.low, atlas.high, settings, memory_mb, progress, checkpoint)
    return task.explain(model, volumes, heatmap)


# --- what covers ---------------------------------------------------------------------------------


def _cover(image: torch.Tensor, fill: float | str) -> torch.Tensor:
    """(channels,) of what covers a patch of an image (1, channels, x, y[, z])."""
    if fill == "mean":
        return image[0].flatten(1).mean(1)
    if isinstance(fill, str) and fill != "zero":
        raise InputError(f"fill is '{fill}': choose zero, mean or a number")
    return image.new_full(image.shape[1:2], 0.0 if fill == "zero" else float(fill))


def _per_voxel(cover: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return cover.view(-1, *(1,) * (image.dim() - 2))


@dataclass
class _Atlas:
    """Regions numbered from 1 in the order of their labels; 0 is what stays as it is."""

    labels: np.ndarray
    places: np.ndarray  # the image in these numbers
    low: np.ndarray  # (regions, axes)
    high: np.ndarray
    voxels: np.ndarray  # (regions,)

    @classmethod
    def of(cls, regions: Any, shape: tuple[int, ...], background: bool) -> "_Atlas":
        if regions is None:
            raise InputError("region_occlusion needs an atlas: give regions, a label per voxel")
        regions = getattr(regions, "dataobj", regions)  # of a nibabel image
        labels = np.asarray(regions.cpu() if isinstance(regions, torch.Tensor) else regions)
        if labels.shape != shape or not np.array_equal(labels, labels.astype(int)):
            raise InputError(
                f"regions of shape {labels.shape} ({labels.dtype}) do not fit images of {shape}: "
                "give one whole number per voxel, on the grid of the images"
            )
        labels = labels.astype(np.int64)
        found, places = np.unique(labels, return_inverse=True)
        places = places.reshape(shape) + 1
        if not background and 0 in found:
            gone = int(np.searchsorted(found, 0)) + 1
            places = np.where(places == gone, 0, places - (places > gone))
        boxes = ndimage.find_objects(places)
        if not boxes:
            raise InputError("regions holds no label but 0: there is nothing to cover")
        low, high = (
            np.array([[getattr(cut, end) for cut in box] for box in boxes])
            for end in ("start", "stop")
        )
        return cls(labels, places, low, high, np.bincount(places.ravel())[1:])

    @property
    def inside(self) -> np.ndarray:
        """Voxels of any region."""
        return self.places > 0


class _Regions:
    """Makes the changed boxes of regions: covered inside, the image between."""

    def __init__(self, atlas: _Atlas, image: torch.Tensor, covered: torch.Tensor):
        self.atlas = atlas
        self.image, self.covered = image.movedim(0, -1), covered.movedim(0, -1)
        self.places = torch.from_numpy(atlas.places).to(image.device)

    def __call__(self, versions: np.ndarray) -> Changes:
        low, high = self.atlas.low[versions], self.atlas.high[versions]
        boxes = Boxes(len(versions))
        boxes.allot(high - low, self.image.shape[-1], self.image)
        for row, version in enumerate(versions):
            cut = tuple(slice(a, b) for a, b in zip(low[row], high[row], strict=True))
            mine = (self.places[cut] == version + 1)[..., None]
            box = torch.where(mine, self.covered[cut], self.image[cut])
            boxes.put(np.array([row]), box[None])
        return boxes


# --- the sweep over versions ---------------------------------------------------------------------


class _Sweep:
    """Drops of all versions of one image, computed chunk by chunk.

    Attributes
    ----------
    drops : numpy.ndarray
        (versions,) NaN where not known yet; what was known before is not computed again.
    changes : callable
        What is changed in versions with given numbers.
    """

    def __init__(
        self,
        increments: Increments,
        target: int,
        boxes: tuple[np.ndarray, np.ndarray],
        drops: np.ndarray,
        memory_mb: float | None,
        tell: Callable[[int], None],
    ):
        self.increments, self.target = increments, target
        self.low, self.high = boxes
        self.drops, self.tell = drops, tell
        self.changes: Callable[[np.ndarray], Changes]
        self.room = _room(increments.image, memory_mb)
        final = len(increments.stages) - 1
        low, high = increments.ranges(*boxes)[final]
        self.skip(np.any(high <= low, axis=1))  # what the network does not see

    @property
    def score(self) -> torch.Tensor:
        """Of the image, in no batch."""
        return class_score(self.increments.scores[None], self.target)[0]

    def skip(self, versions: Any) -> None:
        """Versions (a mask) that change nothing."""
        self.drops[versions] = 0.0

    def run(self, wanted: np.ndarray) -> None:
        """Compute the drops of versions (a mask)."""
        todo = np.flatnonzero(wanted & np.isnan(self.drops))
        held = self.increments.values(self.low[todo], self.high[todo])
        while len(todo):
            count = max(1, int(np.searchsorted(held.cumsum(), self.room)))
            try:
                self.drops[todo[:count]] = self._drops(todo[:count])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not self._halve(count):
                    raise
                continue
            todo, held = todo[count:], held[count:]
            self.tell(int((~np.isnan(self.drops)).sum()))

    def _drops(self, versions: np.ndarray) -> np.ndarray:
        low, high = self.low[versions], self.high[versions]
        scores = self.increments.versions(self.changes(versions), low, high)
        return (self.score - class_score(scores, self.target)).double().cpu().numpy()

    def _halve(self, count: int) -> bool:
        """Compute half as much at once; False if it cannot be less."""
        if count == 1 and self.increments.batch_values <= 1:
            return False
        self.room = min(self.room, 1e18) / 2
        self.increments.batch_values //= 2
        if self.increments.image.device.type == "cuda":
            torch.cuda.empty_cache()
        return True


def _room(image: torch.Tensor, memory_mb: float | None) -> float:
    """Values that a chunk may hold."""
    if memory_mb is None and image.device.type == "cuda":
        memory_mb = torch.cuda.mem_get_info(image.device)[0] / 4 / 2**20
    return (MEMORY_MB if memory_mb is None else memory_mb) * 2**20 / image.element_size()


@dataclass(frozen=True)
class _Task:
    """What is asked about every image: scores without each of the boxes."""

    target: int
    low: np.ndarray
    high: np.ndarray
    settings: Sequence[Any]
    memory_mb: float | None
    progress: Progress | None
    checkpoint: str | os.PathLike[str] | None

    def explain(
        self,
        model: nn.Module,
        volumes: torch.Tensor,
        heatmap: Callable[[torch.Tensor, _Sweep], np.ndarray],
    ) -> Explanation:
        """Maps (x, y[, z]) of all images (1, channels, x, y[, z]), one after the other."""
        network = network_stages(model, volumes[:1], self.target)
        mark = fingerprint(model, volumes, self.settings) if self.checkpoint else ""
        store = Checkpoint(self.checkpoint, mark, len(volumes), len(self.low))
        maps, scores = [], []
        try:
            for person, image in enumerate(volumes.split(1)):
                sweep = self._sweep(network, image, store, person)
                maps.append(heatmap(image, sweep))
                scores.append(sweep.score)
                self._tell(store, (person + 1) * len(self.low))
        finally:
            store.save(now=True)
        maps_ = torch.from_numpy(np.stack(maps)).to(volumes)[:, None]
        return Explanation(maps_.expand(volumes.shape).contiguous(), torch.stack(scores), {})

    def _sweep(
        self, network: list[Stage], image: torch.Tensor, store: Checkpoint, person: int
    ) -> _Sweep:
        before = person * len(self.low)
        return _Sweep(
            Increments(network, image),
            self.target,
            (self.low, self.high),
            store.values[person],
            self.memory_mb,
            lambda done: self._tell(store, before + done),
        )

    def _tell(self, store: Checkpoint, done: int) -> None:
        store.save()
        if self.progress is not None:
            self.progress(done, store.values.size)


def network_stages(model: nn.Module, image: torch.Tensor, target: int) -> list[Stage]:
    """Stages of a network whose score can be explained; InputError where it cannot."""
    try:
        if any(is_hooked(module) for module in model.modules()):
            raise InputError("what a hook does cannot be read")
        graph = without_normaliser(read(model))
    except InputError:  # every version takes a full forward pass
        graph = Graph((Step(type(model).__name__, model, (IMAGE,)),))
    made = stages(graph, image)
    class_score(image.new_zeros(1, *made[-1].shape), target)  # raises what is wrong with it
    return made
