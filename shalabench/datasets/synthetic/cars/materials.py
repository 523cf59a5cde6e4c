"""What each point of a car is made of: paint, window, lamp, gap, rim.

The shape alone decides it, from the point's position in metres; styles give colours (`paints`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from shalabench.datasets.synthetic.cars import meshes
from shalabench.datasets.synthetic.cars.meshes import (
    BED,
    BODY,
    CABIN,
    INSIDE,
    MIRROR,
    RAIL,
    SEAT,
    WHEEL,
)
from shalabench.datasets.synthetic.cars.shapes import Shape
from shalabench.datasets.synthetic.render.shade import smooth_step

PARTS = ("background", "paint", "glass", "tyre", "rim", "lamp", "trim", "bed")
PAINT, GLAZED, TYRE, RIM, LAMP, TRIM, CARGO = range(1, len(PARTS))
Edge = Tensor | float


@dataclass(frozen=True)
class Points:
    """Points of a car, one a row.

    Attributes:
        shape: The car's.
        piece: `[P]` int64, which piece of the mesh.
        position: `[P, 3]` float32, metres.
        normal: `[P, 3]` float32, outwards.
    """

    shape: Shape
    piece: Tensor
    position: Tensor
    normal: Tensor

    @property
    def x(self) -> Tensor:
        """Along the car, the nose ahead."""
        return self.position[:, 0]

    @property
    def y(self) -> Tensor:
        """To the left."""
        return self.position[:, 1]

    @property
    def z(self) -> Tensor:
        """Over the ground."""
        return self.position[:, 2]

    def axle(self) -> tuple[Tensor, Tensor]:
        """(distance from, x beyond) the nearer axle's middle, in the plane of x and z."""
        front, rear = self.shape.axles
        beyond = torch.where(self.x > (front + rear) / 2, self.x - front, self.x - rear)
        return torch.hypot(beyond, self.z - self.shape.wheel), beyond


@dataclass(frozen=True)
class Layout:
    """What the shape alone decides at each point; each `[P]` bool but for `part`.

    Attributes:
        glass: A window.
        hole: A wheel arch or a bed: nothing is here.
        part: Number in `PARTS`.
        line: Darkness of a gap between panels, in [0, 1].
        white: A headlamp.
        red: A rear lamp.
        plate: A number plate.
        chrome: A handle or an ornament.
        slats: A grille.
    """

    glass: Tensor
    hole: Tensor
    part: Tensor
    line: Tensor
    white: Tensor
    red: Tensor
    plate: Tensor
    chrome: Tensor
    slats: Tensor


def lay_out(at: Points) -> Layout:
    """Decide what each point shows."""
    shape, body, cabin = at.shape, at.piece == BODY, at.piece == CABIN
    glass = cabin & _windows(at)
    distance, _ = at.axle()
    deep = at.y.abs() > 0.5 * shape.width - 0.75 * shape.wheel
    hole = body & deep & (distance < shape.arch * shape.wheel) & (at.z < 2.6 * shape.wheel)
    if shape.bed:
        rear, front, w = shape.bed
        within = (at.x > rear) & (at.x < front) & (at.y.abs() < w)
        hole = hole | (body & within & (at.normal[:, 2] > 0.4) & (at.z > shape.deck - 0.2))
    white, red = body & _headlamps(at), body & _tail_lamps(at)
    plate = body & _plates(at) & ~white
    slats = body & _grille(at) & ~plate & ~white
    chrome = body & _handles(at)
    trim = slats | plate | (body & _lower_trim(at)) | (cabin & _black(at) & ~glass)
    part = torch.full_like(at.piece, PAINT)
    part[trim] = TRIM
    part[white | red] = LAMP
    part[glass] = GLAZED
    for piece, own in ((WHEEL, TYRE), (RAIL, TRIM), (BED, CARGO)):
        part[at.piece == piece] = own
    part[(at.piece == INSIDE) | (at.piece == SEAT)] = TRIM
    part[(at.piece == WHEEL) & (distance < meshes.rim_radius(shape) + 0.008)] = RIM
    part[(at.piece == MIRROR) & (at.normal[:, 0] < -0.75)] = TRIM
    line = torch.where(body | cabin, _seams(at), 0.0)
    line = torch.where(glass | white | red | plate | slats, 0.0, line)
    return Layout(glass, hole, part, line, white, red, plate, chrome, slats)


# Windows.


def rise(at: Points) -> Tensor:
    """Height within the cabin, 0 at the belt and 1 at the roof's edge."""
    base = meshes.belt_height(at.shape, at.x)
    return (at.z - base) / (meshes.roof_height(at.shape, at.x) - base)


def _facet(at: Points) -> tuple[Tensor, Tensor]:
    """(front or rear, side) of the cabin, by the normal."""
    side = at.normal[:, 1].abs() > 0.62 * at.normal.norm(dim=1)
    return ~side & (at.normal[:, 0].abs() > 0.12), side


def _windows(at: Points) -> Tensor:
    """Side windows between pillars, a windscreen and a rear window, all with round corners."""
    shape, up = at.shape, rise(at)
    ends, side = _facet(at)
    tall = shape.height - shape.cowl
    low, high = 0.13 if shape.kind != "bus" else 0.10, 1 - 0.16 / tall
    front, rear = meshes.cabin_span(shape, up)
    width = meshes.cabin_width(shape, up)
    v = up * tall
    pillar = 0.13 if shape.kind not in ("bus", "van") else 0.10
    sides = torch.zeros_like(side)
    for first, last in _lanes(shape):
        a = (front - pillar - 0.06).clamp_max(first)
        b = (rear + pillar + 0.03).clamp_min(last)
        sides |= _rounded(at.x, b, a, v, low * tall, high * tall, 0.055)
    half = width - 0.10
    head_low = low if shape.kind != "bus" else 0.02
    ahead = (
        ends
        & (at.normal[:, 0] > 0)
        & _rounded(at.y, -half, half, v, head_low * tall, high * tall + 0.03, 0.08)
    )
    low_rear = 0.16 if shape.kind not in ("suv", "van", "wagon", "hatchback") else 0.12
    behind = (
        ends
        & (at.normal[:, 0] < 0)
        & _rounded(at.y, -half + 0.04, half - 0.04, v, low_rear * tall, high * tall, 0.08)
    )
    return (side & sides) | ahead | behind


def _lanes(shape: Shape) -> list[tuple[float, float]]:
    """(front, rear) x of each side window, as far as the cabin's ends allow."""
    doors, gap = shape.doors, 0.045
    if shape.kind == "bus":
        return [(a - gap, b + gap) for a, b in pairwise(doors)]
    if shape.kind in ("van", "coupe"):
        first, second = (99.0, doors[1] + gap), (doors[1] - gap, -99.0)
        return [first, second] if shape.kind == "coupe" else [first]
    pillars = [99.0, *doors[1:-1]]
    lanes = [(a - gap, b + gap) for a, b in pairwise(pillars)]
    last = doors[-2]
    if shape.kind in ("wagon", "suv"):
        quarter = doors[-1] + 0.10
        return [*lanes, (last - gap, quarter + gap), (quarter - gap, -99.0)]
    return [*lanes, (last - gap, -99.0)]


def _rounded(
    x: Tensor, left: Edge, right: Edge, y: Tensor, low: float, high: float, radius: float
) -> Tensor:
    """Within a rectangle with round corners."""
    left, right = (torch.as_tensor(edge, dtype=x.dtype) for edge in (left, right))
    cx, hx = (left + right) / 2, (right - left) / 2
    cy, hy = (low + high) / 2, (high - low) / 2
    dx, dy = (x - cx).abs() - hx + radius, (y - cy).abs() - hy + radius
    outside = torch.hypot(dx.clamp_min(0), dy.clamp_min(0)) - radius
    return torch.maximum(outside, torch.maximum(dx, dy) - radius) < 0


def _black(at: Points) -> Tensor:
    """Frames: pillars between the side windows, and a rim round the glass."""
    shape, up = at.shape, rise(at)
    _, side = _facet(at)
    tall = shape.height - shape.cowl
    front, rear = meshes.cabin_span(shape, up)
    between = (at.x < front - 0.20) & (at.x > rear + 0.17)
    if shape.kind == "van":
        between = between & (at.x > shape.doors[1] - 0.02)
    return side & between & (up > 0.10) & (up < 1 - 0.135 / tall)


# Lamps, grille, plates, trim, lines.


def body_rise(at: Points) -> Tensor:
    """Height in the front or rear face, 0 at the clearance and 1 at its upper edge."""
    shape = at.shape
    ahead = at.x > 0
    high = torch.where(ahead, shape.nose, shape.deck).to(at.x)
    return (at.z - shape.clearance) / (high - shape.clearance)


def _headlamps(at: Points) -> Tensor:
    shape, y = at.shape, at.y.abs() / (at.shape.width / 2)
    up, tall = body_rise(at), at.shape.nose - at.shape.clearance
    near = (at.x > shape.length / 2 - 0.42) & (at.normal[:, 0] > -0.05)
    v = (up - shape.lamp - 0.10) * tall
    slant = 0.10 * (y - 0.8)
    half = 0.068 if shape.kind in ("suv", "pickup", "van", "bus") else 0.052
    lamp = _rounded(y, 0.60, 1.02, v - slant, -half, half, 0.05)
    fog = torch.hypot((y - 0.76) * shape.width / 2, at.z - shape.clearance - 0.20) < 0.042
    return near & (lamp | (fog & (shape.kind not in ("van", "bus"))))


def _tail_lamps(at: Points) -> Tensor:
    shape, y = at.shape, at.y.abs() / (at.shape.width / 2)
    near = (at.x < -shape.length / 2 + 0.30) & (at.normal[:, 0] < 0.05)
    up = body_rise(at)
    if shape.kind in ("suv", "wagon", "hatchback", "van", "pickup"):
        low, high, inner = 0.62, 0.92, 0.83
    elif shape.kind == "bus":
        low, high, inner = 0.30, 0.62, 0.84
    else:
        low, high, inner = 0.70, 0.86, 0.62
    return near & (up > low) & (up < high) & (y > inner)


def _plates(at: Points) -> Tensor:
    shape = at.shape
    ends = at.normal[:, 0].abs() > 0.6
    low = shape.clearance + 0.13
    high_rear = shape.clearance + (shape.deck - shape.clearance) * 0.55
    z = torch.where(at.x > 0, at.z - low - 0.06, at.z - high_rear)
    return ends & (at.y.abs() < 0.25) & (z.abs() < 0.055)


def _grille(at: Points) -> Tensor:
    shape, up = at.shape, body_rise(at)
    near = (at.x > shape.length / 2 - 0.40) & (at.normal[:, 0] > 0.35)
    half = at.x.new_tensor(shape.grille * shape.width / 2)
    upper = _rounded(at.y, -half, half, up, 0.58, 0.86, 0.06)
    lower = _rounded(at.y, -1.25 * half, 1.25 * half, up, 0.10, 0.40, 0.06)
    return near & (upper | lower)


def _lower_trim(at: Points) -> Tensor:
    """The underside and the sill; the taller cars have cladding round the arches too."""
    shape = at.shape
    sill = at.z < shape.clearance + 0.075
    distance, _ = at.axle()
    if shape.kind in ("suv", "pickup"):
        clad = at.z < shape.clearance + 0.15
        return clad | (
            (distance < (shape.arch + 0.16) * shape.wheel) & (at.normal[:, 1].abs() > 0.3)
        )
    return sill | (at.normal[:, 2] < -0.7)


def _handles(at: Points) -> Tensor:
    shape = at.shape
    if shape.kind == "bus":
        return torch.zeros_like(at.x, dtype=torch.bool)
    z = at.z - (shape.cowl - 0.17)
    near = torch.zeros_like(at.x, dtype=torch.bool)
    for edge in shape.doors[1:]:
        near |= _rounded(at.x, edge + 0.06, edge + 0.26, z, -0.022, 0.022, 0.02)
    return near & (at.normal[:, 1].abs() > 0.6)


def _seams(at: Points) -> Tensor:
    """Gaps round doors, bonnet and boot, as darkness in [0, 1]."""
    shape, half = at.shape, 0.5 * 0.016
    side = at.normal[:, 1].abs() > 0.55
    sill = shape.clearance + 0.13
    edges = torch.stack([(at.x - edge).abs() for edge in shape.doors]).amin(0)
    within = (at.x < shape.doors[0] + half) & (at.x > shape.doors[-1] - half)
    lines = torch.minimum(edges, torch.where(within, (at.z - sill).abs(), edges.new_tensor(9.0)))
    lines = torch.where(side & (at.z > sill - half), lines, 9.0)
    above = at.normal[:, 2] > 0.6
    above = above & (at.piece == BODY)
    if shape.kind != "bus":
        ahead = at.x > shape.along(shape.screen) - 0.05
        bonnet = (at.y.abs() - 0.40 * shape.width).abs()
        lines = torch.where(above & ahead, torch.minimum(lines, bonnet), lines)
    if shape.kind in ("sedan", "coupe"):
        behind = at.x < shape.along(shape.back) + 0.05
        boot = (at.y.abs() - 0.38 * shape.width).abs()
        lines = torch.where(above & behind, torch.minimum(lines, boot), lines)
    gate = (at.y.abs() - 0.41 * shape.width).abs()
    end = (at.normal[:, 0] < -0.6) & (at.z > shape.clearance + 0.35)
    lines = torch.where(end & (at.piece == BODY), torch.minimum(lines, gate), lines)
    return 1 - smooth_step(half, 1.8 * half, lines)
