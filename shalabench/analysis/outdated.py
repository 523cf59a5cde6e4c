"""Runs whose preset has other settings today than when they were recorded."""

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
_DECIDES = ("model.", "data.", "prior.")  # what the device decides, as train.precision, is left out


def describe_outdated(folders: Iterable[RunFolder]) -> list[dict[str, Any]]:
    """Runs whose preset gives other settings today, as `shalabench.analysis.status` describes them.

    The changes stand after the reason.
    """
    outdated = []
    for folder in folders:
        item = describe(folder)
        changed = changes_since(folder.run) if item["state"] != "unreadable" else []
        if changed:
            outdated.append(item | {"reason": f"{item['reason']} {'; '.join(changed)}".strip()})
    return outdated


def changes_since(run: dict[str, Any]) -> list[str]:
    """Settings that its preset gives otherwise now, in words; nothing where they are not known.

    A setting that the record does not know counts only where it is not at its default, which must
    be what was done before.

    Args:
        run: Content of a run.json.
    """
    try:
        now = _resolve(run["model"], run["dataset"], run["preset"], tuple(run["overrides"]))
        version = find("model", run["model"]).version
    except BenchError:
        return []
    was = run["settings"]
    changes = []
    if run["model_version"] != version:
        changes.append(f"version {run['model_version']}, now {version}")
    for key, value in json.loads(json.dumps(now.values())).items():
        default = now.origins[key].layer == DEFAULT
        if not key.startswith(_DECIDES) or (key not in was and default):
            continue
        if key not in was or was[key] != value:
            before = f"{key} {was[key]}" if key in was else f"no {key}"
            changes.append(f"{before}, now {value}")
    return changes
