"""A dataset made from a seed in a second: two images and a text that share a class. For tests."""

from __future__ import annotations

import numpy as np
import torch

from shalabench.api import (
    DataPaths,
    Dataset,
    DataSettings,
    Modality,
    Split,
    register_dataset,
    setting,
)
from shalabench.datasets.sources.files import SPLITS, digest_of

_LETTERS = tuple(" abcdefg")
_WORDS = ("abba", "cafe", "bead", "deed")


@register_dataset("toy", version=1)
class Toy(Dataset):
    """A colour bar, a stripe and a word that share one of four classes, for tests.

    384 tuples by default, made from a seed in a second; no download. Modalities: "bar"
    `[3, 8, 8]` and "stripe" `[1, 8, 8]`, images in [0, 1]; "word", four letters. Each of them
    shows the class.
    """

    class Config(DataSettings):
        """Sizes and seed."""

        train: int = setting(256, "Training tuples.", "our choice", ge=16, le=1_000_000)
        validation: int = setting(64, "Validation tuples.", "our choice", ge=16, le=1_000_000)
        test: int = setting(64, "Test tuples.", "our choice", ge=16, le=1_000_000)
        seed: int = setting(0, "Seed of everything.", "our choice", ge=0)

    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        made = {}
        for number, name in enumerate(SPLITS):
            rng = np.random.default_rng([self.config.seed, number])
            made[name] = _make(getattr(self.config, name), rng)
        splits = {}
        for name, arrays in made.items():
            tensors = {m: torch.from_numpy(array) for m, array in arrays.items()}
            splits[name] = Split(tensors, tensors.pop("labels"))
        self.set_splits(
            splits,
            modalities=(
                Modality("bar", "image", (3, 8, 8), "laplace", 0.75),
                Modality("stripe", "image", (1, 8, 8), "laplace", 0.75),
                Modality("word", "text", (4,), "categorical", vocabulary=_LETTERS),
            ),
            classes=len(_WORDS),
            fingerprint=digest_of(a for arrays in made.values() for a in arrays.values()),
            source="made from a seed",
        )


def _make(n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    labels = rng.integers(len(_WORDS), size=n)
    column = np.arange(8)
    lit = (column // 2)[None] == labels[:, None]  # [N, 8]: the class chooses two of the columns
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
