"""What each point of a car is made of, by its place: paint, windows, lamps, lines, rims.

Positions are in metres (`shapes`). A style enters as colours and choices only; where windows,
arches, doors and lamps lie is the shape's.
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
from shalabench.datasets.synthetic.cars.styles import GLASS, Style
from shalabench.datasets.synthetic.render.shade import blend, smooth_step

PARTS = ("background", "paint", "glass", "tyre", "rim", "lamp", "trim", "bed")
PAINT, GLAZED, TYRE, RIM, LAMP, TRIM, CARGO = range(1, len(PARTS))


@dataclass(frozen=True)
class Place:
    """Points of a car, one a row.

    Attributes:
        shape: The car's.
        piece: `[P]` int64, which piece of the mesh.
        point: `[P, 3]` float32, metres.
        normal: `[P, 3]` float32, outwards.
    """

    shape: Shape
    piece: Tensor
    point: Tensor
    normal: Tensor

    @property
    def x(self) -> Tensor:
        """Along the car, the nose ahead."""
        return self.point[:, 0]

    @property
    def y(self) -> Tensor:
        """To the left."""
        return self.point[:, 1]

    @property
    def z(self) -> Tensor:
        """Over the ground."""
        return self.point[:, 2]

    def only(self, rows: Tensor) -> Place:
        """The chosen points."""
        return Place(self.shape, self.piece[rows], self.point[rows], self.normal[rows])

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


def lay_out(place: Place) -> Layout:
    """Decide what lies where."""
    shape, body, cabin = place.shape, place.piece == BODY, place.piece == CABIN
    glass = cabin & _windows(place)
    distance, _ = place.axle()
    deep = place.y.abs() > 0.5 * shape.width - 0.75 * shape.wheel
    hole = body & deep & (distance < shape.arch * shape.wheel) & (place.z < 2.6 * shape.wheel)
    if shape.bed:
        rear, front, w = shape.bed
        within = (place.x > rear) & (place.x < front) & (place.y.abs() < w)
        hole = hole | (body & within & (place.normal[:, 2] > 0.4) & (place.z > shape.deck - 0.2))
    white, red = body & _headlamps(place), body & _tail_lamps(place)
    plate = body & _plates(place) & ~white
    slats = body & _grille(place) & ~plate & ~white
    chrome = body & _handles(place)
    trim = slats | plate | (body & _lower_trim(place)) | (cabin & _black(place) & ~glass)
    part = torch.full_like(place.piece, PAINT)
    part[trim] = TRIM
    part[white | red] = LAMP
    part[glass] = GLAZED
    for piece, own in ((WHEEL, TYRE), (RAIL, TRIM), (BED, CARGO)):
        part[place.piece == piece] = own
    part[(place.piece == INSIDE) | (place.piece == SEAT)] = TRIM
    part[(place.piece == WHEEL) & (distance < meshes.rim_radius(shape) + 0.008)] = RIM
    part[(place.piece == MIRROR) & (place.normal[:, 0] < -0.75)] = TRIM
    line = torch.where(body | cabin, _seams(place), torch.zeros_like(place.x))
    line = torch.where(glass | white | red | plate | slats, torch.zeros_like(line), line)
    return Layout(glass, hole, part, line, white, red, plate, chrome, slats)


# Windows.


def _rise(place: Place) -> Tensor:
    """Height within the cabin, 0 at the belt and 1 at the roof's edge."""
    base = meshes.belt_height(place.shape, place.x)
    return (place.z - base) / (meshes.roof_height(place.shape, place.x) - base)


def _facet(place: Place) -> tuple[Tensor, Tensor]:
    """(front or rear, side) of the cabin, by the normal."""
    side = place.normal[:, 1].abs() > 0.62 * place.normal.norm(dim=1)
    return ~side & (place.normal[:, 0].abs() > 0.12), side


def _windows(place: Place) -> Tensor:
    """Side windows between pillars, a windscreen and a rear window, all with round corners."""
    shape, up = place.shape, _rise(place)
    ends, side = _facet(place)
    tall = shape.height - shape.cowl
    low, high = 0.13 if shape.kind != "bus" else 0.10, 1 - 0.16 / tall
    front, rear = meshes.cabin_span(shape, up)
    width = meshes.cabin_width(shape, up)
    v = up * tall
    pillar = 0.13 if shape.kind not in ("bus", "van") else 0.10
    lanes = _lanes(shape)
    sides = torch.zeros_like(side)
    for first, last in lanes:
        a = torch.minimum(front - pillar - 0.06, torch.full_like(front, first))
        b = torch.maximum(rear + pillar + 0.03, torch.full_like(rear, last))
        sides |= _rounded(place.x, b, a, v, low * tall, high * tall, 0.055)
    half = width - 0.10
    head_low = low if shape.kind != "bus" else 0.02
    ahead = (
        ends
        & (place.normal[:, 0] > 0)
        & _rounded(place.y, -half, half, v, head_low * tall, high * tall + 0.03, 0.08)
    )
    low_rear = 0.16 if shape.kind not in ("suv", "van", "wagon", "hatchback") else 0.12
    behind = (
        ends
        & (place.normal[:, 0] < 0)
        & _rounded(place.y, -half + 0.04, half - 0.04, v, low_rear * tall, high * tall, 0.08)
    )
    return (side & sides) | ahead | behind


def _lanes(shape: Shape) -> list[tuple[float, float]]:
    """(front, rear) x of each side window, as far as the cabin's ends allow."""
    doors, gap = shape.doors, 0.045
    if shape.kind == "bus":
        panes = [doors[0], *doors[1:]]
        return [(a - gap, b + gap) for a, b in pairwise(panes)]
    if shape.kind in ("van", "coupe"):
        far = -99.0 if shape.kind == "coupe" else doors[1] + gap
        first = (99.0, doors[1] + gap)
        return [first, (doors[1] - gap, far)] if shape.kind == "coupe" else [first]
    pillars = [99.0, *doors[1:-1]]
    lanes = [(a - gap, b + gap) for a, b in pairwise(pillars)]
    last = doors[-2]
    if shape.kind in ("wagon", "suv"):
        quarter = doors[-1] + 0.10
        return [*lanes, (last - gap, quarter + gap), (quarter - gap, -99.0)]
    return [*lanes, (last - gap, -99.0)]


def _rounded(
    x: Tensor,
    left: Tensor,
    right: Tensor,
    y: Tensor,
    low: float | Tensor,
    high: float | Tensor,
    radius: float,
) -> Tensor:
    """Within a rectangle with round corners."""
    cx, hx = (left + right) / 2, (right - left) / 2
    cy, hy = (low + high) / 2, (high - low) / 2
    dx, dy = (x - cx).abs() - hx + radius, (y - cy).abs() - hy + radius
    outside = torch.hypot(dx.clamp_min(0), dy.clamp_min(0)) - radius
    return torch.maximum(outside, torch.maximum(dx, dy) - radius) < 0


def _black(place: Place) -> Tensor:
    """Frames: pillars between the side windows, and a rim round the glass."""
    shape, up = place.shape, _rise(place)
    _, side = _facet(place)
    tall = shape.height - shape.cowl
    front, rear = meshes.cabin_span(shape, up)
    between = (place.x < front - 0.20) & (place.x > rear + 0.17)
    if shape.kind == "van":
        between = between & (place.x > shape.doors[1] - 0.02)
    return side & between & (up > 0.10) & (up < 1 - 0.135 / tall)


# Lamps, grille, plates, trim, lines.


def _body_rise(place: Place) -> Tensor:
    """Height in the front or rear face, 0 at the clearance and 1 at its upper edge."""
    shape = place.shape
    ahead = place.x > 0
    high = torch.where(ahead, place.x.new_tensor(shape.nose), place.x.new_tensor(shape.deck))
    return (place.z - shape.clearance) / (high - shape.clearance)


def _headlamps(place: Place) -> Tensor:
    shape, y = place.shape, place.y.abs() / (place.shape.width / 2)
    up, tall = _body_rise(place), place.shape.nose - place.shape.clearance
    near = (place.x > shape.length / 2 - 0.42) & (place.normal[:, 0] > -0.05)
    v = (up - shape.lamp - 0.10) * tall
    slant = 0.10 * (y - 0.8)
    half = 0.068 if shape.kind in ("suv", "pickup", "van", "bus") else 0.052
    lamp = _rounded(
        y, torch.full_like(y, 0.60), torch.full_like(y, 1.02), v - slant, -half, half, 0.05
    )
    fog = torch.hypot((y - 0.76) * shape.width / 2, place.z - shape.clearance - 0.20) < 0.042
    return near & (lamp | (fog & (shape.kind not in ("van", "bus"))))


def _tail_lamps(place: Place) -> Tensor:
    shape, y = place.shape, place.y.abs() / (place.shape.width / 2)
    near = (place.x < -shape.length / 2 + 0.30) & (place.normal[:, 0] < 0.05)
    up = _body_rise(place)
    if shape.kind in ("suv", "wagon", "hatchback", "van", "pickup"):
        low, high, inner = 0.62, 0.92, 0.83
    elif shape.kind == "bus":
        low, high, inner = 0.30, 0.62, 0.84
    else:
        low, high, inner = 0.70, 0.86, 0.62
    return near & (up > low) & (up < high) & (y > inner)


def _plates(place: Place) -> Tensor:
    shape = place.shape
    ends = place.normal[:, 0].abs() > 0.6
    low = shape.clearance + 0.13
    high_rear = shape.clearance + (shape.deck - shape.clearance) * 0.55
    z = torch.where(place.x > 0, place.z - low - 0.06, place.z - high_rear)
    return ends & (place.y.abs() < 0.25) & (z.abs() < 0.055)


def _grille(place: Place) -> Tensor:
    shape, up = place.shape, _body_rise(place)
    near = (place.x > shape.length / 2 - 0.40) & (place.normal[:, 0] > 0.35)
    half = torch.full_like(up, shape.grille * shape.width / 2)
    upper = _rounded(place.y, -half, half, up, 0.58, 0.86, 0.06)
    lower = _rounded(place.y, -1.25 * half, 1.25 * half, up, 0.10, 0.40, 0.06)
    return near & (upper | lower)


def _lower_trim(place: Place) -> Tensor:
    """The underside and the sill; the taller cars have cladding round the arches too."""
    shape = place.shape
    sill = place.z < shape.clearance + 0.075
    distance, _ = place.axle()
    if shape.kind in ("suv", "pickup"):
        clad = place.z < shape.clearance + 0.15
        return clad | (
            (distance < (shape.arch + 0.16) * shape.wheel) & (place.normal[:, 1].abs() > 0.3)
        )
    return sill | (place.normal[:, 2] < -0.7)


def _handles(place: Place) -> Tensor:
    shape = place.shape
    if shape.kind == "bus":
        return torch.zeros_like(place.x, dtype=torch.bool)
    z = place.z - (shape.cowl - 0.17)
    near = torch.zeros_like(place.x, dtype=torch.bool)
    for edge in shape.doors[1:]:
        near |= _rounded(
            place.x,
            torch.full_like(z, edge + 0.06),
            torch.full_like(z, edge + 0.26),
            z,
            -0.022,
            0.022,
            0.02,
        )
    return near & (place.normal[:, 1].abs() > 0.6)


def _seams(place: Place) -> Tensor:
    """Gaps round doors, bonnet and boot, as darkness in [0, 1]."""
    shape, half = place.shape, 0.5 * 0.016
    side = place.normal[:, 1].abs() > 0.55
    sill = shape.clearance + 0.13
    edges = torch.stack([(place.x - edge).abs() for edge in shape.doors]).amin(0)
    within = (place.x < shape.doors[0] + half) & (place.x > shape.doors[-1] - half)
    lines = torch.minimum(edges, torch.where(within, (place.z - sill).abs(), edges.new_tensor(9.0)))
    lines = torch.where(side & (place.z > sill - half), lines, 9.0)
    above = place.normal[:, 2] > 0.6
    if shape.kind != "bus":
        ahead = place.x > shape.along(shape.screen) - 0.05
        bonnet = (place.y.abs() - 0.40 * shape.width).abs()
        lines = torch.where(
            above & ahead & (place.piece == BODY), torch.minimum(lines, bonnet), lines
        )
    if shape.kind in ("sedan", "coupe"):
        behind = place.x < shape.along(shape.back) + 0.05
        boot = (place.y.abs() - 0.38 * shape.width).abs()
        lines = torch.where(
            above & behind & (place.piece == BODY), torch.minimum(lines, boot), lines
        )
    gate = (place.y.abs() - 0.41 * shape.width).abs()
    end = (place.normal[:, 0] < -0.6) & (place.z > shape.clearance + 0.35)
    lines = torch.where(end & (place.piece == BODY), torch.minimum(lines, gate), lines)
    return 1 - smooth_step(half, 1.8 * half, lines)


# Colours.


def paint(place: Place, layout: Layout, style: Style) -> tuple[Tensor, Tensor]:
    """Colours `[P, 3]` and gloss `[P]` of the points, as if all were opaque."""
    dark = place.point.new_full((len(place.x), 3), style.trim)
    body = _painted(place, style)
    colour = torch.where((layout.part == TRIM)[:, None], dark, body)
    gloss = torch.where(layout.part == PAINT, style.gloss, 0.35)
    colour = colour * (1 - 0.72 * layout.line)[:, None]
    slat = (place.z * 22).frac() < 0.42
    bars = torch.where(slat, 0.42, 0.05)[:, None].expand(-1, 3)
    colour = torch.where(layout.slats[:, None], bars, colour)
    colour = _put(colour, layout.plate, _plate(place))
    colour = _put(colour, layout.chrome, place.point.new_tensor(style.first) * 0.55 + 0.12)
    colour = _put(colour, layout.white, _headlamp(place))
    colour = _put(colour, layout.red, _tail_lamp(place))
    wheel = place.piece == WHEEL
    colour = torch.where(wheel[:, None], _wheel(place, style), colour)
    gloss = torch.where(wheel, torch.where(layout.part == RIM, 0.5, 0.05), gloss)
    colour = _put(colour, place.piece == RAIL, place.point.new_tensor((0.55, 0.56, 0.58)))
    colour = _put(colour, place.piece == INSIDE, place.point.new_tensor((0.16, 0.16, 0.17)))
    colour = _put(colour, place.piece == SEAT, place.point.new_tensor((0.34, 0.31, 0.29)))
    ridges = 0.16 + 0.05 * ((place.y * 6).frac().abs() < 0.5)
    colour = torch.where((place.piece == BED)[:, None], ridges[:, None].expand(-1, 3), colour)
    inside = (place.piece == INSIDE) | (place.piece == SEAT) | (place.piece == BED)
    return colour, torch.where(inside, 0.0, gloss)


def tint(style: Style, place: Place) -> tuple[Tensor, float]:
    """Colour of the glass `[3]` and how much of it is seen, in [0, 1]."""
    colour, share = GLASS[style.glass]
    return place.point.new_tensor(colour), share


def _put(colour: Tensor, where: Tensor, what: Tensor) -> Tensor:
    return torch.where(where[:, None], what, colour)


def _painted(place: Place, style: Style) -> Tensor:
    """The two colours in the style's pattern."""
    shape, y = place.shape, place.y / (place.shape.width / 2)
    along, up = place.x / shape.length, place.z / shape.height
    belt = shape.cowl - 0.12
    second = (
        torch.zeros_like(y, dtype=torch.bool),
        (place.piece == CABIN) & (_rise(place) > 0.55),
        ((y.abs() - 0.20).abs() < 0.115) & (place.normal[:, 1].abs() < 0.7),
        (place.z < belt) & (place.z > belt - 0.20),
        place.z < 0.45 * belt + 0.55 * shape.clearance,
        (along > 0.5 - shape.screen + 0.01) & (place.z > 0.5 * shape.nose),
        (place.z < belt)
        & (place.z > belt - 0.26)
        & (place.normal[:, 1].abs() > 0.5)
        & (((place.x / 0.13).floor() + ((belt - place.z) / 0.13).floor()) % 2 == 0),
        up < 0.36 + 0.11 * torch.sin(9.0 * along + 1.2),
    )[style.pattern]
    second = second & (place.piece != MIRROR)
    first, other = (place.point.new_tensor(c) for c in (style.first, style.second))
    return torch.where(second[:, None], other, first)


def _plate(place: Place) -> Tensor:
    letters = ((place.y * 24).frac().abs() < 0.6) & (place.y.abs() < 0.20)
    middle = place.shape.clearance + 0.19
    rear = place.shape.clearance + (place.shape.deck - place.shape.clearance) * 0.55
    z = torch.where(place.x > 0, place.z - middle, place.z - rear)
    ink = letters & (z.abs() < 0.03)
    return torch.where(ink, 0.25, 0.90)[:, None].expand(-1, 3)


def _headlamp(place: Place) -> Tensor:
    """A bright lens with a darker housing round it."""
    y = place.y.abs() / (place.shape.width / 2)
    lens = torch.hypot((y - 0.80) * 1.6, (_body_rise(place) - place.shape.lamp - 0.10) * 1.3)
    glow = 1 - smooth_step(0.03, 0.20, lens)
    low, high = (
        place.point.new_tensor((0.62, 0.66, 0.70)),
        place.point.new_tensor((1.0, 0.99, 0.95)),
    )
    return blend(low.expand(len(y), 3), high.expand(len(y), 3), glow)


def _tail_lamp(place: Place) -> Tensor:
    bright = (place.z * 14).frac() < 0.5
    red = place.point.new_tensor((0.78, 0.07, 0.06))
    return torch.where(bright[:, None], red, red * 0.62)


def _wheel(place: Place, style: Style) -> Tensor:
    """Rubber, and a rim whose spokes the style chooses."""
    shape = place.shape
    distance, beyond = place.axle()
    rim = meshes.rim_radius(shape)
    r = distance / rim
    angle = torch.atan2(place.z - shape.wheel, beyond)
    metal = place.point.new_tensor(style.metal)
    spoke = _spokes(style.rim, r, angle)
    lip = (r > 0.90) & (r < 1.02)
    hub = r < 0.17
    solid = spoke | lip | hub
    deep = place.point.new_tensor((0.07, 0.07, 0.075))
    colour = torch.where(solid[:, None], metal, deep)
    cap = r < 0.09
    colour = _put(colour, cap, metal * 0.45)
    rubber = place.point.new_tensor((0.075, 0.075, 0.08))
    wall = (place.normal[:, 1].abs() < 0.5) & ((angle * 14).frac().abs() < 0.25)
    rubber = torch.where(wall[:, None], rubber * 0.6, rubber)
    outer = place.y.abs() > 0.5 * shape.width - 0.09
    return torch.where(((r < 1.02) & outer)[:, None], colour, rubber)


def _spokes(kind: int, r: Tensor, angle: Tensor) -> Tensor:
    """Whether a point of the rim, at a part of its radius and an angle, is metal."""

    def arms(count: int, half: float | Tensor, twist: float | Tensor = 0.0) -> Tensor:
        phase = (angle + twist) * count / (2 * torch.pi)
        off = (phase - phase.round()).abs() / count * 2 * torch.pi * r.clamp_min(0.05)
        return off < half

    return (
        arms(5, 0.17 - 0.05 * r),
        arms(10, 0.065 + 0.0 * r),
        arms(5, 0.055 + 0.0 * r, 0.17) | arms(5, 0.055 + 0.0 * r, -0.17),
        arms(9, 0.06 + 0.0 * r, 0.9 * r) | arms(9, 0.06 + 0.0 * r, -0.9 * r),
        (r < 0.92) & ~((arms(8, 0.06 + 0.0 * r)) & ((r - 0.68).abs() < 0.07)),
        arms(7, 0.12 + 0.0 * r, 0.8 * r),
    )[kind]
