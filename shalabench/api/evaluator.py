"""The contract of an evaluator: it measures a trained model and gives its error."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from shalabench.api.dataset import Split, SplitName
from shalabench.api.errors import DataError
from shalabench.api.modalities import DataSpec
from shalabench.api.model import Model
from shalabench.api.random import Rng, derive_seed
from shalabench.api.records import Metric, Score
from shalabench.api.settings import Settings


@dataclass(frozen=True)
class Classifier:
    """A modality's trained classifier, in eval mode, on the evaluation's device.

    Attributes:
        network: Maps views `[B, ...]` of the modality (images in [0, 1]) to logits `[B, classes]`.
        accuracy: On real test views, in [0, 1], as recorded with the weights; None where it is not.
        digest: SHA-256 of its weights.
        source: Where the weights come from, for people.
    """

    network: nn.Module
    accuracy: float | None
    digest: str
    source: str


@dataclass(frozen=True)
class EvalContext:
    """What the driver lends an evaluator.

    Attributes:
        device: Where to compute.
        seed: Seed of this evaluation.
        classifiers: By modality; empty unless the evaluator asked for them.
        report: Called with (done, total) items, for the progress display; may raise to stop.
        splits: Gives any split of the data, for floors; None where it is not lent.
        cache: Where to keep what serves other evaluations too, by a key of content; or None.
        scratch: Where to keep this evaluation's unfinished work, dropped once it is recorded; or
            None.
    """

    device: torch.device
    seed: int
    classifiers: Mapping[str, Classifier] = field(default_factory=dict)
    report: Callable[[int, int], None] = lambda done, total: None
    splits: Callable[[SplitName], Split] | None = None
    cache: Path | None = None
    scratch: Path | None = None

    def rng(self, *names: object, first: int = 0) -> Rng:
        """Random numbers for the items from `first` on, named by what they are for."""
        return Rng(derive_seed(self.seed, *names), first=first, device=self.device)


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found.

    Attributes:
        scores: Summaries and their parts.
        details: Further plain values for the record, such as a histogram. "notes" are sentences
            for below the table; "extractor" names one of several instruments of an evaluator, whose
            results then stand side by side.
        pictures: uint8 `[H, W, 3]` by file stem.
        texts: Plain text by file stem.
    """

    scores: list[Score]
    details: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


class Evaluator(ABC):
    """Measures one family of metrics.

    A subclass is one file in `evaluators/`, decorated with `register_evaluator`.

    Attributes:
        metrics: What it gives, with direction and digits.
        needs: Abilities without which it has nothing to do; where a model has some of several, see
            `skip`.
        uses_classifiers: Whether `EvalContext.classifiers` is filled, where the data have classes.
    """

    Config: ClassVar[type[Settings]] = Settings
    name: ClassVar[str]
    version: ClassVar[int]
    metrics: ClassVar[tuple[Metric, ...]] = ()
    needs: ClassVar[tuple[type, ...]] = ()
    uses_classifiers: ClassVar[bool] = False

    def __init__(self, config: Settings):
        self.config = config

    def skip(self, model: type[Model], spec: DataSpec) -> str | None:
        """Why it cannot measure such a model on such data, as a sentence, or None where it can."""
        missing = [need.__name__ for need in self.needs if not has_ability(model, need)]
        return f"The model lacks the ability {' and '.join(missing)}." if missing else None

    def instruments(self, spec: DataSpec, classifiers: Mapping[str, Classifier]) -> dict[str, str]:
        """Digests, by name, of what it will measure with: part of the evaluation's identity.

        Raises:
            DataError: It cannot be had; the evaluation is then skipped with that reason.
        """
        if not self.uses_classifiers:
            return {}
        if not classifiers:
            lacking = "classifiers" if spec.classes else "classes"
            raise DataError(f"The dataset '{spec.name}' has no {lacking} to judge by.")
        return {name: classifier.digest for name, classifier in classifiers.items()}

    @abstractmethod
    def run(self, model: Model, spec: DataSpec, split: Split, context: EvalContext) -> Outcome:
        """Measure.

        Args:
            model: Trained, in eval mode, on `context.device`; gradients are off.
            spec: What the data consist of.
            split: The test split (or the validation split, for a choice), on `context.device`.
            context: Randomness, classifiers, progress.
        """


def has_ability(model: type[Model], ability: type) -> bool:
    """Whether a model class has every method of an ability protocol."""
    return all(
        callable(getattr(model, name, None)) for name in vars(ability) if _is_method(ability, name)
    )


def _is_method(ability: type, name: str) -> bool:
    return not name.startswith("_") and callable(getattr(ability, name))
