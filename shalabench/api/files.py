"""Atomic writes: a file holds either its old or its new content. And where this project lies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from shalabench.api.errors import BenchError

_PACKAGE = Path(__file__).parent.parent


def clone() -> Path | None:
    """The clone that holds this package, or None where it was installed from a wheel."""
    root = _PACKAGE.parent
    return root if (root / "bench.py").is_file() and (root / "results").is_dir() else None


def committed() -> Path:
    """The folder of what is part of the project: `reference`, `ablations` and `studies`."""
    root = clone()
    return root / "results" if root else _PACKAGE / "records" / "committed"


def expand_home(path: str | os.PathLike[str]) -> Path:
    """A path whose leading ~ or ~NAME, which no shell has expanded, is a home folder.

    Raises:
        BenchError: There is no such home folder, nor a file or folder of that name.
    """
    text = os.path.expanduser(path)
    if text.startswith("~") and not os.path.lexists(text):
        raise BenchError(
            f"'{text}' begins with ~, and no home folder is known for it. Write the whole path."
        )
    return Path(text)


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
