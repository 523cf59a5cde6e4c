"""The benchmarks start, and say what they lack."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from shalabench.api import EvalContext
from shalabench.api.registry import entries

ROOT = Path(__file__).parent.parent.parent


def run(script: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, f"benchmarks/{script}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


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


def test_pooling_times_every_pooling_and_method(tmp_path):
    small = ("--batch", "8", "--size", "4", "--repeats", "2", "--cache-dir", str(tmp_path))
    done = run("pooling.py", "--dataset", "toy", "--preset", "smoke", *small)
    assert done.returncode == 0, done.stderr
    updates, poolings = (part.strip().splitlines()[2:] for part in done.stdout.split("\n\n"))
    assert len(updates) == 13
    assert updates[0].split()[0::2] == ["mvtcae", "1.00"]
    names = ["product", "product-prior", "consensus", "barycentre", "hellinger"]
    assert [row.split()[0] for row in poolings] == names
    assert all(float(x) > 0 for row in poolings for x in row.split()[1:5])
    made = json.loads(
        run("pooling.py", "--dataset", "toy", "--preset", "smoke", *small, "--json").stdout
    )
    assert [row[0] for row in made["updates"]][::12] == ["mvtcae", "crmvae"]
    assert [row[0] for row in made["poolings"]] == names


TINY = ("--dataset", "toy", "--preset", "smoke", "--batch", "8")


@pytest.mark.slow
def test_a_tree_agrees_with_its_own_commit(tmp_path):
    against = ("--against", "HEAD", "--turns", "2", "--updates", "1", "--json")
    more = ("--methods", "shala,mmvae+", "--evaluate", "latents,style", "--tuples", "20")
    done = run("step.py", *TINY, *against, *more, "--cache-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    works = [(row["method"], row["work"]) for row in made["rows"]]
    stages = [("shala", "inference"), ("shala", "prior"), ("mmvae+", "vae")]
    assert [w for w in works if "evaluate" not in w[1]] == stages
    assert set(made["skipped"]) == {"shala, style", "mmvae+, style"}
    assert ("shala", "evaluate latents") in works
    for row in made["rows"]:
        assert row["low"] <= row["faster"] <= row["high"]
        assert min(row["old_mib"], row["new_mib"]) > 100
        assert row.get("loss", 0) <= 1e-4
    assert set(made["means"]) == {
        *("first stages", "later stages", "whole trainings", "evaluations"),
    }


def test_an_unknown_commit_is_one_sentence():
    done = run("step.py", *TINY, "--against", "no-such-commit")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "'no-such-commit'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_without_git_there_is_nothing_to_compare_with(load, monkeypatch, tmp_path):
    against = load("against")
    monkeypatch.setattr(against, "ROOT", tmp_path)
    with pytest.raises(click.ClickException, match="git checkout"):
        against.find_commit("HEAD")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(click.ClickException, match="the program git"):
        against.find_commit("HEAD")


def test_ratio_of_medians_takes_turns_together(load):
    ratio = load("timing").ratio_of_medians
    busy = [1.0, 1.0, 9.0, 1.0]  # a busy spell slows both sides alike
    old, new = ([[factor * x, factor * x] for x in busy] for factor in (3.0, 2.0))
    assert ratio(old, new) == (1.5, 1.5, 1.5)
    value, low, high = ratio([[2.0], [3.0], [4.0]], [[1.0], [1.0], [1.0]])
    assert (value, low, high) == (3.0, 2.0, 4.0)


def test_whole_trainings_weigh_stages_by_their_updates(load):
    row = {"method": "a", "work": "first", "stage": 0, "steps": 30, "old_ms": 4.0, "new_ms": 2.0}
    later = row | {"work": "second", "stage": 1, "steps": 10, "old_ms": 8.0, "new_ms": 10.0}
    rows = [row | {"faster": 2.0}, later | {"faster": 0.8}]
    means = load("against").summarise([*rows, {"method": "a", "work": "evaluate", "faster": 5.0}])
    assert means["first stages"] == pytest.approx(2.0)
    assert means["later stages"] == pytest.approx(0.8)
    assert means["whole trainings"] == pytest.approx(200 / 160)
    assert means["evaluations"] == pytest.approx(5.0)


def test_few_batches_stand_for_the_others(load):
    calls = []

    def make(index, rng):
        calls.append(len(index))
        return {"x": index.float()}

    context = EvalContext(torch.device("cpu"), 0)
    with load("side").few_batches(2) as left_out:
        made = context.map(make, 10, 3, "any")
    assert calls == [3, 3]
    assert len(left_out) == 2
    assert made["x"].tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 5, 3]
    assert len(context.map(make, 10, 3, "any")["x"]) == 10
    assert calls[2:] == [3, 3, 3, 1]


def test_operations_are_those_that_torch_counts(load):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    counts = []
    for mode in (load("timing").Meter(), FlopCounterMode(display=False)):
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


def test_cost_grows_with_modalities_and_unknown_settings_leave_methods_out():
    sizes = ("--preset", "smoke", "--modalities", "2,4", "--repeats", "1", "--only", "update")
    methods = ("--method", "mmvae+,mopoe", "--set", "model.private_dim=4", "--json")
    done = run("views.py", *sizes, *methods)
    assert done.returncode == 0, done.stderr
    assert "mopoe is left out" in done.stderr
    made = json.loads(done.stdout)
    assert list(made["methods"]) == ["mmvae+"]
    rows = made["methods"]["mmvae+"]["rows"]
    assert [row[:2] for row in rows] == [["vae update", 2], ["vae update", 4]]


def test_power_is_the_slope_of_logarithms(load):
    rows = [("a", 2, 1.0, 1.0, 1.0, 1.0, 1.0), ("a", 8, 16.0, 16.0, 4.0, 16.0, 16.0)]
    assert load("views").find_powers(rows) == {"a": 2.0}


def test_an_evaluation_is_cut_off_and_estimated_by_the_items_done(load, tmp_path):
    place = {"dataset": "toy", "preset": "smoke", "overrides": [], "data_root": str(tmp_path)}
    worker = load("side").Worker("shala", cache_dir=str(tmp_path), **place)
    worker.describe()
    whole, cut = (worker.evaluate("latents", limit=limit) for limit in (0, 1e-9))
    assert whole["scores"]
    assert not cut["scores"]
    assert cut["seconds"] > 0
