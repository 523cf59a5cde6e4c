"""Coherence of models whose coherence is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evaluators.coherence import Coherence
from shalabench.api import Classifier, DataSpec, EvalContext, Modality, Split

NAMES = ("a", "b", "c", "d", "e")
CLASSES = 10


def spec_of(n, names=NAMES):
    modalities = tuple(Modality(name, "image", (1, 1, 1)) for name in names)
    return DataSpec("fake", 1, modalities, CLASSES, {"test": n}, "", "")


def split_of(n, names=NAMES):
    labels = torch.arange(n) % CLASSES
    pixels = labels.to(torch.uint8).view(n, 1, 1, 1)
    return Split(dict.fromkeys(names, pixels), labels)


class Reader(nn.Module):
    """A perfect classifier: the class is the pixel's value."""

    def forward(self, x):
        return nn.functional.one_hot((x.flatten(1)[:, 0] * 255).round().long(), CLASSES).float()


def context(seed=0, names=NAMES, report=lambda done, total: None):
    judge = Classifier(Reader(), 1.0, "", "")
    return EvalContext(torch.device("cpu"), seed, dict.fromkeys(names, judge), report)


def as_view(label):
    return (label.float() / 255).view(-1, 1, 1, 1)


class Fake(nn.Module):
    """Generates labels: right with probability `right`, else uniform; joint ones by `joint`."""

    max_given = None

    def __init__(self, right=1.0, joint="uniform"):
        super().__init__()
        self.right, self.joint = right, joint

    def sample(self, n, rng):
        if self.joint == "uniform":
            return {name: as_view(rng.fork(name).integers(CLASSES, n)) for name in NAMES}
        one = rng.integers(CLASSES, n) if self.joint == "perfect" else torch.zeros(n)
        return {name: as_view(one) for name in NAMES}

    def translate(self, given, targets, rng):
        x = next(iter(given.values()))
        label = (x.flatten(1)[:, 0] * 255).round().long()
        n, made = len(label), {}
        for name in targets:
            own = rng.fork(name)
            keep = own.uniform(n) < self.right
            made[name] = as_view(torch.where(keep, label, own.integers(CLASSES, n)))
        return made

    def reconstruct(self, views, rng):
        return views


class Pairs(nn.Module):
    """Translates alone, from one modality; pair i -> j is right on the first (i + j) tenths."""

    max_given = 1

    def translate(self, given, targets, rng):
        (source,) = given
        label = (given[source].flatten(1)[:, 0] * 255).round().long()
        tenth = torch.arange(rng.first, rng.first + len(label)) * 10 // 100
        made = {}
        for target in targets:
            right = tenth < NAMES.index(source) + NAMES.index(target)
            made[target] = as_view(torch.where(right, label, (label + 1) % CLASSES))
        return made


def measure(model, n=2000, **settings):
    evaluator = Coherence(Coherence.Config(**settings))
    outcome = evaluator.run(model, spec_of(n), split_of(n), context())
    return {s.metric: s for s in outcome.scores if s.is_summary}, outcome


def test_a_perfect_model_scores_one_without_error():
    scores, outcome = measure(Fake(joint="perfect"), n=200)
    for metric in ("joint", "cross", "posterior", "subset-2", "subset-4"):
        assert scores[f"coherence/{metric}"].value == 1
        assert scores[f"coherence/{metric}"].stderr == 0
    assert scores["coherence/joint-classes"].value > 9
    pairs = [s for s in outcome.scores if s.metric == "coherence/cross" and s.target]
    assert len(pairs) == 20


def test_independent_uniform_labels_agree_as_the_closed_form_says():
    """P(all five equal) = 10 * (1/10)^5."""
    scores, _ = measure(Fake(), n=2000, samples=60_000, batch_size=20_000, subsets=False)
    joint = scores["coherence/joint"]
    assert abs(joint.value - 1e-4) < 4 * (1e-4 / 60_000) ** 0.5


def test_known_accuracy_is_found_within_its_error():
    scores, outcome = measure(Fake(right=0.6), subsets=False)
    expected = 0.6 + 0.4 / CLASSES
    cross = scores["coherence/cross"]
    assert abs(cross.value - expected) < 4 * cross.stderr
    one = next(s for s in outcome.scores if s.metric == "coherence/cross" and s.target)
    assert one.stderr == pytest.approx((one.value * (1 - one.value) / 2000) ** 0.5)


def test_each_pair_is_found_exactly_and_averaged_over_sources_then_targets():
    scores, outcome = measure(Pairs(), n=100, batch_size=33)
    expected = {
        a: {b: (i + j) / 10 for j, b in enumerate(NAMES) if i != j} for i, a in enumerate(NAMES)
    }
    for source, row in outcome.details["cross_matrix"].items():
        assert row == pytest.approx(expected.pop(source))
    assert not expected
    assert scores["coherence/cross"].value == pytest.approx(0.4)
    assert set(scores) == {"classifier/accuracy", "coherence/cross"}  # max_given and abilities


def test_clustered_error_equals_the_bootstrap_over_tuples():
    """Pairs of a tuple succeed together here, so the binomial error would be far too small."""
    scores, _ = measure(Pairs(), n=100)
    hits = torch.stack(
        [torch.arange(100) * 10 // 100 < i + j for i in range(5) for j in range(5) if i != j]
    ).double()  # [pairs, tuples]
    resampled = torch.randint(100, (4000, 100), generator=torch.Generator().manual_seed(0))
    bootstrap = hits.mean(0)[resampled].mean(1).std().item()
    cross = scores["coherence/cross"]
    assert cross.stderr == pytest.approx(bootstrap, rel=0.05)
    assert cross.stderr > 3 * (cross.value * (1 - cross.value) / 2000) ** 0.5


def test_clustered_error_equals_that_of_repeated_measurement():
    model = Fake(right=0.6)
    evaluator = Coherence(Coherence.Config(subsets=False))
    found = []
    for seed in range(60):
        outcome = evaluator.run(model, spec_of(200), split_of(200), context(seed))
        found.append(next(s for s in outcome.scores if s.metric == "coherence/cross"))
    spread = torch.tensor([s.value for s in found]).std().item()
    stated = sum(s.stderr for s in found) / len(found)
    assert stated == pytest.approx(spread, rel=0.35)


def test_the_result_does_not_depend_on_the_batch_size():
    one, _ = measure(Fake(right=0.5), n=300, batch_size=300)
    other, _ = measure(Fake(right=0.5), n=300, batch_size=7)
    assert {k: s.value for k, s in one.items()} == {k: s.value for k, s in other.items()}


def test_permuted_labels_score_as_chance():
    evaluator, n = Coherence(Coherence.Config(subsets=False)), 2000
    split, make = split_of(n), torch.Generator().manual_seed(0)
    shuffled = Split(split.tensors, split.labels[torch.randperm(n, generator=make)])
    outcome = evaluator.run(Fake(), spec_of(n), shuffled, context())
    cross = next(s for s in outcome.scores if s.metric == "coherence/cross")
    assert abs(cross.value - 0.1) < 0.03


def test_a_collapsed_model_is_seen_in_the_histogram():
    scores, outcome = measure(Fake(joint="collapsed"), n=200, subsets=False)
    assert scores["coherence/joint"].value == 1
    assert scores["coherence/joint-classes"].value == 1
    assert outcome.details["joint_histogram"]["agreeing"] == [200] + [0] * 9


def test_fewer_items_are_the_same_ones_whatever_the_seed():
    evaluator = Coherence(Coherence.Config(items=20, subset_items=10, samples=30))
    found = [evaluator.run(Fake(), spec_of(100), split_of(100), context(seed)) for seed in (1, 2)]
    first, second = (outcome.details for outcome in found)
    assert first["items"] == second["items"]
    assert len(set(first["items"])) == 20
    assert set(first["subset_items"]) < set(first["items"])
    sizes = {s.metric: s.n for s in found[0].scores if s.is_summary}
    assert (sizes["coherence/joint"], sizes["coherence/cross"]) == (30, 20)
    assert (sizes["coherence/posterior"], sizes["coherence/subset-3"]) == (20, 10)


def test_many_subsets_are_sampled_the_same_way_in_every_run():
    names, told = tuple("abcdefghi"), []
    evaluator = Coherence(Coherence.Config())
    pairs = []
    for seed in (1, 2):
        lent = context(seed, names, lambda done, total: told.append((done, total)))
        outcome = evaluator.run(Many(names), spec_of(4, names), split_of(4, names), lent)
        scores = [s for s in outcome.scores if s.given]
        pairs.append([(s.given, s.target) for s in scores])
        for k, count in ((1, 9), (2, 36), (3, 64), (4, 64), (7, 36), (8, 9)):
            given = {s.given for s in scores if len(s.given) == k}
            assert len(given) == count
        assert all(s.target not in s.given for s in scores)
        assert told[-1][0] == told[-1][1]
    assert pairs[0] == pairs[1]


class Many(nn.Module):
    """Copies one given modality to any targets."""

    max_given = None

    def __init__(self, names):
        super().__init__()
        self.names = names

    def translate(self, given, targets, rng):
        return dict.fromkeys(targets, next(iter(given.values())))


def test_a_model_that_neither_samples_nor_translates_is_skipped_with_a_reason():
    evaluator = Coherence(Coherence.Config())
    assert "neither samples jointly nor translates" in evaluator.skip(nn.Module, spec_of(1))
    assert evaluator.skip(Pairs, spec_of(1)) is None


class Steady(nn.Module):
    """Translates from one modality; a given image is always right or always wrong."""

    max_given = 1

    def __init__(self, times):
        super().__init__()
        self.times = times

    def translate(self, given, targets, rng):
        (source,) = given
        label = (given[source].flatten(1)[:, 0] * 255).round().long()
        image = torch.arange(rng.first, rng.first + len(label)) // self.times
        right = image // CLASSES % 4 > 0  # in each class
        return {t: as_view(torch.where(right, label, (label + 1) % CLASSES)) for t in targets}


def test_the_error_counts_images_and_not_the_tuples_that_repeat_them():
    """Right on 3/4 of the 20 images of each class, however often each is paired."""
    n, times = 200, 20
    labels = (torch.arange(n) % CLASSES).repeat_interleave(times)
    first = (torch.arange(n) % CLASSES).to(torch.uint8).view(n, 1, 1, 1)
    others = labels.to(torch.uint8).view(-1, 1, 1, 1)
    tensors = {name: first if name == "a" else others for name in NAMES}
    split = Split(tensors, labels, rows={"a": torch.arange(n).repeat_interleave(times)})
    outcome = Coherence(Coherence.Config(subsets=False)).run(
        Steady(times), spec_of(len(split)), split, context()
    )
    parts = {s.given: s for s in outcome.scores if s.metric == "coherence/cross" and s.target}
    summary = next(s for s in outcome.scores if s.metric == "coherence/cross" and s.is_summary)
    expected = (0.75 * 0.25 / (n - CLASSES)) ** 0.5
    assert parts["a",].value == 0.75
    assert parts["a",].n == summary.n == n
    assert parts["a",].stderr == pytest.approx(expected, rel=0.01)
    assert summary.stderr == pytest.approx(expected, rel=0.01)
    assert parts["b",].n == n * times
    assert parts["b",].stderr == pytest.approx((0.75 * 0.25 / n / times) ** 0.5)


def test_the_error_counts_scans_and_not_their_jitters_in_each_given_modality_and_in_all():
    """As with shared rows, but each tuple has an image of its own."""
    n, times = 200, 20
    split = split_of(n * times)
    labels = (torch.arange(n) % CLASSES).repeat_interleave(times)
    pixels = labels.to(torch.uint8).view(-1, 1, 1, 1)
    scans = torch.arange(n).repeat_interleave(times)
    split = Split(dict.fromkeys(NAMES, pixels), labels, shared={"a": scans})
    outcome = Coherence(Coherence.Config(subsets=False)).run(
        Steady(times), spec_of(len(split)), split, context()
    )
    cross = [s for s in outcome.scores if s.metric == "coherence/cross"]
    expected = (0.75 * 0.25 / (n - CLASSES)) ** 0.5
    for score in cross:
        clustered = score.is_summary or score.given == ("a",)
        error = expected if clustered else (0.75 * 0.25 / n / times) ** 0.5
        assert score.stderr == pytest.approx(error)
        assert score.n == n * times


class Encoded(Fake):
    """A fake whose label goes through an encoder for each modality."""

    class Encoder(nn.Module):
        encodes_views = True

        def __init__(self):
            super().__init__()
            self.items = 0

        def forward(self, x):
            self.items += len(x)
            return x.clone()

    def __init__(self, remembers):
        super().__init__(right=0.7)
        self.encoders = nn.ModuleDict({name: self.Encoder() for name in NAMES})
        for encoder in self.encoders.values():
            encoder.encodes_views = remembers

    def translate(self, given, targets, rng):
        given = {name: self.encoders[name](x) for name, x in given.items()}
        return super().translate(given, targets, rng)

    def reconstruct(self, views, rng):
        return self.translate(views, NAMES, rng)


@torch.inference_mode()
def test_each_view_is_encoded_once_and_the_scores_are_those_without():
    settings = {"n": 90, "subset_items": 50, "batch_size": 40}
    models = Encoded(True).eval(), Encoded(False).eval()
    scores = [measure(model, **settings)[1].scores for model in models]
    assert scores[0] == scores[1]
    counts = [{encoder.items for encoder in model.encoders.values()} for model in models]
    assert counts == [{90 + 50}, {2 * 90 + 14 * 50}]
