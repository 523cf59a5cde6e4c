"""The figure of learning curves: scores against training tuples and CPU hours."""

from __future__ import annotations

import math
import re
from typing import Any

from shalabench.analysis.by_prior import KINDS
from shalabench.analysis.learning import Curve, count_text, curves_of, fit_text, modalities_of
from shalabench.records.published import published_by
from shalabench.report.drawing import (
    INK,
    LINES,
    PRIOR_MARKS,
    Drawing,
    canvas,
    line,
    mark_decades,
    one_line,
)
from shalabench.report.sections import Section

_DASHES: dict[str, Any] = {  # by the value of `prior.kind`
    "own": "-",
    "gmm": (0, (4, 2)),
    "diffusion": (0, (1, 1.5)),
}
_COHERENCE = ("coherence/posterior", "coherence/joint", "coherence/cross")
_WIDTH = 6.9  # inches
_ROW = 1.75  # inches of a metric
_LETTERS = 88  # of a line of the legend
_BEYOND = 4  # times the last point, to where a fit is drawn
_ACROSS = ("training tuples", "CPU hours")
Target = tuple[str, str]  # method, metric


def progress(section: Section) -> Drawing | None:
    """Coherence and image quality by tuples and by CPU hours, a line for each method and prior.

    A thin line is the fitted law; an open diamond at the right is a method's published value.

    Returns:
        None where no method was trained for several numbers of tuples.
    """
    shown = {metric: curves for metric in _metrics(section) if (curves := _curves(section, metric))}
    every = [curve for curves in shown.values() for curve in curves]
    if not any(len(curve.points) > 1 for curve in every):
        return None
    names = list(dict.fromkeys(curve.name for curve in every))
    colours = {name: LINES[i % len(LINES)] for i, name in enumerate(names)}
    published = _published(section)
    apart = section.tables[0].apart
    labels = _labels(colours, {curve.prior for curve in every})
    if any(curve.prior == "own" and (curve.method, curve.metric) in published for curve in every):
        look = {"c": INK["muted"], "marker": "D", "ms": 4.5, "mfc": "none", "ls": ""}
        labels["published on other data" if apart else "published"] = look
    columns = max(1, min(4, _LETTERS // (max(map(len, labels)) + 8)))
    top = 0.2 + 0.2 * math.ceil(len(labels) / columns)
    with canvas(top + _ROW * len(shown), 0.9, 0.2, top, 0.5, _WIDTH) as figure:
        grid = figure.subplots(len(shown), 2, sharey="row", sharex="col", squeeze=False)
        for axes, (metric, curves) in zip(grid, shown.items(), strict=True):
            for curve in curves:
                _draw(axes, curve, colours[curve.name], published.get((curve.method, metric), ""))
            less = "\n(less is better)" if section.sign(metric) < 0 else ""
            axes[0].set_ylabel(one_line(metric).replace("/", "/\n") + less, fontsize=8)
        for axes, text, form in zip(grid.T, _ACROSS, (count_text, "{:g}".format), strict=True):
            axes[-1].set_xlabel(f"{text}, log scale")
            for own in axes:
                mark_decades(own.xaxis, form)
        _explain(figure, grid[0][0], labels, columns)
    texts = [
        _words(curve, published.get((curve.method, curve.metric), ""), apart=bool(apart))
        for curve in every
    ]
    if apart and published:
        texts.insert(0, f"The published values (diamonds) are of other data: {apart}.")
    return Drawing(figure, "Scores by training tuples", f"Learning curves. {' '.join(texts)}")


def _metrics(section: Section) -> list[str]:
    """Coherence, then the first image quality that sums the section up."""
    measured = [name for table in section.tables for name in table.metrics]
    found = [name for name in _COHERENCE if name in measured]
    quality = [name for name in section.headlines() if not name.startswith("coherence/")]
    joint = [f"{name.rpartition('/')[0]}/joint" for name in quality]
    better = [name for name in joint if name in measured] or quality
    return [*found, *better[:1]]


def _curves(section: Section, metric: str) -> list[Curve]:
    """The curves of a metric; only joint samples depend on the prior, so others show one."""
    modalities, lower = modalities_of(section.records), section.sign(metric) < 0
    rows = section.table_with(metric).rows
    curves = curves_of(rows, metric, lower=lower, modalities=modalities)
    curves.sort(key=lambda curve: (curve.name, list(_DASHES).index(curve.prior)))
    if metric.rpartition("/")[2] == "joint":
        return curves
    return list({curve.name: curve for curve in reversed(curves)}.values())[::-1]


def _published(section: Section) -> dict[Target, str]:
    """The published value by method and metric, also where it is of other data (`Table.apart`)."""
    runs = section.records.runs
    dataset = next(filter(None, runs["proxy_for"]), section.dataset)
    values = [p for p in published_by() if p.dataset == dataset and not p.condition]
    return {(p.method, p.metric): p.value for p in values}


def _draw(axes: Any, curve: Curve, colour: str, published: str) -> None:
    law = curve.law
    for place, own in enumerate(axes):
        pairs = [(p.hours if place else p.tuples, p.cell) for p in curve.points]
        points = [(x, cell) for x, cell in pairs if x]
        if not points:
            continue
        own.set_xscale("log")
        xs, means = [x for x, _ in points], [cell.mean for _, cell in points]
        own.errorbar(
            xs,
            means,
            yerr=[cell.stderr or 0 for _, cell in points],
            fmt=PRIOR_MARKS[curve.prior],
            ms=3.5,
            c=colour,
            lw=1,
        )
        line(own, xs, means, colour, lw=1.2, ls=_DASHES[curve.prior])
        if law and not place:
            beyond = [xs[0] * (_BEYOND * xs[-1] / xs[0]) ** (k / 40) for k in range(41)]
            values = [curve.value(law.error(x)) for x in beyond]
            line(own, beyond, values, colour, lw=0.6, alpha=0.7)
        if published and curve.prior == "own":
            at = own.get_yaxis_transform()
            look = {"ms": 4.5, "mfc": "none", "c": colour, "clip_on": False}
            own.plot(1, float(published), "D", transform=at, **look)


def _labels(colours: dict[str, str], priors: set[str]) -> dict[str, dict[str, Any]]:
    """Looks by label: colours of methods, and lines of priors where there are several.

    Settings that all methods share are left out of their labels.
    """
    settings = [set(re.findall(r" \[[^\]]*\]", name)) for name in colours]
    shared = set.intersection(*settings) if len(settings) > 1 else set()
    labels: dict[str, dict[str, Any]] = {}
    for name, colour in colours.items():
        for text in shared:
            name = name.replace(text, "")
        labels[one_line(name)] = {"c": colour, "lw": 2}
    for prior, dashes in _DASHES.items() if len(priors) > 1 else ():
        if prior in priors:
            look = {"c": INK["muted"], "marker": PRIOR_MARKS[prior], "ms": 3.5, "ls": dashes}
            labels[f"{KINDS[prior]} prior"] = look
    return labels


def _explain(figure: Any, axes: Any, labels: dict[str, dict[str, Any]], columns: int) -> None:
    """The legend."""
    for label, look in labels.items():
        axes.plot([], [], label=label, **look)
    figure.legend(loc="upper center", ncols=columns, frameon=False, fontsize=8, handlelength=2.2)


def _words(curve: Curve, published: str, *, apart: bool) -> str:
    """A curve's values, and its law where it has one."""
    values = ", ".join(f"{p.cell.mean:.3g} at {count_text(p.tuples)}" for p in curve.points)
    prior = "" if curve.prior == "own" else f" ({KINDS[curve.prior]} prior)"
    text = f"{curve.name}{prior}, {curve.metric}: {values}."
    return " ".join(filter(None, (text, fit_text(curve, published, apart=apart))))
