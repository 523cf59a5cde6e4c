"""Search for runs that are of no use, and their removal. Torch is needed for "other code" only."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from shalabench.api.errors import BenchError
from shalabench.execute.made_by import CODE, differences
from shalabench.records.store import RunFolder, Store, guard

FAILED, UNFINISHED, OTHER_CODE = "failed", "unfinished", "other code"
_CHANGED = "it has changed since"
_STATES = {"failed": FAILED, "diverged": FAILED, "stopped": UNFINISHED, "new": UNFINISHED}


@dataclass(frozen=True)
class Waste:
    """A run that can be removed.

    Attributes:
        folder: Of the run.
        kind: "failed", "unfinished" or "other code".
        reason: In words; may be empty.
        size: Of its files, in bytes.
    """

    folder: RunFolder
    kind: str
    reason: str
    size: int


def find_waste(store: Store, kinds: Collection[str]) -> Iterator[Waste]:
    """The runs of some kinds, each with a folder of its own. Packed and damaged ones are left.

    Args:
        store: Where they lie.
        kinds: "failed": the training failed or diverged. "unfinished": it was stopped and no
            process holds it. "other code": it is finished, and its method or the shared networks
            that it uses compute something else today.
    """
    for folder in store.runs():
        if folder.path.is_symlink() or not (folder.path / "run.json").is_file():
            continue
        try:
            kind, reason = _kind(folder, OTHER_CODE in kinds)
        except (BenchError, LookupError):  # its record does not read, so it may be of use
            continue
        if kind in kinds:
            files = (file for file in folder.path.rglob("*") if not file.is_symlink())
            size = sum(file.stat().st_size for file in files if file.is_file())
            yield Waste(folder, kind, reason, size)


def remove(waste: Waste, *, locks: bool = True) -> str:
    """Remove a run's folder, unless it has changed or another process holds it.

    Args:
        waste: As `find_waste` gives it.
        locks: Whether to hold it by a file lock.

    Returns:
        Why it stays, in words; empty if it was removed.

    Raises:
        BenchError: The folder cannot be removed, or the file system has no locks.
    """
    folder = waste.folder
    if _kind(folder, waste.kind == OTHER_CODE)[0] != waste.kind:
        return _CHANGED
    with folder.lock(wait=False, locks=locks) as held, guard(folder.path):
        if not held:
            return "another process uses it"
        if (folder.trained is None) == (waste.kind == OTHER_CODE):
            return _CHANGED
        shutil.rmtree(folder.path)
    return ""


def _kind(folder: RunFolder, code: bool) -> tuple[str, str]:
    """Of a run, and why; both empty where it is of use."""
    model, state = folder.run["model"], folder.state()
    if state != "done":
        return _STATES.get(state, ""), str((folder.failed or {}).get("reason", ""))
    if not code:
        return "", ""
    made_by = (folder.trained or {}).get("provenance", {})
    theirs = {key: made_by[key] for key in CODE if key in made_by}
    changed = differences(theirs, _code_of(model))
    return (OTHER_CODE, " and ".join(changed.values())) if changed else ("", "")


@functools.cache
def _code_of(model: str) -> dict[str, str]:
    """Digests of a method's code today; none where it is not known."""
    from shalabench.api.registry import find  # these import torch
    from shalabench.execute.provenance import describe_code

    try:
        code = describe_code(find("model", model))
    except BenchError:
        return {}
    return {key: code[key] for key in CODE}
