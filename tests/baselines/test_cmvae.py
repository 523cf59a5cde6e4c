"""CMVAE's objective, pruning and diffusion decoders against loops written from the formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import mean

import pytest
import torch
from helpers.objectives import FakeBatch, assert_close, assert_float32_under_autocast, batch_of
from torch.distributions import Laplace, Normal

from baselines.cmvae import CMVAE
from baselines.mmvae_plus import MMVAEPlus
from shalabench.api import Rng
from shalabench.nets.clusters import ClusterPrior
from shalabench.nets.likelihoods import log_likelihood
from shalabench.nets.posteriors import softmax_scale
from shalabench.nets.private import PrivateLatents
from shalabench.nets.refiner import RefinerConfig
from shalabench.nets.unet import UNet

pytestmark = pytest.mark.float64

NAMES = ("a", "b", "c")
CLUSTERS = 5
PRESENT = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 1]]).bool()
SMALL = RefinerConfig(width=8, blocks=1, timesteps=20, sampling_steps=4)


def build(spec, network, method=CMVAE, **settings):
    settings |= {"clusters": CLUSTERS} if method is CMVAE else {}
    config = method.Config(network=network, shared_dim=3, private_dim=2, **settings)
    model = method(spec, config)
    torch.nn.init.normal_(model.auxiliary, std=0.5)
    if method is CMVAE:
        torch.nn.init.normal_(model.clusters.logits)
    return model


def prior_of(model, z, dist):
    """log p(z) of one latent; CMVAE's is sum_c q(c|z) (log pi_c + log p(z|c) - log q(c|z))."""
    if isinstance(model, MMVAEPlus):
        return dist(0.0, 1.0).log_prob(z).sum()
    pi = model.clusters.logits.softmax(0)
    means = model.clusters.means
    joint = [pi[c].log() + dist(means[c], 1.0).log_prob(z).sum() for c in range(CLUSTERS)]
    q = torch.stack(joint).softmax(0)
    return sum(q[c] * (joint[c] - q[c].log()) for c in range(CLUSTERS))


def weights_by_loop(model, spec, batch, samples, rng, detach=False, leaves=False):
    """log W of every present expert, sample and item, by loops over them and over targets.

    By (m, item): the K weights, their draws as functions of the encoders, and as the weights'
    arguments, which are the same unless `leaves` cuts them off.
    """
    views, laplace = batch.views, model.config.family == "laplace"
    present = torch.ones(4, 3).bool() if batch.present is None else batch.present
    dist, kind = (Laplace, rng.laplace) if laplace else (Normal, rng.normal)

    def take(dim):
        return kind(4, 3 * samples * dim).view(4, 3, samples, dim).permute(1, 2, 0, 3).double()

    noise_z, noise_w, noise_r = take(3), take(2), [take(2) for _ in NAMES]
    q_z = {n: model.shared[n](views[n]) for n in NAMES}
    q_w = {n: model.private[n](views[n]) for n in NAMES}
    frozen = [{n: (q.mean, q.scale) for n, q in part.items()} for part in (q_z, q_w)]
    if detach:
        frozen = [{n: (m.detach(), s.detach()) for n, (m, s) in p.items()} for p in frozen]
    found = {}
    for m, name in enumerate(NAMES):
        for i in range(4):
            if not present[i, m]:
                continue
            there = [n for n in range(3) if present[i, n]]
            values, made, used = [], [], []
            for k in range(samples):
                z = q_z[name].mean[i] + q_z[name].scale[i] * noise_z[m, k, i]
                w = q_w[name].mean[i] + q_w[name].scale[i] * noise_w[m, k, i]
                made.append((z, w))
                if leaves:
                    z, w = (x.detach().requires_grad_() for x in (z, w))
                used.append((z, w))
                value = 0.0
                for n in there:
                    target, raw = NAMES[n], model.auxiliary[n]
                    scale = softmax_scale(raw) if laplace else torch.exp(raw / 2)
                    private = w if n == m else scale * noise_r[n][m, k, i]
                    decoded = model.decoders[target](torch.cat([private, z])[None])
                    x = views[target][i : i + 1]
                    density = log_likelihood(spec[target], decoded, x)[0]
                    value = value + spec[target].weight * density
                experts = [dist(*(p[i] for p in frozen[0][NAMES[j]])) for j in there]
                mixture = sum(q.log_prob(z).sum().exp() for q in experts) / len(there)
                own = dist(*(p[i] for p in frozen[1][name])).log_prob(w).sum()
                rate = mixture.log() - prior_of(model, z, dist)
                rate = rate + own - dist(0.0, 1.0).log_prob(w).sum()
                values.append(value - model.config.beta * rate)
            found[m, i] = torch.stack(values), made, used
    return found


def item_mean(values):
    """Mean over each item's experts, then over the items, of values by (m, item)."""
    items = sorted({i for _, i in values})
    return sum(mean_of([v for (_, j), v in values.items() if j == i]) for i in items) / len(items)


def mean_of(values):
    return sum(values) / len(values)


def gradients(value, model, **options):
    weights = [p for p in model.parameters() if p.requires_grad]
    return torch.autograd.grad(value, weights, materialize_grads=True, **options)


CASES = [(CMVAE, None), (CMVAE, PRESENT), (MMVAEPlus, PRESENT)]


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("family", ["laplace", "normal"])
@pytest.mark.parametrize(("method", "present"), CASES)
def test_the_bound_equals_the_loop_in_value_and_gradient(
    spec, network, views, samples, family, method, present
):
    model = build(spec, network, method, importance_samples=samples, family=family)
    batch = batch_of(views, present)
    loop = weights_by_loop(model, spec, batch, samples, Rng(7))
    expected = -item_mean({k: v.logsumexp(0) - math.log(samples) for k, (v, _, _) in loop.items()})
    value, _ = model._loss(batch, Rng(7), 0)
    torch.testing.assert_close(value, expected)
    assert_close(gradients(value, model), gradients(expected, model))


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(("method", "present"), CASES)
def test_the_doubly_reparametrised_gradient_equals_the_loop(
    spec, network, views, samples, method, present
):
    """v^2 on the way through the draws, v on every other way; no hook here."""
    model = build(spec, network, method, importance_samples=samples, estimator="dreg")
    batch = batch_of(views, present)
    ours = gradients(model._loss(batch, Rng(7), 0)[0], model)
    loop = weights_by_loop(model, spec, batch, samples, Rng(7), detach=True, leaves=True)
    v = {key: log_w.detach().softmax(0) for key, (log_w, _, _) in loop.items()}
    direct = -item_mean({key: (v[key] * loop[key][0]).sum() for key in loop})
    direct = gradients(direct, model, retain_graph=True)
    made, onward = [], []
    for (m, i), (log_w, draws, leaves) in loop.items():
        experts = sum(1 for _, j in loop if j == i)
        for k in range(samples):
            slopes = torch.autograd.grad(log_w[k], leaves[k], retain_graph=True)
            factor = -(v[m, i][k] ** 2) / (4 * experts)
            made += draws[k]
            onward += [factor * slope for slope in slopes]
    through = gradients(made, model, grad_outputs=onward)
    assert_close(ours, [d + t for d, t in zip(direct, through, strict=True)])


@pytest.mark.parametrize("method", [CMVAE, MMVAEPlus])
def test_what_stands_for_an_absent_view_changes_nothing(spec, network, views, method):
    model, batch = build(spec, network, method), batch_of(views, PRESENT)
    value, terms = model._loss(batch, Rng(7), 0)
    gradient = gradients(value, model)
    batch.views = views
    again, terms_again = model._loss(batch, Rng(7), 0)
    assert_close([value, *terms.values()], [again, *terms_again.values()])
    assert_close(gradient, gradients(again, model))


@pytest.mark.parametrize("method", [CMVAE, MMVAEPlus])
def test_complete_tuples_give_the_same_marked_or_not(spec, network, views, method):
    model = build(spec, network, method, importance_samples=3)
    plain, terms = model._loss(FakeBatch(views), Rng(7), 0)
    marked, terms_marked = model._loss(FakeBatch(views, torch.ones(4, 3).bool()), Rng(7), 0)
    assert_close([plain, *terms.values()], [marked, *terms_marked.values()])


def test_the_objective_is_in_float32_under_autocast(spec, network, views):
    model = build(spec, network, importance_samples=3).float()
    x = {n: v.float() if v.is_floating_point() else v for n, v in views.items()}
    assert_float32_under_autocast(lambda: model._loss(FakeBatch(x), Rng(7), 0))


@pytest.mark.parametrize("laplace", [True, False])
def test_the_cluster_prior_equals_the_published_sum_over_its_posterior(laplace):
    clusters = ClusterPrior(4, 3, laplace)
    torch.nn.init.normal_(clusters.logits)
    clusters.kept[2] = False
    z, dist = torch.randn(2, 5, 3), Laplace if laplace else Normal
    pi = clusters.logits.exp() * torch.tensor([1, 1, 0, 1])
    pi = pi / pi.sum()
    density = clusters.log_prob(z)
    for m in range(2):
        for i in range(5):
            joint = torch.stack(
                [
                    pi[c] * dist(clusters.means[c], 1.0).log_prob(z[m, i]).exp().prod()
                    for c in range(4)
                ]
            )
            q = joint / joint.sum()
            published = sum(q[c] * (joint[c].log() - q[c].log()) for c in (0, 1, 3))
            torch.testing.assert_close(density[m, i], published)


def prune_by_loop(clusters, densities, beta, present):
    """The objective after every drop, and the clusters kept, with lists and no tensors."""
    pi, (modalities, items, count) = clusters.logits.softmax(0).tolist(), densities.shape
    kept, objective, sets = list(range(count)), [], []
    while kept:
        total = sum(pi[c] for c in kept)
        entropies, fits, mass = [], [], dict.fromkeys(kept, 0.0)
        for i in range(items):
            assigned, fit, entropy = [], [], []
            for m in [m for m in range(modalities) if present[i, m]]:
                joint = {c: pi[c] / total * math.exp(densities[m, i, c]) for c in kept}
                q = {c: value / sum(joint.values()) for c, value in joint.items()}
                assigned.append(q)
                entropy.append(-sum(p * math.log(p) for p in q.values() if p) / math.log(count))
                fit.append(math.log(sum(joint.values())) / clusters.means.shape[1])
            entropies.append(mean(entropy))
            fits.append(mean(fit))
            choices = [max(q, key=q.get) for q in assigned]
            winner = max(sorted(set(choices)), key=choices.count)
            mass[winner] += max(mean(q[c] for q in assigned) for c in kept)
        objective.append(beta * mean(entropies) - mean(fits))
        sets.append(list(kept))
        kept.remove(min(kept, key=mass.get))
    best = min(range(count - 1), key=objective.__getitem__)
    return objective, sets[best]


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("beta", [0.0, 2.5])
def test_pruning_equals_the_loop(beta, marked):
    clusters = ClusterPrior(6, 2, laplace=False)
    torch.nn.init.normal_(clusters.logits)
    present = torch.rand(40, 3) < 0.6
    present[:, 0] |= ~present.any(1)
    densities = clusters.component_log_prob(1.5 * torch.randn(3, 40, 2)).detach()
    objective = clusters.prune(densities, beta, present if marked else None)
    expected, kept = prune_by_loop(
        clusters, densities, beta, present if marked else torch.ones(40, 3).bool()
    )
    torch.testing.assert_close(objective, torch.tensor(expected))
    assert clusters.kept.nonzero().flatten().tolist() == kept


def test_pruning_finds_the_clusters_of_a_made_up_mixture():
    """Three clusters of data; every one has a spare component beside it, and one is far off."""
    centres = torch.tensor([[0.0, 9.0], [8.0, -5.0], [-8.0, -5.0]])
    clusters = ClusterPrior(7, 2, laplace=False)
    with torch.no_grad():
        clusters.means[:3], clusters.means[3:6] = centres, centres + 0.4
        clusters.means[6] = torch.tensor([60.0, 60.0])
        clusters.logits[3:] = -0.5
    z = centres.repeat_interleave(100, 0) + torch.randn(4, 300, 2)  # four modalities agree
    clusters.prune(clusters.component_log_prob(z), beta=2.5)
    assert clusters.kept.sum() == 3
    assert (clusters.kept[:3] | clusters.kept[3:6]).all()  # one at each place
    drawn = clusters.draw(3000, Rng(1))
    kept = clusters.means[clusters.kept]
    nearest = torch.cdist(drawn.double(), kept).argmin(1)
    assert torch.cdist(drawn.double(), kept).amin(1).max() < 6
    share = torch.bincount(nearest, minlength=3) / 3000
    pi = clusters.log_pi.exp()[clusters.kept]
    torch.testing.assert_close(share, pi, rtol=0, atol=0.03)


def test_one_cluster_alone_is_never_chosen():
    clusters = ClusterPrior(3, 2, laplace=True)
    clusters.prune(clusters.component_log_prob(torch.zeros(1, 50, 2)), beta=1e6)
    assert clusters.kept.sum() == 2
    lonely = ClusterPrior(1, 2, laplace=True)
    lonely.prune(lonely.component_log_prob(torch.zeros(1, 50, 2)), beta=1.0)
    assert lonely.kept.all()


def with_diffusion(spec, network, **settings):
    refiner = SMALL.model_copy(update=settings)
    model = build(spec, network, decoders="diffusion", diffusion=refiner)
    for net in model.refiners.networks.values():
        torch.nn.init.normal_(net.leave[-1].weight, std=0.1)  # it starts from zeros
    return model


@pytest.mark.parametrize("present", [None, PRESENT])
@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_the_diffusion_decoders_loss_equals_the_loop(spec, network, views, present, prediction):
    model, batch = with_diffusion(spec, network, prediction=prediction), batch_of(views, present)
    schedule, expected = model.refiners._schedule, 0.0
    for n, name in ((0, "a"), (1, "b")):
        rng, x = Rng(7).fork("coarse", name), batch.views[name]
        noise_z = rng.fork("shared").fork(name).laplace(4, 1, 3)[:, 0]
        noise_w = rng.fork("private", name).laplace(4, 1, 2)[:, 0]
        rng, errors = Rng(7).fork("diffusion").fork(name), []
        t, noise = 1 + rng.integers(20, 4), rng.normal(*x.shape).double()
        for i in range(4):
            if present is not None and not present[i, n]:
                continue
            q_z, q_w = model.shared[name](x[i : i + 1]), model.private[name](x[i : i + 1])
            z, w = q_z.mean + q_z.scale * noise_z[i], q_w.mean + q_w.scale * noise_w[i]
            coarse = model.decoders[name](torch.cat([w, z], -1)).detach()
            coarse = 2 * coarse.clip(0, 1) - 1
            signal, sigma = schedule.signal[t[i]].double(), schedule.sigma[t[i]].double()
            clean = 2 * x[i] - 1
            target = noise[i] if prediction == "noise" else signal * noise[i] - sigma * clean
            noisy = signal * clean + sigma * noise[i]
            made = model.refiners.networks[name](noisy[None], t[i : i + 1], coarse)[0]
            errors.append(((made - target) ** 2).mean())
        expected = expected + mean_of(errors)
    value, _ = model._diffusion_loss(batch, Rng(7), 0)
    torch.testing.assert_close(value, expected)
    assert_close(gradients(value, model), gradients(expected, model))


def test_the_autoencoder_is_frozen_while_diffusion_decoders_learn(spec, network, views):
    model = with_diffusion(spec, network)
    value, _ = model._diffusion_loss(FakeBatch(views), Rng(7), 0)
    value.backward()
    learned = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert learned == {"refiners"}
    assert [stage.name for stage in model.stages()] == ["vae", "diffusion"]


@torch.no_grad()
def test_a_decoder_that_repeats_its_condition_gives_the_clamped_coarse_image(spec, network):
    model = with_diffusion(spec, network, prediction="data")
    for name in model.refiners.networks:
        model.refiners.networks[name].forward = lambda x, t, condition: condition
    z = torch.randn(4, 3)
    coarse = PrivateLatents.decode_given(model, z, NAMES, {}, Rng(1))
    made = model.decode(z, Rng(1))
    torch.testing.assert_close(made["a"], coarse["a"].clamp(0, 1))
    assert torch.equal(made["c"], coarse["c"])  # texts keep the autoencoder's decoder


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["noise", "velocity", "data"])
def test_diffused_images_stay_in_range_whatever_the_network_says(spec, network, prediction):
    model = with_diffusion(spec, network, prediction=prediction)
    for net in model.refiners.networks.values():
        torch.nn.init.normal_(net.leave[-1].weight, std=10)
    made = model.sample(4, Rng(1))
    for name in ("a", "b"):
        assert 0 <= made[name].min() < made[name].max() <= 1


@torch.no_grad()
def test_diffusion_decoders_serve_every_ability_and_no_batch_size_matters(spec, network, views):
    model = with_diffusion(spec, network)

    def make(first, n):
        x, rng = {k: v[first : first + n] for k, v in views.items()}, Rng(5, first=first)
        z = model.prior(n, rng.fork("latent"))
        parts = {
            "sample": model.sample(n, rng),
            "decode": model.decode(z, rng),
            "translate": model.translate({"c": x["c"]}, ["a", "b"], rng),
            "reconstruct": model.reconstruct(x, rng),
        }
        return {(k, name): x for k, made in parts.items() for name, x in made.items()}

    whole, halves = make(0, 4), [make(0, 2), make(2, 2)]
    for key, x in whole.items():
        assert x.shape == (4, *spec[key[1]].shape)
        torch.testing.assert_close(x, torch.cat([half[key] for half in halves]))
    rebuilt = model.sample(4, Rng(5))
    torch.testing.assert_close(
        rebuilt["a"], model.decode(model.prior(4, Rng(5).fork("shared")), Rng(5))["a"]
    )


def test_diffusion_decoders_need_an_image(spec, network):
    texts = replace(spec, modalities=spec.modalities[2:])
    config = CMVAE.Config(network=network, decoders="diffusion", diffusion=SMALL)
    assert "none" in CMVAE.skip(texts, config)
    assert CMVAE.skip(spec, config) is None


@pytest.mark.parametrize("side", [5, 8, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_unet_keeps_the_shape_of_any_image(side, channels):
    torch.set_default_dtype(torch.float32)
    net = UNet(channels, channels, side, 8, blocks=1)
    torch.nn.init.normal_(net.leave[-1].weight)
    x, condition = torch.rand(2, 2, channels, side, side)
    t = torch.tensor([1, 9])
    plain = net(x, t, condition)
    assert plain.shape == x.shape
    assert not torch.allclose(plain, net(x, t + 5, condition))
    assert not torch.allclose(plain, net(x, t, condition + 0.5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net(x, t, condition)
    assert torch.isfinite(rough).all()
    assert (rough - plain).std() < 0.05 * plain.std()


def test_the_unet_starts_from_zero_and_every_weight_learns():
    net = UNet(3, 3, 28, 8)
    x = torch.randn(2, 3, 28, 28)
    assert not net(x, torch.tensor([1, 2]), x).any()
    torch.nn.init.normal_(net.leave[-1].weight)
    net(x, torch.tensor([1, 2]), x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
