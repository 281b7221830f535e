"""What a piece of work needs at its peak, on top of what it starts with (Linux)."""

import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

Work = Callable[[], object]


def peak_megabytes(prepare: Callable[..., Work], *arguments: Any) -> float:
    """Peak of the work that ``prepare(*arguments)`` returns, in a process of its own.

    What ``prepare`` loads and warms up is not counted.
    """
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure, prepare, arguments).result()


def _measure(prepare: Callable[..., Work], arguments: tuple[Any, ...]) -> float:
    work = prepare(*arguments)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _kilobytes("VmRSS")
    work()
    return (_kilobytes("VmHWM") - before) / 1024


def _kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
