"""Cells of a rendered table, as other programs read them."""

from __future__ import annotations

import pandas as pd
import pytest

from shalabench.analysis.render import _inert


@pytest.mark.parametrize("text", ["=1+1", "+a", "-cmd|'/c calc'!A0", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_cell_is_no_formula(text):
    assert _inert(text) == f"'{text}"


@pytest.mark.parametrize("value", ["-0.5", "+3", "-1e-3", -0.5, None, "shala", ""])
def test_numbers_and_other_texts_stay(value):
    assert _inert(value) == value
    assert pd.isna(value) or type(_inert(value)) is type(value)
