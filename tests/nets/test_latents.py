"""The latents evaluator on latents whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from evaluators.latents import Latents, squared_mmd, two_sample_accuracy
from shalabench.api import DataSpec, EvalContext, Modality, Split

NAMES = ("a", "b", "c")
CLASSES = 4


def rows(n, dim, *, shift=0.0, scale=1.0, seed=0):
    return np.random.default_rng(seed).normal(shift, scale, (n, dim))


def test_the_mmd_equals_its_definition():
    a, b = rows(30, 3), rows(30, 3, shift=0.4, seed=1)
    squares = [((x - y) ** 2).sum() for i, x in enumerate(a) for y in a[i + 1 :]]
    width = np.median(squares)

    def kernel(x, y):
        return np.exp(-((x - y) ** 2).sum() / (2 * width))

    n = len(a)
    own = sum(kernel(x[i], x[j]) for x in (a, b) for i in range(n) for j in range(n) if i != j) / (
        n * (n - 1)
    )
    expected = own - 2 * np.mean([kernel(x, y) for x in a for y in b])
    assert squared_mmd(a, b)[0] == pytest.approx(expected, rel=1e-10)


def test_the_mmd_of_equal_distributions_is_within_its_error_of_zero():
    value, error = squared_mmd(rows(600, 4), rows(600, 4, seed=1))
    assert abs(value) < 4 * error
    assert error < 0.02


def test_the_mmd_grows_with_the_shift():
    values = [squared_mmd(rows(300, 4), rows(300, 4, shift=s, seed=1))[0] for s in (0, 0.5, 1)]
    assert values[0] < values[1] < values[2]


def test_two_samples_of_one_distribution_cannot_be_told_apart():
    assert abs(two_sample_accuracy(rows(500, 3), rows(500, 3, seed=1)) - 0.5) < 0.06


def test_samples_in_a_hole_of_the_other_are_told_apart():
    # A ring against its middle: alike in mean, unlike in radius.
    ring = rows(500, 2)
    ring *= 3 / np.linalg.norm(ring, axis=1, keepdims=True)
    assert two_sample_accuracy(ring, rows(500, 2, scale=0.5, seed=1)) > 0.98


class Fake(nn.Module):
    """A latent that holds the class where modality "a" is given, and else nothing of it."""

    max_given = None

    def __init__(self, prior_shift=0.0):
        super().__init__()
        self.prior_shift = prior_shift

    def encode(self, given, rng):
        n = len(next(iter(given.values())))
        z = rng.normal(n, 5)
        if "a" in given:
            z[:, 0] = z[:, 0] + 20 * (given["a"].flatten(1)[:, 0] * 255).round()
        return z

    def prior(self, n, rng):
        z = rng.normal(n, 5)
        z[:, 0] = z[:, 0] + 20 * rng.fork("class").integers(CLASSES, n) + self.prior_shift
        return z

    def decode(self, z, rng):
        raise NotImplementedError


def split_of(n):
    labels = torch.arange(n) % CLASSES
    pixels = labels.to(torch.uint8).view(n, 1, 1, 1)
    return Split(dict.fromkeys(NAMES, pixels), labels)


def measure(model, classes=CLASSES, batch_size=100, data=None):
    modalities = tuple(Modality(name, "image", (1, 1, 1)) for name in NAMES)
    spec = DataSpec("fake", 1, modalities, classes, {"test": 400}, "", "")
    config = Latents.Config(items=400, train_items=400, batch_size=batch_size)
    context = EvalContext(torch.device("cpu"), 0, splits=lambda name: split_of(800))
    return Latents(config).run(model, spec, data or split_of(400), context)


def summaries(outcome):
    return {s.metric: s.value for s in outcome.scores if s.is_summary}


def test_the_probe_reads_what_the_latent_holds_and_no_more():
    outcome = measure(Fake())
    found = {s.given: s.value for s in outcome.scores if s.metric == "latents/probe-1" and s.given}
    assert found["a",] == 1
    assert abs(found["b",] - 1 / CLASSES) < 0.1
    assert summaries(outcome)["latents/probe-1"] == pytest.approx(np.mean(list(found.values())))
    assert summaries(outcome)["latents/probe-3"] == 1


class Plain(Fake):
    """A latent that is the given pixel, without noise."""

    def encode(self, given, rng):
        z = rng.normal(len(next(iter(given.values()))), 5)
        if given.keys() == {"b"}:
            z = torch.zeros_like(z)
            z[:, 0] = given["b"].flatten(1)[:, 0]
        return z


def test_the_error_of_a_probe_counts_scans():
    """Of the 25 scans of a class, four jitters each, 7 look like the last class."""
    data, scans = split_of(400), torch.arange(400) % 100
    pixels = data.labels.where(scans // CLASSES % 4 > 0, 255).to(torch.uint8)
    tensors = data.tensors | {"b": pixels.view(-1, 1, 1, 1)}
    data = replace(data, tensors=tensors, shared={"b": scans})
    scores = measure(Plain(), data=data).scores
    found = {s.given: s for s in scores if s.metric == "latents/probe-1"}
    assert found["b",].value == pytest.approx((1 + 3 * 18 / 25) / 4)
    within = 3 * 25 * 0.72 * 0.28 / 96 / 100
    between = np.var([0.72, 0.72, 0.72, 1]) / 400
    assert found["b",].stderr == pytest.approx((within + between) ** 0.5)
    share = found["c",].value
    assert found["c",].stderr == pytest.approx((share * (1 - share) / 400) ** 0.5)


def test_a_matching_prior_has_no_hole_and_a_shifted_one_has():
    good, between, far = (summaries(measure(Fake(prior_shift=x))) for x in (0, 10, 40))
    assert abs(good["latents/two-sample"] - 0.5) < 0.08
    assert between["latents/two-sample"] > 0.95  # samples lie between the classes
    assert abs(good["latents/mmd"]) < far["latents/mmd"] / 10


def test_data_without_classes_have_a_hole_and_no_probe():
    found = summaries(measure(Fake(), classes=0))
    assert set(found) == {"latents/two-sample", "latents/mmd"}


def test_the_batch_size_changes_nothing():
    assert summaries(measure(Fake())) == summaries(measure(Fake(), batch_size=37))


def test_the_record_holds_points_for_a_picture():
    shown = measure(Fake()).details["projection"]
    assert len(shown["posterior"]) == len(shown["prior"]) == len(shown["labels"]) == 400
    assert shown["explained"][0] > 0.9  # the class axis


def test_tuples_that_show_the_same_again_are_encoded_once():
    whole = split_of(200)
    rows = dict.fromkeys(NAMES, torch.arange(200).repeat_interleave(2))
    paired = Split(whole.tensors, whole.labels.repeat_interleave(2), rows=rows)
    modalities = tuple(Modality(name, "image", (1, 1, 1)) for name in NAMES)
    spec = DataSpec("fake", 1, modalities, 0, {"test": 400}, "", "")
    outcomes = [
        Latents(Latents.Config(items=400)).run(
            Fake(), spec, split, EvalContext(torch.device("cpu"), 0)
        )
        for split in (whole, paired)
    ]
    assert summaries(outcomes[0]) == summaries(outcomes[1])
