"""Tasks as jobs of a Slurm cluster, submitted by submitit (`pip install shala-bench[slurm]`)."""

from __future__ import annotations

import base64
import contextlib
import os
import pickle
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from shalabench.api import BenchError
from shalabench.api.stopping import STOPPED_EXIT
from shalabench.execute.backends import (
    LOOK,
    RETRIES,
    Cancelled,
    Event,
    Task,
    attempt_alone,
    is_over,
    sendable,
    unwrap,
)
from shalabench.execute.options import SlurmOptions

_NOTICE = 120  # seconds between the warning of a time limit and the limit
_LIMITS = 100  # time limits of one task, after which it ends where it is
_EVERY = 5.0  # seconds between two events of progress of one job
_OFTEN = ("progress", "evaluating")


class Slurm:
    """Jobs of one GPU node each, through a folder that all nodes share.

    Two minutes before its time limit a job gets a signal, its task ends well, and Slurm puts it
    into the queue again. So a job goes on without the command too. A job that dies is submitted
    again.

    Args:
        folder: For the jobs and their output; all nodes reach it by the same path.
        asked: What a job asks for.
        gpus: GPUs a task. With 0, tasks see no GPU.
        stop: Once set, all jobs are cancelled; they go on from their checkpoints next time.
        deadline: Time (seconds of the clock) from which on jobs are cancelled too; None for never.
        make_executor: Makes submitit's executor.

    Raises:
        BenchError: submitit is not installed, this machine cannot submit, or an option is wrong.
    """

    def __init__(
        self,
        folder: Path,
        asked: SlurmOptions,
        gpus: float,
        stop: threading.Event,
        deadline: float | None = None,
        make_executor: Callable[[Path, SlurmOptions, int], Any] | None = None,
    ):
        if gpus != int(gpus):
            raise BenchError(
                f"--gpus-per-run is {gpus:g}, and Slurm gives a job whole GPUs. Write a whole "
                "number, or share one between the processes of --jobs within a job of your own."
            )
        self._folder, self._is_over = folder, partial(is_over, stop, deadline)
        self._sees_gpus, self._array = gpus > 0, asked.array
        self._executor = (make_executor or _make_executor)(folder, asked, int(gpus))
        self._work: dict[str, _Work] = {}
        self._jobs: dict[str, Any] = {}
        self._read: dict[str, int] = {}  # bytes of the events, by key
        self._lost: dict[str, int] = {}  # jobs that died, by key
        self._results: dict[str, Any] = {}

    def submit(self, key: str, task: Task) -> None:
        events = self._folder / f"{uuid.uuid4().hex}.events"
        self._work[key] = _Work(task, events, self._sees_gpus)

    def events(self) -> Iterator[tuple[str, Event]]:
        self._folder.mkdir(parents=True, exist_ok=True)
        pending, cancelled = list(self._work), False
        try:
            self._hand_in(pending)
        except BenchError:
            self._cancel(list(self._jobs))
            raise
        while pending:
            if self._is_over() and not cancelled:
                cancelled = True
                self._cancel(pending)
            for key in list(pending):
                is_done = self._jobs[key].done()  # before the last events are read
                yield from self._received(key)
                if is_done:
                    state = self._collect(key)
                    if state is None:
                        pending.remove(key)
                        self._work[key].events.unlink(missing_ok=True)
                    else:
                        yield key, {"kind": "retried", "exit": state}
            if pending:
                time.sleep(LOOK)

    def result(self, key: str) -> Any:
        return unwrap(self._results[key])

    def _hand_in(self, keys: list[str]) -> None:
        """Submit the work of some keys, as one array if that is asked for."""
        together = self._executor.batch() if self._array and len(keys) > 1 else None
        try:
            with together or contextlib.nullcontext():
                for key in keys:
                    self._jobs[key] = self._executor.submit(self._work[key])
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise BenchError(
                f"Slurm does not take the job ({reason}). Correct --partition, --job-time, "
                "--gpus-per-run or --sbatch."
            ) from error

    def _cancel(self, keys: list[str]) -> None:
        for key in keys:
            self._jobs[key].cancel(check=False)

    def _collect(self, key: str) -> str | None:
        """Keep the result of a job that is done; if it has none, submit it again.

        Returns:
            How the job ended that was submitted again; None where the result is kept.
        """
        from submitit.core.utils import FailedJobError, UncompletedJobError

        job, log = self._jobs[key], self._jobs[key].paths.stderr
        try:
            self._results[key] = job.result()
        except FailedJobError as error:  # before the task began
            lines = [line for line in str(error).splitlines() if line.strip().strip("-")]
            reason = next((x for x in reversed(lines) if "Error" in x), lines[0])
            text = f"The job of run {key} failed: {reason.strip()} Its output is in {log}."
            self._results[key] = BenchError(text)
        except UncompletedJobError:
            state = str(job.state)
            self._lost[key] = self._lost.get(key, 0) + 1
            if self._is_over() or state.startswith("CANCELLED"):
                self._results[key] = Cancelled()
            elif self._lost[key] > RETRIES:
                self._results[key] = BenchError(
                    f"The job of run {key} died {self._lost[key]} times, the last time in state "
                    f"{state}. Its output is in {log}."
                )
            else:
                return self._again(key, state)
        return None

    def _again(self, key: str, state: str) -> str | None:
        try:
            self._hand_in([key])
        except BenchError as error:
            self._results[key] = error
            return None
        return state

    def _received(self, key: str) -> Iterator[tuple[str, Event]]:
        """Events of a job since the last look; a line that is not yet whole waits."""
        try:
            with self._work[key].events.open("rb") as file:
                file.seek(self._read.get(key, 0))
                content = file.read()
        except OSError:  # there are none yet
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._read[key] = self._read.get(key, 0) + len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(Exception):  # events are only shown; the result counts
                yield key, pickle.loads(base64.b64decode(line))


@dataclass(frozen=True)
class _Work:
    """What a job does; submitit pickles it, and `checkpoint` is what the next job does.

    Attributes:
        events: File to which events are appended, a line each.
        limits: Number of time limits that ended it before.
    """

    task: Task
    events: Path
    sees_gpus: bool
    limits: int = 0

    def __call__(self) -> Any:
        if not self.sees_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        stop, is_late = threading.Event(), threading.Event()

        def end(*_: object) -> None:
            is_late.set()
            stop.set()

        number = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
        requeue = signal.signal(number, end)  # submitit's, which would end the process at once
        shown: dict[str, float] = {}
        result = attempt_alone(self.task, lambda event: self._append(event, shown), stop)
        signal.signal(number, requeue)
        if is_late.is_set() and self.limits < _LIMITS and callable(requeue):
            requeue(number, None)  # does not return
        if stop.is_set() and not is_late.is_set():  # cancelled: there is no result
            raise SystemExit(STOPPED_EXIT)
        return sendable(result)

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(replace(self, limits=self.limits + 1))

    def _append(self, event: Event, shown: dict[str, float]) -> None:
        now, kind = time.monotonic(), event["kind"]
        if kind in _OFTEN and now - shown.get(kind, -_EVERY) < _EVERY:
            return
        shown[kind] = now
        with contextlib.suppress(Exception), self.events.open("ab") as file:
            file.write(base64.b64encode(pickle.dumps(event)) + b"\n")


def _make_executor(folder: Path, asked: SlurmOptions, gpus: int) -> Any:
    """submitit's executor for Slurm."""
    try:
        import submitit
    except ImportError as error:
        raise BenchError(
            "The engine 'slurm' needs submitit: pip install 'shala-bench[slurm]'."
        ) from error
    try:
        executor = submitit.SlurmExecutor(folder=folder / "%j", max_num_timeout=_LIMITS + 1)
    except RuntimeError as error:
        raise BenchError(
            "--engine slurm needs the commands of Slurm, and there is no srun here. Run it on a "
            "login node of the cluster."
        ) from error
    more = dict(asked.more)
    own: dict[str, Any] = {"partition": asked.partition} if asked.partition else {}
    own |= {"gpus_per_node": gpus} if gpus else {}
    if cpus := more.get("cpus-per-task"):  # since 22.05, srun does not take it from sbatch
        own["srun_args"] = [f"--cpus-per-task={cpus}"]
    executor.update_parameters(
        job_name="shala-bench",
        time=asked.minutes,
        signal_delay_s=min(_NOTICE, 20 * asked.minutes),
        additional_parameters=more,
        **own,
    )
    return executor
