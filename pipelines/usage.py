"""Memory and time of every step, measured while it runs: what the scheduler plans with."""

import os
import re
import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any

import pandas as pd

from pipelines.derivatives import read_table, write_table
from pipelines.programs import PROCESSES, descendants

MARGIN = 1.1  # the next person's image may be a little larger
LOOK_S = 0.1  # between two looks at the programs of a step


@dataclass(frozen=True)
class Usage:
    """What one run of a step took.

    Attributes
    ----------
    memory_gb : float
        Largest resident memory of its process, together with the programs that it started.
    seconds : float
    """

    memory_gb: float
    seconds: float


class Meter:
    """Measure what runs in a ``with`` block: ``used`` afterwards.

    On Linux the process's high-water mark is set back at the start, and programs that it starts are
    looked at while they run. Elsewhere it is the mark of the whole life of the process, so too high
    rather than too low, and without its programs.
    """

    used: Usage

    def __enter__(self) -> "Meter":
        _set_back()
        self._started = monotonic()
        self._together_gb = 0.0
        self._ended = Event()
        self._watcher = Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watcher.join()
        self.used = Usage(max(_peak_gb(), self._together_gb), monotonic() - self._started)

    def _watch(self) -> None:
        """Follow the memory of this process and its programs together, while there are any."""
        before: set[int] = set()
        while not self._ended.wait(LOOK_S):
            now = descendants(os.getpid()) if _has_children() else set()
            # One that was forked just now is still a copy of this process.
            programs = sum(_gb(f"{process}", "VmHWM") or 0.0 for process in now & before)
            if programs:
                self._together_gb = max(self._together_gb, programs + (_gb("self", "VmRSS") or 0.0))
            before = now


def _has_children() -> bool:
    """Whether there is anything to look for; a look at all processes takes milliseconds."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (AttributeError, OSError):  # it has none, or this is no Linux
        return False
    return True


def _set_back() -> None:
    with suppress(OSError):  # no Linux, or a kernel that is built without it
        (PROCESSES / "self/clear_refs").write_text("5")


def _peak_gb() -> float:
    found = _gb("self", "VmHWM")
    if found is not None:
        return found
    unit = 1024**3 if sys.platform == "darwin" else 1024**2
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _gb(process: str, field: str) -> float | None:
    """A field of a process's status; None where there is none, or no such process any more."""
    with suppress(OSError):
        status = (PROCESSES / process / "status").read_text()
        if found := re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE):
            return int(found[1]) / 1024**2
    return None


class UsageTable:
    """Largest memory and longest time of each step of one workflow, over people and folds.

    Parameters
    ----------
    file : Path
        TSV with columns step, memory_gb, seconds, runs; what an earlier run left there is planned
        with until this run knows better.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.before = _read(file)
        self.now: dict[str, dict[str, Any]] = {}

    def add(self, node: Any, used: Usage) -> bool:
        """Note one run of a node that succeeded; whether there is something else to plan with now.

        One that failed may have done so at once, and says nothing about what the step takes.
        """
        planned = self.expected_gb(node)
        row = self.now.setdefault(step_of(node), {"memory_gb": 0.0, "seconds": 0.0, "runs": 0})
        row["memory_gb"] = max(row["memory_gb"], round(used.memory_gb, 3))
        row["seconds"] = max(row["seconds"], round(used.seconds, 2))
        row["runs"] += 1
        return self.expected_gb(node) != planned

    def expected_gb(self, node: Any) -> float | None:
        """Memory to plan with, in GB; None for a step that never ran."""
        row = self.now.get(step_of(node)) or self.before.get(step_of(node))
        return MARGIN * row["memory_gb"] if row else None

    def write(self) -> None:
        """Keep it; other steps keep what they had, also what a run beside this one wrote."""
        if self.now:
            rows = _read(self.file) | self.now
            write_table(self.file, pd.DataFrame([{"step": step} | rows[step] for step in rows]))


def step_of(node: Any) -> str:
    """A node's name without workflow, person and number in a MapNode: all of these need as much."""
    return re.sub(r"^_(\w+?)\d+$", r"\1", node.name)


def _read(file: Path) -> dict[str, dict[str, Any]]:
    if not file.exists():
        return {}
    try:
        table = read_table(file).set_index("step")[["memory_gb", "seconds", "runs"]].astype(float)
        return table.dropna().astype({"runs": int}).to_dict("index")
    except (OSError, ValueError, KeyError):  # a file of somebody else's making: plan without it
        return {}
