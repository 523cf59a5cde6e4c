"""Styles of cars: two colours, a pattern, rims, glass and finish. A style fits every shape."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]

PATTERNS = ("plain", "roof", "stripes", "flank", "lower", "bonnet", "checker", "wave")
RIMS = ("five", "ten", "split", "mesh", "steel", "turbine")
GLASS: tuple[tuple[Colour, float], ...] = (  # colour, and how much of it is seen
    ((0.36, 0.44, 0.46), 0.30),
    ((0.12, 0.14, 0.16), 0.62),
    ((0.22, 0.30, 0.38), 0.45),
    ((0.34, 0.28, 0.20), 0.48),
)
_NEUTRAL = ((0.86, 0.86, 0.845), (0.70, 0.72, 0.74), (0.36, 0.38, 0.41), (0.07, 0.075, 0.085))
_METALS = (
    (0.80, 0.81, 0.83),
    (0.80, 0.81, 0.83),
    (0.44, 0.45, 0.48),
    (0.10, 0.10, 0.11),
    (0.92, 0.92, 0.90),
    (0.72, 0.58, 0.32),
)


@dataclass(frozen=True)
class Style:
    """How a car is finished; colours are red, green, blue in [0, 1].

    Attributes:
        first: Colour of most of the body.
        second: Colour of the pattern.
        pattern: Number in `PATTERNS`.
        rim: Number in `RIMS`.
        metal: Colour of the rims.
        glass: Number in `GLASS`.
        gloss: Strength of the clear coat, in [0, 1].
        trim: Brightness of plastic and grille.
    """

    first: Colour
    second: Colour
    pattern: int
    rim: int
    metal: Colour
    glass: int
    gloss: float
    trim: float


def draw_style(rng: np.random.Generator) -> Style:
    """A style; its two colours differ visibly."""
    first = _draw_colour(rng)
    second = _draw_colour(rng)
    while np.abs(np.subtract(first, second)).max() < 0.30:
        second = _draw_colour(rng)
    return Style(
        first=first,
        second=second,
        pattern=int(rng.integers(len(PATTERNS))),
        rim=int(rng.integers(len(RIMS))),
        metal=_METALS[rng.integers(len(_METALS))],
        glass=int(rng.integers(len(GLASS))),
        gloss=float(rng.choice([0.15, 0.8, 1.0], p=[0.15, 0.35, 0.5])),
        trim=float(rng.uniform(0.07, 0.17)),
    )


def _draw_colour(rng: np.random.Generator) -> Colour:
    """A colour of the palette in three of ten cases, else any hue."""
    neutral, pick = rng.random(), rng.integers(len(_NEUTRAL))
    hue, depth, value = rng.random(), rng.uniform(0.62, 0.95), rng.uniform(0.50, 0.95)
    if neutral < 0.3:
        return _NEUTRAL[pick]
    return colorsys.hsv_to_rgb(hue, depth, value)
