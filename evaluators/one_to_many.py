"""One to many: do all targets of one latent agree on what the given modality leaves open?

For data whose labels name some attributes only (`DataSpec.grammar`). The protocol is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
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
    Metric,
    Model,
    Outcome,
    Rng,
    Score,
    Settings,
    Split,
    Translate,
    Views,
    fixed_choice,
    register_evaluator,
    setting,
)
from shalabench.metrics.agreement import UNREAD, agreement, expected_variation, variation
from shalabench.metrics.scores import Clusters, mean_score

_TARGETS = 2  # that must show an open attribute, so that they can agree
_PROBE = 2  # tuples that are generated twice, to see whether a method draws anew
_SAME = (
    "The control is missing: with other random numbers, the same targets are generated, so no "
    "target has a latent of its own."
)


class OneToManyConfig(Settings):
    """How much is measured."""

    items: int = setting(0, "Test tuples whose labels are given; 0: all.", "our choice: all", ge=0)
    batch_size: int = setting(500, "Tuples at a time; changes no result.", "our choice", ge=1)


@register_evaluator("one-to-many", version=2)
class OneToMany(Evaluator):
    """Agreement and distribution of attributes that the given modality leaves open.

    Texts are read by the grammar: `Grammar.parse` for whole sentences, else `Grammar.spot` for
    phrases. Images are read by their classifiers. A text leaves open what it never names; images
    show every attribute. All targets come from one call of `Translate.translate`, so from one
    latent where the method has one. For the control, each comes from a call of its own with other
    random numbers.
    """

    Config = OneToManyConfig
    needs = (Translate,)
    uses_classifiers = True
    metrics = (
        Metric.share(
            "coherence/one-to-many",
            "share of pairs of targets of one latent that show the same value of an attribute "
            "which the given modality leaves open",
            headline=True,
        ),
        Metric(
            "coherence/one-to-many-control",
            "lower",
            3,
            "as one-to-many, each target from a latent of its own: what one-to-many is by chance",
        ),
        Metric(
            "coherence/one-to-many-variation",
            "lower",
            3,
            "total variation between the open attribute's distributions in the targets and in the "
            "data, given the value of an attribute that is given; mean over such and targets",
        ),
        Metric.share(
            "coherence/one-to-many-given",
            "share of the targets of one latent that show the attribute which is given",
        ),
        Metric.share(
            "ceiling/one-to-many",
            "as one-to-many, for the real targets of a tuple",
            role="ceiling",
            of="coherence/one-to-many",
        ),
        Metric.share(
            "ceiling/one-to-many-given",
            "as one-to-many-given, for the real targets of a tuple",
            role="ceiling",
            of="coherence/one-to-many-given",
        ),
        Metric(
            "floor/one-to-many-variation",
            "lower",
            3,
            "expected total variation of as many independent draws from the data's distribution",
            role="floor",
            of="coherence/one-to-many-variation",
        ),
    )

    def skip(self, model: type[Model], spec: DataSpec) -> str | None:
        if spec.grammar is None:
            return f"The data '{spec.name}' have no attributes that are known exactly."
        if len(spec.modalities) <= _TARGETS:
            return (
                f"'{spec.name}' has {len(spec.modalities)} modalities; one that is given and two "
                "that agree were expected."
            )
        return super().skip(model, spec)

    def run(self, model: Model, spec: DataSpec, split: Split, context: EvalContext) -> Outcome:
        items = fixed_choice(len(split), self.config.items, "one-to-many").to(split.device)
        reader = _Reader(spec, context.classifiers)
        cases = _cases(spec, reader.shows(split))
        if not cases:
            raise DataError(
                f"No text of '{spec.name}' leaves an attribute open that two other modalities "
                "show. Leave out the evaluator one-to-many."
            )
        read = _generate(model, split, items, reader, cases, context, self.config.batch_size)
        work = _Scores(spec, split, items, read)
        for case in cases:
            work.add(case)
        details = {"given": work.parts, "items": items.tolist() if self.config.items else "all"}
        if not _draws_anew(model, split, cases[0], context):
            details["notes"] = [_SAME]
            work.drop("coherence/one-to-many-control")
        return Outcome(work.summaries() + work.pairs(), details)


@dataclass(frozen=True)
class _Case:
    """An attribute that a given modality leaves open.

    Attributes:
        given: The modality.
        open: Number of the attribute.
        closed: Numbers of the attributes that the modality names.
        shown: The other modalities that show the open attribute.
        right: The other modalities that show each attribute of `closed`.
    """

    given: str
    open: int
    closed: tuple[int, ...]
    shown: tuple[str, ...]
    right: Mapping[int, tuple[str, ...]]

    @property
    def targets(self) -> tuple[str, ...]:
        """All that are generated from one latent."""
        return tuple(dict.fromkeys((*self.shown, *(n for own in self.right.values() for n in own))))


@dataclass(frozen=True)
class _Reader:
    """Reads attributes: of images by their classifiers, of texts by the grammar.

    Readings are int64, numbers of values; -1 for an attribute that a text does not name, or names
    in two ways.
    """

    spec: DataSpec
    classifiers: Mapping[str, Classifier]

    def read(self, views: Views, names: Sequence[str]) -> Tensor:
        """The attributes `[b, len(names), A]` of views."""
        return torch.stack([self._one(name, views[name]) for name in names], 1)

    def shows(self, split: Split) -> dict[str, set[int]]:
        """Numbers of the attributes that each modality shows: a text what any text names."""
        every = set(range(len(self.spec.grammar.attributes)))
        found = {}
        for m in self.spec.modalities:
            if m.kind == "text":
                named = self._one(m.name, split.tensors[m.name].unique(dim=0)) != UNREAD
                found[m.name] = set(named.any(0).nonzero()[:, 0].tolist())
            elif m.name in self.classifiers:
                found[m.name] = every
        return found

    def _one(self, name: str, x: Tensor) -> Tensor:
        """`[b, A]`."""
        modality, attributes = self.spec[name], self.spec.grammar.attributes
        if modality.kind == "text":
            said = map(self._said, map(modality.text, x.tolist()))
            rows = [[_number(a, own) for a in attributes] for own in said]
            return torch.tensor(rows, device=x.device)
        logits = self.classifiers[name].network(x.clamp(0, 1))
        parts = logits.split([len(a.values) for a in attributes], 1)
        return torch.stack([part.argmax(-1) for part in parts], 1)

    def _said(self, text: str) -> Mapping[str, str | None]:
        parsed = self.spec.grammar.parse(text)
        return self.spec.grammar.spot(text) if parsed is None else parsed


def _number(attribute: Attribute, said: Mapping[str, str | None]) -> int:
    value = said.get(attribute.name)
    return UNREAD if value is None else attribute.values.index(value)


def _cases(spec: DataSpec, shows: Mapping[str, set[int]]) -> list[_Case]:
    cases = []
    for given in (m.name for m in spec.modalities if m.kind == "text"):
        closed = tuple(sorted(shows[given]))
        others = [name for name in shows if name != given]
        right = {a: tuple(n for n in others if a in shows[n]) for a in closed}
        for a in range(len(spec.grammar.attributes)):
            shown = tuple(name for name in others if a in shows[name])
            if closed and a not in closed and len(shown) >= _TARGETS:
                cases.append(_Case(given, a, closed, shown, right))
    return cases


def _generate(
    model: Model,
    split: Split,
    items: Tensor,
    reader: _Reader,
    cases: Sequence[_Case],
    context: EvalContext,
    batch_size: int,
) -> dict[tuple[str, ...], Tensor]:
    """Attributes `[n, A]` by (what, given, target), read once for all cases of a modality.

    What is "real" (of the tuple), "one" (targets of one latent) or "own" (each of its own).
    """

    def translation(given: str, targets: tuple[str, ...]) -> Callable[[Views, Rng], Tensor]:
        def make(views: Views, rng: Rng) -> Tensor:
            made = model.translate({given: views[given]}, targets, rng)
            return reader.read(made, targets)

        return make

    wanted: dict[str, tuple[str, ...]] = {}  # by what is given; some data leave several open
    for case in cases:
        wanted[case.given] = tuple(dict.fromkeys((*wanted.get(case.given, ()), *case.targets)))
    real = tuple(dict.fromkeys(name for names in wanted.values() for name in names))
    names: dict[tuple[str, ...], tuple[str, ...]] = {("real",): real}
    jobs: dict[tuple[str, ...], Callable[[Views, Rng], Tensor]] = {
        ("real",): lambda views, rng: reader.read(views, real)
    }
    for given, targets in wanted.items():
        names["one", given], jobs["one", given] = targets, translation(given, targets)
        for name in dict.fromkeys(n for c in cases if c.given == given for n in c.shown):
            purpose = "own", given, name
            names[purpose], jobs[purpose] = (name,), translation(given, (name,))
    context.expect(len(jobs) * len(items))
    made = context.map_views(model, split, jobs, items, batch_size)
    read = {}
    for purpose, values in made.items():
        for number, name in enumerate(names[purpose]):
            read[(*purpose, name)[:3]] = values[:, number]
    return read


def _draws_anew(model: Translate, split: Split, case: _Case, context: EvalContext) -> bool:
    """Whether other random numbers give other targets; stored samples have one draw a tuple."""
    items = torch.arange(min(_PROBE, len(split)), device=split.device)
    view = split.batch(items).views[case.given]
    first, second = (
        model.translate({case.given: view}, case.targets, context.rng("probe", k)) for k in (0, 1)
    )
    return any(not torch.equal(first[name], second[name]) for name in case.targets)


class _Scores:
    """Means over cases of a tuple's values: of all, and of each given modality and target."""

    def __init__(
        self, spec: DataSpec, split: Split, items: Tensor, read: Mapping[tuple[str, ...], Tensor]
    ):
        self.attributes, self.read = spec.grammar.attributes, read
        self.truth = split.facts["attributes"][items]  # [n, A]
        self.split, self.items = split, items
        self.parts: dict[str, dict[str, Any]] = {}
        self._tuples: dict[str, list[Tensor]] = {}
        self._pairs: dict[tuple[str, str, str], list[Tensor]] = {}
        self._floors: list[float] = []
        self._given: dict[str, None] = {}

    def add(self, case: _Case) -> None:
        """Score a case."""
        a, values = case.open, len(self.attributes[case.open].values)
        truth = self.truth[:, a]
        # One given attribute at a time: all values of several have hardly a tuple each.
        groups = [self.truth[:, b].unique(return_inverse=True)[1] for b in case.closed]  # of [n]

        def seen(what: str, names: Sequence[str], number: int) -> Tensor:
            key = (what,) if what == "real" else (what, case.given)
            return torch.stack([self.read[(*key, name)][:, number] for name in names])  # [T, n]

        one, right = seen("one", case.shown, a), case.right
        found = {
            "coherence/one-to-many": (case.shown, agreement(one)),
            "coherence/one-to-many-control": (case.shown, agreement(seen("own", case.shown, a))),
            "coherence/one-to-many-variation": (
                case.shown,
                torch.stack([_mean([variation(x, truth, g, values) for g in groups]) for x in one]),
            ),
            "ceiling/one-to-many": (case.shown, agreement(seen("real", case.shown, a))),
        }
        if names := tuple(name for b in case.closed for name in right[b]):
            for metric, what in (("coherence", "one"), ("ceiling", "real")):
                hits = [seen(what, own, b) == self.truth[:, b] for b, own in right.items() if own]
                found[f"{metric}/one-to-many-given"] = names, torch.cat(hits).double()
        floor = fmean(expected_variation(truth, g, values) for g in groups)
        self._floors.append(floor)
        self._given[case.given] = None
        part = {"open": self.attributes[a].name, "floor/one-to-many-variation": floor}
        for metric, (names, tuples) in found.items():
            self._tuples.setdefault(metric, []).append(tuples.mean(0))
            part[metric] = tuples.mean().item()
            if metric.startswith("coherence"):
                for name, x in zip(names, tuples, strict=True):
                    self._pairs.setdefault((metric, case.given, name), []).append(x)
        key = case.given if case.given not in self.parts else f"{case.given}, {part['open']}"
        self.parts[key] = part

    def summaries(self) -> list[Score]:
        """The mean over cases; a tuple counts once, by its mean."""
        scores = [self._score(metric, _mean(tuples)) for metric, tuples in self._tuples.items()]
        floor = fmean(self._floors)
        return [*scores, Score("floor/one-to-many-variation", floor, len(self.items))]

    def pairs(self) -> list[Score]:
        """The mean over attributes for each given modality and target."""
        return [
            self._score(metric, _mean(tuples), (given,), target)
            for (metric, given, target), tuples in self._pairs.items()
        ]

    def drop(self, metric: str) -> None:
        """Leave a metric out."""
        del self._tuples[metric]
        self._pairs = {key: tuples for key, tuples in self._pairs.items() if key[0] != metric}
        for part in self.parts.values():
            del part[metric]

    def _score(
        self, metric: str, tuples: Tensor, given: tuple[str, ...] = (), target: str | None = None
    ) -> Score:
        """The mean over tuples `[n]`, which depend on each other where they share a source.

        That is a source of what is given; for a ceiling, of any view.
        """
        names = self.split.tensors if metric.startswith("ceiling") else given or self._given
        sources = self.split.sources(names, self.items)
        clusters = None if sources is None else Clusters(sources)
        return mean_score(metric, tuples.double(), given, target, clusters)


def _mean(tuples: Sequence[Tensor]) -> Tensor:
    """The mean of values of the same tuples, `[n]` each."""
    return torch.stack(list(tuples)).mean(0)
