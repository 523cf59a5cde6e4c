"""A dataset made from a seed in no time: two images and a text that share a class. For tests."""

from __future__ import annotations

import numpy as np
import torch

from shalabench.api import (
    DataPaths,
    Dataset,
    DataSettings,
    DataSpec,
    Modality,
    Split,
    register_dataset,
    setting,
)
from shalabench.datasets.sources.files import digest_of

_LETTERS = tuple(" abcdefg")
_WORDS = ("abba", "cafe", "bead", "deed")


@register_dataset("toy", version=1)
class Toy(Dataset):
    """A colour bar (3x8x8), a stripe (1x8x8) and a word of four letters, each telling the class."""

    class Config(DataSettings):
        """Sizes and seed."""

        train: int = setting(256, "Training tuples.", "our choice", ge=16)
        validation: int = setting(64, "Validation tuples.", "our choice", ge=16)
        test: int = setting(64, "Test tuples.", "our choice", ge=16)
        seed: int = setting(0, "Seed of everything.", "our choice")

    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        arrays = {}
        for number, name in enumerate(("train", "validation", "test")):
            rng = np.random.default_rng([self.config.seed, number])
            arrays[name] = _make(getattr(self.config, name), rng)
        self._fingerprint = digest_of(a for part in arrays.values() for a in part.values())
        self._splits = {
            name: Split(
                {m: torch.from_numpy(part[m]) for m in ("bar", "stripe", "word")},
                torch.from_numpy(part["labels"]),
            )
            for name, part in arrays.items()
        }

    @property
    def spec(self) -> DataSpec:
        return DataSpec(
            name=self.name,
            version=self.version,
            modalities=(
                Modality("bar", "image", (3, 8, 8), "laplace", 0.75),
                Modality("stripe", "image", (1, 8, 8), "laplace", 0.75),
                Modality("word", "text", (4,), "categorical", vocabulary=_LETTERS),
            ),
            classes=len(_WORDS),
            sizes={name: len(split) for name, split in self._splits.items()},
            fingerprint=self._fingerprint,
            source="made from a seed",
        )

    def split(self, name: str) -> Split:
        return self._splits[name]


def _make(n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    labels = rng.integers(len(_WORDS), size=n)
    column = np.arange(8)
    lit = (column // 2)[None] == labels[:, None]  # [N, 8]: a bar of two columns tells the class
    colour = rng.uniform(0.5, 1.0, (n, 3))
    bar = colour[:, :, None, None] * lit[:, None, None, :] * np.ones((1, 1, 8, 1))
    row = (column[None] < 2 * labels[:, None] + 1)[:, None, :, None]  # 1, 3, 5 or 7 lit rows
    stripe = row * rng.uniform(0.6, 1.0, (n, 1, 1, 1)) * np.ones((1, 1, 1, 8))
    words = np.array([[_LETTERS.index(c) for c in word] for word in _WORDS])
    return {
        "bar": _pixels(bar, rng),
        "stripe": _pixels(stripe, rng),
        "word": words[labels].astype(np.uint8),
        "labels": labels.astype(np.int64),
    }


def _pixels(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noisy = x + rng.normal(0, 0.05, x.shape)
    return (noisy.clip(0, 1) * 255).astype(np.uint8)
