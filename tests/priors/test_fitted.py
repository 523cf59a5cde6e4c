"""Priors that are fitted to a trained method's latents."""

from __future__ import annotations

import pytest
import torch
from helpers.toys import toy_data
from pydantic import ValidationError

from shalabench.api import (
    ABILITIES,
    BenchError,
    Joint,
    Latent,
    Private,
    Rng,
    Trace,
    Transfer,
    Translate,
    has_ability,
)
from shalabench.api.registry import find
from shalabench.config.settings import resolve
from shalabench.config.training import PriorSettings
from shalabench.execute.incomplete import Incomplete
from shalabench.priors.fitted import Latents, identity_of, with_prior


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_data(tmp_path_factory.mktemp("toy"))


def cluster_of(views):
    """0 or 1 for each tuple, evenly."""
    first = next(iter(views.values())).flatten(1).float().mean(1)
    return (first > first.median()).float()[:, None]


def clustered(model):
    """A method whose encodings are two narrow clusters at 0 and 10."""

    class Clustered(find("model", model).cls):
        def encode(self, given, rng):
            which = cluster_of(given)
            return 0.1 * rng.normal(len(which), self.config.latent_dim) + 10 * which

    return Clustered


def fit(model, data):
    """Fit the prior, which is the last stage, as a training does."""
    *_, stage = model.stages()
    stage.validation = data.split("validation")
    train = data.split("train")
    stage.begin(train)
    for step in range(stage.steps):
        index = torch.randint(len(train), (stage.batch_size,), generator=torch.manual_seed(step))
        stage.update(train.batch(index), Rng(step))
    stage.finish(train)


@pytest.mark.parametrize(
    ("settings", "width", "share"),
    [
        ({"kind": "gmm", "components": 2}, 0.25, 0.05),
        (
            {
                "kind": "diffusion",
                "diffusion": {
                    "steps": 800,
                    "batch_size": 128,
                    "optimiser": {"lr": 2e-3, "schedule": "cosine"},
                    "width": 64,
                    "blocks": 2,
                    "ema": 0.98,
                },
            },
            1.0,
            0.1,
        ),
    ],
    ids=["gmm", "diffusion"],
)
def test_a_fitted_prior_takes_the_place_of_the_prior(toy, settings, width, share):
    """Encodings with two far clusters come out of the prior as two clusters of their sizes."""
    method, settings = clustered("mmvm"), PriorSettings.model_validate(settings)
    config = resolve("mmvm", "toy", "smoke", ()).model
    model = with_prior(method, settings)(toy.spec, config)
    fit(model, toy)
    z = model.prior(2000, Rng(1))
    near = z.mean(1) > 5
    assert abs(near.float().mean() - 0.5) < share
    for cluster, centre in ((z[near], 10.0), (z[~near], 0.0)):
        torch.testing.assert_close(
            cluster.median(0).values, torch.full(z.shape[1:], centre), rtol=0, atol=0.2
        )
        spread = (cluster.quantile(0.84, 0) - cluster.quantile(0.16, 0)) / 2
        torch.testing.assert_close(spread, torch.full(z.shape[1:], 0.1), rtol=width, atol=0)
    assert set(model.sample(3, Rng(1))) == set(toy.spec.names)
    again = with_prior(method, settings)(toy.spec, config)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.prior(5, Rng(2)), model.prior(5, Rng(2)), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["gmm", "diffusion"])
def test_a_fitted_prior_joins_shared_and_private_latents(toy, kind):
    """Private latents that follow the shared one do so in joint samples too."""

    class Bound(find("model", "mmvae+").cls):
        def encode_all(self, views, rng):
            which = 10 * cluster_of(views)
            size = self.config.shared_dim + len(views) * self.config.private_dim
            return which + 0.1 * rng.normal(len(which), size)

        def encode(self, given, rng):
            return 10 * cluster_of(given) + torch.zeros(1, self.config.shared_dim)

        def decode_all(self, z, rng):
            return {"z": z}

    diffusion = {"steps": 400, "batch_size": 128, "width": 64, "blocks": 1, "ema": 0.9}
    diffusion["optimiser"] = {"lr": 3e-3, "schedule": "cosine"}
    settings = PriorSettings.model_validate({"kind": kind, "components": 2, "diffusion": diffusion})
    config = resolve("mmvae+", "toy", "smoke", ()).model
    model = with_prior(Bound, settings)(toy.spec, config)
    fit(model, toy)
    z = model.sample(500, Rng(1))["z"]
    shared, private = z[:, : config.shared_dim], z[:, config.shared_dim :]
    assert model.prior(3, Rng(1)).shape == (3, config.shared_dim)
    assert private.shape[1] == len(toy.spec.names) * config.private_dim
    agree = (shared.mean(1) > 5) == (private.mean(1) > 5)
    assert agree.float().mean() > 0.97
    assert 0.3 < (shared.mean(1) > 5).float().mean() < 0.7


def test_private_latents_may_keep_their_prior(toy):
    config = resolve("mmvae+", "toy", "smoke", ()).model
    cls = find("model", "mmvae+").cls
    settings = PriorSettings(kind="gmm", private=False, components=1)
    model = with_prior(cls, settings)(toy.spec, config)
    fit(model, toy)
    assert model.fitted.means.shape[1] == config.shared_dim
    z = model.fitted.sample(4, Rng(3).fork("shared"))
    expected = model.model.decode(z, Rng(3))
    for name, view in model.sample(4, Rng(3)).items():
        torch.testing.assert_close(view, expected[name])


@pytest.mark.parametrize("model", ["mmvae+", "cmvae", "mvebm"])
def test_all_latents_decode_as_shared_and_private_ones(toy, model):
    """The order of `encode_all` is that of `decode_all`: shared, then the modalities'."""
    config = resolve(model, "toy", "smoke", ()).model
    model = find("model", model).cls(toy.spec, config).eval()
    views = toy.split("test").batch(torch.arange(5)).views
    z = model.encode_all(views, Rng(4))
    torch.testing.assert_close(
        z[:, : config.shared_dim], model.encode(views, Rng(4).fork("shared"))
    )
    decoded = model.decode_all(z, Rng(4))
    for number, name in enumerate(toy.spec.names):
        start = config.shared_dim + number * config.private_dim
        own = z[:, start : start + config.private_dim]
        torch.testing.assert_close(decoded[name], model.view(name, z[:, : config.shared_dim], own))


def test_validation_chooses_the_number_of_components(toy):
    """Six clusters are neither five nor forty: ten is the first number that has them all."""

    class Six(find("model", "mmvm").cls):
        def encode(self, given, rng):
            n = len(next(iter(given.values())))
            centre = 20.0 * torch.arange(n).remainder(6)[:, None]
            return centre + rng.normal(n, self.config.latent_dim)

    config = resolve("mmvm", "toy", "smoke", ("model.latent_dim=2",)).model
    model = with_prior(Six, PriorSettings(kind="gmm"))(toy.spec, config)
    fit(model, toy)
    assert int((model.fitted.weights > 0).sum()) == 10
    assert model.prior(1000, Rng(0)).isfinite().all()


def test_the_size_of_latents_is_found_without_learning_from_the_blank_tuple(toy):
    class Normed(find("model", "mmvm").cls):
        def __init__(self, spec, config):
            super().__init__(spec, config)
            self.norm = torch.nn.BatchNorm1d(self.config.latent_dim)

        def encode(self, given, rng):
            return self.norm(super().encode(given, rng))

    config = resolve("mmvm", "toy", "smoke", ()).model
    model = with_prior(Normed, PriorSettings(kind="gmm"))(toy.spec, config)
    assert model.training
    assert not model.model.norm.running_mean.any()


def test_too_few_tuples_are_counted_in_the_message(toy):
    config = resolve("mmvm", "toy", "smoke", ()).model
    many = with_prior(clustered("mmvm"), PriorSettings(kind="gmm", components=300))
    with pytest.raises(BenchError, match=r"300.*256 training tuples"):
        fit(many(toy.spec, config), toy)
    auto = with_prior(clustered("mmvm"), PriorSettings(kind="gmm"))(toy.spec, config)
    *_, stage = auto.stages()
    stage.validation = toy.split("validation").head(3)
    with pytest.raises(BenchError, match="3 tuples"):
        stage.finish(toy.split("train"))


def test_encodings_do_not_depend_on_the_batch(toy):
    model = find("model", "mopoe").cls(toy.spec, resolve("mopoe", "toy", "smoke", ()).model)
    latents, split = Latents(model, private=True), toy.split("train")
    whole = latents.encode(split, "a")
    torch.testing.assert_close(latents.encode(split.head(7), "a"), whole[:7])
    assert not torch.equal(latents.encode(split, "b"), whole)


@pytest.mark.parametrize("kind", ["gmm", "diffusion"])
def test_a_fitted_prior_needs_complete_tuples(toy, kind):
    cls = with_prior(find("model", "mopoe").cls, PriorSettings(kind=kind))
    assert cls.skip(toy.spec, None) is None
    assert "complete" in cls.skip(Incomplete(toy, 0.1).spec, None)


@pytest.mark.parametrize("kind", ["gmm", "diffusion"])
def test_a_method_keeps_its_abilities_but_for_those_of_its_own_prior(toy, kind):
    cls = find("model", "shala").cls
    method = with_prior(cls, PriorSettings(kind=kind))
    model = method(toy.spec, resolve("shala", "toy", "smoke", ()).model)
    for thing in (method, model):
        able = {name for name, ability in ABILITIES.items() if has_ability(thing, ability)}
        assert able == {n for n, a in ABILITIES.items() if has_ability(cls, a)} - {"trace"}
    assert all(isinstance(model, ability) for ability in (Joint, Latent, Transfer, Translate))
    assert not isinstance(model, (Trace, Private))
    facts = ("max_given", "name", "version", "reduced", "supervision", "incomplete")
    assert all(getattr(model, fact) == getattr(cls, fact) for fact in facts)
    assert with_prior(cls, PriorSettings()) is cls


def test_only_the_settings_of_a_fitted_prior_are_part_of_an_identity():
    shared, parted = find("model", "mopoe").cls, find("model", "mmvae+").cls
    assert identity_of(shared, PriorSettings(components=3)) == {}
    fitted = {"kind": "gmm", "components": "auto", "covariance": "full", "tuples": 20_000}
    assert identity_of(shared, PriorSettings(kind="gmm")) == fitted
    assert identity_of(parted, PriorSettings(kind="gmm")) == fitted | {"private": True}
    assert set(identity_of(shared, PriorSettings(kind="diffusion"))) == {"kind", "diffusion"}


@pytest.mark.parametrize(("dataset", "preset"), [("mst-digits", "quick"), ("polymnist", "cpu")])
def test_a_fitted_diffusion_prior_has_the_settings_of_shalas(dataset, preset):
    fitted = resolve("mopoe", dataset, preset, ()).prior.diffusion.model_dump()
    own = resolve("shala", dataset, preset, ()).model.prior.model_dump()
    assert {key: own.get(key) for key in fitted if key != "draws"} == {
        key: value for key, value in fitted.items() if key != "draws"
    }
    changed = resolve("mopoe", dataset, preset, ("prior.diffusion.steps=7",)).prior.diffusion
    assert changed.steps == 7


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


@pytest.mark.parametrize("wrong", [0, "abc", True])
def test_a_wrong_number_of_components_is_one_mistake(wrong):
    with pytest.raises(ValidationError) as error:
        PriorSettings(components=wrong)
    assert [item["loc"] for item in error.value.errors()] == [("components",)]
