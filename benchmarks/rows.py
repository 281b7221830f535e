"""What all benchmarks share: timing side by side, rows, their table and their JSON.

A benchmark is a script in this folder::

    arguments = parser("what it measures").parse_args()
    seconds = alternate({"ours": ours, "peer": peer}, repeats=5)
    rows = [Row("a map", seconds["ours"], seconds["peer"], "nilearn", "s", target=1 / 25)]
    report(rows, arguments.json)
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

COLUMNS = ("name", "ours", "peer", "peer_name", "unit", "ratio", "target", "met")


@dataclass(frozen=True)
class Row:
    """One comparison; less is better.

    Parameters
    ----------
    name : str
        What was measured, with its sizes.
    ours, peer : float
        In ``unit``. Where there is no peer, ``peer`` is the limit.
    peer_name : str
        The peer, or "limit".
    unit : str
        "s", "MB", ...
    target : float
        Largest ``ours / peer`` that will do: 1 / 30 asks for 30 times faster, 1 for a limit kept.
    """

    name: str
    ours: float
    peer: float
    peer_name: str
    unit: str
    target: float

    @property
    def ratio(self) -> float:
        """``ours / peer``."""
        return self.ours / self.peer

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.ratio <= self.target

    def as_dict(self) -> dict[str, object]:
        """Fields, ratio and met, in the order of `COLUMNS`."""
        values = {**asdict(self), "ratio": self.ratio, "met": self.met}
        return {column: values[column] for column in COLUMNS}


def parser(description: str | None = None) -> argparse.ArgumentParser:
    """Command line with ``--quick`` and ``--json FILE``, to which a benchmark may add its own."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--quick", action="store_true", help="small sizes, under a minute")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    return made


def alternate(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each function, called in turn so that all meet the same machine.

    Whoever is compiled or fills a cache at the first call warms up before this.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def report(rows: Sequence[Row], json_path: Path | None = None) -> None:
    """Print the rows as a table; write them as JSON if a path is given."""
    lines = [COLUMNS, *(tuple(map(_text, row.as_dict().values())) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))
    if json_path is not None:
        json_path.write_text(json.dumps([row.as_dict() for row in rows], indent=2) + "\n")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
