"""Training tuples of which views are hidden."""

from __future__ import annotations

import pytest
import torch
from helpers.toys import build, toy_data

from shalabench.api import Rng
from shalabench.api.registry import entries, find
from shalabench.execute.incomplete import Incomplete, hide_views, needs_complete_tuples


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_data(tmp_path_factory.mktemp("toy"))


def test_views_are_hidden_at_the_asked_rate_and_every_tuple_keeps_one(toy):
    data = Incomplete(toy, 0.6)
    spec, split = data.spec, data.split("train")
    assert split.present.any(1).all()
    alone = 0.6**3 / 3  # the chance that a view is the one that is kept of a tuple with none
    assert abs(split.present.float().mean() - (0.4 + alone)) < 0.06
    for m, name in enumerate(spec.names):
        absent = ~split.present[:, m]
        assert not split.tensors[name][absent].any()
        assert torch.equal(split.tensors[name][~absent], toy.split("train").tensors[name][~absent])


def test_hidden_views_are_the_same_each_time_and_make_another_dataset(toy):
    data = Incomplete(toy, 0.3)
    one, other = (Incomplete(toy, 0.3).split("train").present for _ in range(2))
    assert torch.equal(one, other)
    prints = {toy.spec.fingerprint, data.spec.fingerprint, Incomplete(toy, 0.2).spec.fingerprint}
    assert len(prints) == 3
    assert hide_views(toy, 0.0) is toy
    assert data.split("test").present is None
    assert data.split("test").tensors.keys() == toy.split("test").tensors.keys()


@pytest.mark.parametrize("name", sorted(entries("model")))
def test_a_method_trains_on_incomplete_tuples_or_says_why_not(name, toy):
    incomplete = Incomplete(toy, 0.5)
    cls = find("model", name).cls
    assert needs_complete_tuples(cls, toy.spec) is None
    reason = needs_complete_tuples(cls, incomplete.spec)
    if not cls.incomplete:
        assert "complete tuples" in reason
        return
    assert reason is None
    data = incomplete.split("train")
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
