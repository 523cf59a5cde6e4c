"""Coherence: do generated modalities show the same class, and that of the given one?

Protocol of design.md section 3, which is that of the MMVAE+ code (recipes.md section 11), with the
standard errors and the histogram that it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import torch
from torch import Tensor

from harness.api import (
    DataSpec,
    Evaluator,
    Joint,
    Metric,
    Model,
    Outcome,
    Reconstruct,
    Rng,
    Score,
    Settings,
    Split,
    Tools,
    Translate,
    Views,
    has_ability,
    register_evaluator,
    setting,
)

_SUBSETS = 64  # enumerated up to here, drawn by a fixed seed beyond (design.md section 3)
_MOST_MODALITIES = 10


class CoherenceConfig(Settings):
    """How much is measured."""

    samples: int = setting(0, "Joint samples; 0: as many as test tuples.", "MMVAE+ code", ge=0)
    items: int = setting(
        0, "Test tuples for cross and posterior coherence; 0: all.", "MMVAE+ code: all", ge=0
    )
    subset_items: int = setting(
        0, "Test tuples for several given modalities; 0: all; -1: none.", "ours: all", ge=-1
    )
    batch_size: int = setting(500, "Tuples at a time; changes no result.", "ours", ge=1)


@register_evaluator("coherence", version=1)
class Coherence(Evaluator):
    """Agreement of generated modalities by the modalities' classifiers."""

    Config = CoherenceConfig
    uses_classifiers = True
    metrics = (
        Metric(
            "coherence/joint",
            "higher",
            3,
            "joint samples on which all classifiers agree, whatever the class",
        ),
        Metric(
            "coherence/cross",
            "higher",
            3,
            "targets generated from one given modality that are classified as labelled, mean over "
            "sources, then targets",
        ),
        *(
            Metric(
                f"coherence/subset-{k}",
                "higher",
                3,
                f"as cross, with {k} given modalities and targets outside them",
            )
            for k in range(2, _MOST_MODALITIES)
        ),
        Metric(
            "coherence/posterior",
            "higher",
            3,
            "decoded posterior samples of complete test tuples on which all classifiers agree: "
            "what a perfect prior would reach",
        ),
        Metric(
            "classifier/accuracy",
            "higher",
            3,
            "real test views classified as labelled: the ceiling of cross coherence",
        ),
    )

    def skip(self, model: type[Model], spec: DataSpec) -> str | None:
        if not has_ability(model, Joint) and not has_ability(model, Translate):
            return "The model neither samples jointly nor translates."
        return None

    def run(self, model: Model, spec: DataSpec, split: Split, tools: Tools) -> Outcome:
        bench = _Bench(self.config, model, spec, split, tools)
        scores, details = bench.accuracy()
        if isinstance(model, Joint):
            found, histogram = bench.joint()
            scores += found
            details["joint_histogram"] = histogram
        if isinstance(model, Reconstruct):
            scores += bench.posterior()
        if isinstance(model, Translate):
            scores += bench.cross()
            most = model.max_given or len(spec.names) - 1
            for k in range(2, min(most, len(spec.names) - 1) + 1):
                scores += bench.subset(k)
        return Outcome(scores, details)


class _Bench:
    """A model, the data and the classifiers, with what the protocols share."""

    def __init__(
        self, config: CoherenceConfig, model: Model, spec: DataSpec, split: Split, tools: Tools
    ):
        self.config, self.model, self.spec, self.tools = config, model, spec, tools
        self.split = split
        self.given = _first_by_chance(split, config.items, tools.rng("items"))

    def accuracy(self) -> tuple[list[Score], dict]:
        right = {name: 0 for name in self.spec.names}
        for batch in self.split.batches(self.config.batch_size):
            guesses = self._classify(batch.views)
            for name, guess in guesses.items():
                right[name] += int((guess == self.split.labels[batch.index]).sum())
        n = len(self.split)
        parts = [
            Score("classifier/accuracy", hits / n, n, _binomial(hits / n, n), target=name)
            for name, hits in right.items()
        ]
        mean = sum(score.value for score in parts) / len(parts)
        return [Score("classifier/accuracy", mean, n), *parts], {}

    def joint(self) -> tuple[list[Score], dict[str, list[int]]]:
        n = self.config.samples or len(self.split)

        def make(first: int, size: int) -> Views:
            return self.model.sample(size, self.tools.rng("joint", first=first))

        guesses = self._guesses(make, n, "joint")  # [M, n]
        agree = (guesses == guesses[0]).all(0)
        classes = self.spec.classes
        histogram = {
            "agreeing": torch.bincount(guesses[0][agree], minlength=classes).tolist(),
            **{
                name: torch.bincount(guess, minlength=classes).tolist()
                for name, guess in zip(self.spec.names, guesses, strict=True)
            },
        }
        value = agree.double().mean().item()
        return [Score("coherence/joint", value, n, _binomial(value, n))], histogram

    def posterior(self) -> list[Score]:
        n = len(self.given)

        def make(first: int, size: int) -> Views:
            return self.model.reconstruct(self._views(first, size), self._rng("posterior", first))

        guesses = self._guesses(make, n, "posterior")
        value = (guesses == guesses[0]).all(0).double().mean().item()
        return [Score("coherence/posterior", value, n, _binomial(value, n))]

    def cross(self) -> list[Score]:
        names = self.spec.names
        return self._translations("coherence/cross", [(name,) for name in names], self.given)

    def subset(self, k: int) -> list[Score]:
        if self.config.subset_items < 0:
            return []
        subsets = list(combinations(self.spec.names, k))
        rng = self.tools.rng("subsets", k)
        if len(subsets) > _SUBSETS:
            order = rng.uniform(len(subsets)).argsort()[:_SUBSETS].tolist()
            subsets = [subsets[i] for i in sorted(order)]
        items = _first_by_chance(self.split, self.config.subset_items, self.tools.rng("items"))
        return self._translations(f"coherence/subset-{k}", subsets, items)

    def _translations(
        self, metric: str, subsets: list[tuple[str, ...]], items: Tensor
    ) -> list[Score]:
        """Scores of all targets outside each subset, encoding each subset once, with a summary.

        The summary's standard error is clustered by test tuple: a tuple gives one figure, the
        weighted mean of its pairs, since its pairs share a label and sources.
        """
        names, n = self.spec.names, len(items)
        labels = self.split.labels[items]
        right: dict[tuple[tuple[str, ...], str], Tensor] = {}
        for subset in subsets:
            targets = [name for name in names if name not in subset]

            def make(first: int, size: int, subset=subset, targets=targets) -> Views:
                views = self._views(first, size, items)
                given = {name: views[name] for name in subset}
                return self.model.translate(given, targets, self._rng(metric, first, *subset))

            guesses = self._guesses(make, n, f"{metric} {'+'.join(subset)}", targets)
            for target, guess in zip(targets, guesses, strict=True):
                right[subset, target] = (guess == labels).double()
        scores = []
        for (subset, target), hits in right.items():
            value = hits.mean().item()
            scores.append(Score(metric, value, n, _binomial(value, n), subset, target))
        by_target = [
            torch.stack([hits for (_, t), hits in right.items() if t == target]).mean(0)
            for target in names
            if any(t == target for _, t in right)
        ]
        tuples = torch.stack(by_target).mean(0)  # [n]
        stderr = (tuples.std() / n**0.5).item() if n > 1 else None
        return [Score(metric, tuples.mean().item(), n, stderr), *scores]

    def _guesses(
        self,
        make: Callable[[int, int], Views],
        n: int,
        phase: str,
        names: list[str] | None = None,
    ) -> Tensor:
        """Classes `[M, n]` of generated views, batch by batch."""
        names = names or list(self.spec.names)
        columns = []
        for first, size in _shards(n, self.config.batch_size):
            guesses = self._classify(make(first, size))
            columns.append(torch.stack([guesses[name] for name in names]))
            self.tools.report(first + size, n)
        return torch.cat(columns, dim=1)

    def _classify(self, views: Views) -> dict[str, Tensor]:
        judges = self.tools.classifiers
        return {name: judges[name].network(x).argmax(-1) for name, x in views.items()}

    def _views(self, first: int, size: int, items: Tensor | None = None) -> Views:
        items = self.given if items is None else items
        return self.split.batch(items[first : first + size]).views

    def _rng(self, metric: str, first: int, *names: str) -> Rng:
        return self.tools.rng(metric, *names, first=first)


def _shards(n: int, size: int) -> Iterator[tuple[int, int]]:
    for first in range(0, n, size):
        yield first, min(size, n - first)


def _first_by_chance(split: Split, n: int, rng: Rng) -> Tensor:
    """Numbers of all tuples, or of `n` drawn without replacement, in ascending order."""
    if n <= 0 or n >= len(split):
        return torch.arange(len(split), device=split.device)
    return rng.uniform(len(split)).argsort()[:n].sort().values


def _binomial(value: float, n: int) -> float:
    return (value * (1 - value) / n) ** 0.5
