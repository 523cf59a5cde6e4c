"""Campaigns: a failed run stops no other, and all ends well when it is to stop."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

from helpers.campaigns import Listener, options, run, smoke

from shalabench.api import BenchError
from shalabench.config.ablations import read_ablation
from shalabench.config.plan import plan_ablation
from shalabench.execute import campaign, runner
from shalabench.execute.campaign import STOPPED_EXIT, Outcome, run_campaign
from shalabench.records.store import Store


def test_variants_of_one_method_and_seed_are_all_run(tmp_path, archive):
    variants = plan_ablation(read_ablation("table5"), "toy", "smoke", [0])
    summary, said = run(variants, options(tmp_path, archive, evaluators=("samples",)))
    folders = {outcome.folder for outcome in summary.outcomes.values()}
    assert len(folders) == len(variants) == 2
    assert any("(model.prior.condition=" in line for line in said)


def test_a_failing_run_is_recorded_and_the_others_go_on(tmp_path, archive, monkeypatch):
    def explode(self):
        raise RuntimeError("no luck")

    from baselines.mmvae_plus import MMVAEPlus

    monkeypatch.setattr(MMVAEPlus, "stages", explode)
    chosen = options(tmp_path, archive)
    summary, _ = run(smoke("mmvae+", "shala"), chosen)
    assert [o.status for o in summary.outcomes.values()] == ["failed", "done"]
    assert summary.exit_code == 1
    failed = next(f for f in Store(chosen.store).runs() if f.failed)
    assert "no luck" in failed.failed["traceback"]
    monkeypatch.undo()
    again, said = run(smoke("mmvae+"), chosen)
    assert next(iter(again.outcomes.values())).status == "failed"
    assert any("--retry" in line for line in said)
    retried, _ = run(smoke("mmvae+"), options(tmp_path, archive, retry=True))
    assert retried.exit_code == 0
    assert failed.failed is None


def test_a_mistake_in_training_is_said_as_it_is(tmp_path, archive, monkeypatch):
    from baselines.mmvae_plus import MMVAEPlus

    def refuse(self):
        raise BenchError("Too few tuples.")

    monkeypatch.setattr(MMVAEPlus, "stages", refuse)
    summary, _ = run(smoke("mmvae+"), options(tmp_path, archive))
    (outcome,) = summary.outcomes.values()
    assert (outcome.status, outcome.text) == ("failed", "Too few tuples.")


def test_two_processes_do_the_work_of_one(tmp_path, archive):
    chosen = options(tmp_path, archive, jobs=2)
    summary, _ = run(smoke("shala", "mmvae+"), chosen)
    assert {o.status for o in summary.outcomes.values()} == {"done"}, summary.outcomes
    alone = options(tmp_path / "alone", archive)
    run(smoke("shala"), alone)
    (one,) = Store(alone.store).runs()
    other = next(f for f in Store(chosen.store).runs() if f.run["model"] == "shala")
    assert one.trained["digest"] == other.trained["digest"]


def test_a_method_whose_own_code_breaks_before_training_ends_only_its_own_run(
    tmp_path, archive, monkeypatch
):
    def skip(spec, config):
        raise TypeError("as asked")

    monkeypatch.setattr(runner.find("model", "mvae").cls, "skip", skip)
    summary, _ = run(smoke("mvae", "mopoe"), options(tmp_path, archive, evaluators=("samples",)))
    assert [o.status for o in summary.outcomes.values()] == ["failed", "done"]
    assert "TypeError: as asked" in next(iter(summary.outcomes.values())).text


def test_runs_of_two_presets_are_both_run(tmp_path, archive):
    runs = smoke("mopoe")
    runs += [replace(runs[0], preset="gate")]
    summary, _ = run(runs, options(tmp_path, archive, evaluators=("samples",)))
    assert len(summary.outcomes) == 2


def test_the_gpu_campaign_goes_on_and_gathers_records(tmp_path):
    """A rehearsal on the CPU with the smoke preset."""
    root = Path(__file__).parent.parent.parent
    command = ["bash", "benchmarks/gpu_campaign.sh", "5m", str(tmp_path), "polydigits", "shala"]
    environment = os.environ | {"PRESET": "smoke", "DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for _ in range(2):
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert "Nothing to do" in done.stderr
    assert [f.run["model"] for f in Store(tmp_path / "records").runs()] == ["shala"]
    assert not list((tmp_path / "records").rglob("*.pt"))


def test_the_gpu_campaign_shares_out_the_time_that_is_left(tmp_path):
    log, command = tmp_path / "log", tmp_path / "python"
    command.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    command.chmod(0o755)
    root = Path(__file__).parent.parent.parent
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = ["bash", "benchmarks/gpu_campaign.sh", "100m", str(tmp_path / "out")]
    subprocess.run(script, cwd=root, env=environment, check=True)
    *runs, _ = [line.split() for line in log.read_text().splitlines()]
    asked = {words[words.index("--models") + 1]: words[-1] for words in runs}
    assert list(asked) == ["shala", "mmvae+", "mvtcae"]
    for limit, parts in zip(asked.values(), (3, 2, 1), strict=True):  # the others took no time
        assert 6000 // parts - 60 <= int(limit.removesuffix("s")) <= 6000 // parts


def test_no_run_begins_once_all_is_to_stop(tmp_path, archive):
    stop = threading.Event()
    stop.set()
    summary, _ = run(smoke("shala", "mvae"), options(tmp_path, archive), stop)
    assert [o.status for o in summary.outcomes.values()] == ["stopped", "stopped"]
    assert summary.exit_code == STOPPED_EXIT
    assert not (tmp_path / "store").exists()


def test_two_campaigns_of_one_process_stop_apart(tmp_path, archive):
    stop = threading.Event()
    stop.set()
    run(smoke("mopoe"), options(tmp_path, archive, evaluators=("samples",)), stop)
    summary, _ = run(smoke("mopoe"), options(tmp_path, archive, evaluators=("samples",)))
    assert summary.exit_code == 0


class FarAway:
    """In place of a cluster: does nothing, and loses the event that a run has ended."""

    def __init__(self, address, gpus, stop, deadline):
        self.deadline, FarAway.made = deadline, self

    def submit(self, key, task):
        self.task = task

    def events(self):
        return iter(())

    def result(self, key):
        return dict.fromkeys(self.task.args[0], Outcome("done", "Done."))


def test_a_cluster_is_sent_whole_paths_and_the_time_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "Ray", FarAway)
    monkeypatch.chdir(tmp_path)
    here = Path()
    chosen = options(here, here / "archive", engine="ray", deadline=5.0)
    ended = []
    with Listener() as listener:
        run_campaign(smoke("mvae"), chosen, listener, ended=lambda *end: ended.append(end))
    sent = FarAway.made.task.args[1]
    paths = (sent.store, sent.paths.data, sent.paths.cache, sent.archive)
    assert paths == (tmp_path / "store", tmp_path, tmp_path, tmp_path / "archive")
    assert FarAway.made.deadline == 5
    assert [outcome.status for _, outcome in ended] == ["done"]
