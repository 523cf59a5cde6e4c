"""Each process of a command has one GPU, or none where they are hidden."""

from __future__ import annotations

import threading

import pytest
import torch
from helpers.campaigns import options, run, smoke
from helpers.tasks import see_gpus

from shalabench.api import BenchError
from shalabench.execute.backends import Processes
from shalabench.execute.gpus import Shares, gpus_for, visible_gpus


def test_a_process_gets_the_gpu_with_the_fewest_processes_in_turns():
    shares = Shares(("4", "5"))
    assert [shares.take() for _ in range(3)] == ["4", "5", "4"]
    shares.give_back("5")
    assert shares.take() == "5"
    shares.give_back("4")
    shares.give_back("4")
    assert [shares.take() for _ in range(2)] == ["4", "5"]
    shares = Shares(("4", "5"))
    alone = []
    for _ in range(4):
        alone.append(shares.take())
        shares.give_back(alone[-1])
    assert alone == ["4", "5", "4", "5"]


def test_hidden_and_unchosen_gpus():
    hidden, unchosen = Shares(()), Shares(None)
    assert (hidden.take(), unchosen.take()) == ("", None)
    hidden.give_back("")
    unchosen.give_back(None)


@pytest.mark.parametrize(
    ("named", "count", "expected"),
    [
        (None, 3, ("0", "1", "2")),
        ("2,0", 2, ("2", "0")),
        ("GPU-aa,GPU-bb,-1,GPU-cc", 2, ("GPU-aa", "GPU-bb")),  # CUDA stops at a wrong one
        ("", 0, ()),
    ],
)
def test_visible_gpus_have_the_names_of_the_environment(monkeypatch, named, count, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == expected
    assert gpus_for("auto", 1) == gpus_for("cuda", 0.5) == (expected or None)
    assert gpus_for("auto", 0) == ()
    assert gpus_for("cuda:1", 1) is gpus_for("cpu", 1) is None


@pytest.mark.parametrize(
    ("gpus", "expected"), [(("4", "5"), ["4", "5"]), ((), ["", ""]), (None, ["7", "7"])]
)
def test_processes_see_their_own_gpu(monkeypatch, gpus, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    engine = Processes(2, threading.Event(), gpus)
    for key in ("a", "b"):
        engine.submit(key, see_gpus)
    assert list(engine.events()) == []
    assert [engine.result(key) for key in ("a", "b")] == expected


def test_hidden_gpus_and_a_gpu_by_name_contradict_each_other(tmp_path):
    chosen = options(tmp_path, None, gpus=0.0, device="cuda:1")
    with pytest.raises(BenchError, match="--gpus-per-run 0"):
        run(smoke("mopoe"), chosen)
    assert not chosen.store.exists()
