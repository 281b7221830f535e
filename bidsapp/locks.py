"""Who works on what: a lock for each person and each model, held while a run works on it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from errno import ENOLCK, ENOSYS
from pathlib import Path

from filelock import FileLock, Timeout

from bidsapp.diary import tell
from bidsapp.settings import Settings


@contextmanager
def locked(settings: Settings, name: str, *, quiet: bool = False) -> Iterator[None]:
    """Hold the locks of one participant, or of one group level, while a run works on it.

    Twice at once would break the work folder, and do everything twice in the output folder. Runs
    may share either, so each has a lock, taken in this order by all. Waiting is told, unless it is
    ``quiet``: for what takes no time.
    """
    say = _nothing if quiet else tell
    usual = settings.output_dir / ".work/locks"
    own = settings.work_dir / "locks"
    usual.mkdir(parents=True, exist_ok=True)
    own.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        # One folder may have two paths, in a container by two mounts: its lock is taken once.
        for folder in [usual] if usual.samefile(own) else [usual, own]:
            held.callback(_lock(folder, name, say).release)
        yield


def _nothing(_: str) -> None:
    """Keep quiet."""


def _lock(folder: Path, name: str, say: Callable[[str], None]) -> FileLock:
    # A soft lock, filelock's way out where there are none, would outlive a killed run.
    lock = FileLock(folder / f"{name}.lock", fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{name} is being processed by another run: waiting for it")
        lock.acquire()
    except OSError as error:
        if error.errno not in (ENOSYS, ENOLCK):
            raise
        say(f"{folder} is on a file system without locks: start {name} once at a time only")
    return lock
