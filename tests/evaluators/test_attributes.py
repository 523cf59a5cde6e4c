"""Known answers of the attribute metrics: a perfect model, chance, silence, contradiction."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from evaluators.attributes import Attributes
from shalabench.api import END, PAD, Classifier, DataPaths, DataSpec, EvalContext
from shalabench.datasets.birds import GRAMMAR, VOCABULARY, Birds

pytestmark = pytest.mark.float64

SIZES = [len(a.values) for a in GRAMMAR.attributes]
CHANCE = {a.name: 1 / len(a.values) for a in GRAMMAR.attributes}


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("birds")
    dataset = Birds(Birds.Config(train=100, validation=10, test=400))
    dataset.prepare(DataPaths(folder, folder))
    return dataset


class Oracle(torch.nn.Module):
    """Knows what was drawn in every real picture of a split."""

    def __init__(self, split):
        super().__init__()
        views = split.batch(torch.arange(len(split))).views
        self.known = views["image"].flatten(1).double().cumsum(1)[:, ::997]
        self.truth = split.facts["attributes"]

    def forward(self, images):
        key = images.flatten(1).double().cumsum(1)[:, ::997]
        which = torch.cdist(key, self.known).argmin(1)
        one_hot = [
            torch.nn.functional.one_hot(self.truth[which, i], k) for i, k in enumerate(SIZES)
        ]
        return torch.cat(one_hot, dim=1).float()


class Pairs(torch.nn.Module):
    """Gives each given view the real other one, of the tuple `shift` further on."""

    max_given = None

    def __init__(self, split, shift=0, caption=None):
        super().__init__()
        self.views = split.batch(torch.arange(len(split)).roll(-shift)).views
        if caption is not None:
            self.views["caption"] = encoded(caption).expand_as(self.views["caption"])

    def sample(self, n, rng):
        return {name: x[rng.first : rng.first + n] for name, x in self.views.items()}

    def translate(self, given, targets, rng):
        n = len(next(iter(given.values())))
        return {name: self.sample(n, rng)[name] for name in targets}


class Mute(torch.nn.Module):
    """Samples and does not translate."""

    def sample(self, n, rng):
        return {}


def encoded(text):
    tokens = [*text.split(), END]
    tokens += [PAD] * (32 - len(tokens))
    return torch.tensor([[VOCABULARY.index(word) for word in tokens]])


def measure(dataset, model, **settings):
    split = dataset.split("test")
    judge = Classifier(Oracle(split), 1.0, "digest", "an oracle")
    context = EvalContext(torch.device("cpu"), 0, {"image": judge})
    outcome = Attributes(Attributes.Config(**settings)).run(model, dataset.spec, split, context)
    short = {"ceiling/attributes": "ceiling", "chance/attributes": "chance"}
    figures = {
        short.get(s.metric, s.metric.removeprefix("attributes/")): s
        for s in outcome.scores
        if s.is_summary
    }
    return figures, outcome.details["parts"]


def test_a_perfect_model_is_right_everywhere(birds):
    figures, parts = measure(birds, Pairs(birds.split("test")))
    assert {name: figure.value for name, figure in figures.items() if name != "chance"} == {
        "caption-to-image": 1,
        "image-to-caption": 1,
        "grammatical": 1,
        "joint": 1,
        "ceiling": 1,
    }
    named = birds.split("test").facts["named"].sum(0).tolist()
    found = [own["n"] for own in parts["attributes/caption-to-image"].values()]
    assert found == named


def test_shuffled_captions_are_right_by_chance(birds):
    figures, parts = measure(birds, Pairs(birds.split("test"), shift=7))
    named = birds.split("test").facts["named"].double().sum(0)
    chance = (named / named.sum() * torch.tensor([*CHANCE.values()])).sum().item()
    for name in ("caption-to-image", "image-to-caption", "chance"):
        assert abs(figures[name].value - chance) < 4 * figures[name].stderr, name
    assert figures["joint"].value == 1  # both are of the same tuple
    for name, own in parts["attributes/caption-to-image"].items():
        assert own["chance"] == CHANCE[name]
        low, high = own["interval"]
        assert low - 0.05 < CHANCE[name] < high + 0.05, name


def test_a_caption_that_names_nothing_counts_as_wrong(birds):
    figures, parts = measure(birds, Pairs(birds.split("test"), caption="the bird the bird ."))
    assert figures["image-to-caption"].value == 0
    assert figures["grammatical"].value == 0
    assert all(own["n"] == 0 for own in parts["attributes/image-to-caption"].values())


def test_a_contradiction_is_wrong_and_a_phrase_without_a_sentence_counts(birds):
    split = birds.split("test")
    body = GRAMMAR.attributes[0].values
    share = (split.facts["attributes"][:, 0] == body.index("blue")).double().mean().item()
    usual = split.facts["named"].sum(1).double().mean().item()
    figures, _ = measure(birds, Pairs(split, caption="blue bird , , a small large bird"))
    assert usual > 2  # as many as this caption names
    assert figures["image-to-caption"].value == pytest.approx(share / usual)
    assert figures["grammatical"].value == 0


def test_naming_only_what_is_easily_seen_gains_nothing(birds):
    split = birds.split("test")
    facing = [a.name for a in GRAMMAR.attributes].index("facing")
    model = Pairs(split)
    left, right = (encoded(f"this bird is looking to the {side} .") for side in ("left", "right"))
    to_left = GRAMMAR.attributes[facing].values.index("left")
    is_left = (split.facts["attributes"][:, facing] == to_left)[:, None]
    model.views["caption"] = torch.where(is_left, left, right)
    usual = split.facts["named"].sum(1).double().mean().item()
    figures, _ = measure(birds, model)
    assert figures["image-to-caption"].value == pytest.approx(1 / usual)


def test_the_error_is_that_of_the_bootstrap(birds):
    split = birds.split("test")
    figures, _ = measure(birds, Pairs(split, shift=7))
    named = split.facts["named"]
    shown = split.facts["attributes"].roll(-7, 0)
    hits = ((shown == split.facts["attributes"]) & named).sum(1).double()
    said = named.sum(1).double()
    draws = torch.randint(len(said), (4000, len(said)), generator=torch.Generator().manual_seed(0))
    expected = (hits[draws].sum(1) / said[draws].sum(1)).std().item()
    assert figures["caption-to-image"].stderr == pytest.approx(expected, rel=0.08)


def test_the_batch_size_changes_nothing(birds):
    model = Pairs(birds.split("test"), shift=3)
    whole, parts = measure(birds, model, batch_size=500)
    pieces, again = measure(birds, model, batch_size=37)
    assert whole == pieces
    assert parts == again


def test_fewer_items_are_the_first_ones(birds):
    figures, _ = measure(birds, Pairs(birds.split("test")), items=50, samples=30)
    assert figures["caption-to-image"].n == 50
    assert figures["joint"].n == 30


def test_what_cannot_translate_or_names_nothing_is_skipped_with_the_reason(birds):
    evaluator = Attributes(Attributes.Config())
    assert "Translate" in evaluator.skip(Mute, birds.spec)
    assert evaluator.skip(Pairs, birds.spec) is None
    other = DataSpec("photos", 1, (), 0, {}, "", "")
    assert "'photos' name no attributes" in evaluator.skip(Pairs, other)


def test_a_score_of_a_pair_stands_beside_each_summary(birds):
    split = birds.split("test")
    judge = Classifier(Oracle(split), 1.0, "digest", "an oracle")
    context = EvalContext(torch.device("cpu"), 0, {"image": judge})
    told = []
    context = replace(context, report=lambda *progress: told.append(progress))
    evaluator = Attributes(Attributes.Config())
    scores = evaluator.run(Pairs(split), birds.spec, split, context).scores
    pairs = {(s.metric, s.given, s.target) for s in scores if not s.is_summary}
    assert ("attributes/caption-to-image", ("caption",), "image") in pairs
    assert ("attributes/image-to-caption", ("image",), "caption") in pairs
    assert told[-1][0] == told[-1][1]  # progress ends at the whole
