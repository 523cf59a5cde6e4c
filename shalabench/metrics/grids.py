"""Grids of pictures: rows of uint8 tiles `[n, 3, H, W]`, some framed, in blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

GAP = 2  # pixels around a tile
WHITE = 255
_FRAME = (20, 160, 60)
_BAR = 70  # grey
_TILE = 64  # pixels; smaller pictures are enlarged up to here
_BETWEEN = 8  # pixels between the blocks of a sheet


@dataclass(frozen=True)
class Strip:
    """A row of pictures.

    Attributes:
        pictures: `[n, C, R, R]` in [0, 1]; C is 1 or 3.
        framed: Numbers of the pictures that have a frame.
    """

    pictures: Tensor
    framed: Iterable[int] = ()


def draw_sheet(blocks: Sequence[Sequence[Strip]]) -> Tensor:
    """Blocks of rows below each other, `[H, W, 3]`."""
    side = blocks[0][0].pictures.shape[-1]
    side *= max(1, _TILE // side)
    drawn = [
        draw_rows([frame(fit(strip.pictures, side), strip.framed) for strip in block])
        for block in blocks
    ]
    return join(drawn, _BETWEEN).permute(1, 2, 0).contiguous()


def fit(pictures: Tensor, side: int) -> Tensor:
    """Pictures `[n, C, H, W]` in [0, 1], enlarged by a whole factor and centred on white squares.

    Returns:
        `[n, 3, side, side]`.
    """
    pixels = (pictures.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    factor = side // max(pixels.shape[2:])
    pixels = pixels.expand(-1, 3, -1, -1)
    pixels = pixels.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    height, width = pixels.shape[2:]
    top, left = (side - height) // 2, (side - width) // 2
    margins = (left, side - width - left, top, side - height - top)
    return functional.pad(pixels, margins, value=WHITE)


def bars(vectors: Tensor, side: int) -> Tensor:
    """Vectors `[n, ...]` of any numbers as bars from the middle line, uint8 `[n, 3, side, side]`.

    A bar has the height x / (1 + |x|) of half the tile: 1, one standard deviation of standardised
    numbers, is half of that, and no number leaves the tile. Where there are more numbers than
    pixels, a bar is the mean of its neighbours; what is not finite is 0.
    """
    flat = torch.nan_to_num(vectors.detach().cpu().float().flatten(1), 0.0, 0.0, 0.0)[:, None]
    if flat.shape[-1] > side:
        flat = functional.adaptive_avg_pool1d(flat, side)
    column = torch.arange(side) * flat.shape[-1] // side
    height = (flat / (1 + flat.abs()))[..., column]  # [n, 1, side]
    place = 1 - (2 * torch.arange(side) + 1)[:, None] / side  # of each row, from 1 down to -1
    inside = (place * height > 0) & (place.abs() <= height.abs())
    pixels = torch.where(inside, _BAR, WHITE).to(torch.uint8)
    return pixels[:, None].expand(-1, 3, -1, -1).contiguous()


def frame(tiles: Tensor, framed: Iterable[int] = ()) -> Tensor:
    """Tiles with a border: coloured for the numbers in `framed`, white for the others."""
    bordered = functional.pad(tiles, (GAP,) * 4, value=WHITE)
    for i in framed:
        bordered[i] = tiles.new_tensor(_FRAME)[:, None, None]
        bordered[i, :, GAP:-GAP, GAP:-GAP] = tiles[i]
    return bordered


def draw_rows(rows: Sequence[Tensor]) -> Tensor:
    """Rows of tiles `[n, 3, H, W]` as one picture `[3, H', W']`, as wide as the first row."""
    tiles, columns = torch.cat(list(rows)), len(rows[0])
    rest = tiles.new_zeros(-len(tiles) % columns, *tiles.shape[1:])
    lines = torch.cat([tiles, rest]).split(columns)
    return torch.cat([torch.cat(list(line), dim=2) for line in lines], dim=1)


def join(blocks: Sequence[Tensor], gap: int, *, across: bool = False) -> Tensor:
    """Pictures of one size below each other, or side by side, with white between them."""
    along = 2 if across else 1
    shape = list(blocks[0].shape)
    shape[along] = gap
    parts = [part for block in blocks for part in (block.new_full(shape, WHITE), block)]
    return torch.cat(parts[1:], dim=along)
