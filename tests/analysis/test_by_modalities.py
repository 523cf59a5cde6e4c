"""Tables and the figure by the number of modalities."""

from __future__ import annotations

import json

import pytest
from helpers.records import write_run

from shalabench.analysis.learning import modalities_of
from shalabench.analysis.tables import make_tables, render
from shalabench.api.errors import BenchError
from shalabench.records.frame import load
from shalabench.records.store import Store
from shalabench.report.modalities import by_modalities
from shalabench.report.paper import write_figures

VALUES = {2: (0.7, 0.8), 5: (0.4, 0.6), 10: (0.1, 0.2)}


@pytest.fixture
def store(tmp_path):
    for model, less in (("a", 0.0), ("b", 0.05)):
        for m, values in VALUES.items():
            for seed, value in enumerate(values):
                folder = write_run(
                    *(tmp_path, model, seed, value - less),
                    name=str(m),
                    data=f"of {m}",
                    judge=f"for {m}",
                    settings={"data.modalities": m, "model.steps": 100, "model.batch_size": 32},
                    overrides=[] if m == 5 else [f"data.modalities={m}"],
                )
                change(folder / "run.json", "data", modalities=[f"m{k}" for k in range(m)])
                change(folder / "trained.json", "provenance", cpu_seconds=10.0 * m + seed)
                trained = json.loads((folder / "trained.json").read_text())
                (folder / "trained.json").write_text(json.dumps(trained | {"last": {"vae": {}}}))
    return Store(tmp_path)


def change(file, key, **values):
    content = json.loads(file.read_text())
    content[key] |= values
    file.write_text(json.dumps(content))


def test_a_method_has_one_row_and_a_column_for_each_number(store):
    (table,) = make_tables([store], "coherence", dataset="polymnist", by="modalities")
    assert list(table.metrics) == [
        *(f"coherence/joint M={m}" for m in VALUES),
        *(f"CPU s M={m}" for m in VALUES),
    ]
    rows = {row.label: row for row in table.rows}
    assert set(rows) == {"a", "b"}
    for m, (first, second) in VALUES.items():
        cell = rows["a"].cells[f"coherence/joint M={m}"]
        assert (cell.mean, cell.seeds) == (pytest.approx((first + second) / 2), 2)
        assert rows["b"].cells[f"CPU s M={m}"].mean == pytest.approx(10 * m + 0.5)
    text = render([table], "text", width=200)
    assert "joint M=10" in text
    assert "M: the number of modalities." in " ".join(text.split())


def test_data_of_different_sources_are_named(store):
    def notes():
        (table,) = make_tables([store], "coherence", dataset="polymnist", by="modalities")
        return [note for note in table.notes if "different sources" in note]

    for folder in store.root.iterdir():
        count = folder.name.rpartition("-")[2]
        change(folder / "run.json", "data", source=f"generated from {count} pictures")
    assert notes() == []
    for folder in store.root.glob("a-*-5"):
        change(folder / "run.json", "data", source="the archive")
    (note,) = notes()
    assert note.startswith("a: the data of M=2, M=10 and M=5 have different sources")


def test_each_number_is_ranked_apart(store, tmp_path):
    for seed in (2, 3):
        for model, value in (("a", 0.9), ("b", 0.1)):
            write_run(
                *(tmp_path, model, seed, value),
                name="more",
                data="of 2",
                judge="for 2",
                settings={"data.modalities": 2, "model.steps": 100, "model.batch_size": 32},
                overrides=["data.modalities=2"],
            )
    (table,) = make_tables([store], "coherence/joint", dataset="polymnist", by="modalities")
    marks = {m: {row.cells[f"coherence/joint M={m}"].mark for row in table.rows} for m in VALUES}
    assert marks[2] != {""}
    assert marks[5] == marks[10] == {""}  # two seeds a side


def test_the_figure_names_every_value(store, tmp_path):
    files, _ = write_figures("modalities", [store], tmp_path / "out")
    assert {file.name for file in files} == {
        "modalities-polymnist-quick.svg",
        "modalities-polymnist-quick.pdf",
        "modalities-polymnist-quick.png",
    }
    (table,) = make_tables([store], "coherence", dataset="polymnist")
    words = by_modalities(table, modalities_of(load([store]))).alt
    assert "a, coherence/joint: 0.75 with 2, 0.5 with 5, 0.15 with 10" in words
    assert "b, CPU s: 20.5 with 2, 50.5 with 5, 100 with 10" in words


def test_one_number_is_no_figure(tmp_path):
    write_run(tmp_path, "a", 0, 0.5)
    with pytest.raises(BenchError, match="modalities"):
        write_figures("modalities", [Store(tmp_path)], tmp_path / "out")
