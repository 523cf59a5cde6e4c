"""Drawings of birds: plumage of five colours, four builds, three sizes, four backgrounds.

A bird is drawn in coordinates of its own: the body's middle is the origin, it looks to the right,
and one unit is about the length of its trunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shalabench.api import Attribute
from shalabench.datasets.synthetic.shapes import Field, Frame, cloudy, coverage, merge, paint

SIDE = 64
PLUMAGE = {
    "black": (0.12, 0.12, 0.15),
    "white": (0.96, 0.95, 0.92),
    "grey": (0.56, 0.58, 0.62),
    "brown": (0.48, 0.30, 0.16),
    "red": (0.80, 0.13, 0.12),
    "yellow": (0.97, 0.82, 0.16),
    "green": (0.24, 0.55, 0.20),
    "blue": (0.16, 0.38, 0.80),
}
HORN = {
    "black": (0.10, 0.10, 0.12),
    "grey": (0.62, 0.65, 0.70),
    "yellow": (1.00, 0.86, 0.22),
    "orange": (0.95, 0.45, 0.08),
}
BUILDS = ("plump", "slender", "long-tailed", "long-legged")
PLACES = ("sky", "branch", "grass", "water")
ATTRIBUTES = (
    *(Attribute(part, tuple(PLUMAGE)) for part in ("body", "wing", "crown", "breast")),
    Attribute("bill", tuple(HORN)),
    Attribute("size", ("small", "medium", "large")),
    Attribute("shape", BUILDS),
    Attribute("facing", ("left", "right")),
    Attribute("background", PLACES),
)
_CHUNK = 32  # pictures at a time, so that the processor's cache holds them

# One row a build. Lengths in units; "ahead" to "above" is what the picture must have room for.
_BUILD = {
    "trunk": ((0.42, 0.34), (0.47, 0.215), (0.40, 0.25), (0.40, 0.235)),
    "rise": (-0.15, -0.30, -0.18, -0.10),
    "head": ((0.31, -0.31), (0.43, -0.25), (0.36, -0.27), (0.50, -0.66)),
    "skull": (0.225, 0.175, 0.185, 0.155),
    "bill": (0.20, 0.22, 0.19, 0.44),
    "tail": ((-0.66, 0.08), (-0.90, 0.28), (-1.15, 0.32), (-0.58, 0.10)),
    "tailend": (0.085, 0.045, 0.075, 0.06),
    "leg": (0.22, 0.20, 0.22, 0.68),
    "ahead": (0.72, 0.80, 0.72, 1.08),
    "behind": (0.70, 0.92, 1.19, 0.62),
    "above": (0.54, 0.44, 0.48, 0.84),
    "size": (1.06, 1.03, 0.92, 0.92),
}
_UNIT = (19.0, 25.5, 34.0)  # pixels of a small, a medium and a large bird's unit


@dataclass(frozen=True)
class _Bird:
    """The birds of some pictures: one number or colour a picture, and where they stand."""

    frame: Frame
    build: dict[str, list[Field]]
    colours: dict[str, np.ndarray]
    flying: bool
    swimming: Field
    ground: Field


def draw(values: np.ndarray, seed: list[int]) -> np.ndarray:
    """Draw one picture for each row of attribute values.

    Args:
        values: int `[N, 9]`, numbers of the values of `ATTRIBUTES`.
        seed: Of what the attributes leave open: place in the picture, posture, light, scenery.

    Returns:
        uint8 `[N, 3, 64, 64]`.
    """
    done = np.empty((len(values), 3, SIDE, SIDE), np.uint8)
    column = [attribute.name for attribute in ATTRIBUTES].index("background")
    for number, place in enumerate(PLACES):
        rows = np.flatnonzero(values[:, column] == number)
        for first in range(0, len(rows), _CHUNK):
            chunk = rows[first : first + _CHUNK]
            painted = _draw(values[chunk], place, np.random.default_rng([*seed, number, first]))
            done[chunk] = (np.clip(painted, 0, 1) * 255 + 0.5).astype(np.uint8)
    return done


def _draw(values: np.ndarray, place: str, rng: np.random.Generator) -> np.ndarray:
    """Pictures float32 `[N, 3, 64, 64]` of one place, about in [0, 1]."""
    n, told = len(values), {a.name: values[:, i] for i, a in enumerate(ATTRIBUTES)}
    bird = _pose(told, place, rng)
    canvas = {"sky": _sky, "branch": _foliage, "grass": _meadow, "water": _lake}[place](n, rng)
    if place == "branch":
        _perch(canvas, bird, rng)
    if place != "sky":
        _legs(canvas, bird)
    _plumage(canvas, bird, rng)
    if place == "grass":
        _blades(canvas, rng, bird.ground + 1, bird.ground + 5, 9)
    if place == "water":
        canvas = _mirror(canvas, bird.ground, rng)
    light = np.float32(0.97) + np.float32(0.06) * cloudy(rng, n, SIDE, (3, 3))
    return canvas * light[:, None]


def _pose(told: dict[str, np.ndarray], place: str, rng: np.random.Generator) -> _Bird:
    """Where each bird is, and how it holds itself, so that all of it is in the picture."""
    n, kind = len(told["body"]), told["shape"]
    build = {
        name: [_one(np.take(part, kind)) for part in np.array(rows).T.reshape(-1, len(BUILDS))]
        for name, rows in _BUILD.items()
    }
    flying = place == "sky"
    afloat = (place == "water") * (kind != BUILDS.index("long-legged"))  # those wade
    swimming = _one(afloat)
    unit = _one(np.take(_UNIT, told["size"]) * rng.uniform(0.95, 1.05, n)) * build["size"][0]
    leg = build["leg"][0] * (1 - swimming) * np.float32(not flying)
    high = np.maximum(build["above"][0], np.float32(0.72 if flying else 0))
    low = build["trunk"][1] + leg
    # The box around the bird is put where it fits, at random.
    width = (build["ahead"][0] + build["behind"][0]) * unit
    height = (high + low) * unit
    spare_x, spare_y = np.maximum(SIDE - 2 - width, 0), np.maximum(SIDE - 5 - height, 0)
    left = 1 + spare_x * (0.5 + _one(rng.uniform(-0.35, 0.35, n)))
    top = 2 + spare_y * (np.float32(0.58) + _one(rng.uniform(-0.3, 0.3, n)))
    to_right = _one(told["facing"] == 1)
    centre = left + np.where(to_right, build["behind"][0], build["ahead"][0]) * unit
    middle = top + high * unit
    lean = _one(rng.uniform(-0.10, 0.10, n) + flying * rng.uniform(-0.28, 0.05, n))
    lean = lean * (1 - swimming * np.float32(0.6))
    pixel = np.arange(SIDE, dtype=np.float32) + np.float32(0.5)
    dx = (pixel[None, None, :] - centre) / unit * np.where(to_right, 1, -1).astype(np.float32)
    dy = (pixel[None, :, None] - middle) / unit
    stretch = np.sqrt(1 + lean * lean)
    frame = Frame((dx + lean * dy) / stretch, (dy - lean * dx) / stretch, unit)
    colours = {}
    for part in ("body", "wing", "crown", "breast", "bill"):
        palette = np.array(list((HORN if part == "bill" else PLUMAGE).values()))
        shade = palette[told[part]] * rng.uniform(0.93, 1.05, (n, 1))
        shade = np.clip(shade + rng.uniform(-0.02, 0.02, (n, 3)), 0.05, 1)
        colours[part] = shade.astype(np.float32)[:, :, None, None]
    sunk = np.float32(0.86) - np.float32(0.41) * swimming
    ground = middle + (build["trunk"][1] * sunk + leg) * unit
    return _Bird(frame, build, colours, flying, swimming, ground)


def _one(numbers: np.ndarray) -> Field:
    """One number a picture, ready to meet its pixels."""
    return np.asarray(numbers, np.float32)[:, None, None]


def _rgb(*channels: float) -> np.ndarray:
    return np.array(channels, np.float32)[None, :, None, None]


def _mix(first: np.ndarray, second: np.ndarray, share: Field | float) -> np.ndarray:
    share = np.float32(share) if np.isscalar(share) else share[:, None]
    return first + (second - first) * share


# The bird, from what lies behind to what lies before.


def _legs(canvas: np.ndarray, bird: _Bird) -> None:
    frame, (belly, leg) = bird.frame, (bird.build["trunk"][1], bird.build["leg"][0])
    shown = 1 - bird.swimming
    thick = np.maximum(np.float32(0.028), np.float32(0.55) / frame.unit)
    colour = _mix(bird.colours["bill"], _rgb(0.30, 0.22, 0.18), 0.55)
    for at, bend in ((-0.06, -0.05), (0.08, 0.03)):
        hip, knee, foot = at, at + bend - 0.03, at + bend + 0.02
        start, end = belly * np.float32(0.80), belly * np.float32(0.86) + leg
        half = (start + end) / 2
        upper = frame.limb((hip, start), (knee, half), (thick * np.float32(1.4), thick))
        lower = frame.limb((knee, half), (foot, end), (thick, thick))
        toes = frame.limb((foot - 0.04, end), (foot + 0.10, end), (thick, thick))
        both = np.minimum(np.minimum(upper, lower), toes)
        paint(canvas, colour * np.float32(0.8), coverage(both) * shown)


def _plumage(canvas: np.ndarray, bird: _Bird, rng: np.random.Generator) -> None:
    frame, build, colours, unit = bird.frame, bird.build, bird.colours, bird.frame.unit
    n = len(canvas)
    (rx, ry), (hx, hy) = build["trunk"], build["head"]
    skull, rise = build["skull"][0], build["rise"][0]
    down = cloudy(rng, n, SIDE, (24, 24)) - np.float32(0.5)  # feathers
    if bird.flying:
        far_wing = _raised(bird, shift=0.16, reach=0.92)
        _feathers(canvas, colours["wing"] * np.float32(0.72), far_wing, down)
    tail = frame.limb(
        (-rx * np.float32(0.6), ry * np.float32(0.0)),
        tuple(build["tail"]),
        (ry * np.float32(0.38), build["tailend"][0]),
    )
    _feathers(canvas, colours["body"] * np.float32(0.80), tail, down)
    quill = frame.limb((-rx, ry * np.float32(0.12)), tuple(build["tail"]), (0.012, 0.012))
    paint(canvas, colours["body"] * np.float32(0.55), coverage(quill) * np.float32(0.55))

    trunk = frame.ellipse((0.0, 0.0), (rx, ry), rise)
    neck = frame.limb(
        (rx * np.float32(0.55), -ry * np.float32(0.25)),
        (hx - skull * np.float32(0.15), hy + skull * np.float32(0.25)),
        (ry * np.float32(0.55), skull * np.float32(0.62)),
    )
    head = frame.ellipse((hx, hy), (skull * np.float32(1.04), skull))
    whole = merge(merge(trunk, neck, unit * np.float32(0.12)), head, unit * np.float32(0.08))
    _bill(canvas, bird)
    # Light from above: the back is bright, the belly dark, the rim darker still.
    tilt = np.clip((frame.y - hy * np.float32(0.3)) / (ry + np.float32(0.25)), -1, 1)
    shade = np.float32(1.02) - np.float32(0.13) * tilt
    _feathers(canvas, colours["body"] * shade[:, None], whole, down)

    front = frame.ellipse(
        (rx * np.float32(0.52), ry * np.float32(0.36)),
        (rx * np.float32(0.62), ry * np.float32(0.78)),
        np.float32(-0.35),
    )
    breast = np.maximum(front, whole + np.float32(0.35))
    glow = colours["breast"] * (np.float32(1.04) - np.float32(0.10) * tilt)[:, None]
    paint(canvas, glow * (1 + np.float32(0.14) * down)[:, None], coverage(breast, 1.6))

    brow = frame.below((hx, hy - skull * np.float32(0.10)), np.float32(-0.22))
    crest = frame.ellipse(
        (hx - skull * np.float32(0.10), hy - skull * np.float32(0.10)),
        (skull * np.float32(1.10), skull * np.float32(1.02)),
    )
    crown = np.maximum(np.maximum(crest, -brow), np.minimum(whole, crest) + np.float32(0.2))
    lit = np.float32(1.06) + np.float32(0.16) * down
    paint(canvas, colours["crown"] * lit[:, None], coverage(crown, 1.2))
    _eye(canvas, bird)
    if bird.flying:
        near_wing = _raised(bird, shift=-0.08, reach=1.0)
        _feathers(canvas, colours["wing"], near_wing, down)
        _pinions(canvas, bird, near_wing)
    else:
        _folded_wing(canvas, bird, down)


def _feathers(canvas: np.ndarray, colour: np.ndarray, shape: Field, down: Field) -> None:
    """Paint plumage: a faint dark rim tells it from what is behind, and its colour is uneven."""
    paint(canvas, colour * np.float32(0.42), coverage(shape - np.float32(0.35)))
    textured = colour * (1 + np.float32(0.16) * down)[:, None]
    paint(canvas, textured, coverage(shape + np.float32(0.45), 1.3))


def _bill(canvas: np.ndarray, bird: _Bird) -> None:
    frame, skull = bird.frame, bird.build["skull"][0]
    hx, hy = bird.build["head"]
    long, root = bird.build["bill"][0], hx + skull * np.float32(0.62)
    thick = np.maximum(skull * np.float32(0.50), np.float32(1.7) / frame.unit)
    middle = hy + skull * np.float32(0.16)
    tip = hx + skull + long
    bill = frame.polygon(
        (root, middle - thick),
        (tip, middle + thick * np.float32(0.10)),
        (root, middle + thick * np.float32(0.86)),
    )
    colour = bird.colours["bill"]
    paint(canvas, colour * np.float32(0.45), coverage(bill - np.float32(0.30)))
    paint(canvas, colour, coverage(bill + np.float32(0.15)))
    gape = frame.limb((root, middle + thick * np.float32(0.12)), (tip, middle), (0.008, 0.004))
    paint(canvas, colour * np.float32(0.6), coverage(gape) * np.float32(0.5))


def _eye(canvas: np.ndarray, bird: _Bird) -> None:
    frame, skull = bird.frame, bird.build["skull"][0]
    hx, hy = bird.build["head"]
    x, y = hx + skull * np.float32(0.36), hy + skull * np.float32(0.10)
    size = np.maximum(skull * np.float32(0.22), np.float32(0.95) / frame.unit)
    ring = frame.ellipse((x, y), (size * np.float32(1.45), size * np.float32(1.45)))
    paint(canvas, _rgb(0.93, 0.90, 0.80), coverage(ring) * np.float32(0.75))
    paint(canvas, _rgb(0.05, 0.04, 0.05), coverage(frame.ellipse((x, y), (size, size))))
    spark = size * np.float32(0.36)
    glint = frame.ellipse((x + spark * np.float32(0.9), y - spark), (spark, spark))
    paint(canvas, _rgb(1, 1, 1), coverage(glint) * np.float32(0.95))


def _folded_wing(canvas: np.ndarray, bird: _Bird, down: Field) -> None:
    frame, colour = bird.frame, bird.colours["wing"]
    rx, ry = bird.build["trunk"]
    slope = bird.build["rise"][0] * np.float32(0.5) - np.float32(0.06)
    at = (-rx * np.float32(0.22), -ry * np.float32(0.14))
    shoulder = frame.ellipse(at, (rx * np.float32(0.66), ry * np.float32(0.52)), slope)
    tip = frame.limb(
        (-rx * np.float32(0.35), ry * np.float32(0.02)),
        (-rx * np.float32(1.22), ry * np.float32(0.30)),
        (ry * np.float32(0.36), np.float32(0.02)),
    )
    wing = merge(shoulder, tip, frame.unit * np.float32(0.10))
    _feathers(canvas, colour, wing, down)
    inside = coverage(wing + np.float32(0.9))
    for place in (-0.10, -0.42):  # wing bars
        x = rx * np.float32(place)
        bar = frame.limb(
            (x, -ry * np.float32(0.55)),
            (x - rx * np.float32(0.20), ry * np.float32(0.50)),
            (np.float32(0.022), np.float32(0.030)),
        )
        paint(canvas, _contrast(colour), coverage(bar, 1.4) * inside * np.float32(0.42))
    for low in (0.06, 0.24):  # flight feathers
        quill = frame.limb(
            (-rx * np.float32(0.45), ry * np.float32(low)),
            (-rx * np.float32(1.15), ry * np.float32(0.24 + low * 0.4)),
            (np.float32(0.010), np.float32(0.010)),
        )
        paint(canvas, colour * np.float32(0.5), coverage(quill) * inside * np.float32(0.6))


def _raised(bird: _Bird, shift: float, reach: float) -> Field:
    """A wing lifted in flight, from the shoulder up and back."""
    rx, ry = bird.build["trunk"]
    root = (rx * np.float32(0.10 + shift), -ry * np.float32(0.35))
    tip = (root[0] - np.float32(0.34), -ry * np.float32(0.35) - np.float32(0.58 * reach))
    arm = bird.frame.limb(root, tip, (np.float32(0.20), np.float32(0.045)))
    trail = bird.frame.limb(
        (root[0] - np.float32(0.16), root[1] + np.float32(0.02)),
        (tip[0] - np.float32(0.02), tip[1] + np.float32(0.20)),
        (np.float32(0.18), np.float32(0.05)),
    )
    return merge(arm, trail, bird.frame.unit * np.float32(0.10))


def _pinions(canvas: np.ndarray, bird: _Bird, wing: Field) -> None:
    """Lines along the flight feathers of the near wing."""
    rx, ry = bird.build["trunk"]
    inside = coverage(wing + np.float32(0.8))
    for k in (0.0, 0.12, 0.24):
        line = bird.frame.limb(
            (rx * np.float32(0.02) - np.float32(k * 0.8), -ry * np.float32(0.5)),
            (
                rx * np.float32(0.02) - np.float32(0.30 + k * 0.5),
                -ry * np.float32(0.35) - np.float32(0.54 - 1.2 * k),
            ),
            (np.float32(0.012), np.float32(0.008)),
        )
        ink = _contrast(bird.colours["wing"])
        paint(canvas, ink, coverage(line) * inside * np.float32(0.35))


def _contrast(colour: np.ndarray) -> np.ndarray:
    """Lighter than a dark colour, darker than a light one."""
    brightness = (colour[:, :1] + colour[:, 1:2] + colour[:, 2:]) / 3
    return np.where(
        brightness > np.float32(0.62),
        colour * np.float32(0.55),
        colour + (1 - colour) * np.float32(0.75),
    )


# The backgrounds.


def _rows() -> np.ndarray:
    return ((np.arange(SIDE, dtype=np.float32) + np.float32(0.5)) / SIDE)[None, :, None]


def _plain(n: int) -> Frame:
    """The picture's own coordinates, in pixels."""
    pixel = np.arange(SIDE, dtype=np.float32) + np.float32(0.5)
    x = np.broadcast_to(pixel[None, None, :], (n, SIDE, SIDE))
    return Frame(x, np.broadcast_to(pixel[None, :, None], (n, SIDE, SIDE)), np.float32(1))


def _tint(rng: np.random.Generator, n: int, spread: float) -> np.ndarray:
    return rng.uniform(-spread, spread, (n, 3)).astype(np.float32)[:, :, None, None]


def _sky(n: int, rng: np.random.Generator) -> np.ndarray:
    warm = _one(rng.random(n) ** 3)
    top = _mix(_rgb(0.36, 0.62, 0.90), _rgb(0.52, 0.62, 0.86), warm)
    bottom = _mix(_rgb(0.80, 0.91, 0.98), _rgb(0.99, 0.87, 0.76), warm)
    canvas = _mix(top, bottom, np.broadcast_to(_rows(), (n, SIDE, SIDE)))
    canvas = canvas + _tint(rng, n, 0.02)
    frame, fluff = _plain(n), cloudy(rng, n, SIDE, (9, 7))
    for _ in range(3):
        x, y = _one(rng.uniform(0, SIDE, n)), _one(rng.uniform(4, SIDE, n))
        wide = _one(rng.uniform(7, 17, n))
        puff = frame.ellipse((x, y), (wide, wide * np.float32(0.34)))
        bump = frame.ellipse(
            (x - wide * np.float32(0.2), y - wide * np.float32(0.25)),
            (wide * np.float32(0.5), wide * np.float32(0.36)),
        )
        cloud = merge(puff, bump, np.float32(4)) + (fluff - np.float32(0.5)) * np.float32(7)
        paint(canvas, _rgb(1.0, 0.99, 0.97), coverage(cloud, 6) * np.float32(0.85))
    return canvas


def _foliage(n: int, rng: np.random.Generator) -> np.ndarray:
    """Leaves out of focus, with light between them."""
    base = _mix(_rgb(0.62, 0.72, 0.48), _rgb(0.42, 0.56, 0.40), _one(rng.random(n)))
    base = base + _tint(rng, n, 0.04)
    mottle = cloudy(rng, n, SIDE, (5, 5)) - np.float32(0.5)
    canvas = base * (1 + np.float32(0.34) * mottle)[:, None]
    frame = _plain(n)
    for k in range(7):
        at = _one(rng.uniform(0, SIDE, n)), _one(rng.uniform(0, SIDE, n))
        radius = _one(rng.uniform(3, 8.5, n))
        light = _rgb(0.90, 0.93, 0.66) if k % 2 else _rgb(0.28, 0.44, 0.27)
        spot = coverage(frame.ellipse(at, (radius, radius)), 4)
        paint(canvas, light, spot * np.float32(0.34))
    return canvas


def _meadow(n: int, rng: np.random.Generator) -> np.ndarray:
    rows = _rows()
    horizon = _one(rng.uniform(0.30, 0.46, n))
    sky = _mix(_rgb(0.78, 0.88, 0.95), _rgb(0.97, 0.95, 0.86), rows * np.float32(2))
    field = _mix(
        _rgb(0.66, 0.76, 0.38),
        _rgb(0.36, 0.56, 0.22),
        np.clip((rows - horizon) / (1 - horizon), 0, 1),
    )
    canvas = np.broadcast_to(sky, (n, 3, SIDE, SIDE)) + _tint(rng, n, 0.02)
    frame, bumps = _plain(n), cloudy(rng, n, SIDE, (1, 6))
    hedge = (horizon - np.float32(0.02)) * SIDE - bumps * np.float32(7)
    paint(canvas, _rgb(0.46, 0.60, 0.46), coverage(hedge - frame.y, 2))
    tuft = cloudy(rng, n, SIDE, (12, 26)) - np.float32(0.5)
    field = field * (1 + np.float32(0.30) * tuft)[:, None] + _tint(rng, n, 0.03)
    paint(canvas, field, coverage(horizon * SIDE - frame.y, 2))
    _blades(canvas, rng, horizon * SIDE + 4, np.full((n, 1, 1), SIDE - 8, np.float32), 10)
    petals = np.array([(1, 0.97, 0.9), (0.98, 0.85, 0.3), (0.85, 0.5, 0.75)], np.float32)
    for _ in range(4):
        at = (_one(rng.uniform(0, SIDE, n)), _one(rng.uniform(0.62, 0.98, n)) * SIDE)
        colour = petals[rng.integers(3, size=n)][:, :, None, None]
        paint(canvas, colour, coverage(frame.ellipse(at, (1.1, 1.0))) * np.float32(0.9))
    return canvas


def _blades(
    canvas: np.ndarray, rng: np.random.Generator, high: Field, low: Field, count: int
) -> None:
    """Blades of grass that stand between two heights."""
    n, frame = len(canvas), _plain(len(canvas))
    for _ in range(count):
        x, at = _one(rng.uniform(0, SIDE, n)), high + (low - high) * _one(rng.random(n))
        tall, bend = _one(rng.uniform(4, 9, n)), _one(rng.uniform(-2.5, 2.5, n))
        blade = frame.limb((x, at + 3), (x + bend, at - tall), (np.float32(0.8), np.float32(0.1)))
        green = _mix(_rgb(0.24, 0.46, 0.16), _rgb(0.66, 0.78, 0.30), _one(rng.random(n)))
        paint(canvas, green, coverage(blade) * np.float32(0.8))


def _lake(n: int, rng: np.random.Generator) -> np.ndarray:
    rows, frame = _rows(), _plain(n)
    shore = _one(rng.uniform(0.16, 0.30, n)) * SIDE
    mood = _one(rng.random(n))
    sky = _mix(_rgb(0.80, 0.88, 0.92), _rgb(0.96, 0.90, 0.82), mood)
    near = _mix(_rgb(0.16, 0.40, 0.48), _rgb(0.22, 0.36, 0.52), mood)
    far = _mix(_rgb(0.52, 0.72, 0.74), _rgb(0.66, 0.72, 0.78), mood)
    canvas = np.broadcast_to(sky, (n, 3, SIDE, SIDE)) + _tint(rng, n, 0.02)
    bumps = cloudy(rng, n, SIDE, (1, 9))
    trees = shore - np.float32(2) - bumps * np.float32(8)
    paint(canvas, _rgb(0.30, 0.42, 0.36), coverage(trees - frame.y, 2))
    depth = np.clip((rows * SIDE - shore) / (SIDE - shore), 0, 1)
    water = _mix(far, near, np.broadcast_to(depth, (n, SIDE, SIDE)))
    ripple = cloudy(rng, n, SIDE, (26, 5)) - np.float32(0.5)
    water = water + (ripple * (np.float32(0.14) + np.float32(0.16) * depth))[:, None]
    paint(canvas, water, coverage(shore - frame.y))
    return canvas


def _perch(canvas: np.ndarray, bird: _Bird, rng: np.random.Generator) -> None:
    """A branch under the feet, with twigs and leaves."""
    n, frame = len(canvas), _plain(len(canvas))
    thick = np.float32(1.5) + bird.frame.unit * np.float32(0.045)
    tilt = _one(rng.uniform(-3.5, 3.5, n))
    y = np.minimum(bird.ground + thick * np.float32(0.9), np.float32(SIDE - 2))
    bough = frame.limb((-4, y + tilt), (SIDE + 4, y - tilt), (thick * 1.15, thick * 0.85))
    knots = (cloudy(rng, n, SIDE, (30, 8)) - np.float32(0.5)) * np.float32(0.5)
    light = np.clip((y - frame.y) / thick, -1, 1) * np.float32(0.22)
    bark = _rgb(0.43, 0.31, 0.21) * (1 + light + knots)[:, None]
    paint(canvas, _rgb(0.20, 0.14, 0.10), coverage(bough - np.float32(0.4)))
    paint(canvas, bark, coverage(bough + np.float32(0.4)))
    for side in (-1, 1):
        root = np.float32(SIDE / 2) + side * _one(rng.uniform(17, 29, n))
        up = _one(rng.uniform(-1, 1, n))
        end = root + side * _one(rng.uniform(3, 8, n)), y + np.sign(up) * 5 + up * 6
        twig = frame.limb((root, y), end, (np.float32(0.9), np.float32(0.5)))
        paint(canvas, _rgb(0.38, 0.27, 0.18), coverage(twig))
        for _ in range(3):
            slope = _one(rng.uniform(-1.2, 1.2, n))
            at = end[0] + _one(rng.uniform(-4, 4, n)), end[1] + _one(rng.uniform(-3, 3, n))
            leaf = frame.ellipse(at, (_one(rng.uniform(2.2, 3.8, n)), np.float32(1.3)), slope)
            hue = _mix(_rgb(0.30, 0.52, 0.18), _rgb(0.60, 0.72, 0.25), _one(rng.random(n)))
            paint(canvas, hue * np.float32(0.6), coverage(leaf - np.float32(0.4)))
            paint(canvas, hue, coverage(leaf + np.float32(0.2)))


def _mirror(canvas: np.ndarray, ground: Field, rng: np.random.Generator) -> np.ndarray:
    n, frame = len(canvas), _plain(len(canvas))
    waves = cloudy(rng, n, SIDE, (30, 4)) - np.float32(0.5)
    line = np.minimum(ground, np.float32(SIDE - 3))
    row = np.clip((2 * line - frame.y).astype(int), 0, SIDE - 1)  # [n, H, W]
    mirrored = np.take_along_axis(canvas, np.broadcast_to(row[:, None], canvas.shape), 2)
    below = coverage(line - frame.y)
    deep = np.clip(1 - (frame.y - line) / np.float32(16), 0, 1)
    surface = _rgb(0.24, 0.46, 0.53) + np.zeros_like(canvas)
    paint(surface, mirrored, np.float32(0.42) * deep + waves * np.float32(0.2))
    surface += (waves * np.float32(0.16))[:, None]
    out = canvas.copy()
    paint(out, surface, below * (np.float32(0.45) + np.float32(0.55) * deep))
    for shift in (0.0, 2.6):
        foam = np.abs(frame.y - line - np.float32(shift)) - np.float32(0.25)
        paint(
            out, _rgb(0.90, 0.96, 0.98), coverage(foam) * np.clip(waves * 2, 0, 1) * np.float32(0.8)
        )
    return out
