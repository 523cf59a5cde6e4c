"""Learning curves: values by the training tuples of the first stage, from runs that differ in it.

A curve of coherence is fitted in the error of one modality. Where all M of them must agree that is
1 - value^(1/M), which falls from the start; the value itself stays at 0 until most are right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shalabench.analysis.by_prior import KINDS, OF_PRIORS
from shalabench.analysis.joining import Metrics, alike, join_by_number
from shalabench.analysis.rows import Cell, Row
from shalabench.analysis.saturation import FEWEST, Budget, Law, budget, fit
from shalabench.records.frame import Records

STEPS = "model.steps"
_LENGTH = re.compile(r" \[model\.steps=[^\]]*\]")
_APART = (f"{STEPS}.", "evaluators.")
_ALL_AGREE = ("coherence/joint", "coherence/posterior")
_Published = Mapping[tuple[str, str], str]


@dataclass(frozen=True)
class Point:
    """A value after some training.

    Attributes:
        tuples: Of the first stage, with repetitions.
        hours: CPU hours of all stages, mean over seeds; None where unknown.
        cell: The value.
    """

    tuples: int
    hours: float | None
    cell: Cell


@dataclass(frozen=True)
class Curve:
    """The values of one method, with one prior, by the tuples.

    Attributes:
        name: The method, and the settings that differ from its preset but for the prior.
        prior: The value of `prior.kind`.
        points: By rising tuples.
        lower: Whether lower values are better.
        agreeing: Modalities that must agree for a hit.
    """

    name: str
    method: str
    prior: str
    metric: str
    points: tuple[Point, ...]
    lower: bool
    agreeing: int

    def error(self, value: float) -> float:
        """What falls with the tuples: the error of one modality, or the value itself."""
        return value if self.lower else 1 - max(value, 0.0) ** (1 / self.agreeing)

    def value(self, error: float) -> float:
        """The value of an error."""
        return error if self.lower else max(0.0, 1 - error) ** self.agreeing

    @property
    def law(self) -> Law | None:
        """The fitted law; None for fewer than four points or values that have no error."""
        return fit(*self._errors) if self._is_fitted else None

    def budget(self, value: float) -> Budget | None:
        """The tuples that a value needs by the law; None where there is no law."""
        return budget(*self._errors, self.error(value)) if self._is_fitted else None

    @property
    def _is_fitted(self) -> bool:
        tuples, errors = self._errors
        is_share = all(0 <= p.cell.mean <= 1 for p in self.points)
        return len(set(tuples)) >= FEWEST and (self.lower or is_share) and min(errors) > 0

    @property
    def _errors(self) -> tuple[list[float], list[float]]:
        return (
            [float(p.tuples) for p in self.points],
            [self.error(p.cell.mean) for p in self.points],
        )


def curves_of(
    rows: Sequence[Row], metric: str, *, lower: bool, modalities: Mapping[str, int]
) -> list[Curve]:
    """The curves of a metric, one point at least each.

    Args:
        rows: Of one table, with their costs.
        metric: Its name.
        lower: Whether lower values are better.
        modalities: Number of modalities by the name of a run.
    """
    curves = []
    for group in groups_of(rows):
        own = [row for row in group if metric in row.cells]
        points = [
            Point(row.costs.tuples, _hours(row), row.cells[metric])
            for row in own
            if row.costs and row.costs.tuples
        ]
        if not points:
            continue
        first = own[0]
        agreeing = modalities.get(first.runs[0], 1) if metric in _ALL_AGREE else 1
        name = OF_PRIORS.sub("", label_of(first))
        prior = first.settings.get("prior.kind", "own")
        about = name, first.method, prior, metric
        curves.append(Curve(*about, tuple(points), lower, max(agreeing, 1)))
    return curves


def groups_of(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that differ in the updates of the first stage alone, by rising tuples."""
    trained = [row for row in rows if row.runs and row.costs and row.costs.tuples]
    return [sorted(group, key=_tuples) for group in alike(trained, _APART)]


def label_of(row: Row) -> str:
    """A row's label without the number of updates."""
    return _LENGTH.sub("", row.label)


def modalities_of(records: Records) -> dict[str, int]:
    """The number of modalities by the name of a run."""
    return {run.run: len(run.data.get("modalities", ())) for run in records.rows}


def split_by_tuples(
    rows: Sequence[Row], metrics: Metrics
) -> tuple[list[Row], dict[str, tuple[str, int, str]]]:
    """One row for each method and prior, and a column for each metric and number of tuples.

    Args:
        rows: As `make_rows` gives them, with their costs.
        metrics: Measured ones.
    """
    return join_by_number(groups_of(rows), metrics, label_of, _tuples, count_text)


def notes_on(
    rows: Sequence[Row],
    metrics: Metrics,
    modalities: Mapping[str, int],
    published: _Published,
    *,
    apart: bool = False,
) -> list[str]:
    """A line for each curve that has a law.

    Args:
        rows, metrics: As `split_by_tuples` takes them.
        modalities: As `curves_of` takes them.
        published: The published value by method and metric.
        apart: Whether these are of other data than the rows.
    """
    texts = [
        fit_text(curve, published.get((curve.method, name), ""), apart=apart)
        for name, (direction, _, _) in metrics.items()
        for curve in curves_of(rows, name, lower=direction == "lower", modalities=modalities)
    ]
    return [text for text in texts if text]


def fit_text(curve: Curve, published: str, *, apart: bool = False) -> str:
    """A curve's law and what it predicts for the published value, empty where it has no law.

    Args:
        curve: The values.
        published: The published value; empty where there is none.
        apart: Whether it is of other data.
    """
    law = curve.law
    if law is None:
        return ""
    root = f"^(1/{curve.agreeing})" if curve.agreeing > 1 else ""
    error = "value" if curve.lower else f"1 - value{root}"
    prior = "" if curve.prior == "own" else f", {KINDS.get(curve.prior, curve.prior)} prior"
    text = (
        f"{curve.name}{prior}, {curve.metric}: {error} = {law.floor:.3g} + {law.factor:.3g} "
        f"tuples^-{law.exponent:.3g}, fitted to {len(curve.points)} points"
    )
    needed = curve.budget(float(published)) if published else None
    if needed is None:
        return f"{text}."
    text += f"; {published}, published on other data," if apart else f"; the published {published}"
    if needed.high <= curve.points[0].tuples:
        return f"{text} is passed before the first point."
    if math.isinf(needed.tuples):
        return f"{text} is not reached by the fit{_from(needed)}."
    ends = f"{count_text(needed.low)} to {count_text(needed.high)}"
    return f"{text} needs {count_text(needed.tuples)} tuples (90 % interval: {ends})."


def _from(needed: Budget) -> str:
    """The end of a sentence on a value that is not reached: from where it may be."""
    if math.isinf(needed.low):
        return ""
    return f" (90 % interval: {count_text(needed.low)} to never)"


def count_text(count: float) -> str:
    """A number of tuples in two digits: "30k", "0.1M", "never" where it is infinite."""
    if math.isinf(count):
        return "never"
    digits = float(f"{count:.2g}")
    if digits < 1e4:
        return f"{count:.0f}"
    return f"{digits / 1e3:g}k" if digits < 1e5 else f"{digits / 1e6:g}M"


def _tuples(row: Row) -> int:
    return (row.costs.tuples or 0) if row.costs else 0


def _hours(row: Row) -> float | None:
    seconds = (row.costs.cpu_seconds or row.costs.seconds) if row.costs else None
    return None if seconds is None else seconds / 3600
