"""A training that goes on from a shorter one is, bit for bit, the one that would be trained."""

from __future__ import annotations

import threading

import pytest
import torch

from shalabench.api import DataPaths
from shalabench.config.plan import plan, plan_points
from shalabench.config.settings import resolve
from shalabench.execute.campaign import Options, run_campaign
from shalabench.execute.progress import Reporter
from shalabench.execute.runner import perform as _perform
from shalabench.records.store import Store

WSD = ("model.optimiser.schedule=wsd", "model.optimiser.warmup=3")


def carry_out(store, runs, stop=None, ended=lambda key, outcome: None, threads=1, **more):
    paths = DataPaths(store.parent, store.parent / "cache")
    options = Options(
        store=store,
        paths=paths,
        evaluators=("samples",),
        device="cpu",
        threads=threads,
        **more,
    )
    with Reporter() as reporter:
        outcomes = run_campaign(runs, options, reporter, stop, ended).outcomes
    return list(outcomes.values())


def run(store, steps, *overrides, model="shala", threads=1):
    """Train without evaluation of more than sample grids; the run's folder."""
    runs = plan([model], "toy", "smoke", [0], (*WSD, f"model.steps={steps}", *overrides))
    (outcome,) = carry_out(store, runs, threads=threads)
    assert outcome.status == "done", outcome
    return next(f for f in Store(store).runs() if f.path == outcome.folder)


def continued(folder):
    return folder.trained["provenance"].get("continued")


def assert_same(one, other):
    a, b = (torch.load(f.weights, weights_only=True) for f in (one, other))
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []
    assert one.trained["last"] == other.trained["last"]


@pytest.mark.parametrize("model", ["shala", "mvtcae", "mopoe", "cmvae", "mmvae+"])
def test_a_longer_run_goes_on_and_equals_the_one_trained_alone(tmp_path, model):
    first = run(tmp_path / "store", 20, model=model)
    assert [file.name[:12] for file in first.forks()] == ["00-000000018"]
    assert continued(first) is None
    found = run(tmp_path / "store", 30, model=model)
    stage = build_name(model)
    assert continued(found) == {"run": first.path.name, "stage": stage, "step": 18}
    assert found.trained["provenance"]["resumptions"] == 0
    begun = [e["step"] for e in found.events() if e["kind"] == "begun"]
    assert begun == [18]
    alone = run(tmp_path / "alone", 30, model=model)
    assert continued(alone) is None
    assert_same(found, alone)


def build_name(model):
    return "inference" if model == "shala" else "vae"


def test_a_continued_run_costs_what_it_would_alone_and_is_continued_itself(tmp_path):
    run(tmp_path / "store", 20)
    second = run(tmp_path / "store", 30)
    before = torch.load(second.forks()[0], weights_only=True)["spent"]
    third = run(tmp_path / "store", 40, "prior.kind=gmm", "model.prior.width=24")
    assert continued(third) == {"run": second.path.name, "stage": "inference", "step": 27}
    assert third.trained["provenance"]["cpu_seconds"] > before[1]
    assert_same(third, run(tmp_path / "alone", 40, "prior.kind=gmm", "model.prior.width=24"))


def test_a_later_stage_goes_on_too(tmp_path):
    wsd = ("model.prior.optimiser.schedule=wsd", "model.prior.optimiser.warmup=2")
    first = run(tmp_path / "store", 20, *wsd, "model.prior.steps=20")
    found = run(tmp_path / "store", 20, *wsd, "model.prior.steps=30")
    assert continued(found) == {"run": first.path.name, "stage": "prior", "step": 18}
    assert_same(found, run(tmp_path / "alone", 20, *wsd, "model.prior.steps=30"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ("model.optimiser.schedule=cosine", "model.optimiser.schedule is wsd, here cosine"),
        ("model.optimiser.warmup=0.1", "model.optimiser.warmup is 3.0, here 0.1"),
        ("model.optimiser.cooldown=0.2", "model.optimiser.cooldown is 0.1, here 0.2"),
    ],
)
def test_another_schedule_says_what_is_trained_again(tmp_path, changed, words):
    run(tmp_path / "store", 20)
    found = run(tmp_path / "store", 30, changed)
    assert continued(found) is None
    (message,) = [e["message"] for e in found.events() if e["kind"] == "warning"]
    assert words in message
    assert "18 updates" in message


def test_a_warm_up_that_is_a_part_of_the_updates_is_not_continued(tmp_path):
    part = "model.kl_warmup=0.5"
    run(tmp_path / "store", 20, part)
    found = run(tmp_path / "store", 30, part)
    assert continued(found) is None
    (message,) = [e["message"] for e in found.events() if e["kind"] == "warning"]
    assert "model.kl_warmup = 0.5" in message
    rates = "model.optimiser.warmup=0.2"
    run(tmp_path / "store", 20, rates)
    assert continued(run(tmp_path / "store", 30, rates)) is None


def test_other_code_and_threads_are_not_continued_and_told(tmp_path, monkeypatch):
    run(tmp_path / "store", 20)
    found = run(tmp_path / "store", 30, threads=2)
    assert continued(found) is None
    (message,) = [e["message"] for e in found.events() if e["kind"] == "warning"]
    assert "threads 1 (here 2)" in message
    code = {"commit": "c", "dirty": False, "source": "another", "nets": "another"}
    monkeypatch.setattr("shalabench.execute.runner.describe_code", lambda entry: code)
    found = run(tmp_path / "store", 40)
    assert continued(found) is None
    (message,) = [e["message"] for e in found.events() if e["kind"] == "warning"]
    assert "other code of the method" in message


def test_what_the_loss_reads_is_another_training_and_nothing_is_said(tmp_path):
    run(tmp_path / "store", 20)
    found = run(tmp_path / "store", 30, "model.beta=0.5")
    assert continued(found) is None
    assert [e for e in found.events() if e["kind"] == "warning"] == []


def points(**more):
    return plan_points(["shala"], "toy", "smoke", [0], WSD, **more)


def test_points_and_priors_become_runs_in_the_order_in_which_they_save_most():
    size = resolve("shala", "toy", "smoke", ()).model.batch_size
    runs = points(tuples=(30 * size, 20 * size), priors=("own", "gmm"))
    assert [run.resolved.model.steps for run in runs] == [20, 20, 30, 30]
    assert [run.resolved.prior.kind for run in runs] == ["own", "gmm", "own", "gmm"]
    assert {run.line for run in runs} == {"shala seed 0"}
    assert [run.line for run in points()] == [""]


@pytest.mark.parametrize("jobs", [1, 2])
def test_stopped_between_two_points_the_same_command_goes_on(tmp_path, jobs):
    size = resolve("shala", "toy", "smoke", ()).model.batch_size
    runs = points(tuples=(20 * size, 30 * size), priors=("own", "gmm"))
    stop, seen = threading.Event(), []

    def ended(key, outcome):
        seen.append(outcome.status)
        if len(seen) == 2:
            stop.set()

    first = [o.status for o in carry_out(tmp_path / "store", runs, stop, ended, jobs=jobs)]
    assert first[:2] == ["done", "done"]
    assert first[-1] == "stopped"
    again = carry_out(tmp_path / "store", runs)
    assert [o.status for o in again] == ["already", "already", "done", "done"]
    by_path = {folder.path: folder for folder in Store(tmp_path / "store").runs()}
    own, fitted = (by_path[outcome.folder] for outcome in again[2:])
    assert continued(own)["step"] == 18
    assert fitted.trained["provenance"]["reused"]["run"] == own.path.name
    assert_same(own, run(tmp_path / "alone", 30))


def test_a_run_that_goes_on_with_other_threads_says_what_is_lost(tmp_path, monkeypatch):
    def perform(run, options, emit, given):
        """Stop at each attempt's first reading of the losses."""

        def stopping(event):
            given.set()

        return _perform(run, options, stopping, given)

    monkeypatch.setattr("shalabench.execute.campaign.perform", perform)
    runs = plan(["shala"], "toy", "smoke", [0], (*WSD, "model.steps=4000"))
    (outcome,) = carry_out(tmp_path / "store", runs)
    assert outcome.status == "stopped"
    carry_out(tmp_path / "store", runs, threads=2)
    (folder,) = Store(tmp_path / "store").runs()
    (event,) = [e for e in folder.events() if e["kind"] == "changed"]
    assert event["what"] == ["threads"]
    assert "threads 1 (here 2)" in event["message"]
    assert "CPU seconds" in event["message"]
