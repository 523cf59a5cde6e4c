"""A captured update draws, descends and averages as an ordinary one does."""

from __future__ import annotations

from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from helpers.recorder import record
from helpers.toys import build

from shalabench.api import GradientStage, Optimiser, Rng, Stage, derive_seed
from shalabench.api.registry import find
from shalabench.config.settings import resolve
from shalabench.execute import graphs
from shalabench.execute.graphs import GraphedUpdates, GraphError, capturable, capture_on_gpu

UPDATES, BATCH = 4, 8


@pytest.fixture(autouse=True)
def little_warm_up(monkeypatch):
    monkeypatch.setattr(graphs, "_WARM", 1)


def numbers(stage, data, step):
    torch.manual_seed(derive_seed(stage.name, step))
    index = (torch.arange(BATCH, device=data.device) + 5 * step) % len(data)
    return index, derive_seed(stage.name, "rng", step)


def train(model, data, *, graphed=False, tensors=False, capture=record):
    """Updates of every stage; the terms of each, and the weights at the end."""
    logged = []
    for stage in model.stages():
        stage.begin(data)
        model.train()
        captured = GraphedUpdates(stage, data, BATCH, nullcontext, capture) if graphed else None
        if tensors:
            stage.use_graphs(data.device)
        for step in range(UPDATES):
            index, seed = numbers(stage, data, step)
            if captured:
                terms = captured.update(index, seed)
            else:
                terms = stage.update(data.batch(index), Rng(seed, device=data.device))
            logged.append({name: value.clone() for name, value in terms.items()})
        if captured:
            assert any(phase.replay for phase in captured._phases.values())
        model.eval()
        stage.finish(data)
    return logged, dict(model.state_dict())


def test_replays_are_bit_equal_to_ordinary_updates(name, toy):
    data = toy.split("train")
    plain, _ = train(build(name, toy), data)
    eager, weights = train(build(name, toy), data, tensors=True)
    replayed, found = train(build(name, toy), data, graphed=True)
    torch.testing.assert_close(replayed, eager, rtol=0, atol=0)
    torch.testing.assert_close(found, weights, rtol=0, atol=0)
    # The rate and the number of the update are rounded to float32 in tensors.
    torch.testing.assert_close(eager, plain, rtol=1e-4, atol=1e-5)


def reads_the_step(x, step):
    return x if step > 1 else 2 * x


def reads_a_value(x, step):
    return x if x.sum() > 0 else 2 * x


def masks(x, step):
    return x[x > 0]


@pytest.mark.parametrize("bad", [reads_the_step, reads_a_value, masks])
def test_a_loss_that_waits_for_the_device_is_told(bad, toys):
    data, layer = toys[0].split("train"), torch.nn.Linear(3, 3)

    def loss(batch, rng, step):
        return bad(layer(rng.normal(len(batch), 3)), step).square().mean(), {}

    stage = GradientStage("bad", loss, layer, Optimiser(), steps=9, batch_size=BATCH)
    captured = GraphedUpdates(stage, data, BATCH, nullcontext, record)
    captured.update(*numbers(stage, data, 0))
    with pytest.raises(GraphError, match=r"'bad' failed: The host waits .*train\.graphs=false"):
        captured.update(*numbers(stage, data, 1))


def test_a_stage_that_no_graph_holds_is_told_with_the_reason(toys):
    spec = toys[0].spec
    config = resolve("shala", "toy", "smoke", ("model.prior.condition=view",)).model
    with pytest.raises(GraphError, match=r"stage 'prior': prior\.condition=view"):
        capturable(find("model", "shala").cls(spec, config).stages())


def test_a_stage_of_its_own_kind_is_not_captured():
    stage = mock.create_autospec(Stage, instance=True)
    stage.name = "own"
    with pytest.raises(GraphError, match="stage 'own'"):
        capturable([stage])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures on a GPU")
def test_graphs_on_a_gpu_train_as_ordinary_updates(name, toy):
    """Losses agree; rounding differs where kernels add in any order."""
    data = toy.split("train").to("cuda")
    eager, _ = train(build(name, toy).cuda(), data, tensors=True)
    replayed, _ = train(build(name, toy).cuda(), data, graphed=True, capture=capture_on_gpu)
    torch.testing.assert_close(replayed, eager, rtol=1e-3, atol=1e-4)
