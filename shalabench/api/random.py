"""Random numbers that depend on their purpose alone.

Every draw is a hash of (seed, number of the call, item, element). So a sample is the same in a
batch of one and in a batch of a thousand, on the CPU and on the GPU, in a fresh and in a resumed
run, and no generator state has to be stored.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_LISTED = 100_000  # subsets; larger numbers of them are sampled without listing all
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def derive_seed(*parts: object) -> int:
    """Derive a seed in [0, 2^63) from named parts: ``derive_seed(seed, "prior", epoch)``."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Rng:
    """Counter-based random numbers (SplitMix64), one independent stream for each item of a batch.

    The first dimension of every shape is the item: row r of a draw belongs to item `first + r`.
    Draw in the same order for the same result; `fork` gives a stream that no other draw disturbs.

    Args:
        seed: Any integer, usually from `derive_seed`.
        first: Number of the first item of the batch.
        device: Where the draws are made.
    """

    def __init__(self, seed: int, *, first: int = 0, device: torch.device | str = "cpu"):
        self.seed, self.first, self.device = seed, first, torch.device(device)
        self._calls = 0

    def fork(self, *names: object) -> Rng:
        """An independent stream for the same items, which does not depend on earlier draws."""
        return Rng(derive_seed(self.seed, *names), first=self.first, device=self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Float32 `shape`, uniform in (0, 1), both ends excluded."""
        return self._unit(self._bits(shape) >> 40)

    def normal(self, *shape: int) -> Tensor:
        """Float32 `shape`, standard normal (Box and Muller 1958)."""
        bits = self._bits(shape)
        radius = torch.sqrt(-2.0 * torch.log(self._unit(bits >> 40)))
        return radius * torch.cos(2 * math.pi * self._unit(bits))

    def laplace(self, *shape: int) -> Tensor:
        """Float32 `shape`, Laplace of mean 0 and scale 1, by inversion."""
        u = self.uniform(*shape) - 0.5
        return -torch.sign(u) * torch.log1p(-2.0 * u.abs())

    def integers(self, high: int, *shape: int) -> Tensor:
        """Int64 `shape`, uniform over 0 .. high - 1."""
        return (self.uniform(*shape) * high).long().clamp_(max=high - 1)

    def _unit(self, bits: Tensor) -> Tensor:
        # 23 bits and a half: u and 1 - u are exact in float32, and neither 0 nor 1 can occur.
        return ((bits & 0x7FFFFF).float() + 0.5) / 0x800000

    def _bits(self, shape: tuple[int, ...]) -> Tensor:
        key = derive_seed(self.seed, "call", self._calls)
        self._calls += 1
        items = torch.arange(self.first, self.first + shape[0], device=self.device)  # [B]
        rows = _mix(items * _signed(_GOLDEN) + _signed(key))  # [B]
        elements = torch.arange(math.prod(shape[1:]), device=self.device)  # [E]
        return _mix(rows[:, None] + elements * _signed(_GOLDEN)).view(shape)


def fixed_choice(n: int, wanted: int, *names: object) -> Tensor:
    """A random choice of numbers below `n`, ascending, the same in every run.

    Args:
        n: Size of the range.
        wanted: How many to choose; 0 or `n` and more give all.
        names: The purpose, which decides the choice.
    """
    if not wanted or wanted >= n:
        return torch.arange(n)
    order = Rng(derive_seed(*names, n)).uniform(n).argsort(stable=True)
    return order[:wanted].sort().values


def choose_subsets(
    names: Sequence[str], size: int, most: int, *purpose: object
) -> list[tuple[str, ...]]:
    """Subsets of some names, the same in every run.

    Args:
        names: The whole set.
        size: Names in each subset.
        most: The largest number of subsets.
        purpose: Decides the choice.
    """
    total = math.comb(len(names), size)
    if total <= _LISTED:
        every = list(combinations(names, size))
        return [every[i] for i in fixed_choice(total, most, *purpose).tolist()]
    draws = Rng(derive_seed(*purpose, total)).uniform(2 * most, len(names)).argsort(1)
    chosen = dict.fromkeys(tuple(sorted(draw)) for draw in draws[:, :size].tolist())
    return [tuple(names[i] for i in subset) for subset in list(chosen)[:most]]


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _mix(x: Tensor) -> Tensor:
    # SplitMix64's finaliser. Torch's >> keeps the sign, so the shifted-in bits are masked away.
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(_MIX[0])
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(_MIX[1])
    return x ^ ((x >> 31) & ((1 << 33) - 1))
