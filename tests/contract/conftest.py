"""The toy data and a freshly built model for every registered component."""

from __future__ import annotations

import pytest

from harness.api import Places
from harness.api.registry import find


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    entry = find("dataset", "toy")
    dataset = entry.cls(entry.cls.Config())
    folder = tmp_path_factory.mktemp("toy")
    dataset.prepare(Places(data=folder, cache=folder))
    return dataset
