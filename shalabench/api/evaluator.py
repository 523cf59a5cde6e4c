"""The contract of an evaluator: it measures a trained model and states standard errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from shalabench.api.dataset import Split, SplitName, Views
from shalabench.api.encodings import encoded_once
from shalabench.api.errors import DataError
from shalabench.api.modalities import DataSpec
from shalabench.api.model import Model
from shalabench.api.random import Rng, derive_seed
from shalabench.api.records import Metric, Score
from shalabench.api.settings import Settings

Batched = TypeVar("Batched", Tensor, dict[Any, Tensor])


@dataclass(frozen=True)
class Classifier:
    """A modality's trained classifier, in eval mode, on the evaluation's device.

    Attributes:
        network: Maps views `[B, ...]` of the modality (images in [0, 1]) to logits `[B, classes]`.
        accuracy: On real test views, in [0, 1], as recorded with the weights; None if it is not.
        digest: SHA-256 of its weights.
        source: Where the weights come from, in words.
    """

    network: nn.Module
    accuracy: float | None
    digest: str
    source: str


@dataclass
class _Progress:
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class EvalContext:
    """What an evaluator may use in one evaluation.

    Attributes:
        device: Where to compute.
        seed: Seed of this evaluation.
        classifiers: By modality; empty unless the evaluator sets `uses_classifiers`.
        report: Called with (done, total) items, for the progress display; may raise to stop.
        splits: Returns any split of the data, for floors; None if only one split is known.
        cache: Folder for results that other evaluations can use, by keys of their content; or None.
        scratch: Folder for unfinished work, deleted when the evaluation is recorded; or None.
    """

    device: torch.device
    seed: int
    classifiers: Mapping[str, Classifier] = field(default_factory=dict)
    report: Callable[[int, int], None] = lambda done, total: None
    splits: Callable[[SplitName], Split] | None = None
    cache: Path | None = None
    scratch: Path | None = None
    _progress: _Progress = field(default_factory=_Progress, init=False, repr=False)

    def rng(self, *names: object, first: int = 0) -> Rng:
        """Random numbers for the items from `first` on; `names` state their purpose."""
        return Rng(derive_seed(self.seed, *names), first=first, device=self.device)

    def expect(self, total: int) -> None:
        """Set the number of items of the whole evaluation, for the progress display."""
        self._progress.total = total

    def advance(self, items: int) -> None:
        """Report that more items are done; `report` may raise to stop the evaluation."""
        self._progress.done += items
        self.report(self._progress.done, max(self._progress.done, self._progress.total))

    def map(
        self,
        make: Callable[[Tensor, Rng], Batched],
        items: Tensor | int,
        batch_size: int,
        *names: object,
    ) -> Batched:
        """Apply a function to items in batches, report progress, and join the results.

        Args:
            make: Takes the numbers `[b]` of a batch's items and their random numbers. Returns a
                tensor with one row for each item, or several such tensors by name. Later batches
                may leave out names of the first batch.
            items: Numbers `[n]` of the items, or n for the items 0 to n - 1.
            batch_size: Items in a batch.
            names: Purpose of the random numbers.

        Returns:
            A tensor with n rows, or such tensors by name.
        """
        numbers = torch.arange(items, device=self.device) if isinstance(items, int) else items
        parts = []
        for first in range(0, len(numbers), batch_size):
            batch = numbers[first : first + batch_size]
            parts.append(make(batch, self.rng(*names, first=first)))
            self.advance(len(batch))
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)
        return {key: torch.cat([part[key] for part in parts if key in part]) for key in parts[0]}

    def map_views(
        self,
        model: Model,
        split: Split,
        makes: Mapping[tuple[str, ...], Callable[[Views, Rng], Tensor]],
        items: Tensor,
        batch_size: int,
    ) -> dict[tuple[str, ...], Tensor]:
        """Apply several functions to the views of tuples, batch by batch, as `map` does.

        The functions of a batch get the same views, and encoders of the model encode each of these
        once (`encoded_once`). Random numbers and results are those of one `map` for each function.

        Args:
            model: Model that the functions use.
            split: Split that contains the tuples.
            makes: Functions by the purpose of their random numbers. Each takes all views `[b, ...]`
                of a batch and its random numbers, and returns a tensor with one row for each tuple.
            items: Numbers `[n]` of the tuples.
            batch_size: Tuples in a batch.

        Returns:
            A tensor with n rows for each function.
        """
        parts: dict[tuple[str, ...], list[Tensor]] = {purpose: [] for purpose in makes}
        for first in range(0, len(items), batch_size):
            batch = split.batch(items[first : first + batch_size])
            with encoded_once(model, batch.views):
                for purpose, make in makes.items():
                    rng = self.rng(*purpose, first=first)
                    parts[purpose].append(make(batch.views, rng))
                    self.advance(len(batch))
        return {purpose: torch.cat(made) for purpose, made in parts.items()}


@dataclass(frozen=True)
class Outcome:
    """The result of an evaluation.

    Attributes:
        scores: Summaries, and scores of single given and target modalities.
        details: Further plain values for the record, such as a histogram. "notes" are sentences
            to show below the table. "extractor" names the feature extractor that was used. If one
            evaluation used several, "extractors" has the details of each by its name.
        pictures: uint8 `[H, W, 3]` by file stem.
        texts: Plain text by file stem.
        headlines: Names of the main metrics for these data; None for those of the evaluator.
    """

    scores: list[Score]
    details: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    headlines: frozenset[str] | None = None


class Evaluator(ABC):
    """Measures one family of metrics.

    A subclass is one file in `evaluators/`, decorated with `register_evaluator`.

    Attributes:
        metrics: The metrics that it measures.
        needs: Abilities that a model must have; override `skip` if one of several is enough.
        uses_classifiers: Whether `EvalContext.classifiers` is filled if the data have classes.
        least: The smallest number of items of a split with which it works.
    """

    Config: ClassVar[type[Settings]] = Settings
    name: ClassVar[str]
    version: ClassVar[int]
    metrics: ClassVar[tuple[Metric, ...]] = ()
    needs: ClassVar[tuple[type, ...]] = ()
    uses_classifiers: ClassVar[bool] = False
    least: ClassVar[int] = 1

    def __init__(self, config: Settings):
        self.config = config

    def skip(self, model: type[Model], spec: DataSpec) -> str | None:
        """The reason not to evaluate such a model on such data, as a sentence; None if none."""
        missing = [need.__name__ for need in self.needs if not has_ability(model, need)]
        return f"The model lacks the ability {' and '.join(missing)}." if missing else None

    def too_few(self, spec: DataSpec, split: str) -> str | None:
        """Why a split has too few items to measure on, as a sentence; None if it has enough."""
        n = spec.sizes[split]
        if n >= self.least:
            return None
        return f"The {split} split has {n} items; at least {self.least} are needed."

    @classmethod
    def needs_classifiers(cls) -> bool:
        """Whether it measures nothing without classifiers."""
        return cls.uses_classifiers and cls.instruments is Evaluator.instruments

    def instruments(self, spec: DataSpec, classifiers: Mapping[str, Classifier]) -> dict[str, str]:
        """Digests of the classifiers or extractors that it measures with, by name.

        They are part of the hash of the evaluation.

        Raises:
            DataError: Something is missing. The evaluation is then skipped, with this reason.
        """
        if not self.uses_classifiers:
            return {}
        if not classifiers:
            lacking = "classifiers" if spec.classes else "classes"
            raise DataError(f"The dataset '{spec.name}' has no {lacking} to evaluate with.")
        return {name: classifier.digest for name, classifier in classifiers.items()}

    @abstractmethod
    def run(self, model: Model, spec: DataSpec, split: Split, context: EvalContext) -> Outcome:
        """Measure a model.

        Args:
            model: Trained, in eval mode, on `context.device`; gradients are off.
            spec: Description of the data.
            split: The test split, or the validation split with `--split validation`, on the same
                device.
            context: Random numbers, classifiers, progress.
        """


def has_ability(model: type[Model], ability: type) -> bool:
    """Whether a model class has every method of an ability protocol."""
    return all(
        callable(getattr(model, name, None)) for name in vars(ability) if _is_method(ability, name)
    )


def _is_method(ability: type, name: str) -> bool:
    return not name.startswith("_") and callable(getattr(ability, name))
