"""Encoders and decoders of one's own for single modalities (docs/extend/dataset.md).

A factory is called with the modality. What it returns has `encoder()`, a module from views
`[B, *shape]` to features `[B, F]`, and `decoder(inputs)`, a module from latents `[N, inputs]` to
`[N, *shape]`, for texts to logits `[N, L, V]`. A class with these two methods is a factory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from shalabench.api import DataError, Modality
from shalabench.api.registry import find_factory
from shalabench.nets.mst import Encoder

_TRIED = 2  # views in the trial call


class CustomEncoder(Encoder):
    """An encoder of one's own, whose number of features a trial call has found."""

    def __init__(self, network: nn.Module, features: int):
        super().__init__()
        self.network, self.features = network, features

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class CustomDecoder(nn.Module):
    """A decoder of one's own."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> Tensor:
        return self.network(z)


def custom_encoder(modality: Modality, reference: str) -> Encoder:
    """The encoder of the networks that a reference names.

    Raises:
        DataError: It cannot take the modality's views, or does not return features.
    """
    whom = f"The encoder of {reference}"
    network = _built(modality, reference, "encoder")
    dtype = torch.int64 if modality.kind == "text" else torch.get_default_dtype()
    views = torch.zeros(_TRIED, *modality.shape, dtype=dtype, device="cpu")
    found = _tried(network, views, modality, whom)
    if len(found) != 2 or found[0] != _TRIED or not found[1]:
        raise DataError(
            f"{whom} returns the shape {found} for {_TRIED} views of '{modality.name}'; "
            f"{_TRIED} x features was expected."
        )
    return CustomEncoder(network, found[1])


def custom_decoder(modality: Modality, inputs: int, reference: str) -> nn.Module:
    """The decoder of the networks that a reference names, from `inputs` numbers.

    Raises:
        DataError: It cannot take the latents, or does not return what the likelihood reads.
    """
    whom = f"The decoder of {reference}"
    network = _built(modality, reference, "decoder", inputs)
    found = _tried(network, torch.zeros(_TRIED, inputs, device="cpu"), modality, whom)
    logits = (len(modality.vocabulary),) if modality.kind == "text" else ()
    expected = (_TRIED, *modality.shape, *logits)
    if found != expected:
        raise DataError(
            f"{whom} returns the shape {found} for {_TRIED} latents of '{modality.name}'; "
            f"{expected} was expected."
        )
    return CustomDecoder(network)


def _built(modality: Modality, reference: str, part: str, *arguments: int) -> nn.Module:
    with torch.device("cpu"):  # also where a method is built without values to check its shapes
        maker: Any = find_factory(reference)(modality)
        make = getattr(maker, part, None)
        network = make(*arguments) if callable(make) else None
    if not isinstance(network, nn.Module):
        raise DataError(
            f"{reference} gives no {part} for '{modality.name}'; it must return an object with "
            "encoder() and decoder(inputs), which return torch modules."
        )
    return network


def _tried(network: nn.Module, x: Tensor, modality: Modality, whom: str) -> tuple[int, ...]:
    """Shape of what the network returns for zeros, which change no statistics of it."""
    was_training = network.training
    try:
        with torch.no_grad():
            return tuple(network.eval()(x).shape)
    except Exception as error:  # whatever a user's network raises
        raise DataError(
            f"{whom} does not take {tuple(x.shape)} of '{modality.name}' "
            f"({type(error).__name__}: {error})."
        ) from error
    finally:
        network.train(was_training)
