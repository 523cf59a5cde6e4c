"""Grids of pictures: sizes, frames and gaps."""

from __future__ import annotations

import torch

from shalabench.metrics import grids


def test_pictures_are_enlarged_by_a_whole_factor_and_centred():
    x = torch.tensor([0.0, 0.2]).view(1, 1, 1, 2)
    (tile,) = grids.fit(x, 5)
    white, grey = [255] * 5, [0, 0, 51, 51, 255]
    assert tile.shape == (3, 5, 5)
    assert tile[0].tolist() == [white, grey, grey, white, white]


def test_framed_tiles_have_a_coloured_border():
    tiles = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    row = grids.draw_rows([grids.frame(tiles, (1,))])
    assert row.shape == (3, 8, 16)
    assert row[:, 0, 0].tolist() == [255, 255, 255]
    assert row[:, 0, 8].tolist() == [20, 160, 60]
    assert (row[:, 2:6, 10:14] == 0).all()


def test_blocks_are_joined_with_white_between_them():
    blocks = [torch.full((3, 2, 4), i, dtype=torch.uint8) for i in range(3)]
    below, beside = grids.join(blocks, 3), grids.join(blocks, 3, across=True)
    assert below.shape == (3, 2 * 3 + 3 * 2, 4)
    assert beside.shape == (3, 2, 4 * 3 + 3 * 2)
    assert below[0, :, 0].tolist() == [0, 0, 255, 255, 255, 1, 1, 255, 255, 255, 2, 2]
    assert torch.equal(grids.join(blocks[:1], 3), blocks[0])


def test_bars_rise_and_fall_from_the_middle_line_and_stay_in_the_tile():
    drawn = grids.bars(torch.tensor([[1.0, -3.0, 0.0, 1e30]]), 8)
    assert drawn.shape == (1, 3, 8, 8)
    assert drawn.dtype == torch.uint8
    dark = (drawn[0, 0] < 255).int()
    # Two columns a number: half of the upper four rows, three of the lower four, none, all upper.
    assert dark[:4].sum(0).tolist() == [2, 2, 0, 0, 0, 0, 4, 4]
    assert dark[4:].sum(0).tolist() == [0, 0, 3, 3, 0, 0, 0, 0]
    assert dark[3, 0] == 1  # next to the middle line


def test_bars_of_any_shape_number_and_value_are_drawn():
    for shape in ((2, 1), (2, 3, 4), (2, 300), (2, 1, 1, 5)):
        assert grids.bars(torch.randn(shape), 16).shape == (2, 3, 16, 16)
    broken = grids.bars(torch.tensor([[torch.nan, torch.inf, -torch.inf]]), 9)
    assert (broken == 255).all()
    many = grids.bars(torch.cat([torch.ones(1, 40), -torch.ones(1, 40)], 1), 8)
    assert (many[0, 0, :4, :4] < 255).sum() == 2 * 4  # means of ten ones each
    assert (many[0, 0, 4:, 4:] < 255).sum() == 2 * 4
