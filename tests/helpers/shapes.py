"""Data of every kind of modality, with shapes that no published data have."""

from __future__ import annotations

from dataclasses import replace

import torch

from shalabench.api import DataPaths, Dataset, Modality, Split

MODALITIES = (
    Modality("wide", "image", (3, 9, 14), "laplace", 0.75),
    Modality("row", "vector", (5,), "normal", 0.5),
    Modality("field", "vector", (2, 3), "laplace", 0.3, weight=2.0),
    Modality("flags", "vector", (1, 2, 2), "bernoulli"),
    Modality("word", "text", (4,), "categorical", vocabulary=tuple("xyz")),
)


class Shapes(Dataset):
    """Random views that share one of three classes."""

    name, version = "shapes", 1
    modalities = MODALITIES

    def prepare(self, paths: DataPaths | None = None, *, download: bool = False) -> None:
        splits = {name: self._split(seed) for seed, name in enumerate(("train", "test"))}
        self.set_splits(
            splits, modalities=self.modalities, classes=3, fingerprint="shapes", source="a seed"
        )

    def _split(self, seed: int, n: int = 40) -> Split:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(n) % 3
        tensors = {}
        for m in self.modalities:
            noise = torch.rand(n, *m.shape, generator=generator)
            level = labels.view(-1, *(1,) * len(m.shape)) / 4
            if m.kind == "image":
                tensors[m.name] = ((level + noise / 2).clamp(0, 1) * 255).to(torch.uint8)
            elif m.kind == "text":
                tensors[m.name] = labels[:, None].expand(-1, *m.shape).contiguous()
            elif m.likelihood == "bernoulli":
                tensors[m.name] = (noise < level + 0.2).float()
            else:
                tensors[m.name] = 3 * level + noise - 1
        return Split(tensors, labels)


def shapes(**changes) -> Shapes:
    """The data, prepared; `changes` replaces fields of modalities, by their name."""
    data = Shapes(Shapes.Config())
    data.modalities = tuple(replace(m, **changes.get(m.name, {})) for m in MODALITIES)
    data.prepare()
    return data
