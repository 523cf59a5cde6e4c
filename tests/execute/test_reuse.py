"""Weight reuse: stages that a source run trained alike are the ones that would be trained."""

from __future__ import annotations

import json

import pytest
import torch

from shalabench.api import DataPaths
from shalabench.config.ablations import read_ablation
from shalabench.config.plan import plan, plan_ablation
from shalabench.execute.campaign import Options, run_campaign
from shalabench.execute.progress import Reporter
from shalabench.records.store import Store


def run(store, *overrides, model="shala", runs=None):
    """Train without evaluation of more than sample grids; the run's folder."""
    runs = runs or plan([model], "toy", "smoke", [0], overrides)
    paths = DataPaths(store.parent, store.parent / "cache")
    options = Options(store=store, paths=paths, evaluators=("samples",), device="cpu", threads=1)
    with Reporter() as reporter:
        outcomes = run_campaign(runs, options, reporter).outcomes.values()
    assert {o.status for o in outcomes} == {"done"}, outcomes
    return [next(f for f in Store(store).runs() if f.path == o.folder) for o in outcomes][-1]


def reused(folder):
    return folder.trained["provenance"].get("reused", {}).get("stages", [])


def weights(folder):
    return torch.load(folder.weights, weights_only=True)


@pytest.mark.parametrize(
    ("changed", "stages"),
    [
        ("model.prior.guidance=3.0", ["inference", "prior"]),
        ("model.prior.sampler=ddim", ["inference", "prior"]),
        ("model.prior.spacing=log-snr", ["inference", "prior"]),
        ("model.prior.width=24", ["inference"]),
        ("model.prior.condition=view", ["inference"]),
        ("prior.kind=gmm", ["inference", "prior"]),
    ],
)
def test_reused_weights_are_what_would_have_been_trained_bit_for_bit(tmp_path, changed, stages):
    source = run(tmp_path / "store")
    found = run(tmp_path / "store", changed)
    assert reused(found) == stages
    assert found.trained["provenance"]["reused"]["run"] == source.path.name
    assert list(found.trained["last"])[:2] == ["inference", "prior"]
    alone = run(tmp_path / "alone", changed)
    assert reused(alone) == []
    ours, theirs = weights(found), weights(alone)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("model", "changed", "stages"),
    [
        ("mld", "model.prior.sampling_steps=3", ["autoencoders", "prior"]),
        ("mld", "model.prior.spacing=log-snr", ["autoencoders", "prior"]),
        ("sbm-ae", "model.prior.ratio=0.1", ["autoencoders", "prior"]),
        ("sbm-ae", "model.prior.standardise=true", ["autoencoders"]),
    ],
)
def test_methods_of_two_stages_reuse_their_autoencoders(tmp_path, model, changed, stages):
    run(tmp_path / "store", model=model)
    found = run(tmp_path / "store", changed, model=model)
    assert reused(found) == stages
    alone = weights(run(tmp_path / "alone", changed, model=model))
    assert all(torch.equal(x, alone[name]) for name, x in weights(found).items())


@pytest.mark.parametrize("changed", ["model.beta=0.5", "train.precision=bf16"])
def test_what_a_stage_reads_makes_it_train_anew(tmp_path, changed):
    run(tmp_path / "store", "train.precision=float32")
    assert reused(run(tmp_path / "store", changed)) == []


def test_another_seed_and_other_code_are_no_source(tmp_path, monkeypatch):
    run(tmp_path / "store")
    other = run(tmp_path / "store", runs=plan(["shala"], "toy", "smoke", [1]))
    assert reused(other) == []
    code = {"commit": "c", "dirty": False, "source": "another", "nets": "another"}
    monkeypatch.setattr("shalabench.execute.runner.describe_code", lambda entry: code)
    assert reused(run(tmp_path / "store", "model.prior.guidance=3.0")) == []


def test_a_run_with_reused_weights_is_a_source_and_its_cost_counts_them(tmp_path):
    source = run(tmp_path / "store")
    first = run(tmp_path / "store", "model.prior.width=24")
    second = run(tmp_path / "store", "model.prior.width=24", "model.prior.guidance=3.0")
    assert second.trained["provenance"]["reused"]["run"] == first.path.name
    assert reused(second) == ["inference", "prior"]
    costs = [f.trained["provenance"]["cpu_seconds"] for f in (source, first, second)]
    assert min(costs[1:]) > 0.3 * costs[0]


@pytest.mark.parametrize("changed", ["prior.covariance=diag", "prior.components=3"])
def test_another_mixture_is_fitted_and_not_reused(tmp_path, changed):
    run(tmp_path / "store", "prior.kind=gmm")
    found = run(tmp_path / "store", "prior.kind=gmm", changed)
    assert reused(found) == ["inference", "prior"]
    alone = weights(run(tmp_path / "alone", "prior.kind=gmm", changed))
    assert all(torch.equal(x, alone[name]) for name, x in weights(found).items())


def test_a_mixture_of_other_code_is_fitted_anew(tmp_path, monkeypatch):
    run(tmp_path / "store", "prior.kind=gmm")
    dial = "sampling.joint_temperature=0.7"
    assert reused(run(tmp_path / "store", "prior.kind=gmm", dial)) == [
        "inference",
        "prior",
        "mixture",
    ]
    other = {"priors": "another"}
    monkeypatch.setattr("shalabench.execute.runner.describe_priors", lambda: dict(other))
    found = run(tmp_path / "store", "prior.kind=gmm", "sampling.joint_temperature=0.8")
    assert reused(found) == ["inference", "prior"]


def test_of_another_mixture_of_a_method_trained_whole_the_training_is_reused(tmp_path):
    run(tmp_path / "store", "prior.kind=gmm", model="mvtcae")
    found = run(tmp_path / "store", "prior.kind=gmm", "prior.components=3", model="mvtcae")
    assert reused(found) == ["vae"]
    assert weights(found)["mixture_weights"].shape == (3,)


def test_a_run_of_another_machine_and_a_foreign_record_are_no_source(tmp_path):
    source = run(tmp_path / "store")
    trained = json.loads((source.path / "trained.json").read_text())
    changed = trained | {"provenance": trained["provenance"] | {"packages": {"torch": "1.0"}}}
    (source.path / "trained.json").write_text(json.dumps(changed))
    assert reused(run(tmp_path / "store", "model.prior.guidance=3.0")) == []
    (source.path / "trained.json").write_text("{}")
    assert run(tmp_path / "store", "model.beta=0.5").trained


def test_a_sampling_ablation_trains_once(tmp_path):
    last = run(
        tmp_path / "store", runs=plan_ablation(read_ablation("guidance"), "toy", "smoke", [0])
    )
    own = [f for f in Store(tmp_path / "store").runs() if not reused(f)]
    assert len(own) == 1
    assert reused(last) == ["inference", "prior"]


def test_a_damaged_record_is_no_source_and_stops_nothing(tmp_path):
    source = run(tmp_path / "store")
    (source.path / "trained.json").write_text("{")
    assert reused(run(tmp_path / "store", "model.prior.guidance=3.0")) == []


def test_damaged_weights_are_not_reused(tmp_path):
    source = run(tmp_path / "store")
    others = {name: x + 1 if x.is_floating_point() else x for name, x in weights(source).items()}
    torch.save(others, source.weights)  # other values of the same shapes
    assert reused(run(tmp_path / "store", "model.prior.guidance=3.0")) == []
