"""One update of the weights: a batch, in as many parts as the memory asks for."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from models.errors import InputError
from models.training.augmentation import Augmentation, Draws
from models.training.objective import Objective
from models.training.precision import Precision
from models.training.ranks import Ranks

log = logging.getLogger("brainwhy.training")


class NotFiniteError(FloatingPointError):
    """The loss is no longer a number; the weights are those before this batch."""


@dataclass
class Update:
    """Steps of the optimiser, each the same as if the batch had been computed at once.

    The loss is the mean over the images of the whole batch, so neither parts nor processes change
    the update (BatchNorm sees a part at a time).

    Parameters
    ----------
    model : nn.Module
        Whose buffers are put back when a step has to be taken again.
    network : nn.Module
        The same, compiled or wrapped for several processes.
    optimiser : Optimizer
    objective : Objective
    augmentation : Augmentation
    precision : Precision
    ranks : Ranks
    device : str
    parts : int
        In how many parts a batch is computed, one after another. Grows when memory runs out.
    """

    model: nn.Module
    network: nn.Module
    optimiser: torch.optim.Optimizer
    objective: Objective
    augmentation: Augmentation
    precision: Precision
    ranks: Ranks
    device: str
    parts: int = 1

    def __call__(self, images: torch.Tensor, labels: np.ndarray, draws: Draws) -> float:
        """Take one step.

        Parameters
        ----------
        images : (n, C, x, y, z) tensor
            On the CPU, as read.
        labels : (n,) bool array
        draws : Draws

        Returns
        -------
        float
            Mean loss of the images, before the step.

        Raises
        ------
        NotFiniteError
            It is not a number. No step was taken.
        models.errors.InputError
            Memory does not suffice for a single image.
        """
        asked = self.parts
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        while True:
            failure = self._attempt(images, labels, draws)
            if isinstance(failure, float):
                break
            self._divide(len(images), failure)
            with torch.no_grad():
                for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                    buffer.copy_(before)
        if self.parts > asked:
            log.warning(
                "a batch of %d images does not fit into the memory of %s: it is computed in %d "
                "parts, with the same updates",
                len(images),
                self.device,
                self.parts,
            )
        return failure

    def _attempt(self, images: torch.Tensor, labels: np.ndarray, draws: Draws) -> float | str:
        """The loss, or what ran out of memory: its tensors are let go when this returns."""
        try:
            return self._step(images, labels, draws)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return str(error)

    def _step(self, images: torch.Tensor, labels: np.ndarray, draws: Draws) -> float:
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        parts = self.ranks.parts(len(images), self.parts)
        for number, rows in enumerate(parts, start=1):
            own = images[rows].to(self.device, non_blocking=True).float()
            own = self.precision.place(self.augmentation.apply(own, draws[rows]))
            with self.ranks.adding(self.network, last=number == len(parts)):
                with self.precision.autocast():
                    scores = self.network(own)
                loss = self.objective.losses(scores, labels[rows]).sum() / len(images)
                # DistributedDataParallel takes the mean over the processes: sum it is to be.
                self.precision.backward(loss * self.ranks.size)
            total += loss.detach()
        mean = self.ranks.total(total)
        if not np.isfinite(mean):
            raise NotFiniteError
        self.precision.step(self.optimiser)
        return mean

    def _divide(self, n: int, reason: str) -> None:
        """Twice the parts, unless an image is alone already."""
        self.optimiser.zero_grad(set_to_none=True)
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        if self.ranks.size > 1:
            raise InputError(
                f"{self.device}: out of memory, and {self.ranks.size} processes cannot divide the "
                f"batch on the way: raise [training.protocol] accumulate ({reason})"
            )
        if self.parts >= n:
            raise InputError(
                f"{self.device}: out of memory with a single image: take a coarser [preprocessing] "
                f"grid, a smaller network or precision = 'bf16' ({reason})"
            )
        self.parts = min(2 * self.parts, n)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on any device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "out of memory" in str(error) or "can't allocate memory" in str(error)
    )
