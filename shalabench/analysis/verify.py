"""Whether the files of runs are as they were written. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shalabench.api.errors import BenchError
from shalabench.records.digests import Damaged, is_sealed, parse_checkpoint, read_checked
from shalabench.records.packed import NAME, PackedRun, is_as_written
from shalabench.records.reading import files_in
from shalabench.records.store import RunFolder, read_json

_RECORDS = ("run.json", "trained.json", "failed.json")
_FOLDERS = ("results", "failures")


def verify(folder: RunFolder) -> dict[str, Any]:
    """Compare every file of a run that has a digest with it.

    Returns:
        The run's name; the numbers of the files that were checked and of those that have no digest
        ("unchecked"), as older ones; and a sentence on each damaged one.
    """
    found: dict[str, Any] = {"run": folder.path.name, "checked": 0, "unchecked": 0, "damaged": []}
    checks = _packed(folder) if isinstance(folder, PackedRun) else _files(folder)
    for state in checks:
        if state in ("checked", "unchecked"):
            found[state] += 1
        else:
            found["damaged"].append(state)
    return found


def _packed(folder: PackedRun) -> Iterator[str]:
    """A packed run has one digest with all others of its file."""
    if isinstance(folder.content, str):
        yield folder.content
        return
    file = folder.path.parent / NAME
    whole = is_as_written(file)
    if whole is False:
        yield f"{file} has another SHA-256 than it states. Export it again."
    else:
        yield "checked" if whole else "unchecked"


def _files(folder: RunFolder) -> Iterator[str]:
    """For each file "checked", "unchecked", or what is wrong with it."""
    content: dict[str, dict[str, Any]] = {}
    for file in _records(folder.path):
        name = str(file.relative_to(folder.path))
        try:
            content[name] = read_json(file)
            yield "checked" if is_sealed(file.read_bytes()) else "unchecked"
        except (BenchError, OSError, ValueError) as error:
            yield str(error)
    run = content.get("run.json", {}).get("train_id")
    for name, result in content.items():
        if run and name.startswith("results/") and result.get("train_id", run) != run:
            yield f"{folder.path / name} is of another training than its run."
    if folder.weights.exists() and "trained.json" in content:
        yield _check(folder.weights, content["trained.json"].get("digest"))
    for file in folder.checkpoints():
        named = parse_checkpoint(file.name)
        yield _check(file, named[2] if named else None)


def _records(folder: Path) -> list[Path]:
    """The JSON files of a run."""
    records = [folder / name for name in _RECORDS if os.path.lexists(folder / name)]
    return records + [file for name in _FOLDERS for file in files_in(folder / name, ".json")]


def _check(file: Path, digest: str | None) -> str:
    try:
        read_checked(file, digest)
    except Damaged as error:
        return f"{file} is damaged: {error}."
    return "unchecked" if digest is None else "checked"


def render_verified(runs: list[dict[str, Any]]) -> str:
    """The counts of all runs, and a line for each damaged file."""
    checked, unchecked = (sum(run[key] for run in runs) for key in ("checked", "unchecked"))
    damaged = [f"{run['run']}: {text}" for run in runs for text in run["damaged"]]
    counts = f"{checked} files of {len(runs)} runs have the SHA-256 that was recorded"
    counts += f", {unchecked} were recorded without one, and {len(damaged)} are damaged."
    return "\n".join([counts, *damaged])
