"""A store that all tests of the report share."""

from __future__ import annotations

import pytest
from helpers.records import write_run
from helpers.reports import add_parts

from shalabench.records.store import Store


@pytest.fixture
def store(tmp_path):
    root = tmp_path / "store"
    for seed, (a, b) in enumerate(((0.80, 0.30), (0.82, 0.34), (0.84, 0.38))):
        add_parts(write_run(root, "shala", seed, a))
        add_parts(write_run(root, "mmvae+", seed, b))
    return Store(root)
