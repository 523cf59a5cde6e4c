"""Tables from a made-up store whose values are known."""

from __future__ import annotations

import csv
import io
import json

import pytest
from click.testing import CliRunner
from helpers.records import table_of, write_result, write_run, write_two_methods, write_views

from bench import main
from shalabench.analysis.instruments import weak_classifiers
from shalabench.analysis.status import describe
from shalabench.analysis.tables import make_tables, render
from shalabench.api import BenchError
from shalabench.config.settings import resolve
from shalabench.datasets.polydigits import PolyDigits
from shalabench.records.frame import Result
from shalabench.records.store import Store


@pytest.fixture
def store(tmp_path):
    return write_two_methods(tmp_path)


def marks(table, metric="coherence/joint"):
    return {row.label: row.cells[metric].mark for row in table.rows if metric in row.cells}


def write_seeds(write, root, model, value, *arguments, seeds=3, **changes):
    """Runs of some seeds whose values lie .01 apart around one."""
    for seed in range(seeds):
        own = value + 0.01 * (seed - (seeds - 1) / 2)
        where = (seed, own) if write is write_run else (own, *arguments, seed)
        write(root, model, *where, **changes)


def test_mean_and_standard_error_over_seeds(store):
    rows = {row.label: row for row in table_of(store).rows}
    cell = rows["shala"].cells["coherence/joint"]
    assert cell.mean == pytest.approx(0.82)
    assert cell.stderr == pytest.approx(0.02 / 3**0.5)
    assert cell.seeds == 3
    assert marks(table_of(store)) == {"shala": "best", "mmvae+": "behind"}


def test_published_values_stand_beside_and_absent_methods_are_named(store):
    text = render([table_of(store)], "text")
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "0.820*" in rows["shala"]
    assert "0.815" in rows["shala"]
    assert "0.344" in rows["mmvae+"]
    assert "not run" in rows["cmvae"]
    assert "m0 0.990" in text
    assert "coherence version 1 on the test split; test items a value: 1,000." in text
    assert "made up" in text


def test_what_is_not_significantly_worse_is_marked_too(tmp_path):
    for seed, (a, b) in enumerate(((0.80, 0.79), (0.84, 0.82), (0.82, 0.84))):
        write_run(tmp_path, "shala", seed, a)
        write_run(tmp_path, "mmvae+", seed, b)
    table = table_of(Store(tmp_path))
    assert marks(table) == {"shala": "best", "mmvae+": "level"}
    lines = {line.split()[0]: line for line in render([table], "text").splitlines() if line}
    assert "0.820* ±" in lines["shala"]
    assert "0.817+ ±" in lines["mmvae+"]


def test_a_variant_is_not_ranked_where_the_preset_s_settings_ran(store, tmp_path):
    write_run(tmp_path, "shala", 0, 0.9, name="v", overrides=["model.x=9"], x=9)
    table = table_of(store)
    assert marks(table) == {"shala": "best", "mmvae+": "behind", "shala [model.x=9]": ""}
    assert any("are not ranked" in note for note in table.notes)


def test_a_variant_is_none_for_what_nobody_overrode(store, tmp_path):
    """As the precision of a second machine, which tells the preset's own rows apart."""
    write_seeds(write_run, tmp_path, "shala", 0.81, name="p", precision="float32")
    write_run(tmp_path, "shala", 0, 0.9, name="v", overrides=["model.x=9"], x=9)
    rows = {row.label: row for row in table_of(store).rows if row.cells}
    plain = {"shala [train.precision=bf16]", "shala [train.precision=float32]"}
    assert {n for n, m in marks(table_of(store)).items() if m in ("best", "level")} == plain
    assert {label for label, row in rows.items() if row.published} == {*plain, "mmvae+"}


def test_no_published_value_stands_beside_a_part_of_the_data(tmp_path):
    digits = {"overrides": ["data.digits=[0,1]"], "settings": {"data.digits": [0, 1]}}
    write_run(tmp_path, "shala", 0, 0.97, **digits)
    rows = {row.label: row for row in table_of(Store(tmp_path)).rows}
    assert rows["shala [data.digits=[0,1]]"].published == {}
    assert rows["shala"].published["coherence/joint"] == "0.815"


def test_data_that_deviate_from_the_published_stand_apart_and_say_why(tmp_path):
    write_run(tmp_path, "shala", 0, 0.8, deviation="150 of 60,000 train tuples")
    text = render([table_of(Store(tmp_path))], "text")
    assert "published, other data" in text
    assert "because the data deviate from theirs: 150 of 60,000 train tuples." in text


def test_published_data_stand_beside_the_published_values(store):
    text = render([table_of(store)], "text")
    assert "other data" not in text
    assert "deviate" not in text


@pytest.mark.parametrize(
    ("value", "recorded", "stderr", "warned"),
    [
        (0.80, 0.95, 0.01, True),
        (0.91, 0.95, 0.01, False),  # within .05
        (0.85, 0.95, 0.04, False),  # within four standard errors
        (0.98, 0.95, 0.01, False),
        (0.80, None, 0.01, False),
    ],
)
def test_a_classifier_far_below_its_recorded_accuracy_is_a_warning(value, recorded, stderr, warned):
    result = Result(
        {
            "split": "test",
            "classifiers": {"m0": {"accuracy": recorded}},
            "metrics": [{"name": "classifier/accuracy", "role": "classifier"}],
            "scores": [
                {"metric": "classifier/accuracy", "value": v, "stderr": stderr, "target": target}
                for v, target in ((value, "m0"), (0.1, None))
            ],
        }
    )
    warnings = weak_classifiers([result, result])
    assert len(warnings) == warned
    if warned:
        assert "m0 has an accuracy of 0.800" in warnings[0]
        assert "0.950 is recorded" in warnings[0]


def test_one_seed_shows_the_error_over_items_and_says_so(tmp_path):
    write_run(tmp_path, "shala", 0, 0.8)
    table = table_of(Store(tmp_path))
    assert table.rows[-1].cells["coherence/joint"].stderr == 0.01
    assert any("one seed" in note for note in table.notes)


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"x": 2}, "shala [model.x=2]"),
        ({"precision": "float32"}, "shala [train.precision=float32]"),
    ],
)
def test_other_settings_are_another_row_and_the_label_tells_which(store, tmp_path, change, label):
    write_run(tmp_path, "shala", 0, 0.1, name="other", **change)
    rows = [row for row in table_of(store).rows if row.method == "shala"]
    assert len(rows) == 2
    assert label in [row.label for row in rows]


def test_settings_that_change_no_number_make_no_row(store, tmp_path):
    write_run(tmp_path, "shala", 3, 0.82, compile=True)
    (row,) = [row for row in table_of(store).rows if row.method == "shala"]
    assert row.cells["coherence/joint"].seeds == 4


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"source": "changed"}, "source code"),
        ({"data": "changed"}, "data"),
        ({"evaluator": "changed"}, "coherence source code"),
        ({"version": 2}, "coherence version"),
        ({"judge": "changed"}, "coherence classifiers"),
    ],
)
def test_runs_that_differ_are_not_averaged_unasked(store, tmp_path, change, what):
    write_run(tmp_path, "shala", 3, 0.1, name="new", **change)
    expected = rf"differ in their {what}, such as shala-2- and shala-3-new\. .*--mix"
    with pytest.raises(BenchError, match=expected):
        table_of(store)
    (row,) = [row for row in table_of(store, mix=True).rows if row.method == "shala"]
    assert row.cells["coherence/joint"].seeds == 4


def test_the_last_result_of_an_evaluator_counts(store):
    folder = next(f for f in store.runs() if f.run["model"] == "shala")
    write_result(folder.path, 0.5, finished=5)
    write_result(folder.path, 0.1, finished=4)
    row = next(r for r in table_of(store).rows if r.label == "shala")
    assert row.cells["coherence/joint"].mean == pytest.approx((0.5 + 0.82 + 0.84) / 3)


def test_seeds_evaluated_by_other_settings_are_another_row(store):
    folder = next(f for f in store.runs() if f.run["model"] == "shala")
    write_result(folder.path, 0.5, finished=5, samples=50)
    rows = {r.label: r.cells["coherence/joint"] for r in table_of(store).rows if r.cells}
    assert rows["shala [evaluators.coherence.samples=50]"].mean == 0.5
    assert rows["shala [evaluators.coherence.samples=0]"].seeds == 2


def test_validation_figures_stand_apart(store):
    with pytest.raises(BenchError, match="validation split, only on test"):
        table_of(store, split="validation")


def test_of_two_versions_of_an_evaluator_the_newer_counts(tmp_path):
    write_result(write_run(tmp_path, "shala", 0, 0.8, version=9), 0.7, version=10)
    (row,) = [row for row in table_of(Store(tmp_path)).rows if row.cells]
    assert row.cells["coherence/joint"].mean == 0.7
    assert any(
        "coherence version 10 on the test split" in n for n in table_of(Store(tmp_path)).notes
    )


def test_the_legend_says_why_a_figure_is_missing(store, tmp_path):
    failed = {"status": "diverged", "reason": "The loss_x|y was\nnot finite by 5%."}
    write_run(tmp_path, "mvae", 0, 0, failed=failed)
    write_run(tmp_path, "shala", 3, 0, failed={"status": "failed", "reason": "Out of memory."})
    tables = [table_of(store)]
    text = render(tables, "text")
    assert "mvae: 1 diverged (The loss_x|y was not finite by 5%)." in text
    assert "shala: 1 failed (Out of memory)." in text
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "diverged" in rows["mvae"]
    assert "(3)" in rows["shala"]
    assert "not run: no run of the method is recorded here." in text


def test_a_failed_evaluation_of_a_finished_training_is_noted(tmp_path):
    folder = write_run(tmp_path, "shala", 0, 0.8)
    (folder / "results" / "coherence-0.json").unlink()
    failure = {"status": "failed", "reason": "No room."}
    (folder / "failed.json").write_text(json.dumps(failure))
    (row,) = [row for row in table_of(Store(tmp_path)).rows if row.method == "shala"]
    assert (row.missing, row.reason) == ("failed", "1 failed (No room)")
    assert describe(Store(tmp_path).runs()[0])["state"] == "failed"


def test_nothing_to_show_is_said_in_a_sentence(store):
    with pytest.raises(BenchError, match="no value of 'psnr'"):
        make_tables([store], "psnr", dataset="polymnist")


def test_a_method_without_a_record_is_not_called_unknown(store):
    with pytest.raises(BenchError, match="no value of 'coherence' for what was asked"):
        make_tables([store], "coherence", models=["jmvae"])
    with pytest.raises(BenchError, match="Unknown model 'jmva'"):
        make_tables([store], "coherence", models=["jmva"])


def test_figures_published_under_a_condition_are_not_shown_where_there_are_others(tmp_path):
    joint = table_of(Store(tmp_path))
    assert [row.label for row in joint.rows].count("shala") == 1
    assert not any("condition" in row.label for row in joint.rows)


def test_published_views_stand_only_in_a_row_of_their_resolution(tmp_path):
    write_views(tmp_path, "shala", 21.0, "32 px")
    write_views(tmp_path, "shala", 25.0, "128 px")
    (table,) = make_tables([Store(tmp_path)], "psnr")
    rows = {(row.method, row.facts["resolution"]): row for row in table.rows}
    assert rows["shala", "32 px"].published == {}
    assert rows["shala", "128 px"].published == {"psnr": "24.7"}
    assert rows["shala", "128 px"].cells["psnr/p1"].mean == 25.0
    assert rows["shala", "256 px"].published == {"psnr": "22.2"}
    assert rows["shala", "256 px"].cells == {}
    assert list(table.metrics) == ["psnr/p1", "psnr/p1-rotated"]
    assert not any(marks(table, "psnr/p1").values())


def test_a_method_with_a_published_row_alone_keeps_it_and_says_so(tmp_path):
    write_views(tmp_path, "shala", 21.0)
    (table,) = make_tables([Store(tmp_path)], "psnr")
    lines = render([table], "text").splitlines()
    (line,) = [line for line in lines if line.startswith("pixelnerf")]
    assert "not run" in line
    assert "23.2" in line
    assert "SRN cars" in line
    assert "128 px" in line


def test_tables_of_views_have_columns_for_what_values_depend_on(tmp_path):
    facts = {"supervision": "single views, with cameras", "reduced": "no weights of others"}
    write_views(tmp_path, "renderdiffusion", 20.0, **facts)
    write_views(tmp_path, "shala", 21.0, supervision="aligned views", reduced="")
    tables = make_tables([Store(tmp_path)], "psnr")
    text = render(tables, "text")
    heading = next(line for line in text.splitlines() if line.startswith("method"))
    words = ["resolution", "protocol", "supervision", "reduced", "p1", "published"]
    assert [heading.index(word) for word in words] == sorted(heading.index(w) for w in words)
    ours = next(line for line in text.splitlines() if "single views, with cameras" in line)
    assert "yes" in ours
    assert "23.2" not in ours
    assert "renderdiffusion is reduced: no weights of others." in text
    assert "Floor, of floor-white/psnr (32 test items, 32 px): psnr 10.50." in text
    assert "10.50" not in render(tables, "csv")
    rows = json.loads(render(tables, "json"))[0]["rows"]
    found = next(row for row in rows if row["method"] == "renderdiffusion" and row["measured"])
    assert found["facts"]["reduced"] == "no weights of others"
    csv_rows = list(csv.DictReader(io.StringIO(render(tables, "csv"))))
    published = {row["metric"] for row in csv_rows if row["published"]}
    assert published == set()  # only what was not run has published values
    assert all(row["mean"] for row in csv_rows)
    interval = next(row for row in csv_rows if row["metric"] == "psnr/p1" and row["mean"] == "20.0")
    assert [float(interval[end]) for end in ("low", "high")] == pytest.approx([19.8, 20.3])
    assert "95 % bootstrap intervals" in text


def test_the_best_is_marked_among_rows_of_one_resolution(tmp_path):
    for model, small, large in (("shala", 21.0, 25.0), ("mmvae+", 19.0, 27.0)):
        write_seeds(write_views, tmp_path, model, small, "32 px")
        write_seeds(write_views, tmp_path, model, large, "64 px")
    (table,) = make_tables([Store(tmp_path)], "psnr")
    cells = [(r.method, r.facts["resolution"], r.cells["psnr/p1"]) for r in table.rows if r.cells]
    best = {(method, size) for method, size, cell in cells if cell.mark == "best"}
    assert best == {("shala", "32 px"), ("mmvae+", "64 px")}


def test_the_best_is_marked_among_rows_of_the_same_data_and_classifiers(tmp_path):
    for model, few, all_ in (("shala", 0.9, 0.5), ("mmvae+", 0.8, 0.6)):
        digits = {"overrides": ["data.x=2"], "settings": {"data.x": 2}}
        write_seeds(write_run, tmp_path, model, few, name="few", data="two digits", **digits)
        write_seeds(write_run, tmp_path, model, all_)
        other = {"judge": "other", "overrides": ["model.x=2"], "x": 2}
        write_seeds(write_run, tmp_path, model, 0.9, name="j", **other)
    found = marks(table_of(Store(tmp_path)))
    best = {label for label, mark in found.items() if mark == "best"}
    assert best == {"mmvae+", "shala [data.x=2]", "mmvae+ [model.x=2]"}
    assert found["shala [model.x=2]"] == "level"  # as good


@pytest.mark.parametrize("change", [{"judge": "other"}, {"data": "other"}, {"version": 2}])
def test_rows_of_other_data_classifiers_or_versions_are_not_ranked(tmp_path, change):
    write_seeds(write_run, tmp_path, "shala", 0.5)
    write_seeds(write_run, tmp_path, "mvae", 0.4)
    write_seeds(write_run, tmp_path, "mmvae+", 0.9, **change)
    table = table_of(Store(tmp_path))
    assert marks(table) == {"shala": "best", "mvae": "behind", "mmvae+": ""}
    (ranking,) = (note for note in table.notes if note.startswith("Not ranked with each other"))
    assert "mvae, shala" in ranking or "shala, mvae" in ranking
    versions = "coherence version 1 on the test split, coherence version 2" in str(table.notes)
    assert versions == ("version" in change)


def test_a_seed_without_figures_leaves_its_row_ranked(store):
    write_run(store.root, "shala", 9, 0, failed={"status": "failed", "reason": "x"})
    table = table_of(store)
    assert marks(table) == {"shala": "best", "mmvae+": "behind"}
    assert not any(note.startswith("Not ranked") for note in table.notes)


def test_a_value_of_few_items_is_noted(store):
    (folder,) = store.root.glob("mmvae+-0-*")
    (file,) = (folder / "results").iterdir()
    text = file.read_text().replace('"n": 1000', '"n": 7')
    file.write_text(text)
    assert any(
        note == "coherence/joint has fewer than 100 test items in mmvae+ (7)."
        for note in table_of(store).notes
    )


def test_nothing_is_marked_with_fewer_than_three_seeds(tmp_path):
    write_seeds(write_run, tmp_path, "shala", 0.6, seeds=2)
    write_seeds(write_run, tmp_path, "mmvae+", 0.3, seeds=1)
    table = table_of(Store(tmp_path))
    assert set(marks(table).values()) == {""}
    text = render([table], "text")
    assert "*" not in text.split("coherence/joint:")[0]
    assert "not tested over trainings (fewer than three seeds)" in text


def test_a_row_with_fewer_than_three_seeds_leaves_its_column_untested(store, tmp_path):
    write_seeds(write_run, tmp_path, "mvae", 0.1, seeds=2)
    table = table_of(store)
    assert set(marks(table).values()) == {""}
    (note,) = (note for note in table.notes if "not tested over trainings" in note)
    assert note.endswith("(fewer than three seeds): mvae.")


def test_labels_are_safe_in_every_format(tmp_path):
    write_run(tmp_path, "shala", 0, 0.8, overrides=["model.a_b=x|y"])
    tables = [table_of(Store(tmp_path))]
    assert r"shala [model.a\_b=x|y]" in render(tables, "latex")
    assert r"shala [model.a_b=x\|y]" in render(tables, "markdown")


def test_runs_of_other_settings_than_the_preset_has_today_are_listed(tmp_path):
    settings = resolve("shala", "polydigits", "quick", []).values()
    changes = {
        0: {},
        1: {"model.latent_dim": 8, "model.prior.width": None},
        2: {"model.network.coarse": None, "train.precision": "other"},  # default, and device
    }
    for seed, other in changes.items():
        own = {k: v for k, v in (settings | other).items() if v is not None}
        own |= {"model.x": None}
        given = {"dataset": "polydigits", "settings": own}
        write_run(tmp_path, "shala", seed, 0.5, data_version=PolyDigits.version, **given)
    write_run(tmp_path, "removed", 0, 0.5)
    found = CliRunner().invoke(main, ["status", "--outdated", "--json", "--store", str(tmp_path)])
    reasons = {item["seed"]: item["reason"] for item in json.loads(found.output)}
    assert reasons == {1: "model.latent_dim 8, now 64; no model.prior.width, now 256"}


def test_runs_on_older_data_are_listed_also_where_they_do_not_state_the_version(tmp_path):
    settings = resolve("shala", "polydigits", "quick", []).values()
    for seed in (0, 1):
        given = {"dataset": "polydigits", "settings": settings}
        folder = write_run(tmp_path, "shala", seed, 0.5, data_version=PolyDigits.version, **given)
    run = json.loads((folder / "run.json").read_text())
    del run["data"]["version"]
    (folder / "run.json").write_text(json.dumps(run))
    found = CliRunner().invoke(main, ["status", "--outdated", "--json", "--store", str(tmp_path)])
    reasons = {item["seed"]: item["reason"] for item in json.loads(found.output)}
    assert reasons == {1: f"data version 1, now {PolyDigits.version}"}


def test_a_run_in_two_stores_counts_once(store):
    one = make_tables([store], "coherence/joint", dataset="polymnist")
    two = make_tables([store, store], "coherence/joint", dataset="polymnist")
    assert render(one, "json") == render(two, "json")


def test_csv_holds_every_value_and_formats_are_well_formed(store):
    tables = make_tables([store], "coherence", dataset="polymnist")
    rows = list(csv.DictReader(io.StringIO(render(tables, "csv"))))
    ours = next(r for r in rows if r["method"] == "shala" and r["metric"] == "coherence/joint")
    assert float(ours["mean"]) == pytest.approx(0.82)
    assert ours["published"] == "0.815"
    assert r"\textbf{0.820}" in render(tables, "latex")
    assert r"\begin{tabular}" in render(tables, "latex")
    assert "**0.820**" in render(tables, "markdown")
    assert json.loads(render(tables, "json"))[0]["dataset"] == "polymnist"


RESULT = "results/coherence-0.json"


def test_a_record_that_does_not_read_is_noted_below_the_table(store, tmp_path):
    write_run(tmp_path, "mopoe", 0, 0.5)
    (tmp_path / "mopoe-0-" / "run.json").write_bytes(b"\xff\xfe")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "run.json").write_text("{}")
    notes = " ".join(table_of(store).notes)
    assert "Left out: mopoe-0-" in notes
    assert "Left out: odd" in notes
    found = CliRunner().invoke(main, ["status", "--store", str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert found.output.count("unreadable") == 2


@pytest.mark.parametrize("recorded", ["test", "validation"])
def test_a_split_that_nothing_was_measured_on_is_refused(store, tmp_path, recorded):
    other = "test" if recorded == "validation" else "validation"
    for folder in store.runs():
        path = folder.path / RESULT
        path.write_text(path.read_text().replace('"test"', f'"{recorded}"'))
    words = ["table", "--metric", "coherence", "--store", str(tmp_path), "--split"]
    found = CliRunner().invoke(main, [*words, other])
    assert found.exit_code == 2
    assert f"measured on the {other} split, only on {recorded}. Write --split" in found.output
    assert CliRunner().invoke(main, [*words, recorded]).exit_code == 0


def test_runs_measured_on_another_split_only_are_no_rows(tmp_path):
    """A study's trials lie beside the runs with the values that it chose."""
    write_run(tmp_path, "mvae", 0, 0.5)
    trial = write_run(tmp_path, "mvae", 0, 0.7, name="trial", x=2, overrides=["model.x=2"])
    file = trial / "results" / "coherence-0.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"split": "validation"}))
    (table,) = make_tables([Store(tmp_path)], "coherence", dataset="polymnist")
    assert [row.label for row in table.rows if row.runs] == ["mvae"]
    assert "Left out, measured on another split only: 1 run." in table.notes
    (table,) = make_tables([Store(tmp_path)], "coherence", dataset="polymnist", split="validation")
    assert [row.cells["coherence/joint"].mean for row in table.rows if row.runs] == [0.7]
