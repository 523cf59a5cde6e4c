"""Precision of densities and divergences, which are never computed in half precision."""

from __future__ import annotations

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """Float32 values of `x`, or float64 if it is float64.

    Sums over thousands of pixels lose digits in bfloat16.
    """
    return x.to(widened(x.dtype))


def widened(dtype: torch.dtype) -> torch.dtype:
    """Float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
