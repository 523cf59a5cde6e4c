"""Tables from a made-up store whose figures are known."""

from __future__ import annotations

import csv
import io
import json

import pytest

from harness.api import BenchError, Score
from harness.store import Store
from harness.tables import make_tables, render


def write_run(root, model, seed, joint, **changes):
    folder = root / f"{model}-{seed}-{changes.get('name', '')}"
    (folder / "results").mkdir(parents=True)
    run = {
        "train_id": f"{folder}",
        "model": model,
        "model_version": 1,
        "dataset": changes.get("dataset", "polymnist"),
        "preset": "quick",
        "seed": seed,
        "overrides": [],
        "data": {"fingerprint": "f", "source": "made up"},
        "settings": {"model.x": changes.get("x", 1)},
    }
    (folder / "run.json").write_text(json.dumps(run))
    provenance = {"source": changes.get("source", "s"), "nets": "n"}
    (folder / "trained.json").write_text(json.dumps({"provenance": provenance}))
    metric = {"name": "coherence/joint", "direction": "higher", "digits": 3, "meaning": "agree"}
    scores = [
        Score("coherence/joint", joint, 1000, 0.01).to_json(),
        Score("classifier/accuracy", 0.99, 1000, 0.001, target="m0").to_json(),
    ]
    result = {
        "evaluator": "coherence",
        "version": 1,
        "split": "test",
        "provenance": {"finished": changes.get("finished", 0)},
        "settings": {},
        "classifiers": {},
        "metrics": [metric],
        "scores": scores,
    }
    (folder / "results" / "coherence-1.json").write_text(json.dumps(result))


@pytest.fixture
def store(tmp_path):
    for seed, value in enumerate((0.80, 0.82, 0.84)):
        write_run(tmp_path, "shala", seed, value)
    for seed, value in enumerate((0.30, 0.34, 0.38)):
        write_run(tmp_path, "mmvae+", seed, value)
    return Store(tmp_path)


def table_of(store, metric="coherence/joint", **filters):
    return next(t for t in make_tables([store], metric, **filters) if t.dataset == "polymnist")


def test_mean_and_standard_error_over_seeds(store):
    rows = {row.label: row for row in table_of(store).rows}
    cell = rows["shala"].cells["coherence/joint"]
    assert cell.mean == pytest.approx(0.82)
    assert cell.stderr == pytest.approx(0.02 / 3**0.5)
    assert cell.seeds == 3
    assert cell.best
    assert not rows["mmvae+"].cells["coherence/joint"].best


def test_published_figures_stand_beside_and_absent_methods_are_said(store):
    text = render([table_of(store)], "text")
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "0.820*" in rows["shala"]
    assert "0.815" in rows["shala"]
    assert "0.344" in rows["mmvae+"]
    assert "not run" in rows["cmvae"]
    assert "m0 0.990" in text
    assert "made up" in text


def test_what_is_not_significantly_worse_is_marked_too(tmp_path):
    for seed, (a, b) in enumerate(((0.80, 0.79), (0.84, 0.82), (0.82, 0.84))):
        write_run(tmp_path, "shala", seed, a)
        write_run(tmp_path, "mmvae+", seed, b)
    assert all(r.cells["coherence/joint"].best for r in table_of(Store(tmp_path)).rows if r.cells)


def test_one_seed_shows_the_error_over_items_and_says_so(tmp_path):
    write_run(tmp_path, "shala", 0, 0.8)
    table = table_of(Store(tmp_path))
    assert table.rows[-1].cells["coherence/joint"].stderr == 0.01
    assert any("One seed" in note for note in table.notes)


def test_other_settings_are_another_row(store, tmp_path):
    write_run(tmp_path, "shala", 0, 0.1, x=2, name="other")
    assert sum(row.method == "shala" for row in table_of(store).rows) == 2


def test_the_last_result_of_an_evaluator_counts(store):
    folder = next(f for f in store.runs() if f.run["model"] == "shala")
    (result,) = folder.results()
    newer = result | {"provenance": {"finished": 5}}
    newer["scores"] = [Score("coherence/joint", 0.5, 1000, 0.01).to_json()]
    folder.write_json("results/coherence-2.json", newer)
    row = next(r for r in table_of(store).rows if r.label == "shala")
    assert row.cells["coherence/joint"].mean == pytest.approx((0.5 + 0.82 + 0.84) / 3)


def test_validation_figures_stand_apart(store):
    assert not any(row.cells for row in table_of(store, split="validation").rows)


def test_runs_of_different_code_are_not_averaged_unasked(store, tmp_path):
    write_run(tmp_path, "shala", 3, 0.1, source="changed")
    with pytest.raises(BenchError, match=r"differ in their source code: .*--mix"):
        table_of(store)
    assert table_of(store, mix=True) is not None


def test_a_run_in_two_stores_counts_once(store):
    one = make_tables([store], "coherence/joint", dataset="polymnist")
    two = make_tables([store, store], "coherence/joint", dataset="polymnist")
    assert render(one, "json") == render(two, "json")


def test_csv_holds_every_figure_and_formats_are_well_formed(store):
    tables = make_tables([store], "coherence", dataset="polymnist")
    rows = list(csv.DictReader(io.StringIO(render(tables, "csv"))))
    ours = next(r for r in rows if r["method"] == "shala" and r["metric"] == "coherence/joint")
    assert float(ours["mean"]) == pytest.approx(0.82)
    assert ours["published"] == "0.815"
    assert r"\textbf{0.820}" in render(tables, "latex")
    assert r"\begin{tabular}" in render(tables, "latex")
    assert "**0.820**" in render(tables, "markdown")
    assert json.loads(render(tables, "json"))[0]["dataset"] == "polymnist"


def test_an_exported_store_gives_the_same_table(store, tmp_path):
    assert store.export(tmp_path / "copy") == 6
    copied = make_tables([Store(tmp_path / "copy")], "coherence/joint", dataset="polymnist")
    assert copied[0].rows[-1].cells == table_of(store).rows[-1].cells
