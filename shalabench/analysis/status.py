"""How the runs of a store stand. Free of torch."""

from __future__ import annotations

from typing import Any

from shalabench.api.errors import BenchError
from shalabench.records.store import RunFolder


def describe(folder: RunFolder) -> dict[str, Any]:
    """State, position, last losses and evaluations of one run, as plain values."""
    try:
        return _describe(folder)
    except (BenchError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = str(error) if isinstance(error, BenchError) else "Its record has another schema."
        unknown = dict.fromkeys(("model", "dataset", "preset", "seed", "stage", "step"), "")
        state = {"state": "unreadable", "terms": {}, "evaluated": [], "reason": reason}
        return {"run": folder.name, **unknown, **state}


def _describe(folder: RunFolder) -> dict[str, Any]:
    run, failure = folder.run, folder.failed or {}
    progress = [event for event in folder.events() if event["kind"] == "progress"]
    last = progress[-1] if progress else {}
    terms = {key: value for key, value in last.items() if key not in ("time", "step")}
    return {
        "run": folder.name,
        **{key: run[key] for key in ("model", "dataset", "preset", "seed")},
        "state": failure.get("status") or folder.state(),
        "stage": last.get("stage", ""),
        "step": last.get("step", 0),
        "terms": {key: value for key, value in terms.items() if isinstance(value, int | float)},
        "evaluated": [str(result["evaluator"]) for result in folder.results()],
        "reason": failure.get("reason") or folder.unmeasured(),
    }


def render_status(states: list[dict[str, Any]]) -> str:
    """The states as a table, and the reasons of failures below it."""
    from tabulate import tabulate

    if not states:
        return "No runs."
    head = ("model", "dataset", "preset", "seed", "state", "stage", "step", "loss", "evaluated")
    body = [
        (
            *(item[key] for key in head[:7]),
            f"{item['terms']['loss']:.4g}" if "loss" in item["terms"] else "",
            ", ".join(item["evaluated"]),
        )
        for item in states
    ]
    reasons = [f"{item['run']}: {item['reason']}" for item in states if item["reason"]]
    return "\n".join([tabulate(body, head, disable_numparse=True), *reasons])
