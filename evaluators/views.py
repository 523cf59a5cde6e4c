"""Views: how well other viewpoints are predicted, by protocol P1 (design.md, section 3).

Every view is scored by itself, then the mean over views, then over objects: never the PSNR of a
pooled error. Predictions are rounded to 8 bits first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from harness.api import (
    Camera,
    DataSpec,
    Evaluator,
    Metric,
    Model,
    Outcome,
    Score,
    Settings,
    Split,
    Tools,
    Translate,
    register_evaluator,
    setting,
)
from nets.similarity import psnr, seen_from, ssim

_QUARTERS = 4  # given views of the rotation set
_SEVERAL = (2, 4, 8)  # given views of protocol P2
_RESAMPLES = 2000
_OBJECTS_SHOWN = 3
_TILE = 64
_GAP = 2
_GIVEN = (20, 160, 60)  # frame of what was given
_WHITE_ENOUGH = 0.05  # a pixel that differs from white by more is taken for an object's
_FAMILIES = {
    "psnr": (2, "peak signal-to-noise ratio in dB"),
    "ssim": (3, "structural similarity, 7 x 7 windows"),
}
_KINDS = {
    "": "view 0 given, one sample of each other view, mean over views, then objects (P1)",
    "/rotation": "the same, mean over the views at 0, 90, 180 and 270 degrees as the given one",
    "/mean": "P1 of the pixel-wise mean of several samples, which favours it",
    "/best": "P1 of the best of several samples, chosen by PSNR for each object",
    **{
        f"/given-{k}": f"{k} evenly spread views given (P2), all others predicted" for k in _SEVERAL
    },
}
_ALONE = {
    "psnr/foreground": "P1 on the pixels that either picture has not white",
    "psnr/visible": "P1 on the object's pixels whose surface the given view shows as well",
    "psnr/hidden": "P1 on the object's pixels whose surface the given view does not show",
    "ssim/box": "P1 within the object's bounding box",
}


class ViewsConfig(Settings):
    """How much is measured."""

    items: int = setting(0, "Test objects; 0: all.", "ours: all", ge=0)
    more_items: int = setting(
        0, "Test objects for all but the headline; 0: as many.", "ours: as many", ge=0
    )
    samples: int = setting(8, "Samples an object, for their mean and best.", "views.md, P1", ge=1)
    batch_size: int = setting(16, "Objects at a time; changes no result.", "ours", ge=1)


def _metrics() -> tuple[Metric, ...]:
    found = [
        Metric(f"{family}{kind}", "higher", digits, f"{meaning}: {told}")
        for family, (digits, meaning) in _FAMILIES.items()
        for kind, told in _KINDS.items()
    ]
    for name, told in _ALONE.items():
        digits, meaning = _FAMILIES[name.split("/")[0]]
        found.append(Metric(name, "higher", digits, f"{meaning}: {told}"))
    return tuple(found)


@register_evaluator("views", version=1)
class ViewSynthesis(Evaluator):
    """PSNR and SSIM of predicted viewpoints, and what trivial predictions reach."""

    Config = ViewsConfig
    needs = (Translate,)
    metrics = _metrics()

    def skip(self, model: type[Model], spec: DataSpec) -> str | None:
        if not spec.modalities or any(m.camera is None for m in spec.modalities):
            return f"The modalities of '{spec.name}' are no viewpoints: they have no cameras."
        return super().skip(model, spec)

    def run(self, model: Model, spec: DataSpec, split: Split, tools: Tools) -> Outcome:
        bench = _Bench(self.config, model, spec, split, tools)
        scores, details = bench.headline()
        scores += bench.several_samples() + bench.rotation() + bench.several_given()
        floors = bench.floors()
        resolution = spec.modalities[0].shape[-1]
        details |= {
            "resolution": resolution,
            "floors": floors,
            "notes": _notes(model, resolution, len(spec.names), floors),
        }
        return Outcome(scores, details, {"sheet": bench.sheet()})


@dataclass
class _Bench:
    config: ViewsConfig
    model: Model
    spec: DataSpec
    split: Split
    tools: Tools

    def __post_init__(self):
        self.names = self.spec.names
        self.real = torch.stack([self.split.tensors[n] for n in self.names], 1)  # [N, V, C, R, R]
        n = len(self.split)
        self.items = min(self.config.items or n, n)
        self.more = min(self.config.more_items or self.items, self.items)
        self._done, self._total = 0, self._amount()
        self._first: Tensor | None = None  # the headline's predictions

    def predict(self, given: Sequence[int], n: int, sample: int = 0) -> Tensor:
        """The views that are not given, `[n, V - K, C, R, R]` uint8, in order."""
        names = [self.names[i] for i in given]
        targets = [name for name in self.names if name not in names]
        made = []
        for first in range(0, n, self.config.batch_size):
            size = min(self.config.batch_size, n - first)
            index = torch.arange(first, first + size, device=self.split.device)
            views = self.split.batch(index).views
            rng = self.tools.rng("views", *names, sample, first=first)
            found = self.model.translate({name: views[name] for name in names}, targets, rng)
            images = torch.stack([found[name] for name in targets], 1)
            made.append((images.float().clamp(0, 1) * 255).round().to(torch.uint8))
            self._done += size
            self.tools.report(self._done, self._total)
        return torch.cat(made)

    def others(self, given: Sequence[int], n: int) -> Tensor:
        """The real views that are not given, as `predict` orders them."""
        return self.real[:n, [i for i in range(len(self.names)) if i not in given]]

    def headline(self) -> tuple[list[Score], dict[str, object]]:
        """P1: its summaries, a part for each view, the object alone, by angle, intervals."""
        made, real = self.predict([0], self.items), self.others([0], self.items)
        self._first = made
        quality = _Quality.of(made, real)
        given, targets = self.names[0], self.names[1:]
        scores = [*quality.summaries("")]
        for family, values in quality.by_view.items():
            scores += [
                _score(family, own, (given,), target)
                for target, own in zip(targets, values.T, strict=True)
            ]
        scores += self._object_alone(made, real)
        angles = [_angle(self.spec[given].camera, self.spec[t].camera) for t in targets]
        details = {
            "interval": {f: _interval(values.mean(1)) for f, values in quality.by_view.items()},
            "by_angle": {
                f: {
                    f"{angle:g}": round(float(values[:, _where(angles, angle)].mean()), 4)
                    for angle in sorted(set(angles))
                }
                for f, values in quality.by_view.items()
            },
        }
        return scores, details

    def several_samples(self) -> list[Score]:
        """The mean and the best of several samples; of one where a method has no noise."""
        n, first = self.more, self._first
        samples = [first[:n].float()]
        if self.config.samples > 1:
            second = self.predict([0], n, 1)
            if not torch.equal(second, first[:n]):
                samples.append(second.float())
                for i in range(2, self.config.samples):
                    samples.append(self.predict([0], n, i).float())
        if len(samples) == 1:
            return []
        real = self.others([0], n)
        mean = torch.stack(samples).mean(0).round().to(torch.uint8)
        scores = _Quality.of(mean, real).summaries("/mean")
        each = [_Quality.of(x.to(torch.uint8), real) for x in samples]
        best = torch.stack([q.by_view["psnr"].mean(1) for q in each]).argmax(0)  # [n]
        chosen = {
            family: torch.stack([q.by_view[family] for q in each])[best, torch.arange(n)]
            for family in _FAMILIES
        }
        return scores + _Quality(chosen).summaries("/best")

    def rotation(self) -> list[Score]:
        """P1 from each quarter turn, the mean over the given views."""
        views = len(self.names)
        if views < _QUARTERS:
            return []
        found = [_Quality.of(self._first[: self.more], self.others([0], self.more))]
        for i in range(1, _QUARTERS):
            given = [i * views // _QUARTERS]
            found.append(_Quality.of(self.predict(given, self.more), self.others(given, self.more)))
        means = {f: torch.stack([q.by_view[f] for q in found]).mean(0) for f in _FAMILIES}
        return _Quality(means).summaries("/rotation")

    def several_given(self) -> list[Score]:
        """P2, where the method takes several views."""
        scores, views = [], len(self.names)
        for k in self._several():
            given = [i * views // k for i in range(k)]
            quality = _Quality.of(self.predict(given, self.more), self.others(given, self.more))
            scores += quality.summaries(f"/given-{k}")
        return scores

    def floors(self) -> dict[str, dict[str, float]]:
        """P1 of white pictures, of the training cars' mean and of the nearest training car."""
        real = self.others([0], self.items)
        guesses = {"white": torch.full_like(real, 255)}
        if self.tools.splits is not None:
            train = self.tools.splits("train").to(self.split.device)
            known = torch.stack([train.tensors[n] for n in self.names], 1)
            mean = known[:, 1:].float().mean(0).round().to(torch.uint8)
            guesses["mean image"] = mean.expand_as(real)
            a, b = (x[:, 0].flatten(1).float() for x in (self.real[: self.items], known))
            guesses["nearest training object"] = known[torch.cdist(a, b).argmin(1), 1:]
        return {
            name: {s.metric: s.value for s in _Quality.of(made, real).summaries("")}
            for name, made in guesses.items()
        }

    def sheet(self) -> Tensor:
        """Objects with the given view framed, predictions beside it, the truth below; uint8."""
        n = min(_OBJECTS_SHOWN, self.items)
        given = self.real[:n, :1]
        rows = []
        for i in range(n):
            for line, framed in (
                (torch.cat([given, self._first[:n]], 1)[i], True),
                (self.real[i], False),
            ):
                rows.append(_line(line.cpu(), framed))
        return torch.cat(rows)

    def _object_alone(self, made: Tensor, real: Tensor) -> list[Score]:
        a, b = made.float() / 255, real.float() / 255
        either = ((1 - a) > _WHITE_ENOUGH).any(2) | ((1 - b) > _WHITE_ENOUGH).any(2)
        scores = [_score("psnr/foreground", psnr(a, b, either))]
        facts = {name: x[: self.items] for name, x in self.split.facts.items()}
        if "alpha" in facts:
            scores.append(_score("ssim/box", ssim(a, b, facts["alpha"][:, 1:] > 127)))
        if "depth" in facts:
            depth, cameras = facts["depth"], [m.camera for m in self.spec.modalities]
            shown = torch.stack(
                [
                    seen_from(depth[:, i], cameras[i], depth[:, 0], cameras[0])
                    for i in range(1, len(cameras))
                ],
                1,
            )
            car = depth[:, 1:] > 0
            scores.append(_score("psnr/visible", psnr(a, b, car & shown)))
            scores.append(_score("psnr/hidden", psnr(a, b, car & ~shown)))
        return scores

    def _several(self) -> list[int]:
        most = min(self.model.max_given or len(self.names), len(self.names) - 1)
        return [k for k in _SEVERAL if k <= most]

    def _amount(self) -> int:
        rounds = (self.config.samples - 1) + (_QUARTERS - 1) + len(self._several())
        return self.items + rounds * self.more


@dataclass(frozen=True)
class _Quality:
    """PSNR and SSIM of every predicted view.

    Attributes:
        by_view: `[N, T]` by family.
    """

    by_view: dict[str, Tensor]

    @classmethod
    def of(cls, made: Tensor, real: Tensor) -> _Quality:
        """Of uint8 pictures `[N, T, C, R, R]`."""
        a, b = made.double() / 255, real.double() / 255
        return cls({"psnr": psnr(a, b), "ssim": ssim(a, b)})

    def summaries(self, kind: str) -> list[Score]:
        return [_score(f"{family}{kind}", values) for family, values in self.by_view.items()]


def _score(
    metric: str, values: Tensor, given: tuple[str, ...] = (), target: str | None = None
) -> Score:
    """The mean over views, then objects, of `[N]` or `[N, T]`; views without a pixel left out."""
    objects = values if values.dim() == 1 else values.nanmean(1)
    objects = objects[~objects.isnan()]
    n = len(objects)
    stderr = (objects.std() / n**0.5).item() if n > 1 else None
    return Score(metric, objects.mean().item(), n, stderr, given, target)


def _interval(objects: Tensor) -> list[float]:
    """95 % bootstrap interval of the mean over objects `[N]` (percentiles)."""
    values = objects.cpu().numpy()
    draws = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    return [round(float(x), 4) for x in np.percentile(values[draws].mean(1), [2.5, 97.5])]


def _angle(a: Camera, b: Camera) -> float:
    """Between the directions in which two cameras look, in degrees, to a tenth."""
    cosine = math.fsum(x * y for x, y in zip(a.rotation[2], b.rotation[2], strict=True))
    return round(math.degrees(math.acos(max(-1.0, min(1.0, cosine)))), 1)


def _where(angles: list[float], angle: float) -> list[int]:
    return [i for i, own in enumerate(angles) if own == angle]


def _notes(
    model: Model, resolution: int, views: int, floors: dict[str, dict[str, float]]
) -> list[str]:
    told = "; ".join(
        f"{name} {found['psnr']:.2f} dB, {found['ssim']:.3f}" for name, found in floors.items()
    )
    notes = [
        f"Protocol P1: view 0 of {views} given, the others predicted, {resolution} x {resolution} "
        "pixels on white, 8 bits. The published figures mix four protocols.",
        f"Floors: {told}.",
    ]
    for what in ("reduced", "supervision"):
        text = getattr(model, what, "")
        if text:
            notes.append(f"{model.name}, {what}: {text}.")
    return notes


def _line(pictures: Tensor, framed: bool) -> Tensor:
    """Pictures `[V, C, R, R]` uint8 in a row, the first framed where it was given."""
    side = pictures.shape[-1]
    mode = "nearest" if side <= _TILE else "area"
    tiles = functional.interpolate(pictures.float(), (_TILE, _TILE), mode=mode)
    tiles = tiles.round().to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
    outer = _TILE + 2 * _GAP
    row = torch.full((len(tiles), outer, outer, 3), 255, dtype=torch.uint8)
    if framed:
        row[0] = torch.tensor(_GIVEN, dtype=torch.uint8)
    row[:, _GAP:-_GAP, _GAP:-_GAP] = tiles
    return row.permute(1, 0, 2, 3).reshape(outer, len(tiles) * outer, 3)
