"""A failing evaluator stops no other, and the record says which failed and why."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from helpers.campaigns import options, run, smoke

from evaluators.samples import Samples
from shalabench.api.errors import out_of_memory
from shalabench.api.registry import entries, find
from shalabench.execute.evaluation import Evaluation
from shalabench.execute.measuring import is_recorded, known_failures, measure_each, reasons_of
from shalabench.execute.trainer import Stopped
from shalabench.records.store import RunFolder


def evaluation(name):
    evaluator = SimpleNamespace(name=name, version=1, config=SimpleNamespace(batch_size=500))
    return Evaluation(evaluator, f"{name:_<12}", "test", {})


def recorder(folder, errors):
    """Carries evaluations out, or raises the error of an evaluator."""

    def measure(evaluation):
        if evaluation.evaluator.name in errors:
            raise errors[evaluation.evaluator.name]
        folder.write_json(f"results/{evaluation.file_name}", {"evaluator": "x", "split": "test"})

    return measure


def test_the_others_go_on_and_the_failure_is_recorded_until_it_succeeds(tmp_path):
    folder, todo = RunFolder(tmp_path), [evaluation(name) for name in ("a", "b", "c", "d")]
    errors = {"a": ValueError("seven"), "c": MemoryError()}
    failed = measure_each(todo, folder, recorder(folder, errors))
    assert failed.keys() == {"a", "c"}
    assert "ValueError: seven" in failed["a"]
    assert "evaluators.c.batch_size=250" in failed["c"]
    assert [is_recorded(e, folder) for e in todo] == [False, True, False, True]
    assert known_failures(todo, folder) == failed
    (first, _) = folder.failures().values()
    assert (first["evaluator"], first["split"]) == ("a", "test")
    assert "Traceback" in first["traceback"]
    assert measure_each(todo, folder, recorder(folder, {})) == {}
    assert all(is_recorded(e, folder) for e in todo)
    assert folder.failures() == {}


def test_a_stop_is_no_failure(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(Stopped):
        measure_each([evaluation("a")], folder, recorder(folder, {"a": Stopped()}))
    assert folder.failures() == {}


def test_a_damaged_result_is_measured_again_and_kept_aside(tmp_path):
    folder, todo = RunFolder(tmp_path), [evaluation("a")]
    measure_each(todo, folder, recorder(folder, {}))
    file = tmp_path / "results" / todo[0].file_name
    damaged = file.read_bytes().replace(b"test", b"tent")
    file.write_bytes(damaged)
    assert not is_recorded(todo[0], folder)
    measure_each(todo, folder, recorder(folder, {}))
    assert is_recorded(todo[0], folder)
    assert file.with_name(f"{file.name}.damaged").read_bytes() == damaged


def test_reasons_are_said():
    assert reasons_of({}) == ""
    assert reasons_of({"b": "Odd."}).startswith(" b failed: Odd. Add --retry")


def test_the_error_of_a_cpu_without_memory_is_known():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50)
    assert out_of_memory(raised.value)
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    assert not out_of_memory(RuntimeError("The size of tensor a must match"))
    assert not out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize("name", entries("evaluator"))
def test_every_evaluator_knows_the_least_number_of_items(name, toy):
    evaluator = find("evaluator", name).cls
    sizes = [evaluator.least - 1, evaluator.least]
    few, enough = (
        evaluator(evaluator.Config()).too_few(
            SimpleNamespace(sizes={"test": n}, distinct={}), "test"
        )
        for n in sizes
    )
    assert str(evaluator.least) in few
    assert enough is None


def test_a_run_keeps_what_can_be_measured_and_says_what_cannot(tmp_path, archive, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("of the evaluator")

    chosen = options(tmp_path, archive, evaluators=("samples", "latents"))
    with monkeypatch.context() as patch:
        patch.setattr(Samples, "run", broken)
        summary, _ = run(smoke("mopoe"), chosen)
    (outcome,) = summary.outcomes.values()
    folder = RunFolder(outcome.folder)
    assert (outcome.status, summary.exit_code) == ("failed", 1)
    assert [r["evaluator"] for r in folder.results()] == ["latents"]
    assert (folder.state(), folder.failed) == ("done", None)
    again, _ = run(smoke("mopoe"), chosen)  # the reason, and no second attempt
    (outcome,) = again.outcomes.values()
    assert outcome.status == "failed"
    assert "samples failed: ZeroDivisionError" in outcome.text
    other, _ = run(smoke("mopoe"), options(tmp_path, archive, evaluators=("coherence",)))
    assert other.exit_code == 0
    asked = options(tmp_path, archive, evaluators=("style",))
    (outcome,) = run(smoke("mopoe"), asked)[0].outcomes.values()
    assert outcome.status == "already"
    assert "no cameras" in outcome.skipped["style"]  # which the driver says once for all runs
    retried, _ = run(
        smoke("mopoe"), options(tmp_path, archive, evaluators=("samples",), retry=True)
    )
    assert retried.exit_code == 0
    assert folder.failures() == {}
    damage(folder, tmp_path, archive)


@pytest.mark.parametrize("method", ["skip", "instruments"])
def test_an_error_in_an_evaluator_s_first_question_is_no_reason_to_skip_it(
    tmp_path, archive, monkeypatch, method
):
    def broken(*_):
        raise ZeroDivisionError("of the evaluator")

    chosen = options(tmp_path, archive, evaluators=("samples", "latents"))
    with monkeypatch.context() as patch:
        patch.setattr(Samples, method, broken)
        for _ in range(2):  # the second time, the training is recorded
            summary, _ = run(smoke("mopoe"), chosen)
            (outcome,) = summary.outcomes.values()
            assert (outcome.status, summary.exit_code) == ("failed", 1)
            assert "samples failed: Its code raised ZeroDivisionError" in outcome.text
            assert "test_measuring.py" in outcome.text
            assert "samples" not in outcome.skipped
    folder = RunFolder(outcome.folder)
    assert [r["evaluator"] for r in folder.results()] == ["latents"]
    assert run(smoke("mopoe"), chosen)[0].exit_code == 0


def damage(folder, tmp_path, archive):
    """Flip a bit of the weights, then of run.json, and ask for more."""
    chosen = options(tmp_path, archive, evaluators=("quality",))
    for file in (folder.weights, folder.path / "run.json"):
        whole = file.read_bytes()
        file.write_bytes(whole[:600] + bytes([whole[600] ^ 1]) + whole[601:])
        (outcome,) = run(smoke("mopoe"), chosen)[0].outcomes.values()
        assert outcome.status == "failed"
        assert file.name in outcome.text
        file.write_bytes(whole)
    assert [r["evaluator"] for r in folder.results()] == ["coherence", "latents", "samples"]
    file = folder.path / "run.json"  # from before digests: another value of the same form
    record = json.loads(file.read_text())
    del record["sha256"]
    file.write_text(json.dumps(record))
    assert run(smoke("mopoe"), chosen)[0].exit_code == 0
    record["settings"]["model.latent_dim"] += 1
    file.write_text(json.dumps(record))
    (outcome,) = run(smoke("mopoe"), chosen)[0].outcomes.values()
    assert "model.latent_dim" in outcome.text
