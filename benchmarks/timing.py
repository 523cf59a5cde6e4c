"""What the benchmarks share: CPU time on a busy machine, and operations of a piece of work.

Importing this module puts the project's root on the import path, so the scripts run uninstalled. It
is this tree, or the one that the environment variable SHALA_BENCH_TREE names, for
measurements of another commit.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

ROOT = Path(__file__).parent.parent
TREE = "SHALA_BENCH_TREE"
sys.path.insert(0, os.environ.get(TREE, str(ROOT)))

Work = Callable[[], object]


def keep_memory(work: Work) -> Work:
    """The same work in a process that keeps freed memory, as training does."""
    from shalabench.execute.inputs import keep_freed_memory

    def run() -> None:
        keep_freed_memory()
        work()

    return run


def cpu_seconds(work: Work) -> float:
    """Process CPU time of a piece of work."""
    began = time.process_time()
    work()
    return time.process_time() - began


def best_times(works: dict[str, Work], repeats: int) -> dict[str, float]:
    """Smallest process CPU time of each piece of work, in seconds; see `take_turns`."""
    return {name: min(times) for name, times in take_turns(works, repeats).items()}


def take_turns(works: dict[str, Work], repeats: int) -> dict[str, list[float]]:
    """Process CPU times of each piece of work, in seconds.

    Each piece runs in a forked process of its own, so its settings (such as how the allocator
    treats freed memory) do not reach the others. The pieces take turns, so a busy spell of the
    machine slows all of them. The first turn warms up and is not counted.

    Args:
        works: What to call, by name.
        repeats: Number of measurements of each.
    """
    _works.update(works)  # forked processes see it; closures cannot be sent to them
    fork = multiprocessing.get_context("fork")
    with ExitStack() as stack:
        pools = {name: stack.enter_context(ProcessPoolExecutor(1, fork)) for name in works}
        turns = [
            [pool.submit(_seconds, name).result() for name, pool in pools.items()]
            for _ in range(repeats + 1)
        ]
    return dict(zip(works, map(list, zip(*turns[1:], strict=True)), strict=True))


_works: dict[str, Work] = {}


def _seconds(name: str) -> float:
    return cpu_seconds(_works[name])


def ratio_of_medians(
    old: list[list[float]], new: list[list[float]], draws: int = 1000
) -> tuple[float, float, float]:
    """Median of the old times over that of the new ones, and a 95 % interval.

    The interval is a bootstrap over turns, each with the times of both sides, so a busy spell of
    the machine is drawn or left out for both.

    Args:
        old: Times by turn.
        new: Times by turn, as many turns.
        draws: Of the bootstrap, from seed 0.

    Returns:
        The ratio (above 1 where the new side is faster), its lower and its upper limit.
    """

    def ratio(turns: Iterable[int]) -> float:
        chosen = list(turns)
        a, b = ([x for i in chosen for x in side[i]] for side in (old, new))
        return median(a) / median(b)

    n, rng = len(old), np.random.default_rng(0)
    drawn = [ratio(rng.integers(n, size=n)) for _ in range(draws)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return ratio(range(n)), float(low), float(high)


def describe_processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class Meter(TorchDispatchMode):
    """Counts operations.

    It uses the rules of torch's FlopCounterMode. Unlike that class, it allows methods that take
    gradients within a forward pass (short-run Langevin).

    Attributes:
        flops: Multiplications and additions of convolutions and matrix products so far.
    """

    def __init__(self):
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        self.flops += _count_flops(func._overloadpacket, args, kwargs, made)
        return made


def _count_flops(operation: Any, args: tuple, kwargs: dict, made: Any) -> int:
    """By torch's rule, which counts a grouped convolution's weight gradient once a group."""
    rule = flop_registry.get(operation)
    if rule is None:
        return 0
    if operation is not torch.ops.aten.convolution_backward:
        return rule(*args, **kwargs, out_val=made)
    *given, groups, (inputs, weights, _) = args
    parts = (inputs, False, False), (False, weights, False)
    back, grown = (rule(*given, groups, mask, **kwargs, out_val=made) for mask in parts)
    return back + grown // groups
