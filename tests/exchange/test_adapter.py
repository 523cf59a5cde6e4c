"""Samples stand for a model, and real views are recognised."""

from __future__ import annotations

import pytest
import torch
from helpers.toys import toy_data
from torch import nn

from shalabench.api import Classifier, Joint, Reconstruct, Rng, Translate, has_ability
from shalabench.exchange.adapter import Lacking, as_model, remember, track
from shalabench.exchange.layout import Samples


@pytest.fixture
def toy(tmp_path):
    return toy_data(tmp_path)


def real(split, index):
    """Samples that are the real views, so that an answer shows what was asked for."""
    own = {name: x[index] for name, x in split.tensors.items()}
    given = {(a,): {b: own[b] for b in own if b != a} for a in own}
    return Samples(own, given, own, index, "real")


def test_a_model_has_the_abilities_that_its_samples_give(toy):
    split = toy.split("test")
    whole = real(split, torch.arange(64))
    tracked = track(split, whole.index)
    for samples, able in (
        (whole, {Joint, Translate, Reconstruct}),
        (Samples(whole.joint, {}, {}, torch.arange(0), ""), {Joint}),
        (Samples({}, whole.translations, {}, whole.index, ""), {Translate}),
    ):
        cls = type(as_model(samples, toy.spec, tracked, "x"))
        assert {kind for kind in (Joint, Translate, Reconstruct) if has_ability(cls, kind)} == able


def test_each_given_tuple_gets_its_own_samples(toy):
    split, index = toy.split("test"), torch.tensor([3, 10, 11, 40, 63])
    tracked = track(split, index)
    model = as_model(real(split, index), toy.spec, tracked, "x")
    assert len(tracked) == 5
    assert tracked.labels.tolist() == split.labels[index].tolist()
    rows = torch.tensor([4, 0, 2])
    views = tracked.batch(rows).views
    assert torch.equal(views["bar"], split.batch(index[rows]).views["bar"])
    made = model.translate({"word": views["word"]}, ["bar"], Rng(0, first=17))
    assert torch.equal(made["bar"], views["bar"])
    assert torch.equal(model.reconstruct(views, Rng(0))["stripe"], views["stripe"])
    with pytest.raises(Lacking, match="no test views"):
        model.translate({"word": views["word"].clone()}, ["bar"], Rng(0))
    with pytest.raises(Lacking, match="given word and bar"):
        model.translate({n: views[n] for n in ("word", "bar")}, ["stripe"], Rng(0))
    with pytest.raises(Lacking, match="needs 6 joint samples, and there are 5"):
        model.sample(2, Rng(0, first=4))


def test_joint_samples_of_a_grouped_file_are_taken_from_all_of_it(toy):
    split, group = toy.split("test"), torch.arange(64) // 16
    joint = {"bar": group.view(-1, 1, 1, 1).expand(64, 3, 8, 8) / 4, "stripe": group.clone()}
    model = as_model(
        Samples(joint, {}, {}, torch.arange(0), ""), toy.spec, track(split, torch.arange(0)), "x"
    )
    first = model.sample(16, Rng(0))
    assert first["stripe"].unique().tolist() == [0, 1, 2, 3]
    assert torch.equal(first["bar"][:, 0, 0, 0], first["stripe"] / 4), "rows stay together"
    rest = [model.sample(24, Rng(0, first=k))["stripe"] for k in (16, 40)]
    assert torch.cat([first["stripe"], *rest]).bincount().tolist() == [16] * 4
    assert torch.equal(model.sample(16, Rng(1))["stripe"], first["stripe"]), "in every run"


def test_several_given_modalities_need_all_their_subsets(toy):
    split, index = toy.split("test"), torch.arange(64)
    samples = real(split, index)
    assert as_model(samples, toy.spec, track(split, index), "x").max_given == 1
    own, names = samples.joint, toy.spec.names
    for out in names:
        pair = tuple(name for name in names if name != out)
        samples.translations[pair] = {out: own[out]}
    assert as_model(samples, toy.spec, track(split, index), "x").max_given == 2


class Counting(nn.Module):
    """The mean of a view, and how often it was asked for."""

    asked = 0

    def forward(self, x):
        self.asked += len(x)
        return x.float().flatten(1).mean(1, keepdim=True)


def test_real_views_are_classified_once(toy, tmp_path):
    split = toy.split("test")
    tracked = track(split, torch.arange(64))
    networks = [Counting().eval(), Counting().eval()]
    rows = torch.tensor([5, 1, 60])
    answers = []
    for network in networks:
        plain = {"bar": Classifier(network, 1.0, "d", "")}
        kept = remember(plain, tracked, "key", tmp_path)["bar"].network
        view = tracked.batch(rows).views["bar"]
        answers.append(kept(view))
        torch.testing.assert_close(answers[-1], Counting()(view))
        other = torch.rand(2, 3, 8, 8)
        torch.testing.assert_close(kept(other), Counting()(other))
    assert [network.asked for network in networks] == [64 + 2, 2]
    assert torch.equal(*answers)
