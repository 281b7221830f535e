"""Which GPU a node has for itself while it runs; nipype counts GPUs, but hands none out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

from filelock import FileLock, Timeout


@contextmanager
def leased(folder: Path, gpus: int) -> Iterator[str]:
    """Lease one of the machine's GPUs, waiting for one to come free.

    A lease is a locked file, so that of a process that was killed ends with it.

    Parameters
    ----------
    folder : Path
        Of the locks; one for all processes of a run.
    gpus : int
        GPUs of the run: cuda:0 and so on.

    Yields
    ------
    str
        ``cuda:N``.
    """
    locks = [FileLock(folder / f"cuda-{number}.lock") for number in range(gpus)]
    number = _first_free(locks)
    try:
        yield f"cuda:{number}"
    finally:
        locks[number].release()


def _first_free(locks: list[FileLock]) -> int:
    while True:
        for number, lock in enumerate(locks):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return number
        sleep(0.2)
