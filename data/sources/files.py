"""Whole files: content digests, and writing that leaves either the old file or the new one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from harness.api import DataError


def digest_of(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 over the content of arrays, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def write_whole(file: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file beside `file`, then put it in its place in one step.

    Raises:
        DataError: The folder cannot be written.
    """
    partial = file.with_name(f".{os.getpid()}-{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        os.replace(partial, file)
    except OSError as error:
        raise DataError(
            f"{file} cannot be written ({error}). Free some room, or choose another folder with "
            "--cache-dir or SHALA_CACHE."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
