"""The parsers of options."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

import bench
from shalabench.api import BenchError
from shalabench.api.files import expand_home
from shalabench.cli.options import (
    UserPath,
    parse_digits,
    parse_duration,
    parse_names,
    parse_seeds,
)


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


def test_a_tilde_is_the_home_folder_wherever_a_path_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_home("~/data") == tmp_path / "data"
    assert expand_home("a/~") == Path("a/~")
    assert UserPath().convert("~/data", None, None) == tmp_path / "data"
    with pytest.raises(BenchError, match="~nobody-of-this-name/x"):
        expand_home("~nobody-of-this-name/x")


def params_of(command):
    for inner in getattr(command, "commands", {}).values():
        yield from params_of(inner)
    yield from ((command.name, param) for param in command.params)


def test_a_null_character_in_a_path_is_one_sentence():
    with pytest.raises(click.BadParameter, match="is no path: it contains a null"):
        UserPath().convert("a\0b", None, None)


def test_every_path_of_every_command_knows_the_tilde():
    paths = [(c, p) for c, p in params_of(bench.main) if isinstance(p.type, click.Path)]
    assert len(paths) > 10
    assert [(c, p.name) for c, p in paths if not isinstance(p.type, UserPath)] == []
