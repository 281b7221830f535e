"""In which numbers a network is computed, and how its images lie in memory."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from models.errors import InputError

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
AMPERE = 8  # compute capability from which bfloat16 is computed in hardware


@dataclass
class Precision:
    """Mixed precision: weights and loss in float32, layers in ``dtype`` where torch deems it safe.

    Parameters
    ----------
    dtype : torch.dtype
    device : str
        Its kind: "cpu", "cuda" or "mps".
    channels_last : bool
        Whether weights and images lie with their channels last, which tensor cores take as it is.
    """

    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    channels_last: bool = False
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        # float16 ends at 6e-8: without a scale, small gradients would be 0.
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.dtype is torch.float16)

    @classmethod
    def of(cls, wanted: str, memory_format: str, device: str) -> "Precision":
        """What a recipe's ``precision`` and ``memory_format`` mean on a device.

        ``auto`` is float32 but on CUDA, where it is bfloat16 from the Ampere generation on and
        float16 before. Channels are then last with either of the two; on a CPU always, where
        float32 convolutions take two thirds of the time so (docs/benchmarks.md).
        """
        kind = device.split(":")[0]
        if wanted == "auto":
            wanted = _fastest(device) if kind == "cuda" else "float32"
        if kind == "mps" and wanted == "fp16":
            raise InputError("[training.protocol] precision = 'fp16': not on mps; use float32")
        last = memory_format == "channels_last"
        if memory_format == "auto":
            last = kind == "cpu" or (kind == "cuda" and wanted != "float32")
        return cls(DTYPES[wanted], kind, last)

    def autocast(self) -> AbstractContextManager[Any]:
        """Context in which the network is run."""
        mixed = self.dtype is not torch.float32
        return torch.autocast(self.device, self.dtype if mixed else None, enabled=mixed)

    def place(self, what: Any) -> Any:
        """A network, or images (N, C, x, y, z), in the memory format."""
        if not self.channels_last or (isinstance(what, torch.Tensor) and what.dim() != 5):
            return what
        return what.to(memory_format=torch.channels_last_3d)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of ``loss``."""
        self.scaler.scale(loss).backward()

    def step(self, optimiser: torch.optim.Optimizer) -> None:
        """Let the optimiser take its step, unless scaled gradients have left float16."""
        self.scaler.step(optimiser)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The scale, for a checkpoint."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a scale; that of a training in other numbers is left."""
        if state and self.scaler.is_enabled():
            self.scaler.load_state_dict(state)


def _fastest(device: str) -> str:
    major, _ = torch.cuda.get_device_capability(device)
    return "bf16" if major >= AMPERE else "fp16"


def compiled(network: nn.Module, wanted: bool) -> nn.Module:
    """The network through ``torch.compile``, if that is wanted; the weights stay the same ones."""
    return torch.compile(network) if wanted else network  # type: ignore[return-value]
