"""Contact sheets: pictures in rows and blocks, some framed, in a file of limited size."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

LIMIT = 300_000  # bytes
_TILE = 64  # pixels; smaller pictures are enlarged up to here
_GAP = 2
_BETWEEN = 8  # pixels between blocks
_FRAME = (20, 160, 60)
_WHITE = 255


@dataclass(frozen=True)
class Strip:
    """A row of pictures.

    Attributes:
        pictures: `[n, C, H, W]` in [0, 1]; C is 1 or 3.
        framed: Numbers of those with a frame.
    """

    pictures: Tensor
    framed: tuple[int, ...] = ()


def draw_sheet(blocks: Sequence[Sequence[Strip]], limit: int = LIMIT) -> Tensor:
    """Blocks of rows below each other, uint8 `[H, W, 3]`.

    As many blocks as a PNG file of `limit` bytes holds, but one at least: noise is the larger file.
    """
    drawn = [np.concatenate([_draw(strip) for strip in block]) for block in blocks]
    while len(drawn) > 1 and _size(_below(drawn)) > limit:
        drawn.pop()
    return torch.from_numpy(_below(drawn))


def _draw(strip: Strip) -> np.ndarray:
    n, _, height, width = strip.pictures.shape
    factor = max(1, _TILE // max(height, width))
    pixels = (strip.pictures.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = height * factor + 2 * _GAP, width * factor + 2 * _GAP
    row = np.full((height, n, width, 3), _WHITE, np.uint8)
    row[:, list(strip.framed)] = _FRAME
    row[_GAP:-_GAP, :, _GAP:-_GAP] = pixels.transpose(1, 0, 2, 3)
    return row.reshape(height, n * width, 3)


def _below(blocks: list[np.ndarray]) -> np.ndarray:
    space = np.full((_BETWEEN, blocks[0].shape[1], 3), _WHITE, np.uint8)
    parts = [part for block in blocks for part in (block, space)]
    return np.concatenate(parts[:-1])


def _size(page: np.ndarray) -> int:
    file = io.BytesIO()
    Image.fromarray(page).save(file, "PNG", optimize=True)
    return file.tell()
