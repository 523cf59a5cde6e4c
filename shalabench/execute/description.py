"""The content of run.json, a check that it is of the run asked for, and a hint on memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from shalabench.api import DataSpec
from shalabench.api.registry import Entry
from shalabench.config.plan import Run
from shalabench.config.settings import Resolved
from shalabench.records.digests import Damaged
from shalabench.records.ids import NOT_IDENTITY
from shalabench.records.store import RunFolder


def describe_data(spec: DataSpec, complete: DataSpec) -> dict[str, Any]:
    """What run.json says of the data; the arguments are those of `describe_run`."""
    return {
        "version": spec.version,
        "fingerprint": spec.fingerprint,
        "complete": complete.fingerprint,
        "source": spec.source,
        "proxy_for": spec.proxy_for,
        "deviation": spec.deviation,
        "sizes": spec.sizes,
        "distinct": spec.distinct,
        "modalities": list(spec.names),
    }


def describe_run(
    run: Run, entry: Entry, resolved: Resolved, spec: DataSpec, complete: DataSpec, identity: str
) -> dict[str, Any]:
    """The content of run.json.

    Args:
        run: As it was planned.
        entry: Of the method.
        resolved: The settings of what is done.
        spec: Of what is trained on.
        complete: Of what is evaluated on.
        identity: The run's `train_id`.
    """
    values = resolved.values()
    local = resolved.choices()  # such as a path of this machine
    return {
        "train_id": identity,
        "model": run.model,
        "model_version": entry.version,
        "paper": entry.paper,
        "dataset": run.dataset,
        "preset": run.preset,
        "seed": run.seed,
        "overrides": [o for o in run.overrides if o.split("=")[0].strip() not in local],
        "data": describe_data(spec, complete),
        "settings": values,
        "origins": {k: [o.layer, o.source] for k, o in resolved.origins.items() if k in values},
    }


def check_description(folder: RunFolder, identity: str, settings: Mapping[str, Any]) -> None:
    """Raise unless run.json describes a run.

    Args:
        folder: Where it lies.
        identity: The run's `train_id`.
        settings: The values that it was planned with, by dotted key.

    Raises:
        BenchError: run.json is damaged, or of another run.
    """
    run = folder.run
    named = [("train_id", run.get("train_id"), identity)]
    recorded = run.get("settings")
    recorded = recorded if isinstance(recorded, dict) else {}
    for key in recorded:
        plain = key.rpartition(".")[2]
        if key.startswith(("model.", "train.")) and plain not in NOT_IDENTITY and key in settings:
            named.append((key, recorded[key], settings[key]))
    for key, found, expected in named:
        if found != expected:
            raise Damaged(
                f"{folder.path / 'run.json'} is damaged: it has {found!r} as {key}, and the run of "
                f"this folder has {expected!r}. Move the folder away and run the command again."
            )


def hint_of(resolved: Resolved, device: torch.device) -> str:
    """What to lower where memory was not enough."""
    sizes = {k: v for k, v in resolved.values().items() if k.endswith("batch_size")}
    text = ", ".join(f"{key} = {value}" for key, value in sizes.items())
    return f"Out of memory on {device} with {text}. Halve them with --set."
