"""Taking turns: what one process makes in a folder, another waits for."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def take_turn(file: Path) -> Iterator[bool]:
    """Be the only process that makes a file or folder; wait for another that makes it.

    The kernel ends the turn of a process that dies. Afterwards `file` may exist.

    Args:
        file: What is made. `.NAME.lock` beside it is locked, and removed at the end.

    Yields:
        Whether this is the only process; False where the file system has no locks.

    Raises:
        OSError: The folder cannot be written.
    """
    lock = file.with_name(f".{file.name}.lock")
    while True:
        with lock.open("ab") as handle:
            if not _hold(handle, file):
                lock.unlink(missing_ok=True)
                yield False
                return
            if not _is_same(handle, lock):  # it was removed by the process before
                continue
            try:
                yield True
            finally:
                lock.unlink(missing_ok=True)
            return


def _hold(handle: IO[bytes], file: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Another process makes {file}; waiting for it.", file=sys.stderr, flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _is_same(handle: IO[bytes], lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), lock.stat())
    except FileNotFoundError:
        return False
