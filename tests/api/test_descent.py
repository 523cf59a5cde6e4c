"""The moving average and the learning rates are torch's, without waiting for the device."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from shalabench.api import MovingAverage, Optimiser, Rng, rise
from shalabench.api.descent import Descent


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def test_averages_are_torch_s_bit_for_bit_also_after_a_resumption():
    module = network()
    ours, theirs = (
        MovingAverage(module, 0.9),
        AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    )
    for step in range(5):
        with torch.no_grad():
            for i, p in enumerate(module.parameters()):
                p.add_(Rng(step).fork(i).normal(*p.shape))
        ours.update()
        theirs.update_parameters(module)
        state, ours = copy.deepcopy(ours.state_dict()), MovingAverage(module, 0.9)
        ours.load_state_dict(state)
    ours.apply()
    for p, expected in zip(module.parameters(), theirs.module.parameters(), strict=True):
        assert torch.equal(p, expected)


@pytest.mark.parametrize("graphs", [False, True])
def test_rates_follow_the_schedule_and_states_go_from_one_kind_to_the_other(graphs):
    settings = Optimiser(lr=0.1, schedule="cosine", warmup=0.5)
    losses = []
    for switch in (False, True):
        module = torch.nn.Linear(3, 1)
        torch.nn.init.ones_(module.weight)
        descent = Descent(module.parameters(), settings)
        if graphs:
            descent.use_graphs()
        for step in range(6):
            descent.set_rate(step, 8)
            rate = float(descent.optimiser.param_groups[0]["lr"])
            assert rate == pytest.approx(settings.rate(step, 8), rel=1e-6)
            descent.descend(module.weight.square().sum() + module.bias.sum())
            if switch and step == 2:
                state = copy.deepcopy(descent.state_dict())
                descent = Descent(module.parameters(), settings)
                if not graphs:
                    descent.use_graphs()
                descent.load_state_dict(state)
        losses.append(module.weight.detach())
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize(("step", "length", "share"), [(0, 4, 0.25), (9, 4, 1.0), (3, 0, 1.0)])
def test_a_rise_is_the_same_of_a_number_and_of_a_tensor(step, length, share):
    assert rise(step, length) == share
    assert float(rise(torch.tensor(float(step)), length)) == share


def test_wsd_is_constant_after_the_warm_up_and_falls_as_one_minus_a_square_root():
    settings = Optimiser(lr=0.2, schedule="wsd", warmup=4, cooldown=0.25)
    rates = [settings.rate(step, 40) for step in range(40)]
    assert rates[:4] == pytest.approx([0.2 * k / 5 for k in (1, 2, 3, 4)])
    assert rates[4:31] == [0.2] * 27
    for step in range(30, 40):
        assert rates[step] == pytest.approx(0.2 * (1 - ((step - 30) / 10) ** 0.5))
    assert rates[39] < 0.06 * 0.2


@pytest.mark.parametrize("schedule", ["constant", "cosine", "wsd"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 3.0])
@pytest.mark.parametrize(("steps", "others"), [(40, 90), (90, 40), (7, 8), (30, 30), (1, 500)])
def test_as_many_updates_are_common_as_have_equal_rates(schedule, warmup, steps, others):
    settings = Optimiser(schedule=schedule, warmup=warmup)
    common = settings.common(steps, others)
    assert all(settings.rate(s, steps) == settings.rate(s, others) for s in range(common))
    if schedule != "cosine" and not 0 < warmup < 1:
        assert common >= 0.85 * min(steps, others)
