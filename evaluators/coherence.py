"""Coherence: do generated modalities show the same class, and the class of the given modality?

The protocol (docs/protocols.md) is that of the MMVAE+ code (reproduction/metrics.md), with standard
errors and a histogram of classes added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from shalabench.api import (
    DataSpec,
    EvalContext,
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
    Translate,
    Views,
    choose_subsets,
    fixed_choice,
    has_ability,
    register_evaluator,
    setting,
)
from shalabench.metrics.fid import effective_classes
from shalabench.metrics.scores import Clusters, mean_score

_SUBSETS = 64  # all up to here, else a choice by a fixed seed (docs/protocols.md)
_MOST_MODALITIES = 10


class CoherenceConfig(Settings):
    """How much is measured."""

    samples: int = setting(0, "Joint samples; 0: as many as test tuples.", "MMVAE+ code", ge=0)
    items: int = setting(
        0, "Test tuples for cross and posterior coherence; 0: all.", "MMVAE+ code: all", ge=0
    )
    subsets: bool = setting(True, "Whether several given modalities are measured.", "MoPoE code")
    subset_items: int = setting(
        0, "Test tuples for several given modalities; 0: all.", "our choice: all", ge=0
    )
    batch_size: int = setting(500, "Tuples at a time; changes no result.", "our choice", ge=1)


@register_evaluator("coherence", version=1)
class Coherence(Evaluator):
    """Agreement of generated views on a class, by a classifier for each modality."""

    Config = CoherenceConfig
    uses_classifiers = True
    metrics = (
        Metric.share(
            "coherence/joint",
            "share of joint samples on which all classifiers agree",
            headline=True,
        ),
        Metric.share(
            "coherence/cross",
            "share of targets generated from one other modality that have the label of the tuple, "
            "mean over sources, then targets",
            headline=True,
        ),
        Metric.share(
            "coherence/posterior",
            "as joint, for decoded posterior samples; a perfect prior would reach this value",
        ),
        Metric(
            "coherence/joint-classes",
            "higher",
            1,
            "effective number of classes (exponential of the entropy) among the joint samples on "
            "which all classifiers agree; if it is 1, joint coherence means nothing",
            of="coherence/joint",
        ),
        *(
            Metric.share(f"coherence/subset-{k}", f"as cross, given {k} modalities")
            for k in range(2, _MOST_MODALITIES)
        ),
        Metric.share(
            "classifier/accuracy",
            "accuracy of the classifiers on real test views, a ceiling of cross coherence",
            role="classifier",
            of="coherence",
        ),
    )

    def skip(self, model: type[Model], spec: DataSpec) -> str | None:
        if not spec.classes:
            return f"The dataset '{spec.name}' has no classes to evaluate with."
        if not has_ability(model, Joint) and not has_ability(model, Translate):
            return "The model neither samples jointly nor translates."
        return None

    def run(self, model: Model, spec: DataSpec, split: Split, context: EvalContext) -> Outcome:
        work = _Measurement(self.config, model, spec, split, context)
        scores = work.accuracy()
        details = {
            "classifier_accuracy": {s.target: s.value for s in scores if s.target is not None},
            "items": work.items.tolist() if self.config.items else "all",
            "subset_items": work.subset_items.tolist() if self.config.subset_items else "all",
        }
        if isinstance(model, Joint):
            classes = work.joint()
            details["joint_histogram"] = _histogram(classes, spec)
            scores += _joint_scores(classes, spec.classes)
        scores += work.given()
        details["cross_matrix"] = _matrix(scores, "coherence/cross")
        return Outcome(scores, details)


@dataclass
class _Measurement:
    """The protocols, applied to a model, data and classifiers.

    Attributes:
        items: `[n]`, numbers of the test tuples for cross and posterior coherence.
        subset_items: `[n]`, numbers of those for several given modalities.
        subsets: The given modalities by their number; empty if the model does not translate.
    """

    config: CoherenceConfig
    model: Model
    spec: DataSpec
    split: Split
    context: EvalContext

    def __post_init__(self):
        config, n = self.config, len(self.split)
        self.items, self.subset_items = (
            fixed_choice(n, wanted, "coherence").to(self.split.device)
            for wanted in (config.items, config.subset_items)
        )
        self.subsets = _subsets(self.model, self.spec.names, several=config.subsets)
        self.samples = config.samples or n
        total = n + isinstance(self.model, Joint) * self.samples
        total += isinstance(self.model, Reconstruct) * len(self.items)
        total += sum(len(x) * len(self._items_of(k)) for k, x in self.subsets.items())
        self.context.expect(total)

    def accuracy(self) -> list[Score]:
        """The classifiers on the real views of the split."""
        metric, names = "classifier/accuracy", self.spec.names
        everything = torch.arange(len(self.split), device=self.split.device)
        classes = self._classify(lambda i, _: self.split.batch(i).views, names, everything)
        right = classes == self.split.labels
        scores = [self._score(metric, right.double().mean(0), everything)]
        for name, hits in zip(names, right, strict=True):
            scores.append(self._score(metric, hits, everything, (name,), (), name))
        return scores

    def joint(self) -> Tensor:
        """Classes `[M, n]` of joint samples."""
        return self._classify(
            lambda i, rng: self.model.sample(len(i), rng), self.spec.names, self.samples, "joint"
        )

    def given(self) -> list[Score]:
        """Posterior coherence, then that of each number of given modalities.

        What needs the same tuples is measured batch by batch, so that each view is encoded once.
        """
        single, several = {}, {}
        if isinstance(self.model, Reconstruct):
            single["posterior",] = self._reconstruct
        for k, subsets in self.subsets.items():
            jobs = single if k == 1 else several
            for subset in subsets:
                jobs[_metric(k), *subset] = self._translation(subset)
        classes = self._classify_each(single, self.items)
        classes |= self._classify_each(several, self.subset_items)
        scores = []
        if isinstance(self.model, Reconstruct):
            agreeing = _agreeing(classes["posterior",])
            scores.append(self._score("coherence/posterior", agreeing, self.items))
        for k in self.subsets:
            scores += self._translations(k, classes)
        return scores

    def _translations(self, k: int, classes: dict[tuple[str, ...], Tensor]) -> list[Score]:
        """The summary for `k` given modalities, and each subset with each target outside it."""
        metric, items = _metric(k), self._items_of(k)
        labels = self.split.labels[items]
        by_target: dict[str, list[Tensor]] = {name: [] for name in self.spec.names}
        parts = []
        for subset in self.subsets[k]:
            right = classes[metric, *subset] == labels
            for target, hits in zip(self._targets(subset), right, strict=True):
                by_target[target].append(hits.double())
                parts.append(self._score(metric, hits, items, subset, subset, target))
        means = [torch.stack(hits).mean(0) for hits in by_target.values() if hits]
        tuples = torch.stack(means).mean(0)  # [n]
        return [self._score(metric, tuples, items), *parts]

    def _items_of(self, k: int) -> Tensor:
        return self.items if k == 1 else self.subset_items

    def _score(
        self,
        metric: str,
        hits: Tensor,
        items: Tensor,
        names: tuple[str, ...] = (),
        given: tuple[str, ...] = (),
        target: str | None = None,
    ) -> Score:
        """The mean over test tuples of what is right or wrong (bool), or of a tuple's mean, `[n]`.

        A tuple contributes one value to a summary, the mean of its pairs, since these share a label
        and sources.

        Args:
            metric: Its name.
            hits: One a tuple.
            items: `[n]`, the tuples' numbers.
            names: Modalities whose real views decide; all if empty.
            given, target: As in `Score`.
        """
        names = names or self.spec.names
        sources = self.split.sources(names, items)
        if sources is None:
            return mean_score(metric, hits, given, target)
        clusters = Clusters(sources, self.split.labels[items])
        rows = [self.split.rows[name][items] for name in names if name in self.split.rows]
        images = min((len(x.unique()) for x in rows), default=None)
        return mean_score(metric, hits, given, target, clusters, images)

    def _targets(self, subset: tuple[str, ...]) -> list[str]:
        return [name for name in self.spec.names if name not in subset]

    def _reconstruct(self, views: Views, rng: Rng) -> Tensor:
        return self._read(self.model.reconstruct(views, rng), self.spec.names)

    def _translation(self, subset: tuple[str, ...]) -> Callable[[Views, Rng], Tensor]:
        """A subset is encoded once for all its targets; a target is decoded and read once."""
        targets = self._targets(subset)

        def translate(views: Views, rng: Rng) -> Tensor:
            given = {name: views[name] for name in subset}
            return self._read(self.model.translate(given, targets, rng), targets)

        return translate

    def _classify_each(
        self, jobs: dict[tuple[str, ...], Callable[[Views, Rng], Tensor]], items: Tensor
    ) -> dict[tuple[str, ...], Tensor]:
        """Classes `[m, n]` of the m views that each job makes of the tuples."""
        if not jobs:
            return {}
        size = self.config.batch_size
        made = self.context.map_views(self.model, self.split, jobs, items, size)
        return {purpose: classes.T.contiguous() for purpose, classes in made.items()}

    def _classify(
        self,
        make: Callable[[Tensor, Rng], Views],
        names: Sequence[str],
        items: Tensor | int,
        *purpose: str,
    ) -> Tensor:
        """Classes `[len(names), n]` of the views that `make` returns."""
        classes = self.context.map(
            lambda index, rng: self._read(make(index, rng), names),
            items,
            self.config.batch_size,
            *purpose,
        )
        return classes.T.contiguous()

    def _read(self, views: Views, names: Sequence[str]) -> Tensor:
        """Classes `[b, len(names)]` of views."""
        classifiers = self.context.classifiers
        return torch.stack([classifiers[m].network(views[m]).argmax(-1) for m in names], 1)


def _metric(k: int) -> str:
    """Of `k` given modalities."""
    return "coherence/cross" if k == 1 else f"coherence/subset-{k}"


def _subsets(
    model: Model, names: tuple[str, ...], *, several: bool
) -> dict[int, list[tuple[str, ...]]]:
    if not isinstance(model, Translate):
        return {}
    most = min(model.max_given or len(names), len(names) - 1) if several else 1
    return {k: choose_subsets(names, k, _SUBSETS, "coherence") for k in range(1, most + 1)}


def _joint_scores(predicted: Tensor, classes: int) -> list[Score]:
    agreeing = _agreeing(predicted)
    scores = [mean_score("coherence/joint", agreeing)]
    counts = torch.bincount(predicted[0][agreeing], minlength=classes)
    if counts.any():
        effective = effective_classes(counts.double() / counts.sum()).item()
        scores.append(Score("coherence/joint-classes", effective, int(counts.sum())))
    return scores


def _agreeing(predicted: Tensor) -> Tensor:
    return (predicted == predicted[0]).all(0)


def _histogram(predicted: Tensor, spec: DataSpec) -> dict[str, Any]:
    """Samples of each class: where all agree, by majority, and by each modality's classifier."""
    agreed = predicted[0][_agreeing(predicted)]
    majority = functional.one_hot(predicted, spec.classes).sum(0).argmax(-1)  # [n]

    def count(x: Tensor) -> list[int]:
        return torch.bincount(x, minlength=spec.classes).tolist()

    return {
        "agreeing": count(agreed),
        "majority": count(majority),
        "modalities": {name: count(x) for name, x in zip(spec.names, predicted, strict=True)},
    }


def _matrix(scores: list[Score], metric: str) -> dict[str, dict[str, float]]:
    """Accuracy by source, then target."""
    matrix: dict[str, dict[str, float]] = {}
    for score in scores:
        if score.metric == metric and score.target is not None:
            matrix.setdefault(score.given[0], {})[score.target] = score.value
    return matrix
