"""Folders of runs that something else wrote into, and folders that cannot be used."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from dataclasses import replace

import pytest
from click.testing import CliRunner
from helpers.records import write_two_methods

from bench import main
from shalabench.api import BenchError
from shalabench.records.store import RunFolder


@pytest.fixture
def store(tmp_path):
    return write_two_methods(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_file_locks_reading_goes_on_and_running_offers_no_locks(store, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    (run, *_) = store.runs()
    assert run.state() == "done"
    begun = replace(run, path=run.path.with_name("begun"))
    with pytest.raises(BenchError, match="--no-locks"), begun.lock(wait=False):
        pass
    with begun.lock(wait=False, locks=False) as held:
        assert held
        begun.log("started")
    assert begun.state() == "stopped"


@pytest.mark.parametrize(
    "lines",
    [
        b'\xff\xfe\x00\n{"kind": "caf\xe9"}\n',
        b'{"time": 1}\n5\nnull\n[]\ngarbage\n{"kind": null}\n',
        b'{"kind": "progress", "loss": 1}\n',
        b'{"kind": "progress", "stage": "a", "step": "x", "loss": "y"}\n',
    ],
    ids=["no text", "no events", "no step", "words"],
)
@pytest.mark.parametrize("command", ["status", "report", "export", "figure"])
def test_lines_that_are_no_events_are_passed_over(store, tmp_path, command, lines):
    whole = {"kind": "progress", "stage": "fit", "step": 7, "loss": 1.5}
    for folder in store.runs():
        content = lines + json.dumps(whole).encode() + b"\n" + lines
        (folder.path / "events.jsonl").write_bytes(content)
    out = str(tmp_path / "out")
    words = {"status": [], "report": [out], "export": [out], "figure": ["curves", "--out", out]}
    found = CliRunner().invoke(main, [command, *words[command], "--store", str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert whole in store.runs()[0].events()


@pytest.mark.parametrize("name", ["file/x", "/proc/x/y"])
@pytest.mark.parametrize("command", [["export"], ["report"], ["figure", "dots", "--out"]])
def test_a_folder_that_cannot_be_written_is_an_error(store, tmp_path, command, name):
    (tmp_path / "file").write_text("mine")
    out = tmp_path / name
    found = CliRunner().invoke(main, [*command, str(out), "--store", str(tmp_path)])
    assert found.exit_code == 2
    assert str(out) in found.output
    assert "cannot be written" in found.output
    option = {"export": "DESTINATION", "report": "OUT", "figure": "--out"}[command[0]]
    assert f"choose another {option}, and" in found.output
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("command", [["export"], ["report"], ["figure", "dots", "--out"]])
def test_a_file_in_place_of_a_folder_is_left_as_it_is(store, tmp_path, command):
    (tmp_path / "file").write_text("mine")
    words = [*command, str(tmp_path / "file"), "--store", str(tmp_path)]
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 2
    assert str(tmp_path / "file") in found.output
    assert "--store" not in found.output
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "command", [["table", "--metric", "coherence"], ["status"], ["export", "x"]]
)
def test_a_store_that_does_not_exist_is_an_error(tmp_path, command):
    found = CliRunner().invoke(main, [*command, "--store", str(tmp_path / "rnus")])
    assert found.exit_code == 2
    assert "there is no such folder" in found.output


def test_a_link_out_of_a_record_is_no_picture_of_it(tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "a.webp").write_bytes(b"secret")
    for name in ("file", "folder", "own"):
        (tmp_path / name).mkdir()
    (tmp_path / "file" / "pictures").mkdir()
    (tmp_path / "file" / "pictures" / "a.webp").symlink_to(secret / "a.webp")
    (tmp_path / "folder" / "pictures").symlink_to(secret)
    (tmp_path / "own" / "pictures").mkdir()
    (tmp_path / "own" / "pictures" / "a.webp").write_bytes(b"own")
    os.symlink(tmp_path / "own", tmp_path / "linked")  # a store may be reached by a link
    found = {n: RunFolder(tmp_path / n).picture("pictures/a.webp") for n in os.listdir(tmp_path)}
    assert {name for name, file in found.items() if file} == {"own", "linked"}
    assert RunFolder(tmp_path / "own").picture("x" * 300) is None
