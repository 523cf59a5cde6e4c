"""Tasks of engines, in a module of their own so that child processes can import them."""

from __future__ import annotations

import os
import signal
import time


def double(x, emit, stop):
    emit({"kind": "seen", "x": x})
    return 2 * x


def fail(emit, stop):
    raise ValueError("as asked")


def leave(emit, stop):
    raise SystemExit("as asked")


def die_until(folder, times, emit, stop):
    """Kill the process of the task the first `times` times."""
    (folder / str(os.getpid())).touch()
    if len(list(folder.iterdir())) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def lose_node_once(folder, emit, stop):
    """Kill the node of the task, whose process is a child of it, the first time."""
    life = len(list(folder.iterdir()))
    (folder / str(os.getpid())).touch()
    emit({"kind": "seen", "life": life})
    if life == 0:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def see_gpus(emit, stop):
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def end_at_the_second_limit(folder, emit, stop):
    """Wait for the end of the job; the second one returns the files that the first has left."""
    found = sorted(file.name for file in folder.iterdir())
    if found:
        return found
    emit({"kind": "ready", "pid": os.getpid()})
    stop.wait()
    (folder / "checkpoint").touch()
    return "too late to be read"


def end_well(folder, emit, stop):
    """Wait until all is to stop, as a run does that writes a checkpoint then."""
    (folder / f"{os.getpid()}").touch()
    emit({"kind": "ready"})
    stop.wait()
    return "stopped"


def report_until_told(folder, emit, stop):
    """Report until all is to stop, then leave a file, as a run leaves a checkpoint."""
    (folder / f"{os.getpid()}-began").touch()
    while not stop.is_set():
        emit({"kind": "seen"})
        time.sleep(0.01)
    (folder / f"{os.getpid()}-ended").touch()
    return "stopped"


def wait_until_told(folder, emit, stop):
    """The same without any report."""
    (folder / f"{os.getpid()}-began").touch()
    stop.wait()
    (folder / f"{os.getpid()}-ended").touch()
    return "stopped"


class Awkward(Exception):
    """Pickles, and cannot be made anew from what was pickled."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def fail_awkwardly(emit, stop):
    raise Awkward("this", "that")
