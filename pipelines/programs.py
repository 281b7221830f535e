"""Programs that a step starts: they end with it, whatever ends it, and count as its own.

Run as a script, this module makes its process end with its parent, and then becomes the program.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

PROCESSES = Path("/proc")
_PR_SET_PDEATHSIG = 1


def run_program(
    command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; on Linux, it is killed as soon as this process dies.

    A worker that was killed (for memory, or with its run) can end nothing that it has started,
    which would go on computing for nobody. Call it from the main thread: the kernel takes the end
    of a thread for the end of the process.

    Raises
    ------
    FileNotFoundError
        There is no such program.
    """
    name, *arguments = map(str, command)
    program = shutil.which(name)
    if program is None:
        raise FileNotFoundError(f"{name}: there is no such program on PATH")
    # A process of its own asks the kernel: between fork and exec, threads of ITK or torch might
    # hold a lock for ever, and a copy of a large process may not be granted.
    return subprocess.run(
        [sys.executable, "-P", "-S", __file__, str(os.getpid()), program, *arguments],
        env=None if environment is None else dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )


def end_with(parent: int) -> None:
    """Let the kernel kill this process as soon as ``parent``, which started it, ends."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os._exit(1)


def parent_of(process: int) -> int | None:
    """Who started a process; None where that cannot be known, as when it has ended."""
    with suppress(OSError, IndexError, ValueError):
        # The name before may hold blanks and brackets.
        return int((PROCESSES / f"{process}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def descendants(process: int) -> set[int]:
    """Processes that a process has started, and those that these have (Linux; elsewhere none)."""
    with suppress(OSError):
        numbers = [int(name) for name in os.listdir(PROCESSES) if name.isdigit()]
        parents = {number: parent_of(number) for number in numbers}
        found, news = set[int](), {process}
        while news:
            news = {number for number, parent in parents.items() if parent in news} - found
            found |= news
        return found
    return set()


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
