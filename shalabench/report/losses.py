"""Losses by update as SVG. Matplotlib would take half of a report's time for the pages of runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import escape

from shalabench.records.budgets import FITTED
from shalabench.records.reading import terms_of
from shalabench.report.drawing import LINES, one_line

_WIDTH, _HEIGHT = 460, 130  # of a panel, in pixels, with the margins across
_LEFT, _TOP, _BELOW, _LETTER = 52, 26, 24, 5.6
_SMALL = (150, 78)  # of a small panel
_STAGES = ("var(--accent)", "var(--paper)", "var(--muted)")
Terms = dict[str, list[tuple[int, float]]]  # steps and readings by term of the loss


def readings(folder: Any, order: Iterable[str] = ()) -> dict[str, Terms]:
    """By stage and term of a run's loss: steps and readings.

    Args:
        folder: Of the run.
        order: Names of the stages. Those without readings, such as reused ones, are empty.
    """
    stages: dict[str, Terms] = {stage: {} for stage in order}
    for event in folder.events():
        if event["kind"] != "progress" or not isinstance(event.get("step"), int):
            continue
        for term, value in terms_of(event).items():
            if math.isfinite(value):
                terms = stages.setdefault(str(event.get("stage", "")), {})
                terms.setdefault(term, []).append((event["step"], value))
    return stages


def without_priors(stages: dict[str, Terms]) -> dict[str, Terms]:
    """The stages but those of fitted priors; none if none of them has readings."""
    own = {stage: terms for stage, terms in stages.items() if stage not in FITTED}
    return own if any(own.values()) else {}


def main_losses(runs: Iterable[dict[str, Terms]]) -> list[tuple[int, list[int], list[float]]]:
    """Each run's loss as one line a stage, with the stages one after the other.

    Returns:
        The stage's number, the updates since the first stage began, and the readings as shares
        between the least and the largest after the first tenth, so that stages fit.
    """
    lines = []
    for run in runs:
        start = 0
        for number, terms in enumerate(run.values()):
            if not terms:
                continue
            first = next(iter(terms.values()), [(0, math.nan)])  # of adversaries
            steps, values = zip(*terms.get("loss", first), strict=True)
            low = min(values)
            late = (v for s, v in zip(steps, values, strict=True) if s > steps[-1] / 10)
            room = max(late, default=low) - low
            shares = [(v - low) / room if room > 0 else 0.5 for v in values]
            lines.append((number, [start + step for step in steps], shares))
            start += steps[-1]
    return lines


def small_losses(name: str, runs: Iterable[dict[str, Terms]]) -> str:
    """One method's losses in a small panel, a line a seed and stage."""
    lines = main_losses(runs)
    width, height = _SMALL
    last = max(steps[-1] for _, steps, _ in lines) or 1
    parts = [_rule(0, height, width)]
    for number, steps, shares in lines:
        points = [
            (width * s / last, height * (1 - min(v, 1.1) / 1.1))
            for s, v in zip(steps, shares, strict=True)
        ]
        parts.append(_line(points, _STAGES[min(number, 2)], 1.1))
    parts += [_text(0, height + 12, "0", "start"), _text(width, height + 12, f"{last:,}", "end")]
    alt = f"Training loss of {name} by update, to update {last:,}."
    return _svg(width, height + 16, parts, alt)


def run_losses(name: str, stages: dict[str, Terms]) -> tuple[str, str] | None:
    """One run's loss and its terms, a panel a stage: title and picture."""
    stages = {stage: terms for stage, terms in stages.items() if terms}
    if not stages:
        return None
    right = 14 + _LETTER * max(len(one_line(t)) for terms in stages.values() for t in terms)
    parts: list[str] = []
    for number, (stage, terms) in enumerate(stages.items()):
        parts += _panel(one_line(stage), terms, number * (_HEIGHT + _TOP + _BELOW), right)
    height = len(stages) * (_HEIGHT + _TOP + _BELOW) + 14
    middle = (_LEFT + _WIDTH - right) / 2
    parts.append(_text(middle, height - 4, "update", "middle"))
    last = "; ".join(
        f"{stage}: {', '.join(f'{t} ends at {v[-1][1]:.4g}' for t, v in terms.items())}"
        for stage, terms in stages.items()
    )
    return "Losses by update", _svg(_WIDTH, height, parts, f"Losses of {name} by update. {last}.")


def _panel(stage: str, terms: Terms, top: float, right: float) -> list[str]:
    """The lines of a stage with ticks, and the terms' names beside their ends."""
    values = [value for own in terms.values() for _, value in own]
    low, high = min(values), max(values)
    is_log = low > 0 and high > 10 * low
    scale = math.log10 if is_log else float
    room = (scale(high) - scale(low)) or 1
    last = max(own[-1][0] for own in terms.values()) or 1
    across, base = _WIDTH - _LEFT - right, top + _TOP + _HEIGHT

    def x(step: float) -> float:
        return _LEFT + across * step / last

    def y(value: float) -> float:
        return base - _HEIGHT * (0.04 + 0.92 * (scale(value) - scale(low)) / room)

    title = f"stage {stage}{' (log scale)' if is_log else ''}"
    parts = [_text(_LEFT, top + 14, title, "start", "var(--ink)")]
    for tick in _decades(low, high) if is_log else _ticks(low, high):
        parts += [_rule(_LEFT, y(tick), _LEFT + across)]
        parts += [_text(_LEFT - 5, y(tick) + 3.5, f"{tick:,g}", "end")]
    parts += [_text(x(t), base + 14, f"{t:,g}", "middle") for t in _ticks(0, last)]
    ends = []
    for number, (term, own) in enumerate(terms.items()):
        is_main = term == "loss"
        colour = "var(--ink)" if is_main else f"var(--line{number % len(LINES)})"
        points = [(x(step), y(value)) for step, value in own]
        parts.append(_line(points, colour, 1.6 if is_main else 1.1))
        ends.append((points[-1][1], one_line(term), colour))
    above = -math.inf
    for end, term, colour in sorted(ends):
        above = max(end, above + 12)  # names are pushed apart where they would meet
        parts.append(_text(_LEFT + across + 6, above + 3.5, term, "start", colour))
    return parts


def _ticks(low: float, high: float) -> list[float]:
    """About four round numbers in a range, at least three."""
    if low == high:
        return [low]
    least = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(least))
    steps = [n * power for n in (0.5, 1, 2, 5, 10)]
    number = next(i for i in range(1, 5) if steps[i] >= least * 0.999)
    for step in (steps[number], steps[number - 1]):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first >= 2:
            break
    return [round(k * step, 12) for k in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten in a range, or 1, 2 and 5 times them where these are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    few = [10.0**p for p in powers if low <= 10.0**p <= high]
    many = [n * 10.0**p for p in powers for n in (1, 2, 5) if low <= n * 10.0**p <= high]
    return few if len(few) > 2 else many


def _line(points: Sequence[tuple[float, float]], colour: str, width: float) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" '
        'stroke-linejoin="round"/>'
    )


def _rule(left: float, y: float, right: float) -> str:
    ends = f'x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"'
    return f'<line {ends} stroke="var(--rule)" stroke-width=".6"/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str = "var(--muted)") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{colour}">{escape(text)}</text>'


def _svg(width: float, height: float, parts: Sequence[str], alt: str) -> str:
    head = f'viewBox="0 0 {width} {height:.0f}" font-size="11"'
    return f'<svg role="img" {head} aria-label="{escape(alt)}">{"".join(parts)}</svg>'
