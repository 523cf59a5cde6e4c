"""Search spaces: declared beside the settings, and shortened trainings."""

from __future__ import annotations

import pytest

from shalabench.api import Optimiser, Search, Settings, setting
from shalabench.api.registry import entries, find
from shalabench.config.search import space_of, updates_of, values_at
from shalabench.config.settings import resolve


class Inner(Settings):
    rate: float = setting(2.0, "A rate.", "our choice", search=Search(0.5, 2, relative=True))
    steps: int = setting(30, "Updates.", "our choice", counts_updates=True)


class Outer(Settings):
    size: int = setting(12, "A size.", "our choice", search=Search(choices=(8, 16)))
    beta: float = setting(20.0, "A factor.", "our choice", search=Search(0.1, 10, log=True))
    steps: int = setting(10, "Updates.", "our choice", counts_updates=True)
    plain: int = setting(1, "Not searched.", "our choice")
    left_out: Inner = setting(Inner(), "Not searched.", "our choice")
    taken: Inner = setting(Inner(rate=0.00123456), "Searched.", "our choice", search=True)
    bare: Inner = Inner()


def test_a_space_holds_what_is_declared_and_the_values_of_the_preset():
    assert space_of(Outer()) == {
        "size": {"choices": [8, 12, 16]},
        "beta": {"low": 0.1, "high": 20.0, "log": True},
        "taken.rate": {"low": 0.000617, "high": 0.00247, "log": False},
        "bare.rate": {"low": 1.0, "high": 4.0, "log": False},
    }
    assert set(space_of(Outer(), ["size", "bare.rate"])) == {"beta", "taken.rate"}


def test_updates_and_values_are_found_at_any_depth():
    steps = {"steps": 10, "left_out.steps": 30, "taken.steps": 30, "bare.steps": 30}
    assert updates_of(Outer()) == steps
    assert values_at(Outer(), ["size", "taken.rate"]) == {"size": 12, "taken.rate": 0.00123456}


def test_a_search_is_a_range_or_a_list():
    for wrong in ({}, {"low": 1.0}, {"low": 2.0, "high": 1.0}):
        with pytest.raises(ValueError, match="neither"):
            Search(**wrong)
    with pytest.raises(ValueError, match="neither"):
        Search(0.0, 1.0, choices=(1,))


def test_a_declaration_leaves_the_description_as_it_was():
    extra = Optimiser.model_fields["lr"].json_schema_extra
    assert extra["source"] == "MMVAE+ code (reproduction/mmvae-plus.md)"
    assert Optimiser.model_json_schema()["properties"]["lr"]["source"] == extra["source"]
    assert set(Optimiser.model_fields["clip"].json_schema_extra) == {"source"}


@pytest.mark.parametrize("name", entries("model"))
def test_every_stage_of_a_tunable_method_is_shortened(name, toy):
    cls, settings = find("model", name).cls, resolve(name, "toy", "smoke", ()).model
    if not space_of(settings) or cls.skip(toy.spec, settings):
        pytest.skip("it is not tuned on the toy data")
    half = {f"model.{key}={n // 2}" for key, n in updates_of(settings).items()}
    shorter = resolve(name, "toy", "smoke", tuple(half)).model
    full = [stage.steps for stage in cls(toy.spec, settings).stages()]
    assert [stage.steps for stage in cls(toy.spec, shorter).stages()] == [n // 2 for n in full]
