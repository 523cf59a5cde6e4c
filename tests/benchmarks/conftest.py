"""The benchmarks are scripts: their folder is on the import path only while they are imported."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def load():
    """Import a benchmark's module."""

    def imported(name: str):
        sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
        try:
            return importlib.import_module(name)
        finally:
            sys.path.pop(0)

    return imported
