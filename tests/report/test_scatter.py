"""Scatter plots: ticks in a narrow range, and names that stay within the figure."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg

from shalabench.report.scatter import scatter


def test_a_narrow_log_axis_has_several_ticks():
    points = {"a": (8.0, 0.1), "b": (13.0, 0.2)}
    axes = scatter(points, "minutes", "score", (-1, 1), set(), log=True).figure.axes[0]
    low, high = axes.get_xlim()
    assert len([tick for tick in axes.get_xticks() if low <= tick <= high]) >= 3


def test_names_of_dots_at_the_top_are_not_cut_off():
    points = {f"method-{n}": (1 + n / 50, 0.9 + n / 1000) for n in range(6)} | {"low": (0.0, 0.0)}
    figure = scatter(points, "x", "y", (1, 1), set()).figure
    box = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
    assert box.y1 <= figure.get_size_inches()[1] + 0.02
