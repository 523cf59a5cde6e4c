"""Three small modalities of different shapes, for tests that compare with a formula."""

from __future__ import annotations

from shalabench.api import DataSpec, Modality
from shalabench.nets.backbones import Network

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
