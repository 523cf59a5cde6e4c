#!/usr/bin/env bash
# rliable 1.2.0: random_state should make the intervals reproducible (documentation), but has no effect.
# Both of its bootstraps draw their indices by numpy.random.choice, that is from NumPy's global generator.
# So the same scores with the same random_state have another interval in each call, and one that is near a
# threshold has another verdict. A different random_state gives the same interval if numpy.random.seed is
# called before. An interval also depends on what was drawn before, such as the order of the methods.
# The bootstraps of arch, which rliable extends, use the state that they are given.
# No upstream issue found. Call numpy.random.seed before each interval.
# This matters for users who compute intervals from records of this project (docs/python.md) with rliable.
# Here, the bootstrap has a generator of its own for each number of items (shalabench/metrics/scores.py).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'rliable==1.2.0' 'arch==7.2.0' 'numpy==2.4.6' 'pandas==2.3.3'
"$work/venv/bin/python" -W ignore - << 'END'
from importlib.metadata import version

import numpy as np
from arch.bootstrap import IIDBootstrap
from rliable import library, metrics

print(*(f"{name} {version(name)}" for name in ("rliable", "arch", "numpy")))
draw = np.random.default_rng(3)
ours, theirs = draw.normal(0.68, 0.1, (5, 4)), draw.normal(0.60, 0.1, (5, 4))  # runs x tasks


def mean(x):
    return np.array([metrics.aggregate_mean(x)])


def difference(x, y):
    return mean(x) - mean(y)


def interval(scores, function, seed):
    """95 % by 2,000 replications."""
    state = np.random.RandomState(seed)
    _, found = library.get_interval_estimates(
        {"scores": scores}, function, reps=2000, random_state=state
    )
    return tuple(found["scores"].ravel().tolist())


def show(name, found):
    print(f"{name}:", *(f"[{low:+.5f}, {high:+.5f}]" for low, high in found))


np.random.seed(0)
for name, scores, function in (
    ("mean", ours, mean),
    ("difference of two methods", [ours, theirs], difference),
):
    same = [interval(scores, function, 7) for _ in range(5)]
    show(f"{name}, random_state 7, five calls", same)
    assert len(set(same)) == 5, "The same state now gives the same interval."
    other = []
    for seed in (7, 8):
        np.random.seed(1)
        other.append(interval(scores, function, seed))
    show(f"{name}, random_state 7 and 8, numpy.random.seed(1) before each", other)
    assert other[0] == other[1], "The state now matters."
above = sum(low > 0 for low, _ in same)
print(f"difference above 0 by the interval, with random_state 7: in {above} of 5 calls")
assert 0 < above < 5
plain = [
    tuple(IIDBootstrap(ours, seed=np.random.RandomState(7)).conf_int(mean, reps=200).ravel())
    for _ in range(2)
]
show("arch's own bootstrap over runs, state 7, two calls", plain)
assert plain[0] == plain[1], "arch no longer uses its state."
END
