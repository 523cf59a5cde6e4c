"""Reader of MNIST's idx files (LeCun's format), plain or gzipped."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from shalabench.api import DataError

_AGAIN = "Delete it and fetch it again."


def find_idx(folder: Path, stem: str) -> Path | None:
    """The file `stem` or `stem.gz` in a folder, or None."""
    candidates = (folder / stem, folder / f"{stem}.gz")
    return next((file for file in candidates if file.is_file()), None)


def read_idx(file: Path, axes: int, checksum: str = "") -> np.ndarray:
    """Read one idx file of unsigned bytes.

    Args:
        file: Plain, or gzipped where its name ends in ".gz".
        axes: 3 for images `[N, H, W]`, 1 for labels `[N]`.
        checksum: MD5 of the unpacked content, since the gzip wrappers of mirrors differ; empty
            where none is known.

    Returns:
        uint8 array of the shape that the file's header states.

    Raises:
        DataError: The file is damaged, cut short, of another kind or of other content.
    """
    content = _unpack(file)
    magic = bytes([0, 0, 8, axes])  # 8: unsigned bytes
    if content[:4] != magic:
        raise DataError(
            f"{file} is no idx file of bytes with {axes} axes: it starts with "
            f"{content[:4].hex() or 'nothing'}, and {magic.hex()} was expected. {_AGAIN}"
        )
    header = 4 + 4 * axes
    if len(content) < header:
        raise DataError(f"{file} is cut short within its header. {_AGAIN}")
    shape = struct.unpack(f">{axes}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{file} holds {len(content) - header:,} values and its header states "
            f"{math.prod(shape):,}: it is cut short or damaged. {_AGAIN}"
        )
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if checksum and found != checksum:
        raise DataError(
            f"{file} unpacks to content with the md5 {found}, and {checksum} was expected. {_AGAIN}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _unpack(file: Path) -> bytes:
    try:
        raw = file.read_bytes()
        return gzip.decompress(raw) if file.suffix == ".gz" else raw
    except (EOFError, OSError, zlib.error) as error:  # OSError: also a gzip header of another kind
        raise DataError(
            f"{file} does not unpack ({error}): it is cut short or damaged. {_AGAIN}"
        ) from error
