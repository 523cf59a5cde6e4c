"""Small trained things that several tests need."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shalabench.api import DataPaths, Dataset, Model
from shalabench.api.registry import find
from shalabench.config.settings import resolve


def toy_data(folder: Path, name: str = "toy") -> Dataset:
    """A toy dataset, prepared."""
    cls = find("dataset", name).cls
    dataset = cls(cls.Config())
    dataset.prepare(DataPaths(data=folder, cache=folder))
    return dataset


def build(name: str, toy: Dataset, seed: int = 0) -> Model:
    """An untrained model with the smoke preset on the toy data; skips where it cannot run there."""
    cls = find("model", name).cls
    config = resolve(name, toy.name, "smoke", ()).model
    reason = cls.skip(toy.spec, config)
    if reason:
        pytest.skip(reason)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return cls(toy.spec, config)
