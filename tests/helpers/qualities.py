"""Models, classifiers and weights that tests of image quality share."""

from __future__ import annotations

import io
from unittest import mock

import torch
from torch import nn

from shalabench.api import Classifier, DataSpec, EvalContext, Modality, Split

SPEC = DataSpec(
    name="pictures",
    version=1,
    modalities=(
        Modality("a", "image", (3, 6, 6)),
        Modality("b", "image", (1, 6, 6)),
        Modality("c", "text", (4,), "categorical", vocabulary=tuple("xyz")),
    ),
    classes=3,
    sizes={"test": 120},
    fingerprint="",
    source="",
)


def split_of(n, seed=0):
    make = torch.Generator().manual_seed(seed)
    tensors = {
        "a": torch.randint(256, (n, 3, 6, 6), generator=make, dtype=torch.uint8),
        "b": torch.randint(256, (n, 1, 6, 6), generator=make, dtype=torch.uint8),
        "c": torch.randint(3, (n, 4), generator=make),
    }
    return Split(tensors, torch.arange(n) % 3)


class Judge(nn.Module):
    """A classifier whose penultimate layer has a few features."""

    def __init__(self, channels, width=5, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(channels * 36, width), nn.Tanh())
            self.head = nn.Linear(width, 3)
        self.eval().requires_grad_(False)

    def forward(self, x):
        return self.head(self.body(x))


def tools_of(
    tmp_path=None, seed=0, report=lambda done, total: None, judge="j", train=None, width=5
):
    judges = {
        "a": Classifier(Judge(3, width), 1.0, judge + "a", ""),
        "b": Classifier(Judge(1, width), 1.0, judge + "b", ""),
    }
    return EvalContext(
        torch.device("cpu"),
        seed,
        judges,
        report,
        (lambda name: train) if train is not None else None,
        tmp_path / "cache" if tmp_path else None,
        tmp_path / "scratch" if tmp_path else None,
    )


class Copier(nn.Module):
    """Joint samples are noise; translations are the tuples' own images, a little off the grid."""

    max_given = None

    def __init__(self, split, off=0.0):
        super().__init__()
        self.split, self.off, self.calls = split, off, 0

    def sample(self, n, rng):
        self.calls += 1
        made = {"a": rng.fork("a").uniform(n, 3, 6, 6), "b": rng.fork("b").uniform(n, 1, 6, 6) ** 2}
        return made | {"c": rng.fork("c").integers(3, n, 4)}

    def translate(self, given, targets, rng):
        self.calls += 1
        n = len(next(iter(given.values())))
        views = self.split.batch(torch.arange(rng.first, rng.first + n)).views
        return {t: views[t] + self.off / 255 for t in targets}


def random_inception(seed=0):
    """A weights file of torch-fidelity's Inception with random weights, as bytes."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Network

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    with mock.patch.object(Network, "load_state_dict"):
        network = Network("random", ["2048"], feature_extractor_weights_path=empty)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for part in network.modules():
            if isinstance(part, nn.Conv2d):  # so that 20 layers neither blow up nor die down
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
    out = io.BytesIO()
    torch.save(network.state_dict(), out)
    return out.getvalue()
