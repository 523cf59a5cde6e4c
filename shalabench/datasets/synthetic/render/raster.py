"""Triangles to pixels with an exact depth buffer, many cameras at once.

Every sample of a pixel keeps the triangle of the smallest integer key (depth, number), found by a
minimum over integers: the result does not depend on order, threads or device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shalabench.api import Camera

_DEPTHS = 1 << 24  # steps of depth a unit of the world
_FACES = 1 << 32  # room for a triangle's number below the depth
_CHUNK = 1 << 22  # candidates (triangle, sample) at a time
_TINY = 1e-12  # squared samples; a thinner triangle covers no sample


@dataclass(frozen=True)
class Mesh:
    """Triangles in the world.

    Attributes:
        points: `[V, 3]` float64.
        normals: `[V, 3]` float64, unit length, outwards.
        faces: `[F, 3]` int64, counter-clockwise as seen from outside.
        parts: `[F]` int64, what each triangle belongs to.
    """

    points: Tensor
    normals: Tensor
    faces: Tensor
    parts: Tensor


@dataclass(frozen=True)
class Shot:
    """A mesh as some cameras see it.

    Attributes:
        mesh: The mesh.
        side: Samples along each side of the square pictures.
        corners: `[N, F, 3, 2]` float64, (x, y) of each triangle's corners in samples.
        depths: `[N, F, 3]` float64, distance along the camera's axis.
        areas: `[N, F]` float64, twice the signed area; negative where the outside is seen.
    """

    mesh: Mesh
    side: int
    corners: Tensor
    depths: Tensor
    areas: Tensor

    @property
    def outside(self) -> Tensor:
        """`[N, F]` bool, whether the triangle's outer side is seen."""
        return self.areas < 0


@dataclass(frozen=True)
class Hits:
    """What the samples of all pictures show; one row for each sample that shows a triangle.

    Attributes:
        sample: `[P]` int64, number of the sample: (picture, row, column), ascending.
        depth: `[P]` float64.
        point: `[P, 3]` float64, in the world.
        normal: `[P, 3]` float64, of the outer side, unit length.
        part: `[P]` int64.
    """

    sample: Tensor
    depth: Tensor
    point: Tensor
    normal: Tensor
    part: Tensor


def stack(cameras: Sequence[Camera]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rotations `[N, 3, 3]`, translations `[N, 3]`, focal lengths and centres `[N, 2]`, float64."""
    names = ("rotation", "translation", "focal", "centre")
    rows = ([getattr(camera, name) for camera in cameras] for name in names)
    rotation, translation, focal, centre = (torch.tensor(row, dtype=torch.float64) for row in rows)
    return rotation, translation, focal, centre


def shoot(mesh: Mesh, cameras: Sequence[Camera], side: int) -> Shot:
    """Project a mesh, which lies before all cameras, to pictures of `side` x `side` samples."""
    rotation, translation, focal, centre = (x.to(mesh.points.device) for x in stack(cameras))
    # A sum, and no matrix product: its result is the same for any number of threads.
    x, y, z = mesh.points.unbind(1)  # [V] each
    rows = rotation[:, :, :, None]  # [N, 3, 3, 1]
    seen = rows[:, :, 0] * x + rows[:, :, 1] * y + rows[:, :, 2] * z + translation[..., None]
    seen = seen.transpose(1, 2)  # [N, V, 3]
    plane = (seen[..., :2] / seen[..., 2:] * focal[:, None] + centre[:, None]) * side
    corners, depths = plane[:, mesh.faces], seen[:, mesh.faces, 2]
    (ax, ay), (bx, by), (cx, cy) = (corners[:, :, i].unbind(-1) for i in range(3))
    areas = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    return Shot(mesh, side, corners, depths, areas)


def rasterise(shot: Shot, wanted: Tensor) -> Hits:
    """Find the nearest wanted triangle at the middle of every sample.

    Args:
        shot: Of `shoot`.
        wanted: `[N, F]` bool, which triangles each camera may see.

    Returns:
        One row a covered sample.
    """
    side, count = shot.side, shot.areas.shape[0] * shot.side**2
    chosen = (wanted & (shot.areas.abs() > _TINY)).flatten().nonzero()[:, 0]  # [T]
    a, b, c = shot.corners.flatten(0, 1)[chosen].unbind(1)  # [T, 2] each
    low = (torch.minimum(torch.minimum(a, b), c) - 0.5).ceil().clamp_(0, side).long()
    high = (torch.maximum(torch.maximum(a, b), c) - 0.5).floor().clamp_(-1, side - 1).long()
    extent = (high - low + 1).clamp_(min=0)  # [T, 2]
    some = extent.amin(1) > 0
    chosen, low, width, area = chosen[some], low[some], extent[some, 0], extent[some].prod(1)
    nearest = torch.full((count,), torch.iinfo(torch.int64).max, device=area.device)
    ends = area.cumsum(0)
    first = 0
    while first < len(chosen):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(torch.searchsorted(ends, before + _CHUNK)))
        rows = slice(first, last)
        _cover(shot, chosen[rows], low[rows], width[rows], area[rows], nearest)
        first = last
    sample = (nearest != torch.iinfo(torch.int64).max).nonzero()[:, 0]
    return _interpolate(shot, sample, nearest[sample] % _FACES)


def _cover(
    shot: Shot, chosen: Tensor, low: Tensor, width: Tensor, area: Tensor, nearest: Tensor
) -> None:
    """Lower `nearest` to the keys of the samples that some triangles cover."""
    faces, side = shot.areas.shape[1], shot.side
    of = torch.repeat_interleave(torch.arange(len(chosen), device=area.device), area)  # [C]
    within = torch.arange(len(of), device=area.device) - (area.cumsum(0) - area)[of]
    wide = width[of]
    down = torch.div(within, wide, rounding_mode="floor")
    column, row = low[of, 0] + within - down * wide, low[of, 1] + down
    a, b, c = _planes(shot, chosen)  # [T, 3] each
    x, y = column.double() + 0.5, row.double() + 0.5
    weights = [(a[:, i][of] * x).add_(b[:, i][of] * y).add_(c[:, i][of]) for i in range(3)]
    inside = torch.minimum(torch.minimum(*weights[:2]), weights[2]) >= 0
    of, row, column = of[inside], row[inside], column[inside]
    flat = shot.depths.flatten(0, 1)[chosen][of]  # [C, 3]
    inverse = torch.as_tensor(sum(w[inside] / flat[:, i] for i, w in enumerate(weights)))
    key = (_DEPTHS / inverse).long() * _FACES + chosen[of] % faces
    picture = torch.div(chosen[of], faces, rounding_mode="floor")
    nearest.scatter_reduce_(0, (picture * side + row) * side + column, key, "amin")


def _planes(shot: Shot, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients of the three barycentric weights a x + b y + c of some triangles, `[T, 3]`."""
    p = shot.corners.flatten(0, 1)[chosen]  # [T, 3, 2]
    after, last = p.roll(-1, 1), p.roll(-2, 1)
    scale = shot.areas.flatten()[chosen][:, None]
    a, b = after[..., 1] - last[..., 1], last[..., 0] - after[..., 0]
    c = after[..., 0] * last[..., 1] - after[..., 1] * last[..., 0]
    return a / scale, b / scale, c / scale


def _interpolate(shot: Shot, sample: Tensor, face: Tensor) -> Hits:
    mesh, side = shot.mesh, shot.side
    picture = torch.div(sample, side * side, rounding_mode="floor")
    x, y = (sample % side).double() + 0.5, (sample // side % side).double() + 0.5
    chosen = picture * shot.areas.shape[1] + face
    a, b, c = _planes(shot, chosen)
    weights = (a * x[:, None] + b * y[:, None] + c) / shot.depths.flatten(0, 1)[chosen]
    depth = 1 / weights.sum(1)
    weights = weights * depth[:, None]  # perspective: they count in the world, not in the picture
    corners = mesh.faces[face]  # [P, 3]
    point, normal = (
        torch.as_tensor(sum(values[corners[:, i]] * weights[:, i : i + 1] for i in range(3)))
        for values in (mesh.points, mesh.normals)
    )
    normal = normal / normal.norm(dim=1, keepdim=True).clamp_min(1e-9)
    return Hits(sample, depth, point, normal, mesh.parts[face])
