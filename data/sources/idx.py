"""Reader of MNIST's idx files (LeCun's format), plain or gzipped."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from harness.api import DataError

_UNSIGNED_BYTE = 8


def find_idx(folder: Path, stem: str) -> Path | None:
    """The file `stem` or `stem.gz` in a folder, or None."""
    candidates = (folder / stem, folder / f"{stem}.gz")
    return next((file for file in candidates if file.is_file()), None)


def read_idx(file: Path) -> np.ndarray:
    """Read one idx file of unsigned bytes.

    Args:
        file: Plain, or gzipped where its name ends in ".gz".

    Returns:
        uint8 array of the shape that the file's header states.

    Raises:
        DataError: The file is damaged, cut short, or no idx file of bytes.
    """
    content = unpack(file)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE:
        raise DataError(
            f"{file} is no idx file of bytes: it starts with {content[:4].hex() or 'nothing'}, "
            f"and 0000{_UNSIGNED_BYTE:02x} was expected. Delete it and fetch it again."
        )
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise DataError(f"{file} is cut short within its header. Delete it and fetch it again.")
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{file} holds {len(content) - header:,} values and its header states "
            f"{math.prod(shape):,}: it is cut short or damaged. Delete it and fetch it again."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def unpack(file: Path) -> bytes:
    """A file's content, unzipped where its name ends in ".gz".

    Raises:
        DataError: It does not unpack.
    """
    try:
        raw = file.read_bytes()
        return gzip.decompress(raw) if file.suffix == ".gz" else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{file} does not unpack ({error}): it is cut short or damaged. "
            "Delete it and fetch it again."
        ) from error
