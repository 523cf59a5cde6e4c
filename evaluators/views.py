"""Views: how close to the truth are unseen views of an object, generated from one or several?

Protocol: reproduction/view-synthesis.md. P1: view 0 is given and the others are predicted, clipped
and rounded to uint8; PSNR and SSIM of each view, mean over views, then objects; one sample of fixed
seed. P2: 2, 4 and 8 given views. P4 is P1 at 256 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shalabench.api import (
    DataSpec,
    EvalContext,
    Evaluator,
    Metric,
    Model,
    Outcome,
    Rng,
    Settings,
    Split,
    Translate,
    register_evaluator,
    setting,
)
from shalabench.metrics.grids import Strip, draw_sheet
from shalabench.metrics.images import WINDOW, boxed_ssim, foreground, psnr, quantise
from shalabench.metrics.scores import Bootstrap, mean_score
from shalabench.metrics.views import MEASURES, describe_empty, mean_of_known, measured
from shalabench.nets.viewpoints import angle, describe_row, seen_from, stack, why_no_views

_SAMPLES = 8
_SEVERAL = (2, 4, 8)  # given views of P2
_ROTATIONS = 4  # given views of the rotation set: 0, 4, 8 and 12 of sixteen
_FEWEST = 16  # visible or hidden pixels of a view that is scored
_SHOWN = 6  # objects at most on the sheet
_SAME = 1e-3  # two samples of a deterministic method differ by less: batches round differently
_FLOORS = {
    "white": "white pictures",
    "mean": "the mean training picture of each view",
    "nearest": "the views of the training object whose view 0 is nearest (squared error)",
}
_P1 = "view 0 given, mean over the other views, then objects"
_PROTOCOLS = {
    "p1": f"{_P1}, one sample",
    "p1-rotated": "as p1, mean over four given views a quarter turn apart",
    "p1-mean-of-8": "as p1, of the mean of eight samples",
    "p1-best-of-8": "as p1, of the sample with the highest score of eight, for each object",
}
_KINDS = {"psnr": (2, "PSNR in dB"), "ssim": (3, "SSIM, 7 x 7 windows")}


class ViewsConfig(Settings):
    """How much is measured."""

    items: int = setting(0, "Test objects, the first ones; 0: all.", "our choice: all", ge=0)
    more_items: int = setting(
        0,
        "Test objects, the first ones, for rotations, eight samples and several given views; "
        "0: as many as `items`.",
        "our choice: all",
        ge=0,
    )
    batch_size: int = setting(25, "Objects at a time; changes no result.", "our choice", ge=1)


def _metrics() -> tuple[Metric, ...]:
    def metric(name: str, meaning: str, **extra: Any) -> Metric:
        kind = "psnr" if "psnr" in name else "ssim"
        return Metric(name, "higher", _KINDS[kind][0], meaning, **extra)

    metrics = [
        metric(f"{kind}/{protocol}", f"{what}: {how}", headline=protocol == "p1")
        for kind, (_, what) in _KINDS.items()
        for protocol, how in _PROTOCOLS.items()
    ]
    seen = f"as psnr/p1, over object pixels visible in view 0, in views with {_FEWEST} or more"
    metrics += [
        metric("psnr/p1-foreground", "as p1, over pixels that are not white in either picture"),
        metric("ssim/p1-box", "as p1, within the bounding box of what is not white"),
        metric("views/psnr-visible", seen),
        metric("views/psnr-hidden", "as psnr-visible, over object pixels hidden in view 0"),
    ]
    for kind, (_, what) in _KINDS.items():
        for k in (1, *_SEVERAL):
            meaning = f"{what}, {k} evenly spaced views given; mean over views not in the set of 8"
            metrics.append(metric(f"views/{kind}-{k}-given", meaning))
        for name, how in _FLOORS.items():
            bound = metric(f"floor-{name}/{kind}", f"{how}, as p1", role="floor", of=kind)
            metrics.append(bound)
    return tuple(metrics)


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
        work = _Measurement(self.config, model, spec, split, context)
        work.measure_one_given()
        work.measure_rotations()
        work.measure_several_given()
        work.measure_floors()
        details = {
            "row": describe_row(model, spec, "P1"),
            "deterministic": work.deterministic,
            "intervals": work.summary.intervals,
            "by_angle": work.by_angle(),
            "notes": work.notes(),
        }
        return Outcome(work.summary.scores, details, {"sheet": work.sheet()})


@dataclass
class _Measurement:
    """The protocols, applied to a model and data.

    Attributes:
        summary: The scores.
        deterministic: Whether two samples of the first object are the same.
    """

    config: ViewsConfig
    model: Model
    spec: DataSpec
    split: Split
    context: EvalContext
    deterministic: bool = True

    def __post_init__(self):
        config, self.names = self.config, self.spec.names
        self.items = min(config.items or len(self.split), len(self.split))
        self.more = min(config.more_items or self.items, self.items)
        self.summary = Bootstrap(self.context.rng("bootstrap"))
        self._shown: list[Tensor] = []  # the first objects' samples from view 0
        views = len(self.names)
        self._rotations = list(dict.fromkeys(k * views // _ROTATIONS for k in range(_ROTATIONS)))
        largest = max((k for k in _SEVERAL if 2 * k <= views), default=1)
        self._left = tuple(i for i in range(views) if i not in self._evenly(largest))
        most = self.model.max_given or views
        self._several = [k for k in _SEVERAL if k <= min(largest, most)]
        self._expect(_SAMPLES)

    def _expect(self, samples: int) -> None:
        passes = samples - 1 + len(self._rotations) - 1 + len(self._several)
        self.context.expect(2 * self.items + passes * self.more)

    def measure_one_given(self) -> None:
        """P1: one sample for all objects, eight for some."""
        targets = self._others(0)

        def score(index: Tensor, rng: Rng) -> dict[str, Tensor]:
            sample = self._generate((0,), targets, index)
            values = self._compare(sample, targets, index)
            if rng.first < _SHOWN:
                self._shown.append(sample[: _SHOWN - rng.first])
            few = max(0, self.more - rng.first)
            return values | (self._eight(sample[:few], targets, index[:few]) if few else {})

        self._one = self.context.map(score, self.items, self.config.batch_size)
        for name in MEASURES:
            values = self._one[name]
            self.summary.add_mean(f"{name}/p1", mean_of_known(values))
            for view, x in zip(self._named(targets), values.T, strict=True):
                if len(known := x[~x.isnan()]):
                    part = mean_score(f"{name}/p1", known, self._named((0,)), view)
                    self.summary.scores.append(part)
            for kind in ("mean", "best"):
                samples = self._one[f"{name}-{kind}"]
                self.summary.add_mean(f"{name}/p1-{kind}-of-8", mean_of_known(samples))
        extra = {"foreground": "psnr/p1-foreground", "box": "ssim/p1-box"}
        extra |= {key: f"views/psnr-{key}" for key in ("visible", "hidden")}
        for key, metric in extra.items():
            if key in self._one:
                self.summary.add_mean(metric, self._one[key].nanmean(1))

    def measure_rotations(self) -> None:
        """P1 from each given view of the rotation set, on some objects."""
        rotated = {name: [mean_of_known(self._one[name][: self.more])] for name in MEASURES}
        for given in self._rotations[1:]:
            values = self._pass((given,), self._others(given))
            for name, means in rotated.items():
                means.append(mean_of_known(values[name]))
        for name, means in rotated.items():
            self.summary.add_mean(f"{name}/p1-rotated", mean_of_known(torch.stack(means), 0))

    def measure_several_given(self) -> None:
        """P2 on some objects, with the same targets for every number of given views."""
        if not self._several:
            return
        same = [self._others(0).index(i) for i in self._left]
        for name in MEASURES:
            values = self._one[name][: self.more, same]
            self.summary.add_mean(f"views/{name}-1-given", mean_of_known(values))
        for k in self._several:
            values = self._pass(self._evenly(k), self._left)
            for name in MEASURES:
                self.summary.add_mean(f"views/{name}-{k}-given", mean_of_known(values[name]))

    def measure_floors(self) -> None:
        """P1 without a model: white pictures and, if there are any, training pictures."""
        targets = self._others(0)
        names = self._named(targets)
        train = self.context.splits("train") if self.context.splits is not None else None
        if train is not None:
            mean = quantise(torch.stack([_mean(train.tensors[name]) for name in names]))
            mean = mean.to(self.context.device)

        def score(index: Tensor, _: Rng) -> dict[str, Tensor]:
            real = self._real(targets, index)
            floors = {"white": torch.ones_like(real)}
            if train is not None:
                nearest = self._nearest(train, index)
                copies = [train.tensors[name][nearest] for name in names]
                copies = torch.stack(copies, dim=1).to(real.device)
                floors |= {"mean": mean.expand_as(real), "nearest": copies.double() / 255}
            return {
                f"floor-{floor}/{kind}": measured(kind, guess, real)
                for floor, guess in floors.items()
                for kind in MEASURES
            }

        floors = self.context.map(score, self.items, self.config.batch_size)
        for metric, values in floors.items():
            self.summary.add_mean(metric, mean_of_known(values))

    def by_angle(self) -> list[dict[str, object]]:
        """P1 by the angle between the given camera and the target's, rounded to degrees."""
        given = self.spec.modalities[0].camera
        columns: dict[int, list[int]] = {}
        for column, i in enumerate(self._others(0)):
            degrees = round(angle(given, self.spec.modalities[i].camera))
            columns.setdefault(degrees, []).append(column)
        kinds = [key for key in ("psnr", "ssim", "visible", "hidden") if key in self._one]
        rows = []
        for degrees, views in sorted(columns.items()):
            means = {key: self._one[key][:, views].nanmean().item() for key in kinds}
            known = {key: value for key, value in means.items() if value == value}
            rows.append({"degrees": degrees, "views": len(views), **known})
        return rows

    def notes(self) -> list[str]:
        """Sentences for below the table."""
        name, notes = self.model.name, []
        if empty := describe_empty(self.split, self.names, self.items):
            notes.append(empty)
        if self.deterministic:
            notes.append(f"{name} is deterministic: its eight samples are the same.")
        if self.more < self.items:
            known = {name: mean_of_known(self._one[name][: self.more]) for name in MEASURES}
            first = {name: values.nanmean() for name, values in known.items()}
            notes.append(
                f"{name}: rotations, eight samples and several given views are measured on the "
                f"first {self.more} objects only; psnr/p1 of these is {first['psnr']:.2f}, ssim/p1 "
                f"{first['ssim']:.3f}."
            )
        return notes

    def sheet(self) -> Tensor:
        """The given view, framed, and the generated ones; below them the truth."""
        made = torch.cat(self._shown)
        index = torch.arange(len(made), device=self.split.device)
        real = self._real(range(len(self.names)), index)
        rows = torch.cat([real[:, :1], made], dim=1)
        return draw_sheet(
            [[Strip(row, (0,)), Strip(truth)] for row, truth in zip(rows, real, strict=True)]
        )

    def _evenly(self, k: int) -> tuple[int, ...]:
        """Numbers of k evenly spaced views, from view 0 on."""
        return tuple(i * len(self.names) // k for i in range(k))

    def _others(self, given: int) -> tuple[int, ...]:
        return tuple(i for i in range(len(self.names)) if i != given)

    def _named(self, views: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.names[i] for i in views)

    def _real(self, views: Sequence[int], index: Tensor) -> Tensor:
        """True views `[b, T, C, R, R]` in [0, 1], float64."""
        return quantise(stack(self.split.batch(index).views, self._named(views)))

    def _generate(
        self, given: Sequence[int], targets: Sequence[int], index: Tensor, sample: int = 0
    ) -> Tensor:
        """Predicted views `[b, T, C, R, R]`, clipped but not yet rounded, float64."""
        sources, wanted = self._named(given), self._named(targets)
        views = self.split.batch(index).views
        rng = self.context.rng("views", *sources, sample, first=int(index[0]))
        made = stack(self.model.translate({n: views[n] for n in sources}, wanted, rng), wanted)
        quantise(made, f"{wanted[0]} to {wanted[-1]}")  # raises if a value is not finite
        return made.double().clamp(0, 1)

    def _pass(self, given: Sequence[int], targets: Sequence[int]) -> dict[str, Tensor]:
        """PSNR and SSIM `[n, T]` of one sample of some objects."""

        def score(index: Tensor, _: Rng) -> dict[str, Tensor]:
            made = quantise(self._generate(given, targets, index))
            real = self._real(targets, index)
            return {name: measured(name, made, real) for name in MEASURES}

        return self.context.map(score, self.more, self.config.batch_size)

    def _compare(self, sample: Tensor, targets: Sequence[int], index: Tensor) -> dict[str, Tensor]:
        """All values `[b, T]` of predictions from view 0; NaN for a view that has none."""
        made, real = quantise(sample), self._real(targets, index)
        truth = foreground(real)
        holds = truth.any(-1, keepdim=True).any(-2, keepdim=True)  # an object
        values = {
            "psnr": measured("psnr", made, real),
            "ssim": measured("ssim", made, real),
            "foreground": psnr(made, real, (truth | foreground(made)) & holds),
            "box": boxed_ssim(made, real, truth),
        }
        if "depth" in self.split.facts:
            seen, surface = self._seen(targets, index)
            for name, mask in (("visible", seen), ("hidden", surface & ~seen)):
                enough = mask.sum((-2, -1)) >= _FEWEST
                values[name] = torch.where(enough, psnr(made, real, mask), torch.nan)
        return values

    def _seen(self, targets: Sequence[int], index: Tensor) -> tuple[Tensor, Tensor]:
        """Which pixels `[b, T, R, R]` of the targets view 0 sees, and which are of the object."""
        depth = self.split.facts["depth"][index]
        cameras = [m.camera for m in self.spec.modalities]
        seen = [seen_from(depth[:, i], cameras[i], depth[:, 0], cameras[0]) for i in targets]
        return torch.stack(seen, dim=1), depth[:, list(targets)] > 0

    def _eight(self, sample: Tensor, targets: Sequence[int], index: Tensor) -> dict[str, Tensor]:
        """PSNR and SSIM `[b, T]` of eight samples' mean, and of each object's best sample."""
        real, total = self._real(targets, index), sample
        values = {name: [measured(name, quantise(sample), real)] for name in MEASURES}
        if index[0] == 0:
            again = self._generate((0,), targets, index[:1], 1)
            self.deterministic = torch.allclose(again, sample[:1], rtol=0, atol=_SAME)
            self._expect(1 if self.deterministic else _SAMPLES)
        for k in range(1, 1 if self.deterministic else _SAMPLES):
            made = self._generate((0,), targets, index, k)
            self.context.advance(len(index))
            total = total + made
            for name in MEASURES:
                values[name].append(measured(name, quantise(made), real))
        mean = quantise(total / len(values["psnr"]))
        results = {}
        for name in MEASURES:
            each = torch.stack(values[name])  # [K, b, T]
            best = each.nan_to_num(0).mean(2).argmax(0)  # the same views are NaN in each
            results[f"{name}-best"] = each[best, torch.arange(len(index), device=best.device)]
            results[f"{name}-mean"] = measured(name, mean, real)
        return results

    def _nearest(self, train: Split, index: Tensor) -> Tensor:
        """Numbers `[b]` of the training objects whose view 0 is nearest."""
        real = self._real((0,), index).flatten(1)
        distances = []
        images = train.tensors[self.names[0]]
        for part in images.split(250):
            known = part.to(real.device).flatten(1).double() / 255
            distances.append(known.square().sum(1) - 2 * real @ known.T)
        return torch.cat(distances, dim=1).argmin(1).to(images.device)


def _mean(images: Tensor) -> Tensor:
    """The mean `[C, R, R]` of pictures uint8 `[N, C, R, R]`, in [0, 1]."""
    return images.sum(0, dtype=torch.float64) / len(images) / 255
