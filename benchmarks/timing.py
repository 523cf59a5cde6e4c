"""Process CPU time on a machine that others use too."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection


def best_times(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Smallest process CPU time of each piece of work, in seconds.

    Each runs in a forked process of its own, so that what one of them sets for its process, such as
    how the allocator treats freed memory, is not a present to the others. They take turns, so that
    a busy spell of the machine strikes all of them and not one. Each is called once more before
    the first measurement. This process keeps everything as it was.

    Args:
        works: What to call, by name.
        repeats: Number of measurements of each.
    """
    context = multiprocessing.get_context("fork")
    lines: dict[str, Connection] = {}
    for name, work in works.items():
        lines[name], far = context.Pipe()
        context.Process(target=_serve, args=(work, far), daemon=True).start()
        far.close()  # so that the death of the process is seen here
    best = dict.fromkeys(works, float("inf"))
    for turn in range(repeats + 1):
        for name, line in lines.items():
            line.send(True)
            try:
                seconds = line.recv()
            except EOFError:
                raise RuntimeError(f"'{name}' failed; its traceback is above.") from None
            best[name] = min(best[name], seconds) if turn else best[name]
    for line in lines.values():
        line.send(False)
    return best


def _serve(work: Callable[[], object], line: Connection) -> None:
    while line.recv():
        began = time.process_time()
        work()
        line.send(time.process_time() - began)
