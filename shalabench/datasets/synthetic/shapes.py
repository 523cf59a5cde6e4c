"""Antialiased shapes on many small pictures at once.

A shape is its signed distance in pixels, negative inside; half a pixel on either side of its edge
is blended. Only sums, products, quotients and square roots touch pixels: they round alike on every
machine, so that the same seed gives the same bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Field = np.ndarray
"""float32 `[N, H, W]`, or what broadcasts to it, such as one number a picture `[N, 1, 1]`."""
Pair = Sequence[Field | float]
"""Two coordinates or two radii."""


@dataclass(frozen=True)
class Frame:
    """Coordinates of a thing in each picture.

    Attributes:
        x: Across, in the thing's units.
        y: Down, in the thing's units.
        unit: Pixels a unit.
    """

    x: Field
    y: Field
    unit: Field | float

    def ellipse(self, at: Pair, radii: Pair, slope: Field | float = 0.0) -> Field:
        """Distance to an ellipse whose first axis falls by `slope` for one unit across."""
        length = np.sqrt(1 + np.float32(1) * slope * slope)
        dx, dy = self.x - at[0], self.y - at[1]
        u, v = (dx + slope * dy) / length, (dy - slope * dx) / length
        a, b = u / radii[0], v / radii[1]
        k = np.sqrt(a * a + b * b)
        a, b = a / radii[0], b / radii[1]
        # Exact on the edge and to first order near it, which is where it counts.
        return self.unit * k * (k - 1) / np.maximum(np.sqrt(a * a + b * b), 1e-3)

    def limb(self, start: Pair, end: Pair, radii: Pair) -> Field:
        """Distance to a stroke whose half width goes from the first radius to the second."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        px, py = self.x - start[0], self.y - start[1]
        first, last = (np.asarray(radius, np.float32) for radius in radii)
        t = np.clip((px * dx + py * dy) / (dx * dx + dy * dy), 0, 1)
        qx, qy = px - t * dx, py - t * dy
        return self.unit * (np.sqrt(qx * qx + qy * qy) - (first + t * (last - first)))

    def polygon(self, *corners: Pair) -> Field:
        """Distance to a convex polygon, its corners clockwise as seen."""
        distance: Field = np.array(-np.inf, np.float32)
        for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
            dx, dy = bx - ax, by - ay
            length = np.maximum(np.sqrt(np.float32(1) * (dx * dx + dy * dy)), np.float32(1e-6))
            side = ((self.x - ax) * dy - (self.y - ay) * dx) / length
            distance = np.maximum(distance, side)
        return self.unit * distance

    def below(self, at: Pair, slope: Field | float = 0.0) -> Field:
        """Distance to the half plane under a line through a point."""
        length = np.sqrt(1 + np.float32(1) * slope * slope)
        return self.unit * ((at[1] - self.y) + slope * (self.x - at[0])) / length


def merge(first: Field, second: Field, softness: Field | float) -> Field:
    """Distance to two shapes that flow into each other over `softness` pixels."""
    near = np.maximum(softness - np.abs(first - second), 0) / softness
    return np.minimum(first, second) - near * near * softness / 4


def coverage(distance: Field, softness: float = 1.0) -> Field:
    """How much of each pixel a shape covers, its edge `softness` pixels wide."""
    return np.clip(0.5 - distance / softness, 0, 1)


def paint(canvas: np.ndarray, colour: np.ndarray, cover: Field) -> None:
    """Blend a colour into a canvas in place.

    Args:
        canvas: float32 `[N, 3, H, W]`.
        colour: What broadcasts to it.
        cover: `[N, H, W]` or what broadcasts to it, in [0, 1].
    """
    canvas += (colour - canvas) * cover[:, None]


def cloudy(rng: np.random.Generator, n: int, side: int, cells: tuple[int, int]) -> Field:
    """Smooth noise in [0, 1], float64 `[n, side, side]`, from random values on a coarse grid.

    Constants that meet it are float32, as those that meet other fields are by numpy's rules.

    Args:
        rng: Gives the values.
        n: Number of pictures.
        side: In pixels.
        cells: Of the grid, down and across.
    """
    grid = rng.random((n, cells[0] + 1, cells[1] + 1), dtype=np.float32)
    down, lower = _steps(side, cells[0])
    across, right = _steps(side, cells[1])
    rows = grid[:, down] + (grid[:, down + 1] - grid[:, down]) * lower[:, None]
    return rows[:, :, across] + (rows[:, :, across + 1] - rows[:, :, across]) * right


def field(numbers: np.ndarray) -> Field:
    """One number a picture, `[N, 1, 1]`, ready to be combined with its pixels."""
    return np.asarray(numbers, np.float32)[:, None, None]


def rgb(*channels: float) -> np.ndarray:
    """A colour that broadcasts to pictures `[N, 3, H, W]`."""
    return np.array(channels, np.float32)[None, :, None, None]


def mix(first: np.ndarray, second: np.ndarray, share: Field | float) -> np.ndarray:
    """A colour between two: `share` is that of the second."""
    return first + (second - first) * (share[:, None] if isinstance(share, np.ndarray) else share)


def _steps(side: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    at = (np.arange(side, dtype=np.float32) + 0.5) * (cells / side)
    cell = at.astype(int)
    t = at - cell
    return cell, t * t * (3 - 2 * t)
