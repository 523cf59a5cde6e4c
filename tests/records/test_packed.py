"""Packed records: what is exported reads as before, and what is damaged is named."""

from __future__ import annotations

import json

import pytest
from helpers.records import write_result, write_run

from shalabench.analysis.tables import make_tables
from shalabench.api import BenchError
from shalabench.records.store import Store


@pytest.fixture
def store(tmp_path):
    for seed, value in enumerate((0.80, 0.82, 0.84)):
        write_run(tmp_path, "shala", seed, value)
    for seed, value in enumerate((0.30, 0.34, 0.38)):
        write_run(tmp_path, "mmvae+", seed, value)
    return Store(tmp_path)


def table_of(store, metric="coherence/joint", **filters):
    return next(t for t in make_tables([store], metric, **filters) if t.dataset == "polymnist")


def test_an_export_adds_what_is_missing_and_mixes_no_two_trainings(tmp_path):
    folder = write_run(tmp_path / "runs", "shala", 0, 0.5)
    store, copy = Store(tmp_path / "runs"), tmp_path / "copy"
    store.export(copy)
    (first,) = (copy / folder.name / "results").iterdir()
    before = first.read_text()
    write_result(folder, 0.7, version=2)
    store.export(copy)
    assert len(list((copy / folder.name / "results").iterdir())) == 2
    (folder / "trained.json").write_text('{"digest": "another", "provenance": {}}')
    with pytest.raises(BenchError, match="another training of the same run"):
        store.export(copy)
    assert first.read_text() == before
    with pytest.raises(BenchError, match="is the store that is exported"):
        store.export(tmp_path / "runs")


def test_an_export_names_no_place_of_the_machine(tmp_path):
    folder = write_run(tmp_path / "runs", "shala", 0, 0.5)
    told = {"kind": "failed", "reason": f"It is in {folder}/failed.json."}
    (folder / "events.jsonl").write_text(json.dumps(told) + "\n")
    Store(tmp_path / "runs").export(tmp_path / "copy")
    (events,) = (tmp_path / "copy").rglob("events.jsonl")
    assert json.loads(events.read_text())["reason"] == f"It is in {folder.name}/failed.json."


def test_an_exported_store_gives_the_same_table(store, tmp_path):
    assert store.export(tmp_path / "copy") == 6
    copied = make_tables([Store(tmp_path / "copy")], "coherence/joint", dataset="polymnist")
    assert copied[0].rows[-1].cells == table_of(store).rows[-1].cells
