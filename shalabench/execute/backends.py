"""Where runs are carried out: in this process, in one process each, or on a Ray cluster.

Jobs of Slurm are in `shalabench.execute.slurm`.

An engine knows submit, events and result, and nothing else. Resuming belongs to the run, not to the
engine: a task that is started again goes on from its checkpoint in the store.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol, cast

from shalabench.api import BenchError
from shalabench.execute.gpus import Shares

Event = dict[str, Any]
Emit = Callable[[Event], None]
Task = Callable[[Emit, threading.Event], Any]
"""Does one run's work, reports events and ends well once the second argument is set.

It can be pickled for the engines that cross a process.
"""

RETRIES = 2
LOOK = 1.0  # seconds between looks at whether to stop


def is_over(stop: threading.Event, deadline: float | None) -> bool:
    """Whether all work is to stop; a deadline is a time in seconds of the clock."""
    return stop.is_set() or (deadline is not None and time.time() >= deadline)


class Cancelled(Exception):
    """A task did not begin, or was cancelled, because all work was to stop."""


@contextlib.contextmanager
def setting_on_signals(stop: threading.Event) -> Iterator[None]:
    """Let an interrupt or a termination set an event in place of ending the process.

    Only the main thread can; on another one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda *_: stop.set())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Start processes with SIGINT blocked, until they can end well on it (`attempt_alone`).

    Ctrl-C reaches all processes of a terminal. One that still imports would end in a traceback.
    """
    resource_tracker.ensure_running()  # its start unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Engine(Protocol):
    """Carries out tasks."""

    def submit(self, key: str, task: Task) -> None:
        """Take a task under a key that is unique within the engine."""

    def events(self) -> Iterator[tuple[str, Event]]:
        """Carry out what was submitted; yields (key, event) until all of it has ended."""

    def result(self, key: str) -> Any:
        """What a task returned; the exception that ended it is raised.

        Raises:
            Cancelled: All work stopped before the task was done.
        """


class InProcess:
    """One task after another in this process, on a thread, so that events flow meanwhile.

    Args:
        stop: Once set, no further task begins. A running one is handed it.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._tasks: dict[str, Task] = {}
        self._results: dict[str, Any] = {}

    def submit(self, key: str, task: Task) -> None:
        self._tasks[key] = task

    def events(self) -> Iterator[tuple[str, Event]]:
        happened: queue.Queue[tuple[str, Event] | None] = queue.Queue()

        def work() -> None:
            try:
                while self._tasks:
                    key = next(iter(self._tasks))
                    task = self._tasks.pop(key)
                    if self._stop.is_set():
                        self._results[key] = Cancelled()
                        continue
                    emit = functools.partial(_put, happened, key)
                    self._results[key] = _attempt(task, emit, self._stop)
            finally:
                happened.put(None)

        thread = threading.Thread(target=work, name="runs")
        thread.start()
        try:
            while (item := happened.get()) is not None:
                yield item
        finally:
            thread.join()

    def result(self, key: str) -> Any:
        return unwrap(self._results[key])


class _Running(NamedTuple):
    """A process that carries out a task."""

    key: str
    task: Task
    attempt: int  # attempts before
    gpu: str | None  # its CUDA_VISIBLE_DEVICES
    process: Any


class Processes:
    """At most `jobs` processes, one a task; a task whose process dies is started again twice.

    Args:
        jobs: Number of processes at a time.
        stop: Once set, no further task begins and the running processes are terminated, which
            sets the event that their task was handed.
        gpus: Names of the GPUs, of which a process sees one; with none, it sees no GPU. None leaves
            it what this process sees.
    """

    def __init__(self, jobs: int, stop: threading.Event, gpus: Sequence[str] | None = None):
        self._jobs, self._stop, self._shares = jobs, stop, Shares(gpus)
        self._waiting: list[tuple[str, Task, int]] = []
        self._results: dict[str, Any] = {}

    def submit(self, key: str, task: Task) -> None:
        self._waiting.append((key, task, 0))

    def events(self) -> Iterator[tuple[str, Event]]:
        context = multiprocessing.get_context("spawn")
        running: dict[Connection, _Running] = {}
        ending = False
        try:
            while self._waiting or running:
                if self._stop.is_set() and not ending:  # a second signal would cut an ending short
                    ending = True
                    self._results |= {key: Cancelled() for key, _, _ in self._waiting}
                    self._waiting.clear()
                    for begun in running.values():
                        begun.process.terminate()
                while self._waiting and len(running) < self._jobs:
                    key, task, attempt = self._waiting.pop(0)
                    ours, theirs = context.Pipe(duplex=False)
                    gpu = self._shares.take()
                    process = context.Process(target=_serve, args=(task, theirs, gpu), name=key)
                    with _starting():
                        process.start()
                    theirs.close()
                    running[ours] = _Running(key, task, attempt, gpu, process)
                for pipe in cast("list[Connection]", wait(list(running), LOOK)):
                    yield from self._receive(pipe, running)
        finally:
            for begun in running.values():
                begun.process.terminate()  # the task checkpoints and ends
                begun.process.join()

    def _receive(
        self, pipe: Connection, running: dict[Connection, _Running]
    ) -> Iterator[tuple[str, Event]]:
        key, task, attempt, gpu, process = running[pipe]
        try:
            kind, content = pipe.recv()
        except (EOFError, OSError):  # also where it died while it wrote
            del running[pipe]
            process.join()
            self._shares.give_back(gpu)
            if key in self._results:
                return
            if self._stop.is_set():
                self._results[key] = Cancelled()
            elif attempt < RETRIES:
                self._waiting.append((key, task, attempt + 1))
                yield key, {"kind": "retried", "exit": process.exitcode}
            else:
                message = f"The process of run {key} died {attempt + 1} times, the last time with "
                self._results[key] = BenchError(f"{message}exit code {process.exitcode}.")
            return
        if kind == "event":
            yield key, content
        else:
            self._results[key] = content

    def result(self, key: str) -> Any:
        return unwrap(self._results[key])


class Ray:
    """Tasks on a Ray cluster that the user runs (`pip install shala-bench[ray]`).

    Args:
        address: Of the cluster, or "auto".
        gpus: GPUs a task, which may be a fraction. With 0, tasks see no GPU.
        stop: Once set, all tasks are cancelled; they go on from their checkpoints next time.
        deadline: Time (seconds of the clock) from which on all tasks are cancelled too, among them
            those that wait for a GPU; None for never.

    Raises:
        BenchError: Ray is not installed or the cluster does not answer.
    """

    def __init__(
        self, address: str, gpus: float, stop: threading.Event, deadline: float | None = None
    ):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
            from ray.util.queue import Queue
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
        except ImportError as error:
            raise BenchError(
                "The engine 'ray' needs Ray: pip install 'shala-bench[ray]'."
            ) from error
        on_termination = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise BenchError(
                f"No Ray cluster answers at '{address}' ({reason}). Start one with `ray start "
                "--head`, or name another with --address. If it asks for a token, set "
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to that of its nodes."
            ) from error
        finally:  # Ray's own handler would end the driver before the tasks are stopped
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_termination)
        self._ray, self._gpus = ray, gpus
        self._is_over = functools.partial(is_over, stop, deadline)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._happened = Queue(  # on the driver's node: those of the tasks may be lost
            actor_options={"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
        )
        self._remote = ray.remote(num_gpus=gpus, num_cpus=1, max_retries=RETRIES)(_serve_remote)
        self._handles: dict[str, Any] = {}

    def submit(self, key: str, task: Task) -> None:
        self._handles[key] = self._remote.remote(key, task, self._happened, self._gpus > 0)

    def events(self) -> Iterator[tuple[str, Event]]:
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        most = max((resources.get("GPU", 0) for resources in alive), default=0)
        if self._gpus > most:
            text = (
                f"a run takes {self._gpus:g} GPUs and no node has more than {most:g}, so runs wait "
                "until one joins. With --gpus-per-run 0 they take none."
            )
            yield "ray", {"kind": "waiting", "text": text}
        pending = list(self._handles.values())
        while pending:
            _, pending = self._ray.wait(pending, num_returns=len(pending), timeout=LOOK)
            if self._is_over():
                for handle in pending:
                    self._ray.cancel(handle)
            yield from self._received()

    def _received(self) -> Iterator[tuple[str, Event]]:
        from ray.util.queue import Empty

        try:
            while True:
                yield self._happened.get_nowait()
        except (Empty, self._ray.exceptions.RayError):  # events are only shown
            return

    def result(self, key: str) -> Any:
        try:
            return unwrap(self._ray.get(self._handles[key]))
        except self._ray.exceptions.RayError as error:
            if self._is_over():
                raise Cancelled from error
            raise BenchError(f"Run {key} was lost on the Ray cluster: {error}") from error


def _attempt(task: Task, emit: Emit, stop: threading.Event) -> Any:
    try:
        return task(emit, stop)
    except Exception as error:  # handed to the caller of `result`
        return error
    except SystemExit as error:  # would end the thread or process without a result
        return BenchError(
            f"The code of the run asked Python to exit ({error.code!r}). Let it raise another "
            "exception in place of SystemExit."
        )


def unwrap(result: Any) -> Any:
    """What a task returned; the exception that it ended with is raised."""
    if isinstance(result, Exception):
        raise result
    return result


def _put(happened: Any, key: str, event: Event) -> None:
    happened.put((key, event))


def attempt_alone(task: Task, emit: Emit, stop: threading.Event) -> Any:
    """What a task returns or raises in a process of its own, which ends well on a signal."""
    with setting_on_signals(stop):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return _attempt(task, emit, stop)


def _serve(task: Task, pipe: Connection, gpu: str | None = None) -> None:
    """Carry out a task and report to the driver; without a driver, end as on a termination."""
    if gpu is not None:  # torch reads it when a GPU is first used
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    stop = threading.Event()
    threading.Thread(target=_watch_driver, args=(stop,), name="driver", daemon=True).start()

    def send(kind: str, content: Any) -> None:
        try:
            pipe.send((kind, content))
        except OSError:  # the driver died
            stop.set()

    with pipe:
        result = attempt_alone(task, functools.partial(send, "event"), stop)
        send("result", sendable(result))


def _watch_driver(stop: threading.Event) -> None:
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        stop.set()


def sendable(result: Any) -> Any:
    """A result, or in its place a description of an exception that does not survive pickling."""
    try:
        pickle.loads(pickle.dumps(result))
    except Exception as error:  # of a class that cannot be made anew from its arguments
        cause = result if isinstance(result, Exception) else error
        return BenchError(f"{type(cause).__name__}: {cause}")
    return result


def _serve_remote(key: str, task: Task, happened: Any, sees_gpus: bool) -> Any:
    if not sees_gpus:  # from Ray 2.56 on, a task without GPUs would see all of its node
        os.environ["CUDA_VISIBLE_DEVICES"] = ""

    def emit(event: Event) -> None:
        with contextlib.suppress(Exception):  # events are only shown; the result counts
            _put(happened, key, event)

    return attempt_alone(task, emit, threading.Event())
