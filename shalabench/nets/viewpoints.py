"""Views of an object by several cameras: checks, angles, visibility, and notes for tables."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from shalabench.api import Camera, DataSpec, Model, Views

_ALIGNED = "aligned views"  # supervision of a method that states none
_ROUNDING = 2.0**-10  # of depths in float16


def why_no_views(spec: DataSpec, least: int = 2) -> str | None:
    """Why data are not square views of one object by cameras, as a sentence, or None.

    Args:
        spec: The data's modalities.
        least: How many views there must be, 1 or 2.
    """
    flat = [m.name for m in spec.modalities if m.kind != "image" or m.camera is None]
    if flat:
        return f"The dataset '{spec.name}' has no cameras for {', '.join(flat[:3])}."
    if len(spec.modalities) < least:
        return f"The dataset '{spec.name}' has one view only."
    shapes = sorted({m.shape for m in spec.modalities})
    if len(shapes) > 1 or shapes[0][1] != shapes[0][2]:
        return f"The views of '{spec.name}' are not squares of one size: {shapes}."
    return None


def describe_row(model: Model, spec: DataSpec, protocol: str) -> dict[str, str]:
    """Facts about a method on such data that tables show beside its scores."""
    return {
        "resolution": f"{spec.modalities[0].shape[1]} px",
        "supervision": model.supervision or _ALIGNED,
        "reduced": model.reduced,
        "protocol": protocol,
    }


def stack(views: Views, names: tuple[str, ...]) -> Tensor:
    """Views of these names, in this order, `[B, V, C, H, W]`."""
    return torch.stack([views[name] for name in names], dim=1)


def number(spec: DataSpec, names: Iterable[str], device: torch.device) -> Tensor:
    """Numbers `[V]` int64 of views, made on the device so that the host does not wait."""
    return torch.stack([torch.full((), spec.names.index(n), device=device) for n in names])


def angle(a: Camera, b: Camera) -> float:
    """Degrees between the directions in which two cameras look."""
    cosine = sum(map(float.__mul__, a.rotation[2], b.rotation[2]))
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def camera_vector(camera: Camera) -> list[float]:
    """A camera as 25 numbers: 4 x 4 from the camera to the world, then 3 x 3 intrinsics."""
    pose = [
        [*column, place]
        for column, place in zip(zip(*camera.rotation, strict=True), camera.position, strict=True)
    ]
    (fx, fy), (cx, cy) = camera.focal, camera.centre
    intrinsics = [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]
    return [x for row in (*pose, [0.0, 0.0, 0.0, 1.0], *intrinsics) for x in row]


def seen_from(depth: Tensor, camera: Camera, other: Tensor, given: Camera) -> Tensor:
    """Which pixels of a view show a surface point that another view shows too.

    The surface point of a pixel follows from its depth, and is projected into the other view. It is
    visible there if it lies within the image and is not hidden. It is hidden if it lies behind the
    farthest of the four pixels around it by more than half a pixel's width at its distance. With
    this slack the visible part of cars is the same at 32 and at 128 pixels. If the four pixels show
    no surface, the point is not hidden.

    Args:
        depth: `[B, R, R]` along the camera's axis; 0 means no surface.
        camera: The camera of that view.
        other: `[B, R, R]`, depth in the other view.
        given: The other view's camera.

    Returns:
        `[B, R, R]` bool; False for pixels without a surface.
    """
    side = depth.shape[-1]
    z = depth.double()
    centres = (torch.arange(side, device=z.device, dtype=torch.float64) + 0.5) / side
    x = (centres[None, :] - camera.centre[0]) / camera.focal[0] * z
    y = (centres[:, None] - camera.centre[1]) / camera.focal[1] * z
    turn, shift = z.new_tensor(camera.rotation), z.new_tensor(camera.translation)
    world = (torch.stack([x, y, z], dim=-1) - shift) @ turn  # [B, R, R, 3]
    point = world @ z.new_tensor(given.rotation).T + z.new_tensor(given.translation)
    far = point[..., 2]
    ahead = far > 0
    along = torch.where(ahead, far, 1.0)
    u = given.focal[0] * point[..., 0] / along + given.centre[0]
    v = given.focal[1] * point[..., 1] / along + given.centre[1]
    within = ahead & (u >= 0) & (u < 1) & (v >= 0) & (v < 1)
    shown = _farthest(other.double(), u * side - 0.5, v * side - 0.5)
    slack = far / (2 * given.focal[0] * side) + _ROUNDING * far
    return (depth > 0) & within & ((far <= shown + slack) | (shown == 0))


def _farthest(depth: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """The largest depth `[B, R, R]` of the four pixels around each point."""
    side = depth.shape[-1]
    item = torch.arange(len(depth), device=depth.device)[:, None, None]
    columns = [(column.floor().long() + k).clamp(0, side - 1) for k in (0, 1)]
    rows = [(row.floor().long() + k).clamp(0, side - 1) for k in (0, 1)]
    return torch.stack([depth[item, r, c] for r in rows for c in columns]).amax(0)
