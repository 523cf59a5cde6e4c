"""Precision of densities, which are never computed in half precision, and of samplers."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from shalabench.api import sampling_precision

Network = TypeVar("Network", bound=nn.Module)


def widen(x: Tensor) -> Tensor:
    """Float32 values of `x`, or float64 if it is float64.

    Sums over thousands of pixels lose digits in bfloat16.
    """
    return x.to(widened(x.dtype))


def widened(dtype: torch.dtype) -> torch.dtype:
    """Float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def autocast_off(x: Tensor) -> torch.autocast:
    """A context in which products on the device of `x` have the precision of their factors.

    For products of few numbers that are no layer of a network, such as those of precisions and
    rotations. In bfloat16 they would be off by up to .4 %.
    """
    return torch.autocast(x.device.type, enabled=False)


def for_sampling(network: Network) -> Network:
    """A denoiser in the arithmetic of samplers: itself, or a copy in bfloat16."""
    if sampling_precision() == "float32":
        return network
    return copy.deepcopy(network).to(torch.bfloat16)
