"""Observation models: the density of a view given a decoder's output."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from shalabench.api import Modality
from shalabench.nets.precision import widen


def log_likelihood(modality: Modality, output: Tensor, target: Tensor) -> Tensor:
    """Log-density of views under decoder outputs, in nats, without the modality's weight.

    Args:
        modality: Gives the likelihood and its scale.
        output: Decoder output `[..., B, *shape]` for images and vectors, logits `[..., B, L, V]`
            for text.
        target: Views `[B, *shape]`, images in [0, 1], or token ids `[B, L]`.

    Returns:
        Float32 `[..., B]`, summed over pixels, positions or numbers.
    """
    output = widen(output)
    if modality.likelihood == "laplace":
        # One kernel forward and one backward; separate steps took a third of an update on a CPU.
        error = functional.l1_loss(output, target.expand_as(output), reduction="none")
        constant = math.log(2 * modality.scale) * math.prod(modality.shape)
        return -_total(modality, error) / modality.scale - constant
    if modality.likelihood == "normal":
        error = functional.mse_loss(output, target.expand_as(output), reduction="none")
        constant = math.log(modality.scale) + 0.5 * math.log(2 * math.pi)
        constant *= math.prod(modality.shape)
        return -0.5 * _total(modality, error) / modality.scale**2 - constant
    if modality.likelihood == "bernoulli":
        return -_total(
            modality,
            functional.binary_cross_entropy_with_logits(
                output, target.expand_as(output), reduction="none"
            ),
        )
    if modality.likelihood == "categorical":
        index = target.expand(output.shape[:-1]).unsqueeze(-1)
        return _total(modality, output.log_softmax(-1).gather(-1, index).squeeze(-1))
    if modality.likelihood == "categorical-published":
        index = target.expand(output.shape[:-1]).unsqueeze(-1)
        odds = _published_odds(output)
        chosen = odds.gather(-1, index).squeeze(-1)
        return _total(modality, chosen.log() - odds.sum(-1).log())
    raise ValueError(
        f"Modality '{modality.name}' asks for the likelihood '{modality.likelihood}'. "
        "Known: bernoulli, categorical, categorical-published, laplace, normal."
    )


def _total(modality: Modality, values: Tensor) -> Tensor:
    """Sum over pixels or positions: `[..., B, *event]` to `[..., B]`."""
    return values.flatten(-len(modality.shape)).sum(-1)


def view_of(modality: Modality, output: Tensor) -> Tensor:
    """The view of a decoder output: the mean of the likelihood, or the most likely tokens.

    Args:
        modality: Gives the likelihood.
        output: Decoder output, as for `log_likelihood`.

    Returns:
        Images and vectors `[..., *shape]` (unclamped unless Bernoulli), token ids `[..., L]`.
    """
    if modality.likelihood == "bernoulli":
        return torch.sigmoid(output)
    if modality.likelihood == "categorical-published":
        return output.argmin(-1)  # the least logit has the largest probability
    return output.argmax(-1) if modality.likelihood == "categorical" else output


def mean_of(modality: Modality, output: Tensor) -> Tensor:
    """The mean of the likelihood, which has gradients to the decoder for texts too.

    Args:
        modality: Gives the likelihood.
        output: Decoder output, as for `log_likelihood`.

    Returns:
        Images as `view_of` gives them, or the probabilities of the tokens `[..., L, V]`.
    """
    if modality.likelihood == "categorical-published":
        odds = _published_odds(widen(output))
        return odds / odds.sum(-1, keepdim=True)
    if modality.likelihood == "categorical":
        return widen(output).softmax(-1)
    return view_of(modality, output)


def _published_odds(output: Tensor) -> Tensor:
    """Minus log-softmax, which mmJSD's and MoPoE's code uses as probabilities (trap 23).

    It is clamped, because a token of probability 1 would have the odds 0 and an infinite logarithm.
    """
    return (-output.log_softmax(-1)).clamp(min=torch.finfo(output.dtype).eps)
