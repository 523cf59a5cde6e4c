"""Continuation: a training goes on from one of fewer updates that has begun alike.

With the schedule `wsd` the rate is constant until it falls at the end. So trainings that differ in
the number of updates alone are equal, bit for bit, until the shorter one's rate falls. A run keeps
the checkpoint of that update (`RunFolder.forks`), and a longer run begins there. Its seconds count
those before. Everything else that decides the updates must be the same; where only the schedule,
the code, the packages or the threads differ, a sentence says what is trained again.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shalabench.api import Model, Settings, Stage
from shalabench.config.search import stretching, updates_of
from shalabench.execute.made_by import differences
from shalabench.execute.reuse import NO_SOURCE, Reuse, differing, find_reuse, load_learned
from shalabench.execute.tensors import read_tensors
from shalabench.records.digests import Damaged, parse_checkpoint
from shalabench.records.store import RunFolder, Store


@dataclass(frozen=True)
class Continuation:
    """The state of a source run within a stage.

    Attributes:
        run: Name of its folder.
        number, stage, step: Of the stage, and the updates of it that are done.
        state: Content of the checkpoint.
        spent: Seconds by the wall and of the processor until each earlier stage ended.
    """

    run: str
    number: int
    stage: str
    step: int
    state: dict[str, Any]
    spent: dict[str, list[float]]

    def load(self, model: Model, stages: Sequence[Stage]) -> dict[str, Any]:
        """Load the weights; returns the checkpoint."""
        load_learned(model, stages[: self.number + 1], self.state["model"])
        return self.state

    def log(self, folder: RunFolder) -> None:
        """Record where the training begins."""
        folder.log("continued", run=self.run, stage=self.stage, step=self.step)
        for name, spent in self.spent.items():
            folder.log("finished", stage=name, spent=spent)


@dataclass(frozen=True)
class _Candidate:
    """A checkpoint of another run."""

    source: RunFolder
    number: int
    step: int
    file: Path


def find_start(
    store: Store,
    folder: RunFolder,
    made_by: Mapping[str, Any],
    settings: Settings,
    stages: Sequence[Stage],
) -> Reuse | Continuation | None:
    """From where a run without a checkpoint begins: what saves most stages, then most updates.

    It warns if updates are trained again that another run has, with the reason.

    Args:
        store: Where source runs are looked for.
        folder: Of the run that is to be trained.
        made_by: Its code, packages, device and threads.
        settings: Of its method.
        stages: Of its training, in order.
    """
    reuse = find_reuse(store, folder, made_by, stages)
    first = len(reuse.stages) if reuse else 0
    search = _Search(folder.run, made_by, settings, stages)
    missed = ""
    found = [c for c in _candidates(store, folder) if first <= c.number < len(stages)]
    for candidate in sorted(found, key=lambda c: (c.number, c.step), reverse=True):
        try:
            continuation, obstacle = search.examine(candidate)
        except NO_SOURCE:  # it vanished, or its record is of another kind
            continue
        if continuation:
            return continuation
        missed = missed or obstacle
    if missed:
        warnings.warn(missed, stacklevel=2)
        folder.log("warning", message=missed)
    return reuse


def _candidates(store: Store, folder: RunFolder) -> Iterator[_Candidate]:
    """The checkpoints within a stage of the other runs."""
    for source in store.runs():
        for file in (*source.forks(), *source.checkpoints()):
            named = parse_checkpoint(file.name)
            if named and named[1] and source.path != folder.path:
                yield _Candidate(source, *named[:2], file)


@dataclass(frozen=True)
class _Search:
    """A run that looks for its beginning in others."""

    run: dict[str, Any]
    made_by: Mapping[str, Any]
    settings: Settings
    stages: Sequence[Stage]

    def examine(self, candidate: _Candidate) -> tuple[Continuation | None, str]:
        """The continuation, or why there is none, which is empty where runs are not alike."""
        stage, theirs = self.stages[candidate.number], candidate.source.run
        keys = differing(self.run, theirs, self.stages, candidate.number)
        steps = self._steps_key(candidate.number)
        if keys is None or steps is None or any(not _is_schedule(k) for k in keys - {steps}):
            return None, ""
        mine, other = self.run["settings"], theirs["settings"]
        reasons = [f"{k} is {other.get(k)}, here {mine.get(k)}" for k in sorted(keys - {steps})]
        if steps in keys:
            reasons += [
                f"model.{key} = {value} is a part of the updates, so all updates differ"
                for key, value in stretching(self.settings).items()
                if value and not f"{key}.".startswith(tuple(f"{i}." for i in stage.ignores))
            ]
            if not reasons and candidate.step > (same := stage.common(other[steps])):
                reasons.append(
                    f"with {steps} = {other[steps]:,}, here {mine[steps]:,}, the rates are equal "
                    f"for {same:,} updates (the schedule wsd shares more, with a warm-up of a "
                    "number of updates)"
                )
        state = _load(candidate.file)
        if state is None:
            return None, ""
        changed = differences(state.get("made_by", {}), self.made_by)
        reasons += [f"it was trained with {text}" for text in changed.values()]
        if not reasons and state.get("made_by") and not state["mixed"]:
            return self._continuation(candidate, state), ""
        lost = f"{candidate.step:,} updates and {state['spent'][1]:,.0f} CPU seconds"
        where = f"the stage '{stage.name}' of {candidate.source.path.name}"
        why = "; ".join(reasons) or "its own code or machine changed on the way"
        return None, f"Not continued: {where}, so {lost} are trained again. The reason: {why}."

    def _continuation(self, candidate: _Candidate, state: dict[str, Any]) -> Continuation:
        done = [stage.name for stage in self.stages[: candidate.number]]
        events = [e for e in candidate.source.events() if e["kind"] == "finished"]
        spent = {e["stage"]: e["spent"] for e in events if e["stage"] in done}
        name = self.stages[candidate.number].name
        at = candidate.source.path.name, candidate.number, name, candidate.step
        return Continuation(*at, state, spent)

    def _steps_key(self, number: int) -> str | None:
        """The setting that holds a stage's number of updates."""
        stage = self.stages[number]
        if stage.section != "model":
            return None
        names = [f"{stage.name}.steps", f"{stage.name}_steps", *(() if number else ("steps",))]
        counts = updates_of(self.settings)
        return next((f"model.{n}" for n in names if counts.get(n) == stage.steps), None)


def _is_schedule(key: str) -> bool:
    """Whether runs that differ in a setting are alike but for the schedule of their rates."""
    return key.rpartition(".")[2] in ("schedule", "warmup", "cooldown")


def _load(file: Path) -> dict[str, Any] | None:
    """A checkpoint's content; None where another process has removed it, or it is damaged."""
    named = parse_checkpoint(file.name)
    try:
        return read_tensors(file, named[2] if named else None, "cpu")
    except Damaged:
        return None
