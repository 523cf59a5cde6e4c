"""Exit of the command line at SIGTERM, until a command handles this signal itself."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOPPED_EXIT = 3


@contextmanager
def exit_when_terminated() -> Iterator[None]:
    """Let SIGTERM end the process at once with exit code 3.

    An exception could get lost, because Python ignores exceptions in some places, such as import
    callbacks.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: os._exit(STOPPED_EXIT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
