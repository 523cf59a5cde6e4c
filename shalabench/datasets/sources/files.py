"""Whole files: content digests, and writing that leaves either the old file or the new one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from shalabench.api import DataError


def digest_of(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 over the content of arrays, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def modelled(content: str, **settings: object) -> str:
    """A content digest that also tells how the data are modelled: runs of two ways differ by it.

    Args:
        content: Digest of the arrays.
        settings: Of the dataset, those that decide a likelihood and no array.
    """
    return hashlib.sha256(f"{content} {sorted(settings.items())}".encode()).hexdigest()


def git_digest(file: Path) -> str:
    """The id that git gives a file of this content."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def write_whole(file: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file beside `file`, then put it in its place in one step.

    Raises:
        DataError: The folder cannot be written.
    """
    partial = file.with_name(f".{os.getpid()}-{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        settle(partial, file)
    except OSError as error:
        raise DataError(
            f"{file} cannot be written ({error}). Free some room, or choose another folder with "
            "--cache-dir or SHALA_CACHE."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def settle(partial: Path, file: Path) -> None:
    """Move a finished file to its name once the disk holds all of it."""
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(partial, file)
