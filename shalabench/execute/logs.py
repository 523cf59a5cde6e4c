"""Logs in the forms of experiment trackers, made by the command from what its runs have recorded.

The events of the runs only say when there is something new. What is written comes from each run's
folder: `run.json`, `events.jsonl` and `results`. So the log has the values of the record, whichever
process or node trains, and a later command completes a log that an earlier one has begun. A thread
of its own writes, so that a slow tracker holds up no run.
"""

from __future__ import annotations

import json
import math
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shalabench.api.errors import BenchError
from shalabench.execute.options import Outcome
from shalabench.execute.trackers import Open, Subject, Writer, find_trackers
from shalabench.records.reading import terms_of
from shalabench.records.store import RunFolder, read_json, write_whole

_EVERY = 5.0  # seconds between looks at a run's folder
_PATIENCE = 60.0  # seconds that a command waits at its end for slow trackers
_ENDS = {"done": "done", "already": "done", "stopped": "stopped"} | dict.fromkeys(
    ("failed", "diverged"), "failed"
)


@dataclass
class Place:
    """How far a log has come, in `logs/<tracker>.json` of the run's folder.

    Attributes:
        identity: By which the tracker knows the run; None before the log is begun.
        steps: The last step that is written, by stage.
        results: The files of the evaluations that are written.
        count: Number of steps and evaluations written.
    """

    identity: str | None = None
    steps: dict[str, int] = field(default_factory=dict)
    results: list[str] = field(default_factory=list)
    count: int = 0


@dataclass(frozen=True)
class Step:
    """Values that go into a log together; the fields are arguments of `Writer.write`."""

    group: str
    values: dict[str, float]
    step: int
    time: float


class RunLog:
    """The log of one run in one tracker.

    Args:
        name: Of the tracker.
        open: Of the tracker.
        subject: The run.
    """

    def __init__(self, name: str, open: Open, subject: Subject):
        self._open, self._subject = open, subject
        self._file = subject.folder.path / "logs" / f"{name}.json"
        self._place = _read(self._file)
        self._writer: Writer | None = None

    def catch_up(self) -> None:
        """Write what the run has recorded and the log does not have."""
        for step in self._news():
            writer = self._opened()
            writer.write(step.group, step.values, step.step, step.time, self._place.count)
            self._place.count += 1
        if self._place.identity is None:
            self._opened()
        if self._writer:
            self._writer.flush()
            content = json.dumps(asdict(self._place), indent=1)
            write_whole(self._file, content.encode())

    def close(self, status: str) -> None:
        """End the log; the argument is that of `Writer.close`."""
        if self._writer:
            writer, self._writer = self._writer, None
            writer.close(status)

    def _opened(self) -> Writer:
        if self._writer is None:
            self._writer = self._open(self._subject, self._place.identity)
            self._place.identity = self._writer.identity
        return self._writer

    def _news(self) -> Iterator[Step]:
        """What is new; a step that was trained again after an interruption is not."""
        folder, place = self._subject.folder, self._place
        for event in folder.events():
            if event["kind"] != "progress":
                continue
            stage, step = event["stage"], event["step"]
            if step > place.steps.get(stage, 0):
                yield Step(stage, _named(stage, terms_of(event)), step, event["time"])
                place.steps[stage] = step
        for name in folder.result_names():
            if name not in place.results:
                try:
                    result = folder.result(name)
                except BenchError:  # a damaged one, which the next evaluation replaces
                    continue
                done = result.get("provenance", {}).get("finished", time.time())
                split = result["split"]
                scores = _named(split, {_describe(s): s["value"] for s in result["scores"]})
                yield Step(split, scores, sum(place.steps.values()), done)
                place.results.append(name)


class Logs:
    """The logs of the runs of a command; use it as a context.

    Nothing that a tracker raises ends a run: it is reported once, and that tracker is left out.

    Args:
        names: Of the trackers; without any, nothing is done.
        store: Folder of the runs.
        say: Shows a sentence.

    Raises:
        BenchError: The package of a tracker is not installed.
    """

    def __init__(self, names: tuple[str, ...], store: Path, say: Callable[[str], None]):
        self._trackers, self._store, self._say = find_trackers(names, store), store, say
        self._looked: dict[Path, float] = {}
        self._open: dict[tuple[str, Path], RunLog] = {}
        self._work: queue.Queue[tuple[Path, str] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._carry_out, name="logs", daemon=True)

    def __enter__(self) -> Logs:
        if self._trackers:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._trackers:
            return
        self._work.put(None)
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            self._say(
                f"{' and '.join(self._trackers)} did not end within {_PATIENCE:g} s, so logs may "
                "lack the last values. Run the same command again to complete them."
            )

    def follow(self, folder: Path | None) -> None:
        """Something has happened in a run.

        Args:
            folder: Where it is recorded; None if that is not known.
        """
        now = time.monotonic()
        if folder and self._trackers and now - self._looked.get(folder, -math.inf) >= _EVERY:
            self._looked[folder] = now
            self._work.put((folder, ""))

    def end(self, outcome: Outcome) -> None:
        """A run has ended, or had before the command began."""
        if self._trackers and outcome.folder and outcome.status in _ENDS:
            self._work.put((outcome.folder, _ENDS[outcome.status]))

    def _carry_out(self) -> None:
        while (item := self._work.get()) is not None:
            folder = RunFolder(item[0])
            if folder.has_description():  # a packed one has no folder
                for name in list(self._trackers):
                    self._guarded(name, folder, item[1])
        for name, path in list(self._open):  # of runs whose end was not reported
            if name in self._trackers:
                self._guarded(name, RunFolder(path), "stopped")

    def _guarded(self, name: str, folder: RunFolder, end: str) -> None:
        """Bring a log up to date and close it if the run has ended."""
        try:
            key = (name, folder.path)
            if key not in self._open:
                self._open[key] = RunLog(name, self._trackers[name], Subject(folder, self._store))
            self._open[key].catch_up()
            if end:
                self._open.pop(key).close(end)
        except Exception as error:  # of a tracker's code; the training matters more
            del self._trackers[name]
            self._open = {k: log for k, log in self._open.items() if k[0] != name}
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            self._say(
                f"The log in {name} ends here ({type(error).__name__}: {reason}). The runs go on; "
                f"the same command completes the log later."
            )


def _read(file: Path) -> Place:
    """How far a log has come; the beginning where no file says so."""
    if not file.exists():
        return Place()
    try:
        return Place(**read_json(file))
    except (BenchError, TypeError):  # damaged: a new log is better than a wrong one
        return Place()


def _named(group: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Finite values under names that every tracker takes."""
    return {
        re.sub(r"[^\w./-]", "_", f"{group}/{name}"): float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _describe(score: Mapping[str, Any]) -> str:
    """The name of a score: the metric, then given and target modalities, such as m0.m1-to-m2."""
    given, target = ".".join(score["given"]), score["target"]
    way = f"{given}-to-{target or 'all'}" if given else target
    return f"{score['metric']}/{way}" if way else score["metric"]
