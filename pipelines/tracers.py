"""What a nuclear-medicine image says of its tracer, and whether that is 123I-FP-CIT."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Lower case, letters and digits only: iodine-123, as sidecars and DICOM ("^123^Iodine") write it;
# FP-CIT, ioflupane, DaTSCAN, DAT; and words that go with them.
NUCLIDE = r"(?:123iodine|iodinei?123|123i|i123)"
NUCLIDES = re.compile(NUCLIDE)
NAMES = re.compile(
    rf"(?:{NUCLIDE}|spect|injection)*"
    rf"(?:(?:fpcit|ioflupane|datscan|dat)(?:{NUCLIDE}|spect|injection)*)+"
)


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
        named = bool(self.name) and not NAMES.fullmatch(_plain(self.name))
        return named or (bool(self.nuclide) and not NUCLIDES.fullmatch(_plain(self.nuclide)))

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
    return re.sub(rf"^({NUCLIDE})?(n|nomega)?(3)?fluoropropyl.*", "fpcit", plain)
