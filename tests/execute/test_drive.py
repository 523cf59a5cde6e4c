"""From a command to records: what is done is kept, what fails is told, and nothing else suffers."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.toys import build, toy_data

import classifiers
from shalabench.api import BenchError, DataError, DataPaths
from shalabench.config.ablations import read_ablation
from shalabench.config.plan import plan, plan_ablation
from shalabench.execute import campaign as module
from shalabench.execute.campaign import Options, drive
from shalabench.execute.progress import Reporter
from shalabench.records.store import RunFolder, Store


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """Classifiers of the toy data, trained for a moment."""
    folder = tmp_path_factory.mktemp("judges")
    dataset = toy_data(folder)
    for modality in dataset.spec.modalities:
        network = classifiers.train(dataset.spec, modality, dataset.split("train"), updates=300)
        accuracies = classifiers.measure_answers(
            network, modality, dataset.spec, dataset.split("test")
        )
        found = accuracies["class"]
        facts = {
            "accuracy": found,
            "command": "a test",
            "n": 64,
            "validation": found,
            "data": "",
            "dataset": "toy",
        }
        classifiers.save(network, modality, folder, facts)
        assert found > 0.9
    return folder


class Ear(Reporter):
    """Remembers what was said."""

    def __init__(self):
        super().__init__()
        self.said = []

    def say(self, text):
        self.said.append(text)


def options(tmp_path, judges, **changes):
    paths = DataPaths(tmp_path, tmp_path)
    base = dict(store=tmp_path / "store", paths=paths, archive=judges, device="cpu", threads=1)
    return Options(**(base | changes))


def smoke(*models, seeds=(0,), overrides=()):
    return plan(models, "toy", "smoke", seeds, overrides)


def run(runs, chosen):
    ear = Ear()
    with ear:
        return drive(runs, chosen, ear), ear.said


def test_a_run_leaves_weights_records_and_pictures(tmp_path, judges):
    summary, _ = run(smoke("shala"), options(tmp_path, judges))
    (outcome,) = summary.outcomes.values()
    assert (outcome.status, summary.exit_code) == ("done", 0), outcome.text
    folder = RunFolder(outcome.folder)
    evaluators = {r["evaluator"] for r in folder.results()}
    assert evaluators == {"coherence", "latents", "quality", "samples"}
    assert (outcome.folder / "pictures" / "samples-joint.png").exists()
    assert folder.trained["provenance"]["seconds"] > 0
    assert folder.trained["provenance"]["cpu_seconds"] > 0
    assert folder.run["origins"]["model.steps"][0] == "preset smoke"
    assert folder.checkpoints() == []
    weights = torch.load(folder.weights, weights_only=True)
    assert all(torch.isfinite(x).all() for x in weights.values() if x.is_floating_point())


def test_a_model_with_volumes_is_trained_channels_last(tmp_path):
    runs = plan(("syncdreamer",), "toy-views", "smoke", (0,), ())
    summary, _ = run(runs, options(tmp_path, None, evaluators=("views",)))
    (outcome,) = summary.outcomes.values()
    assert outcome.status == "done", outcome.text
    assert RunFolder(outcome.folder).run["settings"]["train.channels_last"]


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "float32")])
def test_bf16_is_used_where_the_device_computes_in_it_and_the_record_says_so(
    tmp_path, judges, monkeypatch, native, precision
):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    summary, _ = run(smoke("shala"), options(tmp_path, judges, evaluators=("samples",)))
    folder = RunFolder(next(iter(summary.outcomes.values())).folder)
    assert folder.run["settings"]["train.precision"] == precision
    assert folder.trained["provenance"]["precision"] == precision


def test_the_same_run_again_does_nothing_and_says_so(tmp_path, judges):
    chosen = options(tmp_path, judges)
    first, _ = run(smoke("shala"), chosen)
    folder = next(iter(first.outcomes.values())).folder
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*") if f.is_file()}
    again, said = run(smoke("shala"), chosen)
    assert next(iter(again.outcomes.values())).status == "already"
    assert any("Nothing to do" in line for line in said)
    assert before == {f: f.stat().st_mtime_ns for f in folder.rglob("*") if f.is_file()}


def test_variants_of_one_method_and_seed_are_all_run(tmp_path, judges):
    variants = plan_ablation(read_ablation("table5"), "toy", "smoke", [0])
    summary, said = run(variants, options(tmp_path, judges, evaluators=("samples",)))
    folders = {outcome.folder for outcome in summary.outcomes.values()}
    assert len(folders) == len(variants) == 2
    assert any("(model.prior.condition=" in line for line in said)


def test_a_new_evaluation_setting_does_not_train_again(tmp_path, judges):
    chosen = options(tmp_path, judges)
    run(smoke("shala"), chosen)
    (folder,) = Store(chosen.store).runs()
    trained = folder.weights.stat().st_mtime_ns
    run(smoke("shala", overrides=("evaluators.coherence.samples=7",)), chosen)
    assert folder.weights.stat().st_mtime_ns == trained
    found = [r["evaluator"] for r in folder.results()]
    assert found == ["coherence", "coherence", "latents", "quality", "samples"]


def test_a_failing_run_is_recorded_and_the_others_go_on(tmp_path, judges, monkeypatch):
    def explode(self):
        raise RuntimeError("no luck")

    from baselines.mmvae_plus import MMVAEPlus

    monkeypatch.setattr(MMVAEPlus, "stages", explode)
    chosen = options(tmp_path, judges)
    summary, _ = run(smoke("mmvae+", "shala"), chosen)
    assert [o.status for o in summary.outcomes.values()] == ["failed", "done"]
    assert summary.exit_code == 1
    failed = next(f for f in Store(chosen.store).runs() if f.failed)
    assert "no luck" in failed.failed["traceback"]
    monkeypatch.undo()
    again, said = run(smoke("mmvae+"), chosen)
    assert next(iter(again.outcomes.values())).status == "failed"
    assert any("--retry" in line for line in said)
    retried, _ = run(smoke("mmvae+"), options(tmp_path, judges, retry=True))
    assert retried.exit_code == 0
    assert failed.failed is None


def test_a_diverged_run_is_recorded_with_stage_step_and_term(tmp_path, judges):
    wild = ("model.optimiser.lr=1e30", "train.precision=float32")
    summary, _ = run(smoke("shala", overrides=wild), options(tmp_path, judges))
    (outcome,) = summary.outcomes.values()
    assert outcome.status == "diverged", outcome.text
    facts = RunFolder(outcome.folder).failed
    assert facts["stage"] == "inference"
    assert facts["step"] > 0
    assert facts["term"]


def test_a_method_that_cannot_run_on_the_data_is_skipped_with_its_reason(
    tmp_path, judges, monkeypatch
):
    from shala.model import ShaLa

    reason = "It takes no texts."
    monkeypatch.setattr(ShaLa, "skip", classmethod(lambda cls, spec, config: reason))
    chosen = options(tmp_path, judges)
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
    assert "no shared latent" in folder.failed["reason"]
    assert "prior.kind=gmm" in folder.failed["reason"]


def test_out_of_memory_names_the_batch_size(tmp_path, judges, monkeypatch):
    def starve(*_):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(module, "train", starve)
    summary, _ = run(smoke("shala"), options(tmp_path, judges))
    (outcome,) = summary.outcomes.values()
    assert "model.batch_size = 32" in outcome.text


def test_a_time_limit_stops_with_a_checkpoint_and_its_own_code(tmp_path, judges):
    chosen = options(tmp_path, judges, deadline=time.time())
    summary, _ = run(smoke("shala"), chosen)
    assert summary.exit_code == module.STOPPED_EXIT
    (folder,) = Store(chosen.store).runs()
    assert folder.checkpoints()
    assert folder.state() == "stopped"
    finished, _ = run(smoke("shala"), options(tmp_path, judges))
    assert finished.exit_code == 0


def test_a_run_that_another_process_holds_is_left_alone(tmp_path, judges):
    chosen = options(tmp_path, judges, deadline=time.time())
    run(smoke("shala"), chosen)
    (folder,) = Store(chosen.store).runs()
    before = sorted(p.name for p in folder.path.rglob("*"))
    with folder.lock(wait=False) as held:
        assert held
        outcome = module.perform(smoke("shala")[0], options(tmp_path, judges), lambda event: None)
        assert outcome.status == "busy"
        assert folder.state() == "running"
    assert sorted(p.name for p in folder.path.rglob("*")) == before


def test_a_full_disk_loses_nothing_that_was_recorded(tmp_path, judges, monkeypatch):
    chosen = options(tmp_path, judges)
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
    assert "Free some room" in outcome.text
    assert recorded == {f: f.read_bytes() for f in folder.path.rglob("*.json")}
    assert not list(folder.path.rglob(".*"))


def test_two_processes_do_the_work_of_one(tmp_path, judges):
    chosen = options(tmp_path, judges, jobs=2)
    summary, _ = run(smoke("shala", "mmvae+"), chosen)
    assert {o.status for o in summary.outcomes.values()} == {"done"}, summary.outcomes
    alone = options(tmp_path / "alone", judges)
    run(smoke("shala"), alone)
    (one,) = Store(alone.store).runs()
    other = next(f for f in Store(chosen.store).runs() if f.run["model"] == "shala")
    assert one.trained["digest"] == other.trained["digest"]


def test_classifiers_for_other_modalities_are_told_before_training(tmp_path, judges):
    from classifiers.weights import load

    entries = json.loads((judges / "weights.json").read_text())
    spec = toy_data(tmp_path).spec
    other = tmp_path / "other"
    other.mkdir()
    (other / "weights.json").write_text(json.dumps({"m0": entries["bar"]}))
    with pytest.raises(DataError, match=r"has classifiers for m0, and none for bar"):
        load(spec, torch.device("cpu"), other)
    with pytest.raises(DataError, match="none for bar"):
        run(smoke("shala"), options(tmp_path, other))
    assert not (tmp_path / "store").exists()


def test_a_damaged_classifier_is_told(tmp_path, judges):
    from classifiers.weights import load

    for file in judges.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "bar.npz").write_bytes(b"something else")
    with pytest.raises(DataError, match="SHA-256"):
        load(toy_data(tmp_path).spec, torch.device("cpu"), tmp_path)


def test_a_classifier_in_training_mode_judges_nothing(tmp_path, judges, monkeypatch):
    healthy = classifiers.load

    def load(*arguments):
        found = healthy(*arguments)
        found["bar"].network.train()
        return found

    monkeypatch.setattr(classifiers, "load", load)
    summary, _ = run(smoke("shala"), options(tmp_path, judges, evaluators=("coherence",)))
    (outcome,) = summary.outcomes.values()
    assert outcome.status == "failed"
    assert "The classifier of 'bar' is in training mode" in outcome.text


def test_a_method_whose_own_code_breaks_before_training_ends_only_its_own_run(
    tmp_path, judges, monkeypatch
):
    def skip(spec, config):
        raise TypeError("as asked")

    monkeypatch.setattr(module.find("model", "mvae").cls, "skip", skip)
    summary, _ = run(smoke("mvae", "mopoe"), options(tmp_path, judges, evaluators=("samples",)))
    assert [o.status for o in summary.outcomes.values()] == ["failed", "done"]
    assert "TypeError: as asked" in next(iter(summary.outcomes.values())).text


def test_runs_of_two_presets_are_both_run(tmp_path, judges):
    runs = smoke("mopoe")
    runs += [replace(runs[0], preset="gate")]
    summary, _ = run(runs, options(tmp_path, judges, evaluators=("samples",)))
    assert len(summary.outcomes) == 2


def test_a_record_without_weights_is_not_trained_and_written_anew(tmp_path, judges):
    runs = smoke("mopoe")
    run(runs, options(tmp_path, judges, evaluators=("samples",)))
    Store(tmp_path / "store").export(tmp_path / "copy")
    files = {f: f.read_bytes() for f in (tmp_path / "copy").rglob("*.json")}
    chosen = options(tmp_path, judges, store=tmp_path / "copy", evaluators=("latents",))
    summary, _ = run(runs, chosen)
    (outcome,) = summary.outcomes.values()
    assert outcome.status == "failed"
    assert "recorded without weights" in outcome.text
    assert {f: f.read_bytes() for f in files} == files
    assert not list((tmp_path / "copy").rglob("failed.json"))


def test_another_split_s_pictures_leave_the_test_split_s_alone(tmp_path, judges):
    chosen = options(tmp_path, judges, evaluators=("samples",))
    run(smoke("mopoe"), chosen)
    (folder,) = Store(tmp_path / "store").runs()
    before = {f: f.read_bytes() for f in (folder.path / "pictures").iterdir()}
    run(smoke("mopoe"), replace(chosen, split="validation"))
    run(smoke("mopoe", overrides=("evaluators.samples.columns=3",)), chosen)
    assert {f: f.read_bytes() for f in before} == before
    named = [name for result in folder.results() for name in result["pictures"]]
    assert len(set(named)) == len(named) == 3 * len(before)
    assert all((folder.path / name).is_file() for name in named)


@pytest.mark.parametrize("name", ["tpu9", "mps", "meta", "cuda:99", "cuda:x"])
def test_a_device_that_is_not_there_is_told(name):
    with pytest.raises(BenchError, match=f"'{name}'"):
        module.choose_device(name)


def test_compiling_reaches_every_network_that_is_called(toy, monkeypatch):
    reached = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: reached.append(self))
    model = build("shala", toy)
    module.compile_networks(model)
    trained = {id(p) for part in reached for p in part.parameters()}
    left = [n for n, p in model.named_parameters() if id(p) not in trained]
    assert left == ["prior_net.tokens"]


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
