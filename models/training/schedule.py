"""The learning rate over the updates of a training."""

from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from models.training.protocol import Protocol


def schedule(optimiser: Optimizer, protocol: Protocol, updates_per_epoch: int) -> LRScheduler:
    """Scheduler to be stepped after every update.

    Parameters
    ----------
    optimiser : Optimizer
    protocol : Protocol
        ``schedule``, ``decay``, ``decay_every`` and ``epochs`` are read.
    updates_per_epoch : int
    """
    return SCHEDULES[protocol.schedule](optimiser, protocol, updates_per_epoch)


def _onecycle(optimiser: Optimizer, protocol: Protocol, updates: int) -> LRScheduler:
    return OneCycleLR(optimiser, protocol.learning_rate, total_steps=protocol.epochs * updates)


def _constant(optimiser: Optimizer, protocol: Protocol, updates: int) -> LRScheduler:
    return LambdaLR(optimiser, lambda update: 1.0)


def _step(optimiser: Optimizer, protocol: Protocol, updates: int) -> LRScheduler:
    period = protocol.decay_every * updates
    return LambdaLR(optimiser, lambda update: protocol.decay ** (update // period))


def _inverse(optimiser: Optimizer, protocol: Protocol, updates: int) -> LRScheduler:
    return LambdaLR(optimiser, lambda update: 1 / (1 + protocol.decay * update))


SCHEDULES: dict[str, Callable[[Optimizer, Protocol, int], LRScheduler]] = {
    "constant": _constant,
    "onecycle": _onecycle,
    "step": _step,
    "inverse": _inverse,
}
