"""Coherence: do generated modalities show the same class, and that of the given one?

Protocol of docs/protocols.md, which is that of the MMVAE+ code (reproduction/metrics.md), with the
standard errors and the histogram that it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

_SUBSETS = 64  # enumerated up to here, drawn by a fixed seed beyond (docs/protocols.md)
_MOST_MODALITIES = 10


class CoherenceConfig(Settings):
    """How much is measured."""

    samples: int = setting(0, "Joint samples; 0: as many as test tuples.", "MMVAE+ code", ge=0)
    items: int = setting(
        0, "Test tuples for cross and posterior coherence; 0: all.", "MMVAE+ code: all", ge=0
    )
    subsets: bool = setting(True, "Whether several given modalities are measured.", "MoPoE code")
    subset_items: int = setting(
        0, "Test tuples for several given modalities; 0: all.", "ours: all", ge=0
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
            headline=True,
        ),
        Metric(
            "coherence/cross",
            "higher",
            3,
            "targets generated from one given modality that are classified as labelled, mean over "
            "sources, then targets",
            headline=True,
        ),
        Metric(
            "coherence/posterior",
            "higher",
            3,
            "decoded posterior samples of complete test tuples on which all classifiers agree: "
            "what a perfect prior would reach",
        ),
        Metric(
            "coherence/joint-classes",
            "higher",
            1,
            "effective number of classes (exponential of the entropy) among the agreeing joint "
            "samples: 1 is a collapsed model, whose joint coherence means nothing",
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
            "classifier/accuracy",
            "higher",
            3,
            "real test views classified as labelled: the ceiling of cross coherence",
            role="classifier",
            of="coherence",
        ),
    )

    def skip(self, model: type[Model], spec: DataSpec) -> str | None:
        if not spec.classes:
            return f"The dataset '{spec.name}' has no classes to judge by."
        if not has_ability(model, Joint) and not has_ability(model, Translate):
            return "The model neither samples jointly nor translates."
        return None

    def run(self, model: Model, spec: DataSpec, split: Split, context: EvalContext) -> Outcome:
        bench = _Bench(self.config, model, spec, split, context)
        scores = bench.accuracy()
        details = {
            "classifier_accuracy": {s.target: s.value for s in scores if s.target is not None},
            "items": bench.items.tolist() if self.config.items else "all",
            "subset_items": bench.subset_items.tolist() if self.config.subset_items else "all",
        }
        if isinstance(model, Joint):
            guesses = bench.joint()
            details["joint_histogram"] = _histogram(guesses, spec)
            scores += _joint_scores(guesses, spec.classes)
        if isinstance(model, Reconstruct):
            scores.append(bench.posterior())
        for k in bench.subsets:
            scores += bench.translations(k)
        details["cross_matrix"] = _matrix(scores, "coherence/cross")
        return Outcome(scores, details)


class _Bench:
    """A model, the data and the classifiers, and what the protocols make of them.

    Attributes:
        items: `[n]`, numbers of the test tuples for cross and posterior coherence.
        subset_items: `[n]`, numbers of those for several given modalities.
        subsets: The given modalities by their number; empty where the model does not translate.
    """

    def __init__(
        self,
        config: CoherenceConfig,
        model: Model,
        spec: DataSpec,
        split: Split,
        context: EvalContext,
    ):
        self.config, self.model, self.spec, self.context = config, model, spec, context
        self.split = split
        self.items = fixed_choice(len(split), config.items, "coherence").to(split.device)
        self.subset_items = fixed_choice(len(split), config.subset_items, "coherence").to(
            split.device
        )
        self.subsets = _subsets(model, spec.names, several=config.subsets)
        self._done, self._total = 0, self._amount()

    def accuracy(self) -> list[Score]:
        """The classifiers on the real views of the split."""
        everything = torch.arange(len(self.split), device=self.split.device)

        def views(first: int, size: int) -> Views:
            return self.split.batch(everything[first : first + size]).views

        right = self._guesses(views, self.spec.names, len(everything)) == self.split.labels
        parts = dict(zip(self.spec.names, right, strict=True))
        whole = self._shared(self.spec.names, everything)
        return [
            _summary("classifier/accuracy", list(right), whole),
            *(
                _part("classifier/accuracy", x, (), name, self._shared((name,), everything))
                for name, x in parts.items()
            ),
        ]

    def joint(self) -> Tensor:
        """Classes `[M, n]` of joint samples."""

        def sample(first: int, size: int) -> Views:
            return self.model.sample(size, self.context.rng("joint", first=first))

        return self._guesses(sample, self.spec.names, self.config.samples or len(self.split))

    def posterior(self) -> Score:
        """Agreement of decoded posterior samples, all modalities given."""

        def reconstruct(first: int, size: int) -> Views:
            views = self.split.batch(self.items[first : first + size]).views
            return self.model.reconstruct(views, self.context.rng("posterior", first=first))

        guesses = self._guesses(reconstruct, self.spec.names, len(self.items))
        shared = self._shared(self.spec.names, self.items)
        return _part("coherence/posterior", _agreeing(guesses), (), None, shared)

    def translations(self, k: int) -> list[Score]:
        """The summary for `k` given modalities, and each subset with each target outside it.

        A subset is encoded once for all its targets; a target is decoded and classified once.
        """
        metric = "coherence/cross" if k == 1 else f"coherence/subset-{k}"
        items = self.items if k == 1 else self.subset_items
        by_target: dict[str, list[Tensor]] = {name: [] for name in self.spec.names}
        parts = []
        for subset in self.subsets[k]:
            shared = self._shared(subset, items)
            targets = [name for name in self.spec.names if name not in subset]
            right = self._translate(metric, subset, targets, items) == self.split.labels[items]
            for target, own in zip(targets, right, strict=True):
                by_target[target].append(own.double())
                parts.append(_part(metric, own, subset, target, shared))
        means = [torch.stack(own).mean(0) for own in by_target.values() if own]
        return [_summary(metric, means, self._shared(self.spec.names, items)), *parts]

    def _shared(self, names: Sequence[str], items: Tensor) -> list[Tensor]:
        """Which image each tuple `[n]` shows, for every modality whose images tuples share."""
        return [self.split.rows[name][items] for name in names if name in self.split.rows]

    def _translate(
        self, metric: str, subset: tuple[str, ...], targets: list[str], items: Tensor
    ) -> Tensor:
        def translate(first: int, size: int) -> Views:
            views = self.split.batch(items[first : first + size]).views
            given = {name: views[name] for name in subset}
            rng = self.context.rng(metric, *subset, first=first)
            return self.model.translate(given, targets, rng)

        return self._guesses(translate, targets, len(items))

    def _guesses(self, make: Callable[[int, int], Views], names: Sequence[str], n: int) -> Tensor:
        """Classes `[len(names), n]` of the views that `make(first, size)` gives batch by batch."""
        classifiers, columns = self.context.classifiers, []
        for first in range(0, n, self.config.batch_size):
            size = min(self.config.batch_size, n - first)
            views = make(first, size)
            columns.append(
                torch.stack([classifiers[m].network(views[m]).argmax(-1) for m in names])
            )
            self._done += size
            self.context.report(self._done, self._total)
        return torch.cat(columns, dim=1)

    def _amount(self) -> int:
        """Tuples that all protocols go through, for the progress display."""
        amount = len(self.split)
        if isinstance(self.model, Joint):
            amount += self.config.samples or len(self.split)
        if isinstance(self.model, Reconstruct):
            amount += len(self.items)
        for k, subsets in self.subsets.items():
            amount += len(subsets) * len(self.items if k == 1 else self.subset_items)
        return amount


def _subsets(
    model: Model, names: tuple[str, ...], *, several: bool
) -> dict[int, list[tuple[str, ...]]]:
    if not isinstance(model, Translate):
        return {}
    most = min(model.max_given or len(names), len(names) - 1) if several else 1
    return {k: choose_subsets(names, k, _SUBSETS, "coherence") for k in range(1, most + 1)}


def _joint_scores(guesses: Tensor, classes: int) -> list[Score]:
    scores = [_part("coherence/joint", _agreeing(guesses), (), None, [])]
    counts = torch.bincount(guesses[0][_agreeing(guesses)], minlength=classes)
    if counts.any():
        spread = effective_classes(counts.double() / counts.sum()).item()
        scores.append(Score("coherence/joint-classes", spread, int(counts.sum())))
    return scores


def _agreeing(guesses: Tensor) -> Tensor:
    return (guesses == guesses[0]).all(0)


def _histogram(guesses: Tensor, spec: DataSpec) -> dict[str, Any]:
    """Samples of each class: those on which all agree, all by majority, all by each modality."""
    agreed = guesses[0][_agreeing(guesses)]
    majority = functional.one_hot(guesses, spec.classes).sum(0).argmax(-1)  # [n]

    def count(own: Tensor) -> list[int]:
        return torch.bincount(own, minlength=spec.classes).tolist()

    return {
        "agreeing": count(agreed),
        "majority": count(majority),
        "modalities": {name: count(own) for name, own in zip(spec.names, guesses, strict=True)},
    }


def _matrix(scores: list[Score], metric: str) -> dict[str, dict[str, float]]:
    """Accuracy by source, then target."""
    matrix: dict[str, dict[str, float]] = {}
    for score in scores:
        if score.metric == metric and score.target is not None:
            matrix.setdefault(score.given[0], {})[score.target] = score.value
    return matrix


def _part(
    metric: str, right: Tensor, given: tuple[str, ...], target: str | None, shared: list[Tensor]
) -> Score:
    """A rate over items `[n]`, each right or wrong, with the binomial standard error.

    Where items share images (`shared`, as for `_clustered`), the error is clustered by them.
    """
    value = right.double().mean().item()
    if any(len(own.unique()) < len(own) for own in shared):
        stderr, n = _clustered(right.double(), shared)
    else:
        n = len(right)
        stderr = (value * (1 - value) / n) ** 0.5
    return Score(metric, value, n, stderr, given, target)


def _summary(metric: str, means: list[Tensor], shared: list[Tensor]) -> Score:
    """The mean over targets of rates `[n]` that test tuples reach.

    The standard error is clustered by test tuple: a tuple gives one figure, the mean of its pairs,
    since these share a label and sources and are not independent. Where tuples share images it is
    clustered by these.
    """
    tuples = torch.stack(means).double().mean(0)  # [n]
    if any(len(own.unique()) < len(own) for own in shared):
        stderr, n = _clustered(tuples, shared)
    else:
        n = len(tuples)
        stderr = (tuples.std() / n**0.5).item() if n > 1 else None
    return Score(metric, tuples.mean().item(), n, stderr)


def _clustered(values: Tensor, shared: list[Tensor]) -> tuple[float | None, int]:
    """Standard error of the mean of figures that share images, and the number of images.

    The variances clustered by each modality's images are added, less what they count twice
    (Cameron, Gelbach and Miller 2011; exact for two modalities whose pairs occur once), and no
    smaller than the largest of them.

    Args:
        values: `[n]`, one a tuple.
        shared: For each modality `[n]`, which image each tuple shows.

    Returns:
        The error, None where there is one image, and the number of distinct images of the modality
        that has fewest.
    """
    n, deviation = len(values), values - values.mean()
    variances, counts = [], []
    for own in shared:
        _, image = own.unique(return_inverse=True)
        count = int(image.max()) + 1
        sums = deviation.new_zeros(count).index_add_(0, image, deviation)
        counts.append(count)
        variances.append(sums.square().sum() / n**2 * count / max(count - 1, 1))
    if min(counts) < 2:
        return None, min(counts)
    twice = (len(shared) - 1) * deviation.square().sum() / n / (n - 1)
    variance = torch.maximum(sum(variances) - twice, torch.stack(variances).amax())
    return variance.sqrt().item(), min(counts)
