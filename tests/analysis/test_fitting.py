"""Tables at the width of a terminal: which columns stay, and what is said of the others."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.records import write_run

from shalabench.analysis.fitting import Column, draw, duration, fit, size, wrap
from shalabench.analysis.tables import make_tables, render
from shalabench.api import BenchError
from shalabench.cli import main
from shalabench.records.store import Store

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
# Tables of these need runs of one's own.
UNRECORDED = (
    "polydigits-quadrant",
    "my-error",
    "--metric coherence --dataset birds",
    "--ablation pooling",
    "--preset night-tuned",
)
REFERENCE = [Store(ROOT / "results" / "reference")]


def column(kind, of, *cells):
    return Column(kind, of, list(cells))


def documented() -> list[str]:
    """Every `table` of the pages, of their stores' records or the packaged ones."""
    found = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        found |= set(re.findall(r"^shala-bench (table .*)$", text, re.M))
    reports = (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")
    [metrics] = re.findall(r"`--metric` takes .*?: (.*?)\.\n", reports, re.S)
    found |= {f"table --metric {name}" for name in re.findall(r"`(\w+)`", metrics)}
    return sorted(text for text in found if not any(name in text for name in UNRECORDED))


@pytest.mark.parametrize("command", documented())
def test_every_table_of_the_docs_has_at_most_80_columns(command):
    words = shlex.split(command)
    own = {"--store": 2, "--split": 2, "--format": 2}  # what the packaged records do not have
    for name, length in own.items():
        if name in words:
            start = words.index(name)
            del words[start : start + length]
    where = [f"--store={ROOT / 'results' / name}" for name in ("reference", "ablations")]
    done = CliRunner().invoke(main, [*words, *where], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert re.search(r"^method +\S", done.stdout, re.M)


@pytest.mark.parametrize(
    "command",
    [
        "list",
        "config --models shala --dataset polydigits",
        "compare shala mmvae+ --dataset polymnist --store STORE",
        "status --store STORE",
    ],
)
def test_other_tables_have_at_most_80_columns(command):
    words = command.replace("STORE", str(REFERENCE[0].root)).split()
    done = CliRunner().invoke(main, words, env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if not line.startswith("In /")) <= 80


def heads(text):
    """The words of each table's heading, the second line of which is published data."""
    return [line.split() for line in text.splitlines() if line.startswith("method ")]


def test_joint_and_cross_with_their_published_values_are_shown_first():
    [table] = make_tables(REFERENCE, "coherence", dataset="polymnist", preset="cpu")
    text = render([table], "text", width=80, notes=False)
    assert heads(text) == [["method", "joint", "published,", "cross", "published,"]]
    [note] = [line for line in text.splitlines() if "Not shown in 80 columns:" in line]
    assert "posterior" in note
    assert "coherence/posterior" not in text  # neither column nor legend
    wide = render([table], "text", wide=True, width=80)
    assert {"posterior", "subset-4", "tuples"} <= set(heads(wide)[0])
    assert "Not shown" not in wide


def test_columns_are_those_that_are_asked_for_in_every_readable_format():
    [table] = make_tables(REFERENCE, "coherence", dataset="polymnist", preset="cpu")
    asked = ("posterior", "coherence/subset-4")
    for form in ("text", "markdown", "latex"):
        text = render([table], form, columns=asked, width=80)
        assert "subset-4" in text
        assert not re.search(r"method[ &|]+joint", text)
    assert heads(render([table], "text", columns=asked, width=80))[0][:3] == [
        *("method", "posterior", "subset-4")
    ]
    with pytest.raises(BenchError, match=r"posteriour.*'posterior'"):
        render([table], "text", columns=["posteriour"])


def test_several_tables_have_one_legend():
    tables = make_tables(REFERENCE, "coherence")
    assert len(tables) > 3
    text = " ".join(render(tables, "text", width=80, notes=False).split())
    for once in ("(1): one seed.", "Best mean: *", "not run: no run", "Not shown in 80 columns"):
        assert text.count(once) == 1, once
    assert text.count("more notes: --notes") == 1
    full = " ".join(render(tables, "text", width=80).split())
    assert "Classifiers on real test data" in full
    assert "Classifiers on real test data" not in text
    assert "more notes" not in full


def test_a_note_of_some_tables_names_them(tmp_path):
    for dataset in ("a", "b", "c"):
        deviation = "" if dataset == "c" else "fewer tuples"
        write_run(tmp_path, "x", 0, 0.5, dataset=dataset, name=dataset, deviation=deviation)
    tables = [t for t in make_tables([Store(tmp_path)], "coherence") if t.dataset in "abc"]
    text = " ".join(render(tables, "text", width=80).split())
    assert "a, preset quick; b, preset quick: Not compared with published values" in text
    assert text.count("Data: made up.") == 1
    assert "preset quick: Data" not in text  # it holds for all


def test_facts_that_do_not_fit_become_notes():
    columns = [
        column("label", "method", "method", "shala", "eg3d", "mld"),
        column("fact", "resolution", "resolution", "32 px", "64 px", "64 px"),
        column("fact", "supervision", "supervision", "aligned views", "single views", "-"),
        column("fact", "protocol", "protocol", "P1", "P1", "-"),
        column("value", "psnr", "psnr", "1.0", "2.0", "3.0"),
        column("value", "psnr-rotated", "psnr-rotated", "1.0", "2.0", "3.0"),
    ]
    shown, notes, left_out = fit(columns, 30, every=False)
    assert [c.of for c in shown] == ["method", "resolution", "psnr"]
    assert notes == [
        "supervision: aligned views (shala); single views (eg3d).",
        "protocol: P1.",
    ]
    assert left_out == ["psnr-rotated"]
    assert size(shown) == 6 + 2 + 10 + 2 + 4
    assert fit(columns, 80, every=False) == (columns, [], [])
    assert [c.of for c in fit(columns, 30, every=True)[0]][-1] == "psnr-rotated"


def test_long_labels_are_wrapped_before_a_main_column_is_left_out():
    label = "shala [model.prior.kind=mixture]"
    columns = [
        column("label", "method", "method", label),
        column("value", "joint", "joint", "0.123 ± 0.001 (1)"),
        column("value", "cross", "cross", "0.123 ± 0.001 (1)"),
        column("value", "posterior", "posterior", "0.123 ± 0.001 (1)"),
    ]
    shown, _, left_out = fit(columns, 60, every=False)
    assert [c.of for c in shown] == ["method", "joint", "cross"]
    assert left_out == ["posterior"]
    assert size(shown) <= 60
    assert "".join(shown[0].cells[1].split()) == label.replace(" ", "")


def test_texts_are_wrapped_and_nothing_is_lost():
    assert wrap("single views, with cameras", 14) == "single views,\nwith cameras"
    assert wrap("inception-v3-compat/joint", 20) == "inception-v3-compat/\njoint"
    assert wrap("shala (condition on x)", 16) == "shala\n(condition on x)"
    assert wrap("abcdefgh", 3) == "abc\ndef\ngh"
    text = draw([["a" * 70, 1.5], ["b", 22]], ("name", "n"), 40, right=(1,))
    lines = text.splitlines()
    assert max(map(len, lines)) == 40
    assert sum(line.count("a") for line in lines[2:]) == 70
    assert lines[2].endswith(" 1.5")
    assert lines[-1].split() == ["b", "22"]


def test_reference_rows_stand_apart_from_one_s_own(tmp_path):
    for seed in range(3):
        write_run(tmp_path / "own", "shala", seed, 0.5 + seed / 100)
        write_run(tmp_path / "old", "shala", seed, 0.8 + seed / 100, source="other")
        write_run(tmp_path / "old", "mvae", seed, 0.1 + seed / 100)
    stores = [Store(tmp_path / "old", is_reference=True), Store(tmp_path / "own")]
    tables = make_tables(stores, "coherence/joint", dataset="polymnist")
    rows = {row.label: row for row in tables[0].rows if row.cells}
    assert set(rows) == {"shala", "shala (reference)", "mvae (reference)"}
    assert rows["shala"].cells["coherence/joint"].mean == pytest.approx(0.51)
    assert rows["shala (reference)"].cells["coherence/joint"].mean == pytest.approx(0.81)
    assert {row.published["coherence/joint"] for row in rows.values()} == {"0.815", "0.008"}
    assert not any(row.is_variant for row in rows.values())
    alike = make_tables([Store(s.root) for s in stores], "coherence/joint", mix=True)
    assert all("(reference)" not in row.label for table in alike for row in table.rows)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(40.4, "40 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (0, "0 s")],
)
def test_a_duration_has_the_unit_that_fits(seconds, text):
    assert duration(seconds) == text


def test_an_unknown_duration_is_what_the_caller_says():
    assert [duration(None, ""), duration(float("nan"), "?")] == ["", "?"]
