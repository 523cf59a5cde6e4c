"""Quality: how far generated images are from real ones, by FID and its kin.

Protocol of docs/protocols.md: decoder means, clamped and rounded to integers, against the whole
split that is measured on, by target modality and then the mean. The published figures average
self pairs in (reproduction/metrics.md); here these stand apart.
"""

from __future__ import annotations

import hashlib
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits
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
    Score,
    Settings,
    Split,
    Translate,
    Views,
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
    read_inception,
)
from shalabench.metrics.fid import FAMILIES, LEAST, Figures, Real, compare

_COMPARISON = 100  # images that one comparison counts as in the progress display
_SLOW_SHARD = 50  # tuples at most through Inception on a CPU: half a minute for a few targets
_MEANING = {
    "fid": ("lower", 2, "Fréchet distance of Gaussians fitted to features"),
    "kid": ("lower", 4, "unbiased squared MMD of features, cubic kernel, subsets of up to 1,000"),
    "precision": ("higher", 3, "generated images within the real ones' 3 nearest neighbours"),
    "recall": ("higher", 3, "real images within the generated ones' 3 nearest neighbours"),
}
_PROTOCOLS = {
    "joint": "joint samples, mean over modalities",
    "cross": "images generated from one other modality, mean over sources, then targets",
    "self": "images generated from themselves, mean over modalities",
}


class QualityConfig(Settings):
    """How much is measured, and with which features.

    What chooses the extractor is not part of an evaluation's identity: the digests of the weights
    that were used are.
    """

    extractor: Literal["auto", "inception-v3-compat", "classifier"] = setting(
        "auto",
        "What reads images. auto: Inception where its weights are named, or lie in torch's hub "
        "folder and there is a GPU; else the modalities' own classifiers.",
        "ours: a CPU takes four hours for 60,000 images through Inception (reproduction/engine.md)",
        exclude=True,
    )
    weights: str = setting(
        "",
        "Local file of Inception weights; empty: torch-fidelity's download.",
        "ours",
        exclude=True,
    )
    sha256: str = setting(
        "",
        "Digest that the weights file must have; empty: that of the published weights.",
        "ours: the file is a pickle, and is checked before it is opened",
        exclude=True,
    )
    samples: int = setting(0, "Joint samples; 0: as many as test tuples.", "MMVAE+ code", ge=0)
    items: int = setting(0, "Test tuples given for cross; 0: all.", "MMVAE+ code: all", ge=0)
    self_pairs: bool = setting(
        True, "Whether images generated from themselves are measured.", "MMVAE+ code, averaged in"
    )
    kid_subsets: int = setting(100, "Draws of KID.", "torch-fidelity", ge=1)
    resamples: int = setting(
        10, "Groups of features behind the standard errors; 0: none.", "ours", ge=0
    )
    batch_size: int = setting(500, "Tuples at a time, and a kept shard.", "ours", ge=1)


def _metrics() -> tuple[Metric, ...]:
    found = []
    for extractor in (INCEPTION, CLASSIFIER, OTHER_INCEPTION):
        for family in FAMILIES:
            direction, digits, meaning = _MEANING[family]
            for protocol, told in _PROTOCOLS.items():
                name = f"{family}/{extractor}/{protocol}"
                found.append(
                    Metric(
                        name,
                        direction,
                        digits,
                        f"{meaning}: {told}",
                        biased=True,
                        headline=family == "fid" and protocol == "cross",
                    )
                )
            of = f"{family}/{extractor}"
            told = f"{meaning}: real training images in the generated ones' place"
            found.append(Metric(f"floor/{of}", direction, digits, told, role="floor", of=of))
    return tuple(found)


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
        bench = _Bench(self.config, model, spec, split, context, self._extractors(spec, context))
        comparisons = bench.comparisons()
        floors = bench.floors()
        extractor = bench.name
        scores = []
        for protocol in _PROTOCOLS:
            own = [c for c in comparisons if c.protocol == protocol]
            for family in FAMILIES if own else ():
                scores += _scores(f"{family}/{extractor}/{protocol}", family, own)
        for family in FAMILIES if floors else ():
            scores += _scores(f"floor/{family}/{extractor}", family, floors)
        problems = bench.problems(comparisons)
        for problem in problems:
            warnings.warn(problem, stacklevel=2)
        return Outcome(scores, {**bench.describe(), "notes": [bench.told(), *problems]})

    def _choose(self, spec: DataSpec, classifiers: Mapping[str, Classifier]) -> str:
        if self.config.extractor != "auto":
            chosen = self.config.extractor
        elif self.config.weights or (inception_file().exists() and torch.cuda.is_available()):
            chosen = INCEPTION
        else:
            judged = all(name in classifiers for name in _images(spec))
            chosen = CLASSIFIER if judged else INCEPTION
        if chosen == CLASSIFIER and any(name not in classifiers for name in _images(spec)):
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
    """One set of images against the real ones of its modality."""

    protocol: str
    given: tuple[str, ...]
    target: str
    n: int
    figures: Figures


class _Bench:
    """A model, the data and the extractors, and what the protocols make of them.

    Attributes:
        targets: Names of the image modalities.
        name: Of the extractor.
    """

    def __init__(
        self,
        config: QualityConfig,
        model: Model,
        spec: DataSpec,
        split: Split,
        context: EvalContext,
        extractors: Mapping[str, Extractor],
    ):
        self.config, self.model, self.context = config, model, context
        self.spec, self.split, self.extractors = spec, split, extractors
        self.targets = tuple(extractors)
        self.name = extractors[self.targets[0]].name
        self.items = fixed_choice(len(split), config.items, "quality").to(split.device)
        self.samples = config.samples or len(split)
        if min(len(split), len(self.items), self.samples) < LEAST:
            raise BenchError(f"{len(split)} test images are too few; {LEAST} are needed at least.")
        self._train = context.splits("train") if context.splits is not None else None
        self._done, self._total = 0, self._amount()
        self._real: dict[str, Real] = {}

    def comparisons(self) -> list[_Comparison]:
        """Joint samples and images translated from each modality, against real ones.

        Everything is generated and read before anything is compared, so that what takes longest is
        kept.
        """
        made = []
        if isinstance(self.model, Joint):
            features = self._generated("joint", self.samples, self.targets, self._sample)
            made += [("joint", (), name, x) for name, x in features.items()]
        if isinstance(self.model, Translate):
            for source in self.spec.names:
                targets = self._targets_of(source)
                make = self._translation(source, targets)
                features = self._generated(f"cross-{source}", len(self.items), targets, make)
                made += [
                    ("self" if name == source else "cross", (source,), name, x)
                    for name, x in features.items()
                ]
        for name in self.targets:
            self._real[name] = Real(self._kept(name, self.split.tensors[name]), self.context.device)
        return [self._compare(*one) for one in made]

    def floors(self) -> list[_Comparison]:
        """Real training images against the real ones; none where training data are not lent."""
        if self._train is None:
            return []
        found = []
        for name in self.targets:
            images = self._train.tensors[name]  # each once, however many tuples show it
            index = fixed_choice(len(images), self.samples, "quality")
            features = self._kept(name, images[index.to(images.device)])
            found.append(self._compare("floor", (), name, features))
        return found

    def describe(self) -> dict[str, object]:
        """What was read with what, for the record."""
        return {
            "extractor": self.name,
            "digests": {name: e.digest for name, e in self.extractors.items()},
            "resize": self.extractors[self.targets[0]].resize,
            "dimension": {name: real.features.shape[1] for name, real in self._real.items()},
            "real": {name: len(real.features) for name, real in self._real.items()},
            "generated": {"joint": self.samples, "cross": len(self.items)},
        }

    def told(self) -> str:
        """The same in a sentence below the table."""
        resize = self.extractors[self.targets[0]].resize
        whose = "the modalities' own classifiers" if self.name == CLASSIFIER else self.name
        digests = dict.fromkeys(e.digest[:12] for e in self.extractors.values())
        sizes = dict.fromkeys(len(real.features) for real in self._real.values())
        real = " and ".join(f"{n:,}" for n in sizes)
        return (
            f"Features: {whose} ({', '.join(digests)}), resize {resize}; "
            f"{real} real images a modality."
        )

    def problems(self, comparisons: Sequence[_Comparison]) -> list[str]:
        """A sentence where a covariance has more dimensions than images."""
        real = min(len(x.features) for x in self._real.values())
        n = min([real, *(c.n for c in comparisons)])
        most = max(x.features.shape[1] for x in self._real.values())
        if n >= most:
            return []
        return [
            f"{n:,} images are fewer than the {most:,} dimensions of the {self.name} features: FID "
            "is far too high and only comparable at this very n; look at KID."
        ]

    def _compare(
        self, protocol: str, given: tuple[str, ...], target: str, features: Tensor
    ) -> _Comparison:
        config, real = self.config, self._real[target]
        # numpy's own threads know nothing of torch's number, and on busy cores wait for each other:
        # 14 CPU seconds for an FID of 864 dimensions where one thread takes 0.3.
        with threadpool_limits(torch.get_num_threads()):
            figures = compare(features, real, config.kid_subsets, config.resamples)
        self._advance(_COMPARISON)
        return _Comparison(protocol, given, target, len(features), figures)

    def _targets_of(self, source: str) -> tuple[str, ...]:
        return tuple(n for n in self.targets if n != source or self.config.self_pairs)

    def _sample(self, first: int, size: int) -> Views:
        return self.model.sample(size, self.context.rng("joint", first=first))

    def _translation(self, source: str, targets: Sequence[str]) -> Callable[[int, int], Views]:
        def translate(first: int, size: int) -> Views:
            views = self.split.batch(self.items[first : first + size]).views
            rng = self.context.rng("cross", source, first=first)
            return self.model.translate({source: views[source]}, targets, rng)

        return translate

    def _generated(
        self, name: str, n: int, targets: Sequence[str], make: Callable[[int, int], Views]
    ) -> dict[str, Tensor]:
        """Features by modality of what `make(first, size)` generates, kept until it is recorded."""

        def read(first: int, size: int) -> dict[str, Tensor]:
            views = make(first, size)
            return {t: self.extractors[t](_pixels(views[t], t)) for t in targets}

        scratch = self.context.scratch
        return self._shards(scratch / name if scratch else None, n, read)

    def _kept(self, name: str, images: Tensor) -> Tensor:
        """Features of real images uint8 `[N, C, H, W]`, kept under a key of their content."""
        extractor = self.extractors[name]
        content = np.ascontiguousarray(images.cpu().numpy())
        parts = (str(content.shape), extractor.digest, extractor.name, extractor.resize)
        key = hashlib.sha256("\0".join(parts).encode() + content.tobytes()).hexdigest()
        cache = self.context.cache
        folder = cache / "features" / key[:32] if cache else None

        def read(first: int, size: int) -> dict[str, Tensor]:
            part = images[first : first + size].to(self.context.device)
            return {"features": extractor(part)}

        return self._shards(folder, len(images), read)["features"].double()

    def _shards(
        self, folder: Path | None, n: int, read: Callable[[int, int], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """What `read(first, size)` gives for all of n, shard by shard; kept shards are not read."""
        shards = []
        slow = self.name != CLASSIFIER and self.context.device.type == "cpu"
        most = min(self.config.batch_size, _SLOW_SHARD) if slow else self.config.batch_size
        for first in range(0, n, most):
            size = min(most, n - first)
            file = folder / f"{first:08d}-{size}.npz" if folder else None
            shard = _load(file) if file else None
            if shard is None:
                shard = {k: x.float().cpu().numpy() for k, x in read(first, size).items()}
                if file:
                    _save(file, shard)
            shards.append(shard)
            self._advance(size)
        names = shards[0] if shards else {}
        return {k: torch.from_numpy(np.concatenate([s[k] for s in shards])) for k in names}

    def _advance(self, amount: int) -> None:
        self._done += amount
        self.context.report(self._done, self._total)

    def _amount(self) -> int:
        """Images that all protocols go through, for the progress display."""
        images, comparisons = len(self.targets) * len(self.split), 0
        if isinstance(self.model, Joint):
            images += self.samples
            comparisons += len(self.targets)
        if isinstance(self.model, Translate):
            images += len(self.items) * len(self.spec.names)
            comparisons += sum(len(self._targets_of(source)) for source in self.spec.names)
        if self._train is not None:
            images += len(self.targets) * min(self.samples, len(self._train))
            comparisons += len(self.targets)
        return images + _COMPARISON * comparisons


def _images(spec: DataSpec) -> list[str]:
    return [m.name for m in spec.modalities if m.kind == "image"]


def _pixels(x: Tensor, name: str) -> Tensor:
    """Decoder means as the integers that an image file would hold."""
    if not torch.isfinite(x).all():
        raise BenchError(f"The model generated values of '{name}' that are not finite.")
    return (x.float().clamp(0, 1) * 255).round().to(torch.uint8)


def _scores(metric: str, family: str, comparisons: Sequence[_Comparison]) -> list[Score]:
    """The summary over sources, then targets, and a part for each comparison."""
    parts, by_target = [], {}
    for c in comparisons:
        value, replicates = c.figures.values[family], c.figures.replicates.get(family)
        error = _error(replicates)
        parts.append(Score(metric, value, c.n, given=c.given, target=c.target, **error))
        by_target.setdefault(c.target, []).append((value, replicates))
    values = [np.mean([value for value, _ in own]) for own in by_target.values()]
    replicates = None
    if all(r is not None for own in by_target.values() for _, r in own):
        # The groups are the same tuples in every comparison, so their dependence is kept.
        means = [torch.stack([r for _, r in own]).mean(0) for own in by_target.values()]
        replicates = torch.stack(means).mean(0)
    n = min(c.n for c in comparisons)
    return [Score(metric, float(np.mean(values)), n, **_error(replicates)), *parts]


def _error(replicates: Tensor | None) -> dict[str, Any]:
    """A score's standard error from replicates `[G]`, with how many they are."""
    if replicates is None:
        return {}
    groups = len(replicates)
    return {"stderr": (replicates.std() / groups**0.5).item(), "groups": groups}


def _load(file: Path) -> dict[str, np.ndarray] | None:
    """A kept shard; None where there is none that reads."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _save(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a shard whole or not at all; other processes may write the same."""
    partial = file.with_name(f".{os.getpid()}-{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as out:
            np.savez(out, **arrays)
        partial.replace(file)
    except OSError as error:
        raise BenchError(
            f"{file} cannot be written ({error.strerror}). Free some room, and run the same "
            "command again: it goes on with the features that are kept."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
