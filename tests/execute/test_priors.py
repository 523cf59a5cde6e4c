"""Priors that are fitted to a trained method's encodings."""

from __future__ import annotations

import pytest
import torch
from helpers.toys import toy_data

from shalabench.api import ABILITIES, Joint, Latent, Rng, Trace, Transfer, Translate, has_ability
from shalabench.api.registry import find
from shalabench.config.settings import resolve
from shalabench.config.training import PriorSettings
from shalabench.execute.incomplete import Incomplete
from shalabench.execute.priors import identity_of, with_prior


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_data(tmp_path_factory.mktemp("toy"))


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
    model = with_prior(Clustered, settings)(toy.spec, config)
    *_, fit = model.stages()
    fit.finish(toy.split("train"))
    z = model.prior(2000, Rng(1))
    near = z.mean(1) > 5
    assert abs(near.float().mean() - 0.5) < 0.05
    torch.testing.assert_close(z[near].mean(0), torch.full(z.shape[1:], 10.0), rtol=0, atol=0.05)
    torch.testing.assert_close(z[near].std(0), torch.full(z.shape[1:], 0.1), rtol=0.25, atol=0)
    assert set(model.sample(3, Rng(1))) == set(toy.spec.names)
    again = with_prior(Clustered, settings)(toy.spec, config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.prior(5, Rng(2)), model.prior(5, Rng(2)))


def test_a_mixture_needs_complete_tuples(toy):
    cls = with_prior(find("model", "mopoe").cls, PriorSettings(kind="gmm"))
    assert cls.skip(toy.spec, None) is None
    assert "complete" in cls.skip(Incomplete(toy, 0.1).spec, None)


def test_a_method_keeps_its_abilities_but_for_those_of_its_own_prior(toy):
    cls = find("model", "shala").cls
    method = with_prior(cls, PriorSettings(kind="gmm"))
    model = method(toy.spec, resolve("shala", "toy", "smoke", ()).model)
    for thing in (method, model):
        able = {name for name, ability in ABILITIES.items() if has_ability(thing, ability)}
        assert able == {n for n, a in ABILITIES.items() if has_ability(cls, a)} - {"trace"}
    assert all(isinstance(model, ability) for ability in (Joint, Latent, Transfer, Translate))
    assert not isinstance(model, Trace)
    facts = ("max_given", "name", "version", "reduced", "supervision", "incomplete")
    assert all(getattr(model, fact) == getattr(cls, fact) for fact in facts)
    assert with_prior(cls, PriorSettings()) is cls


def test_only_the_settings_of_a_fitted_prior_are_part_of_an_identity():
    assert identity_of(PriorSettings(components=3)) == {}
    fitted = identity_of(PriorSettings(kind="gmm"))
    assert fitted == {"kind": "gmm", "components": 10, "covariance": "full", "tuples": 20_000}


def test_weights_of_a_method_keep_their_names_beside_a_fitted_prior(toy):
    config = resolve("mopoe", "toy", "smoke", ()).model
    cls = find("model", "mopoe").cls
    own, fitted = (
        cls(toy.spec, config),
        with_prior(cls, PriorSettings(kind="gmm"))(toy.spec, config),
    )
    added = fitted.state_dict().keys() - own.state_dict().keys()
    assert added == {"mixture_weights", "mixture_means", "mixture_factors"}
    assert fitted.state_dict().keys() >= own.state_dict().keys()
    with pytest.raises(RuntimeError):
        fitted.load_state_dict(own.state_dict())
