"""Encodings of views that an evaluator needs several times, each computed once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from shalabench.api.dataset import Views


@contextlib.contextmanager
def encoded_once(model: nn.Module, views: Views) -> Iterator[None]:
    """Within it, each encoder computes its output for each of these views once.

    Encoders are parts of the model whose class sets `encodes_views = True`: they map one tensor to
    features by their weights alone. Only the very tensors of `views` count, so what a model derives
    from them is computed anew. The outputs are kept until the end of the block. They must not be
    changed in place.

    Nothing is kept in training mode, with gradients, or for compiled networks.

    Args:
        model: In eval mode.
        views: Tensors `[B, ...]`, which stay as they are.
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
