"""Families of encoders and decoders for every kind of modality, which all methods share.

* "conv": images as in MoPoE's and MVTCAE's code for PolyMNIST, at any size. At 64 x 64 it has the
  depth of MMVAE's network for CUB.
* "resnet": images as in MMVAE+'s and CMVAE's code for PolyMNIST, at any size. At 64 x 64 it is
  MMVAE+'s network for CUB.
* "mst": images and texts of MNIST-SVHN-Text (`nets.mst`).
* "cub": images as "resnet", and CUB's captions (`nets.cub`).

Images may have any height and width. Vectors have linear layers in every family (`nets.vectors`);
`custom` names networks of one's own (`nets.custom`).

Sources: reproduction/polymnist.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import SerializerFunctionWrapHandler, model_serializer
from torch import Tensor, nn
from torch.nn import functional

from shalabench.api import Modality, Settings, setting
from shalabench.nets.cub import CaptionDecoder, CaptionEncoder
from shalabench.nets.custom import custom_decoder, custom_encoder
from shalabench.nets.mst import Encoder, mst_decoder, mst_encoder
from shalabench.nets.stacked import apply_each, follow, stacks
from shalabench.nets.texts import TextDecoder, TextEncoder
from shalabench.nets.vectors import VectorDecoder, VectorEncoder


class EncoderNetwork(Settings):
    """The family of the networks and their width."""

    family: Literal["conv", "resnet", "mst", "cub"] = setting(
        "resnet",
        "Family of the networks.",
        "MMVAE+ and CMVAE code (reproduction/polymnist.md)",
    )
    width: float = setting(
        1.0,
        "Multiple of the published channel counts.",
        "published networks (reproduction/polymnist.md#networks)",
        gt=0,
    )
    activation: Literal["relu", "silu"] = setting(
        "relu",
        "Of the conv and mst families.",
        "published networks (reproduction/polymnist.md#networks)",
    )
    initialisation: Literal["torch", "kaiming", "white"] = setting(
        "torch",
        "Of every layer: torch's, variance-preserving, or the latter adapted to white images.",
        "published code (reproduction/polymnist.md#networks)",
    )
    hidden: int = setting(
        512, "Units between convolutions and posterior, conv family.", "MoPoE code: class_dim", ge=1
    )
    custom: dict[str, str] = setting(
        {},
        "By modality, networks of one's own as package.module:factory (model.networks.NAME).",
        "our choice: none",
    )

    @model_serializer(mode="wrap")
    def _dump(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Older records have no such setting; without networks of one's own, nor do later ones.
        return {key: x for key, x in dump(self).items() if key != "custom" or self.custom}


class Network(EncoderNetwork):
    """The family of encoders and decoders."""

    coarse: int = setting(
        0,
        "Side of a coarse image that a linear layer adds to a decoder's output; 0 for none.",
        "our choice: none published",
        ge=0,
    )


_SMALL = 32  # pixels; larger images get deeper networks
_ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU}


def initialise(module: nn.Module, network: EncoderNetwork) -> None:
    """Initialise every layer of a model's networks as the settings say.

    * "torch" is PyTorch's default. It shrinks the variance: on polydigits no digit had appeared
      after 980 updates.
    * "kaiming" keeps the variance through rectified layers (He et al. 2015).
    * "white" is for objects on white. An encoder's first layer maps white to 0, with weights times
      4. A decoder's last layer has weights times 0.1 and biases of 1. For ShaLa on cars, after 600
      updates, it raised the PSNR from 20.4 to 23.3 dB.
    """
    if network.initialisation == "torch":
        return
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d):
            # An output pixel gets kernel area over stride area taps from every input channel.
            taps = layer.weight[0, 0].numel() / math.prod(layer.stride)
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (layer.in_channels * taps)))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for part in module.modules():
        if isinstance(part, CoarseToFine):
            part.begin_at_zero()
    if network.initialisation == "white":
        for part in module.modules():
            if isinstance(part, ConvEncoder | ResnetEncoder):
                weight, bias = part.layers[0].parameters()
                weight.data.mul_(4)
                bias.data = -weight.data.sum((1, 2, 3))
            elif isinstance(part, ConvDecoder | ResnetDecoder):
                weight, bias = part.layers[-1].parameters()
                weight.data.mul_(0.1)
                nn.init.ones_(bias)


def encoder(modality: Modality, network: EncoderNetwork, *, private: bool = False) -> Encoder:
    """A network from views `[B, ...]` to features `[B, F]`; its attribute `features` is F.

    Args:
        modality: The modality of the views.
        network: Family and width.
        private: Whether the features lead to a private latent; it matters to "cub" captions.

    Raises:
        DataError: The family cannot take the modality's shape, or the custom networks do not.
    """
    if modality.name in network.custom:
        return custom_encoder(modality, network.custom[modality.name])
    if modality.kind == "vector":
        return VectorEncoder(modality, network.width, _ACTIVATIONS[network.activation])
    if network.family == "mst":
        return mst_encoder(modality, network.width, _ACTIVATIONS[network.activation])
    if modality.kind == "text" and network.family == "cub":
        return CaptionEncoder(modality, network.width, private)
    if modality.kind == "text":
        return TextEncoder(modality)
    return (ConvEncoder if network.family == "conv" else ResnetEncoder)(modality, network)


def decoder(modality: Modality, inputs: int, network: Network, *, private: int = 0) -> nn.Module:
    """A network from latents `[N, D]` to images `[N, C, H, W]`, vectors or logits `[N, L, V]`.

    Args:
        modality: The modality of the views.
        inputs: D.
        network: Family and width.
        private: Size of the private latent, which comes first; it matters to "cub" captions.

    Raises:
        DataError: As for `encoder`.
    """
    if modality.name in network.custom:
        return custom_decoder(modality, inputs, network.custom[modality.name])
    if modality.kind == "vector":
        return VectorDecoder(modality, inputs, network.width, _ACTIVATIONS[network.activation])
    if network.family == "mst":
        return mst_decoder(modality, inputs, network.width, _ACTIVATIONS[network.activation])
    if modality.kind == "text" and network.family == "cub":
        return CaptionDecoder(modality, inputs, network.width, private)
    if modality.kind == "text":
        return TextDecoder(modality, inputs)
    fine = (ConvDecoder if network.family == "conv" else ResnetDecoder)(modality, inputs, network)
    return CoarseToFine(fine, modality, inputs, network.coarse) if network.coarse else fine


Sides = tuple[int, int]
"""Height and width of an image in pixels."""


def _sides(modality: Modality, halvings: int) -> list[Sides]:
    """Image sides after 0, 1, ... halvings, rounded up: 28, 14, 7, 4."""
    _, height, width = modality.shape
    return [(math.ceil(height / 2**k), math.ceil(width / 2**k)) for k in range(halvings + 1)]


def _channels(network: EncoderNetwork, *counts: int) -> list[int]:
    return [max(1, round(count * network.width)) for count in counts]


def _conv_levels(modality: Modality, network: EncoderNetwork) -> tuple[list[Sides], list[int]]:
    """Sides and channels after each strided convolution.

    There are three, as published for 28 x 28, and four up to 64 x 64, as in MMVAE's network for
    CUB. Each further doubling adds one, so that the linear layer gets at most 4 x 4 pixels.
    """
    halvings = max(3, math.ceil(math.log2(max(modality.shape[1:]) / _SMALL)) + 3)
    counts = [min(32 * 2**k, 256) for k in range(halvings)]
    return _sides(modality, len(counts)), _channels(network, *counts)


class ConvEncoder(Encoder):
    """Strided convolutions and one linear layer (MoPoE code, ConvNetworksImgCMNIST)."""

    def __init__(self, modality: Modality, network: EncoderNetwork):
        super().__init__()
        sides, channels = _conv_levels(modality, network)
        act = _ACTIVATIONS[network.activation]
        self.features = network.hidden
        steps = pairwise([modality.shape[0], *channels])
        self.layers = nn.Sequential(
            *(layer for a, b in steps for layer in (nn.Conv2d(a, b, 3, 2, 1), act())),
            nn.Flatten(),
            nn.Linear(channels[-1] * math.prod(sides[-1]), network.hidden),
            act(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ConvDecoder(nn.Module):
    """One linear layer and transposed convolutions, no output activation (MoPoE code)."""

    def __init__(self, modality: Modality, inputs: int, network: Network):
        super().__init__()
        sides, channels = _conv_levels(modality, network)
        act = _ACTIVATIONS[network.activation]
        sides, channels = sides[::-1], [*channels[::-1], modality.shape[0]]
        self.layers = nn.Sequential(
            nn.Linear(inputs, channels[0] * math.prod(sides[0])),
            nn.Unflatten(1, (channels[0], *sides[0])),
            *(
                layer
                for (a, b), (side, target) in zip(pairwise(channels), pairwise(sides), strict=True)
                for layer in (act(), _enlarge(a, b, side, target))
            ),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


def _enlarge(inputs: int, outputs: int, sides: Sides, targets: Sides) -> nn.ConvTranspose2d:
    rest = targets[0] - (2 * sides[0] - 1), targets[1] - (2 * sides[1] - 1)
    return nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=rest)


def _resnet_levels(modality: Modality, network: EncoderNetwork) -> tuple[list[Sides], list[int]]:
    """Sides at each level, and channels before the first block and after the last of each level.

    28 is halved twice, as published. Sides beyond 32 are halved down to 2, as in MMVAE+'s network
    for CUB.
    """
    side = max(modality.shape[1:])
    halvings = 2 if side <= _SMALL else math.ceil(math.log2(side)) - 1
    counts = [min(64 * 2**k, 256) for k in range(halvings + 1)]
    return _sides(modality, halvings), _channels(network, *counts)


class ResnetEncoder(Encoder):
    """Pre-activation residual blocks with average pooling between (MMVAE+ code)."""

    def __init__(self, modality: Modality, network: EncoderNetwork):
        super().__init__()
        sides, channels = _resnet_levels(modality, network)
        self.features = channels[-1] * math.prod(sides[-1])
        self.layers = nn.Sequential(
            nn.Conv2d(modality.shape[0], channels[0], 3, 1, 1),
            Block(channels[0], channels[0]),
            *(
                layer
                for a, b in pairwise(channels)
                for layer in (nn.AvgPool2d(3, 2, 1), Block(a, b))
            ),
            nn.Flatten(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ResnetDecoder(nn.Module):
    """The mirrored encoder with nearest-neighbour enlargement, no output activation (MMVAE+)."""

    def __init__(self, modality: Modality, inputs: int, network: Network):
        super().__init__()
        sides, channels = _resnet_levels(modality, network)
        sides, channels = sides[::-1], channels[::-1]
        self.layers = nn.Sequential(
            nn.Linear(inputs, channels[0] * math.prod(sides[0])),
            nn.Unflatten(1, (channels[0], *sides[0])),
            *(
                layer
                for (a, b), side in zip(pairwise(channels), sides[1:], strict=True)
                for layer in (Block(a, b), nn.Upsample(size=side))
            ),
            Block(channels[-1], channels[-1]),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels[-1], modality.shape[0], 3, 1, 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class CoarseToFine(nn.Module):
    """A decoder with a linear shortcut from the latent to a coarse image, which is 0 at the start.

    StyleGAN2 has such outputs at every size (Karras et al. 2020, section 4.1). A deep decoder needs
    hundreds of updates to learn a car's hue; by then the posterior has dropped this information.
    For ShaLa's first stage on cars of 64 pixels, after 400 updates, a shortcut of 8 x 8 pixels
    raised the PSNR from 22.9 to 25.0 dB and cut the unexplained chroma from 100 % to 37 %.
    """

    def __init__(self, fine: nn.Module, modality: Modality, inputs: int, side: int):
        super().__init__()
        channels, height, width = modality.shape
        self.fine = fine
        self.coarse = nn.Sequential(
            nn.Linear(inputs, channels * side**2), nn.Unflatten(1, (channels, side, side))
        )
        # Bilinear enlargement as two matrix products, whose gradient is deterministic on GPUs too.
        for name, size in (("rows", height), ("columns", width)):
            enlarge = functional.interpolate(torch.eye(side)[None], size, mode="linear")[0].T
            self.register_buffer(name, enlarge.contiguous(), persistent=False)  # [size, side]
        self.begin_at_zero()

    def begin_at_zero(self) -> None:
        """Set the coarse image to 0, so that the output is that of the fine decoder."""
        for parameter in self.coarse[0].parameters():
            nn.init.zeros_(parameter)

    def forward(self, z: Tensor) -> Tensor:
        return self.fine(z) + self.rows @ self.coarse(z) @ self.columns.T


class Block(nn.Module):
    """A pre-activation residual block `[B, C, H, W]` with the branch times 0.1 (MMVAE+ code)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        hidden = min(inputs, outputs)
        self.first = nn.Conv2d(inputs, hidden, 3, 1, 1)
        self.second = nn.Conv2d(hidden, outputs, 3, 1, 1)
        same = inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.second(functional.leaky_relu(self.first(functional.leaky_relu(x, 0.2)), 0.2))
        return self.shortcut(x) + 0.1 * branch


@stacks(ConvEncoder, ConvDecoder, ResnetEncoder, ResnetDecoder)
def _layers(networks: Sequence[ConvEncoder], x: Tensor) -> Tensor:
    return follow([network.layers for network in networks], x)


@stacks(Block)
def _blocks(blocks: Sequence[Block], x: Tensor) -> Tensor:
    hidden = follow([block.first for block in blocks], functional.leaky_relu(x, 0.2))
    branch = follow([block.second for block in blocks], functional.leaky_relu(hidden, 0.2))
    return follow([block.shortcut for block in blocks], x) + 0.1 * branch


@stacks(CoarseToFine)
def _coarse_to_fine(decoders: Sequence[CoarseToFine], z: Tensor) -> Tensor:
    rows, columns = decoders[0].rows, decoders[0].columns
    coarse = follow([decoder.coarse for decoder in decoders], z)
    return follow([decoder.fine for decoder in decoders], z) + rows @ coarse @ columns.T


def decode_each(networks: Sequence[nn.Module], latents: Sequence[Tensor]) -> list[Tensor]:
    """Decode latents with any leading axes, from `[..., D]` to `[..., *event]`, by each network."""
    outputs = apply_each(networks, [z.reshape(-1, z.shape[-1]) for z in latents])
    shapes = [z.shape[:-1] for z in latents]
    return [output.unflatten(0, shape) for output, shape in zip(outputs, shapes, strict=True)]
