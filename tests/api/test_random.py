"""Random numbers: what they may depend on, and that nothing else shows in them."""

from __future__ import annotations

import math

import pytest
import torch

from shalabench.api import Rng, choose_subsets, derive_seed
from shalabench.api.tape import KeyTape

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


def splitmix(x):
    """SplitMix64's finaliser of one number."""
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) % 2**64
    return x ^ x >> 31


def test_numbers_are_those_of_the_formula_bit_for_bit():
    golden, n, e, first = 0x9E3779B97F4A7C15, 40, 3, 7
    key = derive_seed(5, "call", 0)
    rows = [splitmix(((first + i) * golden + key) % 2**64) for i in range(n)]
    bits = [[splitmix((row + j * golden) % 2**64) for j in range(e)] for row in rows]
    high, low = (
        torch.tensor([[(x >> shift & 0x7FFFFF) + 0.5 for x in r] for r in bits]).float() / 2**23
        for shift in (40, 0)
    )
    normal = torch.sqrt(-2.0 * torch.log(high)) * torch.cos(2 * math.pi * low)
    u = high - 0.5
    laplace = -torch.sign(u) * torch.log1p(-2.0 * u.abs())
    expected = {"uniform": high, "normal": normal, "laplace": laplace}
    expected["integers"] = (high * 1000).long()
    for kind, draw in KINDS.items():
        assert torch.equal(draw(Rng(5, first=first), n, e), expected[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_large_draws_are_the_rows_of_small_ones(kind):
    whole = KINDS[kind](Rng(3), 5, 40_000)
    rows = [KINDS[kind](Rng(3, first=i), 1, 40_000) for i in range(5)]
    assert torch.equal(whole, torch.cat(rows))


def draws(rng):
    z = [rng.normal(4, 3), rng.fork("a", 1).uniform(4), rng.fork("a").fork(2).laplace(4)]
    return [*z, rng.integers(9, 4)]


def test_a_tape_gives_the_numbers_of_every_seed():
    tape = KeyTape()
    noted = draws(tape.note(3))
    assert all(map(torch.equal, noted, draws(Rng(3))))
    for seed in (3, 4, 2**62):
        rng = tape.replay()
        tape.fill(seed)
        assert all(map(torch.equal, draws(rng), draws(Rng(seed))))


def test_a_tape_refuses_other_draws_and_tells_no_seed():
    tape = KeyTape()
    tape.note(3).fork("a").normal(2)
    with pytest.raises(RuntimeError, match="not made"):
        tape.replay().fork("b").normal(2)
    with pytest.raises(AttributeError):
        tape.replay().seed  # noqa: B018
    with pytest.raises(RuntimeError, match="no tensor yet"):
        KeyTape().fill(0)


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
