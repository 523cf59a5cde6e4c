"""The setting `experts`: k experts a tuple give an unbiased estimate, at a cost linear in M."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from helpers.objectives import FakeBatch
from torch.distributions import Normal
from torch.utils.flop_counter import FlopCounterMode

from baselines.cmvae import CMVAE
from baselines.idmvae import IDMVAE
from baselines.mmvae import MMVAE
from baselines.mmvae_plus import MMVAEPlus
from baselines.mvebm import MVEBM
from shalabench.api import ConfigErrors, Modality, Rng
from shalabench.config.settings import resolve
from shalabench.nets.experts import choose_experts

NAMES = ("a", "b", "c")
SIZE = 2  # of every latent
# Items with all, two, one and two modalities.
MASK = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 1, 1]], dtype=torch.bool)
MASKS = pytest.mark.parametrize("present", [None, MASK], ids=["complete", "incomplete"])
METHODS = pytest.mark.parametrize("method", [MMVAE, MMVAEPlus, CMVAE, MVEBM])
CASES = [
    (method, {"estimator": estimator, "importance_samples": 3})
    for method in (MMVAE, MMVAEPlus, CMVAE)
    for estimator in (("iwae", "stl", "dreg") if method is MMVAE else ("iwae", "dreg"))
] + [(MVEBM, {}), (IDMVAE, {"contrast": 0.0, "reencoding": 0.0, "diffusion": 0.0})]


class Fixed:
    """Random numbers of which every expert gets the same, with a given order of preference.

    Args:
        samples: K.
        order: Of the experts; the first k that are present are chosen.
    """

    def __init__(self, samples, order=(0, 1, 2)):
        self.samples, self.keys, self.calls = samples, [-float(order.index(m)) for m in range(3)], 0

    def fork(self, *_):
        return self

    def uniform(self, batch, modalities):
        return (1 + torch.tensor(self.keys)[:modalities] / 10).expand(batch, -1)

    def normal(self, batch, size):
        unit = self.samples * SIZE
        self.calls += 1
        return Rng(self.calls).normal(batch, unit).double().repeat(1, size // unit)

    laplace = normal


def build(method, spec, network, **settings):
    sizes = {"latent_dim": SIZE} if method is MMVAE else {"shared_dim": SIZE, "private_dim": SIZE}
    torch.manual_seed(0)
    model = method(spec, method.Config(network=network, **sizes, **settings))
    if method is MVEBM:
        torch.nn.init.normal_(model.energy.leave.weight)
    return model


def objective(model, views, present, rng):
    """What an update descends; of MVEBM both objectives together."""
    if isinstance(model, MVEBM):
        bound, _, z, counted = model.evidence(views, present, rng)
        return -bound - model.contrast(z, counted, Rng(8))[0]
    loss = model.loss if isinstance(model, MMVAE) else model._loss
    return loss(FakeBatch(views, present), rng, 0)[0]


def gradients(value, model):
    return torch.autograd.grad(value, list(model.parameters()), materialize_grads=True)


@pytest.mark.float64
@MASKS
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize(("method", "settings"), CASES)
def test_the_mean_over_all_choices_is_the_full_objective(
    spec, network, views, method, settings, k, present
):
    """In value and gradient, also where tuples miss modalities or have fewer than k."""
    samples = settings.get("importance_samples", 1)
    full = build(method, spec, network, **settings)
    expected = objective(full, views, present, Fixed(samples))
    some = build(method, spec, network, experts=k, **settings)
    found = [objective(some, views, present, Fixed(samples, o)) for o in permutations(range(3))]
    mean = torch.stack(found).mean()
    torch.testing.assert_close(mean, expected, rtol=1e-6, atol=0)
    pairs = zip(gradients(mean, some), gradients(expected, full), strict=True)
    for ours, due in pairs:
        torch.testing.assert_close(ours, due, rtol=1e-6, atol=1e-8)
    assert torch.stack(found).std() > 1e-3


def choose(k, present=None, batch=1, seed=0, first=0):
    q = Normal(torch.zeros(3, batch, SIZE), torch.ones(3, batch, SIZE))
    return choose_experts(k, q, Rng(seed, first=first), present)


def test_experts_are_drawn_evenly_without_replacement():
    chosen = choose(2, batch=30_000).which.T.sort(1).values.tolist()
    counts = Counter(map(tuple, chosen))
    assert set(counts) == {(0, 1), (0, 2), (1, 2)}
    assert all(abs(n / 30_000 - 1 / 3) < 0.012 for n in counts.values())


def test_experts_of_incomplete_tuples_are_drawn_among_the_present_ones():
    present = MASK.repeat(2_000, 1)
    one = choose(1, present, len(present))
    assert one.present.all()
    assert present.gather(1, one.which.T).all()
    firsts = one.which[0, 1::4].bincount(minlength=3) / 2_000
    torch.testing.assert_close(firsts, torch.tensor([0.5, 0.0, 0.5]), atol=0.05, rtol=0)
    two = choose(2, present, len(present))
    assert two.present.sum(1).tolist() == [2, 2, 1, 2] * 2_000
    assert torch.equal(two.present, present.gather(1, two.which.T))


@torch.no_grad()
@MASKS
@METHODS
def test_the_estimate_does_not_depend_on_the_batch(spec, network, views, method, present):
    """Item i of the random numbers belongs to tuple i, so a batch is the mean of its tuples."""
    model = build(method, spec, network, experts=2)

    def part(i, j):
        there = None if present is None else present[i:j]
        cut = {n: x[i:j] for n, x in views.items()}
        rng = Rng(7, first=i)
        if method is MVEBM:
            return model.evidence(cut, there, rng)[0]
        return objective(model, cut, there, rng)

    whole, parts = part(0, 4), torch.stack([part(i, i + 1) for i in range(4)])
    torch.testing.assert_close(whole, parts.mean(), rtol=1e-5, atol=0)


@MASKS
@METHODS
def test_terms_are_finite_and_each_update_moves_every_part(spec, network, views, method, present):
    model = build(method, spec, network, experts=1)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    stage = model.stages()[0]
    for step in range(8):
        terms = stage.update(FakeBatch(views, present), Rng(step))
        assert all(x.isfinite() for x in terms.values())
    assert {f"nll_{n}" for n in NAMES} < set(terms)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n, p in model.named_parameters() if p.requires_grad}


def work(method, spec, network, modalities, **settings):
    """FLOPs of a loss, for MVEBM of its evidence, on so many images of one shape."""
    names = [f"v{i}" for i in range(modalities)]
    spec = replace(spec, modalities=tuple(Modality(n, "image", (3, 8, 8)) for n in names))
    model = build(method, spec, network, **settings)
    views = {n: torch.rand(4, 3, 8, 8) for n in names}
    with FlopCounterMode(display=False) as counter:
        if method is MVEBM:
            model.evidence(views, None, Rng(0))
        else:
            objective(model, views, None, Rng(0))
    return counter.get_total_flops()


@METHODS
def test_the_work_of_one_expert_is_linear_in_the_modalities(spec, network, method):
    def ratio(**settings):
        few, many = (work(method, spec, network, m, **settings) for m in (2, 10))
        return many / few

    assert ratio(experts=1) < 5.1
    assert ratio() > 7


@METHODS
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "true", "two", "'1'"])
def test_what_is_no_number_of_experts_is_refused_in_one_sentence(method, value):
    name = {MMVAE: "mmvae", MMVAEPlus: "mmvae+", CMVAE: "cmvae", MVEBM: "mvebm"}[method]
    with pytest.raises(ConfigErrors) as caught:
        resolve(name, "toy", "smoke", [f"model.experts={value}"])
    (message,) = caught.value.messages
    assert message.startswith("model.experts is ")
    assert "'all'" in message
    assert resolve(name, "toy", "smoke", ["model.experts=2"]).model.experts == 2
    assert resolve(name, "toy", "smoke", ["model.experts=all"]).model.experts == "all"
    assert resolve(name, "toy", "smoke", []).model.experts == "all"


@METHODS
def test_more_experts_than_modalities_are_refused(spec, method):
    assert method.skip(spec, method.Config(experts=3)) is None
    reason = method.skip(spec, method.Config(experts=4))
    assert "4" in reason
    assert "1 to 3" in reason


def test_the_tight_bound_takes_all_experts(spec):
    config = MMVAE.Config(experts=1, bound="tight")
    assert "model.experts" in MMVAE.skip(spec, config)
    assert MMVAE.skip(spec, config.model_copy(update={"experts": "all"})) is None
