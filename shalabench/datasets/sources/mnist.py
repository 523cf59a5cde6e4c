"""MNIST: its four idx files, where they are had, and what they must hold."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from shalabench.datasets.sources.download import Remote, download
from shalabench.datasets.sources.idx import find_idx, read_idx

_FOLDER = "mnist"
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
    return [f"{_FOLDER}/{s}.gz" for s in CHECKSUMS if not find_idx(root / _FOLDER, s)]


def fetch(root: Path) -> None:
    """Download what is lacking.

    Raises:
        DataError: No mirror can be reached, or one sends something else.
    """
    for stem, checksums in CHECKSUMS.items():
        if not find_idx(root / _FOLDER, stem):
            urls = tuple(f"{mirror}{stem}.gz" for mirror in _MIRRORS)
            download(Remote(urls, f"{_FOLDER}/{stem}.gz", f"md5:{checksums.file}"), root)


def _read(root: Path, stem: str, axes: int) -> np.ndarray:
    return read_idx(find_idx(root / _FOLDER, stem), axes, CHECKSUMS[stem].content)
