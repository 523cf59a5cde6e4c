"""Runs whose preset has other settings today, or whose data or method another version."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import Any

from shalabench.analysis.status import describe
from shalabench.api import BenchError
from shalabench.api.registry import find
from shalabench.config.settings import DEFAULT, resolve
from shalabench.records.store import RunFolder

_resolve = cache(resolve)


def describe_outdated(folders: Iterable[RunFolder]) -> list[dict[str, Any]]:
    """Runs that would be others today, as `shalabench.analysis.status` describes them.

    The changes stand after the reason.
    """
    outdated = []
    for folder in folders:
        item = describe(folder)
        try:
            changed = changes_since(folder.run) if item["state"] != "unreadable" else []
        except (BenchError, LookupError, TypeError, AttributeError):
            changed = ["Its record has another schema."]
        if changed:
            outdated.append(item | {"reason": f"{item['reason']} {'; '.join(changed)}".strip()})
    return outdated


def changes_since(run: dict[str, Any]) -> list[str]:
    """What differs today for a run, in words; nothing where its parts are not known here.

    Compared are the versions of the method and the data, and the settings that its preset gives. A
    setting that the record lacks counts only where it is not at its default, which must be what was
    done before.

    Args:
        run: Content of a run.json.
    """
    try:
        now = _resolve(run["model"], run["dataset"], run["preset"], tuple(run["overrides"]))
        method, data = find("model", run["model"]), find("dataset", run["dataset"])
    except BenchError:
        return []
    was = run["settings"]
    versions = {
        "version": (run["model_version"], method.version),
        "data version": (run["data"].get("version", 1), data.version),
    }
    changes = [f"{what} {old}, now {new}" for what, (old, new) in versions.items() if old != new]
    for key, value in json.loads(json.dumps(now.deciding())).items():
        if key not in was and now.origins[key].layer == DEFAULT:
            continue
        if key not in was or was[key] != value:
            before = f"{key} {was[key]}" if key in was else f"no {key}"
            changes.append(f"{before}, now {value}")
    return changes
