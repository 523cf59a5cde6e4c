"""Pictures of a car by several cameras, in any number of styles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from shalabench.api import Camera
from shalabench.datasets.synthetic.cars import meshes
from shalabench.datasets.synthetic.cars.materials import RIM, Layout, Points, lay_out
from shalabench.datasets.synthetic.cars.meshes import Car, build
from shalabench.datasets.synthetic.cars.paints import paint, tint
from shalabench.datasets.synthetic.cars.shapes import Shape
from shalabench.datasets.synthetic.cars.styles import Style
from shalabench.datasets.synthetic.render.raster import Hits, rasterise, shoot
from shalabench.datasets.synthetic.render.shade import (
    blend,
    diffuse,
    ground,
    reflection,
    shadow,
    towards,
)

SAMPLES = 2  # a side of each pixel


@dataclass(frozen=True)
class _Surface:
    """What some samples show, and how the light falls on it.

    Attributes:
        sample: `[P]` int64, ascending.
        at: The points of the car.
        layout: What is there.
        view: `[P, 3]`, towards the camera.
        normal: `[P, 3]`, towards the camera's side.
    """

    sample: Tensor
    at: Points
    layout: Layout
    view: Tensor
    normal: Tensor


@dataclass(frozen=True)
class Scene:
    """A car before its cameras, ready to be drawn in any style.

    Attributes:
        front: What is nearest.
        behind: What is seen through its windows and openings.
        rows: `[P]` int64, the row of `behind` that lies behind each row of `front`, or -1.
        floor: `[N, R, R, 3]` float32, the ground with the shadow on it.
        shown: `[S]` bool by sample of all pictures, whether the car is there.
        parts: `[N, R, R]` uint8, numbers in `materials.PARTS`; 0 where less than half is car.
        depth: `[N, R, R]` float32, of a pixel's nearest sample; 0 where `parts` is.
    """

    front: _Surface
    behind: _Surface
    rows: Tensor
    floor: Tensor
    shown: Tensor
    parts: Tensor
    depth: Tensor

    @property
    def alpha(self) -> Tensor:
        """How much of each pixel is car, uint8 `[N, R, R]` in 0..255."""
        n, side = self.floor.shape[:2]
        share = _blocks(self.shown[:, None].float(), n, side).mean(-2)[..., 0]
        return (share * 255 + 0.5).to(torch.uint8)

    def draw(self, style: Style) -> Tensor:
        """The pictures in a style, uint8 `[N, 3, R, R]`."""
        n, side = self.floor.shape[:2]
        floor = functional.interpolate(
            self.floor.permute(0, 3, 1, 2), scale_factor=SAMPLES, mode="nearest"
        )
        canvas = floor.permute(0, 2, 3, 1).reshape(-1, 3).clone()  # [S, 3]
        front, behind = self.front, self.behind
        through = canvas[front.sample]  # what lies behind each row
        beyond = _light(behind, style)
        colour, share = tint(style, behind.at)
        pane = behind.layout.glass
        clear = blend(canvas[behind.sample], colour.expand_as(beyond), pane * share)
        beyond = torch.where(pane[:, None], clear, beyond)
        there = self.rows >= 0
        through[there] = beyond[self.rows[there]]
        seen = _light(front, style)
        glass = blend(through, colour.expand_as(through), torch.full_like(front.view[:, 0], share))
        glass = glass + _mirror(front)
        seen = torch.where(front.layout.glass[:, None], glass, seen)
        seen = torch.where(front.layout.hole[:, None], through, seen)
        canvas[front.sample] = seen
        pictures = _blocks(canvas, n, side).clamp(0, 1).mean(-2)  # [N, R, R, 3]
        return (pictures * 255 + 0.5).to(torch.uint8).permute(0, 3, 1, 2).contiguous()


def stage(shape: Shape, cameras: Sequence[Camera], side: int) -> Scene:
    """Put a car of the shape before cameras whose pictures are `side` pixels wide."""
    car = build(shape)
    shot = shoot(car.mesh, cameras, side * SAMPLES)
    parts = car.mesh.parts
    shell, hidden = (_among(parts, kinds) for kinds in (meshes.SHELL, meshes.HIDDEN))
    front = rasterise(shot, shot.outside & ~hidden)
    inner = torch.where(shell, ~shot.outside, shot.outside)
    behind = rasterise(shot, inner)
    near, far = _surface(front, car, cameras, shot.side), _surface(behind, car, cameras, shot.side)
    # A window or an opening of the far side shows the ground.
    kept = ~far.layout.hole
    count = len(cameras) * shot.side**2
    number = torch.full((count,), -1)
    number[far.sample[kept]] = torch.arange(len(far.sample))[kept]
    rows = number[near.sample]
    shown = torch.zeros(count, dtype=torch.bool)
    shown[near.sample] = ~near.layout.hole | (rows >= 0)
    part = torch.where(near.layout.hole, far.layout.part[rows.clamp_min(0)], near.layout.part)
    depth = torch.where(near.layout.hole, behind.depth[rows.clamp_min(0)], front.depth)
    maps = _maps(shown, near.sample, part, depth.float(), len(cameras), side)
    return Scene(near, far, rows, _floor(car, cameras, side), shown, *maps)


def _among(parts: Tensor, kinds: Sequence[int]) -> Tensor:
    return torch.isin(parts, torch.tensor(kinds))


def _surface(hits: Hits, car: Car, cameras: Sequence[Camera], side: int) -> _Surface:
    picture = torch.div(hits.sample, side * side, rounding_mode="floor")
    view = towards(cameras, picture, hits.point).float()
    normal = hits.normal.float()
    metres = (hits.point / car.scale + torch.from_numpy(car.middle)).float()
    at = Points(car.shape, hits.part, metres, normal)
    facing = torch.where((normal * view).sum(1, keepdim=True) < 0, -normal, normal)
    return _Surface(hits.sample, at, lay_out(at), view, facing)


def _light(surface: _Surface, style: Style) -> Tensor:
    """Colours `[P, 3]` of a surface that is taken as opaque."""
    at = surface.at
    colour, gloss = paint(at, surface.layout, style)
    back = (at.normal * surface.view).sum(1) < 0  # the shell from within
    lining = back & _among(at.piece, meshes.SHELL)
    colour = torch.where(lining[:, None], at.position.new_tensor((0.10, 0.10, 0.11)), colour)
    sunk = _among(at.piece, (*meshes.HIDDEN, meshes.WHEEL)) | lining
    shade = 0.55 + 0.45 * (at.z / 0.55).clamp(0, 1)  # the ground takes light from below
    shade = torch.where(_among(at.piece, (meshes.INSIDE, meshes.SEAT)), 0.85, shade)
    lit = colour * (diffuse(surface.normal) * shade)[:, None]
    gloss = torch.where(sunk & (surface.layout.part != RIM), 0.0, gloss)
    lamps = surface.layout.white | surface.layout.red
    lit = torch.where(lamps[:, None], colour * 0.95, lit)
    return lit + reflection(surface.normal, surface.view, gloss)[:, None]


def _mirror(surface: _Surface) -> Tensor:
    """What glass reflects, `[P, 1]`."""
    gloss = torch.ones_like(surface.view[:, 0])
    return reflection(surface.normal, surface.view, gloss)[:, None] * 0.9


def _floor(car: Car, cameras: Sequence[Camera], side: int) -> Tensor:
    """White ground, `[N, R, R, 3]`, with a soft shadow and a darker one below the body."""
    shape = car.shape
    at = ground(cameras, side, float(-car.middle[2] * car.scale)).float()
    half = shape.length / 2 * car.scale, shape.width / 2 * car.scale
    wide = shadow(at, (half[0] * 0.99, half[1] * 0.98), 0.20 * car.scale)
    tight = shadow(at, (half[0] * 0.95, half[1] * 0.92), 0.07 * car.scale)
    dark = 0.34 * wide + 0.40 * tight
    return (1 - dark)[..., None].expand(-1, -1, -1, 3).contiguous()


def _maps(
    shown: Tensor, sample: Tensor, part: Tensor, depth: Tensor, n: int, side: int
) -> tuple[Tensor, Tensor]:
    """Part and depth of each pixel's nearest sample; 0 where less than half of it is car."""
    far = torch.full(shown.shape, torch.inf)
    far[sample] = depth
    far[~shown] = torch.inf
    kind = torch.zeros(shown.shape, dtype=torch.uint8)
    kind[sample] = part.to(torch.uint8)
    depths, kinds = (_blocks(x[:, None], n, side)[..., 0] for x in (far, kind))  # [N, R, R, 4]
    nearest = depths.min(-1)
    most = depths.isfinite().float().mean(-1) >= 0.5
    kinds = kinds.gather(-1, nearest.indices[..., None])[..., 0]
    return torch.where(most, kinds, 0), torch.where(most, nearest.values, 0.0)


def _blocks(samples: Tensor, n: int, side: int) -> Tensor:
    """Samples `[S, C]` of all pictures by pixel: `[N, R, R, samples of a pixel, C]`."""
    x = samples.view(n, side, SAMPLES, side, SAMPLES, -1).transpose(2, 3)
    return x.flatten(3, 4)
