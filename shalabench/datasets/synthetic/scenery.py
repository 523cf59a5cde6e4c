"""What is behind drawn birds: sky, foliage, meadow, lake.

Each background is `[n, 3, 64, 64]`, about in [0, 1], drawn from its own random numbers.
"""

from __future__ import annotations

import numpy as np

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

SIDE = 64


def _rows() -> np.ndarray:
    return ((np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE)[None, :, None]


def _plain(n: int) -> Frame:
    """The picture's own coordinates, in pixels."""
    pixel = np.arange(SIDE, dtype=np.float32) + 0.5
    x = np.broadcast_to(pixel[None, None, :], (n, SIDE, SIDE))
    return Frame(x, np.broadcast_to(pixel[None, :, None], (n, SIDE, SIDE)), 1)


def _tint(rng: np.random.Generator, n: int, spread: float) -> np.ndarray:
    return rng.uniform(-spread, spread, (n, 3)).astype(np.float32)[:, :, None, None]


def sky(n: int, rng: np.random.Generator) -> np.ndarray:
    """A clear sky with clouds."""
    warm = field(rng.random(n) ** 3)
    top = mix(rgb(0.36, 0.62, 0.90), rgb(0.52, 0.62, 0.86), warm)
    bottom = mix(rgb(0.80, 0.91, 0.98), rgb(0.99, 0.87, 0.76), warm)
    canvas = mix(top, bottom, np.broadcast_to(_rows(), (n, SIDE, SIDE)))
    canvas = canvas + _tint(rng, n, 0.02)
    frame, fluff = _plain(n), cloudy(rng, n, SIDE, (9, 7))
    for _ in range(3):
        x, y = field(rng.uniform(0, SIDE, n)), field(rng.uniform(4, SIDE, n))
        wide = field(rng.uniform(7, 17, n))
        puff = frame.ellipse((x, y), (wide, wide * 0.34))
        bump = frame.ellipse((x - wide * 0.2, y - wide * 0.25), (wide * 0.5, wide * 0.36))
        cloud = merge(puff, bump, 4) + (fluff - 0.5) * 7
        paint(canvas, rgb(1.0, 0.99, 0.97), coverage(cloud, 6) * np.float32(0.85))
    return canvas


def foliage(n: int, rng: np.random.Generator) -> np.ndarray:
    """Leaves out of focus, with light between them."""
    base = mix(rgb(0.62, 0.72, 0.48), rgb(0.42, 0.56, 0.40), field(rng.random(n)))
    base = base + _tint(rng, n, 0.04)
    mottle = cloudy(rng, n, SIDE, (5, 5)) - 0.5
    canvas = base * (1 + np.float32(0.34) * mottle)[:, None]
    frame = _plain(n)
    for k in range(7):
        at = field(rng.uniform(0, SIDE, n)), field(rng.uniform(0, SIDE, n))
        radius = field(rng.uniform(3, 8.5, n))
        light = rgb(0.90, 0.93, 0.66) if k % 2 else rgb(0.28, 0.44, 0.27)
        spot = coverage(frame.ellipse(at, (radius, radius)), 4)
        paint(canvas, light, spot * 0.34)
    return canvas


def meadow(n: int, rng: np.random.Generator) -> np.ndarray:
    """Grass with flowers before a hedge."""
    rows = _rows()
    horizon = field(rng.uniform(0.30, 0.46, n))
    above = mix(rgb(0.78, 0.88, 0.95), rgb(0.97, 0.95, 0.86), rows * 2)
    grass = mix(
        rgb(0.66, 0.76, 0.38),
        rgb(0.36, 0.56, 0.22),
        np.clip((rows - horizon) / (1 - horizon), 0, 1),
    )
    canvas = np.broadcast_to(above, (n, 3, SIDE, SIDE)) + _tint(rng, n, 0.02)
    frame, bumps = _plain(n), cloudy(rng, n, SIDE, (1, 6))
    hedge = (horizon - 0.02) * SIDE - bumps * 7
    paint(canvas, rgb(0.46, 0.60, 0.46), coverage(hedge - frame.y, 2))
    tuft = cloudy(rng, n, SIDE, (12, 26)) - 0.5
    grass = grass * (1 + np.float32(0.30) * tuft)[:, None] + _tint(rng, n, 0.03)
    paint(canvas, grass, coverage(horizon * SIDE - frame.y, 2))
    blades(canvas, rng, horizon * SIDE + 4, np.full((n, 1, 1), SIDE - 8, np.float32), 10)
    petals = np.array([(1, 0.97, 0.9), (0.98, 0.85, 0.3), (0.85, 0.5, 0.75)], np.float32)
    for _ in range(4):
        at = (field(rng.uniform(0, SIDE, n)), field(rng.uniform(0.62, 0.98, n)) * SIDE)
        colour = petals[rng.integers(3, size=n)][:, :, None, None]
        paint(canvas, colour, coverage(frame.ellipse(at, (1.1, 1.0))) * 0.9)
    return canvas


def blades(
    canvas: np.ndarray, rng: np.random.Generator, high: Field, low: Field, count: int
) -> None:
    """Blades of grass that stand between two heights."""
    n, frame = len(canvas), _plain(len(canvas))
    for _ in range(count):
        x, at = field(rng.uniform(0, SIDE, n)), high + (low - high) * field(rng.random(n))
        tall, bend = field(rng.uniform(4, 9, n)), field(rng.uniform(-2.5, 2.5, n))
        blade = frame.limb((x, at + 3), (x + bend, at - tall), (0.8, 0.1))
        green = mix(rgb(0.24, 0.46, 0.16), rgb(0.66, 0.78, 0.30), field(rng.random(n)))
        paint(canvas, green, coverage(blade) * 0.8)


def lake(n: int, rng: np.random.Generator) -> np.ndarray:
    """Water before trees on the far shore."""
    rows, frame = _rows(), _plain(n)
    shore = field(rng.uniform(0.16, 0.30, n)) * SIDE
    mood = field(rng.random(n))
    above = mix(rgb(0.80, 0.88, 0.92), rgb(0.96, 0.90, 0.82), mood)
    near = mix(rgb(0.16, 0.40, 0.48), rgb(0.22, 0.36, 0.52), mood)
    far = mix(rgb(0.52, 0.72, 0.74), rgb(0.66, 0.72, 0.78), mood)
    canvas = np.broadcast_to(above, (n, 3, SIDE, SIDE)) + _tint(rng, n, 0.02)
    bumps = cloudy(rng, n, SIDE, (1, 9))
    trees = shore - 2 - bumps * 8
    paint(canvas, rgb(0.30, 0.42, 0.36), coverage(trees - frame.y, 2))
    depth = np.clip((rows * SIDE - shore) / (SIDE - shore), 0, 1)
    water = mix(far, near, np.broadcast_to(depth, (n, SIDE, SIDE)))
    ripple = cloudy(rng, n, SIDE, (26, 5)) - 0.5
    water = water + (ripple * (0.14 + 0.16 * depth))[:, None]
    paint(canvas, water, coverage(shore - frame.y))
    return canvas


def perch(canvas: np.ndarray, unit: Field | float, ground: Field, rng: np.random.Generator) -> None:
    """A branch under the feet, with twigs and leaves."""
    n, frame = len(canvas), _plain(len(canvas))
    thick = 1.5 + unit * 0.045
    tilt = field(rng.uniform(-3.5, 3.5, n))
    y = np.minimum(ground + thick * 0.9, SIDE - 2)
    bough = frame.limb((-4, y + tilt), (SIDE + 4, y - tilt), (thick * 1.15, thick * 0.85))
    knots = (cloudy(rng, n, SIDE, (30, 8)) - 0.5) * 0.5
    light = np.clip((y - frame.y) / thick, -1, 1) * 0.22
    bark = rgb(0.43, 0.31, 0.21) * (1 + light + knots)[:, None]
    paint(canvas, rgb(0.20, 0.14, 0.10), coverage(bough - 0.4))
    paint(canvas, bark, coverage(bough + 0.4))
    for side in (-1, 1):
        root = SIDE / 2 + side * field(rng.uniform(17, 29, n))
        up = field(rng.uniform(-1, 1, n))
        end = root + side * field(rng.uniform(3, 8, n)), y + np.sign(up) * 5 + up * 6
        twig = frame.limb((root, y), end, (0.9, 0.5))
        paint(canvas, rgb(0.38, 0.27, 0.18), coverage(twig))
        for _ in range(3):
            slope = field(rng.uniform(-1.2, 1.2, n))
            at = end[0] + field(rng.uniform(-4, 4, n)), end[1] + field(rng.uniform(-3, 3, n))
            leaf = frame.ellipse(at, (field(rng.uniform(2.2, 3.8, n)), 1.3), slope)
            hue = mix(rgb(0.30, 0.52, 0.18), rgb(0.60, 0.72, 0.25), field(rng.random(n)))
            paint(canvas, hue * 0.6, coverage(leaf - 0.4))
            paint(canvas, hue, coverage(leaf + 0.2))


def mirror(canvas: np.ndarray, ground: Field, rng: np.random.Generator) -> np.ndarray:
    """The picture with its reflection and waves on the water below the ground line."""
    n, frame = len(canvas), _plain(len(canvas))
    waves = cloudy(rng, n, SIDE, (30, 4)) - 0.5
    line = np.minimum(ground, SIDE - 3)
    row = np.clip((2 * line - frame.y).astype(int), 0, SIDE - 1)  # [n, H, W]
    mirrored = np.take_along_axis(canvas, np.broadcast_to(row[:, None], canvas.shape), 2)
    below = coverage(line - frame.y)
    deep = np.clip(1 - (frame.y - line) / 16, 0, 1)
    surface = rgb(0.24, 0.46, 0.53) + np.zeros_like(canvas)
    paint(surface, mirrored, 0.42 * deep + waves * np.float32(0.2))
    surface += (waves * np.float32(0.16))[:, None]
    out = canvas.copy()
    paint(out, surface, below * (0.45 + 0.55 * deep))
    for shift in (0.0, 2.6):
        foam = np.abs(frame.y - line - shift) - 0.25
        paint(
            out, rgb(0.90, 0.96, 0.98), coverage(foam) * np.clip(waves * 2, 0, 1) * np.float32(0.8)
        )
    return out
