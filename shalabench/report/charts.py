"""Charts of one section of the report: scores, costs, learning curves and heat maps."""

from __future__ import annotations

import math
from typing import Any

from shalabench.analysis.statistics import SEEDS
from shalabench.records.frame import Records
from shalabench.report.drawing import (
    INK,
    LINES,
    Drawing,
    canvas,
    line,
    margin_for,
    one_line,
    panels,
)
from shalabench.report.scatter import scatter
from shalabench.report.sections import Section, matrices


def dots(section: Section, metric: str) -> Drawing:
    """Every method's value with its standard error, the published one as an open diamond.

    Dashed lines are floors and ceilings, where they are near enough to leave the methods room.
    """
    table, ranked = section.table_with(metric), section.ranked(metric)
    _, digits, _ = table.metrics[metric]
    ranked = ranked[::-1]
    names = [one_line(section.names[row.label]) for row, _ in ranked]
    left = margin_for(names)
    shown = [cell.mean for _, cell in ranked]
    shown += [float(row.published[metric]) for row, _ in ranked if metric in row.published]
    bounds = _near(section.bounds(metric), shown)
    top = 0.05 + 0.16 * len(bounds)
    with canvas(0.55 + top + 0.225 * len(ranked), left, 0.5, top, 0.5) as figure:
        axes = figure.subplots()
        for y, (row, cell) in enumerate(ranked):
            colour = INK["accent"] if cell.mark in ("best", "level") else INK["muted"]
            axes.plot([0, 1], [y, y], transform=axes.get_yaxis_transform(), c=INK["rule"], lw=0.5)
            axes.errorbar(cell.mean, y, xerr=cell.stderr, fmt="o", ms=5, c=colour, lw=1.6)
            if metric in row.published:
                axes.plot(float(row.published[metric]), y, "D", ms=4.5, mfc="none", c=INK["paper"])
            text = f"{cell.mean:.{digits}f}{'†' if cell.mark == 'collapsed' else ''}"
            axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center", c=colour)
        axes.set_yticks(range(len(ranked)), names)
        axes.set_ylim(-0.6, len(ranked) - 0.4)
        axes.spines["left"].set_visible(False)
        for place, (name, value) in enumerate(bounds.items()):
            axes.axvline(value, c=INK["muted"], lw=0.9, ls=(0, (3, 2)), zorder=0)
            height = len(ranked) - 0.4 + 0.16 / 0.225 * (place + 0.5)
            axes.text(value, height, name, ha="center", va="center", fontsize=8, c=INK["muted"])
        if min(shown) >= 0 and max(shown) <= 1:  # one scale for all shares
            axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel(one_line(metric))
    alt = "; ".join(
        f"{row.label} {cell.mean:.{digits}f}"
        + (" (collapsed)" if cell.mark == "collapsed" else "")
        + (f" (published: {row.published[metric]})" if metric in row.published else "")
        for row, cell in ranked[::-1]
    )
    alt += "".join(f"; {name}, dashed: {value:.{digits}f}" for name, value in bounds.items())
    return Drawing(figure, metric, f"Dot plot of {metric}, best first: {alt}.")


def _near(bounds: dict[str, float], values: list[float]) -> dict[str, float]:
    """Those no farther off than twice the spread of the values, least first."""
    low, high = min(values), max(values)
    room = 2 * (high - low)
    near = {n: v for n, v in bounds.items() if low - room <= v <= high + room}
    return dict(sorted(near.items(), key=lambda item: item[1]))


def tradeoff(section: Section) -> Drawing | None:
    """A headline against image quality, or against another headline where none was measured."""
    measured = [
        name
        for table in section.tables
        for name in table.metrics
        if sum(name in row.cells for row in table.rows) > 1
    ]
    headlines = [name for name in section.headlines() if name in measured]
    if not headlines:
        return None
    kind = headlines[0].rpartition("/")[2]
    distances = [
        name
        for name in measured
        if section.metrics[name].get("biased") and name.rpartition("/")[2] == kind
    ]
    published = {name for table in section.tables for row in table.rows for name in row.published}
    distances.sort(key=lambda name: (not section.metrics[name]["headline"], name not in published))
    others = [name for name in distances if name != headlines[0]] + headlines[1:]
    return _scatter(section, others[0], headlines[0]) if others else None


def cost(section: Section, metric: str) -> Drawing | None:
    """A metric against training minutes."""
    ranked = section.ranked(metric)
    clocks = {"cpu_seconds": "training, minutes of CPU time", "seconds": "training, minutes"}
    times = {
        clock: [mean_time(section.records_of(row)[1], clock) for row, _ in ranked]
        for clock in clocks
    }
    clock = "cpu_seconds" if all(times["cpu_seconds"]) else "seconds"
    points = {
        section.names[row.label]: (seconds / 60, cell.mean)
        for (row, cell), seconds in zip(ranked, times[clock], strict=True)
        if seconds
    }
    better = (-1, section.sign(metric))
    name = f"{clocks[clock]}, log scale"
    return scatter(points, name, metric, better, tested(section, metric), log=True)


def mean_time(own: Records, clock: str) -> float | None:
    """Seconds of training of a row's runs: "seconds" of the wall clock, or "cpu_seconds".

    Returns:
        None where a run does not record it.
    """
    times = own.runs.loc[own.runs["provenance"].astype(bool), clock]
    return None if times.empty or times.isna().any() else float(times.mean())


def _scatter(section: Section, across: str, up: str) -> Drawing | None:
    firsts = {row.label: cell for row, cell in section.ranked(across)}
    points = {
        section.names[row.label]: (firsts[row.label].mean, cell.mean)
        for row, cell in section.ranked(up)
        if row.label in firsts
    }
    better = section.sign(across), section.sign(up)
    name = f"{across} (less is better)" if better[0] < 0 else across
    names = tested(section, across) & tested(section, up)
    return scatter(points, name, up, better, names)


def tested(section: Section, metric: str) -> set[str]:
    """Names of the rows with enough seeds to be called best, and without collapsed models."""
    cells = section.ranked(metric)
    kept = {section.names[r.label] for r, c in cells if c.seeds >= SEEDS and c.mark != "collapsed"}
    return kept


def curves(section: Section) -> Drawing | None:
    """The training loss of every method, a small panel each, a line a seed and stage."""
    rows = [
        (section.names[label], [progress(own.folders[t]) for t in own.runs["train_id"]])
        for label, own in section.rows
    ]
    rows = [(label, runs) for label, runs in rows if any(runs)]
    return _losses(rows) if rows else None


def progress(folder: Any) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """By stage and term of the loss: steps and readings."""
    stages: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for event in folder.events():
        if event["kind"] != "progress" or not isinstance(event.get("step"), int):
            continue
        for term, value in event.items():
            is_term = term not in ("time", "kind", "stage", "step")
            if is_term and isinstance(value, int | float) and math.isfinite(value):
                terms = stages.setdefault(str(event.get("stage", "")), {})
                terms.setdefault(term, []).append((event["step"], value))
    return stages


def angles(section: Section) -> Drawing | None:
    """PSNR of unseen views by their angle to the given one, a small panel each method."""
    found = {
        section.names[label]: readings
        for label, own in section.rows
        if (readings := _by_angle(own))
    }
    if not found:
        return None
    found = dict(sorted(found.items(), key=lambda item: -sum(item[1].values()) / len(item[1])))
    with panels(list(found), 0.32) as (figure, grid):
        for axes, own in zip(grid, found.values(), strict=True):
            for other in found.values():
                line(axes, list(other), list(other.values()), INK["rule"], lw=0.8)
            line(axes, list(own), list(own.values()), INK["accent"], lw=1.6)
            axes.set_xticks(range(0, max(own) + 1, 60))
            axes.set_xlim(0, max(own) + 10)
            axes.sharey(grid[0])
            axes.locator_params(axis="y", nbins=4)
            axes.tick_params(axis="y", labelcolor=INK["muted"], labelsize=7.5)
    texts = "; ".join(
        f"{label}: " + ", ".join(f"{value:.1f} at {degrees}°" for degrees, value in own.items())
        for label, own in found.items()
    )
    title = "PSNR by the angle between given and generated view"
    return Drawing(figure, title, f"{title}, in dB by degrees, best method first. {texts}.")


def _by_angle(own: Records) -> dict[int, float]:
    """Degrees and mean PSNR over runs; empty where none was measured."""
    found: dict[int, list[float]] = {}
    for result in own.all_results():
        for entry in result.details.get("by_angle", []):
            found.setdefault(entry["degrees"], []).append(entry["psnr"])
    return {degrees: sum(values) / len(values) for degrees, values in sorted(found.items())}


def _losses(rows: list[tuple[str, list[dict]]]) -> Drawing:
    with panels([label for label, _ in rows], 0.08) as (figure, grid):
        for axes, (_, runs) in zip(grid, rows, strict=True):
            for run in runs:
                start = 0
                for index, terms in enumerate(run.values()):
                    first = next(iter(terms.values()), [(0, math.nan)])  # of adversaries
                    steps, values = zip(*terms.get("loss", first), strict=True)
                    colour = (INK["accent"], INK["paper"], INK["muted"])[min(index, 2)]
                    line(axes, [start + s for s in steps], _share(steps, values), colour, lw=1.1)
                    start += steps[-1]
            axes.set_yticks([])
            axes.set_ylim(-0.08, 1.15)
            axes.locator_params(axis="x", nbins=3)
            axes.spines["left"].set_visible(False)
    names = ", ".join(label for label, _ in rows)
    alt = (
        f"Training loss by update of {names}, a panel each. Losses of two methods are of different "
        "kinds, so each panel has its own scale, to the largest reading after the first tenth."
    )
    return Drawing(figure, "Training loss by update", alt)


def _share(steps: tuple[int, ...], values: tuple[float, ...]) -> list[float]:
    """Readings between the least and the largest after the first tenth, so that stages fit."""
    low = min(values)
    high = max((v for s, v in zip(steps, values, strict=True) if s > steps[-1] / 10), default=low)
    return [(v - low) / (high - low) if high > low else 0.5 for v in values]


def run_curves(name: str, folder: Any) -> Drawing | None:
    """One run's loss and its terms, a panel a stage."""
    stages = progress(folder)
    if not stages:
        return None
    right = margin_for((term for terms in stages.values() for term in terms), 8.5)
    with canvas(0.3 + 1.9 * len(stages), 0.6, right, 0.3, 0.5) as figure:
        grid = figure.subplots(len(stages), 1, squeeze=False, gridspec_kw={"hspace": 0.4})
        for axes, (stage, terms) in zip(grid.flat, stages.items(), strict=True):
            ends = {}
            for colour, (term, readings) in zip(LINES, terms.items(), strict=False):
                steps, values = zip(*readings, strict=True)
                shade = INK["ink"] if term == "loss" else colour
                line(axes, steps, values, shade, lw=1.6 if term == "loss" else 1.1)
                ends[term] = steps[-1], values[-1], shade
            _spread_scale(axes, terms)
            _name_ends(axes, ends)
            axes.set_title(one_line(f"stage {stage}"), fontsize=9, loc="left", pad=3)
            axes.grid(axis="y", color=INK["rule"], lw=0.5)
            axes.tick_params(axis="y", labelcolor=INK["muted"])
            axes.locator_params(axis="x", nbins=5)
        grid.flat[-1].set_xlabel("update")
    last = "; ".join(
        f"{stage}: {', '.join(f'{t} ends at {v[-1][1]:.4g}' for t, v in terms.items())}"
        for stage, terms in stages.items()
    )
    return Drawing(figure, "Learning curves", f"Losses of {name} by update. {last}.")


def _spread_scale(axes: Any, terms: dict[str, list[tuple[int, float]]]) -> None:
    """A log scale where terms differ tenfold and all are positive."""
    values = [value for readings in terms.values() for _, value in readings]
    if min(values) > 0 and max(values) > 10 * min(values):
        from matplotlib.ticker import FuncFormatter

        axes.set_yscale("log")
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _name_ends(axes: Any, ends: dict[str, tuple[float, float, str]]) -> None:
    """Terms named beside the ends of their lines, pushed apart where they would meet."""
    axes.autoscale_view()
    frame = axes.get_window_extent()
    step, below = 13 / frame.height, -math.inf
    for term, (x, y, colour) in sorted(ends.items(), key=lambda item: (item[1][1], item[0])):
        share = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[1]
        below = max(share, below + step)
        axes.text(
            1.01,
            below,
            one_line(term),
            transform=axes.transAxes,
            va="center",
            c=colour,
            fontsize=8.5,
        )


def heatmap(section: Section) -> Drawing | None:
    """Given modality x target, a panel a method, with the value in each field."""
    by_row = [(section.names[label], matrices(own)) for label, own in section.rows]
    known = {name for _, metrics in by_row for name in metrics}
    metric = next((name for name in section.headlines() if name in known), None)
    if metric is None:
        return None
    rows = [(label, metrics[metric]) for label, metrics in by_row if metric in metrics]
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("shares", ("#f4f7fa", "#5d9ccb", "#08355e"))
    across = min(3, len(rows))
    down = math.ceil(len(rows) / across)
    names = {name for _, (given, targets, _) in rows for name in (*given, *targets)}
    with canvas(0.7 + down * 4.6 / across, margin_for(names, 7) + 0.2, 0.05, 0.3, 0.4) as figure:
        grid = figure.subplots(down, across, squeeze=False, gridspec_kw={"hspace": 0.32})
        for axes in grid.flat[len(rows) :]:
            axes.set_visible(False)
        for axes, (label, (given, targets, means)) in zip(grid.flat, rows, strict=False):
            shares = [[means.get((g, t), math.nan) for t in targets] for g in given]
            axes.imshow(shares, vmin=0, vmax=1, cmap=shades)
            for (g, t), value in means.items():
                axes.text(
                    targets.index(t),
                    given.index(g),
                    f"{100 * value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    c="#ffffff" if value > 0.6 else INK["ink"],
                )
            axes.set_title(one_line(label), fontsize=8.5, loc="left", pad=3)
            axes.set_xticks(range(len(targets)), map(one_line, targets), fontsize=7)
            axes.set_yticks(range(len(given)), map(one_line, given), fontsize=7)
            axes.spines[:].set_visible(False)
        figure.supxlabel("target", y=0.02, fontsize=8.5, c=INK["muted"])
        figure.supylabel("given", x=0.01, fontsize=8.5, c=INK["muted"])
    labels = ", ".join(label for label, _ in rows)
    return Drawing(figure, metric, f"Heat maps of {metric} in per cent, given x target: {labels}.")
