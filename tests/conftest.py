"""One torch thread: tests share the machine, and bits must not depend on its size."""

from __future__ import annotations

import pytest
import torch
from toys import toy_data


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """The toy dataset."""
    return toy_data(tmp_path_factory.mktemp("toy"))
