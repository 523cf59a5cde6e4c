"""Random numbers: what they may depend on, and that nothing else shows in them."""

from __future__ import annotations

import math

import pytest
import torch

from shalabench.api import Rng, choose_subsets

pytestmark = pytest.mark.float64

KINDS = {
    "uniform": lambda rng, *shape: rng.uniform(*shape),
    "normal": lambda rng, *shape: rng.normal(*shape),
    "laplace": lambda rng, *shape: rng.laplace(*shape),
    "integers": lambda rng, *shape: rng.integers(1000, *shape),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_no_draw_depends_on_how_items_are_batched(kind, shape):
    def drawn(first, n):
        rng = Rng(3, first=first)
        rng.normal(n)  # an earlier draw
        return torch.cat(
            [KINDS[kind](r, n, *shape).reshape(n, -1) for r in (rng, rng.fork("a"))], 1
        )

    for parts in ((8,), (3, 1, 4), (1,) * 8):
        starts = [sum(parts[:i]) for i in range(len(parts))]
        pieces = [drawn(start, n) for start, n in zip(starts, parts, strict=True)]
        assert torch.equal(drawn(0, 8), torch.cat(pieces))


@pytest.mark.parametrize("kind", KINDS)
def test_calls_forks_seeds_and_items_are_uncorrelated(kind):
    rng, n = Rng(3), 100_000
    streams = [KINDS[kind](rng, n), KINDS[kind](rng, n), KINDS[kind](rng.fork("a"), n)]
    streams += [KINDS[kind](Rng(4), n), KINDS[kind](Rng(3, first=1), n)]  # the last: next items
    streams += list(KINDS[kind](rng.fork("b"), n, 2).T)
    table = torch.corrcoef(torch.stack([s.double() for s in streams]))
    assert (table - torch.eye(len(streams))).abs().max() < 5 / n**0.5


def test_uniform_numbers_exclude_both_ends_and_every_draw_is_finite():
    rng = Rng(0)
    u = rng.uniform(2_000_000)
    assert u.min() > 0
    assert u.max() < 1
    assert rng.normal(2_000_000).isfinite().all()
    assert rng.laplace(2_000_000).isfinite().all()


@pytest.mark.parametrize(("n", "size"), [(5, 2), (5, 5), (12, 6), (64, 10)])
def test_subsets_are_distinct_in_order_the_same_each_time_and_never_all_listed(n, size):
    names = [f"v{i:02d}" for i in range(n)]
    found = choose_subsets(names, size, 6, "test", size)
    assert found == choose_subsets(names, size, 6, "test", size)
    assert len(set(found)) == len(found) == min(6, math.comb(n, size))
    assert all(len(set(subset)) == size and sorted(subset) == list(subset) for subset in found)
