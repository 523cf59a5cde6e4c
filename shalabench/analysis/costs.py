"""What the trainings of a row cost: tuples, parameters and seconds, all from their records."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shalabench.analysis.rows import Row
from shalabench.records.budgets import Budget, budget_of, tuples_by_stage
from shalabench.records.columns import RunRow
from shalabench.records.frame import Records

COLUMNS = ("tuples", "later", "% of paper", "params", "CPU s")
FIELDS = (
    *("tuples", "later_tuples", "share", "later_share", "share_published"),
    *("parameters", "cpu_seconds", "seconds", "undertrained"),
)
_LEGEND = (
    "tuples: updates times batch size of the first stage, with repetitions. later: the same of "
    "the stages after it, summed (a prior's are latents). Reused stages count as trained.",
    "% of paper: share of these in the preset paper, first stage / later stages. In brackets: that "
    "number is our choice, or published for other data.",
    "CPU s: processor seconds of a training, mean over seeds. ~: by the wall clock, because the "
    "record has no processor time.",
)


@dataclass(frozen=True)
class Costs:
    """What one training of a row costs.

    Attributes:
        stages: Tuples of each stage, in order: its updates times its batch size.
        budgets: By stage, those of the preset `paper`, where it has the stage.
        target: The data that published budgets are compared for.
        parameters: None where unknown.
        cpu_seconds: Processor time, reused stages included, mean over seeds; None where a run has
            none.
        seconds: The same by the wall clock.
    """

    stages: dict[str, int]
    budgets: dict[str, Budget]
    target: str
    parameters: float | None
    cpu_seconds: float | None
    seconds: float | None

    @property
    def tuples(self) -> int | None:
        """Of the first stage."""
        return next(iter(self.stages.values()), None)

    @property
    def later_tuples(self) -> int | None:
        """Of the stages after the first, summed; None where there is none."""
        return sum(list(self.stages.values())[1:]) or None

    @property
    def share(self) -> float | None:
        """Of the first stage's tuples in the preset `paper`."""
        return self._share(list(self.stages)[:1])

    @property
    def later_share(self) -> float | None:
        """Of the later stages' tuples in it, summed."""
        return self._share(list(self.stages)[1:])

    @property
    def share_published(self) -> bool:
        """Whether all of these numbers of the preset are published for the same data."""
        return self._is_published(list(self.stages))

    @property
    def undertrained(self) -> str:
        """Why the row is called undertrained; empty where it is not."""
        return "; ".join(
            f"the stage {stage} saw {_percent(self.stages[stage] / budget.tuples)} % of the "
            f"{budget.tuples / 1e6:,.0f} million of the preset paper, and is {budget.undertrained}"
            for stage, budget in self.budgets.items()
            if budget.undertrained and self.stages[stage] < budget.tuples
        )

    def plain(self) -> dict[str, Any]:
        """The fields of machine-readable formats."""
        return {name: getattr(self, name) for name in FIELDS}

    def cells(self) -> list[str]:
        """The columns of `COLUMNS` as text."""
        ends = [self._shown(list(self.stages)[:1]), self._shown(list(self.stages)[1:])]
        clock = "-" if self.seconds is None else f"~{self.seconds:,.0f}"
        return [
            *(_millions(n) for n in (self.tuples, self.later_tuples)),
            " / ".join(filter(None, ends)).replace(") / (", " / ") or "-",
            _millions(self.parameters),
            clock if self.cpu_seconds is None else f"{self.cpu_seconds:,.0f}",
        ]

    def _share(self, stages: Sequence[str]) -> float | None:
        if not stages or any(stage not in self.budgets for stage in stages):
            return None
        seen = sum(self.stages[stage] for stage in stages)
        return seen / sum(self.budgets[stage].tuples for stage in stages)

    def _is_published(self, stages: Sequence[str]) -> bool:
        mine = [self.budgets[stage] for stage in stages if stage in self.budgets]
        return len(mine) == len(stages) > 0 and all(b.published_for == self.target for b in mine)

    def _shown(self, stages: Sequence[str]) -> str:
        share = self._share(stages)
        if share is None:
            return ""
        text = _percent(share)
        return text if self._is_published(stages) else f"({text})"


def costs_of(runs: Sequence[RunRow], target: str) -> Costs | None:
    """The costs of runs that differ in the seed only; None where none is trained.

    Args:
        runs: With their stages.
        target: The data that published budgets are compared for.
    """
    trained = [run for run in runs if run.stages or run.provenance]
    if not trained:
        return None
    first = trained[0]
    tuples = tuples_by_stage(first.settings, first.stages) or {}
    named = {s: budget_of(first.model, target, s if n else "") for n, s in enumerate(tuples)}
    return Costs(
        tuples,
        {stage: budget for stage, budget in named.items() if budget},
        target,
        _mean([run.parameters for run in trained]),
        _mean([run.cpu_seconds for run in trained]),
        _mean([run.seconds for run in trained]),
    )


def add_costs(rows: Sequence[Row], records: Records, target: str) -> None:
    """Give rows the costs of their runs.

    Args:
        rows: Of one table.
        records: That the rows were made from.
        target: The data that published budgets are compared for.
    """
    runs = {run.run: run for run in records.rows}
    for row in rows:
        row.costs = costs_of([runs[name] for name in row.runs], target)


def undertrained_notes(rows: Sequence[Row]) -> list[str]:
    """A line for each row that is marked as undertrained."""
    return [
        f"‡: {row.label} is undertrained: {row.costs.undertrained}."
        for row in rows
        if row.costs and row.costs.undertrained
    ]


def is_undertrained(row: Row) -> bool:
    """Whether the row is marked so."""
    return bool(row.costs and row.costs.undertrained)


def cost_columns(
    rows: Sequence[Row], escape: Callable[[str], str]
) -> tuple[list[list[str]], list[str]]:
    """Heading and lines of the columns on costs, without those that are empty, and their legend.

    Nothing where no row has costs.
    """
    if not any(row.costs for row in rows):
        return [], []
    lines = [row.costs.cells() if row.costs else ["-"] * len(COLUMNS) for row in rows]
    kept = [n for n in range(len(COLUMNS)) if any(line[n] != "-" for line in lines)]
    grid = [[escape(line[n]) for n in kept] for line in [list(COLUMNS), *lines]]
    legend = [text for text, of in zip(_LEGEND, (0, 2, 4), strict=True) if of in kept]
    return grid, legend


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if len(known) == len(values) else None


def _millions(number: float | None) -> str:
    return "-" if number is None else f"{number / 1e6:.2f} M"


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.1f}" if percent >= 0.1 else f"{percent:.1g}"
