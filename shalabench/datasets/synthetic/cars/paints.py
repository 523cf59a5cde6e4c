"""Colours and gloss of the points of a car in a style."""

from __future__ import annotations

import torch
from torch import Tensor

from shalabench.datasets.synthetic.cars.materials import (
    PAINT,
    RIM,
    TRIM,
    Edge,
    Layout,
    Place,
    body_rise,
    rise,
)
from shalabench.datasets.synthetic.cars.meshes import (
    BED,
    CABIN,
    INSIDE,
    MIRROR,
    RAIL,
    SEAT,
    WHEEL,
    rim_radius,
)
from shalabench.datasets.synthetic.cars.styles import GLASS, Style
from shalabench.datasets.synthetic.render.shade import blend, smooth_step


def paint(place: Place, layout: Layout, style: Style) -> tuple[Tensor, Tensor]:
    """Colours `[P, 3]` and gloss `[P]` of the points, as if all were opaque."""
    dark = place.point.new_full((len(place.x), 3), style.trim)
    colour = _put(_painted(place, style), layout.part == TRIM, dark)
    gloss = torch.where(layout.part == PAINT, style.gloss, 0.35)
    colour = colour * (1 - 0.72 * layout.line)[:, None]
    slat = (place.z * 22).frac() < 0.42
    bars = torch.where(slat, 0.42, 0.05)[:, None].expand(-1, 3)
    colour = _put(colour, layout.slats, bars)
    colour = _put(colour, layout.plate, _plate(place))
    colour = _put(colour, layout.chrome, place.point.new_tensor(style.first) * 0.55 + 0.12)
    colour = _put(colour, layout.white, _headlamp(place))
    colour = _put(colour, layout.red, _tail_lamp(place))
    wheel = place.piece == WHEEL
    colour = _put(colour, wheel, _wheel(place, style))
    gloss = torch.where(wheel, torch.where(layout.part == RIM, 0.5, 0.05), gloss)
    colour = _put(colour, place.piece == RAIL, place.point.new_tensor((0.55, 0.56, 0.58)))
    colour = _put(colour, place.piece == INSIDE, place.point.new_tensor((0.16, 0.16, 0.17)))
    colour = _put(colour, place.piece == SEAT, place.point.new_tensor((0.34, 0.31, 0.29)))
    ridges = 0.16 + 0.05 * ((place.y * 6).frac().abs() < 0.5)
    colour = _put(colour, place.piece == BED, ridges[:, None].expand(-1, 3))
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
        (place.piece == CABIN) & (rise(place) > 0.55),
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
    return _put(first, second, other)


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
    lens = torch.hypot((y - 0.80) * 1.6, (body_rise(place) - place.shape.lamp - 0.10) * 1.3)
    glow = 1 - smooth_step(0.03, 0.20, lens)
    low, high = map(place.point.new_tensor, ((0.62, 0.66, 0.70), (1.0, 0.99, 0.95)))
    return blend(low.expand(len(y), 3), high.expand(len(y), 3), glow)


def _tail_lamp(place: Place) -> Tensor:
    bright = (place.z * 14).frac() < 0.5
    red = place.point.new_tensor((0.78, 0.07, 0.06))
    return _put(red * 0.62, bright, red)


def _wheel(place: Place, style: Style) -> Tensor:
    """Rubber, and a rim whose spokes the style chooses."""
    shape = place.shape
    distance, beyond = place.axle()
    rim = rim_radius(shape)
    r = distance / rim
    angle = torch.atan2(place.z - shape.wheel, beyond)
    metal = place.point.new_tensor(style.metal)
    lip, hub = (r > 0.90) & (r < 1.02), r < 0.17
    solid = _spokes(style.rim, r, angle) | lip | hub
    colour = _put(place.point.new_tensor((0.07, 0.07, 0.075)), solid, metal)
    colour = _put(colour, r < 0.09, metal * 0.45)  # the cap
    rubber = place.point.new_tensor((0.075, 0.075, 0.08))
    wall = (place.normal[:, 1].abs() < 0.5) & ((angle * 14).frac().abs() < 0.25)
    rubber = _put(rubber, wall, rubber * 0.6)
    outer = place.y.abs() > 0.5 * shape.width - 0.09
    return _put(rubber, (r < 1.02) & outer, colour)


def _spokes(kind: int, r: Tensor, angle: Tensor) -> Tensor:
    """Whether a point of the rim, at a part of its radius and an angle, is metal."""

    def arms(count: int, half: Edge, twist: Edge = 0.0) -> Tensor:
        phase = (angle + twist) * count / (2 * torch.pi)
        off = (phase - phase.round()).abs() / count * 2 * torch.pi * r.clamp_min(0.05)
        return off < half

    return (
        arms(5, 0.17 - 0.05 * r),
        arms(10, 0.065),
        arms(5, 0.055, 0.17) | arms(5, 0.055, -0.17),
        arms(9, 0.06, 0.9 * r) | arms(9, 0.06, -0.9 * r),
        (r < 0.92) & ~((arms(8, 0.06)) & ((r - 0.68).abs() < 0.07)),
        arms(7, 0.12, 0.8 * r),
    )[kind]
