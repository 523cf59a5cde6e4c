"""Studies of tuning as a table of 80 columns, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from shalabench.records.study import DialStudy, MethodStudy, Study, Trial

_WIDTH = 60  # of the chosen values, so that their table has at most 80 columns


def render_studies(studies: Sequence[Study | DialStudy], as_json: bool) -> str:
    """Studies as text, or all that they hold with a summary of each method as JSON."""
    if as_json:
        full = [study.model_dump(mode="json") | {"summary": summarise(study)} for study in studies]
        return json.dumps(full, indent=1)
    return "\n\n".join(_dials(s) if isinstance(s, DialStudy) else _readable(s) for s in studies)


def summarise(study: Study | DialStudy) -> list[dict[str, Any]]:
    """For each method: trials by rung, seconds, the preset's and the best objective, the values.

    Of dials: for each method and its joint samples or translations, the reading at the neutral and
    at the chosen values.
    """
    if isinstance(study, DialStudy):
        return [
            {
                "method": name,
                "of": protocol,
                "trials": len(method.at(protocol)),
                "values": method.values_of(trial, protocol),
                "is_neutral": trial.number == 0,
                **getattr(trial, protocol).model_dump(),
            }
            for name, method in study.methods.items()
            for protocol, number in method.chosen.items()
            for trial in method.trials
            if trial.number in (0, number)
        ]
    return [_summary(study, name, method) for name, method in study.methods.items()]


def _summary(study: Study, name: str, method: MethodStudy) -> dict[str, Any]:
    last = len(study.rungs) - 1
    full = {t.number: t for t in method.at(last) if t.status != "drawn"}
    best = None if method.chosen is None else method.last_of(method.chosen)
    done = [trial for trial in method.trials if trial.status != "drawn"]
    return {
        "method": name,
        "trials": [sum(t.rung == rung and not t.repeat for t in done) for rung in range(last + 1)],
        "repeats": sum(trial.repeat > 0 for trial in done),
        "lost": sum(t.status in ("collapsed", "diverged") for t in done),
        "cpu_seconds": method.spent,
        "evaluation_seconds": sum(trial.evaluation_seconds for trial in done),
        "default": _objective(full.get(0)),
        "best": _objective(best),
        "chosen": best.values if best else None,
        "is_default": method.chosen == 0,
        "out_of_budget": method.out_of_budget,
    }


def _objective(trial: Trial | None) -> float | None:
    return trial.objective if trial else None


def _readable(study: Study) -> str:
    from tabulate import tabulate

    heading = ["method", "trials", "lost", "CPU s", "preset", "best"]
    summaries = summarise(study)
    lines = [
        [
            row["method"],
            "/".join(map(str, row["trials"]))
            + (f"+{row['repeats']}" if row["repeats"] else "")
            + ("*" if row["out_of_budget"] else ""),
            str(row["lost"]),
            f"{row['cpu_seconds']:,.0f}",
            _share(row["default"]),
            _share(row["best"]),
        ]
        for row in summaries
    ]
    scores = tabulate(lines, heading, tablefmt="simple", disable_numparse=True)
    chosen = tabulate(
        [[row["method"], _wrapped(row)] for row in summaries],
        ["method", "chosen values"],
        tablefmt="simple",
        disable_numparse=True,
    )
    parts = ", ".join(f"{rung:g}" for rung in study.rungs)
    notes = [
        f"trials: settings trained with {parts} of the preset's updates, seed {study.seed}",
        "lost: trainings that collapsed or diverged; they rank below all others",
        "preset, best: objective of the preset and of the chosen values, all updates",
    ]
    if any(row["repeats"] for row in summaries):
        notes.append("+: trainings with other seeds; a setting that fails one is not chosen")
    if any(row["out_of_budget"] for row in summaries):
        notes.append(f"*: no more settings, because {study.budget:g} CPU seconds were used up")
    for overrides in sorted({" ".join(m.overrides) for m in study.methods.values()} - {""}):
        notes.append(f"with {overrides}")
    title = f"{study.dataset}, preset {study.preset}, validation"
    return "\n".join([title, "", scores, "", chosen, "", *(f"  {note}" for note in notes)])


def _dials(study: DialStudy) -> str:
    """The neutral and the chosen dials of each method, one below the other."""
    from tabulate import tabulate

    heading = ["method", "dials", "coherence", "KID", "recall", "classes"]
    lines: list[list[str]] = []
    rows = summarise(study)
    for row in rows:
        values = [f"{key.rpartition('.')[2]} {value:g}" for key, value in row["values"].items()]
        kid, classes = row["kid"], row["classes"]
        lines.append(
            [
                row["method"] if row["is_neutral"] else "",
                f"{row['of']}: neutral" if row["is_neutral"] else ",\n".join(values),
                f"{_share(row['coherence'])} ± {_share(row['stderr'])}",
                "-" if kid is None else f"{kid:.4g}",
                _share(row["recall"]),
                "-" if classes is None else f"{classes:.1f}",
            ]
        )
    table = tabulate(lines, heading, tablefmt="simple", disable_numparse=True)
    notes = [
        "neutral: temperatures 1, no guidance; alone where it was chosen",
        f"KID, recall: {study.images:,} generated images each, features of {study.extractor}",
    ]
    open_ = [name for name, method in study.methods.items() if not method.chosen]
    notes += [f"not chosen yet: {', '.join(open_)}"] if open_ else []
    for overrides in sorted({" ".join(m.overrides) for m in study.methods.values()} - {""}):
        notes.append(f"with {overrides}")
    title = f"{study.dataset}, preset {study.preset}, validation, dials, seed {study.seed}"
    return "\n".join([title, "", table, "", *(f"  {note}" for note in notes)])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".removeprefix("0")


def _wrapped(row: dict[str, Any]) -> str:
    """The chosen values in lines that fit."""
    if row["chosen"] is None:
        return "-"
    if row["is_default"]:
        return "the preset's own"
    lines = [""]
    for key, value in row["chosen"].items():
        text = f"{key} {value}"
        if lines[-1] and len(lines[-1]) + len(text) + 2 > _WIDTH:
            lines.append("")
        lines[-1] += f", {text}" if lines[-1] else text
    return "\n".join(lines)
