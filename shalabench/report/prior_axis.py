"""The figure of methods by prior: what an architecture is worth, and what its prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shalabench.analysis.by_prior import KINDS, column, split_by_prior
from shalabench.analysis.rows import Cell, Row
from shalabench.analysis.tables import Table
from shalabench.api.records import is_ranked
from shalabench.report.drawing import (
    INK,
    LINES,
    PRIOR_MARKS,
    Drawing,
    canvas,
    margin_for,
    one_line,
)
from shalabench.report.sections import Section

_COLOURS = dict(zip(KINDS, (INK["muted"], LINES[1], LINES[0]), strict=True))
_STEP = 0.24  # of the height of a row, between two priors
_WIDTH = 6.9  # inches


def by_prior(section: Section) -> Drawing | None:
    """Joint coherence, and image quality where it was measured, of each method and prior.

    A small bar is the coherence of posterior samples, which a perfect prior would reach. Hollow
    marks are of collapsed models.

    Returns:
        None where fewer than two kinds of prior were measured.
    """
    panels = {name: _by_method(table) for table in section.tables for name in _shown(table)}
    panels = dict(sorted(panels.items(), key=lambda p: not p[0].startswith("coherence/"))[:2])
    kinds = {k for rows in panels.values() for row in rows.values() for k in _cells(row, panels)}
    if len(kinds) < 2:
        return None
    main = next(iter(panels))
    found = {label: row for rows in panels.values() for label, row in rows.items()}
    labels = sorted(found, key=lambda label: _highest(panels[main].get(label), main))
    with canvas(
        0.9 + 0.36 * len(labels), margin_for(labels) + 0.15, 0.2, 0.5, 0.5, _WIDTH
    ) as figure:
        drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (metric, rows) in zip(drawn, panels.items(), strict=True):
            for y, label in enumerate(labels):
                _draw_row(axes, y, rows.get(label), metric)
            axes.set_yticks(range(len(labels)), labels)
            axes.set_ylim(-0.6, len(labels) - 0.4)
            axes.spines["left"].set_visible(False)
            less = " (less is better)" if section.sign(metric) < 0 else ""
            axes.set_xlabel(one_line(metric) + less)
        for kind in (kind for kind in KINDS if kind in kinds):
            drawn[0].plot([], [], PRIOR_MARKS[kind], ms=5, c=_COLOURS[kind], label=KINDS[kind])
        drawn[0].plot([], [], "|", ms=9, mew=1.6, c=INK["ink"], label="posterior")
        cells = (_of(row, name).values() for name, rows in panels.items() for row in rows.values())
        if any(cell.mark == "collapsed" for of in cells for cell in of):
            drawn[0].plot([], [], "o", ms=5, c=INK["muted"], mfc="none", label="collapsed")
        figure.legend(loc="upper center", ncols=5, frameon=False, handletextpad=0.3)
    texts = [
        f"{label}: " + ", ".join(f"{KINDS[k]} {c.mean:.3f}" for k, c in _of(row, main).items())
        for label, row in panels[main].items()
        if _of(row, main)
    ]
    return Drawing(figure, f"{main} by prior", f"{main} by method and prior. {'; '.join(texts)}.")


def _shown(table: Table) -> list[str]:
    """The metrics of joint samples that have a panel: what ranks methods, of each family one."""
    names = [n for n in table.metrics if n.rpartition("/")[2] == "joint" and is_ranked(n)]
    return sorted(names, key=lambda name: name.split("/")[0] == "fid")[:1]


def _by_method(table: Table) -> Mapping[str, Row]:
    rows, _ = split_by_prior(table.rows, table.metrics)
    return {row.label: row for row in rows if row.cells}


def _of(row: Row, metric: str) -> dict[str, Cell]:
    """The cells of a metric by kind of prior."""
    named = {kind: column(metric, kind) for kind in KINDS}
    return {kind: row.cells[name] for kind, name in named.items() if name in row.cells}


def _cells(row: Row, metrics: Mapping[str, object]) -> list[str]:
    return [kind for metric in metrics for kind in _of(row, metric)]


def _highest(row: Row | None, metric: str) -> float:
    return max((cell.mean for cell in _of(row, metric).values()), default=-1.0) if row else -1.0


def _draw_row(axes: Any, y: int, row: Row | None, metric: str) -> None:
    axes.plot([0, 1], [y, y], transform=axes.get_yaxis_transform(), c=INK["rule"], lw=0.5)
    if row is None:
        return
    for kind, cell in _of(row, metric).items():
        hollow = "none" if cell.mark == "collapsed" else _COLOURS[kind]
        height = y + _STEP * (1 - list(KINDS).index(kind))
        axes.errorbar(
            cell.mean,
            height,
            xerr=cell.stderr,
            fmt=PRIOR_MARKS[kind],
            ms=5,
            c=_COLOURS[kind],
            mfc=hollow,
            lw=1.4,
        )
    ceiling = f"{metric.rpartition('/')[0]}/posterior"
    if ceiling in row.cells:
        axes.plot(row.cells[ceiling].mean, y, "|", ms=12, mew=1.6, c=INK["ink"])
