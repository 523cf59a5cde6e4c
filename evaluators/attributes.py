"""Attributes: does a generated picture show what its caption names, and does a generated caption
name what its picture shows?

For data whose captions a grammar writes (`DataSpec.grammar`), so that what a caption names is known
exactly. Not a published protocol: on photos nothing but FID has been reported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from shalabench.api import (
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
    Score,
    Settings,
    Split,
    Translate,
    Views,
    register_evaluator,
    setting,
)

_UNSAID, _MUDDLED = -1, -2  # in the place of a value's number


class AttributesConfig(Settings):
    """How much is measured."""

    items: int = setting(0, "Test tuples, the first ones; 0: all.", "ours", ge=0)
    samples: int = setting(0, "Joint samples; 0: as many as test tuples.", "ours", ge=0)
    batch_size: int = setting(500, "Tuples at a time; changes no result.", "ours", ge=1)


@register_evaluator("attributes", version=2)
class Attributes(Evaluator):
    """Attributes named by captions, against those of pictures, exactly.

    A picture is read by the classifier of its modality, which was trained on real pictures; a real
    picture's truth is what was drawn. A caption is read by the grammar: whole sentences by
    `Grammar.parse`, anything else by its phrases (`Grammar.spot`). A figure is the share of all
    named attributes that are right; what a generated caption names in two ways is wrong. Captions
    that name less than the real ones are measured against as many as these name, so that nothing
    is gained by naming only what is easily seen.
    """

    Config = AttributesConfig
    needs = (Translate,)
    uses_classifiers = True
    metrics = (
        Metric(
            "attributes/caption-to-image",
            "higher",
            3,
            "attributes named in a given caption that the generated picture shows, by classifier",
            headline=True,
        ),
        Metric(
            "attributes/image-to-caption",
            "higher",
            3,
            "attributes named in the captions generated for real pictures that are as drawn, of "
            "all that are named or, if more, of as many as real captions name",
        ),
        Metric(
            "attributes/grammatical",
            "higher",
            3,
            "captions generated for real pictures that are whole sentences of the grammar",
        ),
        Metric(
            "attributes/joint",
            "higher",
            3,
            "attributes named in sampled captions that the pictures sampled with them show, of "
            "all that are named or, if more, of as many as real captions name",
            headline=True,
        ),
        Metric(
            "ceiling/attributes",
            "higher",
            3,
            "as caption-to-image, for the real picture: the classifier's own accuracy",
            role="ceiling",
            of="attributes/caption-to-image",
        ),
        Metric(
            "chance/attributes",
            "higher",
            3,
            "as caption-to-image, for the real picture of another tuple",
            role="chance",
            of="attributes/caption-to-image",
        ),
    )

    def skip(self, model: type[Model], spec: DataSpec) -> str | None:
        if spec.grammar is None:
            return f"The captions of '{spec.name}' name no attributes that are known exactly."
        return super().skip(model, spec)

    def run(self, model: Model, spec: DataSpec, split: Split, context: EvalContext) -> Outcome:
        bench = _Bench(self.config, model, spec, split, context)
        shown, named, truth = bench.real()
        drawn = bench.drawn()  # pictures generated from real captions
        written, whole = bench.written()  # captions generated from real pictures
        caption, image = bench.caption.name, bench.image.name
        figures = {
            ("attributes/caption-to-image", caption, image): _agree(drawn, named),
            ("attributes/image-to-caption", image, caption): _agree(truth, written),
            ("ceiling/attributes", caption, image): _agree(shown, named),
            # Attributes are independent between tuples, so a neighbour's are as good as any.
            ("chance/attributes", caption, image): _agree(shown.roll(1, 0), named),
        }
        parts = {metric: _by_part(*own, spec.grammar) for (metric, *_), own in figures.items()}
        usual = (named != _UNSAID).sum(1).double().mean().item()
        scores = [_rate(metric, *own, usual) for (metric, *_), own in figures.items()]
        scores.append(_mean("attributes/grammatical", whole.double()))
        if isinstance(model, Joint):
            own = _agree(*bench.joint())
            scores.append(_rate("attributes/joint", *own, usual))
            parts["attributes/joint"] = _by_part(*own, spec.grammar)
        for metric, given, target in figures:
            own = next(s for s in scores if s.metric == metric)
            scores.append(Score(metric, own.value, own.n, own.stderr, (given,), target))
        details = {"parts": parts, "notes": _notes(scores, parts, spec.grammar)}
        return Outcome(scores, details)


class _Bench:
    """A model, the data and the classifier, and what each reads.

    What is read is int64 `[n, A]`: numbers of values, -1 where nothing is said, -2 where a caption
    contradicts itself.
    """

    def __init__(
        self,
        config: AttributesConfig,
        model: Model,
        spec: DataSpec,
        split: Split,
        context: EvalContext,
    ):
        self.config, self.model, self.context = config, model, context
        self.grammar = spec.grammar
        self.split = split.head(config.items) if config.items else split
        self.image = next(m for m in spec.modalities if m.kind == "image")
        self.caption = next(m for m in spec.modalities if m.kind == "text")
        self.judge = _judge(context, self.image)
        self.samples = config.samples or len(self.split)
        self._done = 0
        self._total = 3 * len(self.split) + self.samples * isinstance(model, Joint)

    def real(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the classifier sees in real pictures, what their captions name, what was drawn."""
        truth, named = self.split.facts["attributes"], self.split.facts["named"]
        seen = self._each(lambda first, size: self._seen(self._given(first, size)[self.image.name]))
        return seen, truth.where(named, _UNSAID), truth

    def drawn(self) -> Tensor:
        """What the classifier sees in pictures generated from real captions."""
        return self._each(
            lambda first, size: self._seen(self._translate(self.caption, self.image, first, size))
        )

    def written(self) -> tuple[Tensor, Tensor]:
        """What captions generated from real pictures name; which are sentences, `[n]`."""
        found = self._each(
            lambda first, size: self._read(self._translate(self.image, self.caption, first, size))
        )
        return found[:, 1:], found[:, 0].bool()

    def joint(self) -> tuple[Tensor, Tensor]:
        """What is seen in pictures and named by captions that were sampled together."""

        def sample(first: int, size: int) -> Tensor:
            views = self.model.sample(size, self.context.rng("joint", first=first))
            seen, read = self._seen(views[self.image.name]), self._read(views[self.caption.name])
            return torch.stack([seen, read[:, 1:]], dim=1)

        seen, named = self._each(sample, self.samples).unbind(1)
        return seen, named

    def _each(self, make: Callable[[int, int], Tensor], n: int = 0) -> Tensor:
        rows, n = [], n or len(self.split)
        for first in range(0, n, self.config.batch_size):
            size = min(self.config.batch_size, n - first)
            rows.append(make(first, size))
            self._done += size
            self.context.report(self._done, self._total)
        return torch.cat(rows)

    def _given(self, first: int, size: int) -> Views:
        index = torch.arange(first, first + size, device=self.split.device)
        return self.split.batch(index).views

    def _translate(self, source: Modality, target: Modality, first: int, size: int) -> Tensor:
        given = {source.name: self._given(first, size)[source.name]}
        rng = self.context.rng("cross", source.name, first=first)
        return self.model.translate(given, [target.name], rng)[target.name]

    def _seen(self, images: Tensor) -> Tensor:
        """What the classifier sees in images `[B, C, H, W]`: `[B, A]`."""
        logits = self.judge.network(images.clamp(0, 1))
        parts = logits.split([len(a.values) for a in self.grammar.attributes], dim=1)
        return torch.stack([part.argmax(-1) for part in parts], dim=1)

    def _read(self, captions: Tensor) -> Tensor:
        """Whether captions `[B, L]` are sentences, and what they name: `[B, 1 + A]`."""
        rows = []
        for tokens in captions.tolist():
            text = self.caption.text(tokens)
            parsed = self.grammar.parse(text)
            said = self.grammar.spot(text) if parsed is None else parsed
            named = [
                (_MUDDLED if said[a.name] is None else a.values.index(said[a.name]))
                if a.name in said
                else _UNSAID
                for a in self.grammar.attributes
            ]
            rows.append([int(parsed is not None), *named])
        return torch.tensor(rows, device=captions.device)


def _judge(context: EvalContext, image: Modality) -> Classifier:
    if image.name not in context.classifiers:
        raise DataError(
            f"There is no classifier of the attributes of '{image.name}'. Train it with `python "
            "bench.py classifiers train`."
        )
    return context.classifiers[image.name]


def _agree(seen: Tensor, named: Tensor) -> tuple[Tensor, Tensor]:
    """Which named attributes are right, and which are named, both bool `[n, A]`."""
    return seen == named, named != _UNSAID


def _rate(metric: str, right: Tensor, named: Tensor, usual: float) -> Score:
    """Right attributes of all named, or of `usual` a tuple if fewer are named.

    The standard error is that of a ratio of two means (linearised).
    """
    hits, said = (right & named).sum(1).double(), named.sum(1).double()
    if said.mean() < usual:
        said = torch.full_like(said, usual)
    value = (hits.mean() / said.mean()).item()
    stderr = ((hits - value * said).std() / len(hits) ** 0.5 / said.mean()).item()
    return Score(metric, value, len(hits), stderr if len(hits) > 1 else None)


def _mean(metric: str, items: Tensor) -> Score:
    n = len(items)
    stderr = (items.std() / n**0.5).item() if n > 1 else None
    return Score(metric, items.mean().item(), n, stderr)


def _by_part(right: Tensor, named: Tensor, grammar: Grammar) -> dict[str, dict[str, Any]]:
    """By attribute: how many name it, how many of these are right, and what guessing would give."""
    parts = {}
    for attribute, own, there in zip(grammar.attributes, right.T, named.T, strict=True):
        n, hits = int(there.sum()), int((own & there).sum())
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


def _notes(scores: list[Score], parts: dict[str, dict[str, Any]], grammar: Grammar) -> list[str]:
    """Chance and the classifier's accuracy, overall and by attribute, for below the table."""
    whole = {score.metric: score.value for score in scores if score.is_summary}
    ceiling = parts["ceiling/attributes"]
    told = [
        f"{a.name} {1 / len(a.values):.2f} and {ceiling[a.name]['value']:.3f}"
        for a in grammar.attributes
        if ceiling[a.name]["value"] is not None
    ]
    return [
        f"Chance {whole['chance/attributes']:.3f}, the classifier on real test pictures "
        f"{whole['ceiling/attributes']:.3f}; by attribute: {', '.join(told)}."
    ]
