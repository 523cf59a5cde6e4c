"""What every registered dataset must do; those whose sources are absent say so and are skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from shalabench.api import DataError, DataPaths
from shalabench.api.registry import broken, entries
from shalabench.config.settings import resolve_data

NAMES = sorted(entries("dataset"))
PATHS = DataPaths(
    Path(os.environ.get("SHALA_DATA", "shala-data")),
    Path(os.environ.get("SHALA_CACHE", Path.home() / ".cache" / "shala-bench")),
)
FEW = ("data.train=100", "data.validation=10", "data.test=20")  # a minute's drawing saved each


@pytest.fixture(scope="module", params=NAMES)
def dataset(request):
    few = FEW if request.param in ("birds", "cars") else ()
    made = entries("dataset")[request.param].cls(resolve_data(request.param, few))
    try:
        made.prepare(PATHS)
    except DataError as error:
        pytest.skip(str(error))
    return made


def test_every_file_imports():
    assert [f"{b.module}: {b.reason}" for b in broken("dataset")] == []


def test_splits_are_integers_of_the_stated_shape_and_size(dataset):
    for name, size in dataset.spec.sizes.items():
        split = dataset.split(name)
        assert len(split) == size
        assert tuple(split.tensors) == dataset.spec.names
        for modality in dataset.spec.modalities:
            x = split.tensors[modality.name]
            if modality.name in split.rows:
                rows = split.rows[modality.name]
                assert rows.shape == (size,)
                assert 0 <= rows.min() <= rows.max() < len(x)
                assert x.shape[1:] == modality.shape
            else:
                assert x.shape == (size, *modality.shape)
            assert x.dtype in (torch.uint8, torch.int64)
        if dataset.spec.classes:
            assert split.labels.unique().tolist() == list(range(dataset.spec.classes))


def test_batches_are_views(dataset):
    views = dataset.split("test").batch(torch.tensor([3, 0, 5])).views
    for modality in dataset.spec.modalities:
        x = views[modality.name]
        assert x.shape == (3, *modality.shape)
        if modality.kind == "image":
            assert x.dtype == torch.float32
            assert 0 <= x.min() <= x.max() <= 1
        else:
            assert x.max() < len(modality.vocabulary)


def test_preparing_again_gives_the_same(dataset):
    again = type(dataset)(dataset.config)
    again.prepare(PATHS)
    assert again.spec == dataset.spec
