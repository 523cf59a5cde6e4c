"""House numbers like SVHN's: digits in photographs' colours, with neighbours at the borders."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from shalabench.datasets.sources.digits import draw_digits

SIDE = 32
_CANDIDATES = 12  # colours drawn for the ink; the first that contrasts with the wall is used
_CONTRAST = 0.22  # least difference in brightness between ink and wall
_GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_NEIGHBOUR = 0.6  # probability of one on each side
_CHUNK = 2_000


def paint_numbers(
    digits: np.ndarray,
    neighbours: np.ndarray,
    photographs: list[np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Paint each digit on a wall, with parts of other digits beside it.

    The wall is a blurred piece of a photograph and the ink the colour of a spot of one, so light
    ink on dark and dark on light both occur; then come blur and noise.

    Args:
        digits: `[N, 8, 8]` in [0, 1], ink 1.
        neighbours: `[K, 8, 8]`, the digits to draw beside.
        photographs: uint8 `[H, W, 3]` each.
        rng: Chooses everything.

    Returns:
        uint8 `[N, 3, 32, 32]`.
    """
    parts = range(0, len(digits), _CHUNK)
    return np.concatenate(
        [_paint(digits[i : i + _CHUNK], neighbours, photographs, rng) for i in parts]
    )


def _paint(
    digits: np.ndarray,
    neighbours: np.ndarray,
    photographs: list[np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    n = len(digits)
    wall = _walls(photographs, n, rng)  # [N, 3, 32, 32]
    ink = _inks(photographs, wall.mean((2, 3)), rng)  # [N, 3]
    mask = _number(digits, neighbours, rng)[:, None]  # [N, 1, 32, 32]
    painted = torch.from_numpy(wall * (1 - mask) + ink[:, :, None, None] * mask)
    soft = functional.avg_pool2d(painted, 3, 1, 1, count_include_pad=False)
    blur = torch.from_numpy(rng.uniform(0, 1, (n, 1, 1, 1)))
    noise = rng.normal(0, 0.02, painted.shape)
    pixels = (blur * soft + (1 - blur) * painted).numpy() + noise
    return (pixels.clip(0, 1) * 255).astype(np.uint8)


def _number(digits: np.ndarray, neighbours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ink of each digit and of what stands beside it, `[N, 32, 32]` in [0, 1]."""
    n = len(digits)
    angle, shear = rng.uniform(-0.15, 0.15, n), rng.uniform(-0.15, 0.15, n)
    size, shift = rng.uniform(0.7, 0.92, (2, n)), rng.uniform(-2, 2, (2, n))
    size[0] *= rng.uniform(0.8, 1.0, n)  # narrower than high
    ink = draw_digits(digits, SIDE, angle, shear, size, shift)
    for side in (-1, 1):
        away = side * rng.uniform(0.6, 0.8, n) * SIDE * size[0] / 0.8
        beside = shift + np.stack([away * np.cos(angle), -away * np.sin(angle)])
        chosen = neighbours[rng.integers(len(neighbours), size=n)]
        drawn = draw_digits(chosen, SIDE, angle, shear, size, beside)
        there = rng.uniform(size=(n, 1, 1)) < _NEIGHBOUR
        ink = np.maximum(ink, drawn * there)
    return 1 / (1 + np.exp(-12 * (ink - 0.5)))  # interpolated edges are too soft for paint


def _walls(photographs: list[np.ndarray], n: int, rng: np.random.Generator) -> np.ndarray:
    """Pieces of photographs as blurred as a wall is, `[N, 3, 32, 32]` in [0, 1]."""
    pieces = torch.from_numpy(_pieces(photographs, n, rng))
    coarse = functional.avg_pool2d(pieces, 8)  # [N, 3, 4, 4]
    smooth = functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear").numpy()
    mean = smooth.mean((2, 3), keepdims=True)
    return mean + 0.6 * (smooth - mean)


def _inks(photographs: list[np.ndarray], walls: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colours of spots of photographs, `[N, 3]`, that contrast with the walls' colours `[N, 3]`."""
    n = len(walls)
    spots = np.stack(
        [_pieces(photographs, n, rng)[:, :, :4, :4].mean((2, 3)) for _ in range(_CANDIDATES)], 1
    )  # [N, 12, 3]
    contrast = np.abs((spots - walls[:, None]) @ _GREY)  # [N, 12]
    enough = contrast >= _CONTRAST
    chosen = np.where(enough.any(1), enough.argmax(1), contrast.argmax(1))
    ink = spots[np.arange(n), chosen]
    # Where no spot would do, the ink is moved away from the wall's brightness.
    lacking = (_CONTRAST - contrast[np.arange(n), chosen]).clip(0)[:, None]
    away = np.where(((walls @ _GREY) < 0.5)[:, None], 1.0, -1.0)
    return (ink + lacking * away).clip(0, 1)


def _pieces(photographs: list[np.ndarray], n: int, rng: np.random.Generator) -> np.ndarray:
    """Random squares of random photographs, `[N, 3, 32, 32]` in [0, 1]."""
    which = rng.integers(len(photographs), size=n)
    pieces = np.empty((n, 3, SIDE, SIDE))
    for k, photograph in enumerate(photographs):
        own = np.flatnonzero(which == k)
        windows = np.lib.stride_tricks.sliding_window_view(photograph, (SIDE, SIDE), axis=(0, 1))
        top = rng.integers(windows.shape[0], size=len(own))
        left = rng.integers(windows.shape[1], size=len(own))
        pieces[own] = windows[top, left] / 255
    return pieces
