"""What a reader wants to know first: the best method, its lead, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from shalabench.analysis.render import published_name
from shalabench.analysis.rows import Cell, Row, is_behind
from shalabench.analysis.statistics import Difference, against_constant, difference
from shalabench.analysis.tables import Table
from shalabench.report.sections import REAL_IMAGES, Section

_COLLAPSED = 2.0  # effective classes below which joint agreement means little


@dataclass(frozen=True)
class Glance:
    """The best method by one metric on one dataset.

    Attributes:
        variant: Label and value of a variant that is better than all of them, or ().
        equals: Labels of methods that are not significantly worse.
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
    def is_whole(self) -> bool:
        """Whether the margin is of all the trainings that the lead is the mean of."""
        if self.margin is None or self.lead is None:
            return False
        return math.isclose(self.margin.value, self.lead, abs_tol=1e-12)


def glances(section: Section) -> Iterator[Glance]:
    """The headline of each metric that sums a section up."""
    for metric in section.headlines():
        table, ranked = section.table_with(metric), section.ranked(metric, plain=True)
        direction, digits, _ = table.metrics[metric]
        sign = section.sign(metric)
        (best, cell), *rest = ranked
        first, other = section.ranked(metric)[0]
        is_variant = first not in (row for row, _ in ranked)
        published = [(r.method, r.published[metric]) for r in table.rows if metric in r.published]
        top = max(published, key=lambda pair: sign * float(pair[1]), default=())
        yield Glance(
            metric,
            direction,
            digits,
            best,
            cell,
            (first.label, f"{other.mean:.{digits}f}") if is_variant else (),
            [row.label for row, _ in rest if not is_behind(row, best, metric, sign)],
            rest[0][0] if rest else None,
            cell.mean - rest[0][1].mean if rest else None,
            difference(best.scores[metric], rest[0][0].scores[metric]) if rest else None,
            best.published.get(metric, ""),
            gap(best, metric),
            " ".join(top),
            table.apart,
            _elsewhere(best, metric, table),
            standing(gap(best, metric), direction, same_data=not table.apart),
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


def standing(diff: Difference | None, direction: str, *, same_data: bool) -> tuple[str, str]:
    """A class for colour and the same in words: how a value compares with the published one."""
    if diff is None:
        return "", ""
    if not same_data:
        return "other", "other data"
    if not diff.is_significant:
        return "level", "not significantly different" if diff.is_tested else "not tested"
    better = (diff.value > 0) == (direction != "lower")
    return ("above", "better") if better else ("below", "worse")


def _warning(section: Section, row: Row, metric: str) -> str:
    sentences = []
    for name, facts in section.metrics.items():
        is_variety = facts["role"] == "method" and facts["of"] == metric
        if is_variety and name in row.cells and row.cells[name].mean < _COLLAPSED:
            sentences.append(
                f"Its agreeing samples show {row.cells[name].mean:.1f} effective classes: nearly "
                "collapsed, so that agreement means little."
            )
    value, sign = row.cells[metric].mean, section.sign(metric)
    digits = section.table_with(metric).metrics[metric][1]
    for name, bound in section.bounds(metric).items():
        kind, _, what = name.partition(": ")
        if kind == "floor" and what != REAL_IMAGES and sign * (value - bound) <= 0:
            sentences.append(f"The floor '{what}', which needs no method, has {bound:.{digits}f}.")
    return " ".join(sentences)
