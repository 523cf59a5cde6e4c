"""Scatter plots of latents, panel beside panel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shalabench.report.drawing import INK, LINES, WIDTH, Drawing, canvas, one_line

_WIDE = 7.2  # of a row of panels: the width of two columns
_CLASSES = (*LINES, "#7a4a2b", "#93a832")


@dataclass(frozen=True)
class Cloud:
    """Latents in one panel.

    Attributes:
        title: What they are.
        note: What stands below; may be empty.
        points: `(x, y)` each.
        classes: The class of each, None where it has none.
        named: Whether classes are written where they lie, for readers who do not see colours.
        beside: What stands to the left of the row; may be empty.
    """

    title: str
    note: str
    points: Sequence[tuple[float, float]]
    classes: Sequence[int | None]
    named: bool = False
    beside: str = ""


def clouds(
    rows: Sequence[Sequence[Cloud]], title: str, alt: str, keys: dict[int | None, str]
) -> Drawing:
    """Latents side by side; the panels of a row share their axes.

    Args:
        rows: Panels, as many in each row.
        title: Of the drawing.
        alt: As `Drawing` has it.
        keys: What the colour of each class means, None for points without one.
    """
    across = len(rows[0])
    width = _WIDE if across > 2 else WIDTH
    gap, edge = 0.07, 0.05
    left = edge + 0.15 * any(row[0].beside for row in rows)
    side = (width - left - edge - gap * (across - 1)) / across
    heading, foot, legend = 0.22, 0.2, 0.24
    height = len(rows) * (heading + side + foot) + legend
    with canvas(height, left, edge, heading, foot + legend, width) as figure:
        gaps = {"wspace": gap / side, "hspace": (heading + foot) / side}
        grid = figure.subplots(len(rows), across, squeeze=False, gridspec_kw=gaps)
        for panels, row in zip(grid, rows, strict=True):
            limits = _square([point for cloud in row for point in cloud.points])
            for axes, cloud in zip(panels, row, strict=True):
                _cloud_panel(axes, cloud, limits)
        _cloud_keys(figure, keys, 0.1 / height)
    return Drawing(figure, title, alt)


def _square(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Limits of both axes, equally wide, that hold all points."""
    ends = [(min(values), max(values)) for values in zip(*points, strict=True)]
    half = 0.54 * max(high - low for low, high in ends) or 1.0
    return tuple(((low + high) / 2 - half, (low + high) / 2 + half) for low, high in ends)


def _cloud_panel(axes: Any, cloud: Cloud, limits: tuple[tuple[float, float], ...]) -> None:
    axes.set(xlim=limits[0], ylim=limits[1], xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.set_title(one_line(cloud.title), fontsize=8.5, pad=3)
    axes.set_xlabel(one_line(cloud.note), fontsize=7.5, labelpad=3)
    axes.set_ylabel(one_line(cloud.beside), fontsize=6.5, labelpad=3)
    for zero, line in ((limits[0], axes.axvline), (limits[1], axes.axhline)):
        if zero[0] < 0 < zero[1]:
            line(0, c=INK["rule"], lw=0.5, zorder=0)
    shades = list(map(_shade, cloud.classes))  # in their order, so that no class covers another
    axes.scatter(*zip(*cloud.points, strict=True), c=shades, s=3.6, lw=0, alpha=0.75)
    if cloud.named:
        _name_classes(axes, cloud, 0.06 * (limits[0][1] - limits[0][0]))


def _name_classes(axes: Any, cloud: Cloud, radius: float) -> None:
    """Each class written at that of its points around which it is most among itself."""
    from matplotlib.patheffects import withStroke

    marked = list(zip(cloud.points, cloud.classes, strict=True))
    best: dict[int, tuple[int, tuple[float, float]]] = {}
    for point, label in marked:
        if label is None:
            continue
        near = [other for place, other in marked if math.dist(place, point) < radius]
        lead = 2 * near.count(label) - len(near)
        best[label] = max(best.get(label, (lead, point)), (lead, point))
    for label, (_, (x, y)) in best.items():
        halo = [withStroke(linewidth=2, foreground=INK["surface"])]
        where = {"ha": "center", "va": "center", "fontsize": 8, "zorder": 5}
        axes.text(x, y, str(label), c=INK["ink"], path_effects=halo, **where)


def _shade(label: int | None) -> str:
    return "#a9aeb4" if label is None else _CLASSES[label % len(_CLASSES)]


def _cloud_keys(figure: Any, keys: dict[int | None, str], up: float) -> None:
    """A line of dots with what they mean."""
    from matplotlib.lines import Line2D

    dots = [
        Line2D([], [], ls="", marker="o", ms=4, mew=0, c=_shade(label), label=one_line(text))
        for label, text in sorted(keys.items(), key=lambda item: (item[0] is None, item[0] or 0))
    ]
    figure.legend(
        handles=dots,
        loc="center",
        bbox_to_anchor=(0.5, up),
        ncols=len(dots),
        frameon=False,
        fontsize=7.5,
        handlelength=0.8,
        handletextpad=0.3,
        columnspacing=0.9,
        labelcolor=INK["muted"],
    )
