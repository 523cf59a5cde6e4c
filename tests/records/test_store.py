"""Folders of runs that something else wrote into."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from helpers.records import write_run

from bench import main
from shalabench.analysis.tables import make_tables
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
