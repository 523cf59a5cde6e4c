"""Observation models: the density of a view given a decoder's output."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from harness.api import Modality
from nets.precision import widen


def log_likelihood(modality: Modality, output: Tensor, target: Tensor) -> Tensor:
    """Log-density of views under decoder outputs, in nats, without the modality's weight.

    Args:
        modality: Names the likelihood and its scale.
        output: Decoder output `[..., B, C, H, W]` for images, logits `[..., B, L, V]` for text.
        target: Views `[B, C, H, W]` in [0, 1], or token ids `[B, L]`.

    Returns:
        Float32 `[..., B]`, summed over pixels or positions.
    """
    output = widen(output)
    event = 3 if modality.kind == "image" else 1
    if modality.likelihood == "laplace":
        density = -(output - target).abs() / modality.scale - math.log(2 * modality.scale)
    elif modality.likelihood == "normal":
        constant = math.log(modality.scale) + 0.5 * math.log(2 * math.pi)
        density = -0.5 * ((output - target) / modality.scale) ** 2 - constant
    elif modality.likelihood == "bernoulli":
        density = -functional.binary_cross_entropy_with_logits(
            output, target.expand_as(output), reduction="none"
        )
    elif modality.likelihood == "categorical":
        index = target.expand(output.shape[:-1]).unsqueeze(-1)
        density = output.log_softmax(-1).gather(-1, index).squeeze(-1)
    else:
        raise ValueError(
            f"Modality '{modality.name}' asks for the likelihood '{modality.likelihood}'. "
            "Known: bernoulli, categorical, laplace, normal."
        )
    return density.flatten(-event).sum(-1)


def view_of(modality: Modality, output: Tensor) -> Tensor:
    """The mean of the likelihood as a view, or a text's most likely tokens.

    Args:
        modality: Names the likelihood.
        output: Decoder output, as for `log_likelihood`.

    Returns:
        Images `[..., C, H, W]` (unclamped unless Bernoulli), token ids `[..., L]`.
    """
    if modality.likelihood == "bernoulli":
        return torch.sigmoid(output)
    return output.argmax(-1) if modality.likelihood == "categorical" else output
