"""A ring of four cameras round an object, and data of their views."""

from __future__ import annotations

from shalabench.api import Camera, DataSpec, Modality

N = 4
RING = [Camera.orbit(90.0 * k, 30.0, 1.5, 280 / 256) for k in range(N)]
NAMES = [f"v{k}" for k in range(N)]


def spec_of(cameras, shape=(3, 8, 8)):
    views = zip(NAMES, cameras, strict=True)
    modalities = tuple(Modality(name, "image", shape, camera=camera) for name, camera in views)
    return DataSpec("ring", 1, modalities, 0, {}, "", "")
