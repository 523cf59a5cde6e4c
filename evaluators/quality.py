"""Quality: how far generated images are from real ones, by FID, KID, precision and recall.

Protocol of docs/protocols.md: decoder means, clamped and rounded to uint8, compared with the whole
split; by target modality, then the mean. Published values include self pairs in the mean
(reproduction/metrics.md); here these are reported apart.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from shalabench.api import (
    BenchError,
    Classifier,
    DataError,
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
from shalabench.metrics.features import (
    CLASSIFIER,
    INCEPTION,
    OTHER_INCEPTION,
    ClassifierFeatures,
    Extractor,
    Inception,
    inception_file,
    inception_name,
    load_features,
    read_inception,
    save_features,
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

    Settings that choose the extractor are not part of an evaluation's identity; the digests of its
    weights are.
    """

    extractor: Literal["auto", "inception-v3-compat", "classifier"] = setting(
        "auto",
        "Feature extractor. auto: Inception if its weights are named, or are in torch's hub "
        "folder and there is a GPU; else the modalities' classifiers.",
        "our choice: 60,000 images take a CPU four hours (reproduction/engine.md#fid-library)",
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
    for extractor in (INCEPTION, CLASSIFIER, OTHER_INCEPTION):
        for family, (direction, digits, meaning) in _FAMILIES.items():
            of = f"{family}/{extractor}"
            for protocol, what in _PROTOCOLS.items():
                headline = (family, protocol) == ("fid", "cross")
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
    metrics = _metrics()

    def __init__(self, config: QualityConfig):
        super().__init__(config)
        self._chosen: str | None = None

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
        if self._chosen == INCEPTION:
            _, digest = read_inception(self.config.weights, self.config.sha256)
            return {inception_name(digest): digest}
        return {name: classifiers[name].digest for name in _images(spec)}

    def run(self, model: Model, spec: DataSpec, split: Split, context: EvalContext) -> Outcome:
        extractors = self._extractors(spec, context)
        work = _Measurement(self.config, model, spec, split, context, extractors)
        comparisons, scores = work.compare_all(), []
        for protocol in (*_PROTOCOLS, _FLOOR):
            same = [c for c in comparisons if c.protocol == protocol]
            for family in FAMILIES if same else ():
                of = f"{family}/{work.name}"
                metric = f"{_FLOOR}/{of}" if protocol == _FLOOR else f"{of}/{protocol}"
                scores += _scores(metric, family, same)
        details = work.describe(comparisons)
        for problem in details["notes"][1:]:
            warnings.warn(problem, stacklevel=2)
        return Outcome(scores, details)

    def _choose(self, spec: DataSpec, classifiers: Mapping[str, Classifier]) -> str:
        known, chosen = all(name in classifiers for name in _images(spec)), self.config.extractor
        if chosen == "auto":
            ready = inception_file().exists() and torch.cuda.is_available()
            chosen = INCEPTION if self.config.weights or ready or not known else CLASSIFIER
        if chosen == CLASSIFIER and not known:
            raise DataError(
                f"The dataset '{spec.name}' has no classifiers whose features could be compared. "
                f"Use --set evaluators.quality.extractor={INCEPTION}."
            )
        return chosen

    def _extractors(self, spec: DataSpec, context: EvalContext) -> dict[str, Extractor]:
        if (self._chosen or self._choose(spec, context.classifiers)) == CLASSIFIER:
            classifiers = {name: context.classifiers[name] for name in _images(spec)}
            return {n: ClassifierFeatures(c.network, c.digest) for n, c in classifiers.items()}
        content, digest = read_inception(self.config.weights, self.config.sha256)
        return dict.fromkeys(_images(spec), Inception(content, digest, context.device))


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
        targets: Names of the image modalities.
        name: Of the extractor.
    """

    config: QualityConfig
    model: Model
    spec: DataSpec
    split: Split
    context: EvalContext
    extractors: Mapping[str, Extractor]

    def __post_init__(self):
        config, split = self.config, self.split
        self.targets = tuple(self.extractors)
        self._extractor = self.extractors[self.targets[0]]
        self.name = self._extractor.name
        self.items = fixed_choice(len(split), config.items, "quality").to(split.device)
        self.samples = config.samples or len(split)
        if min(len(split), len(self.items), self.samples) < LEAST:
            raise BenchError(f"{len(split)} test images are too few; {LEAST} are needed at least.")
        self._real: dict[str, Real] = {}
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
        images = sum(len(self.items) if given else self.samples for given, _ in self._passes)
        images += len(self.targets) * len(split) + sum(map(len, self._train.values()))
        comparisons = sum(len(targets) for _, targets in self._passes) + len(self._train)
        self.context.expect(images + _COMPARISON * comparisons)

    def compare_all(self) -> list[_Comparison]:
        """Compare generated images, and training images if there are any, with real ones.

        All images are generated before anything is compared, so that the slowest part is kept if
        the evaluation is stopped.
        """
        made = [
            (given, name, features)
            for given, targets in self._passes
            for name, features in self._generate(given, targets).items()
        ]
        for name in self.targets:
            features = self._read(name, self.split.tensors[name])
            self._real[name] = Real(features, self.context.device)
        comparisons = []
        for given, name, features in made:
            protocol = "joint" if not given else "self" if name in given else "cross"
            comparisons.append(self._compare(protocol, given, name, features))
        for name, images in self._train.items():
            comparisons.append(self._compare(_FLOOR, (), name, self._read(name, images)))
        return comparisons

    def describe(self, comparisons: Sequence[_Comparison]) -> dict[str, Any]:
        """Details for the record; its notes are the extractor and, if there are any, warnings."""
        dimension = {name: real.features.shape[1] for name, real in self._real.items()}
        real = {name: len(real.features) for name, real in self._real.items()}
        digests = {name: e.digest for name, e in self.extractors.items()}
        resize, most = self._extractor.resize, max(dimension.values())
        short = ", ".join(dict.fromkeys(digest[:12] for digest in digests.values()))
        sizes = " and ".join(dict.fromkeys(f"{n:,}" for n in real.values()))
        name = "the modalities' classifiers" if self.name == CLASSIFIER else self.name
        note = f"Features: {name} ({short}), resize {resize}; {sizes} real images a modality."
        n = min([*real.values(), *(c.n for c in comparisons if c.protocol != _FLOOR)])
        warning = (
            f"{n:,} images are fewer than the {most:,} dimensions of the {self.name} features: FID "
            "is far too high, and comparable at this n only. Look at KID."
        )
        return {
            "extractor": self.name,
            "digests": digests,
            "resize": resize,
            "dimension": dimension,
            "real": real,
            "generated": {"joint": self.samples, "cross": len(self.items)},
            "notes": [note, warning] if n < most else [note],
        }

    def _compare(
        self, protocol: str, given: tuple[str, ...], target: str, features: Tensor
    ) -> _Comparison:
        config, real = self.config, self._real[target]
        shared = self.split.sources(given, self.items)
        sources = None if shared is None else shared[0]
        fidelity = compare(features, real, config.kid_subsets, config.resamples, sources)
        self.context.advance(_COMPARISON)
        return _Comparison(protocol, given, target, len(features), fidelity)

    def _generate(self, given: tuple[str, ...], targets: Sequence[str]) -> dict[str, Tensor]:
        """Features by modality of generated images, kept until the evaluation is recorded."""

        def read(index: Tensor, rng: Rng) -> dict[str, Tensor]:
            if given:
                views = self.split.batch(index).views
                views = self.model.translate({name: views[name] for name in given}, targets, rng)
            else:
                views = self.model.sample(len(index), rng)
            return {t: self.extractors[t](_pixels(views[t], t)) for t in targets}

        items, purpose = (self.items, ("cross", *given)) if given else (self.samples, ("joint",))
        scratch = self.context.scratch
        return self._kept(scratch / "-".join(purpose) if scratch else None, items, read, *purpose)

    def _read(self, name: str, images: Tensor) -> Tensor:
        """Features of real images uint8 `[N, C, H, W]`, kept under a key of their content."""
        extractor = self.extractors[name]
        content = np.ascontiguousarray(images.cpu().numpy())
        parts = (str(content.shape), extractor.digest, extractor.name, extractor.resize)
        key = hashlib.sha256("\0".join(parts).encode() + content.tobytes()).hexdigest()
        cache = self.context.cache
        folder = cache / "features" / key[:32] if cache else None

        def read(index: Tensor, _: Rng) -> dict[str, Tensor]:
            return {"features": extractor(images[index].to(self.context.device))}

        items = torch.arange(len(images), device=images.device)
        return self._kept(folder, items, read)["features"].double()

    def _kept(
        self,
        folder: Path | None,
        items: Tensor | int,
        read: Callable[[Tensor, Rng], dict[str, Tensor]],
        *purpose: str,
    ) -> dict[str, Tensor]:
        """The features that `read` returns for all items; those kept in `folder` are not read."""

        def load_or_read(index: Tensor, rng: Rng) -> dict[str, Tensor]:
            file = folder / f"{rng.first:08d}-{len(index)}.npz" if folder else None
            shard = load_features(file) if file else None
            if shard is None:
                shard = {k: x.float().cpu().numpy() for k, x in read(index, rng).items()}
                if file:
                    save_features(file, shard)
            return {k: torch.from_numpy(x) for k, x in shard.items()}

        size = self.config.batch_size
        if self.name != CLASSIFIER and self.context.device.type == "cpu":
            size = min(size, _SLOW_SHARD)
        return self.context.map(load_or_read, items, size, *purpose)


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
