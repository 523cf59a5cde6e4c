"""Packed records: what is exported reads as before, and what is damaged is named."""

from __future__ import annotations

import errno
import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.records import write_result, write_run, write_two_methods
from PIL import Image

from bench import main
from shalabench.analysis.tables import make_tables
from shalabench.api import BenchError
from shalabench.records.export import LeftOut
from shalabench.records.frame import load
from shalabench.records.packed import NAME
from shalabench.records.store import Store

PACK = "polymnist-quick"
EVENTS = [
    {"time": 100.5, "kind": "started", "device": "cpu"},
    {"time": 101.0, "kind": "progress", "stage": "vae", "step": 50, "loss": 3.25, "kl": 0.5},
    {"time": 102.0, "kind": "checkpoint", "stage": "vae", "step": 50},
    {"time": 103.0, "kind": "progress", "stage": "vae", "step": 100, "loss": 1.5, "kl": 0.25},
    {"time": 104.0, "kind": "trained", "seconds": 3.5},
]


@pytest.fixture
def store(tmp_path):
    return write_two_methods(tmp_path / "runs")


@pytest.fixture
def packed(store, tmp_path):
    store.export(tmp_path / "copy")
    return Store(tmp_path / "copy")


def rows_of(*stores):
    tables = make_tables(stores, "coherence/joint", dataset="polymnist")
    return {row.label: row.cells for row in tables[0].rows if row.cells}


def lines_of(store):
    return gzip.decompress((store.root / PACK / NAME).read_bytes()).splitlines(keepends=True)


def write_lines(store, lines):
    (store.root / PACK / NAME).write_bytes(gzip.compress(b"".join(lines)))


def results_of(store, name):
    (folder,) = (f for f in store.runs() if f.path.name == name)
    return [result["version"] for result in folder.results()]


def test_an_exported_store_gives_the_same_table_alone_and_beside_others(store, packed):
    assert len(packed.runs()) == 6
    assert rows_of(packed) == rows_of(store)
    frames = [load([one]).scores.drop(columns=["headline"]) for one in (store, packed)]
    assert frames[0].equals(frames[1])
    write_run(store.root, "shala", 3, 0.9)
    (mixed,) = {cells["coherence/joint"].seeds for cells in [rows_of(packed, store)["shala"]]}
    assert mixed == 4
    found = load([packed, store])
    assert [p.kind for p in found.problems] == ["duplicate"] * 6
    assert not any(problem.is_loss for problem in found.problems)


def test_an_export_adds_what_is_missing_and_mixes_no_two_trainings(tmp_path):
    folder = write_run(tmp_path / "runs", "shala", 0, 0.5)
    store, copy = Store(tmp_path / "runs"), Store(tmp_path / "copy")
    store.export(copy.root)
    first = copy.runs()[0].results()
    write_result(folder, 0.7, version=2)
    write_run(tmp_path / "others", "mvae", 0, 0.5)
    Store(tmp_path / "others").export(copy.root)
    store.export(copy.root)
    assert results_of(copy, folder.name) == [1, 2]
    assert [f.path.name for f in copy.runs()] == ["mvae-0-", "shala-0-"]
    trained = {"digest": "another", "provenance": {"source": "s", "nets": "n"}}
    (folder / "trained.json").write_text(json.dumps(trained))
    before = (copy.root / PACK / NAME).read_bytes()
    with pytest.raises(BenchError, match="another training of the run"):
        store.export(copy.root)
    assert (copy.root / PACK / NAME).read_bytes() == before
    with pytest.raises(BenchError, match="is the store that is exported"):
        store.export(tmp_path / "runs")
    assert first == copy.runs()[1].results()[:1]


def test_the_same_records_give_the_same_bytes_and_an_export_of_them_too(store, packed, tmp_path):
    def contents(root):
        return {f.relative_to(root): f.read_bytes() for f in root.rglob("*.*") if f.is_file()}

    store.export(tmp_path / "second")
    packed.export(tmp_path / "third")
    assert contents(tmp_path / "second") == contents(packed.root)
    assert contents(tmp_path / "third") == contents(packed.root)


def test_events_pictures_and_texts_are_kept(tmp_path):
    folder = write_run(tmp_path / "runs", "shala", 0, 0.5)
    events = [
        {"kind": "failed", "time": 100.0, "reason": f"It is in {folder}/failed.json."},
        *EVENTS,
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    file = folder / "results" / "coherence-0.json"
    names = {"pictures": ["pictures/joint.png"], "texts": ["texts/joint.txt"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | names))
    (folder / "pictures").mkdir()
    Image.new("RGB", (8, 8), (200, 10, 10)).save(folder / "pictures" / "joint.png")
    (folder / "texts").mkdir()
    (folder / "texts" / "joint.txt").write_text("a bird")
    Store(tmp_path / "runs").export(tmp_path / "copy")
    (run,) = Store(tmp_path / "copy").runs()
    first, *others = run.events()
    assert first["reason"] == f"It is in {folder.name}/failed.json."
    assert others == [event for event in EVENTS if event["kind"] != "checkpoint"]
    assert run.text("texts/joint.txt") == "a bird"
    assert run.text("texts/other.txt") is None
    assert run.picture("pictures/other.png") is None
    with Image.open(run.picture("pictures/joint.png")) as picture:
        assert picture.convert("RGB").getpixel((0, 0)) == (200, 10, 10)


def test_of_a_file_that_was_cut_short_the_whole_lines_are_used(packed):
    file = packed.root / PACK / NAME
    whole = file.read_bytes()
    (file.parent / "curves.csv.gz").write_bytes(b"\x1f\x8b\x08")
    seen = []
    for size in range(0, len(whole), 23):
        file.write_bytes(whole[:size])
        found = load([packed])
        (problem,) = found.problems
        assert problem.kind == "unreadable"
        assert "cut short" in problem.text
        assert all(run.events() is not None for run in packed.runs() if "line" in run.path.name)
        seen.append(len(found.runs))
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert seen[-1] in (5, 6)


@pytest.mark.parametrize(("place", "runs", "results"), [(3, 5, 5), (4, 6, 5)])
def test_a_line_that_does_not_read_is_named_and_costs_what_it_holds(packed, place, runs, results):
    lines = lines_of(packed)
    lines[place] = lines[place][: len(lines[place]) // 2] + b"\n"
    write_lines(packed, lines)
    found = load([packed])
    (problem,) = found.problems
    assert problem.kind == "unreadable"
    assert ("Line 4 of" in problem.text) == (place == 3)
    assert len(found.runs) == runs
    assert len(found.all_results()) == results
    with pytest.raises(BenchError, match="does not read"):
        packed.export(packed.root.parent / "third")


@pytest.mark.parametrize("exported", [True, False])
def test_a_line_of_another_schema_is_checked_though_it_was_packed(store, tmp_path, exported):
    packed = Store(tmp_path / "copy")
    if exported:  # it had that form already when it was packed
        file = store.root / "shala-0-" / "results" / "coherence-0.json"
        file.write_text(file.read_text().replace('"n": 1000', '"n": "many"'))
        store.export(packed.root)
    else:
        store.export(packed.root)
        write_lines(packed, [x.replace(b'"n":1000', b'"n":"many"', 1) for x in lines_of(packed)])
    found = load([packed])
    assert {problem.kind for problem in found.problems} == {"another schema"}
    assert len(found.problems) == (1 if exported else 6)
    assert "'many'" in found.problems[0].text
    assert "scores.0.n" in found.problems[0].text
    assert len(found.runs) == 6


@pytest.mark.parametrize("name", [NAME, "curves.csv.gz"])
def test_a_damaged_file_is_written_anew_and_kept_beside(store, packed, name):
    other = write_run(store.root.parent / "others", "mvae", 0, 0.5)
    Store(other.parent).export(packed.root)
    file = packed.root / PACK / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    before, said = file.read_bytes(), []
    store.export(packed.root, say=said.append)
    assert len(said) == 1
    assert not load([packed]).problems
    assert {run.path.name for run in packed.runs()} >= {run.path.name for run in store.runs()}
    (kept,) = file.parent.glob(f"{name}.damaged-*")
    assert kept.read_bytes() == before
    Store(other.parent).export(packed.root, say=said.append)
    assert file.read_bytes() == whole
    assert len(said) == 1


def test_what_does_not_read_is_left_out_of_an_export_and_named(store, tmp_path):
    (store.root / "shala-0-" / "results" / "coherence-0.json").write_text("{")
    (store.root / "shala-1-" / "trained.json").write_text("[]")
    run = store.root / "shala-2-" / "run.json"
    run.write_text(run.read_text().replace('"polymnist"', '"../out"'))
    words = ["export", str(tmp_path / "copy"), "--store", str(store.root)]
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 1, found.output
    assert all(f"shala-{seed}-" in found.output for seed in range(3))
    names = [run.path.name for run in Store(tmp_path / "copy").runs()]
    assert names == ["mmvae+-0-", "mmvae+-1-", "mmvae+-2-", "shala-0-"]
    assert not list(tmp_path.glob("out*"))


def test_a_cut_picture_of_an_export_is_mended(tmp_path):
    folder = write_run(tmp_path / "runs", "shala", 0, 0.5)
    file = folder / "results" / "coherence-0.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pictures": ["pictures/a.webp"]}))
    (folder / "pictures").mkdir()
    Image.new("RGB", (8, 8), (200, 10, 10)).save(folder / "pictures" / "a.webp")
    store = Store(tmp_path / "runs")
    store.export(tmp_path / "copy")
    (copy,) = (tmp_path / "copy").rglob("a.webp")
    whole = copy.read_bytes()
    copy.write_bytes(whole[:20])
    store.export(tmp_path / "copy")
    assert copy.read_bytes() == whole
    (folder / "pictures" / "a.webp").write_bytes(whole[:20])
    copy.unlink()
    with pytest.raises(LeftOut, match=r"a\.webp"):
        store.export(tmp_path / "copy")
    assert not copy.exists()


def test_a_full_disk_leaves_no_cut_file_and_the_next_export_ends_well(store, tmp_path, monkeypatch):
    real, left = Path.write_bytes, [0]

    def full(path, content):
        if left[0] == 0:
            real(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    for count in range(2):
        left[0] = count
        with pytest.raises(BenchError, match="cannot be written"):
            store.export(tmp_path / "copy")
        assert not Store(tmp_path / "copy").runs()
        assert not list((tmp_path / "copy").rglob("*.tmp"))
    left[0] = -1
    assert store.export(tmp_path / "copy") == 6
    assert not load([Store(tmp_path / "copy")]).problems


def test_an_export_chooses_by_dataset_preset_and_method(store, tmp_path):
    def export(name, *options):
        words = ["export", str(tmp_path / name), "--store", str(store.root), *options]
        return CliRunner().invoke(main, words)

    write_run(store.root, "mvae", 0, 0.5, dataset="mst")
    assert export("method", "--models", "shala").exit_code == 0
    assert {f.run["model"] for f in Store(tmp_path / "method").runs()} == {"shala"}
    assert export("dataset", "--dataset", "mst", "--preset", "quick").exit_code == 0
    assert [f.run["model"] for f in Store(tmp_path / "dataset").runs()] == ["mvae"]
    nothing = export("none", "--preset", "paper")
    assert nothing.exit_code == 2
    assert "No finished run" in nothing.output
    assert not (tmp_path / "none").exists()
