"""One torch thread: tests share the machine, and bits must not depend on its size."""

from __future__ import annotations

import os

import pytest
import torch
from helpers.tiny import NETWORK, SPEC
from helpers.toys import toy_data

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the Hugging Face hub
_LONG = ("test_slurm.py", "test_classifiers.py", "test_benchmarks.py", "test_campaign.py")


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, so that no process waits for another at the end."""
    items.sort(key=lambda item: item.path.name not in _LONG)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _float64(request):
    """Compute tests marked float64 in double precision, from seed 0."""
    if request.node.get_closest_marker("float64") is None:
        yield
        return
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """The toy dataset."""
    return toy_data(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def spec():
    return SPEC


@pytest.fixture
def network():
    return NETWORK


@pytest.fixture
def views():
    return {
        "a": torch.rand(4, 3, 8, 8),
        "b": torch.rand(4, 1, 5, 5),
        "c": torch.randint(3, (4, 4)),
    }
