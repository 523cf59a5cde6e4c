"""The benchmarks start, and say what they lack."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from shalabench.api.registry import entries

ROOT = Path(__file__).parent.parent.parent


def run(script: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, f"benchmarks/{script}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def load():
    """Import a benchmark's module."""

    def imported(name: str):
        sys.path.insert(0, str(ROOT / "benchmarks"))
        try:
            return importlib.import_module(name)
        finally:
            sys.path.pop(0)

    return imported


@pytest.mark.skipif(
    importlib.util.find_spec("multivae") is not None, reason="MultiVae is installed here"
)
def test_peer_says_in_one_sentence_how_to_get_the_other_library():
    done = run("peer.py")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: MultiVae is not installed here")
    assert "pip install multivae==" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_peer_adapts_methods_by_their_registered_names(load):
    peer = load("peer")
    spec = peer.make_spec(4)
    for method in set(peer.PAIRS) & set(entries("model")):
        assert peer.make_model(method, spec, peer.PAIRS[method]).spec is spec


def test_given_draws_are_the_same_here_and_in_torch(load):
    peer = load("peer")
    ours = peer.GivenRng(0).fork("any").laplace(3, 2 * 5)
    with peer.given_draws():
        zero, one = torch.zeros(3, 5), torch.ones(3, 5)
        theirs = torch.distributions.Laplace(zero, one).rsample([2])  # [K, B, D]
    assert torch.equal(ours.view(3, 2, 5).transpose(0, 1), theirs)
    assert ours[0, 0] != ours[1, 0]


def test_step_measures_every_stage_on_toy_sizes(tmp_path):
    arguments = ("--dataset", "toy", "--preset", "smoke", "--batch", "8", "--families", "conv")
    done = run("step.py", *arguments, "--methods", "shala,mmvae+", "--cache-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    head, _, *rows = done.stdout.strip().splitlines()
    assert {"GFLOP", "images/s"} <= set(head.split())
    assert [row.split()[:3] for row in rows] == [
        ["shala", "conv", "inference"],
        ["shala", "conv", "prior"],
        ["mmvae+", "conv", "vae"],
    ]


def test_held_bytes_are_those_alive_at_once(load):
    outside = torch.zeros(500)
    with load("step").Meter() as meter:
        a = torch.zeros(1000)
        b = a + 1
        a = b.view(10, 100).add_(outside[:100])  # a view, changed in place: nothing new
        del b
        c = a * 2
        del a, c
        torch.zeros(1500)
    assert meter.most == 2 * 1000 * 4


def test_operations_are_those_that_torch_counts(load):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    counts = []
    for mode in (load("step").Meter(), FlopCounterMode(display=False)):
        with mode:
            net(torch.ones(5, 3, 8, 8)).sum().backward()
        counts.append(mode.flops if hasattr(mode, "flops") else mode.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.skipif(
    importlib.util.find_spec("multivae") is None, reason="MultiVae is not installed here"
)
@pytest.mark.slow
def test_objectives_agree_with_the_other_library():
    done = run("peer.py", "--batch", "32", "--repeats", "1", "--json")
    methods = json.loads(done.stdout)["methods"]
    for name, row in methods.items():
        assert row["objective"] < 1e-7, name
        assert row["gradient"] < 1e-7, name


def test_render_measures_images_a_second():
    done = run("render.py", "--resolutions", "16", "--cars", "1")
    assert done.returncode == 0, done.stderr
    head, _, row = done.stdout.strip().splitlines()
    assert head.split()[0] == "pixels"
    assert row.split()[0] == "16"
    assert all(float(x) > 0 for x in row.split())


def test_no_cost_of_shala_grows_faster_than_the_number_of_views():
    done = run("views.py", "--preset", "smoke", "--views", "2,4", "--repeats", "1")
    assert done.returncode == 0, done.stderr
    head, _, *rows = done.stdout.strip().splitlines()
    assert "CPU ms" in head
    rows = [row.rsplit(maxsplit=6) for row in rows]
    works = ["inference update", "prior update", "joint sample", "translation"]
    assert [(row[0].strip(), row[1]) for row in rows] == [(w, n) for w in works for n in "24"]
    for _, _, seconds, _, views, _, operations in rows:
        assert float(seconds) > 0
        assert float(operations) <= float(views)  # CPU time is measured, operations are counted
