"""Comparisons of two sides as text, and as JSON."""

from __future__ import annotations

import json

from shalabench.analysis.compare import Comparison
from shalabench.analysis.fitting import NARROW, draw, wrap_note
from shalabench.analysis.statistics import NO_ERROR, SEEDS, UNTESTED, Difference
from shalabench.analysis.verdicts import SYMBOLS, verdict
from shalabench.api.records import is_ranked

_WIDTH = 40  # letters of a setting's value


def render_comparisons(
    comparisons: list[Comparison], left_out: list[str], as_json: bool, width: int = NARROW
) -> str:
    """The comparisons as text of at most a width, or as JSON with every value."""
    if as_json:
        plain = []
        for c in comparisons:
            metrics = [
                {"metric": m, "direction": d, **x.to_json(), "verdict": _verdict(c, m, d, x)}
                for m, d, _, x in c.metrics
            ]
            collapsed = {
                metric: {name: found._asdict() for name, found in sides.items()}
                for metric, sides in c.collapsed.items()
            }
            plain.append(vars(c) | {"metrics": metrics, "collapsed": collapsed})
        return json.dumps({"comparisons": plain, "left_out": left_out}, indent=1)
    parts = [_readable(comparison, width) for comparison in comparisons]
    if left_out:
        parts.append("\n".join(["Left out:", *(wrap_note(text, width) for text in left_out)]))
    return "\n\n".join(parts)


def _readable(c: Comparison, width: int) -> str:
    a, b = c.names
    lines = [f"{a} against {b}: {c.place}", ""]
    if c.metrics:
        head = ("metric", a, b, "difference", "95 % interval", "verdict")
        body = [_line(c, *metric) for metric in c.metrics]
        lines += [draw(body, head, width, right=range(1, 5)), ""]
    lines += [wrap_note(text, width) for text in (*c.refused, *_notes(c))]
    lines.append("")
    shown = [(key, _cut(x), _cut(y)) for key, x, y in c.configuration]
    lines.append(
        draw(shown, ("differs", a, b), width) if shown else "No setting that both have differs."
    )
    for name, keys in zip(c.names, c.only, strict=True):
        text = f"Only {name}: {', '.join(keys)}."
        lines += ["", wrap_note(text, width, "")] if keys else []
    return "\n".join(lines)


def _line(c: Comparison, metric: str, direction: str, digits: int, diff: Difference) -> list[str]:
    collapsed, symbol = c.collapsed.get(metric, {}), SYMBOLS["collapsed"]
    pairs = zip(c.names, (diff.a, diff.b), strict=True)
    means = [f"{mean:.{digits}f}{symbol if name in collapsed else ''}" for name, mean in pairs]
    change = f"{diff.value:+.{digits}f}"
    return [metric, *means, change, spread(diff, digits), _verdict(c, metric, direction, diff)]


def _verdict(c: Comparison, metric: str, direction: str, diff: Difference) -> str:
    if not is_ranked(metric):
        return "not ranked"
    return verdict(diff, direction, c.names, c.collapsed.get(metric, {}))


def _notes(c: Comparison) -> list[str]:
    """What the intervals are over, what is not tested, and what has collapsed."""
    by_basis: dict[str, list[str]] = {}
    for metric, _, _, diff in c.metrics:
        by_basis.setdefault(diff.basis, []).append(metric)
    most = max(by_basis.values(), key=len, default=[])
    notes = []
    for basis, metrics in sorted(by_basis.items(), key=lambda pair: pair[1] is not most):
        which = "" if metrics is most else f" of {', '.join(metrics)}"
        over = "unknown, for" if basis == NO_ERROR else "over"
        notes.append(f"Interval{which}: {over} {basis}.")
    if untested := [diff.seeds for *_, diff in c.metrics if not diff.over_trainings]:
        a, b = min(untested)
        notes.append(
            f"{UNTESTED.capitalize()}: there are {a} and {b} seeds, and a test needs {SEEDS} a "
            f"side. Run both with --seeds {SEEDS}."
        )
    if len(c.metrics) > 1 and any(diff.is_tested for *_, diff in c.metrics):
        notes.append("Each verdict is for one metric, at 5 %: one in twenty errs by chance.")
    for metric, sides in c.collapsed.items():
        texts = [f"{name} ({found.text})" for name, found in sides.items()]
        notes.append(
            f"{SYMBOLS['collapsed']}: collapsed, so no side is better by {metric}. The samples "
            f"that agree show under half of the data's classes: {', '.join(texts)}."
        )
    return notes


def spread(diff: Difference, digits: int) -> str:
    """The interval in words."""
    if diff.margin is None:
        return "unknown"
    return f"{diff.value - diff.margin:+.{digits}f} to {diff.value + diff.margin:+.{digits}f}"


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
