"""Meshes of cars: a body and a cabin drawn through sections, wheels, mirrors, and what is inside.

Wheel arches, windows and a pickup's bed are no holes in the mesh: `materials` decides at which
positions the shell is open, so that their outlines are exact curves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from shalabench.datasets.synthetic.cars.shapes import Shape
from shalabench.datasets.synthetic.cars.solids import Piece, ball, box, cap, normals_of, tube
from shalabench.datasets.synthetic.render.raster import Mesh

if TYPE_CHECKING:
    from scipy.interpolate import PchipInterpolator

BODY, CABIN, WHEEL, MIRROR, RAIL, INSIDE, SEAT, BED = range(8)
SHELL = (BODY, CABIN)  # has openings
HIDDEN = (INSIDE, SEAT, BED)  # seen only through the shell


@dataclass(frozen=True)
class Car:
    """A shape's mesh, made to fit: its box has a largest side of 1, and the origin in its middle.

    Attributes:
        shape: In metres.
        mesh: Fitted.
        scale: Units of the world a metre.
        middle: `[3]`, the box's middle in metres.
    """

    shape: Shape
    mesh: Mesh
    scale: float
    middle: np.ndarray


def build(shape: Shape) -> Car:
    """The mesh of a shape."""
    kinds = {
        WHEEL: _wheels,
        MIRROR: _mirrors,
        RAIL: _rails,
        INSIDE: _inside,
        SEAT: _seats,
        BED: _bed,
    }
    pieces = [(BODY, *_body(shape)), (CABIN, *_cabin(shape))]
    pieces += [(part, *piece) for part, make in kinds.items() for piece in make(shape)]
    points, normals, faces, parts, first = [], [], [], [], 0
    for part, own, triangles in pieces:
        points.append(own)
        normals.append(normals_of(own, triangles))
        faces.append(triangles + first)
        parts.append(np.full(len(triangles), part))
        first += len(own)
    placed = np.concatenate(points)
    low, high = placed.min(0), placed.max(0)
    low[2] = min(low[2], 0.0)
    scale, middle = 1 / (high - low).max(), (low + high) / 2
    arrays = (placed - middle) * scale, *(np.concatenate(x) for x in (normals, faces, parts))
    return Car(shape, Mesh(*(torch.from_numpy(x) for x in arrays)), float(scale), middle)


Values = TypeVar("Values", np.ndarray, torch.Tensor)


def top_of_body(shape: Shape) -> PchipInterpolator:
    """Height of the body's upper edge by x."""
    half = shape.length / 2
    knots = {
        half: shape.nose - 0.05,
        half - 0.05 * shape.length: shape.nose,
        half - 0.6 * shape.screen * shape.length: 0.42 * shape.nose + 0.58 * shape.cowl,
        shape.along(shape.screen): shape.cowl,
        shape.along((shape.screen + shape.back) / 2): (shape.cowl + shape.deck) / 2,
        shape.along(min(shape.back, 0.965)): shape.deck,
        -half: shape.deck - (0.05 if shape.back < 0.95 else 0.015),
    }
    if shape.kind == "bus":
        knots = {half: shape.cowl - 0.02, 0.0: shape.cowl, -half: shape.deck}
    from scipy.interpolate import PchipInterpolator  # a second that only these data need

    at = np.array(sorted(knots))
    return PchipInterpolator(at, np.array([knots[x] for x in at]))


def cabin_ends(shape: Shape) -> tuple[float, float, float, float]:
    """The x of windscreen and rear window at the belt, and of both at the roof."""
    along = shape.along
    return along(shape.screen), along(shape.back), along(shape.brow), along(shape.crest)


def _body(shape: Shape) -> Piece:
    """Sections from tail to nose, rounded where they end."""
    half, top = shape.length / 2, top_of_body(shape)
    fillet = min(0.16, 1.4 * shape.round)
    turn = fillet * (1 - np.cos(np.linspace(0, np.pi / 2, 7)[1:-1]))
    inner = np.linspace(-half + fillet, half - fillet, 44)
    at = np.concatenate([[-half + 0.002], -half + turn, inner, (half - turn)[::-1], [half - 0.002]])
    boxy = shape.kind in ("bus", "van")
    estate = shape.back > 0.94  # the cabin goes on to the tail, and so does the body's width
    tail = (0.95, 0.98) if estate else (0.88, 0.95)
    ends = (0.95, 0.97, 1, 1, 0.97, 0.96) if boxy else (*tail, 1, 1, 0.955, 0.86)
    knots = -half, -half + 0.1 * shape.length, *shape.axles[::-1], half - 0.08 * shape.length, half
    from scipy.interpolate import PchipInterpolator

    plan = PchipInterpolator(knots, np.array(ends) * shape.width / 2)
    sections = []
    for x in at:
        gap = min(half - abs(x), fillet)
        inset = fillet - np.sqrt(max(fillet**2 - (fillet - gap) ** 2, 0))
        raised = 0.10 * np.clip(1 - (half - abs(x)) / 0.5, 0, 1) ** 2  # bumpers rise at the ends
        low, high = shape.clearance + raised + 0.6 * inset, float(top(x)) - 0.75 * inset
        sections.append(_section(x, float(plan(x)) - inset, low, high, shape))
    rings = np.stack(_close(sections))  # [S, K, 3]
    # The ends bow in plan, and lean back from the bumper.
    y, z = rings[..., 1] / (shape.width / 2), rings[..., 2]
    near = np.clip(1 - (half - np.abs(rings[..., 0])) / 0.75, 0, 1) ** 1.5
    bow = np.where(rings[..., 0] < 0, 0.06 if estate else 0.13, 0.02 if boxy else 0.13)
    bow = bow * (0.3 if boxy else 1)
    lean = np.clip((z - 0.45 * shape.nose) / shape.nose, 0, 1) ** 2
    steep = np.where(rings[..., 0] < 0, 0.03 if estate else 0.14, 0.02 if boxy else 0.16)
    rings[..., 0] -= np.sign(rings[..., 0]) * near * (bow * y**2 + steep * lean)
    points, faces = tube(rings)
    return cap(points, faces, rings.shape[:2])


def _close(sections: list[np.ndarray]) -> list[np.ndarray]:
    """Go on with smaller sections at both ends, so that faces are round and not flat."""

    def smaller(section: np.ndarray) -> list[np.ndarray]:
        middle = section.mean(0)
        return [middle + (section - middle) * part for part in (0.8, 0.55, 0.25)]

    return [*smaller(sections[0])[::-1], *sections, *smaller(sections[-1])]


def _section(x: float, w: float, low: float, high: float, shape: Shape) -> np.ndarray:
    """A closed section `[K, 3]` at one x, beginning at the middle of the underside."""
    tall = high - low
    sill, edge = 0.07, min(shape.round, 0.45 * tall, 0.8 * w)
    boxy = shape.kind in ("bus", "van")
    edge = 0.03 if boxy and x < shape.along(shape.screen) else edge
    angles = np.linspace(0, np.pi / 2, 5)
    side = [(0.955, 0.0), (0.985, 0.14), (0.992, 0.36), (0.988, 0.52), (1.0, 0.68), (0.985, 0.84)]
    if boxy:
        side = [(0.985, 0.0), (0.998, 0.2), (1.0, 0.4), (1.0, 0.6), (1.0, 0.8), (1.0, 0.95)]
    bottom, upper = low + sill, high - edge
    walls = [(w * part, bottom + (upper - bottom) * up) for part, up in side]
    shoulder = w * side[-1][0] - 0.004
    arc = [(shoulder - edge * (1 - np.cos(a)), upper + edge * np.sin(a)) for a in angles]
    under = [(0.0, low), (0.45 * w, low), (0.84 * w, low), (0.92 * w, low + 0.25 * sill)]
    crown = 0.015 if boxy else 0.035
    flat = shoulder - edge
    lid = [(flat * part, high + crown * (1 - part**2)) for part in (0.66, 0.33, 0.0)]
    halfway = [*under, *walls, *arc, *lid]
    mirrored = [(-y, z) for y, z in halfway[-2:0:-1]]
    return np.array([(x, y, z) for y, z in [*halfway, *mirrored]])


def _cabin(shape: Shape) -> Piece:
    """Rings from the belt up to the roof's edge, and in to the middle of the roof."""
    levels = [(0.0, 0.0), (0.14, 0.0), (0.3, 0.0), (0.46, 0.0), (0.62, 0.0), (0.76, 0.0)]
    fillet = 0.10 if shape.kind != "bus" else 0.14
    tall = shape.height - shape.cowl
    start = 1 - 0.85 * fillet / tall
    for a in np.linspace(0, np.pi / 2, 6):
        levels.append((start + (1 - start) * np.sin(a), fillet * (1 - np.cos(a))))
    rings = [cabin_ring(shape, up, inset) for up, inset in levels]
    edge = rings[-1]
    middle = edge.mean(0)
    for part in (0.85, 0.62, 0.36, 0.14):
        ring = middle + (edge - middle) * part
        ring[:, 2] = roof_height(shape, ring[:, 0]) + 0.03 * (1 - part**2)
        rings.append(ring)
    points, faces = tube(np.stack(rings))
    return cap(points, faces, (len(rings), len(edge)), first=False)


def roof_height(shape: Shape, x: Values) -> Values:
    """Height of the roof's edge by x: highest a little behind the windscreen."""
    _, _, front, rear = cabin_ends(shape)
    peak = front - 0.35 * (front - rear)
    drop = 0.06 if shape.kind in ("sedan", "coupe", "hatchback", "wagon", "suv") else 0.018
    reach = max(front - peak, peak - rear)
    return shape.height - 0.03 - drop * ((x - peak) / reach).clip(-1, 1) ** 2


def cabin_width(shape: Shape, up: Values) -> Values:
    """Half width of the cabin by height, 0 at the belt and 1 at the roof."""
    return shape.width / 2 * (0.985 if shape.kind in ("bus", "van") else 0.94) - (
        shape.tumble * up * (0.6 + 0.4 * up)
    )


def cabin_span(shape: Shape, up: Values) -> tuple[Values, Values]:
    """The x of the cabin's front and rear end by height; both ends bulge a little."""
    low_front, low_rear, high_front, high_rear = cabin_ends(shape)
    bulge = 0.06 * 4 * up * (1 - up) * min(1.0, (low_front - high_front) / 0.5)
    swell = 0.05 * 4 * up * (1 - up) * min(1.0, (high_rear - low_rear) / 0.5)
    front = low_front + (high_front - low_front) * up + bulge
    return front, low_rear + (high_rear - low_rear) * up - swell


def belt_height(shape: Shape, x: Values) -> Values:
    """Height at which the cabin begins, by x."""
    low_front, low_rear, _, _ = cabin_ends(shape)
    share = ((low_front - x) / (low_front - low_rear)).clip(0, 1)
    return shape.cowl + (shape.deck - shape.cowl) * share - 0.05


def cabin_ring(shape: Shape, up: float, inset: float) -> np.ndarray:
    """A closed ring `[K, 3]` at a height: a rounded rectangle whose front end bows."""
    front, rear = cabin_span(shape, np.asarray(up))
    w = float(cabin_width(shape, np.asarray(up))) - inset
    front, rear = front - inset, rear + inset
    corner = min(0.16 if shape.kind != "bus" else 0.10, 0.4 * w)
    ys = np.linspace(-1, 1, 9)
    bow = 0.16 if shape.kind not in ("bus",) else 0.04
    arc = np.linspace(0, np.pi / 2, 5)[1:-1]
    along = np.linspace(0, 1, 14)
    ends = [(front - bow * y**2 * 0.5, (w - corner) * y) for y in ys]
    turn = [
        (front - bow * 0.5 - corner * (1 - np.cos(a)), w - corner + corner * np.sin(a)) for a in arc
    ]
    left_front, left_rear = front - bow * 0.5 - corner, rear + corner + 0.03
    sides = [(left_front + (left_rear - left_front) * t, w) for t in along]
    back = [(rear + 0.03 + corner * (1 - np.sin(a)), w - corner * (1 - np.cos(a))) for a in arc]
    tail = [(rear + 0.03 * y**2, (w - corner) * y) for y in -ys]
    loop = np.array([*ends, *turn, *sides, *back, *tail])
    mirrored = np.array([(x, -y) for x, y in [*back[::-1], *sides[::-1], *turn[::-1]]])
    loop = np.concatenate([loop, mirrored])
    base = belt_height(shape, loop[:, 0])
    z = base + (roof_height(shape, loop[:, 0]) - base) * up
    return np.column_stack([loop, z])


# Wheels, mirrors, rails.

_SPOKES = 32  # segments of a wheel


def wheel_positions(shape: Shape) -> list[tuple[float, float, int]]:
    """(x, y of the outer face, side) of the four wheels."""
    outer = shape.width / 2 - 0.025
    return [(x, side * outer, side) for x in shape.axles for side in (1, -1)]


def rim_radius(shape: Shape) -> float:
    """Of the disc within a tyre."""
    return 0.70 * shape.wheel


def _wheels(shape: Shape) -> list[Piece]:
    """Tyres with round shoulders; the rim lies a little deeper and bulges to its hub."""
    r, rim, width = shape.wheel, rim_radius(shape), 0.62 * shape.wheel
    profile = [  # (radius, depth inwards from the outer face)
        (0.86 * r, width), (0.97 * r, width - 0.02), (r, width - 0.06), (r, 0.06),
        (0.97 * r, 0.018), (0.88 * r, 0.0), (rim + 0.012, 0.006), (rim, 0.03),
        (0.6 * rim, 0.045), (0.25 * rim, 0.03), (0.10 * rim, 0.025),
    ]  # fmt: skip
    angles = np.linspace(0, 2 * np.pi, _SPOKES, endpoint=False)
    pieces = []
    for x, y, side in wheel_positions(shape):
        radius, depth = np.array(profile).T[:, :, None]  # [S, 1] each
        circle = x + radius * np.cos(angles), y - side * depth, r + radius * np.sin(angles)
        rings = np.stack(np.broadcast_arrays(*circle), -1)  # [S, K, 3]
        points, faces = tube(rings if side < 0 else rings[:, ::-1])
        pieces.append(cap(points, faces, rings.shape[:2], first=False))
    return pieces


def _mirrors(shape: Shape) -> list[Piece]:
    tall = 0.30 if shape.kind == "bus" else 0.14 if shape.kind in ("suv", "pickup", "van") else 0.11
    x = shape.along(shape.screen) - (0.30 if shape.kind not in ("bus", "van") else 0.25)
    x = shape.along(0.0) - 0.02 if shape.kind == "bus" else x
    z = float(belt_height(shape, np.asarray(x))) + (0.85 if shape.kind == "bus" else 0.14)
    pieces = []
    for side in (1, -1):
        y = side * (shape.width / 2 + 0.07)
        pieces.append(ball((x, y, z), (0.075, 0.115, tall * 0.6), 2.6))
        stem = (x - 0.02, y - side * 0.12, z - 0.055), (0.04, 0.15, 0.022)
        pieces.append(ball(*stem, 3.0))
    return pieces


def _rails(shape: Shape) -> list[Piece]:
    """Rails along the roof of wagons and of the taller cars for leisure."""
    if shape.kind not in ("wagon", "suv"):
        return []
    _, _, front, rear = cabin_ends(shape)
    y = float(cabin_width(shape, np.asarray(1.0))) - 0.09
    x = np.linspace(rear + 0.12, front - 0.30, 12)
    lift = 0.055 * np.minimum(1, 6 * np.minimum(x - x[0], x[-1] - x) / (x[-1] - x[0]))
    z = roof_height(shape, x) + lift
    pieces = []
    for side in (1, -1):
        square = np.array([(-0.018, -0.02), (0.018, -0.02), (0.018, 0.02), (-0.018, 0.02)])
        bar = x[:, None], side * y + square[:, 0], z[:, None] + square[:, 1]
        rings = np.stack(np.broadcast_arrays(*bar), -1)  # [S, K, 3]
        points, faces = tube(rings)
        pieces.append(cap(points, faces, rings.shape[:2]))
    return pieces


# What is seen through windows, and a pickup's bed.


def _inside(shape: Shape) -> list[Piece]:
    """A floor above the wheels and a dashboard."""
    front, rear, _, _ = cabin_ends(shape)
    w = shape.width / 2 - 0.06
    floor = max(2 * shape.wheel + 0.02, shape.clearance + 0.25)
    if shape.kind == "bus":
        floor = 2 * shape.wheel + 0.05
    x, y, z = (front + rear) / 2, w, min(floor, shape.cowl - 0.12)
    pieces = [box((x, 0, z - 0.02), ((front - rear) / 2 - 0.02, y, 0.02))]
    high = shape.cowl - 0.03
    pieces += _wells(shape)
    pieces.append(box((front - 0.34, 0, (z + high) / 2), (0.30, w - 0.06, (high - z) / 2)))
    return pieces


def _wells(shape: Shape) -> list[Piece]:
    """Discs behind the wheels, so that no light falls through two arches."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    pieces = []
    for x, y, side in wheel_positions(shape):
        r, depth = 1.25 * shape.wheel, y - side * 0.68 * shape.wheel
        turned = angles * -side  # counter-clockwise as seen from outside
        x_of, z_of = x + r * np.cos(turned), shape.wheel + r * np.sin(turned)
        ring = np.column_stack([x_of, np.full(24, depth), z_of])
        j = np.arange(24)
        fan = np.stack([np.full(24, 24), j, (j + 1) % 24], 1)
        pieces.append((np.concatenate([ring, [[x, depth, shape.wheel]]]), fan))
    return pieces


def _seats(shape: Shape) -> list[Piece]:
    _, rear, high_front, high_rear = cabin_ends(shape)
    top = min(shape.cowl + 0.40, shape.height - 0.22)
    base = min(2 * shape.wheel, shape.cowl - 0.2)
    rows = {"coupe": 1, "pickup": 2, "van": 1, "bus": 6}.get(shape.kind, 2)
    first = high_front - (0.55 if shape.kind != "bus" else 1.0)
    last = max(high_rear + 0.10, rear + 0.35)
    pieces = []
    for x in np.linspace(first, last if rows > 1 else first, rows):
        for side in (1, -1):
            y = side * 0.235 * shape.width
            half = (base + top) / 2
            pieces.append(ball((x, y, half - 0.06), (0.09, 0.24, (top - base) / 2 - 0.05), 4.0, 7))
            pieces.append(ball((x - 0.03, y, top - 0.04), (0.05, 0.12, 0.09), 3.0, 6))
            pieces.append(ball((x + 0.22, y, base + 0.08), (0.26, 0.24, 0.09), 4.0, 6))
    return pieces


def _bed(shape: Shape) -> list[Piece]:
    if shape.bed is None:
        return []
    rear, front, w = shape.bed
    low, high = max(shape.deck - 0.50, 2 * shape.wheel + 0.01), shape.deck + 0.03
    points, faces = box(
        ((rear + front) / 2, 0, (low + high) / 2), ((front - rear) / 2, w, (high - low) / 2)
    )
    return [(points, faces[:-2, ::-1])]  # seen from within, and open above
