"""Drawings of birds: colours of five parts, four builds, three sizes, four backgrounds.

A bird is drawn in coordinates of its own: the body's middle is the origin, it looks to the right,
and one unit is about the length of its trunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shalabench.api import Attribute
from shalabench.datasets.synthetic import scenery
from shalabench.datasets.synthetic.scenery import SIDE
from shalabench.datasets.synthetic.shapes import (
    Field,
    Frame,
    cloudy,
    coverage,
    field,
    merge,
    mix,
    paint,
    rgb,
)

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
_SCENERY = {
    "sky": scenery.sky,
    "branch": scenery.foliage,
    "grass": scenery.meadow,
    "water": scenery.lake,
}
ATTRIBUTES = (
    *(Attribute(part, tuple(PLUMAGE)) for part in ("body", "wing", "crown", "breast")),
    Attribute("bill", tuple(HORN)),
    Attribute("size", ("small", "medium", "large")),
    Attribute("shape", BUILDS),
    Attribute("facing", ("left", "right")),
    Attribute("background", tuple(_SCENERY)),
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
    """The birds of some pictures: numbers and colours, one a picture."""

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
        seed: Of what the attributes leave open: position, posture, light, scenery.

    Returns:
        uint8 `[N, 3, 64, 64]`.
    """
    done = np.empty((len(values), 3, SIDE, SIDE), np.uint8)
    column = [attribute.name for attribute in ATTRIBUTES].index("background")
    for number, background in enumerate(_SCENERY):
        rows = np.flatnonzero(values[:, column] == number)
        for first in range(0, len(rows), _CHUNK):
            chunk = rows[first : first + _CHUNK]
            painted = _draw(
                values[chunk], background, np.random.default_rng([*seed, number, first])
            )
            done[chunk] = (np.clip(painted, 0, 1) * 255 + 0.5).astype(np.uint8)
    return done


def _draw(values: np.ndarray, background: str, rng: np.random.Generator) -> np.ndarray:
    """Pictures float32 `[N, 3, 64, 64]` of one background, about in [0, 1]."""
    n, named = len(values), {a.name: values[:, i] for i, a in enumerate(ATTRIBUTES)}
    bird = _pose(named, background, rng)
    canvas = _SCENERY[background](n, rng)
    if background == "branch":
        scenery.perch(canvas, bird.frame.unit, bird.ground, rng)
    if background != "sky":
        _legs(canvas, bird)
    _plumage(canvas, bird, rng)
    if background == "grass":
        scenery.blades(canvas, rng, bird.ground + 1, bird.ground + 5, 9)
    if background == "water":
        canvas = scenery.mirror(canvas, bird.ground, rng)
    light = np.float32(0.97) + np.float32(0.06) * cloudy(rng, n, SIDE, (3, 3))
    return canvas * light[:, None]


def _pose(values: dict[str, np.ndarray], background: str, rng: np.random.Generator) -> _Bird:
    """Position and posture of each bird, such that the picture holds all of it."""
    n, kind = len(values["body"]), values["shape"]
    build = {
        name: [field(np.take(part, kind)) for part in np.array(rows).T.reshape(-1, len(BUILDS))]
        for name, rows in _BUILD.items()
    }
    flying = background == "sky"
    afloat = (background == "water") * (kind != BUILDS.index("long-legged"))  # those wade
    swimming = field(afloat)
    unit = field(np.take(_UNIT, values["size"]) * rng.uniform(0.95, 1.05, n)) * build["size"][0]
    leg = build["leg"][0] * (1 - swimming) * (not flying)
    high = np.maximum(build["above"][0], 0.72 if flying else 0)
    low = build["trunk"][1] + leg
    # The box around the bird is put where it fits, at random.
    width = (build["ahead"][0] + build["behind"][0]) * unit
    height = (high + low) * unit
    spare_x, spare_y = np.maximum(SIDE - 2 - width, 0), np.maximum(SIDE - 5 - height, 0)
    left = 1 + spare_x * (0.5 + field(rng.uniform(-0.35, 0.35, n)))
    top = 2 + spare_y * (0.58 + field(rng.uniform(-0.3, 0.3, n)))
    to_right = field(values["facing"] == 1)
    centre = left + np.where(to_right, build["behind"][0], build["ahead"][0]) * unit
    middle = top + high * unit
    lean = field(rng.uniform(-0.10, 0.10, n) + flying * rng.uniform(-0.28, 0.05, n))
    lean = lean * (1 - swimming * 0.6)
    pixel = np.arange(SIDE, dtype=np.float32) + 0.5
    dx = (pixel[None, None, :] - centre) / unit * np.where(to_right, 1, -1).astype(np.float32)
    dy = (pixel[None, :, None] - middle) / unit
    stretch = np.sqrt(1 + lean * lean)
    frame = Frame((dx + lean * dy) / stretch, (dy - lean * dx) / stretch, unit)
    colours = {}
    for part in ("body", "wing", "crown", "breast", "bill"):
        palette = np.array(list((HORN if part == "bill" else PLUMAGE).values()))
        shade = palette[values[part]] * rng.uniform(0.93, 1.05, (n, 1))
        shade = np.clip(shade + rng.uniform(-0.02, 0.02, (n, 3)), 0.05, 1)
        colours[part] = shade.astype(np.float32)[:, :, None, None]
    sunk = 0.86 - 0.41 * swimming
    ground = middle + (build["trunk"][1] * sunk + leg) * unit
    return _Bird(frame, build, colours, flying, swimming, ground)


# The bird, from what lies behind to what lies before.


def _legs(canvas: np.ndarray, bird: _Bird) -> None:
    frame, (belly, leg) = bird.frame, (bird.build["trunk"][1], bird.build["leg"][0])
    shown = 1 - bird.swimming
    thick = np.maximum(0.028, 0.55 / frame.unit)
    colour = mix(bird.colours["bill"], rgb(0.30, 0.22, 0.18), 0.55)
    for at, bend in ((-0.06, -0.05), (0.08, 0.03)):
        hip, knee, foot = at, at + bend - 0.03, at + bend + 0.02
        start, end = belly * 0.80, belly * 0.86 + leg
        half = (start + end) / 2
        upper = frame.limb((hip, start), (knee, half), (thick * 1.4, thick))
        lower = frame.limb((knee, half), (foot, end), (thick, thick))
        toes = frame.limb((foot - 0.04, end), (foot + 0.10, end), (thick, thick))
        both = np.minimum(np.minimum(upper, lower), toes)
        paint(canvas, colour * 0.8, coverage(both) * shown)


def _plumage(canvas: np.ndarray, bird: _Bird, rng: np.random.Generator) -> None:
    frame, build, colours, unit = bird.frame, bird.build, bird.colours, bird.frame.unit
    n = len(canvas)
    (rx, ry), (hx, hy) = build["trunk"], build["head"]
    skull, rise = build["skull"][0], build["rise"][0]
    down = cloudy(rng, n, SIDE, (24, 24)) - 0.5  # feathers
    if bird.flying:
        far_wing = _raised(bird, shift=0.16, reach=0.92)
        _feathers(canvas, colours["wing"] * 0.72, far_wing, down)
    tail = frame.limb((-rx * 0.6, ry * 0.0), tuple(build["tail"]), (ry * 0.38, build["tailend"][0]))
    _feathers(canvas, colours["body"] * 0.80, tail, down)
    quill = frame.limb((-rx, ry * 0.12), tuple(build["tail"]), (0.012, 0.012))
    paint(canvas, colours["body"] * 0.55, coverage(quill) * 0.55)

    trunk = frame.ellipse((0.0, 0.0), (rx, ry), rise)
    neck = frame.limb(
        (rx * 0.55, -ry * 0.25), (hx - skull * 0.15, hy + skull * 0.25), (ry * 0.55, skull * 0.62)
    )
    head = frame.ellipse((hx, hy), (skull * 1.04, skull))
    whole = merge(merge(trunk, neck, unit * 0.12), head, unit * 0.08)
    _bill(canvas, bird)
    # Light from above: the back is bright, the belly dark, the rim darker still.
    tilt = np.clip((frame.y - hy * 0.3) / (ry + 0.25), -1, 1)
    shade = 1.02 - 0.13 * tilt
    _feathers(canvas, colours["body"] * shade[:, None], whole, down)

    front = frame.ellipse((rx * 0.52, ry * 0.36), (rx * 0.62, ry * 0.78), -0.35)
    breast = np.maximum(front, whole + 0.35)
    glow = colours["breast"] * (1.04 - 0.10 * tilt)[:, None]
    paint(canvas, glow * (1 + np.float32(0.14) * down)[:, None], coverage(breast, 1.6))

    brow = frame.below((hx, hy - skull * 0.10), -0.22)
    crest = frame.ellipse((hx - skull * 0.10, hy - skull * 0.10), (skull * 1.10, skull * 1.02))
    crown = np.maximum(np.maximum(crest, -brow), np.minimum(whole, crest) + 0.2)
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
    """Paint plumage: a faint dark rim sets it off from the background, and its colour is uneven."""
    paint(canvas, colour * 0.42, coverage(shape - 0.35))
    textured = colour * (1 + np.float32(0.16) * down)[:, None]
    paint(canvas, textured, coverage(shape + 0.45, 1.3))


def _bill(canvas: np.ndarray, bird: _Bird) -> None:
    frame, skull = bird.frame, bird.build["skull"][0]
    hx, hy = bird.build["head"]
    long, root = bird.build["bill"][0], hx + skull * 0.62
    thick = np.maximum(skull * 0.50, 1.7 / frame.unit)
    middle = hy + skull * 0.16
    tip = hx + skull + long
    bill = frame.polygon(
        (root, middle - thick), (tip, middle + thick * 0.10), (root, middle + thick * 0.86)
    )
    colour = bird.colours["bill"]
    paint(canvas, colour * 0.45, coverage(bill - 0.30))
    paint(canvas, colour, coverage(bill + 0.15))
    gape = frame.limb((root, middle + thick * 0.12), (tip, middle), (0.008, 0.004))
    paint(canvas, colour * 0.6, coverage(gape) * 0.5)


def _eye(canvas: np.ndarray, bird: _Bird) -> None:
    frame, skull = bird.frame, bird.build["skull"][0]
    hx, hy = bird.build["head"]
    x, y = hx + skull * 0.36, hy + skull * 0.10
    size = np.maximum(skull * 0.22, 0.95 / frame.unit)
    ring = frame.ellipse((x, y), (size * 1.45, size * 1.45))
    paint(canvas, rgb(0.93, 0.90, 0.80), coverage(ring) * 0.75)
    paint(canvas, rgb(0.05, 0.04, 0.05), coverage(frame.ellipse((x, y), (size, size))))
    spark = size * 0.36
    glint = frame.ellipse((x + spark * 0.9, y - spark), (spark, spark))
    paint(canvas, rgb(1, 1, 1), coverage(glint) * 0.95)


def _folded_wing(canvas: np.ndarray, bird: _Bird, down: Field) -> None:
    frame, colour = bird.frame, bird.colours["wing"]
    rx, ry = bird.build["trunk"]
    slope = bird.build["rise"][0] * 0.5 - 0.06
    at = (-rx * 0.22, -ry * 0.14)
    shoulder = frame.ellipse(at, (rx * 0.66, ry * 0.52), slope)
    tip = frame.limb((-rx * 0.35, ry * 0.02), (-rx * 1.22, ry * 0.30), (ry * 0.36, 0.02))
    wing = merge(shoulder, tip, frame.unit * 0.10)
    _feathers(canvas, colour, wing, down)
    inside = coverage(wing + 0.9)
    for background in (-0.10, -0.42):  # wing bars
        x = rx * background
        bar = frame.limb((x, -ry * 0.55), (x - rx * 0.20, ry * 0.50), (0.022, 0.030))
        paint(canvas, _contrast(colour), coverage(bar, 1.4) * inside * 0.42)
    for low in (0.06, 0.24):  # flight feathers
        quill = frame.limb(
            (-rx * 0.45, ry * low), (-rx * 1.15, ry * (0.24 + low * 0.4)), (0.010, 0.010)
        )
        paint(canvas, colour * 0.5, coverage(quill) * inside * 0.6)


def _raised(bird: _Bird, shift: float, reach: float) -> Field:
    """A wing lifted in flight, from the shoulder up and back."""
    rx, ry = bird.build["trunk"]
    root = (rx * (0.10 + shift), -ry * 0.35)
    tip = (root[0] - 0.34, -ry * 0.35 - 0.58 * reach)
    arm = bird.frame.limb(root, tip, (0.20, 0.045))
    trail = bird.frame.limb(
        (root[0] - 0.16, root[1] + 0.02), (tip[0] - 0.02, tip[1] + 0.20), (0.18, 0.05)
    )
    return merge(arm, trail, bird.frame.unit * 0.10)


def _pinions(canvas: np.ndarray, bird: _Bird, wing: Field) -> None:
    """Lines along the flight feathers of the near wing."""
    rx, ry = bird.build["trunk"]
    inside = coverage(wing + 0.8)
    for k in (0.0, 0.12, 0.24):
        line = bird.frame.limb(
            (rx * 0.02 - k * 0.8, -ry * 0.5),
            (rx * 0.02 - (0.30 + k * 0.5), -ry * 0.35 - (0.54 - 1.2 * k)),
            (0.012, 0.008),
        )
        ink = _contrast(bird.colours["wing"])
        paint(canvas, ink, coverage(line) * inside * 0.35)


def _contrast(colour: np.ndarray) -> np.ndarray:
    """Lighter than a dark colour, darker than a light one."""
    brightness = (colour[:, :1] + colour[:, 1:2] + colour[:, 2:]) / 3
    return np.where(brightness > 0.62, colour * 0.55, colour + (1 - colour) * 0.75)
