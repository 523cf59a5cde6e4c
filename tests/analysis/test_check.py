"""The gate from made-up stores whose values are known."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from helpers.records import write_run

from bench import main
from shalabench.analysis.check import check as check_runs
from shalabench.analysis.check import not_judged
from shalabench.api import Score
from shalabench.records.store import Store

REFERENCE = (0.80, 0.82, 0.81, 0.79, 0.80, 0.81, 0.82, 0.80, 0.79, 0.81)


@pytest.fixture
def stores(tmp_path):
    for seed, value in enumerate(REFERENCE):
        write_run(tmp_path / "reference", "shala", seed, value)
    return tmp_path


def new(root, values, model="shala", **facts):
    for i, value in enumerate(values):
        write_run(root / "new", model, 100 + i, value, **facts)


def check(root, *arguments):
    folders = ("--reference", root / "reference", "--store", root / "new")
    return CliRunner(env={"COLUMNS": "200"}).invoke(
        main, ["check", *map(str, (*folders, *arguments))]
    )


def test_runs_like_the_reference_hold(stores):
    new(stores, (0.81, 0.80, 0.79))
    found = check(stores)
    assert found.exit_code == 0, found.output
    assert "All gates hold." in found.output


def test_a_drop_is_a_regression_that_names_its_gate(stores):
    new(stores, (0.71, 0.70, 0.72))
    found = check(stores)
    assert found.exit_code == 1
    line = next(x for x in found.output.splitlines() if "coherence/joint" in x)
    assert "regressed" in line
    assert "-0.095" in line


def test_an_improvement_is_a_warning(stores):
    new(stores, (0.95, 0.96, 0.94))
    found = check(stores)
    assert found.exit_code == 0
    assert "improved" in found.output


def test_it_never_passes_on_nothing(stores, tmp_path):
    found = check(stores)
    assert found.exit_code == 2
    assert "there is no new run" in found.output
    (stores / "reference" / "gates.json").write_text('{"metrics": ["coherence/crosss"]}')
    new(stores, (0.81, 0.80, 0.79))
    found = check(stores)
    assert found.exit_code == 2
    assert "nothing was checked" in found.output


def test_parts_are_gates_where_the_reference_says_so_and_see_what_the_mean_hides(stores):
    choice = {"metrics": ["coherence/joint"], "parts": ["coherence/cross"]}
    (stores / "reference" / "gates.json").write_text(json.dumps(choice))
    new(stores, (0.81, 0.80, 0.79))
    add_pair(stores, 0.9)
    found = check(stores)
    assert found.exit_code == 0, found.output
    assert "coherence/cross m0->m1" in found.output
    add_pair(stores / "new", 0.5)
    found = check(stores)
    assert found.exit_code == 1
    line = next(x for x in found.output.splitlines() if "m0->m1" in x)
    assert "regressed" in line


def test_a_gate_that_the_reference_does_not_know_is_incomplete(stores):
    choice = {"metrics": ["coherence/joint"], "parts": ["coherence/cros"]}
    (stores / "reference" / "gates.json").write_text(json.dumps(choice))
    new(stores, (0.81, 0.80, 0.79))
    found = check(stores)
    assert found.exit_code == 2
    assert "'coherence/cros'" in found.output


def add_pair(root, value):
    """Give every run below a folder a score of one pair, in place of an earlier one."""
    score = Score("coherence/cross", value, 1000, 0.01, ("m0",), "m1").to_json()
    for file in root.rglob("results/*.json"):
        result = json.loads(file.read_text())
        result["scores"] = [*result["scores"][:2], score]
        metric = {"name": "coherence/cross", "direction": "higher", "digits": 3, "meaning": "m"}
        result["metrics"].append(metric)
        file.write_text(json.dumps(result))


@pytest.mark.parametrize("content", ['["coherence/joint"]', '{"metric": []}', '{"seeds": ["a"]}'])
def test_gates_of_another_shape_are_refused(stores, content):
    (stores / "reference" / "gates.json").write_text(content)
    new(stores, (0.81, 0.80, 0.79))
    found = check(stores)
    assert found.exit_code == 2
    assert "gates.json does not read" in found.output


def test_a_new_run_that_did_not_end_is_incomplete(stores):
    new(stores, (0.81, 0.80, 0.79))
    next((stores / "new").rglob("trained.json")).unlink()
    found = check(stores)
    assert found.exit_code == 2
    assert "is new." in found.output


def test_new_runs_of_two_codes_are_not_pooled(stores):
    new(stores, (0.81, 0.80))
    write_run(stores / "new", "shala", 102, 0.8, source="another")
    found = check(stores)
    assert found.exit_code == 3
    assert "differ in their source code" in found.output


def test_an_evaluator_that_one_side_lacks_makes_nothing_incomparable(stores):
    new(stores, (0.81, 0.80, 0.79), settings={"evaluators.mine.items": 3})
    found = check(stores)
    assert found.exit_code == 0, found.output


CLEAN = {"commit": "c" * 40, "dirty": False}


@pytest.mark.parametrize(
    ("made_by", "checkout", "trusted"),
    [
        (CLEAN, CLEAN, True),
        (CLEAN | {"commit": "d" * 40}, CLEAN, False),
        (CLEAN | {"dirty": True}, CLEAN, False),
        (CLEAN, CLEAN | {"dirty": True}, False),
        ({}, {"commit": "", "dirty": False}, False),
    ],
)
def test_what_was_recorded_before_is_judged_only_where_its_code_is_the_present(
    tmp_path, made_by, checkout, trusted
):
    folder = write_run(tmp_path, "shala", 100, 0.8)
    trained = json.loads((folder / "trained.json").read_text())
    trained["provenance"] |= made_by
    (folder / "trained.json").write_text(json.dumps(trained))
    found = not_judged({"shala": ("already", "Nothing to do.", folder)}, checkout)
    assert list(found) == ([] if trusted else [folder.name])
    assert not_judged({"shala": ("done", "Done.", folder)}, checkout) == {}


def test_runs_that_were_asked_for_and_not_made_are_not_judged(stores):
    new(stores, (0.81, 0.80, 0.79))
    folder = next((stores / "new").rglob("run.json")).parent
    unmade = not_judged({"a": ("stopped", "Stopped.", folder), "b": ("failed", "No.", None)}, CLEAN)
    found = check_runs(stores / "reference", [Store(stores / "new")], unmade=unmade)
    assert found.incomplete == [f"{folder.name}: Stopped.", "b: No."]
    assert {len(verdict.gate.new) for verdict in found.verdicts} == {2}
    assert found.exit_code == 2


@pytest.mark.parametrize("arguments", [(), ("--run", "--seeds", "100,")])
def test_a_store_that_is_a_file_is_refused(stores, arguments):
    (stores / "new").write_text("mine")
    found = check(stores, *arguments)
    assert found.exit_code == 2
    assert f"--store is '{stores / 'new'}', which is a file." in found.output
    assert (stores / "new").read_text() == "mine"


def test_seeds_without_run_are_refused(stores):
    found = check(stores, "--seeds", "5,")
    assert found.exit_code == 2
    assert "Add --run" in found.output


def test_other_settings_are_not_comparable_and_named(stores):
    new(stores, (0.81, 0.80, 0.79), x=7)
    found = check(stores)
    assert found.exit_code == 3
    assert "model.x is 1 there and 7 here" in found.output


@pytest.mark.parametrize(("layer", "code"), [("class default", 0), ("preset quick", 3)])
def test_a_setting_the_reference_does_not_know_counts_where_it_is_chosen(stores, layer, code):
    origins = {"model.new": [layer, "ours"]}
    new(stores, (0.80, 0.81, 0.79), settings={"model.new": 0}, origins=origins)
    found = check(stores)
    assert found.exit_code == code, found.output
    assert ("model.new is only here" in found.output) == bool(code)


def test_other_data_and_other_classifiers_are_not_comparable(stores):
    new(stores, (0.81, 0.80, 0.79), data="bbbb", judge="other")
    found = check(stores)
    assert found.exit_code == 3
    assert "fingerprint" in found.output
    assert "classifier of m0" in found.output


def test_one_reference_seed_is_incomplete(tmp_path):
    write_run(tmp_path / "reference", "shala", 0, 0.8)
    new(tmp_path, (0.8,))
    found = check(tmp_path)
    assert found.exit_code == 2
    assert "1 reference seeds; 2 are needed" in found.output


def test_a_new_run_that_diverged_is_a_regression(stores):
    new(stores, (0.81, 0.80, 0.79))
    folder = next((stores / "new").rglob("run.json")).parent
    (folder / "failed.json").write_text('{"status": "diverged", "reason": "The loss at step 3."}')
    found = check(stores)
    assert found.exit_code == 1
    assert "diverged: The loss at step 3." in found.output


def test_a_new_run_whose_evaluator_failed_is_a_regression(stores):
    new(stores, (0.81, 0.80, 0.79))
    (run, *_) = Store(stores / "new").runs()
    run.write_json("failures/coherence-0.json", {"evaluator": "coherence", "reason": "No luck."})
    report = check_runs(stores / "reference", [Store(stores / "new")])
    assert report.exit_code == 1
    assert report.broken == [f"{run.name} failed: coherence failed: No luck."]


def test_a_reference_that_does_not_read_is_refused_first(stores):
    new(stores, (0.81,))
    next((stores / "reference").rglob("run.json")).write_text("{")
    found = check(stores)
    assert found.exit_code == 2
    assert "cannot be used" in found.output


def test_running_needs_seeds(stores):
    found = check(stores, "--run")
    assert found.exit_code == 2
    assert "--seeds" in found.output


def test_json_holds_every_value(stores):
    new(stores, (0.71, 0.70, 0.72))
    found = json.loads(check(stores, "--json").output)
    assert found["exit_code"] == 1
    [joint] = [v for v in found["verdicts"] if v["gate"]["metric"] == "coherence/joint"]
    assert joint["change"] == pytest.approx(-0.095)
    assert joint["visible"] > 0
