"""Every method takes every kind and shape of modality, or says why not before its first update."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from helpers.shapes import shapes
from helpers.toys import check_views, train

from shalabench.api import Joint, Reconstruct, Rng, Translate
from shalabench.api.registry import entries, find
from shalabench.config.settings import resolve
from shalabench.execute.fitness import why_not
from shalabench.priors.fitted import with_prior


@pytest.fixture(scope="module")
def data():
    return shapes()


def config_of(name, *overrides):
    return resolve(name, "toy", "smoke", overrides).model


@pytest.mark.parametrize("name", sorted(entries("model")))
def test_vectors_and_wide_pictures_are_learned_or_refused_with_the_reason(name, data):
    cls, config = find("model", name).cls, config_of(name)
    if reason := why_not(cls, data.spec, config):
        pytest.skip(reason)
    model, spec = cls(data.spec, config), data.spec
    for terms in train(model, data, updates=2):
        assert all(torch.isfinite(value) for value in terms.values())
    x = data.split("test").batch(torch.arange(3)).views
    with torch.no_grad():
        if isinstance(model, Joint):
            check_views(model.sample(3, Rng(0)), spec, spec.names, 3)
        if isinstance(model, Translate):
            for name in spec.names:
                others = [other for other in spec.names if other != name]
                made = model.translate({name: x[name]}, others, Rng(0))
                check_views(made, spec, others, 3)
        if isinstance(model, Reconstruct):
            check_views(model.reconstruct(x, Rng(0)), spec, spec.names, 3)


# Text of one token and an image that no convolution of MST's networks takes.
@pytest.mark.parametrize(
    ("family", "changed", "message"),
    [
        ("mst", {"wide": {"shape": (3, 4, 14)}}, "'wide' is 4 x 14.*at least 8 x 8"),
        ("mst", {"word": {"shape": (1,)}}, "'word' has one token"),
        ("cub", {}, "'word' has 4 tokens.*multiple of 8"),
    ],
)
@pytest.mark.parametrize("name", ["mvae", "shala", "mmvae+", "mld", "mmvm"])
def test_shapes_that_no_network_takes_are_refused_before_the_first_update(
    name, family, changed, message, data
):
    spec = data.spec
    modalities = tuple(replace(m, **changed.get(m.name, {})) for m in spec.modalities)
    config = config_of(name, f"model.network.family={family}")
    reason = why_not(find("model", name).cls, replace(spec, modalities=modalities), config)
    assert reason is not None
    assert re.search(message, reason)


@pytest.mark.parametrize("name", ["mvae", "shala", "cmvae", "sbm-ae"])
def test_networks_of_one_s_own_are_trained(name, data):
    own = [f"model.networks.{m}=helpers.networks:Flat" for m in ("wide", "field")]
    cls, config = find("model", name).cls, config_of(name, *own)
    assert why_not(cls, data.spec, config) is None
    model = cls(data.spec, config)
    assert sum(type(m).__name__ == "Flat" for m in model.modules()) == 0  # the modules, not it
    assert sum(type(m).__name__ == "CustomDecoder" for m in model.modules()) == 2
    for terms in train(model, data, updates=2):
        assert all(torch.isfinite(value) for value in terms.values())


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("smell=helpers.networks:Flat", "Unknown modality 'smell'"),
        ("row=helpers.networks:Flut", "no function or class 'Flut'"),
        ("row=helpers.notworks:Flat", "does not import"),
        ("row=Flat", "package.module:factory"),
        ("row=helpers.networks:nothing", "gives no encoder"),
        ("row=helpers.networks:Wrong", r"returns the shape \(2, 1\)"),
        ("word=helpers.networks:Flat", r"The encoder of .* does not take \(2, 4\) of 'word'"),
    ],
)
def test_networks_of_one_s_own_that_do_not_fit_are_told(own, message, data):
    config = config_of("mvae", f"model.networks.{own}")
    reason = why_not(find("model", "mvae").cls, data.spec, config)
    assert reason is not None
    assert re.search(message, reason), reason


@torch.no_grad()
def test_a_fitted_prior_takes_vectors(data):
    settings = resolve("mvae", "toy", "smoke", ("prior.kind=gmm", "prior.components=2"))
    cls = with_prior(find("model", "mvae").cls, settings.prior)
    assert why_not(cls, data.spec, settings.model) is None
    model = cls(data.spec, settings.model)
    train(model, data, updates=0)  # a mixture is fitted when its stage finishes
    check_views(model.sample(3, Rng(0)), data.spec, data.spec.names, 3)


def test_pictures_that_are_not_square_have_no_diffusion_decoders(data):
    cls, config = find("model", "cmvae").cls, config_of("cmvae", "model.decoders=diffusion")
    assert (
        why_not(cls, data.spec, config) == "Diffusion decoders are for squares, and wide are none."
    )
