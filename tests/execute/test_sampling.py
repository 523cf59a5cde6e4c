"""Sampling temperatures."""

from __future__ import annotations

import pytest
import torch
from helpers.toys import toy_data
from pydantic import ValidationError

from shalabench.api import Rng
from shalabench.api.registry import find
from shalabench.config.settings import resolve
from shalabench.config.training import SamplingSettings
from shalabench.execute.sampling import set_temperatures


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_data(tmp_path_factory.mktemp("toy"))


def test_noise_is_multiplied_and_choices_stay():
    plain, warm = Rng(5).fork("a"), Rng(5).tempered(0.5).fork("a")
    for kind in ("normal", "laplace"):
        torch.testing.assert_close(getattr(warm, kind)(4, 3), 0.5 * getattr(plain, kind)(4, 3))
    assert torch.equal(warm.uniform(6), plain.uniform(6))
    assert torch.equal(warm.integers(9, 6), plain.integers(9, 6))


def build(toy, name):
    torch.manual_seed(0)
    config = resolve(name, "toy", "smoke", ()).model
    return find("model", name).cls(toy.spec, config).eval()


@pytest.mark.parametrize("name", ["mopoe", "mmvae+", "shala", "mvebm"])
def test_each_dial_moves_its_own_samples(toy, name):
    """At a tiny temperature samples hardly differ; reconstructions are as before."""
    views = toy.split("test").batch(torch.arange(6)).views
    given = {"bar": views["bar"]}
    same = {n: x[:1].expand(6, *x.shape[1:]) for n, x in given.items()}

    def spread(model):
        with torch.inference_mode():
            joint = model.sample(64, Rng(1))["stripe"].std(0).mean()
            cross = model.translate(same, ["stripe"], Rng(1))["stripe"].std(0).mean()
            return joint, cross, model.reconstruct(views, Rng(1))["stripe"]

    joint, cross, exact = spread(build(toy, name))
    model = build(toy, name)
    set_temperatures(model, SamplingSettings(joint_temperature=1e-3))
    cold, unmoved, still = spread(model)
    assert cold < 0.1 * joint
    assert torch.equal(unmoved, cross)
    assert torch.equal(still, exact)
    model = build(toy, name)
    set_temperatures(model, SamplingSettings(given_temperature=1e-3))
    unmoved, cold, still = spread(model)
    assert cold < 0.1 * cross
    assert torch.equal(unmoved, joint)
    assert torch.equal(still, exact)


def test_the_neutral_temperature_changes_nothing(toy):
    model = build(toy, "mopoe")
    before = model.sample
    set_temperatures(model, SamplingSettings())
    assert model.sample == before


def test_a_temperature_is_part_of_an_identity(tmp_path):
    from shalabench.records.ids import train_id

    def identity(**sampling):
        dials = SamplingSettings(**sampling).model_dump(mode="json")
        return train_id("mopoe", 1, {}, "toy", "f", {}, 0, None, dials)

    assert identity() == train_id("mopoe", 1, {}, "toy", "f", {}, 0)
    assert identity(joint_temperature=0.8) != identity() != identity(given_temperature=0.8)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_is_a_positive_number(wrong):
    with pytest.raises(ValidationError):
        SamplingSettings(joint_temperature=wrong)
