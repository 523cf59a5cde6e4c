"""The committed records give, cell for cell, the tables that were made before they were packed."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pandas as pd
import pytest

from shalabench.analysis.compare import compare
from shalabench.analysis.comparisons import render_comparisons
from shalabench.analysis.rows import NOT_RUN
from shalabench.analysis.tables import render, tables_of
from shalabench.config.ablations import read_ablation
from shalabench.records.frame import load
from shalabench.records.store import Store

RESULTS = Path(__file__).parent.parent.parent / "results"
STORES = [Store(RESULTS / name) for name in ("reference", "ablations")]
GOLDEN = json.loads(gzip.decompress((Path(__file__).parent / "golden.json.gz").read_bytes()))


@pytest.fixture(scope="module")
def records():
    return load(STORES[:1]), load(STORES)


@pytest.mark.parametrize("name", GOLDEN["tables"])
def test_every_cell_of_a_table_is_as_before(records, name):
    reference, both = records
    if name.startswith("ablation-"):
        _, ablation, metric = name.split("-")
        tables = tables_of(both, metric, ablation=read_ablation(ablation))
    else:
        tables = tables_of(reference, name)
    not_run = {
        (t.dataset, t.preset, row.label) for t in tables for row in t.rows if row.missing == NOT_RUN
    }
    head, *before = GOLDEN["tables"][name].splitlines()
    lines = list(zip(before, csv.reader(before), strict=True))
    before = [head, *(t for t, cells in lines if cells[4] or tuple(cells[:3]) not in not_run)]
    cells = pd.read_csv(io.StringIO(render(tables, "csv")), dtype=str, keep_default_na=False)
    # Columns and records that came later have tests of their own.
    there = {tuple(row[:2]) for row in csv.reader(before)}
    cells = cells[[pair in there for pair in zip(cells.dataset, cells.preset, strict=True)]]
    kept = cells[before[0].split(",")]
    assert kept.to_csv(index=False, lineterminator="\n").splitlines() == before


@pytest.mark.parametrize("pair", GOLDEN["compare"])
def test_every_comparison_is_as_before(pair):
    a, b, words = pair.split("|")
    words = words.replace("--", "").split()
    filters = dict(zip(words[::2], words[1::2], strict=True))
    found = json.loads(render_comparisons(*compare(a, b, STORES, **filters), as_json=True))
    for comparison in found["comparisons"]:
        kept = (row for row in comparison["configuration"] if not row[0].startswith("code digest"))
        comparison["configuration"] = list(kept)
    before = GOLDEN["compare"][pair]
    known = {comparison["place"] for comparison in before["comparisons"]}
    later = {"polydigits, quick-tuned", "polymnist, night"} - known  # than the golden file
    found["comparisons"] = [c for c in found["comparisons"] if c["place"] not in later]
    found["left_out"] = [t for t in found["left_out"] if t.partition(":")[0] not in later]
    assert found == before
