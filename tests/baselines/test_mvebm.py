"""MVEBM's two objectives against loops written from the formulas of reproduction/mvebm.md."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.objectives import FakeBatch, batch_of
from torch.distributions import Laplace, Normal

from baselines.mvebm import MVEBM, EnergyStage
from shalabench.api import Optimiser, Rng
from shalabench.nets.likelihoods import log_likelihood
from shalabench.nets.posteriors import softmax_scale

pytestmark = pytest.mark.float64

NAMES = ("a", "b", "c")
# Items with all, two, one and two modalities.
MASK = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 1, 1]], dtype=torch.bool)


def build(spec, network, **settings):
    settings = {"shared_dim": 3, "private_dim": 2, "energy_width": 5} | settings
    model = MVEBM(spec, MVEBM.Config(network=network, **settings))
    torch.nn.init.normal_(model.auxiliary, std=0.5)
    torch.nn.init.normal_(model.energy.leave.weight)
    return model


def noise_of(model, rng):
    """The noise in the order of the model: z `[M, B, 3]`, w, then r_n a target."""
    kind = rng.laplace if model.config.family == "laplace" else rng.normal

    def take(dim):
        return kind(4, 3 * dim).view(4, 3, dim).transpose(0, 1).double()

    return take(3), take(2), [take(2) for _ in NAMES]


def energy_by_formula(model, z):
    first, _, second, _ = model.energy.layers
    h = torch.nn.functional.gelu(first.weight @ z + first.bias)
    h = torch.nn.functional.gelu(second.weight @ h + second.bias)
    f = (model.energy.leave.weight @ h + model.energy.leave.bias)[0]
    bound = model.config.energy_bound
    return bound * torch.tanh(f / bound) if bound else f


def evidence_by_loop(model, spec, views, present, rng):
    """The bound by loops over items, experts and targets, and each item's positives' f_a."""
    laplace = model.config.family == "laplace"
    dist = Laplace if laplace else Normal
    noise_z, noise_w, noise_r = noise_of(model, rng)
    q_z = {n: model.shared[n](views[n]) for n in NAMES}
    q_w = {n: model.private[n](views[n]) for n in NAMES}
    bounds, positives = [], []
    for i in range(4):
        here = [m for m in range(3) if present is None or present[i, m]]
        bound, positive = 0.0, 0.0
        for m in here:
            z = q_z[NAMES[m]].mean[i] + q_z[NAMES[m]].scale[i] * noise_z[m, i]
            w = q_w[NAMES[m]].mean[i] + q_w[NAMES[m]].scale[i] * noise_w[m, i]
            value = 0.0
            for n in here:
                target, raw = NAMES[n], model.auxiliary[n]
                scale = softmax_scale(raw) if laplace else torch.exp(raw / 2)
                private = w if n == m else scale * noise_r[n][m, i]
                decoded = model.decoders[target](torch.cat([private, z])[None])
                x = views[target][i : i + 1]
                value = value + spec[target].weight * log_likelihood(spec[target], decoded, x)[0]
            densities = [
                dist(q_z[NAMES[j]].mean[i], q_z[NAMES[j]].scale[i]).log_prob(z).sum() for j in here
            ]
            mixture = torch.stack(densities).logsumexp(0) - math.log(len(here))
            own = dist(q_w[NAMES[m]].mean[i], q_w[NAMES[m]].scale[i]).log_prob(w).sum()
            prior = dist(0.0, 1.0)
            f = energy_by_formula(model, z)
            value = value + model.config.beta * (
                f + prior.log_prob(z).sum() + prior.log_prob(w).sum() - mixture - own
            )
            bound, positive = bound + value / len(here), positive + f / len(here)
        bounds.append(bound)
        positives.append(positive)
    return torch.stack(bounds).mean(), torch.stack(positives).mean()


def assert_gradients(value, expected, parameters):
    options = {"materialize_grads": True, "retain_graph": True}
    ours = torch.autograd.grad(value, parameters, **options)
    loop = torch.autograd.grad(expected, parameters, **options)
    for own, other in zip(ours, loop, strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("family", ["laplace", "normal"])
@pytest.mark.parametrize("present", [None, MASK], ids=["complete", "incomplete"])
@pytest.mark.parametrize("bound", [0.0, 2.0])
def test_the_evidence_equals_the_loop_in_value_and_gradient(
    spec, network, views, family, present, bound
):
    model = build(spec, network, family=family, energy_bound=bound)
    views = batch_of(views, present).views
    value, *_ = model.evidence(views, present, Rng(7))
    expected, _ = evidence_by_loop(model, spec, views, present, Rng(7))
    torch.testing.assert_close(value, expected)
    assert_gradients(value, expected, list(model.parameters()))


@pytest.mark.parametrize("family", ["laplace", "normal"])
@pytest.mark.parametrize("present", [None, MASK], ids=["complete", "incomplete"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_contrast_equals_the_loop_in_value_and_gradient(
    spec, network, views, family, present, decay
):
    model = build(spec, network, family=family, langevin_steps=3, energy_decay=decay)
    views = batch_of(views, present).views
    _, _, z, _ = model.evidence(views, present, Rng(7))
    value, terms = model.contrast(z, present, Rng(8))
    _, positive = evidence_by_loop(model, spec, views, present, Rng(7))
    there = torch.ones(4, 3, dtype=torch.bool) if present is None else present
    squares = [
        torch.stack(
            [energy_by_formula(model, z[m, 0, i]) ** 2 for m in there[i].nonzero()[:, 0]]
        ).mean()
        for i in range(4)
    ]

    start, steps = Rng(8).fork("start"), Rng(8).fork("steps")
    chains = (start.laplace if family == "laplace" else start.normal)(4, 3).double()
    for _ in range(3):
        noise = steps.normal(4, 3)
        for i in range(4):
            point = chains[i].clone().requires_grad_()
            base = -point.abs().sum() if family == "laplace" else -(point**2).sum() / 2
            slope = torch.autograd.grad(energy_by_formula(model, point) + base, point)[0]
            chains[i] = chains[i] + 0.4**2 / 2 * slope + 0.4 * noise[i]
    at_chains = torch.stack([energy_by_formula(model, z) for z in chains])
    gap = positive - at_chains.mean()
    expected = gap - decay * (torch.stack(squares).mean() + (at_chains**2).mean())
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert_gradients(value, expected, list(model.energy.parameters()))
    torch.testing.assert_close(terms["energy_gap"], gap, rtol=1e-5, atol=1e-6)


def test_an_absent_view_does_not_count(spec, network, views):
    model = build(spec, network)
    other = {n: x.flip(-1) if x.is_floating_point() else 2 - x for n, x in views.items()}
    mixed = {
        n: torch.where(MASK[:, m].view(-1, *(1,) * (x.dim() - 1)), x, other[n])
        for m, (n, x) in enumerate(views.items())
    }
    value, *_ = model.evidence(views, MASK, Rng(7))
    torch.testing.assert_close(model.evidence(mixed, MASK, Rng(7))[0], value)


def test_each_update_moves_its_own_part_only(spec, network, views):
    """The generator's update sees f_a fixed, and f_a's sees the generator fixed."""
    model = build(spec, network, optimiser=Optimiser(lr=0.1), energy_optimiser=Optimiser(lr=0.1))
    stage = EnergyStage(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    bound, _, z, _ = model.evidence(views, None, Rng(7))
    stage.descend("networks", -bound)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert not any(n.startswith("energy.") for n in moved)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    stage.descend("energy", -model.contrast(z, None, Rng(8))[0])
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all(n.startswith("energy.") for n in moved)


def test_an_update_is_the_two_ascents_in_turn(spec, network, views):
    model, other = build(spec, network), build(spec, network)
    other.load_state_dict(model.state_dict())
    terms = EnergyStage(model).update(FakeBatch(views, MASK), Rng(3))
    stage = EnergyStage(other)
    bound, _, z, _ = other.evidence(views, MASK, Rng(3).fork("evidence"))
    stage.descend("networks", -bound)
    stage.descend("energy", -other.contrast(z, MASK, Rng(3).fork("contrast"))[0])
    torch.testing.assert_close(terms["loss"], -bound.detach())
    for name, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_the_energy_waits_for_its_share_of_the_updates(spec, network, views):
    model = MVEBM(spec, MVEBM.Config(network=network, steps=4, energy_wait=0.5)).double()
    stage, moved = EnergyStage(model), []
    for step in range(4):
        before = model.energy.leave.weight.clone()
        terms = stage.update(FakeBatch(views), Rng(step))
        moved.append(not torch.equal(before, model.energy.leave.weight))
        assert "energy_gap" in terms
    assert moved == [False, False, True, True]


def test_the_energy_learns_a_density(spec, network):
    """Positives of N(1, 0.5^2) under p_0 = N(0, 1): Langevin samples come to lie there."""
    config = MVEBM.Config(network=network, family="normal", shared_dim=1, energy_width=32)
    model = MVEBM(spec, config).float()
    optimiser = torch.optim.Adam(model.energy.parameters(), lr=3e-3)
    for step in range(150):
        z = 1 + 0.5 * Rng(step).normal(512, 1)
        gap, _ = model.contrast(z[None, None], None, Rng(step).fork("contrast"))
        optimiser.zero_grad()
        (-gap).backward(inputs=list(model.energy.parameters()))
        optimiser.step()
    with torch.inference_mode():  # as evaluations run
        drawn = model.prior(4000, Rng(1))
    assert abs(drawn.mean() - 1) < 0.1
    assert abs(drawn.std() - 0.5) < 0.1


def test_the_prior_is_the_base_before_the_energy_has_learned(spec, network):
    model = MVEBM(spec, MVEBM.Config(network=network, shared_dim=3, family="normal"))
    z = torch.randn(4, 3)
    base = Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(model.prior_log_density(z), base)


def test_energies_and_chains_keep_full_precision_under_autocast(spec, network, views):
    model = build(spec, network).float()
    x = {n: v.float() if v.is_floating_point() else v for n, v in views.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bound, terms, z, _ = model.evidence(x, MASK, Rng(7))
        gap, energies = model.contrast(z, MASK, Rng(8))
        inside = model.prior(5, Rng(1))
    outputs = [bound, gap, inside, *terms.values(), *energies.values()]
    assert {t.dtype for t in outputs} == {torch.float32}
    assert torch.equal(inside, model.prior(5, Rng(1)))
