"""The faults that cost no training; CI makes all kinds (`benchmarks/faults.py`)."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from helpers.records import write_run

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes the fault of a kind and a number."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    import faults

    write_run(tmp_path / "healthy", "shala", 0, 0.8)

    def make(kind, number):
        folder = tmp_path / str(number)
        folder.mkdir()
        chance = random.Random(number)
        bench = faults.Bench(chance, folder, tmp_path / "healthy", tmp_path / "begun")
        kind(faults)(bench)

    yield make
    sys.modules.pop("faults")


@pytest.mark.parametrize("number", range(4))
def test_command_lines_end_without_a_traceback(make, number):
    make(lambda faults: faults.command, number)


@pytest.mark.parametrize("number", range(4))
def test_changed_files_end_without_a_traceback(make, number):
    make(lambda faults: faults.change_file, number)


def test_a_traceback_is_missed_by_nobody(make, monkeypatch):
    def explode(*_):
        raise RuntimeError("no luck")

    import faults

    monkeypatch.setattr("shalabench.records.store.Store.runs", explode)
    with pytest.raises(faults.Missed, match="no luck"):
        faults.call("status", "--store", ".")


def test_a_kill_at_a_write_leaves_the_old_file_or_the_new_one(make, tmp_path):
    import faults

    from shalabench.records.store import write_whole

    file = tmp_path / "file"
    for after, content in ((False, b"old"), (True, b"new")):
        write_whole(file, b"old")

        def work():
            with faults.dying_at(1, after=after):  # noqa: B023
                write_whole(file, b"new")

        assert faults.end(work) == -9
        assert file.read_bytes() == content
