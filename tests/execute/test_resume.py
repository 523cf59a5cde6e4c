"""A run may be killed at any moment and loses nothing but time."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch
from helpers.toys import build

from shalabench.api import BenchError, Diverged
from shalabench.config.settings import resolve
from shalabench.config.training import TrainSettings
from shalabench.execute.divergence import Runaway
from shalabench.execute.tensors import read_checkpoint
from shalabench.execute.trainer import Stopped, Watch, _restore, train
from shalabench.records.digests import Damaged, parse_checkpoint
from shalabench.records.store import RunFolder


def work(toy, folder, settings, watch):
    """One attempt at the whole training, its weights saved at the end."""
    torch.set_num_threads(1)
    model = build("shala", toy)
    train(model, toy.split("train"), folder, 3, settings, watch)
    torch.save(model.state_dict(), folder.path / "weights.tmp")
    os.replace(folder.path / "weights.tmp", folder.weights)


def slow(progress):
    time.sleep(0.004)


def folder_in(path):
    path.mkdir(parents=True, exist_ok=True)
    return RunFolder(path)


def assert_same(one, other):
    a, b = (torch.load(f.weights, weights_only=True) for f in (one, other))
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_a_run_killed_twenty_times_ends_bit_equal(toy, tmp_path, precision):
    settings = TrainSettings(precision=precision, log_every=1)
    whole, killed = folder_in(tmp_path / "whole"), folder_in(tmp_path / "killed")
    work(toy, whole, settings, Watch())
    watch = Watch(report=slow, checkpoint_every=0.02)
    context, chance = multiprocessing.get_context("fork"), random.Random(precision)
    kills = 0
    for _ in range(200):
        process = context.Process(target=work, args=(toy, killed, settings, watch))
        process.start()
        limit = None if kills >= 20 else chance.uniform(0.02, 0.25)
        process.join(limit)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
        if killed.weights.exists():
            if kills >= 20:
                break
            killed.weights.unlink()  # it was quicker than the kills: once more from the middle
            for file in killed.checkpoints():
                if file.name.startswith("02"):
                    file.unlink()
    assert kills >= 20
    assert_same(whole, killed)


def test_a_stopped_run_keeps_a_checkpoint_and_goes_on(toy, tmp_path):
    settings = TrainSettings(log_every=1)
    whole, parts = folder_in(tmp_path / "whole"), folder_in(tmp_path / "parts")
    work(toy, whole, settings, Watch())
    for calls in (7, 5, 11):
        left = iter(range(calls))
        with pytest.raises(Stopped):
            work(
                toy, parts, settings, Watch(should_stop=lambda left=left: next(left, None) is None)
            )
    work(toy, parts, settings, Watch())
    resumed = [(e["stage"], e["step"]) for e in parts.events() if e["kind"] == "resumed"]
    assert resumed == [("inference", 7), ("inference", 12), ("prior", 3)]
    assert_same(whole, parts)


def test_the_cost_of_the_attempts_before_is_counted(toy, tmp_path):
    folder, settings = folder_in(tmp_path / "run"), TrainSettings(log_every=1)
    data, left = toy.split("train"), iter(range(9))
    watch = Watch(should_stop=lambda: next(left, None) is None, report=slow)
    with pytest.raises(Stopped):
        train(build("shala", toy), data, folder, 3, settings, watch)
    spent = torch.load(folder.checkpoints()[0], weights_only=True)["spent"]
    assert spent[0] > 9 * 0.004
    assert spent[1] > 0
    again = time.monotonic()
    _, clock = train(build("shala", toy), data, folder, 3, settings, Watch())
    again = time.monotonic() - again
    assert again < clock.read()[0] < again + spent[0] + 1


def test_a_truncated_newest_checkpoint_costs_a_warning(toy, tmp_path):
    settings = TrainSettings(log_every=1)
    whole, hurt = folder_in(tmp_path / "whole"), folder_in(tmp_path / "hurt")
    work(toy, whole, settings, Watch())
    left = iter(range(9))
    watch = Watch(should_stop=lambda: next(left, None) is None, checkpoint_every=0.0)
    with pytest.raises(Stopped):
        work(toy, hurt, settings, watch)
    newest, before = hurt.checkpoints()
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=rf"{newest.name} does not load"):
        work(toy, hurt, settings, Watch())
    assert_same(whole, hurt)
    assert before.name < newest.name


def test_a_checkpoint_of_another_version_is_told(toy, tmp_path):
    folder, settings = folder_in(tmp_path / "run"), TrainSettings(precision="float32")
    counts = iter([False, False, True])
    with pytest.raises(Stopped):
        work(toy, folder, settings, Watch(should_stop=lambda: next(counts)))
    (file,) = folder.checkpoints()
    saved = torch.load(file, weights_only=True)
    saved["state"]["optimiser"] = saved["state"].pop("optimisers")["all"]
    replace(folder, file, saved)
    with pytest.raises(BenchError, match="another version"):
        work(toy, folder, settings, Watch())


def replace(folder, file, saved):
    """Write other content in place of a checkpoint, with the digest of that content."""
    file.unlink()
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    folder.write_checkpoint(*parse_checkpoint(file.name)[:2], buffer.getvalue())


def flip(file, bit):
    content = bytearray(file.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    file.write_bytes(content)


def test_of_a_checkpoint_with_a_flipped_bit_the_one_before_is_used(toy, tmp_path):
    folder, settings = folder_in(tmp_path / "run"), TrainSettings(log_every=1)
    left = iter(range(6))
    watch = Watch(should_stop=lambda: next(left, None) is None, checkpoint_every=0.0)
    with pytest.raises(Stopped):
        work(toy, folder, settings, watch)
    model, chance = build("shala", toy), random.Random(0)
    for file in folder.checkpoints():
        whole = file.read_bytes()
        for _ in range(16):
            flip(file, chance.randrange(8 * len(whole)))
            with pytest.raises(Damaged, match="SHA-256"):
                read_checkpoint(file, "run", model, model.stages(), "cpu")
            file.write_bytes(whole)
    newest, before = folder.checkpoints()
    flip(newest, 12345)
    with pytest.warns(UserWarning, match="The one before is used"):
        saved = _restore(folder, model, model.stages(), torch.device("cpu"))
    assert saved["step"] == parse_checkpoint(before.name)[1]
    assert folder.checkpoints() == [before]
    flip(before, 1)
    with pytest.warns(UserWarning, match="starts anew"):
        assert _restore(folder, model, model.stages(), torch.device("cpu")) is None


@pytest.mark.parametrize(
    "change",
    [
        {"step": 10**6},
        {"step": -1},
        {"step": True},
        {"stage": 9},
        {"run": "another"},
        {"model": {}},
        {"sums": None, "reading": None, "missing": "updates"},
        {"model": "transposed"},
    ],
)
def test_a_whole_checkpoint_of_wrong_content_is_not_believed(toy, tmp_path, change):
    folder, left = folder_in(tmp_path / "run"), iter(range(3))
    with pytest.raises(Stopped):
        work(toy, folder, TrainSettings(), Watch(lambda: next(left, None) is None))
    (file,) = folder.checkpoints()
    saved = torch.load(file, weights_only=True)
    if change.get("model") == "transposed":
        turned = {k: x.T.contiguous() if x.dim() == 2 else x for k, x in saved["model"].items()}
        change = {"model": turned}
    gone = change.get("missing")
    saved = {key: x for key, x in (saved | change).items() if key not in (gone, "missing")}
    replace(folder, file, saved)
    model = build("shala", toy)
    before = {key: x.clone() for key, x in model.state_dict().items()}
    with pytest.warns(UserWarning, match="starts anew"):
        assert _restore(folder, model, model.stages(), torch.device("cpu")) is None
    assert all(torch.equal(x, before[key]) for key, x in model.state_dict().items())


def test_a_checkpoint_from_before_digests_is_resumed(toy, tmp_path):
    folder, left = folder_in(tmp_path / "run"), iter(range(3))
    with pytest.raises(Stopped):
        work(toy, folder, TrainSettings(), Watch(lambda: next(left, None) is None))
    (file,) = folder.checkpoints()
    file.rename(file.with_name("00-000000003.pt"))
    model = build("shala", toy)
    assert _restore(folder, model, model.stages(), torch.device("cpu"))["step"] == 3


def test_only_two_checkpoints_are_kept(toy, tmp_path):
    folder = folder_in(tmp_path / "run")
    work(toy, folder, TrainSettings(log_every=1), Watch(checkpoint_every=0.0))
    assert len(folder.checkpoints()) == 2


def test_a_loss_that_is_not_finite_is_told_with_step_and_term(toy, tmp_path):
    model = build("shala", toy)
    stage = model.stages()[0]
    stage._loss, loss = None, stage._loss

    def broken(batch, rng, step):
        value, terms = loss(batch, rng, step)
        if step == 4:
            terms["kl"] = terms["kl"] * float("nan")
        return value, terms

    stage._loss = broken
    model.stages = lambda: [stage]
    folder = folder_in(tmp_path / "run")
    with pytest.raises(Diverged) as caught:
        train(model, toy.split("train"), folder, 0, TrainSettings(log_every=1), Watch())
    assert (caught.value.stage, caught.value.step, caught.value.term) == ("inference", 5, "kl")


@pytest.mark.parametrize(("spike", "gives_up"), [(3, True), (2, False)])
def test_a_loss_that_runs_away_and_stays_is_told_and_a_spike_passes(toy, tmp_path, spike, gives_up):
    model = build("shala", toy)
    stage = model.stages()[0]
    loss = stage._loss

    def broken(batch, rng, step):
        value, terms = loss(batch, rng, step)
        if 4 <= step < 4 + spike:
            terms["kl"] = terms["kl"] + 1e9
        return value, terms

    stage._loss = broken
    model.stages = lambda: [stage]
    arguments = (model, toy.split("train"), folder_in(tmp_path / "run"), 0)
    if not gives_up:
        train(*arguments, TrainSettings(log_every=1), Watch())
        return
    with pytest.raises(Diverged, match=r"run away to 1e\+09 by step 7") as caught:
        train(*arguments, TrainSettings(log_every=1), Watch())
    assert (caught.value.step, caught.value.term) == (7, "kl")


def read_losses(runaway, losses, kls):
    """Give `runaway` readings of a loss and its KL; the state passes a checkpoint in between."""
    for step, (loss, kl) in enumerate(zip(losses, kls, strict=True), 1):
        runaway = Runaway.restored(runaway.state())
        runaway.read("vae", step, {"loss": loss, "nll": loss - kl, "kl": kl})
    return runaway


@pytest.mark.parametrize("sign", [1, -1])
def test_a_posterior_that_a_spike_has_collapsed_is_told(sign):
    """The readings of a training on PolyMNIST: the loss is a quarter higher for good."""
    before = sign * 6404.0
    losses, kls = [before] * 3 + [6.9e9] + [before + 1700] * 20, [75.0] * 3 + [6.9e9] + [0.9] * 20
    with pytest.raises(Diverged, match=r"'loss' of stage 'vae' ran away from -?6404 .* step 24"):
        read_losses(Runaway(), losses, kls)


def test_a_loss_that_recovers_from_a_spike_trains_on():
    falling = [8000.0 - 100 * i for i in range(20)]  # at most 10 % above 6404 before 20 readings
    losses, kls = [6404.0, 6.9e9, *falling], [75.0, 6.9e9, *[70.0] * 20]
    runaway = read_losses(Runaway(), losses, kls)
    assert (runaway.before, runaway.back) == (None, 0)
    read_losses(runaway, [8000.0] * 30, [70.0] * 30)  # a rise without a spike


def test_the_pair_of_older_checkpoints_is_forgotten():
    assert Runaway.restored((1.0, 2)) == Runaway.restored(None) == Runaway()


def test_the_smoke_preset_has_enough_steps_to_be_killed(toy):
    config = resolve("shala", "toy", "smoke", ()).model
    assert config.steps + config.prior.steps >= 40
