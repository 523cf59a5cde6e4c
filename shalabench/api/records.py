"""Metrics and scores as records hold them. Free of torch, so that tables are read quickly."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

_UNRANKED = "classifier"  # features of the benchmark's own classifiers, which hardly see blur
Role = Literal["method", "floor", "ceiling", "chance", "classifier"]


@dataclass(frozen=True)
class Metric:
    """One kind of score that an evaluator gives.

    Attributes:
        name: As in records and tables, such as "coherence/joint".
        direction: Whether higher or lower values are better.
        digits: Decimals to show.
        meaning: The protocol in one sentence.
        biased: Whether it depends on n and on the extractor, so that no table mixes these.
        role: "method" for a score of the method. The others describe the data: "floor" needs no
            method, "ceiling" cannot be passed, "chance" is reached by guessing, and "classifier" is
            the accuracy of the classifiers on real data.
        of: The metric or family of metrics that such a bound belongs to, such as "psnr"; for a
            score of the method, the metric whose variety of samples it measures.
        headline: Whether it is among the few metrics that sum a dataset up.
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
        """A share of items in [0, 1], of which more is better."""
        return cls(name, "higher", 3, meaning, **more)


@dataclass(frozen=True)
class Score:
    """One measured value.

    Attributes:
        metric: Name of the metric.
        value: What was measured.
        n: Number of test items behind it; of distinct images where tuples share images.
        stderr: Standard error over those items, or None.
        given: Modalities that were given; empty for joint generation and for summaries.
        target: Modality that was scored; None for summaries over targets.
        groups: Number of replicates that `stderr` was computed from, if they are few: a t interval
            has one degree of freedom less. None if it was computed from the items themselves.
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
        """Whether it sums up the whole evaluation rather than one (given, target) pair."""
        return not self.given and self.target is None


def is_ranked(metric: str) -> bool:
    """Whether a metric's values may say which method is better.

    Those of the classifiers' features, such as "fid/classifier/cross", may not
    (docs/extractors.md).
    """
    return _UNRANKED not in metric.split("/")[1:]
