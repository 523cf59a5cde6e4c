"""Training tuples of which views are hidden, and a fitted mixture in place of a prior."""

from __future__ import annotations

import pytest
import torch
from helpers.toys import build, toy_data

from shalabench.api import Rng
from shalabench.api.registry import entries, find
from shalabench.config.settings import PriorSettings, resolve
from shalabench.execute.incomplete import hide_views, incomplete_spec, lacks_views
from shalabench.execute.mixture import with_mixture


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_data(tmp_path_factory.mktemp("toy"))


def test_views_are_hidden_at_the_asked_rate_and_every_tuple_keeps_one(toy):
    spec = incomplete_spec(toy.spec, 0.6)
    split = hide_views(toy.split("train"), spec)
    assert split.present.any(1).all()
    alone = 0.6**3 / 3  # the chance that a view is the one that is kept of a tuple with none
    assert abs(split.present.float().mean() - (0.4 + alone)) < 0.06
    for m, name in enumerate(spec.names):
        absent = ~split.present[:, m]
        assert not split.tensors[name][absent].any()
        assert torch.equal(split.tensors[name][~absent], toy.split("train").tensors[name][~absent])


def test_hidden_views_are_the_same_each_time_and_make_another_dataset(toy):
    spec = incomplete_spec(toy.spec, 0.3)
    one, other = (hide_views(toy.split("train"), spec).present for _ in range(2))
    assert torch.equal(one, other)
    assert (
        len({toy.spec.fingerprint, spec.fingerprint, incomplete_spec(toy.spec, 0.2).fingerprint})
        == 3
    )
    assert incomplete_spec(toy.spec, 0.0) == toy.spec


@pytest.mark.parametrize("name", sorted(entries("model")))
def test_a_method_trains_on_incomplete_tuples_or_says_why_not(name, toy):
    spec = incomplete_spec(toy.spec, 0.5)
    cls = find("model", name).cls
    reason = lacks_views(cls, spec)
    if not cls.incomplete:
        assert "complete tuples" in reason
        return
    assert reason is None
    data = hide_views(toy.split("train"), spec)
    model = build(name, toy)
    for stage in model.stages():
        stage.begin(data)
        model.train()
        for step in range(2):
            terms = stage.update(data.batch(torch.arange(16) + 16 * step), Rng(step))
            assert all(torch.isfinite(value) for value in terms.values()), terms
        model.eval()
        stage.finish(data)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_fitted_mixture_takes_the_place_of_the_prior(toy):
    """Encodings with two far clusters come out of the mixture as two clusters of their sizes."""
    entry = find("model", "mmvm").cls  # it has no prior of its own, so no joint samples

    class Clustered(entry):
        def encode(self, given, rng):
            first = next(iter(given.values())).flatten(1).float()
            which = (first.mean(1) > first.mean(1).median()).float()[:, None]
            noise = rng.normal(len(first), self.config.latent_dim)
            return noise * 0.1 + 10 * which

    settings = PriorSettings(kind="gmm", components=2)
    config = resolve("mmvm", "toy", "smoke", ()).model
    model = with_mixture(Clustered, settings)(toy.spec, config)
    *_, fit = model.stages()
    fit.finish(toy.split("train"))
    z = model.prior(2000, Rng(1))
    near = z.mean(1) > 5
    assert abs(near.float().mean() - 0.5) < 0.05
    torch.testing.assert_close(z[near].mean(0), torch.full(z.shape[1:], 10.0), rtol=0, atol=0.05)
    torch.testing.assert_close(z[near].std(0), torch.full(z.shape[1:], 0.1), rtol=0.25, atol=0)
    assert set(model.sample(3, Rng(1))) == set(toy.spec.names)
    again = with_mixture(Clustered, settings)(toy.spec, config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.prior(5, Rng(2)), model.prior(5, Rng(2)))


def test_a_mixture_needs_complete_tuples(toy):
    cls = with_mixture(find("model", "mopoe").cls, PriorSettings(kind="gmm"))
    assert cls.skip(toy.spec, None) is None
    assert "complete" in cls.skip(incomplete_spec(toy.spec, 0.1), None)
