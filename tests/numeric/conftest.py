"""Three small modalities of different shapes, in float64."""

from __future__ import annotations

import pytest
import torch

from harness.api import DataSpec, Modality
from nets.backbones import Network

SPEC = DataSpec(
    name="tiny",
    version=1,
    modalities=(
        Modality("a", "image", (3, 8, 8), "laplace", 0.75, weight=1.0),
        Modality("b", "image", (1, 5, 5), "normal", 0.5, weight=2.5),
        Modality("c", "text", (4,), "categorical", weight=3.0, vocabulary=tuple("xyz")),
    ),
    classes=0,
    sizes={},
    fingerprint="",
    source="",
)
NETWORK = Network(family="conv", width=0.1, hidden=7)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


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
