"""Light on surfaces, in a bright studio: diffuse and glossy light, a shadow on the ground."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from shalabench.api import Camera
from shalabench.datasets.synthetic.render.raster import stack

_LAMP = (0.42, 0.38, 0.82)  # direction to the lamp in the world
_GLINTS = ((90.0, 0.85), (12.0, 0.10))  # (sharpness, strength) of the lamp's reflection


def smooth_step(low: float, high: float, x: Tensor) -> Tensor:
    """0 below `low`, 1 above `high`, and a smooth rise between them."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def blend(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Colours `[P, 3]` between two; `share` `[P]` is that of the second."""
    return first + (second - first) * share[:, None]


def diffuse(normal: Tensor) -> Tensor:
    """Light `[P]` on surfaces of the normals `[P, 3]`: from all around, and a lamp's."""
    lamp = (normal * _unit(_LAMP, normal)).sum(1).clamp_min(0)
    around = 0.46 + 0.20 * normal[:, 2]
    return around + 0.46 * lamp


def reflection(normal: Tensor, view: Tensor, gloss: Tensor) -> Tensor:
    """What a clear coat adds, `[P]`: the studio's mirror image by Fresnel's law, and the lamp's.

    Args:
        normal: `[P, 3]`, unit length.
        view: `[P, 3]` unit vectors towards the camera.
        gloss: `[P]` in [0, 1].
    """
    facing = (normal * view).sum(1).clamp(0, 1)
    mirrored = 2 * facing[:, None] * normal - view
    fresnel = 0.09 + 0.91 * (1 - facing) ** 5  # Schlick 1994
    lamp = (mirrored * _unit(_LAMP, normal)).sum(1).clamp_min(0)
    glints = sum(strength * lamp**sharp for sharp, strength in _GLINTS)
    return gloss * (studio(mirrored[:, 2]) * fresnel + 0.6 * glints)


def studio(height: Tensor) -> Tensor:
    """Brightness `[P]` of the surroundings towards directions of the given z component `[P]`."""
    wall = 0.10 + 0.88 * smooth_step(-0.04, 0.16, height)
    panel = smooth_step(0.50, 0.58, height) * (1 - smooth_step(0.80, 0.92, height))
    return wall + 0.55 * panel


def towards(cameras: Sequence[Camera], picture: Tensor, point: Tensor) -> Tensor:
    """Unit vectors `[P, 3]` from points of the world to the cameras that see them."""
    positions = torch.tensor([camera.position for camera in cameras], dtype=point.dtype)
    away = positions.to(point.device)[picture] - point
    return away / away.norm(dim=1, keepdim=True)


def ground(cameras: Sequence[Camera], side: int, level: float) -> Tensor:
    """Where each pixel's ray meets the plane z = `level`: `[N, side, side, 2]` (x, y).

    Rays that do not come down to it give infinity.
    """
    rotation, translation, focal, centre = stack(cameras)
    middle = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    plane = (torch.stack([x, y], -1)[None] - centre[:, None, None]) / focal[:, None, None]
    rays = torch.cat([plane, torch.ones_like(plane[..., :1])], -1)  # [N, S, S, 3]
    rays = torch.einsum("nij,nhwi->nhwj", rotation, rays)
    eye = -torch.einsum("nij,ni->nj", rotation, translation)[:, None, None]
    far = (level - eye[..., 2]) / rays[..., 2]
    far = torch.where(rays[..., 2] < 0, far, torch.inf)
    return eye[..., :2] + far[..., None] * rays[..., :2]


def shadow(at: Tensor, box: tuple[float, float], blur: float) -> Tensor:
    """How far a box of half sides (x, y) round the origin shades the ground, in [0, 1].

    The box, blurred by a Gaussian of standard deviation `blur`.
    """
    shares = []
    for axis, half in enumerate(box):
        x = at[..., axis].clamp(-1e6, 1e6) / (math.sqrt(2) * blur)
        edge = half / (math.sqrt(2) * blur)
        shares.append((torch.erf(x + edge) - torch.erf(x - edge)) / 2)
    return shares[0] * shares[1]


def _unit(direction: tuple[float, float, float], like: Tensor) -> Tensor:
    x = torch.tensor(direction, dtype=like.dtype, device=like.device)
    return x / x.norm()
