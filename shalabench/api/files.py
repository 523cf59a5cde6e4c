"""Atomic writes: a file holds either its old or its new content. And where this project lies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

_PACKAGE = Path(__file__).parent.parent
# In place of the cache where there is no home directory; below a file, so that nothing is there.
NO_HOME = Path(os.devnull) / "there is no home directory"


def clone() -> Path | None:
    """The clone that holds this package, or None where it was installed from a wheel."""
    root = _PACKAGE.parent
    return root if (root / "bench.py").is_file() and (root / "results").is_dir() else None


def committed() -> Path:
    """The folder of what is part of the project: `reference`, `ablations` and `studies`."""
    root = clone()
    return root / "results" if root else _PACKAGE / "records" / "committed"


def write_atomic(file: Path, content: bytes | Callable[[Path], None]) -> None:
    """Write a temporary file beside `file`, wait for the disk, and rename it.

    The temporary name ends in ".tmp", so that no search by suffix finds it.

    Args:
        file: Its folder is made if it does not exist.
        content: Of the file, or a function that writes it to the path it is given.

    Raises:
        OSError: The folder cannot be written or the disk is full; `file` is as it was.
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        if callable(content):
            content(partial)
        else:
            partial.write_bytes(content)
        settle(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def settle(partial: Path, file: Path) -> None:
    """Rename a finished file once the disk holds all of it."""
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(partial, file)
