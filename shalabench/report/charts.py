"""Charts of one section of the report: scores, costs, learning curves and heat maps."""

from __future__ import annotations

import math
from typing import Any

from shalabench.analysis.by_prior import KINDS, by_network
from shalabench.analysis.rows import Cell, Row
from shalabench.analysis.statistics import SEEDS
from shalabench.records.frame import Records
from shalabench.report.drawing import (
    ACROSS,
    INK,
    PRIOR_MARKS,
    Drawing,
    canvas,
    legend,
    line,
    margin_for,
    one_line,
    panels,
)
from shalabench.report.losses import main_losses, readings, without_priors
from shalabench.report.matrices import matrices
from shalabench.report.scatter import Look, scatter
from shalabench.report.sections import Section

_COLOURS = {"best": INK["accent"], "level": INK["accent"]}  # by mark
_PUBLISHED = {"ms": 4.5, "mfc": "none", "c": INK["paper"]}
_STAGES = (INK["accent"], INK["paper"], INK["muted"])  # of a training


def dots(section: Section, metric: str) -> Drawing:
    """Every method's value with its standard error, the published one as an open diamond.

    Dashed lines are floors and ceilings, where they are near enough to leave the methods room.
    """
    table = section.table_with(metric)
    ranked = section.ranked(metric)
    direction, digits, _ = table.metrics[metric]
    less = " (less is better)" if direction == "lower" else ""
    ranked = ranked[::-1]
    names = [one_line(section.names[row.label]) for row, _ in ranked]
    left = margin_for(names)
    shown = [cell.mean for _, cell in ranked]
    shown += [float(row.published[metric]) for row, _ in ranked if metric in row.published]
    bounds = _near(section.bounds(metric), shown)
    explained = _explained(ranked, metric)
    top = 0.05 + 0.16 * len(bounds) + 0.22 * (len(explained) > 1)
    with canvas(0.55 + top + 0.225 * len(ranked), left, 0.5, top, 0.5) as figure:
        axes = figure.subplots()
        # An artist for all rows of a colour: one for each row takes twice the time.
        axes.hlines(
            range(len(ranked)), 0, 1, INK["rule"], lw=0.5, transform=axes.get_yaxis_transform()
        )
        colours = [_COLOURS.get(cell.mark, INK["muted"]) for _, cell in ranked]
        for colour in dict.fromkeys(colours):
            places = [y for y, own in enumerate(colours) if own == colour]
            means = [ranked[y][1].mean for y in places]
            errors = [ranked[y][1].stderr or 0 for y in places]
            axes.errorbar(means, places, xerr=errors, fmt="o", ms=5, c=colour, lw=1.6)
        values = {
            y: r.published[metric] for y, (r, _) in enumerate(ranked) if metric in r.published
        }
        axes.plot(list(map(float, values.values())), list(values), "D", **_PUBLISHED)
        for y, (_, cell) in enumerate(ranked):
            text = f"{cell.mean:.{digits}f}{'†' if cell.mark == 'collapsed' else ''}"
            axes.text(
                1.02, y, text, transform=axes.get_yaxis_transform(), va="center", c=colours[y]
            )
        axes.set_yticks(range(len(ranked)), names)
        axes.set_ylim(-0.6, len(ranked) - 0.4)
        axes.spines["left"].set_visible(False)
        for place, (name, value) in enumerate(bounds.items()):
            axes.axvline(value, c=INK["muted"], lw=0.9, ls=(0, (3, 2)), zorder=0)
            height = len(ranked) - 0.4 + 0.16 / 0.225 * (place + 0.5)
            axes.text(value, height, name, ha="center", va="center", fontsize=8, c=INK["muted"])
        if min(shown) >= 0 and max(shown) <= 1:  # one scale for all shares
            axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel(one_line(metric) + less)
        if len(explained) > 1:
            legend(figure, explained)
    alt = "; ".join(
        f"{row.label} {cell.mean:.{digits}f}"
        + (" (collapsed)" if cell.mark == "collapsed" else "")
        + (f" (published: {row.published[metric]})" if metric in row.published else "")
        for row, cell in ranked[::-1]
    )
    alt += "".join(f"; {name}, dashed: {value:.{digits}f}" for name, value in bounds.items())
    return Drawing(figure, metric, f"Dot plot of {metric}, best first: {alt}.")


def _explained(ranked: list[tuple[Row, Cell]], metric: str) -> dict[str, dict[str, Any]]:
    """The legend of a dot plot: what is drawn."""
    marks = {cell.mark for _, cell in ranked}
    looks: dict[str, dict[str, Any]] = {}
    if "best" in marks:
        looks["best, or not significantly worse"] = {"marker": "o", "c": INK["accent"]}
    if marks - {"best", "level"}:
        looks["measured"] = {"marker": "o", "c": INK["muted"]}
    if any(metric in row.published for row, _ in ranked):
        looks["published"] = {"marker": "D", **_PUBLISHED}
    return {name: {"ls": "none", "ms": 5, **look} for name, look in looks.items()}


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
    looks = _looks(section, [row for row, _ in ranked])
    return scatter(points, name, metric, better, tested(section, metric), looks, log=True)


def mean_time(own: Records, clock: str) -> float | None:
    """Seconds of training of a row's runs: "seconds" of the wall clock, or "cpu_seconds".

    Returns:
        None where a run does not record it.
    """
    times = own.runs.loc[own.runs["provenance"].astype(bool), clock]
    return None if times.empty or times.isna().any() else float(times.mean())


def _scatter(section: Section, across: str, up: str) -> Drawing | None:
    firsts = {row.label: cell for row, cell in section.ranked(across)}
    ranked = [(row, cell) for row, cell in section.ranked(up) if row.label in firsts]
    points = {section.names[r.label]: (firsts[r.label].mean, cell.mean) for r, cell in ranked}
    better = section.sign(across), section.sign(up)
    name = f"{across} (less is better)" if better[0] < 0 else across
    names = tested(section, across) & tested(section, up)
    return scatter(points, name, up, better, names, _looks(section, [row for row, _ in ranked]))


def _looks(section: Section, ranked: list[Row]) -> dict[str, Look]:
    """How the rows of a scatter plot look, where networks have several priors.

    Each prior has a mark. Of the rows of the same networks, the best has a name beside it.
    """
    groups = by_network(ranked)
    if len(groups) == len(ranked):
        return {}
    names = section.by_network.names
    looks = {}
    for label, group in groups.items():
        best = min(group.values(), key=ranked.index)
        for kind, row in group.items():
            text = names[label] if row is best else ""
            looks[section.names[row.label]] = Look(text, PRIOR_MARKS[kind], KINDS[kind])
    return looks


def tested(section: Section, metric: str) -> set[str]:
    """Names of the rows with enough seeds to be called best, and without collapsed models."""
    cells = section.ranked(metric)
    kept = {section.names[r.label] for r, c in cells if c.seeds >= SEEDS and c.mark != "collapsed"}
    return kept


def curves(section: Section) -> Drawing | None:
    """The training loss of every method, a small panel each, a line a seed and stage."""
    section = section.by_network
    rows = [
        (
            section.names[label],
            [without_priors(readings(own.folders[run.train_id], run.stages)) for run in own.rows],
        )
        for label, own in section.rows
    ]
    rows = [(label, [run for run in runs if run]) for label, runs in rows if any(runs)]
    return _losses(rows) if rows else None


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
    gap = math.nan, math.nan  # between two lines of one artist
    others = [point for own in found.values() for point in (*own.items(), gap)]
    steps, values = zip(*others, strict=True)
    with panels(list(found), 0.55, "angle to the given view, degrees") as (figure, grid):
        figure.supylabel("PSNR, dB", x=0.01, fontsize=8.5, c=INK["muted"])
        legend(figure, {"the method": {"c": INK["accent"]}, "others": {"c": INK["rule"]}})
        for place, (axes, own) in enumerate(zip(grid, found.values(), strict=True)):
            line(axes, steps, values, INK["rule"], lw=0.8)
            line(axes, list(own), list(own.values()), INK["accent"], lw=1.6)
            axes.set_xticks(range(0, max(own) + 1, 60))
            axes.set_xlim(0, max(own) + 10)
            axes.sharey(grid[0])
            axes.locator_params(axis="y", nbins=4)
            is_outer = place % ACROSS == 0  # the others have the same scale
            axes.tick_params("y", labelcolor=INK["muted"], labelsize=7.5, labelleft=is_outer)
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
    stages = {name for _, runs in rows for run in runs for name in run}
    with panels([label for label, _ in rows], 0.08, "update") as (figure, grid):
        for axes, (_, runs) in zip(grid, rows, strict=True):
            for number, steps, shares in main_losses(runs):
                line(axes, steps, shares, _STAGES[min(number, 2)], lw=1.1)
            axes.set_yticks([])
            axes.set_ylim(-0.08, 1.15)
            axes.locator_params(axis="x", nbins=3)
            axes.spines["left"].set_visible(False)
        if len(stages) > 1:
            places = ("first stage", "second stage", "later stages")
            legend(figure, {n: {"c": c} for n, c in zip(places, _STAGES, strict=True)})
    names = ", ".join(label for label, _ in rows)
    alt = (
        f"Training loss by update of {names}, a panel each. Losses of two methods are of different "
        "kinds, so each panel has its own scale, to the largest reading after the first tenth."
    )
    return Drawing(figure, "Training loss by update", alt)


def heatmap(section: Section) -> Drawing | None:
    """Given modality x target, a panel a method, with the value in each field."""
    section = section.by_network
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
    is_shared = len({tuple(given) for _, (given, _, _) in rows}) == 1
    gaps = {"hspace": 0.32, "wspace": 0.08 if is_shared else 0.4}
    with canvas(0.7 + down * 4.6 / across, margin_for(names, 7) + 0.2, 0.05, 0.3, 0.4) as figure:
        grid = figure.subplots(down, across, squeeze=False, gridspec_kw=gaps)
        for axes in grid.flat[len(rows) :]:
            axes.set_visible(False)
        for place, (axes, (label, (given, targets, means))) in enumerate(
            zip(grid.flat, rows, strict=False)
        ):
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
            shown = map(one_line, given) if place % across == 0 or not is_shared else []
            axes.set_yticks(range(len(given)) if shown else [], shown, fontsize=7)
            axes.spines[:].set_visible(False)
        figure.supxlabel("target", y=0.02, fontsize=8.5, c=INK["muted"])
        figure.supylabel("given", x=0.01, fontsize=8.5, c=INK["muted"])
    labels = ", ".join(label for label, _ in rows)
    return Drawing(figure, metric, f"Heat maps of {metric} in per cent, given x target: {labels}.")
