"""Scatter plots with a name beside each dot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from shalabench.report.drawing import INK, Drawing, canvas, legend, one_line

_ROOM = 0.3  # inches above the axes for names
_STEPS = (10, 20, 30, 40, 50)  # pixels of a name above or below its dot


class Look(NamedTuple):
    """How a dot looks.

    Attributes:
        text: The name beside it; empty for none.
        mark: Matplotlib's marker.
        meaning: Of the mark, for the legend.
    """

    text: str
    mark: str
    meaning: str


def _is_beaten(point: tuple[float, float], others: Any, better: tuple[int, int]) -> bool:
    """Whether another point is better in both."""
    return any(
        all(sign * (o - p) > 0 for sign, o, p in zip(better, other, point, strict=True))
        for other in others
    )


def scatter(
    points: dict[str, tuple[float, float]],
    across: str,
    up: str,
    better: tuple[int, int],
    tested: set[str],
    looks: Mapping[str, Look] | None = None,
    *,
    log: bool = False,
) -> Drawing | None:
    """Dots with names; in colour those that no other beats in both by its mean.

    Args:
        points: By name.
        across, up: Names of the axes.
        better: By axis, 1 where higher values are better, -1 where lower ones are.
        tested: Names of the points that may be in colour, and that may beat others.
        looks: By name of a point; if empty, all are dots with their names beside them. Where the
            marks have meanings, the legend explains these and not the colour.
        log: Whether the first axis is logarithmic.
    """
    if len(points) < 2:
        return None
    looks = looks or {name: Look(name, "o", "") for name in points}
    marks = {look.meaning: look.mark for look in looks.values() if look.meaning}
    others = [point for name, point in points.items() if name in tested]
    first = {n for n, p in points.items() if n in tested and not _is_beaten(p, others, better)}
    top = _ROOM + 0.2 * bool(first or marks)
    with canvas(3 + top, 0.6, 0.35, top, 0.45) as figure:
        axes = figure.subplots()
        if log:
            from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter

            values = [x for x, _ in points.values()]
            is_wide = max(values) > 10 * min(values)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(
                LogLocator(subs=(1, 2, 3, 5)) if is_wide else MaxNLocator(4)
            )
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(color=INK["rule"], lw=0.5)
        axes.set_axisbelow(True)
        for name, point in points.items():
            colour = INK["accent" if name in first else "muted"]
            axes.plot(*point, looks[name].mark, ms=5.5, c=colour, mew=0)
        axes.margins(0.1, 0.1)
        axes.set_xlabel(one_line(across))
        axes.set_ylabel(one_line(up))
        axes.tick_params(axis="y", labelcolor=INK["muted"])
        _label(axes, points, {name: look.text for name, look in looks.items()})
        dot = {"marker": "o", "ls": "none", "ms": 5.5, "mew": 0}
        names = {"no other mean is better on both axes": "accent", "others": "muted"}
        meant = {name: {**dot, "c": INK[colour]} for name, colour in names.items()}
        of_marks = {m: {**dot, "marker": mark, "c": INK["muted"]} for m, mark in marks.items()}
        if of_marks or first:
            legend(figure, of_marks or meant)
    texts = "; ".join(f"{name} at {x:.3g}, {y:.3g}" for name, (x, y) in points.items())
    return Drawing(figure, f"{up} against {across}", f"Scatter of {up} against {across}: {texts}.")


def _label(axes: Any, points: dict[str, tuple[float, float]], texts: Mapping[str, str]) -> None:
    """Names beside their dots, each at the first place that covers no dot and no other name."""
    from matplotlib.transforms import Bbox

    axes.autoscale_view()
    at = {name: axes.transData.transform((x, y)) for name, (x, y) in points.items()}
    taken = [Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in at.values()]
    frame = axes.get_window_extent()
    named = [item for item in at.items() if texts[item[0]]]
    for name, (x, y) in sorted(named, key=lambda item: (-item[1][1], item[0])):
        text = axes.text(0, 0, one_line(texts[name]), va="center", fontsize=8.5)
        width, height = text.get_window_extent().width + 4, 12
        spots = [
            (x + dx if side > 0 else x - dx - width, y + dy - height / 2, side)
            for dx, dy in ((7, 0), *((5, sign * n) for n in _STEPS for sign in (1, -1)))
            for side in (1, -1)
        ]
        boxes = [Bbox.from_extents(a, b, a + width, b + height) for a, b, _ in spots]
        costs = [
            sum(box.overlaps(other) for other in taken)
            + 2 * (box.x1 > frame.x1 + 12 or box.x0 < frame.x0)
            + 2 * (box.y1 > frame.y1 + 0.9 * _ROOM * axes.figure.dpi or box.y0 < frame.y0)
            + 0.01 * rank
            for rank, box in enumerate(boxes)
        ]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        side = spots[best][2]
        edge = boxes[best].x0 + 2 if side > 0 else boxes[best].x1 - 2
        middle = boxes[best].y0 + height / 2
        text.set_position(axes.transData.inverted().transform((edge, middle)))
        text.set_horizontalalignment("left" if side > 0 else "right")
