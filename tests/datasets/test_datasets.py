"""What every registered dataset must do; those whose sources are absent say so and are skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from classifiers.attributes import classified, questions
from classifiers.networks import build
from shalabench.api import DataError, DataPaths
from shalabench.api.dataset import check_split
from shalabench.api.registry import broken, entries, find
from shalabench.config.settings import resolve, resolve_data
from shalabench.execute.fitness import why_not

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


def test_splits_have_the_stated_shapes_types_and_sizes(dataset):
    assert [m.problem() for m in dataset.spec.modalities if m.problem()] == []
    for name, size in dataset.spec.sizes.items():
        split = dataset.split(name)
        assert len(split) == size
        assert tuple(split.tensors) == dataset.spec.names
        check_split(dataset.spec.modalities, name, split)
        for modality in dataset.spec.modalities:
            x = split.tensors[modality.name]
            if modality.name in split.rows:
                rows = split.rows[modality.name]
                assert rows.shape == (size,)
                assert 0 <= rows.min() <= rows.max() < len(x)
                assert x.shape[1:] == modality.shape
            else:
                assert x.shape == (size, *modality.shape)
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
        elif modality.kind == "vector":
            assert x.dtype == torch.float32
            assert torch.isfinite(x).all()
        else:
            assert x.max() < len(modality.vocabulary)


def test_networks_and_classifiers_take_the_shapes(dataset):
    spec = dataset.spec
    for modality in classified(spec):
        build(modality, sum(questions(spec).values()))
    for model in ("mvae", "shala"):
        config = resolve(model, spec.name, "smoke", ()).model
        assert why_not(find("model", model).cls, spec, config) is None


def test_preparing_again_gives_the_same(dataset):
    again = type(dataset)(dataset.config)
    again.prepare(PATHS)
    assert again.spec == dataset.spec
