"""Help, completion, JSON and states, as a terminal shows them."""

from __future__ import annotations

import json

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from shalabench.analysis.status import render_status, seconds_left
from shalabench.api import BenchError
from shalabench.api.errors import unknown
from shalabench.api.registry import entries
from shalabench.cli import complete, main
from shalabench.execute.inputs import train_classifiers


def completed(*words):
    found = ShellComplete(main, {}, "shala-bench", "_X").get_completions([*words[:-1]], words[-1])
    return [item.value for item in found]


def test_short_help_is_help():
    for command in ([], ["table"], ["classifiers", "train"]):
        short, long = (CliRunner().invoke(main, [*command, name]) for name in ("-h", "--help"))
        assert short.exit_code == 0
        assert short.output == long.output


@pytest.mark.parametrize("kind", ["model", "dataset", "evaluator"])
def test_completion_knows_what_is_registered(kind):
    assert complete.registered(kind) == sorted(entries(kind))


def test_names_are_completed_also_behind_a_comma():
    assert completed("run", "--models", "shala,mmv") == [
        *("shala,mmvae", "shala,mmvae+", "shala,mmvm")
    ]
    assert completed("run", "--models", "mmvae,mmvae") == ["mmvae,mmvae+"]
    assert completed("prepare", "mst") == ["mst", "mst-digits"]
    assert completed("table", "--preset", "qu")[0] == "quick"
    metrics = completed("table", "--metric", "coherence")
    assert metrics[0] == "coherence"
    assert "coherence/joint" in metrics


def test_names_are_suggested_only_when_they_are_near_and_short_ones_come_first():
    known = ["fid/a/joint", "coherence", "coherence/joint", "fid"]
    for wrong, near in (("coherense", "coherence"), ("FID", "fid"), ("coherencejoint", known[2])):
        assert f"'{near}'?" in unknown("metric", wrong, known)
    for wrong in ("mnist", "x", "accuracy"):
        assert "Did you mean" not in unknown("metric", wrong, known)
    listed = unknown("metric", "x", known).partition("Known: ")[2]
    assert listed == "coherence, fid, coherence/joint, fid/a/joint."


def test_the_time_left_is_that_of_the_stage_at_its_pace():
    def at(time, step, stage="vae"):
        return {"kind": "progress", "stage": stage, "step": step, "time": time}

    begun = {"kind": "stage", "stage": "vae", "steps": 1000, "time": 0}
    resumed = {"kind": "resumed", "stage": "vae", "step": 100, "time": 900}
    assert seconds_left([begun, at(10, 50), at(20, 100)]) == pytest.approx(180)
    assert seconds_left([begun, at(20, 100), resumed, at(910, 150), at(930, 200)]) == pytest.approx(
        0.4 * 800
    )
    assert seconds_left([begun, at(10, 50)]) is None
    assert seconds_left([]) is None
    assert seconds_left([begun, at(10, 50), at(20, 1000)]) == 0


def test_states_show_the_folder_and_the_time_left():
    state = {
        **dict(model="a", dataset="d", preset="p", seed=0, state="running", stage="vae", step=5),
        **dict(run="a-d", folder="/x/a-d", seconds_left=5400.0, terms={"loss": 1.0}),
        **dict(evaluated=[], reason=""),
    }
    lines = render_status([state]).splitlines()
    assert lines[2].endswith("1.5 h")
    assert "In /x:" in lines
    assert "  a-d: no evaluation" in lines


def test_packaged_classifiers_are_replaced_only_if_told(tmp_path):
    from classifiers.weights import SHIPPED
    from shalabench.api import DataPaths

    paths = DataPaths(tmp_path, tmp_path)
    before = (SHIPPED / "mst-digits" / "weights.json").read_bytes()
    for out in (None, SHIPPED / "mst-digits"):
        with pytest.raises(BenchError, match="--overwrite"):
            next(train_classifiers("mst-digits", (), paths, "cpu", out))
    assert (SHIPPED / "mst-digits" / "weights.json").read_bytes() == before


@pytest.mark.slow
def test_a_run_of_toy_ends_with_a_table_in_each_form(tmp_path):
    where = ["--store", str(tmp_path), "--cache-dir", str(tmp_path), "--threads", "1"]
    words = ["run", "--models", "mvae", "--dataset", "toy", "--preset", "smoke", *where]
    first = CliRunner().invoke(main, words)
    assert first.exit_code == 0, first.output
    assert "\nmethod " in first.stdout
    assert first.stderr.count("No style: ") == 1
    [table] = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert table["dataset"] == "toy"
    full = CliRunner().invoke(main, [*words, "-v"])
    assert "mvae toy smoke seed 0: No style: The dataset 'toy' has no cameras" in full.stderr
