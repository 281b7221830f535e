"""What a nuclear-medicine image says of its tracer, and whether that is 123I-FP-CIT."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Lower case, letters and digits only: FP-CIT, ioflupane, DaTSCAN, DAT; and iodine-123.
NAMES = re.compile(r"^(123i|i123|iodine123)?(fpcit|ioflupane|datscan|dat)(123i|i123)?$")
NUCLIDES = ("i123", "123i", "iodine123")


@dataclass(frozen=True)
class Tracer:
    """What sidecar and file name state; "" where nothing.

    Parameters
    ----------
    name : str
        ``TracerName``, else the ``trc-`` label of the file.
    nuclide : str
        ``TracerRadionuclide``.
    """

    name: str
    nuclide: str

    @classmethod
    def of(cls, path: Path, metadata: Mapping[str, Any]) -> "Tracer":
        """The tracer of an image; ``metadata`` is its sidecar with what it inherits."""
        label = re.search(r"_trc-([0-9a-zA-Z]+)", path.name)
        name = _stated(metadata.get("TracerName")) or (label[1] if label else "")
        return cls(name, _stated(metadata.get("TracerRadionuclide")))

    @property
    def is_other(self) -> bool:
        """Whether another tracer or nuclide is stated."""
        named = bool(self.name) and not NAMES.match(_plain(self.name))
        return named or (bool(self.nuclide) and _plain(self.nuclide) not in NUCLIDES)

    @property
    def is_stated(self) -> bool:
        """Whether FP-CIT is stated by its name, and nothing against it."""
        return bool(self.name) and not self.is_other

    def __str__(self) -> str:
        return " ".join(part for part in (self.nuclide, self.name) if part) or "unknown"


def _stated(value: Any) -> str:
    text = str(value or "").strip()
    return "" if text.lower() in ("n/a", "unknown", "none") else text


def _plain(text: str) -> str:
    plain = re.sub(r"[^0-9a-z]", "", text.lower())
    return re.sub(r"^(n|nomega)?fluoropropyl.*", "fpcit", plain)
