"""KID, precision and recall: all come from the inner products of two sets of features.

A pass over a matrix of inner products serves the draws of KID, the balls of precision and recall,
and the groups behind their errors at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NEIGHBOURS = 3  # of precision and recall, torch-fidelity's default (Kynkäänniemi et al. 2019)
_SUBSET = 1000  # images a KID subset, torch-fidelity's default; fewer where there are fewer
_SEED = 2020  # of KID's draws, torch-fidelity's default
_ROWS = 1000  # of a matrix at once, for memory


@dataclass(frozen=True)
class Within:
    """What the pairs of one set of images give.

    Attributes:
        balls: `[2, N]`, squared distance of each image to its third neighbour in the whole set,
            and in its group.
        sums: `[S]`, of the kernel over all pairs of two different images, by draw.
    """

    balls: Tensor
    sums: Tensor


def draw(n: int, others: int, subsets: int, groups: int) -> tuple[Tensor, Tensor]:
    """Which images each estimate of KID uses, as torch-fidelity draws them.

    Args:
        n: Generated images.
        others: Reference images.
        subsets: Draws from the whole sets.
        groups: G; after them, one draw from each group.

    Returns:
        `[S, n]` and `[S, others]` of 0 and 1, float64; S = subsets + G.
    """
    made, real = np.zeros((subsets + groups, n)), np.zeros((subsets + groups, others))
    rows = [(0, 1, subsets), *((g, groups, 1) for g in range(groups))]
    s = 0
    for first, step, times in rows:
        rng = np.random.RandomState(_SEED)
        parts = np.arange(n)[first::step], np.arange(others)[first::step]
        size = min(_SUBSET, *map(len, parts))
        for _ in range(times):
            for drawn, part in zip((made, real), parts, strict=True):
                drawn[s, part[rng.choice(len(part), size, replace=False)]] = 1
            s += 1
    return torch.from_numpy(made), torch.from_numpy(real)


def within(x: Tensor, drawn: Tensor, groups: int) -> Within:
    """Balls and kernel sums of one set.

    Args:
        x: Features `[N, D]` float64.
        drawn: `[S, N]`, which images each estimate of KID uses.
        groups: G; 0 for no balls within groups.
    """
    balls, sums = x.new_zeros(2, len(x)), x.new_zeros(len(drawn))
    for start, inner, distances in _blocks(x, x):
        rows = slice(start, start + len(inner))
        balls[0, rows] = _nearest(distances)
        for g in range(groups):
            mine = slice((g - start) % groups, None, groups)
            balls[1, rows][mine] = _nearest(distances[mine, g::groups])
        kernel = _cube(inner)
        kernel[:, rows].fill_diagonal_(0)
        sums += ((drawn[:, rows] @ kernel) * drawn).sum(1)
    return Within(balls, sums)


def across(
    made: Tensor,
    real: Tensor,
    drawn: tuple[Tensor, Tensor],
    sides: tuple[Within, Within],
    groups: int,
) -> dict[str, Tensor]:
    """Precision and recall `[1 + G]`, of all images and of each group; KID `[S]` by draw.

    KID is the unbiased squared MMD of a cubic kernel (Bińkowski et al. 2018). Precision is the
    share of generated images within the balls of real ones; recall, of real within generated ones.

    Args:
        made: Features `[n, D]` float64 of the generated images.
        real: Those of the reference, `[N, D]`.
        drawn: `[S, n]` and `[S, N]`, which images each estimate of KID uses.
        sides: What either set gives alone.
        groups: G.
    """
    sums = real.new_zeros(len(drawn[0]))
    inside = torch.zeros(2, len(made), dtype=torch.bool, device=made.device)
    reached = torch.zeros(2, len(real), dtype=torch.bool, device=made.device)
    for start, inner, distances in _blocks(made, real):
        rows = slice(start, start + len(inner))
        radii = sides[0].balls[:, rows, None]
        inside[0, rows] = (distances <= sides[1].balls[0]).any(1)
        reached[0] |= (distances <= radii[0]).any(0)
        for g in range(groups):
            mine, theirs = slice((g - start) % groups, None, groups), slice(g, None, groups)
            part = distances[mine, theirs]
            inside[1, rows][mine] = (part <= sides[1].balls[1, theirs]).any(1)
            reached[1, theirs] |= (part <= radii[1, mine]).any(0)
        sums += ((drawn[0][:, rows] @ _cube(inner)) * drawn[1]).sum(1)
    size = drawn[0].sum(1)
    own = (sides[0].sums + sides[1].sums) / (size * (size - 1))
    found = {"precision": inside.double(), "recall": reached.double()}
    shares = {
        name: torch.stack([x[0].mean(), *(x[1, g::groups].mean() for g in range(groups))])
        for name, x in found.items()
    }
    return {"kid": own - 2 * sums / size.square(), **shares}


def _blocks(x: Tensor, y: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """First row, inner products over D and squared distances `[rows, M]`, block by block."""
    d, squares, others = x.shape[1], x.square().sum(1), y.square().sum(1)
    for start in range(0, len(x), _ROWS):
        inner = x[start : start + _ROWS] @ y.T
        distances = (squares[start : start + _ROWS, None] + others).sub_(inner, alpha=2)
        yield start, inner.div_(d), distances.clamp_(min=0)


def _nearest(distances: Tensor) -> Tensor:
    """The third neighbour's distance `[rows]`; the nearest is the image itself."""
    return distances.topk(NEIGHBOURS + 1, largest=False).values[:, -1]


def _cube(inner: Tensor) -> Tensor:
    kernel = inner + 1
    return kernel.square().mul_(kernel)
