"""How the runs of a store stand. Free of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shalabench.analysis.fitting import NARROW, draw, duration, wrap_note
from shalabench.api.errors import BenchError
from shalabench.records.reading import DAMAGED, terms_of
from shalabench.records.store import RunFolder

_BEGINS = ("stage", "resumed", "begun")  # events before which the clock of a stage stood
_READINGS = 10  # of the losses, over which the pace is taken


def describe(folder: RunFolder) -> dict[str, Any]:
    """State, position, last losses and evaluations of one run, as plain values."""
    try:
        return _describe(folder)
    except DAMAGED as error:
        reason = str(error) if isinstance(error, BenchError) else "Its record has another schema."
        unknown = dict.fromkeys(("model", "dataset", "preset", "seed", "stage", "step"), "")
        state: dict[str, Any] = {
            "state": "unreadable",
            "terms": {},
            "evaluated": [],
            "reason": reason,
        }
        state |= {"folder": str(folder.path), "seconds_left": None}
        return {"run": folder.name, **unknown, **state}


def _describe(folder: RunFolder) -> dict[str, Any]:
    run, failure = folder.run, folder.failed or {}
    events = list(folder.events())
    progress = [event for event in events if event["kind"] == "progress"]
    last = progress[-1] if progress else {}
    state = failure.get("status") or folder.state()
    return {
        "run": folder.name,
        **{key: run[key] for key in ("model", "dataset", "preset", "seed")},
        "state": state,
        "folder": str(folder.path),
        "seconds_left": seconds_left(events) if state == "running" else None,
        "stage": last.get("stage", ""),
        "step": last.get("step", 0),
        "terms": terms_of(last),
        "evaluated": [str(result["evaluator"]) for result in folder.results()],
        "reason": failure.get("reason") or folder.unmeasured(),
    }


def seconds_left(events: list[dict[str, Any]]) -> float | None:
    """Until the end of the stage that is trained, at the pace of its last updates.

    Args:
        events: Of the run, oldest first.

    Returns:
        None where the stage, its updates or its pace are unknown, or all its updates are done.
    """
    steps = {event.get("stage"): event.get("steps") for event in events if event["kind"] == "stage"}
    *_, begun = [n for n, event in enumerate(events) if event["kind"] in _BEGINS] or [0]
    read = [event for event in events[begun:] if event["kind"] == "progress"][-_READINGS:]
    read = [event for event in read if event["stage"] == read[-1]["stage"]]
    total = steps.get(read[-1]["stage"]) if read else None
    if not total or len(read) < 2 or read[-1]["step"] == read[0]["step"]:
        return None
    pace = (read[-1]["time"] - read[0]["time"]) / (read[-1]["step"] - read[0]["step"])
    return pace * (total - read[-1]["step"])


def render_status(states: list[dict[str, Any]], width: int = NARROW) -> str:
    """The states as a table, and the reasons of failures below it, then each one's folder."""
    if not states:
        return "No runs."
    head = ("model", "dataset", "preset", "seed", "state", "stage", "step", "loss", "left")
    body = [
        (
            *(item[key] for key in head[:7]),
            f"{item['terms']['loss']:.4g}" if "loss" in item["terms"] else "",
            duration(item["seconds_left"], ""),
        )
        for item in states
    ]
    reasons = [f"{item['run']}: {item['reason']}" for item in states if item["reason"]]
    lines = [draw(body, head, width), *(wrap_note(text, width, "") for text in reasons)]
    for parent in dict.fromkeys(Path(item["folder"]).parent for item in states):
        mine = [item for item in states if Path(item["folder"]).parent == parent]
        lines += ["", f"In {parent}:"]
        lines += [wrap_note(f"{item['run']}: {_evaluated(item)}", width) for item in mine]
    return "\n".join(lines)


def _evaluated(item: dict[str, Any]) -> str:
    return ", ".join(item["evaluated"]) or "no evaluation"
