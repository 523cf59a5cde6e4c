"""The consistency evaluator: one object or several, colours, distances, collapsed samplers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.rings import NAMES, SPEC, VIEWS, Known, ring_of, tools_of

from evaluators.consistency import (
    Consistency,
    gaussian_distance,
    intraclass_correlation,
)
from shalabench.api import BenchError, Rng, Split
from shalabench.metrics.fid import Real, effective_classes, frechet

pytestmark = pytest.mark.float64

TRAIN = ring_of(30, seed=1)


def measure(make, train=TRAIN, spec=SPEC, **settings):
    """Summaries of what `make` generates from the numbers of its samples."""

    class Sampler(Known):
        def sample(self, n, rng):
            return make(torch.arange(rng.first, rng.first + n))

    config = Consistency.Config(**{"samples": 30, **settings})
    outcome = Consistency(config).run(Sampler(), spec, ring_of(8), tools_of(train))
    return {s.metric: s for s in outcome.scores}, outcome


def of_train(index):
    return TRAIN.batch(index).views


def test_training_objects_fit_themselves_in_shape_and_colour():
    found, outcome = measure(of_train)
    assert found["consistency/shape"].value == 1
    assert found["consistency/one-object"].value == 1
    assert found["consistency/colour"].value > 0.8
    assert found["consistency/colour-distance"].value == pytest.approx(0, abs=1e-5)
    sheet = outcome.pictures["sheet"]
    block = sheet.shape[0] // 6  # a pair of strips and the space below it
    assert sheet.dtype == torch.uint8
    assert block > 2 * 64


def test_views_of_several_objects_have_the_floor_s_figures():
    def mixed(index):
        return {n: of_train((index + v) % 30)[n] for v, n in enumerate(NAMES)}

    found, _ = measure(mixed)
    for kind in ("shape", "one-object", "colour", "colour-distance"):
        floor = found[f"floor-mixed/consistency/{kind}"].value
        assert found[f"consistency/{kind}"].value == pytest.approx(floor, abs=1e-6)
    assert found["consistency/one-object"].value < 0.8
    assert abs(found["consistency/colour"].value) < 0.1


def test_overlap_is_that_of_a_loop_over_objects_and_views():
    other = ring_of(5, seed=3)
    found, _ = measure(lambda index: other.batch(index % 5).views, samples=5)

    def masks(split):
        every = split.batch(torch.arange(len(split))).views
        return np.stack([(every[n].numpy() < 0.95).any(1) for n in NAMES], 1)  # discs have no holes

    own, known = masks(other), masks(TRAIN)
    best, free = [], []
    for a in own:
        each = np.array(
            [[(x & y).sum() / (x | y).sum() for x, y in zip(a, b, strict=True)] for b in known]
        )
        best.append(each.mean(1).max())
        free.append(each.max(0).mean())
    assert found["consistency/shape"].value == pytest.approx(np.mean(best), abs=1e-6)
    expected = np.mean(best) / np.mean(free)
    assert found["consistency/one-object"].value == pytest.approx(expected, abs=1e-6)


def test_white_samples_fit_nothing_and_have_no_colour():
    found, _ = measure(lambda index: {n: torch.ones(len(index), 3, 16, 16) for n in NAMES})
    assert found["consistency/shape"].value == 0
    assert "consistency/one-object" not in found
    assert "consistency/colour" not in found


def test_a_collapsed_sampler_has_one_class():
    spec = replace(SPEC, classes=3)
    labelled = Split(TRAIN.tensors, torch.arange(30) % 3, facts=TRAIN.facts)
    one, _ = measure(lambda index: of_train(torch.zeros_like(index)), labelled, spec)
    every, _ = measure(of_train, labelled, spec)
    assert one["consistency/classes"].value == pytest.approx(1)
    assert every["consistency/classes"].value > 2.5  # some discs are of one size


def test_the_batch_size_changes_nothing():
    first, second = (measure(of_train, batch_size=size)[0] for size in (7, 30))
    assert {k: s.value for k, s in first.items()} == {k: s.value for k, s in second.items()}


def test_values_that_are_not_finite_are_told():
    with pytest.raises(BenchError, match="not finite"):
        measure(lambda index: {n: x * torch.nan for n, x in of_train(index).items()})


def test_without_training_objects_nothing_is_measured():
    with pytest.warns(UserWarning, match="training objects"):
        outcome = Consistency(Consistency.Config()).run(Known(), SPEC, ring_of(4), tools_of())
    assert outcome.scores == []


def test_intraclass_correlation_is_that_of_an_analysis_of_variance():
    x = Rng(5).normal(2, VIEWS, 9).double() + 2 * Rng(6).normal(2, 1, 9).double()
    between = within = 0.0
    for d in range(2):
        for i in range(9):
            between += VIEWS * (x[d, :, i].mean() - x[d].mean()) ** 2 / (9 - 1)
            for v in range(VIEWS):
                within += (x[d, v, i] - x[d, :, i].mean()) ** 2 / (9 * (VIEWS - 1))
    expected = (between - within) / (between + (VIEWS - 1) * within)
    assert intraclass_correlation(x).item() == pytest.approx(expected.item())
    stacked = torch.stack([x, x.flip(1)], 2)  # [D, V, R, n]
    assert intraclass_correlation(stacked).tolist() == pytest.approx([expected.item()] * 2)


def test_distance_of_gaussians_is_the_root_of_the_frechet_distance():
    a, b = Rng(1).normal(3, 50).double(), 1 + 2 * Rng(2).normal(3, 40).double()
    expected = frechet(a.T, Real(b.T)).item() ** 0.5
    assert gaussian_distance(a[:, None], b[:, None]).item() == pytest.approx(expected, rel=1e-6)


def test_effective_classes_of_known_shares():
    shares = torch.tensor([[0.5, 0.25, 0.25], [0, 1, 0]]).T
    expected = np.exp(-(0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.25)))
    assert effective_classes(shares).tolist() == pytest.approx([expected, 1])
