"""Attributes: do pictures show what their captions name, and the reverse?

For data whose captions follow a grammar (`DataSpec.grammar`), so that the named attributes are
known exactly. The protocol is ours; for photos only FID has been published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shalabench.api import (
    Attribute,
    Classifier,
    DataError,
    DataSpec,
    EvalContext,
    Evaluator,
    Grammar,
    Joint,
    Metric,
    Modality,
    Model,
    Outcome,
    Rng,
    Score,
    Settings,
    Split,
    Translate,
    register_evaluator,
    setting,
)
from shalabench.metrics.scores import mean_score

_NOT_NAMED, _CONTRADICTED = -1, -2  # in place of a value's number


class AttributesConfig(Settings):
    """How much is measured."""

    items: int = setting(0, "Test tuples, the first ones; 0: all.", "our choice", ge=0)
    samples: int = setting(0, "Joint samples; 0: as many as test tuples.", "our choice", ge=0)
    batch_size: int = setting(500, "Tuples at a time; changes no result.", "our choice", ge=1)


@register_evaluator("attributes", version=2)
class Attributes(Evaluator):
    """Attributes that captions name, compared with those that pictures show.

    The classifier of the image modality, trained on real pictures, reads pictures; for a real
    picture the truth is known. The grammar reads captions: `Grammar.parse` for whole sentences,
    else `Grammar.spot` for phrases. A score is the share of named attributes that are right. An
    attribute that a caption names in two ways is wrong. If generated captions name fewer attributes
    than real ones, the share is of as many as real captions name, so that naming only what is easy
    to see gains nothing.
    """

    Config = AttributesConfig
    needs = (Translate,)
    uses_classifiers = True
    least = 2  # tuples, for the picture of another one
    metrics = (
        Metric.share(
            "attributes/caption-to-image",
            "share of the attributes in a real caption that the generated picture shows",
            headline=True,
        ),
        Metric.share(
            "attributes/image-to-caption",
            "share of the attributes in captions generated for real pictures that are right; if "
            "these name fewer than real captions, of as many as real captions name",
        ),
        Metric.share(
            "attributes/grammatical",
            "share of the captions generated for real pictures that follow the grammar",
        ),
        Metric.share(
            "attributes/joint",
            "share of the attributes in sampled captions that their pictures show; if these name "
            "fewer than real captions, of as many as real captions name",
            headline=True,
        ),
        Metric.share(
            "ceiling/attributes",
            "as caption-to-image, for the real picture: the accuracy of the classifier",
            role="ceiling",
            of="attributes/caption-to-image",
        ),
        Metric.share(
            "chance/attributes",
            "as caption-to-image, for the real picture of another tuple",
            role="chance",
            of="attributes/caption-to-image",
        ),
    )

    def skip(self, model: type[Model], spec: DataSpec) -> str | None:
        if spec.grammar is None:
            return f"The captions of '{spec.name}' name no attributes that are known exactly."
        if 0 < self.config.items < self.least:
            return f"evaluators.attributes would use {self.config.items} tuple; 2 are needed."
        return super().skip(model, spec)

    def run(self, model: Model, spec: DataSpec, split: Split, context: EvalContext) -> Outcome:
        config, grammar = self.config, spec.grammar
        if config.items:
            split = split.head(config.items)
        image = next(m for m in spec.modalities if m.kind == "image").name
        caption = next(m for m in spec.modalities if m.kind == "text").name
        reader = _Reader(grammar, spec[caption], _classifier(context, image))
        samples = (config.samples or len(split)) if isinstance(model, Joint) else 0
        context.expect(len(split) + samples)

        def translate(index: Tensor, rng: Rng) -> dict[str, Tensor]:
            views = split.batch(index).views
            made = {}
            for source, target in ((caption, image), (image, caption)):
                rng = context.rng("cross", source, first=rng.first)
                made |= model.translate({source: views[source]}, [target], rng)
            return {
                "shown": reader.see(views[image]),
                "picture": reader.see(made[image]),
                "caption": reader.read(made[caption]),
                "grammatical": reader.is_grammatical(made[caption]),
            }

        def sample(index: Tensor, rng: Rng) -> dict[str, Tensor]:
            views = model.sample(len(index), rng)
            return {"picture": reader.see(views[image]), "caption": reader.read(views[caption])}

        read = context.map(translate, len(split), config.batch_size)
        truth = split.facts["attributes"]
        named = truth.where(split.facts["named"], _NOT_NAMED)
        pairs = {
            ("attributes/caption-to-image", caption, image): _agree(read["picture"], named),
            ("attributes/image-to-caption", image, caption): _agree(truth, read["caption"]),
            ("ceiling/attributes", caption, image): _agree(read["shown"], named),
            # Attributes are independent between tuples, so any other tuple will do.
            ("chance/attributes", caption, image): _agree(read["shown"].roll(1, 0), named),
        }
        parts = {metric: _by_attribute(*agree, grammar) for (metric, *_), agree in pairs.items()}
        least = (named != _NOT_NAMED).sum(1).double().mean().item()
        scores = [_rate(metric, *agree, least) for (metric, *_), agree in pairs.items()]
        scores.append(mean_score("attributes/grammatical", read["grammatical"].double()))
        if samples:
            sampled = context.map(sample, samples, config.batch_size, "joint")
            agree = _agree(sampled["picture"], sampled["caption"])
            scores.append(_rate("attributes/joint", *agree, least))
            parts["attributes/joint"] = _by_attribute(*agree, grammar)
        summaries = {score.metric: score for score in scores}
        for metric, given, target in pairs:
            whole = summaries[metric]
            scores.append(Score(metric, whole.value, whole.n, whole.stderr, (given,), target))
        details = {"parts": parts, "notes": [_note(summaries, parts, grammar)]}
        return Outcome(scores, details)


@dataclass(frozen=True)
class _Reader:
    """Reads the attributes of pictures by a classifier and those of captions by a grammar.

    Readings are int64 `[n, A]`: numbers of values, -1 for an attribute that is not named, -2 for
    one that a caption names in two ways.
    """

    grammar: Grammar
    caption: Modality
    classifier: Classifier

    def see(self, images: Tensor) -> Tensor:
        """What the classifier sees in images `[B, C, H, W]`."""
        logits = self.classifier.network(images.clamp(0, 1))
        parts = logits.split([len(a.values) for a in self.grammar.attributes], dim=1)
        return torch.stack([part.argmax(-1) for part in parts], dim=1)

    def read(self, captions: Tensor) -> Tensor:
        """What captions `[B, L]` name."""
        rows = []
        for text in map(self.caption.text, captions.tolist()):
            parsed = self.grammar.parse(text)
            said = self.grammar.spot(text) if parsed is None else parsed
            rows.append([_number(a, said) for a in self.grammar.attributes])
        return torch.tensor(rows, device=captions.device)

    def is_grammatical(self, captions: Tensor) -> Tensor:
        """Which captions `[B, L]` are sentences of the grammar, bool `[B]`."""
        texts = map(self.caption.text, captions.tolist())
        sentences = [self.grammar.parse(text) is not None for text in texts]
        return torch.tensor(sentences, device=captions.device)


def _number(attribute: Attribute, said: Mapping[str, str | None]) -> int:
    """The number of the value that a caption names."""
    if attribute.name not in said:
        return _NOT_NAMED
    value = said[attribute.name]
    return _CONTRADICTED if value is None else attribute.values.index(value)


def _classifier(context: EvalContext, image: str) -> Classifier:
    if image not in context.classifiers:
        raise DataError(
            f"There is no classifier of the attributes of '{image}'. Train it with `python "
            "bench.py classifiers train`."
        )
    return context.classifiers[image]


def _agree(seen: Tensor, named: Tensor) -> tuple[Tensor, Tensor]:
    """Which named attributes are right, and which are named, both bool `[n, A]`."""
    return seen == named, named != _NOT_NAMED


def _rate(metric: str, right: Tensor, named: Tensor, least: float) -> Score:
    """Right attributes of all named, or of `least` a tuple if fewer are named.

    The standard error is that of a ratio of two means (linearised).
    """
    hits, count = (right & named).sum(1).double(), named.sum(1).double()
    if count.mean() < least:
        count = torch.full_like(count, least)
    value = (hits.mean() / count.mean()).item()
    stderr = ((hits - value * count).std() / len(hits) ** 0.5 / count.mean()).item()
    return Score(metric, value, len(hits), stderr if len(hits) > 1 else None)


def _by_attribute(right: Tensor, named: Tensor, grammar: Grammar) -> dict[str, dict[str, Any]]:
    """By attribute: the share that is right, how many name it, and what guessing scores."""
    parts = {}
    for attribute, hit, said in zip(grammar.attributes, right.T, named.T, strict=True):
        n, hits = int(said.sum()), int((hit & said).sum())
        value = hits / n if n else None
        parts[attribute.name] = {
            "value": value,
            "n": n,
            "interval": _interval(hits, n),
            "chance": 1 / len(attribute.values),
        }
    return parts


def _interval(hits: int, n: int, z: float = 1.96) -> list[float] | None:
    """Wilson's 95 % interval of a rate."""
    if not n:
        return None
    rate, spread = hits / n, z * z / n
    middle = (rate + spread / 2) / (1 + spread)
    half = z * ((rate * (1 - rate) + spread / 4) / n) ** 0.5 / (1 + spread)
    return [max(middle - half, 0.0), min(middle + half, 1.0)]


def _note(scores: dict[str, Score], parts: dict[str, dict[str, Any]], grammar: Grammar) -> str:
    """Chance and the classifier's accuracy, overall and by attribute, for below the table."""
    ceiling = parts["ceiling/attributes"]
    by_attribute = [
        f"{a.name} {1 / len(a.values):.2f} and {ceiling[a.name]['value']:.3f}"
        for a in grammar.attributes
        if ceiling[a.name]["value"] is not None
    ]
    return (
        f"Chance {scores['chance/attributes'].value:.3f}, the classifier on real test pictures "
        f"{scores['ceiling/attributes'].value:.3f}; by attribute: {', '.join(by_attribute)}."
    )
