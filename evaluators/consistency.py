"""Consistency: do the views of a joint sample show one object, and one as the data have them?

Joint samples have no truth. Our protocol (reproduction/style-transfer.md): their silhouettes are
laid over those of the training objects, one object for all views; their colours are compared
between views, and as a whole with the training objects' colours.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

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
    Settings,
    Split,
    register_evaluator,
    setting,
)
from shalabench.metrics.fid import effective_classes
from shalabench.metrics.grids import Strip, draw_sheet
from shalabench.metrics.images import Summary, foreground, lab, quantise, silhouette
from shalabench.nets.viewpoints import describe_row, stack, why_no_views

_BATCH = 50  # training objects at a time
_SHOWN = 6  # samples at most on the sheet
_FIGURES = {
    "shape": (
        "higher",
        3,
        "overlap (IoU) of a joint sample's silhouettes with those of the one training object that "
        "fits best, mean over views",
    ),
    "one-object": (
        "higher",
        3,
        "the same as a part of what is reached if each view may choose its own training object: 1 "
        "where the views agree on a shape",
    ),
    "colour": (
        "higher",
        3,
        "intraclass correlation of the views' mean colours (a and b of CIELAB, without the white "
        "ground): 1 where views agree and samples differ, 0 where views differ as samples do",
    ),
    "colour-distance": (
        "lower",
        1,
        "2-Wasserstein distance of Gaussians fitted to the mean colours (CIELAB) of samples and of "
        "training objects, in units of Delta E",
    ),
}
_CLASSES = "consistency/classes"
_BOUNDS = {
    "ceiling-truth": ("ceiling", "the objects that are measured on in the samples' place"),
    "floor-mixed": (
        "floor",
        "tuples whose views are each of another training object, in the samples' place",
    ),
}


class ConsistencyConfig(Settings):
    """How much is measured."""

    samples: int = setting(128, "Joint samples.", "ours", ge=2)
    batch_size: int = setting(32, "Samples at a time; changes no result.", "ours", ge=1)


def _metrics() -> tuple[Metric, ...]:
    found = []
    for kind, (direction, digits, what) in _FIGURES.items():
        name = f"consistency/{kind}"
        found.append(Metric(name, direction, digits, what, headline=kind == "shape"))
        for bound, (role, whose) in _BOUNDS.items():
            found.append(Metric(f"{bound}/{name}", direction, digits, whose, role=role, of=name))
    spread = (
        "effective number of classes (exponential of the entropy) of the training objects that fit "
        "the samples best: 1 is a collapsed model"
    )
    return (*found, Metric(_CLASSES, "higher", 1, spread))


@register_evaluator("consistency", version=1)
class Consistency(Evaluator):
    """Whether the views of joint samples show one object, of a known kind of shape and colour."""

    Config = ConsistencyConfig
    needs = (Joint,)
    metrics = _metrics()

    def skip(self, model: type[Model], spec: DataSpec) -> str | None:
        reason = why_no_views(spec)
        if reason is None and spec.modalities[0].shape[0] != 3:
            reason = f"The views of '{spec.name}' have no colours."
        return reason or super().skip(model, spec)

    def run(self, model: Model, spec: DataSpec, split: Split, context: EvalContext) -> Outcome:
        if context.splits is None:
            reason = "No training objects are lent, with which samples could be compared."
            warnings.warn(reason, stacklevel=2)
            return Outcome([], {"skipped": reason})
        bench = _Bench(self.config, model, spec, split, context)
        bench.measure()
        details = {
            "row": describe_row(model, spec, "joint"),
            "intervals": bench.summary.intervals,
        }
        return Outcome(bench.summary.scores, details, {"sheet": bench.sheet()})


class _Bench:
    """A model and the training objects that its samples are compared with.

    Attributes:
        summary: What was found.
    """

    def __init__(
        self,
        config: ConsistencyConfig,
        model: Model,
        spec: DataSpec,
        split: Split,
        context: EvalContext,
    ):
        self.config, self.model, self.context = config, model, context
        self.spec, self.names, self.split = spec, spec.names, split
        self.train = context.splits("train")
        self.summary = Summary(context.rng("bootstrap"))
        known = [
            _Outline.of(self._real(self.train, first, _BATCH))
            for first in range(0, len(self.train), _BATCH)
        ]
        self.known = _Outline.joined(known)

    def measure(self) -> None:
        """The figures of samples, and of what bounds them."""
        outlines = []
        for first, n in self._batches():
            pictures = self._sample(first, n)
            outlines.append(_Outline.of(pictures))
            if first == 0:
                self._shown = pictures[:_SHOWN]
        self._best = self._score("consistency", _Outline.joined(outlines))
        if self.spec.classes and self.train.labels is not None:
            classes = self.train.labels[self._best.to(self.train.device)]
            draws = functional.one_hot(classes, self.spec.classes).T.double()
            self.summary.add(_CLASSES, draws, lambda x: effective_classes(x.mean(-1)))
        n, size = len(self.split), self.config.batch_size
        parts = [self._real(self.split, first, size) for first in range(0, n, size)]
        self._score("ceiling-truth/consistency", _Outline.joined(map(_Outline.of, parts)))
        self._score("floor-mixed/consistency", self.known.mixed())

    def sheet(self) -> Tensor:
        """Joint samples, and framed below each the training object that fits its outlines best."""
        blocks = []
        for row, i in zip(self._shown, self._best.tolist(), strict=False):
            known = self._real(self.train, i, 1)[0]
            blocks.append([Strip(row), Strip(known, tuple(range(len(known))))])
        return draw_sheet(blocks)

    def _score(self, family: str, made: _Outline) -> Tensor:
        """Add the figures of some tuples; the numbers `[n]` of what fits each best."""
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
            own = colours[..., 1:].permute(2, 0, 1)  # [2, V, n]
            self.summary.add(f"{family}/colour", own, intraclass_correlation)
            known = self.known.colours.nanmean(0)
            self.summary.add(
                f"{family}/colour-distance",
                colours.mean(0).T,
                lambda x: gaussian_distance(x, known.T[:, None]),
            )
        return best

    def _batches(self) -> list[tuple[int, int]]:
        n, size = self.config.samples, self.config.batch_size
        return [(first, min(size, n - first)) for first in range(0, n, size)]

    def _sample(self, first: int, n: int) -> Tensor:
        """Samples `[n, V, 3, R, R]` from number `first` on, as an image file would hold them."""
        made = self.model.sample(n, self.context.rng("consistency", first=first))
        self.context.report(min(first + n, self.config.samples), self.config.samples)
        return quantise(stack(made, self.names), f"{self.names[0]} to {self.names[-1]}")

    def _real(self, split: Split, first: int, n: int) -> Tensor:
        index = torch.arange(first, min(first + n, len(split)), device=split.device)
        return quantise(stack(split.batch(index).views, self.names)).to(self.context.device)


class _Outline:
    """What is compared of some tuples.

    Attributes:
        masks: Their silhouettes, float32 `[V, n, P]`.
        colours: Mean CIELAB of what is not white, `[V, n, 3]`; NaN where all is.
    """

    def __init__(self, masks: Tensor, colours: Tensor):
        self.masks, self.colours = masks, colours

    @classmethod
    def of(cls, pictures: Tensor) -> _Outline:
        """Of pictures `[n, V, 3, R, R]` in [0, 1]."""
        inside = foreground(pictures)  # [n, V, R, R]
        pixels = pictures.movedim(2, -1)
        colours = lab(pixels.flatten(0, -2)).view(pixels.shape)
        sums = (colours * inside[..., None]).sum((2, 3))
        means = sums / inside.sum((2, 3))[..., None]
        return cls(silhouette(pictures).flatten(2).transpose(0, 1).float(), means.transpose(0, 1))

    @classmethod
    def joined(cls, parts: Iterable[_Outline]) -> _Outline:
        parts = list(parts)
        return cls(*(torch.cat([getattr(p, x) for p in parts], 1) for x in ("masks", "colours")))

    def mixed(self) -> _Outline:
        """Tuples whose view v is that of the tuple v places on."""
        return _Outline(
            *(
                torch.stack([own.roll(-v, 0) for v, own in enumerate(x)])
                for x in (self.masks, self.colours)
            )
        )

    def overlaps(self, other: _Outline) -> Tensor:
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
