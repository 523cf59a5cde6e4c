"""Views: how like the truth are the unseen sides of an object, generated from one or several?

Protocol: reproduction/view-synthesis.md. P1: view 0 is given and the
others are predicted, clipped and rounded to uint8; PSNR and SSIM of each view, mean over views,
then objects; one sample of fixed seed. P2: 2, 4 and 8 given views. P4 is P1 at 256 pixels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from shalabench.api import (
    DataSpec,
    EvalContext,
    Evaluator,
    Metric,
    Model,
    Outcome,
    Score,
    Settings,
    Split,
    Translate,
    register_evaluator,
    setting,
)
from shalabench.metrics.grids import Strip, draw_sheet
from shalabench.metrics.images import (
    WINDOW,
    Summary,
    boxed_ssim,
    foreground,
    psnr,
    quantise,
    ssim,
)
from shalabench.nets.viewpoints import angle, describe_row, seen_from, stack, why_no_views

_SAMPLES = 8
_SEVERAL = (2, 4, 8)  # given views of P2
_ROTATIONS = 4  # given views of the rotation set: 0, 4, 8 and 12 of sixteen
_FEWEST = 16  # pixels of a view behind a figure of visible or hidden ones
_SHOWN = 6  # objects at most on the contact sheet
_FLOORS = {
    "white": "white pictures",
    "mean": "the mean training picture of each view",
    "nearest": "the other views of the training object whose given view is nearest (squared error)",
}
_P1 = "view 0 given, mean over the other views, then objects"
_TOLD = {
    "p1": f"{_P1}, one sample",
    "p1-rotated": "as p1, mean over four given views a quarter turn apart",
    "p1-mean-of-8": "as p1, of the mean of eight samples",
    "p1-best-of-8": "as p1, of the best of eight samples of an object, chosen by the truth",
}
_KINDS = {
    "psnr": (2, "peak signal-to-noise ratio in dB"),
    "ssim": (3, "structural similarity, 7 x 7 windows"),
}


class ViewsConfig(Settings):
    """How much is measured."""

    items: int = setting(0, "Test objects, the first ones; 0: all.", "ours: all", ge=0)
    more_items: int = setting(
        0,
        "Test objects, the first ones, for rotations, eight samples and several given views; "
        "0: as many as `items`.",
        "ours: all",
        ge=0,
    )
    batch_size: int = setting(25, "Objects at a time; changes no result.", "ours", ge=1)


def _metrics() -> tuple[Metric, ...]:
    found = []
    for kind, (digits, what) in _KINDS.items():
        found += [
            Metric(
                f"{kind}/{protocol}",
                "higher",
                digits,
                f"{what}: {told}",
                headline=protocol == "p1",
            )
            for protocol, told in _TOLD.items()
        ]
    found += [
        Metric(
            "psnr/p1-foreground",
            "higher",
            2,
            "as p1, over pixels that are not white in the truth or in the prediction",
        ),
        Metric("ssim/p1-box", "higher", 3, "as p1, within the box round what is not white"),
        Metric(
            "views/psnr-visible",
            "higher",
            2,
            f"as psnr/p1, over the object's pixels seen from the given view; views with "
            f"{_FEWEST} of them",
        ),
        Metric("views/psnr-hidden", "higher", 2, "the same over those not seen from there"),
    ]
    for kind, (digits, what) in _KINDS.items():
        found += [
            Metric(
                f"views/{kind}-{k}-given",
                "higher",
                digits,
                f"{what}, {k} given views evenly round; mean over the views that eight leave",
            )
            for k in (1, *_SEVERAL)
        ]
        found += [
            Metric(
                f"floor-{name}/{kind}", "higher", digits, f"{told}, at p1", role="floor", of=kind
            )
            for name, told in _FLOORS.items()
        ]
    return tuple(found)


@register_evaluator("views", version=1)
class ViewSynthesis(Evaluator):
    """PSNR and SSIM of unseen views, generated from one given view or several."""

    Config = ViewsConfig
    needs = (Translate,)
    metrics = _metrics()

    def skip(self, model: type[Model], spec: DataSpec) -> str | None:
        reason = why_no_views(spec)
        if reason is None and spec.modalities[0].shape[1] < WINDOW:
            reason = f"SSIM needs pictures of at least {WINDOW} x {WINDOW} pixels."
        return reason or super().skip(model, spec)

    def run(self, model: Model, spec: DataSpec, split: Split, context: EvalContext) -> Outcome:
        bench = _Bench(self.config, model, spec, split, context)
        bench.measure_one_given()
        bench.measure_rotations()
        bench.measure_several_given()
        bench.measure_floors()
        details = {
            "row": describe_row(model, spec, "P1"),
            "deterministic": bench.deterministic,
            "intervals": bench.summary.intervals,
            "by_angle": bench.by_angle(),
            "notes": bench.notes(),
        }
        return Outcome(bench.summary.scores, details, {"sheet": bench.sheet()})


@dataclass
class _Found:
    """Figures of one way of generating, by what they measure.

    Attributes:
        parts: `[n, T]` each once `joined`, NaN where a view has no such figure.
    """

    parts: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))

    def add(self, **figures: Tensor) -> None:
        for name, values in figures.items():
            self.parts[name].append(values)

    def __getitem__(self, name: str) -> Tensor:
        return torch.cat(self.parts[name])

    def __contains__(self, name: str) -> bool:
        return name in self.parts


class _Bench:
    """A model and the data, and what the protocols make of them.

    Attributes:
        summary: What was found.
        deterministic: Whether two samples of the first objects are the same.
    """

    def __init__(
        self,
        config: ViewsConfig,
        model: Model,
        spec: DataSpec,
        split: Split,
        context: EvalContext,
    ):
        self.config, self.model, self.spec, self.context = config, model, spec, context
        self.split, self.names = split, spec.names
        self.items = min(config.items or len(split), len(split))
        self.more = min(config.more_items or self.items, self.items)
        self.summary = Summary(context.rng("bootstrap"))
        self.deterministic = True
        self._done = 0
        views = len(self.names)
        self._rotations = list(dict.fromkeys(k * views // _ROTATIONS for k in range(_ROTATIONS)))
        largest = max((k for k in _SEVERAL if 2 * k <= views), default=1)
        self._left = tuple(i for i in range(views) if i not in self._round(largest))
        most = model.max_given or views
        self._several = [k for k in _SEVERAL if k <= min(largest, most)]

    def measure_one_given(self) -> None:
        """P1, one sample for all objects, eight for some."""
        targets = self._others((0,))
        self._main, eight = _Found(), _Found()
        for first, size in self._batches(self.items):
            sample = self._generate((0,), targets, first, size)
            self._main.add(**self._figures(sample, targets, first))
            if self.more > first:
                few = min(size, self.more - first)
                eight.add(**self._eight(sample[:few], targets, first))
        for name in ("psnr", "ssim"):
            self.summary.add_mean(f"{name}/p1", self._main[name].mean(1))
            self._score_targets(f"{name}/p1", self._main[name])
            for kind in ("mean", "best"):
                self.summary.add_mean(f"{name}/p1-{kind}-of-8", eight[f"{name}-{kind}"].mean(1))
        extra = {"foreground": "psnr/p1-foreground", "box": "ssim/p1-box"}
        extra |= {key: f"views/psnr-{key}" for key in ("visible", "hidden")}
        for key, metric in extra.items():
            if key in self._main:
                self.summary.add_mean(metric, self._main[key].nanmean(1))

    def measure_rotations(self) -> None:
        """P1 from each view of the rotation set, on some objects."""
        found = {name: [self._main[name][: self.more].mean(1)] for name in ("psnr", "ssim")}
        for given in self._rotations[1:]:
            own = self._pass((given,), self._others((given,)))
            for name, figures in found.items():
                figures.append(own[name].mean(1))
        for name, figures in found.items():
            self.summary.add_mean(f"{name}/p1-rotated", torch.stack(figures).mean(0))

    def measure_several_given(self) -> None:
        """P2 on some objects, the same targets whatever the number of given views."""
        if not self._several:
            return
        one = [self._others((0,)).index(i) for i in self._left]
        for name in ("psnr", "ssim"):
            self.summary.add_mean(
                f"views/{name}-1-given", self._main[name][: self.more, one].mean(1)
            )
        for k in self._several:
            own = self._pass(self._round(k), self._left)
            for name in ("psnr", "ssim"):
                self.summary.add_mean(f"views/{name}-{k}-given", own[name].mean(1))

    def measure_floors(self) -> None:
        """P1 of what needs no model; training pictures only where they are lent."""
        targets = self._others((0,))
        train = self.context.splits("train") if self.context.splits is not None else None
        floors = {name: _Found() for name in (_FLOORS if train is not None else ("white",))}
        names = self._named(targets)
        if train is not None:
            mean = quantise(torch.stack([_mean(train.tensors[name]) for name in names]))
            mean = mean.to(self.context.device)
        for first, size in self._batches(self.items):
            real = self._real(targets, first, size)
            guesses = {"white": torch.ones_like(real)}
            if train is not None:
                nearest = self._nearest(train, first, size)
                copies = [train.tensors[name][nearest] for name in names]
                copies = torch.stack(copies, dim=1).to(real.device)
                guesses |= {"mean": mean.expand_as(real), "nearest": copies.double() / 255}
            for name, guess in guesses.items():
                floors[name].add(psnr=psnr(guess, real), ssim=ssim(guess, real))
        for name, found in floors.items():
            for kind in ("psnr", "ssim"):
                self.summary.add_mean(f"floor-{name}/{kind}", found[kind].mean(1))

    def by_angle(self) -> list[dict[str, object]]:
        """P1 by the angle between the given camera and the target's, rounded to degrees."""
        given = self.spec.modalities[0].camera
        columns: dict[int, list[int]] = {}
        for column, i in enumerate(self._others((0,))):
            degrees = round(angle(given, self.spec.modalities[i].camera))
            columns.setdefault(degrees, []).append(column)
        kinds = [key for key in ("psnr", "ssim", "visible", "hidden") if key in self._main]
        found = []
        for degrees, own in sorted(columns.items()):
            figures = {key: self._main[key][:, own].nanmean().item() for key in kinds}
            known = {key: value for key, value in figures.items() if value == value}
            found.append({"degrees": degrees, "views": len(own), **known})
        return found

    def notes(self) -> list[str]:
        """Sentences for below the table."""
        told = []
        if self.deterministic:
            told.append(f"{self.model.name} draws nothing at random: its eight samples are one.")
        if self.more < self.items:
            own = {name: self._main[name][: self.more].mean() for name in ("psnr", "ssim")}
            told.append(
                f"{self.model.name}: what is rotated, of eight samples or of several given views "
                f"is measured on the first {self.more} objects only; psnr/p1 of these is "
                f"{own['psnr']:.2f}, ssim/p1 {own['ssim']:.3f}."
            )
        return told

    def sheet(self) -> Tensor:
        """The given view framed with the generated ones beside it, the truth below."""
        targets = self._others((0,))
        n = min(_SHOWN, self.items)
        made = self._generate((0,), targets, 0, n)
        real = self._real(range(len(self.names)), 0, n)
        rows = torch.cat([real[:, :1], made], dim=1)
        return draw_sheet(
            [[Strip(row, (0,)), Strip(truth)] for row, truth in zip(rows, real, strict=True)]
        )

    def _round(self, k: int) -> tuple[int, ...]:
        """Numbers of k views evenly round the object, from view 0 on."""
        return tuple(i * len(self.names) // k for i in range(k))

    def _others(self, given: Sequence[int]) -> tuple[int, ...]:
        return tuple(i for i in range(len(self.names)) if i not in given)

    def _named(self, views: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.names[i] for i in views)

    def _batches(self, n: int) -> list[tuple[int, int]]:
        size = self.config.batch_size
        return [(first, min(size, n - first)) for first in range(0, n, size)]

    def _real(self, views: Sequence[int], first: int, size: int) -> Tensor:
        """True views `[size, T, C, R, R]` in [0, 1], float64."""
        index = torch.arange(first, first + size, device=self.split.device)
        shown = self.split.batch(index).views
        return quantise(stack(shown, self._named(views)))

    def _generate(
        self, given: Sequence[int], targets: Sequence[int], first: int, size: int, sample: int = 0
    ) -> Tensor:
        """Predicted views `[size, T, C, R, R]`, clipped but not yet rounded, float64."""
        sources, wanted = self._named(given), self._named(targets)
        index = torch.arange(first, first + size, device=self.split.device)
        shown = self.split.batch(index).views
        rng = self.context.rng("views", *sources, sample, first=first)
        made = stack(self.model.translate({n: shown[n] for n in sources}, wanted, rng), wanted)
        quantise(made, f"{wanted[0]} to {wanted[-1]}")  # complains of what is not finite
        self._done += size
        self.context.report(self._done, self._amount())
        return made.double().clamp(0, 1)

    def _pass(self, given: Sequence[int], targets: Sequence[int]) -> _Found:
        """PSNR and SSIM of one sample of some objects."""
        found = _Found()
        for first, size in self._batches(self.more):
            made = quantise(self._generate(given, targets, first, size))
            real = self._real(targets, first, size)
            found.add(psnr=psnr(made, real), ssim=ssim(made, real))
        return found

    def _figures(self, sample: Tensor, targets: Sequence[int], first: int) -> dict[str, Tensor]:
        """All figures `[b, T]` of predictions from view 0."""
        size = len(sample)
        made, real = quantise(sample), self._real(targets, first, size)
        truth = foreground(real)
        figures = {
            "psnr": psnr(made, real),
            "ssim": ssim(made, real),
            "foreground": psnr(made, real, truth | foreground(made)),
            "box": boxed_ssim(made, real, truth),
        }
        if "depth" in self.split.facts:
            seen, surface = self._seen(targets, first, size)
            for name, mask in (("visible", seen), ("hidden", surface & ~seen)):
                enough = mask.sum((-2, -1)) >= _FEWEST
                figures[name] = torch.where(enough, psnr(made, real, mask), torch.nan)
        return figures

    def _seen(self, targets: Sequence[int], first: int, size: int) -> tuple[Tensor, Tensor]:
        """Which pixels `[b, T, R, R]` of the targets view 0 sees, and which are of the object."""
        depth = self.split.facts["depth"][first : first + size]
        cameras = [m.camera for m in self.spec.modalities]
        seen = [seen_from(depth[:, i], cameras[i], depth[:, 0], cameras[0]) for i in targets]
        return torch.stack(seen, dim=1), depth[:, list(targets)] > 0

    def _eight(self, sample: Tensor, targets: Sequence[int], first: int) -> dict[str, Tensor]:
        """PSNR and SSIM `[b, T]` of eight samples' mean, and of each object's best sample."""
        real, total = self._real(targets, first, len(sample)), sample
        figures = {name: [measure(quantise(sample), real)] for name, measure in _MEASURES.items()}
        for k in range(1, _SAMPLES):
            made = self._generate((0,), targets, first, len(sample), k)
            if first == 0 and k == 1:
                self.deterministic = torch.equal(quantise(made), quantise(sample))
            if self.deterministic:
                break
            total = total + made
            for name, measure in _MEASURES.items():
                figures[name].append(measure(quantise(made), real))
        count = len(figures["psnr"])
        found = {}
        for name, measure in _MEASURES.items():
            own = torch.stack(figures[name])  # [K, b, T]
            best = own.mean(2).argmax(0)
            found[f"{name}-best"] = own[best, torch.arange(len(sample), device=best.device)]
            found[f"{name}-mean"] = measure(quantise(total / count), real)
        return found

    def _nearest(self, train: Split, first: int, size: int) -> Tensor:
        """Numbers `[b]` of the training objects whose view 0 is nearest."""
        real = self._real((0,), first, size).flatten(1)
        distances = []
        images = train.tensors[self.names[0]]
        for own in images.split(250):
            own = own.to(real.device).flatten(1).double() / 255
            distances.append(own.square().sum(1) - 2 * real @ own.T)
        return torch.cat(distances, dim=1).argmin(1).to(images.device)

    def _score_targets(self, metric: str, figures: Tensor) -> None:
        """A part for each predicted view, of figures `[n, T]`."""
        given = self._named((0,))
        for name, own in zip(self._named(self._others((0,))), figures.T, strict=True):
            stderr = (own.std() / len(own) ** 0.5).item() if len(own) > 1 else None
            self.summary.scores.append(
                Score(metric, own.mean().item(), len(own), stderr, given, name)
            )

    def _amount(self) -> int:
        """Objects that all passes go through, for the progress display."""
        samples = 2 if self.deterministic and self._done > self.items else _SAMPLES
        passes = samples - 1 + len(self._rotations) - 1 + len(self._several)
        return max(self._done, self.items + passes * self.more + min(_SHOWN, self.items))


_MEASURES = {"psnr": psnr, "ssim": ssim}


def _mean(images: Tensor) -> Tensor:
    """The mean `[C, R, R]` of pictures uint8 `[N, C, R, R]`, in [0, 1]."""
    return images.sum(0, dtype=torch.float64) / len(images) / 255
