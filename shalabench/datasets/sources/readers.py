"""Readers of pictures, pickles and archives that trust nothing in them."""

from __future__ import annotations

import io
import os
import pickle
import platform
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shalabench.api import DataError
from shalabench.datasets.sources.files import as_data_error
from shalabench.datasets.sources.turns import take_turn

_CHUNK = 1 << 20
_ADMITTED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),  # how Python 2's pickles hold bytes
}


def read_picture(file: Path, mode: str = "RGB") -> np.ndarray:
    """Read a picture as uint8 `[H, W, C]`, or `[H, W]` where the mode is "L".

    Raises:
        DataError: It does not open, is huge, or has more than 8 bits a grey value.
    """
    with (
        as_data_error(f"The picture {file} does not open", "Delete it and fetch it again."),
        Image.open(file) as picture,
    ):
        if picture.mode.startswith(("I", "F")):  # Pillow would clip them at 255
            raise DataError(
                f"The picture {file} has greys of more than 8 bits (mode {picture.mode}), and 8 "
                "were expected. Save it with greys of 0 to 255."
            )
        return np.asarray(picture.convert(mode))


def as_bytes(file: Path, array: np.ndarray) -> np.ndarray:
    """Pixels as uint8 where their range is beyond doubt.

    Bytes are taken as they are, whole numbers up to 255 with one above 1 too, of any type, and
    fractions in [0, 1] times 255.

    Raises:
        DataError: Their range is another, or could be either.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "iuf" or not array.size:
        raise DataError(
            f"{file} has pixels of the type {array.dtype}; bytes, or fractions in [0, 1], were "
            "expected. Save them as uint8."
        )
    low, high = array.min(), array.max()  # NaN where one is
    is_whole = array.dtype.kind in "iu" or bool((array == np.rint(array)).all())
    if is_whole and low >= 0 and 1 < high <= 255:
        return array.astype(np.uint8)
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return (array * array.dtype.type(255)).round().astype(np.uint8)
    raise DataError(
        f"{file} has pixels of the type {array.dtype} with values outside [0, 1] that are no bytes "
        f"beyond doubt: {low:g} to {high:g}. Save them as uint8."
    )


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def read_arrays(file: Path) -> Any:
    """Read a pickle of arrays, numbers, texts, lists and dicts.

    Raises:
        DataError: It holds anything else, or is damaged.
    """
    try:
        return _Reader(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    except Exception as error:  # whatever a damaged stream raises
        raise DataError(
            f"The pickle {file} is not read: {error}. Only arrays and plain values are admitted; "
            "do not trust this file, or write its numbers anew."
        ) from error


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive into a folder that appears only once it is whole.

    Args:
        archive: A zip file, or a tar file, compressed or not.
        folder: Where its content goes; nothing happens where it exists.

    Raises:
        DataError: The archive is damaged, or has a path or a link that leads out of the folder, or
            a device file; or this Python is too old to check a tar file for these.
    """
    if folder.exists():
        return
    if archive.suffix != ".zip" and not hasattr(tarfile, "data_filter"):
        raise DataError(
            f"{archive} is not unpacked, because Python {platform.python_version()} cannot check "
            f"it. Use Python 3.11.4 or later, or unpack the archive yourself to {folder}."
        )
    remedy = "Free some room if the disk is full; else delete the file and fetch it again."
    with as_data_error(f"{archive} does not unpack", remedy):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with take_turn(folder) as alone:
            if not folder.exists():  # another process may just have unpacked it
                _unpack(archive, folder, "" if alone else f".{os.getpid()}")


def _unpack(archive: Path, folder: Path, own: str) -> None:
    unfinished = folder.with_name(f".{folder.name}{own}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as content:  # drops ".." and checks the content
                content.extractall(unfinished)
        else:
            with tarfile.open(archive) as content:
                content.extractall(unfinished, filter="data")
                while content.fileobj and content.fileobj.read(_CHUNK):
                    pass  # to the end, where gzip and xz compare their checksum
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
