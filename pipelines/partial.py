"""Files that appear whole under their name, or not at all.

A file is written beside its target, under a name that no other process uses, and renamed. While it
is written it is locked, and the lock ends with its process: so whoever finds a part that nobody has
locked knows that its writer was killed.
"""

import fcntl
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

ENDING = ".part"


@contextmanager
def appearing(target: Path) -> Iterator[BinaryIO]:
    """Write a file that others see in one step, at the end of the ``with`` block.

    After an exception there is what was there before, and nothing else.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _new_part(target) as stream:
        try:
            yield stream
            stream.flush()
            os.replace(stream.name, target)
        except BaseException:
            Path(stream.name).unlink(missing_ok=True)
            raise


def keep(target: Path, content: bytes) -> bool:
    """Write a file unless it holds this content already; whether it was written."""
    try:
        if target.read_bytes() == content:
            return False
    except FileNotFoundError:
        pass
    with appearing(target) as stream:
        stream.write(content)
    return True


def remove_leftovers(parts: Iterable[Path]) -> int:
    """Remove the parts whose writers were killed; number of files removed.

    Those of living processes, on this host or another, are locked, and stay. Where the file system
    has no locks, all stay.
    """
    return sum(map(_remove, parts))


def _remove(part: Path) -> bool:
    try:
        with part.open("rb+") as stream:
            _lock(stream)
            part.unlink()
    except OSError:  # its writer lives, it has just been renamed, or there are no locks
        return False
    return True


def _new_part(target: Path) -> BinaryIO:
    """A new file beside ``target``, open and locked."""
    while True:
        name = f".{target.name}.{uuid.uuid4().hex[:8]}{ENDING}"
        stream = target.with_name(name).open("xb")
        try:
            _lock(stream)
        except BlockingIOError:  # another process holds it for a leftover: it was not locked yet
            stream.close()
            continue
        except OSError:  # a file system without locks
            return stream
        if os.fstat(stream.fileno()).st_nlink:
            return stream
        stream.close()  # removed as a leftover, just before


def _lock(stream: BinaryIO) -> None:
    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
