"""Pictures of every kind of modality."""

from __future__ import annotations

import torch

from evaluators.samples import Samples
from harness.api import DataSpec, Modality, Split, Tools

SPEC = DataSpec(
    "fake",
    1,
    (
        Modality("a", "image", (3, 28, 28)),
        Modality("b", "image", (1, 64, 64)),
        Modality("c", "text", (12,), "categorical", vocabulary=tuple("abcd")),
    ),
    2,
    {"test": 20},
    "",
    "",
)


class Copy(torch.nn.Module):
    max_given = None

    def sample(self, n, rng):
        views = split().batch(torch.arange(n)).views
        return views

    def translate(self, given, targets, rng):
        views = self.sample(len(next(iter(given.values()))), rng)
        return {name: views[name] for name in targets}

    def reconstruct(self, views, rng):
        return {n: x + 0.1 if n == "a" else x for n, x in views.items()}


def split():
    return Split(
        {
            "a": torch.full((20, 3, 28, 28), 51, dtype=torch.uint8),
            "b": torch.zeros(20, 1, 64, 64, dtype=torch.uint8),
            "c": torch.ones(20, 12, dtype=torch.uint8),
        }
    )


def test_grids_and_reconstruction_error_of_images_and_texts():
    tools = Tools(torch.device("cpu"), 0)
    outcome = Samples(Samples.Config()).run(Copy(), SPEC, split(), tools)
    assert set(outcome.pictures) == {"joint", "cross", "reconstruction"}
    for picture in outcome.pictures.values():
        assert picture.dtype == torch.uint8
        assert picture.shape[2] == 3
    assert outcome.pictures["joint"].shape[:2] == (3 * 60, 12 * 60)
    by_target = {(s.metric, s.target): s.value for s in outcome.scores}
    assert abs(by_target["reconstruction/mae", "a"] - 0.1) < 1e-6
    assert by_target["reconstruction/mae", "b"] == 0
    assert abs(by_target["reconstruction/mae", None] - 0.05) < 1e-6
    assert by_target["reconstruction/token-accuracy", None] == 1
