"""Consistency: do the views of a joint sample show one object, of a kind that the data have?

Joint samples have no truth. The protocol is ours (reproduction/style-transfer.md): the silhouettes
of samples are compared with those of training objects, one object for all views. Colours are
compared between views, and as a whole with the colours of training objects.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

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
    Rng,
    Settings,
    Split,
    register_evaluator,
    setting,
)
from shalabench.metrics.fid import effective_classes
from shalabench.metrics.grids import Strip, draw_sheet
from shalabench.metrics.images import foreground, lab, quantise, silhouette
from shalabench.metrics.scores import Bootstrap
from shalabench.nets.viewpoints import describe_row, stack, why_no_views

_BATCH = 50  # training objects at a time
_SHOWN = 6  # samples at most on the sheet
_KINDS = {
    "shape": "overlap (IoU) of a joint sample's silhouettes with those of the training object that "
    "fits best, mean over views",
    "one-object": "shape, divided by its value when each view may fit a different training "
    "object; 1: the views agree on one shape",
    "colour": "intraclass correlation of the views' mean colours (CIELAB a and b, without the "
    "white background); 1: views agree and samples differ, 0: views differ as much as samples",
    "colour-distance": "2-Wasserstein distance of Gaussians fitted to the mean colours (CIELAB, "
    "Delta E) of samples and of training objects",
}
_CLASSES = "consistency/classes"
_BOUNDS = {
    "ceiling-truth": ("ceiling", "real test objects instead of samples"),
    "floor-mixed": ("floor", "tuples of views of different real objects instead of samples"),
}


class ConsistencyConfig(Settings):
    """How much is measured."""

    samples: int = setting(128, "Joint samples.", "our choice", ge=2)
    batch_size: int = setting(32, "Samples at a time; changes no result.", "our choice", ge=1)


def _metrics() -> tuple[Metric, ...]:
    metrics = []
    for kind, meaning in _KINDS.items():
        name = f"consistency/{kind}"
        direction, digits = ("lower", 1) if kind == "colour-distance" else ("higher", 3)
        metrics.append(Metric(name, direction, digits, meaning, headline=kind == "shape"))
        metrics += [
            Metric(f"{bound}/{name}", direction, digits, what, role=role, of=name)
            for bound, (role, what) in _BOUNDS.items()
        ]
    meaning = (
        "effective number of classes (exponential of the entropy) among the training objects that "
        "fit the samples best; 1: the model has collapsed"
    )
    return (*metrics, Metric(_CLASSES, "higher", 1, meaning))


@register_evaluator("consistency", version=1)
class Consistency(Evaluator):
    """Whether the views of a joint sample show one object, similar to the training objects."""

    Config = ConsistencyConfig
    needs = (Joint,)
    least = 2  # real objects, for their variance
    metrics = _metrics()

    def skip(self, model: type[Model], spec: DataSpec) -> str | None:
        reason = why_no_views(spec)
        if reason is None and spec.modalities[0].shape[0] != 3:
            reason = f"The views of '{spec.name}' have no colours."
        return reason or super().skip(model, spec)

    def run(self, model: Model, spec: DataSpec, split: Split, context: EvalContext) -> Outcome:
        if context.splits is None:
            reason = "There are no training objects to compare samples with."
            warnings.warn(reason, stacklevel=2)
            return Outcome([], {"skipped": reason})
        work = _Measurement(self.config, model, spec, split, context)
        work.measure()
        details = {"row": describe_row(model, spec, "joint"), "intervals": work.summary.intervals}
        return Outcome(work.summary.scores, details, {"sheet": work.sheet()})


@dataclass
class _Measurement:
    """A model's joint samples, compared with training objects.

    Attributes:
        summary: The scores.
    """

    config: ConsistencyConfig
    model: Model
    spec: DataSpec
    split: Split
    context: EvalContext

    def __post_init__(self):
        self.names = self.spec.names
        self.train = self.context.splits("train")
        self.context.expect(len(self.train) + self.config.samples + len(self.split))
        self.summary = Bootstrap(self.context.rng("bootstrap"))
        self.known = self._read(self.train, _BATCH)

    def measure(self) -> None:
        """Score the samples, and what bounds them."""

        def sample(index: Tensor, rng: Rng) -> dict[str, Tensor]:
            made = stack(self.model.sample(len(index), rng), self.names)
            pictures = quantise(made, f"{self.names[0]} to {self.names[-1]}")
            if rng.first == 0:
                self._shown = pictures[:_SHOWN]
            return _outlines(pictures)

        config = self.config
        made = self.context.map(sample, config.samples, config.batch_size, "consistency")
        self._best = self._score("consistency", _Outlines.of(made))
        if self.spec.classes and self.train.labels is not None:
            classes = self.train.labels[self._best.to(self.train.device)]
            draws = functional.one_hot(classes, self.spec.classes).T.double()
            self.summary.add(_CLASSES, draws, lambda x: effective_classes(x.mean(-1)))
        self._score("ceiling-truth/consistency", self._read(self.split, config.batch_size))
        self._score("floor-mixed/consistency", self.known.mixed())

    def sheet(self) -> Tensor:
        """Joint samples; framed below each, the training object that fits its outlines best."""
        best = self._real(self.train, self._best[: len(self._shown)])
        every = range(len(self.names))
        return draw_sheet(
            [[Strip(row), Strip(x, every)] for row, x in zip(self._shown, best, strict=True)]
        )

    def _score(self, family: str, made: _Outlines) -> Tensor:
        """Add the scores of some tuples; the numbers `[n]` of the training objects that fit."""
        overlaps = made.overlaps(self.known)  # [n, K, V]
        together, best = overlaps.mean(2).max(1)
        apart = overlaps.amax(1).mean(1)
        self.summary.add_mean(f"{family}/shape", together)
        self.summary.add(
            f"{family}/one-object",
            torch.stack([together, apart]),
            lambda x: x[0].sum(-1) / x[1].sum(-1),
        )
        whole = ~made.colours.isnan().any(-1).any(0)
        colours = made.colours[:, whole]  # [V, n, 3]
        if whole.sum() > 1:
            a_and_b = colours[..., 1:].permute(2, 0, 1)  # [2, V, n]
            self.summary.add(f"{family}/colour", a_and_b, intraclass_correlation)
            known = self.known.colours.nanmean(0)
            self.summary.add(
                f"{family}/colour-distance",
                colours.mean(0).T,
                lambda x: gaussian_distance(x, known.T[:, None]),
            )
        return best

    def _read(self, split: Split, batch_size: int) -> _Outlines:
        items = torch.arange(len(split), device=split.device)
        outlines = self.context.map(
            lambda index, _: _outlines(self._real(split, index)), items, batch_size
        )
        return _Outlines.of(outlines)

    def _real(self, split: Split, index: Tensor) -> Tensor:
        views = split.batch(index.to(split.device)).views
        return quantise(stack(views, self.names)).to(self.context.device)


def _outlines(pictures: Tensor) -> dict[str, Tensor]:
    """Silhouettes `[n, V, P]` and mean colours `[n, V, 3]` of pictures `[n, V, 3, R, R]`."""
    inside = foreground(pictures)  # [n, V, R, R]
    pixels = pictures.movedim(2, -1)
    colours = lab(pixels.flatten(0, -2)).view(pixels.shape)
    sums = (colours * inside[..., None]).sum((2, 3))
    means = sums / inside.sum((2, 3))[..., None]
    return {"masks": silhouette(pictures).flatten(2).float(), "colours": means}


@dataclass(frozen=True)
class _Outlines:
    """What is compared of some tuples.

    Attributes:
        masks: Their silhouettes, float32 `[V, n, P]`.
        colours: Mean CIELAB of what is not white, `[V, n, 3]`; NaN where all is white.
    """

    masks: Tensor
    colours: Tensor

    @classmethod
    def of(cls, tuples: dict[str, Tensor]) -> _Outlines:
        return cls(**{name: x.transpose(0, 1).contiguous() for name, x in tuples.items()})

    def mixed(self) -> _Outlines:
        """Tuples whose view v is from v tuples further on."""
        return _Outlines(
            *(
                torch.stack([view.roll(-v, 0) for v, view in enumerate(x)])
                for x in (self.masks, self.colours)
            )
        )

    def overlaps(self, other: _Outlines) -> Tensor:
        """IoU `[n, K, V]` with K other tuples' silhouettes; 0 where both are empty."""
        both = self.masks @ other.masks.transpose(1, 2)
        sizes = self.masks.sum(2)[:, :, None] + other.masks.sum(2)[:, None]
        return (both / (sizes - both).clamp(min=1)).permute(1, 2, 0).double()


def intraclass_correlation(x: Tensor) -> Tensor:
    """Intraclass correlation of one-way random effects, ICC(1) of Shrout and Fleiss (1979).

    Args:
        x: `[D, V, ..., n]`: D values (their variances are summed) of V raters on n subjects.

    Returns:
        `[...]`, (B - W) / (B + (V - 1) W) with the mean squares between and within subjects.
    """
    views, n = x.shape[1], x.shape[-1]
    subjects = x.mean(1)
    between = views * subjects.var(-1, correction=1).sum(0)
    within = (x - subjects[:, None]).square().sum((0, 1, -1)) / (n * (views - 1))
    return (between - within) / (between + (views - 1) * within)


def gaussian_distance(a: Tensor, b: Tensor) -> Tensor:
    """2-Wasserstein distance `[...]` of Gaussians fitted to points `[D, ..., n]`."""
    means, covariances = zip(*(_moments(x) for x in (a, b)), strict=True)
    values, vectors = torch.linalg.eigh(covariances[1])
    root = vectors * values.clamp(min=0).sqrt()[..., None, :]
    inner = torch.linalg.eigvalsh(root.mT @ covariances[0] @ root).clamp(min=0).sqrt().sum(-1)
    traces = sum(c.diagonal(dim1=-2, dim2=-1).sum(-1) for c in covariances)
    squared = (means[0] - means[1]).square().sum(-1) + traces - 2 * inner
    return squared.clamp(min=0).sqrt()


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `[..., D]` and covariance `[..., D, D]` of points `[D, ..., n]`."""
    x = x.movedim(0, -2)
    mean = x.mean(-1)
    centred = x - mean[..., None]
    return mean, centred @ centred.mT / (x.shape[-1] - 1)
