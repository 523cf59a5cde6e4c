"""Quality: how far generated images are from real ones, by FID, KID, precision and recall.

Protocol of docs/protocols.md: decoder means, clamped and rounded to uint8, compared with the whole
split; by target modality, then the mean. Published values include self pairs in the mean
(reproduction/metrics.md); here these are reported apart.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from shalabench.api import (
    BenchError,
    Classifier,
    DataSpec,
    EvalContext,
    Evaluator,
    Joint,
    Metric,
    Model,
    Outcome,
    Rng,
    Score,
    Settings,
    Split,
    Translate,
    fixed_choice,
    has_ability,
    register_evaluator,
    setting,
)
from shalabench.metrics.extractors import NAMES, Chosen, choose, headline_of
from shalabench.metrics.features import (
    CLASSIFIER,
    INCEPTION,
    OTHER_INCEPTION,
    Extractor,
    read_kept,
    real_folder,
)
from shalabench.metrics.fid import FAMILIES, LEAST, Fidelity, Real, compare

_COMPARISON = 100  # images that a comparison counts as in the progress display
_FLOOR = "floor"
_SLOW_SHARD = 50  # tuples at most through Inception on a CPU: half a minute for a few targets
_FAMILIES = {
    "fid": ("lower", 2, "Fréchet distance of Gaussians fitted to features"),
    "kid": ("lower", 4, "unbiased squared MMD of features, cubic kernel, subsets of up to 1,000"),
    "precision": ("higher", 3, "generated images within 3-nearest-neighbour balls of real ones"),
    "recall": ("higher", 3, "real images within 3-nearest-neighbour balls of generated ones"),
}
_PROTOCOLS = {
    "joint": "joint samples, mean over modalities",
    "cross": "images generated from one other modality, mean over sources, then targets",
    "self": "reconstructions (images generated from themselves), mean over modalities",
}


class QualityConfig(Settings):
    """How much is measured, and with which features.

    Settings that choose the extractors are not part of an evaluation's identity; the digests of its
    weights are.
    """

    extractors: Annotated[
        tuple[Literal["auto", "inception-v3-compat", "efficientnet-lite0", "classifier"], ...],
        BeforeValidator(lambda x: tuple(x.split(",")) if isinstance(x, str) else x),
        Field(min_length=1),
    ] = setting(
        ("auto",),
        "Feature extractors, separated by commas. auto: Inception if its weights are named, or are "
        "in torch's hub folder and there is a GPU, else the modalities' classifiers; and "
        "efficientnet-lite0 if the extra `quality` is installed.",
        "our choice: what sees blur (docs/extractors.md); Inception takes a CPU four hours for "
        "60,000 images (reproduction/engine.md#fid-library)",
        exclude=True,
    )
    weights: str = setting(
        "",
        "File of Inception weights; empty: torch-fidelity's download.",
        "our choice",
        exclude=True,
    )
    sha256: str = setting(
        "",
        "Digest of the weights file; empty: that of the published weights.",
        "our choice: the file is a pickle and is checked before it is opened",
        exclude=True,
    )
    samples: int = setting(0, "Joint samples; 0: as many as test tuples.", "MMVAE+ code", ge=0)
    items: int = setting(0, "Test tuples given for cross; 0: all.", "MMVAE+ code: all", ge=0)
    self_pairs: bool = setting(
        True, "Whether images generated from themselves are measured.", "MMVAE+ code, averaged in"
    )
    kid_subsets: int = setting(100, "Draws of KID.", "torch-fidelity", ge=1)
    resamples: int = setting(
        10, "Groups of features behind the standard errors; 0: none.", "our choice", ge=0
    )
    batch_size: int = setting(500, "Tuples at a time, and a kept shard.", "our choice", ge=1)


def _metrics() -> tuple[Metric, ...]:
    metrics = []
    for extractor in NAMES:
        # FID or KID by the number of images, so either may be; `run` says which is.
        headlines = [(headline_of(extractor, n, 1), "cross") for n in (0, 1)]
        for family, (direction, digits, meaning) in _FAMILIES.items():
            of = f"{family}/{extractor}"
            for protocol, what in _PROTOCOLS.items():
                headline = (family, protocol) in headlines
                name, what = f"{of}/{protocol}", f"{meaning}: {what}"
                metrics.append(Metric(name, direction, digits, what, True, headline=headline))
            what = f"{meaning}: real training images instead of generated ones"
            metrics.append(Metric(f"{_FLOOR}/{of}", direction, digits, what, role=_FLOOR, of=of))
    return tuple(metrics)


@register_evaluator("quality", version=1)
class Quality(Evaluator):
    """FID, KID, precision and recall of generated images."""

    Config = QualityConfig
    uses_classifiers = True
    least = LEAST
    metrics = _metrics()

    def __init__(self, config: QualityConfig):
        super().__init__(config)
        self._chosen: Chosen | None = None

    def skip(self, model: type[Model], spec: DataSpec) -> str | None:
        if not has_ability(model, Joint) and not has_ability(model, Translate):
            return "The model neither samples jointly nor translates."
        if not _images(spec):
            return f"The dataset '{spec.name}' has no images, and texts have no FID."
        few = [n for n in (self.config.samples, self.config.items) if 0 < n < LEAST]
        if few:
            return f"evaluators.quality would use {few[0]} images; at least {LEAST} are needed."
        return None

    def instruments(self, spec: DataSpec, classifiers: Mapping[str, Classifier]) -> dict[str, str]:
        self._chosen = self._choose(spec, classifiers)
        return self._chosen.instruments()

    def run(self, model: Model, spec: DataSpec, split: Split, context: EvalContext) -> Outcome:
        chosen = self._chosen or self._choose(spec, context.classifiers)
        extractors = chosen.load(_images(spec), context.device)
        work = _Measurement(self.config, model, spec, split, context, extractors)
        found, scores, details, headlines = work.compare_all(), [], {}, set()
        for name, comparisons in found.items():
            for protocol in (*_PROTOCOLS, _FLOOR):
                same = [c for c in comparisons if c.protocol == protocol]
                for family in FAMILIES if same else ():
                    of = f"{family}/{name}"
                    metric = f"{_FLOOR}/{of}" if protocol == _FLOOR else f"{of}/{protocol}"
                    scores += _scores(metric, family, same)
            details[name] = work.describe(name, comparisons)
            details[name]["notes"] += [chosen.missing] if chosen.missing else []
            if family := headline_of(name, *work.size(name, comparisons)):
                headlines.add(f"{family}/{name}/cross")
        for problem in dict.fromkeys(text for d in details.values() for text in d["notes"][1:]):
            warnings.warn(problem, stacklevel=2)
        several = {"extractors": details} if len(details) > 1 else next(iter(details.values()))
        return Outcome(scores, several, headlines=frozenset(headlines))

    def _choose(self, spec: DataSpec, classifiers: Mapping[str, Classifier]) -> Chosen:
        config = self.config
        asked = config.extractors, config.weights, config.sha256
        return choose(*asked, _images(spec), classifiers, spec.name)


@dataclass(frozen=True)
class _Comparison:
    """One set of images compared with the real ones of its modality."""

    protocol: str
    given: tuple[str, ...]
    target: str
    n: int
    fidelity: Fidelity


@dataclass
class _Measurement:
    """The protocols, applied to a model, data and feature extractors.

    Attributes:
        extractors: By name, then by image modality.
        targets: Names of the image modalities.
    """

    config: QualityConfig
    model: Model
    spec: DataSpec
    split: Split
    context: EvalContext
    extractors: Mapping[str, Mapping[str, Extractor]]

    def __post_init__(self):
        config, split = self.config, self.split
        self.targets = tuple(_images(self.spec))
        self.items = fixed_choice(len(split), config.items, "quality").to(split.device)
        self.samples = config.samples or len(split)
        if min(len(split), len(self.items), self.samples) < LEAST:
            raise BenchError(f"{len(split)} test images are too few; {LEAST} are needed at least.")
        self._real: dict[tuple[str, str], Real] = {}  # by extractor and modality
        self._train: dict[str, Tensor] = {}
        if self.context.splits is not None:
            tensors = self.context.splits("train").tensors
            for name in self.targets:  # each image once, even if many tuples show it
                index = fixed_choice(len(tensors[name]), self.samples, "quality")
                self._train[name] = tensors[name][index.to(tensors[name].device)]
        self._passes = [((), self.targets)] if isinstance(self.model, Joint) else []
        for source in self.spec.names if isinstance(self.model, Translate) else ():
            targets = [n for n in self.targets if n != source or config.self_pairs]
            self._passes.append(((source,), targets))
        is_slow = {INCEPTION, OTHER_INCEPTION} & set(self.extractors)
        self._batch = config.batch_size
        if is_slow and self.context.device.type == "cpu":
            self._batch = min(self._batch, _SLOW_SHARD)
        images = len(self.targets) * len(split) + sum(map(len, self._train.values()))
        images += _COMPARISON * (sum(len(t) for _, t in self._passes) + len(self._train))
        images *= len(self.extractors)
        images += sum(len(self.items) if given else self.samples for given, _ in self._passes)
        self.context.expect(images)

    def compare_all(self) -> dict[str, list[_Comparison]]:
        """Compare generated images, and training images if there are any, with real ones.

        All images are generated once, before anything is compared, so that the slowest part is
        kept if the evaluation is stopped.

        Returns:
            By extractor.
        """
        made = [(given, targets, self._generate(given, targets)) for given, targets in self._passes]
        found: dict[str, list[_Comparison]] = {}
        for extractor in self.extractors:
            for name in self.targets:
                images = self.split.tensors[name]
                folder = real_folder(self.context.cache, self.extractors[extractor][name], images)
                features = self._read(extractor, name, images, folder)
                self._real[extractor, name] = Real(features, self.context.device, folder)
            comparisons = found.setdefault(extractor, [])
            for given, targets, features in made:
                for name in targets:
                    protocol = "joint" if not given else "self" if name in given else "cross"
                    what = extractor, protocol, given, name
                    comparisons.append(self._compare(*what, features[f"{extractor}/{name}"]))
            for name, images in self._train.items():
                folder = real_folder(self.context.cache, self.extractors[extractor][name], images)
                features = self._read(extractor, name, images, folder)
                comparisons.append(self._compare(extractor, _FLOOR, (), name, features))
        return found

    def size(self, extractor: str, comparisons: Sequence[_Comparison]) -> tuple[int, int]:
        """The images of the smallest set but those of floors, and the most dimensions."""
        real = [self._real[extractor, name].features for name in self.targets]
        n = min([*map(len, real), *(c.n for c in comparisons if c.protocol != _FLOOR)])
        return n, max(x.shape[1] for x in real)

    def describe(self, extractor: str, comparisons: Sequence[_Comparison]) -> dict[str, Any]:
        """Details for the record; its notes are the extractor and, if there are any, warnings."""
        features = {name: self._real[extractor, name].features for name in self.targets}
        own, (n, most) = self.extractors[extractor], self.size(extractor, comparisons)
        real = {name: len(x) for name, x in features.items()}
        digests = {name: e.digest for name, e in own.items()}
        resize = own[self.targets[0]].resize
        short = ", ".join(dict.fromkeys(digest[:12] for digest in digests.values()))
        sizes = " and ".join(dict.fromkeys(f"{n:,}" for n in real.values()))
        name = "the modalities' classifiers" if extractor == CLASSIFIER else extractor
        note = f"Features: {name} ({short}), resize {resize}; {sizes} real images a modality."
        warning = (
            f"{n:,} images are fewer than the {most:,} dimensions of the {extractor} features: FID "
            "is far too high, and comparable at this n only. Look at KID."
        )
        return {
            "extractor": extractor,
            "digests": digests,
            "resize": resize,
            "dimension": {name: x.shape[1] for name, x in features.items()},
            "real": real,
            "generated": {"joint": self.samples, "cross": len(self.items)},
            "notes": [note, warning] if n < most else [note],
        }

    def _compare(
        self, extractor: str, protocol: str, given: tuple[str, ...], target: str, features: Tensor
    ) -> _Comparison:
        config, real = self.config, self._real[extractor, target]
        shared = self.split.sources(given, self.items)
        sources = None if shared is None else shared[0]
        fidelity = compare(features, real, config.kid_subsets, config.resamples, sources)
        self.context.advance(_COMPARISON)
        return _Comparison(protocol, given, target, len(features), fidelity)

    def _generate(self, given: tuple[str, ...], targets: Sequence[str]) -> dict[str, Tensor]:
        """Features of generated images by extractor/modality, kept until all is recorded."""

        def read(index: Tensor, rng: Rng) -> dict[str, Tensor]:
            if given:
                views = self.split.batch(index).views
                views = self.model.translate({name: views[name] for name in given}, targets, rng)
            else:
                views = self.model.sample(len(index), rng)
            pixels = {name: _pixels(views[name], name) for name in targets}
            return {
                f"{extractor}/{name}": own[name](pixels[name])
                for extractor, own in self.extractors.items()
                for name in targets
            }

        items, purpose = (self.items, ("cross", *given)) if given else (self.samples, ("joint",))
        scratch = self.context.scratch
        folder = scratch / "-".join(purpose) if scratch else None
        return read_kept(self.context, folder, items, self._batch, read, *purpose)

    def _read(self, extractor: str, name: str, images: Tensor, folder: Path | None) -> Tensor:
        """Features of real images uint8 `[N, C, H, W]`, kept in a folder."""
        own, context = self.extractors[extractor][name], self.context

        def read(index: Tensor, _: Rng) -> dict[str, Tensor]:
            return {"features": own(images[index].to(context.device))}

        items = torch.arange(len(images), device=images.device)
        return read_kept(context, folder, items, self._batch, read)["features"].double()


def _images(spec: DataSpec) -> list[str]:
    return [m.name for m in spec.modalities if m.kind == "image"]


def _pixels(x: Tensor, name: str) -> Tensor:
    """Decoder means as uint8."""
    if not torch.isfinite(x).all():
        raise BenchError(f"The model generated values of '{name}' that are not finite.")
    return (x.float().clamp(0, 1) * 255).round().to(torch.uint8)


def _scores(metric: str, family: str, comparisons: Sequence[_Comparison]) -> list[Score]:
    """The summary over sources, then targets, and a part for each comparison."""
    parts, by_target = [], {}
    for c in comparisons:
        value, replicates = c.fidelity.values[family], c.fidelity.replicates.get(family)
        parts.append(_score(metric, value, replicates, c.n, c.given, c.target))
        by_target.setdefault(c.target, []).append((value, replicates))
    value = float(np.mean([np.mean([x for x, _ in pairs]) for pairs in by_target.values()]))
    replicates = None
    if all(r is not None for pairs in by_target.values() for _, r in pairs):
        # The groups are the same tuples in every comparison, which keeps their dependence.
        means = [torch.stack([r for _, r in pairs]).mean(0) for pairs in by_target.values()]
        replicates = torch.stack(means).mean(0)
    return [_score(metric, value, replicates, min(c.n for c in comparisons)), *parts]


def _score(metric: str, value: float, replicates: Tensor | None, n: int, *pair: Any) -> Score:
    """A score with the standard error of replicates `[G]`."""
    if replicates is None:
        return Score(metric, value, n, None, *pair)
    groups = len(replicates)
    stderr = (replicates.std() / groups**0.5).item()
    return replace(Score(metric, value, n, stderr, *pair), groups=groups)
