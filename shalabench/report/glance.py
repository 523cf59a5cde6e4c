"""What a reader wants to know first: the best mean, its lead, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from shalabench.analysis.render import published_name
from shalabench.analysis.rows import Cell, Row
from shalabench.analysis.statistics import UNTESTED, Difference, against_constant
from shalabench.analysis.tables import Table
from shalabench.analysis.verdicts import lead_of
from shalabench.report.sections import REAL_IMAGES, Section


@dataclass(frozen=True)
class Glance:
    """The best method by one metric on one dataset, of those that have not collapsed.

    Attributes:
        variant: Label and value of a variant that is better than all of them, or ().
        equals: Labels of methods that are not significantly worse.
        collapsed: Label and effective number of classes of the methods that are not ranked.
        next: The runner-up, or None.
        lead: Best minus runner-up, or None.
        margin: What is known of the lead, or None.
        published: The best method's published value, or "".
        gap: Best minus published, or None.
        published_best: The method with the best published value and that value, or "".
        apart: Why the published values are of other data, in words; empty where they are not.
        elsewhere: The best method's values that were published at other resolutions, in words.
        standing: Of the gap, a class for its colour and words.
        warning: Why the value may mean little, or "".
    """

    metric: str
    direction: str
    digits: int
    best: Row
    cell: Cell
    variant: tuple[str, ...]
    equals: list[str]
    collapsed: list[tuple[str, str]]
    next: Row | None
    lead: float | None
    margin: Difference | None
    published: str
    gap: Difference | None
    published_best: str
    apart: str
    elsewhere: str
    standing: tuple[str, str]
    warning: str

    @property
    def is_tested(self) -> bool:
        """Whether the best was marked after a test."""
        return self.cell.mark == "best"

    @property
    def is_whole(self) -> bool:
        """Whether the margin is of all the trainings that the lead is the mean of."""
        if self.margin is None or self.lead is None:
            return False
        return math.isclose(self.margin.value, self.lead, abs_tol=1e-12)


def glances(section: Section) -> Iterator[Glance]:
    """The headline of each metric that sums a section up, where some method has not collapsed."""
    for metric in section.headlines():
        table, measured = section.table_with(metric), section.ranked(metric, plain=True)
        ranked = [(row, cell) for row, cell in measured if cell.mark != "collapsed"]
        if not ranked:
            continue
        direction, digits, _ = table.metrics[metric]
        sign = section.sign(metric)
        (best, cell), *rest = ranked
        first, other = section.ranked(metric)[0]
        is_variant = first not in (row for row, _ in measured) and other.mean != cell.mean
        published = [(r.method, r.published[metric]) for r in table.rows if metric in r.published]
        top = max(published, key=lambda pair: sign * float(pair[1]), default=())
        yield Glance(
            metric,
            direction,
            digits,
            best,
            cell,
            (first.label, f"{other.mean:.{digits}f}") if is_variant else (),
            [row.label for row, cell in rest if cell.mark == "level"],
            [
                (row.label, row.collapsed[metric].text)
                for row, _ in measured
                if metric in row.collapsed
            ],
            rest[0][0] if rest else None,
            cell.mean - rest[0][1].mean if rest else None,
            lead_of(best, rest[0][0], metric) if rest else None,
            best.published.get(metric, ""),
            gap(best, metric),
            " ".join(top),
            table.apart,
            _elsewhere(best, metric, table),
            standing(best, metric, table),
            _warning(section, best, metric),
        )


def _elsewhere(best: Row, metric: str, table: Table) -> str:
    """Values published for a method at other resolutions, with which ours is not compared."""
    name = published_name(metric, table)
    others = [r for r in table.rows if r.method == best.method and r is not best]
    pairs = [(r.published[name], r.facts.get("resolution")) for r in others if name in r.published]
    return ", ".join(f"{value} at {resolution}" for value, resolution in pairs if resolution)


def gap(row: Row, metric: str) -> Difference | None:
    """Measured minus published, where both are there."""
    if metric not in row.published or metric not in row.cells:
        return None
    cell, published = row.cells[metric], float(row.published[metric])
    return against_constant(cell.mean, cell.stderr, cell.seeds, published, cell.groups)


def standing(row: Row, metric: str, table: Table) -> tuple[str, str]:
    """A class for colour and the same in words: how a value compares with the published one."""
    diff, direction = gap(row, metric), table.metrics[metric][0]
    if diff is None:
        return "", ""
    if table.apart:
        return "other", "other data"
    if metric in row.collapsed:
        return "level", "collapsed"
    if not diff.is_significant:
        return "level", "not significantly different" if diff.is_tested else UNTESTED
    better = (diff.value > 0) == (direction != "lower")
    return ("above", "better") if better else ("below", "worse")


def _warning(section: Section, row: Row, metric: str) -> str:
    sentences = []
    value, sign = row.cells[metric].mean, section.sign(metric)
    digits = section.table_with(metric).metrics[metric][1]
    for name, bound in section.bounds(metric).items():
        kind, _, what = name.partition(": ")
        if kind == "floor" and what != REAL_IMAGES and sign * (value - bound) <= 0:
            sentences.append(f"The floor '{what}', which needs no method, has {bound:.{digits}f}.")
    return " ".join(sentences)
