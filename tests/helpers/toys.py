"""Small trained things that several tests need."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shalabench.api import DataPaths, Dataset, Model, Rng, derive_seed
from shalabench.api.registry import find
from shalabench.config.settings import resolve

UPDATES = 3


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


def train(model, toy, updates: int = UPDATES, stages=None, start: int = 0):
    """A few updates of every stage, seeded as the harness seeds them."""
    data, logged = toy.split("train"), []
    for stage in stages or model.stages():
        stage.begin(data)
        model.train()
        for step in range(start, updates):
            torch.manual_seed(derive_seed(0, stage.name, "global", step))
            index = torch.arange(step * 8, step * 8 + 8) % len(data)
            rng = Rng(derive_seed(0, stage.name, step))
            logged.append(stage.update(data.batch(index), rng))
        model.eval()
        stage.finish(data)
    return logged


def check_views(generated, spec, names, n):
    """Views have the shapes and ranges of their modalities."""
    assert set(generated) == set(names)
    for name, x in generated.items():
        modality = spec[name]
        assert x.shape == (n, *modality.shape), name
        if modality.kind != "text":
            assert x.is_floating_point()
            assert torch.isfinite(x).all()
        else:
            assert x.dtype == torch.int64
            assert x.min() >= 0
            assert x.max() < len(modality.vocabulary)
