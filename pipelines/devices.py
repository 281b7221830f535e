"""Which GPU a node has for itself while it runs; nipype counts GPUs, but hands none out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

from filelock import FileLock, Timeout


@contextmanager
def leased(folder: Path, gpus: int, each: int = 1) -> Iterator[str]:
    """Lease one of the machine's GPUs, or ``each`` in a row, waiting for one to come free.

    A lease is a locked file, so that of a process that was killed ends with it.

    Parameters
    ----------
    folder : Path
        Of the locks; one for all processes of a run.
    gpus : int
        GPUs of the run: cuda:0 and so on.
    each : int
        GPUs of a lease.

    Yields
    ------
    str
        ``cuda:N``, the first of them.
    """
    locks = [FileLock(folder / f"cuda-{number}.lock") for number in range(0, gpus - each + 1, each)]
    place = _first_free(locks)
    try:
        yield f"cuda:{place * each}"
    finally:
        locks[place].release()


def _first_free(locks: list[FileLock]) -> int:
    while True:
        for number, lock in enumerate(locks):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return number
        sleep(0.2)
