"""One to many: known answers of decoders whose agreement and total variation are known."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.toys import toy_data, train

import classifiers
from classifiers.networks import build
from evaluators.one_to_many import OneToMany
from shalabench.api import (
    Attribute,
    Classifier,
    DataError,
    DataPaths,
    DataSpec,
    EvalContext,
    Grammar,
    Modality,
    Rng,
    Split,
)
from shalabench.api.registry import find
from shalabench.config.settings import resolve
from shalabench.datasets.birds import Birds
from shalabench.datasets.polydigits_quadrant import PolyDigitsQuadrant

DIGITS, PLACES = tuple("abcde"), ("west", "east", "north", "south")
GRAMMAR = Grammar.from_text(
    (Attribute("digit", DIGITS), Attribute("place", PLACES)), "label = [digit] | [place]", 1
)
SIZES = len(DIGITS), len(PLACES)
IMAGES, N = ("x", "y", "z"), 2000
MODALITIES = (
    *(Modality(name, "image", (1, 1, 2)) for name in IMAGES),
    Modality("digit", "text", (1,), "categorical", vocabulary=DIGITS),
    Modality("place", "text", (1,), "categorical", vocabulary=PLACES),
)
SPEC = DataSpec("fake", 1, MODALITIES, 0, {"test": N}, "", "", grammar=GRAMMAR)
VALUES = torch.tensor(list(itertools.product(range(5), range(4)))).repeat(N // 20, 1)


def drawn(values):
    """Images whose two pixels are the numbers of digit and place, in tenths."""
    return values[:, None, None].float() / 10


class Eye(torch.nn.Module):
    """Reads such images exactly."""

    def forward(self, x):
        digit, place = (x.flatten(1) * 10).round().long().unbind(1)
        parts = [
            torch.nn.functional.one_hot(v, k) for v, k in zip((digit, place), SIZES, strict=True)
        ]
        return torch.cat(parts, 1).float()


def split_of(values=VALUES, **more):
    tensors = {name: (drawn(values) * 255).round().to(torch.uint8) for name in IMAGES}
    tensors |= {"digit": values[:, :1], "place": values[:, 1:]}
    return Split(tensors, facts={"attributes": values}, **more)


class Decoders(torch.nn.Module):
    """Keeps what is given, and draws the open attribute from one latent of the call.

    Args:
        own: Probability that a target draws the open attribute by itself.
        skew: Probability that the latent's value is replaced by 0.
        wrong: Probability that a target shows another value of what is given.
        fixed: Whether the random numbers of every call are the same.
    """

    max_given = None

    def __init__(self, own=0.0, skew=0.0, wrong=0.0, fixed=False):
        super().__init__()
        self.own, self.skew, self.wrong, self.fixed = own, skew, wrong, fixed

    def translate(self, given, targets, rng):
        ((name, view),) = given.items()
        closed = ("digit", "place").index(name)
        n = len(view)
        if self.fixed:
            rng = Rng(0, first=rng.first)
        latent = self._open(n, 1 - closed, rng.fork("latent"))
        made = {}
        for target in targets:
            noise = rng.fork(target)
            values = torch.empty(n, 2, dtype=torch.int64)
            turned = (noise.uniform(n) < self.wrong).long()
            values[:, closed] = (view[:, 0] + turned) % SIZES[closed]
            alone = noise.uniform(n) < self.own
            values[:, 1 - closed] = self._open(n, 1 - closed, noise.fork("own")).where(
                alone, latent
            )
            column = ("digit", "place").index(target) if target in ("digit", "place") else None
            made[target] = drawn(values) if column is None else values[:, column, None]
        return made

    def _open(self, n, attribute, rng):
        values = rng.integers(SIZES[attribute], n)
        return values.where(rng.uniform(n) >= self.skew, 0)


def measure(model, split=None, **settings):
    split = split or split_of()
    classifiers = {name: Classifier(Eye(), 1.0, name, "exact") for name in IMAGES}
    context = EvalContext(torch.device("cpu"), 3, classifiers)
    outcome = OneToMany(OneToMany.Config(**settings)).run(model, SPEC, split, context)
    return {s.metric: s for s in outcome.scores if s.is_summary}, outcome


def test_one_latent_agrees_in_the_data_s_distribution_and_latents_of_their_own_by_chance():
    found, outcome = measure(Decoders())
    assert found["coherence/one-to-many"].value == 1
    assert found["coherence/one-to-many-given"].value == 1
    assert found["ceiling/one-to-many"].value == found["ceiling/one-to-many-given"].value == 1
    control = found["coherence/one-to-many-control"]
    chance = (1 / 4 + 1 / 5) / 2  # of the place given the digit, and of the digit given the place
    assert abs(control.value - chance) < 4 * control.stderr < 0.03
    made, floor = (found[f"{name}/one-to-many-variation"] for name in ("coherence", "floor"))
    assert made.value == pytest.approx(floor.value, abs=0.02)
    parts = outcome.details["given"]
    assert [(given, part["open"]) for given, part in parts.items()] == [
        ("digit", "place"),
        ("place", "digit"),
    ]
    assert {(*s.given, s.target) for s in outcome.scores if s.metric == control.metric} == {
        (None,),
        *(("digit", name) for name in (*IMAGES, "place")),
        *(("place", name) for name in (*IMAGES, "digit")),
    }


def test_a_constant_agrees_also_by_chance_and_is_far_from_the_data():
    found, outcome = measure(Decoders(skew=1, wrong=0.5))
    assert found["coherence/one-to-many"].value == 1
    assert found["coherence/one-to-many-control"].value == 1
    assert found["coherence/one-to-many-control"].stderr == 0
    assert found["coherence/one-to-many-variation"].value == pytest.approx((3 / 4 + 4 / 5) / 2)
    by_given = outcome.details["given"]
    assert by_given["digit"]["coherence/one-to-many-variation"] == pytest.approx(3 / 4)


def test_targets_that_draw_by_themselves_agree_as_often_as_counted():
    own, wrong = 0.5, 0.2
    found, _ = measure(Decoders(own=own, wrong=wrong))
    both = (1 - own) ** 2  # take the latent's value
    expected = [both + (1 - both) / k for k in (4, 5)]
    made = found["coherence/one-to-many"]
    assert abs(made.value - sum(expected) / 2) < 4 * made.stderr < 0.04
    right = found["coherence/one-to-many-given"]
    assert abs(right.value - (1 - wrong)) < 4 * right.stderr < 0.03
    assert found["ceiling/one-to-many-given"].value == 1


def test_a_skewed_latent_has_the_total_variation_of_its_skew():
    found, _ = measure(Decoders(skew=0.4))
    made = found["coherence/one-to-many-variation"]  # of 0: 1/k + .4 (1 - 1/k) against 1/k
    assert abs(made.value - 0.4 * (3 / 4 + 4 / 5) / 2) < 4 * made.stderr + 0.01
    assert found["coherence/one-to-many"].value == 1


def test_stored_samples_have_no_control():
    found, outcome = measure(Decoders(fixed=True))
    assert "coherence/one-to-many-control" not in found
    assert found["coherence/one-to-many"].value == 1
    assert len(outcome.details["notes"]) == 1


def test_no_score_depends_on_the_batch_size_and_items_are_a_choice():
    whole, parts = (measure(Decoders(own=0.5), batch_size=size)[0] for size in (500, 77))
    assert whole == parts
    some, outcome = measure(Decoders(), items=40)
    assert {s.n for s in some.values()} == {40}
    assert len(set(outcome.details["items"])) == 40


def test_errors_count_the_sources_of_what_is_given():
    sources = torch.arange(N) // 20 * 20  # one label is given to twenty tuples
    shared = dict.fromkeys(("digit", "place"), sources)
    alone, tied = (measure(Decoders(own=0.5), split_of(shared=s))[0] for s in ({}, shared))
    for metric, score in alone.items():
        assert tied[metric].value == score.value
    metric = "coherence/one-to-many"
    assert tied[metric].stderr == pytest.approx(alone[metric].stderr, rel=0.5)
    assert tied[metric].stderr != alone[metric].stderr
    images = dict.fromkeys(IMAGES, sources)
    assert measure(Decoders(own=0.5), split_of(shared=images))[0][metric] == alone[metric]


@pytest.mark.parametrize("name", ["shala", "mvae"])
def test_trained_methods_are_measured(name, tmp_path):
    data = PolyDigitsQuadrant(PolyDigitsQuadrant.Config(train=100, validation=10, test=40))
    data.prepare(DataPaths(tmp_path, tmp_path))
    spec, split = data.spec, data.split("test")
    model = find("model", name).cls(spec, resolve(name, spec.name, "smoke", ()).model)
    train(model, data, updates=2)
    classifiers = {
        m.name: Classifier(build(m, 14).eval(), None, m.name, "untrained")
        for m in spec.modalities
        if m.kind == "image"
    }
    context = EvalContext(torch.device("cpu"), 0, classifiers)
    with torch.inference_mode():
        evaluator = OneToMany(OneToMany.Config(batch_size=16))
        assert evaluator.skip(type(model), spec) is None
        outcome = evaluator.run(model, spec, split, context)
    found = {s.metric: s for s in outcome.scores if s.is_summary}
    assert set(found) == {metric.name for metric in OneToMany.metrics}
    assert all(0 <= score.value <= 1 and score.n == 40 for score in found.values())
    assert found["floor/one-to-many-variation"].value > 0.2  # of four draws a digit
    assert [part["open"] for part in outcome.details["given"].values()] == ["place", "digit"]


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("birds")
    data = Birds(Birds.Config(train=100, validation=10, test=400, captions="parts"))
    data.prepare(DataPaths(folder, folder))
    return data


class Real(torch.nn.Module):
    """Gives each tuple the views of a real one, which each call draws.

    Args:
        split: What is drawn from.
        own: Whether each target is drawn by itself.
        alike: Whether it is the first tuple that has the given text instead.
        after: How many tuples after it.
    """

    max_given = None

    def __init__(self, split, own=False, alike=False, after=0):
        super().__init__()
        self.split, self.own, self.alike, self.after = split, own, alike, after

    def translate(self, given, targets, rng):
        ((name, view),) = given.items()
        drawn, made = rng.integers(len(self.split), len(view)), {}
        if self.alike:
            same = (self.split.tensors[name] == view[:, None]).all(2)  # [b, N]
            drawn = (same.long().argmax(1) + self.after) % len(self.split)
        for target in targets:
            if self.own:
                drawn = rng.fork(target).integers(len(self.split), len(view))
            made[target] = self.split.batch(drawn).views[target]
        return made


class Known(torch.nn.Module):
    """Reads real images without an error: by the pictures themselves."""

    def __init__(self, spec, split):
        super().__init__()
        self.sizes = [len(a.values) for a in spec.grammar.attributes]
        rows = zip(split.tensors["image"], split.facts["attributes"], strict=True)
        self.answers = {image.numpy().tobytes(): values for image, values in rows}

    def forward(self, x):
        raw = (x * 255).round().to(torch.uint8)
        values = torch.stack([self.answers[image.numpy().tobytes()] for image in raw])
        parts = [
            torch.nn.functional.one_hot(v, k)
            for v, k in zip(values.unbind(1), self.sizes, strict=True)
        ]
        return torch.cat(parts, 1).float()


def of_birds(birds, model, network=None, **settings):
    spec, split = birds.spec, birds.split("test")
    found = {"image": Classifier(network or Known(spec, split), 1.0, "image", "exact")}
    context = EvalContext(torch.device("cpu"), 3, found)
    evaluator = OneToMany(OneToMany.Config(**settings))
    assert evaluator.skip(Decoders, spec) is None
    outcome = evaluator.run(model, spec, split, context)
    return {s.metric: s for s in outcome.scores if s.is_summary}, outcome


def test_phrases_of_a_text_that_is_no_sentence_are_read_and_contradictions_are_not(birds):
    spec, split = birds.spec, birds.split("test")
    words = spec["scene"].vocabulary.index
    texts = {
        "a small plump bird facing left on the branch .": ["small", "plump", "left", "branch"],
        "small plump large bird branch": [None, "plump", None, "branch"],
        "a a a a": [None] * 4,
    }

    class Writer(Real):
        def translate(self, given, targets, rng):
            made = super().translate(given, targets, rng)
            if "scene" in made:
                told = [words(word) for word in text.split()]
                told += [words("<eos>"), *[words("<pad>")] * (31 - len(told))]
                made["scene"] = torch.tensor(told).expand_as(made["scene"])
            return made

    for text, said in texts.items():
        _, outcome = of_birds(birds, Writer(split), items=40)
        for name, value in zip(OPEN["colours"], said, strict=True):
            key = "colours" if name == "size" else f"colours, {name}"
            share = outcome.details["given"][key]["coherence/one-to-many"]
            assert (share > 0) == (value is not None), (text, name)


OPEN = {  # on birds, by the caption that is given: the number of values of each open attribute
    "colours": {"size": 3, "shape": 4, "facing": 2, "background": 4},
    "scene": {"body": 8, "wing": 8, "crown": 8, "breast": 8, "bill": 4},
}
BY_CHANCE = [1 / k for own in OPEN.values() for k in own.values()]


def test_real_birds_drawn_together_agree_and_drawn_apart_by_chance(birds):
    split = birds.split("test")
    found, outcome = of_birds(birds, Real(split))
    chance = sum(BY_CHANCE) / len(BY_CHANCE)
    assert found["coherence/one-to-many"].value == found["ceiling/one-to-many"].value == 1
    control = found["coherence/one-to-many-control"]
    assert abs(control.value - chance) < 4 * control.stderr < 0.06
    apart = of_birds(birds, Real(split, own=True))[0]["coherence/one-to-many"]
    assert abs(apart.value - chance) < 4 * apart.stderr < 0.06
    made, floor = (found[f"{name}/one-to-many-variation"] for name in ("coherence", "floor"))
    assert made.value == pytest.approx(floor.value, abs=0.04)
    parts = outcome.details["given"]
    assert [(given.split(",")[0], part["open"]) for given, part in parts.items()] == [
        (given, name)
        for given, own in OPEN.items()
        for name in sorted(own, key=[a.name for a in birds.spec.grammar.attributes].index)
    ]
    pairs = [(s.metric, s.given, s.target) for s in outcome.scores if not s.is_summary]
    assert len(pairs) == len(set(pairs)) == 2 * 3 * 2 + 2  # both captions; given: images alone


def test_birds_of_the_same_caption_show_what_is_given(birds):
    found, outcome = of_birds(birds, Real(birds.split("test"), alike=True))
    assert found["coherence/one-to-many"].value == found["coherence/one-to-many-given"].value == 1
    given = outcome.details["given"]["colours"]  # which hardly two tuples share
    assert given["coherence/one-to-many-variation"] < 0.01


def test_shipped_classifiers_are_the_limit_on_birds(birds):
    spec, split = birds.spec, birds.split("test")
    network = classifiers.load(spec, "cpu")["image"].network
    found, _ = of_birds(birds, Real(split, alike=True), network)
    accuracies = classifiers.measure_answers(network, spec["image"], spec, split)
    right = sum(accuracies.values()) / len(accuracies)
    ceiling, made = (found[f"{name}/one-to-many"] for name in ("ceiling", "coherence"))
    assert ceiling.value == pytest.approx(right, abs=1e-6)
    assert abs(made.value - right) < 4 * made.stderr < 0.05
    assert right > 0.9


def test_the_variation_is_the_mean_over_attributes_that_are_given(birds):
    split = birds.split("test")
    values = split.facts["attributes"]
    names = [a.name for a in birds.spec.grammar.attributes]
    _, outcome = of_birds(birds, Real(split, alike=True, after=1))
    part = outcome.details["given"]["colours, facing"]
    facing = values[:, names.index("facing")]
    rows = [tuple(row.tolist()) for row in split.tensors["colours"]]
    first = {row: i for i, row in reversed(list(enumerate(rows)))}
    made = facing[torch.tensor([(first[row] + 1) % len(rows) for row in rows])]
    expected, variations = [], []
    for name in OPEN["scene"]:  # these five are given
        given = values[:, names.index(name)]
        variations.append(0.0)
        for v in given.unique():
            n, k = int((given == v).sum()), int(facing[given == v].sum())
            draws = torch.distributions.Binomial(n, torch.tensor(k / n)).log_prob(
                torch.arange(n + 1.0)
            )
            off = (torch.arange(n + 1.0) / n - k / n).abs()
            expected.append(n / len(split) * (draws.exp() * off).sum().item())
            shown = made[given == v].double().mean()  # of two values
            variations[-1] += n / len(split) * abs(shown.item() - k / n)
    assert part["floor/one-to-many-variation"] == pytest.approx(sum(expected) / 5, rel=1e-4)
    assert part["coherence/one-to-many-variation"] == pytest.approx(sum(variations) / 5, rel=1e-4)
    assert max(variations) > 1.1 * min(variations)  # so that none of the five stands for all


def test_data_without_an_open_attribute_are_skipped_or_refused(tmp_path):
    toy = toy_data(tmp_path).spec
    assert "no attributes" in OneToMany(OneToMany.Config()).skip(Decoders, toy)
    pair = DataSpec("pair", 1, MODALITIES[:1] + MODALITIES[3:4], 0, {}, "", "", grammar=GRAMMAR)
    assert "2 modalities" in OneToMany(OneToMany.Config()).skip(Decoders, pair)
    assert OneToMany(OneToMany.Config()).skip(Decoders, SPEC) is None
    spec = DataSpec("two", 1, (*MODALITIES[:1], *MODALITIES[3:]), 0, {}, "", "", grammar=GRAMMAR)
    split = split_of()
    context = EvalContext(torch.device("cpu"), 0, {})
    with pytest.raises(DataError, match="two"):
        OneToMany(OneToMany.Config()).run(Decoders(), spec, split, context)
