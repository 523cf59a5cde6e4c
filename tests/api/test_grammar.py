"""A grammar's captions name what was given, and are read back exactly."""

from __future__ import annotations

import numpy as np
import pytest

from shalabench.api import Attribute, Grammar
from shalabench.datasets.birds import GRAMMAR

pytestmark = pytest.mark.float64

TINY = Grammar(
    attributes=(
        Attribute("bill", ("grey", "orange")),
        Attribute("wing", ("grey", "orange")),
        Attribute("place", ("sky", "water")),
    ),
    rules=(
        ("caption", ("a bird with <part> and <part> .", "a bird with <part> <place> .")),
        ("part", ("a [bill] bill", "[wing] wings")),
        ("place", ("in the [place:sky]", "on the [place:water]")),
    ),
    longest=12,
)


def captions(grammar: Grammar, n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        truth = {a.name: a.values[rng.integers(len(a.values))] for a in grammar.attributes}
        yield truth, *grammar.write(truth, rng)


@pytest.mark.parametrize("grammar", [TINY, GRAMMAR], ids=["tiny", "birds"])
def test_a_caption_is_read_back_as_what_it_names(grammar):
    for truth, caption, named in captions(grammar, 500):
        expected = {name: truth[name] for name in named}
        assert grammar.parse(caption) == expected, caption
        assert grammar.spot(caption) == expected, caption
        assert len(caption.split()) <= grammar.longest
        assert set(caption.split()) <= set(grammar.words)


def test_captions_leave_things_unsaid_and_name_each_attribute_sometimes():
    counts = [set(named) for _, _, named in captions(GRAMMAR, 500)]
    every = {a.name for a in GRAMMAR.attributes}
    assert all(own and own < every for own in counts)
    assert set.union(*counts) == every


def test_captions_take_many_forms():
    texts = {caption for _, caption, _ in captions(GRAMMAR, 500)}
    assert len(texts) > 450


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a bird",
        "a bird with a grey bill and orange wings",  # no full stop
        "a bird with a orange bill and grey wings .",  # an article
        "a bird with a grey bill and a grey bill .",  # the same twice
        "a bird with a grey bill in the water .",  # the wrong preposition
        "wings grey with bird a .",
    ],
)
def test_what_is_no_sentence_does_not_parse(text):
    assert TINY.parse(text) is None


def test_phrases_are_found_in_what_is_no_sentence():
    assert TINY.spot("bird orange bill wings grey water") == {"bill": "orange", "place": "water"}
    assert TINY.spot("a bird with an orange bill an orange bill") == {"bill": "orange"}


def test_a_contradiction_is_reported_from_silence():
    assert TINY.spot("a grey bill and an orange bill") == {"bill": None}
    assert TINY.spot("a bird") == {}


def test_a_caption_that_cannot_be_short_enough_is_refused():
    short = Grammar(TINY.attributes, TINY.rules, longest=3)
    truth = {"bill": "grey", "wing": "grey", "place": "sky"}
    with pytest.raises(ValueError, match="no caption of 3 words"):
        short.write(truth, np.random.default_rng(0))


def test_rules_are_read_from_text():
    colour = Attribute("crown", ("red", "blue"))
    read = Grammar.from_text((colour,), "whole = a <part> . | <part>\n    | it\npart = [crown]", 5)
    rules = (("whole", ("a <part> .", "<part>", "it")), ("part", ("[crown]",)))
    assert read == Grammar((colour,), rules, 5)
