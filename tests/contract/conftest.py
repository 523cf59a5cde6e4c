"""The toy data and a freshly built model for every registered component."""

from __future__ import annotations

import pytest
import torch

from harness.api import Places
from harness.api.registry import find


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    entry = find("dataset", "toy")
    dataset = entry.cls(entry.cls.Config())
    folder = tmp_path_factory.mktemp("toy")
    dataset.prepare(Places(data=folder, cache=folder))
    return dataset


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
