"""Coherence of models whose coherence is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evaluators.coherence import Coherence
from harness.api import Classifier, DataSpec, Modality, Split, Tools

NAMES = ("a", "b", "c", "d", "e")
CLASSES = 10


@pytest.fixture(autouse=True)
def _double():
    """These models need no double precision; undoes the folder's default."""
    torch.set_default_dtype(torch.float32)


def spec_of(n):
    modalities = tuple(Modality(name, "image", (1, 1, 1)) for name in NAMES)
    return DataSpec("fake", 1, modalities, CLASSES, {"test": n}, "", "")


def split_of(n):
    labels = torch.arange(n) % CLASSES
    pixels = labels.to(torch.uint8).view(n, 1, 1, 1)
    return Split(dict.fromkeys(NAMES, pixels), labels)


class Reader(nn.Module):
    """A perfect classifier: the class is the pixel's value."""

    def forward(self, x):
        return nn.functional.one_hot((x.flatten(1)[:, 0] * 255).round().long(), CLASSES).float()


def tools(seed=0):
    judge = Classifier(Reader(), 1.0, "", "")
    return Tools(torch.device("cpu"), seed, dict.fromkeys(NAMES, judge))


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


def measure(model, n=2000, **settings):
    evaluator = Coherence(Coherence.Config(**settings))
    outcome = evaluator.run(model, spec_of(n), split_of(n), tools())
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
    """Two of ten classes thrice: P(all five equal) = 10 * 10^-5."""
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


def test_clustered_error_equals_that_of_repeated_measurement():
    model = Fake(right=0.6)
    evaluator = Coherence(Coherence.Config(subsets=False))
    found = []
    for seed in range(60):
        outcome = evaluator.run(model, spec_of(200), split_of(200), tools(seed))
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
    split = split_of(n)
    shuffled = Split(split.tensors, split.labels[torch.randperm(n)])
    outcome = evaluator.run(Fake(), spec_of(n), shuffled, tools())
    cross = next(s for s in outcome.scores if s.metric == "coherence/cross")
    assert abs(cross.value - 0.1) < 0.03


def test_a_collapsed_model_is_seen_in_the_histogram():
    scores, outcome = measure(Fake(joint="collapsed"), n=200, subsets=False)
    assert scores["coherence/joint"].value == 1
    assert scores["coherence/joint-classes"].value == 1
    assert outcome.details["joint_histogram"]["agreeing"] == [200] + [0] * 9
