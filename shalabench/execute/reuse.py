"""Weight reuse: stages that a finished run has trained alike are not trained again.

A stage names settings that neither it nor a stage before it reads (`Stage.ignores`), such as the
guidance scale, which only samplers read, or the width of a prior that is trained later. If a run
differs in nothing else from a finished run of its store, it takes the weights of these stages from
that source run. Code, packages, device and threads must be the same. On a CPU the weights are then
equal, bit for bit, to those that the run would train. The record names the source run.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shalabench.api import BenchError, Model, Stage
from shalabench.execute.made_by import MADE_BY
from shalabench.execute.tensors import read_tensors
from shalabench.records.digests import Damaged, read_checked
from shalabench.records.ids import without_later_settings
from shalabench.records.store import RunFolder, Store

NO_SOURCE = (BenchError, OSError, LookupError, TypeError, ValueError, AttributeError)
_SAME = ("model", "model_version", "dataset", "seed")


@dataclass(frozen=True)
class Reuse:
    """The weights of the first stages of a source run.

    Attributes:
        run: Name of its folder.
        stages: Their names, in order.
        weights: Its file.
        digest: SHA-256 of the file; None where the source run did not record it.
        last: The last reading of their loss terms.
        spent: Seconds by the wall and of the processor until each of them ended.
    """

    run: str
    stages: tuple[str, ...]
    weights: Path
    digest: str | None
    last: dict[str, dict[str, float]]
    spent: dict[str, list[float]]

    def load(self, model: Model, stages: Sequence[Stage]) -> dict[str, Any]:
        """Load the weights; returns what a checkpoint after the last of the stages would say."""
        source = read_tensors(self.weights, self.digest, "cpu")
        load_learned(model, stages[: len(self.stages)], source)
        spent = self.spent[self.stages[-1]]
        return {"stage": len(self.stages), "step": 0, "last": dict(self.last), "spent": spent}

    def log(self, folder: RunFolder) -> None:
        """Record where the training begins."""
        folder.log("reused", run=self.run, stages=self.stages)
        for name in self.stages:
            folder.log("finished", stage=name, spent=self.spent[name])


def load_learned(model: Model, stages: Sequence[Stage], state: Mapping[str, Any]) -> None:
    """Load the weights that some stages learn, and leave the others as they are."""
    parts = [model if stage.module is None else stage.module for stage in stages]
    learned = {id(x) for part in parts for x in part.state_dict(keep_vars=True).values()}
    keys = [key for key, x in model.state_dict(keep_vars=True).items() if id(x) in learned]
    model.load_state_dict({key: state[key] for key in keys if key in state}, strict=False)


def find_reuse(
    store: Store, folder: RunFolder, made_by: Mapping[str, Any], stages: Sequence[Stage]
) -> Reuse | None:
    """The weight reuse that saves most stages, or None.

    Args:
        store: Where source runs are looked for.
        folder: Of the run that is to be trained.
        made_by: Digests of its code, packages and device; a source run's are the same.
        stages: Of the run that is to be trained, in order.
    """
    run = folder.run
    found: list[Reuse] = []
    for source in store.runs():
        try:
            if source.weights.exists():
                found.append(_reuse_of(source, run, made_by, stages))
        except NO_SOURCE:  # it vanished, or its record is of another kind
            continue
    for reuse in sorted(found, key=lambda reuse: len(reuse.stages), reverse=True):
        if not reuse.stages:
            break
        try:
            read_checked(reuse.weights, reuse.digest)
        except Damaged as error:
            warnings.warn(f"Nothing is reused of the run {reuse.run}: {error}.", stacklevel=2)
            continue
        return reuse
    return None


def _reuse_of(
    source: RunFolder,
    run: Mapping[str, Any],
    made_by: Mapping[str, Any],
    stages: Sequence[Stage],
) -> Reuse:
    """What can be reused of a source run, which may be no stage."""
    trained = source.trained
    same = trained is not None and all(trained["provenance"][k] == made_by[k] for k in MADE_BY)
    same = same and not (trained or {})["provenance"].get("mixed")
    if trained and trained["provenance"].get("priors") != made_by.get("priors"):
        stages = [stage for stage in stages if "prior" not in stage.sections]  # without a fit
    names = _trained_alike(run, source.run, stages) if same else ()
    spent = {e["stage"]: e["spent"] for e in source.events() if e["kind"] == "finished"}
    names = tuple(itertools.takewhile(spent.__contains__, names))  # older runs kept no times
    last = {name: trained["last"][name] for name in names} if trained else {}
    digest = trained.get("digest") if trained else None
    return Reuse(source.path.name, names, source.weights, digest, last, spent)


def _trained_alike(
    run: Mapping[str, Any], source: Mapping[str, Any], stages: Sequence[Stage]
) -> tuple[str, ...]:
    """Names of the first stages that both runs train alike."""
    for count in range(len(stages), 0, -1):
        if differing(run, source, stages, count - 1) == set():
            return tuple(stage.name for stage in stages[:count])
    return ()


def differing(
    run: Mapping[str, Any], source: Mapping[str, Any], stages: Sequence[Stage], number: int
) -> set[str] | None:
    """The settings that differ, of those that a stage and the stages before it read.

    Returns:
        None where the method, its version, the data or the seed differ.
    """
    alike = all(run[key] == source[key] for key in _SAME)
    if not alike or run["data"]["fingerprint"] != source["data"]["fingerprint"]:
        return None
    mine, theirs = (
        without_later_settings(run["settings"]),
        without_later_settings(source["settings"]),
    )
    keys = {*mine, *theirs} - {"train.log_every"}  # but not compilation, which may round otherwise
    last = stages[number]
    ignored = [f"{last.section}.{name}" for name in last.ignores]
    below = tuple(f"{name}." for name in ignored)
    return {
        key
        for key in keys
        if mine.get(key) != theirs.get(key)
        and key.split(".")[0] in last.sections
        and not (key in ignored or key.startswith(below))
    }
