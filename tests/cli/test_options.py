"""The parsers of options."""

from __future__ import annotations

import time
from pathlib import Path

import click
import pytest

import bench
from shalabench.api import BenchError, DataPaths
from shalabench.api.files import expand_home
from shalabench.cli.engines import campaign_options
from shalabench.cli.options import (
    UserPath,
    parse_digits,
    parse_duration,
    parse_names,
    parse_seeds,
)
from shalabench.execute.options import Options, SlurmOptions


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


def test_options_of_a_campaign_are_those_of_the_command(tmp_path):
    given = {"data_root": tmp_path, "cache_dir": tmp_path / "c", "jobs": 2, "no_locks": True}
    paths = DataPaths(tmp_path, tmp_path / "c")
    asked = campaign_options(given, store=tmp_path)
    assert asked == Options(tmp_path, paths, jobs=2, locks=False)
    slurm = {"partition": "p", "job_time": 120.0, "job_array": True, "sbatch": ()}
    engine = {"engine": "slurm", "address": "x", "gpus_per_run": 0.5}
    more = given | engine | slurm | {"time_limit": 60.0, "store": tmp_path, "models": ("x",)}
    asked = campaign_options(more)
    assert (asked.engine, asked.address, asked.gpus) == ("slurm", "x", 0.5)
    assert asked.slurm == SlurmOptions("p", 2, True)
    assert 0 < asked.deadline - time.time() <= 60
