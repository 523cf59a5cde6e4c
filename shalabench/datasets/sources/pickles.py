"""A safe reader of pickles: it admits arrays and plain values only."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from shalabench.api import DataError

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
