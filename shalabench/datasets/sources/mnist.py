"""MNIST: its four idx files, plain or gzipped, their mirrors and checksums.

The reader is our own: torchvision's takes unpacked files only, checks no digest, and reports damage
by an assertion that does not name the file.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shalabench.api import DataError
from shalabench.datasets.sources.download import Remote, download
from shalabench.datasets.sources.files import as_data_error

_AGAIN = "Delete it and fetch it again."
_FOLDER = "mnist"
_FOLDERS = (_FOLDER, "MNIST/raw", "mnist/MNIST/raw", "mnist/raw", "MNIST")  # as people have it
_GZIP = b"\x1f\x8b"
_PREFIXES = {"train": "train", "test": "t10k"}
_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


class Md5(NamedTuple):
    """Digests of one file."""

    file: str  # as the mirrors send it; other copies are wrapped by other gzips
    content: str  # unpacked


CHECKSUMS = {
    "train-images-idx3-ubyte": Md5(
        "f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"
    ),
    "train-labels-idx1-ubyte": Md5(
        "d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"
    ),
    "t10k-images-idx3-ubyte": Md5(
        "9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"
    ),
    "t10k-labels-idx1-ubyte": Md5(
        "ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"
    ),
}


def read_part(root: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 `[N, 28, 28]` and labels uint8 `[N]` of "train" or "test".

    Args:
        root: The data root; none of the files is lacking there.
        part: Which.

    Raises:
        DataError: A file is damaged or holds something else.
    """
    images = _read(root, f"{_PREFIXES[part]}-images-idx3-ubyte", 3)
    labels = _read(root, f"{_PREFIXES[part]}-labels-idx1-ubyte", 1)
    return images, labels


def lacking(root: Path) -> list[str]:
    """The files that are not under the data root, as paths below it."""
    return [f"{_FOLDER}/{stem}.gz" for stem in CHECKSUMS if not _find(root, stem)]


def fetch(root: Path) -> None:
    """Download the files that are missing.

    Raises:
        DataError: No mirror can be reached, or one sends something else.
    """
    for stem, checksums in CHECKSUMS.items():
        if not _find(root, stem):
            urls = tuple(f"{mirror}{stem}.gz" for mirror in _MIRRORS)
            download(Remote(urls, f"{_FOLDER}/{stem}.gz", f"md5:{checksums.file}"), root)


def _read(root: Path, stem: str, axes: int) -> np.ndarray:
    file = _find(root, stem) or root / _FOLDER / stem
    return read_idx(file, axes, CHECKSUMS[stem].content)


def _find(root: Path, stem: str) -> Path | None:
    """The first such file in the folders that people have; torchvision's is MNIST/raw."""
    found = (find_idx(root / folder, stem) for folder in _FOLDERS)
    return next(filter(None, found), None)


def find_idx(folder: Path, stem: str) -> Path | None:
    """The file `stem` or `stem.gz` in a folder, or None.

    Kaggle has a dot before "idx", and each file in a folder of its own name too.
    """
    dotted = stem.replace("-idx", ".idx")
    names = (stem, f"{stem}.gz", dotted, f"{dotted}.gz", f"{stem}/{stem}", f"{dotted}/{dotted}")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_idx(file: Path, axes: int, checksum: str = "") -> np.ndarray:
    """Read one idx file of unsigned bytes.

    Args:
        file: Plain or gzipped, whatever its name: browsers unpack a file and keep its name.
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
    shape = struct.unpack_from(f">{axes}I", content, 4)
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{file} holds {len(content) - header:,} values and its header states "
            f"{math.prod(shape):,}: it is cut short or damaged. {_AGAIN}"
        )
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if checksum and digest != checksum:
        raise DataError(
            f"The content of {file} has the md5 {digest}, and {checksum} was expected. {_AGAIN}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _unpack(file: Path) -> bytes:
    with as_data_error(f"{file} does not unpack: it is cut short or damaged", _AGAIN):
        raw = file.read_bytes()
        return gzip.decompress(raw) if raw.startswith(_GZIP) else raw
