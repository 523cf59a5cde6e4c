"""The parsers of options."""

from __future__ import annotations

import pytest

from shalabench.api import BenchError
from shalabench.cli.options import parse_digits, parse_duration, parse_names, parse_seeds


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", (0, 1, 2)), ("0,4", (0, 4)), ("4,", (4,)), ("5,5", (5,)), (None, ())],
)
def test_seeds_are_a_count_or_a_list(text, expected):
    assert parse_seeds(None, None, text) == expected


@pytest.mark.parametrize("text", ["7,,8", "x", "0", "-1,2", ""])
def test_other_seeds_are_refused(text):
    with pytest.raises(BenchError, match="--seeds"):
        parse_seeds(None, None, text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1.5h", 5400), ("2", 120), (None, None)],
)
def test_durations_are_in_seconds_minutes_or_hours(text, seconds):
    assert parse_duration(None, None, text) == seconds


def test_names_and_digits_are_separated_by_commas():
    assert parse_names(None, None, "shala, mmvae+,") == ("shala", "mmvae+")
    assert parse_names(None, None, None) == ()
    assert parse_digits(None, None, "3,1,1") == (1, 3)
