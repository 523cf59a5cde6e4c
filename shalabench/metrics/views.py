"""Measures of generated views; pictures without an object have no value."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shalabench.api import Split
from shalabench.metrics.images import foreground, psnr, ssim

MEASURES = {"psnr": psnr, "ssim": ssim}
_NAMED = 6


def measured(name: str, made: Tensor, real: Tensor) -> Tensor:
    """PSNR or SSIM of pictures. An empty truth has none: white would be its best prediction.

    Args:
        name: In `MEASURES`.
        made: `[..., C, H, W]` in [0, 1].
        real: Of the same shape.

    Returns:
        `[...]`; NaN where the true picture holds no object.
    """
    empty = ~foreground(real).any(-1).any(-1)
    values = MEASURES[name](made, real)
    return values.masked_fill(empty, torch.nan) if empty.any() else values


def mean_of_known(values: Tensor, dim: int = 1) -> Tensor:
    """Means along a dimension over what is not NaN; NaN where all are."""
    return values.nanmean(dim) if values.isnan().any() else values.mean(dim)


def describe_empty(split: Split, names: Sequence[str], items: int) -> str:
    """Which pictures hold no object, in a sentence; empty where all do.

    Args:
        split: The true views.
        names: Of the views.
        items: How many objects are looked at, the first ones.
    """
    found = []
    for name in names:
        darkest = split.tensors[name][:items].flatten(1).amin(1).double() / 255
        empty = ~foreground(darkest[:, None, None, None])[:, 0, 0]
        found += [(number, name) for number in empty.nonzero()[:, 0].tolist()]
    if not found:
        return ""
    listed = ", ".join(f"{number}/{name}" for number, name in sorted(found)[:_NAMED])
    more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
    return (
        f"Pictures of the test data that hold no object, which no value counts: {len(found):,} of "
        f"{items * len(names):,} (object/view {listed}{more})."
    )
