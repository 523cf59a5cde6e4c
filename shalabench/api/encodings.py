"""Reuse of encodings of views that an evaluator needs several times."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from shalabench.api.dataset import Views


@contextlib.contextmanager
def encoded_once(model: nn.Module, views: Views) -> Iterator[None]:
    """A context in which each encoder computes its output for each of these views only once.

    Encoders are parts of the model whose class sets `encodes_views = True`. Their output must
    depend only on their weights and on one tensor. Only the tensors of `views` themselves are
    recognised; encodings of copies are computed again. The outputs are kept until the end of the
    block. They must not be changed in place.

    Nothing is kept in training mode, with gradients, or for compiled networks.

    Args:
        model: In eval mode.
        views: Tensors `[B, ...]`, which must not change in the block.
    """
    parts = list(model.modules())
    if any(part._compiled_call_impl is not None for part in parts):
        yield
        return
    known = {id(x): x for x in views.values()}  # keeps them alive, so that no other has their id
    encoders = [part for part in parts if getattr(part, "encodes_views", False)]
    for encoder in encoders:
        encoder.forward = _remembered(encoder, known)
    try:
        yield
    finally:
        for encoder in encoders:
            del encoder.forward  # the instance's, which hides that of its class


def _remembered(encoder: nn.Module, known: dict[int, Tensor]) -> Callable[[Tensor], Any]:
    compute, outputs = encoder.forward, {}

    def forward(x: Tensor) -> Any:
        if id(x) not in known or encoder.training or torch.is_grad_enabled():
            return compute(x)
        key = id(x), torch.is_inference_mode_enabled()
        if key not in outputs:
            outputs[key] = compute(x)
        return outputs[key]

    return forward
