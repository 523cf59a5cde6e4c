"""Tasks of engines, in a module of their own so that child processes can import them."""

from __future__ import annotations

import os
import signal


def double(x, emit, stop):
    emit({"kind": "seen", "x": x})
    return 2 * x


def fail(emit, stop):
    raise ValueError("as asked")


def die_until(folder, times, emit, stop):
    """Kill the process of the task the first `times` times."""
    (folder / str(os.getpid())).touch()
    if len(list(folder.iterdir())) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def end_well(folder, emit, stop):
    """Wait until all is to stop, as a run does that writes a checkpoint then."""
    (folder / f"{os.getpid()}").touch()
    emit({"kind": "ready"})
    stop.wait()
    return "stopped"
