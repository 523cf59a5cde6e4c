"""Arithmetic of training: bfloat16 where it is fast, float32 elsewhere."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def choose_precision(asked: str, device: torch.device) -> str:
    """The precision `asked`; "auto" is bf16 where the device computes in it, else float32."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "float32"


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context of updates: autocast for "bf16", none for "float32"."""
    cast = precision == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16) if cast else nullcontext()
