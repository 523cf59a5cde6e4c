"""The public interface: `import shalabench`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import shalabench
from shalabench.api import BenchError

ROOT = Path(__file__).parent.parent.parent


def test_importing_the_package_imports_neither_torch_nor_pandas():
    code = "import sys, shalabench; assert not {'torch', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_dataset_takes_its_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("SHALA_CACHE", str(tmp_path))
    data = shalabench.dataset("toy", train=100)
    assert data.spec.sizes["train"] == 100
    assert len(data.split("train")) == 100
    with pytest.raises(BenchError, match=r"'data\.train'"):
        shalabench.dataset("toy", trian=100)


def test_a_run_is_recorded_loaded_and_tabulated(tmp_path, monkeypatch):
    monkeypatch.setenv("SHALA_CACHE", str(tmp_path / "cache"))
    store = tmp_path / "store"
    arguments = {"preset": "smoke", "latent_dim": 4, "store": store}
    summary = shalabench.run("mvae", "toy", evaluators="samples", **arguments)
    (outcome,) = summary.outcomes.values()
    assert (summary.exit_code, outcome.status) == (0, "done")
    again = shalabench.run(["mvae"], "toy", evaluators=("samples",), **arguments)
    assert [o.status for o in again.outcomes.values()] == ["already"]

    model = shalabench.load_run(outcome.folder)
    assert not model.model.training
    assert model.spec.name == "toy"
    sampled = model.sample(3, seed=1)
    assert sampled["bar"].shape == (3, 3, 8, 8)
    assert torch.equal(sampled["bar"], model.sample(3, seed=1)["bar"])

    pytest.importorskip("shalabench.records.frame")
    assert json.loads((outcome.folder / "run.json").read_text())["overrides"] == [
        "model.latent_dim=4"
    ]
    scores = shalabench.results(store, metric="reconstruction")
    assert set(scores.method) == {"mvae"}
    assert scores.metric.str.startswith("reconstruction/").all()


@pytest.mark.parametrize("names", ["nobody", ["nobody"]])
def test_names_of_evaluators_and_trackers_are_no_letters(tmp_path, names):
    where = {"preset": "smoke", "store": tmp_path}
    for option in ("evaluators", "trackers"):
        with pytest.raises(BenchError, match="'nobody'"):
            shalabench.run("mvae", "toy", **{option: names}, **where)


def test_an_unknown_run_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("shalabench.records.locations.default_store", lambda: tmp_path)
    with pytest.raises(BenchError, match="shala-toy"):
        shalabench.load_run("shala-toy")


def test_arrays_are_scored_and_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("SHALA_CACHE", str(tmp_path / "cache"))
    real = shalabench.dataset("toy").split("test").tensors
    arrays = {name: x.numpy() for name, x in real.items()}
    scores = shalabench.evaluate(
        arrays,
        "toy",
        ["quality"],
        preset="external",
        settings={"evaluators.quality.extractors": "efficientnet-lite0"},
    )
    joint = scores[(scores.metric == "fid/efficientnet-lite0/joint") & scores.target.isna()]
    assert joint["value"].item() == pytest.approx(0, abs=1e-3)  # they are the real views
    assert set(scores.method) == {"samples (external)"}
    monkeypatch.setattr("shalabench.records.locations.default_store", lambda: tmp_path / "none")
    assert not (tmp_path / "none").exists()
