"""Metrics and scores as records hold them. Free of torch, so that tables are read quickly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

_UNRANKED = "classifier"  # features of the benchmark's own classifiers, which hardly see blur
Role = Literal["method", "floor", "ceiling", "chance", "classifier"]


@dataclass(frozen=True)
class Metric:
    """A metric that an evaluator measures.

    Attributes:
        name: Name in records and tables, such as "coherence/joint".
        direction: Whether higher or lower values are better.
        digits: Decimals to show.
        meaning: The protocol in one sentence.
        biased: Whether it depends on the number of images and on the extractor. No table mixes
            such values.
        role: "method" for a score of a method. The other roles describe the data: "floor" is
            reached without a method, "ceiling" is the best possible value, "chance" is reached by
            guessing, and "classifier" is the accuracy of the classifiers on real data.
        of: For a floor, ceiling or chance: the metric or family of metrics that it belongs to, such
            as "psnr". For a score of a method: the metric of the samples whose variety it measures.
        headline: Whether it is a main metric of its datasets.
    """

    name: str
    direction: Literal["higher", "lower"]
    digits: int
    meaning: str
    biased: bool = False
    role: Role = "method"
    of: str = ""
    headline: bool = False

    @classmethod
    def share(cls, name: str, meaning: str, **more: Any) -> Metric:
        """A metric that is a share of items, in [0, 1]; higher is better."""
        return cls(name, "higher", 3, meaning, **more)


@dataclass(frozen=True)
class Score:
    """One measured value.

    Attributes:
        metric: Name of the metric.
        value: The measured value.
        n: Number of test items; if tuples share images, the number of distinct images.
        stderr: Standard error over these items, or None.
        given: Given modalities; empty for joint generation and for summaries.
        target: Generated modality; None for summaries over targets.
        groups: Number of replicates that `stderr` was computed from, if they are few. A t interval
            then has `groups` - 1 degrees of freedom. None if it was computed from all items.
    """

    metric: str
    value: float
    n: int
    stderr: float | None = None
    given: tuple[str, ...] = ()
    target: str | None = None
    groups: int | None = None

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values."""
        plain = asdict(self) | {"given": list(self.given)}
        return {k: v for k, v in plain.items() if k != "groups" or v is not None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Score:
        """The inverse of `to_json`."""
        return cls(**{**data, "given": tuple(data["given"])})

    @property
    def is_summary(self) -> bool:
        """As `is_summary` says."""
        return is_summary(vars(self))


def is_summary(score: Mapping[str, Any]) -> bool:
    """Whether a score summarises an evaluation, and is not of one (given, target) pair.

    Args:
        score: As records hold it.
    """
    return not score["given"] and score["target"] is None


def is_ranked(metric: str) -> bool:
    """Whether methods are ranked by a metric.

    They are not ranked by metrics of the classifiers' features, such as "fid/classifier/cross"
    (docs/extractors.md).
    """
    return _UNRANKED not in metric.split("/")[1:]
