"""The processes that train one network together; one alone is the ordinary case.

Started by ``torchrun``, each process joins the group and then calls `models.training.loop.train`
with the same arguments (but for the device). Every update is that of one process on the whole
batch: each takes its share of the images, and the gradients are added up. BatchNorm counts over
all processes on CUDA (torch has no such layer for the CPU: there it counts each share by itself).
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Who of how many this process is.

    Parameters
    ----------
    rank, size : int
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> "Ranks":
        """Of the group that this process has joined; alone where it has joined none."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    def wrap(self, model: nn.Module, device: str) -> nn.Module:
        """The network such that its gradients are added up over the processes."""
        if self.size == 1:
            return model
        if device.startswith("cuda"):
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return nn.parallel.DistributedDataParallel(model)

    def parts(self, n: int, parts: int) -> list[list[int]]:
        """Its share of a batch of ``n`` images, in parts that are computed one after another.

        Every process has as many parts, none of them empty while there are images for all.
        """
        parts = max(min(parts, n // self.size), 1)
        cut = np.array_split(np.arange(n), parts * self.size)
        return [cut[part * self.size + self.rank].tolist() for part in range(parts)]

    def adding(self, network: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Context of a part: only the last lets the processes add up what they have."""
        if last or not isinstance(network, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return network.no_sync()

    def total(self, value: torch.Tensor) -> float:
        """Sum of a number over the processes."""
        value = value.detach().clone()
        if self.size > 1:
            distributed.all_reduce(value)
        return float(value.item())

    def same(self, value: T) -> T:
        """The first process' value, so that all decide alike."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]


@contextmanager
def joined(devices: Sequence[str]) -> Iterator[str]:
    """Join the group that ``torchrun`` describes in the environment; leave it at the end.

    Yields
    ------
    str
        The device of this process: ``devices[LOCAL_RANK]``.
    """
    device = devices[distributed.get_node_local_rank()]
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()
