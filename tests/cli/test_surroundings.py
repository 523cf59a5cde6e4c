"""Machines without a home directory, terminations, numbers and names without bounds."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from shalabench.api import BenchError, DataError
from shalabench.api.files import NO_HOME
from shalabench.cli import main
from shalabench.cli.options import parse_seeds
from shalabench.datasets.sources.files import write_cached
from shalabench.records.locations import default_cache

ROOT = Path(__file__).parent.parent.parent
REFERENCE = ROOT / "results" / "reference"
TERMINATED = """
import os, runpy, signal, sys
class Terminating:
    def find_spec(self, name, *_):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Terminating())
sys.argv = ["bench.py", "list", "models"]
runpy.run_path("bench.py", run_name="__main__")
"""
HOMELESS = """
import os, runpy, sys
os.environ.pop("HOME", None)
os.getuid = lambda: 12345
sys.argv = ["bench.py", *sys.argv[1:]]
runpy.run_path("bench.py", run_name="__main__")
"""


def python(code, *arguments):
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["click", "pydantic", "torch"])
def test_a_termination_during_imports_exits_with_3(name):
    assert python(TERMINATED.format(name=name)).returncode == 3


def test_a_command_leaves_the_handler_of_its_caller_as_it_was():
    before = signal.getsignal(signal.SIGTERM)
    assert CliRunner().invoke(main, ["list", "presets"]).exit_code == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupt_exits_with_3(monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("shalabench.records.store.Store.runs", interrupt)
    assert CliRunner().invoke(main, ["status", "--store", str(ROOT)]).exit_code == 3


def test_without_a_home_directory_only_what_needs_it_asks(monkeypatch, tmp_path):
    assert python(HOMELESS, "list", "presets").returncode == 0

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert default_cache() == NO_HOME
    assert not (NO_HOME / "any").exists()
    with pytest.raises(DataError, match="--cache-dir"):
        write_cached(NO_HOME / "any" / "file.npz", lambda out: out.write(b"x"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_the_output_s_encoding_lacks_is_escaped(encoding):
    arguments = ["table", "--metric", "consistency", "--dataset", "cars"]
    shown = CliRunner(charset=encoding).invoke(main, [*arguments, "--store", str(REFERENCE)])
    assert shown.exit_code == 0, shown.exception
    assert encoding == "ascii" or r"\u2021" in shown.stdout  # Click writes UTF-8 in place of ASCII


@pytest.mark.parametrize("budget", ["nan", "inf"])
def test_a_budget_that_is_no_number_is_refused(budget):
    arguments = ["tune", "--models", "mvae", "--dataset", "toy", "--trials", "1"]
    assert CliRunner().invoke(main, [*arguments, "--budget", budget]).exit_code == 2


@pytest.mark.parametrize(
    "text", ["1000000000", "10001", "9" * 5000, "0,4294967296", "9" * 30 + ","]
)
def test_seeds_beyond_counting_are_refused(text):
    with pytest.raises(BenchError, match="at most 10,000") as told:
        parse_seeds(None, None, text)
    assert len(str(told.value)) < 250


@pytest.mark.parametrize(
    "option",
    [("--checkpoint-every", "nan"), ("--gpus-per-run", "inf"), ("--checkpoint-every", "-1")],
)
def test_an_option_is_a_finite_number(option):
    found = CliRunner().invoke(main, ["run", "--models", "shala", "--dataset", "toy", *option])
    assert found.exit_code == 2
    assert option[0] in found.output
    assert found.exception is None or isinstance(found.exception, SystemExit)


@pytest.mark.parametrize(
    "words",
    [
        ["table", "--metric", "coherence", "--store", "x" * 300],
        ["run", "--models", "shala", "--dataset", "x" * 300],
        ["run", "--models", "shala", "--dataset", "toy", "--preset", "x" * 300],
        ["run", "--ablation", "x" * 300, "--dataset", "toy"],
        ["prepare", "x" * 300],
    ],
)
def test_a_name_longer_than_a_file_name_is_a_mistake_like_others(words):
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 2, found.output
    assert isinstance(found.exception, SystemExit)
    assert found.output.strip()
