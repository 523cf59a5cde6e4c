"""The cameras round an object, and its views as modalities."""

from __future__ import annotations

from collections.abc import Sequence

from shalabench.api import Camera, Modality

ELEVATION, DISTANCE = 30.0, 1.5
FOCAL = 280 / 256  # widths of the image: a 35 mm lens before 32 mm of film


def ring(views: int = 16) -> tuple[Camera, ...]:
    """SyncDreamer's cameras (Liu et al. 2024, section 4.1) for any number of views.

    Evenly round the world's z axis from x on, 30 degrees up, at a distance of 1.5 from the middle
    of an object whose largest side is 1.
    """
    return tuple(Camera.orbit(i * 360 / views, ELEVATION, DISTANCE, FOCAL) for i in range(views))


def describe_views(cameras: Sequence[Camera], side: int) -> tuple[Modality, ...]:
    """Image modalities v00, v01, ..., one a camera.

    The likelihood is our choice (the paper gives none): Gaussian, because PSNR measures squared
    errors, with a scale near the errors reached. With the other images' Laplace of scale .75 no
    method had learnt a car's hue after 2,400 updates.
    """
    return tuple(
        Modality(f"v{i:02}", "image", (3, side, side), "normal", scale=0.05, camera=camera)
        for i, camera in enumerate(cameras)
    )
