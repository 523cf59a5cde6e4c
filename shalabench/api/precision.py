"""Arithmetic of training and of samplers: bfloat16 where it is fast, float32 elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch

_SAMPLING = ContextVar("sampling", default="float32")


_SMALL = 5_000_000  # parameters below which float32 is faster without matrix units


def choose_precision(
    asked: str, device: torch.device, size: Callable[[], int] | None = None
) -> str:
    """The precision to use: `asked`, or for "auto", bf16 where it is faster, else float32.

    Bf16 is slow where the device emulates it. On CPUs with AVX-512 BF16 and without AMX, small
    networks are 5 to 15 % faster in float32 (reproduction/engine.md).

    Args:
        asked: "auto", "bf16" or "float32".
        device: Where to compute.
        size: Returns the number of trained parameters; None counts as many.
    """
    if asked != "auto":
        return asked
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        fast = torch.cpu._is_amx_tile_supported() or size is None or size() >= _SMALL
    else:
        fast = False
    return "bf16" if fast else "float32"


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context in which updates run: autocast for "bf16", none for "float32"."""
    cast = precision == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16) if cast else nullcontext()


@contextmanager
def tensor_cores(tf32: bool) -> Iterator[None]:
    """A context in which GPUs use TF32 for float32 products; False leaves torch's settings."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32, cudnn.allow_tf32 = (tf32 or own for own in before)
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextmanager
def sampling(precision: str) -> Iterator[None]:
    """A context in which samplers run their denoisers in this precision; outside it is float32."""
    before = _SAMPLING.set(precision)
    try:
        yield
    finally:
        _SAMPLING.reset(before)


def sampling_precision() -> str:
    """The precision of denoisers in samplers, as set by `sampling`."""
    return _SAMPLING.get()
