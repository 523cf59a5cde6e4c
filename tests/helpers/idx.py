"""MNIST's idx files, made up."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np

from shalabench.datasets.sources import mnist


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def expect(folder: Path, monkeypatch) -> None:
    """Let the gzipped files of a folder count as the published ones."""
    sums = {}
    for file in folder.iterdir():
        raw = file.read_bytes()
        digests = (hashlib.md5(x).hexdigest() for x in (raw, gzip.decompress(raw)))
        sums[file.stem] = mnist.Md5(*digests)
    monkeypatch.setattr(mnist, "CHECKSUMS", sums)
