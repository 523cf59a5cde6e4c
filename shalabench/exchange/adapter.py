"""Samples as a model that the evaluators can ask, and real views that are recognised."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shalabench.api import (
    Batch,
    BenchError,
    Classifier,
    DataSpec,
    Model,
    Rng,
    Settings,
    Split,
    Stage,
    Views,
    choose_subsets,
    derive_seed,
)
from shalabench.api.files import write_atomic
from shalabench.exchange.check import complete_subsets
from shalabench.exchange.layout import Samples

_SUBSETS = 64  # of each number of given modalities, as the evaluator of coherence chooses them
_BATCH = 500


class Lacking(BenchError):
    """An evaluator asks for samples that are not there."""


@dataclass(frozen=True)
class TrackedSplit(Split):
    """A split that knows to which tuples the views of its last batches belong."""

    recent: deque[Batch] = field(default_factory=lambda: deque(maxlen=2))

    def batch(self, index: Tensor) -> Batch:
        self.recent.append(batch := super().batch(index))
        return batch

    def number(self, view: Tensor, name: str) -> Tensor | None:
        """Numbers `[b]` of the tuples of a view, which must be the very tensor of a batch."""
        for batch in self.recent:
            known = batch.__dict__.get("views", {})  # only views that were read
            if known.get(name) is view:
                return batch.index
        return None


def track(split: Split, index: Tensor) -> TrackedSplit:
    """The tuples `index` of a split, in this order.

    A part keeps all real images as the reference of image quality: its tuples are rows of them, as
    those of data that pair an image several times.
    """
    whole = len(index) in (0, len(split))
    part = (
        split
        if whole
        else replace(
            split,
            labels=None if split.labels is None else split.labels[index],
            present=None if split.present is None else split.present[index],
            rows={n: split.rows[n][index] if n in split.rows else index for n in split.tensors},
            facts={name: x[index] for name, x in split.facts.items()},
            shared={name: x[index] for name, x in split.shared.items()},
        )
    )
    return TrackedSplit(**{f.name: getattr(part, f.name) for f in fields(Split)})


class _External(Model):
    """Has the samples of its class's abilities."""

    reduced = ""

    def __init__(self, spec: DataSpec, samples: Samples, split: TrackedSplit, name: str):
        super().__init__(spec, Settings())
        self.samples, self.split, self.name = samples, split, name

    def stages(self) -> list[Stage]:
        return []

    def _rows(self, given: Views) -> Tensor:
        for name, view in given.items():
            if (numbers := self.split.number(view, name)) is not None:
                return numbers.cpu()
        raise Lacking("It gives views that are no test views, and samples of these are not there.")


class _Joint(_External):
    """Takes rows in a fixed random order: files are often grouped by class or by component."""

    def sample(self, n: int, rng: Rng) -> Views:
        number = self.samples.number
        if rng.first + n > number:
            raise Lacking(f"It needs {rng.first + n:,} joint samples, and there are {number:,}.")
        order = Rng(derive_seed("joint samples", number)).uniform(number).argsort(stable=True)
        rows = order[rng.first : rng.first + n]
        return {name: _view(x[rows], rng) for name, x in self.samples.joint.items()}


class _Translate(_External):
    max_given: int | None = 1

    def translate(self, given: Views, targets: Sequence[str], rng: Rng) -> Views:
        made = self.samples.translations.get(tuple(n for n in self.spec.names if n in given), {})
        if absent := [name for name in targets if name not in made]:
            raise Lacking(f"There are no samples of {absent[0]} given {' and '.join(given)}.")
        rows = self._rows(given)
        return {name: _view(made[name][rows], rng) for name in targets}


class _Reconstruct(_External):
    def reconstruct(self, views: Views, rng: Rng) -> Views:
        rows = self._rows(views)
        return {name: _view(x[rows], rng) for name, x in self.samples.reconstructions.items()}


def _view(x: Tensor, rng: Rng) -> Tensor:
    moved = x.to(rng.device)
    return moved.float().div_(255) if moved.dtype == torch.uint8 else moved


def as_model(samples: Samples, spec: DataSpec, split: TrackedSplit, name: str) -> _External:
    """A model with the abilities that the samples give it."""
    bases: list[type[_External]] = [_Joint] if samples.joint else []
    bases += [_Translate] if samples.translations else []
    bases += [_Reconstruct] if samples.reconstructions else []
    cls: Any = type("External", tuple(bases) or (_External,), {"name": name})
    model = cls(spec, samples, split, name).eval()
    if samples.translations:
        model.max_given = _most_given(samples, spec.names)
    return model


def _most_given(samples: Samples, names: tuple[str, ...]) -> int:
    """The largest number of given modalities, so that all subsets of it and below are there."""
    most = 1
    for k in range(2, len(names)):
        subsets = choose_subsets(names, k, _SUBSETS, "coherence")
        ordered = [tuple(n for n in names if n in subset) for subset in subsets]
        if not complete_subsets(samples, ordered, names):
            break
        most = k
    return most


def remember(
    classifiers: dict[str, Classifier], split: TrackedSplit, key: str, cache: Path | None
) -> dict[str, Classifier]:
    """Classifiers that answer to the real views of a whole split once for all evaluations.

    Args:
        classifiers: By modality.
        split: Whose views are recognised.
        key: Of its content; empty for a split of which nothing is kept.
        cache: Folder.
    """
    if not key or cache is None:
        return classifiers
    kept = {}
    for name, classifier in classifiers.items():
        digest = hashlib.sha256(f"{key} {classifier.digest} {name}".encode()).hexdigest()
        file = cache / "answers" / f"{digest[:32]}.npy"
        network = _Remembered(classifier.network, split, name, file).eval()
        kept[name] = replace(classifier, network=network)
    return kept


class _Remembered(nn.Module):
    """A classifier that looks up its answers to real views."""

    def __init__(self, network: nn.Module, split: TrackedSplit, name: str, file: Path):
        super().__init__()
        self.network, self._split, self._name, self._file = network, split, name, file
        self._answers: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        numbers = self._split.number(x, self._name)
        if numbers is None:
            return self.network(x)
        if self._answers is None:
            self._answers = self._read().to(x.device)
        return self._answers[numbers]

    def _read(self) -> Tensor:
        """Logits `[N, classes]` of all tuples."""
        try:
            return torch.from_numpy(np.load(self._file, allow_pickle=False))
        except (OSError, ValueError, EOFError):
            pass
        plain = Split({self._name: self._split.tensors[self._name]}, rows=self._split.rows)
        batches = plain.batches(_BATCH)
        answers = torch.cat([self.network(batch.views[self._name]) for batch in batches]).cpu()
        write_atomic(self._file, lambda path: np.save(path.open("wb"), answers.numpy()))
        return answers
