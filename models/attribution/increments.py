"""What a network says of many versions of one image that differ from it in a box each.

The feature maps of the image are kept. For a version, only the part of each map that its box
reaches is computed, from the kept map around it and the changed values inside; versions whose parts
have equal sizes and lie alike in their surroundings are computed together.

Maps are laid out (x, y, z, channels) and boxes (versions, x, y, z, channels).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from math import prod
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from models.attribution.graph import IMAGE
from models.attribution.stages import Average, LargeLinear, Range, Stage, Weighted

# Values of the largest array of a batch: what stays in a processor's cache, or fills a GPU.
BATCH_VALUES = {"cpu": 1 << 20, "cuda": 1 << 26}
# What weighs as much as so many multiply-adds: starting a batch, moving a value.
MACS_PER_CALL = {"cpu": 2e7, "cuda": 1e9}
MACS_PER_VALUE = 100
LONG_RUN = 4  # channels from which on copying voxel by voxel beats copying value by value


class Changes(Protocol):
    """Changed parts of one map for a chunk of versions."""

    @property
    def array(self) -> np.ndarray:
        """(versions,) which array holds a version's values; -1 where nothing changed."""

    def take(self, versions: np.ndarray) -> torch.Tensor:
        """Boxes of versions that lie in one array, or one box for all of them."""


@dataclass
class Constant:
    """The same values (channels,) everywhere in the box (versions, axes) of each version."""

    values: torch.Tensor
    size: np.ndarray

    @property
    def array(self) -> np.ndarray:
        """All in one."""
        return np.zeros(len(self.size), int)

    def take(self, versions: np.ndarray) -> torch.Tensor:
        """One box for all."""
        return self.values.expand(1, *self.size[versions[0]].tolist(), -1)


class Boxes:
    """Boxes of one size per array, one row per version."""

    def __init__(self, versions: int):
        self.array, self.row = np.full(versions, -1), np.zeros(versions, int)
        self.values: list[torch.Tensor] = []
        self._filled: list[int] = []
        self._sizes: dict[tuple[int, ...], int] = {}

    def allot(self, sizes: np.ndarray, channels: int, like: torch.Tensor) -> None:
        """Make room for boxes of the sizes (boxes, axes)."""
        kinds, counts = np.unique(sizes, axis=0, return_counts=True)
        for size, count in zip(kinds.tolist(), counts.tolist(), strict=True):
            self._sizes[tuple(size)] = len(self.values)
            self.values.append(like.new_empty(count, *size, channels))
            self._filled.append(0)

    def put(self, versions: np.ndarray, boxes: torch.Tensor) -> None:
        """Keep boxes of one size."""
        array = self._sizes[tuple(boxes.shape[1:-1])]
        start = self._filled[array]
        self.values[array][start : start + len(boxes)] = boxes
        self.array[versions] = array
        self.row[versions] = np.arange(start, start + len(boxes))
        self._filled[array] += len(boxes)

    def take(self, versions: np.ndarray) -> torch.Tensor:
        """Their rows."""
        values, rows = self.values[self.array[versions[0]]], self.row[versions]
        if (np.diff(rows) == 1).all():
            return values[rows[0] : rows[-1] + 1]
        return values.index_select(0, torch.from_numpy(rows).to(values.device))


@dataclass
class Frame:
    """A kept map on a range that may reach beyond it, and where the range begins."""

    values: torch.Tensor  # (x, y, z, channels), contiguous
    low: np.ndarray

    def reframed(self, low: np.ndarray, high: np.ndarray, pad: float) -> "Frame":
        """The same on another range; ``pad`` outside."""
        size = np.array(self.values.shape[:-1])
        before, after = self.low - low, high - self.low - size
        if not (before.any() or after.any()):
            return self
        # F.pad counts axes from the last; a negative width cuts.
        widths = [int(n) for pair in zip(before[::-1], after[::-1], strict=True) for n in pair]
        return Frame(F.pad(self.values, [0, 0, *widths], value=pad).contiguous(), low)

    def cut(self, low: np.ndarray, high: np.ndarray) -> torch.Tensor:
        """A copy of a range."""
        cuts = tuple(
            slice(int(a), int(b)) for a, b in zip(low - self.low, high - self.low, strict=True)
        )
        return self.values[cuts].clone()

    def gather(self, low: np.ndarray, size: tuple[int, ...]) -> torch.Tensor:
        """Boxes of one size that begin at ``low`` (boxes, axes)."""
        channels, axes = self.values.shape[-1], len(size)
        device = self.values.device
        if channels < LONG_RUN:
            strides = self.values.stride()
            places = [n - m + 1 for n, m in zip(self.values.shape, size, strict=False)]
            view = self.values.as_strided(
                (*places, *size, channels), (*strides[:axes], *strides[:axes], strides[-1])
            )
            return view[torch.from_numpy(low - self.low).to(device).unbind(1)]
        shape = tuple(self.values.shape[:-1])
        # Products of integers stay on the CPU: CUDA has none.
        voxel = torch.from_numpy((low - self.low) @ np.array(_strides(shape))).to(device)
        rows = (voxel[:, None] + _offsets(shape, size, device)).flatten()
        return self.values.view(-1, channels).index_select(0, rows).view(-1, *size, channels)


@dataclass
class Surroundings:
    """What a stage needs of one source: the kept map on a range, the changed values laid over it.

    Attributes
    ----------
    frame : Frame
        The kept map.
    changes : Changes
        The changed values of all versions.
    versions : numpy.ndarray
        (n,) the versions that are computed.
    changed : Range
        (n, axes) where their values have changed.
    needed : Range
        (n, axes) what is needed.
    """

    frame: Frame
    changes: Changes
    versions: np.ndarray
    changed: Range
    needed: Range

    @cached_property
    def kind(self) -> np.ndarray:
        """(n,) a number for where the changed values lie and are taken from."""
        begin, _ = self.needed
        array = self.changes.array[self.versions][:, None]
        inside = np.stack([edge - begin for edge in self.changed])
        return _codes([array, *np.where(array >= 0, inside, 0)])

    def values(self, row: int) -> int:
        """Values of a version's box."""
        begin, end = self.needed
        return int((end[row] - begin[row]).prod()) * self.frame.values.shape[-1]

    def boxes(self, rows: np.ndarray) -> torch.Tensor:
        """Boxes of rows that need equally much; those of one kind should stand together."""
        begin = self.needed[0][rows]
        size = tuple((self.needed[1][rows[0]] - begin[0]).tolist())
        runs = _runs(self.kind[rows])
        if len(runs) == 1:
            fresh, first, last = self._fresh(rows, size)
            if fresh is not None and (last - first == size).all():
                return fresh.expand(len(rows), *fresh.shape[1:]).clone()
        boxes = self.frame.gather(begin, size)
        for start, end in runs:
            fresh, first, last = self._fresh(rows[start:end], size)
            if fresh is not None:
                _part(boxes[start:end], first, last).copy_(fresh)
        return boxes

    def _fresh(
        self, rows: np.ndarray, size: tuple[int, ...]
    ) -> tuple[torch.Tensor | None, np.ndarray, np.ndarray]:
        """Changed values of rows of one kind, and from where to where they lie in the boxes."""
        row = rows[0]
        low, high = (edge[row] - self.needed[0][row] for edge in self.changed)
        first, last = np.maximum(low, 0), np.minimum(high, size)
        if self.changes.array[self.versions[row]] < 0 or (last <= first).any():
            return None, first, last
        return _part(self.changes.take(self.versions[rows]), first - low, last - low), first, last


class Increments:
    """One image and its feature maps.

    Parameters
    ----------
    stages : sequence of Stage
        The network.
    image : torch.Tensor
        (1, channels, x, y[, z]).
    """

    def __init__(self, stages: Sequence[Stage], image: torch.Tensor):
        self.stages, self.image = stages, image
        self.batch_values = BATCH_VALUES.get(image.device.type, BATCH_VALUES["cpu"])
        self.used = _used(stages, np.array(image.shape[2:]))
        self.last_use = {source: i for i, stage in enumerate(stages) for source in stage.sources}
        self.frames: list[list[Frame | None]] = []  # of each stage, for each of its sources
        self.results: dict[int, torch.Tensor] = {}  # of flat stages, in a batch of one
        self.tilings: dict[int, Tiling] = {}
        self._keep_maps()

    @property
    def scores(self) -> torch.Tensor:
        """(outputs,) of the image itself."""
        return self.results[len(self.stages) - 1][0]

    # --- maps of the image -----------------------------------------------------------------------

    def _keep_maps(self) -> None:
        image = self.image[0].movedim(0, -1).contiguous()
        maps = {IMAGE: Frame(image, np.zeros(image.dim() - 1, int))}
        for position, stage in enumerate(self.stages):
            frames = [maps.get(source) for source in stage.sources]
            if stage.flat:
                self.results[position] = self._flat_result(stage, frames)
            else:
                needed = stage.needed(*self.used[position])
                frames = [frame and frame.reframed(*needed, stage.pad) for frame in frames]
                maps[position] = self._map(stage, frames, *self.used[position])
            self.frames.append(frames)
            for source in stage.sources:
                if self.last_use[source] == position:
                    maps.pop(source, None)

    def _flat_result(self, stage: Stage, frames: Sequence[Frame | None]) -> torch.Tensor:
        inputs = [
            frame.values[None].movedim(-1, 1) if frame else self.results[source]
            for source, frame in zip(stage.sources, frames, strict=True)
        ]
        if isinstance(stage, Average):
            return inputs[0].flatten(2).mean(2).view(1, *stage.shape)
        if isinstance(stage, LargeLinear):
            return stage.module(inputs[0].flatten(1))
        return stage.run(*inputs)

    def _map(
        self, stage: Stage, frames: Sequence[Frame | None], low: np.ndarray, high: np.ndarray
    ) -> Frame:
        """The map of the image on a range, slab by slab along the first axis."""
        given = [frame for frame in frames if frame is not None]
        result = self.image.new_empty(*(high - low).tolist(), stage.shape[0])
        area = max(frame.values[0].numel() for frame in given)
        computed = max(area, result[0].numel() * _growth(stage))
        thick = max(1, int(2 * self.batch_values // computed))
        for start in range(int(low[0]), int(high[0]), thick):
            first, last = low.copy(), high.copy()
            first[0], last[0] = start, min(start + thick, int(high[0]))
            begin, end = stage.needed(first, last)
            boxes = [frame.cut(begin, end)[None] for frame in given]
            made = _made(stage, boxes, first - stage.origin(begin), first[None], last - first)
            result[start - int(low[0]) : int(last[0] - low[0])] = made[0]
        return Frame(result, low)

    # --- versions --------------------------------------------------------------------------------

    def ranges(self, low: np.ndarray, high: np.ndarray) -> dict[int, Range]:
        """Changed part (versions, axes) of each map; empty where high is not above low.

        Flat results count as one voxel.
        """
        ranges = {IMAGE: _common((low, high), self.used[IMAGE])}
        for position, stage in enumerate(self.stages):
            begin, end = _hull([ranges[source] for source in stage.sources])
            changed = (end > begin).all(1, keepdims=True)
            if stage.flat:
                ranges[position] = (np.zeros_like(begin), np.zeros_like(begin) + changed)
                continue
            begin, end = _common(stage.changed(begin, end), self.used[position])
            ranges[position] = (np.where(changed, begin, 0), np.where(changed, end, 0))
        return ranges

    def values(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """(versions,) values that each version holds at a time, at most."""
        ranges, most = self.ranges(low, high), np.ones(len(low))
        for position, stage in enumerate(self.stages):
            held = _volume(*ranges[position]) * self._values_per_voxel(position)
            for source in stage.sources:
                held = held + _volume(*ranges[source]) * self._values_per_voxel(source)
            most = np.maximum(most, held)
        return most

    def _values_per_voxel(self, source: int) -> int:
        if source == IMAGE:
            return int(self.image.shape[1])
        stage = self.stages[source]
        return prod(stage.shape) if stage.flat else stage.shape[0]

    def multiply_adds(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """(versions,) multiply-adds of the convolutions on what changes: what must be done."""
        ranges, total = self.ranges(low, high), np.zeros(len(low))
        for position, stage in enumerate(self.stages):
            if stage.macs:
                begin, end = ranges[stage.sources[0]]
                changed = (end > begin).all(1)
                begin, end = stage.geometry[0].changed(begin, end)
                first, last = self.used[position]
                for geometry in reversed(stage.geometry[1:]):
                    first, last = geometry.needed(first, last)
                total += changed * _volume(*_common((begin, end), (first, last))) * stage.macs
        return total

    def versions(self, changes: Changes, low: np.ndarray, high: np.ndarray) -> torch.Tensor:
        """Scores of the versions.

        Parameters
        ----------
        changes : Changes
            Values inside the boxes.
        low, high : numpy.ndarray
            (versions, axes) boxes in voxels of the image.

        Returns
        -------
        torch.Tensor
            (versions, outputs); exactly :attr:`scores` where the network does not see the box.
        """
        chunk = _Chunk(self.ranges(low, high), {IMAGE: changes})
        # The values of the box are given for all of it, also where the network sees a part.
        chunk.ranges[IMAGE] = (low, high)
        for position, stage in enumerate(self.stages):
            if stage.flat:
                chunk.flats[position] = self._flat(position, chunk)
            else:
                chunk.changes[position] = self._boxes(position, chunk)
            for source in stage.sources:
                if self.last_use[source] == position:
                    chunk.forget(source)
        final = len(self.stages) - 1
        seen = torch.from_numpy(_volume(*chunk.ranges[final]) > 0).to(self.image.device)
        return torch.where(seen[:, None], chunk.flats[final], self.scores)

    def _boxes(self, position: int, chunk: "_Chunk") -> Boxes:
        """Changed part of a stage's map."""
        stage, (low, high) = self.stages[position], chunk.ranges[position]
        alive = np.flatnonzero(_volume(low, high))
        result = Boxes(len(low))
        if not len(alive):
            return result
        plan = self._plan(position, chunk, alive)
        result.allot(plan.size, stage.shape[0], self.image)
        low[alive], high[alive] = plan.low, plan.low + plan.size
        for rows in plan.groups:
            row = rows[0]
            made = int(plan.size[row].prod() * _growth(stage)) * stage.shape[0]
            most = max(made, *(source.values(row) for source in plan.sources))
            for part in _batches(rows, self.batch_values // most):
                boxes = [source.boxes(part) for source in plan.sources]
                result.put(
                    alive[part],
                    _made(stage, boxes, plan.crop[row], plan.low[part], plan.size[row]),
                )
        return result

    def _plan(self, position: int, chunk: "_Chunk", alive: np.ndarray) -> "_Plan":
        """Cheapest way: exact boxes in many groups, or larger ones of one size in few."""
        stage = self.stages[position]
        low, high = (edge[alive] for edge in chunk.ranges[position])
        size = (high - low).max(0)
        even = np.minimum(low, self.used[position][1] - size)
        plans = []
        for first, last in ((low, high), (even, even + size)):
            needed = stage.needed(first, last)
            sources = self._surroundings(position, chunk, alive, needed)
            crop = first - stage.origin(needed[0])
            kinds = _codes([source.kind[:, None] for source in sources])
            groups = _groups([last - first, needed[1] - needed[0], crop], kinds)
            pieces = sum(len(_runs(kinds[rows])) for rows in groups)
            plans.append(_Plan(first, last - first, crop, sources, groups, pieces))
        voxel = stage.macs + MACS_PER_VALUE * stage.shape[0] * _growth(stage)
        call = MACS_PER_CALL.get(self.image.device.type, MACS_PER_CALL["cpu"])
        return min(plans, key=lambda plan: plan.calls * call + plan.volume * voxel)

    def _surroundings(
        self, position: int, chunk: "_Chunk", alive: np.ndarray, needed: Range
    ) -> list[Surroundings]:
        return [
            Surroundings(
                frame,
                chunk.changes[source],
                alive,
                (chunk.ranges[source][0][alive], chunk.ranges[source][1][alive]),
                needed,
            )
            for source, frame in zip(
                self.stages[position].sources, self.frames[position], strict=True
            )
            if frame is not None
        ]

    def _flat(self, position: int, chunk: "_Chunk") -> torch.Tensor:
        """Result of a flat stage for all versions."""
        stage, (low, high) = self.stages[position], chunk.ranges[position]
        result = self.results[position].repeat(len(low), *(1,) * len(stage.shape))
        alive = np.flatnonzero(_volume(low, high))
        if len(alive):
            run = {Average: self._average, LargeLinear: self._large}.get(type(stage), self._whole)
            run(position, chunk, alive, result)
        return result

    def _whole(
        self, position: int, chunk: "_Chunk", alive: np.ndarray, result: torch.Tensor
    ) -> None:
        """Run a layer on all of its input, for versions that changed."""
        stage, sources, values = self.stages[position], {}, prod(self.stages[position].shape)
        for source, frame in zip(stage.sources, self.frames[position], strict=True):
            if frame is None:
                values = max(values, prod(self.stages[source].shape))
                continue
            low, high = (edge[alive] for edge in chunk.ranges[source])
            whole = (np.zeros_like(low), np.zeros_like(low) + frame.values.shape[:-1])
            sources[source] = Surroundings(frame, chunk.changes[source], alive, (low, high), whole)
            values = max(values, frame.values.numel())
        kinds = [source.kind for source in sources.values()]
        rows = np.lexsort([np.arange(len(alive)), *kinds])
        for part in _batches(rows, self.batch_values // values):
            index = torch.from_numpy(alive[part]).to(result.device)
            result[index] = stage.run(
                *(
                    sources[source].boxes(part).movedim(-1, 1).contiguous()
                    if source in sources
                    else chunk.flats[source][index]
                    for source in stage.sources
                )
            )

    def _differences(
        self, position: int, chunk: "_Chunk", alive: np.ndarray, extra: list[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Rows of ``alive`` and how their boxes differ from the kept map."""
        (source,) = self.stages[position].sources
        (frame,) = self.frames[position]
        assert frame is not None  # the planner gives these stages a map
        changed = tuple(edge[alive] for edge in chunk.ranges[source])
        box = Surroundings(frame, chunk.changes[source], alive, changed, changed)
        for rows in _groups([changed[1] - changed[0], *extra], box.kind):
            size = tuple((changed[1] - changed[0])[rows[0]].tolist())
            for part in _batches(rows, self.batch_values // box.values(rows[0])):
                yield part, box.boxes(part).sub_(frame.gather(changed[0][part], size))

    def _average(
        self, position: int, chunk: "_Chunk", alive: np.ndarray, result: torch.Tensor
    ) -> None:
        """Add the mean of the change."""
        (frame,) = self.frames[position]
        assert frame is not None
        voxels = prod(frame.values.shape[:-1])
        for part, difference in self._differences(position, chunk, alive, []):
            index = torch.from_numpy(alive[part]).to(result.device)
            change = difference.flatten(1, -2).sum(1) / voxels
            result[index] += change.view(-1, *result.shape[1:])

    def _large(
        self, position: int, chunk: "_Chunk", alive: np.ndarray, result: torch.Tensor
    ) -> None:
        """Add the change times the weights of its voxels."""
        stage = self.stages[position]
        assert isinstance(stage, LargeLinear)
        (source,) = stage.sources
        low, high = (edge[alive] for edge in chunk.ranges[source])
        if position not in self.tilings:
            (frame,) = self.frames[position]
            assert frame is not None
            self.tilings[position] = Tiling.fitting(
                low, high, stage.module.weight.detach(), tuple(frame.values.shape)
            )
        tiling = self.tilings[position]
        phase = tiling.phase(low)
        counts = tiling.grid(phase + high - low).prod(1)
        ends = counts.cumsum()
        parts = self.image.new_zeros(ends[-1], int(tiling.size.prod()), tiling.weight.shape[1])
        tiles = np.zeros((ends[-1], low.shape[1]), int)
        owners = np.zeros(ends[-1], int)
        start = 0
        for part, difference in self._differences(position, chunk, alive, [phase]):
            end = start + int(counts[part].sum())
            tiling.split(difference, phase[part[0]], parts[start:end])
            tiles[start:end] = tiling.tiles(low[part], phase[part[0]] + difference.shape[1:-1])
            owners[start:end] = np.repeat(alive[part], counts[part[0]])
            start = end
        tiling.add_products(result, parts.flatten(1), owners, tiles, self.batch_values)


@dataclass
class _Plan:
    """What is computed of a map for (n, axes) boxes, and which are computed together."""

    low: np.ndarray
    size: np.ndarray
    crop: np.ndarray  # results before the box that the needed inputs also give
    sources: list[Surroundings]
    groups: list[np.ndarray]
    pieces: int  # runs of rows whose changed values are laid over at once

    @property
    def calls(self) -> float:
        """Batches to start; laying over is a small part of one."""
        return len(self.groups) + 0.1 * self.pieces

    @property
    def volume(self) -> int:
        """Voxels in all."""
        return int(self.size.prod(1).sum())


@dataclass
class _Chunk:
    """Versions that are computed together, stage after stage."""

    ranges: dict[int, Range]
    changes: dict[int, Changes]
    flats: dict[int, torch.Tensor] = field(default_factory=dict)

    def forget(self, source: int) -> None:
        """Give back the memory of what nobody needs any more."""
        self.changes.pop(source, None)
        self.flats.pop(source, None)


@dataclass
class Tiling:
    """Weights of a fully connected layer on a map, in tiles that boxes are split along.

    A voxel's weights are needed by all versions whose boxes hold it: tile by tile, the parts of
    all boxes are multiplied at once.

    Attributes
    ----------
    size, start : numpy.ndarray
        (axes,) voxels of a tile, and by how many the first one begins before the map.
    weight : torch.Tensor
        (outputs, channels, x, y[, z]).
    """

    size: np.ndarray
    start: np.ndarray
    weight: torch.Tensor
    slabs: dict[int, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def fitting(
        cls, low: np.ndarray, high: np.ndarray, weight: torch.Tensor, shape: tuple[int, ...]
    ) -> "Tiling":
        """Tiles as far apart as the boxes, so that few boxes cut a tile."""
        size, start = [], []
        for first, length in zip(low.T, (high - low).max(0), strict=True):
            gaps = np.diff(np.unique(first))
            step = int(np.median(gaps)) if len(gaps) else int(length)
            step = min(max(step, -(-int(length) // 4)), int(length))
            phases = np.bincount(first % step, minlength=step)
            size.append(step)
            start.append(-int(phases.argmax()) % step)
        *voxels, channels = shape
        return cls(np.array(size), np.array(start), weight.view(-1, channels, *voxels))

    def phase(self, low: np.ndarray) -> np.ndarray:
        """Voxels from the beginning of a tile to the beginning of each box."""
        return (low + self.start) % self.size

    def grid(self, reach: np.ndarray) -> np.ndarray:
        """Tiles along each axis that hold voxels up to ``reach`` from where the first begins."""
        return -(-reach // self.size)

    def split(self, boxes: torch.Tensor, phase: np.ndarray, parts: torch.Tensor) -> None:
        """Boxes of one phase as parts (boxes * tiles, voxels of a tile, channels), zero between."""
        count, *voxels, channels = boxes.shape
        grid = self.grid(phase + voxels)
        padded = boxes.new_zeros(count, *(grid * self.size).tolist(), channels)
        _part(padded, phase, phase + voxels).copy_(boxes)
        parts.view(count, *grid.tolist(), *self.size.tolist(), channels).copy_(
            self._tiled(padded, grid)
        )

    def _tiled(self, values: torch.Tensor, grid: np.ndarray) -> torch.Tensor:
        """(batch, x, y, z, ...) as (batch, tiles of each axis, voxels of each axis, ...)."""
        axes = len(grid)
        shape = [int(n) for pair in zip(grid, self.size, strict=True) for n in pair]
        split = values.reshape(len(values), *shape, *values.shape[axes + 1 :])
        tiles, voxels = range(1, 2 * axes + 1, 2), range(2, 2 * axes + 1, 2)
        return split.permute(0, *tiles, *voxels, *range(2 * axes + 1, split.dim()))

    def tiles(self, low: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """(boxes * tiles, axes) positions of the tiles of boxes of one phase."""
        first = (low + self.start) // self.size
        steps = np.indices(self.grid(reach).tolist()).reshape(len(reach), -1).T
        return (first[:, None] + steps).reshape(-1, len(reach))

    def add_products(
        self,
        result: torch.Tensor,
        parts: torch.Tensor,
        owners: np.ndarray,
        tiles: np.ndarray,
        batch_values: int,
    ) -> None:
        """Add parts (n, values of a tile) times the weights of their tiles to their owners."""
        self._keep_slabs(int(tiles[:, 0].min()))
        grid = self.grid(np.array(self.weight.shape[2:]) + self.start)
        number = np.ravel_multi_index(tuple(tiles.T), tuple(grid))
        order = np.argsort(number, kind="stable")
        first = np.flatnonzero(np.diff(number[order], prepend=-1))
        count = np.diff(first, append=len(order))
        slab = tiles[order[first], 0]
        in_slab = number[order[first]] % int(grid[1:].prod())
        for rows in _groups([slab[:, None], count[:, None]]):  # as many parts on each tile
            places = first[rows][:, None] + np.arange(count[rows[0]])
            weights = self._weights(int(slab[rows[0]]))
            values = weights[0].numel() + places.shape[1] * parts.shape[1]
            for batch in _batches(np.arange(len(rows)), batch_values // values):
                chosen = order[places[batch]]
                index = torch.from_numpy(chosen.ravel()).to(parts.device)
                tile = torch.from_numpy(in_slab[rows[batch]]).to(parts.device)
                on_tiles = parts.index_select(0, index).view(*chosen.shape, -1)
                products = on_tiles @ weights.index_select(0, tile)
                owner = torch.from_numpy(owners[chosen.ravel()]).to(parts.device)
                result.index_add_(0, owner, products.flatten(0, 1))

    def _keep_slabs(self, first: int) -> None:
        """Forget the slabs of weights that lie behind; chunks come in order."""
        for slab in [slab for slab in self.slabs if slab < first]:
            del self.slabs[slab]

    def _weights(self, slab: int) -> torch.Tensor:
        """(tiles, values of a tile, outputs) of the tiles with one position on the first axis."""
        if slab not in self.slabs:
            self.slabs[slab] = self._slab(slab)
        return self.slabs[slab]

    def _slab(self, slab: int) -> torch.Tensor:
        size = np.array(self.weight.shape[2:])
        begin = slab * int(self.size[0]) - int(self.start[0])
        end = begin + int(self.size[0])
        part = self.weight[:, :, max(begin, 0) : max(end, 0)]
        grid = self.grid(size + self.start)
        grid[0] = 1
        after = grid * self.size - self.start - size
        before = self.start.copy()
        before[0], after[0] = max(-begin, 0), max(end - int(size[0]), 0)
        widths = [int(n) for pair in zip(before[::-1], after[::-1], strict=True) for n in pair]
        padded = F.pad(part, widths).flatten(0, 1)
        tiled = self._tiled(padded, grid)  # (outputs * channels, 1, tiles, tiles, voxels...)
        outputs = self.weight.shape[0]
        tiled = tiled.unflatten(0, (outputs, -1)).squeeze(2)
        axes = len(size)
        order = (*range(2, axes + 1), *range(axes + 1, 2 * axes + 1), 1, 0)
        return tiled.permute(order).contiguous().flatten(axes - 1, -2).flatten(0, axes - 2)


# --- ranges and groups ---------------------------------------------------------------------------


def _used(stages: Sequence[Stage], size: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Part of each map that the scores depend on: pooling leaves a border out, for instance."""
    full = {IMAGE: size} | {i: stage.size for i, stage in enumerate(stages) if not stage.flat}
    used = {i: (whole + 0, whole * 0) for i, whole in full.items()}
    for position in reversed(range(len(stages))):
        stage = stages[position]
        for source in stage.sources:
            if source not in full:
                continue
            whole = (np.zeros_like(size), full[source])
            needed = whole if stage.flat else stage.needed(*used[position])
            needed = _common(needed, whole)
            used[source] = (
                np.minimum(used[source][0], needed[0]),
                np.maximum(used[source][1], needed[1]),
            )
    return used


def _common(one: Range, other: Range) -> Range:
    return np.maximum(one[0], other[0]), np.minimum(one[1], other[1])


def _hull(ranges: Sequence[Range]) -> Range:
    """Smallest range around those that are not empty."""
    low, high = ranges[0]
    for begin, end in ranges[1:]:
        filled, other = ((b > a).all(1, keepdims=True) for a, b in ((low, high), (begin, end)))
        low = np.where(filled & other, np.minimum(low, begin), np.where(filled, low, begin))
        high = np.where(filled & other, np.maximum(high, end), np.where(filled, high, end))
    return low, high


def _volume(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.maximum(high - low, 0).prod(1)


def _growth(stage: Stage) -> float:
    """Values that are computed for one of the result, at most on the way."""
    strides = (geometry.stride.prod() for geometry in stage.geometry[1:])  # type: ignore[attr-defined]
    return float(max(1, prod(strides)))


def _codes(kinds: Sequence[np.ndarray]) -> np.ndarray:
    """(n,) a number for each row of columns; equal where all columns are."""
    columns = np.hstack(kinds)
    code = np.zeros(len(columns), np.int64)
    for column in columns.T:
        low, high = column.min(initial=0), column.max(initial=0)
        if high > low:
            # Codes are numbered anew each time, so that they never grow out of an integer.
            mixed = code * (high - low + 1) + column - low
            code = np.unique(mixed, return_inverse=True)[1]
    return code


def _groups(kinds: Sequence[np.ndarray], order: np.ndarray | None = None) -> list[np.ndarray]:
    """Rows that are equal in all columns, sorted by ``order`` in each group."""
    code = _codes(kinds)
    rows = np.lexsort((code,) if order is None else (order, code))
    return [rows[start:end] for start, end in _runs(code[rows])]


def _runs(code: np.ndarray) -> list[tuple[int, int]]:
    """Begin and end of runs of equal numbers."""
    edges = np.flatnonzero(np.diff(code)) + 1
    return list(pairwise([0, *edges.tolist(), len(code)])) if len(code) else []


def _batches(rows: np.ndarray, size: float) -> Iterator[np.ndarray]:
    step = max(1, int(size))
    return (rows[start : start + step] for start in range(0, len(rows), step))


def _part(
    boxes: torch.Tensor, low: Sequence[int] | np.ndarray, high: Sequence[int] | np.ndarray
) -> torch.Tensor:
    """View of a range of all boxes."""
    cuts = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return boxes[(slice(None), *cuts)]


def _made(
    stage: Stage, boxes: list[torch.Tensor], crop: np.ndarray, low: np.ndarray, size: np.ndarray
) -> torch.Tensor:
    """Results of a stage that begin at ``low`` (boxes, axes), cut to their size."""
    result = _part(stage.run(*boxes), crop, crop + size)
    if not isinstance(stage, Weighted):
        return result
    for axis, (weights, length) in enumerate(zip(stage.weights, size, strict=True)):
        index = torch.from_numpy(low[:, axis : axis + 1] + np.arange(length))
        shape = [1] * result.dim()
        shape[0], shape[axis + 1] = len(result), int(length)
        result = result * weights[index.to(weights.device)].view(shape)
    return result


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


@lru_cache(maxsize=256)
def _offsets(shape: tuple[int, ...], size: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Voxels of a box in a map, counted from the box's first one."""
    places = np.indices(size).reshape(len(size), -1)
    return torch.from_numpy(np.array(_strides(shape)) @ places).to(device)
