"""What a finished run trained alike is borrowed, and is what would have been trained."""

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


def borrowed(folder):
    return folder.trained["provenance"].get("borrowed", {}).get("stages", [])


def weights(folder):
    return torch.load(folder.weights, weights_only=True)


@pytest.mark.parametrize(
    ("changed", "stages"),
    [
        ("model.prior.guidance=3.0", ["inference", "prior"]),
        ("model.prior.sampler=ancestral", ["inference", "prior"]),
        ("model.prior.width=24", ["inference"]),
        ("model.prior.condition=view", ["inference"]),
        ("prior.kind=gmm", ["inference", "prior"]),
    ],
)
def test_a_loan_is_what_would_have_been_trained_bit_for_bit(tmp_path, changed, stages):
    lender = run(tmp_path / "store")
    found = run(tmp_path / "store", changed)
    assert borrowed(found) == stages
    assert found.trained["provenance"]["borrowed"]["lender"] == lender.path.name
    assert list(found.trained["last"])[:2] == ["inference", "prior"]
    alone = run(tmp_path / "alone", changed)
    assert borrowed(alone) == []
    ours, theirs = weights(found), weights(alone)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("model", "changed", "stages"),
    [
        ("mld", "model.prior.sampling_steps=3", ["autoencoders", "prior"]),
        ("sbm-ae", "model.prior.ratio=0.1", ["autoencoders", "prior"]),
        ("sbm-ae", "model.prior.standardise=true", ["autoencoders"]),
    ],
)
def test_methods_of_two_stages_borrow_their_autoencoders(tmp_path, model, changed, stages):
    run(tmp_path / "store", model=model)
    found = run(tmp_path / "store", changed, model=model)
    assert borrowed(found) == stages
    alone = weights(run(tmp_path / "alone", changed, model=model))
    assert all(torch.equal(x, alone[name]) for name, x in weights(found).items())


@pytest.mark.parametrize("changed", ["model.beta=0.5", "train.precision=bf16"])
def test_what_a_stage_reads_makes_it_train_anew(tmp_path, changed):
    run(tmp_path / "store", "train.precision=float32")
    assert borrowed(run(tmp_path / "store", changed)) == []


def test_another_seed_and_other_code_lend_nothing(tmp_path, monkeypatch):
    run(tmp_path / "store")
    other = run(tmp_path / "store", runs=plan(["shala"], "toy", "smoke", [1]))
    assert borrowed(other) == []
    code = {"commit": "c", "dirty": False, "source": "another", "nets": "another"}
    monkeypatch.setattr("shalabench.execute.campaign.describe_code", lambda entry: code)
    assert borrowed(run(tmp_path / "store", "model.prior.guidance=3.0")) == []


def test_a_borrower_lends_and_its_cost_counts_what_it_borrowed(tmp_path):
    lender = run(tmp_path / "store")
    first = run(tmp_path / "store", "model.prior.width=24")
    second = run(tmp_path / "store", "model.prior.width=24", "model.prior.guidance=3.0")
    assert second.trained["provenance"]["borrowed"]["lender"] == first.path.name
    assert borrowed(second) == ["inference", "prior"]
    costs = [f.trained["provenance"]["cpu_seconds"] for f in (lender, first, second)]
    assert min(costs[1:]) > 0.3 * costs[0]


@pytest.mark.parametrize("changed", ["prior.covariance=diag", "prior.components=3"])
def test_another_mixture_is_fitted_and_not_borrowed(tmp_path, changed):
    run(tmp_path / "store", "prior.kind=gmm")
    found = run(tmp_path / "store", "prior.kind=gmm", changed)
    assert borrowed(found) == ["inference", "prior"]
    alone = weights(run(tmp_path / "alone", "prior.kind=gmm", changed))
    assert all(torch.equal(x, alone[name]) for name, x in weights(found).items())


def test_of_another_mixture_of_a_method_trained_whole_the_training_is_borrowed(tmp_path):
    run(tmp_path / "store", "prior.kind=gmm", model="mvtcae")
    found = run(tmp_path / "store", "prior.kind=gmm", "prior.components=3", model="mvtcae")
    assert borrowed(found) == ["vae"]
    assert weights(found)["mixture_weights"].shape == (3,)


def test_another_machine_lends_nothing_and_neither_does_a_foreign_record(tmp_path):
    lender = run(tmp_path / "store")
    trained = json.loads((lender.path / "trained.json").read_text())
    told = trained | {"provenance": trained["provenance"] | {"packages": {"torch": "1.0"}}}
    (lender.path / "trained.json").write_text(json.dumps(told))
    assert borrowed(run(tmp_path / "store", "model.prior.guidance=3.0")) == []
    (lender.path / "trained.json").write_text("{}")
    assert run(tmp_path / "store", "model.beta=0.5").trained


def test_a_sampling_ablation_trains_once(tmp_path):
    last = run(
        tmp_path / "store", runs=plan_ablation(read_ablation("guidance"), "toy", "smoke", [0])
    )
    own = [f for f in Store(tmp_path / "store").runs() if not borrowed(f)]
    assert len(own) == 1
    assert borrowed(last) == ["inference", "prior"]


def test_a_damaged_record_lends_nothing_and_stops_nothing(tmp_path):
    lender = run(tmp_path / "store")
    (lender.path / "trained.json").write_text("{")
    assert borrowed(run(tmp_path / "store", "model.prior.guidance=3.0")) == []
