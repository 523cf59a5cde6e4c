"""Arithmetic of training and of samplers: bfloat16 where it is fast, float32 elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch

_SAMPLING = ContextVar("sampling", default="float32")


def choose_precision(asked: str, device: torch.device) -> str:
    """The precision to use: `asked`, or for "auto", bf16 where the device computes in it.

    Elsewhere, "auto" is float32: emulated bf16 is slow (reproduction/engine.md).

    Args:
        asked: "auto", "bf16" or "float32".
        device: Where to compute.
    """
    if asked != "auto":
        return asked
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "float32"


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
