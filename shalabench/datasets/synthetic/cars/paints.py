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
    Points,
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


def paint(at: Points, layout: Layout, style: Style) -> tuple[Tensor, Tensor]:
    """Colours `[P, 3]` and gloss `[P]` of the points, as if all were opaque."""
    dark = at.position.new_full((len(at.x), 3), style.trim)
    colour = _put(_painted(at, style), layout.part == TRIM, dark)
    gloss = torch.where(layout.part == PAINT, style.gloss, 0.35)
    colour = colour * (1 - 0.72 * layout.line)[:, None]
    slat = (at.z * 22).frac() < 0.42
    bars = torch.where(slat, 0.42, 0.05)[:, None].expand(-1, 3)
    colour = _put(colour, layout.slats, bars)
    colour = _put(colour, layout.plate, _plate(at))
    colour = _put(colour, layout.chrome, at.position.new_tensor(style.first) * 0.55 + 0.12)
    colour = _put(colour, layout.white, _headlamp(at))
    colour = _put(colour, layout.red, _tail_lamp(at))
    wheel = at.piece == WHEEL
    colour = _put(colour, wheel, _wheel(at, style))
    gloss = torch.where(wheel, torch.where(layout.part == RIM, 0.5, 0.05), gloss)
    colour = _put(colour, at.piece == RAIL, at.position.new_tensor((0.55, 0.56, 0.58)))
    colour = _put(colour, at.piece == INSIDE, at.position.new_tensor((0.16, 0.16, 0.17)))
    colour = _put(colour, at.piece == SEAT, at.position.new_tensor((0.34, 0.31, 0.29)))
    ridges = 0.16 + 0.05 * ((at.y * 6).frac().abs() < 0.5)
    colour = _put(colour, at.piece == BED, ridges[:, None].expand(-1, 3))
    inside = (at.piece == INSIDE) | (at.piece == SEAT) | (at.piece == BED)
    return colour, torch.where(inside, 0.0, gloss)


def tint(style: Style, at: Points) -> tuple[Tensor, float]:
    """Colour of the glass `[3]` and how much of it is seen, in [0, 1]."""
    colour, share = GLASS[style.glass]
    return at.position.new_tensor(colour), share


def _put(colour: Tensor, where: Tensor, what: Tensor) -> Tensor:
    return torch.where(where[:, None], what, colour)


def _painted(at: Points, style: Style) -> Tensor:
    """The two colours in the style's pattern."""
    shape, y = at.shape, at.y / (at.shape.width / 2)
    along, up = at.x / shape.length, at.z / shape.height
    belt = shape.cowl - 0.12
    second = (
        torch.zeros_like(y, dtype=torch.bool),
        (at.piece == CABIN) & (rise(at) > 0.55),
        ((y.abs() - 0.20).abs() < 0.115) & (at.normal[:, 1].abs() < 0.7),
        (at.z < belt) & (at.z > belt - 0.20),
        at.z < 0.45 * belt + 0.55 * shape.clearance,
        (along > 0.5 - shape.screen + 0.01) & (at.z > 0.5 * shape.nose),
        (at.z < belt)
        & (at.z > belt - 0.26)
        & (at.normal[:, 1].abs() > 0.5)
        & (((at.x / 0.13).floor() + ((belt - at.z) / 0.13).floor()) % 2 == 0),
        up < 0.36 + 0.11 * torch.sin(9.0 * along + 1.2),
    )[style.pattern]
    second = second & (at.piece != MIRROR)
    first, other = (at.position.new_tensor(c) for c in (style.first, style.second))
    return _put(first, second, other)


def _plate(at: Points) -> Tensor:
    letters = ((at.y * 24).frac().abs() < 0.6) & (at.y.abs() < 0.20)
    middle = at.shape.clearance + 0.19
    rear = at.shape.clearance + (at.shape.deck - at.shape.clearance) * 0.55
    z = torch.where(at.x > 0, at.z - middle, at.z - rear)
    ink = letters & (z.abs() < 0.03)
    return torch.where(ink, 0.25, 0.90)[:, None].expand(-1, 3)


def _headlamp(at: Points) -> Tensor:
    """A bright lens with a darker housing round it."""
    y = at.y.abs() / (at.shape.width / 2)
    lens = torch.hypot((y - 0.80) * 1.6, (body_rise(at) - at.shape.lamp - 0.10) * 1.3)
    glow = 1 - smooth_step(0.03, 0.20, lens)
    low, high = map(at.position.new_tensor, ((0.62, 0.66, 0.70), (1.0, 0.99, 0.95)))
    return blend(low.expand(len(y), 3), high.expand(len(y), 3), glow)


def _tail_lamp(at: Points) -> Tensor:
    bright = (at.z * 14).frac() < 0.5
    red = at.position.new_tensor((0.78, 0.07, 0.06))
    return _put(red * 0.62, bright, red)


def _wheel(at: Points, style: Style) -> Tensor:
    """Rubber, and a rim whose spokes the style chooses."""
    shape = at.shape
    distance, beyond = at.axle()
    rim = rim_radius(shape)
    r = distance / rim
    angle = torch.atan2(at.z - shape.wheel, beyond)
    metal = at.position.new_tensor(style.metal)
    lip, hub = (r > 0.90) & (r < 1.02), r < 0.17
    solid = _spokes(style.rim, r, angle) | lip | hub
    colour = _put(at.position.new_tensor((0.07, 0.07, 0.075)), solid, metal)
    colour = _put(colour, r < 0.09, metal * 0.45)  # the cap
    rubber = at.position.new_tensor((0.075, 0.075, 0.08))
    wall = (at.normal[:, 1].abs() < 0.5) & ((angle * 14).frac().abs() < 0.25)
    rubber = _put(rubber, wall, rubber * 0.6)
    outer = at.y.abs() > 0.5 * shape.width - 0.09
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
