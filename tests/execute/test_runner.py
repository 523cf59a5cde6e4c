"""One run from settings to records: what is done is kept, and what fails is recorded."""

from __future__ import annotations

import errno
import fcntl
import functools
import multiprocessing
import os
import threading
import time
from dataclasses import replace

import pytest
import torch
from helpers.campaigns import options, run, smoke

from shalabench.api import choose_precision
from shalabench.config.plan import plan
from shalabench.execute import runner
from shalabench.execute.backends import _serve
from shalabench.execute.campaign import STOPPED_EXIT, _perform
from shalabench.records.store import RunFolder, Store


def test_a_run_leaves_weights_records_and_pictures(tmp_path, archive):
    summary, _ = run(smoke("shala"), options(tmp_path, archive))
    (outcome,) = summary.outcomes.values()
    assert (outcome.status, summary.exit_code) == ("done", 0), outcome.text
    folder = RunFolder(outcome.folder)
    evaluators = {r["evaluator"] for r in folder.results()}
    assert evaluators == {"coherence", "latents", "quality", "samples"}
    assert (outcome.folder / "pictures" / "samples-joint.webp").exists()
    assert folder.trained["provenance"]["seconds"] > 0
    assert folder.trained["provenance"]["cpu_seconds"] > 0
    assert folder.run["origins"]["model.steps"][0] == "preset smoke"
    assert folder.checkpoints() == []
    weights = torch.load(folder.weights, weights_only=True)
    assert all(torch.isfinite(x).all() for x in weights.values() if x.is_floating_point())


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "float32")])
def test_bf16_is_used_where_the_device_computes_in_it_and_the_record_says_so(
    tmp_path, archive, monkeypatch, native, precision
):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    summary, _ = run(smoke("shala"), options(tmp_path, archive, evaluators=("samples",)))
    folder = RunFolder(next(iter(summary.outcomes.values())).folder)
    assert folder.run["settings"]["train.precision"] == precision
    assert folder.trained["provenance"]["precision"] == precision
    (result,) = folder.results()
    assert result["provenance"]["precision"] == precision


def test_a_precision_that_is_asked_for_is_used_on_every_device(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert choose_precision("bf16", torch.device("cpu")) == "bf16"
    assert choose_precision("auto", torch.device("meta")) == "float32"


def test_the_precision_of_samplers_is_no_part_of_an_identity(tmp_path, archive):
    chosen = options(tmp_path, archive, evaluators=("samples",))
    run(smoke("shala", overrides=["evaluate.precision=float32"]), chosen)
    again, _ = run(smoke("shala", overrides=["evaluate.precision=bf16"]), chosen)
    (outcome,) = again.outcomes.values()
    assert outcome.status == "already"
    (result,) = RunFolder(outcome.folder).results()
    assert result["provenance"]["precision"] == "float32"


def test_the_same_run_again_does_nothing_and_says_so(tmp_path, archive):
    chosen = options(tmp_path, archive)
    first, _ = run(smoke("shala"), chosen)
    folder = next(iter(first.outcomes.values())).folder
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*") if f.is_file()}
    again, said = run(smoke("shala"), chosen)
    assert next(iter(again.outcomes.values())).status == "already"
    assert any("Nothing to do" in line for line in said)
    assert before == {f: f.stat().st_mtime_ns for f in folder.rglob("*") if f.is_file()}


def test_a_new_evaluation_setting_does_not_train_again(tmp_path, archive):
    chosen = options(tmp_path, archive)
    run(smoke("shala"), chosen)
    (folder,) = Store(chosen.store).runs()
    trained = folder.weights.stat().st_mtime_ns
    run(smoke("shala", overrides=("evaluators.coherence.samples=7",)), chosen)
    assert folder.weights.stat().st_mtime_ns == trained
    found = [r["evaluator"] for r in folder.results()]
    assert found == ["coherence", "coherence", "latents", "quality", "samples"]


def test_a_diverged_run_is_recorded_with_stage_step_and_term(tmp_path, archive):
    wild = ("model.optimiser.lr=1e30", "train.precision=float32")
    summary, _ = run(smoke("shala", overrides=wild), options(tmp_path, archive))
    (outcome,) = summary.outcomes.values()
    assert outcome.status == "diverged", outcome.text
    facts = RunFolder(outcome.folder).failed
    assert facts["stage"] == "inference"
    assert facts["step"] > 0
    assert facts["term"]


def test_a_method_that_cannot_run_on_the_data_is_skipped_with_its_reason(
    tmp_path, archive, monkeypatch
):
    from shala.model import ShaLa

    reason = "It takes no texts."
    monkeypatch.setattr(ShaLa, "skip", classmethod(lambda cls, spec, config: reason))
    chosen = options(tmp_path, archive)
    summary, _ = run(smoke("shala", "mmvae+"), chosen)
    assert [o.status for o in summary.outcomes.values()] == ["skipped", "done"]
    assert summary.exit_code == 0
    skipped = next(f for f in Store(chosen.store).runs() if f.run["model"] == "shala")
    assert skipped.state() == "skipped"
    assert skipped.failed["reason"] == reason


def test_a_mixture_for_a_method_without_a_shared_latent_is_skipped_with_its_reason(tmp_path):
    chosen = options(tmp_path, tmp_path)
    runs = plan(("pixelnerf",), "toy-views", "smoke", (0,), ("prior.kind=gmm",))
    summary, _ = run(runs, chosen)
    (outcome,) = summary.outcomes.values()
    assert (outcome.status, summary.exit_code) == ("skipped", 0), outcome.text
    (folder,) = Store(chosen.store).runs()
    assert "prior.kind=gmm" in folder.failed["reason"]


def test_out_of_memory_names_the_batch_size(tmp_path, archive, monkeypatch):
    def starve(*_):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(runner, "train", starve)
    summary, _ = run(smoke("shala"), options(tmp_path, archive))
    (outcome,) = summary.outcomes.values()
    assert "model.batch_size = 32" in outcome.text


def test_a_time_limit_stops_with_a_checkpoint_and_its_own_code(tmp_path, archive):
    chosen = options(tmp_path, archive, deadline=time.time())
    summary, _ = run(smoke("shala"), chosen)
    assert summary.exit_code == STOPPED_EXIT
    (folder,) = Store(chosen.store).runs()
    assert folder.checkpoints()
    assert folder.state() == "stopped"
    finished, _ = run(smoke("shala"), options(tmp_path, archive))
    assert finished.exit_code == 0


def test_a_run_that_another_process_holds_is_left_alone(tmp_path, archive):
    chosen = options(tmp_path, archive, deadline=time.time())
    run(smoke("shala"), chosen)
    (folder,) = Store(chosen.store).runs()
    before = sorted(p.name for p in folder.path.rglob("*"))
    with folder.lock(wait=False) as held:
        assert held
        outcome = runner.perform(
            smoke("shala")[0], options(tmp_path, archive), lambda event: None, threading.Event()
        )
        assert outcome.status == "busy"
        assert folder.state() == "running"
    assert sorted(p.name for p in folder.path.rglob("*")) == before


def test_a_full_disk_loses_nothing_that_was_recorded(tmp_path, archive, monkeypatch):
    chosen = options(tmp_path, archive)
    run(smoke("shala"), chosen)
    (folder,) = Store(chosen.store).runs()
    recorded = {f: f.read_bytes() for f in folder.path.rglob("*.json")}

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    changed = smoke("shala", overrides=("evaluators.coherence.samples=9",))
    summary, _ = run(changed, chosen)
    (outcome,) = summary.outcomes.values()
    assert outcome.status == "failed"
    assert recorded == {f: f.read_bytes() for f in folder.path.rglob("*.json")}
    assert not list(folder.path.rglob(".*"))


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_record_without_weights_is_not_trained_and_written_anew(tmp_path, archive):
    runs = smoke("mopoe")
    run(runs, options(tmp_path, archive, evaluators=("samples",)))
    Store(tmp_path / "store").export(tmp_path / "copy")
    files = contents(tmp_path / "copy")
    assert files
    chosen = options(tmp_path, archive, store=tmp_path / "copy", evaluators=("latents",))
    summary, _ = run(runs, chosen)
    (outcome,) = summary.outcomes.values()
    assert outcome.status == "failed"
    assert "recorded without weights" in outcome.text
    assert contents(tmp_path / "copy") == files


def test_another_split_s_pictures_leave_the_test_split_s_alone(tmp_path, archive):
    chosen = options(tmp_path, archive, evaluators=("samples",))
    run(smoke("mopoe"), chosen)
    (folder,) = Store(tmp_path / "store").runs()
    before = {f: f.read_bytes() for f in (folder.path / "pictures").iterdir()}
    run(smoke("mopoe"), replace(chosen, split="validation"))
    run(smoke("mopoe", overrides=("evaluators.samples.columns=3",)), chosen)
    assert {f: f.read_bytes() for f in before} == before
    named = [name for result in folder.results() for name in result["pictures"]]
    assert len(set(named)) == len(named) == 3 * len(before)
    assert all((folder.path / name).is_file() for name in named)


def test_a_run_that_is_to_stop_writes_a_checkpoint_and_goes_on_later(tmp_path, archive):
    stop, (one,) = threading.Event(), smoke("mopoe", overrides=("train.log_every=1",))
    chosen = options(tmp_path, archive, evaluators=("samples",))

    def emit(event):
        if event["kind"] == "progress" and event["step"] == 3:
            stop.set()

    assert runner.perform(one, chosen, emit, stop).status == "stopped"
    (folder,) = Store(chosen.store).runs()
    assert [file.stem[:12] for file in folder.checkpoints()] == ["00-000000003"]
    assert runner.perform(one, chosen, lambda event: None, threading.Event()).status == "done"
    assert folder.trained["provenance"]["resumptions"] == 1


def test_a_run_whose_driver_is_lost_keeps_a_checkpoint_and_no_failure(tmp_path, archive):
    (one,) = smoke("mopoe", overrides=("train.log_every=1",))
    chosen = options(tmp_path, archive, evaluators=("samples",))
    ours, theirs = multiprocessing.Pipe(duplex=False)
    ours.close()
    _serve(functools.partial(_perform, {"one": one}, chosen), theirs)
    (folder,) = Store(chosen.store).runs()
    assert (folder.state(), folder.failed) == ("stopped", None)
    assert [file.name[:12] for file in folder.checkpoints()] == ["00-000000001"]
    assert runner.perform(one, chosen, lambda event: None, threading.Event()).status == "done"
    assert folder.trained["provenance"]["resumptions"] == 1


def test_no_locks_is_handed_on(tmp_path, archive, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    chosen = options(tmp_path, archive, evaluators=("samples",), deadline=time.time())
    (one,) = smoke("mopoe")
    outcome = runner.perform(one, chosen, lambda event: None, threading.Event())
    assert outcome.status == "failed"
    assert "--no-locks" in outcome.text
    chosen = replace(chosen, locks=False)
    outcome = runner.perform(one, chosen, lambda event: None, threading.Event())
    assert outcome.status == "stopped"
