"""What every registered model must do; a new file in baselines/ is taken up by itself.

A model that cannot run on the toy data for want of cameras runs on the toy views.
"""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace

import pytest
import torch
from helpers.rings import SPEC, ring_of
from helpers.toys import build, check_views, train

from shalabench.api import (
    Joint,
    Latent,
    Reconstruct,
    Rng,
    Split,
    Trace,
    Transfer,
    Translate,
    derive_seed,
    encoded_once,
)
from shalabench.api.registry import broken, find
from shalabench.config.search import stretching
from shalabench.config.settings import resolve


def views(toy, n: int, first: int = 0):
    return toy.split("test").batch(torch.arange(first, first + n)).views


def assert_same(a, b, exact=True):
    for name in a:
        if exact or not a[name].is_floating_point():
            assert torch.equal(a[name], b[name]), name
        else:
            torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def trained(name, toy):
    model = build(name, toy)
    train(model, toy)
    return model


def abilities(model, *needed):
    for ability in needed:
        if not isinstance(model, ability):
            pytest.skip(f"The model lacks the ability {ability.__name__}.")
    return model


def test_every_file_imports():
    assert [f"{b.module}: {b.reason}" for b in broken("model")] == []


def test_updates_change_every_stage_and_stay_finite(name, toy):
    model = build(name, toy)
    stages = model.stages()
    assert len({stage.name for stage in stages}) == len(stages)
    for stage in stages:
        before = copy.deepcopy(model.state_dict())
        for terms in train(model, toy, stages=[stage]):
            for term, value in terms.items():
                assert value.dim() == 0, term
                assert not value.requires_grad, term
                assert torch.isfinite(value), term
        after = model.state_dict()
        assert any(not torch.equal(before[k], after[k]) for k in before), stage.name


def test_a_batch_of_one_tuple_gives_finite_terms(name, toy):
    model, data = build(name, toy), toy.split("train")
    for stage in model.stages():
        stage.begin(data)
        model.train()
        terms = stage.update(data.batch(torch.tensor([0])), Rng(0))
        assert all(torch.isfinite(value) for value in terms.values()), stage.name
        model.eval()
        stage.finish(data)


def test_one_modality_is_learned_or_refused_with_the_reason(name, toy):
    spec = replace(toy.spec, modalities=toy.spec.modalities[:1])
    cls, config = find("model", name).cls, resolve(name, toy.name, "smoke", ()).model
    if reason := cls.skip(spec, config):
        pytest.skip(reason)
    model, whole = cls(spec, config), toy.split("train")
    (only,) = spec.names
    data = Split({only: whole.tensors[only]}, whole.labels)
    for terms in train(model, SimpleNamespace(split=lambda _: data), updates=1):
        assert all(torch.isfinite(value) for value in terms.values())
    if isinstance(model, Joint):
        with torch.no_grad():
            check_views(model.sample(2, Rng(0)), spec, (only,), 2)


def test_sixteen_views_are_learned_or_refused_with_the_reason(name):
    cls, config = find("model", name).cls, resolve(name, "cars", "smoke", ()).model
    reason = cls.skip(SPEC, config)
    if reason:
        pytest.skip(reason)
    model, data = cls(SPEC, config), ring_of(16)
    for terms in train(model, SimpleNamespace(split=lambda _: data), updates=1):
        assert all(torch.isfinite(value) for value in terms.values())
    given = {"v00": data.batch(torch.arange(2)).views["v00"]}
    with torch.no_grad():
        check_views(model.translate(given, ("v08", "v15"), Rng(0)), SPEC, ("v08", "v15"), 2)


@torch.no_grad()
def test_one_sample_keeps_the_batch_axis(trained, toy):
    model = abilities(trained, Joint)
    check_views(model.sample(1, Rng(1)), toy.spec, toy.spec.names, 1)


@torch.no_grad()
def test_every_pair_has_the_target_s_shape_and_range(trained, toy):
    model = abilities(trained, Translate)
    for given, target in permutations(toy.spec.names, 2):
        generated = model.translate({given: views(toy, 3)[given]}, [target], Rng(1))
        check_views(generated, toy.spec, [target], 3)


@torch.no_grad()
def test_several_given_modalities_are_taken(trained, toy):
    model = abilities(trained, Translate)
    if model.max_given == 1:
        pytest.skip("The model takes one given modality.")
    *given, target = toy.spec.names
    x = views(toy, 3)
    check_views(model.translate({g: x[g] for g in given}, [target], Rng(1)), toy.spec, [target], 3)


@torch.inference_mode()
def test_encodings_that_are_computed_once_change_nothing(trained, toy):
    model, x = abilities(trained, Translate), views(toy, 3)
    names = toy.spec.names
    most = min(model.max_given or len(names), len(names) - 1)
    subsets = [names[:k] for k in (1, most, 1)]

    def made():
        given = [{n: x[n] for n in subset} for subset in subsets]
        return [model.translate(views_, names[-1:], Rng(1)) for views_ in given]

    expected = made()
    with encoded_once(model, x):
        for found, right in zip(made(), expected, strict=True):
            assert_same(found, right)


@torch.no_grad()
def test_same_randomness_gives_the_same_output(trained, toy):
    model = abilities(trained, Joint, Translate)
    first, *others = toy.spec.names
    given = {first: views(toy, 4)[first]}
    assert_same(model.sample(4, Rng(3)), model.sample(4, Rng(3)))
    assert_same(model.translate(given, others, Rng(3)), model.translate(given, others, Rng(3)))
    other = model.sample(4, Rng(4))
    assert any(not torch.equal(other[n], x) for n, x in model.sample(4, Rng(3)).items())


@torch.no_grad()
def test_a_target_does_not_depend_on_which_others_are_asked_for(trained, toy):
    model = abilities(trained, Translate)
    first, *others = toy.spec.names
    given = {first: views(toy, 4)[first]}
    together = model.translate(given, others, Rng(3))
    for name in others:
        alone = model.translate(given, [name], Rng(3))
        assert_same(alone, {name: together[name]}, exact=False)


@torch.no_grad()
def test_samples_do_not_depend_on_the_batch_size(trained, toy):
    model = trained
    first, *others = toy.spec.names

    def joined(make):
        parts = [make(0, 3), make(3, 3)]
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}

    def sample(start, n):
        return model.sample(n, Rng(5, first=start))

    def translate(start, n):
        return model.translate({first: views(toy, n, start)[first]}, others, Rng(5, first=start))

    def reconstruct(start, n):
        return model.reconstruct(views(toy, n, start), Rng(5, first=start))

    able = {sample: Joint, translate: Translate, reconstruct: Reconstruct}
    for make in (make for make, ability in able.items() if isinstance(model, ability)):
        assert_same(make(0, 6), joined(make), exact=False)


@torch.no_grad()
def test_reconstruction_and_latent_have_the_right_shapes(trained, toy):
    model = abilities(trained, Reconstruct, Latent)
    check_views(model.reconstruct(views(toy, 3), Rng(1)), toy.spec, toy.spec.names, 3)
    encoded, prior = model.encode(views(toy, 3), Rng(1)), model.prior(3, Rng(1))
    assert encoded.shape == prior.shape
    assert encoded.dim() == 2


@torch.no_grad()
def test_a_trace_ends_in_the_prior_s_samples(trained):
    model = abilities(trained, Latent, Trace)
    trace = model.trace(3, (1, 0.5, 0), Rng(1))
    assert max(trace) == 1
    assert torch.equal(trace[0], model.prior(3, Rng(1)))
    assert all(z.shape == trace[0].shape and torch.isfinite(z).all() for z in trace.values())


@torch.no_grad()
def test_transfer_gives_views_of_the_source(trained, toy):
    model = abilities(trained, Transfer)
    x = views(toy, 3)
    given = model.transfer(x, views(toy, 3, first=3), 0.5, Rng(1))
    check_views(given, toy.spec, toy.spec.names, 3)


@torch.no_grad()
def test_saved_and_loaded_model_gives_the_same_output(trained, toy):
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    other = build(trained.name, toy, seed=1).eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    model = abilities(trained, Joint)
    assert_same(model.sample(3, Rng(2)), other.sample(3, Rng(2)))


def test_resumed_training_equals_uninterrupted_bit_for_bit(name, toy):
    whole = build(name, toy)
    train(whole, toy, updates=4)
    half = build(name, toy)
    data = toy.split("train")
    resumed = build(name, toy, seed=9)
    for number, stage in enumerate(half.stages()):
        stage.begin(data)
        half.train()
        for step in range(2):
            torch.manual_seed(derive_seed(0, stage.name, "global", step))
            index = torch.arange(step * 8, step * 8 + 8) % len(data)
            stage.update(data.batch(index), Rng(derive_seed(0, stage.name, step)))
        file = io.BytesIO()
        torch.save({"model": half.state_dict(), "stage": stage.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        resumed.load_state_dict(saved["model"])
        again = resumed.stages()[number]
        again.begin(data)
        again.load_state_dict(saved["stage"])
        resumed.train()
        for step in range(2, 4):
            torch.manual_seed(derive_seed(0, stage.name, "global", step))
            index = torch.arange(step * 8, step * 8 + 8) % len(data)
            again.update(data.batch(index), Rng(derive_seed(0, stage.name, step)))
        resumed.eval()
        again.finish(data)
        half.load_state_dict(resumed.state_dict())
    expected = whole.state_dict()
    for key, value in resumed.state_dict().items():
        assert torch.equal(value, expected[key]), key


@torch.no_grad()
def test_an_unknown_modality_is_named_in_the_error(trained, toy):
    model = abilities(trained, Translate)
    name = toy.spec.names[0]
    given = {name: views(toy, 2)[name]}
    with pytest.raises(KeyError, match="smell"):
        model.translate(given, ["smell"], Rng(1))
    with pytest.raises(KeyError, match="smell"):
        model.translate({"smell": given[name]}, [name], Rng(1))


def test_updates_that_do_not_stretch_are_those_of_a_longer_training(name, toy):
    """Every method's: what depends on the number of updates is declared or a schedule of rates."""
    states = []
    for factor in (1, 3):
        config = resolve(name, toy.name, "smoke", ()).model
        model = build(name, toy)
        if any(stretching(config).values()):
            pytest.skip("It declares a part of the updates.")
        model.config = config.model_copy(update={"steps": factor * config.steps})
        for stage in model.stages()[:1]:
            for part in getattr(stage, "_parts", {}).values():
                constant = {"schedule": "constant", "warmup": 0.0}
                part.settings = part.settings.model_copy(update=constant)
            if not stage.common(2 * stage.steps):
                pytest.skip("It tells nothing of its updates, so it is not continued.")
            data = toy.split("train")
            stage.begin(data)
            for step in range(2):
                torch.manual_seed(derive_seed(0, "global", step))
                stage.update(data.batch(torch.arange(8)), Rng(step))
        states.append(model.state_dict())
    one, other = states
    assert all(torch.equal(one[key], other[key]) for key in one)
