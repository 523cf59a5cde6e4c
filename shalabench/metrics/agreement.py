"""Agreement between modalities, and distance of what they show from what the data do."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

UNREAD = -1
"""In place of a value's number, where none was read."""


def agreement(values: Tensor) -> Tensor:
    """The share of the other targets that show the same value.

    Args:
        values: `[T, n]`, numbers of values; -1, which agrees with nothing, where none was read.

    Returns:
        `[T, n]`; the mean over targets is the share of pairs of targets.
    """
    known = values != UNREAD
    same = (values[:, None] == values) & known  # [T, T, n]
    return (same.sum(1) - known.long()).double() / (len(values) - 1)


def variation(values: Tensor, truth: Tensor, groups: Tensor, count: int) -> Tensor:
    """Terms whose mean is the total variation between what targets show and what the data do.

    The total variation of group g is half the sum over v of |p(v) - q(v)|, for the shares p of the
    targets' values and q of the data's. The terms, half the sum over v of s(v) (1[x = v] - q(v))
    with s the sign of p - q, have the mean of these over groups, by size. Their spread within
    groups is that of the linearised estimate.

    Args:
        values: `[n]`, what a target shows; -1 where none was read.
        truth: `[n]`, what the tuple shows.
        groups: `[n]`, numbers of what is given; distributions are compared within each.
        count: Number of possible values.

    Returns:
        float64 `[n]`.
    """
    made = functional.one_hot(values.where(values != UNREAD, count), count + 1).double()
    real = functional.one_hot(truth, count + 1).double()
    sums = made.new_zeros(int(groups.max()) + 1, count + 1)
    p, q = (sums.index_add(0, groups, x) / groups.bincount()[:, None] for x in (made, real))
    return 0.5 * ((p - q).sign()[groups] * (made - q[groups])).sum(1)


def expected_variation(truth: Tensor, groups: Tensor, count: int) -> float:
    """The mean of `variation` for independent draws from the data's distribution.

    E|X - n q| = 2 k C(n, k) q^k (1 - q)^(n - k + 1) with k = floor(n q) + 1 for a binomial X
    (de Moivre 1730).

    Args:
        truth, groups, count: As for `variation`.
    """
    sizes = groups.bincount().double()[:, None]  # [G, 1]
    real = functional.one_hot(truth, count).double()
    counts = real.new_zeros(len(sizes), count).index_add(0, groups, real)  # [G, V] = n q
    q, k = counts / sizes, counts + 1
    ways = torch.lgamma(sizes + 1) - torch.lgamma(k) - torch.lgamma((sizes - k).clamp(min=0) + 1)
    logs = ways + torch.xlogy(k, q) + torch.xlogy(sizes - k + 1, 1 - q)
    errors = (2 * logs.exp()).where((q > 0) & (q < 1), 0.0)
    return (errors.sum() / 2 / len(truth)).item()
