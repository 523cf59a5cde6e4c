"""Runs that are of no use any more are removed, and no others."""

from __future__ import annotations

import fcntl
import json

import pytest
from click.testing import CliRunner
from helpers.records import write_run

from shalabench.api.registry import find
from shalabench.cli import main
from shalabench.execute.cleaning import find_waste, remove
from shalabench.execute.provenance import describe_code
from shalabench.records.store import RunFolder, Store


@pytest.fixture
def store(tmp_path):
    """A run of each state: failed, diverged, stopped, held, done, of other code, damaged."""
    for name, status in (("failed", "failed"), ("diverged", "diverged"), ("skip", "skipped")):
        write_run(tmp_path, "mvae", 0, 0, name=name, failed={"status": status, "reason": "x"})
    for name in ("stopped", "held"):
        folder = write_run(tmp_path, "mvae", 0, 0, name=name, failed={"status": "failed"})
        (folder / "failed.json").unlink()
        (folder / "events.jsonl").write_text('{"kind": "stopped", "time": 1}\n')
    code = describe_code(find("model", "mvae"))
    done = write_run(tmp_path, "mvae", 0, 0.5, name="done")
    trained = {"provenance": {"source": code["source"], "nets": code["nets"]}}
    (done / "trained.json").write_text(json.dumps(trained))
    write_run(tmp_path, "mvae", 0, 0.5, name="other")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    return tmp_path


def left(store):
    return {path.name.removeprefix("mvae-0-") for path in store.iterdir()}


ALL = {"failed", "diverged", "skip", "stopped", "held", "done", "other", "damaged"}


def clean(store, *options, answer=""):
    return CliRunner().invoke(main, ["clean", "--store", str(store), *options], input=answer)


def test_failed_and_unfinished_runs_go_but_none_that_is_held(store):
    with (store / "mvae-0-held" / "lock").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = clean(store, "--yes")
    assert done.exit_code == 0, done.output
    assert left(store) == ALL - {"failed", "diverged", "stopped"}
    assert "3 runs were removed" in done.output


def test_finished_runs_of_other_code_go_only_if_asked_for(store):
    assert clean(store, "--other-code", "--yes").exit_code == 0
    assert left(store) == ALL - {"other"}


@pytest.mark.parametrize(
    ("options", "answer", "code"),
    [(("--dry-run",), "", 0), ((), "n\n", 0), ((), "", 2)],
)
def test_nothing_goes_without_a_yes(store, options, answer, code):
    done = clean(store, *options, answer=answer)
    assert done.exit_code == code, done.output
    assert left(store) == ALL
    assert clean(store, "--failed", answer="y\n").exit_code == 0
    assert left(store) == ALL - {"failed", "diverged"}


def test_a_linked_folder_is_no_waste_and_sizes_are_those_of_files(store, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (store / "mvae-0-failed").rename(elsewhere / "run")
    (store / "link").symlink_to(elsewhere / "run")
    [waste] = find_waste(Store(store), ["failed"])
    assert waste.folder.name == "mvae-0-diverged"
    files = [path for path in RunFolder(waste.folder.path).path.rglob("*") if path.is_file()]
    assert waste.size == sum(path.stat().st_size for path in files) > 0


def test_a_run_that_stays_says_whether_it_has_changed_or_is_held(store):
    waste = {each.folder.name: each for each in find_waste(Store(store), ["failed"])}
    (store / "mvae-0-failed" / "failed.json").unlink()
    with (store / "mvae-0-diverged" / "lock").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "process" in remove(waste["mvae-0-diverged"])
    assert "changed" in remove(waste["mvae-0-failed"])
    assert left(store) == ALL
    assert remove(waste["mvae-0-diverged"]) == ""
    assert left(store) == ALL - {"diverged"}
