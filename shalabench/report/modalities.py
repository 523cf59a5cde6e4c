"""The figure of the number of modalities: coherence and CPU time of each method against it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from shalabench.analysis.by_modalities import SECONDS, count_of, groups_of, label_of
from shalabench.analysis.rows import Row
from shalabench.analysis.tables import Table
from shalabench.report.drawing import LINES, Drawing, canvas, line, mark_decades, one_line

_METRICS = ("coherence/joint", "coherence/cross", SECONDS)
_MARKERS = ("o", "s", "^", "D")  # methods of one colour differ in them
_WIDTH = 6.9  # inches
_PANEL = 2.1
_COLUMNS = 5  # of the legend


def by_modalities(table: Table, counts: Mapping[str, int]) -> Drawing | None:
    """Joint and cross coherence and CPU seconds of a training against the number of modalities.

    Args:
        table: Of coherence, with the costs of its rows.
        counts: Number of modalities by the name of a run.

    Returns:
        None where no method was trained with several numbers.
    """
    groups = [group for group in groups_of(table.rows, counts) if len(group) > 1]
    metrics = [name for name in _METRICS if any(name in row.cells for g in groups for row in g)]
    if not groups or metrics in ([], [SECONDS]):
        return None
    groups.sort(key=lambda group: label_of(group[-1]))
    numbers = sorted({count_of(row, counts) for group in groups for row in group})
    top = 0.25 + 0.2 * math.ceil(len(groups) / _COLUMNS)
    with canvas(top + _PANEL, 0.6, 0.15, top, 0.5, _WIDTH) as figure:
        drawn = figure.subplots(1, len(metrics), squeeze=False)[0]
        figure.subplots_adjust(wspace=0.38)
        for axes, metric in zip(drawn, metrics, strict=True):
            for place, group in enumerate(groups):
                _draw(axes, group, counts, metric, place, label_of(group[-1]))
            name = "CPU s of a training" if metric == SECONDS else one_line(metric)
            axes.set_title(name, fontsize=9, loc="left")
            axes.set_xscale("log")
            axes.set_xticks(numbers, [str(number) for number in numbers])
            axes.minorticks_off()
            axes.set_xlabel("modalities")
            if metric == SECONDS:
                axes.set_yscale("log")
                mark_decades(axes.yaxis, "{:,.0f}".format)
            else:
                axes.set_ylim(0, None)
        handles, labels = drawn[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="upper center", ncols=_COLUMNS, frameon=False, fontsize=8
        )
    texts = [
        f"{label_of(group[-1])}, {metric}: "
        + ", ".join(
            f"{row.cells[metric].mean:.3g} with {count_of(row, counts)}"
            for row in group
            if metric in row.cells
        )
        for metric in metrics
        for group in groups
    ]
    words = f"Coherence and CPU seconds by the number of modalities. {'; '.join(texts)}."
    return Drawing(figure, "Coherence by the number of modalities", words)


def _draw(
    axes: Any, group: list[Row], counts: Mapping[str, int], metric: str, place: int, label: str
) -> None:
    points = [(count_of(row, counts), row.cells[metric]) for row in group if metric in row.cells]
    if not points:
        return
    colour, marker = LINES[place % len(LINES)], _MARKERS[place // len(LINES) % len(_MARKERS)]
    xs, means = [x for x, _ in points], [cell.mean for _, cell in points]
    errors = [cell.stderr or 0 for _, cell in points]
    axes.errorbar(xs, means, yerr=errors, fmt=marker, ms=3.5, c=colour, lw=1)
    line(axes, xs, means, colour, lw=1.2, marker=marker, ms=3.5, label=one_line(label))
