"""Random numbers that depend on their purpose alone.

Every draw is a hash of (seed, number of the call, item, element). So a sample is the same in a
batch of one and in a batch of a thousand, on the CPU and on the GPU, in a fresh and in a resumed
run, and no generator state has to be stored.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_CACHED = 1 << 16  # numbers drawn at a time on a CPU, so that they stay in its cache
_LISTED = 100_000  # subsets; larger numbers of them are sampled without listing all


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def derive_seed(*parts: object) -> int:
    """Derive a seed in [0, 2^63) from named parts: ``derive_seed(seed, "prior", epoch)``."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Rng:
    """Counter-based random numbers (SplitMix64), one independent stream for each item of a batch.

    The first dimension of every shape is the item: row r of a draw belongs to item `first + r`.
    Draws depend on their order. `fork` returns a stream that does not depend on other draws.

    Args:
        seed: Any integer, usually from `derive_seed`.
        first: Number of the first item of the batch.
        device: Device of the draws.
        temperature: Factor of normal and Laplace draws; None is 1 until `tempered` sets it.
    """

    def __init__(
        self,
        seed: int,
        *,
        first: int = 0,
        device: torch.device | str = "cpu",
        temperature: float | None = None,
    ):
        self.seed, self.first, self.device = seed, first, torch.device(device)
        self.temperature = temperature
        self._calls = 0

    def fork(self, *names: object) -> Rng:
        """An independent stream for the same items, which does not depend on earlier draws."""
        seed = derive_seed(self.seed, *names)
        return Rng(seed, first=self.first, device=self.device, temperature=self.temperature)

    def tempered(self, temperature: float) -> Rng:
        """The same stream from its beginning, with a temperature.

        A temperature that is set already stays. So of nested samplers, the outermost determines it.
        """
        if self.temperature is not None:
            temperature = self.temperature
        return Rng(self.seed, first=self.first, device=self.device, temperature=temperature)

    def uniform(self, *shape: int) -> Tensor:
        """Float32 `shape`, uniform in (0, 1), both ends excluded."""
        return self._draw(shape, _uniform)

    def normal(self, *shape: int) -> Tensor:
        """Float32 `shape`, standard normal (Box and Muller 1958) times the temperature."""
        return self._warm(self._draw(shape, _normal))

    def laplace(self, *shape: int) -> Tensor:
        """Float32 `shape`, Laplace of mean 0 and scale 1, by inversion, times the temperature."""
        u = self.uniform(*shape) - 0.5
        return self._warm(u.sign().neg_().mul_(u.abs_().mul_(-2.0).log1p_()))

    def integers(self, high: int, *shape: int) -> Tensor:
        """Int64 `shape`, uniform over 0 .. high - 1."""
        return (self.uniform(*shape) * high).long().clamp_(max=high - 1)

    def _warm(self, noise: Tensor) -> Tensor:
        return noise if self.temperature in (None, 1.0) else noise.mul_(self.temperature)

    def _draw(self, shape: tuple[int, ...], law: Callable[[Tensor], Tensor]) -> Tensor:
        items = torch.arange(self.first, self.first + shape[0], device=self.device)  # [B]
        rows = _mix(items.mul_(_GOLDEN).add_(self._key()))[:, None]  # [B, 1]
        elements = torch.arange(math.prod(shape[1:]), device=self.device).mul_(_GOLDEN)  # [E]
        size = max(1, _CACHED // max(len(elements), 1))
        if self.device.type != "cpu" or shape[0] <= size:
            return law(rows + elements).view(shape)
        drawn = torch.empty(shape[0], len(elements), dtype=torch.float32)
        for some, out in zip(rows.split(size), drawn.split(size), strict=True):
            out.copy_(law(some + elements))
        return drawn.view(shape)

    def _key(self) -> int | Tensor:
        """The key of the next draw: a number, or a 0-d tensor on the device."""
        key = derive_seed(self.seed, "call", self._calls)
        self._calls += 1
        return key


def fixed_choice(n: int, wanted: int, *names: object) -> Tensor:
    """A random choice of numbers below `n`, ascending, the same in every run.

    Args:
        n: Size of the range.
        wanted: How many to choose; 0 or `n` and more give all.
        names: Purpose of the choice. Another purpose gives another choice.
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
        purpose: Purpose of the choice. Another purpose gives another choice.
    """
    total = math.comb(len(names), size)
    if total <= _LISTED:
        every = list(combinations(names, size))
        return [every[i] for i in fixed_choice(total, most, *purpose).tolist()]
    draws = Rng(derive_seed(*purpose, total)).uniform(2 * most, len(names)).argsort(1)
    chosen = dict.fromkeys(tuple(sorted(draw)) for draw in draws[:, :size].tolist())
    return [tuple(names[i] for i in subset) for subset in list(chosen)[:most]]


def _mix(x: Tensor) -> Tensor:
    # SplitMix64's finaliser, in place.
    y = _stir(x)
    return x.bitwise_xor_(y.bitwise_and_((1 << 33) - 1))


def _stir(x: Tensor) -> Tensor:
    """All of the finaliser but the last exclusive or, in place; returns x >> 31.

    Torch's >> keeps the sign, so the shifted-in bits are masked away; not those of the result,
    which are above the lowest 33.
    """
    y = x >> 30
    x.bitwise_xor_(y.bitwise_and_((1 << 34) - 1)).mul_(_MIX[0])
    torch.bitwise_right_shift(x, 27, out=y)
    x.bitwise_xor_(y.bitwise_and_((1 << 37) - 1)).mul_(_MIX[1])
    return torch.bitwise_right_shift(x, 31, out=y)


def _uniform(x: Tensor) -> Tensor:
    """Uniform numbers from the hashes of `x`, by the bits 40 to 62; overwrites `x`."""
    _stir(x)  # its last step changes the bits below 33 only
    return _unit(x.bitwise_right_shift_(40))


def _normal(x: Tensor) -> Tensor:
    """Normal numbers from the hashes of `x`, by the bits 40 to 62 and 0 to 22; overwrites `x`."""
    low = _stir(x).bitwise_xor_(x)
    radius = _unit(x.bitwise_right_shift_(40)).log_().mul_(-2.0).sqrt_()
    return radius.mul_(_unit(low).mul_(2 * math.pi).cos_())


def _unit(bits: Tensor) -> Tensor:
    """(k + 1/2) / 2^23 for the number k of the lowest 23 bits: neither 0 nor 1 can occur.

    k becomes the mantissa of 1 + k / 2^23. Taking 1 - 2^-24 from it is exact in float32.
    """
    mantissa = bits.int().bitwise_and_(0x7FFFFF).bitwise_or_(0x3F800000)
    return mantissa.view(torch.float32).sub_(1 - 2**-24)
