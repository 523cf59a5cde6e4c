"""Datasets, classifiers and devices before any run."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.campaigns import options, run, smoke
from helpers.toys import build, toy_data

import classifiers
from shalabench.api import BenchError, DataError, tensor_cores
from shalabench.config.plan import plan
from shalabench.config.training import TrainSettings
from shalabench.execute import inputs
from shalabench.records.ids import train_id
from shalabench.records.store import RunFolder


def test_classifiers_for_other_modalities_are_an_error_before_training(tmp_path, archive):
    from classifiers.weights import load

    entries = json.loads((archive / "weights.json").read_text())
    spec = toy_data(tmp_path).spec
    other = tmp_path / "other"
    other.mkdir()
    (other / "weights.json").write_text(json.dumps({"m0": entries["bar"]}))
    with pytest.raises(DataError, match="bar"):
        load(spec, torch.device("cpu"), other)
    with pytest.raises(DataError, match="bar"):
        run(smoke("shala"), options(tmp_path, other))
    assert not (tmp_path / "store").exists()


def test_a_damaged_classifier_is_an_error(tmp_path, archive):
    from classifiers.weights import load

    for file in archive.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "bar.npz").write_bytes(b"something else")
    with pytest.raises(DataError, match="SHA-256"):
        load(toy_data(tmp_path).spec, torch.device("cpu"), tmp_path)


def test_a_classifier_in_training_mode_is_an_error(tmp_path, archive, monkeypatch):
    healthy = classifiers.load

    def load(*arguments):
        found = healthy(*arguments)
        found["bar"].network.train()
        return found

    monkeypatch.setattr(classifiers, "load", load)
    summary, _ = run(smoke("shala"), options(tmp_path, archive, evaluators=("coherence",)))
    (outcome,) = summary.outcomes.values()
    assert outcome.status == "failed"
    assert "'bar'" in outcome.text


@pytest.mark.parametrize("name", ["tpu9", "mps", "meta", "cuda:99", "cuda:x"])
def test_a_device_that_is_not_there_is_an_error(name):
    with pytest.raises(BenchError, match=f"'{name}'"):
        inputs.choose_device(name)


@pytest.mark.parametrize("name", ["graphs", "tf32"])
def test_settings_for_gpus_are_refused_on_a_cpu_in_one_sentence(name):
    train = TrainSettings(**{name: True})
    with pytest.raises(BenchError, match=rf"train\.{name} is true.*cpu.*Leave train\.{name} false"):
        inputs.check_gpu_settings(train, torch.device("cpu"))
    inputs.check_gpu_settings(train, torch.device("cuda"))
    inputs.check_gpu_settings(TrainSettings(), torch.device("cpu"))


def test_tf32_is_on_within_a_training_alone_and_part_of_its_identity():
    matmul = torch.backends.cuda.matmul
    with tensor_cores(True):
        assert matmul.allow_tf32
    assert not matmul.allow_tf32
    with tensor_cores(False):
        assert not matmul.allow_tf32

    def identity(**train):
        return train_id("m", 1, {}, "d", "f", {"precision": "float32"} | train, 0)

    assert identity() == identity(tf32=False, graphs=True) != identity(tf32=True)


def test_compiling_reaches_every_network_that_is_called(toy, monkeypatch):
    reached = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: reached.append(self))
    model = build("shala", toy)
    inputs.compile_networks(model)
    trained = {id(p) for part in reached for p in part.parameters()}
    left = [n for n, p in model.named_parameters() if id(p) not in trained]
    assert left == ["prior_net.tokens"]


def test_a_model_with_volumes_is_trained_channels_last(tmp_path):
    runs = plan(("syncdreamer",), "toy-views", "smoke", (0,), ())
    summary, _ = run(runs, options(tmp_path, None, evaluators=("views",)))
    (outcome,) = summary.outcomes.values()
    assert outcome.status == "done", outcome.text
    assert RunFolder(outcome.folder).run["settings"]["train.channels_last"]
