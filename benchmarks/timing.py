"""Process CPU time on a machine that others use too."""

from __future__ import annotations

import time
from collections.abc import Callable


def best_times(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Smallest process CPU time of each piece of work, in seconds.

    They take turns, so that a busy spell of the machine strikes all of them and not one; each is
    called once more before the first measurement.

    Args:
        works: What to call, by name.
        repeats: Number of measurements of each.
    """
    for work in works.values():
        work()
    best = dict.fromkeys(works, float("inf"))
    for _ in range(repeats):
        for name, work in works.items():
            began = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - began)
    return best
