"""Whatever lies in a store, the rest of it is read, and what does not read is named."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import time

import pytest
from click.testing import CliRunner
from helpers.records import write_run

from bench import main
from shalabench.api.files import remove_temporary, write_atomic
from shalabench.execute.reuse import find_reuse
from shalabench.records import store as stores
from shalabench.records.frame import load
from shalabench.records.packed import NAME
from shalabench.records.reading import terms_of
from shalabench.records.store import RunFolder, Store
from shalabench.records.study import Study, read_studies

DEEP = "[" * 100_000 + "]" * 100_000
FILES = ("run.json", "trained.json", "results/coherence-0.json")


@pytest.fixture
def store(tmp_path):
    for seed in range(3):
        write_run(tmp_path / "runs", "shala", seed, 0.8)
    return Store(tmp_path / "runs")


def invoke(*words):
    found = CliRunner().invoke(main, list(map(str, words)))
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


def spoil(file, how):
    if how == "folder":
        file.unlink()
        file.mkdir()
    elif how == "deep":
        file.write_text(f'{{"overrides": {DEEP}}}')
    elif how == "less deep":
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {"more": json.loads("[" * 200 + "]" * 200)}))
    elif how == "surrogate":
        file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "\ud800"}))
    elif how == "raw surrogate":
        file.write_bytes(file.read_bytes().replace(b'{"', b'{"\xed\xa0\x80": 1, "', 1))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["folder", "deep", "less deep", "surrogate", "raw surrogate"])
def test_a_file_that_is_none_is_named_and_costs_itself_alone(store, tmp_path, name, how):
    spoil(store.root / "shala-1-" / name, how)
    found = load([store])
    (problem,) = found.problems
    assert problem.kind == "unreadable"
    assert problem.where.startswith("shala-1-")
    assert len(found.all_results()) == 2
    status = invoke("status", "--store", store.root)
    assert status.exit_code == 0
    assert status.output.count("done") >= 2
    assert invoke("table", "--metric", "coherence", "--store", store.root).exit_code == 0
    assert invoke("report", tmp_path / "out", "--store", store.root).exit_code == 0
    assert invoke("export", tmp_path / "copy", "--store", store.root).exit_code == 1
    assert len(Store(tmp_path / "copy").runs()) == (3 if "results" in name else 2)


@pytest.mark.parametrize("line", [DEEP, '{"kind": "progress", "stage": "\\ud800"}'])
def test_events_that_do_not_read_are_passed_over(store, line):
    file = store.root / "shala-0-" / "events.jsonl"
    file.write_text(line + '\n{"kind": "started"}\n')
    assert list(store.runs()[0].events()) == [{"kind": "started"}]
    file.unlink()
    file.mkdir()
    status = invoke("status", "--store", store.root)
    assert status.exit_code == 0
    assert "events.jsonl" in status.output


def test_names_that_are_no_utf8_and_hidden_folders(store, tmp_path):
    os.rename(os.fsencode(store.root / "shala-1-"), os.fsencode(store.root) + b"/caf\xe9")
    (store.root / "shala-2-").rename(store.root / ".shala-2-")
    assert [run.name for run in store.runs()] == ["caf\\udce9", "shala-0-"]
    for words in (["status"], ["table", "--metric", "coherence"], ["report", tmp_path / "out"]):
        assert invoke(*words, "--store", store.root).exit_code == 0
    invoke("export", tmp_path / "copy", "--store", store.root)
    assert [run.name for run in Store(tmp_path / "copy").runs()] == ["caf\\udce9", "shala-0-"]


def test_runs_that_vanish_while_they_are_listed(store, monkeypatch):
    listed = stores._files

    def vanish(root):
        files = listed(root)
        shutil.rmtree(store.root / "shala-1-", ignore_errors=True)
        return files

    monkeypatch.setattr(stores, "_files", vanish)
    assert invoke("status", "--store", store.root).exit_code == 0
    own = RunFolder(store.root / "shala-0-")
    shutil.copytree(store.root / "shala-0-", store.root / "shala-1-")
    made_by = dict.fromkeys(("source", "nets", "packages", "platform", "device", "threads"))
    assert find_reuse(store, own, made_by, []) is None
    assert find_reuse(store, own, made_by, []) is None


def test_a_packed_file_of_other_content_is_named(store, tmp_path):
    store.export(tmp_path / "copy")
    (file,) = (tmp_path / "copy").rglob(NAME)
    lines = gzip.decompress(file.read_bytes()).splitlines()
    run = json.loads(lines[1])
    bad = [
        b'{"packed": 1, "unchecked": 5}',
        b'{"result":"\xff\xfe","content":{}}',
        DEEP.encode(),
        *(
            json.dumps(run | change).encode()
            for change in ({"name": "../x"}, {"name": 5}, {"run": []}, {"events": [1]})
        ),
        lines[2].replace(b'"content":{', b'"content":[{').replace(b"}\n", b"}]\n"),
    ]
    file.write_bytes(gzip.compress(b"\n".join([lines[0], *bad, *lines[1:]]) + b"\n"))
    found = load([Store(tmp_path / "copy")])
    assert len(found.runs) == 3
    assert len(found.problems) >= 5
    curves = file.with_name("curves.csv.gz")
    for content in (b"", b"stage,step\n1,2\n", b'run,"' + b"x" * 200_000):
        curves.write_bytes(gzip.compress(content))
        assert invoke("status", "--store", tmp_path / "copy").exit_code == 0
    curves.unlink()
    curves.mkdir()
    assert invoke("status", "--store", tmp_path / "copy").exit_code == 0


def test_a_folder_that_may_not_be_listed_is_named(store, monkeypatch):
    real = os.scandir

    def scan(path):
        if str(path).endswith("shala-1-"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert [run.name for run in store.runs()] == ["shala-0-", "shala-1-", "shala-2-"]


def dead_pid():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_temporary_files_are_no_records_and_the_next_run_removes_the_dead_ones(store):
    folder = RunFolder(store.root / "shala-0-")
    results, dead = folder.path / "results", dead_pid()
    left = [
        folder.path / f".run.json.{dead}.tmp",  # as earlier versions named them
        results / f".{dead}-coherence-1.json",
        folder.path / "checkpoints" / f".{dead}-00-000000001.pt",
    ]
    seen = []

    def stop_here(path):
        seen.append(path)
        mine = f"-{os.getpid()}-"
        for pid in (dead, os.getpid()):  # one that died, and one that had our number before us
            text = path.name.replace(mine, f"-{pid}-")
            text = text if pid == dead else text[: text.index(mine)] + f"{mine}00000000-0.tmp"
            left.append(path.with_name(text))
        left.append(path.with_name(f".elsewhere-{dead}-00000000-0.tmp"))
        for file in left:
            file.parent.mkdir(exist_ok=True)
            file.write_text("{")
        path.write_text("{}")
        with folder.lock(wait=False):  # while this write goes on
            assert path.exists()

    write_atomic(results / "coherence-9.json", stop_here)
    (results / "coherence-9.json").unlink()
    assert [file for file in left if file.exists()] == left[-1:]
    os.utime(left[-1], (time.time() - 2e5,) * 2)  # of another machine, two days ago
    remove_temporary(folder.path)
    assert not left[-1].exists()
    for file in left[:3]:
        file.write_text("{")
    assert folder.result_names() == ["coherence-0.json"]
    assert folder.checkpoints() == []
    assert not load([store]).problems
    assert not seen[0].exists()


def test_other_hidden_files_stay(tmp_path):
    kept = [tmp_path / name for name in (".hidden", ".2024-notes.txt", ".a.tmp", "x.tmp")]
    for file in kept:
        file.touch()
    remove_temporary(tmp_path)
    assert all(file.exists() for file in kept)


def test_temporary_files_are_no_studies_and_the_next_writing_removes_them(tmp_path):
    left = tmp_path / f".{dead_pid()}-toy-quick.json"
    left.write_text("{")
    facts = {"fingerprint": "f", "classes": 2, "seed": 0, "trials": 1, "budget": 1.0}
    study = Study(dataset="toy", preset="quick", **facts)
    (tmp_path / "toy-quick.json").write_text(study.model_dump_json())
    assert read_studies(tmp_path, None, None) == [study]
    study.write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["toy-quick.json"]


def test_terms_of_an_event_are_its_numbers_but_for_time_and_step():
    event = {"time": 1.5, "kind": "progress", "stage": "vae", "step": 100, "loss": -2.5, "n": 3}
    assert terms_of(event | {"note": "x", "is": True, "none": None}) == {"loss": -2.5, "n": 3}
