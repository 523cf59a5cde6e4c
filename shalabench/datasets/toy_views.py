"""Four views of two balls, made from a seed in a second. For tests of methods that need cameras."""

from __future__ import annotations

import numpy as np
import torch

from shalabench.api import (
    Camera,
    DataPaths,
    Dataset,
    DataSettings,
    Modality,
    Split,
    register_dataset,
    setting,
)
from shalabench.datasets.sources.files import SPLITS, digest_of

_SIDE, _VIEWS, _RADIUS = 16, 4, 0.2
_RING = tuple(Camera.orbit(k * 360 / _VIEWS, 30, 1.5, 280 / 256) for k in range(_VIEWS))


@register_dataset("toy-views", version=1)
class ToyViews(Dataset):
    """Two balls on white, seen by four cameras on a circle, for tests of view synthesis.

    96 tuples by default, made from a seed in a second; no download, no classes. Modalities: "v0"
    to "v3", images `[3, 16, 16]` in [0, 1], each with its camera.
    """

    class Config(DataSettings):
        """Sizes and seed."""

        train: int = setting(64, "Training tuples.", "our choice", ge=16, le=1_000_000)
        validation: int = setting(16, "Validation tuples.", "our choice", ge=16, le=1_000_000)
        test: int = setting(16, "Test tuples.", "our choice", ge=16, le=1_000_000)
        seed: int = setting(0, "Seed of everything.", "our choice", ge=0)

    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        arrays = {
            name: _make(getattr(self.config, name), np.random.default_rng([self.config.seed, k]))
            for k, name in enumerate(SPLITS)
        }
        self.set_splits(
            {
                name: Split({f"v{k}": torch.from_numpy(x[:, k].copy()) for k in range(_VIEWS)})
                for name, x in arrays.items()
            },
            modalities=tuple(
                Modality(f"v{k}", "image", (3, _SIDE, _SIDE), "laplace", 0.75, camera=camera)
                for k, camera in enumerate(_RING)
            ),
            classes=0,
            fingerprint=digest_of(arrays.values()),
            source="made from a seed",
        )


def _make(n: int, rng: np.random.Generator) -> np.ndarray:
    """Views uint8 `[n, 4, 3, 16, 16]`; the farther ball is drawn first."""
    centre = rng.uniform(-0.25, 0.25, (n, 2, 3))
    colour = rng.uniform(0, 0.8, (n, 2, 3))
    line = (np.arange(_SIDE) + 0.5) / _SIDE
    x = np.ones((n, _VIEWS, 3, _SIDE, _SIDE))
    for i in range(n):
        for k, camera in enumerate(_RING):
            seen = [camera.project(tuple(p)) for p in centre[i]]
            for ball in sorted((0, 1), key=lambda b: -seen[b][2]):
                u, v, depth = seen[ball]
                far = np.hypot(line[None] - u, line[:, None] - v)
                inside = far < _RADIUS * camera.focal[0] / depth
                x[i, k][:, inside] = colour[i, ball][:, None]
    return (x * 255).round().astype(np.uint8)
